"""Slates of all customers, in shards: in this process or in several.

    run = BatchRun.plan(workspace, folder, {"k": 10}, shards=64)
    run_batch(run, workers=2)

A shard is the people whose pseudonyms hash to its number; its file is the same byte for byte in every process. The
folder of a run holds

    plan.json               what is asked, of which model, as of when, in how many shards
    shard-00007.parquet     the slates of one shard, complete or missing
    done.json               after the last shard: bytes and SHA-256 of each file
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.arrays import Ints
from recllm.base.documents import json_text, json_value
from recllm.base.errors import NotFittedError, PolicyError, RecllmError, UsageError
from recllm.base.files import PRIVATE, sweep_drafts, write_whole
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Purpose, SlateStatus
from recllm.market.experiments.slates import list_experiments, recommend_in_experiments
from recllm.recommend.recommender.people import AgreedPeople, StorePeople
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import open_recommender, usable_version
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import USER_COLUMN, utc
from recllm.shop.workspace.workspace import Workspace, present

PLAN = "plan.json"
DONE = "done.json"
MAX_SHARDS = 100_000


def slates_request(options: Mapping[str, Any], users: Sequence[str] = ()) -> RecommendRequest:
    """Raises `UsageError` as `RecommendRequest` does."""
    fields = {name: value for name, value in options.items() if name != "locale"}
    return RecommendRequest(users=tuple(users), **fields)


@dataclass(frozen=True, kw_only=True)
class BatchRun:
    """The work and where its files go: all that a worker gets."""

    workspace: Path
    folder: Path
    options: str
    """JSON of the fields of `RecommendRequest`, and of the locale."""
    shards: int
    version: str
    """Of the model that answers, also if another one is published meanwhile."""
    as_of: datetime
    """The present of the whole run."""
    state: str | None = None
    """Name of the version's serving state, also if it is refreshed meanwhile; None without one."""
    seed: int = 0
    """Of what slates explore."""

    @classmethod
    def plan(
        cls,
        workspace: Workspace,
        folder: Path,
        options: Mapping[str, Any],
        *,
        shards: int,
        version: str | None = None,
        seed: int = 0,
    ) -> BatchRun:
        """The run of a folder: a new one, whose plan is written there, or the one that was begun there.

        Raises `UsageError` for a number of shards outside of 1 to `MAX_SHARDS`, options that cannot be, a folder with
        other files, or with the plan of another run; `NotFittedError` without a trained model.
        """
        if not 1 <= shards <= MAX_SHARDS:
            raise UsageError(f"shards is {shards}; give 1 to {MAX_SHARDS:,}")
        slates_request(options)
        request: dict[str, Any] = {
            "task": "recommend",
            "options": json_text(dict(options)),
            "shards": shards,
            "seed": seed,
            "workspace": workspace.pseudonymiser().fingerprint(),
        }
        begun = _read_plan(folder)
        if begun is not None and begun != begun | request and not any(folder.glob("shard-*.parquet")):
            begun = None  # nothing was done yet of what was asked first
        if begun is None:
            if folder.exists() and any(file.name != PLAN for file in folder.iterdir()):
                raise UsageError(f"{folder} holds other files; give an empty or a new folder")
            version = version or usable_version(workspace)
            if version is None:
                raise NotFittedError("a batch needs a trained model: recllm train")
            state = newest_state(workspace, version)
            begun = request | {"version": version, "as_of": utc(present(workspace)).isoformat()}
            begun["state"] = None if state is None else state.name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(folder / PLAN, json_text(begun, indent=2), mode=PRIVATE)
        elif changed := [name for name in request if begun.get(name) != request[name]]:
            raise UsageError(
                f"{folder} holds a run with other {', '.join(changed)}; ask as {folder / PLAN} says to go on with it, "
                "or give another folder"
            )
        elif version not in (None, begun["version"]):
            raise UsageError(f"{folder} holds a run of the model {begun['version']}; give another folder")
        return cls(
            workspace=workspace.root,
            folder=folder,
            options=request["options"],
            shards=shards,
            version=begun["version"],
            as_of=datetime.fromisoformat(begun["as_of"]),
            state=begun.get("state"),
            seed=seed,
        )

    def file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05}.parquet"


