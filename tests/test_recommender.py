from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop_world import shop, with_event
from tables import table

from recllm.base.errors import PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Action, Intent, NoteKind, Objective, ServedBy, SlateStatus
from recllm.base.settings import ScorerTrainingSettings
from recllm.recommend.recommender import ranking
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import publish
from recllm.recommend.recommender.saved_model import load_model, save_model
from recllm.shop.data.dataset import Dataset
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.encoder.toy import ToyEncoder

N = 40
"""The small world in which even people buy tea and odd people buy tools, with their ages and two more people."""


def world() -> Dataset:
    ages = ["old" if u % 2 == 0 else "young" for u in range(N)]
    names = [*(f"u{u:02}" for u in range(N)), "told", "blank"]
    return shop(N, 12, users=pl.DataFrame({"user_id": names, "age": [*ages, "young", None]}))


@pytest.fixture(scope="module")
def untrained() -> Recommender:
    return Recommender(world(), ToyEncoder())


@pytest.fixture(scope="module")
def trained(untrained: Recommender) -> Recommender:
    return untrained.fit(ScorerTrainingSettings(n_windows=2, epochs=1, min_steps=60, heads=1))


def kinds(slate) -> set[str]:  # type: ignore[no-untyped-def]
    return {r.item_id.rstrip("0123456789") for r in slate.items}


def test_tea_drinkers_get_tea_and_tool_buyers_tools(trained: Recommender) -> None:
    even, odd = trained.recommend(["u00", "u01"], k=3)
    assert kinds(even) == {"tea"} and kinds(odd) == {"tool"}
    assert [r.rank for r in even.items] == [1, 2, 3]
    assert all(r.served_by for r in even.items)


def test_both_parts_of_the_score_are_reported_and_add_up(trained: Recommender) -> None:
    assert trained.model is not None
    a = float(trained.model.scorer.weights["cosine_weight"])
    for r in trained.recommend("u00", k=5)[0].items:
        assert r.logit == pytest.approx(a * r.cosine + r.mlp, abs=1e-4)
        assert 0 < r.probability < 1 and -1 <= r.cosine <= 1


def test_a_weight_on_popularity_lowers_what_many_people_buy(trained: Recommender) -> None:
    def places(slate) -> tuple[list[str], np.ndarray]:  # type: ignore[no-untyped-def]
        rows = trained.dataset.item_rows([r.item_id for r in slate.items])
        lowered = [r.score for r in slate.items] - np.log1p(trained.population.stats.buyers_ever[rows])
        return [r.item_id for r in slate.items], np.diff(lowered)

    plain, weighed = (trained.recommend("u00", k=24, popularity_weight=w, explain=False)[0] for w in (0.0, 1.0))
    assert places(plain)[0] != places(weighed)[0] and set(places(plain)[0]) == set(places(weighed)[0])
    assert (places(weighed)[1] <= 1e-5).all()
    values = [{r.item_id: (r.score, r.probability) for r in slate.items} for slate in (plain, weighed)]
    assert values[0] == values[1], "the order is another one, no score is"
    policy = Policy(popularity_weight=1.0)
    ruled = Recommender(trained.dataset, trained.encoder, model=trained.model, policy=policy)
    assert places(ruled.recommend("u00", k=24, explain=False)[0])[0] == places(weighed)[0]
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="popularity_weight"):
            trained.recommend("u00", popularity_weight=wrong)


def test_by_lift_comes_first_what_people_in_general_do_not_buy(trained: Recommender) -> None:
    stats, users = trained.population.stats, [f"u{n:02}" for n in range(N)]
    chance, lift = (trained.recommend(users, k=24, objective=o, explain=False) for o in list(Objective)[:2])
    assert [slate.items for slate in chance] != [slate.items for slate in lift]
    for user, by_chance, by_lift in zip(users, chance, lift, strict=True):
        history = set(trained.dataset.events.rows(trained.user_rows([user])).item.tolist())
        rows = trained.dataset.item_rows([item.item_id for item in by_lift.items])
        rate = np.where([row in history for row in rows], stats.buying_rate[rows], stats.first_buying_rate[rows])
        assert trained.model is not None
        gained = [item.probability or 0 for item in by_lift.items] - rate * trained.model.horizon_days / 28
        assert (np.diff(gained) <= 1e-6).all()
        scores = {item.item_id: item.score for item in by_chance.items}
        assert {item.item_id: item.score for item in by_lift.items} == scores  # the order is another one, no score is


