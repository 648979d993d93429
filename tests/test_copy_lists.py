"""What decides a verdict is data: no word list stands in the code, and every file of data is in a record's hash."""

from __future__ import annotations

import ast
import re
from importlib import resources
from pathlib import Path

import pytest

from recllm.market.adcopy import lexicon

ADCOPY = Path(lexicon.__file__).parent
SOURCES = sorted(p for p in ADCOPY.rglob("*.py"))
FILES = sorted(p.name for p in (ADCOPY / "data").glob("*.toml"))
_SYNTAX = re.compile(r"\\[A-Za-z]|\(\?P<\w+>|\(\?[a-z]+\)|\[[^\]]*\]|\{[^{}]*\}|\bu[0-9a-f]{4}\b")
"""What a pattern may be made of besides words: classes, groups, flags, characters by number."""
_COMPILERS = ("re.compile", "folded_pattern", "re.fullmatch", "re.match", "re.search", "re.sub")


def compiled_texts(tree: ast.AST) -> list[str]:
    """The literal texts that a module compiles into patterns; keys of tables are none."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in _COMPILERS]
    nodes = [n for call in calls for n in ast.walk(call.args[0])]
    keys = {id(n.slice) for n in nodes if isinstance(n, ast.Subscript)}
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in keys]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ADCOPY)))
def test_no_pattern_in_the_code_holds_a_word(source: Path) -> None:
    for text in compiled_texts(ast.parse(source.read_text(encoding="utf-8"))):
        assert not re.search(r"[A-Za-z]{2}|[\u4e00-\u9fff]", _SYNTAX.sub("", text)), text


@pytest.mark.parametrize("file", FILES)
def test_a_change_in_any_list_is_another_hash(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lexicon.lists_sha256()
    (tmp_path / "data").mkdir()
    for name in FILES:
        content = (ADCOPY / "data" / name).read_bytes()
        (tmp_path / "data" / name).write_bytes(content + (b"\n# changed" if name == file else b""))
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    assert lexicon.lists_sha256.__wrapped__() != before


def test_every_pattern_and_limit_is_used() -> None:
    code = "\n".join(source.read_text(encoding="utf-8") for source in SOURCES)
    names = [f"{group}.{name}" for group, patterns in lexicon.table("patterns.toml").items() for name in patterns]
    assert [name for name in names if f'"{name}"' not in code] == []
    assert [
        name
        for name in lexicon.table("limits.toml")
        if f'limit("{name}")' not in code and f'within("{name}"' not in code
    ] == []
