"""The command that answers what people will do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids

if TYPE_CHECKING:
    from recllm.propensity.prediction import Prediction

MAX_PRINTED = 20
"""People listed on a screen; a file holds all."""

KindName = Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, redeem, next-order or value.")]
COUPONS = "a folder with mailings.csv, products.csv, redemptions.csv and, where known, uses.csv"

Items = Annotated[list[str] | None, typer.Option("--item", "-i", help="Only purchases of this id; may be repeated.")]


def register(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    kind: KindName,
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
    from recllm.propensity.prediction import prediction_document
    from recllm.propensity.request import PredictionKind, PredictionRequest
    from recllm.workspace.workspace import Workspace

    request = PredictionRequest(
        kind=PredictionKind.named(kind),
        horizon_days=horizon,
        items=tuple(item or ()),
        category=category,
        active_days=active_days,
        coupons=coupons,
        campaign=campaign,
        basics=basics,
        explain=explain,
        seed=seed,
    )
    shop_ids = read_ids(ids) if ids else []
    with Workspace.open(workspace) as shop:
        names = dict(zip(shop.pseudonymiser().many(shop_ids), shop_ids, strict=True))
        language = locale or shop.settings.locale
        prediction = predict_workspace(shop, replace(request, locale=language))
    _write(prediction, names, csv, html, plot, language)
    document = prediction_document(prediction, names)
    if json:
        emit_json(document)
    else:
        _print(document)


def _write(
    prediction: Prediction, names: dict[str, str], csv: Path | None, html: Path | None, plot: Path | None, locale: str
) -> None:
    from recllm.propensity.prediction import write_prediction_csv
    from recllm.report.prediction import prediction_page, write_prediction_png

    if csv:
        write_prediction_csv(prediction, csv, names)
    if html:
        html.write_text(prediction_page(prediction, names, locale=locale), encoding="utf-8")
    if plot and (remark := write_prediction_png(prediction, plot, locale=locale)):
        note(remark)


def _print(document: dict[str, Any]) -> None:
    quality, people = document["calibration"], document["people"]
    say(f"{document['kind']}: {len(people):,} people as of {document['as_of'][:10]}, {document['horizon_days']} days")
    say(f"  {document['meaning']}", f"  checked on {quality['checked']}:")
    say("  " + ", ".join(f"{name} {value:.4g}" for name, value in quality.items() if isinstance(value, float)))
    left_out = ", ".join(f"{reason} {n:,}" for reason, n in document["left_out"].items())
    say(*(f"  note: {line}" for line in document["notes"]), *([f"  left out: {left_out}"] if left_out else []), "")
    columns = [name for name in people[0] if name != "reasons"]
    rows = [
        [*(person[name] for name in columns), " ".join(reason["text"] for reason in person["reasons"])]
        for person in people[:MAX_PRINTED]
    ]
    say(*table(rows, [*columns, "reasons"]))
    if len(people) > MAX_PRINTED:
        note(f"... and {len(people) - MAX_PRINTED:,} more; --csv FILE or --json gives all")
