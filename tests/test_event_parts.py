"""A long log: part by part it counts the same; the dataset of a store holds what its frames hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_world import START, history, load_lines, loaded, shop, vectors

from recllm.base.schema import Purpose
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features import collaborative as collaborative_module
from recllm.learn.features.candidates import explicit
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.item_vectors import _prices, item_vectors
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_features
from recllm.learn.features.together import bought_together
from recllm.shop.data import catalogue as item_groups_module
from recllm.shop.data import dataset as dataset_module
from recllm.shop.data.dataset import DAY, Dataset, Events, person_ranges
from recllm.shop.ingest.workspace_load import add_consent
from recllm.shop.store.readers import StoreReader
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.toy import ToyEncoder

DATA = shop()
SETTINGS = CollaborativeSettings(neighbour_pool=15)


def with_new_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows in which items of so short a log are new and judged."""
    monkeypatch.setattr(collaborative_module, "NEW_ITEM_DAYS", 200.0)
    monkeypatch.setattr(item_groups_module, "FIRST_SALES_DAYS", 7.0)


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "EVENTS_OF_A_PART", 30)


def arrays_of(value: Any, name: str = "") -> dict[str, np.ndarray]:
    """Every array of a tree of frozen objects, by where it stands."""
    if value is None or isinstance(value, int | float | str | CollaborativeSettings):
        return {}
    if isinstance(value, np.ndarray):
        return {name: value}
    if hasattr(value, "toarray"):
        return {name: value.toarray()}
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in arrays_of(part, f"{name}.{key}").items()}
    assert is_dataclass(value), type(value)
    parts = ((f.name, getattr(value, f.name)) for f in fields(value))
    return {k: v for key, part in parts for k, v in arrays_of(part, f"{name}.{key}").items()}


def assert_alike(counted: Any, expected: Any) -> None:
    left, right = arrays_of(counted), arrays_of(expected)
    assert left.keys() == right.keys() and len(left)
    for name, array in left.items():
        assert np.allclose(array, right[name], rtol=1e-4, atol=1e-6, equal_nan=True), name


def assert_same(left: Events, right: Events) -> None:
    assert np.array_equal(left.indptr, right.indptr)
    for a, b in zip(left.columns(), right.columns(), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 12))
def test_parts_hold_everybody_once_and_nobody_by_halves(lengths: list[int], n_events: int) -> None:
    indptr = np.cumsum([0, *lengths])
    ranges = list(person_ranges(indptr, n_events))
    assert [user for first, end in ranges for user in range(first, end)] == list(range(len(lengths)))
    for first, end in ranges:
        assert end - first == 1 or indptr[end] - indptr[first] <= n_events


@pytest.mark.usefixtures("short_parts")
def test_statistics_of_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    basics = np.random.default_rng(0).normal(size=(DATA.n_users, 8)).astype(np.float32)
    assert len(list(DATA.events.parts())) > 3
    with_new_items(monkeypatch)
    by_parts = CollaborativeStatistics.fit(DATA, vectors(DATA), SETTINGS, basics)
    kind, limits = np.full(DATA.n_items, -1), by_parts.settings
    rules: dict[str, Any] = {"min_people": 2, "min_z": 0.1}
    pairs = bought_together(DATA.events, DATA.n_items, kind, limits, **rules)
    encoded = item_vectors(ToyEncoder(), DATA)
    monkeypatch.undo()
    with_new_items(monkeypatch)
    assert len(list(DATA.events.parts())) == 1
    assert_alike(by_parts, CollaborativeStatistics.fit(DATA, vectors(DATA), SETTINGS, basics))
    assert by_parts.arrived.got.any() and by_parts.item_item.nnz
    expected = bought_together(DATA.events, DATA.n_items, kind, limits, **rules)
    assert pairs.nnz and np.allclose(pairs.toarray(), expected.toarray(), rtol=1e-5)
    assert np.array_equal(encoded, item_vectors(ToyEncoder(), DATA))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=9), min_size=1, max_size=6))
