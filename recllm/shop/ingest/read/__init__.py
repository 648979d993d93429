"""Files of each kind to columns of text."""
