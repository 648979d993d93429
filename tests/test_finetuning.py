"""LoRA fine-tuning on tiny models with random weights, in a shop where people try what is new."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from arrivals_world import arrivals
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import ARCHITECTURES, make_model

from recllm.base.errors import DataError, ModelError, UsageError
from recllm.base.schema import Action
from recllm.learn.training.arguments import LoraArguments
from recllm.learn.training.lora import run_folder, tune
from recllm.learn.training.lora.examples import FirstPurchases, is_stepwise, write_examples
from recllm.learn.training.lora.objective import SetScore, Targets, bce_loss, draw_by_norm, softmax_loss
from recllm.learn.training.lora.tower import Tower, adapter_spec
from recllm.learn.training.lora.tune import tune_encoder
from recllm.shop.data.dataset import DAY, Dataset
from recllm.text.encoder.adapters import adapter_state, attach, save_adapter
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import find_weights, load_encoder

DATA = arrivals()
QUICK = LoraArguments(
    horizon_days=14, n_windows=4, max_steps=6, head_steps=2, eval_steps=3, top_layers=1, precision="float32"
)
TEXTS = ["red shoes", "milk", "a sofa with four cushions"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_layers", [1, None])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_adapter_is_saved_loaded_and_merged(tmp_path: Path, model_type: str, top_layers: int | None) -> None:
    base = make_model(tmp_path / "tiny", model_type)
    encoder = HuggingFaceEncoder(find_weights(base))
    before = encoder.encode(TEXTS)
    spec = adapter_spec(
        encoder.model, encoder.weights.name, encoder.base_hash, QUICK.model_copy(update={"top_layers": top_layers})
    )
    encoder.model = attach(encoder.model, spec)
    assert np.allclose(encoder.encode(TEXTS), before, atol=1e-6)  # a fresh adapter changes nothing
    _shake(encoder.model)
    changed = encoder.encode(TEXTS)
    save_adapter(adapter_state(encoder.model), spec, tmp_path / "adapter")

    loaded = load_encoder(base, adapter=tmp_path / "adapter")
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert np.allclose(loaded.encode(TEXTS), changed, atol=1e-5)
    assert not np.allclose(changed, before, atol=1e-2)
    assert loaded.name.startswith("tiny+lora-") and loaded.fingerprint != load_encoder(base).fingerprint


def _shake(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = HuggingFaceEncoder(find_weights(folder))
    spec = adapter_spec(encoder.model, encoder.weights.name, encoder.base_hash, QUICK)
    model = attach(encoder.model, spec)
    _shake(model)
    place = tmp_path_factory.mktemp("adapter")
    save_adapter(adapter_state(model), spec, place)
    return place


def test_peft_itself_reads_the_folder(folder: Path, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    encoder = HuggingFaceEncoder(find_weights(folder))
    plain = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    encoder.model = PeftModel.from_pretrained(plain, str(adapter)).eval()
    assert np.allclose(encoder.encode(TEXTS), load_encoder(folder, adapter=adapter).encode(TEXTS), atol=1e-5)


def test_a_tuned_encoder_is_saved_as_a_folder_that_sentence_transformers_opens(
    folder: Path, adapter: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    tuned = load_encoder(folder, adapter=adapter)
    assert isinstance(tuned, HuggingFaceEncoder)
    tuned.save(tmp_path / "tuned")
    opened = SentenceTransformer(str(tmp_path / "tuned"), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.allclose(opened, tuned.encode(TEXTS), atol=1e-5)
    assert not np.allclose(opened, load_encoder(folder).encode(TEXTS), atol=1e-2)


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
    albert = _of_type(folder, "albert")
    with pytest.raises(ModelError, match="no LoRA for the architecture 'albert'; supported: bert, distilbert, llama"):
        tune_encoder(DATA, albert, QUICK, tmp_path)
    with pytest.raises(ModelError, match="has an adapter already"):
        tune_encoder(DATA, load_encoder(folder, adapter=adapter), QUICK, tmp_path)


def _of_type(folder: Path, model_type: str) -> HuggingFaceEncoder:
    encoder = HuggingFaceEncoder(find_weights(folder))
    encoder.model_type = model_type
    return encoder


# --- examples --------------------------------------------------------------------------------------------------------


def test_examples_are_what_was_taken_for_the_first_time(tmp_path: Path) -> None:
    table = write_examples(DATA, np.arange(DATA.n_items), QUICK, tmp_path / "e.arrow").table
    events = DATA.events.of(Action.PURCHASE)
    assert set(table["kind"]) == {"arrival", "new"}
    assert len(set(table["start"])) == 4 and table["start"] == sorted(table["start"], reverse=True)
    for row in table:
        mine = events.rows(np.array([row["person"]]))
        before = set(mine.item[mine.at < row["start"]].tolist())
        window = (mine.at >= row["start"]) & (mine.at < row["start"] + 14 * DAY)
        assert set(row["positives"]) <= set(mine.item[window].tolist()) - before
        assert set(row["items"]) <= before and len(row["items"]) == len(set(row["items"])) <= 30
        assert sum(row["weights"]) == pytest.approx(1, abs=1e-5)
        sold = np.isin(row["positives"], events.item[events.at < row["start"]])
        assert not sold.any() if row["kind"] == "arrival" else sold.all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(7, 30), st.integers(1, 60))
def test_nothing_at_or_after_an_example_reaches_it(
    tmp_path_factory: pytest.TempPathFactory, seed: int, horizon: int, hidden: int
) -> None:
    """Whatever happens after an example's window changes nothing of it; what happens in it changes its answer alone."""
    args = QUICK.model_copy(update={"horizon_days": horizon, "n_windows": 2, "kinds": ("arrival", "new")})
    data = arrivals(people=120, weeks=14, seed=seed)
    place = tmp_path_factory.mktemp("leak")
    table = write_examples(data, np.arange(data.n_items), args, place / "all.arrow").table
    start = min(table["start"])
    late = data.events.at >= start
    rng = np.random.default_rng(seed)
    mixed = data.events.item.copy()
    mixed[late] = rng.permutation(mixed[late])  # another future
    other = replace(data, events=replace(data.events, item=mixed))
    again = write_examples(other, np.arange(other.n_items), args, place / "other.arrow").table
    sets = [
        {(r["start"], r["person"]): (r["items"], r["weights"]) for r in t if r["start"] == start}
        for t in (table, again)
    ]
    shared = sets[0].keys() & sets[1].keys()
    assert shared and all(sets[0][key] == sets[1][key] for key in shared)


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
    table = write_examples(data, np.arange(data.n_items), LoraArguments(), tmp_path / "e.arrow").table
    assert is_stepwise(data.events.of(Action.PURCHASE), 28) and not is_stepwise(DATA.events.of(Action.PURCHASE), 28)
    assert set(table["kind"]) == {"next"} and all(len(p) == 1 for p in table["positives"])
    assert len(set(table["start"])) == 7
    tuned = tune_encoder(data, folder, QUICK.model_copy(update={"horizon_days": 28}), tmp_path / "run")
    assert set(tuned.metrics) >= {"ndcg@20_next", "goal"}


