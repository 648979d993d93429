"""Published methods and the usual strong learners; each fits at the first query of a window, on `query.fit_on`.

A further peer is one function that makes a `Ranker`, and one line of `PEERS`.
"""

from functools import partial

from peers.collaborative import als, bpr, ease, tifu_knn
from peers.neural import ACCURACY_NOTE, sasrec, source_model
from peers.trees import lightgbm
from recllm.recommend.evaluation.baselines import rank_by
from recllm.recommend.evaluation.protocols import COLD
from recllm.recommend.evaluation.systems import WARM, SystemSpec

PEERS = {
    "tifu-knn": SystemSpec(make=partial(rank_by, tifu_knn), slices=WARM),
    "ease": SystemSpec(make=ease, slices=WARM),
    "als": SystemSpec(make=als, slices=WARM, seeded=True, package="implicit"),
    "bpr": SystemSpec(make=bpr, slices=WARM, seeded=True, package="implicit"),
    "lightgbm": SystemSpec(make=lightgbm, slices=WARM | {COLD}, seeded=True, reads_vectors=True),
    "sasrec": SystemSpec(make=sasrec, slices=WARM, seeded=True),
    "source-model": SystemSpec(make=source_model, slices=WARM, seeded=True, note=ACCURACY_NOTE),
}
