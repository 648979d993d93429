"""What answering needs from the crowd and the catalogue, as of a time, ready to be mapped into memory.

A state is a folder of three files. A version of a model has states, and is not changed by them: see
`recllm.recommend.recommender.shop_states`.

    serving.safetensors      the catalogue's part: vectors, groups, sales, item to item weights. No row of any person.
    items.arrow              names, prices and what else the catalogue says
    people.safetensors       who serves as a neighbour, and everybody's history, for the owner only. Users are salted
                             digests, not ids. It is made again whenever a customer withdraws or is erased.

Arrays are mapped and not read; a checksum of all bytes is compared once. Each user's own history is read from the
store, by key, so what happened after the state was made counts at once.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.arrays import Mask
from recllm.base.documents import json_value
from recllm.base.errors import ModelError
from recllm.base.files import PRIVATE, whole_file
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.collaborative import CollaborativeStatistics, ItemStatistics
from recllm.learn.models.sequence import SequenceModel, SequenceWeights
from recllm.recommend.recommender.people import Arrays, PeopleState, digest
from recllm.shop.data.catalogue import GROUPINGS, VOTED, GroupStatistics, ItemGroups, NewItems
from recllm.shop.data.dataset import ITEM_SCHEMA, Dataset, Events
from recllm.shop.data.interactions import enlarged

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CATALOGUE_STATE, ITEMS, PEOPLE_STATE = "serving.safetensors", "items.arrow", "people.safetensors"

_DTYPES = {"BOOL": "?", "U8": "u1", "U16": "<u2", "I32": "<i4", "I64": "<i8", "F32": "<f4"}
"""Names of safetensors' types, as far as a state uses them."""


@dataclass(frozen=True, eq=False)
class CatalogueState:
    """The part about items."""

    name: str
    """Of the state's folder."""
    items: pl.DataFrame
    """`Dataset.items` in the order of the state's rows."""
    arrays: Arrays
    as_of: int
    """Epoch seconds of the collaborative statistics."""
    locale: str
    """Language of the item texts behind the vectors."""
    item_load: int
    """Number of the last load of items that it knows."""


def save_state(
    folder: Path,
    dataset: Dataset,
    population: CollaborativeStatistics,
    together: csr_matrix,
    events: Events,
    *,
    locale: str,
    item_load: int = 0,
    event_no: int = 0,
    consent_load: int = 0,
) -> None:
    """Write all three files into an existing folder. together: as of `bought_together`. events: everybody's. The
    numbers: as in `CatalogueState` and `PeopleState`."""
    arrays: Arrays = {"item_vectors": population.item_vectors, **_csr_arrays("item_item", population.item_item)}
    arrays |= _csr_arrays("together", together)
    if population.carts is not None:
        weights, share = population.carts
        arrays |= {**_csr_arrays("carts", weights), "cart_share": share}
    arrays |= {f"groups.{name}": codes for name, codes in population.facets.each().items()}
    arrays |= {f"stats.{f.name}": getattr(population.stats, f.name) for f in fields(ItemStatistics)}
    arrays |= {f"new_items.{f.name}": getattr(population.arrived, f.name) for f in fields(NewItems)}
    for name in GROUPINGS:
        crowd = population.group_statistics[name]
        for measure in ("buyers_56", "arrivals", "arrival_rate"):
            arrays[f"group_sales.{name}.{measure}"] = getattr(crowd, measure)
    if population.interests is not None:
        sequence = population.interests
        arrays |= {"sequence.read": sequence.read, "sequence.vectors": sequence.vectors, "sequence.bias": sequence.bias}
    with whole_file(folder / ITEMS, mode=PRIVATE) as stream:
        dataset.items.write_ipc(stream, compression="uncompressed")
        items_checksum = _checksum(stream, 0)
    about = {"as_of": str(population.as_of), "locale": locale, "item_load": str(item_load)}
    _write(folder / CATALOGUE_STATE, arrays, about | {"items_crc32": f"{items_checksum:010d}"})
    salt = secrets.token_bytes(16)
    of_people: Arrays = {"digests": digest(dataset.users["user_id"].to_list(), salt), "pool": population.pool}
    if population.pool_basics is not None:
        of_people["pool_basics"] = population.pool_basics
    for name in ("profiles", "recent", "decayed"):
        of_people |= _csr_arrays(name, getattr(population, name))
    for name in VOTED:
        of_people |= _csr_arrays(f"votes.{name}", population.group_statistics[name].votes)
    _write_people(folder / PEOPLE_STATE, of_people, events, salt, event_no, consent_load)