def test_first_purchases() -> None:
    purchased = FirstPurchases.of(DATA.events.of(Action.PURCHASE), DATA.n_items)
    e = DATA.events.of(Action.PURCHASE)
    user, item = int(e.user[0]), int(e.item[0])
    first = e.at[(e.user == user) & (e.item == item)].min()
    assert purchased.first(np.array([user, user]), np.array([item, 10**6])).tolist() == [first, np.iinfo(np.int64).max]
    assert purchased.sold[item] == e.at[e.item == item].min()


# --- objective -------------------------------------------------------------------------------------------------------


def test_the_score_is_the_formula() -> None:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    score = SetScore(4, 7.0, 0.5)
    score.prior.data, score.bias.data = torch.randn(4), torch.tensor(0.3)
    weights = torch.tensor([[0.25, 0.75]])
    cosine = rows[:2] @ rows[2:].T
    wanted = 0.5 * torch.log((weights[0][:, None] * torch.exp(7 * (cosine - 1))).sum(0)) + rows[2:] @ score.prior + 0.3
    assert torch.allclose(score(weights, rows[:2], rows[2:])[0], wanted, atol=1e-5)


def test_losses_by_hand() -> None:
    score = torch.tensor([[2.0, 1.0, 0.0]])
    log_weight = torch.tensor([[-torch.inf, 0.0, float(np.log(3.0))]])  # the positive itself is no negative
    targets = Targets(log_weight, torch.tensor([0]), torch.tensor([0]))
    total = np.exp(2) + np.exp(1) + 3 * np.exp(0)
    assert float(softmax_loss(score, targets)) == pytest.approx(np.log(total) - 2)
    soft = [np.log1p(np.exp(x)) for x in (-2.0, 1.0, 0.0)]
    assert float(bce_loss(score, targets)) == pytest.approx(soft[0] + 0.25 * soft[1] + 0.75 * soft[2], rel=1e-5)


