"""User = (I basics, B purchases, H browsing) as of a time, and how it moved."""
