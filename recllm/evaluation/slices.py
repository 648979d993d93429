"""Parts of a slice, read off the lists that were made for it: nobody is asked twice.

The shelf (HEAD, TAIL) and the people (LIGHT, HEAVY) are cut in two for the window's first slice of items that were
sold before: ALL by time, the first of MASKED and UNMASKED elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recllm.evaluation.protocols import COLD, Slice, Window
from recllm.metrics import Truth
from recllm.schema import Action

HEAD, TAIL, LIGHT, HEAVY = "HEAD", "TAIL", "LIGHT", "HEAVY"

PARTS = {
    HEAD: "judged by what people took of the fifth of the items with most buyers before",
    TAIL: "judged by what people took of the other items",
    LIGHT: "people with at most the median number of purchases before",
    HEAVY: "people with more",
}

HEAD_SHARE = 0.2


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """rows: positions of its people in the slice's lists. truth: one run per person of `rows`, all non-empty."""

    name: str
    of: str
    rows: NDArray[np.int64]
    truth: Truth


def parts(window: Window, sold: NDArray[np.integer]) -> dict[str, list[Part]]:
    """The parts of each slice by its name, the slice as a whole first. sold: buyers of each item before, (n_items,)."""
    made = {s.name: [Part(name=s.name, of=s.name, rows=np.arange(len(s.users)), truth=s.truth)] for s in window.slices}
    main = next((s for s in window.slices if s.name != COLD and not s.hidden), None)
    if main is not None:
        made[main.name] += [p for p in (*_of_items(main, sold), *_of_people(window, main)) if len(p.rows)]
    return made


def _of_items(one: Slice, sold: NDArray[np.integer]) -> tuple[Part, Part]:
    """Equal numbers of buyers at the border are told apart by row, whose order is that of a hash."""
    order = one.items[np.argsort(-sold[one.items], kind="stable")]
    head = np.zeros(len(sold), dtype=bool)
    head[order[: int(np.ceil(HEAD_SHARE * len(order)))]] = True
    return _judged_by(one, HEAD, head), _judged_by(one, TAIL, ~head)


def _judged_by(one: Slice, name: str, counts: NDArray[np.bool_]) -> Part:
    left = one.truth.select(counts[one.truth.item])
    rows = np.flatnonzero(left.sizes > 0)
    return Part(name=name, of=one.name, rows=rows, truth=left.rows(rows))


def _of_people(window: Window, one: Slice) -> tuple[Part, Part]:
    bought = np.diff(window.dataset.events.of(Action.PURCHASE).indptr)[one.users]
    heavy = bought > np.median(bought) if len(bought) else np.zeros(0, bool)
    light, many = np.flatnonzero(~heavy), np.flatnonzero(heavy)
    return (
        Part(name=LIGHT, of=one.name, rows=light, truth=one.truth.rows(light)),
        Part(name=HEAVY, of=one.name, rows=many, truth=one.truth.rows(many)),
    )
