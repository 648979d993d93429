"""The outcome of a campaign: the people reached, their conversions, and the difference from the people held out.

Only the holdout, which a hash drew, shows an effect. No group below the policy's floor is reported, and callers without
exact figures get noise that is small compared with the intervals: see `workspace.figures`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Mask, Values
from recllm.base.errors import DataError, NothingToDo
from recllm.base.messages import ARRIVED, MessageEventKind
from recllm.base.schema import Action, Item, Purpose
from recllm.base.stats.intervals import LEAST_COMPARED, ConfidenceInterval, difference, mean_difference, share
from recllm.base.words.sentences import section
from recllm.market.audiences.audience import aim
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.campaigns.folder import ExportEntry, PlannedPerson, read_entries
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.propensity.features import money
from recllm.shop.data.dataset import Dataset, utc
from recllm.shop.data.interactions import of_actions
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import log_end

OTHERS = "others"
THIRDS = ("likely", "middling", "unlikely")
People = Sequence[PlannedPerson]
BothSides = tuple[list[PlannedPerson], list[PlannedPerson]]
"""People reached, and people held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """What some people did within the window."""

    people: int
    converted: int
    rate: ConfidenceInterval
    """Share that converted."""
    revenue: float
    """Paid for the campaign's items, in the shop's currency."""
    revenue_per_person: float
    unsubscribed: int | None
    """People who have since withdrawn their consent; None for groups that were not addressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFigures:
    """One segment or variant."""

    by: str
    """channel, locale, reason, likelihood, category, item, variant or text."""
    name: str
    reached: GroupFigures
    held_out: GroupFigures | None = field(metadata={"json": "held"})
    """None, as `effect`, where too few were held out to say anything."""
    effect: ConfidenceInterval | None


class CampaignVerdict(StrEnum):
    """What may be said of a campaign's effect."""

    WORKED = "worked"
    """More customers bought and, where money shows anything, more was paid: both intervals above zero."""
    LOST = "lost"
    """Both lie below."""
    UNCLEAR = "unclear"
    """Neither, or not known yet; the first of the outcome's words is the reason."""


VERDICTS = {"more_often": CampaignVerdict.WORKED, "less_often": CampaignVerdict.LOST}
"""`effect_shown` -> verdict, else `CampaignVerdict.UNCLEAR`."""


@dataclass(frozen=True, kw_only=True)
class CampaignOutcome:
    """The outcome of a campaign. A group of too few people is None, and so is an effect without two groups.

    planned = reached + not_counted + the sum of dropped.

    Reached are all people whose message left, delivered or not: among those held out it is unknown whose message would
    have failed.
    """

    campaign_id: str
    goal: str
    note: str
    start: datetime
    end: datetime
    until: datetime
    """The end of what is known; the window is over when this is not before `end`."""
    planned: int
    planned_held_out: int = field(metadata={"json": "planned_held"})
    dropped: Mapping[str, int]
    not_counted: int
    """They have not agreed to be counted."""
    not_delivered: int
    """People reached whose message is not known to have arrived, on channels with reports of deliveries."""
    messages: Mapping[str, int | None]
    """`MessageEventKind` -> people with such a report, None below the floor; empty without reports."""
    horizon_days: int
    expected_conversions: float
    """Within `horizon_days`, by the model, of those reached."""
    converts: tuple[str, ...]
    reached: GroupFigures | None
    held_out: GroupFigures | None = field(metadata={"json": "held"})
    other_people: GroupFigures | None = field(metadata={"json": "rest"})
    """Of the shop, neither reached nor held out: no comparison."""
    effect: ConfidenceInterval | None
    """Share that converted, reached minus held out."""
    revenue_effect: ConfidenceInterval | None
    """Revenue per person, reached minus held out; None without revenue, or with fewer than `LEAST_COMPARED` people."""
    extra_sales: ConfidenceInterval | None = None
    """The same for all reached together; None while the verdict is not known, or money and share contradict."""
    verdict: CampaignVerdict = CampaignVerdict.UNCLEAR
    segments: tuple[SegmentFigures, ...]
    words: tuple[str, ...]
    """What the figures say and what they do not, as sentences."""


