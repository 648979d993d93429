"""Collaborative statistics: everything that is counted over all users before a time.

Pair features and candidates are pure functions of these statistics and of a batch of users (`UserBatch`), so serving,
fresh feedback and explanations run the same code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.arrays import Array, Floats, Ints, Rows, Values
from recllm.base.errors import DataError
from recllm.base.settings import CollaborativeSettings
from recllm.shop.data.catalogue import (
    NEVER,
    PRIOR_BUYERS,
    GroupStatistics,
    ItemGroups,
    NewItems,
    first_sales,
    group_statistics,
    per_group,
    size_of,
)
from recllm.shop.data.dataset import DAY, OPEN_CART, Dataset, Events
from recllm.shop.data.interactions import (
    Tally,
    UserVectors,
    WeightedSums,
    decay,
    distinct,
    enlarged,
    matrix,
    merged_lines,
    of_actions,
    user_parts,
    within_limits,
)

if TYPE_CHECKING:
    from recllm.learn.features.item_index.catalogue import CatalogueIndex
    from recllm.learn.models.sequence import SequenceModel

PROFILE_HALF_LIFE_DAYS = 120.0  # of a purchase, where users are compared by what they bought
RECENT_DAYS = 28.0  # how far back a neighbour's purchases speak for an item
BASICS_SHARPNESS = 20.0  # users without purchases: exp(20 * (cosine of their basics - 1))
ITEM_ITEM_WEIGHTS = 200  # largest weights of an item that stay; the smaller ones order nothing
PURCHASE_HALF_LIFE_DAYS = 120.0  # of habits, shares of item groups and neighbours' purchases
USER_VECTOR_HALF_LIFE_DAYS = 60.0  # of an event in the mean vector of a user's history
SHORT_WINDOW_DAYS = 7.0  # its buyers against those of the next window are the trend
WINDOW_DAYS = 28.0  # what is popular; four whole weeks, as people shop by weekdays
LONG_WINDOW_DAYS = 91.0  # a quarter: the usual level of an item's buyers
PRICE_WINDOW_DAYS = 14.0  # its mean price against the usual one: is an item cheaper lately?
NEW_ITEM_DAYS = 42.0  # an item counts as new for so long after its first sale
MAX_NEW_ITEMS = 5_000  # new items that are proposed at most, best selling first
INFLUENCE_SAMPLE = 2_500
"""People of the pool from whom each one's weight as a neighbour is estimated."""
LIKE_PROFILES = 4
"""Profiles are alike where a table of their items has at most this many numbers for each that is not 0."""


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """Float32 (n_items,) each. Counts are of distinct buyers; days count back from the population's time."""

    buyers_7: Floats
    buyers_28: Floats
    buyers_91: Floats
    buyers_ever: Floats
    buyers_7_before: Floats
    """In the 7 days before the last 7."""
    repeat_rate: Floats
    """Share of the buyers who came back for it, shrunk towards the shop's mean."""
    days_since_sold: Floats
    days_since_arrival: Floats
    """Since the first sale; 0 for an item that never sold."""
    log_price: Floats
    """Log of 1 + the mean unit price, NaN where unknown."""
    price_now: Floats
    """Log ratio of the last 14 days' mean price to the usual one: below 0 when the item is cheaper lately."""
    type_share: Floats
    """Share of its type's buyers in the last 28 days."""
    type_buyers_28: Floats
    buying_rate: Floats
    """Share of the people who bought anything in the last 28 days that bought this."""
    first_buying_rate: Floats
    """The same among those of them who had not bought it before; those are estimated by the share of all people."""

    @property
    def mean_repeat_rate(self) -> float:
        """The shop's mean, towards which `repeat_rate` was shrunk by `PRIOR_BUYERS`."""
        shrunk = float((self.repeat_rate.astype(np.float64) * (self.buyers_ever + PRIOR_BUYERS)).sum())
        return shrunk / max(float(self.buyers_ever.sum()) + PRIOR_BUYERS * len(self.repeat_rate), 1e-12)


