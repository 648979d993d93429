"""What the README says is so: its example prints what it shows, its map is whole, its figures are the files'."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README, GUIDE, RESULTS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "GUIDE.md", "eval/results/README.md")
)


def test_the_example_prints_what_is_shown() -> None:
    code, shown = re.search(r"```python\n(.*?)```\n+```\n(.*?)```", README, re.DOTALL).groups()  # type: ignore[union-attr]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README
    assert printed.getvalue() == shown


def test_the_map_names_every_room_and_nothing_else() -> None:
    section = README.split("## Map of the files")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `recllm/([a-z_]+)(?:\.py|/)`", section, re.MULTILINE))
    rooms = {p.stem if p.suffix else p.name for p in (ROOT / "recllm").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert named == rooms - {"__init__", "__main__", "__pycache__"}


def test_the_readme_is_short_and_names_every_extra() -> None:
    assert len(README.splitlines()) <= 200
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)) == set(extras)


def test_the_readmes_figures_are_those_of_the_results() -> None:
    systems = json.loads((ROOT / "eval" / "results" / "cj-next28.json").read_text())["systems"]
    rows = re.findall(r"^\| ([^|`]*?) \| (0\.\d{4}) \| (0\.\d{4}) \|$", README, re.MULTILINE)
    names = ("recllm", "lightgbm", "personal-frequency")
    expected = [tuple(f"{systems[name][part]['ndcg@20']:.4f}" for part in ("ALL", "NEW")) for name in names]
    assert [row[1:] for row in rows] == expected


def test_figures_are_those_of_the_result_files() -> None:
    found = re.findall(r"<!-- ([a-z0-9-]+)\.json -->\n(.*?)\n\n", RESULTS, re.DOTALL)
    assert found
    for name, table in found:
        systems = json.loads((ROOT / "eval" / "results" / f"{name}.json").read_text())["systems"]
        header, _, *lines = table.strip().splitlines()
        columns = [c.strip().split() for c in header.strip("|").split("|")[1:]]
        for line in lines:
            system, *cells = (c.strip().strip("*") for c in line.strip("|").split("|"))
            figures = [systems[system].get(part, {}).get(metric) for part, metric in columns]
            assert cells == ["–" if v is None else f"{v:.4f}" for v in figures], f"{name}: {system}"


def test_the_commands_of_the_readme_exist() -> None:
    from typer.main import get_command

    from recllm.cli.main import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^recllm ([a-z]+)", README, re.MULTILINE)) <= known
    assert set(re.findall(r"`recllm ([a-z]+)", README + GUIDE)) <= known


def test_the_campaign_of_the_readme_can_be_read(tmp_path: Path) -> None:
    from recllm.campaigns.file import read_campaign

    file = tmp_path / "spring.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)[1], encoding="utf-8")  # type: ignore[index]
    read = read_campaign(file)
    assert (read.id, read.target.category, read.limits.size) == ("spring", "garden", 500)
    assert read.channels == ("email", "push")
