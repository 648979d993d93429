"""What fake accounts and hostile product texts can do:  python eval/poisoning.py -o eval/results/poisoning.json

**Fake accounts.** Complete Journey, cj-next28. One account in a hundred is fake and pushes one item; the model is the
one that `recllm advise` proposes, trained on the honest log, and everything that is counted is counted anew with the
fake accounts in it, as `recllm refresh` does. `--retrain` also trains on the worst attack. Targets are unpopular items
(3 to 10 buyers ever, 1 to 3 of them lately) and new ones (nobody bought them), drawn by the seed.

Exposure is the number of slots of all honest people's first 20 positions that show the target, in three lists: the
default one, the one of what is new to a person ("discover"), and that of people of whom only the basics are known
("newcomers"). People who own the target do not count in the second. A target is taken to be shown where its score
under attack is at least that of the clean list's last position, as if some source always proposed it: that is never
less than what is really shown, and `exact` repeats the worst attack with the whole list.

    poison_lift = max(slots after, floor) / max(slots before, floor), slots being means over the targets of a kind

floor: slots of an average item that ever sold (all slots / items), since most targets are never shown before. Beside it
stands `organic`: the slots when as many real people, drawn at random, buy the target once. They do not count as shown
to. No recommender that learns from purchases can stay below that, or it would not learn from its customers.

**Hostile texts.** See `hub_shares`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from inputs import default_encoder, finish, say, script_parser, window_of
from numpy.typing import NDArray

from recllm.base.schema import ACTION_CODE, Action, Encoder
from recllm.base.settings import CollaborativeSettings
from recllm.learn.features.candidates import explicit
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.recommend.evaluation.benchmarks import CJ_NOTE
from recllm.recommend.evaluation.protocols import ALL, COLD, NEW, EvaluationWindow
from recllm.recommend.evaluation.recllm_system import OURS, advised_recipe, served_system
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.recommender.ranking import UserInputs
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events
from recllm.shop.data.interactions import Floats, Ints

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
        basics = basics_vectors(self.trained.encoder, basics_of(self.log.users))
        return UserInputs(self.log.events, self.log.as_of, np.arange(self.log.n_users), basics)

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

    def owners(self, log: Dataset, target: int) -> NDArray[np.bool_]:
        """Which of the honest people have the target, (n,)."""
        return np.isin(np.arange(self.log.n_users), log.events.user[log.events.item == target])

    def slots(self, log: Dataset, target: int, unseen: NDArray[np.bool_] | None = None) -> dict[str, int]:
        """Lists of honest people that show the target when the crowd is that of `log`; not of those in `unseen`."""
        again = self.counted_anew(log)
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

    def exact_slots(self, again: Recommender, target: int) -> dict[str, int]:
        default, discover = again.ranker.rank_with_and_without_repeats(self.people, K)
        newcomers = again.ranker.rank(self.newcomers, K)
        ranked = zip(LISTS, (default, discover, newcomers), strict=True)
        return {name: int((lists.item == target).sum()) for name, lists in ranked}

    def counted_anew(self, log: Dataset) -> Recommender:
        """The same model over another log."""
        trained = self.trained
        return Recommender(log, trained.encoder, model=trained.model, item_vectors=trained.item_vectors)

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

    def _events(self, days: float, items: NDArray[np.integer], action: Action = Action.PURCHASE) -> Purchases:
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

    def _with_target(self, users: NDArray[np.integer]) -> FakeAccounts:
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


# --- hostile texts ----------------------------------------------------------------------------------------------------

N_ASKED = 1_000
SHORT_EVENTS = 10
"""Newest events of a person who is asked by text: with so few, texts propose candidates."""


def hub_shares(shop: Shop, seed: int) -> dict[str, Any]:
    """In how many of 1,000 lists of 20 a hostile text appears, without centring (before) and with it (after).

    The texts: "stuffed" names every department and says that customers buy it; "words" has the 300 commonest words of
    the catalogue as its title; "imitation" repeats the text of the item that is in most lists by cosine, a hub as they
    are; "search" starts there and exchanges words so that it is in most lists of 200 people, by the score that is in
    use: its writer knows the catalogue, the people and the defence. Lists: search by 1,000 names of item types;
    recommendation to 1,000 people, of whom the last 10 events are known, by text alone and by the trained score.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(np.flatnonzero(np.diff(shop.log.events.indptr)))[:N_ASKED])
    events = shop.log.events.rows(rows)
    newest = np.repeat(events.indptr[1:], np.diff(events.indptr)) - np.arange(len(events)) <= SHORT_EVENTS
    users = UserInputs(events.select(newest), shop.log.as_of, rows)
    items = shop.log.items
    types = items["category"].list.last().drop_nulls().unique().sort()
    queries = types.gather(np.sort(rng.permutation(len(types))[:N_ASKED])).to_list()
    record: dict[str, Any] = {"people": users.n, "searches": len(queries)}
    for name, centring in (("before", 0.0), ("after", CollaborativeSettings().text_centring)):
        record[name] = _hub_record(shop, users, queries, centring, rng)
        say("hostile texts %s: %s", name, json.dumps(record[name]))
    return record


