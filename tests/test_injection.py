"""Instructions in a shop's texts: whatever a generator that obeys them writes, none of it leaves.

Each payload stands in every text that a seller or a voice can bring, and the generator does what it is told.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

from scripted import ScriptedGenerator
from tables import table

from recllm.base.schema import Item
from recllm.market.adcopy.lexicon import fold
from recllm.market.adcopy.request import CopyRequest, Voice
from recllm.market.adcopy.submissions import Submission, judge
from recllm.market.adcopy.write import write_copy
from recllm.text.generator.chat import messages

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)

# what is hidden, the line that it asks for, and the piece of it that may stand in no text
PAYLOADS_EN = table("injection", "payloads en")
PAYLOADS_ZH = table("injection", "payloads zh")
PAYLOADS = [("en", *payload) for payload in PAYLOADS_EN] + [("zh", *payload) for payload in PAYLOADS_ZH]
FIELDS = ("title", "brand", "category", "attribute", "attribute name", "description", "voice words", "banned words")
CHANNELS = ("push", "email", "sms_gsm", "wechat")


def request_of(payload: str, field: str, locale: str, channel: str) -> CopyRequest:
    """A sound request with the payload in one of its texts."""
    name = "Blue mug" if locale == "en" else "蓝色马克杯"
    item: dict[str, Any] = {"title": name, "category": ("Kitchen",), "price": Decimal(8), "currency": "USD"}
    item |= {"attributes": {"colour": "blue"}, "description": name}
    voice: dict[str, Any] = {}
    match field:
        case "title" | "brand":
            item[field] = f"{name} {payload}" if field == "title" else payload
        case "category":
            item[field] = ("Kitchen", payload)
        case "attribute":
            item["attributes"] = {"note": payload}
        case "attribute name":
            item["attributes"] = {payload: "blue"}
        case "description":
            item[field] = f"{name}. {payload}"
        case "voice words":
            voice = {"words": (payload,)}
        case "banned words":
            voice = {"banned": (payload,)}
    return CopyRequest(item=Item(item_id="m", **item), channel=channel, locale=locale, voice=Voice(**voice), now=NOW)


def test_a_generator_that_obeys_gets_nothing_out() -> None:
    """Every payload in every field; the channels take turns, so that each field meets all of them."""
    leaked = []
    for n, ((locale, payload, demanded, sign), field) in enumerate(product(PAYLOADS, FIELDS)):
        replies = [demanded, payload, lambda prompt: messages(prompt)[-1].text, f"{demanded[:-1]}!"]
        generator = ScriptedGenerator(replies, repeat=True)
        for turn, hidden in enumerate((payload, demanded)):
            channel = CHANNELS[(n + n // len(FIELDS) + 2 * turn) % len(CHANNELS)]
            for copy in write_copy(request_of(hidden, field, locale, channel), generator=generator):
                if not copy.verified or fold(sign) in fold(copy.text):
                    leaked.append((hidden, field, channel, copy.text))
    assert leaked == []


def test_what_an_instruction_asks_for_is_no_fact_by_standing_there() -> None:
    """The line itself is checked, as anybody's text, though a field of the item says the very same."""
    passed = []
    for (locale, _, demanded, sign), field in product(PAYLOADS, ("attribute", "description", "category")):
        request = request_of(demanded, field, locale, "push")
        title, shelf = ("Blue mug", "See it in the shop.") if locale == "en" else ("蓝色马克杯", "来店里看看。")
        for text in (f"{title}\n{demanded} {shelf}", demanded):
            if all(check.passed for check in judge(Submission(id="a", text=text, request=request)).checks):
                passed.append((text, sign, field))
    assert passed == []
