"""Learning from past windows of the log."""
