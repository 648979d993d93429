"""Audiences: what they are for, everybody's probability, exclusions, the cut, reasons, and the group's traits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Mask
from recllm.base.documents import count_text, plain
from recllm.base.errors import PolicyError, UsageError
from recllm.base.schema import Action, Intent, Objective, Reason
from recllm.base.words.sentences import section
from recllm.market.audiences.exclusions import Consents, ExclusionReason, exclusion_masks, first_only, included
from recllm.market.audiences.people_rule import rule_words
from recllm.market.audiences.probabilities import Unsuited, UserScores, likeness, target_probabilities, trained_model
from recllm.market.audiences.reasons import AudienceTrait, distinguishing_traits, reasons_for
from recllm.market.audiences.request import AudienceRequest, Exclusions, OfferChoice
from recllm.market.audiences.selection import Selection, check_floor, select
from recllm.market.propensity.effects import EffectsOf
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.catalogue import (
    CATEGORY_SEPARATOR,
    SENSITIVE_TARGET,
    catalogue_rows,
    in_category,
    sensitive_items,
)
from recllm.shop.data.dataset import USER_COLUMN, utc
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import PolicyGate
from recllm.text.encoder.batches import encode_once
from recllm.text.items import item_texts
from recllm.text.templates import Prompts

SUMMED_FLOORS = 4  # least reported size with sums and traits, in floors: a smaller group may be empty behind its noise
MAX_LISTED_ITEMS = 100
"""A document lists no more items of a wide category."""
TEXT_ITEM = "text of the campaign"
"""Id of the item that a text stands for; it is in no catalogue."""


@dataclass(frozen=True, eq=False)
class AudienceTarget:
    """The items whose purchase counts."""

    name: str
    """The campaign's, where the caller gives it none."""
    items: Ints
    """Rows of the catalogue, ascending."""
    notes: tuple[str, ...] = ()
    is_personal: bool = False
    """A customer's probability is that of the item that suits them best, else of at least one item."""

    @property
    def common_items(self) -> Ints:
        """Items that leave out people who bought or returned one; see `probabilities.is_left_out` for personal ones."""
        return self.items[:0] if self.is_personal else self.items


