"""A store's frames for tests, each read in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def view(store: Store) -> StoreView:
    return StoreView(store)
