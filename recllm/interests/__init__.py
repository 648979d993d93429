"""What a person turns to next, read from the sequence of what they took: a causal transformer over item vectors.

past = dataset.before(cut)
snapshots = learn_interests(dataset, item_vectors, basics, target, cuts=[cut])
logit = snapshots[0].score(snapshots[0].users(histories, as_of, basics), pairs)
"""

from recllm.interests.arguments import InterestArguments
from recllm.interests.learn import learn_interests
from recllm.interests.network import InterestConfig, InterestNetwork
from recllm.interests.sequences import Sequences
from recllm.interests.serve import Interests, InterestWeights, load_interests, save_interests

__all__ = [
    "InterestArguments",
    "InterestConfig",
    "InterestNetwork",
    "InterestWeights",
    "Interests",
    "Sequences",
    "learn_interests",
    "load_interests",
    "save_interests",
]
