"""Doors for texts that others wrote, and how much of the processor a text takes at each."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from recllm.base.errors import RecllmError
from recllm.base.questions import SearchRequest
from recllm.doors.service.marketing_requests import SearchQuery
from recllm.doors.service.requests import TextsRequest
from recllm.market.adcopy.submissions import Submission, judge, submission_of
from recllm.market.adcopy.write import write_copy
from recllm.recommend.recommender.search import search
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace
from recllm.text.personal_data import find_personal_data
from recllm.text.word_index import WordIndex

Door = Callable[[str], object]

PLAIN = "Green tea of the first harvest, 100 g, no. {}"
LENGTHS = (5_000, 1_000, 500)
"""A text is also cut to each of these, as a door may refuse longer ones, or not read them."""


def doors(shop: Workspace, scratch: Path) -> dict[str, Door]:
    """What is behind a request, a file or a command, with the bounds that stand before it; each refuses by an error."""
    recommender, now = open_recommender(shop), datetime.now(UTC)
    index = WordIndex.of(recommender.dataset.items)

    def submitted(text: str, locale: str = "en", **item: Any) -> Submission:
        about = {"id": "1", "title": "Green tea", "price": "3.50", "currency": "EUR"} | item
        line = {"id": "a", "text": text, "channel": "email", "locale": locale, "item": about}
        return submission_of(TextsRequest(texts=[line]).texts[0], now=now)

    def with_facts(text: str) -> Submission:
        return submitted("Green tea for 3.50.", brand=text, category=["food", text], attributes={"Colour": text})

    def looked_for(text: str) -> object:
        query = SearchQuery(query=text).query
        return search(recommender, index, SearchRequest(query=query, k=10), None)

    def loaded(text: str) -> object:
        item = {"item_id": "new", "title": text, "category": "food > tea", "description": text}
        pl.DataFrame(item).write_parquet(scratch / "items.parquet")
        return load_file(shop, scratch / "items.parquet", "items", dry_run=True)

    return {
        "check of a text": lambda text: judge(submitted(text)),
        "check of a text, zh": lambda text: judge(submitted(text, "zh")),
        "check against a title": lambda text: judge(submitted("Green tea for 3.50.", title=text)),
        "check against facts": lambda text: judge(with_facts(text)),
        "check against a description": lambda text: judge(submitted("Green tea for 3.50.", description=text)),
        "writing for a title": lambda text: write_copy(submitted("x", title=text).request),
        "writing for facts": lambda text: write_copy(with_facts(text).request),
        "writing for a description": lambda text: write_copy(submitted("x", description=text).request),
        "search": looked_for,
        "personal data": find_personal_data,
        "loading of an item": loaded,
    }


def processor_seconds(door: Door, text: str, give_up: float = 2.0) -> float:
    """Until the door answers or refuses the text, all threads together, or one of its beginnings, if that takes longer;
    about `give_up` where the door does not answer until then."""
    return max(_seconds(door, text[:length], give_up) for length in (len(text), *LENGTHS) if length <= len(text))


def _seconds(door: Door, text: str, give_up: float) -> float:
    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    began = time.process_time()
    try:
        with suppress(RecllmError, ValueError, TimeoutError):  # pydantic's errors are ValueErrors
            signal.setitimer(signal.ITIMER_PROF, give_up)
            door(text)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return time.process_time() - began
