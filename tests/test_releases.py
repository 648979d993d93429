"""Figures of groups that do not tell on people: the certificate, what is kept, what attackers get."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import inspect, text

from recllm.policy import Policy
from recllm.privacy.erasure import erase_people
from recllm.store import tables
from recllm.store.database import Store, writing
from recllm.workspace.differencing import GroupVerdict, ReleasedGroups
from recllm.workspace.releases import LISTED, GroupFigure, Releases
from recllm.workspace.workspace import Workspace

FLOOR, PEOPLE = 5, 200
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = [f"u1_{n:03}" for n in range(PEOPLE)]


def lowest_weight(vectors: NDArray[np.bool_]) -> int:
    """Fewest people that a combination of the vectors, (r, n), is about: a word of least weight is 0 on a set of kinds
    of people of rank r - 1, and all such sets are tried."""
    columns, sizes = np.unique(vectors.T.astype(float), axis=0, return_counts=True)
    is_zero = ~columns.any(axis=1)
    columns, sizes = columns[~is_zero], sizes[~is_zero]
    lowest = int(sizes.sum())
    for kinds in itertools.combinations(range(len(columns)), len(vectors) - 1):
        basis = columns[list(kinds)]
        if len(basis) and np.linalg.matrix_rank(basis) < len(basis):
            continue
        word = columns @ np.linalg.svd(basis)[2][-1] if len(basis) else columns[:, 0]
        lowest = min(lowest, int(sizes[np.abs(word) > 1e-9].sum()))
    return lowest


# --- the certificate -------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), floor=st.integers(2, 6), n=st.integers(8, 40))
def test_whatever_is_certified_has_no_combination_about_few(seed: int, floor: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    released, vectors = ReleasedGroups(n, floor), []
    for _ in range(10):
        members = rng.random(n) < rng.uniform(0.2, 0.8)
        if vectors and rng.random() < 0.4:
            members = vectors[rng.integers(len(vectors))] ^ (rng.random(n) < 0.15)
        if released.decide(members).verdict is GroupVerdict.CERTIFIED:
            released.add(members, is_independent=True)
            vectors.append(members)
            if len(vectors) <= 4:
                assert lowest_weight(np.array(vectors)) >= floor


@settings(max_examples=40)
@given(data=st.data())
def test_an_attacker_isolates_nobody(data: st.DataObject) -> None:
    """Adaptive: any set of people, and sums and differences of what was answered with a few more or fewer."""
    n, floor = 60, 4
    released, vectors = ReleasedGroups(n, floor), [np.ones(n, bool)]
    released.add(vectors[0], is_independent=True)
    for _ in range(data.draw(st.integers(3, 14))):
        bits = data.draw(st.integers(0, 2**n - 1))
        members = np.array([bits >> person & 1 for person in range(n)], bool)
        if data.draw(st.booleans()):
            first, second = (vectors[data.draw(st.integers(0, len(vectors) - 1))] for _ in range(2))
            few = np.isin(np.arange(n), data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=floor - 1)))
            members = data.draw(st.sampled_from([first | second, first & ~second, first ^ second])) ^ few
        decision = released.decide(members)
        if decision.verdict.is_told:
            released.add(members, is_independent=decision.verdict is GroupVerdict.CERTIFIED)
            vectors.append(members)
    told = np.array(vectors).astype(float)
    assert all(np.count_nonzero(a != b) in (0, *range(floor, n + 1)) for a in told for b in told)
    # nobody, and no pair of people, is a combination: of what of them is outside the span nothing vanishes
    outside = np.eye(n) - np.linalg.pinv(told) @ told
    alone = np.diag(outside)
    assert alone.min() > 1e-6
    pairs = np.outer(alone, alone) - outside**2
    assert pairs[~np.eye(n, dtype=bool)].min() > 1e-9


def test_three_figures_together_are_seen_where_no_two_are_near() -> None:
    released, people = ReleasedGroups(400, 50), np.arange(400)
    first, second, few = people < 100, (people >= 100) & (people < 200), (people >= 200) & (people < 210)
    for members in (first, second):
        assert released.decide(members).verdict is GroupVerdict.CERTIFIED
        released.add(members, is_independent=True)
    assert released.decide(first | second | few).verdict is GroupVerdict.ENTANGLED
    assert released.decide(first | second).verdict is GroupVerdict.IMPLIED
    assert released.decide(first | few).verdict is GroupVerdict.NEAR


def test_groups_of_exactly_the_floor_are_told_and_the_rest_of_everybody_is_not_few() -> None:
    released, people = ReleasedGroups(200, 50), np.arange(200)
    released.add(people >= 0, is_independent=True)
    verdicts = []
    for part in range(4):
        decision = released.decide(people // 50 == part)
        verdicts.append(decision.verdict)
        released.add(people // 50 == part, is_independent=decision.verdict is GroupVerdict.CERTIFIED)
    assert verdicts == [GroupVerdict.CERTIFIED] * 3 + [GroupVerdict.IMPLIED]
    assert released.decide(people < 49).verdict is GroupVerdict.FEW
    assert released.decide(people < 125).verdict is GroupVerdict.ENTANGLED
    assert ReleasedGroups(200, 1).decide(people < 1).verdict is GroupVerdict.CERTIFIED


def test_there_is_room_for_as_many_figures_as_the_people_allow() -> None:
    rng = np.random.default_rng(0)
    released = ReleasedGroups(600, 20)
    for _ in range(45):
        members = rng.random(600) < 0.5
        if released.decide(members).verdict is GroupVerdict.CERTIFIED:
            released.add(members, is_independent=True)
    assert 0.9 * 600 / 19 <= released.rank <= 600 / 19


# --- a workspace -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    url = request.getfixturevalue("postgres_server").url() if request.param == "postgresql" else None
    with Workspace.create(tmp_path / "shop", store=url, policy=Policy(group_floor=FLOOR)) as made:
        with made.store().load("users", load_id=uuid.uuid4().hex, source="test") as load:
            load.write(pl.DataFrame({"user_id": NAMES, "basics": ["{}"] * PEOPLE}))
        yield made


def figure(shop: Workspace, names: list[str], *, days: int = 0, **options: str) -> GroupFigure:
    return Releases(shop, now=NOW + timedelta(days=days)).figures({"group": names}, **options)["group"]


def test_the_same_and_nearly_the_same_are_answered_alike(shop: Workspace) -> None:
    first = figure(shop, NAMES[:100])
    assert (first.people, first.since, first.words(FLOOR)) == (100, None, "")
    same, near = figure(shop, NAMES[:100], days=1), figure(shop, NAMES[:104], days=1)
    assert same.people == near.people == 100 and same.since == near.since == NOW
    assert same.words(FLOOR) == near.words(FLOOR) and "2026-03-01" in near.words(FLOOR)
    assert figure(shop, NAMES[:105]).people == 105
    assert figure(shop, NAMES[:FLOOR]).people == FLOOR
    few, nobody = figure(shop, NAMES[:3]), figure(shop, [])
    assert (few.people, nobody.people) == (None, None) and few.words(FLOOR) == nobody.words(FLOOR)
    # everybody is a figure too
    assert figure(shop, NAMES[3:]).people == PEOPLE


def test_a_list_leaves_whatever_is_near_and_figures_are_compared_with_it(shop: Workspace) -> None:
    first = Releases(shop, now=NOW).figures({"others": NAMES[100:]}, listed=NAMES[:100])
    assert (first[LISTED].people, first["others"].people) == (100, 100)
    more = Releases(shop, now=NOW).figures({"part": NAMES[:50]}, listed=NAMES[:102])
    assert not more[LISTED].is_exact and more["part"].people is None
    assert "not told" in more["part"].words(FLOOR)
    assert figure(shop, NAMES[:106]).people == 102  # what stands out beside the list are four people
    assert figure(shop, NAMES[:50]).people == 50


def test_figures_of_other_topics_do_not_add_up(shop: Workspace) -> None:
    assert figure(shop, NAMES[:100]).people == 100
    assert figure(shop, NAMES[:102], topic="campaign tea").people == 102
    assert figure(shop, NAMES[:103], topic="campaign tea").people == 102


def test_old_figures_are_forgotten(shop: Workspace) -> None:
    assert figure(shop, NAMES[:100]).people == 100
    assert figure(shop, NAMES[:102], days=365).people == 100
    assert figure(shop, NAMES[:102], days=366).people == 102
    with shop.store().releases() as rows:
        assert {release.people for release in rows.read("people", NOW)} == {PEOPLE, 102}


def test_newcomers_are_in_no_earlier_group(shop: Workspace) -> None:
    assert figure(shop, NAMES[:100]).people == 100
    newcomers = [f"u1_new{n}" for n in range(6)]
    assert figure(shop, [*NAMES[:100], *newcomers[:2]]).people == 100
    assert figure(shop, [*NAMES[:100], *newcomers]).people == 106


def test_an_erased_person_is_taken_out_of_every_group(shop: Workspace) -> None:
    for n in (50, 100, 150):
        figure(shop, NAMES[:n])
    with shop.store().releases() as rows:
        digests, before = rows.people()[0], rows.read("people", NOW)
    assert len(digests) == PEOPLE
    erase_people(shop, [NAMES[10]], actor="test", by_pseudonym=True)
    with shop.store().releases() as rows:
        assert len(rows.people()[0]) == PEOPLE - 1
        after = rows.read("people", NOW)
    assert [len(b.numbers) - len(a.numbers) for a, b in zip(after, before, strict=True)] == [1, 1, 1, 1]
    assert [release.people for release in after] == [release.people for release in before]
    assert not Releases(shop).forget([NAMES[10]])
    assert figure(shop, [*NAMES[:10], *NAMES[11:100]], days=1).people == 100


def test_nothing_that_is_kept_names_anybody(shop: Workspace, tmp_path: Path) -> None:
    figure(shop, NAMES[:100])
    with shop.store()._engine.connect() as connection:
        for table in (tables.releases, tables.release_people):
            content = repr(connection.execute(table.select()).all())
            assert not any(name in content for name in NAMES)
    with Workspace.create(tmp_path / "other") as other:  # another key makes other digests
        assert not np.isin(Releases(other)._digests(NAMES), Releases(shop)._digests(NAMES)).any()


def test_another_key_keeps_the_figures_or_starts_anew(shop: Workspace) -> None:
    releases = Releases(shop, now=NOW)
    releases.figures({"group": NAMES[:100]})
    renamed = {name: f"u1_r{name[3:]}" for name in NAMES[1:]}
    releases.rename(shop.signing_key("releases"), renamed)
    assert figure(shop, [*(renamed[name] for name in NAMES[1:100]), *NAMES[:1]]).people == 100
    with shop.store().releases() as rows:
        assert len(rows.people()[0]) > PEOPLE  # nobody stands for the one who was not renamed
    releases.start_anew()
    assert figure(shop, NAMES[:102]).people == 102


def test_estimates_say_the_same_of_the_same_and_are_not_exact(shop: Workspace) -> None:
    estimate = Releases(shop).estimate
    assert estimate(NAMES[:100]) == estimate(NAMES[99::-1])
    assert estimate(NAMES[:4]) is None and estimate([]) is None
    values = [value for n in range(60) if (value := estimate(NAMES[n : n + 100])) is not None]
    assert len(values) == 60 and len(set(values)) > 1
    assert all(value % FLOOR == 0 and abs(value - 100) <= 1.5 * FLOOR for value in values)
    assert abs(np.mean(values) - 100) < FLOOR / 2


def test_two_who_ask_at_once_are_compared_with_each_other(shop: Workspace) -> None:
    groups = [NAMES[: 100 + n] for n in range(4)]
    answers: list[int | None] = []
    threads = [
        threading.Thread(target=lambda names=names: answers.append(figure(shop, names).people))  # type: ignore[misc]
        for names in groups
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and len(set(answers)) == 1


def test_a_store_of_version_9_gets_the_tables(shop: Workspace) -> None:
    store = shop.store()
    with writing(store._engine) as connection:
        for table in ("releases", "release_people", "tombstones", "restrictions", "audit", "first_loads"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE meta SET value = '9' WHERE name = 'schema_version'"))
    with writing(store._engine) as connection:
        tables.migrate(connection)
        assert {"releases", "release_people"} <= set(inspect(connection).get_table_names())
    assert figure(shop, NAMES[:100]).people == 100
    assert isinstance(store, Store)
