"""The only way in: files become rows of the store, or are quarantined with place and reason."""
