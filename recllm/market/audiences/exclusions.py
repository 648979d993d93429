"""People left out of an audience, each under the first reason that holds, so that the counts add up."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import numpy as np

from recllm.base.arrays import Ints, Mask, Rows
from recllm.base.errors import UsageError
from recllm.base.schema import ACTION_CODE, Action
from recllm.learn.features.item_vectors import basics_of
from recllm.market.audiences.people_match import RuleMatch, match_people
from recllm.market.audiences.request import Exclusions
from recllm.market.audiences.selection import globally_held_out
from recllm.recommend.recommender.people import DatasetPeople
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, utc
from recllm.shop.workspace.privacy import PolicyGate

Consents = Callable[[Sequence[str]], Sequence[bool]]
"""Whether each of the dataset's ids agreed to a channel."""
Key = TypeVar("Key")


class ExclusionReason(StrEnum):
    """In the order in which they are looked at; the last five are found when people are scored."""

    NO_CONSENT = "no_consent"
    SUPPRESSED = "suppression_list"
    MINOR = "minor"
    SEED = "seed"
    UNKNOWN = "nothing_known"
    """Neither an event of their own nor a basic: there is nothing to tell them apart by."""
    NO_OCCASION = "no_occasion"
    """The day is not the occasion that the target is."""
    RULE = "people_rule"
    """They do not meet the request's rule over people."""
    HELD_OUT = "global_holdout"
    BOUGHT = "bought_recently"
    RETURNED = "returned"
    CAPPED = "frequency_cap"
    UNSUITED = "unsuited"
    """They have the target's items, or these are made for others than they buy for."""
    NO_OFFER = "no_fitting_offer"
    """No item of the target is to them what the intent asks for."""
    NOT_MOVED = "no_effect_shown"
    """Their effect is not shown to be above 0."""
    UNPROFITABLE = "not_worth_the_contact"
    BEYOND_LIMIT = "beyond_the_cut"


def exclusion_masks(
    recommender: Recommender,
    items: Rows,
    exclusions: Exclusions,
    agreed: Consents | None = None,
    seeds: Collection[str] = (),
    gate: PolicyGate | None = None,
    only_for: Rows | None = None,
) -> tuple[dict[ExclusionReason, Mask], RuleMatch | None]:
    """Reason -> who it holds for first, (n_users,) each; and who meets the rule over people, where there is one.

    items: rows of the target's items. agreed: to the channel; personalisation people must have agreed to anyway. gate:
    as of `match_people`. only_for: rows of the only people with the occasion. Raises what `match_people` raises, and
    `UsageError` for a recommender that reads people by key and so has none in its dataset.
    """
    if not isinstance(recommender.people, DatasetPeople):
        raise UsageError("this recommender reads people one by one; open it with everybody=True to find an audience")
    data = recommender.dataset
    e = data.events
    refused = ~recommender.permitted()
    if agreed is not None:
        refused |= ~np.array(agreed(data.users[USER_COLUMN].to_list()), bool)
    acted = np.diff(e.select(e.action != ACTION_CODE[Action.SHOWN]).indptr) > 0
    has_basics = np.array([bool(basics) for basics in basics_of(data.users)], bool)
    masks = {
        ExclusionReason.NO_CONSENT: refused,
        ExclusionReason.SUPPRESSED: _listed(recommender, exclusions.suppressed),
        ExclusionReason.MINOR: minors(data, exclusions.adult_age),
        ExclusionReason.SEED: _listed(recommender, seeds),
        ExclusionReason.UNKNOWN: ~acted & ~has_basics,
    }
    match = None
    if exclusions.people is not None:
        match = match_people(exclusions.people, data, recommender.policy, gate)
        masks[ExclusionReason.RULE] = ~match.people
    if exclusions.holdout_share > 0:
        ids = data.users[USER_COLUMN].to_list()
        held_out = globally_held_out(ids, exclusions.holdout_share, exclusions.holdout_salt)
        masks[ExclusionReason.HELD_OUT] = held_out
    on_target = np.isin(e.item, items)
    if exclusions.bought_days is not None:
        recent = on_target & (e.action == ACTION_CODE[Action.PURCHASE])
        recent &= e.at >= data.as_of - exclusions.bought_days * DAY
        masks[ExclusionReason.BOUGHT] = np.bincount(e.user[recent], minlength=data.n_users) > 0
    if exclusions.returned:
        latest = {action: np.full(data.n_users, -1, np.int64) for action in (Action.RETURN, Action.PURCHASE)}
        for action, at in latest.items():
            done = on_target & (e.action == ACTION_CODE[action])
            np.maximum.at(at, e.user[done], e.at[done])
        returned = latest[Action.RETURN]
        masks[ExclusionReason.RETURNED] = (returned >= 0) & (returned >= latest[Action.PURCHASE])
    if exclusions.frequency_cap is not None:
        # the positions of one slate have one time: what was shown within a second is one occasion
        recent = (e.action == ACTION_CODE[Action.SHOWN]) & (e.at >= data.as_of - exclusions.frequency_days * DAY)
        occasions = np.unique(np.stack([e.user[recent].astype(np.int64), e.at[recent]]), axis=1)
        counts = np.bincount(occasions[0], minlength=data.n_users)
        masks[ExclusionReason.CAPPED] = counts >= exclusions.frequency_cap
    if only_for is not None:
        masks[ExclusionReason.NO_OCCASION] = ~np.isin(np.arange(data.n_users), only_for)
    return first_only(masks), match


