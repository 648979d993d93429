"""A shop as arrays: dataset, interactions, item groups, selection of items."""
