"""Does the serving model still fit its shop, and may a challenger take its place?

data drift    the log grew, or its purchases go to items that the model does not know
age           days since the end of what it learned from

The gate lets a challenger serve by comparison: it and the serving model rank for the same people of a window that it
never saw. Its probabilities may not be off by more than the limit and by more than those that serve.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.schema import ACTION_CODE, Action
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

MAX_NEW_EVENTS = 0.2
"""As a share of those before. A choice: a log grown by a fifth moves the scorer more than another seed does."""
MAX_NEW_ITEMS = 0.2  # share of recent purchases of items first sold since; a choice, as above
SAMPLE_USERS = 500  # users, drawn by the seed, whose lists show the calibration
MIN_PEOPLE = 30  # on either side of a comparison; fewer show nothing

LIST_LENGTH = 20
CALIBRATION_DRAWS = 200
"""Bootstrap draws for the interval of a calibration."""

Users = NDArray[np.int64]


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


def calibration_check(
    recommender: Recommender,
    dataset: Dataset,
    end: int,
    users: NDArray[np.bool_],
    settings: RetrainingSettings,
    rng: np.random.Generator,
    seed: int,
) -> RetrainCheck:
    """The probabilities in users' lists as of the recommender's time against what they bought within its horizon.

    dataset: the log with what came after, up to `end` (epoch seconds); a horizon that ends later cannot be judged.
    users: (n_users,), who may be looked at; a sample of those with an event before is drawn, whether they bought
    afterwards or not. ece: expected calibration error with a 95 % interval over people (bootstrap), beyond its limit
    only where the whole interval is.
    """
    model, start = recommender.model, recommender.dataset.as_of
    horizon_end = start + (model.horizon_days if model else 0) * DAY
    active = np.flatnonzero((np.diff(recommender.dataset.events.indptr) > 0) & users)
    rows = np.sort(rng.permutation(active)[:SAMPLE_USERS]).astype(np.int64)
    figures = {"ece": CheckFigure(value=None)}
    if model is not None and horizon_end <= end and len(rows) >= MIN_PEOPLE:
        bought = dataset.between(start, horizon_end).rows(rows)
        lists = top_lists(recommender, rows)
        truth = Truth.from_pairs(bought.user, bought.item, len(rows))
        listed, label = lists.items >= 0, hits(lists.items, truth, LIST_LENGTH)
        if lists.probabilities is not None and label.any():
            probability = lists.probabilities.astype(np.float64)

            def error(people: NDArray[np.int64]) -> float:
                inside = listed[people]
                return calibration_error(probability[people][inside], label[people][inside])

            interval, limit = bootstrap(error, len(rows), draws=CALIBRATION_DRAWS, seed=seed), settings.max_ece
            value, low, high = interval.value, interval.low, interval.high
            figures["ece"] = CheckFigure(value=value, low=low, high=high, upper_limit=limit, is_beyond=low > limit)
    return check_of(CheckKind.CALIBRATION, figures, len(rows))


def top_lists(recommender: Recommender, rows: Users) -> RankedLists:
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


def gate_window(dataset: Dataset, start: int, end: int, users: NDArray[np.bool_]) -> EvaluationWindow | None:
    """Purchases with start <= at < end (epoch seconds) of these users, (n_users,), in ALL and NEW; None without any."""
    days = (end - start) // DAY
    try:
        window = next_purchases(dataset, start=start, end=end, protocol=f"retrain-last{days}", slices=(ALL, NEW))
    except DataError:
        return None
    parts = []
    for segment in window.slices:
        rows = np.flatnonzero(users[segment.users])
        parts += [replace(segment, users=segment.users[rows], truth=segment.truth.rows(rows))] if len(rows) else []
    return replace(window, slices=tuple(parts)) if parts else None


def judge(
    window: EvaluationWindow | None,
    challenger: Recommender,
    serving: Recommender,
    calibrations: tuple[RetrainCheck, RetrainCheck],
    *,
    period: tuple[int, int],
    serving_until: int,
    settings: RetrainingSettings,
    seed: int,
) -> GateReport:
    """The verdict on a challenger and why.

    window: what both are asked; None where no one bought. challenger, serving: both models as of its start.
    calibrations: of the challenger and of the serving model in it. period: its start and end, serving_until: the end of
    what the serving model learned from; epoch seconds. seed: of the bootstrap.
    """
    start, end = period
    comparisons: tuple[GateComparison, ...] = ()
    if window is not None:
        systems = {OURS: served_system(challenger), SERVING: served_system(serving)}
        report = evaluate(window, systems, k=K, seed=seed)
        comparisons = tuple(gate_comparisons(report, window, settings))
    against, uncertain = objections(comparisons, calibrations)
    refused = (*against, *(uncertain if settings.when_uncertain == "keep" else ()))
    is_better = any(comparison.low > 0 for comparison in comparisons)
    return GateReport(
        verdict=GateVerdict.REFUSED if refused else GateVerdict.PASSED,
        reasons=refused or uncertain or (GateReason.BETTER if is_better else GateReason.NOT_WORSE,),
        window_start=utc(start).isoformat(),
        window_end=utc(end).isoformat(),
        comparisons=comparisons,
        serving_seen_days=max(0, min(serving_until, end) - start) / DAY,
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
