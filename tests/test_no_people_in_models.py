"""What is published, and kept beside people's rows, holds nobody: no id, digest, row or vector of anybody."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from canaries import MARK, hits
from safetensors.numpy import save_file
from shop_world import item_lines, loaded, purchase_lines
from shop_world import shop as world

from recllm.base.service_settings import IndexKind
from recllm.learn.models.sequence import SequenceArguments
from recllm.recommend.recommender.serving_state import PEOPLE_STATE, map_arrays, open_people_state
from recllm.recommend.recommender.shop_index import build_index
from recllm.recommend.recommender.shop_recommender import refresh
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.workspace.workspace import Workspace

PEOPLE = 137
"""A prime: no width of a model, and no count of items, windows or groups of this shop is it, or is one or two above."""
SIZES = frozenset({PEOPLE, PEOPLE + 1, PEOPLE + 2, 16 * PEOPLE})
"""Rows for each person or event, or where each one's rows begin, also where an unknown person has a row too."""
PUBLISHED = ("models", "cache/item-index", "serving")
"""Of the serving state what it says of items: that of people is apart, with salted digests in place of their names."""
INDEXES: tuple[IndexKind, ...] = ("faiss",) if find_spec("faiss") else ()
IDS = [f"{MARK}-{n:03}" for n in range(PEOPLE)]
small_sequence_model = partial(
    SequenceArguments, dim=16, epochs=1, later_epochs=1, negatives=32, batch_size=16, min_examples=20
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that trained with a sequence model, and was refreshed."""
    folder = tmp_path_factory.mktemp("nobody")
    data = world(people=PEOPLE, visits=8)
    basics = [f"{name},{30 + n % 3}" for n, name in enumerate(IDS)]
    tables = {"items": item_lines(data), "events": purchase_lines(data, IDS), "users": ["user_id,age", *basics]}
    with Workspace.open(loaded(folder, tables, currency="USD", timezone="UTC", sequence_model=True)) as shop:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recllm.recommend.recommender.train.SequenceArguments", small_sequence_model)
            train_workspace(shop, n_windows=2, epochs=1, min_steps=20)
        refresh(shop)
        for kind in INDEXES:
            build_index(shop, kind)
    return folder / "shop"


@pytest.fixture(scope="module")
def names(made: Path) -> list[str]:
    with Workspace.open(made) as shop:
        return shop.pseudonymiser().many(IDS)


def digests_in_use(folder: Path, names: list[str]) -> dict[bytes, str]:
    """Eight bytes of each person as the people's states have them, and as plain hashes of ids would begin."""
    found = {}
    for path in sorted((folder / "serving").glob("*/people.safetensors")):
        state = open_people_state(path)
        assert path.stat().st_mode & 0o077 == 0
        assert len(state.digests) == PEOPLE, "the people's state has them all: it is what models are compared with"
        found |= {int(number).to_bytes(8, "little"): f"a digest of {path.name}" for number in state.digests}
        found |= {
            hashlib.blake2b(name.encode(), key=state.salt, digest_size=8).digest(): "a salted digest" for name in names
        }
    for text in (*IDS, *names):
        found[hashlib.blake2b(text.encode(), digest_size=8).digest()] = "BLAKE2b of an id"
        found[hashlib.sha256(text.encode()).digest()[:8]] = "SHA-256 of an id"
    return found


def arrays_of(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every array of a file, whatever keeps it: of JSON each list, and each object by its size."""
    if path.suffix == ".safetensors":
        for name, array in map_arrays(path)[0].items():
            yield name, array.shape
    elif path.suffix == ".arrow":
        yield "rows", (pl.read_ipc(path).height,)
    elif path.suffix in (".npy", ".npz"):
        loaded = np.load(path, allow_pickle=False)
        for name in getattr(loaded, "files", [""]):
            yield name, (loaded[name] if name else loaded).shape
    elif path.suffix in (".json", ".jsonl"):
        for line in path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]:
            yield from _lengths(json.loads(line), "")


def _lengths(value: Any, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if isinstance(value, dict | list):
        yield name, (len(value),)
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _lengths(part, f"{name}.{key}")


def people_in(folder: Path, names: list[str], digests: dict[bytes, str]) -> list[str]:
    """Where a file below a folder holds an id, a pseudonym, a digest, or as many rows as there are people."""
    found = hits(folder, MARK, *names)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != PEOPLE_STATE):
        content, name = path.read_bytes(), str(path.relative_to(folder))
        found += [
            f"{name}: {what}" for eight, what in digests.items() if eight in content or eight.hex().encode() in content
        ]
        found += [f"{name}: {array} has {shape}" for array, shape in arrays_of(path) if SIZES & set(shape)]
    return found


def test_nothing_that_is_published_holds_anybody(made: Path, names: list[str]) -> None:
    digests = digests_in_use(made, names)
    assert len(list((made / "models" / "versions").iterdir())) == 1
    assert all((made / "cache" / "item-index" / kind / "index.json").exists() for kind in INDEXES)
    formats = {path.suffix for path in (made / "models").rglob("*") if path.is_file()}
    assert formats <= {".safetensors", ".arrow", ".json", ".jsonl", ".lock", ""}, "a new format has to be looked into"
    for part in PUBLISHED:
        assert people_in(made / part, names, digests) == []


def test_no_vector_of_a_person_is_published(made: Path, names: list[str]) -> None:
    """Arrays of numbers with fractions are about items, groups or weights: none has what a person's history weighs."""
    (state, *_) = [open_people_state(path) for path in sorted((made / "serving").glob("*/people.safetensors"))]
    data, indptr = state.arrays["profiles.data"], state.arrays["profiles.indptr"]
    rows = [data[begin:end].tobytes() for begin, end in pairwise(indptr) if end - begin > 1]
    assert len(rows) > PEOPLE // 2
    times = [state.events.at[b:e].tobytes() for b, e in pairwise(state.events.indptr)]
    files = [path for part in PUBLISHED for path in (made / part).rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in files if path.name != PEOPLE_STATE]
    assert not [row for row in (*rows, *times) if any(row in content for content in contents)]


@pytest.mark.parametrize("plant", ["an id", "a pseudonym", "a digest", "rows", "a table", "a list"])
def test_the_look_finds_what_is_planted(made: Path, names: list[str], tmp_path: Path, plant: str) -> None:
    names, digests = names[:8], dict(list(digests_in_use(made, names).items())[:8])  # a few are looked for in a moment
    shutil.copytree(made / "models", tmp_path / "models")
    version = next((tmp_path / "models" / "versions").iterdir())
    if plant == "an id":
        (version / "note.txt").write_bytes(IDS[5].encode("utf-16-le"))
    elif plant == "a pseudonym":
        (version / f"{names[5]}.json").write_text("{}")
    elif plant == "a digest":
        (version / "weights").write_bytes(b"\0" * 5 + next(iter(digests)) + b"\1")
    elif plant == "rows":
        save_file({"users": np.zeros((PEOPLE, 4), np.float32)}, version / "users.safetensors")
    elif plant == "a table":
        pl.DataFrame({"n": range(PEOPLE)}).write_ipc(version / "users.arrow")
    else:
        (version / "users.json").write_text(json.dumps({"seen": [0] * (PEOPLE + 1)}))
    assert len(people_in(tmp_path / "models", names, digests)) == 1
