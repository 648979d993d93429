"""A model of the sentence-transformers ecosystem on disk as an `Encoder`.

The library opens it, with its own pooling, Dense modules, prompts and limit.

The way from texts to batches is our own, and changes no vector by more than rounding: see `encoder.batches`; no
mask where none is needed. `SentenceTransformer.encode`, given the same distinct texts, takes 1.35 times as long (4,000
item texts, MiniLM, processor time).
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.base.errors import ModelError
from recllm.text.encoder.adapters import adapter_hash, check_base, merge_adapter
from recllm.text.encoder.batches import Tokens, distinct, plan_batches, progress_bar
from recllm.text.encoder.folder import file_hash, first_line, quiet_loading

if TYPE_CHECKING:
    import torch

    from recllm.base.arrays import Floats
    from recllm.base.schema import TextKind
    from recllm.text.encoder.folder import ModelFolder

_SCHEME = "recllm-encoder-1"
"""Part of each fingerprint. Raise the number when the way from text to vector changes."""

_NO_MEANING = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version", "model_type"})
"""Keys of config.json that change no vector, and so no fingerprint."""

_logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class HuggingFaceEncoder:
    """Texts to unit vectors with a transformers model; made by `load_encoder`.

    A text of at most `limit` tokens is used whole, prompt included; longer ones lose their end.
    """

    weights: ModelFolder
    _: KW_ONLY
    prompts: Mapping[str, str] | None = None
    """None: those of the folder."""
    device: str | None = None
    """None: the fastest; `torch_device` is the one in use."""
    progress: bool = True
    adapter: Path | None = None
    cache_dir: Path | None = None
    """Where the hashes of the files are kept."""

    def __post_init__(self) -> None:
        """Raises `ModelError` for an adapter of another base model."""
        weights = self.weights
        self.model_type = weights.model_type
        self.limit = weights.token_limit()
        self.dim = weights.dim
        self._used_prompts = dict(weights.prompts if self.prompts is None else self.prompts)
        self._opened: Any = None
        self._lock = threading.Lock()
        change = ""
        if self.adapter is not None:
            change = adapter_hash(self.adapter)
            check_base(self.adapter, model_type=self.model_type, base=weights.name, base_hash=self.base_hash)
        self.name = f"{weights.name}+lora-{change[:12]}" if change else weights.name
        self.fingerprint = self._fingerprint(change, "float32")
        self.earlier_fingerprint = self._fingerprint(change, "bfloat16")
        """Of the vectors that an earlier version computed on some machines; their cosine with ours is above .999."""

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> Floats:
        """Unit rows, (len(texts), dim) float32. Each distinct text is computed once, in whatever order is fast.

        A text's vector does not depend on its neighbours beyond rounding (about 1e-6).
        """
        texts_once, inverse = distinct(texts)
        rows = np.zeros((len(texts_once), self.dim), np.float32)
        tokens = self.tokens.ids(texts_once, kind) if texts_once else []
        with progress_bar(len(tokens), self.progress) as bar:
            for batch in plan_batches(np.array([len(ids) for ids in tokens], np.int64)):
                rows[batch] = self.forward([tokens[row] for row in batch])
                bar.update(len(batch))
        return rows[inverse]

    def _fingerprint(self, adapter: str, precision: str) -> str:
        """Hash over all that decides about a vector. `adapter`: the hash of a LoRA adapter, "" for none."""
        weights, modes = self.weights, list(self.weights.pooling)
        patterns = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
        tokenizer = {path for pattern in patterns for path in weights.transformer.glob(pattern) if path.is_file()}
        parts = {
            "scheme": _SCHEME,
            "files": self._hashes([*weights.weight_files(), *sorted(tokenizer)]),
            "config": {key: weights.config[key] for key in sorted(weights.config) if key not in _NO_MEANING},
            "pooling": "mean" if modes == ["mean_sqrt_len_tokens"] else "+".join(modes),
            "prompts": self._used_prompts,
            "lower_case": weights.lower_case,
            "limit": self.limit,
            "precision": precision,
        }
        if adapter:
            parts["adapter"] = adapter
        if weights.layers:
            layers = weights.layers.items()
            parts["layers"] = [[s, file_hash(path / "model.safetensors", self.cache_dir)] for path, s in layers]
        if weights.truncated:
            parts["dim"] = self.dim
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _hashes(self, files: Sequence[Path]) -> dict[str, str]:
        return {path.name: file_hash(path, self.cache_dir) for path in files}

    @cached_property
    def base_hash(self) -> str:
        """Hash of the transformer's weights alone, by which an adapter names its base."""
        return hashlib.sha256(
            json.dumps(self._hashes(self.weights.weight_files()), sort_keys=True).encode()
        ).hexdigest()

    @cached_property
    def torch_device(self) -> str:
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def sentence_transformer(self) -> Any:
        """The model as the library opens it, its adapter merged; loaded at the first call."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
        return self._opened

    @cached_property
    def model(self) -> Any:
        """The transformer alone: token ids and mask to the last block's output, (B, T, hidden)."""
        return self.sentence_transformer.transformers_model

    @cached_property
    def tokens(self) -> Tokens:
        """How texts become token ids. The tokenizer is a copy: the library changes its own between calls."""
        from tokenizers import Tokenizer

        loaded = self.sentence_transformer.tokenizer
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None or loaded.pad_token_id is None:
            raise ModelError(f"{self.weights.path}: needs a tokenizer of the tokenizers library with a padding token.")
        tokenizer = Tokenizer.from_str(backend.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return Tokens(
            tokenizer=tokenizer,
            pad=int(loaded.pad_token_id),
            prompts=self._used_prompts,
            lower_case=self.weights.lower_case,
            limit=self.limit,
        )

    def pooled(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The last block's output (B, T, hidden) as unit rows (B, dim) float32, by the modules behind the transformer.

        With a graph where `hidden` has one.
        """
        import torch

        features = {"token_embeddings": hidden.float()}
        if mask is not None:
            features["attention_mask"] = mask
        for module in list(self.sentence_transformer)[1:]:
            features = module(features)
        return torch.nn.functional.normalize(features["sentence_embedding"][:, : self.dim], dim=1)

    def forward(self, tokens: list[list[int]]) -> Floats:
        import torch

        lengths = [len(ids) for ids in tokens]
        pad, width, mask = self.tokens.pad, max(lengths), None  # without a mask where all are real tokens, for speed
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in tokens], device=self.torch_device)
        if min(lengths) < width:
            mask = torch.arange(width)[None, :].lt(torch.tensor(lengths)[:, None]).to(self.torch_device).long()
        with torch.inference_mode():
            hidden = self.model(input_ids=ids, attention_mask=mask)[0]
            rows: Floats = self.pooled(hidden, mask).cpu().numpy()
        return rows

    def _open(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        started, weights = time.monotonic(), self.weights
        options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
        if any(key.endswith("attn_implementation") for key in weights.config):
            options["attn_implementation"] = "sdpa"  # the folder has no say in which code runs
        try:
            with quiet_loading():
                model = SentenceTransformer(
                    str(weights.path),
                    device=self.torch_device,
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs=options,
                ).eval()
        except Exception as error:  # the libraries raise whatever the broken file led to
            raise ModelError(f"{weights.path}: its files do not load: {first_line(error)}") from error
        _check_complete(weights.path, weights.weight_files(), model.transformers_model)
        if self.adapter is not None:
            base = {"model_type": self.model_type, "base": weights.name, "base_hash": self.base_hash}
            merge_adapter(model.transformers_model, self.adapter, **base)
        for module in list(model)[1:]:
            module.float()  # pooling and what follows it, whatever their files hold
        seconds = time.monotonic() - started
        _logger.info(
            "encoder %s from %s in %.1f s",
            self.name,
            weights.source,
            seconds,
            extra={"encoder": self.name, "source": weights.source, "seconds": round(seconds, 3)},
        )
        return model


def _check_complete(folder: Path, files: Sequence[Path], model: Any) -> None:
    """Refuse a model of which tensors are not in the files: the library makes them up, and only logs it.

    Names match up to a prefix on either side ("bert.encoder..." is "encoder..."). The pooler's output is not used.
    """
    from safetensors import safe_open

    stored: set[str] = set()
    for path in files:
        with safe_open(path, framework="np") as file:
            # gamma and beta: what the first BERTs called the two tensors of a LayerNorm
            stored |= {key.replace(".gamma", ".weight").replace(".beta", ".bias") for key in file.keys()}  # noqa: SIM118
    ends = {end for name in stored for end in _ends(name)}
    names = [name for name, _ in model.named_parameters() if not name.startswith("pooler.")]
    missing = sorted(name for name in names if name not in ends and stored.isdisjoint(_ends(name)))
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} tensors are missing, such as {missing[0]}; the model would be partly random. "
            "The folder does not hold the model that its config.json describes."
        )


def _ends(name: str) -> set[str]:
    """ "a.b.c", "b.c" and "c" of "a.b.c"."""
    parts = name.split(".")
    return {".".join(parts[start:]) for start in range(len(parts))}
