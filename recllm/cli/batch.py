"""Commands that answer for everybody, or encode the catalogue: shard by shard, in processes or on many machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import Csv, Ids, Json, Model, Seed, WorkspaceDir, ids_by_pseudonym, open_shop, write_audit
from recllm.cli.output import note, show
from recllm.errors import RecllmError
from recllm.jobs.engines import Engine
from recllm.schema import Intent, Objective, count_text

if TYPE_CHECKING:
    from recllm.jobs.batch import BatchResult, BatchRun, ShardOutcome
    from recllm.workspace.workspace import Workspace

_how = partial(typer.Option, rich_help_panel="How it runs")

Explained = Annotated[bool, typer.Option("--explain", help="With the reasons, which take most of the time.")]
Locale = Annotated[str | None, typer.Option(help="Language of the reasons and texts: en or zh.")]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Where the files go, and how the shards are worked on."""

    out: Annotated[Path, _how("--out", "-o", help="Folder of the files; give it again to go on.")]
    shards: Annotated[int, _how(min=1, help="Parts that people or items are divided into; memory is that of one.")] = 16
    engine: Annotated[Engine, _how(help="Of Ray, RAY_ADDRESS says which cluster.")] = Engine.HERE
    workers: Annotated[int, _how(min=1, help="Processes, or actors of Ray.")] = 1


def recommend(
    batch: BatchOptions,
    *,
    workspace: WorkspaceDir,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Items per person.")] = 10,
    intent: Annotated[Intent, typer.Option(help="As of recllm recommend.")] = Intent.MIXED,
    objective: Annotated[Objective, typer.Option(help="As of recllm recommend.")] = Objective.PROBABILITY,
    where: Annotated[str | None, typer.Option(help="Condition: \"price < 50 AND brand = 'Acme'\".")],
    explain: Explained = False,
    locale: Locale,
    model: Model,
    seed: Seed,
    json: Json,
) -> None:
    """The best items for everybody who agreed, a Parquet file for each shard."""
    options = {"k": k, "intent": intent, "objective": objective, "explain": explain, "where": where, "locale": locale}
    with open_shop(workspace) as shop:
        _, document, lines = _run(shop, "recommend", options, batch, model, seed)
    _show(document, lines, json)


def audience(
    batch: BatchOptions,
    *,
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
    model: Model,
    json: Json,
) -> None:
    """Who to reach: the people of recllm audience, counted shard by shard; without reasons."""
    from recllm.documents import guarded, write_csv
    from recllm.jobs.batch import choose_audience
    from recllm.workspace.figures import FigureGate

    limits = {"size": size, "budget": budget, "cost": cost, "margin": margin, "holdout": holdout, "salt": salt}
    exclusions = {"bought_days": bought_days, "frequency_cap": frequency_cap}
    target = {"items": item, "category": category, "campaign": campaign, "channel": channel}
    options = limits | exclusions | target | {"intent": intent, "objective": objective}
    with open_shop(workspace) as shop:
        run, document, lines = _run(shop, "audience", options, batch, model)
        members, names = choose_audience(run, FigureGate(shop).floor), ids_by_pseudonym(shop, ids)
    if csv:
        rows = (
            (guarded(names.get(user, user)), f"{probability:.6f}", guarded(item_id or ""))
            for user, _, probability, item_id in members.people.iter_rows()
        )
        write_csv(csv, ("user_id", "probability", "item_id"), rows)
    document |= {
        "size": len(members.people),
        "holdout": members.holdout,
        "expected_conversions": members.expected_conversions,
    }
    expected = f"{members.expected_conversions:.1f} conversions expected"
    _show(
        document,
        [*lines, f"{count_text(len(members.people), 'person', 'people')}, {members.holdout:,} held out; {expected}"],
        json,
    )


def copy(
    batch: BatchOptions,
    *,
    channel: Annotated[str, typer.Option(help="email, push, sms_gsm, google_rsa, ...")] = "email",
    generator: Annotated[str, typer.Option(help="As of recllm copy; each process has its own.")] = "template",
    intent: Annotated[Intent, typer.Option(help="What the item is for.")] = Intent.MIXED,
    objective: Annotated[Objective, typer.Option(help="What the item is best by.")] = Objective.LIFT,
    locale: Locale,
    workspace: WorkspaceDir,
    model: Model,
    seed: Seed,
    json: Json,
) -> None:
    """A checked ad text about the best item of everybody who agreed to the channel."""
    from recllm.jobs.batch import read_batch

    options = {"channel": channel, "generator": generator, "intent": intent, "objective": objective, "locale": locale}
    with open_shop(workspace) as shop:
        run, document, lines = _run(shop, "copy", options, batch, model, seed)
    failures = read_batch(run).select("generator_failure").collect().to_series()
    document["without_generator"] = len(failures) - failures.null_count()
    if document["without_generator"]:
        reason = failures.drop_nulls()[0]
        lines.append(
            f"{document['without_generator']} of {count_text(len(failures), 'text')} "
            f"had to do without the generator: {reason}"
        )
    _show(document, lines, json)