def test_other_positives_are_no_negatives() -> None:
    score = torch.tensor([[2.0, 5.0, 0.0]], requires_grad=True)
    log_weight = torch.tensor([[-torch.inf, -torch.inf, 0.0]])
    softmax_loss(score, Targets(log_weight, torch.tensor([0, 0]), torch.tensor([0, 1]))).backward()
    assert score.grad is not None
    alone = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    softmax_loss(alone, Targets(log_weight, torch.tensor([0]), torch.tensor([0]))).backward()
    assert alone.grad is not None
    assert float(score.grad[0, 0]) == pytest.approx(float(alone.grad[0, 0]) / 2)


def test_drawn_gradients_are_unbiased() -> None:
    torch.manual_seed(1)
    gradient = torch.randn(50, 3) * torch.rand(50, 1) ** 4
    total = torch.zeros(3)
    for seed in range(3000):
        kept, weight = draw_by_norm(gradient, 10, torch.Generator().manual_seed(seed))
        assert 8 <= len(kept) <= 12
        total += (gradient[kept] * weight[:, None]).sum(0)
    assert torch.allclose(total / 3000, gradient.sum(0), atol=0.05)


def _run(folder: Path, place: Path, args: LoraArguments) -> tune.LoraRun:
    base = load_encoder(folder)
    return tune.prepare(DATA, base, args, place, "en", lambda _: None)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_cached_loss_has_the_plain_gradient(tmp_path: Path, model_type: str) -> None:
    """Two passes in small chunks, or the bank with room for all texts, give what one graph over the step gives."""
    base = make_model(tmp_path / "tiny", model_type)
    found = []
    for cached, chunk in (("off", 10_000), ("exact", 40), ("bank", 40)):
        args = QUICK.model_copy(
            update={"cached_loss": cached, "chunk_tokens": chunk, "head_steps": 0, "gradient_texts": 10_000}
        )
        run = _run(base, tmp_path / cached, args.model_copy(update={"pull_weight": 0.5}))
        drawn = run.source.draw(run.groups, np.random.default_rng(0))
        tune.add_gradients(run, drawn, [0])
        found.append([p.grad for p in run.tower.parameters if p.grad is not None])
    assert found[0] and any(float(g.abs().max()) > 1e-4 for g in found[0])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-5 + 1e-3 * float(one.abs().max()))


def test_kept_lower_blocks_change_nothing(folder: Path) -> None:
    encoder = HuggingFaceEncoder(find_weights(folder), progress=False)
    wanted = encoder.encode(TEXTS)
    tower = Tower(encoder, TEXTS, QUICK)
    tower.keep(np.arange(3))
    once, again = tower.encode(np.arange(3)), tower.encode(np.array([2, 0]))
    assert np.allclose(once.numpy(), wanted, atol=1e-6) and torch.allclose(again, once[[2, 0]], atol=1e-6)
    assert len(tower._lower_outputs) == 3


# --- runs ------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("loss", ["window", "in-batch", "bce"])
def test_a_run_learns_and_leaves_its_record(tmp_path: Path, folder: Path, loss: str) -> None:
    changes = {"max_steps": 60, "learning_rate": 5e-3, "patience": 99, "eval_steps": 5}
    changes |= {"kinds": ("arrival",), "n_windows": 2, "gain": 1.0, "pull_weight": 0.0}
    args = QUICK.model_copy(update={"loss": loss, **changes})
    data, told = _followers(), list[str]()
    tuned = tune_encoder(data, folder, args, tmp_path, told.append, licence="Apache-2.0", consent="made up")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    # it falls by two thirds and more; with an encoder that learns nothing it falls by less than a hundredth
    assert np.mean(losses[-4:]) < 2 / 3 * np.mean(losses[:4])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["data_hash"] == data.data_hash() and config["seed"] == 0 and config["versions"]["torch"]
    card = (tmp_path / "card.txt").read_text()
    assert "Apache-2.0" in card and "made up" in card and "bert" not in card and data.data_hash() in card
    assert any("texts/s" in line and "left" in line for line in told)
    assert tuned.metrics["goal"] >= tuned.base_metrics["goal"]
    assert not (tmp_path / "examples").exists()


