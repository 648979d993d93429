"""Commands about single people."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.documents import plain
from recllm.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(pseudonym)
    app.command()(profile)


def read_ids(file: Path) -> list[str]:
    """One id per line, in UTF-8; blank lines are skipped. Raises `UsageError` when the file cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a list of ids, one per line: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def pseudonym(
    ids: Annotated[Path, typer.Option("--ids", help="A file with one of your ids per line.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    json: Json = False,
) -> None:
    """The pseudonym of each id of a list, for a shop's own join: two columns, id and pseudonym."""
    from recllm.workspace.workspace import Workspace

    raw = read_ids(ids)
    names = Workspace.open(workspace).pseudonymiser().many(raw)
    if json:
        emit_json([{"user_id": r, "pseudonym": n} for r, n in zip(raw, names, strict=True)])
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["user_id", "pseudonym"])
    writer.writerows(zip(raw, names, strict=True))


def profile(
    user: Annotated[str, typer.Argument(help="The person's id.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    locale: Annotated[str | None, typer.Option(help="en or zh.")] = None,
    evolution: Annotated[bool, typer.Option("--evolution", help="How the person's interests moved over time.")] = False,
    by: Annotated[str, typer.Option(help="Periods of --evolution: auto, month, quarter or mass.")] = "auto",
    plot: Annotated[Path | None, typer.Option(help="Also draw --evolution to this PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write --evolution to this page.")] = None,
    json: Json = False,
) -> None:
    """What is known of a person: User = (I, B, H), as numbers and as the text that models read."""
    from recllm.jobs.serve import person_profile
    from recllm.workspace.workspace import Workspace

    if evolution:
        _evolution(user, workspace, locale, by, plot, html, json)
        return
    if plot or html:
        raise UsageError("--plot and --html draw the picture of --evolution; add it")
    with Workspace.open(workspace) as shop:
        person, texts = person_profile(shop, user, locale or shop.settings.locale)
    if json:
        emit_json({**plain(person), "user_id": user, "texts": plain(texts)})
        return
    for name, text in (("I", texts.basics), ("B", texts.purchases), ("H", texts.browsing)):
        say(f"{name}:", *(f"  {line}" for line in (text or "nothing known").splitlines()))


def _evolution(
    user: str, workspace: Path, locale: str | None, by: str, plot: Path | None, html: Path | None, json: bool
) -> None:
    from recllm.jobs.serve import person_evolution
    from recllm.profiles.evolution import check_by
    from recllm.report.evolution import evolution_page, evolution_rows, write_evolution_png
    from recllm.workspace.workspace import Workspace

    kind = check_by(by)
    with Workspace.open(workspace) as shop:
        moves = person_evolution(shop, user, by=kind)
        language = locale or shop.settings.locale
    if html:
        html.write_text(evolution_page(moves, name=user, locale=language), encoding="utf-8")
    if plot and (remark := write_evolution_png(moves, plot, name=user, locale=language)):
        note(remark)
    if json:
        emit_json({**plain(moves), "user_id": user})
    else:
        header, rows = evolution_rows(moves, language)
        say(*table(rows, header))
