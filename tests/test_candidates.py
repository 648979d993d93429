from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from shop_world import history, shop, vectors

from recllm.learn.features.candidates import (
    BIT,
    CATEGORY_TREND,
    NEIGHBOURS,
    NEW_ARRIVALS,
    OWN_HISTORY,
    POPULAR,
    SOURCES,
    TEXT_NEAREST,
    CandidateCounts,
    candidates,
    explicit,
    served_by,
)
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.shop.data.dataset import DAY, Dataset

DATA = shop()
CROWD = CollaborativeStatistics.fit(DATA, vectors(DATA))
EVERYBODY = np.arange(DATA.n_users)
ASKED = ask(CROWD, DATA.events, DATA.as_of, user_rows=EVERYBODY)
OFF = dict.fromkeys(SOURCES, 0)


def only(**on: int) -> CandidateCounts:
    return CandidateCounts(**{**OFF, **on})


def test_pairs_are_distinct_ascending_and_name_their_sources() -> None:
    found = candidates(ASKED)
    for u in range(DATA.n_users):
        assert (np.diff(found.item[found.indptr[u] : found.indptr[u + 1]]) > 0).all()
    assert (found.sources > 0).all()
    assert served_by(int(BIT[OWN_HISTORY] | BIT[POPULAR])) == (OWN_HISTORY, POPULAR)


def test_own_history_is_all_that_a_person_took_and_other_sources_only_what_is_new() -> None:
    found = candidates(ASKED)
    own = (found.sources & BIT[OWN_HISTORY]) > 0
    assert (found.sources[own] == BIT[OWN_HISTORY]).all()
    took = {(u, i) for u, i in zip(DATA.events.user.tolist(), DATA.events.item.tolist(), strict=True)}
    assert set(zip(found.user[own].tolist(), found.item[own].tolist(), strict=True)) == took


def test_neighbours_propose_the_persons_own_kind_of_thing() -> None:
    found = candidates(ASKED, only(neighbours=3))
    names = DATA.items["item_id"].to_list()
    people = DATA.users["user_id"].to_list()
    assert len(found.item)
    for user, item in zip(found.user, found.item, strict=True):
        assert names[item].startswith("tea" if int(people[user][1:]) % 2 == 0 else "tool")
    assert served_by(int(found.sources[0])) == (NEIGHBOURS,)


@pytest.mark.parametrize("source", [CATEGORY_TREND, POPULAR, NEIGHBOURS])
def test_no_source_exceeds_its_share(source: str) -> None:
    found = candidates(ASKED, only(**{source: 2}))
    assert np.diff(found.indptr).max() == 2


def test_filters_come_before_the_cut() -> None:
    order = CROWD.popular
    allowed = np.ones(DATA.n_items, bool)
    allowed[order[:5]] = False
    stranger = ask(CROWD, history([]), DATA.as_of)
    found = candidates(stranger, only(popular=3), allowed=allowed)
    assert set(found.item) == set(order[5:8])
    banned = (np.array([0, 2]), order[5:7])
    found = candidates(stranger, only(popular=3), allowed=allowed, banned=banned)
    assert set(found.item) == set(order[7:10])


def test_a_ban_concerns_one_person_alone() -> None:
    two = ask(CROWD, history([], []), DATA.as_of)
    first = CROWD.popular[:1]
    found = candidates(two, only(popular=2), banned=(np.array([0, 1, 1]), first))
    assert first[0] not in found.item[found.user == 0] and first[0] in found.item[found.user == 1]


def test_where_habits_lead_each_source_proposes_half_as_many_to_people_who_have_some() -> None:
    rows = [row for row, name in enumerate(DATA.items["item_id"]) if name.startswith("tea")][:4]
    asked = ask(CROWD, history([(row, DATA.as_of - (5 - n) * DAY) for n, row in enumerate(rows)]), DATA.as_of)
    settings = only(own_history=4, neighbours=4, popular=4, habit_items=4)

    def n_proposed(**options: object) -> dict[str, int]:
        pairs = candidates(asked, settings, **options)  # type: ignore[arg-type]
        return {name: int(((pairs.sources & BIT[name]) > 0).sum()) for name in (OWN_HISTORY, NEIGHBOURS, POPULAR)}

    everything, half = {OWN_HISTORY: 4, NEIGHBOURS: 4, POPULAR: 4}, {OWN_HISTORY: 2, NEIGHBOURS: 2, POPULAR: 4}
    assert n_proposed() == everything
    assert n_proposed(habits_lead=True) == half  # popular items fill a list: they stay
    assert n_proposed(habits_lead=True, repeats=False) == everything | {OWN_HISTORY: 0}
    open_to_three = np.ones(DATA.n_items, bool)
    open_to_three[asked.owned.key[0]] = False
    assert n_proposed(habits_lead=True, allowed=open_to_three)[OWN_HISTORY] == 3
    settings = replace(settings, habit_items=0)
    assert n_proposed(habits_lead=True) == everything


def test_what_was_taken_can_be_hidden() -> None:
    found = candidates(ASKED, repeats=False)
    took = set(zip(DATA.events.user.tolist(), DATA.events.item.tolist(), strict=True))
    assert not took & set(zip(found.user.tolist(), found.item.tolist(), strict=True))


def test_nothing_allowed_gives_nothing() -> None:
    found = candidates(ASKED, allowed=np.zeros(DATA.n_items, bool))
    assert len(found.item) == 0 and len(found.indptr) == DATA.n_users + 1


def test_text_speaks_for_people_with_a_short_history_and_for_those_with_basics_alone() -> None:
    basics = vectors(DATA)[[3]]
    stranger = ask(CROWD, history([]), DATA.as_of, basics=basics)
    found = candidates(stranger, only(text_nearest=1))
    assert found.item.tolist() == [3] and served_by(int(found.sources[0])) == (TEXT_NEAREST,)
    few = candidates(ASKED, only(text_nearest=1, short_history=1))
    assert len(few.item) == 0


def test_an_item_that_never_sold_is_an_arrival() -> None:
    events = pl.DataFrame({"user_id": ["a"], "item_id": ["old"], "timestamp": [100 * DAY]})
    items = pl.DataFrame({"item_id": ["old", "fresh"], "title": ["Old", "Fresh"], "category": [["tea"], ["tea"]]})
    data = Dataset.construct(events, items=items, as_of=200 * DAY)
    crowd = CollaborativeStatistics.fit(data, np.eye(2, dtype=np.float32))
    fresh = int(data.item_rows(["fresh"])[0])
    assert crowd.arrivals.tolist() == [fresh]
    found = candidates(ask(crowd, data.events, data.as_of), only(new_arrivals=5))
    assert found.item.tolist() == [fresh] and served_by(int(found.sources[0])) == (NEW_ARRIVALS,)


def test_an_explicit_list_is_the_same_for_everyone() -> None:
    found = explicit(2, np.array([5, 1, 5]))
    assert found.item.tolist() == [1, 5, 1, 5] and not found.sources.any()
