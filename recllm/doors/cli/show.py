"""Commands that show settings and the installation, and the one that starts a shop."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from recllm.base.documents import unknown_name
from recllm.base.errors import RecllmError, UsageError
from recllm.base.settings import Settings, sections
from recllm.doors.cli.options import (
    DEFAULT_WORKSPACE,
    Answer,
    AnyWorkspace,
    Options,
    SetOptions,
    read_settings,
)


def settings(
    section: Annotated[str | None, typer.Argument(help="Only this section, such as scorer.")] = None,
    workspace: AnyWorkspace = None,
    options: SetOptions = None,
) -> Answer:
    """All settings: value, default, range and source (default, file, option, variable)."""
    from recllm.doors.service.setting_rows import setting_rows, setting_text

    if section is not None and section not in sections():
        raise UsageError(unknown_name(section, section, filter(None, sections())))
    if workspace is None and (DEFAULT_WORKSPACE / "workspace.toml").is_file():
        workspace = DEFAULT_WORKSPACE
    rows = setting_rows(workspace, read_settings(options or ()))
    if section is not None:
        rows = [row for row in rows if row["section"] == section]
    lines = []
    for heading, rows_of_section in itertools.groupby(rows, lambda row: row["section"]):
        lines += ["", f"[{heading}]"] if heading else []
        for row in rows_of_section:
            source = "" if row["from"] == "default" else f"  ({row['from']}; default {setting_text(row['default'])})"
            lines += [f"{row['name']} = {setting_text(row['value'])}{source}", f"    {row['doc']}  [{row['range']}]"]
    return Answer({"workspace": None if workspace is None else str(workspace), "settings": rows}, lines)


def doctor(workspace: AnyWorkspace = None) -> Answer:
    """State of this installation: versions, extras, weights, a workspace."""
    from recllm.doors.cli.doctor import CheckState, check_installation

    checks = list(check_installation(workspace))
    wrong = [check.name for check in checks if check.state is CheckState.WRONG]
    problem = RecllmError(f"not well: {', '.join(wrong)}") if wrong else None
    return Answer({"checks": checks}, problem=problem)


def start(
    settings: Annotated[Settings, Options(("currency", "timezone", "locale", "domain", "encoder"), others=False)],
    *,
    files: Annotated[list[Path] | None, typer.Argument(help="Exports of a known shop system: CSV, Parquet or .xlsx.")],
    workspace: AnyWorkspace,
    demo: Annotated[
        bool, typer.Option("--demo", help="The demonstration instead, on the Complete Journey log, in the folder demo.")
    ] = False,
    basis: Annotated[
        str | None,
        typer.Option(help="Why purchases may be used: interest (of the shop; objections count), or a consent column."),
    ],
    contact: Annotated[
        list[str] | None,
        typer.Option(help="Who may be written to: a column of agreement (may be repeated), all (but refusals), none."),
    ],
    sender: Annotated[str | None, typer.Option(help="Who writes: NAME; ADDRESS; LINK OR MAILBOX TO STOP.")],
    generator: Annotated[str, typer.Option(help="Text generator of ads: template, smollm2.")] = "template",
) -> Answer:
    """From a shop's files to a first campaign, in one command: what was read, customers, recommendations, ad texts,
    quality compared with simple systems, next steps; leaves report.html."""
    if demo == bool(files):
        raise UsageError("give the files of your shop, or --demo for the demonstration")
    from recllm.doors.start.shop import start_shop, terminal_lines

    if not files:
        from recllm.doors.start.demo import run_demo

        return Answer(record := run_demo(workspace or Path("demo"), generator=generator), terminal_lines(record))
    record = start_shop(
        workspace or DEFAULT_WORKSPACE,
        files,
        {"basis": basis, "contact": contact, "sender": sender},
        settings.explicit(),
        generator=generator,
        at_terminal=sys.stdin.isatty() and sys.stderr.isatty(),
    )
    return Answer(record, terminal_lines(record))
