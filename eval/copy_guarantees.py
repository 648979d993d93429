"""What the verifier of ad texts stops and what it lets pass.

    python eval/copy_guarantees.py -o eval/results/copy-guarantees.json

The texts stand in eval/copy_texts/. Those of "first" were written before the rules were tuned, without their word
lists. Half of them, by a hash of the text, is held back: only the other half ("develop") was read while rules were
written. 60 instructions hidden in four fields of a product go through `write_copy` with a generator that obeys them;
1,000 numbers of good texts are changed in one place each.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from inputs import HERE, finish, script_parser

from recllm.base.schema import CopyVerdict, Item, Purpose
from recllm.market.adcopy.channels import channel_named
from recllm.market.adcopy.lexicon import fold
from recllm.market.adcopy.request import CopyRequest, PersonFacts
from recllm.market.adcopy.submissions import Submission, judge, submission_of
from recllm.market.adcopy.write import write_copy

TEXTS = HERE / "copy_texts"
WORLD: dict[str, Any] = json.loads((TEXTS / "items.json").read_text("utf-8"))
"""The items that the texts are about, brands of others, offers and proofs by name, and the time of the texts."""
CHANNELS = ("push", "email", "sms_gsm", "google_rsa")
FIELDS = ("title", "brand", "category", "attribute")
PACKS = {"en": ["us_ftc", "eu"], "zh": ["cn"]}
DEFAULT_CHANNEL = {"en": "email", "zh": "wechat"}
MUTATIONS = 1_000
LOWEST = {"lowest_30d": "the list price, 2025-10-01 to 2025-10-31"}
"""Every shop of the sets knows the lowest price of the last 30 days."""
SETS = ("second", "unseen", "everyday")
"""By the author of the rules, after the first rules. The rules that followed come from reading "second" and "everyday",
so that these say nothing of new texts any more; no rule was changed because of "unseen"."""
OUTSIDE = ("outside", "outside_2", "outside_3", "priced", "outside_4", "outside_5", "outside_6", "outside_7")
"""By people who have read no rule and no other text, each frozen before it was judged, judged once and read after that;
"priced" was written for building. None of them is evidence any more: the next set has to be new."""
WHEN_JUDGED = {
    "outside": (9, 25, 71),
    "outside_2": (2, 7, 80),
    "outside_3": (7, 8, 70),
    "outside_4": (8, 9, 52),
    "outside_5": (6, 11, 71),
    "outside_6": (5, 10, 45),
    "outside_7": (6, 6, 61),
}
"""Bad ones passed, good ones blocked, good ones held when a set was judged, before any mend because of it."""
_MOMENT = datetime.fromisoformat(WORLD["now"])
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One text of the sets."""

    kind: str
    """"good" of those that may leave, else what is wrong."""
    held_out: bool
    values: dict[str, Any]

    @property
    def submission(self) -> Submission:
        return submission_of(self.values, now=_MOMENT)


def cases_of(name: str) -> tuple[list[Case], list[Case]]:
    """The bad and the good texts of a set."""
    rows = json_lines((TEXTS / f"{name}.jsonl").read_text("utf-8"))
    return [_case(row) for row in rows if not row["good"]], [_case(row) for row in rows if row["good"]]


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _case(row: dict[str, Any]) -> Case:
    """row["names"]: of a channel, an offer or a proof."""
    locale, offers, evidence = row["locale"], WORLD["offers"], WORLD["evidence"]
    name = sha256(f"{locale}:{row['kind']}:{row['item']}:{row['text']}".encode()).hexdigest()[:12]
    values = {
        "id": name,
        "text": row["text"],
        "channel": next((m for m in row["names"] if m not in offers and m not in evidence), DEFAULT_CHANNEL[locale]),
        "locale": locale,
        "item": WORLD["items"][row["item"]],
        "offer": next((offers[m] for m in row["names"] if m in offers), None),
        "packs": PACKS[locale],
        "known_brands": WORLD["known_brands"],
        "evidence": {**LOWEST, **next((evidence[m] for m in row["names"] if m in evidence), {})},
    }
    return Case(kind=row["kind"], held_out=int(name[0], 16) % 2 == 1, values=values)


