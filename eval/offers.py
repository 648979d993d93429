"""What an offer by lift brings and costs beside one by chance:  python eval/offers.py -o eval/results/offers.json

For each protocol one model, as `recllm advise` proposes it, is trained on the past of the window and asked by several
orders, for whatever is likely (mixed) and for what is new to somebody (discover). Offered are the first five to all
who bought anything in the 28 days before the window; judged is what they bought in it. "others" is the same rate among
the people of the same kind who were not offered the item: for what somebody had bought before, others who had, for what
was new to somebody, others to whom it was. `natural_lift` is the difference; nobody was shown anything, so it is no
effect of advertising. NDCG is that of the protocol's slices ALL (mixed) and NEW (discover), over those who bought.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from inputs import advised, finish, say, script_parser, window_of
from numpy.typing import NDArray

from recllm.base.schema import Action, Intent, Objective
from recllm.base.settings import OfferSettings
from recllm.base.stats.intervals import paired_bootstraps
from recllm.base.stats.ranking import average, ndcg
from recllm.market.audiences.probabilities import independent_probabilities
from recllm.market.audiences.selection import spread_offers
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.catalogue import allowed_items
from recllm.shop.data.dataset import DAY

PROTOCOLS = ("cj-next28", "or-next28")
SLICES = {"mixed": "ALL", "discover": "NEW"}
"""Intent -> slice of the protocol."""
ORDERS: dict[str, dict[str, Any]] = {
    "probability": {},
    "lift": {"objective": Objective.LIFT},
    "less-popular-0.25": {"popularity_weight": 0.25},
    "less-popular-0.5": {"popularity_weight": 0.5},
}
OFFERS = 5
SPREADS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
COMPARED_PAIRS = 20_000
"""Pairs of people whose first offers are compared."""

Pairs = NDArray[np.int64]
"""user * n_items + item, ascending, none twice."""


def main() -> None:
    parser = script_parser(__doc__, "data", "cache", "seed", "validation")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="with commas")
    args = parser.parse_args()
    record: dict[str, Any] = {"protocol": "offers", "seed": args.seed, "offers": OFFERS, "windows": {}}
    for name in args.protocols.split(","):
        began = time.perf_counter()
        window = window_of(name, args, validation=args.validation)
        figures = measure(window, args)
        about = {"data_hash": window.data_hash, "validation": args.validation}
        record["windows"][name] = about | {"seconds": round(time.perf_counter() - began, 1)} | figures
        say("%s: %s", name, figures)
    finish(record, args.output)


def measure(window: EvaluationWindow, args: argparse.Namespace) -> dict[str, Any]:
    past = window.fit_on
    recommender, _ = advised(past, args)
    purchases, n_items = past.events.of(Action.PURCHASE), past.n_items
    buyer = np.repeat(np.arange(past.n_users), np.diff(purchases.indptr))
    shoppers = np.unique(buyer[purchases.at >= past.as_of - 28 * DAY])
    before = pairs_of(buyer, purchases.item, n_items)
    figures: dict[str, Any] = {"people": len(shoppers), "intents": {}}
    for intent, slice_name in SLICES.items():
        part, whole = window.slice(slice_name), window.slice("ALL")
        judged, buying = fitted_rows(window, part.users), fitted_rows(window, whole.users)
        people = np.union1d(shoppers, judged)
        bought = pairs_of(np.repeat(buying, whole.truth.sizes), whole.truth.item, n_items)
        inputs = recommender.inputs_of(people)
        allowed = np.isin(np.arange(n_items), part.items)
        offered_to, judged_rows = np.searchsorted(people, shoppers), np.searchsorted(people, judged)
        gains: dict[str, NDArray[np.float64]] = {}
        systems: dict[str, dict[str, Any]] = {}
        for order, options in ORDERS.items():
            repeats = intent == "mixed"
            ranked = recommender.ranker.rank(inputs, 20, allowed=allowed, repeats=repeats, **options)
            offers, chances = ranked.item[offered_to, :OFFERS], ranked.probability[offered_to, :OFFERS]
            is_bought, others = judge(offers, shoppers, before, bought, n_items)
            differences = is_bought - others
            judged = np.isfinite(differences)
            total = np.where(judged, differences, 0).sum(axis=1)
            gains[order] = np.where(judged.any(axis=1), total / np.maximum(judged.sum(axis=1), 1), np.nan)
            systems[order] = {
                "bought": float(np.nanmean(is_bought)),
                "said": float(np.nanmean(chances)),
                "others": float(np.nanmean(others)),
                "natural_lift": float(np.nanmean(gains[order])),
                "overlap": overlap(offers, np.random.default_rng(args.seed)),
                "items_offered": len(np.unique(offers[offers >= 0])),
                "ndcg@20": average(ndcg(ranked.item[judged_rows], part.truth, 20)),
            }
        orders = [order for order in ORDERS if order != "probability"]
        gaps = np.stack([gains[order] - gains["probability"] for order in orders], axis=1)
        for order, interval in zip(orders, paired_bootstraps(gaps, seed=args.seed), strict=True):
            systems[order]["natural_lift_gap"] = {"mean": interval.value, "low": interval.low, "high": interval.high}
        figures["intents"][intent] = systems
    figures["own_items"] = own_items(recommender, window, shoppers, before)
    figures["spread"] = spreading(recommender, window, shoppers, before)
    return figures


def own_items(
    recommender: Recommender, window: EvaluationWindow, shoppers: NDArray[np.int64], before: Pairs
) -> dict[str, dict[str, Any]]:
    """What goes with a late purchase, and what people used to buy: one offer for everybody to whom anything fits, by
    chance and by lift; beside it the best offer of any kind for the same people."""
    data, n_items = recommender.dataset, recommender.dataset.n_items
    bought, on_offer = bought_in(window, n_items), np.flatnonzero(allowed_items(data))
    figures: dict[str, dict[str, Any]] = {}
    for intent in (Intent.CROSS_SELL, Intent.WIN_BACK):
        for objective in (Objective.PROBABILITY, Objective.LIFT):
            scores = independent_probabilities(recommender, on_offer, shoppers, intent, objective)
            people = np.flatnonzero(scores.best_item >= 0)
            offers = np.where(scores.best_item >= 0, scores.best_item, -1).astype(np.int32)[:, None]
            is_bought, others = judge(offers, shoppers, before, bought, n_items)
            figures[f"{intent}, {objective}"] = {
                "people": len(people),
                "share_of_people": len(people) / len(shoppers),
                "bought": float(np.nanmean(is_bought)),
                "others": float(np.nanmean(others)),
                "natural_lift": float(np.nanmean(is_bought - others)),
                "items_offered": len(np.unique(offers[people])),
            }
    return figures


def spreading(
    recommender: Recommender, window: EvaluationWindow, shoppers: NDArray[np.int64], before: Pairs
) -> dict[str, dict[str, Any]]:
    """One offer by lift for each, best first, at several spreads: over the whole catalogue, and over the 20 items that
    suit most people, as in a campaign."""
    data, n_items = recommender.dataset, recommender.dataset.n_items
    bought, items = bought_in(window, n_items), np.flatnonzero(allowed_items(data))
    figures: dict[str, dict[str, Any]] = {}
    for name in ("the catalogue", "20 items"):
        scores = independent_probabilities(recommender, items, shoppers, objective=Objective.LIFT)
        assert scores.offers is not None
        order = np.argsort(-scores.score, kind="stable")
        for spread in SPREADS:
            best = spread_offers(scores.offers, order, spread)
            offers = scores.offers
            rows = np.flatnonzero(best >= 0)
            chosen = offers.probability[rows, (offers.item[rows] == best[rows, None]).argmax(axis=1)].mean()
            is_bought, others = judge(best.astype(np.int32)[:, None], shoppers, before, bought, n_items)
            counts = np.bincount(best[best >= 0])
            figures[f"{name}, {spread:g}"] = {
                "items": len(np.unique(best[rows])),
                "largest_share": float(counts.max() / counts.sum()),
                "probability": float(chosen),
                "given_up": float(offers.probability[rows, 0].mean() - chosen),
                "bought": float(np.nanmean(is_bought)),
                "natural_lift": float(np.nanmean(is_bought - others)),
            }
        best = spread_offers(scores.offers, order, OfferSettings().spread)
        items = np.sort(np.argsort(-np.bincount(best[best >= 0], minlength=n_items), kind="stable")[:20])
    return figures


def bought_in(window: EvaluationWindow, n_items: int) -> Pairs:
    """What everybody bought in the window."""
    everybody = window.slice("ALL")
    return pairs_of(
        np.repeat(fitted_rows(window, everybody.users), everybody.truth.sizes), everybody.truth.item, n_items
    )


def fitted_rows(window: EvaluationWindow, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the same people in the past."""
    return users if window.fit_users is None else window.fit_users[users]


