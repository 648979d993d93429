"""Everybody's events on disk, for a log that does not fit into memory.

What counts over all people reads an `EventLog` part by part: `Events` in memory, or `EventFiles`. A part holds whole
people, so whatever is counted by person is exact in each part, and what is counted over people is added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import EVENT_DTYPES, EVENTS_OF_A_PART, Events, person_ranges

COLUMNS = tuple(field.name for field in fields(Events))[1:]
"""Of the events, in the order of the fields; each is a file."""


class EventLog(Protocol):
    """Everybody's events, in the order of the people's rows."""

    @property
    def n_users(self) -> int: ...

    def parts(self) -> Iterator[tuple[int, Events]]:
        """Row of the first user, and the events of as many users from there on; every user is in one part."""
        ...


@dataclass(frozen=True, eq=False)
class EventFiles:
    """`Events` whose columns are files in a folder; a part of them is in memory at a time."""

    folder: Path
    indptr: NDArray[np.int64]
    """(n_users + 1,), as in `Events`."""
    item_row: NDArray[np.int32] | None = None
    """Row of each item of the files, -1 for one whose events are left out; None where the files have the rows."""
    as_of: int | None = None
    """`parts` leave out the events from then on, epoch seconds."""

    @classmethod
    def write(cls, folder: Path, parts: Iterable[Events]) -> EventFiles:
        """The users of all parts one after another. folder: an empty one. Raises `OSError` of the disk."""
        lengths = [np.zeros(1, np.int64)]
        with ExitStack() as stack:
            files = [stack.enter_context((folder / name).open("xb")) for name in COLUMNS]
            for part in parts:
                lengths.append(np.diff(part.indptr))
                for file, column, dtype in zip(files, part.columns(), EVENT_DTYPES, strict=True):
                    file.write(np.ascontiguousarray(column, dtype).data)
        return cls(folder, np.cumsum(np.concatenate(lengths)))

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    def before(self, as_of: int) -> EventFiles:
        """Without the events from then on, epoch seconds."""
        return replace(self, as_of=as_of)

    def on_items(self, item_row: NDArray[np.integer]) -> EventFiles:
        """On other rows of items: that of each row so far, -1 for one whose events are left out."""
        rows = item_row.astype(np.int32)
        return replace(self, item_row=rows if self.item_row is None else rows[self.item_row])

    def parts(self) -> Iterator[tuple[int, Events]]:
        """See `EventLog`."""
        with ExitStack() as stack:
            files = [stack.enter_context((self.folder / name).open("rb")) for name in COLUMNS]
            for first, end in person_ranges(self.indptr, EVENTS_OF_A_PART):
                indptr = self.indptr[first : end + 1] - self.indptr[first]
                columns = [_read(file, dtype, indptr[-1]) for file, dtype in zip(files, EVENT_DTYPES, strict=True)]
                events = Events(indptr, *columns)
                if self.item_row is not None:
                    events = replace(events, item=self.item_row[events.item])
                left_out = events.item < 0 if self.as_of is None else (events.item < 0) | (events.at >= self.as_of)
                if left_out.any():
                    events = events.select(~left_out)
                yield first, events


def _read(file: BinaryIO, dtype: Any, n: int) -> NDArray[Any]:
    values = np.fromfile(file, dtype, n)
    if len(values) != n:
        raise OSError(f"{file.name} ends early")
    return values
