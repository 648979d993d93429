"""Who to reach for an item, a set, a category or a text, and which of several campaigns reaches whom."""
