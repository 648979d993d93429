"""Campaigns that compete: small problems against brute force, and the bound against the whole linear program."""

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
from recllm.market.audiences.assignment import assign, dual_prices, select_jointly, upper_bound
from recllm.market.audiences.audience import build_audience, eligible_pool, find_audience
from recllm.market.audiences.request import AudienceLimits, AudienceRequest, Exclusions
from recllm.market.audiences.targets import audience_target
from recllm.recommend.recommender.recommender import Recommender
from recllm.text.encoder.toy import ToyEncoder


def by_trying_all(gain: np.ndarray, limit: list[int], contacts: np.ndarray) -> float:
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
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    p = rng.choice([0.0, 0.1, 0.25, 0.5, 0.9], size=(n, m))
    eligible = rng.random((n, m)) < 0.8
    contacts = rng.integers(0, 3, n)
    budgets = [None if rng.random() < 0.3 else float(rng.choice([0.0, 0.5, 1.2])) for _ in range(m)]
    campaigns = [
        AudienceLimits(
            margin=float(rng.choice([1.0, 2.0, 7.5])),
            cost=float(rng.choice([0.0 if budget is None else 0.25, 0.5])),  # a budget needs a cost
            budget=budget,
            size=None if rng.random() < 0.3 else int(rng.integers(0, 4)),
        )
        for budget in budgets
    ]
    found = assign(p, campaigns, contacts=contacts, eligible=eligible)
    gain = np.where(eligible, p * [c.margin for c in campaigns], 0)
    best = by_trying_all(gain, [c.reachable(n) for c in campaigns], contacts)
    assert best * (1 - 5e-4) - 1e-9 <= found.gain <= best + 1e-9 <= found.bound + 2e-9 and found.gap <= 5e-4
    assert eligible[found.person, found.campaign].all() and (p[found.person, found.campaign] > 0).all()
    assert (np.bincount(found.person, minlength=n) <= contacts).all()
    assert len({*zip(found.person.tolist(), found.campaign.tolist(), strict=True)}) == len(found.person)


