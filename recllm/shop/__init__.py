"""A shop's data, and the people in it.

`data`: a shop as arrays, what a model learns from. `store`: the rows, in SQLite or PostgreSQL. `workspace`: the
folder of a shop with its pseudonyms, consent, keys and audit. `ingest`: files and exports in, checked row by row.
Only this layer and the people's rights read the store; everything else goes through `workspace.gate.PolicyGate`.
"""
