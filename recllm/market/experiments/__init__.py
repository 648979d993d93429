"""Experiments: which customer sees which variant, the statistics of answers, and the value of another ranking.

Statistics are pure functions on frozen data; `slates` and `off_policy` read a workspace.
"""
