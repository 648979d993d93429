"""Occasions: who should hear what on a day, and who buys what again soon."""
