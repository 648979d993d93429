"""BM25 weights of item texts as sparse arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WORD = re.compile(r"[^\W_]+")
HAN = re.compile(r"[㐀-鿿]")


@dataclass(frozen=True, eq=False, kw_only=True)
class TextIndex:
    """text_of_item: (n_items,), row of each item's text among the distinct ones. weights: (n_texts, n_words), BM25.

    words_of_items: (n_items, n_words), 1 where the word occurs in the item's text.
    """

    text_of_item: NDArray[np.int64]
    weights: csr_array
    words_of_items: csr_array


def words(text: str) -> list[str]:
    """Lower-case words; Chinese has no spaces, so a run of Han characters becomes its overlapping pairs."""
    out: list[str] = []
    for word in WORD.findall(text.lower()):
        if HAN.search(word) and len(word) > 2:
            out.extend(word[i : i + 2] for i in range(len(word) - 1))
        else:
            out.append(word)
    return out


def index_texts(texts: Sequence[str], *, k1: float, b: float) -> TextIndex:
    """Each distinct text is cut and weighted once; the formula is in `baselines.bm25`."""
    distinct, text_of_item = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)
    counts = _count([words(t) for t in distinct.tolist()])
    n, in_texts = counts.shape[0], np.diff(counts.tocsc().indptr)
    idf = np.log1p((n - in_texts + 0.5) / (in_texts + 0.5))
    length = counts.sum(axis=1)
    norm = k1 * (1 - b + b * length / max(float(length.mean()), 1e-12))
    weights = counts.copy()
    tf = counts.data
    weights.data = (idf[counts.indices] * tf * (k1 + 1) / (tf + np.repeat(norm, np.diff(counts.indptr)))).astype(
        np.float32
    )
    return TextIndex(text_of_item=text_of_item, weights=weights, words_of_items=counts.sign()[text_of_item])


def _count(documents: list[list[str]]) -> csr_array:
    from scipy.sparse import csr_array

    number: dict[str, int] = {}
    columns = [number.setdefault(word, len(number)) for document in documents for word in document]
    indptr = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    counts = csr_array(
        (np.ones(len(columns), np.float32), np.array(columns, int), indptr), (len(documents), max(len(number), 1))
    )
    counts.sum_duplicates()
    return counts
