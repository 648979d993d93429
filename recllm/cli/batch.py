"""Commands that answer for everybody: shard by shard, in several processes or on many machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from recllm.cli.options import Csv, Ids, Json, Model, Seed, WorkspaceDir, ids_by_pseudonym, open_shop, write_audit
from recllm.cli.output import note, show
from recllm.errors import RecllmError
from recllm.jobs.engines import Engine
from recllm.schema import Intent, Objective

_how = {"rich_help_panel": "How it runs"}

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the files; give it again to go on.")]
Shards = Annotated[int, typer.Option(min=1, help="Parts that people are divided into; memory is that of one.", **_how)]
EngineName = Annotated[Engine, typer.Option("--engine", help="Of Ray, RAY_ADDRESS says which cluster.", **_how)]
Workers = Annotated[int, typer.Option(min=1, help="Processes, or actors of Ray.", **_how)]


def recommend(
    *,
    out: Out,
    workspace: WorkspaceDir,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Items per person.")] = 10,
    intent: Annotated[Intent, typer.Option(help="As of recllm recommend.")] = Intent.MIXED,
    objective: Annotated[Objective, typer.Option(help="As of recllm recommend.")] = Objective.PROBABILITY,
    where: Annotated[str | None, typer.Option(help="Condition: \"price < 50 AND brand = 'Acme'\".")],
    explain: Annotated[bool, typer.Option("--explain", help="With the reasons, which take most of the time.")] = False,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")],
    shards: Shards = 16,
    engine: EngineName = Engine.HERE,
    workers: Workers = 1,
    model: Model,
    seed: Seed,
    json: Json,
) -> None:
    """The best items for everybody who agreed, a Parquet file for each shard."""
    options = {"k": k, "intent": intent.value, "objective": objective.value, "explain": explain}
    options |= {name: value for name, value in (("where", where), ("locale", locale)) if value is not None}
    _run("recommend", options, locals(), json)


def audience(
    *,
    out: Out,
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="An item's id; may be repeated: one of them.")],
    category: Annotated[str | None, typer.Option(help="A category's name, or its path: 'food > tea'.")],
    workspace: WorkspaceDir,
    campaign: Annotated[str | None, typer.Option(help="Name of the campaign, which draws the holdout.")],
    size: Annotated[int | None, typer.Option(min=0, help="People to address at most.")],
    budget: Annotated[float | None, typer.Option(min=0, help="Money to spend; needs --cost.")],
    cost: Annotated[float | None, typer.Option(min=0, help="Money per person addressed.")],
    margin: Annotated[float | None, typer.Option(min=0, help="Money a sale brings: only who is worth --cost.")],
    holdout: Annotated[float, typer.Option(help="Share kept out for comparison.")] = 0.1,
    salt: Annotated[str, typer.Option(help="Of the holdout's draw.")] = "",
    bought_days: Annotated[float | None, typer.Option(help="Leave out who bought it within so many days.")],
    frequency_cap: Annotated[
        int | None, typer.Option(min=1, help="Leave out who was shown something so often in 7 days.")
    ],
    channel: Annotated[str | None, typer.Option(help="Only who agreed to email, push or sms_gsm.")],
    intent: Annotated[Intent, typer.Option(help="What the item is to a person.")] = Intent.MIXED,
    objective: Annotated[Objective, typer.Option(help="Who comes first.")] = Objective.PROBABILITY,
    csv: Csv,
    ids: Ids,
    shards: Shards = 16,
    engine: EngineName = Engine.HERE,
    workers: Workers = 1,
    model: Model,
    json: Json,
) -> None:
    """Who to reach: the people of recllm audience, counted shard by shard; without reasons."""
    arguments = locals()
    options: dict[str, Any] = {"intent": intent.value, "objective": objective.value, "holdout": holdout, "salt": salt}
    names = ("category", "campaign", "size", "budget", "cost", "margin", "bought_days", "frequency_cap", "channel")
    options |= {name: arguments[name] for name in names if arguments[name] is not None}
    _run("audience", options | ({"items": item} if item else {}), arguments, json)


def copy(
    *,
    out: Out,
    channel: Annotated[str, typer.Option(help="email, push, sms_gsm, google_rsa, ...")] = "email",
    generator: Annotated[str, typer.Option(help="As of recllm copy; each process has its own.")] = "template",
    intent: Annotated[Intent, typer.Option(help="What the item is for.")] = Intent.MIXED,
    objective: Annotated[Objective, typer.Option(help="What the item is best by.")] = Objective.LIFT,
    locale: Annotated[str | None, typer.Option(help="en or zh.")],
    workspace: WorkspaceDir,
    shards: Shards = 16,
    engine: EngineName = Engine.HERE,
    workers: Workers = 1,
    model: Model,
    seed: Seed,
    json: Json,
) -> None:
    """A checked ad text about the best item of everybody who agreed to the channel."""
    options = {"channel": channel, "generator": generator, "intent": intent.value, "objective": objective.value}
    _run("copy", options | ({"locale": locale} if locale else {}), locals(), json)


def predict(
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, next-order or value.")],
    out: Out,
    workspace: WorkspaceDir,
    horizon: Annotated[int, typer.Option(help="Days to look ahead.")] = 28,
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="Only purchases of this id; may be repeated.")],
    category: Annotated[str | None, typer.Option(help="Only purchases of a category, or its path: 'food > tea'.")],
    active_days: Annotated[int | None, typer.Option(help="leave: who bought within so many days is active.")],
    basics: Annotated[bool, typer.Option(help="Also use what people told of themselves.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="With the reasons, which take most of the time.")] = False,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")],
    shards: Shards = 16,
    engine: EngineName = Engine.HERE,
    workers: Workers = 1,
    seed: Seed,
    json: Json,
) -> None:
    """What each person will do within a horizon: the model is learned once in each process."""
    arguments = locals() | {"model": None}
    options: dict[str, Any] = {"kind": kind, "horizon_days": horizon, "basics": basics, "explain": explain}
    options |= {name: arguments[name] for name in ("category", "active_days", "locale") if arguments[name] is not None}
    _run("predict", options | ({"items": item} if item else {}), arguments, json)


def _run(task: str, options: Mapping[str, Any], arguments: Mapping[str, Any], json: bool) -> None:
    from tqdm import tqdm

    from recllm.documents import guarded, write_csv
    from recllm.jobs.batch import BatchRun, BatchTask, choose_audience, run_batch
    from recllm.workspace.audit import AuditAction
    from recllm.workspace.releases import LISTS_TELL

    with open_shop(arguments["workspace"]) as shop:
        run = BatchRun.plan(
            shop,
            arguments["out"],
            BatchTask(task),
            options,
            shards=arguments["shards"],
            version=arguments["model"],
            seed=arguments.get("seed", 0),
        )
        with tqdm(total=run.shards, unit=" shards", desc=task, disable=None) as bar:
            result = run_batch(
                run, arguments["engine"], workers=arguments["workers"], progress=lambda _: bar.update() and None
            )
        write_audit(shop, AuditAction.PEOPLE_LISTED, what=f"batch {task}", people=result.people)
        if result.failed:
            listed = "; ".join(f"shard {outcome.shard}: {outcome.error}" for outcome in result.failed[:3])
            raise RecllmError(
                f"{len(result.failed)} of {run.shards} shards failed, the others are kept; run the same command again "
                f"to try these: {listed}"
            )
        lines = [
            f"{result.shards} shards in {result.folder}, {result.resumed} of them from before; "
            f"{result.people:,} people in {result.seconds:.1f} s"
        ]
        document: dict[str, Any] = {
            "folder": str(result.folder),
            "shards": result.shards,
            "resumed": result.resumed,
            "people": result.people,
            "seconds": round(result.seconds, 1),
            "model_version": run.version,
            "as_of": run.as_of,
            "quality": result.quality,
        }
        if result.quality is not None:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in result.quality.items())
            lines.append(f"on people it had not learned from: {figures}")
        if run.task is BatchTask.AUDIENCE:
            audience_chosen = choose_audience(run, shop.policy)
            names = ids_by_pseudonym(shop, arguments["ids"])
            if arguments["csv"]:
                rows = (
                    (guarded(names.get(user, user)), f"{probability:.6f}", guarded(item or ""))
                    for user, _, probability, item in audience_chosen.people.iter_rows()
                )
                write_csv(arguments["csv"], ("user_id", "probability", "item_id"), rows)
            document |= {
                "size": len(audience_chosen.people),
                "holdout": audience_chosen.holdout,
                "expected_conversions": audience_chosen.expected_conversions,
            }
            expected = f"{audience_chosen.expected_conversions:.1f} expected to buy"
            lines.append(f"{len(audience_chosen.people):,} people, {audience_chosen.holdout:,} held out; {expected}")
    show(document, lines, json=json)
    note(LISTS_TELL)
    note(f"{result.folder} lies outside of the workspace: recllm privacy erase does not reach it")
