"""How much personal data the scrubber finds, and how often it finds some where there is none.

    python eval/personal_data.py [-o eval/results/personal-data.json]

Reads the sets of `eval/personal_data/judged.toml`, each by somebody who had not read the rules, and judged once; the
figures of that day stand there, those of today are measured. `--cases FILE` judges another one. A set holds lines
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
from collections import defaultdict
from pathlib import Path
from typing import Any

from inputs import finish, script_parser

from recllm.base.errors import DataError
from recllm.text.personal_data import EXACT_KINDS, PersonalDataKind, find_personal_data

SETS = Path(__file__).resolve().parent / "personal_data"
IN_WORDS = re.compile(r"\D{11,}")
MIN_RECALL, MAX_FALSE_HITS = 0.98, 0.01


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
    """recall and false_hits in [0, 1], the same per kind, and the cases that went wrong."""
    n_of_kind: dict[str, int] = defaultdict(int)
    n_found: dict[str, int] = defaultdict(int)
    n_clean = 0
    missed: list[dict[str, Any]] = []
    false_hits: list[dict[str, Any]] = []
    for case in read_cases(file):
        if case["kind"] is None:
            n_clean += 1
            if findings := find_personal_data(case["text"]):
                pieces = {str(f.kind): case["text"][f.start : f.end] for f in findings}
                false_hits.append({"text": case["text"], "findings": pieces})
            continue
        kind = PersonalDataKind(case["kind"])
        enough = 1.0 if kind in EXACT_KINDS else 0.5
        n_of_kind[kind] += 1
        if coverage(case["text"], case["span_text"], kind) >= enough:
            n_found[kind] += 1
        else:
            missed.append(case)
    n_positive = sum(n_of_kind.values())
    return {
        "n_positive": n_positive,
        "n_clean": n_clean,
        "recall": sum(n_found.values()) / max(1, n_positive),
        "false_hits": len(false_hits) / max(1, n_clean),
        "per_kind": {kind: {"n": n, "recall": n_found[kind] / n} for kind, n in sorted(n_of_kind.items())},
        "missed": missed,
        "false_hit_cases": false_hits,
    }


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--cases", type=Path, help="one set, with the cases that went wrong")
    args = parser.parse_args()
    figures = measure_sets() if args.cases is None else measure(args.cases)
    holds = figures["recall"] >= MIN_RECALL and figures["false_hits"] <= MAX_FALSE_HITS
    limits = {"min_recall": MIN_RECALL, "max_false_hits": MAX_FALSE_HITS}
    finish({"script": "personal_data.py", "limits": limits, "holds": holds, **figures}, args.output)


if __name__ == "__main__":
    main()
