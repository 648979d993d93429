"""How large the project may be, and how it may speak: each number of limits.toml may only fall."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from source_trees import trees
from test_glossary import VAGUE
from test_layers import ROOMS

ROOT = Path(__file__).resolve().parents[1]
LIMITS: dict[str, float] = tomllib.loads((ROOT / "tests" / "limits.toml").read_text("utf-8"))
DIALECT = re.compile(r"\b(nobody|somebody|whoever|told|tells|so many|beside|anew|what became of)\b", re.IGNORECASE)
IMPORT = re.compile(r"\s*(from|import) ")
"""Left out of the mean length: the layers are part of the names."""
DELIVERY = (
    "market/sending",
    "doors/service/agents.py",
    "doors/service/message_links.py",
    "doors/service/pages.py",
    "doors/service/report_forms.py",
    "doors/cli/deploy.py",
    "shop/workspace/sns.py",
    "shop/ingest/sessions.py",
    "shop/ingest/query.py",
    "shop/ingest/posted.py",
    "shop/ingest/deliveries.py",
    "shop/store/sources.py",
)
"""What leaves and reports back: new, and counted apart until it is whole."""
SLACK = 0.02
"""Share that a number may lie below its limit before the limit has to follow."""


def texts(folder: str, *suffixes: str) -> list[str]:
    paths = sorted(
        path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes and "static" not in path.parts
    )
    return [path.read_text("utf-8") for path in paths if ".venv" not in path.parts]


def lines(folder: str) -> int:
    return sum(text.count("\n") for text in texts(folder, ".py"))


def delivery_lines() -> int:
    places = [ROOT / "recllm" / place for place in DELIVERY]
    files = [file for place in places for file in ([place] if place.suffix else place.rglob("*.py"))]
    return sum(file.read_text("utf-8").count("\n") for file in files)


def settings_fields(model: type[BaseModel]) -> int:
    inner = [field.annotation for field in model.model_fields.values()]
    sections = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return len(inner) - len(sections) + sum(map(settings_fields, sections))


def measures() -> dict[str, float]:
    import typer

    from recllm.base.settings import Settings
    from recllm.doors.cli.main import app

    def leaves(command: Any) -> list[Any]:
        inner = getattr(command, "commands", None)
        return [leaf for child in inner.values() for leaf in leaves(child)] if inner else [command]

    commands = leaves(typer.main.get_command(app))
    parameters = [len([p for p in command.params if p.name != "options"]) for command in commands]
    sources = texts("recllm", ".py")
    parsed = list(trees().values())
    functions = [
        node for tree in parsed for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    top_level = [
        node for tree in parsed for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    names = [
        node.id if isinstance(node, ast.Name) else node.arg
        for tree in parsed
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)) or isinstance(node, ast.arg)
    ]
    documents = [path.read_text("utf-8") for path in ROOT.glob("*.md")] + texts("recllm", ".md") + texts("eval", ".md")
    spoken = texts("recllm", ".py", ".toml", ".j2", ".html", ".txt") + texts("prompts", ".toml", ".txt") + documents
    code_lines = [line for source in sources for line in source.splitlines() if line.strip() and not IMPORT.match(line)]
    return {
        "lines_recllm": lines("recllm") - delivery_lines(),
        "lines_tests": lines("tests"),
        "lines_eval": lines("eval"),
        "words_of_prose": sum(len(text.split()) for text in documents),
        "rooms": len(ROOMS),
        "files_over_500_lines": sum(source.count("\n") > 500 for source in sources),
        "settings": settings_fields(Settings),
        "commands": len(commands),
        "parameters": sum(parameters),
        "most_parameters": max(parameters),
        "dialect_words": sum(len(DIALECT.findall(text)) for text in spoken),
        "vague_names": sum(name in VAGUE | {"part", "fit", "out"} for name in names),
        "private_functions_percent": round(100 * sum(f.name.startswith("_") for f in top_level) / len(functions), 1),
        "functions_over_40_lines": sum((f.end_lineno or 0) - f.lineno >= 40 for f in functions),
        "mean_line_length": round(sum(map(len, code_lines)) / len(code_lines), 1),
    }


def test_no_number_is_above_its_limit_or_far_below() -> None:
    measured = measures()
    assert measured.keys() == LIMITS.keys() and 0 < delivery_lines() <= 3_500
    above = {name: (n, LIMITS[name]) for name, n in measured.items() if n > LIMITS[name]}
    assert not above, f"{above}: make it smaller; a limit never rises"
    below = {name: (n, LIMITS[name]) for name, n in measured.items() if n < (1 - SLACK) * LIMITS[name]}
    assert not below, f"{below}: lower the limit in tests/limits.toml"
