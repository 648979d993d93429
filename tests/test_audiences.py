"""Audiences in a shop where even people buy tea and odd people buy tools: everybody's answer is known."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop_world import shop, with_event
from tables import table

from recllm.base.errors import NotFittedError, PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import ACTION_CODE, Action
from recllm.base.settings import ScorerTrainingSettings
from recllm.base.stats.intervals import ratios
from recllm.doors.cli.options import write_people
from recllm.learn.features.candidates import explicit
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.market.adcopy.suitability import Suitability
from recllm.market.audiences.audience import Audience, audience_document, find_audience, text_target
from recllm.market.audiences.exclusions import Consents, first_only, youngest_age
from recllm.market.audiences.probabilities import (
    UNCHANGED,
    UserScores,
    calibrated_rate,
    calibration_line,
    fit_line,
    independent_probabilities,
    restricted_to,
    target_probabilities,
)
from recllm.market.audiences.reasons import distinguishing_traits, enough_people
from recllm.market.audiences.request import AudienceLimits, AudienceRequest, Exclusions
from recllm.market.audiences.selection import draws, globally_held_out, select
from recllm.market.occasions.suggest import fitting_items
from recllm.recommend.recommender.histories import Histories
from recllm.recommend.recommender.ranking import UserInputs
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.catalogue import in_category
from recllm.shop.data.dataset import DAY, Dataset
from recllm.text.encoder.toy import ToyEncoder

FLOOR, PEOPLE = 5, 80


def named(dataset: Dataset) -> Dataset:
    """Even people are of the country, odd ones of the town; the first four told their age."""
    ids = dataset.users["user_id"]
    homes = ["country" if int(name[1:]) % 2 == 0 else "town" for name in ids]
    ages = [{"u00": "13-17", "u01": "35-44", "u02": "under 18", "u03": "18-24"}.get(name) for name in ids]
    return replace(dataset, users=dataset.users.with_columns(pl.Series("home", homes), pl.Series("age", ages)))


@pytest.fixture(scope="module")
def trained() -> Recommender:
    training = ScorerTrainingSettings(n_windows=3, epochs=2, min_steps=100)
    return Recommender(named(shop(people=PEOPLE)), ToyEncoder(), policy=Policy(group_floor=FLOOR)).fit(training)


def like(recommender: Recommender, dataset: Dataset | None = None, **changed) -> Recommender:  # type: ignore[no-untyped-def]
    """The same model over another dataset, policy or permission."""
    settings = {"model": recommender.model, "policy": recommender.policy} | changed
    return Recommender(dataset or recommender.dataset, recommender.encoder, **settings)


def audience(recommender: Recommender, *, agreed: Consents | None = None, **request) -> Audience:  # type: ignore[no-untyped-def]
    return find_audience(recommender, AudienceRequest(**request), agreed=agreed)


def even(user_id: str) -> bool:
    return int(user_id[1:]) % 2 == 0


def ids(found: Audience) -> list[str]:
    return [p.user_id for p in found.people]


def accounted(found: Audience) -> bool:
    return len(found.people) + len(found.holdout) + sum(found.excluded.values()) == PEOPLE


def test_tea_goes_to_those_who_buy_tea(trained: Recommender) -> None:
    found = audience(trained, items=["tea3"], limits=AudienceLimits(size=20))
    assert found.size == 20 and all(map(even, ids(found))) and accounted(found)
    probability = [p.probability for p in found.people]
    assert probability == sorted(probability, reverse=True) and all(0 < p < 1 for p in probability)
    assert found.expected_conversions == pytest.approx(sum(probability), rel=1e-5)
    assert found.campaign_id == "tea3" and found.items == ("tea3",) and not found.notes
    many = audience(trained, items=[f"tea{n}" for n in range(6)], explain=False)
    assert many.campaign_id.startswith("6 items ") and len(many.campaign_id) == 16
    assert {p.item_id for p in found.people} == {"tea3"}


def test_a_probability_is_the_one_of_the_slate(trained: Recommender) -> None:
    for person in audience(trained, items=["tea3"], limits=AudienceLimits(size=10), explain=False).people:
        slate = trained.recommend(person.user_id, allow=["tea3"], explain=False)[0]
        assert person.probability == pytest.approx(slate.items[0].probability, abs=1e-5)


def test_of_several_items_at_least_one(trained: Recommender) -> None:
    data, people = trained.dataset, np.arange(PEOPLE)
    rows = data.item_rows(["tea1", "tea2", "tool4"])
    users = UserInputs(data.events, data.as_of, people, basics_vectors(trained.encoder, basics_of(data.users)))
    single = trained.ranker.score(users, explicit(PEOPLE, rows)).probability.reshape(PEOPLE, -1)
    found = independent_probabilities(trained, rows, people)
    assert found.probability == pytest.approx(1 - np.prod(1 - single, axis=1), abs=1e-5)
    alone = target_probabilities(trained, rows[1:2], people)
    assert alone.probability == pytest.approx(single[:, 1], abs=1e-6)
    best = data.items["item_id"].gather(found.best_item).to_list()
    assert [name.startswith("tea") for name in best] == [even(name) for name in data.users["user_id"]]


def test_sets_are_set_right_by_the_window_before() -> None:
    rng = np.random.default_rng(0)
    rate = rng.lognormal(0, 1, 4000)
    took = rng.random(4000) < -np.expm1(-0.5 * rate**0.7)
    a, b = fit_line(rate, took)
    assert a == pytest.approx(np.log(0.5), abs=0.1) and b == pytest.approx(0.7, abs=0.07)
    steep = fit_line(rate, rng.random(4000) < -np.expm1(-(rate**1.5)))
    assert steep[1] == pytest.approx(1, abs=1e-6)
    assert fit_line(rate[:3], np.zeros(3, bool))[0] > -2, "three people do not say much"
    assert (np.diff(calibrated_rate(np.sort(rate), (a, b))) > 0).all() and calibrated_rate(np.zeros(1), (a, b))[0] == 0


def test_a_set_in_a_shop_expects_what_it_sees(trained: Recommender) -> None:
    """Nearly every tea drinker buys some tea within four weeks, and nobody else does."""
    rows = np.flatnonzero(in_category(trained.dataset.items, "tea"))
    raw = independent_probabilities(trained, rows, np.arange(PEOPLE))
    right = target_probabilities(trained, rows, np.arange(PEOPLE))
    assert np.array_equal(np.argsort(raw.score, kind="stable"), np.argsort(right.score, kind="stable"))
    assert right.probabilities().sum() == pytest.approx(PEOPLE / 2, abs=6)
    data = trained.dataset
    for people, is_changed in ((30, True), (15, False)):
        few = replace(data, users=data.users[:people], events=data.events.rows(np.arange(people)))
        assert (calibration_line(like(trained, dataset=few), rows) != UNCHANGED) == is_changed
    single = independent_probabilities(trained, rows[:1], np.arange(PEOPLE))
    assert np.array_equal(target_probabilities(trained, rows[:1], np.arange(PEOPLE)).score, single.score)


def test_what_is_left_out_of_the_crowd_moves_no_score(trained: Recommender) -> None:
    rows = trained.dataset.item_rows(["tea1", "tool5"])
    thin = restricted_to(trained.population, rows)
    assert 0 < thin.recent.nnz < trained.population.recent.nnz
    assert np.array_equal(thin.recent[:, rows].toarray(), trained.population.recent[:, rows].toarray())


def test_a_category_and_its_path(trained: Recommender) -> None:
    items = trained.dataset.items
    assert in_category(items, "Tools").sum() == in_category(items, "home > tools").sum() == 12
    assert not in_category(items, "tools > home").any()
    found = audience(trained, category="home > tools", limits=AudienceLimits(size=20))
    assert not any(map(even, ids(found))) and all(p.item_id.startswith("tool") for p in found.people)


def test_a_text_finds_those_who_buy_such_things(trained: Recommender) -> None:
    for category in ("food > tea", None):
        found = audience(trained, text="Green tea of spring", category=category, limits=AudienceLimits(size=20))
        assert sum(map(even, ids(found))) >= 16 and "never sold" in found.notes[-1] and accounted(found)
    assert "'food > tea', that of the nearest item" in found.notes[0]
    assert trained.dataset.n_items == 24


def test_reasons_are_those_of_a_person_alone(trained: Recommender) -> None:
    people = audience(trained, items=["tea3"], limits=AudienceLimits(size=20)).people
    same, row = 0, trained.dataset.item_rows(["tea3"])
    for person in people:
        plain = trained.explainer().reasons(trained.person(person.user_id), row, 1.0)[0]
        assert "general" not in {r.evidence_id for r in person.reasons}
        plain = [r for r in plain if r.evidence_id != "general"]
        if not any(r.evidence_id.startswith("I:") for r in plain):
            assert [r.evidence_id for r in person.reasons] == [r.evidence_id for r in plain]
            assert [r.delta for r in person.reasons] == pytest.approx([r.delta for r in plain], abs=1e-4)
            same += 1
    assert same >= 10


def test_the_group_is_told_apart(trained: Recommender) -> None:
    found = audience(trained, items=["tea3"], limits=AudienceLimits(size=25, holdout=0), explain=False)
    told = {d.name: d for d in found.group}
    assert told["home = country"].share == 1 and told["home = country"].low > 1
    tea = told["food > tea"]
    assert tea.lift == pytest.approx(tea.share / tea.share_of_rest, rel=0.2)
    assert "home = town" not in told and "home > tools" not in told


def test_small_and_sensitive_facts_are_not_told() -> None:
    n = np.array([100] * 5)
    inside, outside = np.array([4, 10, 97, 100, 60]), np.array([90, 20, 100, 100, 300])
    assert enough_people(inside, outside, n, 50).tolist() == [False, False, False, True, True]
    world = shop(people=PEOPLE)
    group = np.flatnonzero([even(u) for u in world.users["user_id"]])
    rest = np.setdiff1d(np.arange(PEOPLE), group)
    told = {d.name for d in distinguishing_traits(world, group, rest, Policy(group_floor=5))}
    assert told == {"food", "food > tea"}
    quiet = Policy(group_floor=5, sensitive_categories=frozenset({"tea"}))
    assert {d.name for d in distinguishing_traits(world, group, rest, quiet)} == {"food"}


def test_the_interval_of_a_lift_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    n, m, times = 300, 2000, 2000
    one = np.ones(times)
    _, low, high = ratios(rng.binomial(n, 0.3, times), one * n, rng.binomial(m, 0.15, times), one * m, 0.95)
    assert 0.93 < np.mean((low < 2) & (high > 2)) < 0.97


def test_the_language_of_answers_moves_no_probability(trained: Recommender) -> None:
    """Basics are read in the language in which the model learned them, whatever language the reasons are in."""
    chinese = like(trained, locale="zh", text_locale="en")
    found, plain = (audience(r, items=["tea3"], limits=AudienceLimits(size=20)) for r in (chinese, trained))
    assert [p.probability for p in found.people] == [p.probability for p in plain.people]
    assert [[r.delta for r in p.reasons] for p in found.people] == [[r.delta for r in p.reasons] for p in plain.people]
    assert [[r.text for r in p.reasons] for p in found.people] != [[r.text for r in p.reasons] for p in plain.people]


def test_each_exclusion_is_counted_and_obeyed(trained: Recommender) -> None:
    data = trained.dataset
    rows = {name: int(data.user_rows([name])[0]) for name in ("u04", "u06", "u08")}
    tea = int(data.item_rows(["tea3"])[0])
    busy = with_event(data, rows["u04"], tea, data.as_of - DAY, Action.RETURN)
    for hour in (1, 2):
        for item in (0, 1):
            busy = with_event(busy, rows["u06"], item, data.as_of - hour * 3600, Action.SHOWN)
    shop_now = like(trained, busy, permits=lambda names: [name != "u08" for name in names])
    limited = Exclusions(suppressed=["u10", "nobody"], frequency_cap=2)
    request = {"items": ["tea3"], "exclusions": limited, "explain": False}
    found = audience(shop_now, agreed=lambda names: [n != "u12" for n in names], **request)
    assert found.excluded == {"no_consent": 2, "suppression_list": 1, "minor": 2, "returned": 1, "frequency_cap": 1}
    assert accounted(found)
    assert not {"u00", "u02", "u04", "u06", "u08", "u10", "u12"} & {*ids(found), *found.holdout}
    once = audience(shop_now, items=["tea3"], exclusions=Exclusions(frequency_cap=3), explain=False)
    assert "frequency_cap" not in once.excluded, "the places of one slate are one occasion"


def test_the_global_holdout_is_in_no_audience(trained: Recommender) -> None:
    ids = trained.dataset.users["user_id"].to_list()
    held_out = set(np.array(ids)[globally_held_out(ids, 0.4, "2025")].tolist())
    before, found = (
        audience(trained, items=["tea3"], exclusions=exclusions, explain=False)
        for exclusions in (Exclusions(), Exclusions(holdout_share=0.4, holdout_salt="2025"))
    )
    assert 20 <= len(held_out) <= 45
    few, many = (sum(n for why, n in a.excluded.items() if why != "beyond_the_cut") for a in (before, found))
    assert 0 < found.excluded["global_holdout"] <= len(held_out) and many - few == found.excluded["global_holdout"]
    assert not held_out & {*(person.user_id for person in found.people), *found.holdout} and accounted(found)
    with pytest.raises(UsageError, match=r"holdout_share must be 1 at most, not 1\.5"):
        Exclusions(holdout_share=1.5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_nobody_without_consent_is_in_an_audience(trained: Recommender, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = trained.dataset.users["user_id"].to_list()
    personal, channel = (dict(zip(names, rng.random(PEOPLE) < rng.random(), strict=True)) for _ in range(2))
    guarded_shop = like(trained, permits=lambda asked: [bool(personal[n]) for n in asked], policy=Policy(group_floor=1))

    def agreed(asked: Sequence[str]) -> list[bool]:
        return [bool(channel[n]) for n in asked]

    for target in ({"items": ["tea3"]}, {"seeds": [n for n in names[:6] if personal[n]] or names[:1]}):
        found = audience(guarded_shop, agreed=agreed, explain=False, **target)  # type: ignore[arg-type]
        assert all(personal[n] and channel[n] for n in (*ids(found), *found.holdout)) and accounted(found)
        assert found.excluded.get("no_consent", 0) == sum(not (personal[n] and channel[n]) for n in names)


def test_bought_recently(trained: Recommender) -> None:
    e = trained.dataset.events
    tea = int(trained.dataset.item_rows(["tea3"])[0])
    recent = (e.item == tea) & (e.at >= trained.dataset.as_of - 30 * DAY) & (e.action == ACTION_CODE[Action.PURCHASE])
    buyers = set(trained.dataset.users["user_id"].gather(np.unique(e.user[recent])).to_list()) - {"u00", "u02"}
    found = audience(trained, items=["tea3"], exclusions=Exclusions(bought_days=30), explain=False)
    assert found.excluded["bought_recently"] == len(buyers) > 3 and not buyers & set(ids(found))


def test_those_whom_no_item_suits_are_left_out_and_a_note_names_what_is_sold_out(trained: Recommender) -> None:
    is_tea = pl.col("item_id").str.starts_with("tea")
    titles = pl.concat_str(pl.when(is_tea).then(pl.lit("Women's ")).otherwise(pl.lit("Men's ")), "title")
    items = trained.dataset.items.with_columns(title=titles, available=pl.col("item_id") != "tea3")
    other = like(trained, replace(trained.dataset, items=items))
    request, unsuited = AudienceRequest(items=("tea3",), explain=False), Suitability(other).unsuited
    found = find_audience(other, request, unsuited=unsuited)
    assert found.excluded["unsuited"] == PEOPLE // 2 and all(map(even, ids(found))) and accounted(found)
    assert found.notes == ('1 item not on offer now, sold out or withdrawn: "Women\'s Green tea 3"',)


def test_a_person_stands_under_the_first_reason() -> None:
    one, two = np.array([True, True, False]), np.array([True, False, True])
    first = first_only({"a": one, "b": two})
    assert (first["a"] == one).all() and first["b"].tolist() == [False, False, True] and len(first) == 2


@pytest.mark.parametrize(("name", "value", "age"), table("audiences", "ages"))
def test_ages(name: str, value: str, age: int | None) -> None:
    assert youngest_age(name, value, 2024) == age


def test_sensitive_targets_are_refused(trained: Recommender) -> None:
    strict = like(trained, policy=Policy(group_floor=FLOOR, sensitive_categories=frozenset({"tea", "hammer 3"})))
    for target in ({"items": ["tea1"]}, {"category": "tea"}, {"text": "More tea"}):
        with pytest.raises(PolicyError, match="sensitive"):
            audience(strict, **target)  # type: ignore[arg-type]
    mixed = audience(strict, items=["tea1", "tool1", "tool3"], explain=False)
    assert mixed.items == ("tool1",) and "2 items" in mixed.notes[0]


def test_a_text_about_health_is_sensitive_whatever_category_it_is_given(trained: Recommender) -> None:
    texts = ("vitamin zinc tablets against depression", "HIV test kit", "ＨＩＶ test", "pens for diabetics")
    texts += ("Antidepressants", "wigs for cancer patients", "help with alcoholism", "gay wedding cards")
    texts += ("抗抑郁软糖", "乙肝检测试纸")
    plain = ("green tea for cold evenings", "a healthy breakfast", "hammer and nails", "安神花草茶")
    for category in ("tea", "food > sweets", None):
        for text in texts:
            with pytest.raises(PolicyError, match="sensitive"):
                audience(trained, text=text, category=category)
            with pytest.raises(PolicyError, match="sensitive"):
                fitting_items(trained, text, category, limit=3)
        for text in plain:
            assert text_target(trained, text, category)[1].name == text


def test_budget_and_worth(trained: Recommender) -> None:
    paid = audience(trained, items=["tea3"], limits=AudienceLimits(budget=10.5, cost=0.5), explain=False)
    assert paid.size == 21
    worth = audience(trained, items=["tea3"], limits=AudienceLimits(cost=1, margin=2.5), explain=False)
    assert all(p.probability * 2.5 > 1 for p in worth.people)
    assert worth.excluded["not_worth_the_contact"] > 20 and accounted(worth)


def test_the_holdout_is_stable_and_fair(trained: Recommender) -> None:
    small, large, other = (
        audience(trained, items=["tea3"], limits=AudienceLimits(size=n, holdout=0.3), explain=False, campaign=name)
        for n, name in ((15, "spring"), (30, "spring"), (30, "autumn"))
    )
    assert set(small.holdout) <= set(large.holdout) and not set(large.holdout) & set(ids(large))
    assert ids(large)[:15] == ids(small) and set(other.holdout) != set(large.holdout)
    share = draws([f"person {n}" for n in range(20_000)], "spring") < 0.1
    assert share.mean() == pytest.approx(0.1, abs=0.01)


def test_floor_and_nobody(trained: Recommender) -> None:
    with pytest.raises(PolicyError, match=f"smaller than {FLOOR}"):
        audience(trained, items=["tea3"], limits=AudienceLimits(size=FLOOR - 1))
    for limits in (AudienceLimits(budget=0, cost=1), AudienceLimits(size=0), AudienceLimits(cost=5, margin=1)):
        empty = audience(trained, items=["tea3"], limits=limits)
        assert empty.size == 0 and empty.expected_conversions == 0 and accounted(empty)


@settings(max_examples=30, deadline=None)
@given(
    order=st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0]), max_size=40),
    size=st.none() | st.integers(0, 45),
    holdout=st.floats(0, 0.9),
    margin=st.none() | st.floats(0, 10),
)
def test_a_cut_loses_nobody(order: list[float], size: int | None, holdout: float, margin: float | None) -> None:
    score = np.array(order, float)
    p = (1 - np.exp(-score)).astype(np.float32)
    names = [f"p{n}" for n in range(len(order))]
    limits = AudienceLimits(size=size, holdout=holdout, margin=margin, cost=0.2)
    chosen = select(UserScores(score, np.zeros(len(score), int), p), names, "c", limits)
    places = np.concatenate([chosen.addressed, chosen.holdout])
    assert len(set(places.tolist())) == len(places) == len(order) - chosen.unprofitable - chosen.beyond_limit
    assert size is None or len(chosen.addressed) <= size
    assert list(score[chosen.addressed]) == sorted(score[chosen.addressed], reverse=True)
    if chosen.beyond_limit and len(chosen.addressed):
        assert len(chosen.addressed) == size
    shuffled = np.random.default_rng(0).permutation(len(order))
    other = UserScores(score[shuffled], np.zeros(len(score), int), p[shuffled])
    again = select(other, [names[i] for i in shuffled], "c", limits)
    assert [names[i] for i in chosen.addressed] == [names[shuffled[i]] for i in again.addressed]


def test_people_like_the_seeds(trained: Recommender) -> None:
    seeds = [f"u{n:02}" for n in range(20, 40, 2)]
    found = audience(trained, seeds=[*seeds, "stranger"], limits=AudienceLimits(size=20))
    assert all(map(even, ids(found))) and not set(seeds) & set(ids(found))
    assert found.people[0].probability is None and found.expected_conversions is None
    assert found.excluded["seed"] == 10 and accounted(found)
    with pytest.raises(UsageError, match="none of the seeds"):
        audience(trained, seeds=["stranger"])


def test_wrong_use_is_told(trained: Recommender) -> None:
    with pytest.raises(UsageError):
        audience(trained, category="cars")
    with pytest.raises(UsageError, match="no item 'nothing'"):
        audience(trained, items=["tea1", "nothing"])
    with pytest.raises(NotFittedError):
        audience(Recommender(trained.dataset, ToyEncoder()), items=["tea1"])


def test_a_request_says_at_once_what_is_wrong_in_it() -> None:
    nan, two_targets = float("nan"), ({"items": ["a"], "category": "b"}, {"seeds": ["u"], "text": "x"})
    budgets = ({"budget": 5.0}, {"budget": 5.0, "cost": 0.0})
    for kind, wrong in {
        AudienceRequest: ({}, *two_targets, {"items": []}, {"text": " "}),
        AudienceLimits: ({"size": -1}, *budgets, {"holdout": 1.0}, {"margin": nan}, {"cost": float("inf")}),
        Exclusions: ({"bought_days": 0.0}, {"frequency_cap": 0}, {"frequency_days": nan}),
    }.items():
        for fields in wrong:
            with pytest.raises(UsageError):
                kind(**fields)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="likeness"):
        AudienceRequest(seeds=["u"], limits=AudienceLimits(margin=1.0))


def test_a_recommender_that_reads_people_by_key_is_refused(trained: Recommender) -> None:
    class ByKey:
        def histories(self, user_ids: Sequence[str]) -> Histories:
            raise AssertionError("nobody is read")

    empty = like(trained, trained.dataset.before(0), people=ByKey())
    with pytest.raises(UsageError, match="everybody=True"):
        audience(empty, items=["tea3"])


def test_a_document_and_a_guarded_csv(trained: Recommender, tmp_path: Path) -> None:
    found = audience(trained, items=["tea3"], limits=AudienceLimits(size=12))
    first = ids(found)[0]
    told = audience_document(found, {first: "=cmd()"})
    assert {"campaign_id", "item_id", "size", "people", "excluded", "holdout", "expected_conversions"} <= set(told)
    assert told["item_id"] == "tea3" and told["holdout"] == len(found.holdout) and len(told["people"]) == 12
    assert not any(name in str(told) for name in found.holdout)
    write_people(tmp_path / "people.csv", told["people"])
    rows = list(csv.reader((tmp_path / "people.csv").open(encoding="utf-8")))
    assert rows[0] == list(told["people"][0]) and len(rows) == 13
    assert rows[1][0] == "'=cmd()" and rows[2][0] == ids(found)[1]