@dataclass(frozen=True, eq=False)
class WindowActions:
    """What every person of the dataset did within the window, (n_users,) each."""

    data: Dataset
    converted: Mask
    revenue: Values
    unsubscribed: Mask
    gate: FigureGate

    def rows(self, people: People) -> Ints:
        """Row of each person, -1 for who has not agreed to be counted."""
        return self.data.user_rows([p.user_id for p in people])

    def figures(
        self,
        rows: Ints,
        *,
        addressed: bool = True,
        is_part: bool = False,
    ) -> GroupFigures | None:
        """None for fewer people than the floor, or that of parts."""
        n, gate = len(rows), self.gate
        if n < (gate.part_floor if is_part else gate.floor):
            return None
        people, hits, unsubscribed = gate.people(n, "people") or 0, self.converted[rows].sum(), self.unsubscribed[rows]
        error = float(self.revenue[rows].std()) / n**0.5
        mean = gate.amount(float(self.revenue[rows].mean()), error, "revenue", int(hits), n)
        rate = gate.share(share(int(hits), n), "rate", n)
        return GroupFigures(
            people=people,
            converted=round(rate.value * people),
            rate=rate,
            revenue=round(mean * people, 2),
            revenue_per_person=mean,
            unsubscribed=gate.count(int(unsubscribed.sum()), "unsubscribed", n) if addressed else None,
        )

    def effect(
        self,
        figures: GroupFigures | None,
        control: GroupFigures | None,
        rows: Ints,
        control_rows: Ints,
    ) -> ConfidenceInterval | None:
        """The difference of the two rates as they are reported."""
        if figures is None or control is None:
            return None
        hits, control_hits = (int(self.converted[people].sum()) for people in (rows, control_rows))
        exact = difference(hits, len(rows), control_hits, len(control_rows))
        return self.gate.moved(exact, figures.rate.value - control.rate.value)


def campaign_outcome(campaign: OpenCampaign, gate: FigureGate) -> CampaignOutcome:
    """From the first export to the end of the window, or of the log. gate: what the reader may learn of groups.
    Raises `NothingToDo` before the first export."""
    plan, workspace = campaign.plan, campaign.workspace
    exports = read_entries(campaign.folder.exports, ExportEntry)
    if not exports:
        raise NothingToDo(f"the campaign {plan.campaign_id!r} was not exported yet; there is nothing to report")
    start = datetime.fromisoformat(exports[0].send_from)
    end = start + timedelta(days=plan.window_days)
    actions = window_actions(campaign, start, end, gate)
    every_row = actions.rows(plan.people)
    # whom any export reached, or would have reached, had they not been held out
    reached_names = {name for entry in exports for name in entry.reached}
    held_out_names = {name for entry in exports for name in entry.held_out}
    countable = [p for p, row in zip(plan.people, every_row, strict=True) if row >= 0]
    reached = [p for p in countable if p.user_id in reached_names]
    held_out = [p for p in countable if p.user_id in held_out_names]
    rows, control_rows = actions.rows(reached), actions.rows(held_out)
    others = np.setdiff1d(np.arange(actions.data.n_users), every_row)
    parts = divided(reached, held_out, campaign.catalogue.items, gate.part_floor)
    reports = workspace.store().campaign_message_events(plan.campaign_id)
    messages_sent = {(p.user_id, p.channel) for p in reached}
    counts = Counter(kind for name, channel, kind in reports if (name, channel) in messages_sent)
    arrived = {(name, channel) for name, channel, kind in reports if kind in ARRIVED}
    reporting = {channel for _, channel, kind in reports if kind is MessageEventKind.DELIVERED}
    sent_from_here = {name for entry in exports if entry.sends for name in entry.reached}
    handed_over = {(name, channel) for name, channel, kind in reports if kind is MessageEventKind.PROCESSED}
    n_not_delivered = sum(
        channel in reporting or (name in sent_from_here and (name, channel) not in handed_over)
        for name, channel in messages_sent - arrived
    )
    figures, control = actions.figures(rows), actions.figures(control_rows)
    revenue_effect = None
    if figures and control and min(len(rows), len(control_rows)) >= LEAST_COMPARED and actions.revenue.any():
        exact = mean_difference(actions.revenue[rows], actions.revenue[control_rows])
        revenue_effect = gate.moved(exact, figures.revenue_per_person - control.revenue_per_person)
    n_not_counted = sum(p.user_id in reached_names for p in plan.people) - len(reached)
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
        not_counted=gate.listed(n_not_counted, "not counted") or 0,
        not_delivered=gate.listed(n_not_delivered, "not delivered") or 0,
        messages={kind.value: gate.listed(counts[kind], kind) for kind in MessageEventKind if counts[kind]},
        horizon_days=plan.horizon_days,
        expected_conversions=gate.amount(sum(p.probability for p in reached), 0.0),
        converts=plan.converts,
        reached=figures,
        held_out=control,
        other_people=None if plan.own_items else actions.figures(others, addressed=False),  # they have no item
        effect=actions.effect(figures, control, rows, control_rows),
        revenue_effect=revenue_effect,
        segments=segments_of(actions, parts),
        words=(),
    )
    finding, extra_sales = effect_shown(outcome), None
    if figures and revenue_effect and finding in ("unclear", *VERDICTS):
        ends = (revenue_effect.value, revenue_effect.low, revenue_effect.high)
        extra_sales = ConfidenceInterval(*(figures.people * end for end in ends))
    return replace(
        outcome,
        extra_sales=extra_sales,
        verdict=VERDICTS.get(finding, CampaignVerdict.UNCLEAR),
        words=conclusions(outcome, gate.floor, workspace.settings.locale),
    )


