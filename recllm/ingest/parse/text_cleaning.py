"""Ids and texts without what nobody can see.

Ids are opaque: trimmed and in NFC, and otherwise exactly what the file says. Texts of products are kept as they are,
save for characters that cannot be seen; what is odd about them is counted.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

FLOAT_ID = r"^\d+\.0$"
SCIENTIFIC_ID = r"^[+-]?(\d+(\.\d+)?[eE]\+\d+|\d\.\d+[eE]\d+)$"
NO_PERSON = frozenset(
    {"nan", "null", "none", "nil", "n/a", "na", "#n/a", "-", "--", "undefined", "unknown", "(null)", "\\n", "<na>"}
)
"""Words that stand for "nobody" in a user column; joined, they would become one monstrous customer."""

NOT_PLAIN = r"[^!-~]"
UNSEEN_IN_ID = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"
_UNSEEN_IN_TEXT = r"[[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]--[\n\t\u{200c}\u{200d}]]"
"""Controls, zero-width, bidi and tag characters; joiners stay, emoji and several scripts need them."""
_HTML = r"(?i)<\s*/?\s*[a-z!][^>]{0,500}>|&(#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,10});"
_INSTRUCTION = (
    r"(?i)(ignore|disregard|forget)\s+(all\s+|any\s+)?(the\s+|your\s+)?(previous|prior|above|earlier)"
    r"|system\s*prompt|you\s+are\s+now|new\s+instructions?:|<\|\s*(im_start|im_end|system|endoftext)"
    r"|\[/?INST\]|^\s*(system|assistant)\s*:|忽略(以上|之前|前面|上述)|你现在是|系统提示"
)
_FORMULA = r"^[=+\-@\t\r]"
_ODD = r"[^ !-%'-;=?-~]"
"""Plain letters, digits and marks; texts of nothing else need no closer look."""


def is_nobody(ids: pl.Series) -> pl.Series:
    """Where a cleaned user id names no person."""
    return ids.is_null() | ids.str.to_lowercase().is_in(list(NO_PERSON)).fill_null(False)


def clean_texts(column: pl.Series, notes: Counter[str]) -> pl.Series:
    """Without unseen characters and outer spaces; null where nothing is left. Counts what is odd in `notes`."""
    notes["W_FORMULA"] += int(column.str.contains(_FORMULA).sum())
    clean = column
    if column.str.contains(_ODD).any():
        clean = column.str.replace_all(_UNSEEN_IN_TEXT, "")
        notes["W_CTRL"] += int((clean != column).sum())
        notes["W_HTML"] += int(clean.str.contains(_HTML).sum())
    notes["W_INSTRUCTION_LIKE"] += int(clean.str.contains(_INSTRUCTION).sum())
    return null_if_empty(clean.str.strip_chars())


def null_if_empty(column: pl.Series) -> pl.Series:
    """The texts, null instead of the empty one."""
    return column.set(column == "", None) if (column == "").any() else column
