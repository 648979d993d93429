"""How likely each person is to buy at least one of some items within the model's horizon.

A few items are scored for everybody; of many items, each person gets those that the model's own candidate sources
propose of them, as in a slate. Of several items

    P(at least one) = 1 - product over items of (1 - p_item) = 1 - exp(-h),    h = - sum over items of log(1 - p_item)

takes the items as independent given the person, which expects too many buyers of a set. So the same question is asked
as of one horizon ago, when the answer is known, and a line is fitted through it by maximum likelihood,

    P = 1 - exp(-h'),  log h' = a + b log h,    a ~ N(0, 1),  log b ~ N(0, 1/2) and at most 0

The order of people stays what it is. The model has learned from that window, so a line steeper than no change is not
believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.arrays import Floats, Ints, Mask, Rows, Values
from recllm.base.errors import NotFittedError, UsageError
from recllm.base.schema import Action, Intent, Objective
from recllm.learn.features.candidates import candidates, explicit
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.market.audiences.request import LeftOut
from recllm.market.propensity.effects import PersonEffects
from recllm.recommend.recommender.ranking import UserInputs
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import Model
from recllm.shop.data.dataset import DAY, Events
from recllm.shop.data.interactions import Pairs, Tally, of_actions, padded, user_vectors
from recllm.text.encoder.hardware import map_blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_EXPLICIT_ITEMS = 50
"""Up to this number of items, every person is scored on every item."""
USERS_PER_BLOCK = 256
"""People at once."""
CALIBRATION_USERS = 1_000
"""People that the calibration of a set asks about at most, drawn by a fixed seed."""
MIN_CALIBRATION_USERS = 20
"""With fewer people who bought before that window nothing is changed; of few the prior decides most."""
LISTED_OFFERS = 30
"""Best items of each person that are known, for offers that spread over the catalogue."""
Unsuited = Callable[[Events, Pairs], Mask]
"""Of pairs of people with these histories and items those that do not suit, (n_pairs,); see `adcopy.suitability`."""
Line = tuple[float, float]
"""a and b of the module's formula."""
UNCHANGED: Line = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class OfferTable:
    """The best items of n people by an objective, best first, (n, m) each; an item of -1, at the end, is none."""

    item: Ints
    offer_value: Floats
    """By the objective: of the chance its odds, p / (1 - p); of the others what a contact is expected to bring."""
    probability: Floats
    """Calibrated, in [0, 1]."""

    def rows(self, people: Rows) -> OfferTable:
        """Of these people."""
        return OfferTable(self.item[people], self.offer_value[people], self.probability[people])


@dataclass(frozen=True, eq=False)
class UserScores:
    """Of n people, for a target."""

    score: Values
    """(n,), who comes first: h of the module, which still differs where the probability rounds to 1; what the
    offer is worth by another objective; an effect; or a likeness."""
    best_item: Ints
    """(n,), row of the item of the target that suits them best, -1 for none."""
    probability: Floats | None
    """(n,), in [0, 1], of buying at least one item, or where each has items of their own, the offered one; None where
    `score` is only a likeness."""
    offers: OfferTable | None = None
    """The best items of each; None for a likeness."""
    effects: PersonEffects | None = None
    """Where people are ordered by effect."""

    def gains(self) -> Values:
        """What a contact changes, (n,): the effect where it is known, else the probability. Raises as `probabilities`
        does."""
        return self.probabilities().astype(np.float64) if self.effects is None else self.effects.effect

    def rows(self, people: Rows) -> UserScores:
        """Of these people."""
        probability = None if self.probability is None else self.probability[people]
        offers, effects = (None if table is None else table.rows(people) for table in (self.offers, self.effects))
        return UserScores(self.score[people], self.best_item[people], probability, offers, effects)  # type: ignore[arg-type]

    def probabilities(self) -> Floats:
        """`probability`. Raises `UsageError` for a likeness."""
        if self.probability is None:
            raise UsageError("a likeness is no probability; ask for items, a category or a text")
        return self.probability


def trained_model(recommender: Recommender) -> Model:
    """Raises `NotFittedError` without a trained model: cosines are no probabilities."""
    if recommender.model is None:
        raise NotFittedError("an audience needs calibrated probabilities: train a model first")
    return recommender.model


