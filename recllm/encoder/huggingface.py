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

from recllm.encoder.folder import FolderSettings, check_folder
from recllm.encoder.unique import distinct
from recllm.errors import ModelError, UsageError
from recllm.quiet import quiet_loading

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
    ) -> None:
        settings = check_folder(weights.path, weights.name)
        self.name = weights.name
        self.precision: Precision = precision
        self._progress = progress
        self._prompts = dict(settings.prompts if prompts is None else prompts)
        self._lower_case = settings.lower_case
        self._pooling = settings.pooling
        self._config = _config(settings)
        self._tokenizer, self._pad, longest = _tokenizer(settings, self._config)
        self._limit = _token_limit(max_tokens, settings, longest, self._config)
        self.max_tokens = self._limit - self._prompt_tokens()
        self._device = device or _best_device()
        self._model = _model(settings, self._config, precision).to(self._device)
        self.dim = int(self._config.hidden_size)
        self.fingerprint = self._fingerprint(settings)

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> FloatArray:
        """Unit rows, (len(texts), dim) float32. Each distinct text is computed once, in whatever order is fast.

        A text's vector does not depend on its neighbours beyond rounding (about 1e-6; more in bfloat16).
        """
        once, inverse = distinct(texts)
        tokens = self._token_ids(once, kind)
        lengths = np.array([len(ids) for ids in tokens], np.int64)
        rows = np.zeros((len(once), self.dim), np.float32)
        with self._bar(len(once)) as bar:
            for batch in plan_batches(lengths, BATCH_TOKENS):
                rows[batch] = self._forward([tokens[row] for row in batch])
                bar.update(len(batch))
        return rows[inverse]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included and the prompt not, before any cut."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(self._clean(texts))]

    def _prompt_tokens(self) -> int:
        """Tokens that the longest prompt takes from a text's room."""
        empty, *prompts = self.count_tokens(["", *self._prompts.values()])
        return max(prompts, default=empty) - empty

    def _clean(self, texts: Sequence[str]) -> list[str]:
        # A lone surrogate (half of a broken emoji) is valid in a Python string and cannot be handed to Rust.
        cleaned = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [text.lower() for text in cleaned] if self._lower_case else cleaned

    def _token_ids(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        if kind not in ("query", "document"):
            raise UsageError(f'kind must be "query" or "document", not {kind!r}.')
        prompt = self._prompts.get(kind, "")
        encodings = self._tokenizer.encode_batch_fast([prompt + text for text in self._clean(texts)])
        return [_cut(encoding.ids, self._limit) for encoding in encodings]

    def _forward(self, tokens: list[list[int]]) -> FloatArray:
        """Unit rows (len(tokens), dim) of one batch."""
        import torch

        lengths = [len(ids) for ids in tokens]
        width = max(lengths)
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row in tokens], device=self._device)
        padded = min(lengths) < width
        # (B, T), 1 for a real token; None when all are real, which spares the attention its mask
        mask = torch.arange(width)[None, :].lt(torch.tensor(lengths)[:, None]).to(self._device) if padded else None
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=None if mask is None else mask.long())[0]  # (B, T, dim)
            rows = _pool(hidden.float(), mask, self._pooling)
            unit: FloatArray = torch.nn.functional.normalize(rows, dim=1).cpu().numpy()
        return unit

    def _bar(self, total: int) -> Any:
        from tqdm import tqdm

        # disable=None: silent where stderr is no terminal
        return tqdm(total=total, desc="encode", unit="text", delay=1.0, disable=None if self._progress else True)

    def _fingerprint(self, settings: FolderSettings) -> str:
        files = {path.name: _file_hash(path) for path in [*settings.weight_files(), *settings.tokenizer_files()]}
        how = {
            "scheme": _SCHEME,
            "files": files,
            "config": {key: settings.config[key] for key in sorted(settings.config) if key not in _NOT_PASSED_ON},
            "pooling": self._pooling,
            "prompts": self._prompts,
            "lower_case": self._lower_case,
            "limit": self._limit,
            "precision": self.precision,
        }
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


def _cut(ids: list[int], longest: int) -> list[int]:
    """The first tokens and the closing special token, which every tokenizer of this family puts last."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


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
