"""What has been decided about each text of a plan, read from a log that only grows (G18).

    draft ──► approved ──► withdrawn (the price changed, the offer ended, the item is gone)
      │  ▲        │             │
      │  └── edited ◄───────────┘     a new wording, checked when it is entered; it waits for approval as a draft does
      └────► rejected

Nothing is approved without a person, unless the campaign says `auto` and no rule warns; what fails a check is approved
by nobody.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from recllm.adcopy.record import approvable
from recllm.campaigns.folder import (
    CampaignFolder,
    CampaignPlan,
    CampaignText,
    CheckNote,
    Decision,
    TextFacts,
    TextStatus,
    append_decisions,
    check_current,
    read_entries,
)
from recllm.errors import DataError, PolicyError, UsageError
from recllm.schema import Check

AUTO = "campaign (auto)"
"""Who approved a text that no person looked at."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextState:
    """What holds of one text now."""

    status: TextStatus
    text: str
    failures: tuple[CheckNote, ...]
    warnings: tuple[CheckNote, ...]
    facts: TextFacts
    """Under which it was checked."""
    by: str = ""
    """Who decided last, when and why; empty for a draft."""
    at: str = ""
    why: str = ""


States = Mapping[str, TextState]
"""Of each text, by its id."""


def text_states(folder: CampaignFolder, plan: CampaignPlan) -> dict[str, TextState]:
    """Under the folder's lock. Raises `DataError` for a changed log, `UsageError` when there is another plan by now."""
    check_current(folder, plan)
    states = {
        t.id: TextState(status=TextStatus.DRAFT, text=t.text, failures=t.failures, warnings=t.warnings, facts=t.facts)
        for t in plan.texts
    }
    for decision in read_entries(folder.decisions, Decision):
        name = decision.text_id
        if name not in states:
            raise DataError(f"{folder.decisions}: decides about a text {name!r} that the plan does not have")
        state = replace(states[name], status=decision.action, by=decision.by, at=decision.at, why=decision.why)
        if decision.action is TextStatus.EDITED:
            state = replace(
                state,
                text=decision.text,
                failures=decision.failures,
                warnings=decision.warnings,
                facts=decision.facts or state.facts,
            )
        states[name] = state
    return states


def approve(folder: CampaignFolder, plan: CampaignPlan, text_ids: Sequence[str], *, by: str, at: datetime) -> None:
    """A person approves these texts, all or none. Raises `PolicyError` for one that fails a check or was rejected or
    withdrawn, `UsageError` for an unknown one or an empty name."""

    def approvals(states: States) -> list[Decision]:
        for name in text_ids:
            state = states[name]
            if state.status in (TextStatus.REJECTED, TextStatus.WITHDRAWN):
                raise PolicyError(f"{name} was {state.status} ({state.why or 'no reason given'}); edit it first")
            if faults := _faults(state, by=by):
                raise PolicyError(f"{name} cannot be approved: it {faults[0]}; edit it, or reject it")
        return decisions_about(TextStatus.APPROVED, text_ids, by=by, at=at)

    decide(folder, plan, text_ids, approvals, by=by)


def auto_approvals(plan: CampaignPlan, *, at: datetime) -> list[Decision]:
    """What a campaign that says `auto` approves of its new plan: texts without failure and without warning."""
    text_ids = [text.id for text in plan.texts if not _faults(text, by=None, auto=True)]
    return decisions_about(TextStatus.APPROVED, text_ids, by=AUTO, at=at)


def reject(
    folder: CampaignFolder, plan: CampaignPlan, text_ids: Sequence[str], *, by: str, at: datetime, why: str = ""
) -> None:
    """A person says no; the texts do not leave."""
    rejections = decisions_about(TextStatus.REJECTED, text_ids, by=by, at=at, why=why)
    decide(folder, plan, text_ids, lambda _: rejections, by=by)


def decide(
    folder: CampaignFolder,
    plan: CampaignPlan,
    text_ids: Sequence[str],
    new_decisions: Callable[[States], Sequence[Decision]],
    *,
    by: str,
) -> None:
    """Logs what `new_decisions` makes of the states as they are under the lock.

    Raises `UsageError` for an unknown one of `text_ids` or an empty name.
    """
    if not by.strip():
        raise UsageError("say who decides: --by NAME")
    with folder.locked():
        states = text_states(folder, plan)
        if missing := next((name for name in text_ids if name not in states), None):
            raise UsageError(f"the campaign has no text {missing!r}; see recllm campaign approve FILE")
        new = new_decisions(states)
        append_decisions(folder.decisions, new)
    for action, n in Counter(decision.action for decision in new).items():
        _logger.info("%d texts %s", n, action)


def decisions_about(
    action: TextStatus, text_ids: Sequence[str], *, by: str, at: datetime, why: str = ""
) -> list[Decision]:
    moment = at.isoformat(timespec="seconds")
    return [Decision(at=moment, by=by.strip(), action=action, text_id=name, why=why) for name in text_ids]


def _faults(text: CampaignText | TextState, *, by: str | None, auto: bool = False) -> list[str]:
    """Why a text cannot be approved."""
    checks = [Check(guarantee=n.rule, passed=False, message=n.message, span=n.span) for n in text.failures]
    return [fault.message for fault in approvable(checks, warnings=len(text.warnings), by=by, auto=auto)]
