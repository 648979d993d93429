"""Offers: what goes together, what fits whom and why, whom an offer is for, and how a campaign spreads."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_world import START, history

from recllm.base.errors import ModelError, UsageError
from recllm.base.policy import Policy
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Action, Intent, NoteKind, Objective, ReasonKind
from recllm.base.settings import OfferSettings, ScorerTrainingSettings
from recllm.learn.features.together import bought_together, cart_weights
from recllm.market.audiences.audience import audience_target, eligible_pool, find_audience
from recllm.market.audiences.exclusions import ExclusionReason
from recllm.market.audiences.probabilities import OfferTable, independent_probabilities
from recllm.market.audiences.request import AudienceLimits, AudienceRequest, Exclusions, OfferChoice
from recllm.market.audiences.selection import spread_offers
from recllm.market.propensity.effects import PersonEffects
from recllm.recommend.recommender.intent_items import fitting_items, shops_weekly
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.text.encoder.toy import ToyEncoder

PEOPLE, FLOOR = 80, 5
KINDS = ("pasta", "sauce", "soap", "tea", "beer")


def world(people: int = PEOPLE, weeks: int = 16) -> Dataset:
    """Everybody buys soap, tea and beer as it comes; whoever buys pasta of a number takes the sauce of that number."""
    rng = np.random.default_rng(0)
    items = [
        (f"{kind}{n}", f"{kind.title()} number {n}", ["liquor" if kind == "beer" else "food", kind], 1.0 + n)
        for kind in KINDS
        for n in range(4)
    ]
    rows = []
    for user in range(people):
        liked = {kind: rng.choice(4, 2, replace=False) for kind in ("soap", "tea", "beer")}
        for week in range(weeks):
            at = START + (7 * week + user % 7) * DAY
            basket = [f"{kind}{rng.choice(own)}" for kind, own in liked.items() if rng.random() < 0.5]
            if rng.random() < 0.4:
                n = int(rng.integers(2))
                basket += [f"pasta{n}", *([f"sauce{n}"] if rng.random() < 0.9 else [])]
            elif rng.random() < 0.05:
                basket.append(f"sauce{int(rng.integers(2))}")
            rows += [(f"u{user}", item, at) for item in basket]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    catalogue = pl.DataFrame(items, schema=["item_id", "title", "category", "price"], orient="row")
    return Dataset.construct(events, items=catalogue)


@pytest.fixture(scope="module")
def trained() -> Recommender:
    training = ScorerTrainingSettings(n_windows=2, epochs=2, min_steps=60)
    return Recommender(world(), ToyEncoder(), policy=Policy(group_floor=FLOOR)).fit(training)


def pairs_of(recommender: Recommender) -> set[tuple[str, str]]:
    matrix, ids = recommender.together.tocoo(), recommender.dataset.items["item_id"].to_list()
    return {(ids[a], ids[b]) for a, b in zip(matrix.row, matrix.col, strict=True)}


def test_what_is_bought_together_is_found_and_nothing_else(trained: Recommender) -> None:
    planted = {(f"pasta{n}", f"sauce{n}") for n in range(2)}
    assert pairs_of(trained) == planted | {(b, a) for a, b in planted}


def test_a_habit_of_one_household_is_no_evidence() -> None:
    data = world(weeks=8)
    rows = data.item_rows(["soap3", "tea3"])
    at = np.repeat(START + np.arange(200) * DAY // 4, 2)
    one = history([(int(rows[n % 2]), int(at[n])) for n in range(400)])
    kind = np.array([KINDS.index(name[:-1]) for name in data.items["item_id"]])
    found = bought_together(Events.concat([data.events, one]), data.n_items, kind)
    assert found[rows[0], rows[1]] == 0 and found.nnz


def test_what_is_of_one_kind_is_bought_instead_and_goes_with_nothing(trained: Recommender) -> None:
    purchases, n_items = trained.dataset.events.of(Action.PURCHASE), trained.dataset.n_items
    alike = np.zeros(n_items, np.int64)
    assert not bought_together(purchases, n_items, alike).nnz
    unknown = np.full(n_items, -1)
    assert bought_together(purchases, n_items, unknown).nnz == len(pairs_of(trained))


def naive_z(events: Events, n_items: int, people: int, z_least: float) -> np.ndarray:
    """By the formula of the module, person by person and trip by trip."""
    trips: list[tuple[int, set[int]]] = []
    buyers = [len(np.unique(events.user[events.item == item])) for item in range(n_items)]
    looked_at = {item for item, n in enumerate(buyers) if n >= people}
    for user in range(len(events.indptr) - 1):
        part = slice(events.indptr[user], events.indptr[user + 1])
        for at in np.unique(events.at[part]):
            trips.append((user, looked_at.intersection(events.item[part][events.at[part] == at].tolist())))
    lines = sum(len(items) for _, items in trips)
    count = np.array([sum(i in items for _, items in trips) for i in range(n_items)])
    z = np.zeros((n_items, n_items))
    for a in range(n_items):
        for b in range(n_items):
            if a == b or count[a] == 0 or count[b] == 0:
                continue
            gap, both = {}, set()
            for user, items in trips:
                if a in items:
                    by_chance = (len(items) - 1) * count[b] / max(lines - count[a], 1)
                    gap[user] = gap.get(user, 0.0) + (b in items) - by_chance
                    both |= {user} if b in items else set()
            value = sum(gap.values()) / np.sqrt(max(sum(g**2 for g in gap.values()), 1e-12))
            z[a, b] = value if value > z_least and len(both) >= people else 0.0
    return z


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_it_is_what_the_formula_says(seed: int) -> None:
    rng, n_items = np.random.default_rng(seed), 6
    runs, popularity = [], np.array([5, 5, 3, 2, 2, 1]) / 18
    for _ in range(12):
        at = np.sort(rng.integers(0, 6, 14)) * DAY + START
        runs.append(list(zip(rng.choice(n_items, 14, p=popularity).tolist(), at.tolist(), strict=True)))
    events = history(*runs)
    found = bought_together(events, n_items, np.arange(n_items), min_people=2, min_z=1e-9).toarray()
    expected = naive_z(events, n_items, 2, 1e-9)
    ours = found > 0  # pairs that could not pass if each trip were another person's are not looked at
    assert np.allclose(found[ours], expected[ours], rtol=1e-4)
    assert ours.sum() <= (expected > 0).sum()


def test_nothing_goes_together_where_nobody_buys() -> None:
    assert bought_together(history([]), 4, np.arange(4)).shape == (4, 4)
    assert not bought_together(history([(0, START)]), 4, np.arange(4)).nnz


def fitting(recommender: Recommender, intent: Intent, *runs: list[tuple[str, float]], cart: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    """Of people who bought these items so many days ago."""
    as_of, row = recommender.dataset.as_of, lambda name: int(recommender.dataset.item_rows([name])[0])
    events = history(*([(row(name), int(as_of - days * DAY)) for name, days in run] for run in runs))
    return recommender.fitting(intent, events, recommender.dataset.item_rows(list(cart)) if cart else None)


def named(recommender: Recommender, rows: np.ndarray) -> list[str]:
    return recommender.dataset.items["item_id"].gather(rows).to_list()


def test_an_offer_goes_with_a_late_purchase_and_says_with_which(trained: Recommender) -> None:
    both, complete = [("pasta0", 3.0), ("soap1", 2.0)], [("pasta0", 3.0), ("sauce0", 3.0)]
    found = fitting(trained, Intent.CROSS_SELL, both, [("pasta0", 30.0)], complete, [("soap1", 1.0)])
    assert named(trained, found.of(0)) == ["sauce0"]
    sauce, pasta = trained.dataset.item_rows(["sauce0", "pasta0"]).tolist()
    assert found.of_offers(0)[0] == {sauce: pasta}
    assert [len(found.of(n)) for n in range(4)] == [1, 0, 0, 0]
    kinds = [None if remark is None else remark[0] for remark in found.remarks]
    assert kinds == [None, NoteKind.NO_RECENT_PURCHASE, NoteKind.NOTHING_GOES_WITH, NoteKind.NOTHING_GOES_WITH]


def test_what_lies_in_the_cart_counts_as_bought_now(trained: Recommender) -> None:
    found = fitting(trained, Intent.CROSS_SELL, [("soap1", 100.0)], cart=("pasta1",))
    assert named(trained, found.of(0)) == ["sauce1"]


def test_nothing_goes_with_a_sensitive_purchase(trained: Recommender) -> None:
    ruled = Recommender(trained.dataset, trained.encoder, policy=Policy(sensitive_categories=frozenset({"pasta"})))
    ruled.together = trained.together
    found = fitting(ruled, Intent.CROSS_SELL, [("pasta0", 1.0)])
    assert not len(found.of(0)) and found.remarks[0] is not None


def test_to_win_back_is_what_was_bought_repeatedly_and_no_more(trained: Recommender) -> None:
    gone = [("tea1", 90.0), ("tea1", 60.0), ("soap1", 60.0)]  # soap but once
    shops_on = [*gone, ("tea0", 1.0)]
    loyal = [("tea1", 90.0), ("tea1", 3.0)]
    found = fitting(trained, Intent.WIN_BACK, gone, shops_on, loyal)
    assert [named(trained, found.of(n)) for n in range(3)] == [["tea1"], ["tea1"], []]
    remarks = [None, (NoteKind.STILL_BUYS, pytest.approx(1.0)), (NoteKind.NOTHING_TO_WIN_BACK, 42.0)]
    assert list(found.remarks) == remarks


def test_what_was_sent_back_is_not_won_back() -> None:
    bought, back = history([(0, START), (0, START + DAY)]), history([(0, START + 2 * DAY)], action=Action.RETURN)
    columns = (np.concatenate(pair) for pair in zip(bought.columns(), back.columns(), strict=True))
    events, later = Events(np.array([0, 3], np.int64), *columns), START + 100 * DAY
    answers = [
        fitting_items(Intent.WIN_BACK, each, later, OfferSettings(), lambda: None, lambda rows: rows < 0)  # type: ignore[arg-type, return-value]
        for each in (bought, events)
    ]
    assert [len(answer.of(0)) for answer in answers if answer is not None] == [1, 0]


def test_who_shops_weekly() -> None:
    weekly, seldom = ([(0, START + n * days * DAY) for n in range(5)] for days in (7, 20))
    assert shops_weekly(history(weekly)) and not shops_weekly(history(seldom)) and not shops_weekly(history(weekly[:2]))


def test_a_slate_of_an_intent_holds_it_and_says_why(trained: Recommender) -> None:
    slates = trained.recommend([f"u{n}" for n in range(PEOPLE)], k=4, intent=Intent.CROSS_SELL)
    filled = [slate for slate in slates if slate.items]
    assert len(filled) > PEOPLE // 10
    for slate in filled:
        bought = trained.dataset.events.rows(trained.user_rows([slate.user_id]))
        late = named(trained, bought.item[bought.at >= trained.dataset.as_of - 14 * DAY])
        for item in slate.items:
            reason = item.reasons[0]
            assert item.part is Intent.CROSS_SELL and item.part_text == "goes with what you chose"
            assert reason.kind is ReasonKind.TOGETHER and reason.evidence_id[2:] in late
            assert item.item_id not in late and (reason.evidence_id[2:], item.item_id) in pairs_of(trained)
            assert reason.text.startswith("You bought “Pasta") or reason.text.startswith("You bought “Sauce")
    empty = next(slate for slate in slates if not slate.items)
    assert "14 days" in (empty.degraded_reason or "")
    assert empty.notes[0].kind in (NoteKind.NO_RECENT_PURCHASE, NoteKind.NOTHING_GOES_WITH)


def test_a_cart_of_somebody_unknown_gets_what_goes_with_it(trained: Recommender) -> None:
    request = RecommendRequest(users=("",), basket=("pasta0",), intent=Intent.CROSS_SELL)
    (slate,) = trained.for_nobody().recommend(request)
    assert [item.item_id for item in slate.items] == ["sauce0"]
    assert slate.items[0].reasons[0].text == "“Pasta number 0” is in your cart; others buy the two together."
    (chinese,) = trained.in_language("zh").for_nobody().recommend("", basket=("pasta0",), intent=Intent.CROSS_SELL)
    assert "购物车" in chinese.items[0].reasons[0].text and chinese.items[0].part_text == "与您所选商品搭配"


def test_what_completes_a_cart_comes_first(trained: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.recommend.recommender.explanation.EVIDENCE_PER_ITEM", 1)  # and what is in the cart
    untrained = Recommender(trained.dataset, ToyEncoder())
    for recommender, user in ((trained.for_nobody(), ""), (trained, "u0"), (untrained.for_nobody(), "")):
        carts = (("pasta1", "tea0"), ("pasta1", "tea0", "pasta1"))
        slate, again = (recommender.recommend(user, basket=basket, k=5)[0] for basket in carts)
        first = slate.items[0]
        assert first.item_id == "sauce1" and first.reasons[0].text == "You put “Pasta number 1” into your cart."
        assert not {"pasta1", "tea0"} & {item.item_id for item in slate.items}
        assert [item.score for item in again.items] == [item.score for item in slate.items]
        assert recommender.model or slate.items[1].score < 0, "what is in all carts alike completes none"
        assert NoteKind.BY_LIFT not in [note.kind for note in slate.notes]
    (search,) = trained.recommend("", basket=("pasta1",), allow=("pasta1", "soap0"), k=2)
    assert {item.item_id for item in search.items} == {"pasta1", "soap0"}  # the caller's own list stays whole


def test_what_few_people_bought_together_completes_no_cart() -> None:
    rows = [(f"u{n}", item, START + n) for n in range(8) for item in (("a", "b") if n % 2 else ("c",))]
    rows += [(f"u{n}", "d", START + DAY) for n in range(8)]
    rows += [("u0", item, START + k * DAY) for item in "cd" for k in range(2, 60)]
    data = Dataset.construct(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    a, b, c, d = data.item_rows(list("abcd")).tolist()
    (few, share), (five, _) = (cart_weights(data.events, data.n_items, min_people=people) for people in (4, 5))
    assert few[a, b] > 0 and few[c, d] == 0 and five.nnz == 0 and 0 < share[a] < 0.5


def test_the_parts_of_a_slate_are_told_apart(trained: Recommender) -> None:
    (slate,) = trained.recommend("u0", k=12)
    own = set(named(trained, trained.dataset.events.rows(trained.user_rows(["u0"])).item))
    assert {item.part for item in slate.items} == {Intent.REMIND, Intent.DISCOVER}
    for item in slate.items:
        assert item.part is (Intent.REMIND if item.item_id in own else Intent.DISCOVER)
        assert item.part_text == ("for your weekly shop" if item.item_id in own else "new for you")
    (stranger,) = trained.recommend("nobody", k=2)
    assert stranger.items[0].part is None and stranger.items[0].part_text == ""


def test_a_state_that_does_not_say_what_goes_together_says_so() -> None:
    shop = Recommender(Dataset.of_catalogue(world(weeks=2).items, START), ToyEncoder())
    with pytest.raises(ModelError, match="recllm refresh"):
        _ = shop.together


def test_what_a_slate_cannot_be(trained: Recommender) -> None:
    with pytest.raises(UsageError, match="orders people and not items"):
        trained.recommend("u0", objective=Objective.UPLIFT)
    with pytest.raises(UsageError, match="win_back"):
        trained.recommend("u0", intent=Intent.WIN_BACK, repeats=False)


def test_by_lift_comes_first_who_is_more_likely_than_others(trained: Recommender) -> None:
    items, everybody = trained.dataset.item_rows(["tea0"]), np.arange(PEOPLE)
    chance = independent_probabilities(trained, items, everybody)
    lift = independent_probabilities(trained, items, everybody, objective=Objective.LIFT)
    owned = np.array([items[0] in trained.dataset.events.rows(np.array([n])).item for n in everybody])
    stats = trained.population.stats
    general = np.where(owned, stats.buying_rate[items[0]], stats.first_buying_rate[items[0]])
    assert trained.model is not None and chance.probability is not None
    assert lift.score == pytest.approx(chance.probability - general * trained.model.horizon_days / 28, abs=1e-6)
    assert np.array_equal(lift.probability, chance.probability)  # type: ignore[arg-type]


@pytest.mark.parametrize("intent", [Intent.DISCOVER, Intent.REMIND])
def test_an_audience_of_an_intent_leaves_out_whom_nothing_fits(trained: Recommender, intent: Intent) -> None:
    target = audience_target(trained, ["tea0", "tea1"])
    pool = eligible_pool(trained, target, Exclusions(), choice=OfferChoice(intent=intent))
    left_out = pool.excluded.get(ExclusionReason.NO_OFFER, 0)
    assert left_out + len(pool.user_rows) == PEOPLE and left_out > 0
    for user, item in zip(pool.user_rows, pool.scores.best_item, strict=True):
        owns = item in trained.dataset.events.rows(np.array([user])).item
        assert owns == (intent is Intent.REMIND)


def effects_by_row(rows: np.ndarray) -> PersonEffects:
    """A treatment that moves people of high numbers, and is known for sure of those above 40."""
    effect = rows / 100 - 0.2
    return PersonEffects(effect, effect - 0.2, effect + 0.2)


def test_an_audience_by_uplift_is_whom_a_treatment_moves(trained: Recommender) -> None:
    limits = AudienceLimits(size=10, holdout=0)
    choice = OfferChoice(objective=Objective.UPLIFT, effects="x")
    request = AudienceRequest(items=["tea0"], choice=choice, limits=limits, explain=False)
    best = find_audience(trained, request, effects=effects_by_row)
    rows = trained.dataset.user_rows([person.user_id for person in best.people])
    assert sorted(rows) == list(range(PEOPLE - 10, PEOPLE))
    assert best.expected_extra == pytest.approx(sum(rows / 100 - 0.2))
    assert best.people[0].effect == pytest.approx((PEOPLE - 1) / 100 - 0.2)
    assert best.people[0].effect_low == pytest.approx(best.people[0].effect - 0.2)  # type: ignore[operator]
    changes = {"choice": choice.model_copy(update={"sure": True}), "limits": AudienceLimits(holdout=0)}
    members = find_audience(trained, request.model_copy(update=changes), effects=effects_by_row)
    assert members.size == PEOPLE - 41 and members.excluded[ExclusionReason.NOT_MOVED] == 41
    paying = request.model_copy(update={"limits": AudienceLimits(cost=1.0, margin=2.0, holdout=0)})
    assert find_audience(trained, paying, effects=effects_by_row).size == PEOPLE - 71  # effect * 2 > 1
    with pytest.raises(UsageError, match=r"the effects .* are missing"):
        find_audience(trained, request)


def test_choices_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="belong to the objective uplift"):
        OfferChoice(sure=True, objective=Objective.LIFT)
    with pytest.raises(UsageError, match="likeness"):
        AudienceRequest(seeds=["u1"], choice=OfferChoice(objective=Objective.LIFT))


def offers(n: int, m: int, seed: int, objective: Objective = Objective.LIFT) -> OfferTable:
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.01, 0.9, (n, m)).astype(np.float32)
    offset = (0.3 * rng.uniform(0, 0.5, (n, m))).astype(np.float32)
    value = probability - offset if objective is Objective.LIFT else probability
    order = np.argsort(-value, axis=1)
    item = np.take_along_axis(np.tile(np.arange(m), (n, 1)), order, 1)
    probability, offset = (np.take_along_axis(part, order, 1) for part in (probability, offset))
    worth = probability / (1 - probability) if objective is Objective.PROBABILITY else probability - offset
    return OfferTable(item, worth, probability)


@settings(max_examples=30, deadline=None)
@given(
    *(st.integers(1, 40), st.integers(1, 8), st.integers(0, 1000)),
    st.sampled_from([Objective.LIFT, Objective.PROBABILITY]),
)
def test_without_spread_everybody_gets_their_best(n: int, m: int, seed: int, objective: Objective) -> None:
    table, order = offers(n, m, seed, objective), np.random.default_rng(seed).permutation(n)
    best = spread_offers(table, order, 0.0)
    assert np.array_equal(best, table.item[:, 0])
    assert spread_offers(table, order, 1.0)[order[0]] == best[order[0]]


def test_each_further_offer_of_an_item_costs_a_little() -> None:
    probability = np.tile([0.73, 0.62], (4, 1)).astype(np.float32)
    table = OfferTable(np.tile([7, 9], (4, 1)), np.exp(np.tile([1.0, 0.5], (4, 1))).astype(np.float32), probability)
    # 1 - log(1 + n) falls below .5 - log(1 + m) where n is 1 and m is 0; at 2 and 1 it is above again
    assert spread_offers(table, np.arange(4), 1.0).tolist() == [7, 9, 7, 7]
    assert spread_offers(table, np.arange(4), 0.1).tolist() == [7, 7, 7, 7]


def test_people_without_an_offer_have_none() -> None:
    table = offers(3, 2, 0)
    table.item[1] = -1
    assert (spread_offers(table, np.array([1, 0, 2]), 0.5) >= 0).tolist() == [True, False, True]
    assert spread_offers(table.rows(np.array([1])), np.array([0]), 0.5).tolist() == [-1]


@pytest.mark.parametrize("objective", [Objective.LIFT, Objective.MARGIN, Objective.PROBABILITY])
def test_a_wider_spread_never_crowds_people_onto_one_item(objective: Objective) -> None:
    """Fifteen items, most of them nearly as good: the most offered one is offered ever less often."""
    table, order, largest = offers(200, 15, 3, objective), np.arange(200), []
    for spread in (0.0, 0.2, 0.5, 1.0):
        largest.append(int(np.bincount(spread_offers(table, order, spread)).max()))
    assert largest == sorted(largest, reverse=True) and largest[-1] <= 20
