"""Published methods and the usual strong learners; each fits at the first query of a window, on `query.fit_on`."""
