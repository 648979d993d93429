"""Does the serving model still fit its shop, and may a challenger take its place?

The gate lets a challenger serve by comparison: it and the serving model rank for the same people of a window that it
never saw. Its probabilities may not be off by more than the limit and by more than those that serve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Ints, Mask
from recllm.base.errors import DataError
from recllm.base.schema import ACTION_CODE, Action, Encoder
from recllm.base.settings import RetrainingSettings
from recllm.base.stats.intervals import bootstrap
from recllm.base.stats.probabilities import calibration_error
from recllm.base.stats.ranking import Truth, hits
from recllm.recommend.evaluation.protocols import (
    ALL,
    NEW,
    OURS,
    EvaluationQuery,
    EvaluationWindow,
    RankedLists,
    next_purchases,
)
from recllm.recommend.evaluation.report import COMPARED, Report, SystemDifference, evaluate
from recllm.recommend.evaluation.systems import served_system
from recllm.recommend.recommender.lineage import (
    CheckFigure,
    CheckKind,
    CheckVerdict,
    GateComparison,
    GateReason,
    GateReport,
    GateVerdict,
    RetrainCheck,
)
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset, Events, utc

if TYPE_CHECKING:
    from recllm.recommend.recommender.saved_model import Model

MAX_NEW_EVENTS = 0.2
"""As a share of those before: a log grown by a fifth moves the scorer more than another seed."""
MAX_NEW_ITEMS = 0.2  # share of recent purchases of items first sold since; a choice, as above
SAMPLE_USERS = 500  # users, drawn by the seed, whose lists show the calibration
MIN_PEOPLE = 30  # on either side of a comparison; fewer show nothing

LIST_LENGTH = 20
CALIBRATION_DRAWS = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedModel:
    """The serving model and the log that it is held against."""

    model: Model
    encoder: Encoder
    locale: str
    data: Dataset
    """Of the people who agreed to model training, of more than `scorer.learn_people` a sample, before the present."""
    measured: Mask
    """(n_users,), who of them agreed to analytics as well."""
    as_of: int
    """The present; this and the times below in epoch seconds."""
    until: int
    """The end of what the model learned from."""
    end: int
    """The end of the latest whole day of the log."""
    settings: RetrainingSettings
    seed: int

    @property
    def start(self) -> int:
        """The start of the latest window."""
        return self.end - self.settings.window_days * DAY

    def checks(self) -> tuple[RetrainCheck, ...]:
        """Whether the model is due."""
        events = self.data.events
        measured_log = replace(self.data, events=events.select(self.measured[events.user]))
        return (
            data_drift(measured_log, self.until, self.end, self.settings),
            age_check(self.until, self.as_of, self.settings),
        )

    def at(self, moment: int, model: Model | None = None) -> Recommender:
        """The model, or another one of the same encoder, as it would have served at a past moment."""
        return Recommender(self.data.before(moment), self.encoder, model=model or self.model, locale=self.locale)


def check_of(kind: CheckKind, figures: dict[str, CheckFigure], people: int | None = None) -> RetrainCheck:
    """DUE where any figure is beyond its limits, UNKNOWN where none could be measured."""
    measured = any(figure.value is not None for figure in figures.values())
    verdict = CheckVerdict.NOT_DUE if measured else CheckVerdict.UNKNOWN
    if any(figure.is_beyond for figure in figures.values()):
        verdict = CheckVerdict.DUE
    return RetrainCheck(kind=kind, verdict=verdict, figures=figures, people=people)


def age_check(trained_until: int, as_of: int, settings: RetrainingSettings) -> RetrainCheck:
    """Days from the end of what the model learned from to the present, both in epoch seconds."""
    days = (as_of - trained_until) / DAY
    return check_of(CheckKind.AGE, {"days": _above(days, settings.max_age_days)})


def data_drift(dataset: Dataset, trained_until: int, end: int, settings: RetrainingSettings) -> RetrainCheck:
    """The log up to `end` against the log up to `trained_until`, epoch seconds.

    new_events: events since, over events before; what was only shown is none. new_items: share of the purchases since,
    of the last window at most, that went to items first sold since.
    """
    acted = dataset.events.select(dataset.events.action != ACTION_CODE[Action.SHOWN])
    before, since = _between(acted, 0, trained_until), _between(acted, trained_until, end)
    recent = _between(acted, max(trained_until, end - settings.window_days * DAY), end).of(Action.PURCHASE).item
    share = float((~np.isin(recent, before.of(Action.PURCHASE).item)).mean()) if len(recent) else None
    figures = {
        "new_events": _above(len(since) / len(before) if len(before) else None, MAX_NEW_EVENTS),
        "new_items": _above(0.0 if end <= trained_until else share, MAX_NEW_ITEMS),
    }
    return check_of(CheckKind.DATA_DRIFT, figures)


def calibration_check(recommender: Recommender, served: ServedModel) -> RetrainCheck:
    """The probabilities in users' lists as of the recommender's time against what they bought within its horizon.

    A horizon that ends after the log cannot be judged. Of the people who may be measured a sample of those with an
    event before is drawn, whether they bought afterwards or not, the same for every model. ece: expected calibration
    error with a 95 % interval over people (bootstrap), beyond its limit only where the whole interval is.
    """
    model, start = recommender.model, recommender.dataset.as_of
    horizon_end = start + (model.horizon_days if model else 0) * DAY
    active = np.flatnonzero((np.diff(recommender.dataset.events.indptr) > 0) & served.measured)
    rows = np.sort(np.random.default_rng([served.seed, 1]).permutation(active)[:SAMPLE_USERS]).astype(np.int64)
    figures = {"ece": CheckFigure(value=None)}
    if model is not None and horizon_end <= served.end and len(rows) >= MIN_PEOPLE:
        bought = served.data.between(start, horizon_end).rows(rows)
        lists = top_lists(recommender, rows)
        truth = Truth.from_pairs(bought.user, bought.item, len(rows))
        listed, label = lists.items >= 0, hits(lists.items, truth, LIST_LENGTH)
        if lists.probabilities is not None and label.any():
            probability = lists.probabilities.astype(np.float64)

            def error(people: Ints) -> float:
                inside = listed[people]
                return calibration_error(probability[people][inside], label[people][inside])

            interval = bootstrap(error, len(rows), draws=CALIBRATION_DRAWS, seed=served.seed)
            limit = served.settings.max_ece
            value, low, high = interval.value, interval.low, interval.high
            figures["ece"] = CheckFigure(value=value, low=low, high=high, upper_limit=limit, is_beyond=low > limit)
    return check_of(CheckKind.CALIBRATION, figures, len(rows))


def top_lists(recommender: Recommender, rows: Ints) -> RankedLists:
    """What the recommender would show these rows of its dataset's users, of the items sold before its time."""
    past = recommender.dataset
    sold = np.bincount(past.events.of(Action.PURCHASE).item, minlength=past.n_items) > 0
    query = EvaluationQuery(
        dataset=past,
        fit_on=past,
        users=rows,
        fit_users=rows,
        items=np.flatnonzero(sold).astype(np.int32),
        k=LIST_LENGTH,
        mask_seen=False,
        slice=ALL,
    )
    return served_system(recommender).rank(query)


