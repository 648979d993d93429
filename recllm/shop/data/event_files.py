"""All people's events on disk, for a log that does not fit into memory.

Counts over all people read an `EventLog` part by part: `Events` in memory, or `EventFiles`. A part holds whole people,
so figures of a person are exact in each part, and others are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recllm.shop.data.dataset import EVENT_DTYPES, Counted, Events

COLUMNS = tuple(field.name for field in fields(Events))[1:]
"""Of the events, in the order of the fields; each is one file per part."""


@dataclass(frozen=True, eq=False)
class EventFiles:
    """`Events` whose columns are files in a folder, some for each part."""

    folder: Path
    indptr: NDArray[np.int64]
    """(n_users + 1,), as in `Events`, of all events of the files."""
    edges: NDArray[np.int64]
    """(n_parts + 1,), row of the first user of each part, and the end."""
    item_row: NDArray[np.int32] | None = None
    """Row of each item of the files, -1 to leave out its events; None where the files have the rows."""
    as_of: int | None = None
    """Events from then on are left out, epoch seconds."""

    @classmethod
    def write(cls, folder: Path, parts: Iterable[Events]) -> EventFiles:
        """The users of all parts one after another. folder: an empty one. Raises `OSError` of the disk."""
        return cls.of_parts(folder, [write_part(folder, number, [events]) for number, events in enumerate(parts)])

    @classmethod
    def of_parts(cls, folder: Path, lengths: list[NDArray[np.int64]]) -> EventFiles:
        """The parts of `write_part`. lengths: its result for each part, from number 0 on."""
        edges = np.cumsum([0, *map(len, lengths)])
        return cls(folder, np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])), edges)

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_parts(self) -> int:
        return len(self.edges) - 1

    def before(self, as_of: int) -> EventFiles:
        """Without the events from then on, epoch seconds."""
        return replace(self, as_of=as_of)

    def part(self, number: int) -> Events:
        """The events of the users edges[number]:edges[number + 1]. Raises `OSError` for a file that ends early."""
        first, end = self.edges[number], self.edges[number + 1]
        indptr, columns = self.indptr[first : end + 1] - self.indptr[first], []
        for name, dtype in zip(COLUMNS, EVENT_DTYPES, strict=True):
            column = np.fromfile(file := _file(self.folder, number, name), dtype)
            if len(column) != indptr[-1]:
                raise OSError(f"{file} ends early")
            columns.append(column)
        events = Events(indptr, *columns)
        if self.item_row is not None:
            events = replace(events, item=self.item_row[events.item])
        left_out = events.item < 0 if self.as_of is None else (events.item < 0) | (events.at >= self.as_of)
        return events.select(~left_out) if left_out.any() else events

    def parts(self) -> Iterator[tuple[int, Events]]:
        return ((int(self.edges[number]), self.part(number)) for number in range(self.n_parts))

    def each(self, count: Callable[[int, Events], Counted]) -> Iterator[Counted]:
        return (count(first, events) for first, events in self.parts())


EventLog = Events | EventFiles
"""All events, in the order of the people's rows."""


def write_part(folder: Path, number: int, chunks: Iterable[Events]) -> NDArray[np.int64]:
    """Writes the users of all chunks as one part of `EventFiles`, in the place of an earlier one; returns their
    numbers of events, (n_users,). Raises `OSError` of the disk."""
    lengths = [np.zeros(0, np.int64)]
    with ExitStack() as stack:
        files = [stack.enter_context(_file(folder, number, name).open("wb")) for name in COLUMNS]
        for events in chunks:
            lengths.append(np.diff(events.indptr))
            for file, column, dtype in zip(files, events.columns(), EVENT_DTYPES, strict=True):
                file.write(np.ascontiguousarray(column, dtype).data)
    return np.concatenate(lengths)


def _file(folder: Path, number: int, column: str) -> Path:
    return folder / f"{number:05}.{column}"