def test_by_margin_comes_first_what_earns_most(trained: Recommender) -> None:
    margin = {"tea3": 9.0, "tea5": 0.01, "tool2": 1.0}
    attributes = [
        json.dumps({"margin": str(margin[i])}) if i in margin else None for i in trained.dataset.items["item_id"]
    ]
    told = trained.dataset.items.with_columns(attributes=pl.Series(attributes, dtype=pl.String))
    slate = trained.offering(told).recommend("u00", objective=Objective.MARGIN)[0]
    assert {item.item_id for item in slate.items} == set(margin)  # what earns nobody knows how much is left out
    worth = [margin[item.item_id] * (item.probability or 0) for item in slate.items]
    assert worth == sorted(worth, reverse=True) and slate.items[0].item_id == "tea3"
    costs = ['{"cost": "1.5"}' if i == "tea1" else '{"成本": "x"}' for i in trained.dataset.items["item_id"]]
    priced = trained.dataset.items.with_columns(attributes=pl.Series(costs))
    (only,) = trained.offering(priced).recommend("u00", objective=Objective.MARGIN)[0].items
    assert only.item_id == "tea1" and trained.offering(priced).margins[trained.dataset.item_rows(["tea1"])[0]] == 1.5
    with pytest.raises(UsageError, match="attribute margin"):
        trained.recommend("u00", objective=Objective.MARGIN)


def test_without_a_model_counting_and_texts_rank_and_it_is_said(untrained: Recommender) -> None:
    slate = untrained.recommend("u00", k=3)[0]
    assert slate.status is SlateStatus.TEXT_ONLY
    assert slate.degraded_reason == "no trained model: ranked by this person's own history, what is popular and texts"
    assert kinds(slate) == {"tea"}
    assert slate.items[0].probability is None
    bought = Counter(
        untrained.dataset.items["item_id"][int(i)] for i in untrained.dataset.events.rows(np.array([0])).item
    )
    assert slate.items[0].item_id in bought, "a person's own habits lead"
    new = untrained.recommend("u00", k=3, repeats=False)[0]
    assert kinds(new) == {"tea"} and not bought.keys() & {item.item_id for item in new.items}


def test_strangers_and_the_unwilling_get_what_is_popular(trained: Recommender) -> None:
    guarded = Recommender(
        trained.dataset, trained.encoder, model=trained.model, permits=lambda ids: [i != "u00" for i in ids]
    )
    unwilling, stranger, blank, fine = guarded.recommend(["u00", "nobody", "blank", "u01"], k=4)
    assert unwilling.status is SlateStatus.NO_CONSENT and "no consent" in (unwilling.degraded_reason or "")
    assert stranger.status is blank.status is SlateStatus.UNKNOWN_USER
    assert [r.item_id for r in unwilling.items] == [r.item_id for r in stranger.items]
    assert all(r.served_by == ("popular",) and r.logit is None for r in unwilling.items)
    assert fine.degraded_reason is None


def test_basics_alone_are_served_personally(trained: Recommender) -> None:
    """The young buy tools in this world, and "told" has told nothing but a young age."""
    slate = trained.recommend("told", k=6)[0]
    assert slate.degraded_reason is None
    tools = [r for r in slate.items if r.item_id.startswith("tool")]
    assert len(tools) >= 4
    assert all("neighbours" in r.served_by for r in tools)
    assert any(r.reasons[0].evidence_id == "I:age" for r in tools)  # half of all buy tools: age is worth log 2 at most


def test_filters(trained: Recommender) -> None:
    bought = {line.item_id for line in trained.person("u00").profile(trained.dataset).purchases}
    unseen = trained.recommend("u00", k=20, repeats=False)[0]
    assert not bought & {r.item_id for r in unseen.items}
    cheap = trained.recommend("u01", k=24, where="price < 5")[0]
    assert {r.item_id for r in cheap.items} == {"tea0", "tea1", "tea2"}
    assert (cheap.notes[-1].kind, cheap.notes[-1].numbers) == (NoteKind.SHORT, {"shown": 3, "k": 24})
    assert cheap.degraded_reason == "only 3 of 24 items: no more pass the filters"
    listed = trained.recommend("u01", k=5, allow=["tea1", "tool1"], exclude=["tool1"])[0]
    assert [r.item_id for r in listed.items] == ["tea1"]