def test_the_price_of_an_item_is_the_median_of_what_was_paid(people: list[list[tuple[int, int]]]) -> None:
    runs = [sorted((item, START + price) for item, price in run) for run in people]
    runs = [sorted(run, key=lambda line: line[1]) for run in runs]
    events = history(*runs)
    events = Events(events.indptr, *events.columns()[:4], (events.at - START).astype(np.float32), events.basket)
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "price": [None, None, 7.0]}, schema_overrides={"price": pl.Float64}
    )
    paid = [[price for run in people for i, price in run if i == item and price] for item in range(3)]
    expected = [np.median(prices) if prices else np.nan for prices in paid[:2]] + [7.0]
    shop = Dataset.of_catalogue(items, START + DAY)
    assert np.allclose(_prices(replace(shop, events=events)), expected, equal_nan=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A shop with somebody who withdrew, an item that events alone know, and baskets."""
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(1)
    at = [datetime.fromtimestamp(START + int(s), UTC).isoformat() for s in rng.integers(0, 90 * DAY, 400)]
    events = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 25, 400)],
            "item_id": [f"i{n}" for n in rng.integers(0, 30, 400)],
            "event": rng.choice(["purchase", "view"], 400),
            "timestamp": at,
            "price": [None if n % 3 == 0 else float(n) for n in rng.integers(1, 9, 400)],
            "basket_id": [None if n == 0 else f"b{n}" for n in rng.integers(0, 9, 400)],
        }
    )
    items = ["item_id,title", *(f"i{n},Item i{n}" for n in range(28)), "unsold,Item unsold"]
    tables = {"events": events, "items": items, "users": ["user_id,age", "u1,30", "told,40"]}
    shop = Workspace.open(loaded(folder, tables, currency="EUR", timezone="UTC"))
    add_consent(shop, [("u3", Purpose.PERSONALISATION, False, datetime.now(UTC))], source="test")
    return shop


def test_the_dataset_of_a_store_is_that_of_its_frames(workspace: Workspace) -> None:
    gate = workspace.gate()
    users, events = gate.people(Purpose.PERSONALISATION)
    expected, (shop, marks) = (
        Dataset.construct(events, users, gate.catalogue()),
        gate.dataset_and_marks(Purpose.PERSONALISATION),
    )
    assert marks.event_no >= 400 and shop.as_of == expected.as_of
    assert shop.users.equals(expected.users) and shop.items.equals(expected.items)
    read, stored = shop.events, expected.events
    assert len(stored) > 300
    assert_same(replace(read, basket=stored.basket), stored)
    for user in range(expected.n_users):  # a basket's number is the person's own
        part = slice(stored.indptr[user], stored.indptr[user + 1])
        numbers = list(zip(read.basket[part].tolist(), stored.basket[part].tolist(), strict=True))
        assert len(set(numbers)) == len({a for a, _ in numbers}) == len({b for _, b in numbers})
        assert all((a == -1) == (b == -1) for a, b in numbers)


def test_what_is_written_while_a_dataset_is_read_is_not_in_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of later events reads on from the last event that a state knows: one in it already would count twice."""
    gate, read_items = workspace.gate(), StoreReader.items
    before = len(gate.dataset(Purpose.PERSONALISATION).events)

    def written_meanwhile(reader: StoreReader, *arguments: Any, **options: Any) -> pl.DataFrame:
        monkeypatch.setattr(StoreReader, "items", read_items)
        late = "u1,i1,2023-12-02T00:00:00Z"
        assert load_lines(workspace, "events", ["user_id,item_id,timestamp", late]).accepted == 1
        return read_items(reader, *arguments, **options)

    monkeypatch.setattr(StoreReader, "items", written_meanwhile)
    data, marks = gate.dataset_and_marks(Purpose.PERSONALISATION)
    assert len(data.events) == before
    _, written = gate.people(Purpose.PERSONALISATION, after_event=marks.event_no)
    assert len(written) == 1


def test_an_item_that_only_a_person_who_withdrew_knew_is_in_no_catalogue(workspace: Workspace) -> None:
    load_lines(workspace, "events", ["user_id,item_id,timestamp", "u3,secret,2023-12-01T00:00:00Z"])
    items = workspace.gate().dataset(Purpose.PERSONALISATION).items["item_id"]
    assert "secret" not in items and "i29" in items


def test_a_rush_on_a_new_item_waits_for_its_second_week() -> None:
    def lately(first_day: int, age: int = 90, **changes: Any) -> float:
        """Buyers of the last week, as scores see them, of an item that three people bought on a day and on each of the
        last two, in a shop of so many days; a fourth bought something else all the time."""
        days = sorted({first_day, age - 2, age - 1})
        runs = [[(0, START + day * DAY) for day in days]] * 3 + [[(1, START + day * DAY) for day in range(0, age, 5)]]
        data = Dataset(pl.DataFrame({"user_id": ["a", "b", "c", "d"]}), DATA.items, history(*runs), START + age * DAY)
        crowd = CollaborativeStatistics.fit(data, vectors(DATA), CollaborativeSettings(**changes))
        values = pair_features(ask(crowd, history([(2, START)]), data.as_of), explicit(1, np.array([0])))
        return float(np.expm1(values[0, FEATURE_NAMES.index("buyers_7")]))

    assert lately(88) == pytest.approx(0)
    assert lately(79) == pytest.approx(3), "three bought it in the week before, too"
    assert lately(40) == pytest.approx(3), "no longer new, though nobody bought it in the week before"
    assert lately(88, confirmation_days=0.0) == pytest.approx(3)
    assert lately(18, age=20) == pytest.approx(3), "in a log of less than four weeks nobody knows what is new"
