"""What a campaign brought: who was reached, what they did, and how that differs from people who were held out.

Only the holdout, which a hash drew, can tell an effect. The rest of the shop is shown beside them as what it is: other
people. Nothing is told about fewer people than the policy's group floor.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from recllm.campaigns.folder import read_exports
from recllm.campaigns.measures import (
    CampaignOutcome,
    ConfidenceInterval,
    GroupFigures,
    SegmentFigures,
    difference,
    mean_difference,
    share,
)
from recllm.campaigns.open_campaign import OpenCampaign
from recllm.campaigns.plan_types import PlannedPerson
from recllm.campaigns.segments import divided
from recllm.data.dataset import Dataset, utc
from recllm.data.interactions import of_actions
from recllm.errors import NothingToDo
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import Action, Purpose
from recllm.text.templates import language
from recllm.workspace.workspace import log_end

People = Sequence[PlannedPerson]


@dataclass(frozen=True, eq=False)
class _WindowActions:
    """What every person of the dataset did within the window, (n_users,) each."""

    data: Dataset
    converted: NDArray[np.bool_]
    revenue: NDArray[np.float64]
    unsubscribed: NDArray[np.bool_]
    floor: int
    """Fewest people that are told about."""

    def counted(self, people: People) -> list[PlannedPerson]:
        """Those who agreed to be counted: the dataset holds nobody else."""
        rows = self.data.user_rows([p.user_id for p in people])
        return [p for p, row in zip(people, rows, strict=True) if row >= 0]

    def rows(self, people: People) -> NDArray[np.int64]:
        return self.data.user_rows([p.user_id for p in people])

    def figures(self, rows: NDArray[np.int64], *, addressed: bool = True) -> GroupFigures | None:
        """None for fewer people than the floor."""
        n = len(rows)
        if n < max(self.floor, 1):
            return None
        hits, money = int(self.converted[rows].sum()), float(self.revenue[rows].sum())
        return GroupFigures(
            people=n,
            converted=hits,
            rate=share(hits, n),
            revenue=round(money, 2),
            revenue_per_person=money / n,
            unsubscribed=int(self.unsubscribed[rows].sum()) if addressed else None,
        )


def campaign_outcome(campaign: OpenCampaign) -> CampaignOutcome:
    """From the first export to the end of the window, or of the log. Raises `NothingToDo` before the first export."""
    exports, plan, workspace = read_exports(campaign.folder), campaign.plan, campaign.workspace
    if not exports:
        raise NothingToDo(f"the campaign {plan.campaign_id!r} was not exported yet; there is nothing to report")
    start = datetime.fromisoformat(exports[0].send_from)
    end = start + timedelta(days=plan.window_days)
    actions = _window_actions(campaign, start, end)
    data = actions.data
    # whom any export reached, or would have reached, had they not been held out
    reached_names = {name for entry in exports for name in entry.reached}
    held_out_names = {name for entry in exports for name in entry.held_out}
    all_reached = [p for p in plan.people if p.user_id in reached_names]
    reached = actions.counted(all_reached)
    held_out = actions.counted([p for p in plan.people if p.user_id in held_out_names])
    rows, control_rows = actions.rows(reached), actions.rows(held_out)
    figures, control = actions.figures(rows), actions.figures(control_rows)
    unplanned = np.setdiff1d(np.arange(data.n_users), actions.rows(plan.people))
    outcome = CampaignOutcome(
        campaign_id=plan.campaign_id,
        goal=plan.goal,
        note=plan.note,
        start=start,
        end=end,
        until=utc(log_end(workspace) or 0),
        planned=len(plan.addressed),
        planned_held_out=len(plan.held_out),
        dropped=exports[-1].dropped,
        not_counted=len(all_reached) - len(reached),
        horizon_days=plan.horizon_days,
        expected_conversions=sum(p.probability for p in reached),
        reached=figures,
        held_out=control,
        other_people=actions.figures(unplanned, addressed=False),
        effect=_effect(figures, control),
        revenue_effect=mean_difference(actions.revenue[rows], actions.revenue[control_rows])
        if figures and control
        else None,
        segments=_segments(actions, campaign, reached, held_out),
        words=(),
    )
    return replace(outcome, words=conclusions(outcome, actions.floor, workspace.settings.locale))


def _window_actions(campaign: OpenCampaign, start: datetime, end: datetime) -> _WindowActions:
    plan, gate = campaign.plan, campaign.workspace.gate()
    data = gate.dataset(Purpose.ANALYTICS)
    items = data.item_rows(list(plan.items))
    events = of_actions(data.events, [Action(name) for name in plan.converts])
    in_window = (events.at >= start.timestamp()) & (events.at < end.timestamp())
    events = events.select(in_window & np.isin(events.item, items[items >= 0]))
    purchases = events.of(Action.PURCHASE)
    paid = np.nan_to_num(purchases.price.astype(np.float64)) * purchases.quantity
    names = data.users["user_id"].to_list()
    channel = {p.user_id: p.channel for p in plan.people}
    unsubscribed = np.zeros(data.n_users, bool)
    for channel_name, purpose in CHANNEL_PURPOSE.items():
        agreed = np.array(gate.permits_each(names, purpose), bool)
        unsubscribed |= np.array([channel.get(name) == channel_name for name in names], bool) & ~agreed
    return _WindowActions(
        data=data,
        converted=np.bincount(events.user, minlength=data.n_users) > 0,
        revenue=np.bincount(purchases.user, paid, minlength=data.n_users).astype(np.float64),
        unsubscribed=unsubscribed,
        floor=campaign.workspace.policy.group_floor,
    )


def _effect(figures: GroupFigures | None, control: GroupFigures | None) -> ConfidenceInterval | None:
    if figures is None or control is None:
        return None
    return difference(figures.converted, figures.people, control.converted, control.people)


def _segments(
    actions: _WindowActions, campaign: OpenCampaign, reached: People, held_out: People
) -> tuple[SegmentFigures, ...]:
    """Every way to divide the people; small parts are told together, and what stays small is not told.

    The parts of the holdout are told only where all of them are large enough: a small one could be had by subtraction.
    """
    segments = []
    for by, parts in divided(reached, held_out, campaign.catalogue.items, actions.floor).items():
        figures = {name: [actions.figures(actions.rows(people)) for people in both] for name, both in parts.items()}
        comparable = all(control is not None for _, control in figures.values())
        for name, (group, control) in figures.items():
            if group is not None:
                control = control if comparable else None
                effect = _effect(group, control)
                segments.append(SegmentFigures(by=by, name=name, reached=group, held_out=control, effect=effect))
    return tuple(segments)


# --- in words --------------------------------------------------------------------------------------------------------


def conclusions(outcome: CampaignOutcome, floor: int, locale: str) -> tuple[str, ...]:
    """What the figures say and what they do not. floor: the fewest people that are told about."""
    tables = tomllib.loads(resources.files(__package__).joinpath("conclusions.toml").read_text("utf-8"))
    sentences = tables.get(language(locale), tables["en"])
    return (_on_effect(outcome, floor, sentences), *_doubts(outcome, sentences))


def _on_effect(outcome: CampaignOutcome, floor: int, sentences: Mapping[str, str]) -> str:
    effect = outcome.effect
    if outcome.until <= outcome.start:
        return sentences["window_unknown"].format(start=f"{outcome.start:%Y-%m-%d}", until=f"{outcome.until:%Y-%m-%d}")
    if outcome.reached is None:
        return sentences["few_reached"].format(floor=floor)
    if effect is None:
        return sentences["few_held_out" if outcome.planned_held_out else "no_holdout"].format(floor=floor)
    points = sentences["points"].format(value=100 * effect.value, low=100 * effect.low, high=100 * effect.high)
    if effect.excludes_zero:
        return sentences["more_often" if effect.value > 0 else "less_often"].format(points=points)
    wide = 100 * max(effect.high - effect.value, effect.value - effect.low)
    return sentences["unclear"].format(points=points, wide=wide)


def _doubts(outcome: CampaignOutcome, sentences: Mapping[str, str]) -> Iterator[str]:
    if outcome.start < outcome.until < outcome.end:
        yield sentences["window_open"].format(end=f"{outcome.end:%Y-%m-%d}", until=f"{outcome.until:%Y-%m-%d}")
    if outcome.not_counted:
        yield sentences["not_counted"].format(n=outcome.not_counted)
    if any(segment.effect is not None for segment in outcome.segments):
        yield sentences["many_segments"]
    if outcome.reached is not None and outcome.other_people is not None and outcome.effect is not None:
        yield sentences["other_people"]
