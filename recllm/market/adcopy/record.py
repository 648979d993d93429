"""G15: everything that made a text, kept so that it can be made again byte for byte; and G18.

    request = CopyRequest(item=item, channel="push", now=now)
    ((copy, record),) = write_recorded(request, generator=generator)
    save(record, folder)
    again = replay(load(folder, record.id), generator=generator)     # the same text, or GenerationError

A record holds the request (item, offer, seed, what the text may say of the customer, ...), hashes of what is not in it
(prompts, frames, word lists, rule packs, the generator's weights) and the text. It names no customer. One JSON file per
record, named by its hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from recllm.base.documents import plain
from recllm.base.errors import DataError, GenerationError
from recllm.base.files import write_whole
from recllm.base.schema import AdCopy, Check, Generator
from recllm.base.words.sentences import LANGUAGES
from recllm.market.adcopy.frames import frame_file
from recllm.market.adcopy.lexicon import lists_sha256
from recllm.market.adcopy.packs import Pack, pack_named, pack_names, parse
from recllm.market.adcopy.request import CopyRequest
from recllm.market.adcopy.verify.case import Violation
from recllm.market.adcopy.write import TEMPLATE, write_copy
from recllm.text.domains import SHOP, domain_of
from recllm.text.templates import Prompts

_ID = re.compile(r"[0-9a-f]{64}")


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CopyRecord:
    id: str
    """SHA-256 over all other fields."""
    text: str
    variant: int = 0
    """Which of the request's variants it is, from 0."""
    generator: str
    """Who was asked: "template" or the generator's name; whose words were taken stands in `words_by`."""
    generator_spec: str = TEMPLATE
    """What a person typed to find the generator."""
    adapter: str = ""
    """The folder of its adapter."""
    generator_sha256: str
    """Of its weights and its sampling, where it says so, else of its name."""
    effect: str = ""
    """Fingerprint of a model that ordered the texts, in a record of an earlier release; such a text cannot be made
    again."""
    words_by: str
    verdict: str = ""
    """What the checks made of the text; "" in a record from before there were verdicts."""
    template_version: str
    lists_sha256: str
    """Of the package's word lists, patterns and limits."""
    prompts_sha256: str
    packs: Mapping[str, str]
    """Name of each rule pack -> SHA-256 of its file."""
    request: Mapping[str, Any]

    def digest(self) -> str:
        later = {"verdict", "effect"}  # fields that older records do not have
        values = {n: value for n, value in asdict(self).items() if n != "id" and (value or n not in later)}
        return sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_recorded(
    request: CopyRequest,
    *,
    generator: Generator | None = None,
    generator_spec: str = TEMPLATE,
    adapter: str = "",
    user_id: str | None = None,
) -> tuple[tuple[AdCopy, CopyRecord], ...]:
    """The texts of `write_copy`, each with its record, whose id stands in `AdCopy.record_id`. The person stands in the
    texts and not in the records. Raises what `write_copy` raises."""
    copies = write_copy(request, generator=generator)
    if any(check.guarantee == "G16" for copy in copies[:1] for _, faults in copy.rejected for check in faults):
        generator = None  # it failed: the text is the template's, and comes again without it
    values = plain(replace(request, packs=()))
    values["policy"] = {"sensitive_categories": values["policy"]["sensitive_categories"]}  # what decides about texts
    recorded = []
    for variant, copy in enumerate(copies):
        record = CopyRecord(
            id="",
            text=copy.text,
            variant=variant,
            generator=generator.name if generator else TEMPLATE,
            generator_spec=generator_spec if generator else TEMPLATE,
            adapter=adapter if generator else "",
            generator_sha256=_fingerprint(generator),
            words_by=copy.generator,
            verdict=copy.verdict.value,
            template_version=copy.template_version,
            lists_sha256=lists_sha256(),
            prompts_sha256=prompts_sha256(domain_of(request.locale)),
            packs={p.name: p.sha256 for p in request.packs},
            request=values,
        )
        record = replace(record, id=record.digest())
        recorded.append((replace(copy, user_id=user_id, record_id=record.id), record))
    return tuple(recorded)


