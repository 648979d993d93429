"""Anybody's folder is measured: leave-one-out, files of a split, given candidates, several lengths, and bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Command
from peers import PEERS

from recllm.base.errors import DataError, UsageError
from recllm.base.settings import ScorerTrainingSettings
from recllm.recommend.evaluation.protocols import split_tables, with_candidates
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import TrainingRecipe, make_systems, systems_for
from recllm.recommend.evaluation.tables import leave_one_out, read_folder
from recllm.shop.workspace.workspace import overridden
from recllm.text.encoder.toy import ToyEncoder

BEAUTY = Path(__file__).resolve().parents[2] / "shared" / "data" / "amazon_beauty_p5"


def log(when: str = "order", people: int = 40, each: int = 8) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u:02}", f"{'tea' if u % 2 else 'tool'}{rng.integers(9)}", 1_700_000_000 * (when != "order") + 90_000 * n)
        for u in range(people)
        for n in range(each)
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", when], orient="row")


def write(folder: Path, **frames: pl.DataFrame) -> Path:
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("when", ["order", "timestamp"])
def test_the_last_purchase_of_each_person_is_left_out(tmp_path: Path, when: str) -> None:
    events = log(when).with_columns(event=pl.lit("purchase"))
    later = events.group_by("user_id").last().with_columns(pl.col(when) + 90_000, event=pl.lit("view"))
    lonely = events.head(2).with_columns(user_id=pl.lit("two"))
    tables = leave_one_out(
        read_folder(write(tmp_path, interactions=pl.concat([events, later, lonely], how="diagonal")))
    )
    parts = dict(
        tables.interactions.filter(user_id="u00").sort(when).group_by("split", maintain_order=True).len().iter_rows()
    )
    assert parts == {"train": 6, "valid": 1, "test": 1, None: 1}
    assert tables.interactions.filter(user_id="two")["split"].to_list() == ["train", "train"]
    window = split_tables(tables, split="leave-one-out")
    assert window.protocol.endswith("-leave-one-out") and [s.name for s in window.slices] == ["UNMASKED", "MASKED"]
    assert len(window.slice("UNMASKED").users) == 40
    train = tables.interactions.filter(split="train").height
    assert len(window.fit_on.events) == train and len(window.dataset.events) == train + 40
    lists = make_systems(["popular"])["popular"].rank(window.query(window.slice("MASKED"), 20))
    seen = {
        (u, i) for u, i in zip(window.dataset.events.user.tolist(), window.dataset.events.item.tolist(), strict=True)
    }
    listed = {(int(u), int(i)) for u, row in zip(window.slice("MASKED").users, lists.items, strict=True) for i in row}
    assert not seen & listed


@pytest.mark.skipif(not BEAUTY.is_dir(), reason="the data set amazon_beauty_p5 is not here: it may not be handed on")
def test_the_published_split_of_beauty_is_that_of_leave_one_out() -> None:
    published = read_folder(BEAUTY)
    made = leave_one_out(published)
    keys = ["user_id", "order", "item_id"]
    assert published.interactions.sort(keys)["split"].equals(made.interactions.sort(keys)["split"])
    assert published.interactions.sort(keys)["timestamp"].equals(made.interactions.sort(keys)["timestamp"])


def test_nobody_with_three_purchases_is_no_protocol(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no customer has three purchases"):
        split_tables(read_folder(write(tmp_path, interactions=log(each=2))), split="leave-one-out")


def parts_of(events: pl.DataFrame) -> dict[str, pl.DataFrame]:
    last = pl.col("order").rank("ordinal", descending=True).over("user_id")
    return {
        "test": events.filter(last == 1),
        "valid": events.filter(last == 2),
        "train": events.filter(last > 2),
    }


def test_the_files_of_a_split_are_its_parts(tmp_path: Path) -> None:
    """As parquet and as CSV, and equal to one table with a column split."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    parts = parts_of(log())
    for name, part in parts.items():
        part.write_csv(tmp_path / "one" / f"{name}.csv")
    together = pl.concat([part.with_columns(split=pl.lit(name)) for name, part in parts.items()])
    write(tmp_path / "two", interactions=together)
    one, two = (split_tables(read_folder(tmp_path / name), split="column") for name in ("one", "two"))
    assert one.data_hash == two.data_hash and len(one.fit_on.events) == 40 * 6
    left_out = split_tables(read_folder(tmp_path / "two"), split="leave-one-out")
    assert left_out.data_hash == one.data_hash and len(left_out.slice("MASKED").users) == len(one.slice("MASKED").users)


