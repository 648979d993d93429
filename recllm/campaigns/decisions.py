"""What has been decided about each text of a plan, read from a log that only grows (G18).

    draft ──► approved ──► withdrawn (the price changed, the offer ended, the item is gone)
      │  ▲        │             │
      │  └── edited ◄───────────┘     a new wording, checked when it is entered; it waits for approval as a draft does
      └────► rejected

Nothing is approved without a person, unless the campaign says `auto` and no rule warns; what fails a check is approved
by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from recllm.adcopy.record import approvable
from recllm.campaigns.folder import CampaignFolder, append, doubts, read_log
from recllm.campaigns.plan_types import Doubt, Facts, Plan, Text
from recllm.errors import DataError, PolicyError, UsageError
from recllm.schema import Check

AUTO = "campaign (auto)"
"""Who approved a text that no person looked at."""

CHECKER = "recllm"
"""Who withdraws texts."""


class Status(StrEnum):
    DRAFT = "draft"
    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What holds of one text now. by, at, why: of the latest decision, empty for a draft."""

    status: Status
    text: str
    failures: tuple[Doubt, ...]
    warnings: tuple[Doubt, ...]
    facts: Facts
    """Under which it was checked."""
    by: str = ""
    at: str = ""
    why: str = ""


def states(folder: CampaignFolder, plan: Plan) -> dict[str, State]:
    """Of each text. Raises `DataError` for a log that was changed, or is of another plan."""
    found = {t.id: _drafted(t) for t in plan.texts}
    for entry in read_log(folder.decisions):
        name = entry["text_id"]
        if name not in found:
            raise DataError(f"{folder.decisions}: decides about a text {name!r} that the plan does not have")
        found[name] = _after(found[name], entry)
    return found


def approve(folder: CampaignFolder, plan: Plan, text_ids: Sequence[str], *, by: str, at: datetime) -> None:
    """A person approves these texts, all or none. Raises `PolicyError` for one that fails a check or was rejected or
    withdrawn, `UsageError` for an unknown one or an empty name."""
    now = states(folder, plan)
    for name in _known(text_ids, now):
        _check_approvable(name, now[name], by=by)
    _decide(folder, Status.APPROVED, text_ids, by=by, at=at)


def approve_alone(folder: CampaignFolder, plan: Plan, *, at: datetime) -> list[str]:
    """What a campaign that says `auto` approves: its drafts without failure and without warning."""
    names = [
        name
        for name, state in states(folder, plan).items()
        if state.status is Status.DRAFT
        and not list(approvable(_checks(state), warnings=len(state.warnings), by=None, auto=True))
    ]
    _decide(folder, Status.APPROVED, names, by=AUTO, at=at)
    return names


def reject(
    folder: CampaignFolder, plan: Plan, text_ids: Sequence[str], *, by: str, at: datetime, why: str = ""
) -> None:
    """A person says no; the texts do not leave."""
    _check_name(by)
    _known(text_ids, states(folder, plan))
    _decide(folder, Status.REJECTED, text_ids, by=by, at=at, why=why)


def edit(
    folder: CampaignFolder,
    plan: Plan,
    text_id: str,
    *,
    text: str,
    failures: Sequence[Doubt],
    warnings: Sequence[Doubt],
    facts: Facts,
    by: str,
    at: datetime,
) -> None:
    """A person's own wording, with what the checks say about it now; it is kept even where they fail."""
    _check_name(by)
    _known([text_id], states(folder, plan))
    said = {"failures": [asdict(d) for d in failures], "warnings": [asdict(d) for d in warnings]}
    entry = {"text": text, **said, "facts": asdict(facts)}
    _decide(folder, Status.EDITED, [text_id], by=by, at=at, **entry)


def withdraw(folder: CampaignFolder, reasons: Mapping[str, str], *, at: datetime) -> None:
    """text_id -> why it may not leave any more."""
    if reasons:
        head = _head(Status.WITHDRAWN, CHECKER, at)
        append(folder.decisions, [{**head, "text_id": name, "why": why} for name, why in reasons.items()])


def _decide(
    folder: CampaignFolder, status: Status, text_ids: Sequence[str], *, by: str, at: datetime, **more: Any
) -> None:
    entry = _head(status, by, at) | {name: value for name, value in more.items() if value}
    if text_ids:
        append(folder.decisions, [{**entry, "text_id": name} for name in text_ids])


def _head(status: Status, by: str, at: datetime) -> dict[str, Any]:
    return {"at": at.isoformat(timespec="seconds"), "by": by.strip(), "action": status.value}


def _drafted(text: Text) -> State:
    return State(status=Status.DRAFT, text=text.text, failures=text.failures, warnings=text.warnings, facts=text.facts)


def _after(state: State, entry: Mapping[str, Any]) -> State:
    who = {"by": entry["by"], "at": entry["at"], "why": entry.get("why", "")}
    status = Status(entry["action"])
    if status is not Status.EDITED:
        return replace(state, status=status, **who)
    return State(status=status, text=entry["text"], facts=Facts(**entry["facts"]), **doubts(entry), **who)


def _known(text_ids: Sequence[str], now: Mapping[str, State]) -> Sequence[str]:
    if missing := next((name for name in text_ids if name not in now), None):
        raise UsageError(f"the campaign has no text {missing!r}; see recllm campaign approve FILE")
    return text_ids


def _check_approvable(name: str, state: State, *, by: str) -> None:
    _check_name(by)
    if state.status in (Status.REJECTED, Status.WITHDRAWN):
        raise PolicyError(f"{name} was {state.status} ({state.why or 'no reason given'}); edit it first")
    for fault in approvable(_checks(state), warnings=len(state.warnings), by=by):
        raise PolicyError(f"{name} cannot be approved: it {fault.message}; edit it, or reject it")


def _check_name(by: str) -> None:
    if not by.strip():
        raise UsageError("say who decides: --by NAME")


def _checks(state: State) -> list[Check]:
    return [Check(guarantee=d.rule, passed=False, message=d.message, span=d.span) for d in state.failures]