def audience_target(
    recommender: Recommender, items: Sequence[str] | None = None, category: str | None = None
) -> AudienceTarget:
    """The target of items or a category, or of the whole catalogue. Raises `UsageError` for an unknown item or a
    category without any, `PolicyError` when all are of a sensitive one."""
    data, ids = recommender.dataset, list(dict.fromkeys(items or ()))
    offered = data.item_index.on_offer(data.as_of)
    if items is None and category is None:
        rows = np.flatnonzero(offered)
    elif category is not None:
        rows = np.flatnonzero(in_category(data.items, category) & offered)
        if not len(rows):
            raise UsageError(f"no item on offer in the category {category!r}; write a name, or a path as 'a > b'")
    else:
        rows = catalogue_rows(data, ids)
    sensitive = sensitive_items(data.items[rows.tolist()], recommender.policy)
    if sensitive.all():
        raise PolicyError(SENSITIVE_TARGET)
    notes = [f"{int(sensitive.sum())} items of a sensitive category are left out"] if sensitive.any() else []
    if len(gone := rows[~(offered[rows] | sensitive)]):
        titles = ", ".join(map(repr, data.items["title"].gather(gone[:3])))
        notes.append(f"{count_text(len(gone), 'item')} not on offer now, sold out or withdrawn: {titles}")
    name = "catalogue" if category is None else category
    if category is None and items is not None:
        # every set has its own name, also of many items
        digest = hashlib.sha256("\0".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()
        name = ",".join(ids) if len(ids) <= 3 else f"{len(ids)} items {digest[:8]}"
    return AudienceTarget(name, np.sort(rows[~sensitive]), tuple(notes))


def text_target(recommender: Recommender, text: str, category: str | None = None) -> tuple[Recommender, AudienceTarget]:
    """A recommender whose catalogue has one more item, which never sold and is called `text`, and that item.

    category: the item's path, "a > b > c"; that of the item nearest in text when None, as all that is known of an item
    without sales is how its kind sells. Raises `PolicyError` for a sensitive text or category.
    """
    items, notes = recommender.dataset.items, []
    path = [] if category is None else [name.strip() for name in category.split(CATEGORY_SEPARATOR.strip())]
    categorised = np.flatnonzero(items["category"].list.len().fill_null(0).to_numpy() > 0)
    if category is None and len(categorised):
        vectors = encode_once(recommender.encoder, [text], kind="query")
        nearest = categorised[int(np.argmax(recommender.item_vectors[categorised] @ vectors[0]))]
        path = items["category"][int(nearest)].to_list()
        notes.append(f"taken to be of the category {CATEGORY_SEPARATOR.join(path)!r}, that of the nearest item")
    if recommender.policy.is_sensitive((*path, text)):
        raise PolicyError(SENSITIVE_TARGET)
    row = {"item_id": [TEXT_ITEM], "title": [text.strip()], "category": [path or None], "available": [True]}
    item = pl.DataFrame(row, schema={name: items.schema[name] for name in row})
    extended = pl.concat([items, item], how="diagonal")
    vectors = encode_once(recommender.encoder, item_texts(extended[-1:], recommender.text_locale))
    notes.append("the text stands for an item that never sold: trust the order of people more than the probabilities")
    target = AudienceTarget(text.strip(), np.array([items.height]), tuple(notes))
    return recommender.with_items(replace(recommender.dataset, items=extended), vectors), target


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceMember:
    """One person who is addressed."""

    user_id: str
    """The dataset's: a pseudonym where the shop's ids are kept apart."""
    probability: float | None = None
    """Calibrated, in [0, 1], that they buy one of the items within the horizon; None for a likeness."""
    score: float
    """What people were ordered by: minus the log of the probability of buying none, or the likeness."""
    item_id: str | None
    """The item of the target that suits them best; None for a likeness."""
    reasons: tuple[Reason, ...] = ()
    effect: float | None = None
    """How much the treatment changes their outcome, where people are ordered by it; low and high hold it at 95 %."""
    effect_low: float | None = None
    effect_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCount:
    """How many people a rule, or one of its conditions, holds for."""

    words: str
    people: int | None
    """None for fewer than the policy's floor, or without budget; see `workspace.figures`."""


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Every known customer is a member, in the holdout, or counted among the excluded.
    For callers without exact figures the counts are rounded and need not add up; see `workspace.figures`."""

    campaign_id: str
    as_of: datetime
    horizon_days: int
    model_version: str | None
    items: tuple[str, ...]
    people: tuple[AudienceMember, ...]
    """Best first."""
    holdout: tuple[str, ...]
    """Who is not addressed, for comparison."""
    excluded: dict[str, int | None]
    """`ExclusionReason` -> people; None where there is no figure."""
    group: tuple[AudienceTrait, ...]
    """What sets the members apart from the people who could have been reached and are not."""
    expected_conversions: float | None
    """Sum of the probabilities of `people`; None for a likeness."""
    converts: tuple[Action, ...] = (Action.PURCHASE,)
    """The actions that convert: purchases, or in a log with hardly any what the model learned from."""
    expected_extra: float | None = None
    """Sum of the effects of `people`; None without effects."""
    notes: tuple[str, ...] = ()
    rule: tuple[RuleCount, ...] = ()
    """Of the people who agreed, how many meet the rule over people: all of it first, then each condition alone."""
    reported_size: int | None = None
    """People addressed, for a caller who does not get the list; None below the floor."""
    reported_holdout: int | None = None

    @property
    def size(self) -> int:
        return len(self.people)


def aim(converts: Sequence[str]) -> str:
    """What people are expected to do: "buy" where purchases alone convert, else "convert", and a note says what counts.
    Also a key of the pages' words."""
    return "buy" if tuple(converts) == (Action.PURCHASE,) else "convert"


@dataclass(frozen=True, eq=False)
class EligiblePool:
    """The people who can be reached: those without a reason for exclusion."""

    target: AudienceTarget
    user_rows: Ints
    """(n,), ascending."""
    user_ids: list[str]
    """(n,), the dataset's ids."""
    scores: UserScores
    """Of the n people."""
    excluded: dict[str, int]
    """`ExclusionReason` -> people who are not in the pool."""
    rule: tuple[RuleCount, ...] = ()
    """As `Audience.rule`, also of few people."""


def requested_target(recommender: Recommender, request: AudienceRequest) -> tuple[Recommender, AudienceTarget | None]:
    """The target of a request, None for seeds, and the recommender that has its items."""
    if request.seeds is not None:
        return recommender, None
    trained_model(recommender)
    if request.text is not None:
        return text_target(recommender, request.text, request.category)
    return recommender, audience_target(recommender, request.items, request.category)


def find_audience(
    recommender: Recommender,
    request: AudienceRequest,
    *,
    agreed: Consents | None = None,
    gate: PolicyGate | None = None,
    effects: EffectsOf | None = None,
    figures: FigureGate | None = None,
    unsuited: Unsuited | None = None,
) -> Audience:
    """The people to reach, of those who agreed to personalisation.

    agreed: who agreed to the request's channel too. gate: see `match_people`. effects: for the objective uplift.
    figures: what the caller may learn of groups; None for exact figures. unsuited: see `Unsuited`. Raises
    `UsageError` for an unknown item, an empty category or unknown seeds, `NotFittedError` without a trained model,
    `PolicyError` for a sensitive target or a group of fewer people than the policy's floor; an empty one is an answer.
    """
    recommender, target = requested_target(recommender, request)
    is_reported = figures is not None and not figures.is_exact
    pool = eligible_pool(
        recommender,
        target,
        request.exclusions,
        agreed,
        request.seeds or (),
        gate,
        choice=request.choice,
        effects=effects,
        score_all=is_reported,
        unsuited=unsuited,
    )
    name = request.campaign or pool.target.name
    question = plain(request.model_copy(update={"explain": True, "explain_first": None}))
    selection = select(pool.scores, pool.user_ids, name, request.limits)
    explain_first = request.explain_first if request.explain and request.seeds is None and not is_reported else 0
    return build_audience(recommender, pool, selection, name, explain_first, figures, question)


def eligible_pool(
    recommender: Recommender,
    target: AudienceTarget | None,
    exclusions: Exclusions,
    agreed: Consents | None = None,
    seeds: Collection[str] = (),
    gate: PolicyGate | None = None,
    *,
    choice: OfferChoice | None = None,
    effects: EffectsOf | None = None,
    only_for: tuple[Ints, UserScores] | None = None,
    score_all: bool = False,
    unsuited: Unsuited | None = None,
) -> EligiblePool:
    """The customers without a reason for exclusion, with their probabilities; without a target all but the `seeds`,
    with their likeness to these. only_for: rows, ascending, of the only people with the target, and their scores.
    score_all: take the same time for every pool, so that a caller without exact figures cannot time who is in it.

    Raises `NotFittedError` without a model, `UsageError` for likeness without seeds, a margin that no item has or the
    objective uplift without effects, and what `match_people` raises.
    """
    choice, data = choice or OfferChoice(), recommender.dataset
    items = np.zeros(0, np.int64) if target is None else target.items
    common = items if target is None else target.common_items
    with_target = None if only_for is None else only_for[0]
    masks, match = exclusion_masks(recommender, common, exclusions, agreed, seeds, gate, with_target)
    user_rows = included(masks)
    scored = np.arange(data.n_users) if score_all else user_rows
    of_pool = user_rows if score_all else np.arange(len(user_rows))
    if target is None:
        seed_rows = np.unique(recommender.user_rows(list(seeds)))
        seed_rows = seed_rows[seed_rows >= 0]
        if score_all and len(scored):  # how many seeds are customers would say of one seed whether it is
            seed_rows = np.resize(seed_rows if len(seed_rows) else scored[:1], len(set(seeds)))
        score, note = likeness(recommender, seed_rows, scored)
        scores = UserScores(score[of_pool], np.full(len(user_rows), -1), None)
        target = AudienceTarget(f"like {len(seed_rows)} seeds", items, (note,))
    elif only_for is not None:
        scores = only_for[1].rows(np.searchsorted(only_for[0], user_rows))
    else:
        objective = Objective.PROBABILITY if choice.objective is Objective.UPLIFT else choice.objective
        personal = exclusions if target.is_personal else None
        scores = target_probabilities(
            recommender, items, scored, choice.intent, objective, personal=personal, unsuited=unsuited
        )
        scores = scores.rows(user_rows) if score_all else scores
        late: dict[ExclusionReason, Mask] = {}
        if target.is_personal or choice.intent is not Intent.MIXED or objective is Objective.MARGIN:
            late[ExclusionReason.NO_OFFER] = scores.best_item < 0
        elif unsuited is not None:  # of many new items none is proposed to anybody
            late[ExclusionReason.UNSUITED] = (scores.best_item < 0) & (scores.best_item >= 0).any()
        if choice.objective is Objective.UPLIFT:
            if effects is None:
                raise UsageError(f"the effects {choice.effects!r} are missing; give those of a trial")
            of_people = effects(scored).rows(of_pool)
            scores = replace(scores, score=of_people.effect, effects=of_people)
            if choice.sure:
                late[ExclusionReason.NOT_MOVED] = of_people.low <= 0
        if late:
            late = first_only(late)
            remaining = included(late)
            for reason, mask in late.items():
                masks[reason] = np.bincount(user_rows[mask], minlength=data.n_users) > 0
            user_rows, scores = user_rows[remaining], scores.rows(remaining)
    user_ids = data.users[USER_COLUMN].gather(user_rows).to_list()
    excluded = {reason.value: int(mask.sum()) for reason, mask in masks.items() if mask.any()}
    visible = ~masks[ExclusionReason.NO_CONSENT]
    currencies = data.items["currency"].drop_nulls().unique()
    locale, currency = recommender.locale, currencies[0] if len(currencies) == 1 else None
    counts = match.counts(visible) if match else {}
    rule = tuple(RuleCount(words=rule_words(node, locale, currency), people=n) for node, n in counts.items())
    return EligiblePool(target, user_rows, user_ids, scores, excluded, rule)


def build_audience(
    recommender: Recommender,
    pool: EligiblePool,
    selection: Selection,
    name: str,
    explain_first: int | None,
    figures: FigureGate | None = None,
    question: object = "",
) -> Audience:
    """The audience that was selected from a pool; explain_first as in `AudienceRequest`, figures as in `find_audience`.
    question: the request, see `FigureGate.sizes`.

    Raises `PolicyError` for fewer people than the floor. A caller without exact figures gets no list, and no size of
    such a group, but no error that would show that it is one."""
    data, model, scores = recommender.dataset, recommender.model, pool.scores
    floor = recommender.policy.group_floor if figures is None else figures.floor
    if figures is None or figures.is_exact:
        check_floor(len(selection.addressed), floor)
    reached, addressed = pool.user_rows[selection.addressed], scores.rows(selection.addressed)
    others = np.setdiff1d(pool.user_rows, reached)
    reasons = reasons_for(recommender, reached[:explain_first], addressed.best_item[:explain_first])
    reasons += [()] * (len(reached) - len(reasons))
    columns = {"score": addressed.score}
    if addressed.probability is not None:
        columns["probability"] = addressed.probability.astype(np.float64)
    if (effects := addressed.effects) is not None:
        columns |= {"effect": effects.effect, "effect_low": effects.low, "effect_high": effects.high}
    people = tuple(
        AudienceMember(
            user_id=pool.user_ids[position],
            item_id=data.items["item_id"][int(item)] if item >= 0 else None,
            reasons=why,
            **{name: float(column[n]) for name, column in columns.items()},
        )
        for n, (position, item, why) in enumerate(zip(selection.addressed, addressed.best_item, reasons, strict=True))
    )
    cut = {
        ExclusionReason.UNPROFITABLE: selection.unprofitable,
        ExclusionReason.BEYOND_LIMIT: selection.beyond_limit,
    }
    actions, notes = recommender.population.settings.target, pool.target.notes
    if pool.rule:
        notes = (*notes, Prompts.load().render("people_rule.note", recommender.locale, part=pool.rule[0].words))
    if actions != (Action.PURCHASE,):
        notes = (*notes, f"a conversion is any of: {', '.join(actions)}")
    audience = Audience(
        campaign_id=name,
        as_of=utc(data.as_of),
        horizon_days=model.horizon_days if model else 0,
        model_version=model.version if model else None,
        items=tuple(data.items["item_id"].gather(pool.target.items).to_list()),
        people=people,
        holdout=tuple(pool.user_ids[position] for position in selection.holdout),
        excluded={**pool.excluded, **{reason.value: n for reason, n in cut.items() if n}},
        group=() if figures else distinguishing_traits(data, reached, others, recommender.policy),
        expected_conversions=float(columns["probability"].sum()) if "probability" in columns else None,
        converts=tuple(actions),
        expected_extra=None if effects is None else float(effects.effect.sum()),
        notes=notes,
        rule=tuple(count if (count.people or 0) >= floor else replace(count, people=None) for count in pool.rule),
    )
    return audience if figures is None else as_reported(audience, recommender, pool, reached, figures, question)


def as_reported(
    audience: Audience,
    recommender: Recommender,
    pool: EligiblePool,
    reached: Ints,
    figures: FigureGate,
    question: object,
) -> Audience:
    """The same with the figures that the caller gets. reached: rows of the people addressed."""
    counts = {
        **dict.fromkeys(ExclusionReason, 0),  # which reasons are missing would say which groups are empty
        **{reason: n or 0 for reason, n in audience.excluded.items()},
        "addressed": audience.size,
        "held out": len(audience.holdout),
    }
    counts[ExclusionReason.NO_CONSENT] += figures.unconsented(recommender.dataset.users[USER_COLUMN])
    sizes = figures.sizes(question, counts, disjoint=True)
    parts = figures.sizes("rule", {count.words: count.people or 0 for count in pool.rule})
    size, n = sizes.people["addressed"], audience.size
    is_large = figures.is_exact or (size is not None and size >= SUMMED_FLOORS * figures.floor)

    def scaled(total: float | None) -> float | None:
        """A sum over the people addressed, for as many as are reported."""
        if total is None or figures.is_exact:
            return total
        return figures.total(total / max(n, 1), size, question) if is_large and size else None

    noise = figures.trait_noise(question) if is_large else None
    others = np.setdiff1d(pool.user_rows, reached)
    traits = noise and distinguishing_traits(recommender.dataset, reached, others, recommender.policy, noise)
    return replace(
        audience,
        reported_size=size,
        reported_holdout=sizes.people["held out"],
        expected_conversions=scaled(audience.expected_conversions),
        expected_extra=scaled(audience.expected_extra),
        rule=tuple(replace(count, people=parts.people[count.words]) for count in audience.rule),
        excluded={r.value: sizes.people[r] for r in ExclusionReason if counts[r] or not figures.is_exact},
        group=traits or (),
        notes=(*audience.notes, *sizes.notes()),
    )


def audience_document(
    audience: Audience, ids: Mapping[str, str] | None = None, *, limit: int | None = None
) -> dict[str, Any]:
    """What `--json` prints, without the people of the holdout. ids: pseudonym -> the shop's own id, where it is known.
    limit: most people listed; with 0, `size` and `holdout` are what the caller may learn of them."""
    listed = replace(audience, people=audience.people[:limit])
    document: dict[str, Any] = plain(listed)
    for person in document["people"]:
        person["user_id"] = (ids or {}).get(person["user_id"], person["user_id"])
    reported = document.pop("reported_size"), document.pop("reported_holdout")
    size, n_held_out = reported if limit == 0 else (audience.size, len(audience.holdout))
    return document | {
        "item_id": audience.items[0] if len(audience.items) == 1 else None,
        "items": list(audience.items[:MAX_LISTED_ITEMS]),
        "size": size,
        "holdout": n_held_out,
    }


def counts_in_words(counts: Mapping[str, int | None]) -> str:
    """Such as "bought it recently (1,200), no consent (few)"; few also stands for figures that are withheld."""
    code_words = section("left_out", "en")
    numbers = {code: "few" if n is None else f"{n:,}" for code, n in counts.items()}
    return ", ".join(f"{code_words.get(code, code)} ({number})" for code, number in numbers.items())