def effect_shown(outcome: CampaignOutcome) -> str:
    """What can be said of the effect: a key of the sentences of conclusions."""
    reached, held_out, effect = outcome.reached, outcome.held_out, outcome.effect
    if outcome.until <= outcome.start:
        return "window_unknown"
    if reached is None or reached.people < LEAST_COMPARED:
        return "few_reached"
    if held_out is None or effect is None or held_out.people < LEAST_COMPARED:
        return "few_held_out" if outcome.planned_held_out else "no_holdout"
    if outcome.until < outcome.end:
        return "window_open"
    by_share, by_money = ((gap.low > 0) - (gap.high < 0) for gap in (effect, outcome.revenue_effect or effect))
    if by_share != by_money:
        return "contradicted"
    return ("unclear", "more_often", "less_often")[by_share]


def campaign_trial(campaign: OpenCampaign) -> tuple[datetime, pl.DataFrame]:
    """What `propensity.effects.uplift_workspace` learns from: when the first message left, and a table of user_id
    (pseudonyms), treated and outcome, both 0 or 1.

    Treated are the people whose message left. The outcome is a conversion within the window, of people who agreed to be
    counted. Raises `NothingToDo` before the first export or while the window is open, `DataError` without a holdout.
    """
    plan, exports = campaign.plan, read_entries(campaign.folder.exports, ExportEntry)
    if not exports:
        raise NothingToDo(f"the campaign {plan.campaign_id!r} was not exported yet; there is nothing to learn from")
    start = datetime.fromisoformat(exports[0].send_from)
    end, known_until = start + timedelta(days=plan.window_days), utc(log_end(campaign.workspace) or 0)
    if known_until < end:
        raise NothingToDo(
            f"the window of {plan.campaign_id!r} ends on {end:%Y-%m-%d}, and the log on {known_until:%Y-%m-%d}; learn "
            "from it when all is known"
        )
    sent = {name for entry in exports for name in entry.reached}
    held_out = {name for entry in exports for name in entry.held_out} - sent
    if not held_out:
        raise DataError(
            f"the campaign {plan.campaign_id!r} has no holdout, so its effect is unknown; set limits.holdout above 0 "
            "in the next one"
        )
    names = [p.user_id for p in plan.people if p.user_id in sent | held_out]
    actions = window_actions(campaign, start, end, FigureGate(campaign.workspace))
    rows = actions.data.user_rows(names)
    converted = actions.converted[np.maximum(rows, 0)].astype(np.float64)
    table = pl.DataFrame({"user_id": names, "treated": [float(name in sent) for name in names], "outcome": converted})
    return start, table.filter(pl.Series(rows >= 0))


def window_actions(
    campaign: OpenCampaign,
    start: datetime,
    end: datetime,
    gate: FigureGate,
) -> WindowActions:
    plan, policy = campaign.plan, campaign.workspace.gate()
    data = policy.dataset(Purpose.ANALYTICS)
    names = data.users["user_id"].to_list()
    items = data.item_rows(list(plan.items))
    events = of_actions(data.events, [Action(name) for name in plan.converts])
    events = events.select((events.at >= start.timestamp()) & (events.at < end.timestamp()))
    if plan.own_items:
        item_of = {p.user_id: p.item_id for p in plan.people}
        own_item = data.item_rows([item_of.get(name, "") for name in names])
        events = events.select(events.item == own_item[events.user])
    else:
        events = events.select(np.isin(events.item, items[items >= 0]))
    purchases = events.of(Action.PURCHASE)
    channel = {p.user_id: p.channel for p in plan.people}
    unsubscribed = np.zeros(data.n_users, bool)
    for channel_name, purpose in CHANNEL_PURPOSE.items():
        agreed = np.array(policy.permits_each(names, purpose), bool)
        unsubscribed |= np.array([channel.get(name) == channel_name for name in names], bool) & ~agreed
    return WindowActions(
        data=data,
        converted=np.bincount(events.user, minlength=data.n_users) > 0,
        revenue=np.bincount(purchases.user, money(purchases), minlength=data.n_users).astype(np.float64),
        unsubscribed=unsubscribed,
        gate=gate,
    )


