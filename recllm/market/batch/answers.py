"""The answers for one shard, one after another from a workspace that is opened once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.errors import NothingToDo
from recllm.base.schema import Purpose, SlateStatus
from recllm.market.batch.plan import (
    BatchRun,
    BatchTask,
    audience_request,
    prediction_request,
    shard_numbers,
    slates_request,
)
from recllm.recommend.recommender.people import AgreedPeople, StorePeople
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.data.dataset import USER_COLUMN, Dataset
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recllm.market.propensity.prediction import Prediction
    from recllm.recommend.recommender.recommender import Recommender

PEOPLE_AT_ONCE = 512
"""People of a shard who are ranked together."""

Quality = Mapping[str, float]
"""Of predictions, on people that were not learned from: name of the figure -> value."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardAnswer:
    """What a shard's file holds."""

    rows: list[tuple[Any, ...]]
    """In the order of the schema's columns."""
    people: int
    quality: Quality | None = None
    """Of predictions: how good the model was on people it had not learned from; the same in every shard."""


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
    def predictor(self) -> Callable[[Dataset], Prediction]:
        """Learned from the same people in each worker, so that all answer alike."""
        from recllm.market.propensity.answers import people_learned_from
        from recllm.market.propensity.predict import learn_prediction

        request = prediction_request(self.options)
        return learn_prediction(
            request.model_copy(update={"locale": self.shop.locale(self.options.get("locale"))}),
            people_learned_from(self.shop),
            policy=self.shop.policy,
        )

    def close(self) -> None:
        self.shop.close()


def recommend_shard(worker: ShardWorker, shard: int) -> ShardAnswer:
    """Slates of everybody of a shard who may be served, by the variant that is theirs, a row for each item."""
    from recllm.market.experiments.slates import list_experiments, recommend_in_experiments

    recommender = worker.shard(shard)
    experiments, users = list_experiments(worker.shop), recommender.dataset.users[USER_COLUMN].to_list()
    rng = np.random.default_rng([worker.run.seed, shard])
    of_version: dict[str | None, Recommender] = {worker.run.version: recommender}

    def recommender_of(version: str | None) -> Recommender:
        version = version or worker.run.version
        if version not in of_version:
            of_version[version] = worker.shard(shard, version)
        return of_version[version]

    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(users), PEOPLE_AT_ONCE):
        request = slates_request(worker.options, users[start : start + PEOPLE_AT_ONCE])
        slates = recommend_in_experiments(worker.shop, request, experiments, recommender_of, by_pseudonym=True, rng=rng)
        rows += [
            (
                *(slate.user_id, item.rank, item.item_id, item.title, item.score, item.probability, item.propensity),
                *(list(item.served_by), [reason.text for reason in item.reasons]),
                *(slate.status.value, slate.model_version, slate.experiment, slate.variant),
            )
            for slate in slates
            if slate.status is not SlateStatus.NO_CONSENT  # withdrawn since the run began
            for item in slate.items
        ]
    return ShardAnswer(rows=rows, people=recommender.dataset.n_users)


def audience_shard(worker: ShardWorker, shard: int) -> ShardAnswer:
    """Everybody of a shard who could be reached, with what they are ordered by."""
    from recllm.market.audiences.audience import eligible_pool, with_global_holdout
    from recllm.market.audiences.contacts import agreement
    from recllm.market.audiences.targets import audience_target

    request = with_global_holdout(worker.shop, audience_request(worker.options))
    recommender, target = audience_target(worker.shard(shard), request.items, request.category, request.text)
    agreed = agreement(worker.shop.gate(), request.channel)
    pool = eligible_pool(recommender, target, request.exclusions, agreed, choice=request.choice)
    item_ids = recommender.dataset.items["item_id"].to_list()
    best_items = [item_ids[row] if row >= 0 else None for row in pool.scores.best_item.tolist()]
    columns = [pool.user_ids, pool.scores.score.tolist(), pool.scores.probabilities().tolist(), best_items]
    return ShardAnswer(rows=list(zip(*columns, strict=True)), people=recommender.dataset.n_users)


def predict_shard(worker: ShardWorker, shard: int) -> ShardAnswer:
    """What each person of a shard will do, likeliest first. People without a past have no row."""
    people = worker.people(shard)
    try:
        prediction = worker.predictor(people)
    except NothingToDo:
        return ShardAnswer(rows=[], people=people.n_users)
    figures = {name: getattr(prediction.quality, name) for name in ("n", "base_rate", "auc", "ece", "lift_at_10")}
    quality = {name: value for name, value in (figures | prediction.figures).items() if value is not None}
    rows = [
        (
            *(person.user_id, person.probability, person.value, person.date, person.earliest, person.latest),
            [reason.text for reason in person.reasons],
        )
        for person in prediction.people
    ]
    return ShardAnswer(rows=rows, people=people.n_users, quality=quality)


Columns = Mapping[str, Any]
"""Name -> type of polars."""

ANSWERS: Mapping[BatchTask, tuple[Callable[[ShardWorker, int], ShardAnswer], Columns]] = {
    BatchTask.RECOMMEND: (
        recommend_shard,
        {
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
        },
    ),
    BatchTask.AUDIENCE: (
        audience_shard,
        {
            "user_id": pl.String,
            "score": pl.Float64,
            "probability": pl.Float32,
            "item_id": pl.String,
        },
    ),
    BatchTask.PREDICT: (
        predict_shard,
        {
            "user_id": pl.String,
            "probability": pl.Float64,
            "value": pl.Float64,
            "date": pl.Date,
            "earliest": pl.Date,
            "latest": pl.Date,
            "reasons": pl.List(pl.String),
        },
    ),
}
"""What answers a task for one shard, and the columns of its file."""
