"""Messages that leave, each at most once."""
