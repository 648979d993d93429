"""Commands that show: the demonstration, and the texts that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recllm.cli.options import Json, Seed
from recllm.cli.output import emit_json, say


def register(app: typer.Typer) -> None:
    app.command()(demo)
    app.command()(prompts)


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
    if json:
        emit_json(record)
    else:
        say(f"{record['seconds']:.0f} s; open {record['report']}")


def prompts(json: Json = False) -> None:
    """The templates in use, with their versions."""
    from recllm.text.templates import Prompts

    shipped = Prompts.load()
    rows = [
        {"name": t.name, "locale": t.locale, "version": t.version, "file": t.file, "variables": sorted(t.variables)}
        for t in sorted(shipped.templates.values(), key=lambda t: (t.name, t.locale))
    ]
    if json:
        emit_json({"folder": shipped.folder, "prompts": rows})
    else:
        say(shipped.folder, *(f"  {r['version']}: {', '.join(r['variables'])}" for r in rows))
