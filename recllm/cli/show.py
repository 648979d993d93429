"""Commands that show: what can be set and what holds, the texts that ship with the package, the demonstration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, SetOptions, read_settings
from recllm.cli.output import show
from recllm.documents import unknown_name
from recllm.errors import UsageError
from recllm.settings import sections


def settings(
    section: Annotated[str | None, typer.Argument(help="Only this section, such as scorer.")] = None,
    workspace: Annotated[
        Path | None, typer.Option("-w", "--workspace", help="The workspace folder; without one the defaults.")
    ] = None,
    options: SetOptions = None,
    advice: Annotated[bool, typer.Option(help="Also read the log for what `recllm advise` would set.")] = False,
    json: Json = False,
) -> None:
    """Everything that can be set: value, default, range, and what set it: default, advice, file, option, variable."""
    from recllm.jobs.setting_rows import setting_rows, setting_text

    if section is not None and section not in sections():
        raise UsageError(unknown_name(section, section, filter(None, sections())))
    if workspace is None and (DEFAULT_WORKSPACE / "workspace.toml").is_file():
        workspace = DEFAULT_WORKSPACE
    rows = setting_rows(workspace, read_settings(options or ()), advice=advice)
    if section is not None:
        rows = [row for row in rows if row["section"] == section]
    lines = []
    for heading, rows_of_section in itertools.groupby(rows, lambda row: row["section"]):
        lines += ["", f"[{heading}]"] if heading else []
        for row in rows_of_section:
            source = "" if row["from"] == "default" else f"  ({row['from']}; default {setting_text(row['default'])})"
            lines += [f"{row['name']} = {setting_text(row['value'])}{source}", f"    {row['doc']}  [{row['range']}]"]
    show({"workspace": None if workspace is None else str(workspace), "settings": rows}, lines, json=json)


def demo(
    workspace: Annotated[Path, typer.Option("-w", "--workspace", help="Where to make the demonstration shop.")] = Path(
        "demo"
    ),
    generator: Annotated[
        str, typer.Option(help="Who writes the ads' opening words: auto, template, smollm2, ...")
    ] = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The whole way on the Complete Journey log: read, train, measure, recommend, write, listen; leaves report.html."""
    from recllm.demo import run_demo

    record = run_demo(workspace, generator=generator, seed=seed)
    show(record, [f"{record['seconds']:.0f} s; open {record['report']}"], json=json)


def prompts(json: Json) -> None:
    """The templates in use, with their versions."""
    from recllm.text.templates import Prompts

    shipped = Prompts.load()
    rows = [
        {"name": t.name, "locale": t.locale, "version": t.version, "file": t.file, "variables": sorted(t.variables)}
        for t in sorted(shipped.templates.values(), key=lambda t: (t.name, t.locale))
    ]
    lines = [shipped.folder, *(f"  {r['version']}: {', '.join(r['variables'])}" for r in rows)]
    show({"folder": shipped.folder, "prompts": rows}, lines, json=json)
