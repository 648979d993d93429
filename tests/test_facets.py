from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from tables import table

from recllm.base.arrays import Floats
from recllm.base.schema import Action
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import CandidateCounts, explicit
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, SOLD_FEATURES, pair_features
from recllm.learn.training.windows import PastWindows
from recllm.shop.data.catalogue import ItemGroups, NewItems, first_sales, size_of
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import merged_lines, of_actions

START = 1_600_000_000
ITEMS = pl.DataFrame(table("facets", "items"))


def shop(rows: list[tuple[str, str, float]], items: pl.DataFrame = ITEMS) -> Dataset:
    """Person, item, day."""
    events = pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "item_id": [r[1] for r in rows],
            "timestamp": [START + int(r[2] * DAY) for r in rows],
        }
    )
    return Dataset.construct(events, None, items, as_of=START + 120 * DAY)


LOG = [
    *[("ann", "milk", d) for d in range(0, 110, 10)],
    ("ann", "oat", 41),  # a day after its first sale: early
    ("bob", "oat", 40),
    ("bob", "oat", 100),
    ("cid", "oat", 90),  # seven weeks after it: not early
    ("cid", "milk", 5),
    ("bob", "rye", 3),
    ("cid", "bun", 50),
]
DATA = shop(LOG)
VECTORS: Floats = np.eye(DATA.n_items, 8, dtype=np.float32)


def row(item: str) -> int:
    return int(DATA.item_rows([item])[0])


CROWD = CollaborativeStatistics.fit(DATA, VECTORS)
ASKED = ask(CROWD, DATA.events, DATA.as_of, user_rows=np.arange(DATA.n_users))
PAIRS = explicit(DATA.n_users, np.arange(DATA.n_items))
"""Everybody with every item."""


def column(name: str, user: str, item: str) -> float:
    found = pair_features(ASKED, PAIRS)[:, FEATURE_NAMES.index(name)].reshape(DATA.n_users, DATA.n_items)
    return float(found[int(DATA.user_rows([user])[0]), row(item)])


def test_narrow_features_leave_out_only_what_is_not_read_of_sold_items() -> None:
    whole, narrow = (pair_features(ASKED, PAIRS, narrow=flag) for flag in (False, True))
    sold = CROWD.stats.buyers_ever[PAIRS.item] > 0
    assert sold.any() and not sold.all()
    read = np.isin(FEATURE_NAMES, SOLD_FEATURES)
    assert np.array_equal(narrow[~sold], whole[~sold])
    assert np.array_equal(narrow[sold][:, read], whole[sold][:, read])
    assert whole[sold][:, ~read].any() and not narrow[sold][:, ~read].any()
    assert np.array_equal(pair_features(ASKED, PAIRS.select(sold), narrow=True), narrow[sold])


def test_groups_come_from_the_path_the_brand_and_attributes_of_any_usual_name() -> None:
    facets = ItemGroups.of(DATA.items)
    milk, oat, rye, bun, new = (row(i) for i in ("milk", "oat", "rye", "bun", "new"))
    assert facets.type[milk] == facets.type[oat] != facets.type[rye] == facets.type[bun]
    assert facets.category[milk] == facets.category[oat] != facets.category[rye]
    assert len({int(facets.department[i]) for i in (milk, oat, rye, bun)}) == 1
    assert facets.type[new] == facets.department[new] == -1
    assert facets.maker[milk] == facets.maker[oat] != facets.maker[rye]
    assert facets.maker[bun] == facets.maker[new] == -1  # no maker, and an attribute that is none
    assert facets.type_brand[milk] != facets.type_brand[oat]
    assert facets.type_size[oat] >= 0 and facets.type_size[milk] == -1
    assert len(set(facets.brand[facets.brand >= 0].tolist())) == 2 <= size_of(facets.brand)


PATHS = st.none() | st.lists(st.sampled_from(["a", "b", ""]), max_size=3)
VALUES = st.sampled_from(['7"', "é", ""])
ATTRIBUTES = st.none() | st.dictionaries(
    st.sampled_from(["maker", "厂家", "size", "x"]), st.sampled_from(['7"', "é", ""])
)