def without_people(path: Path, state: PeopleState, keep: Mask, *, event_no: int, consent_load: int) -> PeopleState:
    """The people's part without some users, written in its place: they are no neighbours any more, and have no
    history.

    keep: boolean (n_users,). event_no, consent_load: as in `PeopleState`.
    """
    row_of = np.cumsum(keep) - 1
    pool_kept = keep[state.arrays["pool"]]
    arrays = {name: array for name, array in state.arrays.items() if not name.startswith("events.")}
    arrays["digests"] = state.digests[keep]
    arrays["pool"] = row_of[state.arrays["pool"][pool_kept]].astype(np.int64)
    if "pool_basics" in arrays:
        arrays["pool_basics"] = arrays["pool_basics"][pool_kept]
    for name in ("profiles", "recent", "decayed", *(f"votes.{voted}" for voted in VOTED)):
        arrays |= _csr_arrays(name, _csr(state.arrays, name)[np.flatnonzero(pool_kept)])
    events = state.events.rows(np.flatnonzero(keep))
    _write_people(path, arrays, events, state.salt, event_no, consent_load)
    return open_people_state(path)


def _write_people(path: Path, arrays: Arrays, events: Events, salt: bytes, event_no: int, consent_load: int) -> None:
    arrays = arrays | {f"events.{f.name}": getattr(events, f.name) for f in fields(Events)}
    _write(path, arrays, {"salt": salt.hex(), "event_no": str(event_no), "consent_load": str(consent_load)})


