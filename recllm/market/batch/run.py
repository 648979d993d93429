"""Batches: shards of people are answered here, in several processes or on many machines.

    run_batch(BatchRun.plan(workspace, folder, BatchTask.RECOMMEND, {"k": 10}, shards=64), Engine.PROCESSES, workers=2)

`work_on` reads one shard, answers, and writes one file; it is the same function for every engine, and its file is the
same byte for byte. Memory is bounded by the shard and by the statistics of all people and the catalogue, which are
mapped and not read. A killed run resumes: shards with a file are not done again.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl

from recllm.base.documents import json_text
from recllm.base.errors import DataError, PolicyError, RecllmError, UsageError
from recllm.base.files import PRIVATE, sweep_drafts, write_whole
from recllm.market.batch.answers import ANSWERS, Quality, ShardWorker
from recllm.market.batch.plan import BatchRun, audience_request
from recllm.shop.data.engines import Engine, open_workers

DONE = "done.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """One shard that was worked on."""

    shard: int
    people: int = 0
    quality: Quality | None = None
    """As `ShardAnswer.quality`."""
    error: str | None = None
    """Why it has no file; None where it has one."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    folder: Path
    shards: int
    resumed: int
    """Shards whose file stood already."""
    people: int
    """Of the shards that were done now."""
    seconds: float
    quality: Quality | None = None
    """As `ShardAnswer.quality`, of the shards that were done now."""
    failed: tuple[ShardOutcome, ...] = ()


@lru_cache(maxsize=1)
def _worker(run: BatchRun) -> ShardWorker:
    """A process that works on one shard after another opens the workspace once."""
    return ShardWorker(run)


def work_on(run: BatchRun, shard: int) -> ShardOutcome:
    """Answers for one shard and writes its file, whole or not at all.

    An error of the shard stands in the outcome. An error of the request (`UsageError`, `PolicyError`) is raised, as it
    is wrong for every shard."""
    try:
        answer_shard, columns = ANSWERS[run.task]
        answer, content = answer_shard(_worker(run), shard), io.BytesIO()
        pl.DataFrame(answer.rows, schema=dict(columns), orient="row").write_parquet(content)
        write_whole(run.file(shard), content.getvalue(), mode=PRIVATE)
        return ShardOutcome(shard=shard, people=answer.people, quality=answer.quality)
    except (UsageError, PolicyError):
        raise
    except RecllmError as error:
        return ShardOutcome(shard=shard, error=str(error))
    except MemoryError:
        return ShardOutcome(shard=shard, error=f"out of memory; more than {run.shards} shards make each smaller")
    except OSError as error:
        return ShardOutcome(shard=shard, error=f"{run.file(shard)} cannot be written: {error.strerror or error}")


def run_batch(
    run: BatchRun,
    engine: Engine = Engine.HERE,
    *,
    workers: int = 1,
    progress: Callable[[ShardOutcome], None] | None = None,
) -> BatchResult:
    """Work on the shards without a file, and write `DONE` when all have one.

    A shard that fails is in `BatchResult.failed`; the others are done all the same, and the next run tries it again.
    progress: called for each shard as it ends. Raises `MissingExtraError` for Ray without its extra,
    `UsageError` for no worker.
    """
    began = time.perf_counter()
    sweep_drafts(run.folder)
    missing = [shard for shard in range(run.shards) if not _is_complete(run.file(shard))]
    outcomes = []
    work, lost = partial(work_on, run), lambda shard, why: ShardOutcome(shard=shard, error=why)
    try:
        needed = min(workers, len(missing) or 1)  # no process is started for nothing
        with open_workers(engine if missing else Engine.HERE, needed) as processes:
            for outcome in processes.outcomes(work, missing, lost):
                outcomes.append(outcome)
                if progress is not None:
                    progress(outcome)
    finally:  # what this process opened; in other processes it ends with them
        if _worker.cache_info().currsize:
            _worker(run).close()
        _worker.cache_clear()
    quality = next((outcome.quality for outcome in outcomes if outcome.quality is not None), None)
    failed = tuple(sorted((o for o in outcomes if o.error is not None), key=lambda outcome: outcome.shard))
    if not failed and (missing or not (run.folder / DONE).exists()):
        files = {}
        for shard in range(run.shards):
            content = run.file(shard).read_bytes()
            files[run.file(shard).name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        summary = {"finished": datetime.now(UTC).isoformat(), "quality": quality, "files": files}
        write_whole(run.folder / DONE, json_text(summary, indent=2), mode=PRIVATE)
    return BatchResult(
        folder=run.folder,
        shards=run.shards,
        resumed=run.shards - len(missing),
        people=sum(outcome.people for outcome in outcomes),
        seconds=time.perf_counter() - began,
        quality=quality,
        failed=failed,
    )


def _is_complete(file: Path) -> bool:
    """Whether a shard's file can be read; a truncated one is made again."""
    try:
        pl.read_parquet_schema(file)
    except (OSError, pl.exceptions.PolarsError):
        return False
    return True


def read_batch(run: BatchRun) -> pl.LazyFrame:
    """All rows of a finished run, in the order of its shards. Raises `DataError` where a file is missing or damaged."""
    for shard in range(run.shards):
        if not _is_complete(run.file(shard)):
            raise DataError(f"{run.file(shard)} is missing or damaged; run the same batch again")
    return pl.scan_parquet([run.file(shard) for shard in range(run.shards)])


def choose_audience(run: BatchRun, floor: int) -> tuple[pl.DataFrame, int]:
    """The people that `recllm audience` would address, from the files of a finished run: user_id, score, probability,
    item_id, best first; and the number held out.

    Raises `PolicyError` for fewer people than the floor, `DataError` where a file is missing.
    """
    from recllm.market.audiences.probabilities import UserScores
    from recllm.market.audiences.selection import check_floor, select
    from recllm.market.audiences.targets import target_name

    request, pool = audience_request(json.loads(run.options)), read_batch(run).collect()
    scores = UserScores(pool["score"].to_numpy(), np.full(len(pool), -1), pool["probability"].to_numpy())
    name = request.campaign or target_name(request.items, request.category)
    selection = select(scores, pool["user_id"].to_list(), name, request.limits)
    check_floor(len(selection.addressed), floor)
    return pool[selection.addressed.tolist()], len(selection.holdout)
