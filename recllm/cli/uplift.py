"""The command that answers whom a treatment moves."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids

SHOWN = 20

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
    from recllm.propensity.uplift.people import document, write_csv
    from recllm.report.prediction import qini_chart
    from recllm.workspace.workspace import Workspace

    own_ids = read_ids(ids) if ids else []
    with Workspace.open(workspace) as opened:
        names = dict(zip(opened.pseudonymiser().many(own_ids), own_ids, strict=True))
        found = uplift_workspace(opened, trial, start=start, randomised=randomised, learner=learner, seed=seed)
        locale = opened.settings.locale
    if csv:
        write_csv(found, csv, names)
    if plot and (remark := write_png([qini_chart({f"{learner}-learner": found.curve}, locale)], plot)):
        note(remark)
    whole = document(found, names)
    if json:
        emit_json(whole)
        return
    of = whole["trial"]
    say(f"{of['people']:,} people in the trial, {of['treated']:,} treated; mean effect {of['effect']:+.4f}")
    say(
        f"Qini {whole['qini']:.4f}, area under the uplift curve {whole['auuc']:.4f}, each person by a model of others",
        "",
    )
    say(*table([[one["user_id"], one["uplift"]] for one in whole["people"][:SHOWN]], ["user_id", "uplift"]))
