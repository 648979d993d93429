"""G7, G13 to G16 and G18: mandatory parts, variants, voice, records, answers and approval."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedGenerator

from recllm.base.errors import DataError, GenerationError, UsageError
from recllm.base.schema import AdCopy, Check, CopyVerdict, Item, Reason, ReasonKind
from recllm.market.adcopy.channels import Sender, complete, missing_parts
from recllm.market.adcopy.packs import load_pack, pack_named
from recllm.market.adcopy.record import (
    CopyRecord,
    approvable,
    load,
    replay,
    save,
    write_recorded,
)
from recllm.market.adcopy.request import CopyRequest, Offer, OfferType, Voice, load_voice, reason_kind
from recllm.market.adcopy.write import write_copy

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


# --- G7 ------------------------------------------------------------------------------------------------------------


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
    assert missing_parts(text, channel="email", locale="en", sender=SHOP) == ("ad_mark", "sender", "unsubscribe")
    assert missing_parts(message, channel="email", locale="en", sender=SHOP, generated=True) == ()
    assert complete(message, channel="email", locale="en", sender=SHOP, generated=True) == message


def test_parts_stand_in_one_line_where_there_is_one() -> None:
    sms = complete("Sandwich buns.", channel="sms_gsm", locale="en", sender=SHOP)
    assert sms == "Sandwich buns. Hearth Ltd, 1 Elm Street. Reply STOP to opt out."
    assert complete("Buns\nBuns.", channel="push", locale="en", sender=SHOP) == "Buns\nBuns."


def test_parts_in_chinese() -> None:
    message = complete("龙井绿茶", channel="email", locale="zh", sender=SHOP, generated=True)
    assert [part in message for part in ("广告", "退订", "内容由AI生成")] == [True] * 3


def test_a_sender_without_an_address_is_told() -> None:
    with pytest.raises(UsageError, match="address"):
        complete("Buns.", channel="email", locale="en", sender=Sender(name="Hearth"))


# --- G13, G14 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("banned = 'x'", "banned is a list"),
        ("banned = [' ']", "banned is a list"),
        ("emoji = 'no'", "emoji is true or false"),
        ("address = '他'", "address is"),
        ("mood = 'x'", "no field 'mood'"),
        ("= 1", "not TOML"),
    ],
)
def test_a_faulty_voice_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "voice.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        load_voice(file)


def test_a_voice_is_read(tmp_path: Path) -> None:
    file = tmp_path / "voice.toml"
    file.write_text('banned = ["cheap"]\nrequired = ["warm"]\naddress = "您"\nemoji = false\n')
    assert load_voice(file) == Voice(banned=("cheap",), required=("warm",), address="您", emoji=False)


# --- G15 -----------------------------------------------------------------------------------------------------------

REQUEST = CopyRequest(
    item=BUNS,
    channel="push",
    now=NOW,
    reason_kind=ReasonKind.KNOWN,
    seed=3,
    known_brands=frozenset({"Oak Valley"}),
    offer=Offer(type=OfferType.PERCENT, value=Decimal(20), start=NOW - timedelta(days=1), end=NOW + timedelta(days=2)),
    list_price=Decimal("3.10"),
    evidence={"award": "2024"},
)


def first_recorded(request: CopyRequest, **writers: Any) -> tuple[AdCopy, CopyRecord]:
    return write_recorded(request, **writers)[0]


def only_copy(request: CopyRequest, **writers: Any) -> AdCopy:
    (copy,) = write_copy(request, **writers)
    return copy


def speaker() -> ScriptedGenerator:
    answer = "title: Sandwich buns: 20% off\nbody: 20% off until 6 November. For breakfast, say."
    return ScriptedGenerator([answer], repeat=True)


@pytest.mark.parametrize("asked", [None, speaker])
def test_a_record_makes_its_text_again(tmp_path: Path, asked: object) -> None:
    copy, record = first_recorded(REQUEST, generator=asked() if callable(asked) else None)
    save(record, tmp_path)
    kept = load(tmp_path, record.id)
    assert kept == record
    assert replay(kept, generator=asked() if callable(asked) else None) == copy
    assert "u1_" not in (tmp_path / f"{record.id}.json").read_text()


def test_what_decides_a_text_decides_its_record() -> None:
    ids = {first_recorded(replace(REQUEST, seed=seed))[1].id for seed in range(3)}
    assert len(ids) == 3


def test_a_changed_record_is_refused(tmp_path: Path) -> None:
    _, record = first_recorded(REQUEST)
    changed = replace(record, text="Buns for nothing.")
    with pytest.raises(GenerationError, match="changed"):
        replay(changed)
    file = save(record, tmp_path)
    file.write_text(json.dumps({"id": record.id}))
    with pytest.raises(DataError, match="damaged"):
        load(tmp_path, record.id)


def test_a_record_that_names_an_effect_model_opens_and_cannot_be_replayed(tmp_path: Path) -> None:
    _, record = first_recorded(REQUEST)
    earlier = replace(record, effect="0f" * 32)
    earlier = replace(earlier, id=earlier.digest())
    save(earlier, tmp_path)
    assert load(tmp_path, earlier.id) == earlier
    with pytest.raises(GenerationError, match="effect model had the hash '0f0f0f0f0f0f', now it is ''"):
        replay(earlier)


def test_another_generator_cannot_replay() -> None:
    _, record = first_recorded(REQUEST)
    with pytest.raises(GenerationError, match="generator had the hash"):
        replay(record, generator=speaker())


def test_other_lists_cannot_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    _, record = first_recorded(REQUEST)
    for what, name in (("word lists", "lists_sha256"), ("prompts", "prompts_sha256")):
        with monkeypatch.context() as patched:
            patched.setattr(f"recllm.market.adcopy.record.{name}", lambda *_: "0" * 64)
            with pytest.raises(GenerationError, match=f"its {what} had the hash"):
                replay(record)


def test_of_a_reason_only_the_kind_is_kept() -> None:
    told = Reason(evidence_id="B:diary-4711", delta=0.4, text="because you bought the diary")
    request = replace(REQUEST, reason_kind=reason_kind(told, BUNS.item_id, sensitive=False))
    copy, record = first_recorded(request)
    assert record.request["reason_kind"] == "together" and "diary" not in json.dumps(record.request)
    assert replay(record).text == copy.text == only_copy(request).text


def test_a_record_holds_packs_by_hash_and_the_voice(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    rule = {
        "id": "buns", "guarantee": "G3", "severity": "error", "citation": "house", "evidence": "never",
        "reviewed": "2025-11-25", "message": "is not said", "phrases": ["ready when you are"], "languages": ["en"],
        "hit": ["Ready when you are"], "miss": ["Ready"],
    }  # fmt: skip
    own.write_text('name = "own"\n[[rule]]\n' + "\n".join(f"{k} = {json.dumps(v)}" for k, v in rule.items()))
    voice = Voice(banned=("familiar",), exclamation=False)
    copy, record = first_recorded(replace(REQUEST, packs=(load_pack(own), pack_named("us_ftc")), voice=voice))
    save(record, tmp_path)
    kept = load(tmp_path, record.id)
    assert "when you are" not in copy.text and "amiliar" not in copy.text
    assert set(kept.packs) == {"own", "us_ftc"} and "phrases" not in json.dumps(kept.request)
    assert replay(kept, packs=[load_pack(own)]).text == copy.text
    with pytest.raises(GenerationError, match="rule pack own had the hash"):
        replay(kept)
    own.write_text(own.read_text().replace("is not said", "is never said"))
    with pytest.raises(GenerationError, match="rule pack own had the hash"):
        replay(kept, packs=[load_pack(own)])


@pytest.mark.parametrize("asked", [None, speaker])
def test_every_variant_has_its_record(asked: object) -> None:
    generator = asked() if callable(asked) else None
    request = replace(REQUEST, variants=3)
    found = write_recorded(request, generator=generator, generator_spec="x", user_id="u1_ann")
    assert [record.variant for _, record in found] == [0, 1, 2]
    for copy, record in found:
        assert (copy.record_id, copy.user_id, record.generator_spec) == (
            record.id,
            "u1_ann",
            "x" if asked else "template",
        )
        assert "u1_ann" not in json.dumps(record.request)
        assert replay(record, generator=asked() if callable(asked) else None).text == copy.text


def test_a_generator_that_failed_leaves_a_record_of_the_template() -> None:
    class Dead(ScriptedGenerator):
        @property
        def fingerprint(self) -> str:
            raise GenerationError("no process")

    copy, record = first_recorded(REQUEST, generator=Dead())
    assert (record.generator, record.words_by) == ("template", "template")
    assert any(check.guarantee == "G16" for _, faults in copy.rejected for check in faults)
    assert replay(record).text == copy.text


# --- G3 packs, G13 variants, G14 voice in what is written -----------------------------------------------------------


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
    with pytest.raises(UsageError, match="unknown rule pack"):
        pack_named("mars")


def test_the_brands_voice_stops_a_model_and_chooses_frames() -> None:
    copy = only_copy(replace(REQUEST, voice=Voice(banned=("breakfast",))), generator=speaker())
    assert copy.generator == "template" and copy.verified
    assert "G14" in {check.guarantee for _, faults in copy.rejected for check in faults}
    assert write_copy(replace(REQUEST, voice=Voice(tone="premium"))) == ()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ab", "0" * 64])
def test_an_id_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        load(tmp_path, name)


# --- G18 -----------------------------------------------------------------------------------------------------------


PASSED, FAILED = Check(guarantee="G1", passed=True), Check(guarantee="G1", passed=False, message="no")


@pytest.mark.parametrize(
    ("checks", "warnings", "by", "auto", "good"),
    [
        ([PASSED], 0, "ann", False, True),
        ([PASSED], 2, "ann", False, True),
        ([PASSED], 0, None, False, False),
        ([PASSED], 0, " ", False, False),
        ([PASSED], 0, None, True, True),
        ([PASSED], 1, None, True, False),
        ([PASSED], 1, "ann", True, True),
        ([PASSED, FAILED], 0, "ann", False, False),
        ([PASSED, FAILED], 0, None, True, False),
    ],
)
def test_who_approves(checks: list[Check], warnings: int, by: str | None, auto: bool, good: bool) -> None:
    assert (list(approvable(checks, warnings=warnings, by=by, auto=auto)) == []) is good