def test_of_one_name_only_the_best_is_shown_unless_twins_are_wanted() -> None:
    data = world()
    renamed = data.items.with_columns(
        title=pl.when(pl.col("item_id").is_in(["tea0", "tea1", "tea2"])).then(pl.lit("House tea")).otherwise("title")
    )
    twins = Recommender(replace(data, items=renamed), ToyEncoder())
    names = [r.title for r in twins.recommend("u00", k=10)[0].items]
    assert len(names) == len(set(names)) == 10
    assert [r.title for r in twins.recommend("u00", k=24, same_names=True)[0].items].count("House tea") == 3


def observed(recommender: Recommender, user: str, item: str, action: Action) -> Recommender:
    """One that knows of one more event."""
    data = recommender.dataset
    row, item_row = int(recommender.user_rows([user])[0]), int(data.item_rows([item])[0])
    return recommender.with_people(with_event(data, row, item_row, data.as_of, action), recommender.population.pool)


def test_what_was_shown_is_no_history(trained: Recommender) -> None:
    shown = observed(trained, "blank", "tea0", Action.SHOWN)
    assert shown.recommend("blank", k=2)[0].status is SlateStatus.UNKNOWN_USER


@pytest.mark.parametrize(("arguments", "words"), table("recommender", "wrong use"))
def test_wrong_use_is_told(trained: Recommender, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        trained.recommend("u00", **arguments)  # type: ignore[arg-type]


def test_reasons_name_what_the_person_did(trained: Recommender) -> None:
    for r in trained.recommend("u00", k=2)[0].items:
        assert r.reasons
        for reason in r.reasons:
            assert reason.evidence_id.startswith(("B:tea", "I:age", "general"))


def test_reasons_are_exact(trained: Recommender) -> None:
    """Taking the evidence out of the log itself gives the score that the reason speaks of."""
    top = trained.recommend("u00", k=1)[0].items[0]
    reason = next(r for r in top.reasons if r.evidence_id != "general")
    gone = reason.evidence_id.removeprefix("B:")
    data, row = trained.dataset, int(trained.dataset.user_rows(["u00"])[0])
    e = data.events
    kept = ~((e.user == row) & (e.item == int(data.item_rows([gone])[0])))
    less = Recommender(replace(data, events=e.select(kept)), trained.encoder, model=trained.model)
    less.population = trained.population
    again = less.recommend("u00", k=1, allow=[top.item_id], explain=False)[0].items[0]
    assert top.logit - again.logit == pytest.approx(reason.delta, abs=1e-4)


def test_a_dismissed_item_is_gone_and_comes_back_when_bought(trained: Recommender) -> None:
    first = trained.recommend("u00", k=3)[0].items[0].item_id
    after = observed(trained, "u00", first, Action.DISMISS)
    assert first not in {r.item_id for r in after.recommend("u00", k=24)[0].items}
    assert first in {r.item_id for r in after.recommend("u02", k=24)[0].items}
    again = observed(after, "u00", first, Action.PURCHASE)
    assert first in {r.item_id for r in again.recommend("u00", k=24)[0].items}


def test_a_published_model_answers_as_before(trained: Recommender, tmp_path) -> None:  # type: ignore[no-untyped-def]
    version = publish(tmp_path, lambda folder: save_model(trained.model, folder))
    again = Recommender(trained.dataset, trained.encoder, model=load_model(tmp_path))
    one, two = (r.recommend("u03", k=5)[0] for r in (trained, again))
    assert two.model_version == version
    assert [(r.item_id, r.logit) for r in one.items] == [(r.item_id, r.logit) for r in two.items]


def test_another_encoder_is_refused_and_an_earlier_precision_of_it_is_not(trained: Recommender, tmp_path: Path) -> None:
    encoder = CachedEncoder(ToyEncoder(dim=32), tmp_path)
    with pytest.raises(UsageError, match="another state of the encoder"):
        Recommender(trained.dataset, encoder, model=trained.model)
    encoder.earlier_fingerprint = trained.model.encoder_fingerprint
    Recommender(trained.dataset, encoder, model=trained.model)


@pytest.mark.parametrize("min_effect", [0.05, 0.1, 0.2])
def test_a_slate_gives_the_reasons_of_explain(
    trained: Recommender, min_effect: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is clear is told by the person's own list, whatever was asked for and however short the slate is."""
    monkeypatch.setattr("recllm.recommend.recommender.leave_one_out.MIN_EFFECT", min_effect)
    strict = Recommender(trained.dataset, trained.encoder, model=trained.model)
    for user in ("u00", "u01", "told"):
        for options in table("recommender", "slates that say why"):
            for shown in strict.recommend(user, **options)[0].items:
                explained = strict.explain(user, shown.item_id).reasons
                assert [r.evidence_id for r in shown.reasons] == [r.evidence_id for r in explained]
                assert [r.delta for r in shown.reasons] == pytest.approx([r.delta for r in explained], abs=1e-3)


def test_whoever_withdrew_is_not_explained_even_what_is_off_sale(trained: Recommender) -> None:
    off_sale = trained.dataset.items.with_columns(available=pl.col("item_id") != "tea3")
    data = replace(trained.dataset, items=off_sale)
    guarded = Recommender(data, trained.encoder, model=trained.model, permits=lambda ids: [i != "u00" for i in ids])
    for item in ("tea1", "tea3"):
        with pytest.raises(PolicyError, match="not agreed"):
            guarded.explain("u00", item)
    for item in ("tea1", "tea3"):
        with pytest.raises(UsageError, match="nothing to explain"):
            guarded.explain("nobody", item)
    explained = guarded.explain("u02", "tea3")
    assert not explained.available and explained.rank is None and explained.reasons
    assert guarded.explain("u02", "tea1").available


def test_a_slate_is_filled_behind_many_namesakes() -> None:
    titles = [*["Tea"] * 600, "Mug", "Cup"]
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(602)], "title": titles, "category": [["food"]] * 602})
    events = pl.DataFrame({"user_id": ["ann"], "item_id": ["i0"], "timestamp": [1_700_000_000]})
    shop = Recommender(Dataset.construct(events, items=items), ToyEncoder())
    for user in ("ann", "nobody"):
        slate = shop.recommend(user, k=3, explain=False)[0]
        assert {r.title for r in slate.items} == {"Tea", "Mug", "Cup"} and not slate.notes


