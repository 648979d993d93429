"""Measures recommenders on windows of a log, side by side, with the same code for every system."""
