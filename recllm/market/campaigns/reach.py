"""What a campaign can be about, and whom it could reach: its audience before anything is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from enum import StrEnum
from itertools import zip_longest

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Mask
from recllm.base.documents import plain
from recllm.base.errors import DataError, NotFittedError, NothingToDo, PolicyError, RecllmError, UsageError
from recllm.base.questions import SearchRequest
from recllm.base.schema import Action, Objective, Occasion
from recllm.market.adcopy.lexicon import fold, table
from recllm.market.adcopy.naming import name_and_size, written_out
from recllm.market.audiences.audience import (
    Audience,
    AudienceTarget,
    EligiblePool,
    audience_target,
    build_audience,
    eligible_pool,
)
from recllm.market.audiences.contacts import agreement, first_channels
from recllm.market.audiences.exclusions import Consents, ExclusionReason, exclusion_masks, included, minors
from recllm.market.audiences.people_rule import PeopleRule
from recllm.market.audiences.probabilities import UserScores, independent_probabilities
from recllm.market.audiences.request import Exclusions
from recllm.market.audiences.selection import Selection, select, spread_offers
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.texts import festive_day
from recllm.market.occasions.calendar import CalendarDay, ComingDay, profile_of, season_lifts, upcoming_days
from recllm.market.occasions.day import cases_of, lacking, open_shop_at, shop_of_people
from recllm.market.occasions.detect import Shop
from recllm.market.propensity.effects import effects_of
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.search import VECTORS, search
from recllm.shop.data.catalogue import SENSITIVE_TARGET, in_category, sensitive_items
from recllm.shop.data.dataset import USER_COLUMN, Dataset, utc
from recllm.shop.data.rhythm import ShoppingDays
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present
from recllm.text.encoder.batches import encode_once
from recllm.text.word_index import WordIndex

THEME_WEIGHT = 3.0
"""Of the nearest by meaning against those by words: a text is more often "a winter breakfast" than a name."""
WIDER = 6
"""Multiple of the wanted items that is searched: sizes of one item count once."""
MOST_ITEMS = 8
"""Default number of items for a text: each person gets the one that suits them best."""
MOST_GOODS = 20
"""Goods of a day, each with texts of its own."""
BUYER_DAYS = 365
"""Messages for a day go to those who bought within these days."""
SEND_AT = time(9)
"""By the shop's clock."""
PRODUCTS_TRIED = 10
"""For one customer, from the top of their list, until there is something to say about one."""
REACHABLE = "reachable"


class GoodsSource(StrEnum):
    """How the goods of a day are known."""

    SALES = "sales"
    """They sold more before the day in earlier years."""
    TEXT = "text"
    """They fit the day by their names and descriptions: the log is shorter than a year."""
    NONE = "none"


def goods_of_day(
    workspace: Workspace, dataset: Dataset, coming: ComingDay, recommender: Recommender | None = None
) -> tuple[tuple[str, ...], GoodsSource]:
    """Ids of goods on offer of no sensitive category, the strongest first; of those that differ in size alone that one.
    recommender: finds goods by their texts where sales do not tell; None for sales alone."""
    lifts = season_lifts(dataset, coming, workspace.settings)
    if lifts is not None:
        offered = dataset.item_index.on_offer(dataset.as_of) & ~sensitive_items(dataset.items, workspace.policy)
        order = np.argsort(-lifts, kind="stable")
        rows = order[(lifts[order] > 0) & offered[order]].tolist()
        titles = dataset.items["title"].gather(rows).to_list()
        names = [name_and_size(written_out(title or ""))[0] for title in titles]
        kept_rows = [row for n, row in enumerate(rows) if names.index(names[n]) == n]
        if kept_rows:
            item_ids = dataset.items["item_id"].gather(kept_rows[:MOST_GOODS]).to_list()
            return tuple(item_ids), GoodsSource.SALES
    about = profile_of(coming.day, workspace.settings).about
    if recommender is not None and about:
        with suppress(UsageError):
            return tuple(fitting_items(recommender, about, None, limit=MOST_GOODS)), GoodsSource.TEXT
    return (), GoodsSource.NONE


def goods_note(n: int, source: GoodsSource, name: str) -> str:
    """How the n goods of a day were found, in words."""
    if source is GoodsSource.SALES:
        return f"{n} products sold more before {name} in earlier years"
    if source is GoodsSource.TEXT:
        return f"{n} products fit {name} by their descriptions; the log holds no earlier year"
    return f"no products are known to fit {name}"


