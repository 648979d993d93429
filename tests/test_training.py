from __future__ import annotations

from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import polars as pl
import pytest
import torch
from base import learn_scorer, log_lessons
from contracts_encoder import Counting
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_world import START, shop, vectors

from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.base.stats.ranking import Truth
from recllm.learn.features.candidates import CandidateCounts, Candidates
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.item_vectors import DatedItemVectors, item_vectors
from recllm.learn.features.pair_features import FEATURE_NAMES
from recllm.learn.models.scorer import counting_score, sales
from recllm.learn.models.trees import BoostingSettings, grow_trees
from recllm.learn.training import scorer as training
from recllm.learn.training.scorer import calibrate, fit_scorer, level, listwise
from recllm.learn.training.windows import PastWindows, Window, list_quality, sample_negatives, window_starts
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import Pairs
from recllm.text.encoder.toy import ToyEncoder

QUICK = ScorerTrainingSettings(
    horizon_days=14, n_windows=3, epochs=3, hidden=(16,), projection=4, batch_size=8, min_steps=1
)
DATA = shop()


def test_a_shop_of_favourites_is_learned() -> None:
    data = shop(people=120)  # 24 to judge by: of 8 the verdict hangs on one of them
    fitted = fit_scorer(data, vectors(data), None, QUICK.model_copy(update={"min_steps": 250}))
    assert fitted.metrics["ndcg@20_all"] > 0.85  # .58 before training
    assert fitted.population.target == (Action.PURCHASE,) and not fitted.notes and fitted.scorer.config.counts


def test_one_scorer_of_two_logs_ranks_for_the_users_of_a_third() -> None:
    """`finetune/base.py`."""
    first, second, third = (log_lessons(shop(seed=n, people=60), ToyEncoder(), QUICK, 30) for n in (1, 2, 3))
    assert {window.n for window in first.windows} == {30} and third.validation is not None
    scorer = learn_scorer([first, second], QUICK, first.validation)
    assert list_quality(training.predict(scorer, third.validation), third.validation)["ndcg@20_all"] > 0.6


def test_a_small_shop_learns_from_all_and_is_judged_by_users_that_the_judged_scorer_has_not_seen() -> None:
    with patch.object(training, "grow_trees", wraps=training.grow_trees) as grown:
        fit_scorer(DATA, vectors(DATA), None, QUICK)
        fit_scorer(DATA, vectors(DATA), None, QUICK.model_copy(update={"n_windows": 1}))
        with patch.object(training, "SMALL_SHOP", 1):
            large = fit_scorer(DATA, vectors(DATA), None, QUICK)
    judged, served, alone, once_more = (len(call.args[0]) for call in grown.call_args_list)
    latest = _window(DATA, DATA.as_of - 14 * DAY)
    assert served - judged == len(latest.item) and latest.n > 30  # of 40 users, of whom a fifth judged before
    assert alone == once_more < len(latest.item)  # of one window a fifth of the users judge
    assert not large.scorer.config.counts and large.metrics["epoch"] in (1, 2, 3)


def test_counting_orders_by_what_was_bought_then_by_what_sells_and_reads_texts_of_what_is_new() -> None:
    rows = {"often": (2.0, 1.0, 0, 1), "once": (1.0, 1.0, 0.9, 1), "seller": (0, 3.0, 0, 0), "alike": (0, 3.0, 0.5, 0)}
    rows |= {"nothing": (0, 0, 0, 0), "viewed": (0, 0, 0, 0)}
    features = np.zeros((len(rows), len(FEATURE_NAMES)), np.float32)
    columns = [FEATURE_NAMES.index(name) for name in ("count_120", "buyers_28", "text_nearest", "times")]
    features[:, columns] = np.array(list(rows.values()))
    features[list(rows).index("viewed"), FEATURE_NAMES.index("views")] = 1.0
    best_seller = float(sales(np.expm1(3.0), 0.0))
    order = np.argsort(-counting_score(features, FEATURE_NAMES, best_seller))
    assert [list(rows)[row] for row in order] == ["often", "once", "viewed", "alike", "seller", "nothing"]


def test_trees_correct_a_known_score_and_say_little_where_it_is_right() -> None:
    values, drawn = np.random.default_rng(0).random((2, 2_000, 2))
    known = 6 * values[:, 0] - 3
    label = (drawn[:, 0] < 1 / (1 + np.exp(-known))).astype(float)
    alone, right, wrong = (
        grow_trees(values, label, BoostingSettings(), offset=offset).score(values) for offset in (None, known, -known)
    )
    assert 4 * right.std() < alone.std() < wrong.std()