@dataclass(frozen=True, eq=False)
class CollaborativeStatistics:
    """The crowd as of `as_of` (epoch seconds). Matrices are sparse float32."""

    as_of: int
    settings: CollaborativeSettings
    item_vectors: Floats
    facets: ItemGroups
    stats: ItemStatistics
    pool: Ints
    """User rows of the dataset that serve as neighbours, (n_pool,)."""
    profiles: Any
    """(n_pool, n_items), what the pool is compared by; the length of a row is the person's `influence`, at most 1."""
    recent: Any
    """(n_pool, n_items), 1 where bought in the last `RECENT_DAYS`."""
    decayed: Any
    """(n_pool, n_items), decayed purchases, capped at 1."""
    item_item: Any
    """(n_items, n_items), at most `ITEM_ITEM_WEIGHTS` weights a row."""
    arrived: NewItems
    group_statistics: Mapping[str, GroupStatistics]
    pool_basics: Floats | None = None
    """Emb(I) of the pool, (n_pool, dim), zero rows where nothing is known: who is alike when nothing was bought yet."""
    interests: SequenceModel | None = None
    """The sequence model, trained on events before `as_of` alone; None where the shop has none."""
    index: CatalogueIndex | None = None
    """Of `item_vectors`; None where all items are compared."""
    carts: tuple[Any, Floats] | None = None
    """What completes a cart, and the share of trips with each item, see `features.together.cart_weights`; None where no
    cart was asked."""

    @property
    def n_items(self) -> int:
        return len(self.item_vectors)

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        item_vectors: Floats,
        settings: CollaborativeSettings | None = None,
        basics: Floats | None = None,
        interests: SequenceModel | None = None,
        facets: ItemGroups | None = None,
    ) -> CollaborativeStatistics:
        """Counts over `dataset`, which is cut at its `as_of` already, of each person within the limits of a day.

        `item_vectors`: float32 unit rows (n_items, dim). `basics`: Emb(I) of its people, (n_users, dim), by which
        people who bought nothing yet find their neighbours; without it they have none. `interests` is not fitted here,
        see `models.sequence`. facets: those of `dataset.items`, where the caller has them already.
        Raises `DataError` when the number of vectors does not fit.
        """
        settings = settings or CollaborativeSettings()
        if len(item_vectors) != dataset.n_items:
            raise DataError(
                f"item_vectors: {len(item_vectors)} rows for {dataset.n_items} items; encode every item once"
            )
        facets = facets or ItemGroups.of(dataset.items)
        n_items, as_of = dataset.n_items, dataset.as_of
        parts = [
            (start, within_limits(merged_lines(of_actions(events, settings.target)), settings))
            for start, events in dataset.events.parts()
        ]

        sums = _ItemSums.of(Events.nothing(), n_items, as_of, settings)
        for _, purchases in parts:
            sums += _ItemSums.of(purchases, n_items, as_of, settings)
        n_purchases = np.concatenate([np.zeros(0, np.int64), *(np.diff(purchases.indptr) for _, purchases in parts)])
        arrived = NewItems.since(sums.first, int(sums.first.min(initial=as_of)), as_of)

        n_buyers = int((n_purchases > 0).sum())
        n_pool = min(settings.neighbour_pool, n_buyers)
        # the most active alone could be accounts made for it
        active = np.argsort(-n_purchases, kind="stable")[: max(n_pool, n_buyers // 2)]
        pool = np.sort(np.random.default_rng(0).permutation(active)[:n_pool])

        # what needs to know these first; best sellers have weights to each other
        related = np.sort(np.argsort(-sums.strength.astype(np.float32), kind="stable")[: settings.item_item_items])
        related = related[sums.n_owners[related] > 1]
        gram, got = np.zeros((len(related), len(related)), np.float32), np.zeros(n_items, np.int64)
        of_pool = [Events.nothing()]
        for start, purchases in parts:
            # what a person stopped buying counts less
            owned = _bought(purchases, n_items, as_of, settings.item_item_half_life_days)[:, related]
            gram += (owned.T @ owned).toarray()
            got += arrived.first_buyers(purchases)
            in_part = pool[(pool >= start) & (pool < start + purchases.n_users)]
            of_pool.append(purchases.rows(in_part - start))
        arrived = replace(arrived, got=got.astype(np.float32))
        pool_purchases = Events.concat(of_pool)
        recent = pool_purchases.select(pool_purchases.at >= as_of - RECENT_DAYS * DAY)
        return cls(
            as_of,
            settings,
            np.asarray(item_vectors, np.float32),
            facets,
            _item_stats(sums, dataset, facets),
            pool,
            _with_bounded_influence(_profile_rows(pool_purchases, n_items, as_of), settings),
            _bought(recent, n_items, as_of, None),
            _bought(pool_purchases, n_items, as_of, PURCHASE_HALF_LIFE_DAYS),
            ease(gram, related, n_items, settings.item_item_l2),
            arrived,
            group_statistics(facets, arrived, pool_purchases, as_of),
            None if basics is None else np.asarray(basics[pool], np.float32),
            interests,
        )

    def with_new_items(self, items: pl.DataFrame, vectors: Floats) -> CollaborativeStatistics:
        """The statistics of a catalogue that has further items, which never sold, behind these: what `fit` would count.

        items: `Dataset.items`, those of the statistics first. vectors: unit rows of the further ones, (n_new, dim).
        Raises `DataError` when the number of vectors does not fit.
        """
        n_new, n_items, n_pool = len(vectors), items.height, len(self.pool)
        if self.n_items + n_new != n_items:
            raise DataError(f"vectors: {n_new} rows for {n_items - self.n_items} new items; encode each of them once")
        facets, stats = self.facets.with_new_items(items), self.stats
        mean_arrival = self.arrived.got.sum() / max(self.arrived.judged.sum(), 1)
        listed = items["price"][self.n_items :].cast(pl.Float64).fill_null(np.nan).to_numpy()

        def longer(column: Array, value: Any = 0) -> Array:
            return np.concatenate([column, np.broadcast_to(np.asarray(value, column.dtype), n_new)])

        def of_group(name: str, column: Floats, without_group: float) -> Floats:
            """A figure of each item's group, for the new items too."""
            codes = getattr(facets, name)
            figures = np.full(size_of(codes) + 1, without_group, np.float32)
            figures[codes[: self.n_items]] = column
            figures[-1] = without_group
            return longer(column, figures[codes[self.n_items :]])

        groups = {}
        for name, sales in self.group_statistics.items():
            groups[name] = GroupStatistics(
                buyers_56=of_group(name, sales.buyers_56, 0),
                arrivals=of_group(name, sales.arrivals, 0),
                arrival_rate=of_group(name, sales.arrival_rate, mean_arrival),
                votes=None if sales.votes is None else enlarged(sales.votes, n_pool, size_of(getattr(facets, name))),
            )
        never_sold = {f.name: longer(getattr(stats, f.name)) for f in fields(ItemStatistics)}
        never_sold |= {
            "repeat_rate": longer(stats.repeat_rate, stats.mean_repeat_rate),
            "log_price": longer(stats.log_price, np.log1p(listed)),
            "type_buyers_28": of_group("type", stats.type_buyers_28, 0),
        }
        arrived = NewItems(
            longer(self.arrived.first, NEVER),
            *(longer(getattr(self.arrived, name)) for name in ("judged", "young", "got")),
        )
        return replace(
            self,
            item_vectors=np.concatenate([self.item_vectors, np.asarray(vectors, np.float32)]),
            facets=facets,
            stats=ItemStatistics(**never_sold),
            profiles=enlarged(self.profiles, n_pool, n_items),
            recent=enlarged(self.recent, n_pool, n_items),
            decayed=enlarged(self.decayed, n_pool, n_items),
            item_item=enlarged(self.item_item, n_items, n_items),
            carts=None if self.carts is None else (enlarged(self.carts[0], n_items, n_items), longer(self.carts[1])),
            arrived=arrived,
            group_statistics=groups,
            interests=None if self.interests is None else self.interests.with_new_items(vectors),
            index=None,  # its rows are those of the shorter catalogue
        )

    @cached_property
    def pool_row(self) -> dict[int, int]:
        return {int(u): i for i, u in enumerate(self.pool)}

    @cached_property
    def arrivals(self) -> Ints:
        """Rows of items that never sold, or first sold in the last `NEW_ITEM_DAYS`: best selling first, then by how
        earlier arrivals of their type sold; at most `MAX_NEW_ITEMS`."""
        s = self.stats
        rows = np.flatnonzero(s.days_since_arrival <= NEW_ITEM_DAYS)
        order = np.lexsort((rows, -self.group_statistics["type"].arrival_rate[rows], -s.buyers_28[rows]))
        return rows[order[:MAX_NEW_ITEMS]]

    @cached_property
    def influence(self) -> Floats:
        """Of each of the pool, in [0, 1], (n_pool,): what its likeness to others is multiplied by."""
        squares = np.asarray(self.profiles.multiply(self.profiles).sum(axis=1)).ravel()
        return np.asarray(np.sqrt(squares), np.float32)

    @cached_property
    def text_centrality(self) -> Floats:
        """What is taken off the cosine of each item's text where items compete by it, (n_items,): its mean cosine with
        the catalogue times `text_centring`. It keeps a text that is near to all others from winning every list (Suzuki
        et al. 2013)."""
        return np.asarray(self.settings.text_centring * (self.item_vectors @ self.mean_vector))

    @cached_property
    def mean_vector(self) -> Floats:
        """Mean of the item vectors, (dim,)."""
        return np.asarray(self.item_vectors.mean(axis=0))

    @cached_property
    def profiles_by_item(self) -> Any:
        """`profiles` turned round, sparse (n_items, n_pool)."""
        return self.profiles.T.tocsr()

    @cached_property
    def type_trend(self) -> Any:
        """Sparse (n_types, n_items): each item's share of its type's buyers in the last 28 days."""
        from scipy.sparse import csr_matrix

        kind, share = self.facets.type, self.stats.type_share
        rows = np.flatnonzero((kind >= 0) & (share > 0))
        return csr_matrix((share[rows], (kind[rows], rows)), shape=(size_of(kind), self.n_items))

    @cached_property
    def popular(self) -> Ints:
        """All rows, most buyers in the last 28 days first, then ever; ties in row order."""
        return np.lexsort((np.arange(self.n_items), -self.stats.buyers_ever, -self.stats.buyers_28))


@dataclass(frozen=True, eq=False)
class UserBatch:
    """People whose scores are wanted, with all that follows from their histories and the population alone.

    histories: `Events` (n people), strictly before `as_of`. purchases: its target events, one per item and time.
    vectors: see `UserVectors`.
    """

    population: CollaborativeStatistics
    histories: Events
    as_of: int
    purchases: Events
    owned: Tally
    """`purchases` grouped by (person, item)."""
    type_share: Any
    """Sparse (n, n_types), the person's decayed purchases by type, summing to 1."""
    neighbour_weights: Any
    """Sparse (n, n_pool): weights of each person's nearest people, summing to 1."""
    vectors: UserVectors
    interests: Floats | None
    """Unit vectors (n, dim) of the sequence model; None where the population has none."""
    cart: WeightedSums | None
    """Over the items: how well they complete what each person has in the cart now; None where there is no cart."""

    @property
    def n(self) -> int:
        return len(self.histories.indptr) - 1

    @cached_property
    def habits(self) -> Floats:
        """Of each of `owned`, its purchases, decayed with a half-life of `PURCHASE_HALF_LIFE_DAYS`."""
        return self.owned.total(decay(self.purchases.at, self.as_of, PURCHASE_HALF_LIFE_DAYS))

    @cached_property
    def neighbour_recent(self) -> WeightedSums:
        """Over the items, as are the next two; items that never sold have nothing in them."""
        return WeightedSums(self.neighbour_weights, self.population.recent)

    @cached_property
    def neighbour_decayed(self) -> WeightedSums:
        return WeightedSums(self.neighbour_weights, self.population.decayed)

    @cached_property
    def item_item(self) -> WeightedSums:
        half_life_days = self.population.settings.item_item_half_life_days
        bought = _bought(self.purchases, self.population.n_items, self.as_of, half_life_days)
        return WeightedSums(bought, self.population.item_item)


def ask(
    population: CollaborativeStatistics,
    histories: Events,
    as_of: int,
    *,
    user_rows: Rows | None = None,
    basics: Floats | None = None,
) -> UserBatch:
    """Prepare people for scoring.

    user_rows: each user's row in the dataset behind the statistics, so that no user is their own neighbour; -1 for an
    unknown user.
    basics: Emb(I), (n, dim), or None. Events at or after `as_of` are dropped.
    """
    histories = histories.select(histories.at < as_of)
    cart, histories = _open_cart(population, histories)
    n_items, settings, kind = population.n_items, population.settings, population.facets.type
    purchases = merged_lines(of_actions(histories, settings.target))
    typed = purchases.select(kind[purchases.item] >= 0)
    typed = replace(typed, item=kind[typed.item])
    by_type = matrix(typed, size_of(kind), decay(typed.at, as_of, PURCHASE_HALF_LIFE_DAYS))
    return UserBatch(
        population,
        histories,
        as_of,
        purchases,
        Tally.of(purchases.user, purchases.item, n_items),
        _divided(by_type, np.asarray(by_type.sum(1)).ravel()),
        _neighbours(population, _profile_rows(purchases, n_items, as_of), user_rows, basics),
        user_parts(population.item_vectors, histories, as_of, basics, USER_VECTOR_HALF_LIFE_DAYS),
        None if population.interests is None else population.interests.users(histories, as_of, basics),
        cart,
    )


def _open_cart(population: CollaborativeStatistics, histories: Events) -> tuple[WeightedSums | None, Events]:
    """What completes the open carts, None without any, and the histories without them, as the scorer learned them."""
    if population.carts is None:
        return None, histories
    weights, _ = population.carts
    in_cart = (histories.basket == OPEN_CART) & (np.diff(weights.indptr)[histories.item] > 0)
    if not in_cart.any():
        return None, histories
    carted = histories.select(in_cart)
    cart = WeightedSums(matrix(carted, population.n_items, np.ones(len(carted))), weights)
    return cart, histories.select(~in_cart)


def _profile_rows(purchases: Events, n_items: int, as_of: int) -> Any:
    """Sparse unit rows: log(1 + decayed count) of each item, what people are compared by."""
    rows = matrix(purchases, n_items, decay(purchases.at, as_of, PROFILE_HALF_LIFE_DAYS))
    np.log1p(rows.data, out=rows.data)
    return _divided(rows, np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel()))


def _divided(rows: Any, divisor: Array) -> Any:
    """The rows, which are changed, each divided by a number."""
    rows.data *= np.repeat((1 / np.maximum(divisor, 1e-12)).astype(np.float32), np.diff(rows.indptr))
    return rows


def _bought(purchases: Events, n_items: int, as_of: int, half_life_days: float | None) -> Any:
    """Sparse (n_users, n_items): purchases, decayed where there is a half-life, and capped at 1."""
    weight = np.ones(len(purchases)) if half_life_days is None else decay(purchases.at, as_of, half_life_days)
    rows = matrix(purchases, n_items, weight)
    np.minimum(rows.data, 1, out=rows.data)
    return rows


def _neighbours(
    population: CollaborativeStatistics,
    profile: Any,
    user_rows: Rows | None,
    basics: Floats | None,
) -> Any:
    """Sparse (n, n_pool): cosine weights of each person's nearest people, summing to 1, blockwise.

    Near are people who buy the same; for a person who bought nothing, people with the same basics.
    """
    from scipy.sparse import csr_matrix, vstack

    n, pool = profile.shape[0], len(population.pool)
    k, pool_basics = min(population.settings.neighbours, pool), population.pool_basics
    own_row = np.full(n, -1)
    if user_rows is not None:
        own_row = np.array([population.pool_row.get(int(user), -1) for user in user_rows])
    parts = []
    for start in range(0, n, 256):
        rows = slice(start, start + 256)
        similarity = _similarity(population, profile[rows] if n > 256 else profile)
        blank = np.flatnonzero(np.diff(profile.indptr[start : start + 257]) == 0)
        if basics is not None and pool_basics is not None and len(blank):
            of_blank = basics[start + blank]
            stated = np.any(of_blank, axis=1)[:, None] & np.any(pool_basics, axis=1)[None, :]
            likeness = np.exp(BASICS_SHARPNESS * (of_blank @ pool_basics.T - 1)) * stated  # in [0, 1]
            similarity[blank] = likeness * population.influence
        in_pool = np.flatnonzero(own_row[rows] >= 0)
        similarity[in_pool, own_row[rows][in_pool]] = 0
        best, weight = _nearest(similarity, k)
        parts.append(csr_matrix((weight.ravel(), best.ravel(), k * np.arange(len(best) + 1)), shape=similarity.shape))
    if len(parts) == 1:
        return parts[0]
    return vstack(parts, format="csr") if parts else csr_matrix((n, pool), dtype=np.float32)


def _with_bounded_influence(profiles: Any, settings: CollaborativeSettings) -> Any:
    """Profiles of the pool, whose rows are shortened so that no one is near to many more people than others are.

    profiles: unit rows. Each of a sample names its nearest people, whose weights sum to 1; a row whose weights sum to
    more than `neighbour_influence` times the mean is divided by the excess. Some points are near to nearly all ("hubs",
    Radovanovic et al. 2010); accounts made for it are such points on purpose (the bandwagon attack, Mobasher et al.
    2007).
    """
    n = profiles.shape[0]
    if n < 2:
        return profiles
    sample = np.sort(np.random.default_rng(0).permutation(n)[:INFLUENCE_SAMPLE])
    k, by_item, weights = min(settings.neighbours, n - 1), profiles.T.tocsr(), np.zeros(n)
    for start in range(0, len(sample), 256):
        rows = sample[start : start + 256]
        similarity = np.asarray((profiles[rows] @ by_item).toarray())
        similarity[np.arange(len(rows)), rows] = 0
        best, weight = _nearest(similarity, k)
        weights += np.bincount(best.ravel(), weight.ravel(), minlength=n)
    excess = weights / max(float(weights.mean()), 1e-12) / settings.neighbour_influence
    return _divided(profiles, np.maximum(excess, 1.0))


def _nearest(similarity: Floats, k: int) -> tuple[Ints, Floats]:
    """The k nearest of each row, and their weights, which sum to 1, (n, k) each."""
    n, n_all = similarity.shape
    best = np.argpartition(-similarity, k - 1, axis=1)[:, :k] if k < n_all else np.tile(np.arange(n_all), (n, 1))
    weight = np.take_along_axis(similarity, best, 1)
    return best, weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)


