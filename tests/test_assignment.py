"""Campaigns that compete: small problems against brute force, larger ones against the linear program of all pairs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_world import shop

from recllm.base.errors import PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.settings import ScorerTrainingSettings
from recllm.market.audiences import assignment
from recllm.market.audiences.assignment import assign, select_jointly
from recllm.market.audiences.audience import build_audience, eligible_pool, find_audience
from recllm.market.audiences.request import AudienceLimits, AudienceRequest, Exclusions
from recllm.market.audiences.targets import audience_target
from recllm.recommend.recommender.recommender import Recommender
from recllm.text.encoder.toy import ToyEncoder


def by_trying_all(gain: np.ndarray, limit: list[int], contacts: int) -> float:
    """Every set of pairs that keeps the limits."""
    best = 0.0
    for bits in product((0, 1), repeat=gain.size):
        x = np.array(bits).reshape(gain.shape)
        if (x.sum(axis=0) <= limit).all() and (x.sum(axis=1) <= contacts).all():
            best = max(best, float((x * gain).sum()))
    return best


SMALL = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=SMALL)
def test_the_optimum_of_tiny_problems(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m, contacts = int(rng.integers(1, 5)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    gain = rng.choice([0.0, 0.1, 0.25, 0.5, 0.9], size=(n, m)) * rng.choice([1.0, 2.0, 7.5], m)
    limits = rng.integers(0, 4, m)
    person, campaign = assign(gain, limits, contacts)
    best = by_trying_all(gain, limits.tolist(), contacts)
    assert best * (1 - 5e-4) - 1e-9 <= gain[person, campaign].sum() <= best + 1e-9
    assert (gain[person, campaign] > 0).all() and (np.bincount(person, minlength=n) <= contacts).all()
    assert (np.bincount(campaign, minlength=m) <= limits).all()
    assert len({*zip(person.tolist(), campaign.tolist(), strict=True)}) == len(person)


@settings(max_examples=15, deadline=None)
@given(seed=SMALL)
def test_left_out_pairs_cost_next_to_nothing(seed: int) -> None:
    """Against the program over all pairs, also where ours has the best of each person only."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    n, m = 40, 12
    gain, limits = rng.random((n, m)) * rng.random((n, 1)) * rng.lognormal(size=m), rng.integers(1, 8, m)
    rows = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    bounds = [*(2 for _ in range(n)), *limits]
    best = -linprog(-gain.ravel(), A_ub=rows, b_ub=bounds, bounds=(0, 1), method="highs").fun
    assert best * (1 - 5e-4) <= gain[*assign(gain, limits, 2)].sum() <= best + 1e-7
    with pytest.MonkeyPatch.context() as few:
        few.setattr(assignment, "MOST_PAIRS", 100)
        assert best * 0.99 <= gain[*assign(gain, limits, 2)].sum() <= best + 1e-7


def test_who_gets_what_is_plain_where_it_is_plain() -> None:
    pairs = assign(np.array([[0.9, 0.8], [0.8, 0.1], [0.0, 0.3]]), np.array([1, 2]))
    assert {*zip(*pairs.tolist(), strict=True)} == {(0, 1), (1, 0), (2, 1)}
    for shape in ((0, 3), (5, 0), (0, 0)):
        assert not assign(np.zeros(shape), np.full(shape[1], 5)).size
    assert not assign(np.ones((5, 1)), np.zeros(1, int), 3).size


def test_two_campaigns_of_one_name_are_told() -> None:
    with pytest.raises(UsageError, match="two campaigns are called 'a'"):
        select_jointly([], ["a", "b", "a"], [AudienceLimits()] * 3, 1)


def test_without_time_there_is_an_answer_that_keeps_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    gain, limits = np.random.default_rng(0).random((300, 6)), np.arange(20, 26)
    best = gain[*assign(gain, limits)].sum()
    monkeypatch.setattr(assignment, "SECONDS", 1e-9)
    person, campaign = assign(gain, limits)
    assert 0.9 * best < gain[person, campaign].sum() <= best
    assert (np.bincount(campaign, minlength=6) <= limits).all() and np.bincount(person).max() == 1


def test_campaigns_that_are_all_alike_take_the_best_people() -> None:
    gain = np.repeat(np.random.default_rng(0).random((200, 1)), 5, axis=1)
    assert set(assign(gain, np.full(5, 10))[0].tolist()) == set(np.argsort(-gain[:, 0])[:50].tolist())


@pytest.fixture(scope="module")
def trained() -> Recommender:
    return Recommender(shop(people=60), ToyEncoder(), policy=Policy(group_floor=5)).fit(
        ScorerTrainingSettings(n_windows=2, epochs=2, min_steps=100)
    )


def test_tea_and_tools_each_reach_their_own(trained: Recommender) -> None:
    targets = {"tea": ["tea1", "tea2"], "tools": ["tool1", "tool2"]}
    limits = [
        AudienceLimits(margin=5, size=20, holdout=0.2),
        AudienceLimits(margin=50, cost=1, budget=15, holdout=0.2),
    ]
    pools = [eligible_pool(trained, audience_target(trained, items)[1], Exclusions()) for items in targets.values()]
    selections = select_jointly(pools, list(targets), limits, trained.dataset.n_users)
    tea, tools = (
        build_audience(trained, pool, selection, name, explain_first=0)
        for pool, selection, name in zip(pools, selections, targets, strict=True)
    )
    assert (tea.campaign_id, tools.campaign_id) == ("tea", "tools")
    assert all(int(p.user_id[1:]) % 2 == 0 for p in tea.people)
    assert all(int(p.user_id[1:]) % 2 == 1 for p in tools.people)
    assert tea.size + len(tea.holdout) == 20 and tools.size + len(tools.holdout) == 15
    assert tea.size + len(tea.holdout) + sum(tea.excluded.values()) == 60
    request = AudienceRequest(items=targets["tea"], limits=AudienceLimits(size=40), campaign="tea", explain=False)
    alone = find_audience(trained, request)
    assert set(tea.holdout) <= {*alone.holdout, *(p.user_id for p in alone.people)}
    pool = eligible_pool(trained, audience_target(trained, ["tea1"])[1], Exclusions())
    few = select_jointly([pool], ["tea"], [AudienceLimits(size=2, holdout=0)], trained.dataset.n_users)
    with pytest.raises(PolicyError):
        build_audience(trained, pool, few[0], "tea", explain_first=0)