@pytest.mark.parametrize("small_shop", [1, 1_000])
def test_a_seed_gives_one_model_in_two_threads_and_leaves_the_callers_random_state_alone(small_shop: int) -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with patch.object(training, "SMALL_SHOP", small_shop):
        alone, other = (fit_scorer(DATA, vectors(DATA), None, QUICK.model_copy(update={"seed": n})) for n in (0, 1))
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(6)
        torch.set_num_threads(2)
        try:
            first, second = (fit_scorer(DATA, vectors(DATA), None, QUICK).scorer for _ in range(2))
        finally:
            torch.set_num_threads(threads)
    for name, value in first.weights.items():
        assert np.array_equal(value, second.weights[name]), name
        assert np.allclose(value, alone.scorer.weights[name], atol=1e-4), name
    assert not np.array_equal(first.weights["projection.weight"], other.scorer.weights["projection.weight"])
    same = [np.array_equal(x, first.weights[n]) for n, x in other.scorer.weights.items() if n.startswith("tree_")]
    assert len(same) == (2 if small_shop > 1 else 0) and not (same and all(same))


def test_the_parts_of_a_batch_sum_to_its_loss_and_gradient() -> None:
    window = _window(DATA, DATA.as_of - 14 * DAY)
    everybody = np.arange(window.n)
    scorer = training._untrained([window], QUICK, [])
    whole = window.buyers_among(everybody)
    sums = []
    for parts in ([everybody], [everybody[:3], everybody[3:4], everybody[4:]]):
        scorer.zero_grad()
        loss = sum(training._add_gradient(scorer, window, QUICK, whole, part) for part in parts)
        sums.append((loss, torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])))
    assert whole[0] > 4 and sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)
    assert torch.allclose(sums[0][1], sums[1][1], atol=1e-5) and sums[0][1].abs().max() > 1e-3


def test_a_window_knows_nothing_of_what_comes_after_it() -> None:
    whole, half = DATA, DATA.before(DATA.as_of - 14 * DAY)
    start = DATA.as_of - 28 * DAY
    one, two = (_window(d, start) for d in (whole, half))
    for name in ("item", "label", "features", "cosine", "user_vectors", "item_vectors"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def _past(data: Dataset, basics: np.ndarray | None = None, **options: Any) -> PastWindows:
    settings = CollaborativeSettings(), CandidateCounts()
    return PastWindows(data, vectors(data), basics, QUICK, *settings, **options)


def _window(data: Dataset, start: int) -> Window:
    past = _past(data)
    return past.window(past.population(start))[0]


def test_judges_are_other_people_with_whole_lists() -> None:
    past = _past(DATA, negatives=(1, 1))
    learned, judges = past.window(past.population(DATA.as_of - 14 * DAY), n_validation=5)
    assert judges is not None and (learned.n, judges.n) == (35, 5)
    assert not judges.correction.any() and learned.correction.any()
    assert np.diff(judges.indptr).min() > np.diff(learned.indptr).max()


def test_people_with_basics_are_shown_once_more_without_their_history() -> None:
    basics = np.zeros((DATA.n_users, 8), np.float32)
    basics[:10, 0] = 1
    past = _past(DATA, basics, new_users_per_window=8)
    crowd = past.population(DATA.as_of - 14 * DAY)
    newcomers, learned = past.new_users(crowd), past.window(crowd)[0]
    assert newcomers is not None and newcomers.n == 8
    assert not newcomers.features[:, FEATURE_NAMES.index("events")].any() and not newcomers.bought_before.any()
    assert newcomers.label.any() and np.any(newcomers.user_vectors, axis=1).all()
    assert learned.features[learned.indptr[:-1], FEATURE_NAMES.index("events")].all()


def test_what_goes_with_what_forgets_unless_times_mean_nothing() -> None:
    rows = [(f"u{n}", item, day * DAY) for n in range(6) for item, day in (("tea", 0), ("pot", 0), ("cup", 360))]
    events = pl.DataFrame(
        [*rows, ("v", "tea", 0), ("w", "tea", 359 * DAY)], schema=["user_id", "item_id", "timestamp"], orient="row"
    )
    data = Dataset.construct(events)
    asked = data.events.rows(np.array([data.users["user_id"].to_list().index(name) for name in ("v", "w")]))
    pot = int(data.item_rows(["pot"])[0])

    def score(half_life_days: float | None) -> list[float]:
        settings = CollaborativeSettings(item_item_half_life_days=half_life_days, item_item_l2=0.1)
        crowd = CollaborativeStatistics.fit(data, np.eye(data.n_items, 8, dtype=np.float32), settings)
        pairs = Pairs(np.arange(3), np.array([pot, pot], np.int32))
        return ask(crowd, asked, data.as_of).item_item.at(pairs.item, pairs).tolist()

    old, recent = score(30.0)
    assert 0 < old < recent / 100
    old, recent = score(None)
    assert old == recent > 0


def test_too_few_purchases_let_stronger_browsing_stand_in_and_say_so() -> None:
    fitted = fit_scorer(shop(kind="cart"), vectors(DATA), None, QUICK)
    assert fitted.population.target == (Action.PURCHASE, Action.CART, Action.FAVOURITE)
    assert "only 0 purchases" in fitted.notes[0]
    viewed = fit_scorer(shop(kind="view"), vectors(DATA), None, QUICK)
    assert Action.VIEW in viewed.population.target


def test_what_cannot_be_learned_from_says_what_is_missing() -> None:
    rows = [(f"u{i % 20}", f"i{i}", i * DAY) for i in range(300)]
    once = Dataset.construct(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    far = QUICK.model_copy(update={"horizon_days": 90})
    for data, of_items, args, says in (
        (DATA.before(0), vectors(DATA), QUICK, r"0 purchases .* needs 200"),
        (DATA, vectors(DATA), far, r"spans 9\d days; .*horizon_days=90 needs 135.*pass horizon_days=3\d"),
        (once, np.eye(once.n_items, 8, dtype=np.float32), QUICK, "nothing to learn"),
        (DATA, vectors(DATA)[1:], QUICK, "item_vectors"),
    ):
        with pytest.raises(DataError, match=says):
            fit_scorer(data, of_items, None, args)


def test_windows_stand_back_to_back_and_keep_half_of_the_log_before_them() -> None:
    starts = window_starts(DATA, (Action.PURCHASE,), QUICK.model_copy(update={"n_windows": 99}))
    span = DATA.as_of - DATA.events.at.min()
    assert len(starts) == 3 and starts[0] == DATA.as_of - 14 * DAY
    assert set(np.diff(starts)) == {-14 * DAY}
    assert starts[-1] - DATA.events.at.min() >= span / 2
    assert len(window_starts(DATA, (Action.PURCHASE,), QUICK.model_copy(update={"horizon_days": 60}))) == 1


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = training._epoch, []

    def breaks(*args: object) -> float:
        calls.append(1)
        return real(*args) if len(calls) == 1 else float("nan")  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_epoch", breaks)
    said: list[str] = []
    window = _window(DATA, DATA.as_of - 14 * DAY)
    network, metrics = training.learn([window], QUICK, window, said.append)
    assert metrics["epoch"] == 1 and "not finite" in said[-1]
    assert all(torch.isfinite(v).all() for v in network.state_dict().values())
    monkeypatch.setattr(training, "SMALL_SHOP", 1)
    with pytest.raises(DataError, match="not finite"):
        fit_scorer(DATA, vectors(DATA), None, QUICK)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(-50, 50)), min_size=1, max_size=20))