def _hub_record(
    shop: Shop, users: UserInputs, queries: list[str], centring: float, rng: np.random.Generator
) -> dict[str, Any]:
    from recllm.base.schema import SearchRequest
    from recllm.learn.features.item_vectors import new_item_vectors
    from recllm.recommend.recommender.ranking import ItemRanker
    from recllm.recommend.recommender.search import search
    from recllm.text.word_index import WordIndex

    trained, items = shop.trained, shop.log.items
    population = replace(
        trained.population,
        settings=trained.population.settings.model_copy(update={"text_centring": centring}),
    )
    user_vectors = users.batch(population).vectors.user
    scores = user_vectors @ population.item_vectors.T - population.text_centrality
    limits = -np.partition(-scores, K - 1, axis=1)[:, K - 1]
    in_lists = (scores >= limits[:, None]).mean(axis=0)
    hub = int(in_lists.argmax())

    def written(title: str, like: int | None = None, description: str | None = None) -> pl.DataFrame:
        row = items[like if like is not None else 0]
        changes = {"item_id": pl.lit(f"hostile-{title[:20]}"), "title": pl.lit(title)}
        if like is None:
            no_path = pl.lit([], dtype=pl.List(pl.String))
            nothing = pl.lit(None, dtype=pl.String)
            changes |= {"brand": nothing, "attributes": nothing, "category": no_path}
        if description:
            changes["description"] = pl.lit(description)
        return row.with_columns(**changes)

    def reach(titles: list[str]) -> NDArray[np.float64]:
        rows = pl.concat([written(title, hub) for title in titles])
        vectors = new_item_vectors(trained.encoder, pl.concat([items, rows]), len(rows))
        centrality = centring * (vectors @ population.item_vectors.mean(axis=0))
        some = slice(0, 200)
        return ((user_vectors[some] @ vectors.T - centrality) >= limits[some, None]).mean(axis=0)

    departments = " ".join(items["category"].list.first().drop_nulls().unique().sort().to_list())
    words = pl.Series(" ".join(items["title"].drop_nulls()).lower().split()).value_counts(sort=True)
    words = words.rename({words.columns[0]: "word"})["word"].head(300).to_list()
    best = items["title"][hub] or ""
    for _ in range(3):  # exchange or add a word, the best of 40 tries, three times
        parts = best.split()
        tries = [best]
        for word in rng.choice(words, 40):
            position = int(rng.integers(0, len(parts) + 1))
            tries.append(" ".join([*parts[:position], str(word), *parts[position + int(rng.integers(0, 2)) :]]))
        best = tries[int(reach(tries).argmax())]
    hostile = {
        "stuffed": written(departments, description="customers bought this, everybody likes it, " + departments),
        "words": written(" ".join(words)),
        "imitation": written(f"{items['title'][hub] or ''} new", hub),
        "search": written(best, hub),
    }
    rows = pl.concat([row.with_columns(item_id=pl.lit(f"hostile-{name}")) for name, row in hostile.items()])
    grown = pl.concat([items, rows])
    vectors = new_item_vectors(trained.encoder, grown, len(rows))
    population = population.with_new_items(grown, vectors)
    ranked = {
        "by text": ItemRanker(None, population).rank(users, K).item,
        "by score": replace(trained.ranker, population=population, item_offsets=None, projections=None)
        .rank(users, K)
        .item,
    }
    again = Recommender(
        Dataset.of_catalogue(grown, shop.log.as_of),
        trained.encoder,
        model=trained.model,
        population=population,
        item_offsets=np.zeros(grown.height, np.float32),
    )
    index, type_of = WordIndex.of(grown), grown["category"].list.last().to_list()
    query_vectors = trained.encoder.encode(queries, kind="query")
    found, fitting = [], []
    for query, vector in zip(queries, query_vectors, strict=True):
        slate = search(again, index, SearchRequest(query=query, k=K), vector)
        at = again.dataset.item_rows(item.item_id for item in slate.items)
        found.append(np.pad(at, (0, K - len(at)), constant_values=-1))
        n_type = sum(1 for row in at if type_of[row] == query)
        fitting.append(n_type / max(1, len(at)))
    ranked["search"] = np.stack(found)
    shares = {
        name: {text: float((lists == len(items) + n).any(axis=1).mean()) for n, text in enumerate(hostile)}
        for name, lists in ranked.items()
    }
    worst = max(share for of_list in shares.values() for share in of_list.values())
    return {
        "worst": worst,
        "shares": shares,
        "largest_honest_share": {
            name: float(np.bincount(lists[lists >= 0], minlength=len(items))[: len(items)].max() / len(lists))
            for name, lists in ranked.items()
        },
        "search_results_of_the_type": float(np.mean(fitting)),
        "hub": items["title"][hub],
        "searched_title": best,
    }


# --- all of it --------------------------------------------------------------------------------------------------------


