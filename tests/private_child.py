"""Trains a workspace privately, and stops in the middle of it: a child process for the test that kills it."""

from __future__ import annotations

import sys
import time

from recllm.learn.training.private.descent import PrivateDescent
from recllm.recommend.recommender.train import train_privately
from recllm.shop.workspace.workspace import Workspace


def wait_for_the_end(*_: object) -> None:
    print("in training", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    PrivateDescent.step = wait_for_the_end  # type: ignore[method-assign, assignment]
    with Workspace.open(sys.argv[1]) as workspace:
        train_privately(workspace, epsilon=float(sys.argv[2]))