def test_a_basket_counts_at_once_and_serves_somebody_unknown(trained: Recommender, untrained: Recommender) -> None:
    request = RecommendRequest(users=("nobody",), k=5, basket=("tool1", "tool2"))
    slate = untrained.recommend(request)[0]
    assert slate.status is SlateStatus.TEXT_ONLY and kinds(slate) == {"tool"}
    assert any(r.evidence_id.startswith("H:tool") for item in slate.items for r in item.reasons)
    assert trained.recommend(request)[0].status is SlateStatus.PERSONAL
    assert trained.recommend("nobody", k=5)[0].status is SlateStatus.UNKNOWN_USER
    with pytest.raises(UsageError, match="no item 'nothing'"):
        trained.recommend("nobody", basket=["nothing"])


def test_where_chances_do_not_fall_with_the_rank_the_slate_says_why(trained: Recommender) -> None:
    users = [f"u{n:02}" for n in range(N)]
    for weight, kinds in ((0.0, set()), (1.0, {NoteKind.BY_LIFT})):
        notes = set()
        for slate in trained.recommend(users, k=24, explain=False, popularity_weight=weight):
            chances = [r.probability for r in slate.items]
            assert (chances == sorted(chances, reverse=True)) == (not slate.notes)
            notes |= {note.kind for note in slate.notes}
        assert notes == kinds
    lifted = trained.recommend("u00", k=24, explain=False, popularity_weight=1.0)[0]
    assert [note.kind for note in lifted.notes] == [NoteKind.BY_LIFT]


