"""A log that knows only an order: how it becomes time, what is learned of it, and what is not said of it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Command
from public_logs import ORDER_EPOCH, days_of_a_step, times_of_orders
from shop_world import loaded

from recllm.base.errors import UsageError
from recllm.base.schema import Intent, Purpose
from recllm.learn.profiles.profile import build_profile
from recllm.learn.training.advise import advise
from recllm.market.occasions.day import find_occasions
from recllm.market.propensity.predict import everyday_predictions, predict_workspace
from recllm.market.propensity.prediction import PredictionKind, PredictionRequest
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.order import HORIZON_DAYS
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.toy import ToyEncoder
from recllm.text.items import item_texts


def ordered(events: pl.DataFrame, items: pl.DataFrame | None = None) -> Dataset:
    """The dataset of a log of steps, as a workspace of an earlier version has it."""
    step = days_of_a_step(events) * DAY
    data = Dataset.construct(events.with_columns(timestamp=times_of_orders(events, step)).drop("order"), items=items)
    return replace(data, step_seconds=step)


def frame(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "order"], orient="row")


def test_only_the_order_of_a_persons_numbers_counts() -> None:
    """Gaps mean nothing, equal numbers are one step, and everybody's last step is of one day."""
    data = ordered(frame(("ann", "a", 0), ("ann", "b", 7), ("ann", "c", 7), ("ann", "d", 100), ("bob", "a", 3)))
    ann, bob = (data.events.at[slice(*data.events.indptr[u : u + 2])].tolist() for u in (0, 1))
    step = HORIZON_DAYS * DAY
    assert ann == [ORDER_EPOCH, ORDER_EPOCH + step, ORDER_EPOCH + step, ORDER_EPOCH + 2 * step]
    assert bob == [ann[-1]] and data.before(ORDER_EPOCH).step_seconds == data.step_seconds == step
    of_each = frame(("ann", "a", 0), ("bob", "b", 0), ("ann", "c", 1), ("bob", "d", 1))
    overall = of_each.with_columns(order=pl.int_range(pl.len()))
    assert ordered(of_each).data_hash() == ordered(overall).data_hash()


def test_long_histories_have_several_steps_in_a_window() -> None:
    for lengths, days in (((3, 9, 25), 28), ((26, 26, 400), 14), ((5000,), 1), ((), 28)):
        events = [("u" + str(user), "a", n) for user, length in enumerate(lengths) for n in range(length)]
        assert days_of_a_step(frame(*events)) == days


def steps(people: int = 40, each: int = 8) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u:02}", f"{'tea' if u % 2 else 'tool'}{rng.integers(9)}", n) for u in range(people) for n in range(each)
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "order"], orient="row")


def test_advice_knows_a_log_of_steps() -> None:
    data = ordered(steps())
    advice = advise(data, item_texts(data.items), encoder="toy")
    assert advice.survey.by_order
    assert advice.training is not None and not advice.training.timed and advice.training.n_windows == 1


def test_profiles_and_reasons_say_no_days() -> None:
    items = pl.DataFrame({"item_id": ["tea", "mate", "mug"], "title": ["Green tea", "Mate tea", "Tea mug"]})
    events = frame(*[("ann", "tea", n) for n in range(3)], ("ann", "mug", 3), ("bob", "tea", 0))
    data = ordered(events, items)
    profile = build_profile(data, 0)
    assert [line.days_since for line in profile.purchases] == [None, None]
    assert profile.purchases[0].interval_days is None and profile.days_since_last_purchase is None
    slate = Recommender(data, ToyEncoder()).recommend("ann", k=3)[0]
    words = " ".join(reason.text for item in slate.items for reason in item.reasons)
    assert "“Green tea” 3 times." in words and " ago" not in words and "days" not in words
    with pytest.raises(UsageError, match="only an order"):
        Recommender(data, ToyEncoder()).recommend("ann", intent=Intent.WIN_BACK)


@pytest.fixture
def stepped(tmp_path: Path) -> Path:
    """A workspace with a log of steps, as an earlier version made it."""
    log, days = steps(), 28
    at = times_of_orders(log, days * DAY) + 20 * 365 * DAY
    items = steps().select("item_id").unique().sort("item_id").with_columns(title=pl.col("item_id") + " green")
    loaded(tmp_path, {"items": items, "events": log.drop("order").with_columns(timestamp=pl.Series(at))})
    with closing(sqlite3.connect(tmp_path / "shop" / "store.sqlite")) as store, store:
        meta = [("order_step_seconds", str(days * DAY)), ("order_file", "0" * 64)]
        store.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    return tmp_path


def test_a_workspace_keeps_that_its_log_knows_only_an_order(stepped: Path, run: Command) -> None:
    with Workspace.open(stepped / "shop") as shop:
        data = shop.gate().dataset(Purpose.MODEL_TRAINING)
        assert data.step_seconds == HORIZON_DAYS * DAY and len(np.unique(data.events.at)) == 8
        with pytest.raises(UsageError, match="occasions need times"):
            find_occasions(shop)
        with pytest.raises(UsageError, match="only an order"):
            predict_workspace(shop, PredictionRequest(kind=PredictionKind.BUY))
        assert list(everyday_predictions(shop)) == []
    code, out, _ = run("explain", "-w", "shop", "--json")
    told = json.loads(out)["events"]
    assert code == 0 and (told["first"], told["last"], told["step_days"]) == (None, None, 28)
    code, out, _ = run("recommend", "-u", "u01", "-k", "3", "-w", "shop", "--json")
    assert code == 0 and " ago" not in out
    code, out, _ = run("explain", "-u", "u01", "-w", "shop")
    assert code == 0 and "tea" in out and "ago" not in out
    code, _, err = run("ingest", "events.csv", "--table", "events", "-w", "shop")
    assert code == 2 and "E_ORDER_LOG" in err and "knows only an order" in err
