"""What fake accounts can do; the part `poison` of trust.py:  python eval/trust.py --part poison

Complete Journey, cj-next28. One account in a hundred is fake and pushes one item; the model is the
one that `recllm advise` proposes, trained on the honest log, and everything that is counted is counted anew with the
fake accounts in it, as `recllm refresh` does. Targets are unpopular items (3 to 10 buyers ever, 1 to 3 of them lately)
and new ones (nobody bought them), drawn by the seed.

Exposure is the number of slots of all honest people's first 20 positions that show the target, in three lists: the
default one, the one of what is new to a person ("discover"), and that of people of whom only the basics are known
("newcomers"). People who own the target do not count in the second. A target is taken to be shown where its score
under attack is at least that of the clean list's last position, as if some source always proposed it: that is never
less than what is really shown.

    poison_lift = max(slots after, floor) / max(slots before, floor), slots being means over the targets of a kind

floor: slots of an average item that ever sold (all slots / items), since most targets are never shown before. Beside it
stands `organic`: the slots when as many real people, drawn at random, buy the target once. They do not count as shown
to. No recommender that learns from purchases can stay below that, or it would not learn from its customers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from inputs import default_encoder, say, script_parser, window_of

from recllm.base.arrays import Floats, Ints, Mask, Rows
from recllm.base.schema import ACTION_CODE, Action
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.candidates import explicit
from recllm.recommend.evaluation.benchmarks import CJ_NOTE
from recllm.recommend.evaluation.systems import advised_recipe
from recllm.recommend.recommender.ranking import UserInputs
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events

FAKE_SHARE = 0.01
K = 20
LISTS = ("default", "discover", "newcomers")
UNLIMITED = {"person_day_events": 10**6, "person_item_day_events": 10**6, "neighbour_influence": 1e9}
"""The settings without any bound on what an account can do."""

Purchases = list[tuple[int, int, int]]
"""Item row, time in epoch seconds, code of the action."""


@dataclass(frozen=True, eq=False)
class FakeAccounts:
    """What each of them does, and says of itself."""

    runs: list[Purchases]
    basics: dict[str, str] | None = None
    price: float = float("nan")


@dataclass(frozen=True, eq=False)
class Shop:
    """The honest log with a trained model, and the lists that people see without an attack."""

    trained: Recommender

    @property
    def log(self) -> Dataset:
        return self.trained.dataset

    @cached_property
    def people(self) -> UserInputs:
        return self.trained.inputs_of(np.arange(self.log.n_users))

    @cached_property
    def newcomers(self) -> UserInputs:
        """Everybody who told of themselves, without their history."""
        assert self.people.basics is not None
        rows = np.flatnonzero(np.any(self.people.basics, axis=1))
        events = self.log.events.rows(rows)
        return UserInputs(events.select(np.zeros(len(events), bool)), self.log.as_of, rows, self.people.basics[rows])

    @cached_property
    def last_logits(self) -> dict[str, Floats]:
        """Of each person, the score of the last position of their clean list."""
        default, discover = self.trained.ranker.rank_with_and_without_repeats(self.people, K)
        newcomers = self.trained.ranker.rank(self.newcomers, K)
        ranked = zip(LISTS, (default, discover, newcomers), strict=True)
        return {name: np.nan_to_num(lists.logit[:, K - 1], nan=-np.inf) for name, lists in ranked}

    @cached_property
    def floors(self) -> dict[str, float]:
        n_items = int((self.trained.population.stats.buyers_ever > 0).sum())
        return {name: len(logits) * K / n_items for name, logits in self.last_logits.items()}

    def owners(self, log: Dataset, target: int) -> Mask:
        """Which of the honest people have the target, (n,)."""
        return np.isin(np.arange(self.log.n_users), log.events.user[log.events.item == target])

    def slots(self, log: Dataset, target: int, unseen: Mask | None = None) -> dict[str, int]:
        """Lists of honest people that show the target when the crowd is that of `log`; not of those in `unseen`."""
        trained = self.trained
        again = Recommender(log, trained.encoder, model=trained.model, item_vectors=trained.item_vectors)
        counts, owners = {}, self.owners(self.log, target)
        for name, users in (("people", self.people), ("newcomers", self.newcomers)):
            batch = users.batch(again.population)
            logit = again.ranker.score_batch(batch, explicit(users.n, np.array([target]))).logit
            if name == "newcomers":
                counts[name] = int((logit >= self.last_logits[name]).sum())
            else:
                counts_for = np.ones(users.n, bool) if unseen is None else ~unseen
                counts["default"] = int(((logit >= self.last_logits["default"]) & counts_for).sum())
                counts["discover"] = int(((logit >= self.last_logits["discover"]) & counts_for & ~owners).sum())
        return counts

    def with_fakes(self, accounts: FakeAccounts) -> Dataset:
        """The honest log with further accounts behind its people."""
        n, runs = len(accounts.runs), [sorted(run, key=lambda event: (event[1], event[0])) for run in accounts.runs]
        item, at, action = (np.array(column) for column in zip(*(e for run in runs for e in run), strict=True))
        price = np.nan_to_num(np.expm1(self.trained.population.stats.log_price), nan=3.0)[item]
        events = Events(
            np.cumsum([0, *map(len, runs)]).astype(np.int64),
            item.astype(np.int32),
            at.astype(np.int64),
            action.astype(np.uint8),
            np.ones(len(item), np.float32),
            np.full(len(item), accounts.price, np.float32) if np.isfinite(accounts.price) else price,
            np.full(len(item), -1, np.int32),
        )
        stated = accounts.basics or {}
        users = pl.DataFrame(
            {
                name: [f"fake-{i}" for i in range(n)] if name == USER_COLUMN else [stated.get(name)] * n
                for name in self.log.users.columns
            },
            schema=self.log.users.schema,
        )
        return replace(
            self.log,
            users=pl.concat([self.log.users, users]),
            events=Events.concat([self.log.events, events]),
        )


# --- attacks: names as in Mobasher et al. 2007, "Toward trustworthy recommender systems" ------------------------------


@dataclass(frozen=True, eq=False)
class Attacker:
    """Knows the whole log and how recllm counts; has n accounts."""

    shop: Shop
    target: int
    n: int
    rng: np.random.Generator

    @property
    def as_of(self) -> int:
        return self.shop.log.as_of

    def _at(self, days: float) -> int:
        return int(self.as_of - days * DAY)

    def _events(self, days: float, items: Rows, action: Action = Action.PURCHASE) -> Purchases:
        return [(int(item), self._at(days), ACTION_CODE[action]) for item in items]

    def _target(self, days: float, action: Action = Action.PURCHASE) -> Purchases:
        return self._events(days, np.array([self.target]), action)

    def _history(self, user: int) -> Purchases:
        events = self.shop.log.events.rows(np.array([user]))
        return list(zip(events.item.tolist(), events.at.tolist(), events.action.tolist(), strict=True))

    def flood(self) -> FakeAccounts:
        """20 purchases of the target a day, for four weeks."""
        run = [event for day in range(28) for n in range(20) for event in self._target(day + (n + 1) / 24)]
        return FakeAccounts([run] * self.n)

    def cheap(self) -> FakeAccounts:
        """The same at a price of a cent, so that the item seems cheaper lately."""
        return replace(self.flood(), price=0.01)

    def bandwagon(self) -> FakeAccounts:
        """The 100 best sellers once each, and the target: near to everybody."""
        popular = self.shop.trained.population.popular[:100]
        runs = []
        for _ in range(self.n):
            days = self.rng.uniform(1, 28, len(popular))
            run = [event for day, item in zip(days, popular, strict=True) for event in self._events(day, [item])]
            runs.append(run + self._target(self.rng.uniform(1, 7)))
        return FakeAccounts(runs)

    def copies(self) -> FakeAccounts:
        """The whole history of a real person each, and the target on five days: aged and credible accounts."""
        many = np.flatnonzero(np.diff(self.shop.log.events.indptr) > 50)
        return self._with_target(self.rng.choice(many, self.n, replace=False))

    def segment(self) -> FakeAccounts:
        """Copies of the people who are most like others."""
        profiles = self.shop.trained.population.profiles
        likeness = np.asarray(profiles @ profiles.sum(axis=0).T).ravel()
        return self._with_target(self.shop.trained.population.pool[np.argsort(-likeness)[: self.n]])

    def buyers(self) -> FakeAccounts:
        """Copies of those who buy most of the target's type: near to whom it may suit."""
        kind = self.shop.trained.population.facets.type
        events = self.shop.log.events
        of_type = np.bincount(events.user, kind[events.item] == kind[self.target], minlength=self.shop.log.n_users)
        return self._with_target(np.argsort(-of_type, kind="stable")[: self.n])

    def drip(self) -> FakeAccounts:
        """For eight weeks, every third day the target, five best sellers and two of its type: within every limit."""
        population = self.shop.trained.population
        kind, popular = population.facets.type, population.popular
        of_type = popular[kind[popular] == kind[self.target]][:20]
        runs = []
        for _ in range(self.n):
            run: Purchases = []
            for day in range(1, 57, 3):
                beside = [self.rng.choice(popular[:50], 5, replace=False), self.rng.choice(of_type, 2)]
                run += self._target(day) + self._events(day, np.concatenate(beside))
            runs.append(run)
        return FakeAccounts(runs)

    def browsing(self) -> FakeAccounts:
        """Views, clicks, carts and favourites of the target, 200 a day, and no purchase."""
        actions = (Action.VIEW, Action.CLICK, Action.CART, Action.FAVOURITE)
        run = [e for day in range(14) for n in range(50) for a in actions for e in self._target(day + (n + 1) / 60, a)]
        return FakeAccounts([run] * self.n)

    def basics(self) -> FakeAccounts:
        """The commonest answers about themselves, and one purchase: near to newcomers who say the same."""
        columns = [name for name in self.shop.log.users.columns if name != USER_COLUMN]
        stated = self.shop.log.users.drop_nulls(columns).group_by(columns).len().sort("len", *columns, descending=True)
        answers = {name: str(value) for name, value in stated.drop("len").row(0, named=True).items()}
        return FakeAccounts([self._target(self.rng.uniform(1, 7)) for _ in range(self.n)], answers)

    def _with_target(self, users: Rows) -> FakeAccounts:
        bought = [event for day in (1, 3, 7, 14, 21) for event in self._target(day)]
        return FakeAccounts([self._history(int(user)) + bought for user in users])


