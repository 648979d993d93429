"""Self-contained pages about a run or a person: no script, no style and no picture from elsewhere."""
