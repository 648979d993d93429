"""The peers in worlds with obvious answers, and what every system of a comparison must keep to."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import polars as pl
import pytest
from peers import PEERS
from peers.collaborative import ease, fit, person_vectors, tifu_knn
from peers.repurchase import slrc, taiw
from test_baselines import names

from recllm.learn.features.item_vectors import item_vectors
from recllm.recommend.evaluation.baselines import purchase_matrix, rank_by
from recllm.recommend.evaluation.protocols import EvaluationQuery, EvaluationWindow, System, time_split
from recllm.recommend.evaluation.systems import BASELINES, make_systems
from recllm.shop.data.dataset import DAY, Dataset
from recllm.text.encoder.toy import ToyEncoder

SMALL = {
    "tifu-knn": {"neighbours": 10},
    "taiw": {"neighbours": 10},
    "als": {"factors": 2, "iterations": 5},
    "lightgbm": {"rounds": 20, "leaves": 7, "least_rows": 5, "windows": 2,
                 "arrivals": {"rounds": 20, "least_rows": 2, "windows": 2}},
}  # fmt: skip


def blocks(seed: int = 0, people: int = 40, days: int = 150) -> Dataset:
    """Two tastes, each with a shelf of 15: people buy of their own shelf only, and some items again and again. Every
    month two items of each shelf arrive."""
    rng = np.random.default_rng(seed)
    rows, arrival = [], {}
    for taste in "ab":
        for number in range(15):
            arrival[f"{taste}{number}"] = 0 if number < 5 else 14 * (number - 4)
    for person in range(people):
        taste = "ab"[person % 2]
        favourites = rng.permutation(5)[:2]
        for day in np.sort(rng.uniform(0, days, 40)):
            there = [i for i, since in arrival.items() if i[0] == taste and since <= day]
            item = f"{taste}{rng.choice(favourites)}" if rng.random() < 0.5 else str(rng.choice(there))
            rows.append((f"p{person}", item, int(day * DAY)))
    user, item, at = zip(*rows, strict=True)
    items = pl.DataFrame({"item_id": list(arrival)}).with_columns(
        title=pl.when(pl.col("item_id").str.starts_with("a")).then(pl.lit("red apple")).otherwise(pl.lit("steel bolt")),
        category=pl.when(pl.col("item_id").str.starts_with("a")).then(pl.lit("food")).otherwise(pl.lit("tools")),
    )
    users = pl.DataFrame({"user_id": [f"p{n}" for n in range(people)], "age": ["young", "old"] * (people // 2)})
    events = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": at}).with_columns(
        price=pl.lit(2.0), quantity=pl.lit(1.0)
    )
    return Dataset.construct(events, users, items)


@cache
def window() -> EvaluationWindow:
    return time_split(blocks(), test_days=28)


@cache
def made(seed: int = 0) -> dict[str, System]:
    past = window().fit_on
    vectors = item_vectors(ToyEncoder(), past)
    return make_systems((*BASELINES, *PEERS), vectors=vectors, settings=SMALL, seed=seed, further=PEERS)


def shelf(asked: EvaluationQuery, item: np.ndarray) -> np.ndarray:
    return asked.fit_on.items["item_id"].str.slice(0, 1).to_numpy()[item]


@pytest.mark.parametrize("name", [*BASELINES, *PEERS])
def test_contract(name: str) -> None:
    system = made()[name]
    for one in window().slices:
        if system.slices is not None and one.name not in system.slices:
            continue
        asked = window().query(one, 6)
        answer = system.rank(asked)
        lists = answer.items
        assert lists.shape == (len(asked.users), 6)
        assert lists.dtype == np.int32
        assert np.isin(lists[lists >= 0], asked.items).all()
        assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in lists)
        assert ((lists >= 0).sum(axis=1) >= min(6, len(asked.items)) * (not asked.mask_seen)).all()
        if asked.mask_seen:
            seen = purchase_matrix(asked.dataset, asked.users, None).toarray() > 0
            assert not any(seen[row, item] for row, line in enumerate(lists) for item in line if item >= 0)
        if answer.probabilities is not None:
            assert ((answer.probabilities >= 0) & (answer.probabilities <= 1) == (lists >= 0)).all()


@pytest.mark.parametrize("name", PEERS)
def test_a_seed_gives_one_answer(name: str) -> None:
    asked = window().query(window().slice("ALL"), 6)
    once = made()[name].rank(asked).items
    again = made.__wrapped__(0)[name].rank(asked).items
    assert once.tolist() == again.tolist()


@pytest.mark.parametrize("name", PEERS)
def test_people_are_offered_their_own_shelf(name: str) -> None:
    """In NEW nothing that a person bought can be repeated, so the shelf must come from people alike; of what only
    arrives (COLD) the trees alone know more than the others, by its kind and text."""
    for part in ("ALL", "NEW", *(["COLD"] if name == "lightgbm" else [])):
        asked = window().query(window().slice(part), 2)
        lists = made()[name].rank(asked).items
        taste = np.array(["ab"[u % 2] for u in asked.users])
        right = [shelf(asked, row[row >= 0]) == t for row, t in zip(lists, taste, strict=True)]
        assert np.concatenate(right).mean() > 0.8, part  # by chance .5; of six seeds sasrec's worst is .86


@pytest.mark.parametrize("name", PEERS)
def test_strangers_and_people_without_history_are_served(name: str) -> None:
    asked = window().query(window().slice("NOHISTORY"), 5)
    assert (asked.fit_users == -1).all()
    assert (made()[name].rank(asked).items >= 0).all()


def log(*rows: tuple[str, str, int]) -> Dataset:
    user, item, day = zip(*rows, strict=True)
    return Dataset.construct(pl.DataFrame({"user_id": user, "item_id": item, "timestamp": [d * DAY for d in day]}))


def asking(past: Dataset, *people: str, k: int = 3) -> EvaluationQuery:
    rows = past.user_rows(people)
    items = np.arange(past.n_items, dtype=np.int32)
    return EvaluationQuery(
        dataset=past, fit_on=past, users=rows, fit_users=rows, items=items, k=k, mask_seen=False, slice="ALL"
    )


def test_tifu_vector_by_hand() -> None:
    """Five baskets in two groups: (1, 2) and (3, 4, 5), the later group being the longer."""
    past = log(("u", "x", 1), ("u", "y", 2), ("u", "x", 3), ("u", "z", 4), ("u", "x", 5), ("u", "y", 5), ("v", "z", 1))
    found = person_vectors(past, np.array([0, 1]), 2, 0.9, 0.5).toarray()
    x, y, z = past.item_rows(["x", "y", "z"])
    first, second = 0.5 / 2, 1 / 2  # weight of each group: decay over the number of groups
    assert found[0, x] == pytest.approx(first * 0.9 / 2 + second * (0.9**2 + 1) / 3)
    assert found[0, y] == pytest.approx(first * 1 / 2 + second * 1 / 3)
    assert found[0, z] == pytest.approx(second * 0.9 / 3)
    assert found[1].tolist() == pytest.approx([1.0 if i == z else 0.0 for i in range(3)])  # one basket is one group


def test_tifu_blends_the_nearest() -> None:
    past = log(("u", "x", 1), ("v", "x", 1), ("v", "y", 1), ("w", "z", 1), ("w", "q", 1))
    assert names(past, rank_by(tifu_knn, neighbours=1, own_share=0.7)(asking(past, "u", k=2))) == [["x", "y"]]
    assert names(past, rank_by(tifu_knn, neighbours=1, own_share=0.0)(asking(past, "u", k=2)))[0][:2] != ["z", "q"]


def test_what_returns_weekly_is_due_on_the_seventh_day() -> None:
    """Milk comes back after a week, soap after five: v bought both a week ago, w five weeks ago."""
    weekly = [(f"u{n}", "milk", day) for n in range(20) for day in range(n % 7, 140, 7)]
    rare = [(f"u{n}", "soap", day) for n in range(20) for day in range(n, 140, 35)]
    past = log(*weekly, *rare, ("v", "milk", 133), ("v", "soap", 133), ("w", "milk", 105), ("w", "soap", 105))
    for peer in (partial(slrc, base_weight=0.0), partial(taiw, own_share=1.0)):
        asked = asking(past, "v", "w", k=1)
        assert names(past, peer(horizon_days=3, interval_prior=1.0, l2=0.1)(asked)) == [["milk"], ["soap"]]


def test_ease_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((30, 8)) < 0.4).astype(float)
    past = log(*[(f"u{u}", f"i{i}", 1) for u, i in zip(*x.nonzero(), strict=True)])
    x = purchase_matrix(past, np.arange(past.n_users), None).toarray().astype(float)
    inverse = np.linalg.inv(x.T @ x + 5 * np.eye(x.shape[1]))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    model = fit(past, 5.0, 100)
    np.testing.assert_allclose(model.weight, expected[np.ix_(model.rows, model.rows)], atol=1e-5)
    lists = ease(l2=5.0)(asking(past, *past.users["user_id"][:2], k=8)).items
    score = (x @ expected)[:2]
    for row, line in zip(lists, score, strict=True):
        np.testing.assert_allclose(line[row], np.sort(line)[::-1], atol=1e-5)
