"""G15: everything that made a text, kept so that it can be made again byte for byte.

    request = CopyRequest(item=item, channel="push", now=now)
    copy, record = write_recorded(request, generator=generator)
    save(record, folder)
    again = replay(load(folder, record.id), generator=generator)     # the same text, or GenerationError

A record holds the request (item, offer, seed, the kind of reason, ...), hashes of what is not in it (prompts, word
lists, rule packs, the generator's weights) and the text. It names no person, and of a reason it keeps the kind only.
One JSON file per record, named by its hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from recllm.adcopy.facts import Offer, OfferType
from recllm.adcopy.opening_line import reason_kind
from recllm.adcopy.packs import Pack, pack, pack_names
from recllm.adcopy.voice import Voice
from recllm.adcopy.write import TEMPLATE, write_copy, write_variants
from recllm.documents import plain
from recllm.errors import DataError, GenerationError
from recllm.policy import Policy
from recllm.schema import AdCopy, Encoder, Generator, Item, Reason
from recllm.text.templates import Prompts

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """The arguments of `write_copy` that decide a text, as data; with `variants` above 1 those of `write_variants`."""

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
    policy: Policy = field(default_factory=Policy)
    packs: tuple[Pack, ...] = ()
    voice: Voice = field(default_factory=Voice)
    variants: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRecord:
    id: str
    """SHA-256 over all other fields."""
    text: str
    place: int = 0
    """Which of the request's variants it is."""
    generator: str
    """Who was asked: "template" or the generator's name; whose words were kept stands in `words_by`."""
    found_as: str = TEMPLATE
    """What a person typed to find the generator."""
    adapter: str = ""
    """The folder of its adapter."""
    generator_sha256: str
    """Of its weights and its sampling, where it says so, else of its name."""
    encoder: str
    """Fingerprint of the encoder that ranked the generator's lines; empty without one, and where no model was asked."""
    words_by: str
    template_version: str
    lists_sha256: str
    """Of the package's word lists and limits."""
    prompts_sha256: str
    packs: Mapping[str, str]
    """Name of each rule pack -> SHA-256 of its file."""
    request: Mapping[str, Any]

    def digest(self) -> str:
        values = {name: value for name, value in asdict(self).items() if name != "id"}
        return sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


Recorded = tuple[AdCopy, CopyRecord]


def write_recorded(
    request: CopyRequest, *, generator: Generator | None = None, encoder: Encoder | None = None
) -> Recorded:
    """The request's first text with its record. Raises what `write_copy` raises."""
    return write_all_recorded(request, generator=generator, encoder=encoder)[0]


def write_all_recorded(
    request: CopyRequest,
    *,
    generator: Generator | None = None,
    encoder: Encoder | None = None,
    found_as: str = TEMPLATE,
    adapter: str = "",
    user_id: str | None = None,
) -> tuple[Recorded, ...]:
    """Every variant of a request with its record, whose id stands in `AdCopy.record_id`. The person is told to the
    texts and not to the records. Raises what `write_variants` raises."""
    request = replace(request, reason=_kind_only(request.reason, request.item.item_id))
    copies = _write(request, generator, encoder)
    if any(check.guarantee == "G16" for _, faults in copies[0].rejected for check in faults):
        generator = None  # it failed: the text is the template's, and comes again without it
    told = _made_by(request, generator, encoder) | ({"found_as": found_as, "adapter": adapter} if generator else {})
    found = []
    for place, copy in enumerate(copies):
        bare = CopyRecord(
            id="",
            text=copy.text,
            place=place,
            words_by=copy.generator,
            template_version=copy.template_version,
            **told,
        )
        record = replace(bare, id=bare.digest())
        found.append((replace(copy, user_id=user_id, record_id=record.id), record))
    return tuple(found)


def keep(request: CopyRequest, folder: Path | None, **who: Any) -> list[AdCopy]:
    """`write_all_recorded`, with the records saved in `folder`; without one no text names a record."""
    found = write_all_recorded(request, **who)
    if folder is None:
        return [replace(copy, record_id=None) for copy, _ in found]
    for _, record in found:
        save(record, folder)
    return [copy for copy, _ in found]


