"""What the verifier of ad texts stops and what it lets pass.

    python eval/copy_guarantees.py -o eval/results/copy-guarantees.json

The texts stand in eval/copy_texts/. Those of "first" were written before the rules were tuned, without their word
lists. The copybook is that of shared/data: its good texts, and the bad ones whose fault is that they say what no fact
bears out (`UNTRUE`). 60 instructions hidden in four fields of a product go through `write_copy` with a generator that
obeys them; 1,000 numbers of good texts are changed in one place each.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from copybook import LOWEST, entries, request_of, text_of
from inputs import HERE, finish, script_parser

from recllm.base.schema import CopyVerdict, Item, Purpose
from recllm.market.adcopy.channels import channel_named
from recllm.market.adcopy.lexicon import fold
from recllm.market.adcopy.packs import pack_named
from recllm.market.adcopy.request import CopyRequest, PersonFacts
from recllm.market.adcopy.submissions import Submission, judge, submission_of
from recllm.market.adcopy.verify.guarantees import review
from recllm.market.adcopy.write import write_copy

TEXTS = HERE / "copy_texts"
KNOWN_BRANDS = ("Oak Valley", "Brightwell", "Kettleby", "Nordalen", "云岭", "悦木", "Zephyr Audio")
CHANNELS = ("push", "email", "sms_gsm", "google_rsa")
FIELDS = ("title", "brand", "category", "attribute")
PACKS = {"en": ["us_ftc", "eu"], "zh": ["cn"]}
MUTATIONS = 1_000
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
UNTRUE = {
    "en": (
        "effect_claim",
        "false_urgency",
        "guess",
        "hidden_condition",
        "price_unproven",
        "scarcity",
        "size_not_theirs",
    ),
    "zh": ("断言",),
}
"""Faults of the copybook's bad texts that say what no fact bears out; the others are of manner, tact and timing."""
_MOMENT = datetime.fromisoformat("2025-11-05T09:00:00+00:00")
_MISSED = (False, CopyVerdict.PASS)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")

Line = Mapping[str, Any]
"""A text of a set with its facts; `kind` says what is wrong with a bad one."""


def lines_of(name: str) -> list[dict[str, Any]]:
    """A set, under the packs, brands and proofs of all sets."""
    lines = json_lines(TEXTS / f"{name}.jsonl")
    own = (line["item"]["brand"] for line in lines if line["item"].get("brand"))
    brands = sorted({*KNOWN_BRANDS, *(own if name in OUTSIDE else ())})
    return [
        line | {"packs": PACKS[line["locale"]], "known_brands": brands, "evidence": LOWEST | line.get("evidence", {})}
        for line in lines
    ]


def json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def submitted(line: Line) -> Submission:
    values = {name: value for name, value in line.items() if name not in ("good", "kind", "why", "now")}
    return submission_of(values, now=datetime.fromisoformat(line["now"]))


def verdict(line: Line) -> CopyVerdict:
    return judge(submitted(line)).verdict


def mutants(lines: Sequence[Line], n: int, rng: random.Random) -> Iterator[Line]:
    """`n` good texts with one number changed: a digit replaced, added or taken away, never into another fact."""
    numbered = [line for line in lines if _NUMBER.search(line["text"])]
    count = 0
    while count < n:
        line = rng.choice(numbered)
        text = _changed(line["text"], rng)
        facts = json.dumps([line["item"], line["offer"]], ensure_ascii=False)
        if text is not None and not _numbers(text) <= _numbers(facts):
            count += 1
            yield {**line, "text": text}


def _changed(text: str, rng: random.Random) -> str | None:
    number = rng.choice(list(_NUMBER.finditer(text)))
    digits = [i for i in range(*number.span()) if text[i].isdigit()]
    at, digit = rng.choice(digits), rng.choice("123456789")
    how = rng.choice(("replace", "add", "take"))
    if how == "take":
        return text[:at] + text[at + 1 :] if len(digits) > 1 and text[at - 1] != "." else None
    return text[:at] + digit + text[at + (how == "replace") :]


