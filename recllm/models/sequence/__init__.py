"""What a user turns to next, read from the sequence of what they bought: a causal transformer over item vectors.

past = dataset.before(cut)
snapshots = learn_interests(dataset, item_vectors, basics, target, cuts=[cut])
logit = snapshots[0].score(snapshots[0].users(histories, as_of, basics), pairs)
"""
