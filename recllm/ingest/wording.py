"""Texts of products: kept as they are, save for characters that nobody can see. What is odd is counted."""

from __future__ import annotations

from collections import Counter

import polars as pl

_UNSEEN = r"[[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]--[\n\t\u{200c}\u{200d}]]"
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


def clean_texts(column: pl.Series, notes: Counter[str]) -> pl.Series:
    """Without unseen characters and outer spaces; null where nothing is left."""
    notes["W_FORMULA"] += int(column.str.contains(_FORMULA).sum())
    clean = column
    if column.str.contains(_ODD).any():
        clean = column.str.replace_all(_UNSEEN, "")
        notes["W_CTRL"] += int((clean != column).sum())
        notes["W_HTML"] += int(clean.str.contains(_HTML).sum())
    notes["W_INSTRUCTION_LIKE"] += int(clean.str.contains(_INSTRUCTION).sum())
    clean = clean.str.strip_chars()
    return clean.to_frame("t").select(pl.when(pl.col("t") != "").then("t"))["t"].alias(column.name)
