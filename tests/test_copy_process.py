"""G7, G13 to G16 and G18: mandatory parts, variants, voice, records, answers and approval."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from recllm.adcopy import (
    CopyRequest,
    FactSheet,
    Offer,
    OfferType,
    Sender,
    Voice,
    answered,
    approvable,
    complete,
    load_voice,
    missing_parts,
    replay,
    reproducible,
    variants_differ,
    verify,
    write_recorded,
)
from recllm.adcopy.lengths import segments
from recllm.adcopy.record import load, save
from recllm.adcopy.verify.manner import distinct_pairs, likeness
from recllm.encoder import ToyEncoder
from recllm.errors import DataError, GenerationError, UsageError
from recllm.generator import ScriptedGenerator
from recllm.schema import Check, Item, Reason

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


def failures(text: str, *, locale: str = "en", channel: str = "email", voice: Voice | None = None) -> set[str]:
    facts = FactSheet.of(BUNS if locale == "en" else Item(item_id="t", title="龙井绿茶"))
    checks = verify(text, facts, channel=channel, locale=locale, now=NOW, voice=voice)
    return {check.guarantee for check in checks if not check.passed}


# --- G7 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("龙井绿茶已上架，欢迎选购，拒收请回复R", True),
        ("龙井绿茶已上架，欢迎选购，回T退订。", True),
        ("龙井绿茶已上架，欢迎选购。", False),
        ("拒收请回复R，龙井绿茶已上架", False),
    ],
)
def test_a_chinese_short_message_ends_with_the_way_out(text: str, good: bool) -> None:
    assert ("G7" not in failures(text, locale="zh", channel="sms_cn")) is good


@pytest.mark.parametrize("sign", "【】¥★^&√※")
def test_a_chinese_short_message_has_no_signs(sign: str) -> None:
    assert "G6" in failures(f"龙井绿茶{sign}已上架，回T退订", locale="zh", channel="sms_cn")


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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("好" * 70, 1),
        ("好" * 71, 2),
        ("好" * 134, 2),
        ("好" * 135, 3),
        ("👍" * 35, 1),
        ("好" * 66 + "👍" + "好" * 66, 3),
        ("", 1),
    ],
)
def test_segments_of_short_messages(text: str, count: int) -> None:
    assert segments(text) == count


# --- G13, G14 ------------------------------------------------------------------------------------------------------


def test_variants_that_are_alike_are_told() -> None:
    one, near, far = "Soft buns for a slow lunch.", "Soft buns for a slow lunch!", "Toast a bun and call it breakfast."
    assert next(f.span for f in variants_differ([one, near])) == near
    assert list(variants_differ([one, far])) == []
    assert list(variants_differ([one])) == []


def test_variants_that_share_their_words_are_told() -> None:
    texts = [f"Sandwich buns for lunch at home, {word}." for word in ("Anna", "Bert", "Carl", "Dora")]
    assert any("repeat each other" in f.message for f in variants_differ(texts))


def test_likeness() -> None:
    assert likeness("abcd", "abcd") == 1
    assert likeness("abcd", "wxyz") == 0
    assert likeness("abcd", "abce") == pytest.approx(1 / 3)
    assert likeness("a", "b") == 1
    assert distinct_pairs(["one big cup", "one big pot"]) == pytest.approx(3 / 4)
    assert distinct_pairs(["one", "two"]) == 1


def test_a_brand_has_a_voice() -> None:
    text = "Sandwich buns, so soft! 🍞"
    assert failures(text) == set()
    for voice in (
        Voice(banned=("soft",)),
        Voice(banned=("sof*",)),
        Voice(required=("warm",)),
        Voice(emoji=False),
        Voice(exclamation=False),
    ):
        assert failures(text, voice=voice) == {"G14"}
    for voice in (Voice(banned=("sof",)), Voice(required=("soft", "buns"))):
        assert failures(text, voice=voice) == set()


@pytest.mark.parametrize(("address", "good"), [("您", True), ("你", False), (None, True)])
def test_a_brand_has_one_form_of_address(address: str | None, good: bool) -> None:
    assert ("G14" not in failures("给您泡一杯龙井绿茶。", locale="zh", voice=Voice(address=address))) is good


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
    reason=Reason(evidence_id="B:b", delta=1.0, text=""),
    seed=3,
    known_brands=("Oak Valley",),
    offer=Offer(type=OfferType.PERCENT, value=Decimal(20), start=NOW - timedelta(days=1), end=NOW + timedelta(days=2)),
    list_price=Decimal("3.10"),
    evidence={"award": "2024"},
)


def speaker() -> ScriptedGenerator:
    return ScriptedGenerator(["Toast your buns and call it breakfast."], repeat=True)


@pytest.mark.parametrize("asked", [None, speaker])
def test_a_record_makes_its_text_again(tmp_path: Path, asked: object) -> None:
    copy, record = write_recorded(REQUEST, generator=asked() if callable(asked) else None)
    assert list(reproducible(record)) == []
    save(record, tmp_path)
    kept = load(tmp_path, record.id)
    assert kept == record
    assert replay(kept, generator=asked() if callable(asked) else None) == copy
    assert "u1_" not in (tmp_path / f"{record.id}.json").read_text()


def test_what_decides_a_text_decides_its_record() -> None:
    ids = {write_recorded(replace(REQUEST, seed=seed))[1].id for seed in range(3)}
    assert len(ids) == 3


def test_a_changed_record_is_refused(tmp_path: Path) -> None:
    _, record = write_recorded(REQUEST)
    changed = replace(record, text="Buns for nothing.")
    assert [f.message for f in reproducible(changed)] == ["the record was changed after it was written"]
    with pytest.raises(GenerationError, match="changed"):
        replay(changed)
    file = save(record, tmp_path)
    file.write_text(json.dumps({"id": record.id}))
    with pytest.raises(DataError, match="damaged"):
        load(tmp_path, record.id)


def test_another_generator_cannot_replay() -> None:
    _, record = write_recorded(REQUEST)
    with pytest.raises(GenerationError, match="generator had the hash"):
        replay(record, generator=speaker())


def test_an_encoder_belongs_to_the_record() -> None:
    copy, record = write_recorded(REQUEST, generator=speaker(), encoder=ToyEncoder())
    assert replay(record, generator=speaker(), encoder=ToyEncoder()) == copy
    with pytest.raises(GenerationError, match="encoder had the hash"):
        replay(record, generator=speaker())


def test_other_lists_cannot_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    _, record = write_recorded(REQUEST)
    monkeypatch.setattr("recllm.adcopy.record.lists_sha256", lambda: "0" * 64)
    with pytest.raises(GenerationError, match="word lists or prompts"):
        replay(record)


def test_a_record_lacks_nothing() -> None:
    _, record = write_recorded(REQUEST)
    bare = replace(record, generator_sha256="")
    assert [f.message for f in reproducible(replace(bare, id=bare.digest()))] == ["the record lacks generator_sha256"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ab", "0" * 64])
def test_an_id_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        load(tmp_path, name)


# --- G16, G18 ------------------------------------------------------------------------------------------------------


def test_an_answer_is_verified_and_in_time() -> None:
    copy, _ = write_recorded(REQUEST)
    assert list(answered(copy, seconds=0.2, deadline=10)) == []
    assert [f.message for f in answered(copy, seconds=11, deadline=10)] == ["the text took 11.0 s of 10.0"]
    assert [f.message for f in answered(replace(copy, verified=False), seconds=0, deadline=1)] == [
        "no verified text came back"
    ]


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
