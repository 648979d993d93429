"""A BERT-family model on disk as an `Encoder`.

What makes it fast, none of which changes a vector by more than rounding: each distinct text once; texts sorted by
their number of tokens and cut into batches of about equal work, in which nearly nothing is padding; no pooling layer
that nobody reads; tokenising in parallel in the tokenizers library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recllm.encoder.adapters import adapter_hash, merge_adapter
from recllm.encoder.folder import FolderSettings, check_folder
from recllm.encoder.quiet import quiet_loading
from recllm.encoder.tokens import Tokens
from recllm.encoder.unique import distinct
from recllm.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from recllm.encoder.locate import Weights
    from recllm.schema import FloatArray, TextKind

Precision = Literal["float32", "bfloat16"]

BATCH_TOKENS = 2048
"""Tokens of one batch, padding included."""

_LONGEST = 512
"""Tokens at most where neither folder nor tokenizer nor position table sets a limit."""

_SCHEME = "recllm-encoder-1"
"""Part of each fingerprint. Raise the number when the way from text to vector changes."""

_NOT_PASSED_ON = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version", "model_type"})


class HuggingFaceEncoder:
    """Texts to unit vectors with a transformers model; made by `load_encoder`.

    A text of at most `max_tokens` tokens by `count_tokens` is used whole, prompt included; longer ones lose their end.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        precision: Precision = "float32",
        max_tokens: int | None = None,
        prompts: Mapping[str, str] | None = None,
        device: str | None = None,
        progress: bool = True,
        adapter: str | Path | None = None,
    ) -> None:
        settings = check_folder(weights.path, weights.name)
        self.weights = weights
        self.model_type = settings.model_type
        self.base_hash = _weights_hash(settings)
        self.precision: Precision = precision
        self.prompts = prompts
        self._progress = progress
        self._pooling = settings.pooling
        self._config = _config(settings)
        tokenizer, pad, longest = _tokenizer(settings, self._config)
        self.limit = _token_limit(max_tokens, settings, longest, self._config)
        self.tokens = Tokens(
            tokenizer=tokenizer,
            pad=pad,
            prompts=dict(settings.prompts if prompts is None else prompts),
            lower_case=settings.lower_case,
            limit=self.limit,
        )
        self.max_tokens = self.tokens.max_tokens
        self.device = device or _best_device()
        self.adapter = None if adapter is None else Path(adapter)
        change = "" if self.adapter is None else adapter_hash(self.adapter)
        self.name = f"{weights.name}+lora-{change[:12]}" if change else weights.name
        self.model = self._load(settings)
        self.dim = int(self._config.hidden_size)
        self.fingerprint = self._fingerprint(settings, change)

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> FloatArray:
        """Unit rows, (len(texts), dim) float32. Each distinct text is computed once, in whatever order is fast.

        A text's vector does not depend on its neighbours beyond rounding (about 1e-6; more in bfloat16).
        """
        once, inverse = distinct(texts)
        tokens = self.token_ids(once, kind)
        lengths = np.array([len(ids) for ids in tokens], np.int64)
        rows = np.zeros((len(once), self.dim), np.float32)
        with self._bar(len(once)) as bar:
            for batch in plan_batches(lengths, BATCH_TOKENS):
                rows[batch] = self._forward([tokens[row] for row in batch])
                bar.update(len(batch))
        return rows[inverse]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included and the prompt not, before any cut."""
        return self.tokens.count(texts)

    def token_ids(self, texts: Sequence[str], kind: TextKind = "document") -> list[list[int]]:
        """Each text's tokens, prompt and special tokens included, cut to what the model takes."""
        return self.tokens.ids(texts, kind)

    def padded(self, tokens: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token ids (B, T) and mask (B, T), 1 for a real token; None when all are, which spares attention its mask."""
        import torch

        lengths = [len(ids) for ids in tokens]
        width = max(lengths)
        ids = torch.tensor([[*row, *[self.tokens.pad] * (width - len(row))] for row in tokens], device=self.device)
        if min(lengths) == width:
            return ids, None
        mask = torch.arange(width)[None, :].lt(torch.tensor(lengths)[:, None])
        return ids, mask.to(self.device).long()

    def pooled(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The last block's output (B, T, dim) as unit rows (B, dim) float32, with a graph where one is asked."""
        import torch

        return torch.nn.functional.normalize(_pool(hidden.float(), mask, self._pooling), dim=1)

    def _forward(self, tokens: list[list[int]]) -> FloatArray:
        """Unit rows (len(tokens), dim) of one batch."""
        import torch

        ids, mask = self.padded(tokens)
        with torch.inference_mode():
            hidden = self.model(input_ids=ids, attention_mask=mask)[0]  # (B, T, dim)
            rows: FloatArray = self.pooled(hidden, mask).cpu().numpy()
        return rows

    def _load(self, settings: FolderSettings) -> Any:
        """The model, with its adapter merged in float32 before it becomes bfloat16."""
        import torch

        if self.adapter is None:
            return _model(settings, self._config, self.precision).to(self.device)
        named = {"model_type": self.model_type, "base": self.weights.name, "base_hash": self.base_hash}
        merged = merge_adapter(_model(settings, self._config, "float32"), self.adapter, **named)
        return merged.to(self.device, dtype=torch.float32 if self.precision == "float32" else torch.bfloat16)

    def _bar(self, total: int) -> Any:
        from tqdm import tqdm

        # disable=None: silent where stderr is no terminal
        return tqdm(total=total, desc="encode", unit="text", delay=1.0, disable=None if self._progress else True)

    def _fingerprint(self, settings: FolderSettings, adapter: str) -> str:
        files = {path.name: _file_hash(path) for path in [*settings.weight_files(), *settings.tokenizer_files()]}
        how = {
            "scheme": _SCHEME,
            "files": files,
            "config": {key: settings.config[key] for key in sorted(settings.config) if key not in _NOT_PASSED_ON},
            "pooling": self._pooling,
            "prompts": dict(self.tokens.prompts),
            "lower_case": self.tokens.lower_case,
            "limit": self.limit,
            "precision": self.precision,
        } | ({"adapter": adapter} if adapter else {})
        return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()


def plan_batches(lengths: np.ndarray[Any, np.dtype[np.int64]], budget: int) -> Iterator[np.ndarray[Any, Any]]:
    """Rows in batches, shortest texts first: at most `budget` tokens each with padding (one text may exceed it).

    A batch that is already worth its overhead (a quarter of the budget) ends where the length changes, so that large
    jobs have no padding at all, while a handful of texts of many lengths is still one or two batches.
    """
    order = np.argsort(lengths, kind="stable")
    sizes = lengths[order]
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or sizes[end] * (end + 1 - start) > budget
        if full or (sizes[end] > sizes[end - 1] and sizes[end - 1] * (end - start) >= budget // 4):
            yield order[start:end]
            start = end


def _pool(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """(B, T, dim) and mask (B, T) -> (B, dim)."""
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(dim=1)
    weight = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _config(settings: FolderSettings) -> Any:
    """The model's configuration made from its plain values. Private keys of the file are not handed on: transformers
    would set them as attributes of its own objects."""
    from transformers import AutoConfig

    values = {
        key: value for key, value in settings.config.items() if not key.startswith("_") and key not in _NOT_PASSED_ON
    }
    try:
        return AutoConfig.for_model(settings.model_type, **values)
    except Exception as error:
        raise ModelError(f"{settings.transformer / 'config.json'}: {_first_line(error)}") from error


def _tokenizer(settings: FolderSettings, config: Any) -> tuple[Tokenizer, int, int]:
    """The tokenizer without padding and without a limit, the id for padding, and the limit that it asks for."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        with quiet_loading():
            loaded = AutoTokenizer.from_pretrained(  # nosec B615 - a local folder, no revision to pin
                settings.transformer, config=config, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library raises whatever the broken file led to
        raise ModelError(f"{settings.transformer}: the tokenizer does not load: {_first_line(error)}") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None or loaded.pad_token_id is None:
        raise ModelError(f"{settings.transformer}: needs a tokenizer of the tokenizers library with a padding token.")
    plain = Tokenizer.from_str(backend.to_str())  # our own copy: the library changes its one between calls
    plain.no_padding()
    plain.no_truncation()
    return plain, int(loaded.pad_token_id), int(min(loaded.model_max_length, 1 << 30))


def _token_limit(wanted: int | None, settings: FolderSettings, tokenizer: int, config: Any) -> int:
    """The smallest of what the caller, the folder, the tokenizer and the position table allow."""
    positions = int(getattr(config, "max_position_embeddings", None) or _LONGEST)
    if settings.model_type in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1  # their positions start behind the id for padding
    limits = [limit for limit in (settings.max_tokens, tokenizer, positions) if limit and limit > 0]
    if wanted is not None and wanted < 3:
        raise UsageError(f"max_tokens must be at least 3 (one token between two special ones), not {wanted}.")
    return min([*limits, wanted or settings.max_tokens or max(_LONGEST, positions)])


def _model(settings: FolderSettings, config: Any, precision: Precision) -> Any:
    import torch
    from transformers import AutoModel

    try:
        with quiet_loading():
            model, info = AutoModel.from_pretrained(  # nosec B615 - a local folder, no revision to pin
                settings.transformer,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32 if precision == "float32" else torch.bfloat16,
            )
    except Exception as error:
        raise ModelError(f"{settings.transformer}: the weights do not load: {_first_line(error)}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{settings.transformer}: {len(missing)} tensors are missing, such as {missing[0]}; the model would be "
            "partly random. The folder does not hold the model that its config.json describes."
        )
    if getattr(model, "pooler", None) is not None and settings.model_type in ("bert", "roberta", "xlm-roberta"):
        model.pooler = None  # its output is not used
    return model.eval()


def _weights_hash(settings: FolderSettings) -> str:
    """Names a base model by its weights alone, so that another tokenizer limit or precision is still the same base."""
    files = {path.name: _file_hash(path) for path in settings.weight_files()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_of(path: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file, remembered in this process while its size and time of change stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
