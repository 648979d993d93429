"""One present for everything that a workspace does, whoever agreed to be seen by it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from shop_world import loaded
from store_view import add_feedback

from recllm.base.schema import Purpose, Slate
from recllm.market.experiments.feedback import showings_with_answers
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import record_shown
from recllm.shop.workspace.workspace import Workspace, log_end, present
from recllm.text.encoder.toy import ToyEncoder

NOW = datetime(2025, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    """Ann agreed to everything and was last seen 20 days ago; Bob refused and was seen yesterday."""
    log = ["ann,tea,purchase,2025-11-06T12:00:00Z", "bob,mug,purchase,2025-11-25T12:00:00Z"]
    refusals = [f"bob,{purpose},false,2025-01-01T00:00:00Z" for purpose in ("personalisation", "analytics")]
    tables = {
        "items": ["item_id,title", "tea,Green tea", "mug,Mug"],
        "events": ["user_id,item_id,event,timestamp", *log],
        "consent": ["user_id,purpose,granted,timestamp", *refusals],
    }
    return Workspace.open(loaded(tmp_path, tables, timezone="UTC"))


def test_the_recommender_lives_when_everything_else_does(shop: Workspace) -> None:
    recommender = open_recommender(shop, encoder=ToyEncoder(), now=NOW)
    assert utc(recommender.dataset.as_of) == utc(present(shop, NOW)) == NOW


def test_a_log_that_ended_long_ago_is_replayed(shop: Workspace) -> None:
    later = NOW + timedelta(days=30)
    assert present(shop, later) == log_end(shop) == int(datetime(2025, 11, 25, 12, 0, 1, tzinfo=UTC).timestamp())
    assert open_recommender(shop, encoder=ToyEncoder(), now=later).dataset.as_of == log_end(shop)


def test_an_empty_log_lives_now(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop") as empty:
        assert log_end(empty) is None and utc(present(empty, NOW)) == NOW


def shop_that_ended(folder: Path, end: datetime) -> Workspace:
    """Ann bought tea at `end`; a mug is for sale for 400 seconds from the clock on."""
    until = (datetime.now(UTC) + timedelta(seconds=400)).isoformat()
    items = ["item_id,title,available_until", "tea,Green tea,", f"mug,Mug,{until}"]
    events = ["user_id,item_id,event,timestamp", f"ann,tea,purchase,{end.isoformat()}"]
    return Workspace.open(loaded(folder, {"items": items, "events": events}, timezone="UTC"))


def slates_of(workspace: Workspace, n: int) -> list[Slate]:
    """Of Ann, each asked for and recorded at the present of that moment."""
    recommender, slates = open_recommender(workspace, encoder=ToyEncoder()), []
    for _ in range(n):
        slates += recommender.at(present(workspace)).recommend("ann", k=2)
        assert record_shown(workspace, slates[-1:]) == len(slates[-1].items)
    return slates


def test_recorded_slates_move_no_clock(tmp_path: Path) -> None:
    with shop_that_ended(tmp_path / "live", datetime.now(UTC) - timedelta(minutes=1)) as live:
        slates = slates_of(live, 40)
        assert present(live) <= time.time() + 1, "the log runs ahead of the clock"
        assert {len(slate.items) for slate in slates} == {2}, "what is still for sale is still shown"
    with shop_that_ended(tmp_path / "replayed", NOW) as replayed:
        before = present(replayed)
        slates_of(replayed, 40)
        assert present(replayed) == before == int(NOW.timestamp()) + 1
        shown = replayed.gate().events(Purpose.ANALYTICS).filter(pl.col("event") == "shown")
        assert shown["request_id"].n_unique() == 40
        assert shown["timestamp"].max() < utc(before), "what was shown is past for whatever comes next"


def test_a_log_that_is_ahead_of_the_clock_takes_no_slate_along(tmp_path: Path) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    with shop_that_ended(tmp_path / "ahead", ahead) as shop:
        (slate,) = slates_of(shop, 1)
        assert present(shop) == int(ahead.timestamp()) + 1 and record_shown(shop, [slate]) == 0, "it was recorded"
        shown = shop.gate().events(Purpose.ANALYTICS).filter(pl.col("event") == "shown")
        assert shown.height == len(slate.items) and shown["timestamp"].max() <= datetime.now(UTC)


def test_events_without_a_time_move_no_clock(tmp_path: Path) -> None:
    with shop_that_ended(tmp_path / "live", datetime.now(UTC) - timedelta(minutes=1)) as live:
        for _ in range(40):
            assert add_feedback(live, "ann", "tea", "view").accepted == 1, "each is one of its own"
        assert present(live) <= time.time() + 1


def test_answers_belong_to_the_last_of_the_slates_of_one_instant(tmp_path: Path) -> None:
    with shop_that_ended(tmp_path / "replayed", NOW) as shop:
        first, second, third = slates_of(shop, 3)
        shown = shop.gate().events(Purpose.ANALYTICS).filter(pl.col("event") == "shown")
        assert shown["timestamp"].n_unique() == 1, "they are told apart by their order alone"
        add_feedback(shop, "ann", "tea", "click")
        add_feedback(shop, "ann", "tea", "dismiss", request_id=first.request_id)
        showings = showings_with_answers(shop.gate().events(Purpose.ANALYTICS))
        of_tea = showings.filter(pl.col("item_id") == "tea")
        assert of_tea["request_id"].to_list() == [slate.request_id for slate in (first, second, third)]
        assert of_tea["clicked"].to_list() == [False, False, True]
        assert of_tea["dismissed"].to_list() == [True, False, False]
        assert record_shown(shop, [first, second, third]) == 0, "recorded again it counts once"