def _similarity(population: CollaborativeStatistics, profile: Any) -> Floats:
    """Cosine of profiles with each of the pool times its influence, (n, n_pool)."""
    used = distinct(profile.indices)
    buyers = population.profiles_by_item
    if len(used) * profile.shape[0] > LIKE_PROFILES * profile.nnz:
        return np.asarray((profile @ buyers).toarray())
    # one person, or versions of one: a table of their items is nearly full
    table = profile.data[:, None] if profile.shape[0] == 1 else np.ascontiguousarray(profile[:, used].toarray().T)
    return np.asarray((buyers[used].T @ table).T)


def ease(gram: Floats, rows: Ints, n_items: int, ridge: float) -> Any:
    """EASE (Steck 2019) on some items, only its largest weights kept, sparse float32 (n_items, n_items).

    gram: products of the items `rows` over what they were bought in, (n, n). It is changed.
    """
    from scipy.linalg import inv
    from scipy.sparse import csr_matrix

    if not len(rows):
        return csr_matrix((n_items, n_items), dtype=np.float32)
    gram[np.diag_indices(len(rows))] += ridge  # float32 is exact enough: the ridge conditions it well
    inverse = inv(gram, overwrite_a=True, assume_a="pos")
    weight = -inverse / np.diag(inverse)
    np.fill_diagonal(weight, 0)
    n_weights = min(ITEM_ITEM_WEIGHTS, len(rows))
    best = np.argpartition(-np.abs(weight), n_weights - 1, axis=1)[:, :n_weights]
    values = np.take_along_axis(weight, best, 1)
    source = np.repeat(rows, n_weights)
    return csr_matrix((values.ravel(), (source, rows[best.ravel()])), shape=(n_items, n_items))


