"""Checks of a serving model, and the gate's rule, on numbers that can be followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from shop_world import shop

from recllm.base.schema import ACTION_CODE, Action
from recllm.base.settings import RetrainingSettings
from recllm.recommend.evaluation.drift import age_check, check_of, data_drift, objections
from recllm.recommend.recommender.lineage import (
    CheckFigure,
    CheckKind,
    CheckVerdict,
    GateComparison,
    GateReason,
    RetrainCheck,
)
from recllm.shop.data.dataset import DAY, Dataset

SETTINGS = RetrainingSettings(window_days=28)


def drift_of(dataset: Dataset, trained_until: int) -> Mapping[str, CheckFigure]:
    end = (dataset.as_of // DAY + 1) * DAY
    return data_drift(dataset, trained_until, end, SETTINGS).figures


def test_what_came_since_is_counted() -> None:
    data = shop(visits=14)
    until = int(data.events.at.min()) + 10 * 7 * DAY
    figures = drift_of(data, until)
    assert figures["new_events"].value == pytest.approx(4 / 10, abs=0.01) and figures["new_events"].is_beyond
    assert figures["new_items"].value == 0
    e, late = data.events, data.events.at >= until
    arrived = np.isin(e.item, np.unique(e.item)[::2]) & ~late  # half of the items were only looked at before
    action = np.where(arrived, ACTION_CODE[Action.VIEW], e.action).astype(np.uint8)
    figures = drift_of(replace(data, events=replace(e, action=action)), until)
    expected = np.isin(e.item[late], np.unique(e.item)[::2]).mean()
    assert figures["new_items"].value == pytest.approx(expected) and figures["new_items"].is_beyond


def test_nothing_to_compare_with_concludes_nothing() -> None:
    assert drift_of(shop(people=20), 0)["new_events"].value is None
    unknown = check_of(CheckKind.DATA_DRIFT, {"new_events": CheckFigure(value=None)})
    assert unknown.verdict is CheckVerdict.UNKNOWN


def test_age_is_counted_from_the_end_of_what_was_learned() -> None:
    for days, expected in ((56, CheckVerdict.NOT_DUE), (57, CheckVerdict.DUE)):
        check = age_check(0, days * DAY, RetrainingSettings())
        assert (check.verdict, check.figures["days"].value) == (expected, days)


def comparison(low: float, high: float, *, people: int = 500, slice: str = "ALL") -> GateComparison:
    return GateComparison(
        slice=slice, metric="ndcg@20", people=people, challenger=0.4 + (low + high) / 2, serving=0.4,
        difference=(low + high) / 2, low=low, high=high, margin=0.012,
    )  # fmt: skip


def calibration(ece: float) -> RetrainCheck:
    figure = CheckFigure(value=ece, low=ece - 0.01, high=ece + 0.01, upper_limit=0.05, is_beyond=ece > 0.06)
    return check_of(CheckKind.CALIBRATION, {"ece": figure})


GOOD = (calibration(0.01), calibration(0.01))
NOTHING: tuple[GateReason, ...] = ()


@pytest.mark.parametrize(
    ("comparisons", "calibrations", "against", "uncertain"),
    [
        ((comparison(0.01, 0.03),), GOOD, NOTHING, NOTHING),
        ((comparison(-0.011, 0.02),), GOOD, NOTHING, NOTHING),
        ((comparison(-0.013, 0.02),), GOOD, NOTHING, (GateReason.NOT_PROVEN,)),
        ((comparison(-0.03, -0.001),), GOOD, (GateReason.WORSE,), NOTHING),
        ((comparison(-0.005, -0.001),), GOOD, (GateReason.WORSE,), NOTHING),
        ((comparison(0.1, 0.2), comparison(-0.2, -0.1, slice="NEW")), GOOD, (GateReason.WORSE,), NOTHING),
        ((comparison(0.1, 0.2), comparison(-0.2, -0.1, people=9)), GOOD, NOTHING, NOTHING),
        ((comparison(0.1, 0.2, people=9),), GOOD, NOTHING, (GateReason.TOO_FEW_PEOPLE,)),
        ((), GOOD, NOTHING, (GateReason.TOO_FEW_PEOPLE,)),
        ((comparison(0, 0.1),), (calibration(0.12), GOOD[1]), (GateReason.MISCALIBRATED,), NOTHING),
        ((comparison(0, 0.1),), (calibration(0.12), calibration(0.115)), NOTHING, NOTHING),
    ],
)  # fmt: skip
def test_what_speaks_against_a_challenger(
    comparisons: tuple[GateComparison, ...],
    calibrations: tuple[RetrainCheck, RetrainCheck],
    against: tuple[GateReason, ...],
    uncertain: tuple[GateReason, ...],
) -> None:
    assert objections(comparisons, calibrations) == (against, uncertain)
