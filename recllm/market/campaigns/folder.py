"""The files of campaigns in a workspace, each in a folder of its own.

campaigns/ID/plan.json         the plan without its people
campaigns/ID/people.jsonl      one line per person: pseudonym, item, kind of reason, text; never a purchase
campaigns/ID/decisions.jsonl   who approved, edited, rejected or withdrew which text, and when
campaigns/ID/exports.jsonl     what left, and whom it reached
campaigns/ID/outbox.jsonl      what was sent from here, see `recllm.market.sending.outbox`
campaigns/.ID.send             held while the campaign is being sent
campaigns/.ID.lock             held while a plan is read, published or decided about, so that none is seen half done

A plan with its first decisions appears complete or not at all, and so do the lines that one decision adds.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from recllm.base.documents import first_fault, json_value, plain
from recllm.base.errors import ConflictError, DataError, PolicyError, StoreError, UsageError
from recllm.base.files import lock_file, safe_id, sweep_drafts, write_whole
from recllm.market.adcopy.request import PersonFacts
from recllm.market.audiences.contacts import CHANNEL_PURPOSE

Entry = TypeVar("Entry")
_file_form = with_config(ConfigDict(extra="forbid", validate_by_name=True))
"""Of what is written to files: an unknown key is refused, also within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """The facts behind a text's claims; when one of them changes, the text is withdrawn."""

    title: str
    price: str | None = None
    """Decimal text without trailing zeros."""
    list_price: str | None = None
    currency: str | None = None
    available: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckNote:
    """What a check says about a text."""

    rule: str
    """The guarantee that the text breaks, or pack and rule of a warning."""
    message: str
    span: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignText:
    """One text for all customers with one item of whom the same may be said."""

    id: str
    item_id: str
    kind: str
    """A `ReasonKind`: nothing about a person can be read from it."""
    channel: str
    locale: str
    modelled: bool
    """For people who agreed to a generative model; the others get the shop's own lines."""
    variant: int
    text: str
    generator: str
    """Whose words they are: "template", or the model's name."""
    failures: tuple[CheckNote, ...]
    warnings: tuple[CheckNote, ...]
    facts: TextFacts
    people: int
    """Who would get it; 0 on a channel that is for everybody."""
    person: PersonFacts = field(default_factory=PersonFacts)
    """What the text may say of these customers."""


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPerson:
    """One person of a plan with their text."""

    user_id: str
    """A pseudonym."""
    held_out: Annotated[bool, Field(alias="held")]
    """Drawn for the comparison: known as if addressed, and never contacted."""
    probability: float
    item_id: str
    kind: str
    channel: str
    locale: str
    variant: int
    text_id: str
    propensity: float = 1.0
    """Probability with which the draw gave this variant to the person."""


@_file_form
@dataclass(frozen=True, kw_only=True)
class CampaignPlan:
    """People of the shop are about addressed + held out + the sum of `excluded`, as of `Audience.excluded`."""

    campaign_id: str
    goal: str
    note: str
    digest: str
    """SHA-256 of the campaign's file."""
    as_of: str
    log_end: str = ""
    """When it was planned; `as_of` where it is empty."""
    send: str
    offer: Mapping[str, Any] | None
    """type, value, start, end as JSON."""
    horizon_days: int
    window_days: int | float
    model_version: str | None
    holdout: float
    """Share that the draw holds out, in [0, 1)."""
    excluded: Mapping[str, int | None]
    """Reason -> people who are not addressed, each under one reason."""
    expected_conversions: float
    cost: float | None
    """What all contacts cost, where a contact has a price."""
    items: tuple[str, ...]
    """All items of the campaign: to take any of them is a conversion."""
    converts: tuple[str, ...]
    """See `Audience.converts`."""
    group: tuple[Mapping[str, Any], ...]
    """What sets the audience apart; see `audiences.reasons`."""
    notes: tuple[str, ...]
    texts: tuple[CampaignText, ...]
    people: tuple[PlannedPerson, ...]
    """Best first, those held out among them."""
    silent_items: Mapping[str, str] = field(default_factory=dict)
    """Product of which nothing is said -> a `texts.Silence`."""
    own_items: bool = False
    """Only to take the item of their own text converts customers, not any of `items`."""

    @property
    def addressed(self) -> tuple[PlannedPerson, ...]:
        return tuple(p for p in self.people if not p.held_out)

    @property
    def held_out(self) -> tuple[PlannedPerson, ...]:
        return tuple(p for p in self.people if p.held_out)

    @property
    def known_until(self) -> datetime:
        """The time of the last order that it knows."""
        return datetime.fromisoformat(self.log_end or self.as_of)

    @property
    def read_texts(self) -> tuple[CampaignText, ...]:
        """Those that someone gets, or everybody."""
        return tuple(t for t in self.texts if t.people or t.channel not in CHANNEL_PURPOSE)


