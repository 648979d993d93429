"""Published methods and the usual strong learners, as systems that a comparison can name.

Each maker returns a `System` that fits at the first question of a window, on `question.fit_on` alone, and keeps what
it learned for the window's further questions. None of them holds an array of people x catalogue.
"""

from recllm.evaluation.peers.ease import ease
from recllm.evaluation.peers.factors import als, bpr
from recllm.evaluation.peers.sasrec import sasrec
from recllm.evaluation.peers.source_model import ACCURACY_NOTE, source_model
from recllm.evaluation.peers.tifu import tifu_knn
from recllm.evaluation.peers.trees import lightgbm

__all__ = ["ACCURACY_NOTE", "als", "bpr", "ease", "lightgbm", "sasrec", "source_model", "tifu_knn"]
