"""People who meet a rule: one pass over arrays per condition.

A mask of (n_users,) is computed for each distinct node of the rule.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from recllm.base.arrays import Mask, Values
from recllm.base.errors import PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Action, Purpose
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.people_rule import (
    AgreedRule,
    AllRule,
    AnyRule,
    BasicRule,
    DeedRule,
    NotRule,
    OrderAgeRule,
    OrdersRule,
    PeopleRule,
    ReachedRule,
    SpentRule,
    check_size,
    conditions_of,
)
from recllm.market.propensity.features import money
from recllm.shop.data.catalogue import CATEGORY_SEPARATOR, SENSITIVE_TARGET, in_category, known_rows, sensitive_items
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events
from recllm.shop.data.interactions import visits
from recllm.shop.workspace.privacy import PolicyGate

ACTION_OF = {
    "bought": Action.PURCHASE,
    "viewed": Action.VIEW,
    "carted": Action.CART,
    "favourited": Action.FAVOURITE,
    "clicked": Action.CLICK,
    "dismissed": Action.DISMISS,
    "returned": Action.RETURN,
}
"""What `DeedRule.condition` calls each action."""


@dataclass(frozen=True, eq=False)
class RuleMatch:
    """Who meets a rule, and each of its parts."""

    rule: PeopleRule
    masks: dict[PeopleRule, Mask]
    """Node of the rule -> who meets it, (n_users,) each."""

    @property
    def people(self) -> Mask:
        """Who meets the rule, (n_users,)."""
        return self.masks[self.rule]

    def counts(self, visible: Mask) -> dict[PeopleRule, int]:
        """Of the people who may be looked at, (n_users,), how many meet the rule, and each of its conditions alone."""
        return {node: int((self.masks[node] & visible).sum()) for node in (self.rule, *conditions_of(self.rule))}


def match_people(rule: PeopleRule, dataset: Dataset, policy: Policy, gate: PolicyGate | None = None) -> RuleMatch:
    """Who of the dataset's users meets a rule as of its time. gate: of the workspace, for conditions on contacts, which
    no dataset holds.

    Raises `UsageError` for a basic, item, category or brand that is unknown, for a rule that is too large, and for a
    condition on contacts without a gate; `PolicyError` for a condition on products of a sensitive category.
    """
    facts, masks = _PeopleFacts(dataset, policy, gate), dict[PeopleRule, Mask]()

    def mask(node: PeopleRule) -> Mask:
        if node not in masks:
            match node:
                case AllRule():
                    masks[node] = np.logical_and.reduce([mask(member) for member in node.all])
                case AnyRule():
                    masks[node] = np.logical_or.reduce([mask(member) for member in node.any])
                case NotRule():
                    masks[node] = ~mask(node.negated)
                case _:
                    masks[node] = facts.mask(node)
        return masks[node]

    check_size(rule)
    mask(rule)
    return RuleMatch(rule, masks)


@dataclass(frozen=True, eq=False)
class _PeopleFacts:
    """What conditions ask of one dataset."""

    dataset: Dataset
    policy: Policy
    workspace_gate: PolicyGate | None

    def mask(self, rule: PeopleRule) -> Mask:
        """Who meets a condition, (n_users,)."""
        n = self.dataset.n_users
        match rule:
            case DeedRule():
                times = visits(self.deeds_of(ACTION_OF[rule.condition], rule, rule.days))[1]
                return np.asarray(times >= rule.at_least)
            case SpentRule():
                deeds = self.deeds_of(Action.PURCHASE, rule, rule.days)
                # prices are stored in single precision, and money is compared in hundredths
                spent = np.round(np.bincount(deeds.user, money(deeds), minlength=n), 2)
                return np.asarray((spent >= (rule.at_least or 0)) & (spent < _or(rule.below, math.inf)))
            case OrdersRule():
                orders = visits(self.deeds_of(Action.PURCHASE, None, rule.days))[1]
                return np.asarray((orders >= (rule.at_least or 0)) & (orders <= _or(rule.at_most, math.inf)))
            case OrderAgeRule():
                days = self._order_age(last=rule.condition == "last_order")
                return np.asarray((days >= (rule.at_least or 0)) & (days <= _or(rule.at_most, math.inf)))
            case BasicRule():
                return self._basic(rule)
            case AgreedRule():
                ids = self.dataset.users[USER_COLUMN].to_list()
                return np.array(self.gate.permits_each(ids, CHANNEL_PURPOSE[rule.channel]), bool)
            case ReachedRule():
                return self._reached(rule)
        raise UsageError(f"{type(rule).__name__} is no rule over people; see recllm.market.audiences.people_rule")

    def deeds_of(self, action: Action, rule: DeedRule | SpentRule | None, days: float | None) -> Events:
        """The events of an action on the rule's items, all without a rule, within the last days."""
        deeds = self.dataset.events.of(action)
        if days is not None:
            deeds = deeds.select(deeds.at >= self.dataset.as_of - days * DAY)
        if rule is not None and (rule.item, rule.category, rule.brand) != (None, None, None):
            deeds = deeds.select(self._item_mask(rule.item, rule.category, rule.brand)[deeds.item])
        return deeds

    def _order_age(self, *, last: bool) -> Values:
        """Days since each user's last or first order, (n_users,); NaN, which nothing equals, without one."""
        orders = self.deeds_of(Action.PURCHASE, None, None)
        edge = np.ones(len(orders.user), bool)
        changes = np.diff(orders.user) != 0
        edge[slice(None, -1) if last else slice(1, None)] = changes
        days = np.full(self.dataset.n_users, np.nan)
        days[orders.user[edge]] = (self.dataset.as_of - orders.at[edge]) / DAY
        return days

    def _item_mask(self, item: str | None, category: str | None, brand: str | None) -> Mask:
        """Which items are meant, (n_items,), those of a sensitive category left out.
        Raises `UsageError` for none, `PolicyError` where all are of a sensitive category."""
        if self.policy.is_sensitive((category or "",)):
            raise PolicyError(SENSITIVE_TARGET)
        mask = np.zeros(self.dataset.n_items, bool)
        if item is not None:
            mask[known_rows(self.dataset, [item])] = True
        elif category is not None:
            mask = self._of_category(category)
        elif brand is not None:
            brands = self.dataset.items["brand"]
            is_brand = brands.str.strip_chars().str.to_lowercase() == brand.strip().lower()
            mask = np.array(is_brand.fill_null(False).to_numpy())
            if not mask.any():
                listed = brands.drop_nulls().unique()
                raise UsageError(f"no item is of the brand {brand!r}; {_near(brand, listed)}")
        rows = np.flatnonzero(mask)
        sensitive = sensitive_items(self.dataset.items[rows.tolist()], self.policy)
        if sensitive.all():
            raise PolicyError(SENSITIVE_TARGET)
        mask[rows[sensitive]] = False
        return mask

    def _of_category(self, category: str) -> Mask:
        mask = in_category(self.dataset.items, category)
        if not mask.any():
            every = self.dataset.items["category"].unique().to_list()
            paths = [path for path in every if path and not self.policy.is_sensitive(path)]
            names = dict.fromkeys(name for path in paths for name in path)
            full_paths = (CATEGORY_SEPARATOR.join(path) for path in paths)
            candidates = full_paths if CATEGORY_SEPARATOR.strip() in category else names
            raise UsageError(f"no item is of the category {category!r}; {_near(category, candidates)}")
        return mask

    def _basic(self, rule: BasicRule) -> Mask:
        basics = {name.casefold(): name for name in self.dataset.users.columns if name != USER_COLUMN}
        name = basics.get(rule.name.strip().casefold())
        if name is None:
            raise UsageError(f"there is no basic {rule.name!r}; {_near(rule.name, basics.values())}")
        column = self.dataset.users[name].cast(pl.String)
        if rule.stated:
            return np.array((column.str.strip_chars() != "").fill_null(False).to_numpy())
        if rule.equals is not None or rule.one_of is not None:
            values = {value.strip().lower() for value in (rule.one_of or (rule.equals or "",))}
            return np.array(column.str.strip_chars().str.to_lowercase().is_in(list(values)).fill_null(False).to_numpy())
        low, high = _or(rule.at_least, -math.inf), _or(rule.at_most, math.inf)
        numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
        plain = ((numbers >= low) & (numbers <= high)).fill_null(False)
        bands = column.filter(numbers.is_null() & column.is_not_null()).unique()
        within = [value for value in bands if (band := band_of(value)) and low <= band[0] and band[1] <= high]
        return np.array((plain | column.is_in(within).fill_null(False)).to_numpy())

    @property
    def gate(self) -> PolicyGate:
        if self.workspace_gate is None:
            raise UsageError("only a workspace knows consent for channels and messages: ask there, or leave it out")
        return self.workspace_gate

    def _reached(self, rule: ReachedRule) -> Mask:
        messages = self.gate.messages(Purpose.PERSONALISATION)
        if rule.campaign is not None:
            messages = messages.filter(pl.col("campaign_id") == rule.campaign)
        if rule.channel is not None:
            messages = messages.filter(pl.col("channel") == rule.channel)
        if rule.days is not None:
            # in a replayed log exports are later than its end, which is the present: they are recent
            messages = messages.filter(pl.col("exported_at") >= self.dataset.as_of - rule.days * DAY)
        rows = self.dataset.user_rows(messages["user_id"].unique())
        return np.bincount(rows[rows >= 0], minlength=self.dataset.n_users) > 0