def target_probabilities(
    recommender: Recommender,
    items: Rows,
    user_rows: Rows,
    intent: Intent = Intent.MIXED,
    objective: Objective = Objective.PROBABILITY,
    *,
    personal: LeftOut | None = None,
    unsuited: Unsuited | None = None,
) -> UserScores:
    """The probability of at least one of `items` (rows of the catalogue), those of several calibrated as a set.

    personal, or another intent than mixed: that of the offered one, which is none that the rules `personal` leave out.
    Raises `NotFittedError` without a trained model.
    """
    scores = independent_probabilities(
        recommender, items, user_rows, intent, objective, personal=personal, unsuited=unsuited
    )
    if len(items) < 2 or not len(user_rows) or scores.probability is None:
        return scores
    if personal is not None or intent is not Intent.MIXED:
        return scores
    rate = scores.score if objective is Objective.PROBABILITY else -np.log1p(-scores.probability.astype(np.float64))
    rate = calibrated_rate(rate, calibration_line(recommender, items))
    probability = np.asarray(-np.expm1(-rate), np.float32)
    return replace(scores, score=rate if objective is Objective.PROBABILITY else scores.score, probability=probability)


def independent_probabilities(
    recommender: Recommender,
    items: Rows,
    user_rows: Rows,
    intent: Intent = Intent.MIXED,
    objective: Objective = Objective.PROBABILITY,
    *,
    personal: LeftOut | None = None,
    unsuited: Unsuited | None = None,
) -> UserScores:
    """The same before the calibration of the set. Raises `NotFittedError` without a trained model, `UsageError` for a
    margin that no item has."""
    trained_model(recommender)
    data, population = recommender.dataset, restricted_to(recommender.population, items)
    ranker = replace(recommender.ranker, population=population)
    basics = basics_vectors(recommender.encoder, basics_of(data.users[user_rows.tolist()]), recommender.text_locale)
    rate = np.zeros(len(user_rows))
    allowed = np.zeros(data.n_items, bool)
    allowed[items] = True
    margins = recommender.margins if objective is Objective.MARGIN else None
    if margins is not None:
        allowed &= np.isfinite(margins)
    fitting = recommender.fitting(intent, data.events.rows(user_rows))
    shape = (len(user_rows), min(LISTED_OFFERS, max(int(allowed.sum()), 1)))
    listed = OfferTable(np.full(shape, -1), np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32))

    def score(block: slice) -> None:
        rows = user_rows[block]
        batch = UserInputs(data.events.rows(rows), data.as_of, rows, basics[block]).batch(population)
        if fitting is not None:
            pairs = fitting.pairs(block, allowed)
        elif len(items) <= MAX_EXPLICIT_ITEMS:
            pairs = explicit(len(rows), np.flatnonzero(allowed))
        else:
            pairs = candidates(batch, ranker.candidates, allowed=allowed, repeats=intent is not Intent.DISCOVER)
        if intent is Intent.DISCOVER:
            pairs = pairs.select(~batch.owned.occurs(pairs.user, pairs.item))
        if personal is not None:
            pairs = pairs.select(~is_left_out(batch.histories, pairs, data.n_items, data.as_of, personal))
        if unsuited is not None:
            pairs = pairs.select(~unsuited(batch.histories, pairs))
        scored = ranker.score_batch(batch, pairs)
        pair_value = ranker.value(batch, pairs, objective, margins, discover=intent is Intent.DISCOVER)
        misses = np.log1p(-np.minimum(scored.probability.astype(np.float64), 1 - 1e-7))
        rate[block] = -np.bincount(pairs.user, misses, len(rows))
        offer_value = np.exp(scored.logit) if objective is Objective.PROBABILITY else pair_value.of(scored.probability)
        order = np.lexsort((pairs.item, -offer_value, pairs.user))
        position = np.arange(len(order)) - pairs.indptr[pairs.user]
        first = position < shape[1]
        best, at = order[first], (block.start + pairs.user[first], position[first])
        listed.item[at], listed.offer_value[at], listed.probability[at] = (
            pairs.item[best],
            offer_value[best],
            scored.probability[best],
        )

    map_blocks(score, len(user_rows), USERS_PER_BLOCK)
    if personal is not None or intent is not Intent.MIXED:
        rate = -np.log1p(-np.minimum(listed.probability[:, 0].astype(np.float64), 1 - 1e-7))
    by_value = rate if objective is Objective.PROBABILITY else listed.offer_value[:, 0].astype(np.float64)
    return UserScores(by_value, listed.item[:, 0].copy(), np.asarray(-np.expm1(-rate), np.float32), listed)


