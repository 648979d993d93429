"""How much personal data the scrubber finds, and how often it finds some where there is none; the part `scrub` of
trust.py:  python eval/trust.py --part scrub

Reads the sets of `eval/personal_data/judged.toml`, each by somebody who had not read the rules, and judged once; the
figures of that day stand there, those of today are measured. A set holds lines
{"text", "kind", "span_text"}, where kind is a value of `PersonalDataKind` and span_text the piece of the text that is
personal; both null for a text, such as a title, that holds nothing. A case is found when a finding of its kind
covers the whole piece. Of addresses and names, which have no sharp ends, a finding has to cover half of the piece's
letters and digits. Cases of what is no longer looked for are left out: number plates, and numbers in words.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from recllm.base.errors import DataError
from recllm.text.personal_data import EXACT_KINDS, PersonalDataKind, find_personal_data

SETS = Path(__file__).resolve().parent / "personal_data"
IN_WORDS = re.compile(r"\D{11,}")


def read_cases(file: Path) -> list[dict[str, Any]]:
    """Raises `DataError` where the file is missing, and with the line of a case that is none."""
    if not file.is_file():
        raise DataError(f"{file} is missing: it is written by people who have not read the rules")
    kinds = set(PersonalDataKind)
    cases: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        case = json.loads(line)
        if case["kind"] == "plate" or (case["kind"] in ("phone", "card") and IN_WORDS.fullmatch(case["span_text"])):
            continue
        if case["kind"] is not None and case["kind"] not in kinds:
            raise DataError(f"{file.name}, line {number}: kind {case['kind']!r}; there are: {', '.join(kinds)}")
        if case["kind"] is not None and case["span_text"] not in case["text"]:
            raise DataError(f"{file.name}, line {number}: span_text is no piece of the text")
        cases.append(case)
    return cases


def coverage(text: str, piece: str, kind: PersonalDataKind | None = None) -> float:
    """The share of a piece's letters and digits that findings cover, in [0, 1]; those of one kind, or of any."""
    start = text.index(piece)
    places = [start + at for at, sign in enumerate(piece) if sign.isalnum()]
    covered = {
        place
        for finding in find_personal_data(text)
        if kind is None or finding.kind is kind
        for place in range(finding.start, finding.end)
    }
    return sum(place in covered for place in places) / max(1, len(places))


def judged_sets() -> list[dict[str, Any]]:
    """The sets with what was said of them when they were judged. Raises `DataError` for one that was changed since."""
    sets: list[dict[str, Any]] = tomllib.loads((SETS / "judged.toml").read_text("utf-8"))["sets"]
    for one in sets:
        if hashlib.sha256((SETS / one["file"]).read_bytes()).hexdigest() != one["sha256"]:
            raise DataError(f"{one['file']} is not the file that was judged")
    return sets


def measure_sets() -> dict[str, Any]:
    """recall and false_hits: of the last set, when it was judged. sets: all of them, then and now."""
    sets = []
    for one in judged_sets():
        now = measure(SETS / one["file"])
        sets.append(one | {f"{name}_now": now[name] for name in ("recall", "false_hits")})
    return {**{name: sets[-1][name] for name in ("recall", "false_hits")}, "sets": sets}


def measure(file: Path) -> dict[str, Any]:
    """recall and false_hits in [0, 1]."""
    n_personal = n_found = n_clean = n_false = 0
    for case in read_cases(file):
        if case["kind"] is None:
            n_clean += 1
            n_false += bool(find_personal_data(case["text"]))
            continue
        kind = PersonalDataKind(case["kind"])
        n_personal += 1
        n_found += coverage(case["text"], case["span_text"], kind) >= (1.0 if kind in EXACT_KINDS else 0.5)
    return {"recall": n_found / max(1, n_personal), "false_hits": n_false / max(1, n_clean)}
