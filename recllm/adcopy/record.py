"""G15: everything that made a text, kept so that it can be made again byte for byte.

    request = CopyRequest(item=item, channel="push", now=now)
    copy, record = write_recorded(request, generator=generator)
    save(record, folder)
    again = replay(load(folder, record.id), generator=generator)     # the same text, or GenerationError

A record holds the request (item, offer, reason, seed, ...), hashes of what is not in it (prompts, word lists, rule
packs, the generator's weights) and the text. It names no person. One JSON file per record, named by its hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from recllm.adcopy.facts import Offer, OfferType
from recllm.adcopy.write import write_copy
from recllm.documents import plain
from recllm.errors import DataError, GenerationError
from recllm.schema import AdCopy, Encoder, Generator, Item, Reason
from recllm.text import Prompts

_ID = re.compile(r"[0-9a-f]{64}")
TEMPLATE = "template"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """The arguments of `write_copy` that decide a text, as data."""

    item: Item
    channel: str
    now: datetime
    locale: str = "en"
    reason: Reason | None = None
    n_candidates: int = 8
    seed: int = 0
    known_brands: tuple[str, ...] = ()
    offer: Offer | None = None
    list_price: Decimal | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRecord:
    id: str
    """SHA-256 over all other fields."""
    text: str
    generator: str
    """Who was asked: "template" or the generator's name; whose words were kept stands in `words_by`."""
    generator_sha256: str
    """Of its weights, where it says so, else of its name."""
    encoder: str
    """Fingerprint of the encoder that ranked the generator's lines; empty without one."""
    words_by: str
    template_version: str
    lists_sha256: str
    """Of all word lists, limits and rule packs of the package, together with the prompts in use."""
    request: Mapping[str, Any]

    def digest(self) -> str:
        values = {name: value for name, value in asdict(self).items() if name != "id"}
        return sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_recorded(
    request: CopyRequest, *, generator: Generator | None = None, encoder: Encoder | None = None
) -> tuple[AdCopy, CopyRecord]:
    """`write_copy` under the default policy, with its record. Raises what `write_copy` raises."""
    copy = _write(request, generator, encoder)
    record = CopyRecord(
        id="",
        text=copy.text,
        generator=generator.name if generator else TEMPLATE,
        generator_sha256=_fingerprint(generator),
        encoder=encoder.fingerprint if encoder else "",
        words_by=copy.generator,
        template_version=copy.template_version,
        lists_sha256=lists_sha256(),
        request=plain(request),
    )
    return copy, replace(record, id=record.digest())


def replay(record: CopyRecord, *, generator: Generator | None = None, encoder: Encoder | None = None) -> AdCopy:
    """Makes the text of a record again. Raises `GenerationError` when it cannot be the same, and says what changed."""
    if record.id != record.digest():
        raise GenerationError(f"record {record.id[:12]} was changed after it was written; its text cannot be trusted")
    for what, was, now in (
        ("generator", record.generator_sha256, _fingerprint(generator)),
        ("encoder", record.encoder, encoder.fingerprint if encoder else ""),
        ("word lists or prompts", record.lists_sha256, lists_sha256()),
    ):
        if was != now:
            raise GenerationError(
                f"record {record.id[:12]}: its {what} had the hash {was[:12]!r}, now it is {now[:12]!r}"
            )
    copy = _write(_request(record.request), generator, encoder)
    if copy.text != record.text:
        raise GenerationError(f"record {record.id[:12]}: the text came out differently: {copy.text!r}")
    return copy


def save(record: CopyRecord, folder: Path) -> Path:
    """One JSON file in `folder`; a record that is there already is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record.id}.json"
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(record), ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(file)
    return file


def load(folder: Path, record_id: str) -> CopyRecord:
    """Raises `DataError` for an id that is none, that is not there, or whose file is damaged."""
    if not _ID.fullmatch(record_id):
        raise DataError(f"{record_id!r} is no record's id; it has 64 hexadecimal digits")
    file = folder / f"{record_id}.json"
    try:
        return CopyRecord(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(f"no record {record_id} in {folder}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: damaged: {error}") from error


@cache
def lists_sha256() -> str:
    """Hash over the package's word lists, limits and rule packs, and over the versions of all prompts in use."""
    versions = sorted(template.version for template in Prompts.load().templates.values())
    total = sha256("\n".join(versions).encode())
    for file in sorted(_files(resources.files("recllm.adcopy") / "data"), key=lambda f: f.name):
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def _files(folder: Traversable) -> list[Traversable]:
    found = list(folder.iterdir())
    return [f for f in found if f.name.endswith(".toml")] + [f for d in found if d.is_dir() for f in _files(d)]


def _fingerprint(generator: Generator | None) -> str:
    name = generator.name if generator else TEMPLATE
    return str(getattr(generator, "fingerprint", "") or sha256(name.encode()).hexdigest())


def _write(request: CopyRequest, generator: Generator | None, encoder: Encoder | None) -> AdCopy:
    values = {name: getattr(request, name) for name in request.__dataclass_fields__ if name != "item"}
    return write_copy(request.item, generator=generator, encoder=encoder, **values)


def _request(values: Mapping[str, Any]) -> CopyRequest:
    """A request from its JSON."""
    given = dict(values)
    item, offer, reason = given.pop("item"), given.pop("offer"), given.pop("reason")
    return CopyRequest(
        **{
            **given,
            "now": datetime.fromisoformat(given["now"]),
            "list_price": _decimal(given["list_price"]),
            "known_brands": tuple(given["known_brands"]),
        },
        item=Item(**{**item, "category": tuple(item["category"]), "price": _decimal(item["price"])}),
        offer=_offer(offer),
        reason=Reason(**reason) if reason else None,
    )


def _offer(values: Mapping[str, Any] | None) -> Offer | None:
    if values is None:
        return None
    start, end = (datetime.fromisoformat(values[n]) if values[n] else None for n in ("start", "end"))
    return Offer(type=OfferType(values["type"]), value=_decimal(values["value"]), start=start, end=end)


def _decimal(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)
