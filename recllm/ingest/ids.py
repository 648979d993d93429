"""Ids are opaque text: trimmed and in NFC, and otherwise exactly what the file says."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

FLOAT_ID = r"^\d+\.0$"
SCIENTIFIC_ID = r"^[+-]?(\d+(\.\d+)?[eE]\+\d+|\d\.\d+[eE]\d+)$"
_UNSEEN = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"
_NOT_PLAIN = r"[^!-~]"
NO_PERSON = frozenset(
    {"nan", "null", "none", "nil", "n/a", "na", "#n/a", "-", "--", "undefined", "unknown", "(null)", "\\n", "<na>"}
)
"""Words that stand for "nobody" in a user column; joined, they would become one monstrous customer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """`clean` is null where there was nothing; the masks have one entry per row."""

    clean: pl.Series
    unseen: pl.Series
    long: pl.Series
    trimmed: int
    composed: int
    """Ids that were not in NFC."""


def clean_ids(column: pl.Series, *, float_ids: bool, max_bytes: int) -> Ids:
    """`float_ids`: every id of the file's column ends in ".0", which is taken off."""
    stripped = column.str.strip_chars()
    trimmed = int((stripped != column).sum())
    clean = stripped
    composed = 0
    odd = stripped.str.contains(_NOT_PLAIN).fill_null(False)
    unseen = pl.repeat(False, len(column), eager=True)
    if odd.any():
        composed_text = stripped.str.normalize("NFC")
        composed = int((composed_text != stripped).sum())
        clean = composed_text
        unseen = clean.str.contains(_UNSEEN).fill_null(False)
    if float_ids:
        clean = clean.str.strip_suffix(".0")
    clean = clean.to_frame("id").select(pl.when(pl.col("id") != "").then("id"))["id"]
    long = (clean.str.len_bytes() > max_bytes).fill_null(False)
    return Ids(clean=clean.alias(column.name), unseen=unseen, long=long, trimmed=trimmed, composed=composed)


def nobody(clean: pl.Series) -> pl.Series:
    """Where a cleaned user id names no person."""
    return clean.is_null() | clean.str.to_lowercase().is_in(list(NO_PERSON)).fill_null(False)
