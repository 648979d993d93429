"""Files that somebody hostile could hand to a shop, each with the door of the package that would read it.

Each of them tries to leave a mark: code that runs, a file changed or told outside of its folder, a connection, or
memory and time without end. `look_at` shows one to its door and says what came of it; `ARTEFACTS` has all of them by
name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sqlite3
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
from hostile_watch import Outcome, look
from safetensors.numpy import load_file as load_tensors
from safetensors.numpy import save_file
from service_world import build_shop
from tables import table
from tiny_encoders import edit_json, make_letters_model, make_model, write_json

from recllm.base.settings import read_settings_file
from recllm.doors.console.campaign_fields import fields_of_file
from recllm.doors.console.data import receive_upload, sweep_uploads
from recllm.learn.models.trees import BoostedTrees
from recllm.market.adcopy.packs import load_pack
from recllm.market.adcopy.request import VOICE_FILE, voice_of
from recllm.market.audiences.people_rule import read_rule
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import CampaignFolder, append, read_log, read_plan
from recllm.market.propensity.effects import FORMAT, load_effects
from recllm.market.propensity.features import FeatureTable
from recllm.market.propensity.trial import read_trial
from recllm.recommend.recommender.registry import current, decisions, rollback
from recllm.recommend.recommender.serving_state import open_people_state
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.cache import CACHE_FILE, CachedEncoder
from recllm.text.encoder.folder import HASH_FILE
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import find_weights, load_encoder
from recllm.text.encoder.toy import ToyEncoder
from recllm.text.generator.locate import find_generator
from recllm.text.templates import Template

Door = Callable[[], object]
"""Reads an artefact; what it answers is not told to anyone by itself."""

SECRET = "zzcanary_7f3a91c2"
"""Stands in a file outside of what an artefact may read."""
DEEP = 100_000
"""Levels of nesting."""
DEEP_JSON = '{"a":' * DEEP + "1" + "}" * DEEP
MILLION_DIGITS = "9" * 1_000_000
SQL = "'; DROP TABLE items; --"
PATHS = "../../outside/mark"


@dataclass(frozen=True)
class World:
    """What artefacts are made from: sound parts, of which each gets a copy."""

    folder: Path
    trained: Path | None = None
    """A trained shop, where there is one already."""

    @cached_property
    def shop(self) -> Path:
        """A trained shop."""
        if self.trained is not None:
            return self.trained
        folder = self.folder / "trained"
        folder.mkdir(parents=True)
        return build_shop(folder)

    @cached_property
    def encoder(self) -> Path:
        return make_model(self.folder / "encoder")

    @cached_property
    def causal(self) -> Path:
        """A causal model of random weights without a chat format, whose folder has a template of its own."""
        letters = "abcdefghijklmnopqrstuvwxyz .,!?\n"
        return make_letters_model(self.folder / "causal", letters, ("<s>", "</s>", "<unk>"), num_hidden_layers=1)


@dataclass(frozen=True)
class Case:
    """Where one artefact lies: what is made for it stands in `folder`, and nothing else may change."""

    folder: Path
    world: World

    @property
    def outside(self) -> Path:
        return self.folder.parent / "outside"

    @property
    def secret_file(self) -> Path:
        return self.outside / "secret.txt"

    @property
    def mark(self) -> str:
        """What code that runs makes."""
        return str(self.outside / "mark")

    def file(self, name: str, content: Content = b"") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_bytes(content, self))
        return path

    def copy(self, source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, self.folder / name))

    def shop(self) -> Path:
        """An empty workspace."""
        settings = {"consent_default": True, "currency": "EUR", "timezone": "UTC", "encoder": "toy"}
        with Workspace.create(self.folder / "shop", **settings) as shop:
            shop.store()
        return self.folder / "shop"

    def trained(self) -> Path:
        return self.copy(self.world.shop, "shop")


Content = bytes | str | Callable[[Case], bytes]
Spoil = Callable[[Case, Path], object]
"""Changes one thing about what is sound; the path is its folder."""


class _Mark:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def pickled(case: Case) -> bytes:
    """What leaves a mark outside as soon as it is unpickled."""
    return pickle.dumps(_Mark(case.mark))


def as_bytes(content: Content, case: Case) -> bytes:
    """Of a text the bytes, in which MARK is what running code would make."""
    if isinstance(content, str):
        return content.replace("MARK", case.mark).encode("utf-8", "surrogatepass")
    return content if isinstance(content, bytes) else content(case)


def put(name: str, content: Content) -> Spoil:
    """One file has this content."""
    return lambda case, folder: (folder / name).write_bytes(as_bytes(content, case))


def edit(name: str, **values: Any) -> Spoil:
    """One file of JSON has these values."""
    return lambda _, folder: edit_json(folder / name, **values)


def replaced(name: str, make: Callable[[Case, Path], object]) -> Spoil:
    """One file is taken away, and another thing made in its place."""

    def spoil(case: Case, folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(case, folder)

    return spoil


def link(name: str) -> Spoil:
    """One file is a link to the secret."""
    return replaced(name, lambda case, folder: (folder / name).symlink_to(case.secret_file))


def pipe(name: str) -> Spoil:
    return replaced(name, lambda _, folder: os.mkfifo(folder / name))


def hard_link(name: str) -> Spoil:
    return replaced(name, lambda case, folder: (folder / name).hardlink_to(case.secret_file))


@dataclass(frozen=True)
class Artefact:
    name: str
    make: Callable[[Case], Door]
    inert: bool
    """Whether it may be read, as data without effect; others have to be refused."""


SLOW = frozenset({
    "table: a quoted cell of 50 MB", "table: long texts repeated in few bytes",
    "encoder: weights with many names", "encoder: weights with length of 90 MB", "table: a cell of 50 MB",
})  # fmt: skip
"""They take seconds to make or to read: the measurement looks at them, the tests do not."""

ARTEFACTS: dict[str, Artefact] = {}


def _add(name: str, make: Callable[[Case], Door], *, inert: bool = False) -> None:
    assert name not in ARTEFACTS, name
    ARTEFACTS[name] = Artefact(name, make, inert)


@dataclass(frozen=True)
class Kind:
    """Artefacts that are something sound with one thing changed."""

    name: str
    prepare: Callable[[Case], tuple[Path, Door]]
    """(folder of what is sound, the door that reads it)."""
    afterwards: Callable[[Path], object] = lambda folder: None
    """What somebody does who can write all files of the folder, so that they agree."""

    def add(self, spoils: Mapping[str, Spoil], *, inert: bool = False) -> None:
        for name, spoil in spoils.items():
            _add(f"{self.name}: {name}", partial(self._make, spoil), inert=inert)

    def _make(self, spoil: Spoil, case: Case) -> Door:
        folder, door = self.prepare(case)
        spoil(case, folder)
        self.afterwards(folder)
        return door


def look_at(item: Artefact, folder: Path, world: World) -> Outcome:
    """Makes the artefact in an empty folder and shows it to its door."""
    case = Case(folder / "case", world)
    case.folder.mkdir(parents=True)
    case.outside.mkdir()
    case.secret_file.write_text(f"{SECRET}\n")
    door = item.make(case)
    return look(item.name, case.folder, SECRET, door, inert=item.inert, also=world.folder)


def look_at_all(root: Path) -> list[Outcome]:
    """One artefact after the other, each in an empty folder; libraries are loaded before."""
    (root / "world").mkdir()
    outcomes, world = [], World(root / "world")
    for name in ("adapter: a sound one", "generator: code beside the weights", "effects: sound ones"):
        look_at(ARTEFACTS[name], root / f"warm {name}", world)
    for number, item in enumerate(ARTEFACTS.values()):
        outcomes.append(look_at(item, root / f"{number}", world))
        shutil.rmtree(root / f"{number}")
    return outcomes


def safetensors(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    """A file of that format with whatever header, and whatever length of it."""
    return struct.pack("<Q", len(header) if size is None else size) + header + body


def _tensors(*named: tuple[str, int, int, list[int]], size: int = 8, kind: str = "F32") -> bytes:
    """named: (name, start, end, shape); size: bytes that follow."""
    header = ",".join(
        f'"{name}":{json.dumps({"dtype": kind, "shape": shape, "data_offsets": [start, end]})}'
        for name, start, end, shape in named
    )
    return safetensors(f"{{{header}}}".encode(), bytes(size))


HEADERS: dict[str, Callable[[], bytes]] = {
    "length of 2^63": lambda: safetensors(b"{}", size=1 << 63),
    "length of all bits": lambda: safetensors(b"{}", size=(1 << 64) - 1),
    "length of 90 MB": lambda: safetensors(b"{}" + b" " * 90_000_000),
    "many names": lambda: _tensors(*((f"t{n}", 0, 0, [0]) for n in range(50_000)), size=0),
    "overlapping offsets": lambda: _tensors(("a", 0, 8, [2]), ("b", 4, 12, [2]), size=12),
    "offsets outside": lambda: _tensors(("a", 0, 1 << 40, [1 << 38])),
    "negative offsets": lambda: _tensors(("a", -8, 0, [2])),
    "a name twice": lambda: _tensors(("a", 0, 8, [2]), ("a", 0, 8, [2])),
    "a type that is none": lambda: _tensors(("a", 0, 8, [2]), kind="__reduce__"),
    "a shape that overflows": lambda: _tensors(("a", 0, 8, [1 << 40, 1 << 40])),
    "deep nesting": lambda: safetensors(DEEP_JSON.encode()),
    "no JSON": lambda: safetensors(b"cos\nsystem\n(S'true'\ntR."),
}
"""Headers of safetensors files that lie."""


def headers(file: str, name: str = "{}", without: str = "90 MB") -> dict[str, Spoil]:
    """One file has each of these headers, but for one of them."""
    return {
        name.format(key): put(file, lambda _, content=content: content())
        for key, content in HEADERS.items()
        if without not in key
    }


def _encode(folder: Path, **options: Any) -> Door:
    return lambda: load_encoder(folder, progress=False, **options).encode(["red shoes"]).shape


def _sound_encoder(case: Case) -> tuple[Path, Door]:
    folder = case.copy(case.world.encoder, "encoder")
    return folder, _encode(folder, cache_dir=case.folder / "cache")


def _only(name: str) -> Spoil:
    return replaced("model.safetensors", put(name, pickled))


def _module(kind: str, path: str) -> Spoil:
    def spoil(case: Case, folder: Path) -> None:
        modules = [("sentence_transformers.models.Transformer", ""), (kind, path)]
        listed = [{"idx": n, "name": str(n), "path": p, "type": t} for n, (t, p) in enumerate(modules)]
        write_json(folder / "modules.json", listed)
        case.file("encoder/evil.py", "open('MARK', 'w')\n")

    return spoil


def _code(case: Case, folder: Path) -> None:
    """Code beside the settings that name it."""
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py", "__init__.py", "custom.py"):
        put(name, "open('MARK', 'w')\n")(case, folder)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", custom=True)


_config = partial(edit, "config.json")
_tokenizer = partial(edit, "tokenizer_config.json")
SLOW_SPLIT = {"type": "Split", "pattern": {"Regex": "(a|aa)+$|(x+x+)+y"}, "behavior": "Isolated", "invert": False}
FETCHED = {"base_model_name_or_path": "evil/model", "auto_mapping": {"parent_library": "evil"}}
SYSTEM_CALL = "{{ lipsum.__globals__['os'].system('touch MARK') }}"

encoders = Kind("encoder", _sound_encoder)
encoders.add(
    {
        **{name: _config(**change) for name, change in table("hostile_artefacts", "settings of an encoder").items()},
        **headers("model.safetensors", "weights with {}", without="nothing"),
        "weights that are a pickle": put("model.safetensors", pickled),
        **{
            f"{name} alone": _only(name)
            for name in ("pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt", "model.joblib")
        },
        "deep settings": put("config.json", DEEP_JSON),
        "large settings": put("config.json", lambda _: b'{"a":"' + b"x" * (5 << 20) + b'"}'),
        "a number of a million digits": put("config.json", '{"hidden_size":' + MILLION_DIGITS + "}"),
        "a settings file that is a link": link("config.json"),
        "a module of one's own": _module("evil.Evil", ""),
        "a module of the library that is none": _module("sentence_transformers.models.os.system", ""),
        "a module outside": _module("sentence_transformers.models.Pooling", "../../outside"),
        "a tokenizer with code": _tokenizer(auto_map={"AutoTokenizer": ["evil.T", None]}),
        "a tokenizer that is a pickle": put("tokenizer.json", pickled),
        "a deep tokenizer": put("tokenizer.json", DEEP_JSON),
        "a pipe in place of weights": pipe("model.safetensors"),
        "an adapter in place of a model": put("adapter_config.json", json.dumps(FETCHED | {"peft_type": "LORA"})),
    }
)
encoders.add(
    {
        "a pickle beside sound weights": put("pytorch_model.bin", pickled),
        "a note of where it came from": _config(_name_or_path="evil/model"),
        "code beside the weights": _code,
        "a tokenizer with a slow pattern": edit("tokenizer.json", pre_tokenizer=SLOW_SPLIT),
        "a template in the tokenizer": _tokenizer(chat_template=SYSTEM_CALL),
    },
    inert=True,
)


PARTS = {
    **dict.fromkeys((f"attention.self.{name}" for name in ("query", "key", "value")), (32, 32)),
    "attention.output.dense": (32, 32),
    "intermediate.dense": (32, 48),
    "output.dense": (48, 32),
}
"""Linear layers of a block of the sound encoder -> (width, height)."""


def _sound_adapter(case: Case) -> tuple[Path, Door]:
    """Of the sound encoder."""
    encoder, folder = case.copy(case.world.encoder, "encoder"), case.folder / "adapter"
    folder.mkdir()
    tensors, rank = {}, 2
    for layer in range(2):
        for part, (width, height) in PARTS.items():
            name = f"base_model.model.encoder.layer.{layer}.{part}"
            tensors[f"{name}.lora_A.weight"] = np.zeros((rank, width), np.float32)
            tensors[f"{name}.lora_B.weight"] = np.zeros((height, rank), np.float32)
    base = HuggingFaceEncoder(find_weights(encoder))
    record = json.dumps({"base": base.name, "base_hash": base.base_hash})
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"recllm": record})
    targets = ["query", "key", "value", "dense"]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4.0, "target_modules": targets, "bias": "none"}
    write_json(folder / "adapter_config.json", config)
    return folder, _encode(encoder, adapter=folder, cache_dir=case.folder / "cache")


def _other_base(_: Case, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    record = json.dumps({"base": "other/model", "base_hash": "0" * 64})
    save_file(load_tensors(path), path, metadata={"recllm": record})


_lora = partial(edit, "adapter_config.json")
adapters = Kind("adapter", _sound_adapter)
adapters.add(
    {
        "a sound one": lambda case, folder: None,
        "that names a model to fetch": _lora(**FETCHED),
        "of endless layers": _lora(layers_to_transform=list(range(100_000))),
    },
    inert=True,
)
adapters.add(
    {
        "adapter_model.bin alone": replaced("adapter_model.safetensors", put("adapter_model.bin", pickled)),
        "weights that are a pickle": put("adapter_model.safetensors", pickled),
        "of another model": _other_base,
        "of a billion ranks": _lora(r=1_000_000_000),
        "of a rank of many digits": _lora(r="9" * 100_000),
        "deep settings": put("adapter_config.json", DEEP_JSON),
        "of another kind": _lora(peft_type="PROMPT_TUNING"),
        "of all modules": _lora(target_modules=".*"),
    }
)


def _sound_cache(case: Case) -> tuple[Path, Door]:
    def ask() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged cache is told and started anew
            return CachedEncoder(ToyEncoder(), folder).encode(["red shoes"]).shape

    (folder := case.folder / "cache").mkdir()
    return folder, ask


def _view_without_end(_: Case, folder: Path) -> None:
    with sqlite3.connect(folder / CACHE_FILE) as db:
        db.execute(
            "CREATE VIEW vector AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
            "SELECT CAST(n AS BLOB) AS key, n AS used, x'00' AS digest, x'00' AS numbers FROM r"
        )


def _hashes(content: Content) -> Spoil:
    return lambda case, _: case.file(f"cache/{HASH_FILE}", content)


Kind("cache", _sound_cache).add(
    {"a pickle": put(CACHE_FILE, pickled), "a view that never ends": _view_without_end, "a link": link(CACHE_FILE)},
    inert=True,
)
Kind("cache", _sound_encoder).add(
    {"deep hashes": _hashes("[" * DEEP + "]" * DEEP), "hashes that are a pickle": _hashes(pickled)}, inert=True
)


def _write(folder: Path) -> Door:
    def door() -> object:
        generator = find_generator(str(folder), cache_dir=folder.parent / "unpacked")
        assert generator is not None
        return generator.generate("[system] Be short.\n[user] Name a colour.", n=1, max_tokens=2)

    return door


def _sound_generator(case: Case) -> tuple[Path, Door]:
    folder = case.copy(case.world.causal, "causal")
    return folder, _write(folder)


generators = Kind("generator", _sound_generator)
generators.add(
    {
        **{name: _config(**change) for name, change in table("hostile_artefacts", "settings of a generator").items()},
        "weights that are a pickle": put("model.safetensors", pickled),
        "pytorch_model.bin alone": _only("pytorch_model.bin"),
        "a tokenizer with code": _tokenizer(auto_map={"AutoTokenizer": ["evil.T", None]}),
        "deep settings": put("config.json", DEEP_JSON),
        "a settings file that is a link": link("config.json"),
        **{
            f"weights with {name}": headers("model.safetensors")[name]
            for name in ("length of 2^63", "offsets outside", "deep nesting")
        },
    }
)
# a template is a program, and not run: the model reads the turns as they are
templates = {f"a template that {name}": text for name, text in table("hostile_artefacts", "templates")}
generators.add(
    {"code beside the weights": _code, **{name: put("chat_template.jinja", text) for name, text in templates.items()}},
    inert=True,
)


def _gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(*pairs: bytes, n_tensors: int = 0, n_pairs: int | None = None, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, len(pairs) if n_pairs is None else n_pairs)
    return head + b"".join(pairs)


def _gguf_pair(key: str, value: str) -> bytes:
    return _gguf_text(key) + struct.pack("<I", 8) + _gguf_text(value)


LLAMA = _gguf_pair("general.architecture", "llama")
for _name, _content in {
    "a template that runs code": lambda case: gguf(
        LLAMA,
        _gguf_pair("tokenizer.ggml.model", "gpt2"),
        _gguf_pair("tokenizer.chat_template", SYSTEM_CALL.replace("MARK", case.mark)),
    ),
    "a pickle": pickled,
    "a pickle behind the magic": lambda case: b"GGUF" + pickled(case),
    "endless pairs": gguf(_gguf_pair("a", "b"), n_pairs=1 << 62),
    "endless tensors": gguf(LLAMA, n_tensors=1 << 62),
    "a text of endless length": gguf(struct.pack("<Q", 1 << 62) + b"x"),
    "a list of endless length": gguf(_gguf_text("a") + struct.pack("<IIQ", 9, 4, 1 << 60)),
    "lists in lists": gguf(_gguf_text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * DEEP),
    "a type that is none": gguf(_gguf_text("a") + struct.pack("<I", 77) + bytes(64)),
    "a version that is none": gguf(version=9_999),
    "an alignment of nothing": gguf(_gguf_text("general.alignment") + struct.pack("<II", 4, 0), LLAMA, n_tensors=1),
    "nothing": b"",
    "half a head": b"GGUF\x03\x00",
}.items():
    _add(f"gguf: {_name}", lambda case, content=_content: _write(case.file("model.gguf", content)))


def _seal(folder: Path) -> None:
    """Writes the manifest anew, as somebody would who can write all files of a version."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body.pop("sha256")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != path]
    body["files"] = {
        p.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            "bytes": p.stat().st_size,
        }
        for p in files
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n")


