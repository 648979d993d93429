"""What marketing asks of all people at once, in memory."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import polars as pl

from recllm.base.errors import NothingToDo
from recllm.base.questions import PredictionKind
from recllm.base.schema import Purpose, Table
from recllm.market.propensity.predict import predict_workspace
from recllm.market.propensity.prediction import Prediction, PredictionRequest
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import USER_COLUMN
from recllm.shop.workspace.workspace import Workspace, present

PREDICTION_HOURS = 24.0  # a prediction is learned again when it is older, or another model serves
MAX_PREDICTIONS = 8  # kept in memory for a shop; the one not asked for the longest goes first


COMMON_VALUES = 12
"""Values of a basic that are proposed at most."""


@dataclass(frozen=True, slots=True)
class ShopMarks:
    """What a recommender in memory was opened from."""

    version: str | None
    """The model's; None before the first training."""
    state: Path | None
    """Where its serving state lies."""
    items: int
    """Number of the last load of items, and so on."""
    consent: int
    events: int
    """0 where histories are read by key."""


@dataclass(frozen=True, eq=False)
class LearnedPrediction:
    """A prediction in memory."""

    at: float
    """When it was learned, by the monotonic clock in seconds."""
    prediction: Prediction
    positions: Mapping[str, int]
    """Of each person in `prediction.people`."""

    @cached_property
    def mean(self) -> float:
        """Over everybody predicted: the probability, or of the kind `value` the money."""
        people, is_value = self.prediction.people, self.prediction.kind is PredictionKind.VALUE
        return sum((person.value or 0.0) if is_value else person.probability for person in people) / len(people)


class Everybody:
    """One workspace's people as marketing reads them.
    Each is made by the first who asks; others wait for it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock, self._learning = Lock(), Lock()
        self._opened: tuple[ShopMarks, float, Recommender] | None = None
        self._basics: tuple[Recommender, Mapping[str, Sequence[str]]] | None = None
        self._predictions: OrderedDict[tuple[str | None, PredictionRequest], LearnedPrediction] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """Whether a recommender is in memory; the first one takes up to minutes to open."""
        return self._opened is not None

    def basics(self) -> Mapping[str, Sequence[str]]:
        """Basics -> values of at least the policy's floor of people, the commonest first."""
        if self._opened is None:
            return {}
        recommender, floor = self._opened[2], self._workspace.policy.group_floor
        if self._basics is not None and self._basics[0] is recommender:
            return self._basics[1]
        users, common = recommender.dataset.users.drop(USER_COLUMN), {}
        for column in users.iter_columns():
            counts = column.drop_nulls().value_counts(sort=True, name="people").filter(pl.col("people") >= floor)
            common[column.name] = [str(value) for value in counts[column.name].head(COMMON_VALUES)]
        self._basics = recommender, common
        return common

    def recommender(self) -> Recommender:
        """With all people who agreed, at the present; events may be `service.marketing_seconds` old."""
        workspace, settings = self._workspace, self._workspace.settings.service
        with self._lock:
            with workspace.store().read() as reader:
                loads = reader.marks().load_no
            version = current(workspace.models_dir)
            counts = (loads.get(table, 0) for table in (Table.ITEMS, Table.CONSENT, Table.EVENTS))
            marks = ShopMarks(version, newest_state(workspace, version), *counts)
            if self._opened is not None:
                marks_before, at, recommender = self._opened
                is_young = time.monotonic() - at < settings.marketing_seconds
                if marks_before == marks or (is_young and replace(marks_before, events=marks.events) == marks):
                    return recommender.at(present(workspace))
            recommender = open_recommender(workspace, version=version, everybody=True)
            self._opened = marks, time.monotonic(), recommender
            return recommender

    def prediction(self, request: PredictionRequest) -> Prediction:
        """Learned once per model version and request, kept `PREDICTION_HOURS`, without people who withdrew since."""
        key = current(self._workspace.models_dir), request
        with self._learning:
            learned = self._predictions.pop(key, None)
            if learned is None or not self._is_young(learned):
                prediction = predict_workspace(self._workspace, request)
                positions = {person.user_id: n for n, person in enumerate(prediction.people)}
                learned = LearnedPrediction(time.monotonic(), prediction, positions)
            self._predictions[key] = learned
            while len(self._predictions) > MAX_PREDICTIONS:
                self._predictions.popitem(last=False)
        prediction, gate = learned.prediction, self._workspace.gate()
        names = [person.user_id for person in prediction.people]
        agreed, stored = gate.permits_each(names, Purpose.PERSONALISATION), gate.knows_each(names)
        people = tuple(itertools.compress(prediction.people, map(all, zip(agreed, stored, strict=True))))
        withdrawn = len(names) - len(people)
        if not withdrawn:
            return prediction
        if not people:
            raise NothingToDo("no one to predict: all predicted people have withdrawn since")
        left_out = {"no_consent": withdrawn + prediction.left_out.get("no_consent", 0)}
        return replace(prediction, people=people, left_out={**prediction.left_out, **left_out})

    def learned_prediction(self, request: PredictionRequest) -> LearnedPrediction | None:
        """The prediction in memory, with people who withdrew since; None where there is none."""
        learned = self._predictions.get((current(self._workspace.models_dir), request))
        return learned if learned is not None and self._is_young(learned) else None

    def held_predictions(self) -> list[Prediction]:
        """All in memory, as they were learned: people who withdrew or were erased since are still in them."""
        return [learned.prediction for learned in list(self._predictions.values())]

    def _is_young(self, learned: LearnedPrediction) -> bool:
        return time.monotonic() - learned.at <= 3_600 * PREDICTION_HOURS
