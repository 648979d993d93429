"""LoRA adapters (Hu et al. 2021): which layers they may change, whose they are, and merging them into their model.

A folder of two files that peft reads as well: adapter_config.json and adapter_model.safetensors, whose header names the
base model and the hash of its weights. Low-rank changes to other weights than they were learned on are noise, so an
adapter is only ever merged into the very weights it was trained with.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recllm.base.documents import json_value
from recllm.base.errors import ModelError
from recllm.text.encoder.folder import file_hash

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_LIKE_BERT = ("query", "key", "value", "dense")
_LIKE_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS: Mapping[str, tuple[str, ...]] = {
    "bert": _LIKE_BERT,
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "roberta": _LIKE_BERT,
    "xlm-roberta": _LIKE_BERT,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _LIKE_LLAMA),
}
"""Names of the linear layers of a block that are adapted, by `model_type`: all of them, as QLoRA (Dettmers et al. 2023)
found better than the attention's alone."""

ALPHA_PER_RANK = 2.0
"""The change to a weight is alpha / rank * B A."""

_RECORD = "recllm"
"""Key of the safetensors header under which the base is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """Shape of an adapter, and the base it belongs to. layers: indices of the adapted blocks, None for all."""

    rank: int
    alpha: float
    model_type: str
    base: str
    base_hash: str
    layers: tuple[int, ...] | None = None

    @classmethod
    def of(cls, model: Any, base: str, base_hash: str, rank: int, top_layers: int | None) -> AdapterSpec:
        """For a model whose weights have this name and hash. top_layers: blocks that are adapted, counted from the
        output; None for all."""
        depth = int(model.config.num_hidden_layers)
        first = 0 if top_layers is None else max(0, depth - top_layers)
        return cls(
            rank=rank,
            alpha=ALPHA_PER_RANK * rank,
            model_type=model.config.model_type,
            base=base,
            base_hash=base_hash,
            layers=tuple(range(first, depth)) if first else None,
        )


def targets_of(model_type: str) -> tuple[str, ...]:
    """Raises `ModelError` for an architecture whose layers are not known by name."""
    if model_type not in TARGETS:
        raise ModelError(
            f"no LoRA for the architecture {model_type!r}; supported: {', '.join(sorted(TARGETS))}. "
            "Use such a model; an encoder serves untuned too, with the scorer trained on its frozen vectors"
        )
    return TARGETS[model_type]


def attach(model: Any, spec: AdapterSpec, *, seed: int = 0) -> Any:
    """The model wrapped by peft with fresh adapters, which change nothing yet; only they are trainable.

    The caller's random state is left alone.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    pooler = getattr(model, "pooler", None) is not None  # its output is not used
    config = LoraConfig(**_lora_options(spec), exclude_modules=["pooler.dense"] if pooler else None)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft uses
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _lora_options(spec: AdapterSpec) -> dict[str, Any]:
    targets = targets_of(spec.model_type)
    some = spec.layers is not None
    return {
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(targets),
        "layers_to_transform": list(spec.layers or ()) if some else None,
        "layers_pattern": ("layers" if targets == _LIKE_LLAMA else "layer") if some else None,
    }


def adapter_state(model: Any) -> dict[str, Any]:
    """Name -> tensor of an attached adapter, float32, on the CPU."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model)
    return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in state.items()}


def save_adapter(state: Mapping[str, Any], spec: AdapterSpec, folder: Path) -> None:
    """Write the two files into `folder`, which is made where it is missing."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps({"base": spec.base, "base_hash": spec.base_hash}, sort_keys=True)
    save_file(dict(state), folder / ADAPTER_WEIGHTS, metadata={_RECORD: record})  # one key: several have no fixed order
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": spec.base,
        **_lora_options(spec),
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check_base(folder: Path, *, model_type: str, base: str, base_hash: str) -> AdapterSpec:
    """The spec of a saved adapter of this very model, without its tensors and without torch.

    Only rank, scale and layers are taken from the file, so nothing that it may say can load code or another model.
    Raises `ModelError` when a file is missing or damaged, it is not a plain LoRA of this architecture's layers, or it
    was trained on other weights.
    """
    from safetensors import SafetensorError, safe_open

    try:
        config = json_value((folder / ADAPTER_CONFIG).read_text("utf-8"))
        with safe_open(folder / ADAPTER_WEIGHTS, framework="np") as file:
            record = json_value((file.metadata() or {}).get(_RECORD, "{}"))
            ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if ".lora_A." in name}  # noqa: SIM118
        layers = config.get("layers_to_transform")
        if config["peft_type"] != "LORA" or sorted(config["target_modules"]) != sorted(targets_of(model_type)):
            raise ModelError(f"{folder}: not a LoRA adapter of a {model_type} model's {targets_of(model_type)}")
        spec = AdapterSpec(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            model_type=model_type,
            base=str(record["base"]),
            base_hash=str(record["base_hash"]),
            layers=None if layers is None else tuple(int(n) for n in layers),
        )
        if ranks != {spec.rank}:  # before matrices of that rank are made for the tensors
            raise ValueError(f"r is {spec.rank}, and its tensors have another rank")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: not an adapter that recllm wrote ({type(error).__name__}: {error}); it needs {ADAPTER_CONFIG} "
            f"and {ADAPTER_WEIGHTS} with a record of its base model"
        ) from error
    if spec.base_hash != base_hash:
        raise ModelError(
            f"{folder}: this adapter was trained on {spec.base} (weights {spec.base_hash[:12]}), and this model is "
            f"{base} (weights {base_hash[:12]}); load it with its own base model"
        )
    return spec


def merge_adapter(model: Any, folder: Path, *, model_type: str, base: str, base_hash: str) -> Any:
    """The same model with the adapter's changes added to its weights.

    Raises `ModelError` for an adapter of another base model, or one whose tensors do not fit.
    """
    spec = check_base(folder, model_type=model_type, base=base, base_hash=base_hash)
    wrapped = attach(model, spec)
    try:
        outcome = load_state(wrapped, folder)
    except RuntimeError as error:
        raise ModelError(
            f"{folder}: its tensors do not fit {base}: {str(error).strip().rpartition(chr(10))[2].strip()}"
        ) from error
    misfits = [*(key for key in outcome.missing_keys if "lora_" in key), *outcome.unexpected_keys]
    if misfits:
        raise ModelError(f"{folder}: its tensors do not fit {base}: {misfits[0]} is missing or unknown")
    return wrapped.merge_and_unload().eval()


def load_state(model: Any, folder: Path) -> Any:
    """Gives an attached adapter the tensors of a folder; what of them was missing or not expected."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    return set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS))


def adapter_hash(folder: Path) -> str:
    """SHA-256 over both files; equal hashes give equal changes."""
    digest = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        try:
            digest.update(bytes.fromhex(file_hash(folder / name)))
        except OSError as error:
            raise ModelError(f"{folder}: {name} cannot be read; an adapter is a folder with that file") from error
    return digest.hexdigest()