def _read_plan(folder: Path) -> dict[str, Any] | None:
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan = json_value(path.read_bytes())
        datetime.fromisoformat(plan["as_of"])
        str(plan["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no plan of a batch ({error}); give another folder") from error
    return dict(plan)


def shard_numbers(pseudonyms: Sequence[str], shards: int) -> Ints:
    """The shard of each person, int64 (n,) in [0, shards): by a hash, so that it never depends on who else is
    there."""
    hashes = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in pseudonyms)
    return (np.frombuffer(hashes, "<u8") % np.uint64(shards)).astype(np.int64)


PEOPLE_AT_ONCE = 512
"""People of a shard who are ranked together."""
COLUMNS: Mapping[str, Any] = {
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "title": pl.String,
    "score": pl.Float64,
    "probability": pl.Float64,
    "propensity": pl.Float64,
    "served_by": pl.List(pl.String),
    "reasons": pl.List(pl.String),
    "status": pl.String,
    "model_version": pl.String,
    "experiment": pl.String,
    "variant": pl.String,
}
"""Of a shard's file, a row for each item."""


@dataclass(frozen=True, eq=False)
class _OpenedVersion:
    """A model's version, and everybody who agreed when it was opened."""

    recommender: Recommender
    people: AgreedPeople
    shard_of: Ints
    """Of each of the people, (n,)."""
    order: Ints
    """Their rows by pseudonym, so that files do not hang on the order in the store; (n,)."""


class ShardWorker:
    """A workspace that is opened once and asked for shard after shard."""

    def __init__(self, run: BatchRun) -> None:
        self.run = run
        self.shop = Workspace.open(run.workspace)
        self.options: dict[str, Any] = json.loads(run.options)
        self._opened: dict[str, _OpenedVersion] = {}

    def slates(self, shard: int) -> tuple[pl.DataFrame, int]:
        """Slates of everybody of a shard who may be served, by the variant that is theirs, as `COLUMNS`; and the number
        of people."""
        recommender_of: Callable[[str | None], Recommender] = cache(
            lambda version: self._shard(shard, version or self.run.version)
        )
        recommender, experiments = recommender_of(None), list_experiments(self.shop)
        users = recommender.dataset.users[USER_COLUMN].to_list()
        rng = np.random.default_rng([self.run.seed, shard])
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(users), PEOPLE_AT_ONCE):
            request = slates_request(self.options, users[start : start + PEOPLE_AT_ONCE])
            slates = recommend_in_experiments(
                self.shop, request, experiments, recommender_of, by_pseudonym=True, rng=rng
            )
            rows += [
                (
                    *(slate.user_id, item.rank, item.item_id, item.title, item.score, item.probability),
                    *(item.propensity, list(item.served_by), [reason.text for reason in item.reasons]),
                    *(slate.status.value, slate.model_version, slate.experiment, slate.variant),
                )
                for slate in slates
                if slate.status is not SlateStatus.NO_CONSENT  # withdrawn since the run began
                for item in slate.items
            ]
        return pl.DataFrame(rows, schema=dict(COLUMNS), orient="row"), recommender.dataset.n_users

    def _shard(self, number: int, version: str) -> Recommender:
        """The recommender whose people are those of a shard who agree now, under their pseudonyms."""
        if version not in self._opened:
            self._opened[version] = self._open(version)
        of_version = self._opened[version]
        rows = of_version.order[of_version.shard_of[of_version.order] == number]
        ids = of_version.people.users[USER_COLUMN].gather(rows).to_list()
        agreed = np.array(self.shop.gate().permits_each(ids, Purpose.PERSONALISATION), bool)
        return of_version.recommender.by_pseudonym().with_people(*of_version.people.dataset(rows[agreed]))

    def _open(self, version: str) -> _OpenedVersion:
        locale = self.options.get("locale")
        state = self.run.state if version == self.run.version else None
        recommender = open_recommender(self.shop, version=version, state=state, locale=locale, now=self.run.as_of)
        reader = recommender.people
        assert isinstance(reader, StorePeople)  # noqa: S101 - a published version is read by key
        people = AgreedPeople.read(reader.gate, reader.shop, reader.state)
        ids = people.users[USER_COLUMN]
        numbers = shard_numbers(ids.to_list(), self.run.shards)
        return _OpenedVersion(recommender, people, numbers, ids.arg_sort().to_numpy().astype(np.int64))

    def close(self) -> None:
        self.shop.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """One shard that was worked on."""

    shard: int
    people: int = 0
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
        slates, n_people = _worker(run).slates(shard)
        slates.write_parquet(content := io.BytesIO())
        write_whole(run.file(shard), content.getvalue(), mode=PRIVATE)
        return ShardOutcome(shard=shard, people=n_people)
    except (UsageError, PolicyError):
        raise
    except RecllmError as error:
        return ShardOutcome(shard=shard, error=str(error))
    except MemoryError:
        return ShardOutcome(shard=shard, error=f"out of memory; more than {run.shards} shards make each smaller")
    except OSError as error:
        return ShardOutcome(shard=shard, error=f"{run.file(shard)} cannot be written: {error.strerror or error}")


