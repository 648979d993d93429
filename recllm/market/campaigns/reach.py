"""Whom a campaign could reach: its audience before anything is planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from recllm.base.arrays import Ints
from recllm.base.errors import DataError, NotFittedError, NothingToDo, UsageError
from recllm.base.schema import Objective, Occasion
from recllm.market.adcopy.suitability import Suitability
from recllm.market.audiences.audience import (
    Audience,
    AudienceTarget,
    EligiblePool,
    audience_target,
    build_audience,
    eligible_pool,
    find_audience,
)
from recllm.market.audiences.contacts import agreement
from recllm.market.audiences.exclusions import Consents, ExclusionReason, exclusion_masks, included
from recllm.market.audiences.people_rule import PeopleRule
from recllm.market.audiences.probabilities import Unsuited, UserScores, independent_probabilities
from recllm.market.audiences.request import AudienceRequest, Exclusions
from recllm.market.audiences.selection import Selection, select, spread_offers
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.texts import festive_day
from recllm.market.occasions.calendar import CalendarDay, ComingDay
from recllm.market.occasions.day import cases_of, lacking, shop_of_people
from recllm.market.occasions.suggest import fitting_items, goods_note, goods_of_day
from recllm.market.propensity.effects import effects_of
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import USER_COLUMN, utc
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace

MOST_ITEMS = 8
"""Default number of items for a text: each person gets the one that suits them best."""
PRODUCTS_TRIED = 10
"""For one customer, from the top of their list, until there is something to say about one."""


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `plan_campaign`."""
    pool = campaign_pool(recommender, file, workspace)
    cut = select(pool.scores, pool.user_ids, file.id, file.limits.cut)
    return build_audience(recommender, pool, cut, file.id, None if explain else 0, figures=FigureGate(workspace))


def audience_of_workspace(
    workspace: Workspace, recommender: Recommender, request: AudienceRequest, figures: FigureGate | None = None
) -> Audience:
    """`find_audience`, which lists the errors, for a workspace. recommender: of all people.

    Customers who did not agree to the request's channel, belong to the global holdout, or whom no item suits, are left
    out too. figures: None for the owner of the machine. Raises `UsageError` for a channel without consent records.
    """
    gate, name, holdout = workspace.gate(), request.choice.effects, workspace.settings.experiments
    of_holdout = {"holdout_share": holdout.holdout_share, "holdout_salt": holdout.holdout_salt}
    exclusions = request.exclusions.model_copy(update=of_holdout)
    return find_audience(
        recommender,
        request.model_copy(update={"exclusions": exclusions}),
        agreed=agreement(gate, [request.channel]) if request.channel else None,
        gate=gate,
        effects=None if name is None else effects_of(workspace, name, recommender.dataset),
        figures=figures or FigureGate(workspace),
        unsuited=None if request.text else Suitability(recommender, request.choice.intent).unsuited,
    )


def campaign_pool(recommender: Recommender, file: CampaignFile, workspace: Workspace) -> EligiblePool:
    """Everybody whom a campaign could reach."""
    if recommender.model is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    section, gate, data = file.target, workspace.gate(), recommender.dataset
    rules, agreed = exclusions_of(file, workspace), agreement(gate, file.personal_channels)
    if section.occasion is not None:
        target, only_for = occasion_target(workspace, recommender, section.occasion)
        return eligible_pool(recommender, target, rules, agreed, gate=gate, only_for=only_for)
    limit, note, items = section.most_items, "", section.items
    day = festive_day(workspace.settings, file, file.send or utc(data.as_of))
    if day is not None and section.picks_items and not section.is_personal:
        name, coming = day.names["en"], ComingDay(day=CalendarDay(day.key), on=day.on)
        items, source = goods_of_day(workspace, data, coming)
        if not items:
            raise NothingToDo(f"no products are known to fit {name}; name items, a category or an intent")
        note = goods_note(len(items), source, name)
    elif section.text is not None:
        limit = limit or MOST_ITEMS
        items = tuple(fitting_items(recommender, section.text, section.category, limit=limit))
        note = f"{len(items)} items fit the text {section.text!r}"
    target = audience_target(recommender, items, None if section.text else section.category)
    offered = data.item_index.on_offer(data.as_of)[target.items]
    if not offered.all():
        name = data.items["item_id"][int(target.items[~offered][0])]
        raise UsageError(f"the item {name!r} of the campaign {file.id!r} is no longer on offer; take it out")
    target = replace(target, notes=(*target.notes, note) if note else target.notes, is_personal=section.is_personal)
    if limit is not None and len(target.items) > limit:
        target = narrowed(recommender, target, rules, agreed, file, workspace, limit)
    effects = None if section.effects is None else effects_of(workspace, section.effects, data)
    unsuited, choice = unsuited_of(recommender, file), section.choice
    return eligible_pool(
        recommender, target, rules, agreed, gate=gate, choice=choice, effects=effects, unsuited=unsuited
    )


def unsuited_of(recommender: Recommender, file: CampaignFile) -> Unsuited:
    """What suits no customer; for a day of the calendar they also buy for others."""
    return Suitability(recommender, file.target.choice.intent, gifts=file.target.day is not None).unsuited


def offered_items(file: CampaignFile, workspace: Workspace, scores: UserScores, positions: Ints) -> Ints:
    """Row of each person's item, -1 for none; those who come first choose first."""
    spread = workspace.settings.offers.spread if file.target.spread is None else file.target.spread
    if scores.offers is None or not spread:
        return scores.best_item[positions]
    return spread_offers(scores.offers, positions, spread)[positions]


