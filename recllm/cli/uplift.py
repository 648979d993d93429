"""The command that answers whom a treatment moves."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids

MAX_PRINTED = 20

TrialFile = Annotated[Path, typer.Argument(metavar="TRIAL", help="A CSV: user_id, treated, outcome[, propensity].")]


def register(app: typer.Typer) -> None:
    app.command()(uplift)


def uplift(
    trial: TrialFile,
    start: Annotated[datetime, typer.Option(help="Before the first treatment, UTC; nothing later is learned from.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    randomised: Annotated[bool, typer.Option("--randomised", help="Who was treated was drawn by lot.")] = False,
    learner: Annotated[str, typer.Option(help="s, t or x.")] = "x",
    csv: Annotated[Path | None, typer.Option(help="Also write the people to this CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the Qini curve to this PNG.")] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of your ids; they stand for their pseudonyms.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """How much a treatment changes each person's chance, learned from a trial; refused for what is no trial."""
    from recllm.charts import write_png
    from recllm.jobs.predict import uplift_workspace
    from recllm.propensity.uplift.learners import UpliftLearner
    from recllm.propensity.uplift.uplift import UpliftRequest, uplift_document, write_uplift_csv
    from recllm.report.prediction import qini_chart
    from recllm.workspace.workspace import Workspace

    request = UpliftRequest(start=start, randomised=randomised, learner=UpliftLearner.named(learner), seed=seed)
    shop_ids = read_ids(ids) if ids else []
    with Workspace.open(workspace) as shop:
        names = dict(zip(shop.pseudonymiser().many(shop_ids), shop_ids, strict=True))
        estimate = uplift_workspace(shop, request, trial)
        locale = shop.settings.locale
    if csv:
        write_uplift_csv(estimate, csv, names)
    if plot and (remark := write_png([qini_chart({f"{learner}-learner": estimate.curve}, locale)], plot)):
        note(remark)
    document = uplift_document(estimate, names)
    if json:
        emit_json(document)
        return
    of_trial = document["trial"]
    say(
        f"{of_trial['people']:,} people in the trial, {of_trial['treated']:,} treated; "
        f"mean effect {of_trial['effect']:+.4f}"
    )
    quality = f"Qini {document['qini']:.4f}, area under the uplift curve {document['auuc']:.4f}"
    say(f"{quality}, each person by a model of others", "")
    rows = [[person["user_id"], person["uplift"]] for person in document["people"][:MAX_PRINTED]]
    say(*table(rows, ["user_id", "uplift"]))