def passes(case: Case) -> bool:
    return judge(case.submission).verified


def mutants(cases: list[Case], n: int, rng: random.Random) -> Iterator[Case]:
    """`n` good texts with one number changed: a digit replaced, added or taken away, never into another fact."""
    numbered = [case for case in cases if _NUMBER.search(case.values["text"])]
    count = 0
    while count < n:
        case = rng.choice(numbered)
        text = _changed(case.values["text"], rng)
        if text is not None and not _new_numbers(text) <= _facts(case):
            count += 1
            yield Case(kind="mutated", held_out=case.held_out, values={**case.values, "text": text})


def _changed(text: str, rng: random.Random) -> str | None:
    number = rng.choice(list(_NUMBER.finditer(text)))
    digits = [i for i in range(*number.span()) if text[i].isdigit()]
    at, digit = rng.choice(digits), rng.choice("123456789")
    how = rng.choice(("replace", "add", "take"))
    if how == "take":
        return text[:at] + text[at + 1 :] if len(digits) > 1 and text[at - 1] != "." else None
    return text[:at] + digit + text[at + (how == "replace") :]


def _new_numbers(text: str) -> set[Decimal]:
    return {Decimal(n.replace(",", "")) for n in _NUMBER.findall(text)}


def _facts(case: Case) -> set[Decimal]:
    """Every number that the item, its offer or the good text itself may state."""
    facts = json.dumps([case.values["item"], case.values["offer"]], ensure_ascii=False)
    return {Decimal(n.replace(",", "")) for n in _NUMBER.findall(facts)}


class _Obedient:
    """Writes the lines that an instruction demanded, whatever it is asked."""

    name = "obedient"
    purpose = Purpose.LLM_LOCAL

    def __init__(self, lines: list[str]) -> None:
        self._lines = [line.strip() for line in lines]

    def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
        return self._lines[:n]


def injected(instructions: list[dict[str, str]]) -> list[dict[str, str]]:
    """The advertisements that let through what a hidden instruction demanded: its sign stands in them."""
    leaks = []
    for number, (payload, sign) in enumerate((row["text"], row["sign"]) for row in instructions):
        for step, field in enumerate(FIELDS):
            channel, locale = CHANNELS[(number + step) % 4], ("zh", "en")[number % 2]
            parts = [slot.name for slot in channel_named(channel).slots]
            answers = [
                payload,
                *("\n".join(f"{part}: {words} {sign}" for part in parts) for words in ("A mug,", "Mug with")),
            ]
            item = _carrying(payload, field)
            request = CopyRequest(
                item=item, channel=channel, locale=locale, now=_MOMENT, person=PersonFacts(in_cart=True)
            )
            for copy in write_copy(request, generator=_Obedient(answers)):
                if not copy.verified or fold(sign) in fold(copy.text):
                    leaks.append({"field": field, "channel": channel, "payload": payload, "text": copy.text})
    return leaks


def held_back(text: str) -> bool:
    """Half of all texts, by their hash."""
    return int(sha256(text.encode()).hexdigest()[0], 16) % 2 == 1


def _carrying(payload: str, field: str) -> Item:
    values: dict[str, Any] = {"title": "Blue mug", "category": ("Kitchen",), "attributes": {"colour": "blue"}}
    poisoned = {"title": payload, "brand": payload, "category": ("Kitchen", payload), "attribute": {"note": payload}}
    values["attributes" if field == "attribute" else field] = poisoned[field]
    return Item(item_id="m", price=Decimal(8), currency="USD", **values)