def segments_of(
    actions: WindowActions, parts_by_way: Mapping[str, Mapping[str, BothSides]]
) -> tuple[SegmentFigures, ...]:
    """The parts of the holdout are reported only where all are large enough: subtraction would give a small one."""
    segments = []
    for by, parts in parts_by_way.items():
        rows = {name: [actions.rows(people) for people in both] for name, both in parts.items()}
        figures = {name: [actions.figures(side, is_part=True) for side in both] for name, both in rows.items()}
        is_comparable = all(control is not None for _, control in figures.values())
        for name, (group, control) in figures.items():
            if group is not None:
                control = control if is_comparable else None
                effect = actions.effect(group, control, *rows[name])
                segments.append(SegmentFigures(by=by, name=name, reached=group, held_out=control, effect=effect))
    return tuple(segments)


def divided(
    reached: People, held_out: People, items: Mapping[str, Item], floor: int
) -> dict[str, dict[str, BothSides]]:
    """How -> part -> people. Parts with fewer reached people than `floor` are merged under `OTHERS`, together with
    the next larger ones until these are enough. A way that leaves a single part is left out."""
    third, two_thirds = np.quantile([p.probability for p in (*reached, *held_out)] or [0.0], [1 / 3, 2 / 3])
    ways: dict[str, dict[str, BothSides]] = {}
    for side, people in enumerate((reached, held_out)):
        for p in people:
            item = items.get(p.item_id)
            names = {
                "channel": p.channel,
                "locale": p.locale,
                "reason": p.kind,
                "likelihood": THIRDS[int(p.probability < two_thirds) + int(p.probability < third)],
                "category": item.category[0] if item is not None and item.category else "no category",
                "item": p.item_id,
                "variant": str(p.variant + 1),
                "text": p.text_id,
            }
            for by, name in names.items():
                ways.setdefault(by, {}).setdefault(name, ([], []))[side].append(p)
    merged = {by: merged_parts(parts, floor) for by, parts in ways.items()}
    for by in ("likelihood", "variant"):  # they have an order of their own, which is that of the alphabet
        merged[by] = dict(sorted(merged.get(by, {}).items(), key=lambda named: (named[0] == OTHERS, named[0])))
    return {by: parts for by, parts in merged.items() if len(parts) > 1}


def merged_parts(parts: Mapping[str, BothSides], floor: int) -> dict[str, BothSides]:
    """Largest first, the merged parts last."""
    order = sorted(parts, key=lambda name: (-len(parts[name][0]), name))
    large = [name for name in order if len(parts[name][0]) >= floor]
    small = [name for name in order if name not in large]
    while small and large and sum(len(parts[name][0]) for name in small) < floor:
        small.insert(0, large.pop())
    merged = {name: parts[name] for name in large}
    if small:
        merged[OTHERS] = ([p for n in small for p in parts[n][0]], [p for n in small for p in parts[n][1]])
    return merged


def conclusions(outcome: CampaignOutcome, floor: int, locale: str) -> tuple[str, ...]:
    """What the figures say and what they do not. floor: the smallest group that is reported."""
    sentences = {**section("conclusion", locale), **section(f"conclusion.{aim(outcome.converts)}", locale)}
    days = {name: f"{getattr(outcome, name):%Y-%m-%d}" for name in ("start", "until", "end")}
    finding, effect = effect_shown(outcome), outcome.effect
    values: dict[str, object] = {**days, "floor": max(floor, LEAST_COMPARED)}
    if effect is not None:
        ends = {name: 100 * getattr(effect, name) for name in ("value", "low", "high")}
        values["points"] = sentences["points"].format(**ends)
        values["wide"] = max(ends["high"] - ends["value"], ends["value"] - ends["low"])
    words = [sentences[finding].format(**values)]
    # what makes them doubtful
    if outcome.start < outcome.until < outcome.end and finding != "window_open":
        words.append(sentences["window_open"].format(**days))
    if outcome.not_counted:
        words.append(sentences["not_counted"].format(n=outcome.not_counted))
    if any(s.effect is not None for s in outcome.segments):
        words.append(sentences["many_segments"])
    if finding in ("contradicted", "unclear", *VERDICTS) and outcome.other_people is not None:
        words.append(sentences["other_people"])
    if outcome.not_delivered:
        words.append(sentences["not_delivered"].format(n=outcome.not_delivered))
    return tuple(words)