@dataclass(frozen=True, eq=False)
class _ItemSums:
    """What of `ItemStatistics` adds up over people; counts are of buyers, (n_items,) each but where said."""

    buyers: Ints
    """(5, n_items): of the short, middle and long window, ever, and of the short window before the last."""
    repeat_buyers: Ints
    earlier_buyers: Ints
    """Who bought it before the middle window."""
    first_buyers: Ints
    """Who bought it in the middle window, and not before."""
    n_buyers: int
    """Of anything."""
    n_lately: int
    """Of anything in the middle window."""
    n_paid: Ints
    """(2, n_items): lines with a price, ever and in the window of prices."""
    log_paid: Values
    """(2, n_items): log(1 + price), summed over these."""
    strength: Values
    """Purchases of each person as `_bought` has them, decayed by `item_item_half_life_days`."""
    n_owners: Ints
    """People of whom there is such a purchase."""
    first: Ints
    """First sale, epoch seconds, see `first_sales`; the smallest of all people's."""
    last: Ints
    """Last sale, epoch seconds; the largest of all people's."""

    @classmethod
    def of(cls, purchases: Events, n_items: int, as_of: int, settings: CollaborativeSettings) -> _ItemSums:
        pairs = Tally.of(purchases.user, purchases.item, n_items)

        def buyers(days: float, until: float | None = None) -> Ints:
            late = purchases.at >= as_of - days * DAY
            if until is not None:
                late &= purchases.at < as_of - until * DAY
            return np.bincount(Tally.of(purchases.user[late], purchases.item[late], n_items).key, minlength=n_items)

        short = SHORT_WINDOW_DAYS
        windows = [buyers(days) for days in (short, WINDOW_DAYS, LONG_WINDOW_DAYS)]
        is_late = purchases.at >= as_of - WINDOW_DAYS * DAY
        before = Tally.of(purchases.user[~is_late], purchases.item[~is_late], n_items)
        is_first = ~np.isin(pairs.keys, before.keys, assume_unique=True)
        paid = np.isfinite(purchases.price) & (purchases.price >= 0)
        value = np.log1p(np.where(paid, purchases.price, 0))
        with_price = (paid, paid & (purchases.at >= as_of - PRICE_WINDOW_DAYS * DAY))
        last = np.full(n_items, np.iinfo(np.int64).min)
        np.maximum.at(last, purchases.item, purchases.at)
        owned = _bought(purchases, n_items, as_of, settings.item_item_half_life_days)
        return cls(
            np.stack([*windows, np.bincount(pairs.key, minlength=n_items), buyers(2 * short, short)]),
            np.bincount(pairs.key[pairs.total() > 1], minlength=n_items),
            np.bincount(before.key, minlength=n_items),
            np.bincount(pairs.key[is_first], minlength=n_items),
            len(distinct(purchases.user)),
            len(distinct(purchases.user[is_late])),
            np.stack([np.bincount(purchases.item[which], minlength=n_items) for which in with_price]),
            np.stack([np.bincount(purchases.item[which], value[which], n_items) for which in with_price]),
            np.asarray(owned.sum(0), np.float64).ravel(),
            np.bincount(owned.indices, minlength=n_items),
            first_sales(purchases, n_items),
            last,
        )

    def __add__(self, addend: _ItemSums) -> _ItemSums:
        """Of the people of both, who are all different."""
        combine: dict[str, Callable[[Any, Any], Any]] = {"first": np.minimum, "last": np.maximum}
        pairs = ((f.name, getattr(self, f.name), getattr(addend, f.name)) for f in fields(self))
        return _ItemSums(**{name: combine.get(name, operator.add)(left, right) for name, left, right in pairs})