class TextStatus(StrEnum):
    DRAFT = "draft"
    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the log of decisions."""

    at: str
    by: str
    action: TextStatus
    text_id: str
    why: str = ""
    text: str = ""
    """The new wording of an edit, with the findings of the checks and their facts."""
    failures: tuple[CheckNote, ...] = ()
    warnings: tuple[CheckNote, ...] = ()
    facts: TextFacts | None = None


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEntry:
    """One line of the log of exports; people by pseudonym."""

    at: str
    send_from: str
    reached: tuple[str, ...]
    held_out: Annotated[tuple[str, ...], Field(alias="held")]
    texts: Mapping[str, str]
    """Person -> id of their text."""
    dropped: Mapping[str, int]
    """Reason -> people of the plan who were not reached."""
    sends: bool = False
    """Its messages are sent from here, see `recllm.market.sending`; else files were written."""


class CampaignFolder:
    """The folder of one campaign with its files, whether they exist or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"
        self.people = path / "people.jsonl"
        self.decisions = path / "decisions.jsonl"
        self.exports = path / "exports.jsonl"
        self.outbox = path / "outbox.jsonl"

    @classmethod
    def of(cls, root: Path, campaign_id: str) -> CampaignFolder:
        """root: the workspace's folder."""
        return cls(root / "campaigns" / safe_id(campaign_id, "a campaign's id"))

    def aside(self, suffix: str) -> Path:
        """Next to the folder: the locks "lock" and "send"; "part", a new plan; "old", a replaced one."""
        return self.path.with_name(f".{self.path.name}.{suffix}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For reading and changes; not to be nested. Raises `StoreError` when another process keeps the campaign for a
        minute, and when the disk does not take what is written in the block."""
        old, draft = self.aside("old"), self.aside("part")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with lock_file(self.aside("lock")):
                if old.exists() and not self.path.exists():  # stopped between the two renames of `publish`
                    old.replace(self.path)
                for leftover in filter(Path.exists, (old, draft)):
                    shutil.rmtree(leftover, ignore_errors=True)
                sweep_drafts(self.path)
                yield
        except OSError as error:
            reason = f"{error.strerror or error}: {error.filename or self.path}"
            raise StoreError(
                f"the campaign {self.path.name!r} cannot be written ({reason}); nothing half done was kept: free some "
                "space or make the folder writable, then repeat it"
            ) from error

    def revision(self, digest: str) -> str:
        """16 hex digits over the campaign's file, by its digest, its plan and its logs. Under the lock."""
        parts = [digest.encode()]
        for file in (self.plan, self.decisions, self.exports):
            parts.append(sha256(file.read_bytes()).digest() if file.exists() else b"")
        return sha256(b"\0".join(parts)).hexdigest()[:16]

    def check_revision(self, digest: str, revision: str | None) -> None:
        """Raises `ConflictError` for another revision than the present one. Under the lock."""
        if revision is not None and revision != self.revision(digest):
            raise ConflictError(
                f"the campaign {self.path.name!r} was changed since you read it; read it again, then repeat this"
            )

    def check_free(self, *, replace: bool) -> None:
        """Raises `UsageError` for an id that no new campaign may have, `PolicyError` when its campaign was exported."""
        if self.path.name.startswith(".") or self.path.name.endswith(".tmp"):
            raise UsageError(
                f"the campaign {self.path.name!r}: an id that begins with a dot or ends in .tmp is that of a file in "
                "the making; take another id"
            )
        if not self.plan.exists():
            return
        if self.exports.exists():
            raise PolicyError(
                f"the campaign {self.path.name!r} has been exported, and its report needs its plan; take another id"
            )
        if not replace:
            raise UsageError(f"there is a campaign {self.path.name!r}; take another id, or plan again with --replace")


def publish(folder: CampaignFolder, plan: CampaignPlan, *, replace: bool, decisions: Sequence[Decision] = ()) -> None:
    """Puts a plan with its first decisions into its folder. Raises what `check_free` raises."""
    old = folder.aside("old")
    with folder.locked():
        folder.check_free(replace=replace)
        draft = CampaignFolder(folder.aside("part"))
        try:
            draft.path.mkdir(mode=0o700)
            people = adapter_of(tuple[PlannedPerson, ...]).dump_python(plan.people, mode="json", by_alias=True)
            write_whole(draft.people, json_lines(people))
            head = plain(dataclasses.replace(plan, people=()))
            del head["people"]
            write_whole(draft.plan, json.dumps(head, ensure_ascii=False, indent=1) + "\n")
            append_decisions(draft.decisions, decisions)
            if folder.path.exists():
                folder.path.replace(old)
            draft.path.replace(folder.path)
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_plan(folder: CampaignFolder) -> CampaignPlan:
    """Raises `UsageError` where nothing was planned, `DataError` for a damaged file."""
    with folder.locked():
        head = read_head(folder)
        with undamaged(folder.people):
            lines = b",".join(filter(None, folder.people.read_bytes().split(b"\n")))
            people = adapter_of(tuple[PlannedPerson, ...]).validate_json(b"[" + lines + b"]", strict=True)
    return dataclasses.replace(head, people=people)


def read_head(folder: CampaignFolder) -> CampaignPlan:
    """The plan without its people."""
    if not folder.plan.exists():
        raise UsageError(f"nothing is planned for {folder.path.name!r}; run: recllm campaign plan FILE")
    with undamaged(folder.plan):
        fields = json_value(folder.plan.read_bytes()) | {"people": []}
        head: CampaignPlan = adapter_of(CampaignPlan).validate_json(json.dumps(fields), strict=True)
    return head


@contextmanager
def undamaged(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        reason = first_fault(error, quoted=False) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{file}: the plan is damaged: {reason}; plan again with --replace") from error


def append(log: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to a log under the folder's lock, all or none."""
    if entries:
        write_whole(log, json_lines([*read_log(log), *entries]))


def read_log(log: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; none without the file.
    Raises `DataError` for a damaged line."""
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(log.read_bytes().splitlines() if log.exists() else (), start=1):
        try:
            entries.append({**json_value(line)})
        except (ValueError, TypeError) as error:
            raise DataError(f"{log}, line {number}: damaged; put back the file from a backup") from error
    return entries


def append_decisions(log: Path, decisions: Sequence[Decision]) -> None:
    """As `append`; what is empty stays out of a decision's line."""
    append(log, [{k: v for k, v in plain(decision).items() if v or k == "by"} for decision in decisions])


def read_entries(log: Path, form: type[Entry]) -> list[Entry]:
    """A log of decisions or exports. Raises `DataError` as `read_log`, and for another form."""
    try:
        entries: list[Entry] = adapter_of(list[form]).validate_python(read_log(log))  # type: ignore[valid-type]
        return entries
    except ValidationError as error:
        raise DataError(
            f"{log}, entry {first_fault(error, quoted=False)}; another version of recllm wrote it: use that one"
        ) from error


def json_lines(entries: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


@cache
def adapter_of(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)
