"""Which items the words of a query name: an inverted index with BM25.

    score(q, d) = sum over terms t of q    idf(t) * tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / mean length))
    idf(t) = log(1 + (n - n_t + 0.5) / (n_t + 0.5))

Robertson and Zaragoza 2009, "The probabilistic relevance framework". A term is a word without case and plural
(`recllm.text.plurals`), and of Chinese and Japanese, which have no spaces, each two neighbouring signs. Of
an item its title counts twice, its category path and brand once. Twins of one text are one document.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Floats, Ints
from recllm.text.plurals import stem

if TYPE_CHECKING:  # ad text reads this room too, and does without tables
    import polars as pl
    from scipy.sparse import csc_matrix, csr_matrix

K1, B = 0.4, 0.2
"""Lower than for prose: a product says a word once, and a short title is no better a match than a long one."""
TITLE_WEIGHT = 2
MIN_PREFIX = 3
"""A word of a query that no item has stands for the words that begin so, from this number of letters on."""
MAX_EXPANSIONS = 20

_SIGNS = "\u3040-\u30ff\u3400-\u9fff"
_RUNS = re.compile(rf"[{_SIGNS}]+|[^\W_{_SIGNS}]+")


def terms_of(text: str) -> list[str]:
    terms: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold()):
        if run[0] >= "\u3040" and re.match(rf"[{_SIGNS}]", run):
            terms += [run[n : n + 2] for n in range(max(1, len(run) - 1))]
        else:
            terms.append(stem(run))
    return terms


@dataclass(frozen=True, eq=False)
class WordIndex:
    """Terms of a catalogue. Make one with `WordIndex.of`; `grown` is that of a changed catalogue."""

    rows: Mapping[str, int]
    """Distinct text -> its row."""
    columns: Mapping[str, int]
    counts: csr_matrix
    """(n_texts, n_terms), how often a text has a term."""
    row_of_item: Ints
    """(n_items,), the row of each item's text."""

    @classmethod
    def of(cls, items: pl.DataFrame) -> WordIndex:
        """items: `recllm.shop.data.dataset.ITEM_SCHEMA`."""
        from scipy.sparse import csr_matrix

        return cls({}, {}, csr_matrix((0, 0), dtype=np.float32), np.zeros(0, np.int64)).grown(items)

    def grown(self, items: pl.DataFrame) -> WordIndex:
        """The index of another state of the catalogue; only texts that are new are read."""
        from scipy.sparse import csr_matrix, vstack

        texts, rows, columns = _texts(items), dict(self.rows), dict(self.columns)
        new = [text for text in dict.fromkeys(texts) if text not in rows]
        term, ends, count = [], [0], []
        for text in new:
            rows[text] = len(rows)
            title, path, brand = text.split("\x1f", 2)
            terms = [*(terms_of(title) * TITLE_WEIGHT), *dict.fromkeys(terms_of(path)), *terms_of(brand)]
            for name, n in Counter(terms).items():
                term.append(columns.setdefault(name, len(columns)))
                count.append(n)
            ends.append(len(term))
        counts = self.counts
        if new:
            wide = csr_matrix((counts.data, counts.indices, counts.indptr), (counts.shape[0], len(columns)))
            added = csr_matrix((np.array(count, np.float32), np.array(term), np.array(ends)), (len(new), len(columns)))
            counts = vstack([wide, added], format="csr")
        return WordIndex(rows, columns, counts, np.array([rows[text] for text in texts], np.int64))

    def scores(self, query: str) -> Floats:
        """BM25 of each item, (n_items,), 0 where no term fits; of the query a term counts once."""
        columns = [column for term in dict.fromkeys(terms_of(query)) for column in self._columns(term)]
        if not columns:
            return np.zeros(len(self.row_of_item), np.float32)
        scores = np.asarray(self._weights[:, columns].sum(axis=1), np.float32).ravel()
        return scores[self.row_of_item]

    def _columns(self, term: str) -> Sequence[int]:
        if term in self.columns:
            return [self.columns[term]]
        if len(term) < MIN_PREFIX:
            return []
        first, end = (bisect_left(self._sorted_terms, bound) for bound in (term, term + "\U0010ffff"))
        shortest = nsmallest(MAX_EXPANSIONS, self._sorted_terms[first:end], key=len)
        return [self.columns[name] for name in shortest]

    @cached_property
    def _sorted_terms(self) -> list[str]:
        return sorted(self.columns)

    @cached_property
    def _weights(self) -> csc_matrix:
        """(n_texts, n_terms): what each term of each text adds to a score."""
        counts = self.counts.tocsc(copy=True)
        n, n_with = counts.shape[0], np.diff(counts.indptr)
        length = np.asarray(counts.sum(axis=1)).ravel()
        idf = np.log1p((n - n_with + 0.5) / (n_with + 0.5))
        norm = K1 * (1 - B + B * length / max(length.mean(), 1e-9))
        tf = counts.data
        counts.data = (np.repeat(idf, n_with) * tf * (K1 + 1) / (tf + norm[counts.indices])).astype(np.float32)
        return counts


def _texts(items: pl.DataFrame) -> list[str]:
    """Title, category path and brand of each item as one text."""
    paths = [" > ".join(name for name in path or () if name) for path in items["category"].to_list()]
    columns = zip(items["title"].to_list(), paths, items["brand"].to_list(), strict=True)
    return ["\x1f".join((title or "", path, brand or "")) for title, path, brand in columns]
