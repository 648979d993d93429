"""The day's list: all cases of all occasions, their chances, and one for each person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from recllm.base.schema import ACTION_CODE, Action, Occasion, Reason, ReasonKind
from recllm.market.occasions.detect import RULES, Cases, Shop, past_chances, replenish
from recllm.market.occasions.replenishment import ReplenishmentModel
from recllm.market.occasions.repurchase import Ints
from recllm.shop.data.dataset import Dataset
from recllm.text.items import item_names
from recllm.text.templates import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonOccasion:
    """One person's message of the day, and its reason."""

    user_id: str
    """The dataset's: a pseudonym where the shop's ids are kept apart."""
    occasion: Occasion
    item_id: str | None
    title: str | None
    probability: float | None
    """That they buy the item within seven days, of `WIN_BACK` and `WELCOME` anything; None where the past had no such
    case to measure it by."""
    best_hour: int
    """0 to 23, by the shop's clock: when this person shops and browses most, outside of the quiet hours."""
    channel: str | None
    """The first that they agreed to; None where channels were not asked for."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OccasionList:
    """The messages of a day."""

    date: date
    people: tuple[PersonOccasion, ...]
    """In the order of the occasions, in each the likeliest first."""
    counts: Mapping[Occasion, int]
    """Of the people listed."""
    left_out: Mapping[str, int]
    """Why others are not listed -> how many people."""
    notes: tuple[str, ...] = ()
    """What could not be looked for."""


def find_cases(shop: Shop, model: ReplenishmentModel | None, occasions: Collection[Occasion]) -> dict[Occasion, Cases]:
    """The cases of each of these occasions, the strongest of each person, with their chances.

    model: needed for `REPLENISH` alone, which is left out without one.
    """
    cases: dict[Occasion, Cases] = {}
    for occasion in occasions:
        if occasion is Occasion.REPLENISH:
            if model is None:
                continue
            cases[occasion] = replenish(shop, model).best_of_each()
        else:
            of_rule = RULES[occasion](shop).best_of_each()
            cases[occasion] = replace(of_rule, probability=past_chances(shop, of_rule))
    return cases


def lacking(shop: Shop) -> dict[Occasion, str]:
    """The occasions that the shop has no data for, with what is missing."""
    missing = {}
    actions = shop.dataset.events.action
    if not np.isin(actions, [ACTION_CODE[Action.CART], ACTION_CODE[Action.VIEW]]).any():
        missing[Occasion.ABANDONED] = "the log has no views and no carts"
    if not shop.states.is_history:
        remedy = "the catalogue was loaded once; load it again when prices, stock or items change"
        missing |= dict.fromkeys((Occasion.PRICE_DROP, Occasion.BACK_IN_STOCK, Occasion.NEW_ARRIVAL), remedy)
    return missing


def one_for_each(
    cases: Mapping[Occasion, Cases], order: Sequence[Occasion], allowed: NDArray[np.bool_]
) -> dict[Occasion, Cases]:
    """Of the allowed people, (n_users,), each one's first occasion; the likeliest people of an occasion come first."""
    free, first_cases = allowed.copy(), dict[Occasion, Cases]()
    for occasion in order:
        if occasion not in cases:
            continue
        of_occasion = cases[occasion].select(free[cases[occasion].user])
        free[of_occasion.user] = False
        chance = np.nan_to_num(
            np.zeros(len(of_occasion)) if of_occasion.probability is None else of_occasion.probability
        )
        first_cases[occasion] = of_occasion.select(np.lexsort((of_occasion.user, -of_occasion.strength, -chance)))
    return first_cases


def reasons_of(cases: Cases, dataset: Dataset, locale: str) -> list[tuple[Reason, ...]]:
    """Why each case is one, in words that its figures fill."""
    prompts, occasion = Prompts.load(), cases.occasion
    items: dict[str, Ints] = {"title": cases.item}
    if "companion" in cases.facts:
        items["companion"] = np.asarray(cases.facts["companion"], np.int64)
    titles = {name: _titles(dataset, rows, locale) for name, rows in items.items()}
    reasons: list[tuple[Reason, ...]] = []
    for n in range(len(cases)):
        facts: dict[str, object] = {name: _plain(column[n]) for name, column in cases.facts.items()}
        facts |= {name: column[n] for name, column in titles.items()}
        text = prompts.render(f"occasion.{occasion}", locale, **facts)
        kind = ReasonKind.KNOWN if occasion in (Occasion.REPLENISH, Occasion.WIN_BACK) else ReasonKind.INTEREST
        row = int(cases.item[n])
        evidence = "general" if row < 0 else f"B:{dataset.items['item_id'][row]}"
        reasons.append((Reason(evidence_id=evidence, delta=0.0, text=text, kind=kind),))
    return reasons


def _titles(dataset: Dataset, rows: NDArray[np.int64], locale: str) -> list[str | None]:
    """The name of the item in each row, None for -1."""
    distinct_rows = np.unique(rows[rows >= 0])
    names = dict(zip(distinct_rows.tolist(), item_names(dataset.items[distinct_rows.tolist()], locale), strict=True))
    return [names.get(int(row)) for row in rows]


def _plain(value: np.generic) -> object:
    plain = value.item()
    return None if isinstance(plain, float) and np.isnan(plain) else plain