def test_the_listwise_loss_is_what_its_formula_says(pairs: list[tuple[int, bool, float]]) -> None:
    person = torch.tensor([p for p, _, _ in pairs])
    label = torch.tensor([y for _, y, _ in pairs])
    logit = torch.tensor([s for _, _, s in pairs])
    expected = []
    for p in range(4):
        mine = person == p
        if label[mine].any():
            expected.append(-torch.log_softmax(logit[mine], 0)[label[mine]].mean())
    found = listwise(logit, logit, label, person, 4)
    torch.testing.assert_close(found, torch.stack(expected).mean() if expected else torch.zeros(()))


def test_the_level_is_right_when_the_expected_takings_are_what_was_taken() -> None:
    person, label = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([True, True, False, True, False])
    right = torch.log(torch.tensor([1.0, 0.5, 0.5, 1.0, 7.0]))
    assert level(right, label, person, 4) == pytest.approx(0, abs=1e-10)
    assert level(right + 1, label, person, 4) == pytest.approx(1)


def test_sampled_negatives_stand_for_all_of_them() -> None:
    rng, n = np.random.default_rng(0), 500
    pairs = Candidates(np.array([0, n, 2 * n]), np.tile(np.arange(n, dtype=np.int32), 2), np.zeros(2 * n, np.uint16))
    label, seen = rng.random(2 * n) < 0.02, rng.random(2 * n) < 0.3
    kept, correction = sample_negatives(pairs, label, seen, (60, 90), rng)
    for kind, wanted in ((seen, 60), (~seen, 90)):
        for user in (0, 1):
            mine = kind & ~label & (pairs.user == user)
            assert (kept & mine).sum() == wanted
            assert np.exp(correction[kept & mine]).sum() == pytest.approx(mine.sum(), rel=1e-4)
    assert kept[label].all() and not correction[label].any()


