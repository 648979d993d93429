"""Published methods and the usual strong learners, as systems that a comparison can name.

Each maker returns a `System` that fits at the first question of a window, on `question.fit_on` alone, and keeps what
it learned for the window's further questions. None of them holds an array of people x catalogue.
"""
