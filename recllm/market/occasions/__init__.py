"""Occasions: who should hear what on a day, and why; and who buys what again soon."""
