"""Retrains a workspace, a line per step on standard output: a child process for the test that kills it."""

from __future__ import annotations

import sys

from recllm.recommend.evaluation.retrain import retrain
from recllm.shop.workspace.workspace import Workspace

if __name__ == "__main__":
    with Workspace.open(sys.argv[1]) as workspace:
        retrain(workspace, needed=(), progress=lambda line: print(line, flush=True))