def _opened(shop: Path, work: Callable[[Workspace], object]) -> Door:
    def door() -> object:
        with Workspace.open(shop) as workspace:
            return work(workspace)

    return door


def _recommend(shop: Path) -> Door:
    def work(workspace: Workspace) -> object:
        user = workspace.pseudonymiser().one("u01")
        return open_recommender(workspace).recommend(user, k=3)[0].degraded_reason

    return _opened(shop, work)


def _sound_version(case: Case) -> tuple[Path, Door]:
    shop = case.trained()
    return shop / "models" / "versions" / str(current(shop / "models")), _recommend(shop)


versions, unsealed = Kind("version", _sound_version, _seal), Kind("version", _sound_version)
versions.add(
    {
        **{f"{n} is a pickle": put(n, pickled) for n in ("scorer.safetensors", "model.json", "scorer.json")},
        **{f"{n} is deep": put(n, DEEP_JSON) for n in ("model.json", "scorer.json")},
        **{f"extra.{n} was added": put(f"extra.{n}", pickled) for n in ("pkl", "bin", "npy", "joblib", "py", "so")},
        "a link to a file outside": link("extra.json"),
    }
)
versions.add(
    {"a pickle named notes.txt": put("notes.txt", pickled), "a hard link to a file outside": hard_link("extra.json")},
    inert=True,
)
unsealed.add(
    {
        "manifest.json is a pickle": put("manifest.json", pickled),
        "manifest.json is deep": put("manifest.json", DEEP_JSON),
        "a link to a folder outside": lambda case, folder: (folder / "adapter").symlink_to(case.outside),
    }
)


