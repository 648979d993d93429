"""LoRA fine-tuning on tiny models with random weights, in a shop where people try what is new."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
from arrivals_world import arrivals
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from shop_world import loaded, log_of
from tiny_encoders import ARCHITECTURES, make_model
from transformers import AutoModel

from recllm.base.errors import DataError, ModelError
from recllm.base.schema import Action
from recllm.base.settings import ScorerTrainingSettings, read_settings_file
from recllm.doors.cli.main import main
from recllm.learn.training.lora import tune
from recllm.learn.training.lora.examples import (
    HALF_LIFE_DAYS,
    PAIRS_PER_USER,
    SCALE,
    LoraArguments,
    Questions,
    is_stepwise,
    judge,
    past_questions,
)
from recllm.learn.training.lora.tune import tune_encoder
from recllm.recommend.evaluation.protocols import time_split
from recllm.recommend.evaluation.retrain import retrain
from recllm.recommend.evaluation.systems import TrainingRecipe, learned_system
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import decay, matrix
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.adapters import AdapterSpec, adapter_state, attach, save_adapter
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import find_weights, load_encoder

DATA = arrivals()
QUICK = LoraArguments(horizon_days=14, n_windows=4, max_steps=6, eval_steps=3, warmup_steps=1, top_layers=1)
TEXTS = ["red shoes", "milk", "a sofa with four cushions"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


def save_shaken(encoder: HuggingFaceEncoder, top_layers: int | None, place: Path) -> np.ndarray:
    """Gives the encoder an adapter of random weights, and saves it. Returns the vectors with a fresh one."""
    spec = AdapterSpec.of(encoder.model, encoder.weights.name, encoder.base_hash, 8, top_layers)
    encoder.model = attach(encoder.model, spec)
    fresh, generator = encoder.encode(TEXTS), torch.Generator().manual_seed(3)
    for parameter in encoder.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_adapter(adapter_state(encoder.model), spec, place)
    return fresh


@pytest.mark.parametrize("top_layers", [1, None])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_adapter_is_saved_loaded_and_merged(tmp_path: Path, model_type: str, top_layers: int | None) -> None:
    base = make_model(tmp_path / "tiny", model_type)
    encoder = HuggingFaceEncoder(find_weights(base))
    before = encoder.encode(TEXTS)
    fresh = save_shaken(encoder, top_layers, tmp_path / "adapter")
    assert np.allclose(fresh, before, atol=1e-6), "a fresh adapter changes nothing"
    changed = encoder.encode(TEXTS)
    loaded = load_encoder(base, adapter=tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    assert np.allclose(loaded.encode(TEXTS), changed, atol=1e-5)
    assert not np.allclose(changed, before, atol=1e-2)
    assert loaded.name.startswith("tiny+lora-") and loaded.fingerprint != load_encoder(base).fingerprint


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapter")
    save_shaken(HuggingFaceEncoder(find_weights(folder)), 1, place)
    return place


def test_peft_itself_reads_the_folder(folder: Path, adapter: Path) -> None:
    encoder = HuggingFaceEncoder(find_weights(folder))
    plain = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    encoder.model = PeftModel.from_pretrained(plain, str(adapter)).eval()
    assert np.allclose(encoder.encode(TEXTS), load_encoder(folder, adapter=adapter).encode(TEXTS), atol=1e-5)


def test_an_adapter_of_another_base_model_is_refused(tmp_path: Path, adapter: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"was trained on tiny .* and this model is other"):
        load_encoder(other, adapter=adapter)
    with pytest.raises(ModelError, match="takes no adapter"):
        load_encoder("toy", adapter=adapter)


def test_a_damaged_or_foreign_adapter_is_refused(folder: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_encoder(folder, adapter=tmp_path / "none")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        copy = tmp_path / name.replace(".", "-")
        copy.mkdir()
        for file in adapter.iterdir():
            (copy / file.name).write_bytes(file.read_bytes() if file.name != name else b"{}")
        with pytest.raises(ModelError, match="not an adapter that recllm wrote"):
            load_encoder(folder, adapter=copy)


def test_the_cache_keeps_tuned_vectors_apart(folder: Path, adapter: Path, tmp_path: Path) -> None:
    base = load_encoder(folder, cache_dir=tmp_path)
    first = base.encode(TEXTS)
    tuned = load_encoder(folder, cache_dir=tmp_path, adapter=adapter).encode(TEXTS)
    assert not np.allclose(first, tuned, atol=1e-2)
    assert np.array_equal(load_encoder(folder, cache_dir=tmp_path).encode(TEXTS), first)


def test_what_takes_no_adapter_is_named(tmp_path: Path, folder: Path, adapter: Path) -> None:
    with pytest.raises(ModelError, match="no transformer weights; train the scorer alone"):
        tune_encoder(DATA, "toy", QUICK, tmp_path)
    albert = HuggingFaceEncoder(find_weights(folder))
    albert.model_type = "albert"
    with pytest.raises(ModelError, match="no LoRA for the architecture 'albert'; supported: bert, distilbert, llama"):
        tune_encoder(DATA, albert, QUICK, tmp_path)
    with pytest.raises(ModelError, match="has an adapter already"):
        tune_encoder(DATA, load_encoder(folder, adapter=adapter), QUICK, tmp_path)


def test_questions_are_what_was_taken_for_the_first_time() -> None:
    groups = past_questions(DATA, QUICK)
    events, starts = DATA.events.of(Action.PURCHASE), [group.start for group in groups]
    assert {group.kind for group in groups} == {"arrival", "new"}
    assert len(set(starts)) == 4 and starts == sorted(starts, reverse=True)
    for group in groups:
        sold_before = set(events.item[events.at < group.start].tolist())
        assert sold_before.isdisjoint(group.offered.tolist()) == (group.kind == "arrival")
        assert np.allclose(group.history.sum(axis=1), 1, atol=1e-5)
        for row in range(len(group)):
            before = set(group.bought[row].indices.tolist())
            users = [u for u in range(DATA.n_users) if before == _items(u, DATA.events.at.min(), group.start)]
            positives = set(group.positives.rows(np.array([row])).item.tolist())
            assert positives and positives <= set(group.offered.tolist()) - before
            assert any(positives <= _items(u, group.start, group.start + 14 * DAY) for u in users)
            history = group.history[row].indices.tolist()
            assert set(history) <= before and len(history) == min(len(before), 30)


def _items(user: int, begin: int, end: int) -> set[int]:
    mine = DATA.events.of(Action.PURCHASE).rows(np.array([user]))
    return set(mine.item[(mine.at >= begin) & (mine.at < end)].tolist())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(7, 30))
def test_nothing_at_or_after_a_question_reaches_its_history(seed: int, horizon: int) -> None:
    """Another future than a window's start changes no history."""
    args = QUICK.model_copy(update={"horizon_days": horizon, "n_windows": 2})
    data = arrivals(people=120, weeks=14, seed=seed)
    start = min(group.start for group in past_questions(data, args))
    late, item = data.events.at >= start, data.events.item.copy()
    item[late] = np.random.default_rng(seed).permutation(item[late])
    other = replace(data, events=replace(data.events, item=item))
    past = data.before(start).events.of(Action.PURCHASE)
    weights = matrix(past, data.n_items, decay(past.at, start, HALF_LIFE_DAYS))
    possible = {(tuple(row.indices), tuple(row.data)) for row in weights}
    rows = _single_rows(past_questions(other, args), start)
    assert rows and {(tuple(row.bought.indices), tuple(row.bought.data)) for row in rows} <= possible