@settings(max_examples=15, deadline=None)
@given(seed=SMALL)
def test_left_out_pairs_cost_next_to_nothing(seed: int) -> None:
    """The gap is to the program over all pairs, also where the program has the best of each person only."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    n, m = 40, 12
    p = rng.random((n, m)) * rng.random((n, 1))
    campaigns = [AudienceLimits(margin=float(rng.lognormal()), size=int(rng.integers(1, 8))) for _ in range(m)]
    found = assign(p, campaigns, contacts=2)
    with pytest.MonkeyPatch.context() as few:
        few.setattr(assignment, "MOST_PAIRS", 100)
        fewer = assign(p, campaigns, contacts=2)
    gain = p * [c.margin for c in campaigns]
    rows = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    limits = [*(2 for _ in range(n)), *(c.reachable(n) for c in campaigns)]
    whole = -linprog(-gain.ravel(), A_ub=rows, b_ub=limits, bounds=(0, 1), method="highs").fun
    assert found.gain <= whole + 1e-7 <= found.bound + 2e-7
    assert found.gain >= whole * (1 - 5e-4) and found.gap <= 5e-4
    assert whole * 0.99 <= fewer.gain <= whole + 1e-7 <= fewer.bound + 2e-7


@settings(max_examples=40, deadline=None)
@given(seed=SMALL)
def test_any_prices_bound_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain, limit, contacts = rng.random((3, 3)), rng.integers(0, 4, 3), rng.integers(0, 3, 3)
    best = by_trying_all(gain, limit.tolist(), contacts)
    assert upper_bound(gain, limit, contacts, rng.random(3)) >= best - 1e-9
    prices = dual_prices(gain, limit, contacts)
    assert best - 1e-9 <= upper_bound(gain, limit, contacts, prices)
    assert upper_bound(gain, limit, contacts, prices) <= upper_bound(gain, limit, contacts, np.zeros(3)) + 1e-9


def test_who_gets_what_is_plain_where_it_is_plain() -> None:
    p = np.array([[0.9, 0.8], [0.8, 0.1], [0.0, 0.3]])
    found = assign(p, [AudienceLimits(size=1), AudienceLimits(cost=2, budget=5)])
    pairs = {*zip(found.person.tolist(), found.campaign.tolist(), strict=True)}
    assert pairs == {(0, 1), (1, 0), (2, 1)} and found.gain == pytest.approx(1.9)


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 0)])
def test_nobody_and_nothing(shape: tuple[int, int]) -> None:
    found = assign(np.zeros(shape), [AudienceLimits()] * shape[1])
    assert len(found.person) == 0 and found.gain == 0 and found.gap == 0
    everything_shut = assign(np.ones((5, 1)), [AudienceLimits(size=0)], contacts=3)
    assert everything_shut.gain == 0 and everything_shut.gap == 0


def test_wrong_use_is_told() -> None:
    campaigns, p = [AudienceLimits()] * 2, np.full((3, 2), 0.5)
    for wrong_p, terms in ((p, campaigns[:1]), (p * 3, campaigns), (p * np.nan, campaigns)):
        with pytest.raises(UsageError):
            assign(wrong_p, terms)
    for wrong in ({"budget": -1.0}, {"size": -1}, {"margin": float("inf")}, {"cost": float("nan")}):
        with pytest.raises(UsageError, match=f"^{next(iter(wrong))} is "):
            AudienceLimits(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="contacts"):
        assign(p, campaigns, contacts=-1)


def test_two_campaigns_of_one_name_are_told() -> None:
    with pytest.raises(UsageError, match="two campaigns are called 'a'"):
        select_jointly([], ["a", "b", "a"], [AudienceLimits()] * 3, 1)


def test_without_time_there_is_an_answer_and_an_honest_gap() -> None:
    rng = np.random.default_rng(0)
    p, campaigns = rng.random((300, 6)), [AudienceLimits(size=20 + c) for c in range(6)]
    hurried, whole = assign(p, campaigns, seconds=0), assign(p, campaigns)
    assert hurried.gain <= whole.gain <= hurried.bound + 1e-9 and hurried.gap >= whole.gap
    assert (np.bincount(hurried.campaign, minlength=6) <= [20 + c for c in range(6)]).all()


def test_campaigns_that_are_all_alike_take_the_best_people() -> None:
    p = np.repeat(np.random.default_rng(0).random((200, 1)), 5, axis=1)
    found = assign(p, [AudienceLimits(size=10)] * 5)
    assert set(found.person.tolist()) == set(np.argsort(-p[:, 0])[:50].tolist()) and found.gap < 1e-3


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
    selections, joint = select_jointly(pools, list(targets), limits, trained.dataset.n_users)
    tea, tools = (
        build_audience(trained, pool, selection, name, explain_first=0)
        for pool, selection, name in zip(pools, selections, targets, strict=True)
    )
    assert (tea.campaign_id, tools.campaign_id) == ("tea", "tools")
    assert all(int(p.user_id[1:]) % 2 == 0 for p in tea.people) and joint.gap < 1e-3
    assert all(int(p.user_id[1:]) % 2 == 1 for p in tools.people)
    assert tea.size + len(tea.holdout) == 20 and tools.size + len(tools.holdout) == 15
    assert tea.size + len(tea.holdout) + sum(tea.excluded.values()) == 60
    request = AudienceRequest(items=targets["tea"], limits=AudienceLimits(size=40), campaign="tea", explain=False)
    alone = find_audience(trained, request)
    assert set(tea.holdout) <= {*alone.holdout, *(p.user_id for p in alone.people)}
    pool = eligible_pool(trained, audience_target(trained, ["tea1"])[1], Exclusions())
    few, _ = select_jointly([pool], ["tea"], [AudienceLimits(size=2, holdout=0)], trained.dataset.n_users)
    with pytest.raises(PolicyError):
        build_audience(trained, pool, few[0], "tea", explain_first=0)