def occasion_target(
    workspace: Workspace, recommender: Recommender, occasion: Occasion
) -> tuple[AudienceTarget, tuple[Ints, UserScores]]:
    """The items of an occasion, and its people with the item and the chance of each.
    Raises `DataError` where the shop has no data for it, `NothingToDo` where no one has it today."""
    shop = shop_of_people(workspace, recommender.dataset)
    if why := lacking(shop).get(occasion):
        raise DataError(f"the occasion {occasion} cannot be looked for: {why}")
    cases = cases_of(workspace, shop, (occasion,))[0][occasion].drop_nulls("item")
    if not len(cases):
        raise NothingToDo(f"{utc(shop.now):%Y-%m-%d}: no customer has the occasion {occasion}")
    chance, item = cases["chance"].fill_null(0.0).to_numpy(), cases["item"].to_numpy()
    scores = UserScores(-np.log1p(-np.minimum(chance, 1 - 1e-7)), item, chance.astype(np.float32))
    return AudienceTarget(occasion.value, np.unique(item)), (cases["user"].to_numpy(), scores)


def exclusions_of(file: CampaignFile, workspace: Workspace) -> Exclusions:
    holdout = workspace.settings.experiments
    return file.limits.part(
        Exclusions,
        # with an occasion each person has an item of their own
        returned=file.limits.returned and file.target.occasion is None,
        suppressed=tuple(file.limits.suppressed_ids()),
        people=file.target.people,
        holdout_share=holdout.holdout_share,
        holdout_salt=holdout.holdout_salt,
    )


@dataclass(frozen=True, kw_only=True)
class ReachCount:
    """How many people a campaign could reach. All people of the shop are about reachable + sum of `excluded`."""

    reachable: int | None
    excluded: Mapping[str, int | None]
    """`ExclusionReason` -> people, each under one reason."""
    rule: Mapping[PeopleRule, int | None]
    """The rule over people and each of its conditions alone -> people who agreed and meet it."""
    next_on: datetime | None = None
    """When new groups are counted again; None while the caller has budget."""


def count_reachable(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, figures: FigureGate
) -> ReachCount:
    """Counted in a moment, without scores. figures: what the caller may learn of groups. Raises `UsageError` for an
    unknown item or an empty category, `PolicyError` for a sensitive target."""
    section, gate = file.target, workspace.gate()
    items, rules = np.zeros(0, np.int64), exclusions_of(file, workspace)
    having: Ints | None = None
    if section.occasion is not None:
        target, (having, _) = occasion_target(workspace, recommender, section.occasion)
        items = target.items
    elif section.text is None:
        target = audience_target(recommender, section.items, section.category)
        if not section.picks_items:  # else which ones is not known before people are scored
            items = target.items
    agreed = agreement(gate, file.personal_channels)
    masks, match = exclusion_masks(recommender, items, rules, agreed, gate=gate, only_for=having)
    # all reasons: missing ones would say which groups are empty
    excluded = {r.value: int(masks[r].sum()) if r in masks else 0 for r in ExclusionReason}
    excluded[ExclusionReason.NO_CONSENT] += figures.unconsented(recommender.dataset.users[USER_COLUMN])
    visible = ~masks[ExclusionReason.NO_CONSENT]
    conditions = {} if match is None else match.counts(visible)
    question = file.model_dump_json(include={"target", "limits", "channels"})
    cells = figures.sizes(question, {"reachable": len(included(masks)), **excluded}, disjoint=True)
    rule = figures.sizes("rule", {node.model_dump_json(): n for node, n in conditions.items()})
    return ReachCount(
        reachable=cells.people["reachable"],
        excluded={reason: cells.people[reason] for reason, n in excluded.items() if n or not figures.is_exact},
        rule={node: rule.people[node.model_dump_json()] for node in conditions},
        next_on=cells.next_on or rule.next_on,
    )


def narrowed(
    recommender: Recommender,
    target: AudienceTarget,
    rules: Exclusions,
    agreed: Consents,
    file: CampaignFile,
    workspace: Workspace,
    limit: int,
) -> AudienceTarget:
    """The `limit` items that suit most of the people who come first, each person by what the campaign chooses by."""
    masks, _ = exclusion_masks(recommender, target.common_items, rules, agreed, gate=workspace.gate())
    user_rows, choice, personal = included(masks), file.target.choice, rules if target.is_personal else None
    objective = Objective.PROBABILITY if choice.objective is Objective.UPLIFT else choice.objective
    unsuited = unsuited_of(recommender, file)
    scores = independent_probabilities(
        recommender, target.items, user_rows, choice.intent, objective, personal=personal, unsuited=unsuited
    )
    first = np.argsort(-scores.score, kind="stable")[: file.limits.cut.max_contacts]
    best = offered_items(file, workspace, scores, first)
    listed = best[:, None] if scores.offers is None else scores.offers.item[first, :PRODUCTS_TRIED]
    n_best, n_listed = (
        np.bincount(items[items >= 0], minlength=int(target.items.max()) + 1)[target.items] for items in (best, listed)
    )
    top = np.lexsort((-n_listed, -n_best))[: min(limit, max(int((n_best + n_listed > 0).sum()), 1))]
    note = f"of {len(target.items):,} items the {len(top)} that suit most people"
    return replace(target, items=np.sort(target.items[top]), notes=(*target.notes, note))


def first_items(
    file: CampaignFile,
    workspace: Workspace,
    pool: EligiblePool,
    selection: Selection,
) -> dict[int, int]:
    """Position in the pool -> row of the first item to try, of all that were drawn, best first."""
    scores = pool.scores
    positions = np.concatenate([selection.addressed, selection.holdout])
    positions = positions[np.argsort(-scores.score[positions], kind="stable")]
    items = offered_items(file, workspace, scores, positions)
    items = np.where(items < 0, pool.target.items[0], items)  # nothing of the campaign was proposed for them
    return dict(zip(positions.tolist(), items.tolist(), strict=True))
