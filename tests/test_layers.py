"""The shape of the house: who may import whom, what nobody may call, and what an import may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "recllm"

README = PACKAGE.parent / "README.md"

ROOMS: tuple[str, ...] = tuple(
    re.findall(r"^\| `recllm/(\w+?)(?:/|\.py)` \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
)
"""README's map of rooms, in its order: a room imports only rooms above its own."""

PERSONAL_ROWS = {"store", "ingest", "workspace", "privacy"}
"""The only rooms that may read the store; everything else goes through `PolicyGate`."""

STORE_CALLS = {
    "campaigns/export.py": 2,
    "campaigns/outcome.py": 1,
    "campaigns/plan.py": 1,
    "campaigns/texts.py": 1,
    "campaigns/wordings.py": 1,
    "cli/rights.py": 3,
    "cli/webhooks.py": 1,
    "console/data.py": 2,
    "console/experiments.py": 1,
    "console/figures.py": 2,
    "console/home.py": 1,
    "console/models.py": 1,
    "console/people.py": 4,
    "jobs/announce.py": 2,
    "jobs/catalogue_vectors.py": 1,
    "jobs/doctor.py": 2,
    "jobs/experiments.py": 2,
    "jobs/load.py": 9,
    "jobs/messages.py": 5,
    "jobs/off_policy.py": 1,
    "jobs/personal_records.py": 2,
    "jobs/predict.py": 1,
    "jobs/recommenders.py": 4,
    "jobs/retrain.py": 1,
    "jobs/sessions.py": 6,
    "jobs/train.py": 2,
    "service/everybody.py": 1,
    "service/live.py": 1,
    "service/people.py": 2,
}
"""Module -> its calls of `Workspace.store`, which pass the policy gate. The numbers may only fall."""

BANNED_CALLS = {
    ("torch", "load"),
    ("joblib", "load"),
    ("yaml", "load"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "dump"),
    ("pickle", "dumps"),
}


def sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE).parts
    return relative[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "recllm":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("recllm.")}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upwards(path: Path) -> None:
    room = room_of(path)
    if room in {"__init__", "__main__"}:
        return
    for other in imported_rooms(path) - {room, "__version__"}:
        assert ROOMS.index(other) < ROOMS.index(room), f"{path.name}: {room} imports {other}, which stands below it"


def test_there_are_few_rooms() -> None:
    assert len(ROOMS) <= 35


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_gatekeepers_read_the_store(path: Path) -> None:
    if room_of(path) not in PERSONAL_ROWS:
        assert "store" not in imported_rooms(path), f"{path.name} reads the store past the policy gate"


def test_no_more_calls_open_the_store_past_the_gate() -> None:
    calls = Counter(
        path.relative_to(PACKAGE).as_posix()
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "store"
        if room_of(path) not in PERSONAL_ROWS
    )
    assert calls == STORE_CALLS, "ask PolicyGate instead; where there are fewer calls, lower the number"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_that_can_run_foreign_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {n.split(".")[0] for n in names} & {"pickle", "joblib", "dill", "cloudpickle"}
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            assert (node.func.value.id, node.func.attr) not in BANNED_CALLS
        for keyword in node.keywords:
            if keyword.arg in {"trust_remote_code", "allow_pickle"}:
                assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            assert not (keyword.arg == "shell" and getattr(keyword.value, "value", None) is True)


def test_a_room_gives_out_nothing_but_its_modules() -> None:
    """A name has one path: that of the module which defines it."""
    for path in PACKAGE.glob("*/**/__init__.py"):
        statements = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(statements) == 1 and isinstance(statements[0], ast.Expr), f"{path}: more than a docstring"


def test_import_is_light() -> None:
    heavy = ["torch", "transformers", "sentence_transformers", "scipy", "sklearn", "polars", "sqlalchemy", "datasets"]
    code = f"import sys, recllm; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
