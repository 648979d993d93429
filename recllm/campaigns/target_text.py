"""The items of the shop that fit a campaign's text, such as "something for trail running"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recllm.adcopy.lexicon import fold, table
from recllm.data.catalogue import SENSITIVE_TARGET, in_category
from recllm.encoder.batches import encode_unique
from recllm.errors import PolicyError, UsageError
from recllm.recommender.search import search
from recllm.schema import SearchRequest
from recllm.settings import SearchSettings
from recllm.text.word_index import WordIndex

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

MOST_ITEMS = 8
"""Items that a text stands for where the campaign names no number: each person gets the one that suits them best."""


def fitting_items(
    recommender: Recommender, text: str, category: str | None, *, limit: int, settings: SearchSettings | None = None
) -> list[str]:
    """Ids of the items on offer that fit the text best by words and by meaning, of one category where it is named.

    Raises `UsageError` where none fits, `PolicyError` for a sensitive text.
    """
    if recommender.policy.is_sensitive((*(category or "").split(">"), text)):
        raise PolicyError(SENSITIVE_TARGET)
    data = recommender.dataset
    query = _words_that_name(text)
    vectors, _ = encode_unique(recommender.encoder, [query], kind="query")
    deny: tuple[str, ...] = ()
    if category is not None:
        outside = ~np.asarray(in_category(data.items, category))
        deny = tuple(data.items["item_id"].gather(np.flatnonzero(outside)).to_list())
    request = SearchRequest(query=query, k=limit, deny=deny)
    slate = search(recommender, WordIndex.of(data.items), request, vectors[0], settings)
    if not slate.items:
        where = f" in the category {category!r}" if category else ""
        raise UsageError(f"no item on offer fits the text {text!r}{where}; name items or a category instead")
    return [item.item_id for item in slate.items]


def _words_that_name(text: str) -> str:
    """A text without the words that only join others: "something for a picnic" would find "sauce for pasta"."""
    joining = set(str(table("neutral.en.toml")["function"]).split())
    return " ".join(word for word in text.split() if fold(word).strip(".,") not in joining) or text
