"""The shape of the house: who may import whom, what nobody may call, and what an import may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from source_trees import PACKAGE, trees
from tables import table

README = PACKAGE.parent / "README.md"

LAYERS: dict[str, list[str]] = {
    row.split("|")[1].strip(): re.findall(r"`(\w+)`", row.split("|")[2])
    for row in README.read_text(encoding="utf-8")
    .split("| layer | packages |\n| --- | --- |\n")[1]
    .split("\n\n")[0]
    .splitlines()
}
"""README's table: a package imports only from rows above its own, or from packages to its left in its row."""

ROOMS: tuple[str, ...] = tuple(room for rooms in LAYERS.values() for room in rooms)

PERSONAL_ROWS = {"store", "ingest", "workspace", "privacy"}
"""The only rooms that may read the store; everything else goes through `PolicyGate`."""

STORE_CALLS = {
    "doors/cli/data.py": 1,
    "doors/cli/doctor.py": 2,
    "doors/cli/rights.py": 2,
    "doors/console/data.py": 2,
    "doors/console/memory.py": 1,
    "doors/console/home.py": 1,
    "doors/console/models.py": 1,
    "doors/console/people.py": 3,
    "doors/service/api.py": 4,
    "doors/service/everybody.py": 1,
    "doors/service/live.py": 1,
    "market/campaigns/export.py": 3,
    "market/campaigns/outcome.py": 1,
    "market/campaigns/texts.py": 1,
    "market/experiments/feedback.py": 1,
    "market/experiments/off_policy.py": 1,
    "market/experiments/slates.py": 2,
    "market/propensity/predict.py": 1,
    "market/sending/reports.py": 1,
    "recommend/evaluation/retrain.py": 1,
    "recommend/recommender/shop_recommender.py": 3,
    "recommend/recommender/shop_states.py": 1,
    "recommend/recommender/train.py": 1,
}
"""Module -> its calls of `Workspace.store`, which pass the policy gate. The numbers may only fall."""

BANNED_CALLS = {(module, "load") for module in ("torch", "joblib", "yaml", "pickle")}
BANNED_CALLS |= {("pickle", name) for name in ("loads", "dump", "dumps")}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return room_at([part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts])


def room_at(parts: list[str]) -> str:
    """The modules of `text` itself are a room as well."""
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS.get(parts[0], []) else parts[0]


def imported_rooms(tree: ast.Module) -> set[str]:
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    paths = [module.split(".") for module in modules]
    return {room_at(path[1:]) for path in paths if path[0] == "recllm" and len(path) > 1}


def test_imports_point_upwards() -> None:
    downward = [
        f"{name_of(path)} imports {other}, which stands below it"
        for path, tree in trees().items()
        if room_of(path) in ROOMS
        for other in imported_rooms(tree) - {room_of(path), "__version__"}
        if ROOMS.index(other) >= ROOMS.index(room_of(path))
    ]
    assert downward == []


def test_a_package_stands_in_the_layer_that_the_table_names() -> None:
    for layer, rooms in LAYERS.items():
        entries = {path.stem for path in (PACKAGE / layer).iterdir() if path.suffix == ".py" or any(path.rglob("*.py"))}
        if layer in rooms:  # its own modules are one of them
            assert entries >= set(rooms) - {layer}
        else:
            assert entries - {"__init__", "__pycache__"} == set(rooms)
    assert len(LAYERS) <= 7 and len(ROOMS) <= 35


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count as well."""
    module_of = {name_of(path).removesuffix(".py").replace("/", "."): tree for path, tree in trees().items()}
    uses = {
        module: {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recllm.")
            for alias in node.names
            for name in (node.module.removeprefix("recllm."), f"{node.module}.{alias.name}".removeprefix("recllm."))
            if name in module_of
        }
        for module, tree in module_of.items()
    }
    sorted_modules = TopologicalSorter(uses)
    sorted_modules.prepare()  # raises `CycleError` with the circle


def test_only_the_gatekeepers_read_the_store() -> None:
    others = {path: tree for path, tree in trees().items() if room_of(path) not in PERSONAL_ROWS}
    assert [name_of(path) for path, tree in others.items() if "store" in imported_rooms(tree)] == []
    calls = Counter(
        name_of(path)
        for path, tree in others.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "store"
    )
    assert calls == STORE_CALLS, "ask PolicyGate instead; where there are fewer calls, lower the number"


def test_nothing_that_can_run_foreign_code() -> None:
    banned = [f"{name_of(path)}, line {line}" for path, tree in trees().items() for line in foreign_code(tree)]
    assert banned == []


def foreign_code(tree: ast.Module) -> Iterator[int]:
    """Lines that could run code of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {n.split(".")[0] for n in names} & {"pickle", "joblib", "dill", "cloudpickle"}:
                yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        is_banned = isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            is_banned = (node.func.value.id, node.func.attr) in BANNED_CALLS
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            is_banned |= keyword.arg in {"trust_remote_code", "allow_pickle"} and value is not False
            is_banned |= keyword.arg == "shell" and value is True
        if is_banned:
            yield node.lineno


@pytest.mark.parametrize("code", table("layers", "foreign code"))
def test_what_can_run_foreign_code_is_seen(code: str) -> None:
    assert list(foreign_code(ast.parse(code))) == [1]
    assert not list(foreign_code(ast.parse("f(allow_pickle=False, shell=False); np.load(path)")))


def test_a_room_gives_out_nothing_but_its_modules() -> None:
    """A name has one path: that of the module which defines it."""
    for path in PACKAGE.glob("*/**/__init__.py"):
        statements = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(statements) == 1 and isinstance(statements[0], ast.Expr), f"{path}: more than a docstring"


LIGHT = {
    "recllm": "torch transformers sentence_transformers scipy sklearn polars sqlalchemy datasets",
    "recllm.doors.cli": "torch transformers polars sqlalchemy numpy",
    "recllm.base.settings": "torch numpy polars scipy sqlalchemy",
    "recllm.text.encoder": "torch transformers huggingface_hub sqlite3",
    "recllm.market.audiences.audience": "torch transformers sklearn scipy datasets",
    "recllm.market.propensity.predict, recllm.market.propensity.effects": "torch transformers sklearn scipy datasets",
    "recllm.market.adcopy.submissions": "torch numpy polars transformers",
}
"""Modules -> what they need only once something is fitted or read."""


@pytest.mark.parametrize(("modules", "heavy"), LIGHT.items())
def test_import_is_light(modules: str, heavy: str) -> None:
    code = f"import sys, {modules}; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
