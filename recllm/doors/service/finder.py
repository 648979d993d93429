"""Search: the words of the newest catalogue, and the vectors of queries."""

from __future__ import annotations

import logging
import time
from enum import StrEnum
from functools import lru_cache
from threading import Lock, Thread
from typing import Any

import polars as pl

from recllm.base.arrays import Floats
from recllm.base.errors import RecllmError
from recllm.base.schema import Encoder
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.word_index import WordIndex

logger = logging.getLogger(__name__)

MAX_QUERIES = 1_000
"""Vectors of queries that are kept, in memory alone."""

RETRY_SECONDS, MAX_RETRY_SECONDS = 30.0, 3_600.0
"""Pause after the first failed load of an encoder; each failure doubles it, up to the maximum."""


class VectorState(StrEnum):
    """Whether queries are encoded."""

    COLD = "cold"
    """Before the first search."""
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """The log says why. Queries go by words until a later try succeeds."""


class Finder:
    """Queries and their vectors are in memory alone."""

    def __init__(self) -> None:
        self.vectors = VectorState.COLD
        self._index: WordIndex | None = None
        self._items: pl.DataFrame | None = None
        self._fingerprint: str | None = None
        self._pause, self._next_try = RETRY_SECONDS, 0.0
        self._lock, self._encoding = Lock(), Lock()
        self._encode: Any = None

    def index(self, items: pl.DataFrame) -> WordIndex:
        """Of these items; built once, and grown by what is new in them."""
        with self._lock:
            if self._index is None or self._items is not items:
                self._index = (self._index or WordIndex.of(items[:0])).grown(items)
                self._items = items
            return self._index

    def vector(self, encoder: Encoder, query: str) -> Floats | None:
        """Unit (dim,); None as long as the encoder is not loaded, which the first query sets off."""
        self.warm(encoder)
        if self.vectors is not VectorState.READY or self._fingerprint != encoder.fingerprint:
            return None
        with self._encoding:
            vector: Floats = self._encode(query)
        return vector

    def warm(self, encoder: Encoder) -> None:
        """Load the encoder in the background, unless it is loaded; most encoders load torch with it."""
        with self._lock:
            if self._fingerprint != encoder.fingerprint:
                self._pause = RETRY_SECONDS
            elif self.vectors is not VectorState.FAILED or time.monotonic() < self._next_try:
                return
            self._fingerprint, self.vectors = encoder.fingerprint, VectorState.LOADING
        Thread(target=self._load, args=(encoder,), name="load encoder", daemon=True).start()

    def _load(self, encoder: Encoder) -> None:
        bare = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder

        @lru_cache(maxsize=MAX_QUERIES)
        def encode(query: str) -> Any:
            return bare.encode([query], kind="query")[0]

        try:
            with self._encoding:
                encode("warm")
            state = VectorState.READY
        except Exception as error:  # whatever a library raises, queries go by words
            logger.warning("the text encoder cannot be loaded: %s", error, exc_info=not isinstance(error, RecllmError))
            state = VectorState.FAILED
        with self._lock:
            if self._fingerprint == encoder.fingerprint:
                self._encode, self.vectors = encode, state
                self._next_try = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, MAX_RETRY_SECONDS)
