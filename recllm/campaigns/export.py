"""What leaves: one file per channel, of people who agree at this moment, with texts that somebody approved."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

from recllm.adcopy.channels import channel_named
from recllm.audiences.export import guarded
from recllm.audiences.selection import check_floor
from recllm.audiences.targets import TEXT_ITEM
from recllm.campaigns.decisions import State, Status
from recllm.campaigns.folder import append, read_log
from recllm.campaigns.hours import Window, send_window
from recllm.campaigns.message import TEMPLATE, message
from recllm.campaigns.open_campaign import Desk
from recllm.campaigns.plan_types import Person, Text
from recllm.campaigns.suppression import suppressed_ids
from recllm.documents import plain
from recllm.errors import NothingToDo, PolicyError
from recllm.jobs.feedback import FEEDBACK_SCHEMA
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import Action, Purpose
from recllm.workspace.clock import present

WITHDRAWN, SUPPRESSED, UNAPPROVED = "consent_withdrawn", "suppression_list", "text_not_approved"
COLUMNS = ("item_id", "text_id", "locale", "generated", "send_from", "send_until")
"""Of every file, before the channel's own parts. For people `user_id` and `request_id`, which a click can carry, stand
before them."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """reached: people in the files. dropped: reason -> people of the plan who are not."""

    campaign_id: str
    reached: int
    held: int
    dropped: Mapping[str, int]
    files: tuple[str, ...]
    window: Window
    people: tuple[str, ...]
    """Pseudonyms of those reached."""


def export_campaign(
    desk: Desk, folder: Path, *, ids: Mapping[str, str] | None = None, clock: datetime | None = None
) -> Exported:
    """Writes ID-CHANNEL.csv files into `folder`, and logs whom they reach; who is held out is in none of them.

    ids: pseudonym -> the shop's own id, where it is known. Raises `PolicyError` when no text is approved, or fewer
    people than the policy's floor are left, `NothingToDo` with the counts when nobody is, or the offer is over.
    """
    now = desk.states
    if not any(state.status is Status.APPROVED for state in now.values()):
        raise PolicyError(f"no text of {desk.plan.campaign_id!r} is approved; see recllm campaign approve FILE")
    window = _window(desk)
    reached, dropped = _still(desk, desk.plan.addressed, now)
    held, _ = _still(desk, desk.plan.held, now)
    counts = ", ".join(f"{reason} {n:,}" for reason, n in dropped.items())
    if not reached:
        raise NothingToDo(f"nobody of {desk.plan.campaign_id!r} is left to reach: {counts}")
    check_floor(len(reached), desk.workspace.policy.group_floor)
    folder.mkdir(parents=True, exist_ok=True)
    files = _write(desk, folder, reached, now, window, ids or {})
    _log(desk, reached, held, dropped, window, clock or datetime.now(UTC))
    return Exported(
        campaign_id=desk.plan.campaign_id,
        reached=len(reached),
        held=len(held),
        dropped=dropped,
        files=tuple(str(file) for file in files),
        window=window,
        people=tuple(p.user_id for p in reached),
    )


def _window(desk: Desk) -> Window:
    offer, file = desk.file.offer, desk.file
    found = send_window(desk.moment, file.quiet, desk.workspace.settings.timezone, offer.end if offer else None)
    if found is None:
        raise NothingToDo(f"the offer of {file.id!r} ends before the quiet hours do; nothing can be sent in time")
    return found


def _still(desk: Desk, people: Sequence[Person], now: Mapping[str, State]) -> tuple[list[Person], dict[str, int]]:
    """Who may be reached at this moment, and how many may not for which reason. Those held out are asked the same, so
    that both sides of the comparison lose the same kind of people."""
    gate, names = desk.workspace.gate(), [p.user_id for p in people]
    personal = gate.permits_each(names, Purpose.PERSONALISATION)
    channel = {c: gate.permits_each(names, CHANNEL_PURPOSE[c]) for c in desk.file.personal}
    never = set(desk.workspace.pseudonymiser().many(suppressed_ids(desk.workspace, desk.file)))
    kept, dropped = [], Counter[str]()
    for place, person in enumerate(people):
        if not (personal[place] and channel[person.channel][place]):
            dropped[WITHDRAWN] += 1
        elif person.user_id in never:
            dropped[SUPPRESSED] += 1
        elif now[person.text_id].status is not Status.APPROVED:
            dropped[UNAPPROVED] += 1
        else:
            kept.append(person)
    return kept, dict(dropped)


def _write(
    desk: Desk,
    folder: Path,
    reached: Sequence[Person],
    now: Mapping[str, State],
    window: Window,
    ids: Mapping[str, str],
) -> list[Path]:
    files, texts = [], {t.id: t for t in desk.plan.texts}
    for channel in desk.file.channels:
        if channel in desk.file.public:
            rows = [_row(desk, t, now[t.id], window) for t in texts.values() if t.channel == channel]
            rows = [row for row in rows if now[row["text_id"]].status is Status.APPROVED]
        else:
            rows = [
                _named(desk, p, ids) | _row(desk, texts[p.text_id], now[p.text_id], window)
                for p in reached
                if p.channel == channel
            ]
        if rows:
            files.append(_csv(folder / f"{desk.plan.campaign_id}-{channel}.csv", rows))
    return files


def _named(desk: Desk, person: Person, ids: Mapping[str, str]) -> dict[str, str]:
    return {"user_id": ids.get(person.user_id, person.user_id), "request_id": _request(desk, person)}


def _request(desk: Desk, person: Person) -> str:
    return sha256(f"{desk.plan.campaign_id}\0{person.user_id}".encode()).hexdigest()[:16]


def _row(desk: Desk, text: Text, state: State, window: Window) -> dict[str, str]:
    """One line of a file: whose words they are, when it may leave, and the channel's parts with what the law adds."""
    generated = text.generator != TEMPLATE
    whole = message(desk.file, state.text, channel=text.channel, locale=text.locale, generator=text.generator)
    parts = {part.name: words for part, words in channel_named(text.channel).split(whole)}
    head = (text.item_id, text.id, text.locale, str(generated).lower(), _moment(window.start), _moment(window.end))
    return dict(zip(COLUMNS, head, strict=True)) | parts


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")