def replay(
    record: CopyRecord,
    *,
    generator: Generator | None = None,
    packs: Iterable[Pack] = (),
) -> AdCopy:
    """Makes the text of a record again; a shop's own rule packs are given as `packs`.

    Raises `GenerationError` when it cannot be the same, and says what changed.
    """
    short = record.id[:12]
    if record.id != record.digest():
        raise GenerationError(f"record {short} was changed after it was written; its text cannot be trusted")
    used = {name: pack_named(name) for name in record.packs if name in pack_names()}
    used |= {p.name: p for p in packs if p.name in record.packs}
    for what, before, now in (
        ("generator", record.generator_sha256, _fingerprint(generator)),
        ("effect model", record.effect, ""),
        ("prompts", record.prompts_sha256, prompts_sha256(domain_of(str(record.request.get("locale", ""))))),
        ("word lists", record.lists_sha256, lists_sha256()),
        *((f"rule pack {name}", was, used[name].sha256 if name in used else "") for name, was in record.packs.items()),
    ):
        if before != now:
            raise GenerationError(f"record {short}: its {what} had the hash {before[:12]!r}, now it is {now[:12]!r}")
    request = TypeAdapter(CopyRequest).validate_python(record.request)
    request = replace(request, packs=tuple(used[name] for name in record.packs))
    copies = write_copy(request, generator=generator)
    if len(copies) <= record.variant or copies[record.variant].text != record.text:
        raise GenerationError(
            f"record {short}: prompts, lists, packs and weights are the same, but the text came out differently "
            "(another version of the program, machine or number of threads)"
        )
    return replace(copies[record.variant], record_id=record.id)


def save(record: CopyRecord, folder: Path) -> Path:
    """One JSON file in `folder`; a record that is there already is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record.id}.json"
    if not file.exists():
        write_whole(file, json.dumps(asdict(record), ensure_ascii=False, indent=1))
    return file


def load(folder: Path, record_id: str) -> CopyRecord:
    """Raises `DataError` for an id that is none, that is not there, or whose file is damaged."""
    if not _ID.fullmatch(record_id):
        raise DataError(f"{record_id!r} is no record's id; it has 64 hexadecimal digits")
    file = folder / f"{record_id}.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no record {record_id} in {folder}") from error
    except ValueError as error:
        raise DataError(f"{file}: damaged: {error}") from error
    return parse(CopyRecord, values, owner="a record", prefix=f"{file}: damaged, or of another version: ")


@cache
def prompts_sha256(domain: str = SHOP) -> str:
    """Hash over the versions of all prompts and frames in use, and the domain's file."""
    prompts = Prompts.load()
    versions = sorted(template.version for template in prompts.of_domain(domain).values())
    frames = [frame_file(language).version for language in LANGUAGES]
    return sha256("\n".join([*versions, *frames, prompts.domain(domain).digest]).encode()).hexdigest()


def _fingerprint(generator: Generator | None) -> str:
    name = generator.name if generator else TEMPLATE
    try:
        fingerprint = getattr(generator, "fingerprint", "")
    except GenerationError:  # a process that died since, or was closed
        fingerprint = ""
    return str(fingerprint or sha256(name.encode()).hexdigest())


# --- what holds of the way a text came about, and not of its words -------------------------------------------------


def approvable(checks: Iterable[Check], *, warnings: int, by: str | None, auto: bool = False) -> Iterator[Violation]:
    """G18: a text is approved by a person, or by a campaign's `auto` when it passes; a blocked one never."""
    if failed := next((c for c in checks if not (c.passed or c.holds)), None):
        yield Violation(f"fails {failed.guarantee}: {failed.message}", failed.span)
    if not (by or "").strip():
        if not auto:
            yield Violation("it needs an approval")
        elif warnings:
            yield Violation(f"{warnings} findings need a person; auto approves what passes")
