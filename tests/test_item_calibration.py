from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop_world import shop, vectors

from recllm.base.errors import ModelError, UsageError
from recllm.base.schema import Action
from recllm.base.settings import ScorerTrainingSettings
from recllm.base.stats.ranking import Truth
from recllm.learn.training.calibration import (
    ItemOffsets,
    cold_start_weights,
    fit_item_offsets,
    item_offsets,
    load_item_offsets,
    poisson,
    save_item_offsets,
    with_offsets,
)
from recllm.learn.training.scorer import fit_scorer
from recllm.learn.training.windows import Window
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import read_model, save_model
from recllm.text.encoder.toy import ToyEncoder

NOTHING = Truth(np.array([0, 0]), np.zeros(0, np.int32))
QUICK = ScorerTrainingSettings(
    horizon_days=14, n_windows=3, epochs=2, hidden=(16,), projection=4, batch_size=8, min_steps=1
)


def ratios(observed: list[float], expected: list[float], group: list[int], strength: float = 50.0) -> np.ndarray:
    return np.exp(item_offsets(np.array(observed), np.array(expected), np.array(group), strength))


def test_an_item_taken_half_as_often_as_expected_gets_half_the_probability() -> None:
    ratio = ratios([50_000, 100_000], [100_000, 100_000], [-1, -1])
    assert ratio == pytest.approx([0.5, 1.0], rel=1e-3)
    assert with_offsets(np.float32([0.01, 0.01]), np.log(ratio)) == pytest.approx([0.005, 0.01], rel=0.01)


def test_a_thin_item_barely_moves() -> None:
    assert ratios([0], [1], [-1]) == pytest.approx(50 / 51)
    assert ratios([2], [1], [-1]) == pytest.approx(52 / 51)


def test_a_thin_item_follows_its_group_and_a_thick_one_itself() -> None:
    expected, group = [10_000.0, 0.01, 10_000.0, 0.01], [0, 0, 1, 1]
    ratio = ratios([20_000, 0, 5_000, 0], expected, group)
    assert ratio == pytest.approx([2, 2, 0.5, 0.5], rel=0.02)
    assert ratios([20_000, 0], [10_000, 0], [-1, -1])[1] == 1.0  # no group in common


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 50), st.integers(-1, 3)), min_size=1, max_size=30))
def test_a_ratio_lies_between_what_was_seen_and_the_prior(rows: list[tuple[int, float, int]]) -> None:
    observed, expected, group = (list(column) for column in zip(*rows, strict=True))
    assert (ratios(observed, expected, group) > 0).all()
    same = ratios(expected, expected, group)
    assert same == pytest.approx(np.ones(len(rows)))


@given(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=2, max_size=20), st.floats(-3, 3))
def test_the_order_of_one_items_probabilities_stays_and_they_stay_probabilities(p: list[float], offset: float) -> None:
    moved = with_offsets(np.sort(np.float32(p)), np.full(len(p), np.float32(offset)))
    assert ((moved >= 0) & (moved <= 1)).all() and (np.diff(moved) >= 0).all()


