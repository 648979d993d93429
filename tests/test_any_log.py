"""Any workspace is measured: the last purchase of each customer left out, several lengths, and logs without times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Command
from public_logs import column_split, read_folder
from shop_world import loaded
from tables import table
from test_order_logs import ordered, steps

from recllm.base.errors import DataError
from recllm.recommend.evaluation.protocols import leave_one_out
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import make_systems
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import overridden

BEAUTY = Path(__file__).resolve().parents[2] / "shared" / "data" / "amazon_beauty_p5"


def log(when: str = "order", each: int = 8) -> pl.DataFrame:
    at = (1_700_000_000 + 90_000 * pl.col("order")).alias("timestamp")
    return steps(each=each) if when == "order" else steps(each=each).select("user_id", "item_id", at)


@pytest.mark.parametrize("when", ["order", "timestamp"])
def test_the_last_purchase_of_each_person_is_left_out(when: str) -> None:
    events = log(when).with_columns(event=pl.lit("purchase"))
    later = events.group_by("user_id").last().with_columns(pl.col(when) + 90_000, event=pl.lit("view"))
    lonely = events.head(2).with_columns(user_id=pl.lit("two"))
    whole = pl.concat([events, later, lonely], how="diagonal")
    window = leave_one_out(ordered(whole) if when == "order" else Dataset.construct(whole))
    assert window.protocol == "leave-one-out" and [s.name for s in window.slices] == ["UNMASKED", "MASKED"]
    assert len(window.slice("UNMASKED").users) == 40
    assert len(window.fit_on.events) == 40 * 6 + 2 and len(window.dataset.events) == 40 * 7 + 2
    last = window.fit_on.events.at[window.fit_on.events.indptr[1:] - 1]
    assert (len(set(last.tolist())) == 1) is (when == "order"), "without times all histories end on one day"
    assert window.dataset.events.at.max() < window.dataset.as_of
    lists = make_systems(["popular"])["popular"].rank(window.query(window.slice("MASKED"), 20))
    seen = {
        (u, i) for u, i in zip(window.dataset.events.user.tolist(), window.dataset.events.item.tolist(), strict=True)
    }
    listed = {(int(u), int(i)) for u, row in zip(window.slice("MASKED").users, lists.items, strict=True) for i in row}
    assert not seen & listed


@pytest.mark.skipif(not BEAUTY.is_dir(), reason="the data set amazon_beauty_p5 is not here: it may not be handed on")
def test_the_published_split_of_beauty_is_that_of_leave_one_out() -> None:
    published, made = column_split(read_folder(BEAUTY)), leave_one_out(read_folder(BEAUTY).dataset())
    for name in ("dataset", "fit_on"):
        ours, theirs = getattr(made, name).events, getattr(published, name).events
        assert np.array_equal(ours.indptr, theirs.indptr) and np.array_equal(ours.item, theirs.item)
        assert np.ptp(ours.at - theirs.at) == 0
    assert np.array_equal(made.slice("MASKED").truth.item, published.slice("MASKED").truth.item)


def test_nobody_with_three_purchases_is_no_protocol() -> None:
    with pytest.raises(DataError, match="no customer has three purchases"):
        leave_one_out(ordered(log(each=2)))


def test_several_lengths_are_measured_of_one_list() -> None:
    window = leave_one_out(ordered(log()))
    systems = make_systems(["popular", "random"])
    report = evaluate(window, systems, k=10, ks=(1, 5), draws=10)
    alone = evaluate(window, systems, k=5, draws=10)
    figures = report.systems["popular"]["MASKED"]
    assert {"ndcg@1", "ndcg@5", "ndcg@10"} <= set(figures)
    assert {name: value for name, value in figures.items() if name.endswith("@5")} == {
        name: value for name, value in alone.systems["popular"]["MASKED"].items() if name.endswith("@5")
    }
    assert "hr@1 " in report.table() and report.document()["ks"] == [1, 5, 10]


@pytest.fixture
def quick() -> Iterator[None]:
    with overridden({"scorer": {"n_windows": 1, "epochs": 1, "min_steps": 20, "heads": 1}}):
        yield


@pytest.mark.usefixtures("quick")
def test_a_workspace_is_measured_by_leaving_one_out(tmp_path: Path, run: Command) -> None:
    loaded(tmp_path, {"events": log("timestamp").with_columns(event=pl.lit("purchase"))})
    measuring = ("evaluate", "-w", "shop", "--split", "leave-one-out", "--baselines", "popular", "--k", "5,10")
    code, out, err = run(*measuring, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["slices"]["MASKED"]["users"] == 40
    assert {"hr@5", "hr@10"} <= set(document["systems"]["recllm"]["MASKED"]) and document["k"] == 10
    for options, words in table("any_log", "wrong measurements"):
        code, _, err = run(*measuring, *options)
        assert code == 2 and words in err, (options, err)