def test_one_seed_gives_one_run_and_leaves_the_callers_random_state_alone(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    tune_encoder(DATA, folder, QUICK, tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())
    tune_encoder(DATA, folder, QUICK, tmp_path / "b")
    tune_encoder(DATA, folder, QUICK.model_copy(update={"seed": 1}), tmp_path / "c")
    a, b, c = ((tmp_path / name / "metrics.jsonl").read_text() for name in "abc")
    assert a == b != c


CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_finetuning import DATA, QUICK
from recllm.learn.training.lora import tune

append = tune.append_metrics


def append_and_die(folder, values):
    append(folder, values)
    if values["step"] == 11 and "loss" in values:
        os.kill(os.getpid(), signal.SIGKILL)


tune.append_metrics = append_and_die
tune.tune_encoder(DATA, {folder!r}, QUICK.model_copy(update=dict(max_steps=18, patience=99)), {run!r})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_a_killed_run_goes_on_to_the_same_curve(tmp_path: Path, folder: Path) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), run=str(tmp_path / "cut"))
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL, "between two checkpoints"
    metrics = tmp_path / "cut" / "metrics.jsonl"
    assert json.loads(metrics.read_text().splitlines()[-1])["step"] == 11
    for name in ("whole", "cut"):
        tune_encoder(DATA, folder, QUICK.model_copy(update={"max_steps": 18, "patience": 99}), tmp_path / name)
    assert metrics.read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    adapters = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "cut")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path: Path, folder: Path) -> None:
    tune_encoder(DATA, folder, QUICK, tmp_path)
    with pytest.raises(ModelError, match=r"another run .arguments differs"):
        tune_encoder(DATA, folder, QUICK.model_copy(update={"rank": 4}), tmp_path)
    with pytest.raises(ModelError, match=r"another run .data_hash differs"):
        tune_encoder(arrivals(seed=1), folder, QUICK, tmp_path)
    tune_encoder(DATA, folder, QUICK.model_copy(update={"rank": 4, "resume_from_checkpoint": False}), tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_folder.Checkpoint(3, {"a": torch.ones(2)}, {"history": []})
    run_folder.save_checkpoint(first, tmp_path)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "write_whole", full)
    with pytest.raises(ModelError, match="the disk is full; free some space, and run this again"):
        run_folder.save_checkpoint(replace(first, step=6), tmp_path)
    kept = run_folder.load_checkpoint(tmp_path)
    assert kept is not None and kept.step == 3 and torch.equal(kept.tensors["a"], torch.ones(2))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tune.loss_of

    def breaks(run: tune.LoraRun, *rest: object) -> torch.Tensor:
        return plain(run, *rest) * (torch.nan if run.step >= broken else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(tune, "loss_of", breaks)
    told: list[str] = []
    broken = 4
    tuned = tune_encoder(DATA, folder, QUICK, tmp_path / "a", told.append)
    assert any("not finite" in line for line in told) and np.isfinite(tuned.encoder.encode(TEXTS)).all()
    assert tuned.history[-1]["step"] == 3
    broken = 0
    with pytest.raises(DataError, match="not finite before the first evaluation"):
        tune_encoder(DATA, folder, QUICK, tmp_path / "b")


def test_training_stops_when_validation_users_see_no_gain(tmp_path: Path, folder: Path) -> None:
    args = QUICK.model_copy(update={"max_steps": 60, "learning_rate": 0.0, "head_learning_rate": 0.0, "patience": 2})
    tuned = tune_encoder(DATA, folder, args, tmp_path)
    assert [h["step"] for h in tuned.history] == [0, 3, 6] and tuned.metrics["step"] == 0
    assert np.allclose(tuned.encoder.encode(TEXTS), load_encoder(folder).encode(TEXTS), atol=1e-6)


# --- bad input -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": "hinge"}, "one of window, in-batch, bce"),
        ({"rank": 0}, "at least 1"),
        ({"n_windows": 1}, "at least 2"),
        ({"kinds": ("old",)}, "arrival"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        LoraArguments(**wrong)  # type: ignore[arg-type]
