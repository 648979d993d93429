"""Figures about groups of customers: what a caller gets, the budget, and an attacker who knows all other customers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sqlalchemy import inspect, text

from recllm.base.policy import Policy
from recllm.base.stats.intervals import share
from recllm.shop.store import tables
from recllm.shop.store.connections import writing
from recllm.shop.workspace.figures import KEPT_DAYS, RESULT_NOISE, SIZE_BUDGET, SIZE_NOISE, FigureGate
from recllm.shop.workspace.workspace import Workspace

FLOOR, PEOPLE = 50, 1_200
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = [f"u1_{n:04}" for n in range(PEOPLE)]
BUDGET = int(SIZE_BUDGET)


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    url = request.getfixturevalue("postgres_server").url() if request.param == "postgresql" else None
    with Workspace.create(tmp_path / "shop", store=url) as made:
        fill(made, NAMES)
        yield made


def fill(shop: Workspace, names: list[str]) -> None:
    with shop.store().load("users", load_id=uuid.uuid4().hex, source="test") as load:
        load.write(pl.DataFrame({"user_id": names, "basics": ["{}"] * len(names)}))


def gate(shop: Workspace, caller: str | None = "key:1", days: float = 0) -> FigureGate:
    return FigureGate(shop, caller, NOW + timedelta(days=days))


def size(shop: Workspace, question: object, n: int, **options: float) -> int | None:
    return gate(shop, **options).sizes(question, {"group": n}).people["group"]  # type: ignore[arg-type]


def test_a_caller_gets_rounded_sizes_and_the_owner_exact_ones(shop: Workspace) -> None:
    assert gate(shop, None).sizes("tea", {"a": 437, "b": 3, "c": 0}).people == {"a": 437, "b": None, "c": 0}
    rounded = gate(shop).sizes("tea", {str(n): 437 for n in range(150)}).people.values()
    assert all(n is not None and n % FLOOR == 0 for n in rounded)
    errors = np.array([n - 437 for n in rounded if n is not None])
    assert abs(errors.mean()) < 30 and abs(errors.std() - SIZE_NOISE * FLOOR) < 20


def test_the_same_question_gets_the_same_answer_for_a_week(shop: Workspace) -> None:
    first = gate(shop).sizes("tea", {str(n): 400 + n for n in range(20)}).people
    assert gate(shop, days=KEPT_DAYS - 0.1).sizes("tea", {str(n): 900 for n in range(20)}).people == first
    later = gate(shop, days=KEPT_DAYS + 0.1).sizes("tea", {str(n): 900 for n in range(20)}).people
    assert min(n or 0 for n in later.values()) > max(n or 0 for n in first.values())
    # an equal group under another question, or for another caller, is no equal answer: it would show that they are one
    others = [gate(shop).sizes("mugs", {str(n): 400 + n for n in range(20)}).people, first]
    others.append(gate(shop, "key:2").sizes("tea", {str(n): 400 + n for n in range(20)}).people)
    assert len({tuple(answer.values()) for answer in others}) == 3
    result = gate(shop).interval(share(40, 400), "tea")
    assert result == gate(shop, "key:2", 0.5).interval(share(40, 400), "tea")
    assert result != gate(shop).interval(share(40, 400), "mugs") != gate(shop, days=1).interval(share(40, 400), "mugs")


def test_whether_a_group_has_a_figure_is_drawn_near_the_floor(shop: Workspace) -> None:
    for n in (FLOOR - 1, FLOOR):
        sizes = gate(shop, f"key:{n}").sizes("tea", {str(k): n for k in range(100)}).people.values()
        assert 25 < sum(people is None for people in sizes) < 75


def test_sizes_cost_budget_once_and_those_of_large_groups_less(shop: Workspace) -> None:
    answers = [size(shop, n, 400) for n in range(BUDGET + 20)]
    assert None not in answers[:BUDGET] and answers[BUDGET:] == [None] * 20
    asked = gate(shop).sizes(0, {"group": 400, "new": 500})
    assert asked.people == {"group": answers[0], "new": None} and asked.next_on == NOW + timedelta(days=30)
    assert "2026-03-31" in asked.notes()[0] and not gate(shop, None).sizes(0, {"group": 400}).notes()
    assert size(shop, "new", 500, caller="key:2") is not None  # each caller has a budget
    assert size(shop, "new", 500, days=31) is not None
    large = [size(shop, n, 40_000, caller="key:3") for n in range(3 * BUDGET)]  # noise of 800 for 75
    assert None not in large and all(n % 550 == 0 for n in large if n)


def test_groups_that_share_no_customer_cost_as_two(shop: Workspace) -> None:
    for n in range(BUDGET // 2):
        assert gate(shop).sizes(n, {str(k): 90 for k in range(8)}, disjoint=True).next_on is None
    assert gate(shop).sizes("more", {"group": 400}).next_on is not None
    assert gate(shop).trait_noise("more") is None and gate(shop, "key:2").trait_noise("more") is not None


def test_results_get_noise_that_is_small_beside_their_interval(shop: Workspace) -> None:
    caller, exact = gate(shop), share(60, 1_000)
    noisy = [caller.interval(exact, n) for n in range(400)]
    error = (exact.high - exact.low) / 2 / 1.96
    values = np.array([interval.value for interval in noisy])
    assert abs(values.mean() - exact.value) < 0.1 * error
    assert abs(values.std() / error - RESULT_NOISE) < 0.08
    widths = np.array([interval.high - interval.low for interval in noisy])
    assert np.allclose(widths / (exact.high - exact.low), (1 + RESULT_NOISE**2) ** 0.5)
    # of fresh samples the wider interval holds the truth as often as one at 95 % has to
    hits = np.random.default_rng(0).binomial(1_000, 0.06, 600)
    held = [caller.interval(share(int(n), 1_000), k) for k, n in enumerate(hits)]
    assert np.mean([interval.low <= 0.06 <= interval.high for interval in held]) > 0.93
    assert gate(shop, None).interval(exact, 0) == exact
    assert caller.amount(1234.5, 0.0, "revenue") == 1200 and gate(shop, None).amount(1234.5, 9.0) == 1234.5
    assert (caller.people(FLOOR - 1, "buyers"), gate(shop, None).people(437, "buyers")) == (None, 437)
    assert caller.people(437, "buyers") in (400, 450) and caller.people(10**6, "buyers") == 10**6


def test_a_sum_over_a_group_has_the_noise_of_a_size_and_the_same_one_each_day(shop: Workspace) -> None:
    totals = np.array([gate(shop).total(0.5, 400, n) for n in range(400)])
    assert abs(totals.mean() - 200) < 10 and abs(totals.std() - 0.5 * SIZE_NOISE * FLOOR) < 4
    assert gate(shop, days=1).total(0.5, 400, 0) == totals[0] and gate(shop).total(0.5, 450, 0) != totals[0]


def test_the_fullest_budget_shows_nothing_of_one_customer(shop: Workspace) -> None:
    """Pairs of groups that differ in the target alone, as many as a caller gets; the attacker knows everybody else."""
    rng, right, rounds = np.random.default_rng(1), 0, 80
    for attempt in range(rounds):
        is_member, n = bool(rng.integers(2)), int(rng.integers(100, 600))
        asked = gate(shop, f"key:{attempt}").sizes("pairs", {str(k): n + (is_member and k % 2) for k in range(BUDGET)})
        answers = np.array([asked.people[str(k)] or 0 for k in range(BUDGET)])
        right += (answers[1::2].mean() - answers[::2].mean() > 0.5) == is_member
    assert 0.3 * rounds < right < 0.7 * rounds
    assert 0.2 / (SIZE_NOISE * FLOOR * (2 / (BUDGET / 2)) ** 0.5) < 0.02  # what the mean adds to a guess of one half


def test_a_small_shop_sees_its_own_numbers(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "small") as small:
        fill(small, NAMES[:300])
        assert gate(small).sizes("tea", {"group": 40}).people == {"group": 40}
        assert (gate(small).floor, gate(small).part_floor) == (1, FLOOR)
        assert (gate(small).people(6, "orders"), gate(small).count(6)) == (6, 6)
    with Workspace.create(tmp_path / "strict", policy=Policy(small_shop=0)) as strict:
        assert (gate(strict).floor, gate(strict).people(40, "orders")) == (FLOOR, None)


def test_nothing_that_is_kept_names_a_question_or_a_customer(shop: Workspace) -> None:
    size(shop, {"bought": "tea", "by": NAMES[0]}, 400)
    with shop.store()._engine.connect() as connection:
        rows = repr(connection.execute(tables.group_sizes.select()).all())
    assert "key:1" in rows and NAMES[0] not in rows and "tea" not in rows


def test_a_store_of_version_11_loses_its_register_of_groups(shop: Workspace) -> None:
    with writing(shop.store()._engine) as connection:
        connection.execute(text("DROP TABLE group_sizes"))
        connection.execute(text("ALTER TABLE items DROP COLUMN stock_stated"))
        for name in ("releases", "release_people"):
            connection.execute(text(f"CREATE TABLE {name} (release_no INTEGER)"))
        connection.execute(text("UPDATE meta SET value = '11' WHERE name = 'schema_version'"))
    with writing(shop.store()._engine) as connection:
        tables.migrate(connection)
        names = set(inspect(connection).get_table_names())
    assert "group_sizes" in names and not {"releases", "release_people"} & names
    assert size(shop, "tea", 400) is not None
