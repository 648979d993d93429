"""From a shop's files to a published model with its adapter, by the command line and by a script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from arrivals_world import arrivals
from shop_world import loaded, log_of
from tiny_encoders import make_model

from recllm.base.settings import read_settings_file
from recllm.doors.cli.main import main
from recllm.recommend.evaluation.retrain import retrain
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.workspace.workspace import Workspace

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
