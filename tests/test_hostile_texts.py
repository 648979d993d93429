"""Texts made to keep a process busy: whatever door they come through, each costs a bounded time.

The families are repeats of single signs, of near matches of every kind of pattern, and of the word lists' own phrases.
Processor time is measured, and the least of several runs counts, so that other work on the machine does not.
"""

from __future__ import annotations

import json
import logging
import random
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tables import table

import recllm
from recllm.base.documents import guarded, unknown_name
from recllm.base.errors import DataError, RecllmError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Item
from recllm.doors.console.campaign_messages import marked
from recllm.market.adcopy.lexicon import limit
from recllm.market.adcopy.request import CopyRequest
from recllm.market.adcopy.submissions import judge, submission_of
from recllm.market.adcopy.write import write_copy
from recllm.market.audiences.exclusions import youngest_age
from recllm.market.audiences.people_match import band_of
from recllm.market.audiences.people_rule import parse_rule
from recllm.shop.data.catalogue import matching
from recllm.shop.data.dataset import ITEM_SCHEMA
from recllm.shop.ingest.column_names import nearest, normal
from recllm.shop.workspace.privacy import fold_address
from recllm.text.injection import neutralise
from recllm.text.items import basics_text, item_names, item_texts
from recllm.text.log_lines import LogFormatter
from recllm.text.personal_data import find_personal_data
from recllm.text.templates import name_as_told
from recllm.text.word_index import WordIndex

NOW = datetime(2025, 6, 1, tzinfo=UTC)
SIGNS = 20_000
LIMIT = 0.05
"""Seconds of a processor that one text may take through one door."""
SLOWER = 5
"""The machine that runs the tests, and what else it does, may take so many times as long."""

SINGLE = (
    "aAzZ10 \t\n\r.,-'\"()[]{}<>/\\|*_#@:;=+&%$€£¥!?~`^中的一十万两年月号路市人李é߀İ\u0301\u200b\u00ad\ufe0f٣１①🙂ﬁ"
)
PIECES = table("hostile_texts", "pieces")


def listed_phrases() -> list[list[str]]:
    """Those of each word list of the package."""

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield from [value] if 0 < len(value) < 60 else []
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from strings(inner)

    folders = (Path(recllm.__file__).parent / name for name in ("market/adcopy/data", "text/data"))
    files = sorted(file for folder in folders for file in folder.rglob("*.toml"))
    lists = (list(strings(tomllib.loads(file.read_text(encoding="utf-8")))) for file in files)
    return [phrases for phrases in lists if phrases]