def test_cold_items_have_none_and_sampled_pairs_weigh_what_they_stand_for() -> None:
    data = shop()
    never = np.setdiff1d(np.arange(data.n_items), data.events.item)
    data = replace(data, events=data.events.select(data.events.item != 0))  # as if item 0 had never sold
    n = 400
    window = Window(
        indptr=np.array([0, n]),
        item=np.repeat(np.array([0, 5], np.int32), n // 2),
        label=np.zeros(n, bool),
        bought_before=np.zeros(n, bool),
        correction=np.log(np.full(n, 10.0, np.float32)),
        features=np.zeros((n, 0), np.float32),
        cosine=np.zeros(n, np.float32),
        user_vectors=np.zeros((1, 2), np.float32),
        bought=NOTHING,
        discovered=NOTHING,
        vector_items=np.array([0, 5]),
        item_vectors=np.zeros((2, 2), np.float32),
    )
    found = fit_item_offsets(np.full(n, 0.05, np.float32), window, data, (Action.PURCHASE,), 50.0)
    assert found[0] == 0 and (found[never] == 0).all()
    assert found[5] < np.log(51 / (51 + 100))  # 200 pairs stand for 2,000 and for 100 expected takings; none came


@pytest.fixture(scope="module")
def calibrated() -> Recommender:
    return Recommender(shop(), ToyEncoder()).fit(QUICK)


def test_the_slate_keeps_its_order_and_scores(calibrated: Recommender) -> None:
    assert calibrated.model is not None and calibrated.model.item_offsets is not None
    model = replace(calibrated.model, item_offsets=None)
    plain = Recommender(calibrated.dataset, ToyEncoder(), model=model)
    for with_it, without in zip(
        calibrated.recommend(["u00", "u01"], k=8, explain=False),
        plain.recommend(["u00", "u01"], k=8, explain=False),
        strict=True,
    ):
        assert [(r.item_id, r.score) for r in with_it.items] == [(r.item_id, r.score) for r in without.items]
        assert [r.probability for r in with_it.items] != [r.probability for r in without.items]
        offsets = calibrated.item_offsets[calibrated.dataset.item_rows([r.item_id for r in with_it.items])]
        expected = with_offsets(np.float32([r.probability for r in without.items]), offsets)
        assert [r.probability for r in with_it.items] == pytest.approx(expected.tolist(), abs=1e-6)


def test_it_is_stored_with_the_model_and_follows_the_ids(calibrated: Recommender, tmp_path: Path) -> None:
    save_model(calibrated.model, tmp_path)
    again = read_model(tmp_path).item_offsets
    ids = calibrated.dataset.items["item_id"].to_list()
    assert np.array_equal(again.bind(ids), calibrated.item_offsets)
    assert np.array_equal(again.bind([*ids[::-1], "new"]), [*calibrated.item_offsets[::-1], 0])


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assert load_item_offsets(tmp_path) is None
    save_item_offsets(ItemOffsets.of(["a", "b", "c"], np.float32([0.5, 0, -1])), tmp_path)
    assert load_item_offsets(tmp_path).item_ids == ("a", "c")
    (tmp_path / "item_offsets.json").write_text('{"item_ids": ["a"]}')
    with pytest.raises(ModelError, match="train again"):
        load_item_offsets(tmp_path)
    (tmp_path / "item_offsets.safetensors").unlink()
    with pytest.raises(ModelError, match="train again"):
        load_item_offsets(tmp_path)


def test_it_can_be_left_out_and_a_weightless_prior_is_refused() -> None:
    data = shop()
    assert (
        fit_scorer(data, vectors(data), None, QUICK.model_copy(update={"item_calibration": False})).item_offsets is None
    )
    for strength in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="prior"):
            ratios([1], [1], [0], strength)


# --- what is offered to people who have done nothing yet -------------------------------------------------------------


def test_without_anybody_to_learn_from_newcomers_get_what_sells() -> None:
    weights = cold_start_weights([], 1.0)
    assert weights[0] == 1 and not weights[1:].any()


def test_rates_are_found_again_from_counts_and_from_a_weighed_sample_of_them() -> None:
    rng, true = np.random.default_rng(0), np.array([0.8, -0.5, -3.0])
    x = rng.normal(size=(200_000, 2))
    label = (rng.random(len(x)) < np.exp(x @ true[:2] + true[2])).astype(np.float64)
    start = np.array([1.0, 0.0, 0.0])
    assert np.allclose(poisson(x, label, np.zeros(len(x)), start, 1.0), true, atol=0.05)
    kept = (label > 0) | (rng.random(len(x)) < 0.1)  # one negative of ten, which stands for ten
    weight = np.where(label > 0, 0.0, np.log(10.0))[kept]
    assert np.allclose(poisson(x[kept], label[kept], weight, start, 1.0), true, atol=0.05)


def test_too_little_to_learn_from_leaves_popularity() -> None:
    x, label = np.array([[2.0, 1.0], [1.0, 0.0]]), np.array([1.0, 0.0])
    weights = poisson(x, label, np.zeros(2), np.array([1.0, 0.0, 0.0]), 1.0)
    assert abs(weights[0] - 1) < 0.3 and abs(weights[1]) < 0.3
