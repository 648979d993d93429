"""Published methods and the usual strong learners, as systems that a comparison can name.

Each maker returns a `Ranker` that fits at the first query of a window, on `query.fit_on` alone, and keeps what it
learned for the window's further queries. None of them holds an array of people x catalogue.
"""
