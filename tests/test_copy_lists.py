"""What decides a verdict is data: no word list is in the code, every file of data is in a record's hash, and a shop
adds words of its own."""

from __future__ import annotations

import ast
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from conftest import Command

from recllm.market.adcopy import lexicon

NOW = datetime(2025, 11, 1, 9, tzinfo=UTC)
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


def test_no_pattern_in_the_code_holds_a_word() -> None:
    texts = [(source.name, text) for source in SOURCES for text in compiled_texts(ast.parse(source.read_text("utf-8")))]
    assert [text for text in texts if re.search(r"[A-Za-z]{2}|[\u4e00-\u9fff]", _SYNTAX.sub("", text[1]))] == []


def test_every_pattern_and_limit_is_used() -> None:
    code = "\n".join(source.read_text(encoding="utf-8") for source in SOURCES)
    names = [f"{group}.{name}" for group, patterns in lexicon.table("patterns.toml").items() for name in patterns]
    assert [name for name in names if f'"{name}"' not in code] == []
    assert [name for name in lexicon.table("limits.toml") if f'limit("{name}")' not in code] == []


def test_the_shops_voice_lets_a_word_pass(run: Command) -> None:
    item = {"title": "Sandwich buns", "description": "Glazed."}
    line = {"id": "a", "text": "Toasty sandwich buns.", "channel": "push", "locale": "en", "item": item, "packs": []}
    Path("texts.jsonl").write_text(json.dumps(line))
    code, out, _ = run("copy", "check", "texts.jsonl", "--json")
    (result,) = json.loads(out)["results"]
    assert (code, result["verdict"], result["verified"]) == (2, "person", False)
    assert result["ungrounded"] == [{"word": "Toasty", "span": [0, 6]}]
    assert run("init")[0] == 0
    Path("shop/voice.toml").write_text('words = ["toasty"]')
    code, out, _ = run("copy", "check", "texts.jsonl", "--json")
    document = json.loads(out)
    assert (code, document["passed"], document["held"]) == (0, 1, 0)
    sale = {**line, "text": "Sandwich buns, 20% off.", "offer": {"type": "percent", "value": 20}, "packs": None}
    Path("texts.jsonl").write_text(json.dumps(sale))
    settings = Path("shop/workspace.toml")
    settings.write_text(settings.read_text().replace('locale = "en"', 'locale = "en-GB"'))
    codes = [run("copy", "check", "texts.jsonl", "-w", folder)[0] for folder in ("shop", ".")]
    assert codes == [0, 2], "a rule of the EU alone asks for the price of 30 days"
