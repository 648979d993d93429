"""May a challenger serve? It and the serving model rank for the same people of a window that it never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recllm.base.errors import DataError
from recllm.base.settings import RetrainingSettings
from recllm.recommend.evaluation.drift import MIN_PEOPLE
from recllm.recommend.evaluation.protocols import ALL, NEW, EvaluationWindow, next_purchases
from recllm.recommend.evaluation.recllm_system import OURS, served_system
from recllm.recommend.evaluation.report import COMPARED, Report, SystemDifference, evaluate
from recllm.recommend.recommender.lineage import (
    CheckFigure,
    GateComparison,
    GateReason,
    GateReport,
    GateVerdict,
    RetrainCheck,
)
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset, utc

MAX_COVERAGE_LOSS = 0.3
"""A challenger's lists may show so much less of the items on offer, as a share of what the serving model's show."""

K = 20
SERVING = "serving"
"""The serving model's name in the report."""
IDEAL = {"ece": 0.0, "slope": 1.0, "ratio": 1.0}
"""What a calibration's figures should be."""


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
    coverage: tuple[float | None, float | None] = (None, None)
    if window is not None:
        systems = {OURS: served_system(challenger), SERVING: served_system(serving)}
        report = evaluate(window, systems, k=K, seed=seed)
        comparisons = tuple(_comparisons(report, window, settings))
        coverage = tuple(report.systems[name][ALL].get(f"coverage@{K}") for name in (OURS, SERVING))  # type: ignore[assignment]
    against, uncertain = objections(comparisons, calibrations, coverage, settings)
    refused = (*against, *(uncertain if settings.when_uncertain == "keep" else ()))
    is_better = any(comparison.low > 0 for comparison in comparisons)
    return GateReport(
        verdict=GateVerdict.REFUSED if refused else GateVerdict.PASSED,
        reasons=refused or uncertain or (GateReason.BETTER if is_better else GateReason.NOT_WORSE,),
        window_start=utc(start).isoformat(),
        window_end=utc(end).isoformat(),
        comparisons=comparisons,
        serving_seen_days=max(0, min(serving_until, end) - start) / DAY,
        challenger_coverage=coverage[0],
        serving_coverage=coverage[1],
        challenger_calibration=calibrations[0],
        serving_calibration=calibrations[1],
    )


def objections(
    comparisons: tuple[GateComparison, ...],
    calibrations: tuple[RetrainCheck, RetrainCheck],
    coverage: tuple[float | None, float | None],
    settings: RetrainingSettings,
) -> tuple[tuple[GateReason, ...], tuple[GateReason, ...]]:
    """What speaks against a challenger, and what leaves it uncertain; both empty where nothing does.

    calibrations, coverage: of the challenger and of the serving model.
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
    if any(_is_farther_off(ours.figures[name], theirs.figures[name], ideal) for name, ideal in IDEAL.items()):
        against.append(GateReason.MISCALIBRATED)
    challenger, serving = coverage
    if challenger is not None and serving is not None and challenger < serving * (1 - MAX_COVERAGE_LOSS):
        against.append(GateReason.NARROW)
    return tuple(against), tuple(uncertain)


def _is_farther_off(ours: CheckFigure, theirs: CheckFigure, ideal: float) -> bool:
    """Whether our whole interval is beyond its limits and farther from the ideal value than theirs."""
    if not ours.is_beyond or ours.low is None or ours.high is None:
        return False
    nearest = ours.low if ours.low > ideal else ours.high
    return theirs.value is None or _miss(nearest, ideal) > _miss(theirs.value, ideal)


def _miss(value: float, ideal: float) -> float:
    """How far off a calibration error (ideally 0), or a slope or ratio (ideally 1), is."""
    return value if ideal == 0 else float(abs(np.log(max(value, 1e-9) / ideal)))


def _comparisons(report: Report, window: EvaluationWindow, settings: RetrainingSettings) -> list[GateComparison]:
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