def pairs_of(user: NDArray[np.integer], item: NDArray[np.integer], n_items: int) -> Pairs:
    return np.unique(user.astype(np.int64) * n_items + item)


def judge(
    offers: NDArray[np.int32], shoppers: NDArray[np.int64], before: Pairs, bought: Pairs, n_items: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether each offer was bought, and the share of the other shoppers of the same kind who bought the item; NaN
    where there is no offer, or nobody else of the kind."""
    n = len(shoppers)
    of_shoppers = [pairs[np.isin(pairs // n_items, shoppers)] for pairs in (before, bought)]
    had = np.bincount(of_shoppers[0] % n_items, minlength=n_items)
    was_had = np.isin(of_shoppers[1], before)
    buyers = {kind: np.bincount(of_shoppers[1][was_had == kind] % n_items, minlength=n_items) for kind in (True, False)}
    pairs = shoppers[:, None] * n_items + np.maximum(offers, 0)
    is_bought, is_repeat = np.isin(pairs, bought), np.isin(pairs, before)
    item = np.maximum(offers, 0)
    of_kind = np.where(is_repeat, had[item], n - had[item]) - 1
    others_bought = np.where(is_repeat, buyers[True][item], buyers[False][item]) - is_bought
    judged = (offers >= 0) & (of_kind > 0)
    rate = others_bought / np.maximum(of_kind, 1)
    return np.where(offers >= 0, is_bought, np.nan), np.where(judged, rate, np.nan)


def overlap(offers: NDArray[np.int32], rng: np.random.Generator) -> float:
    """Mean share of their offers that two people have in common."""
    first, second = rng.integers(0, len(offers), (2, COMPARED_PAIRS))
    apart = first != second
    a, b = offers[first[apart]], offers[second[apart]]
    return float((a[:, :, None] == b[:, None]).any(axis=2).mean())


if __name__ == "__main__":
    main()
