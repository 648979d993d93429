"""From a campaign's file to its plan in the workspace: people, one item each, texts, checks."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import plain
from recllm.base.errors import DataError, NotFittedError, NothingToDo, UsageError
from recllm.base.schema import Generator, Objective, Occasion
from recllm.base.words.sentences import language
from recllm.learn.features.item_vectors import basics_of
from recllm.market.adcopy.ads import customer_facts, may_be_modelled, open_generator
from recllm.market.adcopy.request import PersonFacts, reason_kind
from recllm.market.audiences.assignment import select_jointly
from recllm.market.audiences.audience import (
    Audience,
    EligiblePool,
    build_audience,
    counts_in_words,
    eligible_pool,
    rule_match,
)
from recllm.market.audiences.contacts import first_channels
from recllm.market.audiences.exclusions import Consents, ExclusionReason, exclusion_masks, first_only
from recllm.market.audiences.people_rule import PeopleRule
from recllm.market.audiences.probabilities import UserScores, independent_probabilities
from recllm.market.audiences.reasons import reasons_for
from recllm.market.audiences.request import Exclusions
from recllm.market.audiences.selection import Selection, SpreadFigures, draws, select, spread_offers
from recllm.market.audiences.targets import AudienceTarget, audience_target
from recllm.market.campaigns.days import DayGoods, goods_note, goods_of_day
from recllm.market.campaigns.file import SERVER, CampaignFile
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, CampaignText, PlannedPerson, publish
from recllm.market.campaigns.open_campaign import auto_approvals
from recllm.market.campaigns.target_text import MOST_ITEMS, fitting_items
from recllm.market.campaigns.texts import TextKey, catalogue_at, festive_day, public_keys, write_texts
from recllm.market.campaigns.wordings import variant_shares, wording_counts
from recllm.market.occasions.calendar import CalendarDay, ComingDay, profile_of
from recllm.market.occasions.day import cases_of, lacking, shop_of_people
from recllm.market.propensity.effects import effects_of, saved_effects
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.data.catalogue import in_category, on_offer
from recllm.shop.data.dataset import USER_COLUMN, utc
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender

URL_VARIABLE = "RECLLM_LLM_URL"
"""Where the operator's text server is, e.g. http://localhost:8000/v1#model."""

LANGUAGE_BASICS = ("language", "locale", "lang", "语言")
"""Basics that say which of a campaign's locales a person reads."""

CATALOGUE_ITEMS = 20
"""Items of a campaign that picks them from the whole catalogue and says no number: each needs its texts."""
REACHABLE = "reachable"

_logger = logging.getLogger(__name__)


