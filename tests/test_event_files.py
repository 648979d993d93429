"""A log that does not fit into memory: part by part it counts the same, in memory, in files, and in a shop's store."""

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
from recllm.shop.data.event_files import EventFiles, EventLog, write_part
from recllm.shop.ingest.workspace_load import add_consent
from recllm.shop.workspace import privacy as privacy_module
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.toy import ToyEncoder

DATA = shop()
NOBODY = Dataset(DATA.users, DATA.items, Events.nothing(DATA.n_users), DATA.as_of)
SETTINGS = CollaborativeSettings(neighbour_pool=15)


def with_new_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows in which items of so short a log are new and judged."""
    monkeypatch.setattr(collaborative_module, "NEW_ITEM_DAYS", 200.0)
    monkeypatch.setattr(item_groups_module, "FIRST_SALES_DAYS", 7.0)


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "EVENTS_OF_A_PART", 30)
    monkeypatch.setattr(privacy_module, "EVENTS_OF_A_PART", 30)


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


def whole(log: EventLog) -> Events:
    return Events.concat([Events.nothing(), *(part for _, part in log.parts())])


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 12))
def test_parts_hold_everybody_once_and_nobody_by_halves(lengths: list[int], n_events: int) -> None:
    indptr = np.cumsum([0, *lengths])
    ranges = list(person_ranges(indptr, n_events))
    assert [user for first, end in ranges for user in range(first, end)] == list(range(len(lengths)))
    for first, end in ranges:
        assert end - first == 1 or indptr[end] - indptr[first] <= n_events


@pytest.mark.usefixtures("short_parts")
def test_files_give_back_what_was_written_part_by_part(tmp_path: Path) -> None:
    files = EventFiles.write(tmp_path, (part for _, part in DATA.events.parts()))
    assert len(list(files.parts())) > 3 and files.n_users == DATA.n_users
    assert_same(whole(files), DATA.events)
    middle = int(np.median(DATA.events.at))
    assert_same(whole(files.before(middle)), DATA.before(middle).events)
    rows = np.arange(DATA.n_items, dtype=np.int32) // 2
    rows[::3] = -1
    moved = DATA.events.select(rows[DATA.events.item] >= 0)
    assert whole(replace(files, item_row=rows)).item.tolist() == rows[moved.item].tolist()
    for name, parts in (("no-part", []), ("nobody", [Events.nothing(3)])):
        assert len(whole(EventFiles.write(_empty(tmp_path / name), parts))) == 0


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    files = EventFiles.write(tmp_path, [DATA.events])
    with (tmp_path / "00000.price").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(OSError, match=r"00000\.price ends early"):
        list(files.parts())


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("in_files", [False, True])
def test_statistics_of_parts_are_those_of_the_whole(
    in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    basics = np.random.default_rng(0).normal(size=(DATA.n_users, 8)).astype(np.float32)
    log: EventLog = DATA.events
    if in_files:
        log = EventFiles.write(tmp_path, (part for _, part in DATA.events.parts()))
    assert len(list(log.parts())) > 3
    with_new_items(monkeypatch)
    by_parts = CollaborativeStatistics.fit(NOBODY, vectors(DATA), SETTINGS, basics, log=log)
    kind, limits = np.full(DATA.n_items, -1), by_parts.settings
    rules: dict[str, Any] = {"min_people": 2, "min_z": 0.1}
    pairs = bought_together(log, DATA.n_items, kind, limits, **rules)
    encoded = item_vectors(ToyEncoder(), NOBODY, log=log)
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
    assert np.allclose(_prices(shop, events), expected, equal_nan=True)


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


@pytest.mark.usefixtures("short_parts")
def test_the_log_of_a_store_is_its_dataset(workspace: Workspace, tmp_path: Path) -> None:
    expected = workspace.gate().dataset(Purpose.PERSONALISATION)
    shop, log, marks = workspace.gate().log(Purpose.PERSONALISATION, tmp_path)
    assert marks.event_no >= 400 and log.n_parts > 3
    assert shop.users.equals(expected.users) and shop.items.equals(expected.items)
    assert not len(shop.events) and len(expected.events) > 300
    read, stored = whole(log), expected.events
    assert_same(Events(read.indptr, *read.columns()[:-1], stored.basket), stored)
    for user in range(expected.n_users):  # a basket's number is the person's own
        part = slice(stored.indptr[user], stored.indptr[user + 1])
        numbers = list(zip(read.basket[part].tolist(), stored.basket[part].tolist(), strict=True))
        assert len(set(numbers)) == len({a for a, _ in numbers}) == len({b for _, b in numbers})
        assert all((a == -1) == (b == -1) for a, b in numbers)


def test_what_is_written_while_a_log_is_read_is_not_in_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers reads on from the last event that a state knows: one that was in it already would count twice."""
    before = len(workspace.gate().dataset(Purpose.PERSONALISATION).events)

    def written_meanwhile(*part: Any) -> np.ndarray:
        late = "u1,i1,2023-12-02T00:00:00Z"
        assert load_lines(workspace, "events", ["user_id,item_id,timestamp", late]).accepted == 1
        return write_part(*part)

    monkeypatch.setattr(privacy_module, "write_part", written_meanwhile)
    _, log, marks = workspace.gate().log(Purpose.PERSONALISATION, _empty(tmp_path / "log"))
    assert int(log.indptr[-1]) == before
    _, written = workspace.gate().people(Purpose.PERSONALISATION, after_event=marks.event_no)
    assert len(written) == 1


def test_an_item_that_only_a_person_who_withdrew_knew_is_in_no_catalogue(workspace: Workspace, tmp_path: Path) -> None:
    load_lines(workspace, "events", ["user_id,item_id,timestamp", "u3,secret,2023-12-01T00:00:00Z"])
    folder = _empty(tmp_path / "log")
    shop, log, _ = workspace.gate().log(Purpose.PERSONALISATION, folder)
    assert "secret" not in shop.items["item_id"] and "i29" in shop.items["item_id"]
    assert_alike(whole(log).item, workspace.gate().dataset(Purpose.PERSONALISATION).events.item)


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