def _above(value: float | None, limit: float) -> CheckFigure:
    return CheckFigure(value=value, upper_limit=limit, is_beyond=value is not None and value > limit)


def _between(events: Events, start: int, end: int) -> Events:
    return events.select((events.at >= start) & (events.at < end))


K = 20
SERVING = "serving"
"""The serving model's name in the report."""


def gate_window(served: ServedModel) -> EvaluationWindow | None:
    """What the people who may be measured bought in the latest window, in ALL and NEW; None without any."""
    protocol = f"retrain-last{(served.end - served.start) // DAY}"
    try:
        window = next_purchases(served.data, start=served.start, end=served.end, protocol=protocol, slices=(ALL, NEW))
    except DataError:
        return None
    parts = []
    for segment in window.slices:
        rows = np.flatnonzero(served.measured[segment.users])
        parts += [replace(segment, users=segment.users[rows], truth=segment.truth.rows(rows))] if len(rows) else []
    return replace(window, slices=tuple(parts)) if parts else None


def judge(served: ServedModel, challenger: Recommender, serving: Recommender) -> GateReport:
    """The verdict on a challenger and why. challenger, serving: both models as of the start of the latest window, in
    which they are compared."""
    window, settings = gate_window(served), served.settings
    calibrations = calibration_check(challenger, served), calibration_check(serving, served)
    comparisons: tuple[GateComparison, ...] = ()
    if window is not None:
        systems = {OURS: served_system(challenger), SERVING: served_system(serving)}
        report = evaluate(window, systems, k=K, seed=served.seed)
        comparisons = tuple(gate_comparisons(report, window, settings))
    against, uncertain = objections(comparisons, calibrations)
    refused = (*against, *(uncertain if settings.when_uncertain == "keep" else ()))
    is_better = any(comparison.low > 0 for comparison in comparisons)
    return GateReport(
        verdict=GateVerdict.REFUSED if refused else GateVerdict.PASSED,
        reasons=refused or uncertain or (GateReason.BETTER if is_better else GateReason.NOT_WORSE,),
        window_start=utc(served.start).isoformat(),
        window_end=utc(served.end).isoformat(),
        comparisons=comparisons,
        serving_seen_days=max(0, min(served.until, served.end) - served.start) / DAY,
        challenger_calibration=calibrations[0],
        serving_calibration=calibrations[1],
    )


def objections(
    comparisons: tuple[GateComparison, ...], calibrations: tuple[RetrainCheck, RetrainCheck]
) -> tuple[tuple[GateReason, ...], tuple[GateReason, ...]]:
    """What speaks against a challenger, and what leaves it uncertain; both empty where nothing does.

    calibrations: of the challenger and of the serving model.
    """
    against, uncertain = list[GateReason](), list[GateReason]()
    judged = [comparison for comparison in comparisons if comparison.people >= MIN_PEOPLE]
    if any(comparison.high < 0 for comparison in judged):
        against.append(GateReason.WORSE)
    elif any(comparison.low <= -comparison.margin for comparison in judged):
        uncertain.append(GateReason.NOT_PROVEN)
    if not judged:
        uncertain.append(GateReason.TOO_FEW_PEOPLE)
    ours, theirs = calibrations
    error, serving_error = ours.figures["ece"], theirs.figures["ece"].value
    if error.is_beyond and (serving_error is None or (error.low or 0.0) > serving_error):
        against.append(GateReason.MISCALIBRATED)
    return tuple(against), tuple(uncertain)


def gate_comparisons(report: Report, window: EvaluationWindow, settings: RetrainingSettings) -> list[GateComparison]:
    metric = f"{COMPARED[0]}@{K}"
    differences: dict[str, SystemDifference] = {d.slice: d for d in report.differences if d.metric == metric}
    lines = []
    for segment in window.slices:
        difference, served = differences[segment.name], report.systems[SERVING][segment.name][metric]
        lines.append(
            GateComparison(
                slice=segment.name,
                metric=metric,
                people=len(segment.users),
                challenger=report.systems[OURS][segment.name][metric],
                serving=served,
                difference=difference.mean,
                low=difference.low,
                high=difference.high,
                margin=settings.margin * served,
            )
        )
    return lines
