"""The command that answers what people will do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids

if TYPE_CHECKING:
    from recllm.behaviour import Prediction

SHOWN = 20
"""People listed on a screen; a file holds all."""

What = Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, redeem, next-order or value.")]
Items = Annotated[list[str] | None, typer.Option("--item", "-i", help="Only purchases of this id; may be repeated.")]


def register(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    kind: What,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    horizon: Annotated[int, typer.Option(help="Days to look ahead.")] = 28,
    item: Items = None,
    category: Annotated[
        str | None, typer.Option(help="Only purchases of a category, or its path: 'food > tea'.")
    ] = None,
    active_days: Annotated[int | None, typer.Option(help="leave: who bought within so many days is active.")] = None,
    basics: Annotated[bool, typer.Option(help="Also use what people told of themselves.")] = False,
    explain: Annotated[bool, typer.Option(help="Give reasons.")] = True,
    csv: Annotated[Path | None, typer.Option(help="Also write the people to this CSV.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with reliability, lift and gain.")] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of your ids; they stand for their pseudonyms.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What each person will do within a horizon: a calibrated chance, a date or an amount, and why."""
    from recllm.predicting import predict_workspace
    from recllm.workspace import Workspace

    asked: dict[str, Any] = {"horizon_days": horizon, "items": tuple(item or ()), "category": category}
    asked |= {"basics": basics, "explain": explain, "seed": seed}
    asked |= {"active_days": active_days} if active_days is not None else {}
    own_ids = read_ids(ids) if ids else []
    with Workspace.open(workspace) as opened:
        names = dict(zip(opened.pseudonymiser().many(own_ids), own_ids, strict=True))
        found = predict_workspace(opened, kind, locale=locale, **asked)
    _show(found, names, csv, json)


def _show(found: Prediction, names: dict[str, str], csv: Path | None, json: bool) -> None:
    from recllm.behaviour.export import document, write_csv

    whole = document(found, names)
    if csv:
        write_csv(found, csv, names)
    if json:
        emit_json(whole)
    else:
        _tell(whole)


def _tell(whole: dict[str, Any]) -> None:
    quality = whole["calibration"]
    say(f"{whole['kind']}: {len(whole['people']):,} people as of {whole['as_of'][:10]}, {whole['horizon_days']} days")
    say(f"  {whole['meaning']}", f"  checked on {quality['checked']}:")
    numbers = {k: v for k, v in quality.items() if isinstance(v, float)}
    say("  " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    say(*(f"  note: {line}" for line in whole["notes"]), "")
    rows = [_row(one) for one in whole["people"][:SHOWN]]
    say(*table([row[1:] for row in rows], [name for name in rows[0][0] or ()]))
    if len(whole["people"]) > SHOWN:
        note(f"... and {len(whole['people']) - SHOWN:,} more; --csv FILE or --json gives all")


def _row(one: dict[str, Any]) -> list[Any]:
    said = {name: value for name, value in one.items() if name != "reasons"}
    why = " ".join(reason["text"] for reason in one["reasons"])
    return [[*said, "reasons"], *said.values(), why]