def is_left_out(histories: Events, pairs: Pairs, n_items: int, as_of: int, rules: LeftOut) -> Mask:
    """Items that a person returned and did not buy since, or bought within `bought_days`, (n_pairs,)."""
    last = {}
    for action in (Action.PURCHASE, Action.RETURN):
        events = histories.of(action)
        tally = Tally.of(events.user, events.item, n_items)
        last[action] = padded(tally.largest(events.at), -1)[tally.find(pairs.user, pairs.item)]
    bought, returned = last[Action.PURCHASE], last[Action.RETURN]
    left_out = rules.returned & (returned >= 0) & (returned >= bought)
    return left_out if rules.bought_days is None else left_out | (bought >= as_of - rules.bought_days * DAY)


def restricted_to(population: CollaborativeStatistics, items: Rows) -> CollaborativeStatistics:
    """The same population for scores of `items` alone: what it knows of other items' buyers is left out.
    Scores of `items` stay what they are, because a pair's features look these tables up at the pair's own item."""
    mask = np.zeros(population.n_items, bool)
    mask[items] = True

    def restricted(table: csr_matrix) -> csr_matrix:
        thin = table.tocsr().copy()
        thin.data = np.where(mask[thin.indices], thin.data, 0).astype(thin.dtype)
        thin.eliminate_zeros()
        return thin

    tables = {name: restricted(getattr(population, name)) for name in ("recent", "decayed", "item_item")}
    return replace(population, **tables)


def calibration_line(recommender: Recommender, items: Rows) -> Line:
    """(a, b) from the window before the present; no change where the log does not reach back so far."""
    data, actions = recommender.dataset, recommender.population.settings.target
    start = data.as_of - trained_model(recommender).horizon_days * DAY
    past = data.before(start)
    buyers = np.flatnonzero(np.diff(of_actions(past.events, actions).indptr))
    if len(buyers) < MIN_CALIBRATION_USERS:
        return UNCHANGED
    user_rows = np.sort(np.random.default_rng(0).permutation(buyers)[:CALIBRATION_USERS])
    earlier = recommender.with_items(past, recommender.item_vectors[:0])
    e = of_actions(data.events, actions)
    bought = np.zeros(data.n_users, bool)
    bought[e.user[(e.at >= start) & np.isin(e.item, items)]] = True
    return fit_line(independent_probabilities(earlier, items, user_rows).score, bought[user_rows])


def fit_line(rate: Values, bought: Mask) -> Line:
    """rate: h of each person, 0 or more; bought: whether they bought one, (n,) each."""
    from scipy.optimize import minimize

    def loss(x: Values) -> float:
        h = calibrated_rate(rate, (x[0], float(np.exp(x[1]))))
        likelihood = np.where(bought, np.log(np.maximum(-np.expm1(-h), 1e-12)), -h)
        return float(-likelihood.sum() + x[0] ** 2 / 2 + x[1] ** 2)

    x = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=((-4, 4), (-2, 0))).x
    return float(x[0]), float(np.exp(x[1]))


def calibrated_rate(rate: Values, line: Line) -> Values:
    """exp(a) * rate ^ b; 0 stays 0."""
    return np.asarray(np.exp(line[0]) * rate ** line[1])


def likeness(recommender: Recommender, seeds: Rows, user_rows: Rows) -> tuple[Values, str]:
    """Cosine of each of `user_rows` with the mean of the `seeds`, rows of the dataset's users, (n,), and what it is, in
    words. Raises `UsageError` without seeds."""
    if not len(seeds):
        raise UsageError("none of the seeds is known here; check the ids, or the consent table")
    data = recommender.dataset

    def vectors(block: Rows) -> Floats:
        """Unit User vectors, (n, dim)."""
        basics = basics_vectors(recommender.encoder, basics_of(data.users[block.tolist()]), recommender.text_locale)
        return user_vectors(recommender.item_vectors, data.events.rows(block), data.as_of, basics)

    sums = map_blocks(lambda block: vectors(seeds[block]).sum(axis=0), len(seeds), USERS_PER_BLOCK)
    mean = np.sum(sums, axis=0)
    mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    cosines = map_blocks(lambda block: vectors(user_rows[block]) @ mean, len(user_rows), USERS_PER_BLOCK)
    score = np.concatenate([np.zeros(0), *cosines]).astype(np.float64)
    return score, f"ordered by likeness to {len(seeds)} seeds; a likeness is no probability of buying"