def send_time(workspace: Workspace, coming: ComingDay) -> datetime | None:
    """When messages for a day go out: some days before it; None for now."""
    on = coming.on - timedelta(days=profile_of(coming.day, workspace.settings).write_before)
    send = datetime.combine(on, SEND_AT, workspace.settings.zone)
    return send if send > utc(present(workspace)) else None


def fitting_items(recommender: Recommender, text: str, category: str | None, *, limit: int) -> list[str]:
    """Ids of the items on offer that fit the text best by meaning and by words, of one category where it is named. Of
    things that differ in size alone the best one is there before any other has a second.

    Raises `UsageError` where none fits, `PolicyError` for a sensitive text.
    """
    if recommender.policy.is_sensitive((*(category or "").split(">"), text)):
        raise PolicyError(SENSITIVE_TARGET)
    data = recommender.dataset
    query = words_that_name(text)
    vectors = encode_once(recommender.encoder, [query], kind="query")
    exclude: tuple[str, ...] = ()
    if category is not None:
        outside = ~np.asarray(in_category(data.items, category))
        exclude = tuple(data.items["item_id"].gather(np.flatnonzero(outside)).to_list())
    request = SearchRequest(query=query, k=WIDER * limit, exclude=exclude)
    slate = search(recommender, WordIndex.of(data.items), request, vectors[0], vectors_weight=THEME_WEIGHT)
    if not slate.items:
        where = f" in the category {category!r}" if category else ""
        raise UsageError(f"no item on offer fits the text {text!r}{where}; name items or a category instead")
    names = [name_and_size(written_out(item.title))[0] for item in slate.items]
    is_twin = [names.index(name) < position for position, name in enumerate(names)]
    order = sorted(range(len(names)), key=lambda n: (VECTORS not in slate.items[n].served_by, is_twin[n]))
    return [slate.items[n].item_id for n in order[:limit]]