@cache
def hostile_texts(size: int) -> dict[str, str]:
    """500 of them, by what they are made of."""
    rng = random.Random(25)
    seeds = {sign: sign for sign in (*SINGLE, *PIECES)}
    for n in range(120):
        seeds[f"mixed {n}"] = "".join(rng.choice(PIECES) for _ in range(rng.randint(2, 5)))
    texts = {repr(name): (seed * (size // len(seed) + 1))[:size] for name, seed in seeds.items()}
    for n, phrases in enumerate(listed_phrases()):
        rng = random.Random(n)
        separator = rng.choice([" ", "", ". ", ", ", " the ", "\n"])
        texts[f"list {n}"] = separator.join(rng.choice(phrases) for _ in range(size))[:size]
    rng = random.Random(26)
    for name in rng.sample(sorted(texts), 500 - len(texts)):
        texts[f"{name} and an end"] = texts[name][:-1] + rng.choice("\x00! a1\n")
    return texts


def items(**changed: Any) -> pl.DataFrame:
    row = {"item_id": "a", "title": "Steel pan", "category": ["Kitchen"], "brand": "Acme", "available": True, **changed}
    return pl.DataFrame([{name: row.get(name) for name in ITEM_SCHEMA}], schema=ITEM_SCHEMA)


def line_of(text: str, locale: str = "en", **item: Any) -> dict[str, Any]:
    values = {"title": "Steel pan", "price": "20", "currency": "USD", **item}
    return {"id": "a", "text": text, "channel": "email", "locale": locale, "item": values}


def checked(text: str = "Steel pan, now $20", locale: str = "en", **item: Any) -> None:
    judge(submission_of(line_of(text, locale, **item), now=NOW))


def written(locale: str = "en", **item: Any) -> None:
    values = {"title": "Steel pan", "price": Decimal(20), "currency": "USD", **item}
    write_copy(CopyRequest(item=Item(item_id="a", **values), channel="email", locale=locale, now=NOW))


DOORS: dict[str, Callable[[str], object]] = {
    "a text to check": checked,
    "a text to check in Chinese": partial(checked, locale="zh"),
    "a whole text to check": lambda t: checked(t[: limit("max_text")]),
    "a whole text to check in Chinese": lambda t: checked(t[: limit("max_text")], "zh"),
    "the title beside a text": lambda t: checked(title=t),
    "the description beside a text": lambda t: checked(description=t),
    "an attribute beside a text": lambda t: checked(attributes={"a": t}),
    "a title of the catalogue": lambda t: written(title=t),
    "a title of the catalogue in Chinese": lambda t: written("zh", title=t),
    "a brand of the catalogue": lambda t: written(brand=t),
    "a category of the catalogue": lambda t: written(category=(t,)),
    "a description of the catalogue": lambda t: written(description=t),
    "attributes of the catalogue": lambda t: written(attributes={"a": t, t: "b"}),
    "an item as text": lambda t: item_texts(
        items(title=t, brand=t, category=[t], description=t, attributes=json.dumps({"a": t, t: "b"}))
    ),
    "an item by name": lambda t: item_names(items(title=t), "zh"),
    "a name in a reason": lambda t: name_as_told(t, 120, "en"),
    "words before a model": neutralise,
    "an answer of a person": lambda t: basics_text({"a": t, t: "b"}, "en"),
    "an index of words": lambda t: WordIndex.of(items(title=t)),
    "a query": lambda t: index().scores(t[:500]),
    "a condition on the catalogue": lambda t: matching(items(), t),
    "a short condition on the catalogue": lambda t: matching(items(), t[:2_000]),
    "a rule over people": lambda t: parse_rule({"condition": t, t: t}),
    "a band of numbers": band_of,
    "an age": lambda t: youngest_age("age", t, 2025),
    "a sensitive category": lambda t: Policy().is_sensitive((t,)),
    "the name of a column": lambda t: (normal(t), nearest("user_id", [t])),
    "the name of a setting": lambda t: unknown_name("a", t, ["b"]),
    "a cell of a table": guarded,
    "an id of a person": lambda t: fold_address(t + "@a.example"),
    "a wording with marks": lambda t: marked(t[:5_000], [(t[:20], "bad"), ("20", "bad")]),
    "a line of the log": lambda t: LogFormatter().format(logging.makeLogRecord({"msg": t[:4_000]})),
}


DOORS_OF_MOST_PATTERNS = ("a text to check", "a title of the catalogue")
"""Every text goes through these here, and one in eight through the others; eval/attack.py sends all through all."""


@cache
def index() -> WordIndex:
    rng = random.Random(1)
    titles = ["".join(rng.choice("abcdefgh中的一十") for _ in range(9)) for _ in range(5_000)]
    return WordIndex.of(pl.concat([items(item_id=str(n), title=title) for n, title in enumerate(titles)]))


def seconds(door: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    with suppress(RecllmError, UnicodeEncodeError):
        door(text)
    return time.process_time() - began


@pytest.mark.parametrize("name", DOORS)
def test_no_text_keeps_a_process_busy(name: str) -> None:
    door, slow = DOORS[name], {}
    seconds(door, "warm up")
    for made_of, text in list(hostile_texts(SIGNS).items())[:: 1 if name in DOORS_OF_MOST_PATTERNS else 8]:
        took = seconds(door, text)
        if took > LIMIT * SLOWER:  # once more, with a text that no cache holds
            took = min(took, seconds(door, text[1:] + text[:1]))
        if took > LIMIT * SLOWER:
            slow[made_of] = took
    assert not slow


def test_four_times_the_text_takes_about_four_times_as_long() -> None:
    names = random.Random(4).sample(sorted(hostile_texts(SIGNS)), 10)
    for name, door in DOORS.items():
        short, long = (sum(seconds(door, hostile_texts(size)[n]) for n in names) for size in (SIGNS // 4, SIGNS))
        assert long < 8 * short + 0.2, name


def test_personal_data_are_found_far_into_a_long_text_and_in_time_by_its_length() -> None:
    for size in (SIGNS // 4, SIGNS):
        text = ("It fits well, and the colour is as shown. " * size)[:size] + " Call me on +49 30 1234567."
        (finding,) = find_personal_data(text)
        assert text[finding.start :].startswith("+49")
    texts = list(hostile_texts(SIGNS).values())[::20]
    assert sum(seconds(find_personal_data, text) for text in texts) < 2 * LIMIT * SLOWER * len(texts)


def test_what_is_too_long_is_refused_with_the_length_that_is_taken() -> None:
    line = line_of("x")
    item = line["item"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"item": {"title": "1" * SIGNS}}, "item.title must have 1000 characters at most, not '11"),
        ({"item": item | {"description": "1" * 20_001}}, "item.description must have 20000 characters at most"),
        ({"item": item | {"attributes": {"a": "1" * 1_001}}}, "item.attributes.a must have 1000 characters at most"),
        ({"item": item | {"price": "9" * SIGNS}}, "item.price must be 1000000000000 at most, not '99"),
        ({"id": "a" * 1_001}, "id must have 1000 characters at most"),
        ({"known_brands": ["a"] * 1_001}, "known_brands must have 1000 entries at most"),
        ({"evidence": {"award": "a" * 1_001}}, "evidence.award must have 1000 characters at most"),
    ]
    for change, words in cases:
        with pytest.raises(DataError) as error:
            submission_of({**line, **change}, now=NOW)
        assert words in str(error.value) and len(str(error.value)) < 400, change
    (check,) = judge(submission_of({**line, "text": "a" * SIGNS}, now=NOW)).checks
    assert check.guarantee == "G6" and "20000 characters" in check.message
    with pytest.raises(UsageError, match="has 20,000 characters; write at most 2,000"):
        matching(items(), "a" * SIGNS)


def test_numbers_of_any_length_are_read() -> None:
    nines = "9" * 900
    for text in (f"Steel pan for ${nines}", f"钢锅 {nines} 元", "钢锅" + "万" * 900 + "元"):
        assert not judge(submission_of(line_of(text), now=NOW)).verified
    assert youngest_age("age", nines, 2025) is not None