def test_ranking_by_text_goes_in_blocks(untrained: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = ranking.ask
    monkeypatch.setattr(ranking, "ask", lambda *a, **k: sizes.append(real(*a, **k)) or sizes[-1])
    everybody = np.tile(np.arange(N), 20)
    data = untrained.dataset
    users = ranking.UserInputs(data.events.rows(everybody), data.as_of)
    untrained.ranker.rank(users, 3, block=64)
    assert max(block.n for block in sizes) == 64 and sum(block.n for block in sizes) == len(everybody)


def test_a_slate_that_explores_tells_how_likely_each_item_was(trained: Recommender) -> None:
    request = RecommendRequest(users=("u00", "u01"), k=4, explain=False)
    plain = trained.recommend(request)
    exploring = request.model_copy(update={"explore_share": 0.5, "explore_pool": 8})
    rng = np.random.default_rng(0)
    shown: dict[tuple[int, int], dict[str, int]] = {(n, j): {} for n in range(2) for j in range(4)}
    for _ in range(400):
        for n, slate in enumerate(trained.recommend(exploring, rng=rng)):
            assert slate.ranked[:4] == tuple(item.item_id for item in plain[n].items) and len(slate.ranked) == 12
            assert len({item.item_id for item in slate.items}) == 4
            assert slate.propensity == pytest.approx(np.prod([item.propensity for item in slate.items]))
            for j, item in enumerate(slate.items):
                assert item.propensity == (0.5 if item.item_id == slate.ranked[j] else 0.25)
                shown[n, j][item.item_id] = shown[n, j].get(item.item_id, 0) + 1
    for (n, j), counts in shown.items():
        assert len(counts) == 3, (n, j)  # its own rank, and two of the pool
        assert counts[plain[n].items[j].item_id] / 400 == pytest.approx(0.5, abs=0.08)


def test_a_slate_that_does_not_explore_is_certain(trained: Recommender) -> None:
    (slate,) = trained.recommend("u00", k=3)
    assert slate.propensity == 1.0 and slate.ranked == () and {i.propensity for i in slate.items} == {1.0}


def test_the_group_to_compare_with_sees_what_is_popular(trained: Recommender) -> None:
    (slate,) = trained.recommend("u00", k=3, personal=False)
    assert slate.status is SlateStatus.HOLDOUT and slate.served_by is ServedBy.POPULAR and slate.degraded_reason
    (stranger,) = trained.recommend("nobody", k=3, personal=False)
    assert stranger.status is SlateStatus.UNKNOWN_USER and stranger.items[0].item_id == slate.items[0].item_id


def test_an_intent_says_whether_a_slate_is_for_what_was_bought_before_or_is_new(trained: Recommender) -> None:
    users = ("u00", "u01", "u03")
    purchases = trained.dataset.events.of(Action.PURCHASE)
    rows = trained.user_rows(users)
    bought = [set(trained.dataset.items["item_id"].gather(np.unique(purchases.rows(np.array([r])).item))) for r in rows]
    for intent, belongs in ((Intent.REMIND, lambda own, i: i in own), (Intent.DISCOVER, lambda own, i: i not in own)):
        for slate, own in zip(trained.recommend(users, k=4, intent=intent), bought, strict=True):
            assert slate.items and all(belongs(own, item.item_id) for item in slate.items)
            assert slate.items[0].reasons
    many = trained.recommend(users, k=4, intent=Intent.REMIND)
    assert [trained.recommend(u, k=4, intent=Intent.REMIND)[0].items for u in users] == [slate.items for slate in many]
    with pytest.raises(UsageError, match="remind"):
        trained.recommend("u00", intent=Intent.REMIND, repeats=False)


def test_by_lift_new_things_are_what_the_person_buys_and_another_would_not(trained: Recommender) -> None:
    stats = trained.population.stats
    assert trained.model is not None
    for slate in trained.recommend(["u00", "u01"], k=8, intent=Intent.DISCOVER, objective=Objective.LIFT):
        rows = trained.dataset.item_rows([item.item_id for item in slate.items])
        general = stats.first_buying_rate[rows] * trained.model.horizon_days / 28
        worth = [item.probability or 0 for item in slate.items] * (1 - np.minimum(general, 1))
        assert len(worth) and (np.diff(worth) <= 1e-6).all()
