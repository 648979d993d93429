"""The map of security is whole: each requirement has one answer, each test in it exists, its counts are those told."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MAP: dict[str, Any] = tomllib.loads((ROOT / "tests" / "security_map.toml").read_text(encoding="utf-8"))
LISTS: dict[str, list[str]] = MAP.pop("lists")
LLM_2026 = LISTS.pop("llm_2026")
"""By the numbers of that edition, from LLM01 on: the rows of the same risks here."""
STATES = ("tests", "documented", "not_applicable", "open")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(n.name for n in tree.body if isinstance(n, functions) and n.name.startswith("test_"))


def state_of(row: dict[str, Any]) -> str:
    """Its answer; of an open one the tests prove a part."""
    (state,) = [name for name in STATES if name in row and not (name == "tests" and "open" in row)]
    return state


def is_sentence(text: str, n_words: int) -> bool:
    return text[0].isupper() and text.endswith(".") and len(text.split()) >= n_words


def test_every_requirement_has_a_row_and_nothing_else_has_one() -> None:
    ids = [name for names in LISTS.values() for name in names]
    assert len(ids) == len(set(ids)) and set(ids) == set(MAP)
    # as many as the lists themselves have
    assert {name: len(names) for name, names in LISTS.items()} == {
        "asvs_level_1": 70,
        "asvs_level_2": 110,
        "llm_2025": 10,
    }
    assert len(LLM_2026) == len(set(LLM_2026)) == 9 and set(LLM_2026) <= set(LISTS["llm_2025"])


def test_a_row_has_one_answer() -> None:
    for name, row in MAP.items():
        assert row.keys() <= {"asks", *STATES}, name
        state = state_of(row)
        assert is_sentence(row["asks"], 4), name
        if state == "not_applicable":
            assert row[state].startswith("because ") and is_sentence(row[state].capitalize(), 5), name
        elif state == "open":
            assert is_sentence(row[state], 7), name
        elif state == "documented":
            file, heading = row[state].split(": ", 1)
            headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert headings.count(heading) == 1, (name, row[state])
        for test in row.get("tests", []):
            path, function = test.split("::")
            assert function in functions_of(path), (name, test)
        assert len(set(row.get("tests", []))) == len(row.get("tests", [])) and row.get("tests") != [], name


def test_the_counts_are_those_that_are_told() -> None:
    for group, prefix in (("ASVS level 1", "asvs_level_1"), ("ASVS level 2", "asvs_level_2"), ("LLM", "llm_2025")):
        counts = Counter(state_of(MAP[name]) for name in LISTS[prefix])
        row = " | ".join(str(counts[state]) for state in STATES)
        assert f"| {group} | {len(LISTS[prefix])} | {row} |" in CONTRIBUTING, f"CONTRIBUTING.md has to say: {row}"


def test_what_is_open_is_told_in_contributing() -> None:
    section = CONTRIBUTING.split("### The map\n")[1].split("\n## ")[0]
    for name, row in MAP.items():
        assert ("open" in row) == (f"`{name}`" in section), name


def test_promises_about_people_name_tests_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Privacy promises\n")[1].split("\n## ")[0]
    promises = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(promises) >= 9 and len(section.strip().splitlines()) <= 12
    for line in promises:
        named = re.findall(r"`(test_\w+)\.(test_\w+)`", line)
        assert named, f"no test proves: {line}"
        for file, function in named:
            assert function in functions_of(f"tests/{file}.py"), f"{file}.{function}"
