"""Measures recommenders on windows of a log, side by side, with the same code for every system.

window = cj_next28(complete_journey().dataset())
report = evaluate(window, contenders(["popular", "personal-frequency"]))
print(report.table())
"""

from recllm.evaluation.baselines import Contender
from recllm.evaluation.bootstrap import Interval, paired_bootstrap
from recllm.evaluation.contenders import BASELINES, PEERS, contenders
from recllm.evaluation.ours import Recipe, advised, learned, serving
from recllm.evaluation.protocols import (
    Judged,
    Question,
    Slice,
    System,
    Window,
    cj_next28,
    next_purchases,
    or_next28,
)
from recllm.evaluation.published import PROTOCOLS, Protocol, beauty_loo, industrial_time
from recllm.evaluation.report import OURS, Difference, Report, evaluate
from recllm.evaluation.run import evaluate_tables, systems_for
from recllm.evaluation.splits import column_split, row_split, split_tables, time_split
from recllm.evaluation.tables import Tables, complete_journey, read_folder

__all__ = [
    "BASELINES",
    "OURS",
    "PEERS",
    "PROTOCOLS",
    "Contender",
    "Difference",
    "Interval",
    "Judged",
    "Protocol",
    "Question",
    "Recipe",
    "Report",
    "Slice",
    "System",
    "Tables",
    "Window",
    "advised",
    "beauty_loo",
    "cj_next28",
    "column_split",
    "complete_journey",
    "contenders",
    "evaluate",
    "evaluate_tables",
    "industrial_time",
    "learned",
    "next_purchases",
    "or_next28",
    "paired_bootstrap",
    "read_folder",
    "row_split",
    "serving",
    "split_tables",
    "systems_for",
    "time_split",
]
