"""Slates, audiences, texts and predictions for everybody, and the catalogue's vectors, shard by shard: here, in several
processes, on many machines.

    run_batch(BatchRun.plan(workspace, folder, BatchTask.RECOMMEND, {"k": 10}, shards=64), Engine.PROCESSES, workers=2)

A shard is the people whose pseudonyms hash to its number, or the items whose ids do. `work_on` reads one shard,
answers, and writes one file; it is the same function for every engine, and its file is the same byte for byte. Memory
is bounded by the shard and by the statistics of all people and the catalogue, which are mapped and not read. A killed
run resumes: shards with a file are not done again. The folder holds

    plan.json               what is asked, of which model, as of when, in how many shards
    shard-00007.parquet     the answer for one shard, complete or missing
    done.json               after the last shard: bytes and SHA-256 of each file

On several machines the workspace and the folder have to be on a file system that all of them see.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from recllm.base.documents import json_text, json_value
from recllm.base.errors import DataError, NotFittedError, NothingToDo, PolicyError, RecllmError, UsageError
from recllm.base.files import PRIVATE, sweep_drafts, write_whole
from recllm.base.questions import AdQuestion, RecommendRequest
from recllm.base.schema import Objective, Purpose, Slate, SlateStatus
from recllm.recommend.recommender.catalogue_vectors import (
    CacheFill,
    CatalogueEncoder,
    EncodingOptions,
    fill_cache,
    is_current,
    item_load,
)
from recllm.recommend.recommender.people import AgreedPeople, StorePeople
from recllm.recommend.recommender.shop_recommender import open_recommender, usable_version
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import USER_COLUMN, Dataset, utc
from recllm.shop.data.engines import Engine, open_workers
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recllm.base.schema import Generator
    from recllm.market.audiences.request import AudienceRequest
    from recllm.market.propensity.predict import Predictor
    from recllm.market.propensity.prediction import PredictionRequest
    from recllm.recommend.recommender.recommender import Recommender

PLAN, DONE = "plan.json", "done.json"
MAX_SHARDS = 100_000
PEOPLE_AT_ONCE = 512
"""People of a shard who are ranked together."""


Quality = Mapping[str, float]
"""Of predictions, on people that were not learned from: name of the figure -> value."""

Rows = list[tuple[Any, ...]]


class BatchTask(StrEnum):
    RECOMMEND = "recommend"
    AUDIENCE = "audience"
    COPY = "copy"
    PREDICT = "predict"
    ENCODE = "encode"
    """Of items. It needs no trained model."""


@dataclass(frozen=True, kw_only=True)
class BatchRun:
    """The work and where its files go: all that a worker gets."""

    workspace: Path
    folder: Path
    task: BatchTask
    options: str
    """JSON of the task's options: those of `RecommendRequest`, of the audience, of the ad texts, or of the encoder."""
    shards: int
    version: str | None
    """Of the model that answers, also if another one is published meanwhile; None for texts and predictions."""
    as_of: datetime
    """The present of the whole run."""
    state: str | None = None
    """Name of the version's serving state, also if it is refreshed meanwhile; None of a run that began without one."""
    seed: int = 0
    """Of what slates explore."""

    @classmethod
    def plan(
        cls,
        workspace: Workspace,
        folder: Path,
        task: BatchTask,
        options: Mapping[str, Any],
        *,
        shards: int,
        version: str | None = None,
        seed: int = 0,
    ) -> BatchRun:
        """The run of a folder: a new one, whose plan is written there, or the one that was begun there.

        Raises `UsageError` for a number of shards outside of 1 to `MAX_SHARDS`, options that cannot be, a folder with
        other files, or with the plan of another run; `NotFittedError` without a trained model, but for predictions.
        """
        if not 1 <= shards <= MAX_SHARDS:
            raise UsageError(f"shards is {shards}; give 1 to {MAX_SHARDS:,}")
        request: dict[str, Any] = {
            "task": task.value,
            "options": json_text(dict(options)),
            "shards": shards,
            "seed": seed,
            "workspace": workspace.pseudonymiser().fingerprint(),
        }
        check, _ = KINDS[task]
        check(options)
        begun = _read_plan(folder)
        if begun is not None and begun != begun | request and not any(folder.glob("shard-*.parquet")):
            begun = None  # nothing was done yet of what was asked first
        if begun is None:
            if folder.exists() and any(file.name != PLAN for file in folder.iterdir()):
                raise UsageError(f"{folder} holds other files; give an empty or a new folder")
            needs_model = task not in (BatchTask.ENCODE, BatchTask.PREDICT)
            version = (version or usable_version(workspace)) if needs_model else None
            if version is None and needs_model:
                raise NotFittedError("a batch needs a trained model: recllm train")
            state = newest_state(workspace, version)
            begun = request | {"version": version, "as_of": utc(present(workspace)).isoformat()}
            begun["state"] = None if state is None else state.name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(folder / PLAN, json_text(begun, indent=2), mode=PRIVATE)
        elif changed := [name for name in request if begun.get(name) != request[name]]:
            if changed == ["options"] and task is BatchTask.ENCODE:
                raise UsageError(f"{folder} holds vectors of another encoder, see {folder / PLAN}; give another folder")
            raise UsageError(
                f"{folder} holds a run with other {', '.join(changed)}; ask as {folder / PLAN} says to go on with it, "
                "or give another folder"
            )
        elif version not in (None, begun["version"]):
            raise UsageError(f"{folder} holds a run of the model {begun['version']}; give another folder")
        return cls(
            workspace=workspace.root,
            folder=folder,
            task=task,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """One shard that was worked on."""

    shard: int
    people: int = 0
    texts: int = 0
    """That were encoded."""
    quality: Quality | None = None
    """Of predictions: how good the model was on people it had not learned from; the same in every shard."""
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
    texts: int = 0
    """That were encoded now."""
    quality: Quality | None = None
    """As `ShardOutcome.quality`, of the shards that were done now."""
    failed: tuple[ShardOutcome, ...] = ()


def shard_numbers(pseudonyms: Sequence[str], shards: int) -> NDArray[np.int64]:
    """The shard of each person or item, int64 (n,) in [0, shards): by a hash, so that it never depends on who else is
    there."""
    hashes = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in pseudonyms)
    return (np.frombuffer(hashes, "<u8") % np.uint64(shards)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _OpenedVersion:
    """A model's version, and everybody who agreed when it was opened."""

    recommender: Recommender
    people: AgreedPeople
    shard_of: NDArray[np.int64]
    """Of each of the people, (n,)."""
    order: NDArray[np.int64]
    """Their rows by pseudonym, so that files do not hang on the order in the store; (n,)."""


class ShardWorker:
    """A workspace that is opened once and asked for shard after shard."""

    def __init__(self, run: BatchRun) -> None:
        self.run = run
        self.shop = Workspace.open(run.workspace)
        self.options: dict[str, Any] = json.loads(run.options)
        self._opened: dict[str, _OpenedVersion] = {}

    def shard(self, number: int, version: str | None = None) -> Recommender:
        """The recommender whose people are those of a shard who agree now, under their pseudonyms."""
        version = version or self.run.version or ""
        if version not in self._opened:
            self._opened[version] = self._open(version)
        of_version = self._opened[version]
        rows = of_version.order[of_version.shard_of[of_version.order] == number]
        ids = of_version.people.users[USER_COLUMN].gather(rows).to_list()
        agreed = np.array(self.shop.gate().permits_each(ids, Purpose.PERSONALISATION), bool)
        return of_version.recommender.by_pseudonym().with_people(*of_version.people.dataset(rows[agreed]))

    def people(self, number: int) -> Dataset:
        """The people of a shard who agree now, as the store has them: what needs no model is asked of these."""
        everybody, numbers, catalogue = self._agreed
        ids = [everybody[row] for row in np.flatnonzero(numbers == number)]
        read = self.shop.gate().histories(ids, Purpose.PERSONALISATION, before=self.run.as_of)
        return Dataset.construct(read.events, read.users, catalogue, as_of=self.run.as_of)

    @cached_property
    def _agreed(self) -> tuple[list[str], NDArray[np.int64], pl.DataFrame]:
        """The pseudonyms that had agreed when this was opened, ascending, the shard of each, and the catalogue."""
        gate = self.shop.gate()
        everybody = sorted(gate.permitted_users(Purpose.PERSONALISATION))
        return everybody, shard_numbers(everybody, self.run.shards), gate.catalogue()

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

    @cached_property
    def generator(self) -> Generator | None:
        """Of the ad texts; a local one in a process of its own."""
        from recllm.text.generator.locate import find_generator

        cache = self.shop.cache_dir / "generators"
        return find_generator(self.options.get("generator", "template"), cache_dir=cache, own_process=True)

    @cached_property
    def predictor(self) -> Predictor:
        """Learned from the same people in each worker, so that all answer alike."""
        from recllm.market.propensity.answers import people_learned_from
        from recllm.market.propensity.predict import Predictor

        request = prediction_request(self.options)
        return Predictor.learn(
            request.model_copy(update={"locale": self.shop.locale(self.options.get("locale"))}),
            people_learned_from(self.shop),
            policy=self.shop.policy,
        )

    @cached_property
    def catalogue(self) -> CatalogueEncoder:
        """The items and the encoder of `BatchTask.ENCODE`."""
        shard_of = partial(shard_numbers, shards=self.run.shards)
        return CatalogueEncoder(self.shop, EncodingOptions.of(self.options), shard_of)

    def close(self) -> None:
        from recllm.text.generator.process import ProcessGenerator

        generator = vars(self).get("generator")
        if isinstance(generator, ProcessGenerator):
            generator.close()
        self.shop.close()


@lru_cache(maxsize=1)
def _worker(run: BatchRun) -> ShardWorker:
    """A process that works on one shard after another opens the workspace once."""
    return ShardWorker(run)


def _close_worker(run: BatchRun) -> None:
    """What this process opened; in other processes it ends with them."""
    if _worker.cache_info().currsize:
        _worker(run).close()
    _worker.cache_clear()


def work_on(run: BatchRun, shard: int) -> ShardOutcome:
    """Answers for one shard and writes its file, whole or not at all.

    An error of the shard stands in the outcome. An error of the request (`UsageError`, `PolicyError`) is raised, as it
    is wrong for every shard."""
    try:
        _, answer = KINDS[run.task]
        content, outcome = answer(_worker(run), shard)
        write_whole(run.file(shard), content, mode=PRIVATE)
        return outcome
    except (UsageError, PolicyError):
        raise
    except RecllmError as error:
        return ShardOutcome(shard=shard, error=str(error))
    except MemoryError:
        return ShardOutcome(shard=shard, error=f"out of memory; more than {run.shards} shards make each smaller")
    except OSError as error:
        return ShardOutcome(shard=shard, error=f"{run.file(shard)} cannot be written: {error.strerror or error}")


SLATE_SCHEMA: Mapping[str, Any] = {
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
AUDIENCE_SCHEMA: Mapping[str, Any] = {
    "user_id": pl.String,
    "score": pl.Float64,
    "probability": pl.Float32,
    "item_id": pl.String,
}
PREDICTION_SCHEMA: Mapping[str, Any] = {
    "user_id": pl.String,
    "probability": pl.Float64,
    "value": pl.Float64,
    "date": pl.Date,
    "earliest": pl.Date,
    "latest": pl.Date,
    "reasons": pl.List(pl.String),
}
COPY_SCHEMA: Mapping[str, Any] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "channel": pl.String,
    "locale": pl.String,
    "text": pl.String,
    "parts": pl.String,
    "generator": pl.String,
    "generator_failure": pl.String,
    "verdict": pl.String,
}


def _content(rows: Rows | list[Any], schema: Mapping[str, Any], *, orient: Literal["row", "col"] = "row") -> bytes:
    content = io.BytesIO()
    pl.DataFrame(rows, schema=dict(schema), orient=orient).write_parquet(content)
    return content.getvalue()


def slates_request(options: Mapping[str, Any], users: Sequence[str] = ()) -> RecommendRequest:
    """Raises `UsageError` as `RecommendRequest` does."""
    return RecommendRequest(users=tuple(users), **{name: value for name, value in options.items() if name != "locale"})


def _slates(worker: ShardWorker, shard: int, recommender: Recommender, options: Mapping[str, Any]) -> Iterator[Slate]:
    """Slates of everybody of a shard who may be served, by the variant that is theirs."""
    from recllm.market.experiments.slates import list_experiments, recommend_in_experiments

    experiments, users = list_experiments(worker.shop), recommender.dataset.users[USER_COLUMN].to_list()
    rng = np.random.default_rng([worker.run.seed, shard])
    of_version: dict[str | None, Recommender] = {worker.run.version: recommender}

    def recommender_of(version: str | None) -> Recommender:
        version = version or worker.run.version
        if version not in of_version:
            of_version[version] = worker.shard(shard, version)
        return of_version[version]

    for start in range(0, len(users), PEOPLE_AT_ONCE):
        request = slates_request(options, users[start : start + PEOPLE_AT_ONCE])
        for slate in recommend_in_experiments(
            worker.shop, request, experiments, recommender_of, by_pseudonym=True, rng=rng
        ):
            if slate.status is not SlateStatus.NO_CONSENT:  # withdrawn since the run began
                yield slate


def recommend_shard(worker: ShardWorker, shard: int) -> tuple[bytes, ShardOutcome]:
    """Slates, a row for each item; `SLATE_SCHEMA`."""
    recommender = worker.shard(shard)
    rows = [
        (
            *(slate.user_id, item.rank, item.item_id, item.title, item.score, item.probability, item.propensity),
            *(list(item.served_by), [reason.text for reason in item.reasons]),
            *(slate.status.value, slate.model_version, slate.experiment, slate.variant),
        )
        for slate in _slates(worker, shard, recommender, worker.options)
        for item in slate.items
    ]
    return _content(rows, SLATE_SCHEMA), ShardOutcome(shard=shard, people=recommender.dataset.n_users)


def audience_request(options: Mapping[str, Any]) -> AudienceRequest:
    """Raises `UsageError` as `AudienceRequest` and its parts do, and for what is asked of all people at once."""
    from recllm.market.audiences.request import AudienceQuestion

    question = AudienceQuestion(**options)
    if question.objective is Objective.UPLIFT:
        raise UsageError("objective is uplift, and shards are ordered by chance, lift or margin; leave out --everybody")
    for name in ("text", "seeds", "suppressed", "people"):
        if getattr(question, name):
            raise UsageError(f"{name} needs all people at once: leave out --everybody")
    return question.request(explain=False)


def audience_shard(worker: ShardWorker, shard: int) -> tuple[bytes, ShardOutcome]:
    """Everybody of a shard who could be reached, with what they are ordered by; `AUDIENCE_SCHEMA`."""
    from recllm.market.audiences.audience import eligible_pool
    from recllm.market.audiences.contacts import agreement, with_global_holdout
    from recllm.market.audiences.targets import audience_target

    request = with_global_holdout(worker.shop, audience_request(worker.options))
    recommender, target = audience_target(worker.shard(shard), request.items, request.category, request.text)
    agreed = agreement(worker.shop.gate(), request.channel)
    pool = eligible_pool(recommender, target, request.exclusions, agreed, choice=request.choice)
    item_ids = recommender.dataset.items["item_id"].to_list()
    best_items = [item_ids[row] if row >= 0 else None for row in pool.scores.best_item.tolist()]
    columns = [pool.user_ids, pool.scores.score, pool.scores.probabilities(), best_items]
    people = recommender.dataset.n_users
    return _content(columns, AUDIENCE_SCHEMA, orient="col"), ShardOutcome(shard=shard, people=people)


def copy_question(options: Mapping[str, Any]) -> AdQuestion:
    """Raises `UsageError` for a channel that no texts are written for."""
    from recllm.market.adcopy.channels import channel_written_for

    question = AdQuestion(**{name: value for name, value in options.items() if name != "generator"})
    channel_written_for(question.channel)
    return question


def copy_shard(worker: ShardWorker, shard: int) -> tuple[bytes, ShardOutcome]:
    """A checked ad text for each person of a shard who agreed to the channel; `COPY_SCHEMA`. People without an item, or
    with items of sensitive categories alone, get none. `generator_failure`: why a text was written without the
    generator."""
    from recllm.market.adcopy.ads import AD_CHOICE, write_ads
    from recllm.market.audiences.contacts import CHANNEL_PURPOSE

    recommender, rows = worker.shard(shard), []
    question, gate = copy_question(worker.options), worker.shop.gate()
    slate_options = {"k": AD_CHOICE, "intent": question.intent, "objective": question.objective}
    purpose = CHANNEL_PURPOSE.get(question.channel)
    for slate in _slates(worker, shard, recommender, slate_options):
        agreed = purpose is None or gate.permits(slate.user_id, purpose)
        if slate.status is not SlateStatus.PERSONAL or not slate.items or not agreed:
            continue
        try:
            (text,) = write_ads(
                worker.shop,
                recommender,
                slates=[slate],
                intent=question.intent,
                channel=question.channel,
                locale=question.locale,
                generator=worker.generator,
                seed=worker.run.seed,
                by_pseudonym=True,
            ).texts
        except (PolicyError, NothingToDo):  # all of it is sensitive, nothing is to be said, or they just withdrew
            continue
        failures = [check.message for _, checks in text.rejected for check in checks if check.guarantee == "G16"]
        rows.append(
            (
                *(text.user_id, text.item_id, text.channel, text.locale, text.text),
                *(json_text(dict(text.parts)), text.generator, failures[0] if failures else None, text.verdict.value),
            )
        )
    return _content(rows, COPY_SCHEMA), ShardOutcome(shard=shard, people=recommender.dataset.n_users)


def prediction_request(options: Mapping[str, Any]) -> PredictionRequest:
    """Raises `UsageError` as `PredictionRequest` does, and for coupons."""
    from recllm.market.propensity.prediction import PredictionRequest
    from recllm.market.propensity.question import PredictionKind

    if options["kind"] == PredictionKind.REDEEM:
        raise UsageError("who redeems is asked of a campaign's people alone: leave out --everybody")
    return PredictionRequest(**options)


def predict_shard(worker: ShardWorker, shard: int) -> tuple[bytes, ShardOutcome]:
    """What each person of a shard will do, likeliest first; `PREDICTION_SCHEMA`. People without a past have no row."""
    people = worker.people(shard)
    try:
        prediction = worker.predictor.predict(people)
    except NothingToDo:
        return _content([], PREDICTION_SCHEMA), ShardOutcome(shard=shard, people=people.n_users)
    figures = {name: getattr(prediction.quality, name) for name in ("n", "base_rate", "auc", "ece", "lift_at_10")}
    quality = {name: value for name, value in (figures | prediction.figures).items() if value is not None}
    rows = [
        (
            *(person.user_id, person.probability, person.value, person.date, person.earliest, person.latest),
            [reason.text for reason in person.reasons],
        )
        for person in prediction.people
    ]
    return _content(rows, PREDICTION_SCHEMA), ShardOutcome(shard=shard, people=people.n_users, quality=quality)


def encode_shard(worker: ShardWorker, shard: int) -> tuple[bytes, ShardOutcome]:
    """The vectors of a shard's texts; see `recommender.catalogue_vectors`."""
    content, n_texts = worker.catalogue.encode(shard, worker.run.file(shard))
    return content, ShardOutcome(shard=shard, texts=n_texts)


Check = Callable[[Mapping[str, Any]], object]
"""Raises `UsageError` for options that cannot be, before anything is written."""
ShardAnswer = Callable[[ShardWorker, int], tuple[bytes, ShardOutcome]]
"""The content of a shard's file."""

KINDS: Mapping[BatchTask, tuple[Check, ShardAnswer]] = {
    BatchTask.RECOMMEND: (slates_request, recommend_shard),
    BatchTask.AUDIENCE: (audience_request, audience_shard),
    BatchTask.COPY: (copy_question, copy_shard),
    BatchTask.PREDICT: (prediction_request, predict_shard),
    BatchTask.ENCODE: (EncodingOptions.of, encode_shard),
}


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
    is_complete = _is_complete if run.task is not BatchTask.ENCODE else _current_vectors(run)
    missing = [shard for shard in range(run.shards) if not is_complete(run.file(shard))]
    outcomes = []
    work, lost = partial(work_on, run), lambda shard, why: ShardOutcome(shard=shard, error=why)
    try:
        needed = min(workers, len(missing) or 1)  # no process is started for nothing
        with open_workers(engine if missing else Engine.HERE, needed) as processes:
            for outcome in processes.outcomes(work, missing, lost):
                outcomes.append(outcome)
                if progress is not None:
                    progress(outcome)
    finally:
        _close_worker(run)
    quality = next((outcome.quality for outcome in outcomes if outcome.quality is not None), None)
    failed = tuple(sorted((o for o in outcomes if o.error is not None), key=lambda outcome: outcome.shard))
    if not failed and (missing or not (run.folder / DONE).exists()):
        write_whole(run.folder / DONE, json_text(_summary(run, quality), indent=2), mode=PRIVATE)
    return BatchResult(
        folder=run.folder,
        shards=run.shards,
        resumed=run.shards - len(missing),
        people=sum(outcome.people for outcome in outcomes),
        seconds=time.perf_counter() - began,
        texts=sum(outcome.texts for outcome in outcomes),
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


def _current_vectors(run: BatchRun) -> Callable[[Path], bool]:
    """Whether a shard's file holds the vectors of the catalogue as it is now; one from before a load of items is made
    again, and takes over what it has."""
    options = EncodingOptions.of(json.loads(run.options))
    with Workspace.open(run.workspace) as shop:
        return partial(is_current, fingerprint=options.fingerprint, load=item_load(shop))


def keep_vectors(run: BatchRun) -> CacheFill | None:
    """Put the vectors of a finished `BatchTask.ENCODE` into the workspace's cache; see `fill_cache`."""
    with Workspace.open(run.workspace) as shop:
        files = [run.file(shard) for shard in range(run.shards)]
        return fill_cache(shop, EncodingOptions.of(json.loads(run.options)), files)


def _summary(run: BatchRun, quality: Quality | None) -> dict[str, Any]:
    files = {}
    for shard in range(run.shards):
        content = run.file(shard).read_bytes()
        files[run.file(shard).name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"finished": datetime.now(UTC).isoformat(), "quality": quality, "files": files}


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