def _sound_state(case: Case) -> tuple[Path, Door]:
    shop = case.trained()
    folder = max((shop / "serving").glob(f"{current(shop / 'models')}*"))  # of the model in use
    return folder, _recommend(shop)


def _checksum(folder: Path) -> None:
    """Of the items, as the catalogue states it."""
    catalogue = folder / "serving.safetensors"
    content, checksum = catalogue.read_bytes(), zlib.crc32((folder / "items.arrow").read_bytes())
    stated = f'"items_crc32": "{checksum:010d}"'.encode()
    catalogue.write_bytes(re.sub(rb'"items_crc32": "\d+"', stated, content))


def _hostile_arrow(case: Case, folder: Path) -> None:
    """Metadata that claims to be Python's, and a column of another kind."""
    table = pa.ipc.open_file(folder / "items.arrow").read_all()
    marks = {b"pandas": pickled(case), b"ARROW:extension:name": b"arrow.py_extension_type"}
    field = pa.field("item_id", pa.binary(), metadata={**marks, b"ARROW:extension:metadata": pickled(case)})
    column = table.column("item_id").cast(pa.string()).cast(pa.binary())
    table = table.set_column(table.schema.get_field_index("item_id"), field, column).replace_schema_metadata(marks)
    with pa.OSFile(str(folder / "items.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _items(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda _, folder: (folder / "items.arrow").write_bytes(change((folder / "items.arrow").read_bytes()))


Kind("state", _sound_state, _checksum).add(
    {
        **{f"{name} is a pickle": put(name, pickled) for name in ("serving.safetensors", "items.arrow")},
        **headers("serving.safetensors", "a catalogue with {}"),
        "items.arrow with hostile metadata": _hostile_arrow,
        "items.arrow cut off": _items(lambda whole: whole[:400]),
        "items.arrow with wrong bytes": _items(lambda whole: whole[:-300] + b"\xff" * 300),
    }
)


def _people_state(case: Case) -> tuple[Path, Door]:
    folder, _ = _sound_state(case)
    return folder, lambda: open_people_state(folder / "people.safetensors")


Kind("people's state", _people_state).add(
    {"a pickle": put("people.safetensors", pickled), **headers("people.safetensors")}
)


def _sound_models(case: Case) -> tuple[Path, Door]:
    shop = case.trained()
    return shop / "models", _recommend(shop)


def _roll_back(case: Case) -> tuple[Path, Door]:
    models = case.trained() / "models"
    return models, lambda: (rollback(models), len(decisions(models)))


Kind("version", _sound_models).add(
    {
        "a pointer that leaves the folder": put("CURRENT", "../../../outside"),
        "a pointer that is a pickle": put("CURRENT", pickled),
    }
)
Kind("models", _roll_back).add(
    {
        "a log of decisions that is a link": link("decisions.jsonl"),
        "a log of decisions that is a hard link": hard_link("decisions.jsonl"),
        "a lock that is a link": link(".lock"),
        "a deep log of decisions": put("decisions.jsonl", DEEP_JSON + "\n"),
    },
    inert=True,
)


SOUND_TREE: dict[str, object] = {"num_leaves": 3, "num_cat": 0, "split_feature": "0 0", "threshold": "0.5 -1.5"}
SOUND_TREE |= {"decision_type": "10 10", "left_child": "1 -1", "right_child": "-2 -3", "leaf_value": "0.0 0.1 0.2"}
"""As LightGBM writes it."""

BAD_TREES: dict[str, dict[str, object]] = {
    **table("hostile_artefacts", "bad trees"),
    "a child far outside": {"right_child": f"{1 << 40} -3"},
    "a child in the memory before": {"right_child": f"{-(1 << 40)} -3"},
    "a child beyond all numbers": {"right_child": f"{1 << 70} -3"},
    "no leaf": {name: "" for name in SOUND_TREE},
}


def tree_text(**change: object) -> str:
    return "\n".join(["tree", "Tree=0", *(f"{name}={value}" for name, value in (SOUND_TREE | change).items()), ""])


def _sound_effects(case: Case) -> tuple[Path, Door]:
    """Trees of both groups; everybody is asked."""
    source = {"start": "2025-01-01", "trial": "t.csv", "people": 10, "treated": 5, "effect": 0.1}
    source |= {"effect_low": 0.0, "effect_high": 0.2}
    line = {"center": 0.0, "mean": 0.1, "slope": 1.0, "mean_error": 0.1, "slope_error": 0.1}
    values = {"format": FORMAT, "names": ["a"], "line": line, "share": 0.5, "source": source}
    values |= {"trees": [tree_text()] * 2}
    folder = case.file("effects/effects.json", json.dumps(values)).parent
    people = FeatureTable(("a",), ("a",), np.zeros((4, 1), np.float32))
    return folder, lambda: load_effects(folder).predict(people)


def _sound_trees(case: Case) -> tuple[Path, Door]:
    file = case.file("trees.json", json.dumps({"format": 2, "features": ["a"], "trees": tree_text(), "record": {}}))
    return case.folder, lambda: BoostedTrees.read(file)[0].score(np.zeros((3, 1)))


_effects = partial(edit, "effects.json")
Kind("effects", _sound_effects).add({"sound ones": _effects()}, inert=True)
Kind("effects", _sound_effects).add(
    {
        **{name: _effects(trees=[tree_text(), tree_text(**change)]) for name, change in BAD_TREES.items()},
        "no trees": _effects(trees=[]),
        "trees of one group": _effects(trees=[tree_text()]),
        "trees that are no text": _effects(trees=[7, 7]),
        "a line without an error": _effects(line={"center": 0.0, "mean": 0.1, "slope": 1.0}),
        "a share that is a text": _effects(share="x"),
        "a deep record": put("effects.json", DEEP_JSON),
    }
)
Kind("trees", _sound_trees).add({"sound ones": edit("trees.json")}, inert=True)
Kind("trees", _sound_trees).add(
    {name: edit("trees.json", trees=tree_text(**change)) for name, change in BAD_TREES.items()}
)


def _load(shop: Path, file: Path, **options: Any) -> Door:
    return _opened(shop, lambda workspace: load_file(workspace, file, "items", **options).codes)


def _tables(file: str, contents: Mapping[str, Content], *, inert: bool = False, **options: Any) -> None:
    """Name of an artefact -> content of its file."""
    for name, content in contents.items():

        def make(case: Case, content: Content = content) -> Door:
            return _load(case.shop(), case.file(f"in/{file}", content), **options)

        _add(f"table: {name}", make, inert=inert)


def _zip(*names: str, size: int = 0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"<x/>" + b"\0" * size)
    return stream.getvalue()


def _tar_gz(case: Case) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("../../outside/mark")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("items.csv")
        link.type, link.linkname = tarfile.SYMTYPE, str(case.secret_file)
        archive.addfile(link)
    return stream.getvalue()


def _numpy_objects(case: Case) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([_Mark(case.mark)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _parquet(table: Callable[[Any], Any]) -> Callable[[Case], bytes]:
    def content(_: Case) -> bytes:
        stream = io.BytesIO()
        pa.parquet.write_table(table(pa), stream, compression="zstd", row_group_size=1 << 30)
        return stream.getvalue()

    return content


def _repeated(pa: Any, text: str, rows: int) -> Any:
    """A table of few kilobytes on disk and of many rows."""
    index = pa.array(np.zeros(rows, np.int8))
    return pa.table({n: pa.DictionaryArray.from_arrays(index, pa.array([text])) for n in ("item_id", "title")})


def _damaged_parquet(at: int, count: int) -> Callable[[Case], bytes]:
    def content(case: Case) -> bytes:
        whole = bytearray(_parquet(lambda pa: pa.table({"item_id": ["a"] * 50, "title": ["b"] * 50}))(case))
        whole[len(whole) - at : len(whole) - at + count] = b"\xff" * count
        return bytes(whole)

    return content


def _pickle_in_a_cell(case: Case) -> bytes:
    return HEAD + b"a," + pickle.dumps(_Mark(case.mark), protocol=0).replace(b"\n", b" ") + b"\n"


HEAD = b"item_id,title\n"
PRICED = b"item_id,title,price,currency\na,b,"
for _name in ("csv", "json", "txt", "parquet", "csv.gz", "arrow", "npy"):
    _tables(f"items.{_name}", {f"a pickle named items.{_name}": pickled})
_tables(
    "items.csv",
    {
        "objects of numpy named .csv": _numpy_objects,
        "an archive named .csv": _zip("../../../outside/mark"),
        "a workbook with macros": _zip("[Content_Types].xml", "xl/vbaProject.bin"),
        "a workbook that unpacks to much": lambda _: _zip("xl/sheet1.xml", size=30_000_000),
        "an old workbook": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000),
        "a quoted cell of 50 MB": lambda _: HEAD + b'a,"' + b"x\n" * 25_000_000 + b'"\nb,c\n',
        "a header of ten million columns": lambda _: b"item_id,title" + b",c" * 10_000_000 + b"\na,b\n",
        "a row of ten million fields": lambda _: HEAD + b"a" + b",b" * 10_000_000 + b"\nc,d\n",
        "zero bytes": HEAD + b"a\0,b\n",
        "no text at all": bytes(range(256)) * 100,
    },
)
_tables(
    "items.csv.gz",
    {
        "a compressed pickle": lambda case: gzip.compress(pickled(case)),
        "an archive named .gz": _zip("../../../outside/mark"),
        "a tape archive named .csv.gz": _tar_gz,
        "zeros that unpack to a gigabyte": lambda _: gzip.compress(bytes(1 << 20)) * 1_000,
        "lines that unpack to a gigabyte": lambda _: gzip.compress(HEAD) + gzip.compress(b"a,b\n" * (1 << 18)) * 1_000,
        "gzip in gzip": lambda _: gzip.compress(gzip.compress(gzip.compress(bytes(1 << 24)))),
        "gzip cut off": lambda _: gzip.compress(HEAD * 1000)[:40],
    },
)
_tables(
    "items.parquet",
    {
        "columns that nest": _parquet(lambda pa: pa.table({"item_id": ["a"], "title": [["b"]]})),
        "bytes in a column": _parquet(lambda pa: pa.table({"item_id": ["a"], "title": [b"\x80\x04."]})),
        "twenty million rows in few bytes": _parquet(lambda pa: _repeated(pa, "a", 20_000_000)),
        "long texts repeated in few bytes": _parquet(lambda pa: _repeated(pa, "a" * 1_000_000, 60_000)),
        "a foot of other bytes": _damaged_parquet(60, 40),
        "a foot of endless length": _damaged_parquet(8, 4),
    },
)
_tables("items.npy", {"objects of numpy": _numpy_objects})
_tables("items.zip", {"an archive that leaves its folder": _zip("../../../outside/mark", "/etc/evil")})
_tables("items.tar.gz", {"a tape archive with a link": _tar_gz})
_tables("items.csv", {"a column map that never ends": HEAD + b"a,b\n"}, mapping="(" * 10)
_tables(
    "items.csv",
    {
        "a cell of 50 MB": lambda _: HEAD + b"a," + b"x" * 50_000_000 + b"\nb,c\n",
        "a number of a million digits": PRICED + MILLION_DIGITS.encode() + b",EUR\nc,d,1,EUR\n",
        "a number of sixty thousand digits": PRICED + b"9" * 60_000 + b",EUR\nc,d,1e999999999,EUR\ne,f,1,EUR\n",
        "an attribute nested deeply": b"item_id,title,attributes\na,b," + b"[" * 30_000 + b"]" * 30_000 + b"\nc,d,{}\n",
        "a pickle in a cell": _pickle_in_a_cell,
    },
    inert=True,
)


def _pipe(case: Case) -> Door:
    os.mkfifo(case.folder / "items.csv")
    return _load(case.shop(), case.folder / "items.csv")


_add("table: a pipe", _pipe)
_add("table: a device", lambda case: _load(case.shop(), Path("/dev/zero")))
_add("table: a folder", lambda case: _load(case.shop(), case.folder))


def _odd_ids(case: Case) -> Door:
    """They stay what they are: the store still has them all afterwards."""
    ids = [SQL, PATHS, "' OR '1'='1", "=cmd|'/c calc'!A1", "{{ 7*7 }}", "%s%n", "$(touch mark)", "`touch mark`", "CON"]
    shop, file = case.shop(), case.folder / "items.csv"
    pl.DataFrame({"item_id": ids, "title": ids}).write_csv(file)

    def work(workspace: Workspace) -> object:
        load_file(workspace, file, "items")
        with workspace.store().read() as reader:
            kept = set(reader.items()["item_id"])
        assert kept == set(ids)
        return len(kept)

    return _opened(shop, work)


_add("table: ids that are statements, paths and formulas", _odd_ids, inert=True)


def _mapped(text: str, case: Case) -> Door:
    shop, rows = case.shop(), case.file("items.csv", HEAD + b"a,b\n")
    return _load(shop, rows, mapping=str(case.file("map.toml", text)))


TABLES: dict[str, str] = {
    **table("hostile_artefacts", "tables of TOML"),
    "deep": "x = " + "[" * DEEP + "]" * DEEP,
    "deep tables": "x = " + "{a = " * DEEP + "1" + "}" * DEEP,
    "deep names": ".".join(["a"] * 20_000) + " = 1",
    "deep headers": "[" + ".".join(["a"] * 20_000) + "]",
    "a huge number": "x = " + "9" * 100_000,
}
"""TOML that lies in wait for its reader."""

MAPS = {
    **{name: TABLES[name] for name in ("deep", "deep names", "a huge number")},
    "a name twice": "[columns]\nitem_id = 'a'\nitem_id = 'b'\n",
    "a pattern that is too large": "[[reject]]\ncolumn = 'title'\nreason = 'r'\nmatches = '(a{999}){999}'\n",
    "a pattern that is none": "[[reject]]\ncolumn = 'title'\nreason = 'r'\nmatches = '('\n",
}
for _name, _text in MAPS.items():
    _add(f"column map: {_name}", partial(_mapped, _text))


def _workspace(case: Case, file: Path) -> Door:
    shop = case.shop()
    path = shop / "workspace.toml"
    path.write_text(f"{file.read_text()}\n{path.read_text()}")
    return lambda: Workspace.open(shop)


READERS: dict[str, Callable[[Case, Path], Door]] = {
    "settings": lambda case, file: lambda: read_settings_file(file),
    "workspace": _workspace,
    "campaign": lambda case, file: lambda: read_campaign(file),
    "voice": lambda case, file: lambda: voice_of(file.rename(file.with_name(VOICE_FILE)).parent),
    "pack": lambda case, file: lambda: load_pack(file),
    "rule": lambda case, file: lambda: read_rule(str(file)),
    "uploaded campaign": lambda case, file: lambda: fields_of_file(file.read_bytes()),
}
for _kind, _read in READERS.items():
    for _name, _text in TABLES.items():
        if _kind != "uploaded campaign" or _name in ("deep", "deep tables", "a huge number"):
            _add(f"{_kind}: {_name}", lambda case, read=_read, text=_text: read(case, case.file("in/file.toml", text)))


def _naming(name: str, *, limits: str = "", words: str = "", make: Spoil = lambda case, folder: None) -> None:
    """A campaign that names a file. Its ids and its packs are read, as planning does."""

    def prepare(case: Case) -> Door:
        (case.folder / "in").mkdir()
        make(case, case.folder / "in")
        text = f'id = "spring"\nchannels = ["push"]\n[target]\nitems = ["a"]\n[limits]\n{limits}\n[words]\n{words}\n'
        file = case.file("in/spring.toml", text.replace("OUTSIDE", str(case.outside)))
        return lambda: read_campaign(file).limits.suppressed_ids()

    _add(f"campaign: {name}", prepare)


for _name, _values in table("hostile_artefacts", "campaigns that name files"):
    _naming(_name, **_values)
IDS_FILE, EVIL_PACK = 'suppress = "never.txt"', f"name = '{SECRET}'\nx = 1"
_naming("a list of ids that is a link", limits=IDS_FILE, make=link("never.txt"))
_naming("a list of ids that is a pipe", limits=IDS_FILE, make=pipe("never.txt"))
_naming("a list of ids that is a pickle", limits=IDS_FILE, make=put("never.txt", pickled))
_naming("a pack outside", words='packs = ["OUTSIDE/evil.toml"]', make=put("../../outside/evil.toml", EVIL_PACK))


def _planned(read: Callable[[CampaignFolder], object]) -> Kind:
    """The folder of a planned campaign in which somebody put something else."""

    def prepare(case: Case) -> tuple[Path, Door]:
        folder = CampaignFolder.of(case.folder / "shop", "spring")
        folder.path.mkdir(parents=True)
        return folder.path, lambda: read(folder)

    return Kind("campaign's folder", prepare)


def _lock(folder: CampaignFolder) -> object:
    with folder.locked():
        return "locked"


_planned(read_plan).add(
    {
        "a plan that is a pickle": put("plan.json", pickled),
        "a deep plan": put("plan.json", DEEP_JSON),
        "a plan that is a link": link("plan.json"),
    }
)
_planned(lambda folder: list(read_log(folder.decisions))).add(
    {
        "a deep log": put("decisions.jsonl", DEEP_JSON + "\n"),
        "a log that is a pickle": put("decisions.jsonl", lambda case: pickled(case) + b"\n"),
    }
)
_planned(lambda folder: append(folder.exports, [{"at": "now"}])).add(
    {
        "a log that is a link": lambda case, folder: (folder / "exports.jsonl").symlink_to(case.mark),
        "a log that is a hard link": hard_link("exports.jsonl"),
    },
    inert=True,
)
_planned(_lock).add(
    {
        "a lock that is a link": link("../.spring.lock"),
        "an old plan that is a link": lambda case, folder: (folder / "../.spring.old").symlink_to(case.outside),
    },
    inert=True,
)


def _linked_uploads(case: Case) -> Door:
    """Sweeping old uploads would take away what lies at its end."""
    shop = case.shop()
    (case.outside / "work").mkdir()
    (case.outside / "work" / "thesis.txt").write_text("years")
    os.utime(case.outside / "work", (0, 0))
    (shop / "uploads").symlink_to(case.outside)

    return _opened(shop, sweep_uploads)


def _upload(file: str, case: Case) -> Door:
    shop = case.shop()

    def work(workspace: Workspace) -> object:
        upload = receive_upload(workspace, io.BytesIO(HEAD + b"a,b\n"), file)
        assert upload.resolve().is_relative_to(shop.resolve())
        return upload.name

    return _opened(shop, work)


_add("upload: a folder of uploads that is a link", _linked_uploads, inert=True)
for _name, _file in (table("hostile_artefacts", "names of uploads") | {"a long name": "x" * 100_000 + ".csv"}).items():
    _add(f"upload: {_name}", partial(_upload, _file), inert=True)


def _prompt(body: str, case: Case) -> Door:
    source = "{{ x }}" + body
    template = Template(
        "item", "en", case.file("prompts/item.en.txt", source), "item.en-v1-0", frozenset({"x"}), source
    )
    return lambda: len(template.render({"x": "tea"}))


for _name, _text, _ in [*table("hostile_artefacts", "prompts"), ("deep", "{{ " + "(" * 5_000 + "1" + ")" * 5_000, "")]:
    _add(f"prompt: {_name}", partial(_prompt, _text))


def _trial(file: str, content: Content, case: Case) -> Door:
    path = case.file(file, content)
    return lambda: read_trial(path).shape


for _name, _file, _content in (
    ("a pickle named .parquet", "t.parquet", pickled),
    ("an archive named .csv", "t.csv", _zip("../mark")),
    ("a foot of other bytes", "t.parquet", _damaged_parquet(60, 40)),
    ("a foot of endless length", "t.parquet", _damaged_parquet(8, 4)),
    ("nothing", "t.csv", b""),
):
    _add(f"trial: {_name}", partial(_trial, _file, _content))