def words_that_name(text: str) -> str:
    """A text without the words that only join others: "something for a picnic" would find "sauce for pasta"."""
    joining = set(str(table("neutral.en.toml")["function"]).split())
    return " ".join(word for word in text.split() if fold(word).strip(".,") not in joining) or text


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedPerson:
    """One customer of a suggestion; None where the past does not say."""

    user_id: str
    item_id: str | None
    days_since: float | None
    """Days since their last purchase."""
    usual_days: float | None
    """Median days between two of their shopping days."""
    probability: float | None
    """Of a purchase within seven days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OccasionSuggestion:
    """An occasion of today, or a day of the calendar that comes."""

    occasion: Occasion | CalendarDay
    people: tuple[SuggestedPerson, ...]
    """The likeliest first."""
    item_ids: tuple[str, ...]
    """The item of most people first; of a day its goods."""
    coming: ComingDay | None = None
    """Of a day of the calendar."""
    source: GoodsSource = GoodsSource.NONE


def suggest(workspace: Workspace, recommender: Callable[[], Recommender] | None = None) -> list[OccasionSuggestion]:
    """The days of the calendar that come, the next one first, and the occasions of now, that of most customers first.

    People without a channel, and those who may be minors, are left out. Learns when things are due, where no model of
    that is there yet. recommender: finds the goods of a day by their texts. Raises `DataError` for a log without times.
    """
    shop = open_shop_at(workspace, present(workspace))
    item_ids, (reachable, days) = shop.dataset.items["item_id"], customers_of(workspace, shop)
    suggestions = []
    for occasion, found_cases in cases_of(workspace, shop, tuple(Occasion))[0].items():
        cases = found_cases.filter(reachable[found_cases["user"].to_numpy()])
        cases = cases.sort(pl.col("chance").fill_null(0.0), "user", descending=[True, False])
        rows, counts = np.unique(cases["item"].drop_nulls().to_numpy(), return_counts=True)
        by_people = item_ids.gather(rows[np.argsort(-counts, kind="stable")]).to_list()
        people = suggested_people(shop, days, *(cases[column].to_list() for column in ("user", "item", "chance")))
        suggestions.append(OccasionSuggestion(occasion=occasion, people=people, item_ids=tuple(by_people)))
    of_now = sorted((s for s in suggestions if s.people), key=lambda s: -len(s.people))
    return [*coming_days(workspace, shop, reachable, days, recommender), *of_now]


def coming_days(
    workspace: Workspace,
    shop: Shop,
    reachable: Mask,
    days: ShoppingDays,
    recommender: Callable[[], Recommender] | None = None,
) -> list[OccasionSuggestion]:
    """The days of the calendar that come, the next one first, with its goods and all who may be written to and bought
    within `BUYER_DAYS`, the latest buyers first. reachable, days: see `customers_of`; recommender: as of `suggest`."""
    data = shop.dataset
    today = utc(shop.now).astimezone(workspace.settings.zone).date()
    since = np.where(reachable, days.since, np.inf)
    latest = np.argsort(since, kind="stable")[: int((since <= BUYER_DAYS).sum())]
    people = suggested_people(shop, days, latest.tolist())
    suggestions: list[OccasionSuggestion] = []
    by_text: Recommender | None = None
    for coming in upcoming_days(workspace.settings, today):
        item_ids, source = goods_of_day(workspace, data, coming)
        if source is GoodsSource.NONE and recommender and profile_of(coming.day, workspace.settings).about:
            with suppress(RecllmError):  # without an encoder the shop chooses
                by_text = by_text or recommender()
                item_ids, source = goods_of_day(workspace, data, coming, by_text)
        suggestions.append(
            OccasionSuggestion(occasion=coming.day, people=people, item_ids=item_ids, coming=coming, source=source)
        )
    return [s for s in suggestions if s.people]


def customers_of(workspace: Workspace, shop: Shop) -> tuple[Mask, ShoppingDays]:
    """Who agreed to a channel and is of age, (n_users,), and when each shops."""
    settings, data = workspace.settings.occasions, shop.dataset
    channels = first_channels(workspace.gate(), data.users[USER_COLUMN].to_list(), settings.channels)
    reachable = np.array([channel is not None for channel in channels], bool) & ~minors(data, settings.adult_age)
    bought = data.events.of(Action.PURCHASE)
    return reachable, ShoppingDays.of(bought.user, bought.at, data.n_users, shop.now)


def suggested_people(
    shop: Shop,
    days: ShoppingDays,
    user_rows: Sequence[int],
    items: Sequence[int | None] = (),
    chances: Sequence[float | None] = (),
) -> tuple[SuggestedPerson, ...]:
    """items: rows of the catalogue."""
    ids, item_ids = shop.dataset.users[USER_COLUMN].to_list(), shop.dataset.items["item_id"]
    return tuple(
        SuggestedPerson(
            user_id=ids[user],
            item_id=None if item is None else item_ids[item],
            days_since=plain(float(days.since[user])),
            usual_days=plain(float(days.usual_gap[user])),
            probability=chance,
        )
        for user, item, chance in zip_longest(user_rows, items, chances)
    )


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `plan_campaign`."""
    pool = campaign_pool(recommender, file, workspace)
    cut = select(pool.scores, pool.user_ids, file.id, file.limits.cut)
    return build_audience(recommender, pool, cut, file.id, None if explain else 0, figures=FigureGate(workspace))


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
        items, source = goods_of_day(workspace, data, coming, recommender)
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
    return eligible_pool(recommender, target, rules, agreed, gate=gate, choice=section.choice, effects=effects)


def offered_items(file: CampaignFile, workspace: Workspace, scores: UserScores, positions: Ints) -> Ints:
    """Row of each person's item, -1 for none; those who come first choose first."""
    spread = file.target.spread
    if spread is None:
        spread = workspace.settings.offers.spread if file.target.picks_items else 0.0
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
    cells = figures.sizes(question, {REACHABLE: len(included(masks)), **excluded}, disjoint=True)
    rule = figures.sizes("rule", {node.model_dump_json(): n for node, n in conditions.items()})
    return ReachCount(
        reachable=cells.people[REACHABLE],
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
    scores = independent_probabilities(
        recommender, target.items, user_rows, choice.intent, objective, personal=personal
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


def first_items(file: CampaignFile, workspace: Workspace, pool: EligiblePool, selection: Selection) -> dict[int, int]:
    """Position in the pool -> row of the first item to try, of all that were drawn, best first."""
    scores = pool.scores
    positions = np.concatenate([selection.addressed, selection.holdout])
    positions = positions[np.argsort(-scores.score[positions], kind="stable")]
    items = offered_items(file, workspace, scores, positions)
    items = np.where(items < 0, pool.target.items[0], items)  # nothing of the campaign was proposed for them
    return dict(zip(positions.tolist(), items.tolist(), strict=True))
