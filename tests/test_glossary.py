"""The language of the code: one meaning per class name, nouns instead of vague words, a glossary that stays short."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from source_trees import trees

ROOT = Path(__file__).resolve().parents[1]

VAGUE = frozenset(re.findall(r"\w+", """
    found told asked own given made kept wanted known said whole place places rest more one other here there fresh held
    chosen again few most least mine near much seen taken spoken opened shown worth counted
"""))  # fmt: skip
"""Words that name no thing: never a variable, an argument or a field."""


def vague_names(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
            names.append(f"line {node.lineno}: {node.id}")
        elif isinstance(node, ast.arg) and node.arg in VAGUE:
            names.append(f"line {node.lineno}: argument {node.arg}")
    return names


def test_names_say_what_they_hold() -> None:
    assert {str(path): names for path, tree in trees().items() if (names := vague_names(tree))} == {}


def test_a_class_name_has_one_meaning() -> None:
    places = defaultdict(list)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_a_constant_or_field_has_one_text() -> None:
    """A second one belongs to something that stands elsewhere."""

    def is_text(node: ast.stmt) -> bool:
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

    doubled = [
        f"{path}, line {second.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        for first, second in pairwise(node.body if isinstance(node, ast.Module | ast.ClassDef) else ())
        if is_text(first) and is_text(second)
    ]
    assert doubled == []


def test_the_glossary_is_short_and_names_each_noun_once() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Glossary")[1]
    nouns = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", section, re.MULTILINE)[2:]
    assert 30 <= len(nouns) <= 70 and len(set(nouns)) == len(nouns)
    assert not set(nouns) & VAGUE
