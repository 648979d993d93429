"""Personal data in free text: what is found, what is not, and where it goes no further."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import polars as pl
import pytest
from store_view import refused_rows
from tables import table

from recllm.base.policy import Policy
from recllm.base.schema import Item
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.verify.guarantees import review
from recllm.market.adcopy.write import write_copy
from recllm.shop.ingest.load import ingest_file
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import Pseudonymiser
from recllm.text.generator.http import HttpGenerator
from recllm.text.items import basics_text, item_names, item_texts
from recllm.text.log_lines import LogFormatter
from recllm.text.personal_data import (
    EXACT_KINDS,
    PersonalDataKind,
    find_personal_data,
    personal_data_hints,
    scrub,
    without_personal_data,
)
from recllm.text.templates import Prompts

SECTIONS = dict(
    section.split("\n", 1)
    for section in (Path(__file__).parent / "data" / "personal_data.txt").read_text("utf-8").split("\n== ")[1:]
)
NEGATIVES = SECTIONS.pop("none").strip().splitlines()
POSITIVES = [
    (PersonalDataKind(kind), line.replace("<<", "").replace(">>", ""), line.split("<<")[1].split(">>")[0])
    for kind, lines in SECTIONS.items()
    for raw in lines.strip().splitlines()
    for line in [raw.replace("¶", "\n")]
]
"""(kind, text, what of it is personal)."""
MAIL, PHONE = "ann.smith@shop.example", "+49 30 1234567"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_personal_data_is_found() -> None:
    missed = []
    for kind, text, piece in POSITIVES:
        start, end = text.index(piece), text.index(piece) + len(piece)
        spans = [(f.start, f.end) for f in find_personal_data(text) if f.kind is kind]
        is_exact = kind in EXACT_KINDS
        if not any(s <= start and end <= e if is_exact else s < end and start < e for s, e in spans):
            missed.append((kind, text))
    assert missed == []


def test_numbers_of_things_are_none() -> None:
    assert {text: hits for text in NEGATIVES if (hits := find_personal_data(text))} == {}


def test_every_finding_passes_the_first_look() -> None:
    hints = personal_data_hints()
    texts = [text for _, text, _ in POSITIVES if find_personal_data(text)]
    assert [text for text in texts if not any(re.search(hint, text) for hint in hints)] == []
    is_suspect = pl.any_horizontal(pl.col("text").str.contains(hint) for hint in hints)
    found = pl.DataFrame({"text": texts}).select(is_suspect)
    assert found.to_series().all()  # the engine of columns reads it the same way


def test_checksums_decide() -> None:
    found = {f.kind for f in find_personal_data("11010519491231002X, DE89370400440532013000, 4111111111111111")}
    assert found == {PersonalDataKind.RESIDENT_ID, PersonalDataKind.IBAN, PersonalDataKind.CARD}
    assert find_personal_data("110105194912310021, DE88370400440532013000, 4111111111111112") == ()


def test_the_nearest_label_decides() -> None:
    assert find_personal_data("order 4155550132") == ()
    assert [f.kind for f in find_personal_data("for your order call 4155550132")] == [PersonalDataKind.PHONE]
    assert find_personal_data("call us about order 4155550132") == ()


def test_spans_are_those_of_the_raw_text() -> None:
    text = "\u200b电话：１３８\u200b１２３４５６７８。"
    (finding,) = find_personal_data(text)
    assert text[finding.start : finding.end] == "１３８\u200b１２３４５６７８"


def test_scrub_puts_placeholders_and_is_idempotent() -> None:
    text = f"Mail {MAIL} or call {PHONE}, 收件人：李雷"
    clean, findings = scrub(text)
    assert clean == "Mail [email] or call [phone], 收件人：[name]"
    assert [f.kind for f in findings] == [PersonalDataKind.EMAIL, PersonalDataKind.PHONE, PersonalDataKind.NAME]
    for _, example, _ in POSITIVES:
        once = scrub(example)[0]
        assert scrub(once)[0] == once
    assert scrub(text, frozenset({PersonalDataKind.EMAIL}))[0] == f"Mail [email] or call {PHONE}, 收件人：李雷"


def test_cutting_leaves_no_empty_brackets() -> None:
    assert without_personal_data(f"Steel pan ({PHONE}) 28 cm") == "Steel pan 28 cm"
    assert without_personal_data("Steel  pan ( ) 28 cm") == "Steel  pan ( ) 28 cm"


HOSTILE = table("personal_data", "hostile")


def seconds(text: str) -> float:
    began = time.process_time()
    find_personal_data(text)
    return time.process_time() - began


def is_slow(seed: str) -> bool:
    short, long = ((seed * n)[:n] for n in (2_000, 20_000))
    return seconds(long) >= 40 * max(seconds(short), 0.0005)


def test_time_grows_with_the_length_and_not_with_its_square() -> None:
    """Ten times the text takes about ten times as long, and no hundred times."""
    rng = random.Random(5)
    mixed = ["".join(rng.choice(HOSTILE) for _ in range(3)) for _ in range(10)]
    assert not [seed for seed in (*HOSTILE, *mixed) if is_slow(seed) and is_slow(seed)]  # twice: not by chance


def items(**changed: str | None) -> pl.DataFrame:
    row = {"title": "Steel pan", "category": ["Kitchen"], "brand": "Acme", "attributes": "{}", "description": None}
    row |= changed
    types = {
        "category": pl.List(pl.String),
        **dict.fromkeys(("title", "brand", "attributes", "description"), pl.String),
    }
    return pl.DataFrame([row], schema_overrides=types)


def test_item_texts_hold_no_contact() -> None:
    pan = items(
        title=f"Steel pan, call {PHONE}",
        description=f"Even heat. Questions: {MAIL}. Pick it up at 12 Baker Street, London NW1 6XE.",
        attributes=json.dumps({"maker": MAIL, "size": "28 cm"}),
    )
    text, name = item_texts(pan)[0], item_names(pan)[0]
    assert "Even heat" in text and "28 cm" in text and "Steel pan" in name
    assert find_personal_data(text) == () and find_personal_data(name) == ()


def test_a_clean_item_keeps_its_text() -> None:
    book = items(title="Dear Mrs Bird, a novel", description="Heats evenly, EAN 4006381333931, 28 cm.")
    assert item_names(book) == ["Dear Mrs Bird, a novel"]
    assert "4006381333931" in item_texts(book)[0]


def test_a_person_is_told_to_no_encoder() -> None:
    text = basics_text({"age": "35-44", "note": f"write to {MAIL}", "phone": "call 4155550132"}, "en")
    assert "35-44" in text and "@" not in text and "4155550132" not in text


def test_prompts_leave_without_personal_data() -> None:
    asked: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.read())
        reply = json.dumps({"choices": [{"message": {"content": "A line."}}]}).encode()
        return httpx2.Response(200, stream=httpx2.ByteStream(reply))

    generator = HttpGenerator("http://localhost:9/v1", transport=httpx2.MockTransport(answer))
    generator.generate(f"[system]\nBe brief.\n[user]\nA pan by {MAIL}, {PHONE}")
    assert b"[email]" in asked[0] and b"[phone]" in asked[0]
    assert MAIL.encode() not in asked[0] and b"1234567" not in asked[0]


def test_our_own_prompts_lose_nothing() -> None:
    for template in Prompts.load().templates.values():
        assert [f for f in find_personal_data(template.source) if f.kind in EXACT_KINDS] == [], template.file


def pan(**changed: object) -> CopyRequest:
    item = Item(item_id="p", title="Steel pan", category=("Kitchen",), brand="Acme", **changed)  # type: ignore[arg-type]
    return CopyRequest(item=item, channel="push", now=NOW)


@pytest.mark.parametrize(("phrase", "guarantee"), table("personal_data", "contacts that are stopped"))
def test_the_verifier_stops_a_contact(phrase: str, guarantee: str) -> None:
    failures = review(f"Steel pan\nA steel pan, ask {phrase}.", pan()).failures
    assert guarantee in {check.guarantee for check in failures}
    clean = review("Steel pan\nA steel pan for your kitchen.", pan()).failures
    assert not {check.guarantee for check in clean} & {"G8", "G10"}


def test_an_address_in_a_description_grounds_nothing() -> None:
    request = pan(description="Even heat. Ship returns to 12 Baker Street, London NW1 6XE, attn: Robert Fox")
    description = FactSheet.of(request.item).description
    assert "Baker" not in description and "Even heat" in description
    assert all(find_personal_data(copy.text) == () for copy in write_copy(request))


def test_the_log_quotes_nobody() -> None:
    record = logging.makeLogRecord({"msg": "row of %s refused", "args": (MAIL,), "caller": PHONE, "rows": 15032385536})
    line = LogFormatter().format(record)
    assert line.endswith('row of [email] refused caller="[phone]" rows=15032385536')


@pytest.mark.parametrize("masked", [False, True])
def test_the_quarantine_is_masked_where_the_policy_says_so(masked: bool, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    rows = [f"u{n},i{n},2025-01-01T00:00:00Z,1" for n in range(40)]
    bad = f"{MAIL},i1,yesterday,1"
    file.write_text("\n".join(["user_id,item_id,timestamp,quantity", *rows, bad]) + "\n", encoding="utf-8")
    store = Store.open(tmp_path / "store.sqlite", create=True)
    report = ingest_file(
        file,
        "events",
        store=store,
        pseudonymiser=Pseudonymiser(b"0123456789abcdef"),
        policy=Policy(mask_quarantine=masked),
        quarantine_dir=tmp_path / "quarantine",
    )
    store.close()
    (entry,) = refused_rows(report)
    assert (MAIL in str(entry)) is not masked and ("[email]" in entry["raw"]) is masked
    assert entry["line_no"] == 42 and entry["code"] == "E_TIMESTAMP"
