"""G7, G13, G14, G16 and G18: mandatory parts, variants, voice, answers and approval."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedGenerator
from tables import table

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import AdCopy, Check, CopyVerdict, Item
from recllm.market.adcopy.channels import Sender, complete
from recllm.market.adcopy.packs import pack_named
from recllm.market.adcopy.request import CopyRequest, Offer, OfferType, Voice, voice_of
from recllm.market.adcopy.write import approvable, write_copy

NOW = datetime(2025, 11, 5, tzinfo=UTC)
BUNS = Item(
    item_id="b",
    title="Sandwich buns",
    brand="Hearth",
    category=("Bakery",),
    price=Decimal("2.49"),
    currency="USD",
    attributes={"size": "12 oz"},
)
SHOP = Sender(name="Hearth Ltd", address="1 Elm Street", opt_out="https://hearth.example/no")


def test_code_adds_the_mandatory_parts() -> None:
    text = "Buns\nFor lunch\nSandwich buns."
    message = complete(text, channel="email", locale="en", sender=SHOP, generated=True)
    assert message.startswith(text)
    assert message.splitlines()[4:] == [
        "Advertisement",
        "Hearth Ltd, 1 Elm Street",
        "Unsubscribe: https://hearth.example/no",
        "Written with AI",
    ]
    assert complete(message, channel="email", locale="en", sender=SHOP, generated=True) == message


def test_parts_stand_in_one_line_where_there_is_one() -> None:
    sms = complete("Sandwich buns.", channel="sms_gsm", locale="en", sender=SHOP)
    assert sms == "Hearth Ltd: Sandwich buns. Reply STOP to opt out."
    assert complete("龙井", channel="sms_gsm", locale="zh", sender=SHOP) == "【Hearth Ltd】龙井 回T退订"
    assert complete("Buns\nBuns.", channel="push", locale="en", sender=SHOP) == "Buns\nBuns."


def test_parts_in_chinese() -> None:
    message = complete("龙井绿茶", channel="email", locale="zh", sender=SHOP, generated=True)
    assert [part in message for part in ("广告", "退订", "内容由AI生成")] == [True] * 3


def test_a_sender_without_an_address_is_told() -> None:
    with pytest.raises(UsageError, match="address"):
        complete("Buns.", channel="email", locale="en", sender=Sender(name="Hearth"))


def test_a_voice_is_read_and_a_faulty_one_refused(tmp_path: Path) -> None:
    assert voice_of(tmp_path) == Voice()
    file = tmp_path / "voice.toml"
    file.write_text('banned = ["cheap"]\nrequired = ["warm"]\naddress = "您"\nemoji = false\n')
    assert voice_of(tmp_path) == Voice(banned=("cheap",), required=("warm",), address="您", emoji=False)
    for text, problem in table("copy_process", "faulty voices"):
        file.write_text(text)
        with pytest.raises(DataError, match=problem):
            voice_of(tmp_path)


REQUEST = CopyRequest(
    item=BUNS,
    channel="push",
    now=NOW,
    seed=3,
    known_brands=frozenset({"Oak Valley"}),
    offer=Offer(type=OfferType.PERCENT, value=Decimal(20), start=NOW - timedelta(days=1), end=NOW + timedelta(days=2)),
    list_price=Decimal("3.10"),
    evidence={"award": "2024"},
)


def only_copy(request: CopyRequest, **writers: Any) -> AdCopy:
    (copy,) = write_copy(request, **writers)
    return copy


def speaker() -> ScriptedGenerator:
    answer = "title: Sandwich buns: 20% off\nbody: 20% off until 6 November. For breakfast, say."
    return ScriptedGenerator([answer], repeat=True)


def test_variants_differ() -> None:
    for channel, locale in product(("push", "email", "sms_gsm", "google_rsa", "banner", "social"), ("en", "zh")):
        found = write_copy(replace(REQUEST, variants=4, channel=channel, locale=locale))
        assert len({copy.text for copy in found}) == len(found) and all(copy.verified for copy in found)


def test_one_variant_is_the_text() -> None:
    first, *_ = write_copy(replace(REQUEST, variants=3))
    assert only_copy(REQUEST).text == first.text
    with pytest.raises(UsageError, match="at least 1"):
        replace(REQUEST, variants=0)


def test_an_offer_that_a_law_forbids_is_blocked() -> None:
    forbidden = only_copy(replace(REQUEST, packs=(pack_named("eu"),)))
    proven = only_copy(replace(REQUEST, packs=(pack_named("eu"),), evidence={"lowest_30d": "3.10"}))
    assert forbidden.verdict is CopyVerdict.BLOCKED
    assert any("98/6/EC" in check.message for check in forbidden.checks if not check.passed)
    assert proven.verified and "20% off" in proven.text


def test_the_brands_voice_stops_a_model_and_chooses_frames() -> None:
    copy = only_copy(replace(REQUEST, voice=Voice(banned=("breakfast",))), generator=speaker())
    assert copy.generator == "template" and copy.verified
    assert "G14" in {check.guarantee for _, faults in copy.rejected for check in faults}
    assert write_copy(replace(REQUEST, voice=Voice(tone="premium"))) == ()


def test_only_a_person_or_auto_approves_what_may_leave() -> None:
    passed, failed = Check(guarantee="G1", passed=True), Check(guarantee="G1", passed=False, message="no")
    for names, warnings, by, auto, is_approved in table("copy_process", "who approves"):
        checks = [{"passed": passed, "failed": failed}[name] for name in names]
        assert (list(approvable(checks, warnings=warnings, by=by, auto=auto)) == []) is is_approved, (warnings, by)