def _item_stats(sums: _ItemSums, dataset: Dataset, facets: ItemGroups) -> ItemStatistics:
    as_of, first, prior = dataset.as_of, sums.first, PRIOR_BUYERS
    short, lately, long, ever, short_before = sums.buyers.astype(np.float32)
    sold, repeat_buyers = first < NEVER, sums.repeat_buyers
    mean = repeat_buyers.sum() / max(ever.sum(), 1)
    # what was paid, else what the catalogue says; and how far the window of prices is from it
    usual, now = np.where(sums.n_paid > 0, sums.log_paid / np.maximum(sums.n_paid, 1), np.nan)
    listed = np.log1p(dataset.items["price"].cast(pl.Float64).fill_null(np.nan).to_numpy())
    usual = np.where(np.isnan(usual), listed, usual)
    type_lately = per_group(facets.type, lately)
    n_lately, had_it = sums.n_lately, sums.earlier_buyers / max(sums.n_buyers, 1)
    return ItemStatistics(
        short,
        lately,
        long,
        ever,
        short_before,
        ((repeat_buyers + prior * mean) / (ever + prior)).astype(np.float32),
        np.where(sold, (as_of - sums.last) / DAY, 0).astype(np.float32),
        np.where(sold, (as_of - first) / DAY, 0).astype(np.float32),
        usual.astype(np.float32),
        np.nan_to_num(now - usual).astype(np.float32),
        np.where(type_lately > 0, lately / np.maximum(type_lately, 1), 0).astype(np.float32),
        type_lately,
        (lately / max(n_lately, 1)).astype(np.float32),
        (sums.first_buyers / (n_lately * (1 - had_it) + 1)).astype(np.float32),
    )
