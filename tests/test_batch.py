"""Answers for everybody, shard by shard: the same as one by one, the same in every process, and after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import killed
import numpy as np
import polars as pl
import pytest
from conftest import Command
from service_world import LAST_DAY, build_shop
from shop_world import load_lines

from recllm.base.errors import NotFittedError, UsageError
from recllm.base.schema import Purpose, SlateStatus
from recllm.market.experiments import batch
from recllm.market.experiments.batch import DONE, PLAN, BatchRun, run_batch, shard_numbers, work_on
from recllm.market.propensity.predict import people_learned_from
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh
from recllm.shop.workspace.workspace import Workspace, overridden

SHARDS, PEOPLE = 5, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("batch"), PEOPLE)


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder) as shop:
        yield shop


def plan(shop: Workspace, folder: Path, **options: object) -> BatchRun:
    return BatchRun.plan(shop, folder, options or {"k": 4, "explain": False}, shards=SHARDS)


def slates_of(run: BatchRun) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(run.file(shard)) for shard in range(run.shards))


def files(run: BatchRun) -> dict[str, bytes]:
    return {run.file(shard).name: run.file(shard).read_bytes() for shard in range(run.shards)}


def test_everybody_is_in_one_shard_that_hangs_on_their_id_alone() -> None:
    names = [f"p{n}" for n in range(2000)]
    numbers = shard_numbers(names, 16)
    assert set(numbers.tolist()) == set(range(16)) and np.bincount(numbers).min() > 80
    assert shard_numbers(names[::-1], 16).tolist() == numbers[::-1].tolist()


def test_slates_are_those_that_are_asked_for_one_by_one(shop: Workspace, tmp_path: Path) -> None:
    run = plan(shop, tmp_path / "out", k=4, explain=True)
    result = run_batch(run)
    assert (result.people, result.resumed, result.failed) == (PEOPLE, 0, ())
    rows = slates_of(run)
    recommender = open_recommender(shop)
    people = rows["user_id"].unique(maintain_order=True).to_list()
    assert len(people) == PEOPLE
    for slate in recommender.by_pseudonym().recommend(people, k=4):
        mine = rows.filter(pl.col("user_id") == slate.user_id)
        assert mine["item_id"].to_list() == [item.item_id for item in slate.items]
        assert mine["score"].to_list() == pytest.approx([item.score for item in slate.items], abs=1e-5)
        assert mine["reasons"].to_list() == [[reason.text for reason in item.reasons] for item in slate.items]
        assert set(mine["status"]) == {SlateStatus.PERSONAL.value}
    contents = json.loads((run.folder / DONE).read_bytes())["files"]
    assert set(contents) == set(files(run))


def test_what_people_did_since_the_state_was_made_counts(folder: Path, tmp_path: Path) -> None:
    """A newcomer, and one more purchase of somebody, written after the serving state."""
    copy = shutil.copytree(folder, tmp_path / "shop")
    with Workspace.open(copy) as shop:
        late = [f"{name},{LAST_DAY.isoformat()}" for name in ("new,tea-1", "new,tea-2", "u00,tools-9")]
        load_lines(shop, "events", ["user_id,item_id,timestamp", *late])
        run = plan(shop, tmp_path / "out")
        assert run_batch(run).people == PEOPLE + 1
        rows = slates_of(run)
        for name in shop.pseudonymiser().many(["new", "u00"]):
            (slate,) = open_recommender(shop).by_pseudonym().recommend([name], k=4)
            mine = rows.filter(pl.col("user_id") == name)
            assert mine["item_id"].to_list() == [item.item_id for item in slate.items]
            assert mine["score"].to_list() == pytest.approx([item.score for item in slate.items], abs=1e-5)


def test_a_sample_of_people_is_learned_from_and_is_always_the_same_and_of_all_shards(shop: Workspace) -> None:
    everybody = shop.gate().dataset(Purpose.MODEL_TRAINING)
    with overridden({"scorer": {"learn_people": 15}}), Workspace.open(shop.root) as few:
        first, second = people_learned_from(few), people_learned_from(few)
    assert first.n_users == 15 and first.data_hash() == second.data_hash()
    learned_from = first.users["user_id"].to_list()
    others = everybody.users.filter(~pl.col("user_id").is_in(learned_from))["user_id"].to_list()
    assert shard_numbers(learned_from, 256).max() > shard_numbers(others, 256).min(), "they fill the first shards"
    for row, name in enumerate(first.users["user_id"]):
        whole = everybody.events.rows(everybody.user_rows([name]))
        assert len(first.events.rows(np.array([row]))) == len(whole) > 0


def test_a_withdrawal_counts_for_the_next_shard(folder: Path, tmp_path: Path) -> None:
    """The worker has read everybody before; who agrees is asked again."""
    copy = shutil.copytree(folder, tmp_path / "shop")
    with Workspace.open(copy) as shop:
        run = BatchRun.plan(shop, tmp_path / "out", {"k": 2, "explain": False}, shards=2)
        names = [f"u{n:02}" for n in range(PEOPLE)]
        pseudonyms = shop.pseudonymiser().many(names)
        second = [n for n, shard in enumerate(shard_numbers(pseudonyms, 2)) if shard == 1]
        assert work_on(run, 0).error is None
        lines = ["user_id,purpose,granted,timestamp"]
        lines += [f"{names[n]},personalisation,no,{LAST_DAY.isoformat()}" for n in second[:5]]
        assert load_lines(shop, "consent", lines).accepted == 5
        assert run_batch(run).people == len(second) - 5
        left = set(slates_of(run)["user_id"])
        assert not left & {pseudonyms[n] for n in second[:5]} and {pseudonyms[n] for n in second[5:]} <= left


def test_processes_write_the_same_bytes(shop: Workspace, tmp_path: Path) -> None:
    once = plan(shop, tmp_path / "here")
    run_batch(once)
    folder = tmp_path / "processes"
    folder.mkdir()
    (folder / PLAN).write_bytes((once.folder / PLAN).read_bytes())  # the same model as of the same time
    run = plan(shop, folder)
    assert run_batch(run, workers=2).failed == ()
    assert files(run) == files(once)


def test_a_killed_run_goes_on(shop: Workspace, tmp_path: Path) -> None:
    run = plan(shop, tmp_path / "out")
    run_batch(run)
    complete = files(run)
    run.file(1).unlink()
    run.file(3).write_bytes(complete[run.file(3).name][:100])
    (run.folder / DONE).unlink()
    again = plan(shop, run.folder)
    assert again == run
    assert run_batch(again).resumed == SHARDS - 2 and files(again) == complete


def test_a_refresh_in_the_middle_changes_no_shard(shop: Workspace, tmp_path: Path) -> None:
    with closing(Workspace.open(shutil.copytree(shop.root, tmp_path / "shop"))) as copied:
        run = plan(copied, tmp_path / "out", k=4, explain=False)
        run_batch(run)
        complete = files(run)
        for path in (run.file(1), run.file(3), run.folder / DONE):
            path.unlink()
        refresh(copied)
        assert run_batch(plan(copied, run.folder, k=4, explain=False)).failed == ()
        assert files(run) == complete
        assert plan(copied, tmp_path / "later", k=4, explain=False).state != run.state is not None
        for _ in range(2):
            refresh(copied)
        run.file(1).unlink()
        (failed,) = run_batch(plan(copied, run.folder, k=4, explain=False)).failed
        assert failed.error is not None and "is gone; begin again" in failed.error


def test_the_next_run_ends_what_was_killed(shop: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan(shop, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "work_on", killed.work)
        failed = run_batch(run, workers=2).failed
    assert 2 in {outcome.shard for outcome in failed}
    assert all("more shards make each smaller" in str(outcome.error) for outcome in failed)
    assert not (run.folder / DONE).exists() and run_batch(run).failed == ()


def test_a_shard_that_fails_is_told_and_the_others_stand(shop: Workspace, tmp_path: Path) -> None:
    run = plan(shop, tmp_path / "out")
    run.file(2).mkdir()  # nothing can be written there
    (failed,) = run_batch(run).failed
    assert failed.shard == 2 and "cannot be written" in str(failed.error)
    assert not (run.folder / DONE).exists() and run.file(4).exists()
    run.file(2).rmdir()
    result = run_batch(run)
    assert (result.resumed, result.failed) == (SHARDS - 1, ()) and (run.folder / DONE).exists()


def test_what_cannot_be_asked(shop: Workspace, folder: Path, tmp_path: Path, command: Command) -> None:
    run = plan(shop, tmp_path / "out")
    run_batch(run)
    with pytest.raises(UsageError, match="holds a run with other options"):
        plan(shop, run.folder, k=5)
    with pytest.raises(UsageError, match="holds a run with other shards"):
        BatchRun.plan(shop, run.folder, {"k": 4, "explain": False}, shards=4)
    with pytest.raises(UsageError, match="shards is 0"):
        BatchRun.plan(shop, tmp_path / "none", {}, shards=0)
    with pytest.raises(UsageError, match="k must be 1 or more, not 0"):
        plan(shop, tmp_path / "none", k=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        plan(shop, tmp_path / "full")
    (tmp_path / "full" / PLAN).write_text("{}")
    with pytest.raises(UsageError, match="is no plan of a batch"):
        plan(shop, tmp_path / "full")
    assert not (tmp_path / "none").exists()
    condition = plan(shop, tmp_path / "condition", where="colour = 1")
    with pytest.raises(UsageError, match="colour"):
        run_batch(condition)  # wrong for every shard, and raised once
    assert run_batch(plan(shop, condition.folder, where="price < 1000")).failed == ()
    with Workspace.create(tmp_path / "untrained", encoder="toy") as untrained, pytest.raises(NotFittedError):
        plan(untrained, tmp_path / "none")
    place = ("-w", str(folder), "-o", str(tmp_path / "x"))
    code, _, text = command("recommend", "--everybody", *place, "--with", "workers=none")
    assert code == 2 and "workers must be a whole number, not 'none'" in text
    for wrong in (
        ("--everybody",),
        ("-o", str(tmp_path / "x")),
        ("--everybody", "-u", "u00", "-o", str(tmp_path / "x")),
    ):
        assert command("recommend", "-w", str(folder), *wrong)[0] == 2
    code, text, _ = command("recommend", "--everybody", *place, "--with", "shards=2", "--json")
    assert code == 0 and json.loads(text)["people"] == PEOPLE
