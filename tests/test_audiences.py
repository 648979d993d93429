"""Audiences in a shop where even people buy tea and odd people buy tools: everybody's answer is known."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from shop_world import shop

from recllm.audiences import Cut, audience
from recllm.dataset import Dataset
from recllm.encoder import ToyEncoder
from recllm.policy import Policy
from recllm.recommender import Recommender
from recllm.training import TrainingArguments

FLOOR = 5


def named(dataset: Dataset) -> Dataset:
    """Even people are of the country, odd ones of the town."""
    homes = ["country" if int(name[1:]) % 2 == 0 else "town" for name in dataset.users["user_id"]]
    return replace(dataset, users=dataset.users.with_columns(pl.Series("home", homes)))


@pytest.fixture(scope="module")
def trained() -> Recommender:
    policy = Policy(group_floor=FLOOR)
    return Recommender(named(shop(people=80)), ToyEncoder(), policy=policy).fit(
        TrainingArguments(n_windows=3, epochs=4)
    )


def even(user_id: str) -> bool:
    return int(user_id[1:]) % 2 == 0


def accounted(found, n_users: int) -> bool:  # type: ignore[no-untyped-def]
    return len(found.people) + len(found.held) + sum(found.excluded.values()) == n_users


def test_tea_goes_to_those_who_buy_tea(trained: Recommender) -> None:
    found = audience(trained, items=["tea3"], cut=Cut(size=20))
    assert found.size == 20 and all(even(p.user_id) for p in found.people)
    chances = [p.probability for p in found.people]
    assert chances == sorted(chances, reverse=True) and all(0 < c < 1 for c in chances)
    assert found.expected_conversions == pytest.approx(sum(chances), rel=1e-5)
    assert accounted(found, 80)


def test_reasons_are_those_of_explain(trained: Recommender) -> None:
    for person in audience(trained, items=["tea3"], cut=Cut(size=20)).people:
        plain = trained.explain(person.user_id, "tea3")
        assert person.reasons
        if not any(r.evidence_id.startswith("I:") for r in (*plain, *person.reasons)):
            assert [r.evidence_id for r in person.reasons] == [r.evidence_id for r in plain]
            assert [r.delta for r in person.reasons] == pytest.approx([r.delta for r in plain], abs=1e-4)
