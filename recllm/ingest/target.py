"""Where good rows go: the store, or a store that forgets them again (`validate`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import polars as pl

from recllm.schema import Table
from recllm.store.database import Store
from recllm.store.writers import Written


class Sink(Protocol):
    """What a load writes to."""

    def write(self, frame: pl.DataFrame, /) -> Written: ...

    def counts(self, numbers: Mapping[str, int], /) -> None: ...


class _ForgetError(Exception):
    """Leaves a store's load without its rows."""


@contextmanager
def open_sink(
    store: Store | None, table: Table, *, load_id: str, source: str, sha256: str, dry_run: bool
) -> Iterator[Sink]:
    """All or nothing, as the store's load is; with `dry_run` always nothing, and the same counts.

    Without a store the counts are those of an empty one, which lives in a temporary folder.
    """
    with _some_store(store) as chosen:
        try:
            with chosen.load(table, load_id=load_id, source=source, sha256=sha256) as load:
                yield load
                if dry_run:
                    raise _ForgetError
        except _ForgetError:
            return


@contextmanager
def _some_store(store: Store | None) -> Iterator[Store]:
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="recllm-validate-") as folder:
        empty = Store.open(Path(folder) / "empty.sqlite", create=True)
        try:
            yield empty
        finally:
            empty.close()
