"""Texts that anyone wrote, checked from a file: the contract, the exit codes, and what a bad line is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table

from recllm.base.errors import RecllmError
from recllm.base.schema import AdCopy, CopyVerdict
from recllm.doors.cli import adtext
from recllm.market.adcopy.submissions import Submission, UnreadableLine, read_submissions, submission_of

LINE: dict[str, Any] = table("copy_check", "sound line")
ITEM = LINE["item"]
OFFER = {"type": "percent", "value": 20, "start": "2025-11-01T00:00:00Z", "end": "2025-11-12T00:00:00Z"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Command:
    monkeypatch.chdir(tmp_path)

    def call(*lines: dict[str, Any] | str, options: tuple[str, ...] = ("--json",)) -> tuple[int, str, str]:
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        Path("texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
        return command("copy", "check", "texts.jsonl", *options)

    return call


def test_what_passes_ends_with_0(run: Command) -> None:
    code, out, _ = run(LINE, "", {**LINE, "id": "b"})
    assert code == 0
    passes = {"verdict": "pass", "verified": True, "failures": [], "warnings": [], "ungrounded": []}
    results = [{"id": "a", **passes}, {"id": "b", **passes}]
    counts = {"checked": 2, "passed": 2, "held": 0, "blocked": 0}
    assert json.loads(out) == {**counts, "results": results, "unreadable": []}


def test_the_guides_example_passes_as_printed(run: Command) -> None:
    guide = (resources.files("recllm") / "guide" / "ad-text.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```json\n(.*?)```", guide, re.DOTALL) if '"evidence"' in block)
    code, out, _ = run(json.loads(example))
    assert code == 0 and json.loads(out)["passed"] == 1


def test_what_fails_ends_with_2_and_says_where(run: Command) -> None:
    code, out, _ = run(LINE, {**LINE, "id": "b", "text": "Honey sandwich buns, $1.99."})
    found = json.loads(out)
    assert (code, found["checked"], found["passed"]) == (2, 2, 1)
    assert found["results"][1]["verified"] is False
    assert found["results"][1]["failures"] == [
        {"guarantee": "G1", "span": "$1.99", "message": "money '$1.99' is not among the facts: the price is $2.49"}
    ]
    assert (found["results"][1]["verdict"], found["blocked"], found["held"]) == ("blocked", 1, 0)


def test_warnings_hold_a_text_for_a_person_and_without_packs_all_apply(run: Command) -> None:
    launched = {**LINE, "text": "Just launched: honey sandwich buns."}
    without = {name: value for name, value in launched.items() if name != "packs"} | {"id": "b"}
    code, out, _ = run(launched, without, {**launched, "id": "c", "packs": []})
    first, second, third = json.loads(out)["results"]
    (warning,) = first["warnings"]
    assert (code, first["verdict"], first["verified"], first["failures"]) == (2, "person", False, [])
    assert (warning["rule"], warning["span"], warning["guarantee"]) == ("us_ftc/new", "just launched", "G3")
    assert second["warnings"] and not third["warnings"]


def test_an_offer_is_judged_by_its_moment(run: Command) -> None:
    line = {**LINE, "text": "Honey sandwich buns, 20% off.", "offer": OFFER, "evidence": {"lowest_30d": "$2.49"}}
    for at, code in (("2025-11-05T00:00:00Z", 0), ("2025-10-31T23:59:59Z", 2), ("2025-11-12T00:00:00Z", 2)):
        assert run(line, options=("--json", "--at", at))[0] == code


def test_chinese(run: Command) -> None:
    tea = {"title": "龙井绿茶", "brand": "山里人", "category": ["茶叶"], "price": "168", "currency": "CNY"}
    line = {"id": "z", "channel": "wechat", "locale": "zh", "item": tea, "packs": ["cn"]}
    assert run({**line, "text": "山里人龙井绿茶，168元。"})[0] == 0
    code, out, _ = run({**line, "text": "国宴用的龙井绿茶。"})
    assert code == 2
    assert "第九条" in "".join(f["message"] for f in json.loads(out)["results"][0]["failures"])


def test_a_line_may_state_all_facts_of_a_text(run: Command) -> None:
    facts = table("copy_check", "all facts")
    texts, at = table("copy_check", "texts of all facts"), ("--json", "--at", "2025-12-01T00:00:00Z")
    for text, fact in texts.items():
        others = {name: value for name, value in facts.items() if name != fact}
        codes = [run({**LINE, "text": text, **stated}, options=at)[0] for stated in (facts, others)]
        assert codes == [0, 2], (text, "with and without", fact)


BAD_VALUES: list[tuple[dict[str, Any], str]] = table("copy_check", "bad values")
for _field, _sound in (("item", ITEM), ("offer", OFFER)):
    BAD_VALUES += [({_field: _sound | change}, words) for change, words in table("copy_check", f"bad {_field}s")]


def test_a_bad_line_is_named_and_the_others_are_judged(run: Command) -> None:
    lines = [
        LINE,
        *({**LINE, "id": f"bad{n}", **change} for n, (change, _) in enumerate(BAD_VALUES)),
        {**LINE, "id": "c"},
    ]
    code, out, err = run(*lines)
    document = json.loads(out)
    assert code == 2
    assert [result["id"] for result in document["results"]] == ["a", "c"]
    assert [line["line_no"] for line in document["unreadable"]] == list(range(2, 2 + len(BAD_VALUES)))
    for line, (_, said) in zip(document["unreadable"], BAD_VALUES, strict=True):
        assert said in line["message"]
        assert f"texts.jsonl, line {line['line_no']}: {line['message']}" in err


def test_a_line_that_is_no_object(run: Command) -> None:
    faults = {"{": "not JSON", "[]": "one JSON object", "[" * 100_000: "deep", json.dumps(LINE): "occurs twice"}
    code, out, err = run(LINE, *faults)
    document = json.loads(out)
    assert (code, document["checked"]) == (2, 1)
    assert [line["line_no"] for line in document["unreadable"]] == [2, 3, 4, 5]
    assert all(said in line["message"] for line, said in zip(document["unreadable"], faults.values(), strict=True))
    assert all(f"line {number}" in err for number in (2, 3, 4, 5))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = [(key,) for key in (*LINE, "mood")] + [("item", key) for key in ITEM] + [("offer", key) for key in OFFER]


@settings(deadline=None, max_examples=80)
@given(field=st.sampled_from(_FIELDS), value=_JSON)
def test_whatever_a_field_holds_is_a_submission_or_one_error(field: tuple[str, ...], value: Any) -> None:
    line = {**LINE, "item": dict(ITEM), "offer": dict(OFFER), "packs": []}
    (line if len(field) == 1 else line[field[0]])[field[-1]] = value
    try:
        submission_of(line, now=datetime(2025, 11, 5, tzinfo=UTC))
    except RecllmError as error:
        assert error.exit_code == 2


def test_a_wrong_moment(run: Command) -> None:
    code, _, err = run(LINE, options=("--at", "noon"))
    assert (code, "--at is a time" in err) == (2, True)
    assert "no time zone" in run(LINE, options=("--at", "2025-11-05T00:00:00"))[2]


def test_a_file_of_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(b'{"id": "\xe9"}\n' + json.dumps(LINE).encode())
    line, submission = read_submissions(file, now=datetime(2025, 11, 5, tzinfo=UTC))
    assert isinstance(line, UnreadableLine) and line.line_no == 1 and "not UTF-8" in line.message
    assert isinstance(submission, Submission) and submission.id == "a"


def test_a_file_without_a_readable_line(run: Command) -> None:
    code, out, err = run("", "  ")
    assert (code, out) == (3, "") and "no text to check" in err
    code, out, _ = run("{", "[]")
    document = json.loads(out)
    assert (code, document["checked"], [line["line_no"] for line in document["unreadable"]]) == (2, 0, [1, 2])


def test_own_packs_and_voice(run: Command, tmp_path: Path) -> None:
    (tmp_path / "voice.toml").write_text('banned = ["sandwich*"]\nexclamation = false\n')
    code, out, _ = run(LINE, options=("--json", "-w", "."))
    assert (code, json.loads(out)["results"][0]["failures"][0]["guarantee"]) == (2, "G14")
    (tmp_path / "own.toml").write_text("name = 1")
    assert "own.toml" in run(LINE, options=("--pack", "own.toml"))[2]


def test_people_read_lines(run: Command) -> None:
    code, out, err = run(LINE, {**LINE, "id": "b", "text": "Buns, $9."}, options=())
    assert code == 2
    assert out.splitlines()[:2] == ["a: passes", "b: BLOCKED"]
    assert "1 of 2 texts pass; 0 held for a person, 1 blocked, 0 lines unreadable" in err


def test_the_command_line_says_that_a_text_is_held() -> None:
    copy = AdCopy(
        text="Tea!",
        channel="push",
        locale="en",
        generator="model",
        verified=False,
        checks=(),
        facts_used={},
        template_version="1",
        item_id="tea",
        verdict=CopyVerdict.PERSON,
    )
    for words, told in (((), "held for a person\n"), (("crispy",), "held for a person, nothing grounds: crispy\n")):
        *_, line = adtext.texts_answer([replace(copy, ungrounded=words)]).lines
        assert f"{line}\n".endswith(told) and "all checks passed" not in line