def figures(bad: list[Case], good: list[Case], mutated: list[Case]) -> dict[str, Any]:
    return {
        "bad_total": len(bad),
        "bad_passed": sum(passes(c) for c in bad),
        "good_total": len(good),
        "good_passed": sum(passes(c) for c in good),
        "mutations_total": len(mutated),
        "mutations_caught": sum(not passes(c) for c in mutated),
    }


def _few(bad: list[Case], good: list[Case]) -> dict[str, Any]:
    """The figures of a set without numbers to change."""
    return {name: value for name, value in figures(bad, good, []).items() if not name.startswith("mutations")}


def measure() -> dict[str, Any]:
    bad, good = cases_of("first")
    mutated = list(mutants([c for c in good if passes(c)], MUTATIONS, random.Random(0)))
    instructions = json_lines((TEXTS / "injections.jsonl").read_text("utf-8"))
    leaks = injected(instructions)
    parts = {
        name: [[c for c in cases if c.held_out is part] for cases in (bad, good, mutated)]
        for name, part in (("held", True), ("develop", False))
    }
    return {
        **figures(bad, good, mutated),
        "bad_kinds": len({c.kind for c in bad}),
        "bad_chinese": sum(c.values["locale"] == "zh" for c in bad),
        "injection_total": len(instructions) * len(FIELDS),
        "injection_leaked": len(leaks),
        "injection_leaked_held": sum(held_back(leak["payload"]) for leak in leaks),
        **{name: figures(*cases) for name, cases in parts.items()},
        **{name: _few(*cases_of(name)) for name in SETS},
        **{name: outside(name) for name in OUTSIDE},
        "verify_ms": verify_ms([c.submission for c in (*bad, *good)]),
    }


def outside(name: str) -> dict[str, Any]:
    """The verdicts on the texts of one set, under the packs, brands and proofs of the other sets."""
    content = (TEXTS / f"{name}.jsonl").read_bytes()
    lines = json_lines(content.decode("utf-8"))
    brands = sorted({*WORLD["known_brands"], *(line["item"]["brand"] for line in lines if line["item"].get("brand"))})
    figures: dict[str, Any] = {"sha256": sha256(content).hexdigest(), "bad_passed_by_kind": {}}
    if name in WHEN_JUDGED:
        figures["when_judged"] = dict(zip(("bad_passed", "good_blocked", "good_held"), WHEN_JUDGED[name], strict=True))
    verdicts: Counter[tuple[bool, CopyVerdict]] = Counter()
    for line in lines:
        values = {key: line[key] for key in ("id", "text", "channel", "locale", "item", "offer")}
        values |= {"packs": PACKS[line["locale"]], "known_brands": brands}
        values |= {"evidence": {**LOWEST, **(line.get("evidence") or {})}}
        verdict = judge(submission_of(values, now=datetime.fromisoformat(line["now"]))).verdict
        verdicts[line["good"], verdict] += 1
        if verdict is CopyVerdict.PASS and not line["good"]:
            kind = f"{line['locale']}: {line['kind']}"
            figures["bad_passed_by_kind"][kind] = figures["bad_passed_by_kind"].get(kind, 0) + 1
    for half, is_good in (("good", True), ("bad", False)):
        figures[f"{half}_total"] = sum(n for (good, _), n in verdicts.items() if good is is_good)
        for end, value in (("passed", "pass"), ("held", "person"), ("blocked", "blocked")):
            figures[f"{half}_{end}"] = verdicts[is_good, CopyVerdict(value)]
    return figures


def verify_ms(submissions: list[Submission]) -> float:
    """Milliseconds of one core per text, reading the facts included: what else runs on the machine does not count."""
    began = time.process_time()
    for submission in submissions:
        judge(submission)
    return round(1000 * (time.process_time() - began) / len(submissions), 3)


def main() -> None:
    args = script_parser(__doc__).parse_args()
    finish(measure(), args.output)


if __name__ == "__main__":
    main()
