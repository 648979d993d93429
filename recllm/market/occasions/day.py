"""Whom to write to on a day, one message for each person, and the model of what is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Mask
from recllm.base.errors import DataError, UsageError
from recllm.base.schema import ACTION_CODE, Action, Occasion, Purpose, Reason, ReasonKind
from recllm.market.audiences.contacts import agreement, first_channels
from recllm.market.audiences.exclusions import first_only, minors
from recllm.market.audiences.selection import globally_held_out
from recllm.market.occasions.detect import RULES, Cases, Shop, best_of_each, past_chances, replenish, with_items
from recllm.market.occasions.replenishment import ReplenishmentModel, learn_replenishment
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, utc
from recllm.shop.data.order import refuse_steps
from recllm.shop.workspace.workspace import Workspace, present
from recllm.text.items import item_names
from recllm.text.templates import Prompts

MODEL_FILE = "replenishment.json"
"""In the workspace's folder."""
MAX_AGE_DAYS = 28.0  # a model that is older than this by the log is learned again
MAX_DAYS_AHEAD = 7
"""Further ahead nothing can be found in the log."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonOccasion:
    """One person's message of the day, and its reason."""

    user_id: str
    occasion: Occasion
    item_id: str | None
    title: str | None
    probability: float | None
    """That they buy the item within seven days, of `WIN_BACK` and `WELCOME` anything; None where the past had no such
    case to measure it by."""
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


def find_occasions(
    workspace: Workspace,
    on: date | None = None,
    *,
    size: int | None = None,
    explain: bool = True,
    locale: str | None = None,
    progress: Progress | None = None,
    shop: Shop | None = None,
) -> OccasionList:
    """The messages of a day: people, reasons and channels; one message for each person at most.

    on: None for today; an earlier day as of its morning. size: people at most. progress: gets each long step in words.
    shop: of that moment, where it is open. Left out are people without consent to any of `occasions.channels`, of the
    global holdout, who are or may be minors, or who got a message within `occasions.contact_days`.

    Raises `UsageError` for a day beyond the log's end, `DataError` where replenishment is the only occasion and cannot
    be learned.
    """
    settings = workspace.settings.occasions
    day, as_of = moment_of(workspace, on)
    shop = shop or open_shop_at(workspace, as_of)
    cases, missing = cases_of(workspace, shop, settings.order, progress)
    missing |= {occasion: why for occasion, why in lacking(shop).items() if occasion in settings.order}
    data = shop.dataset
    ids = data.users[USER_COLUMN].to_list()
    channels, masks = reachable_on(workspace, data)
    allowed = ~np.logical_or.reduce(list(masks.values()))
    with_case = np.zeros(data.n_users, bool)
    for of_occasion in cases.values():
        with_case[of_occasion["user"].to_numpy()] = True
    left_out = {name: int(n) for name, mask in masks.items() if (n := (mask & with_case).sum())}
    first_cases = one_for_each(cases, settings.order, allowed)
    listed: dict[Occasion, Cases] = {}
    n_left = size if size is not None else data.n_users
    for occasion, of_occasion in first_cases.items():
        listed[occasion] = of_occasion.head(n_left)
        n_left -= len(listed[occasion])
    beyond = sum(map(len, first_cases.values())) - sum(map(len, listed.values()))
    left_out |= {"beyond_the_cut": beyond} if beyond else {}
    words, item_ids, people = workspace.locale(locale), data.items["item_id"], []
    for occasion, of_occasion in listed.items():
        names = names_of(data, of_occasion["item"], words)
        reasons = reasons_of(occasion, of_occasion, data, words) if explain else [()] * len(of_occasion)
        for case, why in zip(of_occasion.iter_rows(named=True), reasons, strict=True):
            user, item, chance = case["user"], case["item"], case["chance"]
            person = PersonOccasion(
                user_id=ids[user],
                occasion=occasion,
                item_id=None if item is None else item_ids[item],
                title=names.get(item),
                probability=None if chance is None else round(chance, 6),
                channel=channels[user],
                reasons=why,
            )
            people.append(person)
    return OccasionList(
        date=day,
        people=tuple(people),
        counts={occasion: len(of_occasion) for occasion, of_occasion in listed.items()},
        left_out=left_out,
        notes=tuple(f"{occasion}: {why}" for occasion, why in missing.items()),
    )


def reachable_on(workspace: Workspace, data: Dataset) -> tuple[list[str | None], dict[str, Mask]]:
    """Each person's channel, and reason -> who gets no message now, (n_users,)."""
    settings, gate = workspace.settings.occasions, workspace.gate()
    holdout = workspace.settings.experiments
    ids = data.users[USER_COLUMN].to_list()
    agreement(gate, settings.channels)  # refuses a channel without consent records
    channels = first_channels(gate, ids, settings.channels)
    sent = gate.messages(Purpose.PERSONALISATION)
    recent = set(sent.filter(sent["exported_at"] >= data.as_of - settings.contact_days * DAY)["user_id"])
    masks = {
        "no_channel": np.array([channel is None for channel in channels], bool),
        "minor": minors(data, settings.adult_age),
        "global_holdout": globally_held_out(ids, holdout.holdout_share, holdout.holdout_salt),
        "contacted_lately": np.array([name in recent for name in ids], bool),
    }
    return channels, first_only(masks)