def _single_rows(groups: list[Questions], start: int) -> list[Questions]:
    return [group.rows(np.array([row])) for group in groups if group.start == start for row in range(len(group))]


def test_pairs_are_of_a_users_history_and_first_purchases() -> None:
    for group in past_questions(DATA, QUICK):
        had, bought = group.pairs(np.random.default_rng(0))
        assert len(had) == np.minimum(group.positives.sizes, PAIRS_PER_USER).sum()
        rows = _single_rows([group], group.start)
        pairs = {(a, b) for row in rows for a in row.history.indices for b in row.positives.item}
        assert {*zip(had.tolist(), bought.tolist(), strict=True)} <= pairs


def _ordered(people: int = 60, length: int = 8) -> Dataset:
    rng = np.random.default_rng(0)
    step = 28 * DAY
    rows = [
        (f"u{u}", f"{'milk' if u % 2 else 'shoes'} {rng.integers(30)}", 1_000_000_000 + n * step)
        for u in range(people)
        for n in range(rng.integers(3), length)
    ]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = events.select("item_id", title="item_id").unique()
    return Dataset.construct(events, items=items, as_of=1_000_000_000 + length * step)


def test_a_log_of_orders_asks_for_the_next_item(tmp_path: Path, folder: Path) -> None:
    data = _ordered()
    groups = past_questions(data, LoraArguments())
    assert is_stepwise(data.events.of(Action.PURCHASE), 28) and not is_stepwise(DATA.events.of(Action.PURCHASE), 28)
    assert {group.kind for group in groups} == {"next"}
    assert all(size == 1 for group in groups for size in group.positives.sizes)
    assert len({group.start for group in groups}) == 7
    tuned = tune_encoder(data, folder, QUICK.model_copy(update={"horizon_days": 28}), tmp_path / "run")
    assert set(tuned.metrics) >= {"ndcg@20_next", "goal"}


