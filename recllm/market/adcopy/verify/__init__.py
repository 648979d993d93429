"""The guarantees: what may be said in an advertisement. `guarantees.review` checks one text."""