def plan_campaigns(
    workspace: Workspace,
    files: Sequence[CampaignFile],
    *,
    contacts: int = 1,
    replace: bool = False,
    recommender: Recommender | None = None,
    generator: Generator | None = None,
    now: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[CampaignPlan]:
    """Plans one campaign, or several that compete for the same people, and publishes the plans in the workspace.

    contacts: of these campaigns, most that one person gets. generator: instead of the one that the file names. now: the
    clock. What is wrong in the files is found before anything is loaded.

    Raises `UsageError` or `DataError` for a campaign that cannot be (a taken id, an offer that does not run when texts
    go out, an item that is gone), `NotFittedError` without a trained model, `PolicyError` for a sensitive target or a
    group under the floor, and `NothingToDo` with the counts when a campaign would reach no customers. Then nothing is
    published.
    """
    tell = progress or (lambda _: None)
    shop_language = {"locales": (workspace.settings.locale,)}  # of files that name none
    files = [f if "locales" in f.model_fields_set else f.model_copy(update=shop_language) for f in files]
    checked = _checked(workspace, files, replace, generator, now)
    if recommender is None and current(workspace.models_dir) is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    tell("opening the workspace")
    loaded = recommender or open_recommender(workspace, now=now, everybody=True)
    tell(f"finding people for {', '.join(file.id for file in files)}")
    groups = _recipients(loaded, files, workspace, contacts)
    for file, group in zip(files, groups, strict=True):
        if not group.audience.people:
            counts = counts_in_words(group.audience.excluded)
            n_held_out = len(group.audience.holdout)
            raise NothingToDo(f"the campaign {file.id!r} reaches no customers: {counts}; held out: {n_held_out}")
    plans = []
    for campaign, group in zip(checked, groups, strict=True):
        tell(f"writing the texts of {campaign.file.id}")
        with campaign.speaker(workspace) as speaker:
            plans.append(_plan(workspace, campaign, group, speaker))
    for campaign, plan in zip(checked, plans, strict=True):
        approvals = auto_approvals(plan, at=now or datetime.now(UTC)) if campaign.file.words.auto else []
        publish(campaign.folder, plan, replace=replace, decisions=approvals)
        people, n_held_out, n_texts = len(plan.addressed), len(plan.held_out), len(plan.texts)
        _logger.info("planned %d people, %d held out, %d texts", people, n_held_out, n_texts)
    return plans


# --- what is wrong, before anything is loaded ------------------------------------------------------------------------


@dataclass(frozen=True)
class _CheckedCampaign:
    """A campaign that can be planned, as far as its file and the workspace tell."""

    file: CampaignFile
    folder: CampaignFolder
    send: datetime
    """When texts go out."""
    generator: Generator | str
    """Or what finds it."""

    def speaker(self, workspace: Workspace) -> AbstractContextManager[Generator | None]:
        return open_generator(self.generator, workspace.cache_dir, adapter=self.file.words.adapter)


def _checked(
    workspace: Workspace,
    files: Sequence[CampaignFile],
    replace: bool,
    generator: Generator | None,
    now: datetime | None,
) -> list[_CheckedCampaign]:
    if twice := [name for name, n in Counter(file.id for file in files).items() if n > 1]:
        raise DataError(f"two of the files are about a campaign {twice[0]!r}; each needs its own id")
    moment, campaigns = utc(present(workspace, now)), []
    for file in files:
        folder, send, offer = CampaignFolder.of(workspace.root, file.id), file.send or moment, file.offer
        if send < moment:
            raise DataError(f"{file.source}: send is {send.isoformat()}, and the present is {moment.isoformat()}")
        if offer is not None and not offer.runs(send):
            over = offer.end is not None and offer.end <= send
            edge = offer.end if over else offer.start
            remedy = "give it another end" if over else "set send to a time at or after it"
            raise DataError(
                f"{file.source}: the offer {'ended' if over else 'begins'} at {edge.isoformat() if edge else ''}, "
                f"and texts go out at {send.isoformat()}; {remedy}"
            )
        with folder.locked():
            folder.check_free(replace=replace)
        if file.target.effects is not None:
            saved_effects(workspace, file.target.effects)  # there are such effects
        _check_target(workspace, file)
        file.limits.suppressed_ids()  # can be read
        speaker = generator or file.words.generator
        if speaker == SERVER and not (speaker := os.environ.get(URL_VARIABLE, "")):
            raise UsageError(
                f"{file.source} asks for the operator's text server, and none is set; "
                f"set {URL_VARIABLE}, e.g. to http://localhost:8000/v1#model"
            )
        campaigns.append(_CheckedCampaign(file, folder, send, speaker))
        with campaigns[-1].speaker(workspace):
            pass  # there is such a generator; a local one starts when it is asked for a text
    return campaigns


def _check_target(workspace: Workspace, file: CampaignFile) -> None:
    """Raises `UsageError` for an item that does not exist or is not on offer, or a category without any."""
    target = file.target
    if target.picks_items:
        return
    items = workspace.store().items(target.items)
    offered_items = items.filter(on_offer(items, present(workspace)) & ~items["pending"].to_numpy())
    if target.items is not None:
        ids, offered = set(items["item_id"]), set(offered_items["item_id"])
        for name in target.items:
            if name not in ids:
                raise UsageError(f"no item {name!r} in the catalogue, and the campaign {file.id!r} is for it")
            if name not in offered:
                raise UsageError(f"the item {name!r} of the campaign {file.id!r} is no longer on offer; take it out")
    elif target.text is None and target.category is not None and not in_category(offered_items, target.category).any():
        raise UsageError(f"no item on offer in the category {target.category!r}; write a name, or a path as 'a > b'")


# --- the plan --------------------------------------------------------------------------------------------------------


def _plan(
    workspace: Workspace, campaign: _CheckedCampaign, group: Recipients, speaker: Generator | None
) -> CampaignPlan:
    file, audience = campaign.file, group.audience
    names = [p.user_id for p in group.people]
    modelled = dict(zip(names, may_be_modelled(workspace.gate(), names, speaker), strict=True))
    keys = {
        p.user_id: TextKey.of(p, modelled[p.user_id], facts) for p, facts in zip(group.people, group.facts, strict=True)
    }
    counts_of_keys: Counter[TextKey] = Counter()
    for p in group.people:
        counts_of_keys[keys[p.user_id]] += not p.held_out
    counts_of_keys.update(dict.fromkeys(public_keys((p.item_id for p in group.people), file), 0))
    item_ids = {p.item_id for p in group.people}
    catalogue = catalogue_at(workspace, file, item_ids, campaign.send)
    if file.target.intent is None:  # else a customer may get any item of the shop
        catalogue = replace(catalogue, day_items=frozenset(item_ids))
    texts, remarks = write_texts(
        counts_of_keys,
        workspace,
        file,
        catalogue,
        campaign.send,
        generator=speaker,
    )
    if file.offer is not None and (note := _lacking_proof(texts)) is not None:
        title, fault = note
        raise DataError(
            f"{file.source}: the offer cannot be stated for {title!r}: {fault}; give the proof, or change it"
        )
    people = []
    counts = wording_counts(workspace, file.words.learn_from)
    shares = {
        key: variant_shares(variants, counts, file.words.guard_limit) for key, variants in texts.items() if variants
    }
    # each person's variant is drawn by a hash of campaign and pseudonym, so that variants can be compared
    for person, draw in zip(group.people, draws(names, file.id, "variant"), strict=True):
        key = keys[person.user_id]
        if not texts[key]:
            continue
        position = min(int(np.searchsorted(np.cumsum(shares[key]), draw, side="right")), len(shares[key]) - 1)
        text, propensity = texts[key][position], shares[key][position]
        people.append(replace(person, variant=text.variant, text_id=text.id, propensity=propensity))
    if not any(not p.held_out for p in people):
        raise NothingToDo(
            f"{file.source}: nothing can be said to these customers about these products; name an offer, an occasion, "
            "or products that they have a reason to buy"
        )
    readers = Counter(p.text_id for p in people if not p.held_out)
    cost = file.limits.cost
    return CampaignPlan(
        campaign_id=file.id,
        goal=file.goal,
        note=file.note,
        digest=file.digest,
        as_of=plain(audience.as_of),
        send=plain(campaign.send),
        offer=plain(file.offer),
        horizon_days=audience.horizon_days,
        window_days=file.window_days or audience.horizon_days,
        model_version=audience.model_version,
        holdout=file.limits.holdout,
        excluded=audience.excluded,
        expected_conversions=audience.expected_conversions or 0.0,
        cost=None if cost is None else cost * len(audience.people),
        items=audience.items,
        converts=tuple(action.value for action in group.recommender.population.settings.target),
        group=tuple(plain(audience.group)),
        notes=(*audience.notes, *remarks, *([spread_note(group.spread)] if group.spread else [])),
        # all texts in the order of their numbers
        texts=tuple(replace(text, people=readers[text.id]) for variants in texts.values() for text in variants),
        people=tuple(people),
        spread=group.spread,
    )


def _lacking_proof(texts: Mapping[TextKey, Sequence[CampaignText]]) -> tuple[str, str] | None:
    """(title, what a law asks for) of the first text that a law blocks for want of a proof."""
    for text in (text for variants in texts.values() for text in variants):
        for note in text.failures:
            if "; needs " in note.message:
                return text.facts.title, note.message
    return None


def spread_note(figures: SpreadFigures) -> str:
    """The price and the gain of spreading, in words."""
    return (
        f"offers spread over {figures.items} items instead of {figures.items_without} (spread {figures.spread:g}): "
        f"people buy what they are offered with {100 * figures.probability:.2f} % instead of "
        f"{100 * figures.probability_without:.2f} %, {100 * figures.given_up:.2f} points given up"
    )


# --- its people: on which channel, with which item, and for which kind of reason -------------------------------------


@dataclass(frozen=True, eq=False)
class Recipients:
    """One campaign's people."""

    recommender: Recommender
    """That of the workspace, with one item more for a campaign about a text."""
    audience: Audience
    people: tuple[PlannedPerson, ...]
    """Best first, those held out among them; without texts so far."""
    facts: tuple[PersonFacts, ...] = ()
    """What may be said of each of `people`."""
    spread: SpreadFigures | None = None
    """As `CampaignPlan.spread`."""


def _recipients(
    recommender: Recommender, files: Sequence[CampaignFile], workspace: Workspace, contacts: int
) -> list[Recipients]:
    """The people of each campaign; several compete for them, and each person gets at most `contacts` of these."""
    reachable = [_pool(recommender, file, workspace) for file in files]
    pools = [pool for _, pool in reachable]
    if len(files) == 1:
        selections = [select(pools[0].scores, pools[0].user_ids, files[0].id, files[0].limits.cut)]
    else:
        names, limits = [file.id for file in files], [file.limits.cut for file in files]
        selections = select_jointly(pools, names, limits, recommender.dataset.n_users, contacts=contacts)
    drawn = zip(files, reachable, selections, strict=True)
    return [_planned(file, *pair, selection, workspace) for file, pair, selection in drawn]


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `plan_campaigns`."""
    grown, pool = _pool(recommender, file, workspace)
    cut = select(pool.scores, pool.user_ids, file.id, file.limits.cut)
    return build_audience(grown, pool, cut, file.id, None if explain else 0, figures=FigureGate(workspace))


def _pool(recommender: Recommender, file: CampaignFile, workspace: Workspace) -> tuple[Recommender, EligiblePool]:
    """Everybody whom a campaign could reach, and the recommender that knows its items."""
    if recommender.model is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    section, gate = file.target, workspace.gate()
    rules, agreed = _exclusions(file, workspace), _agreed(file, gate)
    if section.occasion is not None:
        target, only_for = _occasion_target(workspace, recommender, section.occasion)
        pool = eligible_pool(recommender, target, rules, agreed, gate=gate, only_for=only_for)
        return recommender, pool
    limit = section.most_items or (CATALOGUE_ITEMS if section.picks_items else None)
    if section.text is None:
        goods, day = _goods_of_day(workspace, recommender, file), section.day
        recommender, target = audience_target(recommender, section.items or goods.item_ids or None, section.category)
        if goods.item_ids and day is not None:
            note = goods_note(goods, profile_of(day, workspace.settings).names["en"])
            target = dataclasses.replace(target, notes=(*target.notes, note))
    else:
        limit = limit or MOST_ITEMS
        ids = fitting_items(recommender, section.text, section.category, limit=limit)
        recommender, target = audience_target(recommender, ids)
        target = dataclasses.replace(target, notes=(*target.notes, f"{len(ids)} items fit the text {section.text!r}"))
    if limit is not None and len(target.items) > limit:
        target = _narrowed(recommender, target, rules, agreed, file, workspace, limit)
    effects = None if section.effects is None else effects_of(workspace, section.effects, recommender.dataset)
    choice = section.choice
    return recommender, eligible_pool(recommender, target, rules, agreed, gate=gate, choice=choice, effects=effects)


def _goods_of_day(workspace: Workspace, recommender: Recommender, file: CampaignFile) -> DayGoods:
    """Of a campaign for a day of the calendar that names no goods and no intent; none for another.

    Raises `NothingToDo` where no goods are known.
    """
    section, moment = file.target, file.send or utc(recommender.dataset.as_of)
    day = festive_day(workspace.settings, file, moment)
    if day is None or not section.picks_items or section.intent is not None:
        return DayGoods()
    coming = ComingDay(day=CalendarDay(day.key), on=day.on)
    goods = goods_of_day(workspace, recommender.dataset, coming, recommender)
    if not goods.item_ids:
        raise NothingToDo(f"no products are known to fit {day.names['en']}; name items, a category or an intent")
    return goods


def _spread(file: CampaignFile, workspace: Workspace) -> float:
    """How far the campaign's offers spread over its items."""
    if file.target.spread is not None:
        return file.target.spread
    return workspace.settings.offers.spread if file.target.picks_items else 0.0


def _occasion_target(
    workspace: Workspace, recommender: Recommender, occasion: Occasion
) -> tuple[AudienceTarget, tuple[NDArray[np.int64], UserScores]]:
    """The items of an occasion, and its people with the item and the chance of each.

    Raises `DataError` where the shop has no data for it, `NothingToDo` where no one has it today.
    """
    shop = shop_of_people(workspace, recommender.dataset)
    if why := lacking(shop).get(occasion):
        raise DataError(f"the occasion {occasion} cannot be looked for: {why}")
    cases = cases_of(workspace, shop, (occasion,))[0][occasion]
    cases = cases.drop_nulls("item")
    if not len(cases):
        raise NothingToDo(f"{utc(shop.now):%Y-%m-%d}: no customer has the occasion {occasion}")
    chance, item = cases["chance"].fill_null(0.0).to_numpy(), cases["item"].to_numpy()
    scores = UserScores(-np.log1p(-np.minimum(chance, 1 - 1e-7)), item, chance.astype(np.float32))
    return AudienceTarget(occasion.value, np.unique(item)), (cases["user"].to_numpy(), scores)


def _exclusions(file: CampaignFile, workspace: Workspace) -> Exclusions:
    holdout = workspace.settings.experiments
    return file.limits.part(
        Exclusions,
        # with an occasion each person has an item of their own, and others' do not matter
        returned=file.limits.returned and file.target.occasion is None,
        suppressed=tuple(file.limits.suppressed_ids()),
        people=file.target.people,
        holdout_share=holdout.holdout_share,
        holdout_salt=holdout.holdout_salt,
    )


def _agreed(file: CampaignFile, gate: PolicyGate) -> Consents:
    """Who agreed to one of the campaign's channels."""
    return lambda ids: [channel is not None for channel in first_channels(gate, ids, file.personal_channels)]


@dataclass(frozen=True, kw_only=True)
class ReachCount:
    """How many people a campaign could reach, before the likeliest of them are chosen; see `workspace.figures`
    for what a caller gets. All people of the shop are about reachable + sum of `excluded`."""

    reachable: int | None
    channels: Mapping[str, int | None]
    """Channel -> people who would be reached there."""
    excluded: Mapping[str, int | None]
    """`ExclusionReason` -> people, each under one reason."""
    items: int
    """Items that the campaign is for; 0 for one about a text."""
    rule: Mapping[PeopleRule, int | None]
    """The rule over people and each of its conditions alone -> people who agreed and meet it."""
    next_on: datetime | None = None
    """When new groups are counted again; None while the caller has budget."""


def count_reachable(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, figures: FigureGate | None = None
) -> ReachCount:
    """Counted in a moment, without scores. figures: what the caller may learn of groups; None for the owner of the
    machine. Raises `UsageError` for an unknown item or an empty category, `PolicyError` for a sensitive target."""
    section, gate = file.target, workspace.gate()
    items, rules = np.zeros(0, np.int64), _exclusions(file, workspace)
    if section.occasion is not None:
        target, (having, _) = _occasion_target(workspace, recommender, section.occasion)
        items = target.items
    elif section.text is None:
        items = audience_target(recommender, section.items, section.category)[1].items
        if section.picks_items:  # which ones is not known before people are scored
            items = items[:0]
    match = rule_match(recommender, rules, gate)
    masks = exclusion_masks(recommender, items, rules, _agreed(file, gate), match=match)
    if section.occasion is not None:
        others = ~np.isin(np.arange(recommender.dataset.n_users), having)
        masks = first_only(masks | {ExclusionReason.NO_OCCASION: others})
    user_rows = np.flatnonzero(~np.logical_or.reduce(list(masks.values())))
    names = recommender.dataset.users[USER_COLUMN].gather(user_rows).to_list()
    figures = figures or FigureGate(workspace)
    # all channels and reasons: missing ones would say which groups are empty
    first = Counter(first_channels(gate, names, file.personal_channels))
    members = {channel: first[channel] for channel in file.personal_channels}
    excluded = {reason.value: int(masks[reason].sum()) if reason in masks else 0 for reason in ExclusionReason}
    excluded[ExclusionReason.NO_CONSENT] += figures.unconsented(recommender.dataset.users[USER_COLUMN])
    visible = ~masks[ExclusionReason.NO_CONSENT]
    conditions = {} if match is None else match.counts(visible)
    question = file.model_dump_json(include={"target", "limits", "channels"})
    cells = figures.sizes(question, {REACHABLE: len(names), **excluded}, disjoint=True)
    channels = figures.sizes(question, members, disjoint=True)
    rule = figures.sizes("rule", {node.model_dump_json(): n for node, n in conditions.items()})
    return ReachCount(
        reachable=cells.people[REACHABLE],
        channels={name: channels.people[name] for name, n in members.items() if n or not figures.is_exact},
        excluded={reason: cells.people[reason] for reason, n in excluded.items() if n or not figures.is_exact},
        items=len(items),
        rule={node: rule.people[node.model_dump_json()] for node in conditions},
        next_on=cells.next_on or channels.next_on or rule.next_on,
    )


def _narrowed(
    recommender: Recommender,
    target: AudienceTarget,
    rules: Exclusions,
    agreed: Consents,
    file: CampaignFile,
    workspace: Workspace,
    limit: int,
) -> AudienceTarget:
    """The `limit` items that suit most of the people who come first, each person by what the campaign chooses by."""
    match = rule_match(recommender, rules, workspace.gate())
    masks = exclusion_masks(recommender, target.items, rules, agreed, match=match)
    user_rows = np.flatnonzero(~np.logical_or.reduce(list(masks.values())))
    choice = file.target.choice
    objective = Objective.PROBABILITY if choice.objective is Objective.UPLIFT else choice.objective
    scores = independent_probabilities(recommender, target.items, user_rows, choice.intent, objective)
    first = np.argsort(-scores.score, kind="stable")[: file.limits.cut.max_contacts]
    best = scores.best_item[first]
    if scores.offers is not None and (spread := _spread(file, workspace)):
        best = spread_offers(scores.offers, first, spread)[0][first]
    n_people = np.bincount(best[best >= 0], minlength=int(target.items.max()) + 1)[target.items]
    top = np.argsort(-n_people, kind="stable")[:limit]
    top = top[: max(int((n_people > 0).sum()), 1)]
    note = f"of {len(n_people):,} items the {len(top)} that suit most people"
    return AudienceTarget(target.name, np.sort(target.items[top]), (*target.notes, note))


def _planned(
    file: CampaignFile, recommender: Recommender, pool: EligiblePool, selection: Selection, workspace: Workspace
) -> Recipients:
    scores = pool.scores
    audience = build_audience(recommender, pool, selection, file.id, explain_first=0, figures=FigureGate(workspace))
    ranks = np.concatenate([selection.addressed, selection.holdout])
    ranks = ranks[np.argsort(-scores.score[ranks], kind="stable")]
    held_out = np.isin(ranks, selection.holdout)
    rows, best, spread, gate = pool.user_rows[ranks], scores.best_item[ranks], None, workspace.gate()
    if scores.offers is not None and (weight := _spread(file, workspace)):
        offered, spread = spread_offers(scores.offers, ranks, weight)
        best = offered[ranks]
    best = np.where(best < 0, pool.target.items[0], best)  # nothing of the campaign was proposed for them
    names = [pool.user_ids[rank] for rank in ranks]
    channels = first_channels(gate, names, file.personal_channels)
    basics = basics_of(recommender.dataset.users[rows.tolist()])
    people, probability = [], scores.probabilities().astype(np.float64)
    reasons_of_people = reasons_for(recommender, rows, best)
    facts = customer_facts(
        recommender.dataset.events.rows(rows),
        recommender.dataset.items,
        recommender.dataset.as_of,
        best.tolist(),
        reasons_of_people,
        recommender.together,
        recommender.policy,
        file.target.occasion,
        recommender.broad_categories,
    )
    for n, (name, item, reasons) in enumerate(zip(names, best, reasons_of_people, strict=True)):
        item_id = recommender.dataset.items["item_id"][int(item)]
        # the first of the campaign's locales in a language that the person named; the first one without a name
        languages = {language(value) for basic, value in basics[n].items() if basic.casefold() in LANGUAGE_BASICS}
        person = PlannedPerson(
            user_id=name,
            held_out=bool(held_out[n]),
            probability=round(float(probability[ranks[n]]), 6),
            item_id=item_id,
            kind=reason_kind(reasons[0] if reasons else None, item_id, sensitive=False).value,
            channel=channels[n] or file.personal_channels[0],
            locale=next((locale for locale in file.locales if language(locale) in languages), file.locales[0]),
            variant=0,
            text_id="",
        )
        people.append(person)
    return Recipients(recommender, audience, tuple(people), tuple(facts), spread)