def test_the_judgement_is_by_the_nearest_items_of_the_history() -> None:
    """By hand: each user's list by the weighted mean of exp(scale cos), without what was bought."""
    group = next(group for group in past_questions(DATA, QUICK) if group.kind == "new")
    rows = np.random.default_rng(0).normal(size=(DATA.n_items, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gains = []
    for row in range(len(group)):
        weights, bought = group.history[row].toarray()[0], group.bought[row].toarray()[0]
        score = {i: weights @ np.exp(SCALE * (rows @ rows[i] - 1)) for i in group.offered if not bought[i]}
        best = sorted(score, key=lambda i: -score[i])[:20]
        right = set(group.positives.rows(np.array([row])).item.tolist())
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(20, len(right))))
        gains.append(sum(1 / np.log2(rank + 2) for rank, i in enumerate(best) if i in right) / ideal)
    metrics = judge([group], rows, np.arange(DATA.n_items))
    assert metrics["ndcg@20_new"] == metrics["goal"] == pytest.approx(np.mean(gains), rel=1e-6)


def _followers(people: int = 60, weeks: int = 8) -> Dataset:
    """Who had milk takes sofas, who had shoes takes gardens: for the base texts chance, and separable once learned."""
    follows, begin = (("milk", "sofa"), ("shoes", "garden")), 1_700_000_000
    rows = [
        (f"u{user:02}", f"{follows[user % 2][week >= 4]} {'abcdefgh'[week]}", begin + (week * 7 + user % 7) * DAY)
        for user in range(people)
        for week in range(weeks)
    ]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = events.select("item_id", title="item_id").unique(maintain_order=True)
    return Dataset.construct(events, items=items, as_of=begin + weeks * 7 * DAY)


