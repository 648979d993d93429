"""What every encoder must do, whatever is inside. Call `check_encoder` with any object of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tables import table

from recllm.base.errors import UsageError
from recllm.base.schema import Encoder
from recllm.text.encoder.toy import ToyEncoder

TEXTS = table("encoder", "texts")


def check_encoder(encoder: Encoder, *, near: float = 1e-5, refuses_kinds: bool = True) -> None:
    """`near` is how far a text's vector may move with the texts around it."""
    assert isinstance(encoder, Encoder)
    assert encoder.name and len(encoder.fingerprint) == 64
    rows = encoder.encode(TEXTS)
    _shape_and_length(encoder, rows)
    np.testing.assert_array_equal(rows[0], rows[5], "equal texts have equal vectors")
    assert np.abs(rows[0] - rows[2]).max() > 1e-3, "different texts have different vectors"
    backwards = encoder.encode(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(backwards, rows, atol=near, err_msg="order changes nothing")
    for text, row in zip(TEXTS, rows, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], row, atol=near, err_msg=f"alone: {text!r}")
    _length_does_not_break(encoder)
    if refuses_kinds:
        with pytest.raises(UsageError):
            encoder.encode(["milk"], kind="poem")  # type: ignore[arg-type]


def _shape_and_length(encoder: Encoder, rows: np.ndarray) -> None:
    assert rows.shape == (len(TEXTS), encoder.dim) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.isfinite(rows).all()
    none = encoder.encode([])
    assert none.shape == (0, encoder.dim) and none.dtype == np.float32
    assert encoder.encode(tuple(TEXTS), kind="query").shape == rows.shape


def _length_does_not_break(encoder: Encoder) -> None:
    long = "milk " * 2_000
    np.testing.assert_allclose(np.linalg.norm(encoder.encode([long, "milk"]), axis=1), 1, atol=1e-5)


class Counting(ToyEncoder):
    """A toy that remembers what it was asked for."""

    def __init__(self, dim: int = 64, fingerprint: str = "") -> None:
        super().__init__(dim)
        self.fingerprint = fingerprint or self.fingerprint
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str], *, kind: Any = "document") -> Any:
        self.seen += texts
        return super().encode(texts, kind=kind)
