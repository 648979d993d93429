"""Commands that show: what can be set and what holds, the texts that ship with the package, the demonstration."""

from __future__ import annotations

import functools
import itertools
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, SetOptions, open_shop, read_settings
from recllm.cli.output import show
from recllm.documents import plain, unknown_name
from recllm.errors import UsageError
from recllm.settings import Settings, merged, sections, setting_names


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
            source = "" if row["from"] == "default" else f"  ({row['from']}; default {_shown(row['default'])})"
            lines += [f"{row['name']} = {_shown(row['value'])}{source}", f"    {row['doc']}  [{row['range']}]"]
    show({"workspace": None if workspace is None else str(workspace), "settings": rows}, lines, json=json)


def setting_rows(workspace: Path | None, options: dict[str, Any], *, advice: bool = False) -> list[dict[str, Any]]:
    """One row per setting: section, name, value, default, from, range, doc."""
    Settings(**options)
    tables: dict[str, dict[str, Any]] = {"RECLLM_STORE_URL": {}, "option": options, "workspace.toml": {}, "advice": {}}
    if workspace is not None:
        from recllm.workspace.workspace import SETTINGS_FILE, STORE_VARIABLE, environment_settings

        tables[STORE_VARIABLE] = environment_settings()
        with open_shop(workspace) as shop:  # it checks the file
            tables["workspace.toml"] = tomllib.loads((workspace / SETTINGS_FILE).read_text("utf-8"))
            del tables["workspace.toml"]["key_fingerprint"]
            if advice:
                from recllm.jobs.train import advised_settings

                tables["advice"] = advised_settings(shop)
    values = Settings(**functools.reduce(merged, reversed(tables.values())))
    rows = []
    for section, name in setting_names():
        model = sections()[section]
        part = getattr(values, section) if section else values
        sources = [source for source, table in tables.items() if name in (table.get(section, {}) if section else table)]
        rows.append(
            {
                "section": section,
                "name": name,
                "value": plain(getattr(part, name)),
                "default": plain(model.model_fields[name].get_default(call_default_factory=True)),
                "from": sources[0] if sources else "default",
                "range": model.expected(name),
                "doc": " ".join((model.model_fields[name].description or name.replace("_", " ")).split()),
            }
        )
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


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
