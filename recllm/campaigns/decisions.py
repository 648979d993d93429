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
from recllm.campaigns.folder import CampaignFolder, append, check_current, decision_entry, read_decisions
from recllm.campaigns.plan_types import CampaignPlan, CheckNote, Decision, TextFacts, TextStatus
from recllm.errors import DataError, PolicyError, UsageError
from recllm.schema import Check

AUTO = "campaign (auto)"
"""Who approved a text that no person looked at."""

CHECKER = "recllm"
"""Who withdraws texts."""

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


def text_states(folder: CampaignFolder, plan: CampaignPlan) -> dict[str, TextState]:
    """Of each text. Raises `DataError` for a log that was changed, `UsageError` when there is another plan by now."""
    with folder.locked():
        check_current(folder, plan)
        return states_under_lock(folder, plan)


def states_under_lock(folder: CampaignFolder, plan: CampaignPlan) -> dict[str, TextState]:
    states = {
        t.id: TextState(status=TextStatus.DRAFT, text=t.text, failures=t.failures, warnings=t.warnings, facts=t.facts)
        for t in plan.texts
    }
    for decision in read_decisions(folder):
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

    def approvals(states: Mapping[str, TextState]) -> list[Decision]:
        for name in text_ids:
            _check_approvable(name, states[name], by=by)
        return _decisions(TextStatus.APPROVED, text_ids, by=by, at=at)

    _decide(folder, plan, text_ids, approvals, by=by)


def auto_approvals(plan: CampaignPlan, *, at: datetime) -> list[Decision]:
    """What a campaign that says `auto` approves of its new plan: texts without failure and without warning."""
    names = [
        text.id
        for text in plan.texts
        if not list(approvable(_checks(text.failures), warnings=len(text.warnings), by=None, auto=True))
    ]
    return _decisions(TextStatus.APPROVED, names, by=AUTO, at=at)


def reject(
    folder: CampaignFolder, plan: CampaignPlan, text_ids: Sequence[str], *, by: str, at: datetime, why: str = ""
) -> None:
    """A person says no; the texts do not leave."""
    rejections = _decisions(TextStatus.REJECTED, text_ids, by=by, at=at, why=why)
    _decide(folder, plan, text_ids, lambda _: rejections, by=by)


def edit(
    folder: CampaignFolder,
    plan: CampaignPlan,
    text_id: str,
    *,
    text: str,
    failures: tuple[CheckNote, ...],
    warnings: tuple[CheckNote, ...],
    facts: TextFacts,
    by: str,
    at: datetime,
) -> None:
    """A person's own wording, with what the checks say about it now; it is logged even where they fail."""
    (blank,) = _decisions(TextStatus.EDITED, [text_id], by=by, at=at)
    edited = replace(blank, text=text, failures=failures, warnings=warnings, facts=facts)
    _decide(folder, plan, [text_id], lambda _: [edited], by=by)


def withdraw(
    folder: CampaignFolder,
    plan: CampaignPlan,
    stale: Callable[[Mapping[str, TextState]], Mapping[str, str]],
    *,
    at: datetime,
) -> None:
    """stale: from the states of all texts to text_id -> why it may not leave any more."""

    def withdrawals(states: Mapping[str, TextState]) -> list[Decision]:
        whys = stale(states)
        blanks = _decisions(TextStatus.WITHDRAWN, list(whys), by=CHECKER, at=at)
        return [replace(blank, why=whys[blank.text_id]) for blank in blanks]

    _decide(folder, plan, (), withdrawals, by=CHECKER)


def _decide(
    folder: CampaignFolder,
    plan: CampaignPlan,
    text_ids: Sequence[str],
    decisions: Callable[[Mapping[str, TextState]], Sequence[Decision]],
    *,
    by: str,
) -> None:
    """Logs what `decisions` makes of the states as they are under the lock."""
    if not by.strip():
        raise UsageError("say who decides: --by NAME")
    with folder.locked():
        check_current(folder, plan)
        states = states_under_lock(folder, plan)
        if missing := next((name for name in text_ids if name not in states), None):
            raise UsageError(f"the campaign has no text {missing!r}; see recllm campaign approve FILE")
        new = decisions(states)
        append(folder.decisions, [decision_entry(decision) for decision in new])
    for action, n in Counter(decision.action for decision in new).items():
        _logger.info("%d texts %s", n, action)


def _decisions(action: TextStatus, text_ids: Sequence[str], *, by: str, at: datetime, why: str = "") -> list[Decision]:
    moment = at.isoformat(timespec="seconds")
    return [Decision(at=moment, by=by.strip(), action=action, text_id=name, why=why) for name in text_ids]


def _check_approvable(name: str, state: TextState, *, by: str) -> None:
    if state.status in (TextStatus.REJECTED, TextStatus.WITHDRAWN):
        raise PolicyError(f"{name} was {state.status} ({state.why or 'no reason given'}); edit it first")
    for fault in approvable(_checks(state.failures), warnings=len(state.warnings), by=by):
        raise PolicyError(f"{name} cannot be approved: it {fault.message}; edit it, or reject it")


def _checks(failures: Sequence[CheckNote]) -> list[Check]:
    return [Check(guarantee=d.rule, passed=False, message=d.message, span=d.span) for d in failures]
