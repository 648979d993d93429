"""A store's frames for tests, each read in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, select

from recllm.store import tables
from recllm.store.database import Store


class StoreView:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The method of `StoreReader` with this name."""

        def read(*args: Any, **kwargs: Any) -> Any:
            with self._store.read() as reader:
                return getattr(reader, name)(*args, **kwargs)

        return read

    def loads(self) -> list[Row[Any]]:
        """The rows of the table of loads, oldest first."""
        with self._store._engine.connect() as connection:
            return list(connection.execute(select(tables.loads).order_by(tables.loads.c.load_no)))


def view(store: Store) -> StoreView:
    return StoreView(store)
