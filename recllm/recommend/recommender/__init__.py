"""The composition: a person to a slate."""
