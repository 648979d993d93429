"""The installed wheel, used from an empty folder: the checkout must not be needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "recllm" / "deploy"
SHOP = """user_id,item_id,event,timestamp,quantity,price
ann,tea,purchase,2025-03-01T10:00:00Z,1,3.20
ann,milk,purchase,2025-03-08T10:00:00Z,2,1.10
bob,tea,view,2025-03-09T10:00:00Z,1,3.20
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and, by a path file, the dependencies of this one, but not the checkout."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    dependencies = [p for p in sys.path if p.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return home / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RECLLM_KEY"}}
    command = [str(python), "-m", "recllm", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_wheel_carries_prompts_maps_and_the_type_marker(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "recllm/py.typed" in names
    assert any(n.startswith("recllm/prompts/item.") for n in names)
    assert any(n.startswith("recllm/shop/ingest/maps/") and n.endswith(".toml") for n in names)
    assert "recllm/doors/start/start.html.j2" in names and "recllm/guide/index.md" in names
    static = ("console/static/htmx.min.js", "console/static/LICENSES.txt", "service/recllm.js", "service/recllm.d.ts")
    assert {f"recllm/doors/{name}" for name in ("console/templates/frame.html.j2", *static)} <= set(names)
    assert "recllm/base/words/zh/console.toml" in names
    assert not any(n.startswith(("tests/", "eval/", "finetune/")) for n in names)


def test_it_is_the_wheel_that_runs(python: Path, tmp_path: Path) -> None:
    command = [str(python), "-c", "import recllm; print(recllm.__file__)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(ROOT / "recllm") not in done.stdout and "site-packages" in done.stdout


def test_first_steps_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(SHOP)
    assert run(python, tmp_path, "init", "-w", "shop", "--consent-default", "granted").returncode == 0
    done = run(python, tmp_path, "ingest", "log.csv", "--table", "events", "-w", "shop", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["read"], report["accepted"]) == (3, 3)
    assert run(python, tmp_path, "deploy", "server").returncode == 0
    written = {path.relative_to(tmp_path / "server") for path in (tmp_path / "server").rglob("*")}
    assert written == {path.relative_to(DEPLOY) for path in DEPLOY.rglob("*")}, "hidden files too"