def cases_of(
    workspace: Workspace, shop: Shop, occasions: Sequence[Occasion], progress: Progress | None = None
) -> tuple[dict[Occasion, Cases], dict[Occasion, str]]:
    """The cases of each of these occasions, the strongest of each person, with their chances; and why an occasion could
    not be looked for, or `DataError` where replenishment alone is asked for."""
    cases, missing = dict[Occasion, Cases](), dict[Occasion, str]()
    for occasion in occasions:
        if occasion is not Occasion.REPLENISH:
            of_rule = past_chances(shop, occasion, best_of_each(RULES[occasion][0](shop)))
            cases[occasion] = with_items(shop, occasion, of_rule)
            continue
        try:
            cases[occasion] = best_of_each(replenish(shop, replenishment_model(workspace, shop.now, progress)))
        except DataError as error:
            if len(occasions) == 1:
                raise
            missing[occasion] = str(error)
    return cases, missing


def open_shop_at(workspace: Workspace, as_of: int) -> Shop:
    """What the occasions of a time are found in: people who agreed to personalisation."""
    dataset = workspace.gate().dataset(Purpose.PERSONALISATION).before(as_of)
    refuse_steps(dataset.step_seconds, "occasions")
    shop = shop_of_people(workspace, dataset)
    return replace(shop, states=shop.states.until(as_of))


def shop_of_people(workspace: Workspace, dataset: Dataset) -> Shop:
    """What occasions are found in, with these people and every known state of the items."""
    states, price_drop = workspace.gate().item_states(), workspace.settings.occasions.price_drop
    return Shop.of(dataset, states, price_drop, workspace.policy)


def replenishment_model(workspace: Workspace, as_of: int, progress: Progress | None = None) -> ReplenishmentModel:
    """The workspace's, learned now if it is missing or older than `MAX_AGE_DAYS`.
    Raises `DataError` where there is too little to learn from."""
    file = workspace.root / MODEL_FILE
    if file.exists():
        model = ReplenishmentModel.read(file)
        if as_of - model.as_of <= MAX_AGE_DAYS * DAY:
            return model
    if progress:
        progress("learning when things are due, once in a while; this takes a few minutes")
    dataset = workspace.gate().dataset(Purpose.MODEL_TRAINING)
    model = learn_replenishment(dataset.before(as_of), progress=progress)
    model.save(file)
    return model


def moment_of(workspace: Workspace, on: date | None) -> tuple[date, int]:
    """The day, and the time that is asked about: the day's beginning, for today the present."""
    zone = workspace.settings.zone
    moment = present(workspace)
    today = utc(moment).astimezone(zone).date()
    if on is None or on == today:
        return today, moment
    if on > today + timedelta(days=MAX_DAYS_AHEAD):
        raise UsageError(
            f"{on} is more than {MAX_DAYS_AHEAD} days after {today}, the present of this workspace; "
            "ask for an earlier day, or load the events since"
        )
    return on, int(datetime.combine(on, time(), zone).timestamp())


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
        if occasion in cases:
            of_free = cases[occasion].filter(free[cases[occasion]["user"].to_numpy()])
            free[of_free["user"].to_numpy()] = False
            by = (pl.col("chance").fill_null(0.0), "strength", "user")
            first_cases[occasion] = of_free.sort(*by, descending=[True, True, False])
    return first_cases


def reasons_of(
    occasion: Occasion,
    cases: Cases,
    dataset: Dataset,
    locale: str,
) -> list[tuple[Reason, ...]]:
    """Why each case is one, in words that its figures fill."""
    prompts, reasons = Prompts.load(), list[tuple[Reason, ...]]()
    kind = ReasonKind.KNOWN if occasion in (Occasion.REPLENISH, Occasion.WIN_BACK) else ReasonKind.INTEREST
    titles = {name: names_of(dataset, cases[name], locale) for name in ("item", "companion") if name in cases.columns}
    for case in cases.drop("user", "strength", "chance").iter_rows(named=True):
        row = case.pop("item")
        facts = case | {"title": titles["item"].get(row)}
        if "companion" in titles:
            facts["companion"] = titles["companion"].get(case["companion"])
        evidence = "general" if row is None else f"B:{dataset.items['item_id'][row]}"
        text = prompts.render(f"occasion.{occasion}", locale, **facts)
        reasons.append((Reason(evidence_id=evidence, delta=0.0, text=text, kind=kind),))
    return reasons


def names_of(dataset: Dataset, rows: pl.Series, locale: str) -> dict[int | None, str]:
    """The name of the item in each of these rows."""
    distinct_rows = rows.drop_nulls().unique().to_list()
    return dict(zip(distinct_rows, item_names(dataset.items[distinct_rows], locale), strict=True))
