"""How commands answer for everybody: shard by shard, in processes or on many machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.base.documents import count_text
from recllm.base.errors import RecllmError, UsageError
from recllm.doors.cli.options import (
    Answer,
    Answering,
    Batching,
    Shop,
    ids_by_pseudonym,
    note,
    write_audit,
)

if TYPE_CHECKING:
    from recllm.market.batch import BatchResult, BatchRun, ShardOutcome


def is_batch(everybody: bool, folder: Path | None, *of_named_people: object) -> bool:
    """Whether all customers are asked for. Raises `UsageError` for options that do not go together."""
    if everybody != (folder is not None):
        raise UsageError("--everybody needs --out DIR for its files, and --out needs --everybody")
    if everybody and any(of_named_people):
        raise UsageError("--everybody writes all answers to --out; leave out the options about named people and pages")
    return everybody


def answer(shop: Shop, task: str, options: Mapping[str, Any], batching: Batching, folder: Path | None) -> Answer:
    """A Parquet file for each shard."""
    run, document, lines = _run(shop, task, options, batching, folder)
    if task == "copy":
        lines += generator_failures(run, document)
    if quality := document["quality"]:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in quality.items())
        lines.append(f"on people it had not learned from: {figures}")
    return _with_remarks(document, lines)


def audience(
    shop: Shop,
    options: Mapping[str, Any],
    batching: Batching,
    folder: Path | None,
    csv: Path | None,
    ids: Path | None,
) -> Answer:
    """The people of recllm audience, counted shard by shard; without reasons."""
    from recllm.base.documents import guarded, write_csv
    from recllm.market.batch import choose_audience
    from recllm.shop.workspace.figures import FigureGate

    run, document, lines = _run(shop, "audience", options, batching, folder)
    members, n_held_out = choose_audience(run, FigureGate(shop).floor)
    names = ids_by_pseudonym(shop, ids)
    if csv:
        rows = (
            (guarded(names.get(user, user)), f"{probability:.6f}", guarded(item_id or ""))
            for user, _, probability, item_id in members.iter_rows()
        )
        write_csv(csv, ("user_id", "probability", "item_id"), rows)
    expected = float(members["probability"].to_numpy().sum(dtype="float64"))
    document |= {"size": len(members), "holdout": n_held_out, "expected_conversions": expected}
    people = count_text(len(members), "person", "people")
    lines.append(f"{people}, {n_held_out:,} held out; {expected:.1f} conversions expected")
    return _with_remarks(document, lines)


def generator_failures(run: BatchRun, document: dict[str, Any]) -> list[str]:
    """A line on texts that the generator failed for, if there are any; the count goes into the document."""
    from recllm.market.batch import read_batch

    failures = read_batch(run).select("generator_failure").collect().to_series()
    n_failures = document["without_generator"] = len(failures) - failures.null_count()
    if not n_failures:
        return []
    of_texts = f"{n_failures} of {count_text(len(failures), 'text')}"
    return [f"{of_texts} had to do without the generator: {failures.drop_nulls()[0]}"]


def encode(shop: Shop, folder: Path, batching: Batching, version: str | None, *, base: bool) -> Answer:
    """The vectors of the catalogue's texts, into files and the workspace's cache. base: without the model's adapter."""
    from recllm.market.batch import BatchRun, BatchTask, keep_vectors
    from recllm.recommend.recommender.catalogue_vectors import encoding_options

    options, cache = encoding_options(shop, version, base=base), shop.cache_dir / "vectors"
    run = BatchRun.plan(shop, folder, BatchTask.ENCODE, options, shards=batching.shards)
    result = _worked(run, batching)
    _check(result)
    fill = keep_vectors(run)
    if fill is None:
        state = f"the encoder {options['encoder']} has no cache that they could be put into"
    else:
        state = f"{fill.vectors:,} vectors lie in {cache}, {fill.added:,} of them new there"
    document = _document(result) | {
        "texts": result.texts,
        **{name: options[name] for name in ("encoder", "fingerprint")},
        "vectors": None if fill is None else fill.vectors,
        "added": None if fill is None else fill.added,
    }
    encoded = f"{count_text(result.texts, 'text')} encoded in {result.seconds:.1f} s"
    return Answer(document, [f"{_done(result)}; {encoded}", state])


def _run(
    shop: Shop, task: str, options: Mapping[str, Any], batching: Batching, folder: Path | None
) -> tuple[BatchRun, dict[str, Any], list[str]]:
    """The run, the document about it, and the same in lines."""
    from recllm.market.batch import BatchRun, BatchTask

    version = batching.model if isinstance(batching, Answering) else None
    task_folder, how = Path(folder or "."), {"shards": batching.shards, "seed": batching.seed}
    run = BatchRun.plan(shop, task_folder, BatchTask(task), options, version=version, **how)
    result = _worked(run, batching)
    write_audit(shop, "people_listed", what=f"batch {task}", people=result.people)
    _check(result)
    document = _document(result) | {
        "people": result.people,
        "model_version": run.version,
        "as_of": run.as_of,
        "quality": result.quality,
    }
    people = count_text(result.people, "person", "people")
    return run, document, [f"{_done(result)}; {people} in {result.seconds:.1f} s"]


def _document(result: BatchResult) -> dict[str, Any]:
    counts = {"shards": result.shards, "resumed": result.resumed, "seconds": round(result.seconds, 1)}
    return {"folder": str(result.folder), **counts}


def _done(result: BatchResult) -> str:
    return f"{result.shards} shards in {result.folder}, {result.resumed} of them from before"


def _worked(run: BatchRun, batching: Batching) -> BatchResult:
    """With a bar on a terminal."""
    from tqdm import tqdm

    from recllm.market.batch import run_batch

    n_people = n_texts = 0
    with tqdm(total=run.shards, unit=" shards", desc=run.task.value, disable=None) as bar:

        def advance(outcome: ShardOutcome) -> None:
            nonlocal n_people, n_texts
            n_people, n_texts = n_people + outcome.people, n_texts + outcome.texts
            bar.set_postfix_str(f"{n_texts:,} texts" if n_texts else f"{n_people:,} people", refresh=False)
            bar.update()

        return run_batch(run, batching.engine, workers=batching.workers, progress=advance)


def _check(result: BatchResult) -> None:
    if result.failed:
        first = "; ".join(f"shard {outcome.shard}: {outcome.error}" for outcome in result.failed[:3])
        raise RecllmError(
            f"{len(result.failed)} of {result.shards} shards failed, the others are kept; run the same command again "
            f"to try these: {first}"
        )


def _with_remarks(document: dict[str, Any], lines: list[str]) -> Answer:
    from recllm.shop.workspace.figures import LISTS_TELL

    note(LISTS_TELL)
    note(f"{document['folder']} lies outside of the workspace: recllm privacy erase does not reach it")
    return Answer(document, lines)
