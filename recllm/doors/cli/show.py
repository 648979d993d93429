"""Commands that show: what can be set and what holds, the texts that ship with the package, the demonstration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from recllm.base.documents import unknown_name
from recllm.base.errors import RecllmError, UsageError
from recllm.base.settings import sections
from recllm.doors.cli.data import ConsentDefault, ConsentFrom, Currency, DomainName, EncoderName, Timezone
from recllm.doors.cli.options import DEFAULT_WORKSPACE, AnyWorkspace, Json, Seed, SetOptions, open_shop, read_settings
from recllm.doors.cli.output import show, table


def settings(
    section: Annotated[str | None, typer.Argument(help="Only this section, such as scorer.")] = None,
    workspace: AnyWorkspace = None,
    options: SetOptions = None,
    advice: Annotated[bool, typer.Option(help="Also read the log for what `recllm advise` would set.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Instead: the templates in use, with versions.")] = False,
    json: Json = False,
) -> None:
    """Everything that can be set: value, default, range, and what set it: default, advice, file, option, variable."""
    from recllm.market.jobs.setting_rows import setting_rows, setting_text

    if prompts:
        list_prompts(workspace, json)
        return
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


def list_prompts(workspace: Path | None, json: bool) -> None:
    """Shows the templates in use."""
    from recllm.text.templates import Prompts

    shipped, domain = Prompts.load(), "shop"
    if workspace is not None:
        with open_shop(workspace) as shop:
            domain = shop.domain.name
    rows = [
        {"name": t.name, "locale": t.locale, "version": t.version, "file": t.file, "variables": sorted(t.variables)}
        for t in sorted(shipped.of_domain(domain).values(), key=lambda t: (t.name, t.locale))
    ]
    lines = [shipped.folder, *(f"  {r['version']}: {', '.join(r['variables'])}" for r in rows)]
    show({"folder": shipped.folder, "prompts": rows}, lines, json=json)


def doctor(
    workspace: AnyWorkspace = None,
    json: Json = False,
) -> None:
    """What this installation can do, and what is missing for what: versions, extras, machine, weights, a workspace."""
    from recllm.market.jobs.doctor import CheckState, check_installation

    checks = list(check_installation(workspace))
    rows = [(check.name, check.state.value, check.what) for check in checks]
    show({"checks": checks}, table(rows, ["check", "", ""]), json=json)
    wrong = [check.name for check in checks if check.state is CheckState.WRONG]
    if wrong:
        raise RecllmError(f"not well: {', '.join(wrong)}")


def start(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Exports of a known shop system: CSV, JSONL, Parquet or .xlsx.")
    ] = None,
    workspace: AnyWorkspace = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="The demonstration, on the Complete Journey log, in the folder demo.")
    ] = False,
    consent_default: Annotated[
        ConsentDefault | None, typer.Option(help="Consent of users without a consent record; else denied.")
    ] = None,
    consent_from: ConsentFrom = None,
    currency: Currency = None,
    timezone: Timezone = None,
    locale: Annotated[
        str | None, typer.Option(help="Language of page and texts, en or zh; else the workspace's, or en.")
    ] = None,
    domain: DomainName = None,
    encoder: EncoderName = None,
    generator: Annotated[
        str, typer.Option(help="Text generator for the opening line: auto, template, smollm2, ...")
    ] = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Load a shop's own exports, train, recommend, write ad texts and measure, in one command; writes report.html."""
    from recllm.doors.start.page import terminal_lines
    from recllm.doors.start.shop import run_start

    if demo == bool(files):
        raise UsageError("give the files of your shop, or --demo for the demonstration")
    if not files:
        start_demo(workspace or Path("demo"), generator, seed, json)
        return
    record = run_start(
        workspace or DEFAULT_WORKSPACE,
        files,
        consent_default=None if consent_default is None else consent_default == "granted",
        consent_from=consent_from or (),
        currency=currency,
        timezone=timezone,
        locale=locale,
        domain=domain,
        encoder=encoder,
        generator=generator,
        seed=seed,
    )
    show(record, terminal_lines(record), json=json)


def start_demo(workspace: Path, generator: str, seed: int, json: bool) -> None:
    """The same on the Complete Journey log."""
    from recllm.doors.start.demo import run_demo

    record = run_demo(workspace, generator=generator, seed=seed)
    show(record, [f"{record['seconds']:.0f} s; open {record['report']}"], json=json)
