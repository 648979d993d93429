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
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fastapi.testclient import TestClient
from hostile_watch import Outcome, look
from tables import table
from tiny_encoders import edit_json, make_model, write_json

from recllm.base.errors import RecllmError
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import CampaignFolder, append, read_log, read_plan
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.webhooks import WebhookScheme, add_source
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.cache import CACHE_FILE, CachedEncoder
from recllm.text.encoder.json_cache import HASH_FILE
from recllm.text.encoder.loading import load_encoder
from recllm.text.encoder.onnx import SCHEME
from recllm.text.encoder.toy import ToyEncoder

Door = Callable[[], object]
"""Reads an artefact; what it answers is not told to anyone by itself."""

WEBHOOK_SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRET = "zzcanary_7f3a91c2"
"""Stands in a file outside of what an artefact may read."""
DEEP = 100_000
"""Levels of nesting."""


@dataclass(frozen=True)
class World:
    """What artefacts are made from: sound parts, of which each gets a copy."""

    folder: Path

    @cached_property
    def shop(self) -> Path:
        """A trained shop."""
        from service_world import build_shop

        folder = self.folder / "trained"
        folder.mkdir(parents=True)
        return build_shop(folder)

    @cached_property
    def encoder(self) -> Path:
        return make_model(self.folder / "encoder")

    @cached_property
    def causal(self) -> Path:
        """A causal model of random weights without a chat format, whose folder has a template of its own."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        alphabet = [*"abcdefghijklmnopqrstuvwxyz .,!?\n", "<s>", "</s>", "<unk>"]
        tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
        folder = self.folder / "causal"
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(folder)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), **sizes)).save_pretrained(folder)
        return folder

    @cached_property
    def _open(self) -> ExitStack:
        return ExitStack()

    @cached_property
    def client(self) -> TestClient:
        """Of a service with a console, of a shop that every request may write to."""
        from service_world import serving

        shop = Path(shutil.copytree(self.shop, self.folder / "served"))
        with Workspace.open(shop) as workspace:
            add_source(workspace, "mail", WebhookScheme.STANDARD, WEBHOOK_SECRET)
        return self._open.enter_context(serving(shop, console=True))

    def close(self) -> None:
        self._open.close()


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

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def copy(self, source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, self.folder / name))

    def pickled(self) -> bytes:
        """What leaves a mark outside as soon as it is unpickled."""
        return pickle.dumps(_Mark(str(self.outside / "mark")))

    def shop(self) -> Path:
        """An empty workspace."""
        with Workspace.create(
            self.folder / "shop", consent_default=True, currency="EUR", timezone="UTC", encoder="toy"
        ) as shop:
            shop.store()
        return self.folder / "shop"

    def trained(self) -> Path:
        return self.copy(self.world.shop, "shop")


class _Mark:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@dataclass(frozen=True)
class Artefact:
    name: str
    make: Callable[[Case], Door]
    inert: bool
    """Whether it may be read, as data without effect; others have to be refused."""

    @property
    def slow(self) -> bool:
        """Whether it takes seconds to make or to read: the measurement looks at it, the tests do not."""
        return self.name in SLOW


SLOW = frozenset({
    "table: a quoted cell of 50 MB", "table: long texts repeated in few bytes", "condition: a long chain",
    "encoder: weights with many names", "encoder: weights with length of 90 MB", "table: a cell of 50 MB",
})  # fmt: skip

ARTEFACTS: dict[str, Artefact] = {}


def _add(name: str, make: Callable[[Case], Door], *, inert: bool = False) -> None:
    assert name not in ARTEFACTS, name
    ARTEFACTS[name] = Artefact(name, make, inert)


def artefact(name: str, *, inert: bool = False) -> Callable[[Callable[[Case], Door]], Callable[[Case], Door]]:
    """A maker of one artefact."""

    def add(make: Callable[[Case], Door]) -> Callable[[Case], Door]:
        _add(name, make, inert=inert)
        return make

    return add


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
    outcomes = []
    with closing(World(root / "world")) as world:
        for name in ("adapter: a sound one", "generator: code beside the weights", "effects: sound ones"):
            look_at(ARTEFACTS[name], root / f"warm {name}", world)
        for number, item in enumerate(ARTEFACTS.values()):
            outcomes.append(look_at(item, root / f"{number}", world))
            shutil.rmtree(root / f"{number}")
    return outcomes


# --- encoders --------------------------------------------------------------------------------------------------------


def _encode(folder: Path, **options: Any) -> Door:
    return lambda: load_encoder(folder, progress=False, **options).encode(["red shoes"]).shape


def _encoder(name: str, spoil: Callable[[Case, Path], object], *, inert: bool = False) -> None:
    """A sound encoder's folder with one thing about it changed."""

    def make(case: Case) -> Door:
        folder = case.copy(case.world.encoder, "encoder")
        spoil(case, folder)
        return _encode(folder, cache_dir=case.folder / "cache")

    _add(f"encoder: {name}", make, inert=inert)


def _config(**values: Any) -> Callable[[Case, Path], object]:
    return lambda _, folder: edit_json(folder / "config.json", **values)


def _weights(content: Callable[[Case], bytes]) -> Callable[[Case, Path], object]:
    return lambda case, folder: (folder / "model.safetensors").write_bytes(content(case))


