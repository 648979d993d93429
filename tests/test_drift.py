"""Checks of a serving model, and the gate's rule, on numbers that can be followed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from shop_world import shop

from recllm.base.schema import ACTION_CODE, Action
from recllm.base.settings import RetrainingSettings
from recllm.base.stats.probabilities import chance_index, stability_index
from recllm.recommend.evaluation.drift import (
    age_check,
    data_drift,
    objections,
    verdict,
)
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


def test_the_stability_index_is_the_textbook_sum() -> None:
    reference, recent = np.array([500_000, 300_000, 200_000]), np.array([400_000, 300_000, 300_000])
    by_hand = -0.1 * np.log(0.8) + 0.1 * np.log(1.5)
    assert stability_index(reference, recent) == pytest.approx(by_hand, rel=1e-4)
    assert stability_index(recent, reference) == pytest.approx(by_hand, rel=1e-4)
    assert stability_index(reference, 7 * reference) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(stability_index(np.array([10, 0]), np.array([0, 10]))), "an empty bin has a share, too"


def test_chance_exceeds_its_index_once_in_twenty_times() -> None:
    rng, shares = np.random.default_rng(0), np.full(10, 0.1)
    limit = chance_index(10, 400, 300)
    draws = [stability_index(rng.multinomial(400, shares), rng.multinomial(300, shares)) for _ in range(2000)]
    assert np.mean(np.array(draws) > limit) == pytest.approx(0.05, abs=0.02)


def drift_of(dataset: Dataset, trained_until: int) -> Mapping[str, CheckFigure]:
    end = (dataset.as_of // DAY + 1) * DAY
    return data_drift(dataset, trained_until, end, SETTINGS).figures


def test_a_log_like_before_does_not_drift() -> None:
    data = shop(visits=14)
    until = int(data.events.at.min()) + 10 * 7 * DAY
    figures = drift_of(data, until)
    assert figures["new_events"].value == pytest.approx(4 / 10, abs=0.01)
    assert figures["new_items"].value == 0
    assert not any(figures[name].is_beyond for name in ("categories", "actions", "prices"))


def test_each_kind_of_drift_has_its_figure() -> None:
    data = shop(visits=14)
    until = int(data.events.at.min()) + 10 * 7 * DAY
    e, late = data.events, data.events.at >= until
    is_tool = data.items["item_id"].str.starts_with("tool").to_numpy()
    tools = np.flatnonzero(is_tool)

    def changed(**columns: np.ndarray) -> Mapping[str, CheckFigure]:
        return drift_of(Dataset(data.users, data.items, type(e)(**{**vars(e), **columns}), data.as_of), until)

    item = np.where(late & ~is_tool[e.item], tools[0], e.item).astype(np.int32)
    figures = changed(item=item)
    assert figures["categories"].is_beyond and not figures["prices"].is_beyond
    assert changed(price=np.where(late, 3 * e.price, e.price).astype(np.float32))["prices"].is_beyond
    viewed = np.where(late & (np.arange(len(e)) % 2 == 0), ACTION_CODE[Action.VIEW], e.action).astype(np.uint8)
    assert changed(action=viewed)["actions"].is_beyond
    arrivals = ~np.isin(e.item, e.item[~late][:200])  # what sold early keeps its place, all else counts as new
    only_known = changed(action=np.where(~late & arrivals, ACTION_CODE[Action.VIEW], e.action).astype(np.uint8))
    assert (only_known["new_items"].value or 0) > 0 or not arrivals.any()


def test_too_few_people_conclude_nothing() -> None:
    figures = drift_of(shop(people=20), shop(people=20).as_of - 28 * DAY)
    assert all(figures[name].value is None for name in ("categories", "actions", "prices"))
    assert verdict({"categories": CheckFigure(value=None)}) is CheckVerdict.UNKNOWN


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
    return RetrainCheck(kind=CheckKind.CALIBRATION, verdict=verdict({"ece": figure}), figures={"ece": figure})


GOOD = (calibration(0.01), calibration(0.01))
NOTHING: tuple[GateReason, ...] = ()


@pytest.mark.parametrize(
    ("comparisons", "calibrations", "coverage", "against", "uncertain"),
    [
        ((comparison(0.01, 0.03),), GOOD, (0.2, 0.2), NOTHING, NOTHING),
        ((comparison(-0.011, 0.02),), GOOD, (0.2, 0.2), NOTHING, NOTHING),
        ((comparison(-0.013, 0.02),), GOOD, (0.2, 0.2), NOTHING, (GateReason.NOT_PROVEN,)),
        ((comparison(-0.03, -0.001),), GOOD, (0.2, 0.2), (GateReason.WORSE,), NOTHING),
        ((comparison(-0.005, -0.001),), GOOD, (0.2, 0.2), (GateReason.WORSE,), NOTHING),
        ((comparison(0.1, 0.2), comparison(-0.2, -0.1, slice="NEW")), GOOD, (0.2, 0.2), (GateReason.WORSE,), NOTHING),
        ((comparison(0.1, 0.2), comparison(-0.2, -0.1, people=9)), GOOD, (0.2, 0.2), NOTHING, NOTHING),
        ((comparison(0.1, 0.2, people=9),), GOOD, (0.2, 0.2), NOTHING, (GateReason.TOO_FEW_PEOPLE,)),
        ((), GOOD, (None, None), NOTHING, (GateReason.TOO_FEW_PEOPLE,)),
        ((comparison(0, 0.1),), (calibration(0.12), GOOD[1]), (0.2, 0.2), (GateReason.MISCALIBRATED,), NOTHING),
        ((comparison(0, 0.1),), (calibration(0.12), calibration(0.115)), (0.2, 0.2), NOTHING, NOTHING),
        ((comparison(0, 0.1),), GOOD, (0.13, 0.2), (GateReason.NARROW,), NOTHING),
        ((comparison(0, 0.1),), GOOD, (0.15, 0.2), NOTHING, NOTHING),
    ],
)  # fmt: skip
def test_what_speaks_against_a_challenger(
    comparisons: tuple[GateComparison, ...],
    calibrations: tuple[RetrainCheck, RetrainCheck],
    coverage: tuple[float | None, float | None],
    against: tuple[GateReason, ...],
    uncertain: tuple[GateReason, ...],
) -> None:
    assert objections(comparisons, calibrations, coverage, RetrainingSettings()) == (against, uncertain)
