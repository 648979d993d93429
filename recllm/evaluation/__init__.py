"""Measures recommenders on windows of a log, side by side, with the same code for every system.

window = cj_next28(complete_journey().dataset())
report = evaluate(window, contenders(["popular", "personal-frequency"]))
print(report.table())
"""

from recllm.evaluation.baselines import BASELINES, Contender, contenders
from recllm.evaluation.bootstrap import Interval, paired_bootstrap
from recllm.evaluation.ours import learned, serving
from recllm.evaluation.protocols import (
    PROTOCOLS,
    Judged,
    Question,
    Slice,
    System,
    Window,
    cj_next28,
    next_purchases,
    or_next28,
)
from recllm.evaluation.report import OURS, Difference, Report, evaluate
from recllm.evaluation.run import evaluate_tables, systems_for
from recllm.evaluation.splits import column_split, row_split, split_tables, time_split
from recllm.evaluation.tables import Tables, complete_journey, read_folder

__all__ = [
    "BASELINES",
    "OURS",
    "PROTOCOLS",
    "Contender",
    "Difference",
    "Interval",
    "Judged",
    "Question",
    "Report",
    "Slice",
    "System",
    "Tables",
    "Window",
    "cj_next28",
    "column_split",
    "complete_journey",
    "contenders",
    "evaluate",
    "evaluate_tables",
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
