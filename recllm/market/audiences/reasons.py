"""Why each person of an audience: leave-one-out on the served score, many people in one pass.

The same evidence, deltas and sentences as `Recommender.reasons` with a spread of 1, but for basics of people with many
lines.

What sets a group apart from other people: shares of basics and of categories bought, as ratios with intervals.

    lift = share in the group / share among the others

Its interval (Katz et al. 1978) is at a level divided by the number of traits compared (Bonferroni), so that all hold at
once. A trait is left out when fewer people than the policy's group floor have it at all, or fewer than `MIN_PEOPLE` in
the group have it or lack it, unless all have it. Sensitive categories are never named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recllm.base.arrays import Array, Ints, Mask, Rows
from recllm.base.policy import Policy
from recllm.base.schema import Action, Reason
from recllm.base.stats.intervals import ratios
from recllm.learn.features.item_vectors import basics_of
from recllm.market.audiences.probabilities import restricted_to
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.recommend.recommender.leave_one_out import (
    EVIDENCE_PER_ITEM,
    Evidence,
    ReasonWriter,
    choose,
    lacking,
    units_of,
)
from recllm.recommend.recommender.people import DatasetPeople
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.catalogue import CATEGORY_SEPARATOR
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import Pairs
from recllm.text.encoder.hardware import map_blocks

USERS_PER_BLOCK = 64
"""People whose shortened histories are scored together."""
MIN_PEOPLE = 5
"""People of the group that must share a trait, and lack it, for it to be named."""
DAYS = 91
"""Purchases so recent count."""
MAX_TRAITS = 10
LEVEL = 0.95
"""At which all intervals hold together."""


def reasons_for(recommender: Recommender, user_rows: Ints, items: Rows) -> list[tuple[Reason, ...]]:
    """The clearest reasons of person n for item n, (n,) rows each; none where nothing is clear, or of an item of -1."""
    data = recommender.dataset
    everybody = DatasetPeople(data)
    population = restricted_to(recommender.population, np.unique(items[items >= 0]))
    ranker = replace(recommender.ranker, population=population)
    speaker = ReasonWriter(data.items, recommender.policy, recommender.locale, recommender.broad_categories)
    reasons: list[tuple[Reason, ...]] = [()] * len(items)
    with_item = np.flatnonzero(items >= 0)

    def explain(block: slice) -> None:
        positions = with_item[block]
        rows, targets = user_rows[positions], items[positions]
        histories = everybody.of_rows(rows)
        people = [histories.person(n) for n in range(len(rows))]
        # the whole person first, then one version without each piece of evidence
        units = [_units(recommender, person, item) for person, item in zip(people, targets, strict=True)]
        versions = [
            lacking(person, [(), *((unit,) for unit in tried)]) for person, tried in zip(people, units, strict=True)
        ]
        sizes = np.array([len(tried) + 1 for tried in units])
        repeated = np.repeat(targets, sizes).astype(np.int32)
        users = recommender.inputs(Histories.concat(versions))
        scored = ranker.score(users, Pairs(np.arange(len(repeated) + 1, dtype=np.int64), repeated))
        logits = np.split(scored.logit, np.cumsum(sizes)[:-1])
        for position, item, person, tried, logit in zip(positions, targets, people, units, logits, strict=True):
            deltas = np.asarray(logit[0] - logit[1:], np.float32)
            profile = person.of_items([unit.item for unit in tried]).profile(data)
            clearest = speaker.reasons(tried, deltas, int(item), profile, 1.0)
            reasons[position] = tuple(reason for reason in clearest if reason.evidence_id != "general")

    map_blocks(explain, len(with_item), USERS_PER_BLOCK)
    return reasons


def _units(recommender: Recommender, person: UserHistory, item: int) -> list[Evidence]:
    """What is tried for an item: of all evidence what is nearest to it."""
    units, limit = units_of(person, recommender.dataset.items["item_id"]), EVIDENCE_PER_ITEM
    if sum(unit.kind != "I" for unit in units) >= limit:
        units = [unit for unit in units if unit.kind != "I"]
    types = recommender.population.facets.type
    nearest = choose(units, np.array([item]), recommender.item_vectors, types, limit)
    return [unit for unit, is_near in zip(units, nearest[:, 0], strict=True) if is_near]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceTrait:
    """One trait, and how much more common it is in the group."""

    kind: str
    """"basic" or "category"."""
    name: str
    share: float
    """Of the group, in [0, 1]."""
    share_of_rest: float
    lift: float
    low: float
    """Lower end of the lift's interval."""
    high: float
    people: int
    """Of the group who have it."""