def worked_shards(run: BatchRun, shards: Sequence[int], workers: int) -> Iterator[ShardOutcome]:
    """`work_on` for each shard, as they end: in this process, or with several workers in processes."""
    if workers == 1:
        yield from map(partial(work_on, run), shards)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=share_cores, initargs=(workers,))
    left = dict.fromkeys(shards)
    try:
        shard_of = {pool.submit(work_on, run, shard): shard for shard in shards}
        for future in as_completed(shard_of):
            yield future.result()
            del left[shard_of[future]]
    except BrokenProcessPool:
        reason = (
            "a process was killed, most likely for want of memory: more shards make each smaller, fewer workers leave "
            "each more, and one shows which shard it is"
        )
        yield from (ShardOutcome(shard=shard, error=reason) for shard in left)
    finally:
        pool.shutdown(cancel_futures=True)


def share_cores(workers: int) -> None:
    """Gives each process its share of the machine's cores, in variables that libraries read when they are imported."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, threads)


def run_batch(
    run: BatchRun, *, workers: int = 1, progress: Callable[[ShardOutcome], None] | None = None
) -> BatchResult:
    """Work on the shards without a file, and write `DONE` when all have one.

    The next run tries a failed shard again. workers: processes at once; one works in this process. progress: called for
    each shard as it ends. Raises `UsageError` for no worker.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; give at least 1")
    began = time.perf_counter()
    sweep_drafts(run.folder)
    missing = [shard for shard in range(run.shards) if not _is_complete(run.file(shard))]
    outcomes = []
    try:
        needed = min(workers, len(missing) or 1)  # no process is started for nothing
        for outcome in worked_shards(run, missing, needed):
            outcomes.append(outcome)
            if progress is not None:
                progress(outcome)
    finally:  # what this process opened; in other processes it ends with them
        if _worker.cache_info().currsize:
            _worker(run).close()
        _worker.cache_clear()
    failed = tuple(sorted((o for o in outcomes if o.error is not None), key=lambda outcome: outcome.shard))
    if not failed and (missing or not (run.folder / DONE).exists()):
        files = {}
        for shard in range(run.shards):
            content = run.file(shard).read_bytes()
            files[run.file(shard).name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        summary = {"finished": datetime.now(UTC).isoformat(), "files": files}
        write_whole(run.folder / DONE, json_text(summary, indent=2), mode=PRIVATE)
    return BatchResult(
        folder=run.folder,
        shards=run.shards,
        resumed=run.shards - len(missing),
        people=sum(o.people for o in outcomes),
        seconds=time.perf_counter() - began,
        failed=failed,
    )


def _is_complete(file: Path) -> bool:
    """Whether a shard's file can be read; a truncated one is made again."""
    try:
        pl.read_parquet_schema(file)
    except (OSError, pl.exceptions.PolarsError):
        return False
    return True
