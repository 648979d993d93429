"""Who to reach for an item, a set, a category or a text."""
