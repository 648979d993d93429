"""The command that answers what people will do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids

if TYPE_CHECKING:
    from recllm.propensity.prediction import Prediction

SHOWN = 20
"""People listed on a screen; a file holds all."""

What = Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, redeem, next-order or value.")]
COUPONS = "a folder with mailings.csv, products.csv, redemptions.csv and, where known, uses.csv"

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
    coupons: Annotated[Path | None, typer.Option(help=f"redeem: {COUPONS}.")] = None,
    campaign: Annotated[str | None, typer.Option(help="redeem: its id; the latest when left out.")] = None,
    basics: Annotated[bool, typer.Option(help="Also use what people told of themselves.")] = False,
    explain: Annotated[bool, typer.Option(help="Give reasons.")] = True,
    csv: Annotated[Path | None, typer.Option(help="Also write the people to this CSV.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with reliability, lift and gain.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw these to this PNG.")] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of your ids; they stand for their pseudonyms.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What each person will do within a horizon: a calibrated chance, a date or an amount, and why."""
    from recllm.jobs.predict import predict_workspace
    from recllm.propensity.export import document
    from recllm.workspace.workspace import Workspace

    asked: dict[str, Any] = {"horizon_days": horizon, "items": tuple(item or ()), "category": category}
    asked |= {"basics": basics, "explain": explain, "seed": seed}
    extra = {"active_days": active_days, "coupons": coupons, "campaign": campaign}
    asked |= {name: value for name, value in extra.items() if value is not None}
    own_ids = read_ids(ids) if ids else []
    with Workspace.open(workspace) as opened:
        names = dict(zip(opened.pseudonymiser().many(own_ids), own_ids, strict=True))
        found = predict_workspace(opened, kind, locale=locale, **asked)
        language = locale or opened.settings.locale
    _write(found, names, csv, html, plot, language)
    whole = document(found, names)
    if json:
        emit_json(whole)
    else:
        _tell(whole)


def _write(
    found: Prediction, names: dict[str, str], csv: Path | None, html: Path | None, plot: Path | None, locale: str
) -> None:
    from recllm.propensity.export import write_csv
    from recllm.report.prediction import prediction_page, write_prediction_png

    if csv:
        write_csv(found, csv, names)
    if html:
        html.write_text(prediction_page(found, names, locale=locale), encoding="utf-8")
    if plot and (remark := write_prediction_png(found, plot, locale=locale)):
        note(remark)


def _tell(whole: dict[str, Any]) -> None:
    quality = whole["calibration"]
    say(f"{whole['kind']}: {len(whole['people']):,} people as of {whole['as_of'][:10]}, {whole['horizon_days']} days")
    say(f"  {whole['meaning']}", f"  checked on {quality['checked']}:")
    numbers = {k: v for k, v in quality.items() if isinstance(v, float)}
    say("  " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    left = ", ".join(f"{reason} {n:,}" for reason, n in whole["left_out"].items())
    say(*(f"  note: {line}" for line in whole["notes"]), *([f"  left out: {left}"] if left else []), "")
    shown = whole["people"][:SHOWN]
    columns = [name for name in shown[0] if name != "reasons"]
    why = [" ".join(reason["text"] for reason in one["reasons"]) for one in shown]
    rows = [[*(one[name] for name in columns), text] for one, text in zip(shown, why, strict=True)]
    say(*table(rows, [*columns, "reasons"]))
    if len(whole["people"]) > SHOWN:
        note(f"... and {len(whole['people']) - SHOWN:,} more; --csv FILE or --json gives all")
