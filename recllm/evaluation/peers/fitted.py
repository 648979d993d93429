"""Learning once per window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from recllm.data.dataset import Dataset

Learned = TypeVar("Learned")


def once_per_window(fit: Callable[[Dataset], Learned]) -> Callable[[Dataset], Learned]:
    """`fit`, called again only for another dataset; the last window's result is kept, and no more."""
    kept: list[Any] = []  # the dataset stands beside what was learned from it, so that its identity stays taken

    def fitted(dataset: Dataset) -> Learned:
        if not kept or kept[0] is not dataset:
            kept[:] = [dataset, fit(dataset)]
        learned: Learned = kept[1]
        return learned

    return fitted
