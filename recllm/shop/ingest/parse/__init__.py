"""Columns of text to ids, numbers, times and texts; what cannot be read marks its row."""
