"""What a model's folder says about itself, and whether it is safe to open.

Only data is read: JSON, vocabularies and safetensors. A folder can be written by anyone, so everything in it that
would make a library run code, fetch something or read outside the folder is refused before the libraries see it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recllm.errors import ModelError

Pooling = Literal["mean", "cls"]

MODEL_TYPES = frozenset(
    {
        "albert",
        "bert",
        "camembert",
        "convbert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "mobilebert",
        "modernbert",
        "mpnet",
        "roberta",
        "roformer",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
"""`model_type` of the architectures that may be loaded: encoders of the BERT family, code of transformers itself."""

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".joblib", ".ckpt")
_FORBIDDEN_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines"})
_MAX_JSON = 4 << 20
_E5 = re.compile(r"(^|[-_/])e5-(small|base|large)(?!.*instruct)", re.IGNORECASE)
_E5_PROMPTS = {"query": "query: ", "document": "passage: "}


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSettings:
    """How a folder wants its texts prepared and its token vectors pooled."""

    transformer: Path
    """The folder of config.json, tokenizer and weights."""
    model_type: str
    config: Mapping[str, Any]
    pooling: Pooling = "mean"
    max_tokens: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What is put before a text, by kind: "query" and "document"."""

    def weight_files(self) -> list[Path]:
        return sorted(self.transformer.glob("*.safetensors"))

    def tokenizer_files(self) -> list[Path]:
        patterns = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
        return sorted({path for pattern in patterns for path in self.transformer.glob(pattern) if path.is_file()})


def check_folder(folder: Path, name: str = "") -> FolderSettings:
    """Read the settings of a model folder, refusing what is unsafe or not of the BERT family.

    `name` is what the model is called; an E5 model is known by it, or by the name it was tuned from.

    Accepts a plain transformers folder (mean pooling) and a sentence-transformers folder (modules.json). Raises
    `ModelError` for pickled weights without safetensors, unknown `model_type`, keys that load code (`auto_map`,
    `trust_remote_code`, ...), keys that point to another model, paths that leave the folder, modules other than
    Transformer, Pooling and Normalize, and pooling other than mean and cls.
    """
    modules = _modules(folder)
    transformer = modules.get("Transformer", folder)
    _check_weights(transformer)
    config = _json(transformer / "config.json")
    if not config:
        raise ModelError(f"{transformer}: config.json is missing; this is not a model folder.")
    for path in sorted({*folder.glob("*.json"), *transformer.glob("*.json")}):
        if path.name not in ("tokenizer.json", "vocab.json"):
            _check_keys(path, pointers=path.name == "config.json")
    model_type = str(config.get("model_type", ""))
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{transformer / 'config.json'}: model_type {model_type!r} is not one of the supported encoders: "
            f"{', '.join(sorted(MODEL_TYPES))}."
        )
    sentence = _json(transformer / "sentence_bert_config.json")
    return FolderSettings(
        transformer=transformer,
        model_type=model_type,
        config=config,
        pooling=_pooling(modules.get("Pooling")),
        max_tokens=_positive(sentence.get("max_seq_length")),
        lower_case=sentence.get("do_lower_case") is True,
        prompts=_prompts(folder, config, name or folder.name),
    )


def is_e5(*names: str) -> bool:
    """Whether a name is that of an E5 model, which was trained on texts beginning with "query: " or "passage: "."""
    return any(_E5.search(name) for name in names)


def _check_weights(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: holds adapter_config.json; an adapter is not a model, and names one to fetch.")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    if pickled:
        raise ModelError(
            f"{folder}: the weights are only there as {', '.join(pickled)}. Pickled files can run code when opened "
            "and are refused; convert the model to safetensors where you trust it, and give that folder."
        )
    raise ModelError(f"{folder}: no *.safetensors file, so no weights.")


def _check_keys(path: Path, *, pointers: bool) -> None:
    """`pointers`: also refuse keys such as `backbone_name_or_path`, by which a config makes transformers load another
    model. `_name_or_path` at the top is only a note of where a model came from, and is never followed."""
    content = _json(path, top=(dict, list))
    for depth, key in _keys(content):
        points = pointers and key.endswith("_name_or_path") and not (depth == 0 and key == "_name_or_path")
        if key in _FORBIDDEN_KEYS or points:
            raise ModelError(f"{path}: the key {key!r} could load code or another model, and is refused.")


def _keys(value: object, depth: int = 0) -> Iterator[tuple[int, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield depth, str(key)
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


def _modules(folder: Path) -> dict[str, Path]:
    """Module class -> its folder, from a sentence-transformers folder's modules.json; {} for a plain folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    modules: dict[str, Path] = {}
    for entry in _json(path, top=list):
        kind = str(entry.get("type", "") if isinstance(entry, dict) else "").rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ModelError(f"{path}: the module {kind!r} is not supported (only Transformer, Pooling, Normalize).")
        modules[kind] = _inside(folder, str(entry.get("path", "")))
    return modules


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{folder / 'modules.json'}: the path {relative!r} leaves the folder.")
    return path


def _pooling(folder: Path | None) -> Pooling:
    """ "mean" unless the folder of the pooling module says otherwise."""
    config = _json(folder / "config.json") if folder else {}
    named = config.get("pooling_mode")
    old_style = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = (
        [named] if isinstance(named, str) else list(named or []) or [_OLD_POOLING.get(key, key) for key in old_style]
    )
    modes = modes or ["mean"]
    # The mean over the square root of the length has the direction of the mean, and rows are made unit anyway.
    pooling = {"mean": "mean", "mean_sqrt_len_tokens": "mean", "cls": "cls"}.get(modes[0]) if len(modes) == 1 else None
    if pooling is None or config.get("include_prompt", True) is not True:
        raise ModelError(f"{folder}: pooling {modes} is not supported; only mean and cls, prompt included, are.")
    return "cls" if pooling == "cls" else "mean"


_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


def _prompts(folder: Path, config: Mapping[str, Any], name: str) -> dict[str, str]:
    """The folder's own prompts; without any, those that an E5 model was trained with; else none."""
    said = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
    said = {name: text for name, text in said.items() if isinstance(text, str) and text}
    kinds = (("query", ("query",)), ("document", ("document", "passage", "corpus")))
    prompts = {kind: next(said[name] for name in names if name in said) for kind, names in kinds if said.keys() & names}
    if not prompts and is_e5(name, str(config.get("_name_or_path", ""))):
        return dict(_E5_PROMPTS)
    return prompts


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