def _numbers(text: str) -> set[Decimal]:
    return {Decimal(n.replace(",", "")) for n in _NUMBER.findall(text)}


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


def _carrying(payload: str, field: str) -> Item:
    values: dict[str, Any] = {"title": "Blue mug", "category": ("Kitchen",), "attributes": {"colour": "blue"}}
    poisoned = {"title": payload, "brand": payload, "category": ("Kitchen", payload), "attribute": {"note": payload}}
    values["attributes" if field == "attribute" else field] = poisoned[field]
    return Item(item_id="m", price=Decimal(8), currency="USD", **values)


def measure() -> dict[str, Any]:
    lines = lines_of("first")
    good = [line for line in lines if line["good"] and verdict(line) is CopyVerdict.PASS]
    mutated = list(mutants(good, MUTATIONS, random.Random(0)))
    instructions = json_lines(TEXTS / "injections.jsonl")
    return {
        **verdicts("first"),
        "bad_kinds": len({line["kind"] for line in lines if not line["good"]}),
        "mutations_total": len(mutated),
        "mutations_caught": sum(verdict(line) is not CopyVerdict.PASS for line in mutated),
        "injection_total": len(instructions) * len(FIELDS),
        "injection_leaked": len(injected(instructions)),
        **{name: verdicts(name) for name in (*SETS, *OUTSIDE)},
        "copybook": {language: copybook(language) for language in PACKS},
        "verify_ms": verify_ms([submitted(line) for line in lines]),
    }


def verdicts(name: str) -> dict[str, Any]:
    """The verdicts on the texts of one set."""
    figures: dict[str, Any] = {"sha256": sha256((TEXTS / f"{name}.jsonl").read_bytes()).hexdigest()}
    if name in WHEN_JUDGED:
        figures["when_judged"] = dict(zip(("bad_passed", "good_blocked", "good_held"), WHEN_JUDGED[name], strict=True))
    lines = lines_of(name)
    judged = [(line["good"], verdict(line)) for line in lines]
    kinds = (f"{line['locale']}: {line['kind']}" for line, end in zip(lines, judged, strict=True) if end == _MISSED)
    return figures | {"bad_passed_by_kind": dict(Counter(kinds))} | counted(judged)


def counted(judged: Iterable[tuple[bool, CopyVerdict]]) -> dict[str, int]:
    """Of pairs (whether a text is good, verdict)."""
    counts = Counter(judged)
    figures = {}
    for half, is_good in (("good", True), ("bad", False)):
        figures[f"{half}_total"] = sum(n for (good, _), n in counts.items() if good is is_good)
        for end, value in (("passed", "pass"), ("held", "person"), ("blocked", "blocked")):
            figures[f"{half}_{end}"] = counts[is_good, CopyVerdict(value)]
    return figures | {"bad_stopped": figures["bad_held"] + figures["bad_blocked"]}


def copybook(language: str) -> dict[str, Any]:
    """The verdicts on the copybook's texts, bad ones of `UNTRUE` alone; of those with an odd number, which rules may be
    made by, and of the others, which are counted and never read."""
    brands = frozenset(KNOWN_BRANDS)
    packs = tuple(map(pack_named, PACKS[language]))
    halves: dict[str, list[tuple[bool, CopyVerdict]]] = {"odd": [], "even": []}
    for file in ("copybook", "bad"):
        for row in entries(file, language):
            if file == "copybook" or row["fault"] in UNTRUE[language]:
                end = review(text_of(row), request_of(row, packs=packs, known_brands=brands)).verdict
                half = "odd" if int(row["id"].rpartition("-")[2]) % 2 else "even"
                halves[half].append((file == "copybook", end))
    return counted([*halves["odd"], *halves["even"]]) | {half: counted(judged) for half, judged in halves.items()}


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