def replay(
    record: CopyRecord,
    *,
    generator: Generator | None = None,
    encoder: Encoder | None = None,
    packs: Iterable[Pack] = (),
) -> AdCopy:
    """Makes the text of a record again; a shop's own rule packs are given as `packs`.

    Raises `GenerationError` when it cannot be the same, and says what changed.
    """
    short = record.id[:12]
    if record.id != record.digest():
        raise GenerationError(f"record {short} was changed after it was written; its text cannot be trusted")
    used = _packs(record, packs)
    for what, was, now in (
        ("generator", record.generator_sha256, _fingerprint(generator)),
        ("encoder", record.encoder, encoder.fingerprint if encoder else ""),
        ("prompts", record.prompts_sha256, prompts_sha256()),
        ("word lists", record.lists_sha256, lists_sha256()),
        *((f"rule pack {name}", was, used[name].sha256 if name in used else "") for name, was in record.packs.items()),
    ):
        if was != now:
            raise GenerationError(f"record {short}: its {what} had the hash {was[:12]!r}, now it is {now[:12]!r}")
    request = replace(_request(record.request), packs=tuple(used[name] for name in record.packs))
    copies = _write(request, generator, encoder)
    if len(copies) <= record.place or copies[record.place].text != record.text:
        raise GenerationError(
            f"record {short}: prompts, lists, packs and weights are the same, but the text came out differently "
            "(another version of the program, machine or number of threads)"
        )
    return replace(copies[record.place], record_id=record.id)


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
    """Hash over the package's word lists and limits."""
    total = sha256()
    folder = resources.files("recllm.adcopy") / "data"
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name):
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


@cache
def prompts_sha256() -> str:
    """Hash over the versions of all prompts in use."""
    versions = sorted(template.version for template in Prompts.load().templates.values())
    return sha256("\n".join(versions).encode()).hexdigest()


def _told(request: CopyRequest) -> dict[str, Any]:
    """A request as JSON; of the policy, what decides about texts."""
    policy = {"sensitive_categories": sorted(request.policy.sensitive_categories)}
    return {**plain(replace(request, packs=())), "policy": policy}


def _made_by(request: CopyRequest, generator: Generator | None, encoder: Encoder | None) -> dict[str, Any]:
    """The fields of a record that all variants of a request share."""
    return {
        "generator": generator.name if generator else TEMPLATE,
        "generator_sha256": _fingerprint(generator),
        "encoder": encoder.fingerprint if encoder and generator else "",
        "lists_sha256": lists_sha256(),
        "prompts_sha256": prompts_sha256(),
        "packs": {p.name: p.sha256 for p in request.packs},
        "request": _told(request),
    }


def _packs(record: CopyRecord, given: Iterable[Pack]) -> dict[str, Pack]:
    """The record's packs that can be found: given ones before shipped ones of the same name."""
    own = {p.name: p for p in given}
    shipped = {name: pack(name) for name in record.packs if name in pack_names()}
    return {name: found for name in record.packs if (found := own.get(name) or shipped.get(name))}


def _kind_only(reason: Reason | None, item_id: str) -> Reason | None:
    """All that a text takes from a reason: what sort of evidence it has, and whether that is the item itself."""
    kind = reason_kind(reason, item_id, sensitive=False)
    evidence = {"known": f"B:{item_id}", "together": "B:", "interest": "H:", "picked": "I:"}.get(kind)
    return Reason(evidence_id=evidence, delta=1.0, text="") if evidence else None


def _fingerprint(generator: Generator | None) -> str:
    name = generator.name if generator else TEMPLATE
    try:
        known = getattr(generator, "fingerprint", "")
    except GenerationError:  # a process that died since, or was closed
        known = ""
    return str(known or sha256(name.encode()).hexdigest())


def _write(request: CopyRequest, generator: Generator | None, encoder: Encoder | None) -> tuple[AdCopy, ...]:
    apart = ("item", "variants")
    values = {name: getattr(request, name) for name in request.__dataclass_fields__ if name not in apart}
    if request.variants == 1:
        return (write_copy(request.item, generator=generator, encoder=encoder, **values),)
    return write_variants(request.item, request.variants, generator=generator, encoder=encoder, **values)


def _request(values: Mapping[str, Any]) -> CopyRequest:
    """A request from its JSON."""
    given = dict(values)
    item, offer, reason, voice = (given.pop(name) for name in ("item", "offer", "reason", "voice"))
    return CopyRequest(
        **{
            **given,
            "now": datetime.fromisoformat(given["now"]),
            "list_price": _decimal(given["list_price"]),
            "known_brands": tuple(given["known_brands"]),
            "policy": Policy(**given["policy"]),
            "packs": (),
        },
        item=Item(**{**item, "category": tuple(item["category"]), "price": _decimal(item["price"])}),
        offer=_offer(offer),
        reason=Reason(**reason) if reason else None,
        voice=_voice(voice),
    )


def _voice(values: Mapping[str, Any]) -> Voice:
    lists = {name: tuple(values[name]) for name in ("banned", "required", "lines")}
    return Voice(**{**values, **lists})


def _offer(values: Mapping[str, Any] | None) -> Offer | None:
    if values is None:
        return None
    start, end = (datetime.fromisoformat(values[n]) if values[n] else None for n in ("start", "end"))
    return Offer(type=OfferType(values["type"]), value=_decimal(values["value"]), start=start, end=end)


def _decimal(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)