def included(masks: Mapping[Key, Mask]) -> Ints:
    """Rows of the people for whom no reason holds, ascending."""
    return np.flatnonzero(~np.logical_or.reduce(list(masks.values())))


def first_only(masks: Mapping[Key, Mask]) -> dict[Key, Mask]:
    """The same, each person left under the first reason alone."""
    first, earlier = {}, np.zeros(len(next(iter(masks.values()))), bool)
    for reason, mask in masks.items():
        first[reason] = mask & ~earlier
        earlier = earlier | mask
    return first


def _listed(recommender: Recommender, ids: Collection[str]) -> Mask:
    rows = recommender.user_rows(list(ids)) if ids else np.zeros(0, np.int64)
    return np.bincount(rows[rows >= 0], minlength=recommender.dataset.n_users) > 0


_AGE = re.compile(r"(^|[^a-z])(age|ages|aged)([^a-z]|$)|年龄|岁")
_BORN = re.compile(r"birth|(^|[^a-z])born([^a-z]|$)|出生|生日")
_BELOW = re.compile(r"^\s*(<|under|below|up to|younger|bis|小于|不满)|以下")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_NUMBER = re.compile(r"\d{1,9}")


def minors(data: Dataset, adult_age: int) -> Mask:
    """People who are or may be younger by their own statements, (n_users,)."""
    year = utc(data.as_of).year
    minor: dict[tuple[str, str], bool] = {}
    """Of each distinct basic: there are few of them, and many people."""
    mask = np.zeros(data.n_users, bool)
    for row, basics in enumerate(basics_of(data.users) if adult_age > 0 else ()):
        for name, value in basics.items():
            if (name, value) not in minor:
                age = youngest_age(name, value, year)
                minor[name, value] = age is not None and age < adult_age
            mask[row] |= minor[name, value]
    return mask


def youngest_age(name: str, value: str, year: int) -> int | None:
    """The lowest age that a basic allows, e.g. 13 for age "13-17", 0 for "under 18"; None when it is about no age.
    year: the present one, from which a year of birth counts; the birthday may still be to come."""
    name, value = name.casefold(), value.casefold()
    if _BORN.search(name):
        years = [int(y) for y in _YEAR.findall(value)]
        return year - max(years) - 1 if years else None
    numbers = [int(n) for n in _NUMBER.findall(value)]
    if not _AGE.search(name) or not numbers:
        return None
    return 0 if _BELOW.search(value) else numbers[0]
