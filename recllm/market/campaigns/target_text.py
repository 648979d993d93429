"""The items of the shop that fit a campaign's text, such as "something for trail running"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recllm.base.errors import PolicyError, UsageError
from recllm.base.questions import SearchRequest
from recllm.market.adcopy.lexicon import fold, table
from recllm.market.adcopy.names import name_and_size, written_out
from recllm.recommend.recommender.search import VECTORS, search
from recllm.shop.data.catalogue import SENSITIVE_TARGET, in_category
from recllm.text.encoder.batches import encode_unique
from recllm.text.word_index import WordIndex

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender

THEME_WEIGHT = 3.0
"""Of the nearest by meaning against those by words: a campaign's text is a theme more often than a name, such as "a
winter breakfast"."""
WIDER = 6
"""Multiple of the wanted items that is searched, since items that differ in size alone count once."""
MOST_ITEMS = 8
"""Default number of items for a text: each person gets the one that suits them best."""


def fitting_items(recommender: Recommender, text: str, category: str | None, *, limit: int) -> list[str]:
    """Ids of the items on offer that fit the text best by meaning and by words, of one category where it is named. Of
    things that differ in size alone the best one is there before any other has a second; what words alone find comes
    last.

    Raises `UsageError` where none fits, `PolicyError` for a sensitive text.
    """
    if recommender.policy.is_sensitive((*(category or "").split(">"), text)):
        raise PolicyError(SENSITIVE_TARGET)
    data = recommender.dataset
    query = _words_that_name(text)
    vectors, _ = encode_unique(recommender.encoder, [query], kind="query")
    exclude: tuple[str, ...] = ()
    if category is not None:
        outside = ~np.asarray(in_category(data.items, category))
        exclude = tuple(data.items["item_id"].gather(np.flatnonzero(outside)).to_list())
    request = SearchRequest(query=query, k=WIDER * limit, exclude=exclude)
    slate = search(recommender, WordIndex.of(data.items), request, vectors[0], vectors_weight=THEME_WEIGHT)
    if not slate.items:
        where = f" in the category {category!r}" if category else ""
        raise UsageError(f"no item on offer fits the text {text!r}{where}; name items or a category instead")
    names = [name_and_size(written_out(item.title))[0] for item in slate.items]
    is_twin = [names.index(name) < position for position, name in enumerate(names)]
    order = sorted(range(len(names)), key=lambda n: (VECTORS not in slate.items[n].served_by, is_twin[n]))
    return [slate.items[n].item_id for n in order[:limit]]


def _words_that_name(text: str) -> str:
    """A text without the words that only join others: "something for a picnic" would find "sauce for pasta"."""
    joining = set(str(table("neutral.en.toml")["function"]).split())
    return " ".join(word for word in text.split() if fold(word).strip(".,") not in joining) or text