def distinguishing_traits(
    dataset: Dataset,
    group: Rows,
    others: Rows,
    policy: Policy,
    noise: Callable[[str], float] = lambda trait: 0.0,
) -> tuple[AudienceTrait, ...]:
    """The `MAX_TRAITS` traits that are surest to be more common in the group than among the others, surest first.

    group, others: rows of people, without common ones. noise: trait -> people added to those of the group. Only traits
    whose whole interval lies above 1 are named, and none without others.
    """
    if not len(group) or not len(others):
        return ()
    users = np.concatenate([group, others]).astype(np.int64)
    people = pl.DataFrame({"user": users, "member": np.arange(len(users)) < len(group)})
    counts = _trait_counts(dataset, people, policy)
    noisy = pl.Series(counts["inside"] + np.array([noise(name) for name in counts["name"]])).round().cast(pl.Int64)
    counts = counts.with_columns(people=pl.Series(noisy).clip(0, counts["n_inside"]))
    inside, outside, n_inside, n_outside = (
        counts[name].to_numpy() for name in ("people", "outside", "n_inside", "n_outside")
    )
    nameable = enough_people(inside, outside, n_inside, policy.group_floor) & (n_outside > 0)
    lift, low, high = ratios(inside, n_inside, outside, n_outside, 1 - (1 - LEVEL) / max(int(nameable.sum()), 1))
    traits = counts.with_columns(
        share=pl.col("people") / pl.col("n_inside"),
        share_of_rest=pl.col("outside") / pl.col("n_outside"),
        lift=lift,
        low=low,
        high=high,
    )
    traits = traits.filter(nameable, pl.col("low") > 1)
    traits = traits.sort(-pl.col("low"), "name").head(MAX_TRAITS)
    return tuple(AudienceTrait(**row) for row in traits.select(*AudienceTrait.__slots__).iter_rows(named=True))


def _trait_counts(dataset: Dataset, people: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Columns kind, name, inside, outside, n_inside, n_outside: how many people have each trait, and of how many.
    people: user (row) and member (whether in the group). A basic is compared among the people who stated it."""
    inside, outside = (column.sum().cast(pl.Int64) for column in (pl.col("member"), ~pl.col("member")))
    rows = [
        (row, name, f"{name} = {value}")
        for row, basics in enumerate(basics_of(dataset.users))
        for name, value in basics.items()
    ]
    stated = pl.DataFrame(
        rows,
        schema={"user": pl.Int64, "basic": pl.String, "name": pl.String},
        orient="row",
    )
    stated = stated.join(people, on="user")
    bought = _categories_bought(dataset, policy).join(people, on="user")
    counts = pl.concat([stated, bought], how="diagonal").group_by("basic", "name").agg(inside=inside, outside=outside)
    of_each = pl.concat([stated, people], how="diagonal").group_by("basic").agg(n_inside=inside, n_outside=outside)
    kind = pl.when(pl.col("basic").is_null()).then(pl.lit("category")).otherwise(pl.lit("basic"))
    return counts.join(of_each, on="basic", nulls_equal=True).with_columns(kind=kind)


def _categories_bought(dataset: Dataset, policy: Policy) -> pl.DataFrame:
    """user, name: every level of the path of every item bought lately, as far as nothing in it is sensitive."""
    purchases = dataset.between(dataset.as_of - DAYS * DAY, dataset.as_of + 1, Action.PURCHASE)
    items = np.unique(purchases.item)
    paths = dataset.items["category"].gather(items).list.drop_nulls().list.join(CATEGORY_SEPARATOR)
    pairs = pl.DataFrame({"user": purchases.user.astype(np.int64), "item": purchases.item}).unique()
    pairs = pairs.join(pl.DataFrame({"item": items, "path": paths}).drop_nulls(), on="item")
    levels = []
    for path in paths.drop_nulls().unique():
        names = [name for name in path.split(CATEGORY_SEPARATOR) if name]
        for end in range(1, len(names) + 1):
            if not policy.is_sensitive(names[:end]):
                levels.append((path, CATEGORY_SEPARATOR.join(names[:end])))
    named = pl.DataFrame(levels, schema={"path": pl.String, "name": pl.String}, orient="row")
    return pairs.join(named, on="path").select("user", "name").unique()


def enough_people(inside: Array, outside: Array, n_inside: Array, floor: int) -> Mask:
    """Which traits concern enough people. inside, outside: how many have them; n_inside: of how many in the group."""
    lacking = n_inside - inside
    common = (lacking == 0) | (lacking >= MIN_PEOPLE)
    return np.asarray((inside + outside >= floor) & (inside >= MIN_PEOPLE) & common)