def refused(folder: Path, **frames: pl.DataFrame) -> str:
    with pytest.raises(DataError) as error:
        read_folder(write(folder, **frames))
    return str(error.value)


def test_folders_that_cannot_be_read_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_folder(tmp_path / "nowhere")
    events, parts = log(), parts_of(log())
    folders = [tmp_path / str(n) for n in range(9)]
    for folder in folders:
        folder.mkdir()
    assert "interactions.parquet does not exist" in refused(folders[0])
    assert "or train and test" in refused(folders[1], train=parts["train"])
    overlapping = pl.concat([parts["test"], parts["train"].head(2)])
    words = refused(folders[2], train=parts["train"], test=overlapping)
    assert "overlap: 4 rows stand in two of them" in words and "row 40 of test" in words and "row 0 of train" in words
    assert "as well" in refused(folders[3], interactions=events, **parts)
    words = refused(folders[4], train=parts["train"], test=parts["test"].drop("order"))
    assert "test: missing column timestamp or order" in words
    words = refused(folders[5], interactions=events.with_columns(timestamp=pl.lit(1_700_000_000)))
    assert "both timestamp and order are filled" in words
    words = refused(folders[6], interactions=events.with_columns(pl.when(pl.col("order") > 0).then("order")))
    assert "each event needs a timestamp, or each an order" in words
    assert "-1 in row 0 is no step" in refused(folders[7], interactions=events.with_columns(order=pl.lit(-1)))
    (folders[8] / "interactions.csv").write_text("user_id,item_id,timestamp\na,b,2025-01-01\na,c,yesterday\n")
    assert "timestamp is 'yesterday' in row 1" in refused(folders[8])


def candidates(window: Any, n: int = 5) -> pl.DataFrame:
    """What each person bought, and others."""
    part, items = window.slice("UNMASKED"), window.dataset.items["item_id"]
    rows = []
    for number, user in enumerate(part.users):
        bought = part.truth.item[part.truth.indptr[number] : part.truth.indptr[number + 1]].tolist()
        others = [row for row in range(window.dataset.n_items) if row not in bought][: n - len(bought)]
        rows += [(window.dataset.users["user_id"][int(user)], items[int(row)]) for row in (*bought, *others)]
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")


def test_only_the_candidates_of_a_user_are_ranked(tmp_path: Path) -> None:
    window = split_tables(read_folder(write(tmp_path, interactions=log())), split="leave-one-out")
    asked = with_candidates(window, candidates(window), "lists.csv")
    assert asked.protocol.startswith(window.protocol + "-candidates-") and "lists.csv" in asked.note
    names = ("recllm", "popular", "random", "zero-shot")
    recipe = TrainingRecipe(training=ScorerTrainingSettings(**QUICK))
    systems = systems_for(asked, names, ToyEncoder, recipe=recipe)
    for part in asked.slices:
        allowed = part.candidates
        assert allowed is not None
        for name in names:
            lists = systems[name].rank(asked.query(part, 5)).items
            for number, row in enumerate(lists):
                of_user = set(allowed.item[allowed.indptr[number] : allowed.indptr[number + 1]].tolist())
                listed = set(row[row >= 0].tolist())
                assert listed <= of_user and (listed == of_user or part.mask_seen), name
    report = evaluate(asked, systems, k=5, draws=10)
    assert report.systems["recllm"]["UNMASKED"]["recall@5"] == 1.0
    with pytest.raises(UsageError, match="lightgbm ranks candidates of its own"):
        vectors = np.eye(window.dataset.n_items, dtype=np.float32)
        make_systems(["lightgbm"], vectors=vectors, further=PEERS)["lightgbm"].rank(asked.query(asked.slices[0], 5))


