"""How commands answer for everybody: shard by shard, in processes or on many machines, a Parquet file for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.base.documents import plain
from recllm.base.errors import RecllmError, UsageError
from recllm.doors.cli.options import Answer, Answering, Batching, Shop, ids_by_pseudonym, write_audit, write_people

if TYPE_CHECKING:
    from recllm.market.batch.plan import BatchRun


def is_batch(everybody: bool, folder: Path | None, *of_named_people: object) -> bool:
    """Whether all customers are asked for. Raises `UsageError` for options that do not go together."""
    if everybody != (folder is not None):
        raise UsageError("--everybody needs --out DIR for its files, and --out needs --everybody")
    if everybody and any(of_named_people):
        raise UsageError("--everybody writes all answers to --out; leave out the options about named people and pages")
    return everybody


def answer(
    shop: Shop,
    task: str,
    options: Mapping[str, Any],
    batching: Batching,
    folder: Path | None,
    csv: Path | None = None,
    ids: Path | None = None,
) -> Answer:
    """The run's account. csv, ids: of an audience, whose people are chosen from all files."""
    from tqdm import tqdm

    from recllm.market.batch.plan import BatchRun, BatchTask
    from recllm.market.batch.run import run_batch
    from recllm.shop.workspace.figures import LISTS_TELL

    version = batching.model if isinstance(batching, Answering) else None
    task_folder, how = Path(folder or "."), {"shards": batching.shards, "seed": batching.seed}
    run = BatchRun.plan(shop, task_folder, BatchTask(task), options, version=version, **how)
    with tqdm(total=run.shards, unit=" shards", desc=task, disable=None) as bar:
        result = run_batch(run, batching.engine, workers=batching.workers, progress=lambda _: bar.update() and None)
    write_audit(shop, "people_listed", what=f"batch {task}", people=result.people)
    document = plain(result) | {"model_version": run.version, "as_of": run.as_of}
    if failed := document.pop("failed"):
        first = "; ".join("shard {shard}: {error}".format_map(outcome) for outcome in failed[:3])
        raise RecllmError(
            f"{len(failed)} of {result.shards} shards failed, the others are kept; run the same command again "
            f"to try these: {first}"
        )
    notes = [LISTS_TELL, f"{task_folder} lies outside of the workspace: recllm privacy erase does not reach it"]
    if task == "audience":
        document |= audience_figures(shop, run, csv, ids)
    return Answer(document, notes=notes)


def audience_figures(shop: Shop, run: BatchRun, csv: Path | None, ids: Path | None) -> dict[str, Any]:
    """Size, holdout and expected conversions of the people of recllm audience, who go into --csv."""
    from recllm.market.batch.run import choose_audience
    from recllm.shop.workspace.figures import FigureGate

    members, n_held_out = choose_audience(run, FigureGate(shop).floor)
    names = ids_by_pseudonym(shop, ids)
    people = members.drop("score").to_dicts()
    write_people(csv, [person | {"user_id": names.get(person["user_id"], person["user_id"])} for person in people])
    expected = float(members["probability"].to_numpy().sum(dtype="float64"))
    return {"size": len(members), "holdout": n_held_out, "expected_conversions": expected}