ATTACKS: dict[str, Callable[[Attacker], FakeAccounts]] = {
    name: getattr(Attacker, name)
    for name in ("flood", "cheap", "bandwagon", "copies", "segment", "buyers", "drip", "browsing", "basics")
}


def targets(shop: Shop, n: int, rng: np.random.Generator) -> dict[str, Ints]:
    stats = shop.trained.population.stats
    few = (stats.buyers_ever >= 3) & (stats.buyers_ever <= 10) & (stats.buyers_28 >= 1) & (stats.buyers_28 <= 3)
    pools = {"unpopular": np.flatnonzero(few), "new": np.flatnonzero(stats.buyers_ever == 0)}
    return {kind: rng.choice(pool, n, replace=False) for kind, pool in pools.items()}


def organic(shop: Shop, target: int, n: int, rng: np.random.Generator) -> dict[str, int]:
    """Slots when n real people buy the target once in the last four weeks; they do not count as shown to."""
    buyers = rng.choice(np.flatnonzero(~shop.owners(shop.log, target)), n, replace=False)
    log = shop.log
    for user in np.sort(buyers)[::-1].tolist():
        log = log.with_event(user, target, int(log.as_of - rng.uniform(1, 28) * DAY), Action.PURCHASE)
    log = replace(log, as_of=shop.log.as_of)
    unseen = np.isin(np.arange(shop.log.n_users), buyers)
    return shop.slots(log, target, unseen)


