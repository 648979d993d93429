"""A shop as arrays: dataset, interactions, item groups, what may be shown."""
