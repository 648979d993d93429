from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arrivals_world import arrivals
from tiny_encoders import ARCHITECTURES, make_model

from recllm.encoder import load_encoder
from recllm.finetuning import LoraArguments, tune_encoder

DATA = arrivals()
QUICK = LoraArguments(horizon_days=14, n_windows=4, max_steps=6, eval_steps=3, top_layers=1, precision="float32")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_is_tuned_saved_and_loaded_merged(tmp_path: Path, model_type: str) -> None:
    folder = make_model(tmp_path / "tiny", model_type)
    tuned = tune_encoder(DATA, folder, QUICK, tmp_path / "run")
    texts = ["red shoes", "milk", "a sofa with four cushions"]
    base = load_encoder(folder).encode(texts)
    loaded = load_encoder(folder, adapter=tuned.adapter)
    assert sorted(p.name for p in tuned.adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert np.allclose(loaded.encode(texts), tuned.encoder.encode(texts))
    assert loaded.fingerprint == tuned.encoder.fingerprint != load_encoder(folder).fingerprint
    assert "+lora-" in loaded.name
    if tuned.metrics["step"]:
        assert not np.allclose(loaded.encode(texts), base, atol=1e-4)
