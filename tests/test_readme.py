"""What the README says is so: its example prints what it shows, its map is whole, its figures are the files'."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import tomllib
from pathlib import Path

from typer.main import get_command

from recllm.base.settings import sections
from recllm.doors.cli.main import app
from recllm.market.campaigns.file import read_campaign

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "eval/results/README.md"))
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "recllm" / "guide").glob("*.md")}
DOCUMENTS = "\n".join([README, *PAGES.values()])


def test_the_example_prints_what_is_shown() -> None:
    code, shown = re.search(r"```python\n(.*?)```\n+```\n(.*?)```", README, re.DOTALL).groups()  # type: ignore[union-attr]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README
    assert printed.getvalue() == shown


def test_a_heading_stands_apart() -> None:
    for name, text in {"README.md": README, "eval/results/README.md": RESULTS, **PAGES}.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"\S.*\n#{1,6} .*", prose) == [], name


def test_the_readme_is_short_and_names_every_extra() -> None:
    assert len(README.splitlines()) <= 200
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| ((?:`[a-z]+`(?:, )?)+) \|", README, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"[a-z]+", row)} == set(extras)


def test_the_page_of_results_and_the_headlines_are_made_from_the_result_files() -> None:
    """Where this fails: python eval/results_page.py."""
    script = runpy.run_path(str(ROOT / "eval" / "results_page.py"))
    assert script["page"]() == RESULTS
    assert script["with_headlines"](README) == README
    assert README.count("<!-- results -->") == README.count("<!-- end of results -->") == 1


def test_the_readmes_figures_are_those_of_the_results() -> None:
    block = README.split("<!-- results -->")[1].split("<!-- end of results -->")[0]
    rows = [line for line in block.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 6
    for row in rows:
        name, column, ours, best = (c.strip() for c in row.strip("|").split("|"))
        part, metric = column.split()
        systems = json.loads((ROOT / "eval" / "results" / f"{name}.json").read_text())["systems"]
        figure, peer = re.fullmatch(r"(\S+) \((\S+)\)", best).groups()  # type: ignore[union-attr]
        assert ours == f"**{systems['recllm'][part][metric]:.4f}**"
        assert figure == f"{systems[peer][part][metric]:.4f}"
        others = [s[part][metric] for n, s in systems.items() if part in s and not n.startswith("recllm")]
        assert systems[peer][part][metric] == max(others)


def test_figures_are_those_of_the_result_files() -> None:
    found = re.findall(r"<!-- ([a-z0-9-]+)\.json -->\n(.*?)\n\n", RESULTS, re.DOTALL)
    assert {name for name, _ in found} == {"cj-next28", "or-next28", "or-carts", "beauty-loo", "industrial-time"}
    for name, table in found:
        systems = json.loads((ROOT / "eval" / "results" / f"{name}.json").read_text())["systems"]
        header, _, *lines = table.strip().splitlines()
        columns = [c.strip().split() for c in header.strip("|").split("|")[1:]]
        assert len(lines) == len(systems)
        for line in lines:
            system, *cells = (c.strip().strip("*") for c in line.strip("|").split("|"))
            figures = [systems[system].get(part, {}).get(metric) for part, metric in columns]
            assert cells == ["–" if v is None else f"{v:.4f}" for v in figures], f"{name}: {system}"


def test_the_commands_options_and_settings_of_the_documents_exist() -> None:
    lines = re.findall(r"(?:^(?:\w+=\S+ )?|`)recllm ([^`\n]+(?:\n[^`\n]+`)?)", DOCUMENTS, re.MULTILINE)
    assert len(lines) > 130
    for line in lines:
        command, words = get_command(app), line.split(" #")[0].split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert command.name in line.split() and {word for word in words if word.startswith("-")} <= options, line
    for section, name in re.findall(r"`(\w+)\.(?!jsonl?\b|toml\b|safe)(\w+)(?: ?= ?[^`(]+)?`", DOCUMENTS):
        assert section not in sections() or name in sections()[section].model_fields, f"{section}.{name}"


def test_links_resolve_and_the_contents_of_the_guide_are_whole() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "recllm").rglob("*.md"), ROOT / "eval" / "results" / "README.md"]:
        for path, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8")):
            target = document.parent / path if path else document
            slugs = re.sub(r"[^\w\n#-]", "", target.read_text("utf-8").lower().replace(" ", "-")) if anchor else "#-"
            assert target.exists() and re.search(f"^#+-{anchor}$", slugs, re.MULTILINE), (document, path, anchor)
    navigation = re.findall(r": (\S+\.md)$", (ROOT / "recllm" / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert set(navigation) == set(PAGES) == {"index.md", *re.findall(r"\]\((\w[\w-]*\.md)\)", PAGES["index.md"])}


def test_the_campaign_of_the_readme_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "spring.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", PAGES["campaigns.md"], re.DOTALL)[1], encoding="utf-8")  # type: ignore[index]
    read = read_campaign(file)
    assert (read.id, read.target.category, read.limits.size) == ("spring", "garden", 500)
    assert read.channels == ("email", "push")