@given(
    rows=st.lists(st.tuples(PATHS, st.sampled_from(["A", "B", "", None]), ATTRIBUTES, st.booleans()), max_size=12),
    n_new=st.integers(1, 6),
)
def test_groups_of_new_items_are_those_of_the_whole_catalogue(rows: list[Any], n_new: int) -> None:
    paths, brands, attributes, in_ascii = zip(*rows, (["a"], "A", {"size": "1"}, True), strict=True)
    items = pl.DataFrame(
        {
            "category": pl.Series(paths, dtype=pl.List(pl.String)),
            "brand": pl.Series(brands, dtype=pl.String),
            "attributes": pl.Series(
                [
                    None if a is None else json.dumps(a, ensure_ascii=flag)
                    for a, flag in zip(attributes, in_ascii, strict=True)
                ],
                dtype=pl.String,
            ),
        }
    )
    n_before = max(items.height - n_new, 0)
    before = ItemGroups.of(items[:n_before])
    of_all, continued = ItemGroups.of(items).each(), before.with_new_items(items).each()
    for name, codes in continued.items():
        assert np.array_equal(codes[:n_before], before.each()[name])
        same = codes[:, None] == codes[None]  # which items are in one group, and which are in none
        assert np.array_equal(same, of_all[name][:, None] == of_all[name][None]), name
        assert np.array_equal(codes < 0, of_all[name] < 0)


def test_an_arrival_is_judged_only_with_time_before_and_after_it() -> None:
    taken = merged_lines(of_actions(DATA.events, (Action.PURCHASE,)))
    first = first_sales(taken, DATA.n_items)
    found = NewItems.since(first, int(taken.at.min()), DATA.as_of)
    bought_early = found.first_buyers(taken)
    assert found.young[row("oat")] and found.judged[row("oat")] and bought_early[row("oat")] == 2  # ann and bob
    assert not found.young[row("milk")]  # was there from the beginning of the log
    assert not found.judged[row("new")] and found.first[row("new")] == np.iinfo(np.int64).max
    late = NewItems.since(first, int(taken.at.min()), START + 60 * DAY)
    assert late.young[row("oat")] and not late.judged[row("oat")]  # its first month is not over


def test_who_took_a_thing_while_it_was_new_is_told_from_who_came_later() -> None:
    assert column("type_early", "ann", "milk") > 0
    assert column("type_early", "cid", "milk") == 0
    assert column("maker_early", "ann", "milk") > 0 and column("maker_early", "ann", "rye") == 0


def test_groups_that_nobody_knows_have_neutral_values() -> None:
    for name in ("type_times", "maker_items", "type_maker_affinity", "category_buyers"):
        assert column(name, "ann", "new") == 0
    assert column("type_days_since", "ann", "new") == np.float32(np.log(731))


def test_the_arrivals_of_a_window_are_learned_among_themselves() -> None:
    people = [f"p{i}" for i in range(40)]
    rows = [(p, i, float(d)) for p in people for i, d in (("milk", 1), ("rye", 30), ("oat", 95), ("milk", 95))]
    items = ITEMS.filter(pl.col("item_id") != "bun")
    many = [f"fresh{i}" for i in range(40)]
    rows += [(p, f, 96.0) for p, f in zip(people, many, strict=True)]
    data = shop(rows, items)
    vectors = np.eye(data.n_items, 64, dtype=np.float32)
    past = PastWindows(data, vectors, None, ScorerTrainingSettings(), CollaborativeSettings(), CandidateCounts())
    found = past.new_items(past.population(START + 92 * DAY))
    assert found is not None and found.n == 40
    arrived = set(data.item_rows(["oat", *many]).tolist())
    assert set(found.item.tolist()) <= arrived  # milk is bought in the window too, and is no arrival
    assert not found.bought_before.any() and found.label.sum() == 80  # oat and one fresh thing each
    assert past.new_items(past.population(START + 20 * DAY)) is None  # one arrival is too few