def safetensors(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    """A file of that format with whatever header, and whatever length of it."""
    return struct.pack("<Q", len(header) if size is None else size) + header + body


def _tensor(start: int, end: int, shape: list[int], kind: str = "F32") -> str:
    return json.dumps({"dtype": kind, "shape": shape, "data_offsets": [start, end]})


HEADERS: dict[str, Callable[[], bytes]] = {
    "length of 2^63": lambda: safetensors(b"{}", size=1 << 63),
    "length of all bits": lambda: safetensors(b"{}", size=(1 << 64) - 1),
    "length of 90 MB": lambda: safetensors(b"{}" + b" " * 90_000_000),
    "many names": lambda: safetensors(
        ("{" + ",".join(f'"t{n}":{_tensor(0, 0, [0])}' for n in range(50_000)) + "}").encode()
    ),
    "overlapping offsets": lambda: safetensors(
        f'{{"a":{_tensor(0, 8, [2])},"b":{_tensor(4, 12, [2])}}}'.encode(), bytes(12)
    ),
    "offsets outside": lambda: safetensors(f'{{"a":{_tensor(0, 1 << 40, [1 << 38])}}}'.encode(), bytes(8)),
    "negative offsets": lambda: safetensors(f'{{"a":{_tensor(-8, 0, [2])}}}'.encode(), bytes(8)),
    "a name twice": lambda: safetensors(f'{{"a":{_tensor(0, 8, [2])},"a":{_tensor(0, 8, [2])}}}'.encode(), bytes(8)),
    "a type that is none": lambda: safetensors(f'{{"a":{_tensor(0, 8, [2], "__reduce__")}}}'.encode(), bytes(8)),
    "a shape that overflows": lambda: safetensors(f'{{"a":{_tensor(0, 8, [1 << 40, 1 << 40])}}}'.encode(), bytes(8)),
    "deep nesting": lambda: safetensors(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "no JSON": lambda: safetensors(b"cos\nsystem\n(S'true'\ntR."),
}
"""Headers of safetensors files that lie."""

for _name, _content in HEADERS.items():
    _encoder(f"weights with {_name}", _weights(lambda _, content=_content: content()))


def _only(name: str) -> Callable[[Case, Path], object]:
    def spoil(case: Case, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(case.pickled())

    return spoil


def _spoil_links(case: Case, folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(case.secret_file)


def _spoil_module(kind: str, path: str) -> Callable[[Case, Path], object]:
    def spoil(case: Case, folder: Path) -> None:
        modules = [("sentence_transformers.models.Transformer", ""), (kind, path)]
        write_json(
            folder / "modules.json",
            [{"idx": n, "name": str(n), "path": p, "type": t} for n, (t, p) in enumerate(modules)],
        )
        case.file("encoder/evil.py", f"open({str(case.outside / 'mark')!r}, 'w')\n")

    return spoil


def _spoil_code(case: Case, folder: Path) -> None:
    """Code beside the settings that name it."""
    mark = f"open({str(case.outside / 'mark')!r}, 'w')\n"
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py", "__init__.py", "custom.py"):
        (folder / name).write_text(mark)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", custom=True)


def _spoil_tokenizer(**values: Any) -> Callable[[Case, Path], object]:
    return lambda _, folder: edit_json(folder / "tokenizer_config.json", **values)


def _regex_tokenizer(case: Case, folder: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$|(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    edit_json(folder / "tokenizer.json", pre_tokenizer=split)


_encoder("weights that are a pickle", _weights(lambda case: case.pickled()))
for _name in ("pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt", "model.joblib"):
    _encoder(f"{_name} alone", _only(_name))
_encoder(
    "a pickle beside sound weights",
    lambda case, folder: (folder / "pytorch_model.bin").write_bytes(case.pickled()),
    inert=True,
)
_encoder("auto_map", _config(auto_map={"AutoModel": "modeling_evil.EvilModel"}))
_encoder("auto_map below", _config(vision={"inner": [{"auto_map": {"AutoConfig": "evil--x.Y"}}]}))
_encoder("trust_remote_code", _config(trust_remote_code=True))
_encoder("attention from a hub", _config(_attn_implementation_internal="evil/kernel"))
_encoder("attention by another name", _config(attn_implementation="evil/kernel"))
_encoder("attention by a private name", _config(_attn_implementation="evil/kernel"))
_encoder("a model to fetch", _config(backbone_name_or_path="evil/model"))
_encoder("a model to fetch below", _config(decoder={"_name_or_path": "evil/model"}))
_encoder("a note of where it came from", _config(_name_or_path="evil/model"), inert=True)
_encoder("a type of model that runs code", _config(model_type="lightglue"))
_encoder("custom pipelines", _config(custom_pipelines={"x": {"impl": "evil.X"}}))
_encoder("deep settings", lambda _, folder: (folder / "config.json").write_text('{"a":' * DEEP + "1" + "}" * DEEP))
_encoder("large settings", lambda _, folder: (folder / "config.json").write_text('{"a":"' + "x" * (5 << 20) + '"}'))
_encoder(
    "a number of a million digits",
    lambda _, folder: (folder / "config.json").write_text('{"hidden_size":' + "9" * 1_000_000 + "}"),
)
_encoder("a billion layers", _config(num_hidden_layers=1_000_000_000))
_encoder("a trillion words", _config(vocab_size=10**12))
_encoder("a trillion positions", _config(max_position_embeddings=10**12))
_encoder("vectors of a billion numbers", _config(hidden_size=10**9))
_encoder("a settings file that is a link", _spoil_links)
_encoder("a module of one's own", _spoil_module("evil.Evil", ""))
_encoder("a module of the library that is none", _spoil_module("sentence_transformers.models.os.system", ""))
_encoder("a module outside", _spoil_module("sentence_transformers.models.Pooling", "../../outside"))
_encoder("code beside the weights", _spoil_code, inert=True)
_encoder("a tokenizer with code", _spoil_tokenizer(auto_map={"AutoTokenizer": ["evil.T", None]}))
_encoder("a tokenizer that is a pickle", lambda case, folder: (folder / "tokenizer.json").write_bytes(case.pickled()))
_encoder(
    "a deep tokenizer", lambda _, folder: (folder / "tokenizer.json").write_text('{"a":' * DEEP + "1" + "}" * DEEP)
)
_encoder("a tokenizer with a slow pattern", _regex_tokenizer, inert=True)
_encoder(
    "a template in the tokenizer",
    _spoil_tokenizer(chat_template="{{ lipsum.__globals__['os'].system('touch mark') }}"),
    inert=True,
)
_encoder(
    "a pipe in place of weights",
    lambda _, folder: ((folder / "model.safetensors").unlink(), os.mkfifo(folder / "model.safetensors")),
)
_encoder(
    "an adapter in place of a model",
    lambda _, folder: write_json(
        folder / "adapter_config.json", {"base_model_name_or_path": "evil/model", "peft_type": "LORA"}
    ),
)


# --- adapters --------------------------------------------------------------------------------------------------------


def _adapter(name: str, spoil: Callable[[Case, Path], object], *, inert: bool = False) -> None:
    """An adapter of the sound encoder with one thing about it changed."""

    def make(case: Case) -> Door:
        from safetensors.numpy import save_file

        from recllm.text.encoder.huggingface import HuggingFaceEncoder
        from recllm.text.encoder.loading import find_weights

        encoder = case.copy(case.world.encoder, "encoder")
        folder = case.folder / "adapter"
        folder.mkdir()
        tensors, rank = {}, 2
        for layer in range(2):
            block = f"base_model.model.encoder.layer.{layer}"
            sizes = {
                "attention.self.query": (32, 32),
                "attention.self.key": (32, 32),
                "attention.self.value": (32, 32),
                "attention.output.dense": (32, 32),
                "intermediate.dense": (32, 48),
                "output.dense": (48, 32),
            }
            for part, (width, height) in sizes.items():
                tensors[f"{block}.{part}.lora_A.weight"] = np.zeros((rank, width), np.float32)
                tensors[f"{block}.{part}.lora_B.weight"] = np.zeros((height, rank), np.float32)
        base = HuggingFaceEncoder(find_weights(encoder))
        record = json.dumps({"base": base.name, "base_hash": base.base_hash})
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"recllm": record})
        targets = ["query", "key", "value", "dense"]
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4.0, "target_modules": targets, "bias": "none"}
        write_json(folder / "adapter_config.json", config)
        spoil(case, folder)
        return _encode(encoder, adapter=folder, cache_dir=case.folder / "cache")

    _add(f"adapter: {name}", make, inert=inert)


def _adapter_pickle(case: Case, folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(case.pickled())


def _other_base(_: Case, folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "adapter_model.safetensors"
    record = json.dumps({"base": "other/model", "base_hash": "0" * 64})
    save_file(load_file(path), path, metadata={"recllm": record})


_adapter("a sound one", lambda case, folder: None, inert=True)
_adapter("adapter_model.bin alone", _adapter_pickle)
_adapter("weights that are a pickle", lambda case, f: (f / "adapter_model.safetensors").write_bytes(case.pickled()))
_adapter("of another model", _other_base)
_adapter(
    "that names a model to fetch",
    lambda _, f: edit_json(
        f / "adapter_config.json", base_model_name_or_path="evil/model", auto_mapping={"parent_library": "evil"}
    ),
    inert=True,
)
_adapter("of a billion ranks", lambda _, f: edit_json(f / "adapter_config.json", r=1_000_000_000))
_adapter("of a rank of many digits", lambda _, f: edit_json(f / "adapter_config.json", r="9" * 100_000))
_adapter("deep settings", lambda _, f: (f / "adapter_config.json").write_text('{"a":' * DEEP + "1" + "}" * DEEP))
_adapter("of another kind", lambda _, f: edit_json(f / "adapter_config.json", peft_type="PROMPT_TUNING"))
_adapter("of all modules", lambda _, f: edit_json(f / "adapter_config.json", target_modules=".*"))
_adapter(
    "of endless layers",
    lambda _, f: edit_json(f / "adapter_config.json", layers_to_transform=list(range(100_000))),
    inert=True,
)


# --- exported encoders -----------------------------------------------------------------------------------------------


def _onnx(name: str, model: Callable[[Case], bytes], *, inert: bool = False, **record: Any) -> None:
    """A folder whose record agrees with every file in it."""

    def make(case: Case) -> Door:
        folder = case.folder / "onnx"
        folder.mkdir()
        content, tokenizer = model(case), (case.world.encoder / "tokenizer.json").read_bytes()
        (folder / "model.onnx").write_bytes(content)
        (folder / "tokenizer.json").write_bytes(tokenizer)
        files = {"model.onnx": content, "tokenizer.json": tokenizer}
        hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        values: dict[str, Any] = {
            "scheme": SCHEME,
            "name": "m",
            "source": "s",
            "dim": 4,
            "pad": 0,
            "limit": 12,
            "lower_case": False,
            "prompts": {},
            "parity": {},
            "files": hashes,
        }
        write_json(folder / "onnx.json", values | record)
        if deep := record.get("deep"):
            (folder / "onnx.json").write_text(deep)
        return _encode(folder)

    _add(f"onnx: {name}", make, inert=inert)


def _graph(nodes: Callable[[Any], list[Any]], constants: Callable[[Any, Case], list[Any]]) -> Callable[[Case], bytes]:
    def model(case: Case) -> bytes:
        import onnx

        kind, helper = onnx.TensorProto, onnx.helper
        inputs = [helper.make_tensor_value_info(n, kind.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
        outputs = [helper.make_tensor_value_info("unit", kind.FLOAT, None)]
        graph = helper.make_graph(nodes(helper), "g", inputs, outputs, constants(onnx, case))
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
        return bytes(helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString())

    return model


def _external(location: str) -> Callable[[Any, Case], list[Any]]:
    def constants(onnx: Any, case: Case) -> list[Any]:
        (case.outside / "weights.bin").write_bytes(SECRET.encode()[:16])
        tensor = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[1, 4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        where = location.replace("OUTSIDE", str(case.outside))
        for key, value in {"location": where, "offset": "0", "length": "16"}.items():
            tensor.external_data.add(key=key, value=value)
        return [tensor]

    return constants


def _identity(helper: Any) -> list[Any]:
    return [helper.make_node("Identity", ["c"], ["unit"])]


_onnx("data outside", _graph(_identity, _external("../../outside/weights.bin")))
_onnx("data at an absolute path", _graph(_identity, _external("OUTSIDE/weights.bin")))
_onnx("data that the record does not name", _graph(_identity, _external("more.bin")))
_onnx(
    "an operator of one's own",
    _graph(lambda h: [h.make_node("Run", ["input_ids"], ["unit"], domain="evil")], lambda *_: []),
)
_onnx("a model that is a pickle", lambda case: case.pickled())
_onnx("a record with a path", lambda case: b"", files={"../../outside/secret.txt": "0" * 64})
_onnx("a deep record", lambda case: b"", deep='{"a":' * DEEP + "1" + "}" * DEEP)
_onnx("a record of other kinds", lambda case: b"", files=[1, 2], prompts=3)


# --- the cache of an encoder -----------------------------------------------------------------------------------------


def _cached(case: Case) -> Door:
    import warnings

    def ask() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged cache is told and started anew
            return CachedEncoder(ToyEncoder(), case.folder / "cache").encode(["red shoes"]).shape

    return ask


@artefact("cache: a pickle", inert=True)
def a_cache_that_is_a_pickle(case: Case) -> Door:
    case.file(f"cache/{CACHE_FILE}", case.pickled())
    return _cached(case)


@artefact("cache: a view that never ends", inert=True)
def a_cache_with_a_view_that_never_ends(case: Case) -> Door:
    (case.folder / "cache").mkdir()
    with sqlite3.connect(case.folder / "cache" / CACHE_FILE) as db:
        db.execute(
            "CREATE VIEW vector AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
            "SELECT CAST(n AS BLOB) AS key, n AS used, x'00' AS digest, x'00' AS numbers FROM r"
        )
    return _cached(case)


@artefact("cache: a link", inert=True)
def a_cache_that_is_a_link(case: Case) -> Door:
    (case.folder / "cache").mkdir()
    (case.folder / "cache" / CACHE_FILE).symlink_to(case.secret_file)
    return _cached(case)


@artefact("cache: deep hashes", inert=True)
def hashes_nested_deeply(case: Case) -> Door:
    folder = case.copy(case.world.encoder, "encoder")
    case.file(f"cache/{HASH_FILE}", "[" * DEEP + "]" * DEEP)
    return _encode(folder, cache_dir=case.folder / "cache")


@artefact("cache: hashes that are a pickle", inert=True)
def hashes_that_are_a_pickle(case: Case) -> Door:
    folder = case.copy(case.world.encoder, "encoder")
    case.file(f"cache/{HASH_FILE}", case.pickled())
    return _encode(folder, cache_dir=case.folder / "cache")


ENDLESS = "{% for n in range(99999) %}" * 3 + "{% endfor %}" * 3
"""A template that counts to a thousand million million."""


# --- generators ------------------------------------------------------------------------------------------------------


def _write(folder: Path) -> Door:
    def door() -> object:
        from recllm.text.generator.locate import find_generator

        generator = find_generator(str(folder), cache_dir=folder.parent / "unpacked")
        assert generator is not None
        return generator.generate("[system] Be short.\n[user] Name a colour.", n=1, max_tokens=2)

    return door


def _generator(name: str, spoil: Callable[[Case, Path], object], *, inert: bool = False) -> None:
    def make(case: Case) -> Door:
        folder = case.copy(case.world.causal, "causal")
        spoil(case, folder)
        return _write(folder)

    _add(f"generator: {name}", make, inert=inert)


def _template(text: str) -> Callable[[Case, Path], object]:
    def spoil(case: Case, folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text.replace("MARK", str(case.outside / "mark")))

    return spoil


def _of_template(name: str, text: str) -> None:
    """It is a program, and not run: the model reads the turns as they are."""
    _generator(f"a template that {name}", _template(text), inert=True)


_generator("weights that are a pickle", _weights(lambda case: case.pickled()))
_generator("pytorch_model.bin alone", _only("pytorch_model.bin"))
_generator("auto_map", _config(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}))
_generator("attention from a hub", _config(attn_implementation="evil/kernel"))
_generator("a model to fetch", _config(draft={"_name_or_path": "evil/model"}))
_generator("a model to fetch by another name", _config(text_encoder_name_or_path="evil/model"))
_generator("a tokenizer with code", _spoil_tokenizer(auto_map={"AutoTokenizer": ["evil.T", None]}))
_generator("code beside the weights", _spoil_code, inert=True)
for _name, _text in table("hostile_artefacts", "templates"):
    _of_template(_name, _text)
_generator("deep settings", lambda _, f: (f / "config.json").write_text('{"a":' * DEEP + "1" + "}" * DEEP))
_generator("a billion layers", _config(num_hidden_layers=1_000_000_000))
_generator("a settings file that is a link", _spoil_links)
for _name, _content in HEADERS.items():
    if _name in ("length of 2^63", "offsets outside", "deep nesting"):
        _generator(f"weights with {_name}", _weights(lambda _, content=_content: content()))


def _gguf(name: str, content: Callable[[Case], bytes]) -> None:
    _add(f"gguf: {name}", lambda case: _write(case.file("model.gguf", content(case))))


def _gguf_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(*pairs: bytes, n_tensors: int = 0, n_pairs: int | None = None, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, len(pairs) if n_pairs is None else n_pairs)
    return head + b"".join(pairs)


def _gguf_string(key: str, value: str) -> bytes:
    return _gguf_text(key) + struct.pack("<I", 8) + _gguf_text(value)


_EVIL_TEMPLATE = "{{ lipsum.__globals__['os'].system('touch MARK') }}"
_gguf(
    "a template that runs code",
    lambda case: gguf(
        _gguf_string("general.architecture", "llama"),
        _gguf_string("tokenizer.ggml.model", "gpt2"),
        _gguf_string("tokenizer.chat_template", _EVIL_TEMPLATE.replace("MARK", str(case.outside / "mark"))),
    ),
)
_gguf("a pickle", lambda case: case.pickled())
_gguf("a pickle behind the magic", lambda case: b"GGUF" + case.pickled())
_gguf("endless pairs", lambda _: gguf(_gguf_string("a", "b"), n_pairs=1 << 62))
_gguf("endless tensors", lambda _: gguf(_gguf_string("general.architecture", "llama"), n_tensors=1 << 62))
_gguf("a text of endless length", lambda _: gguf(struct.pack("<Q", 1 << 62) + b"x"))
_gguf("a list of endless length", lambda _: gguf(_gguf_text("a") + struct.pack("<IIQ", 9, 4, 1 << 60)))
_gguf("lists in lists", lambda _: gguf(_gguf_text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * DEEP))
_gguf("a type that is none", lambda _: gguf(_gguf_text("a") + struct.pack("<I", 77) + bytes(64)))
_gguf("a version that is none", lambda _: gguf(version=9_999))
_gguf(
    "an alignment of nothing",
    lambda _: gguf(
        _gguf_text("general.alignment") + struct.pack("<II", 4, 0),
        _gguf_string("general.architecture", "llama"),
        n_tensors=1,
    ),
)
_gguf("nothing", lambda _: b"")
_gguf("half a head", lambda _: b"GGUF\x03\x00")


# --- published models ------------------------------------------------------------------------------------------------


def _sealed(folder: Path) -> None:
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


def _recommend(shop: Path) -> Door:
    def door() -> object:
        from recllm.recommend.recommender.shop_recommender import open_recommender

        with Workspace.open(shop) as workspace:
            recommender = open_recommender(workspace)
            return recommender.recommend(workspace.pseudonymiser().one("u01"), k=3)[0].degraded_reason

    return door


def _version(name: str, spoil: Callable[[Case, Path], object], *, inert: bool = False, seal: bool = True) -> None:
    """A published version in which somebody changed a file, and by `seal` the manifest as well."""

    def make(case: Case) -> Door:
        from recllm.recommend.recommender.registry import current

        shop = case.trained()
        folder = shop / "models" / "versions" / str(current(shop / "models"))
        spoil(case, folder)
        if seal:
            _sealed(folder)
        return _recommend(shop)

    _add(f"version: {name}", make, inert=inert)


for _name in ("scorer.safetensors", "model.json", "scorer.json", "manifest.json"):
    _version(
        f"{_name} is a pickle",
        lambda case, folder, name=_name: (folder / name).write_bytes(case.pickled()),
        seal=_name != "manifest.json",
    )
for _name in ("model.json", "scorer.json", "manifest.json"):
    _version(
        f"{_name} is deep",
        lambda _, folder, name=_name: (folder / name).write_text('{"a":' * DEEP + "1" + "}" * DEEP),
        seal=_name != "manifest.json",
    )
for _name in ("extra.pkl", "extra.bin", "extra.npy", "extra.joblib", "extra.py", "extra.so"):
    _version(f"{_name} was added", lambda case, folder, name=_name: (folder / name).write_bytes(case.pickled()))
_version("a pickle named notes.txt", lambda case, f: (f / "notes.txt").write_bytes(case.pickled()), inert=True)
_version("a link to a file outside", lambda case, f: (f / "extra.json").symlink_to(case.secret_file))
_version("a link to a folder outside", lambda case, f: (f / "adapter").symlink_to(case.outside), seal=False)
_version("a hard link to a file outside", lambda case, f: (f / "extra.json").hardlink_to(case.secret_file), inert=True)


def _state(name: str, spoil: Callable[[Case, Path], object]) -> None:
    """A serving state in which somebody changed a file of the catalogue, and the checksum of its items as well."""

    def make(case: Case) -> Door:
        shop = case.trained()
        for folder in (shop / "serving").glob("*.*"):
            spoil(case, folder)
            catalogue = folder / "serving.safetensors"
            content, checksum = catalogue.read_bytes(), zlib.crc32((folder / "items.arrow").read_bytes())
            stated = f'"items_crc32": "{checksum:010d}"'.encode()
            catalogue.write_bytes(re.sub(rb'"items_crc32": "\d+"', stated, content))
        return _recommend(shop)

    _add(f"state: {name}", make)


for _name in ("serving.safetensors", "items.arrow"):
    _state(f"{_name} is a pickle", lambda case, folder, name=_name: (folder / name).write_bytes(case.pickled()))
for _name, _content in HEADERS.items():
    if "90 MB" not in _name:
        _state(
            f"a catalogue with {_name}",
            lambda _, folder, content=_content: (folder / "serving.safetensors").write_bytes(content()),
        )


def _hostile_arrow(case: Case, folder: Path) -> None:
    """Metadata that claims to be Python's, and a column of another kind."""
    import pyarrow as pa

    table = pa.ipc.open_file(folder / "items.arrow").read_all()
    marks = {b"pandas": case.pickled(), b"ARROW:extension:name": b"arrow.py_extension_type"}
    field = pa.field("item_id", pa.binary(), metadata={**marks, b"ARROW:extension:metadata": case.pickled()})
    column = table.column("item_id").cast(pa.string()).cast(pa.binary())
    table = table.set_column(table.schema.get_field_index("item_id"), field, column).replace_schema_metadata(marks)
    with pa.OSFile(str(folder / "items.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


_state("items.arrow with hostile metadata", _hostile_arrow)
_state("items.arrow cut off", lambda _, f: (f / "items.arrow").write_bytes((f / "items.arrow").read_bytes()[:400]))
_state(
    "items.arrow with wrong bytes",
    lambda _, f: (f / "items.arrow").write_bytes((f / "items.arrow").read_bytes()[:-300] + b"\xff" * 300),
)


def _pointer(text: str | bytes) -> Callable[[Case], Door]:
    def make(case: Case) -> Door:
        shop = case.trained()
        (shop / "models" / "CURRENT").write_bytes(text if isinstance(text, bytes) else text.encode())
        return _recommend(shop)

    return make


_add("version: a pointer that leaves the folder", _pointer("../../../outside"))
_add("version: a pointer that is a pickle", lambda case: _pointer(case.pickled())(case))


def _roll_back(spoil: Callable[[Case, Path], object]) -> Callable[[Case], Door]:
    def make(case: Case) -> Door:
        shop = case.trained()
        spoil(case, shop / "models")

        def door() -> object:
            from recllm.recommend.recommender.registry import decisions, rollback

            return rollback(shop / "models"), len(decisions(shop / "models"))

        return door

    return make


def _linked_log(case: Case, models: Path) -> None:
    (models / "decisions.jsonl").unlink()
    (models / "decisions.jsonl").symlink_to(case.secret_file)


def _hard_linked_log(case: Case, models: Path) -> None:
    (models / "decisions.jsonl").unlink()
    (models / "decisions.jsonl").hardlink_to(case.secret_file)


def _linked_lock(case: Case, models: Path) -> None:
    (models / ".lock").unlink(missing_ok=True)
    (models / ".lock").symlink_to(case.secret_file)


_add("models: a log of decisions that is a link", _roll_back(_linked_log), inert=True)
_add("models: a log of decisions that is a hard link", _roll_back(_hard_linked_log), inert=True)
_add("models: a lock that is a link", _roll_back(_linked_lock), inert=True)
_add(
    "models: a deep log of decisions",
    _roll_back(lambda _, models: (models / "decisions.jsonl").write_text('{"a":' * DEEP + "1" + "}" * DEEP + "\n")),
    inert=True,
)


def _people_state(name: str, content: Callable[[Case], bytes]) -> None:
    def make(case: Case) -> Door:
        shop = case.trained()
        for path in (shop / "serving").glob("*/people.safetensors"):
            path.write_bytes(content(case))
        from recllm.recommend.recommender.serving_state import open_people_state

        return lambda: [open_people_state(path) for path in (shop / "serving").glob("*/people.safetensors")]

    _add(f"people's state: {name}", make)


_people_state("a pickle", lambda case: case.pickled())
for _name, _content in HEADERS.items():
    if "90 MB" not in _name:
        _people_state(_name, lambda _, content=_content: content())


# --- learned effects and trees ---------------------------------------------------------------------------------------


SOUND_TREE: dict[str, object] = {
    "num_leaves": 3,
    "num_cat": 0,
    "split_feature": "0 0",
    "threshold": "0.5 -1.5",
    "decision_type": "10 10",
    "left_child": "1 -1",
    "right_child": "-2 -3",
    "leaf_value": "0.0 0.1 0.2",
}
"""As LightGBM writes it."""

BAD_TREES: dict[str, dict[str, object]] = {
    "a node that is its own child": {"left_child": "0 -1"},
    "a branch that leads back": {"right_child": "-2 0"},
    "a child far outside": {"right_child": f"{1 << 40} -3"},
    "a child in the memory before": {"right_child": f"{-(1 << 40)} -3"},
    "a child beyond all numbers": {"right_child": f"{1 << 70} -3"},
    "a column outside": {"split_feature": "7 0"},
    "a column before the first": {"split_feature": "-5 0"},
    "categories that are nowhere": {"decision_type": "1 1", "num_cat": 1},
    "lists of other lengths": {"leaf_value": "0.0 0.1"},
    "lists of texts": {"left_child": "a b"},
    "fractions in place of numbers of nodes": {"left_child": "1.5 -1"},
    "values that are no numbers": {"leaf_value": "nan 0.1 0.2"},
    "no leaf": {name: "" for name in SOUND_TREE},
    "a field twice": {"leaf_value": "0.0 0.1 0.2\nright_child=9 9"},
}


def tree_text(tree: dict[str, object]) -> str:
    return "\n".join(["tree", "Tree=0", *(f"{name}={value}" for name, value in tree.items()), ""])


def _effects(
    name: str, *, inert: bool = False, text: str = "", tree: dict[str, object] | None = None, **record: Any
) -> None:
    """Effects of two groups of trees, one thing about them changed; everybody is asked."""

    def make(case: Case) -> Door:
        from recllm.market.propensity.effects import FORMAT

        folder = case.folder / "effects"
        folder.mkdir()
        source = {"start": "2025-01-01", "trial": "t.csv", "people": 10, "treated": 5, "effect": 0.1}
        source |= {"effect_low": 0.0, "effect_high": 0.2, "binary": True}
        values = {"format": FORMAT, "names": ["a"], "columns": [0], "scale": 1.0, "bias": 0.0, "share": 0.5}
        trees = tree_text(SOUND_TREE | (tree or {}))
        values |= {"source": source, "trees": [[tree_text(SOUND_TREE), trees]] * 2}
        (folder / "effects.json").write_text(text or json.dumps(values | record))

        def door() -> object:
            from recllm.market.propensity.effects import load_effects
            from recllm.market.propensity.features import FeatureTable

            effects = load_effects(folder)
            return effects.predict(FeatureTable(("a",), ("a",), np.zeros((4, 1), np.float32)))

        return door

    _add(f"effects: {name}", make, inert=inert)


_effects("sound ones", inert=True)
for _name, _change in BAD_TREES.items():
    _effects(_name, tree=_change)
_effects("no trees", trees=[])
_effects("one group, of which no error can be measured", trees=[[tree_text(SOUND_TREE)] * 2])
_effects("trees that are no text", trees=[[7, 7]] * 2)
_effects("columns without end", columns=[0] * 100_000 + [9])
_effects("a scale that is a text", scale="x")
_effects("a deep record", text='{"a":' * DEEP + "1" + "}" * DEEP)


def _boosted(name: str, **change: Any) -> None:
    def make(case: Case) -> Door:
        tree = SOUND_TREE | change
        file = case.file(
            "trees.json",
            json.dumps({"format": 2, "features": ["a"], "trees": tree_text(tree), "record": {}}).encode(),
        )

        def door() -> object:
            from recllm.learn.models.trees import BoostedTrees

            return BoostedTrees.read(file)[0].score(np.zeros((3, 1)))

        return door

    _add(f"trees: {name}", make, inert=not change)


_boosted("sound ones")
for _name, _change in BAD_TREES.items():
    _boosted(_name, **_change)


# --- tables of a shop ------------------------------------------------------------------------------------------------


def _ingest(
    name: str,
    file: str,
    content: Callable[[Case], bytes],
    *,
    table: str = "items",
    inert: bool = False,
    **options: Any,
) -> None:
    def make(case: Case) -> Door:
        shop, path = case.shop(), case.file(f"in/{file}", content(case))

        def door() -> object:
            with Workspace.open(shop) as workspace:
                return load_file(workspace, path, table, **options).codes

        return door

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
    np.save(stream, np.array([_Mark(str(case.outside / "mark"))], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _parquet(table: Callable[[Any], Any]) -> Callable[[Case], bytes]:
    def content(_: Case) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet

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
        for position in range(len(whole) - at, len(whole) - at + count):
            whole[position] = 0xFF
        return bytes(whole)

    return content


HEAD = b"item_id,title\n"
for _name in ("items.csv", "items.json", "items.txt", "items.parquet", "items.csv.gz", "items.arrow", "items.npy"):
    _ingest(f"a pickle named {_name}", _name, lambda case: case.pickled())
_ingest("a compressed pickle", "items.csv.gz", lambda case: gzip.compress(case.pickled()))
_ingest("objects of numpy", "items.npy", _numpy_objects)
_ingest("objects of numpy named .csv", "items.csv", _numpy_objects)
_ingest("an archive that leaves its folder", "items.zip", lambda _: _zip("../../../outside/mark", "/etc/evil"))
_ingest("an archive named .csv", "items.csv", lambda _: _zip("../../../outside/mark"))
_ingest("an archive named .gz", "items.csv.gz", lambda _: _zip("../../../outside/mark"))
_ingest("a tape archive with a link", "items.tar.gz", _tar_gz)
_ingest("a tape archive named .csv.gz", "items.csv.gz", _tar_gz)
_ingest("a workbook with macros", "items.csv", lambda _: _zip("[Content_Types].xml", "xl/vbaProject.bin"))
_ingest("a workbook that unpacks to much", "items.csv", lambda _: _zip("xl/sheet1.xml", size=30_000_000))
_ingest("an old workbook", "items.csv", lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000))
_ingest(
    "zeros that unpack to a gigabyte",
    "items.csv.gz",
    lambda _: b"".join(gzip.compress(bytes(1 << 20)) * 1_000 for _ in range(1)),
)
_ingest(
    "lines that unpack to a gigabyte",
    "items.csv.gz",
    lambda _: gzip.compress(HEAD) + gzip.compress(b"a,b\n" * (1 << 18)) * 1_000,
)
_ingest("gzip in gzip", "items.csv.gz", lambda _: gzip.compress(gzip.compress(gzip.compress(bytes(1 << 24)))))
_ingest("gzip cut off", "items.csv.gz", lambda _: gzip.compress(HEAD * 1000)[:40])
_ingest("a cell of 50 MB", "items.csv", lambda _: HEAD + b"a," + b"x" * 50_000_000 + b"\nb,c\n", inert=True)
_ingest("a quoted cell of 50 MB", "items.csv", lambda _: HEAD + b'a,"' + b"x\n" * 25_000_000 + b'"\nb,c\n')
_ingest("a header of ten million columns", "items.csv", lambda _: b"item_id,title" + b",c" * 10_000_000 + b"\na,b\n")
_ingest("a row of ten million fields", "items.csv", lambda _: HEAD + b"a" + b",b" * 10_000_000 + b"\nc,d\n")
_ingest(
    "a number of a million digits",
    "items.csv",
    lambda _: b"item_id,title,price,currency\na,b," + b"9" * 1_000_000 + b",EUR\nc,d,1,EUR\n",
    inert=True,
)
_ingest(
    "a number of sixty thousand digits",
    "items.csv",
    lambda _: b"item_id,title,price,currency\na,b," + b"9" * 60_000 + b",EUR\nc,d,1e999999999,EUR\ne,f,1,EUR\n",
    inert=True,
)
_ingest(
    "an attribute nested deeply",
    "items.csv",
    lambda _: b"item_id,title,attributes\na,b," + b"[" * 30_000 + b"]" * 30_000 + b"\nc,d,{}\n",
    inert=True,
)
_ingest(
    "JSON nested deeply",
    "items.jsonl",
    lambda _: b'{"item_id":"a","title":' + b"[" * DEEP + b"]" * DEEP + b'}\n{"item_id":"b","title":"c"}\n',
)
_ingest("JSON with a name twice", "items.jsonl", lambda _: b'{"item_id":"a","item_id":"b","title":"t"}\n')
_ingest("JSON with NaN", "items.jsonl", lambda _: b'{"item_id":"a","title":"t","price":NaN}\n')
_ingest("JSON with half a character", "items.jsonl", lambda _: b'{"item_id":"a","title":"\\ud800"}\n')
_ingest(
    "JSON with a number of a million digits",
    "items.jsonl",
    lambda _: b'{"item_id":"a","title":"t","price":' + b"9" * 1_000_000 + b'}\n{"item_id":"b","title":"t"}\n',
    inert=True,
)
_ingest(
    "JSON with a hundred thousand names",
    "items.jsonl",
    lambda _: json.dumps({"item_id": "a", "title": "t"} | {f"k{n}": n for n in range(100_000)}).encode() + b"\n",
)
_ingest("JSON that is one list", "items.json", lambda _: b"[" * DEEP)
_ingest("zero bytes", "items.csv", lambda _: HEAD + b"a\0,b\n")
_ingest("no text at all", "items.csv", lambda _: bytes(range(256)) * 100)
_ingest(
    "a pickle in a cell",
    "items.csv",
    lambda case: (
        HEAD + b"a," + pickle.dumps(_Mark(str(case.outside / "mark")), protocol=0).replace(b"\n", b" ") + b"\n"
    ),
    inert=True,
)
_ingest("columns that nest", "items.parquet", _parquet(lambda pa: pa.table({"item_id": ["a"], "title": [["b"]]})))
_ingest(
    "bytes in a column", "items.parquet", _parquet(lambda pa: pa.table({"item_id": ["a"], "title": [b"\x80\x04."]}))
)
_ingest("twenty million rows in few bytes", "items.parquet", _parquet(lambda pa: _repeated(pa, "a", 20_000_000)))
_ingest(
    "long texts repeated in few bytes", "items.parquet", _parquet(lambda pa: _repeated(pa, "a" * 1_000_000, 60_000))
)
_ingest("a foot of other bytes", "items.parquet", _damaged_parquet(60, 40))
_ingest("a foot of endless length", "items.parquet", _damaged_parquet(8, 4))
_ingest("a column map that never ends", "items.csv", lambda _: HEAD + b"a,b\n", mapping="(" * 10)


@artefact("table: a pipe")
def a_table_that_is_a_pipe(case: Case) -> Door:
    shop = case.shop()
    os.mkfifo(case.folder / "items.csv")
    return _load(shop, case.folder / "items.csv")


@artefact("table: a device")
def a_table_that_is_a_device(case: Case) -> Door:
    return _load(case.shop(), Path("/dev/zero"))


@artefact("table: a folder")
def a_table_that_is_a_folder(case: Case) -> Door:
    return _load(case.shop(), case.folder)


def _load(shop: Path, file: Path, **options: Any) -> Door:
    def door() -> object:
        with Workspace.open(shop) as workspace:
            return load_file(workspace, file, "items", **options).codes

    return door


SQL = "'; DROP TABLE items; --"
PATHS = "../../outside/mark"


@artefact("table: ids that are statements, paths and formulas", inert=True)
def ids_that_are_statements_paths_and_formulas(case: Case) -> Door:
    """They stay what they are: the store still has them all afterwards."""
    ids = [SQL, PATHS, "' OR '1'='1", "=cmd|'/c calc'!A1", "{{ 7*7 }}", "%s%n", "$(touch mark)", "`touch mark`", "CON"]
    shop = case.shop()
    file = case.folder / "items.csv"
    pl.DataFrame({"item_id": ids, "title": ids}).write_csv(file)

    def door() -> object:
        with Workspace.open(shop) as workspace:
            load_file(workspace, file, "items")
            with workspace.store().read() as reader:
                kept = set(reader.items()["item_id"])
        assert kept == set(ids)
        return len(kept)

    return door


def _map(name: str, text: str) -> None:
    def make(case: Case) -> Door:
        shop, rows = case.shop(), case.file("items.csv", HEAD + b"a,b\n")
        return _load(shop, rows, mapping=str(case.file("map.toml", text)))

    _add(f"column map: {name}", make)


_map("deep", "x = " + "[" * DEEP + "]" * DEEP)
_map("deep names", ".".join(["a"] * 20_000) + " = 1")
_map("a huge number", "x = " + "9" * 100_000)
_map("a name twice", "[columns]\nitem_id = 'a'\nitem_id = 'b'\n")
_map("a pattern that is too large", "[[reject]]\ncolumn = 'title'\nreason = 'r'\nmatches = '(a{999}){999}'\n")
_map("a pattern that is none", "[[reject]]\ncolumn = 'title'\nreason = 'r'\nmatches = '('\n")


# --- settings and campaigns ------------------------------------------------------------------------------------------

TABLES: dict[str, str] = {
    "deep": "x = " + "[" * DEEP + "]" * DEEP,
    "deep tables": "x = " + "{a = " * DEEP + "1" + "}" * DEEP,
    "deep names": ".".join(["a"] * 20_000) + " = 1",
    "deep headers": "[" + ".".join(["a"] * 20_000) + "]",
    "a huge number": "x = " + "9" * 100_000,
    "a huge date": "x = 99999-99-99T99:99:99Z",
    "a name twice": "x = 1\nx = 2",
    "a table twice": "[x]\n[x]",
    "a zero byte": "x = 'a\0b'",
    "no TOML": "x = ",
    "a pickle": "cos\nsystem\n(S'true'\ntR.",
}
"""TOML that lies in wait for its reader."""


def _toml(kind: str, read: Callable[[Case, Path], Door]) -> None:
    for name, text in TABLES.items():
        _add(f"{kind}: {name}", lambda case, text=text: read(case, case.file("in/file.toml", text)))


def _settings(case: Case, file: Path) -> Door:
    from recllm.base.settings import read_settings_file

    return lambda: read_settings_file(file)


def _workspace(case: Case, file: Path) -> Door:
    shop = case.shop()
    path = shop / "workspace.toml"
    path.write_text(f"{file.read_text()}\n{path.read_text()}")
    return lambda: Workspace.open(shop)


def _campaign(case: Case, file: Path) -> Door:
    return lambda: read_campaign(file)


def _voice(case: Case, file: Path) -> Door:
    from recllm.market.adcopy.request import load_voice

    return lambda: load_voice(file)


def _pack(case: Case, file: Path) -> Door:
    from recllm.market.adcopy.packs import load_pack

    return lambda: load_pack(file)


def _rule(case: Case, file: Path) -> Door:
    from recllm.market.audiences.people_rule import read_rule

    return lambda: read_rule(str(file))


def _fields(case: Case, file: Path) -> Door:
    from recllm.doors.console.campaign_fields import fields_of_file

    return lambda: fields_of_file(file.read_bytes())


for _kind, _read in {
    "settings": _settings,
    "workspace": _workspace,
    "campaign": _campaign,
    "voice": _voice,
    "pack": _pack,
    "rule": _rule,
}.items():
    _toml(_kind, _read)
for _name in ("deep", "deep tables", "a huge number"):
    _add(f"uploaded campaign: {_name}", lambda case, text=TABLES[_name]: _fields(case, case.file("c.toml", text)))

CAMPAIGN = """\
id = "spring"
channels = ["push"]
[target]
items = ["a"]
[limits]
{limits}
[words]
{words}
"""


def _named(name: str, *, limits: str = "", words: str = "", make: Callable[[Case], object] | None = None) -> None:
    """A campaign that names a file. Its ids and its packs are read, as planning does."""

    def spoil(case: Case) -> Door:
        (case.folder / "in").mkdir()
        if make is not None:
            make(case)
        text = CAMPAIGN.format(limits=limits, words=words).replace("OUTSIDE", str(case.outside))
        file = case.file("in/spring.toml", text)

        def door() -> object:
            campaign = read_campaign(file)
            return campaign.limits.suppressed_ids()

        return door

    _add(f"campaign: {name}", spoil)


for _name, _values in table("hostile_artefacts", "campaigns that name files"):
    _named(_name, **_values)
_named(
    "a list of ids that is a link",
    limits='suppress = "never.txt"',
    make=lambda case: (case.folder / "in" / "never.txt").symlink_to(case.secret_file),
)
_named(
    "a list of ids that is a pipe",
    limits='suppress = "never.txt"',
    make=lambda case: os.mkfifo(case.folder / "in" / "never.txt"),
)
_named(
    "a list of ids that is a pickle",
    limits='suppress = "never.txt"',
    make=lambda case: case.file("in/never.txt", case.pickled()),
)
_named(
    "a pack outside",
    words='packs = ["OUTSIDE/evil.toml"]',
    make=lambda case: (case.outside / "evil.toml").write_text(f"name = '{SECRET}'\nx = 1"),
)


def _campaign_files(
    name: str,
    spoil: Callable[[Case, CampaignFolder], object],
    door: Callable[[CampaignFolder], object],
    *,
    inert: bool = False,
) -> None:
    """The folder of a planned campaign in which somebody put something else."""

    def make(case: Case) -> Door:
        folder = CampaignFolder.of(case.folder / "shop", "spring")
        folder.path.mkdir(parents=True)
        spoil(case, folder)
        return lambda: door(folder)

    _add(f"campaign's folder: {name}", make, inert=inert)


def _lock_door(folder: CampaignFolder) -> object:
    with folder.locked():
        return "locked"


_campaign_files("a plan that is a pickle", lambda case, f: f.plan.write_bytes(case.pickled()), read_plan)
_campaign_files("a deep plan", lambda _, f: f.plan.write_text('{"a":' * DEEP + "1" + "}" * DEEP), read_plan)
_campaign_files("a plan that is a link", lambda case, f: f.plan.symlink_to(case.secret_file), read_plan)
_campaign_files(
    "a deep log",
    lambda _, f: f.decisions.write_text('{"a":' * DEEP + "1" + "}" * DEEP + "\n"),
    lambda f: list(read_log(f.decisions)),
)
_campaign_files(
    "a log that is a pickle",
    lambda case, f: f.decisions.write_bytes(case.pickled() + b"\n"),
    lambda f: list(read_log(f.decisions)),
)
_campaign_files(
    "a log that is a link",
    lambda case, f: f.exports.symlink_to(case.outside / "mark"),
    lambda f: append(f.exports, [{"at": "now"}]),
    inert=True,
)
_campaign_files(
    "a log that is a hard link",
    lambda case, f: ((case.outside / "log").write_bytes(b""), f.exports.hardlink_to(case.outside / "log")),
    lambda f: append(f.exports, [{"at": "now"}]),
    inert=True,
)
_campaign_files(
    "a lock that is a link",
    lambda case, f: f.path.with_name(".spring.lock").symlink_to(case.secret_file),
    _lock_door,
    inert=True,
)
_campaign_files("an old plan that is a link", lambda case, f: f.old.symlink_to(case.outside), _lock_door, inert=True)


@artefact("upload: a folder of uploads that is a link", inert=True)
def a_workspace_whose_uploads_are_a_link(case: Case) -> Door:
    """Sweeping old uploads would take away what lies at its end."""
    from recllm.doors.console.loads import sweep_uploads

    shop = case.shop()
    (case.outside / "work").mkdir()
    (case.outside / "work" / "thesis.txt").write_text("years")
    os.utime(case.outside / "work", (0, 0))
    (shop / "uploads").symlink_to(case.outside)

    def door() -> object:
        with Workspace.open(shop) as workspace:
            sweep_uploads(workspace)

    return door


def _upload(name: str, file: str) -> None:
    def make(case: Case) -> Door:
        from recllm.doors.console.loads import receive_upload

        shop = case.shop()

        def door() -> object:
            with Workspace.open(shop) as workspace:
                upload = receive_upload(workspace, io.BytesIO(b"item_id,title\na,b\n"), file)
                assert upload.path.resolve().is_relative_to(shop.resolve())
                return upload.name

        return door

    _add(f"upload: {name}", make, inert=True)


_upload("a name that leaves the folder", "../../../outside/mark")
_upload("a name with turned strokes", "..\\..\\outside\\mark")
_upload("an absolute name", "/etc/evil.csv")
_upload("a name of a device", "CON")
_upload("a name with a zero byte", "a\0.csv")
_upload("a long name", "x" * 100_000 + ".csv")
_upload("the name of its own record", "upload.json")
_upload("half a character in a name", "\ud800.csv")
_upload("only dots", "....")


# --- prompts, trials, texts to be checked ----------------------------------------------------------------------------


def _prompt(name: str, body: str, *, head: str = "variables: x") -> None:
    def make(case: Case) -> Door:
        from recllm.text.templates import Prompts

        mark = str(case.outside / "mark")
        text = f"{{#\ntemplate: item\nversion: 1\n{head}\n#}}\n{{{{ x }}}}{body.replace('MARK', mark)}\n"
        case.file("prompts/item.en.txt", text)
        return lambda: len(Prompts.load(case.folder / "prompts").render("item", "en", x="tea"))

    _add(f"prompt: {name}", make)


for _name, _text, _head in table("hostile_artefacts", "prompts"):
    _prompt(_name, _text, head=_head)
_prompt("deep", "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}")


def _trial(name: str, file: str, content: Callable[[Case], bytes]) -> None:
    def make(case: Case) -> Door:
        from recllm.market.propensity.trial import read_trial_table

        path = case.file(file, content(case))
        return lambda: read_trial_table(path).shape

    _add(f"trial: {name}", make)


_trial("a pickle named .parquet", "t.parquet", lambda case: case.pickled())
_trial("an archive named .csv", "t.csv", lambda _: _zip("../mark"))
_trial("a foot of other bytes", "t.parquet", _damaged_parquet(60, 40))
_trial("a foot of endless length", "t.parquet", _damaged_parquet(8, 4))
_trial("nothing", "t.csv", lambda _: b"")


def _submitted(name: str, line: bytes) -> None:
    def make(case: Case) -> Door:
        from recllm.market.adcopy.submissions import read_submissions

        path = case.file("texts.jsonl", line)
        return lambda: [type(entry).__name__ for entry in read_submissions(path, now=datetime(2025, 1, 1, tzinfo=UTC))]

    _add(f"texts: {name}", make, inert=True)


_submitted("deep", b'{"id":' + b"[" * DEEP + b"]" * DEEP + b"}\n")
_submitted("a number of a million digits", b'{"id": "a", "text": "t", "item": {"price": ' + b"9" * 1_000_000 + b"}}\n")
_submitted(
    "half a character", b'{"id": "a", "text": "\\ud800", "channel": "push", "locale": "en", "item": {"title": "x"}}\n'
)
_submitted(
    "a price that is none",
    b'{"id": "a", "text": "t", "channel": "push", "locale": "en", "item": {"title": "x", "price": 1e999999999}}\n',
)


# --- the service -----------------------------------------------------------------------------------------------------


class RefusedRequestError(RecllmError):
    """A request that was answered with a status of the client's fault."""


def _request(name: str, method: str, path: str, *, inert: bool = False, **sent: Any) -> None:
    """A request to the service; what it answers with is neither a fault of its own nor the secret."""

    def make(case: Case) -> Door:
        client = case.world.client
        options = {key: value(case) if callable(value) else value for key, value in sent.items()}

        def door() -> object:
            answer = client.request(method, path, follow_redirects=False, **options)
            if answer.status_code >= 500:
                raise AssertionError(f"{answer.status_code} {answer.text[:300]}")
            if answer.status_code >= 400:
                raise RefusedRequestError(f"{answer.status_code} {answer.text[:15_000]}")
            return f"{answer.status_code} {answer.text[:15_000]}"

        return door

    _add(f"service: {name}", make, inert=inert)


JSON = {"Content-Type": "application/json"}


def _body(name: str, path: str, body: str | bytes, *, inert: bool = False) -> None:
    content = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    _request(name, "POST", path, content=content, headers=JSON, inert=inert)


_body("deep events", "/v1/events", '{"events":' + "[" * DEEP + "]" * DEEP + "}")
_body("deep objects", "/v1/events", '{"events":' * DEEP + "1" + "}" * DEEP)
_body("a number of a million digits", "/v1/recommend", '{"user_id": "u01", "k": ' + "9" * 1_000_000 + "}")
for _name, _path, _content, _inert in table("hostile_artefacts", "bodies"):
    _body(_name, _path, _content if isinstance(_content, str) else json.dumps(_content), inert=_inert)
_body("bytes that are no UTF-8", "/v1/recommend", b'{"user_id": "\xff\xfe"}')
_body("a pickle", "/v1/events", pickle.dumps({"events": []}))
_body("eleven megabytes", "/v1/events", b'{"events": ["' + b"x" * (11 << 20) + b'"]}')
_request(
    "a body in endless pieces",
    "POST",
    "/v1/events",
    headers=JSON,
    content=lambda _: (b"x" * (1 << 16) for _ in range(400)),
)
_request("ten thousand headers", "GET", "/livez", headers={f"X-{n}": "y" for n in range(10_000)}, inert=True)
_request("a header of a megabyte", "GET", "/v1/campaigns", headers={"X-Api-Key": "k" * (1 << 20)})
_request("another host", "GET", "/people", headers={"Host": "evil.example"})
_request(
    "another site's form", "POST", "/data/upload", headers={"Origin": "http://evil.example"}, data={"table": "items"}
)
CONDITIONS = {
    "a statement": "price < 50; DROP TABLE items; --",
    "a file": "title IN (SELECT * FROM read_csv('/etc/passwd'))",
    "a file by a function": "readfile('/etc/passwd') IS NOT NULL",
    "a union": "1 = 1 UNION SELECT * FROM users",
    "another table": "(SELECT count(*) FROM users) > 0",
    "a database": "ATTACH 'x.sqlite' AS x",
    "a pragma": "PRAGMA writable_schema = 1",
    "deep brackets": "(" * 5_000 + "price < 5" + ")" * 5_000,
    "a long chain": " OR ".join(["price < 5"] * 20_000),
    "a number of many digits": "price < " + "9" * 100_000,
    "a template": "{{ 7 * 7 }}",
}
"""Conditions of SQL that ask for more than a catalogue's columns."""
for _name, _text in CONDITIONS.items():
    _body(f"a condition with {_name}", "/v1/recommend", json.dumps({"user_id": "u01", "where": _text}))


def _condition(name: str, text: str) -> None:
    """The service bounds what it takes; the command line hands on whatever was typed."""

    def make(_: Case) -> Door:
        from recllm.shop.data.catalogue import COLUMNS, matching

        values: dict[str, Any] = {name: ["a"] for name in COLUMNS} | {"price": [1.0], "category": [["a"]]}
        return lambda: matching(pl.DataFrame(values), text)

    _add(f"condition: {name}", make, inert=name == "a number of many digits")


for _name, _text in CONDITIONS.items():
    _condition(_name, _text)
IDS = (SQL, PATHS, "..%2f..%2foutside%2fmark", "%00", "CON", "{{ 7*7 }}", "x" * 5_000, "a%0d%0aSet-Cookie:%20x=y")
for _id in IDS:
    _request(f"items like {_id[:30]}", "GET", f"/v1/items/{_id}/similar")
    _request(f"a profile of {_id[:30]}", "POST", "/v1/users/profile", json={"user_id": _id}, inert=True)
    _request(f"an export of {_id[:30]}", "POST", "/v1/users/export", json={"user_id": _id}, inert=True)
for _id in (PATHS, "..%2f..%2fworkspace.toml", "%2e%2e%2fkey", "x" * 5_000):
    _request(f"a campaign {_id[:30]}", "GET", f"/v1/campaigns/{_id}")
    _request(f"an experiment {_id[:30]}", "GET", f"/v1/experiments/{_id}")
    _request(f"a job {_id[:30]}", "GET", f"/v1/jobs/{_id}")
    _request(f"a quarantine {_id[:30]}", "GET", f"/data/quarantine/{_id}")
    _request(f"a file of the console {_id[:30]}", "GET", f"/static/{_id}")
    _request(f"a webhook of {_id[:30]}", "POST", f"/webhooks/{_id}/mail", content=b"{}", headers=JSON)
_body("a search of a hundred thousand letters", "/v1/search", json.dumps({"query": "tea " * 25_000}))
_body("a deep rule", "/v1/audience", '{"items": ["tea-1"], "people": ' + '{"not": ' * 5_000 + "1" + "}" * 5_001)
for _name, _part in {
    "a list of ids": {"limits": {"suppress": "/etc/passwd"}},
    "a voice": {"words": {"voice": "../../voice.toml"}},
    "an adapter": {"words": {"generator": "smollm2", "adapter": "../../x"}},
    "a pack": {"words": {"packs": ["/etc/passwd.toml"]}},
    "a model": {"words": {"generator": "/models/evil"}},
    "a server": {"words": {"generator": "http://evil.example/v1#m"}},
    "a path for an id": {"id": PATHS},
}.items():
    _body(
        f"a campaign with {_name}",
        "/v1/campaigns",
        json.dumps({"campaign": {"id": "spring", "channels": ["push"], "target": {"items": ["tea-1"]}} | _part}),
    )


def _signed(body: bytes) -> dict[str, str]:
    from standardwebhooks import Webhook

    now = datetime.now(UTC)
    signature = Webhook(WEBHOOK_SECRET).sign("msg_1", now, body.decode())
    return JSON | {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


def _webhook(name: str, body: bytes, *, signed: bool = True, inert: bool = False) -> None:
    headers: Any = (lambda _: _signed(body)) if signed else JSON
    _request(f"a webhook that is {name}", "POST", "/webhooks/served/mail", content=body, headers=headers, inert=inert)


_webhook("deep", b'{"data":' + b"[" * DEEP + b"]" * DEEP + b"}")
_webhook("deep and unsigned", b"[" * DEEP, signed=False)
_webhook(
    "a number of a million digits",
    b'{"type": "message.delivered", "timestamp": ' + b"9" * 1_000_000 + b', "data": {"recllm_message_id": "m"}}',
    inert=True,
)
_webhook(
    "a statement",
    json.dumps(
        {"type": "message.unsubscribed", "timestamp": "2025-01-01T00:00:00Z", "data": {"recllm_message_id": SQL}}
    ).encode(),
    inert=True,
)
