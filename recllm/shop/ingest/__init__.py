"""The only way in: files become rows of the store, and what cannot is quarantined with its place and reason."""
