"""G15: what decided a text, kept for the account that a shop must give of it; and G18.

    ((copy, record),) = write_recorded(CopyRequest(item=item, channel="push", now=now), generator=generator)
    save(record, folder)

A record holds the request (item, offer, seed, what the text may say of the customer, ...), hashes of what is not in it
(prompts, frames, word lists, rule packs, the generator's weights) and the text. It names no customer. One JSON file per
record, named by its hash, which shows a later change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from recllm.base.documents import plain
from recllm.base.errors import GenerationError
from recllm.base.files import write_whole
from recllm.base.schema import AdCopy, Check, Generator
from recllm.base.words.sentences import LANGUAGES
from recllm.market.adcopy.frames import frame_file
from recllm.market.adcopy.lexicon import lists_sha256
from recllm.market.adcopy.request import CopyRequest
from recllm.market.adcopy.verify.case import Violation
from recllm.market.adcopy.write import TEMPLATE, write_copy
from recllm.text.domains import SHOP, domain_of
from recllm.text.templates import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRecord:
    text: str
    variant: int
    """Which of the request's variants it is, from 0."""
    generator: str
    """The generator that was asked, "template" for none; whose words were taken stands in `words_by`."""
    generator_sha256: str
    """Of its weights and its sampling, where it says so, else of its name."""
    words_by: str
    verdict: str
    """What the checks made of the text."""
    template_version: str
    lists_sha256: str
    """Of the package's word lists, patterns and limits."""
    prompts_sha256: str
    packs: Mapping[str, str]
    """Name of each rule pack -> SHA-256 of its file."""
    request: Mapping[str, Any]

    @property
    def id(self) -> str:
        """SHA-256 over all fields."""
        return sha256(json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_recorded(
    request: CopyRequest, *, generator: Generator | None = None, user_id: str | None = None
) -> tuple[tuple[AdCopy, CopyRecord], ...]:
    """The texts of `write_copy`, each with its record, whose id stands in `AdCopy.record_id`. The person stands in the
    texts and not in the records. Raises what `write_copy` raises."""
    values = plain(replace(request, packs=()))
    values["policy"] = {"sensitive_categories": values["policy"]["sensitive_categories"]}  # what decides about texts
    recorded = []
    for variant, copy in enumerate(write_copy(request, generator=generator)):
        record = CopyRecord(
            text=copy.text,
            variant=variant,
            generator=generator.name if generator else TEMPLATE,
            generator_sha256=_fingerprint(generator),
            words_by=copy.generator,
            verdict=copy.verdict.value,
            template_version=copy.template_version,
            lists_sha256=lists_sha256(),
            prompts_sha256=prompts_sha256(domain_of(request.locale)),
            packs={pack.name: pack.sha256 for pack in request.packs},
            request=values,
        )
        recorded.append((replace(copy, user_id=user_id, record_id=record.id), record))
    return tuple(recorded)


def save(record: CopyRecord, folder: Path) -> Path:
    """One JSON file in `folder`; a record that is there already is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record.id}.json"
    if not file.exists():
        write_whole(file, json.dumps({"id": record.id, **asdict(record)}, ensure_ascii=False, indent=1))
    return file


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