def _write(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """A safetensors file with a checksum of its arrays, whole or not at all."""
    code_of = {np.dtype(code): name for name, code in _DTYPES.items()}
    header: dict[str, Any] = {}
    end = 0
    # the widest type first, as the format has it: so every array begins where its type may
    for name, array in sorted(arrays.items(), key=lambda named: (-named[1].itemsize, named[0])):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": code_of[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}

    def beginning(checksum: int) -> bytes:
        text = json.dumps({"__metadata__": {**metadata, "body_crc32": f"{checksum:010d}"}, **header}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    body = len(beginning(0))
    with whole_file(path, mode=PRIVATE) as stream:
        for name, array in arrays.items():
            stream.seek(body + header[name]["data_offsets"][0])
            stream.write(np.ascontiguousarray(array).data)
        checksum = _checksum(stream, body)
        stream.seek(0)
        stream.write(beginning(checksum))


def _checksum(stream: IO[bytes], start: int) -> int:
    """CRC-32 of a file from a position on."""
    checksum = 0
    stream.seek(start)
    while body := stream.read(2**22):
        checksum = zlib.crc32(body, checksum)
    return checksum


def _csr_arrays(name: str, matrix: csr_matrix) -> Arrays:
    return {
        f"{name}.data": matrix.data.astype(np.float32, copy=False),
        f"{name}.indices": matrix.indices,
        f"{name}.indptr": matrix.indptr,
        f"{name}.shape": np.array(matrix.shape, np.int64),
    }


def map_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a safetensors file as views of the mapped file, and its metadata.

    Nothing is read before it is used. Raises `ModelError` for a file that is no such thing.
    """
    try:
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        size = int.from_bytes(content[:8].tobytes(), "little")
        header = json_value(content[8 : 8 + size].tobytes())
        metadata = header.pop("__metadata__", {})
        body, arrays = content[8 + size :], {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            arrays[name] = body[start:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a serving state of this version ({error}); run: recllm refresh") from error
    return arrays, metadata


def open_catalogue_state(folder: Path) -> CatalogueState:
    """The catalogue's part of a state's folder. Raises `ModelError` for a damaged one, and for one of an older recllm,
    which counted less."""
    arrays, metadata = _checked_arrays(folder / CATALOGUE_STATE)
    lacking = [f.name for f in fields(ItemStatistics) if f"stats.{f.name}" not in arrays]
    if lacking:
        raise ModelError(f"{folder}: the serving state has no {', '.join(lacking)}; run: recllm refresh")
    try:
        with (folder / ITEMS).open("rb") as stream:
            if int(metadata.get("items_crc32", -1)) not in (-1, _checksum(stream, 0)):
                raise ValueError(f"the bytes of {ITEMS} are not those that were written")
        items = pl.read_ipc(folder / ITEMS)
        later = [name for name in ITEM_SCHEMA if name not in items.columns]  # of an older version
        items = items.with_columns(pl.lit(None, dtype=ITEM_SCHEMA[name]).alias(name) for name in later)
        if len(items) != len(arrays["item_vectors"]):
            raise ValueError(f"{len(items)} items and {len(arrays['item_vectors'])} vectors")
        return CatalogueState(
            folder.name, items, arrays, int(metadata["as_of"]), metadata["locale"], int(metadata["item_load"])
        )
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise ModelError(f"{folder}: the serving state is damaged ({error}); run: recllm refresh") from error


def open_people_state(path: Path) -> PeopleState:
    """The people's part. Raises `ModelError` for a damaged one."""
    arrays, metadata = _checked_arrays(path)
    try:
        events = Events(*(arrays[f"events.{f.name}"] for f in fields(Events)))
        salt, event_no = bytes.fromhex(metadata["salt"]), int(metadata["event_no"])
        return PeopleState(arrays["digests"], events, arrays, salt, event_no, int(metadata["consent_load"]))
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: the serving state is damaged ({error}); run: recllm refresh") from error


def _checked_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """As `map_arrays`, after reading every byte once. An older catalogue has no checksum."""
    arrays, metadata = map_arrays(path)
    try:
        with path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if int(metadata.get("body_crc32", -1)) not in (-1, _checksum(stream, start)):
                raise ValueError("its bytes are not those that were written")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the serving state is damaged ({error}); run: recllm refresh") from error
    return arrays, metadata


def population_of(
    catalogue: CatalogueState,
    people: PeopleState,
    settings: CollaborativeSettings,
    sequence: SequenceWeights | None,
) -> CollaborativeStatistics:
    """The collaborative statistics of a state.
    The pool counts by digests, see `PeopleState.digest`."""
    arrays, of_people, interests = catalogue.arrays, people.arrays, None
    if sequence is not None:
        read, vectors, bias = (arrays[f"sequence.{name}"] for name in ("read", "vectors", "bias"))
        scale = float(np.exp(sequence.weights["log_scale"]))
        interests = SequenceModel(sequence.config, sequence.weights, sequence.target, read, vectors, bias, scale)
    facets = ItemGroups(**{name: arrays[f"groups.{name}"] for name in GROUPINGS})
    crowds = {}
    for name in GROUPINGS:
        sales = {m: arrays[f"group_sales.{name}.{m}"] for m in ("buyers_56", "arrivals", "arrival_rate")}
        crowds[name] = GroupStatistics(**sales, votes=_csr(of_people, f"votes.{name}") if name in VOTED else None)
    return CollaborativeStatistics(
        catalogue.as_of,
        settings,
        arrays["item_vectors"],
        facets,
        ItemStatistics(**{f.name: arrays[f"stats.{f.name}"] for f in fields(ItemStatistics)}),
        people.digests[of_people["pool"]],
        _csr(of_people, "profiles"),
        _csr(of_people, "recent"),
        _csr(of_people, "decayed"),
        _csr(arrays, "item_item"),
        NewItems(**{f.name: arrays[f"new_items.{f.name}"] for f in fields(NewItems)}),
        crowds,
        of_people.get("pool_basics"),
        interests,
        carts=(_csr(arrays, "carts"), arrays["cart_share"]) if "cart_share" in arrays else None,
    )


def together_of(catalogue: CatalogueState, n_items: int) -> csr_matrix | None:
    """What is bought together, (n_items, n_items), further items behind those of the state; None of an older state."""
    if "together.shape" not in catalogue.arrays:
        return None
    return enlarged(_csr(catalogue.arrays, "together"), n_items, n_items)


def _csr(arrays: Arrays, name: str) -> csr_matrix:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(tuple(arrays[f"{name}.shape"].tolist()), dtype=np.float32)
    # the constructor would copy what is a small part of a mapped file
    matrix.data, matrix.indices, matrix.indptr = (arrays[f"{name}.{chunk}"] for chunk in ("data", "indices", "indptr"))
    return matrix