def _or(bound: float | None, otherwise: float) -> float:
    return otherwise if bound is None else bound


def _near(name: str, names: Iterable[str]) -> str:
    """What could have been meant, in any case of letters."""
    by_key = {text.casefold(): text for text in names}
    nearest = difflib.get_close_matches(name.strip().casefold(), by_key, n=3)
    if nearest:
        return f"did you mean {' or '.join(repr(by_key[key]) for key in nearest)}?"
    listed = sorted(by_key.values())[:8]
    return f"there are {', '.join(listed)}{' and others' if len(by_key) > len(listed) else ''}" if listed else "none is"


_BAND = re.compile(
    r"""(?P<before><=?|>=?|≤|≥|under|below|less\ than|up\ to|over|above|more\ than|from|小于|不满|大于|超过)?\s*
    [$€£¥]?\s*(?P<low>\d[\d,]*(?:\.\d+)?)\s*(?P<low_unit>[km千万])?\s*
    (?:(?:-|–|—|~|to|bis|至|到)\s*[$€£¥]?\s*(?P<high>\d[\d,]*(?:\.\d+)?)\s*(?P<high_unit>[km千万])?\s*)?
    (?P<after>\+|and\ over|and\ older|or\ more|and\ under|or\ less|years|岁以上|岁以下|岁|以上|以下|元)?\s*""",
    re.VERBOSE,
)
_LONGEST_BAND = 80
"""Characters."""
_UNIT = {None: 1.0, "k": 1e3, "千": 1e3, "万": 1e4, "m": 1e6}
_UPWARDS = frozenset((">", ">=", "≥", "over", "above", "more than", "from", "大于", "超过"))
_UPWARDS |= {"+", "and over", "and older", "or more", "岁以上", "以上"}
_DOWNWARDS = frozenset(("<", "<=", "≤", "under", "below", "less than", "up to", "小于", "不满"))
_DOWNWARDS |= {"and under", "or less", "岁以下", "以下"}


def band_of(value: str) -> tuple[float, float] | None:
    """Lowest and highest number of a band: (45, 54) for "45-54", (65, inf) for "65+", (-inf, 18) for "under 18",
    (50000, 74000) for "50-74K"; None for what is none."""
    match = _BAND.fullmatch(value.strip().casefold()) if len(value) <= _LONGEST_BAND else None
    if match is None:
        return None
    low_unit = match["low_unit"] or (match["high_unit"] if match["high"] else None)
    low = float(match["low"].replace(",", "")) * _UNIT[low_unit]
    signs = (match["before"], match["after"])
    if match["high"] is not None:
        high = float(match["high"].replace(",", "")) * _UNIT[match["high_unit"]]
        return (low, high) if low <= high else None
    if any(sign in _UPWARDS for sign in signs):
        return low, math.inf
    return (-math.inf, low) if any(sign in _DOWNWARDS for sign in signs) else (low, low)
