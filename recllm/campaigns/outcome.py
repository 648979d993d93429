"""What a campaign brought: who was reached, what they did, and how that differs from people who were held out.

Only the holdout, which a hash drew, can tell an effect. The rest of the shop is shown beside them as what it is: other
people. Nothing is told about fewer people than the policy's group floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from recllm.campaigns.conclusions import conclusions
from recllm.campaigns.effect import Interval, difference, mean_difference, share
from recllm.campaigns.folder import read_log
from recllm.campaigns.measures import Arm, Outcome, Row
from recllm.campaigns.open_campaign import Desk
from recllm.campaigns.plan_types import Person
from recllm.campaigns.segments import divided
from recllm.data.dataset import Dataset, utc
from recllm.data.interactions import of_actions
from recllm.errors import NothingToDo
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import Action, Purpose


@dataclass(frozen=True, eq=False)
class _Deeds:
    """Of every person of the dataset, within the window. converted: bool, revenue: float64, (n_users,) each."""

    data: Dataset
    converted: NDArray[np.bool_]
    revenue: NDArray[np.float64]
    gone: NDArray[np.bool_]
    floor: int

    def arm(self, rows: NDArray[np.int64], *, addressed: bool = True) -> Arm | None:
        """None for fewer people than the floor."""
        n = len(rows)
        if n < max(self.floor, 1):
            return None
        hits, money = int(self.converted[rows].sum()), float(self.revenue[rows].sum())
        return Arm(
            people=n,
            converted=hits,
            rate=share(hits, n),
            revenue=round(money, 2),
            revenue_per_person=money / n,
            unsubscribed=int(self.gone[rows].sum()) if addressed else None,
        )


def campaign_outcome(desk: Desk) -> Outcome:
    """From the first export to the end of the window, or of the log. Raises `NothingToDo` before the first export."""
    lines = list(read_log(desk.folder.exports))
    if not lines:
        raise NothingToDo(f"the campaign {desk.plan.campaign_id!r} was not exported yet; there is nothing to report")
    start = datetime.fromisoformat(lines[0]["send_from"])
    end = start + timedelta(days=desk.plan.window_days)
    data = desk.workspace.gate().dataset(Purpose.ANALYTICS)
    deeds = _deeds(desk, data, start, end)
    all_reached, all_held = (_people(desk, lines, side) for side in ("reached", "held"))
    reached, held = _counted(data, all_reached), _counted(data, all_held)
    rows, held_rows = _rows(data, reached), _rows(data, held)
    everybody = np.setdiff1d(np.arange(data.n_users), data.user_rows([p.user_id for p in desk.plan.people]))
    arm, other = deeds.arm(rows), deeds.arm(held_rows)
    found = Outcome(
        campaign_id=desk.plan.campaign_id,
        goal=desk.plan.goal,
        note=desk.plan.note,
        start=start,
        end=end,
        until=utc(data.as_of),
        planned=len(desk.plan.addressed),
        planned_held=len(desk.plan.held),
        dropped=lines[-1]["dropped"],
        not_counted=len(all_reached) - len(reached),
        horizon_days=desk.plan.horizon_days,
        expected_conversions=sum(p.probability for p in reached),
        reached=arm,
        held=other,
        rest=deeds.arm(everybody, addressed=False),
        effect=_effect(arm, other),
        revenue_effect=None if arm is None or other is None else _money(deeds, rows, held_rows),
        segments=_segments(deeds, desk, reached, held),
        words=(),
    )
    return replace(found, words=conclusions(found, deeds.floor, desk.workspace.settings.locale))


def _deeds(desk: Desk, data: Dataset, start: datetime, end: datetime) -> _Deeds:
    known = data.item_rows([i for i in desk.plan.items])
    e = of_actions(data.events, [Action(name) for name in desk.plan.converts])
    ours = e.select((e.at >= start.timestamp()) & (e.at < end.timestamp()) & np.isin(e.item, known[known >= 0]))
    bought = ours.of(Action.PURCHASE)
    paid = np.nan_to_num(bought.price.astype(np.float64)) * bought.quantity
    gate, names = desk.workspace.gate(), data.users["user_id"].to_list()
    channel = {p.user_id: p.channel for p in desk.plan.people}
    gone = np.zeros(data.n_users, bool)
    for name, purpose in CHANNEL_PURPOSE.items():
        agreed = np.array(gate.permits_each(names, purpose), bool)
        gone |= np.array([channel.get(one) == name for one in names], bool) & ~agreed
    return _Deeds(
        data=data,
        converted=np.bincount(ours.user, minlength=data.n_users) > 0,
        revenue=np.bincount(bought.user, paid, minlength=data.n_users).astype(np.float64),
        gone=gone,
        floor=desk.workspace.policy.group_floor,
    )


def _people(desk: Desk, lines: Sequence[Mapping[str, list[str]]], side: str) -> list[Person]:
    """Whom any export reached, or would have, had they not been held out."""
    names = {name for line in lines for name in line[side]}
    return [p for p in desk.plan.people if p.user_id in names]


def _counted(data: Dataset, people: Sequence[Person]) -> list[Person]:
    """Those who agreed to be counted: the dataset holds nobody else."""
    rows = data.user_rows([p.user_id for p in people])
    return [p for p, row in zip(people, rows, strict=True) if row >= 0]


def _rows(data: Dataset, people: Sequence[Person]) -> NDArray[np.int64]:
    return data.user_rows([p.user_id for p in people])


def _effect(ours: Arm | None, held: Arm | None) -> Interval | None:
    if ours is None or held is None:
        return None
    return difference(ours.converted, ours.people, held.converted, held.people)


def _money(deeds: _Deeds, rows: NDArray[np.int64], held: NDArray[np.int64]) -> Interval:
    return mean_difference(deeds.revenue[rows], deeds.revenue[held])


def _segments(deeds: _Deeds, desk: Desk, reached: Sequence[Person], held: Sequence[Person]) -> tuple[Row, ...]:
    """Every way to divide the people; small parts are told together, and what stays small is not told.

    The parts of the holdout are told only where all of them are large enough: a small one could be had by subtraction.
    """
    out = []
    for by, parts in divided(reached, held, desk.catalogue.items, deeds.floor).items():
        arms = {name: tuple(deeds.arm(_rows(deeds.data, people)) for people in both) for name, both in parts.items()}
        whole = all(other is not None for _, other in arms.values())
        for name, (arm, other) in arms.items():
            if arm is not None:
                beside = other if whole else None
                out.append(Row(by=by, name=name, reached=arm, held=beside, effect=_effect(arm, beside)))
    return tuple(out)
