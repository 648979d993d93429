"""The fixed protocols that figures carry the name of, each with a window to tune on beside the one to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recllm.data.dataset import Dataset
from recllm.errors import UsageError
from recllm.evaluation.protocols import MASKED, UNMASKED, Window, cj_next28, named, or_next28
from recllm.evaluation.splits import column_split, row_split
from recllm.evaluation.tables import Tables, complete_journey, read_folder

BEAUTY_NOTE = (
    "Amazon Beauty 2014, 5-core, by order: learned from the train part; the asked history holds train and valid"
)
INDUSTRIAL_NOTE = (
    "Amazon 2018 Industrial and Scientific: about a third of the original train rows could be rebuilt, and nothing "
    "else was learned from"
)


def beauty_loo(tables: Tables, *, validation: bool = False) -> Window:
    """Leave-one-out by order (Geng et al. 2022): the last item of each person, or for validation the one before it.

    Models learn from the train part only. The test question's histories hold train and valid, those of validation
    train alone. All items are ranked.
    """
    asked = ("train",) if validation else ("train", "valid")
    target = "valid" if validation else "test"
    window = column_split(tables, test=target, history=asked, learn=("train",), slices=(MASKED, UNMASKED))
    return replace(window, protocol=named("beauty-loo", validation), note=BEAUTY_NOTE)


def industrial_time(tables: Tables, *, validation: bool = False) -> Window:
    """The published rows of a global split by time: each (history of at most 10 items, next item) stands for itself.

    Models learn from the train events that could be rebuilt. Nothing is masked in the published figures.
    """
    window = row_split(tables, test="valid" if validation else "test", slices=(UNMASKED, MASKED))
    return replace(window, protocol=named("industrial-time", validation), note=INDUSTRIAL_NOTE)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A fixed way to measure. `folder`: name of the data folder, None where a package brings the data.

    `k`: length of the lists. `window(data, validation=...)`: data as `read` returns it.
    """

    name: str
    folder: str | None
    k: int
    make: Callable[..., Window]
    by_time: bool = True
    """The log has times; else the protocol needs the parts that the source defines."""

    def read(self, data: Path) -> Tables:
        """The tables, from `data / folder` or from the package."""
        return complete_journey() if self.folder is None else read_folder(data / self.folder)

    def window(self, data: Tables | Dataset, *, validation: bool = False) -> Window:
        """The window to report on, or the one to tune on."""
        if self.by_time:
            return self.make(data if isinstance(data, Dataset) else data.dataset(), validation=validation)
        if isinstance(data, Dataset):
            raise UsageError(f"{self.name} needs the tables with their split column, not a dataset made of them")
        return self.make(data, validation=validation)


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(name="cj-next28", folder=None, k=20, make=cj_next28),
        Protocol(name="or-next28", folder="online_retail_uci", k=20, make=or_next28),
        Protocol(name="beauty-loo", folder="amazon_beauty_p5", k=10, make=beauty_loo, by_time=False),
        Protocol(
            name="industrial-time",
            folder="minionerec_Industrial_and_Scientific",
            k=10,
            make=industrial_time,
            by_time=False,
        ),
    )
}