def lifts(shop: Shop, n_targets: int, seed: int) -> dict[str, Any]:
    """Per kind of target and attack: slots before and after, and the lift, in each list."""
    n_fakes = round(shop.log.n_users * FAKE_SHARE / (1 - FAKE_SHARE))
    record: dict[str, Any] = {"fake_accounts": n_fakes, "floor": shop.floors}
    for kind, rows in targets(shop, n_targets, np.random.default_rng(seed)).items():
        before = [shop.slots(shop.log, int(target)) for target in rows]
        real = [organic(shop, int(target), n_fakes, np.random.default_rng([seed, int(target)])) for target in rows]
        table: dict[str, Any] = {"before": _means(before), "organic": _means(real)}
        for name, attack in ATTACKS.items():
            after = []
            for target in rows:
                attacker = Attacker(shop, int(target), n_fakes, np.random.default_rng([seed, int(target)]))
                after.append(shop.slots(shop.with_fakes(attack(attacker)), int(target)))
            slots = _means(after)
            lift = {
                name: max(slots[name], shop.floors[name]) / max(table["before"][name], shop.floors[name])
                for name in LISTS
            }
            table[name] = {"slots": slots, "lift": lift, "each": [[s[name] for name in LISTS] for s in after]}
            say("%s %s %s", kind, name, json.dumps({"slots": slots, "lift": lift}))
        record[kind] = table
    return record


def _means(slots: list[dict[str, int]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in slots])) for name in LISTS}


def measure(n_targets: int = 3, seed: int = 0) -> dict[str, Any]:
    """`poison_lift`, the worst of all attacks, targets and lists; `poison_lift_default`, the worst in the lists that a
    shop shows if it asks for nothing else; and all figures behind them."""
    args = script_parser(None, "data", "cache").parse_args([])
    encoder, window = default_encoder(args), window_of("cj-next28", args, validation=False)
    past = window.fit_on
    recipe = advised_recipe(past, encoder, seed=seed)
    record: dict[str, Any] = {"protocol": window.protocol, "note": CJ_NOTE, "data_hash": window.data_hash, "seed": seed}
    for name, collaborative in (("bounded", None), ("unbounded", CollaborativeSettings(**UNLIMITED))):
        say("%s: train", name)
        untrained = Recommender(past, encoder)
        trained = untrained.fit(recipe.training, interests=recipe.interests, collaborative=collaborative).warm()
        record[name] = lifts(Shop(trained), n_targets, seed)
    return summary(record) | record


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The figures that stand for the rest."""

    def worst(name: str, lists: tuple[str, ...]) -> float:
        tables = [record[name][kind] for kind in ("unpopular", "new")]
        return max(table[attack]["lift"][of] for table in tables for attack in ATTACKS for of in lists)

    return {
        "poison_lift": worst("bounded", LISTS),
        "poison_lift_default": worst("bounded", ("default",)),
        "without_bounds": {
            "poison_lift": worst("unbounded", LISTS),
            "poison_lift_default": worst("unbounded", ("default",)),
        },
    }
