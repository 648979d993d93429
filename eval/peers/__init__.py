"""Published methods and the usual strong learners; each fits at the first query of a window, on `query.fit_on`.

A further peer is one function that makes a `Ranker`, and one line of `PEERS`.
"""

from functools import partial

from peers.collaborative import als, ease, tifu_knn
from peers.neural import sasrec
from peers.repurchase import slrc, taiw
from peers.texts import bm25
from peers.trees import lightgbm
from recllm.recommend.evaluation.baselines import rank_by
from recllm.recommend.evaluation.protocols import COLD
from recllm.recommend.evaluation.systems import WARM, SystemSpec

PEERS = {
    "tifu-knn": SystemSpec(make=partial(rank_by, tifu_knn), slices=WARM),
    "slrc": SystemSpec(make=slrc, slices=WARM),
    "taiw": SystemSpec(make=taiw, slices=WARM),
    "ease": SystemSpec(make=ease, slices=WARM),
    "als": SystemSpec(make=als, slices=WARM, seeded=True, package="implicit"),
    "bm25": SystemSpec(make=bm25, slices=WARM | {COLD}, package="bm25s"),
    "lightgbm": SystemSpec(make=lightgbm, slices=WARM | {COLD}, seeded=True, reads_vectors=True),
    "sasrec": SystemSpec(make=sasrec, slices=WARM, seeded=True),
    "sasrec-full": SystemSpec(make=partial(sasrec, full_softmax=True), slices=WARM, seeded=True),
}