def test_candidates_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    window = split_tables(read_folder(write(tmp_path, interactions=log())), split="leave-one-out")
    table = candidates(window)
    strange = table.with_columns(item_id=pl.lit("lamp"))
    with pytest.raises(DataError, match="lists: 200 rows name items that the log does not know, first 'lamp' in row 0"):
        with_candidates(window, strange, "lists")
    with pytest.raises(DataError, match="39 of the 40 users of UNMASKED have no candidates"):
        with_candidates(window, table.head(5), "lists")
    with pytest.raises(DataError, match="missing column item_id"):
        with_candidates(window, table.drop("item_id"), "lists")
    bought = table.group_by("user_id", maintain_order=True).first()
    with pytest.raises(DataError, match="no list holds anything that its user bought"):
        with_candidates(window, table.join(bought, on=["user_id", "item_id"], how="anti"), "lists")


def test_several_lengths_are_measured_of_one_list(tmp_path: Path) -> None:
    window = split_tables(read_folder(write(tmp_path, interactions=log())), split="leave-one-out")
    systems = make_systems(["popular", "random"])
    report = evaluate(window, systems, k=10, ks=(1, 5), draws=10)
    alone = evaluate(window, systems, k=5, draws=10)
    figures = report.systems["popular"]["MASKED"]
    assert {"ndcg@1", "ndcg@5", "ndcg@10"} <= set(figures)
    assert {name: value for name, value in figures.items() if name.endswith("@5")} == {
        name: value for name, value in alone.systems["popular"]["MASKED"].items() if name.endswith("@5")
    }
    assert "hr@1 " in report.table() and report.document()["ks"] == [1, 5, 10]


QUICK = {"n_windows": 1, "epochs": 1, "min_steps": 20, "heads": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of steps; what is trained is trained quickly."""
    with overridden({"scorer": QUICK}):
        yield write(tmp_path, interactions=log())


def test_the_command_measures_a_folder_of_steps(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr("recllm.text.encoder.loading.load_encoder", lambda *_, **__: ToyEncoder())
    arguments = ("evaluate", "--data", str(folder), "--split", "leave-one-out", "--baselines", "popular", "--k", "5,10")
    code, out, err = command(*arguments, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert {"hr@5", "hr@10"} <= set(document["systems"]["recllm"]["MASKED"]) and document["k"] == 10
    for options, words in (
        (("--k", "five"), "give lengths of lists"),
        (("--k", "0"), "whole numbers from 1"),
        (("--split", "time"), "leave-one-out"),
        (("--candidates", str(folder / "none.csv")), "none.csv is not a CSV table that can be read"),
        (("--baselines", "magic"), "unknown system 'magic'"),
    ):
        code, _, err = command(*arguments, *options)
        assert code == 2 and words in err, (options, err)
    assert "interactions  user_id, item_id, timestamp" in command("evaluate", "--help")[1]


def test_a_workspace_of_steps_is_measured_by_leaving_one_out(folder: Path, run: Command) -> None:
    log().write_csv(folder / "log.csv")
    assert run("init", "-w", "shop", "--consent-default", "granted", "--encoder", "toy")[0] == 0
    assert run("ingest", "log.csv", "--table", "events", "-w", "shop")[0] == 0
    code, _, err = run("evaluate", "-w", "shop", "--baselines", "popular")
    assert code == 2 and "--split leave-one-out" in err
    code, out, err = run("evaluate", "-w", "shop", "--split", "leave-one-out", "--baselines", "popular", "--json")
    assert code == 0, err
    assert json.loads(out)["slices"]["MASKED"]["users"] == 40