def _calibrated(logit: np.ndarray, label: np.ndarray, correction: np.ndarray) -> list[float]:
    n = len(logit)
    taken = dict.fromkeys(("bought", "discovered"), Truth(np.array([0, 0]), np.zeros(0, np.int32)))
    vectors = dict.fromkeys(("user_vectors", "item_vectors"), logit[:1, None])
    pairs: dict[str, Any] = {"indptr": np.array([0, n]), "item": np.zeros(n, np.int32), "bought_before": label}
    pairs |= {"label": label, "correction": correction, "features": logit[:, None], "cosine": logit}
    window = Window(as_of=0, vector_items=np.array([0]), **pairs, **taken, **vectors)
    return list(calibrate(logit, window, 10.0).tolist())


def test_calibration_recovers_the_sigmoid_that_made_the_data() -> None:
    rng, n = np.random.default_rng(0), 20_000
    logit = rng.normal(size=n).astype(np.float32)
    label = rng.random(n) < 1 / (1 + np.exp(-(1.5 * logit - 2)))
    whole = _calibrated(logit, label, np.zeros(n, np.float32))
    assert whole == pytest.approx([1.5, -2], abs=0.1)
    kept = label | (rng.random(n) < 0.25)
    standing_for = np.where(label, 0, np.log(4)).astype(np.float32)
    assert _calibrated(logit[kept], label[kept], standing_for[kept]) == pytest.approx(whole, abs=0.1)


def test_a_handful_of_people_cannot_turn_the_calibration_round() -> None:
    logit = np.array([5, -1, -2, -3], np.float32)
    slope, intercept = _calibrated(logit, np.array([False, False, False, True]), np.zeros(4, np.float32))
    assert slope > 0.3 and np.isfinite(intercept)
    slope, intercept = _calibrated(logit, np.zeros(4, bool), np.zeros(4, np.float32))
    mean = (1 / (1 + np.exp(-(slope * logit + intercept)))).mean()
    assert slope > 0 and mean == pytest.approx(1 / 6, abs=0.02)  # none of four: Platt's smoothed rate


def _without_catalogue_prices() -> Dataset:
    """The shop's events carry prices, its catalogue does not, and `late` is first sold in the latest window."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", f"tea{int(item)}", START + (visit * 7 + user % 7) * DAY, 2.0 + item)
        for user in range(40)
        for visit in range(14)
        for item in rng.choice(12, 2, replace=False)
    ]
    rows += [(f"u{user:02}", "late", START + 95 * DAY, 500.0) for user in range(20)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "price"], orient="row")
    items = events.select("item_id", title="item_id").unique(maintain_order=True)
    return Dataset.construct(events, items=items.with_columns(category=pl.lit(["food", "tea"], pl.List(pl.String))))


def test_item_vectors_of_a_past_window_know_only_the_prices_paid_before_it() -> None:
    data, encoder = _without_catalogue_prices(), Counting()
    start, late = data.as_of - 14 * DAY, int(data.item_rows(["late"])[0])
    dated = DatedItemVectors(encoder, data)
    assert len(encoder.seen) == len(set(encoder.seen))
    assert np.array_equal(dated.before(start), item_vectors(ToyEncoder(), data.before(start)))
    assert not np.allclose(dated.before(start)[late], dated.latest[late])
    assert np.array_equal(dated.before(data.as_of), dated.latest)
    priced = DatedItemVectors(ToyEncoder(), DATA)
    assert priced.before(DATA.as_of - 28 * DAY) is priced.latest, "catalogue prices hold at all times"

    settings = CollaborativeSettings(), CandidateCounts()
    past = PastWindows(data, dated.latest, None, QUICK, *settings, dated.before)
    window = past.window(past.population(start))[0]
    assert np.array_equal(window.item_vectors, dated.before(start)[window.vector_items])

    fit_scorer(data, dated.latest, None, QUICK, vectors_before=(before := Mock(wraps=dated.before)))
    assert set(window_starts(data, (Action.PURCHASE,), QUICK)) <= {call.args[0] for call in before.call_args_list}


def test_a_recommender_learns_from_the_vectors_of_the_time_and_encodes_each_text_once() -> None:
    data, encoder = _without_catalogue_prices(), Counting()
    fitted = Recommender(data, encoder).fit(QUICK)
    assert len(encoder.seen) == len(set(encoder.seen))
    assert fitted.model is not None
    known_all_along = fit_scorer(data, item_vectors(ToyEncoder(), data), None, QUICK).scorer.weights
    assert any(not np.array_equal(fitted.model.scorer.weights[name], known_all_along[name]) for name in known_all_along)
