"""Experiments: which customer sees which variant, the statistics of answers, and the value of another ranking."""