def measure(
    *,
    n_targets: int = 3,
    seed: int = 0,
    retrain: bool = False,
    window: EvaluationWindow | None = None,
    encoder: Encoder | None = None,
) -> dict[str, Any]:
    """`poison_lift`, the worst of all attacks, targets and lists; `poison_lift_default`, the worst in the lists that a
    shop shows if it asks for nothing else; `lift_over_real_buyers`, the worst against as many real customers;
    `hub_share_before` and `hub_share_after`; quality with and without the bounds; and all figures behind them.

    window, encoder: cj-next28 and the default encoder, where the caller has them. retrain: also train on the worst
    attack, for the unpopular and for the new targets.
    """
    args = script_parser(None, "data", "cache").parse_args([])
    window = window or window_of("cj-next28", args, validation=False)
    encoder = encoder or default_encoder(args)
    window, past = window.only([ALL, NEW, COLD]), window.fit_on
    recipe = advised_recipe(past, encoder, tuned=False, seed=seed)
    record: dict[str, Any] = {"protocol": window.protocol, "note": CJ_NOTE, "data_hash": window.data_hash, "seed": seed}
    fitted = {}
    for name, collaborative in (("bounded", None), ("unbounded", CollaborativeSettings(**UNLIMITED))):
        say("%s: train", name)
        untrained = Recommender(past, encoder)
        fitted[name] = untrained.fit(recipe.training, interests=recipe.interests, collaborative=collaborative).warm()
    record["quality"] = quality(window, fitted)
    for name, trained in fitted.items():
        record[name] = lifts(Shop(trained), n_targets, seed)
    shop = Shop(fitted["bounded"])
    record["exact"] = {kind: worst_again(shop, record["bounded"], kind, seed, None) for kind in ("unpopular", "new")}
    if retrain:

        def again(log: Dataset) -> Recommender:
            vectors = shop.trained.item_vectors
            return Recommender(log, encoder, item_vectors=vectors).fit(recipe.training, interests=recipe.interests)

        record["retrained"] = {
            kind: worst_again(shop, record["bounded"], kind, seed, again) for kind in ("unpopular", "new")
        }
    record["hostile_texts"] = hub_shares(shop, seed)
    return summary(record) | record


def quality(window: EvaluationWindow, fitted: dict[str, Recommender]) -> dict[str, Any]:
    """HR@10 and NDCG@10 with and without the bounds, and the difference with its interval."""
    systems = {OURS: served_system(fitted["bounded"]), "unbounded": served_system(fitted["unbounded"])}
    report = evaluate(window, systems, k=10)
    figures = {
        name: {part: {m: scores[part][f"{m}@10"] for m in ("hr", "ndcg")} for part in (ALL, NEW, COLD)}
        for name, scores in report.systems.items()
    }
    return {"systems": figures, "differences": [asdict(difference) for difference in report.differences]}


def worst_again(
    shop: Shop, table: dict[str, Any], kind: str, seed: int, train: Callable[[Dataset], Recommender] | None
) -> dict[str, Any]:
    """Of the attack that lifts a kind most, on the target that it lifts most, the slots by whole lists; train: anew on
    the attacked log, else the model stays."""
    attacks = {name: figures for name, figures in table[kind].items() if name in ATTACKS}
    name = max(attacks, key=lambda name: max(attacks[name]["lift"].values()))
    each = np.array(attacks[name]["each"]).sum(axis=1)
    n_targets = len(each)
    target = int(targets(shop, n_targets, np.random.default_rng(seed))[kind][int(each.argmax())])
    attacker = Attacker(shop, target, table["fake_accounts"], np.random.default_rng([seed, target]))
    log = shop.with_fakes(ATTACKS[name](attacker))
    clean = shop.exact_slots(shop.trained, target)
    attacked = shop.exact_slots(train(log) if train else shop.counted_anew(log), target)
    return {"attack": name, "before": clean, "after": attacked}


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The figures that stand for the rest."""

    def worst(name: str, lists: tuple[str, ...]) -> float:
        tables = [record[name][kind] for kind in ("unpopular", "new")]
        return max(table[attack]["lift"][of] for table in tables for attack in ATTACKS for of in lists)

    def over_real(name: str) -> float:
        floors = record[name]["floor"]
        return max(
            max(table[attack]["slots"][of], floors[of]) / max(table["organic"][of], floors[of])
            for table in (record[name][kind] for kind in ("unpopular", "new"))
            for attack in ATTACKS
            for of in LISTS
        )

    texts = record["hostile_texts"]
    return {
        "poison_lift": worst("bounded", LISTS),
        "poison_lift_default": worst("bounded", ("default",)),
        "lift_over_real_buyers": over_real("bounded"),
        "without_bounds": {
            "poison_lift": worst("unbounded", LISTS),
            "poison_lift_default": worst("unbounded", ("default",)),
            "lift_over_real_buyers": over_real("unbounded"),
        },
        "hub_share_before": texts["before"]["worst"],
        "hub_share_after": texts["after"]["worst"],
    }


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--targets", type=int, default=3, help="items pushed of each kind")
    parser.add_argument("--retrain", action="store_true", help="also train on the worst attacks")
    args = parser.parse_args()
    finish(measure(n_targets=args.targets, seed=args.seed, retrain=args.retrain), args.output)


if __name__ == "__main__":
    main()