def _csv(file: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """UTF-8, whole or not at all, and no cell that a spreadsheet takes for a formula."""
    partial = file.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: guarded(cell) for name, cell in row.items()} for row in rows)
    return partial.replace(file)


def _log(
    desk: Desk,
    reached: Sequence[Person],
    held: Sequence[Person],
    dropped: Mapping[str, int],
    window: Window,
    clock: datetime,
) -> None:
    """Once reached, a person stays reached. What they were sent counts as shown, for frequency caps and feedback."""
    before = {name for line in read_log(desk.folder.exports) for name in line["reached"]}
    entry: dict[str, Any] = {
        "at": clock.isoformat(timespec="seconds"),
        "send_from": plain(window.start),
        "reached": [p.user_id for p in reached],
        "held": [p.user_id for p in held],
        "texts": {p.user_id: p.text_id for p in reached},
        "dropped": dict(dropped),
    }
    append(desk.folder.exports, [entry])
    _record_shown(desk, [p for p in reached if p.user_id not in before], clock)


def _record_shown(desk: Desk, people: Sequence[Person], clock: datetime) -> None:
    """In a log that is replayed the present is its end, and must stay there."""
    from recllm.ingest.record import record_events

    with desk.workspace.store().read() as reader:
        last = reader.last_event()
    if last is None:
        return
    ended = int(last.timestamp()) + 1
    at = last if present(ended, clock) == ended else clock
    counted = desk.workspace.gate().permits_each([p.user_id for p in people], Purpose.ANALYTICS)
    rows = [
        (p.user_id, p.item_id, Action.SHOWN.value, at, _request(desk, p), 1, desk.plan.model_version)
        for p, yes in zip(people, counted, strict=True)
        if yes and p.item_id in desk.catalogue.items and p.item_id != TEXT_ITEM
    ]
    if rows:
        frame = pl.DataFrame(rows, schema=FEEDBACK_SCHEMA, orient="row")
        record_events(frame, desk.workspace.store(), source=f"campaign {desk.plan.campaign_id}")