def test_a_run_learns_and_leaves_its_record(tmp_path: Path, folder: Path) -> None:
    changes = {"max_steps": 60, "learning_rate": 5e-3, "patience": 99, "eval_steps": 5, "n_windows": 2}
    data, told = _followers(), list[str]()
    args = QUICK.model_copy(update=changes)
    tuned = tune_encoder(data, folder, args, tmp_path, told.append)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    assert [line["step"] for line in lines if "goal" in line] == list(range(0, 61, 5))
    assert np.mean(losses[-4:]) < 2 / 3 * np.mean(losses[:4])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["data_hash"] == data.data_hash() and config["seed"] == 0 and config["versions"]["torch"]
    assert any("goal" in line and "left" in line for line in told)
    assert tuned.metrics["goal"] >= tuned.base_metrics["goal"]
    assert tuned.metrics["goal"] == max(entry["goal"] for entry in tuned.history)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not (tmp_path / "checkpoints").exists()
    assert b"sofa" not in written and b"u01" not in written, "no text of the shop and no person is in the run's folder"


def test_one_seed_gives_one_run_and_leaves_the_callers_random_state_alone(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    tune_encoder(DATA, folder, QUICK, tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())
    tune_encoder(DATA, folder, QUICK, tmp_path / "b")
    tune_encoder(DATA, folder, QUICK.model_copy(update={"seed": 1}), tmp_path / "c")
    a, b, c = ((tmp_path / name / "metrics.jsonl").read_text() for name in "abc")
    assert a == b != c


def test_a_full_disk_is_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as patch, pytest.raises(ModelError, match=r"No space left on device.*run this again"):
        patch.setattr(tune, "save_adapter", full)
        tune_encoder(DATA, folder, QUICK, tmp_path)
    assert tune_encoder(DATA, folder, QUICK, tmp_path).history[-1]["step"] == 6


def test_a_system_of_a_comparison_is_tuned_before_it_is_learned(folder: Path) -> None:
    window, scorer = time_split(DATA, test_days=14), ScorerTrainingSettings(horizon_days=14, epochs=1, heads=1)
    system = learned_system(load_encoder(folder), TrainingRecipe(training=scorer, lora=QUICK))
    assert (system.rank(window.query(window.slice("ALL"), 3)).items >= 0).any()


def test_an_infinite_loss_keeps_the_last_good_state(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tune.AdapterTrainer.compute_loss

    def breaks(trainer: tune.AdapterTrainer, *inputs: object, **more: object) -> torch.Tensor:
        loss: torch.Tensor = plain(trainer, *inputs, **more)
        return loss * (torch.nan if trainer.state.global_step >= broken else 1.0)

    monkeypatch.setattr(tune.AdapterTrainer, "compute_loss", breaks)
    told: list[str] = []
    broken = 4
    tuned = tune_encoder(DATA, folder, QUICK, tmp_path / "a", told.append)
    assert any("not finite" in line for line in told) and np.isfinite(tuned.encoder.encode(TEXTS)).all()
    assert tuned.history[-1]["step"] == 3
    broken = 0
    assert tune_encoder(DATA, folder, QUICK, tmp_path / "b").metrics["step"] == 0


def test_a_run_without_time_left_or_shorter_than_a_round_is_judged(tmp_path: Path, folder: Path) -> None:
    for change, steps in (({"max_minutes": 1e-6}, [0, 1]), ({"max_steps": 4}, [0, 3, 4])):
        tuned = tune_encoder(DATA, folder, QUICK.model_copy(update=change), tmp_path / str(steps[-1]))
        assert [entry["step"] for entry in tuned.history] == steps


def test_training_stops_when_validation_users_see_no_gain(tmp_path: Path, folder: Path) -> None:
    args = QUICK.model_copy(update={"max_steps": 60, "learning_rate": 0.0, "patience": 2})
    tuned = tune_encoder(DATA, folder, args, tmp_path)
    assert [h["step"] for h in tuned.history] == [0, 3, 6] and tuned.metrics["step"] == 0
    assert np.allclose(tuned.encoder.encode(TEXTS), load_encoder(folder).encode(TEXTS), atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="'cuda' was asked for, and torch sees no CUDA here; pass device='cpu'"):
        tune_encoder(DATA, folder, QUICK.model_copy(update={"device": "cuda"}), tmp_path)


def test_what_cannot_be_learned_from_says_what_else_to_do(tmp_path: Path, folder: Path) -> None:
    offers = "train the scorer alone on the frozen encoder .*, or recommend zero-shot"
    bare = replace(DATA, items=DATA.items.with_columns(title=None, category=None).cast(DATA.items.schema))
    with pytest.raises(DataError, match=f"no item has a text .*{offers}"):
        tune_encoder(bare, folder, QUICK, tmp_path / "a")
    with pytest.raises(DataError, match=f"no purchases to fine-tune on; {offers}"):
        tune_encoder(DATA.before(0), folder, QUICK, tmp_path / "b")
    with pytest.raises(DataError, match=f"the log spans 1. days; .* needs 42.*{offers}"):
        tune_encoder(DATA.before(int(DATA.events.at.min()) + 12 * DAY), folder, QUICK, tmp_path / "c")
    with pytest.raises(DataError, match=f"only . people took something for the first time.*{offers}"):
        tune_encoder(arrivals(people=2), folder, QUICK, tmp_path / "d")


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shop")
    data = arrivals()
    items = data.items.select("item_id", "title", category=pl.col("category").list.join(" > "))
    scorer = {"n_windows": 2, "epochs": 1, "min_steps": 20, "heads": 1}
    encoder = str(make_model(place / "tiny"))
    loaded(place, {"items": items, "events": log_of(data)}, encoder=encoder, scorer=scorer)
    return place


def recllm(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recllm", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, arguments


def test_train_with_lora_publishes_a_model_that_serves(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ("--set", "lora.max_steps=15", "--set", "lora.learning_rate=0.01", "--set", "lora.device=cpu")
    recllm("train", "--lora", *how, "-w", shop / "shop", "--json")
    told = capsys.readouterr()
    assert json.loads(told.out)["model_version"] and "pairs in" in told.err
    with Workspace.open(shop / "shop") as workspace:
        model = load_model(workspace.models_dir)
        assert model.adapter is not None
        files = {path.name for path in model.adapter.iterdir()}
        assert files == {"adapter_config.json", "adapter_model.safetensors"}
        opened = open_recommender(workspace)
        assert "+lora-" in opened.encoder.name and opened.encoder.fingerprint == model.encoder_fingerprint
        assert len(opened.recommend("u00", k=3)[0].items) == 3
        report = retrain(workspace, needed=())
        retrained = load_model(workspace.models_dir, report.challenger)
        assert retrained.adapter is not None and retrained.encoder_fingerprint == model.encoder_fingerprint
        opened = open_recommender(workspace, version=report.challenger)
        assert opened.encoder.fingerprint == model.encoder_fingerprint, "it took the adapter with it"
        frozen = train_workspace(workspace, n_windows=2, epochs=1, min_steps=20)
        assert "+lora-" not in open_recommender(workspace).encoder.name
        tuned = open_recommender(workspace, version=model.version).encoder.encode(["milk"])
        assert frozen.model_version != model.version and np.isfinite(tuned).all()


@pytest.mark.slow
def test_two_processes_under_accelerate_make_one_model(shop: Path) -> None:
    config = shop / "lora.toml"
    config.write_text("[lora]\nmax_steps = 6\n")
    script = [str(ROOT / "finetune" / "lora.py"), str(config), "--workspace", str(shop / "shop"), "--cpu"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run([*launch, *script], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.strip().splitlines()) == 1 and json.loads(done.stdout)["model_version"]


def test_the_recipe_is_short_and_its_settings_are_known() -> None:
    assert len((ROOT / "finetune" / "lora.py").read_text().splitlines()) < 60
    tables = {name: read_settings_file(ROOT / "finetune" / f"{name}.toml") for name in ("lora", "scorer", "copywriter")}
    assert all(name in table for name, table in tables.items())