def predict(
    batch: BatchOptions,
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, next-order or value.")],
    workspace: WorkspaceDir,
    horizon: Annotated[int, typer.Option(help="Days to look ahead.")] = 28,
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="Only purchases of this id; may be repeated.")],
    category: Annotated[str | None, typer.Option(help="Only purchases of a category, or its path: 'food > tea'.")],
    active_days: Annotated[int | None, typer.Option(help="leave: who bought within so many days is active.")],
    basics: Annotated[bool, typer.Option(help="Also use what people told of themselves.")] = False,
    explain: Explained = False,
    locale: Locale,
    seed: Seed,
    json: Json,
) -> None:
    """What each person will do within a horizon: the model is learned once in each process."""
    target = {"items": item, "category": category, "active_days": active_days, "locale": locale, "seed": seed}
    options = {"kind": kind, "horizon_days": horizon, "basics": basics, "explain": explain} | target
    with open_shop(workspace) as shop:
        _, document, lines = _run(shop, "predict", options, batch)
    if quality := document["quality"]:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in quality.items())
        lines.append(f"on people it had not learned from: {figures}")
    _show(document, lines, json)


def encode(
    batch: BatchOptions,
    *,
    workspace: WorkspaceDir,
    base: Annotated[bool, typer.Option(help="Without the model's adapter, as a new training begins.")] = False,
    model: Model,
    json: Json,
) -> None:
    """The vectors of the catalogue's texts, into files and into the workspace's cache: recllm train, refresh and index
    encode nothing then. Needs no model."""
    from recllm.jobs.batch import BatchRun, BatchTask, keep_vectors
    from recllm.jobs.catalogue_vectors import encoding_options

    with open_shop(workspace) as shop:
        options, cache = encoding_options(shop, model, base=base), shop.cache_dir / "vectors"
        run = BatchRun.plan(shop, batch.out, BatchTask.ENCODE, options, shards=batch.shards)
    result = _worked(run, batch)
    _check(result)
    fill = keep_vectors(run)
    done = f"{result.shards} shards in {result.folder}, {result.resumed} of them from before"
    if fill is None:
        state = f"the encoder {options['encoder']} has no cache that they could be put into"
    else:
        state = f"{fill.vectors:,} vectors lie in {cache}, {fill.added:,} of them new there"
    document = {
        "folder": str(result.folder),
        "shards": result.shards,
        "resumed": result.resumed,
        "texts": result.texts,
        "seconds": round(result.seconds, 1),
        "encoder": options["encoder"],
        "fingerprint": options["fingerprint"],
        "precision": options["precision"],
        "vectors": None if fill is None else fill.vectors,
        "added": None if fill is None else fill.added,
    }
    show(
        document,
        [f"{done}; {count_text(result.texts, 'text')} encoded in {result.seconds:.1f} s", state],
        json=json,
    )


def _run(
    shop: Workspace, task: str, options: Mapping[str, Any], batch: BatchOptions, model: str | None = None, seed: int = 0
) -> tuple[BatchRun, dict[str, Any], list[str]]:
    """The run, the document about it, and the same in lines. options: what is None is left out."""
    from recllm.jobs.batch import BatchRun, BatchTask
    from recllm.workspace.audit import AuditAction

    stated = {name: value for name, value in options.items() if value is not None}
    run = BatchRun.plan(shop, batch.out, BatchTask(task), stated, shards=batch.shards, version=model, seed=seed)
    result = _worked(run, batch)
    write_audit(shop, AuditAction.PEOPLE_LISTED, what=f"batch {task}", people=result.people)
    _check(result)
    done = f"{result.shards} shards in {result.folder}, {result.resumed} of them from before"
    document = {
        "folder": str(result.folder),
        "shards": result.shards,
        "resumed": result.resumed,
        "people": result.people,
        "seconds": round(result.seconds, 1),
        "model_version": run.version,
        "as_of": run.as_of,
        "quality": result.quality,
    }
    return run, document, [f"{done}; {count_text(result.people, 'person', 'people')} in {result.seconds:.1f} s"]


def _worked(run: BatchRun, batch: BatchOptions) -> BatchResult:
    """With a bar on a terminal."""
    from tqdm import tqdm

    from recllm.jobs.batch import run_batch

    n_people = n_texts = 0
    with tqdm(total=run.shards, unit=" shards", desc=run.task.value, disable=None) as bar:

        def advance(outcome: ShardOutcome) -> None:
            nonlocal n_people, n_texts
            n_people, n_texts = n_people + outcome.people, n_texts + outcome.texts
            bar.set_postfix_str(f"{n_texts:,} texts" if n_texts else f"{n_people:,} people", refresh=False)
            bar.update()

        return run_batch(run, batch.engine, workers=batch.workers, progress=advance)


def _check(result: BatchResult) -> None:
    if not result.failed:
        return
    first = "; ".join(f"shard {outcome.shard}: {outcome.error}" for outcome in result.failed[:3])
    raise RecllmError(
        f"{len(result.failed)} of {result.shards} shards failed, the others are kept; run the same command again to "
        f"try these: {first}"
    )


def _show(document: dict[str, Any], lines: list[str], json: bool) -> None:
    from recllm.workspace.figures import LISTS_TELL

    show(document, lines, json=json)
    note(LISTS_TELL)
    note(f"{document['folder']} lies outside of the workspace: recllm privacy erase does not reach it")
