"""From a model to answers, and how good they are.

`recommender`: the lists, their reasons, versions of a model and what is kept to serve them. `evaluation`: protocols,
peers, drift and the report.
"""
