"""Are the reasons faithful?  python eval/explanations.py -o eval/results/explanations.json

Pairs of the cj-next28 window: a person and an item that they bought after the cut and that the trained model ranks in
their first 20, half of them items of the most sold fifth. What is removed is removed from the history, and the pair is
scored, or the whole list ranked, again by the serving code. Shares are of the range of the person's 20 scores.

comprehensiveness@k  how far the score falls without the k heaviest pieces of evidence
sufficiency@3        the share of what the whole history adds to the score that the 3 heaviest pieces add alone
PN-S@5               of the emitted counterfactual sets, those without which the item really leaves the first 5
planted truth        people made up of random purchases and two of one product type are shown an item of that type: how
                     often the heaviest piece is one of the two

The model attends to nothing unless it has a sequence model, which it has not here, so attention is no baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from inputs import finish, say, script_parser, window_of
from numpy.typing import NDArray

from recllm.base.schema import ACTION_CODE, Action
from recllm.base.settings import ScorerTrainingSettings
from recllm.base.stats.intervals import paired_bootstraps
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.recommender.histories import UserHistory
from recllm.recommend.recommender.leave_one_out import Evidence, counterfactual, deltas, lacking, units_of
from recllm.recommend.recommender.ranking import UserInputs
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import Events
from recllm.shop.data.interactions import Pairs
from recllm.text.encoder.loading import load_encoder

K, SHORT = 20, 5
BASELINES = ("random", "recency", "cosine")


@dataclass(frozen=True)
class Case:
    """A person and an item that they bought."""

    row: int
    item: int
    person: UserHistory
    units: list[Evidence]
    deltas: NDArray[np.float32]
    """By how much the score falls without each unit, (n_units,), NaN where not tried."""
    spread: float
    """Range of the person's first scores."""
    orders: dict[str, NDArray[np.int64]]
    """Unit numbers, heaviest first, by method."""


def main() -> None:
    parser = script_parser(__doc__, "cache", "seed")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--ranked", type=int, default=200, help="pairs whose lists are ranked again, which is slow")
    parser.add_argument("--planted", type=int, default=200)
    args = parser.parse_args()
    window = window_of("cj-next28", args, validation=False)
    encoder = load_encoder(cache_dir=args.cache)
    recommender = Recommender(window.dataset, encoder).fit(ScorerTrainingSettings(seed=args.seed))
    rng = np.random.default_rng(args.seed)
    cases = [case(recommender, *pair, rng) for pair in held_out(recommender, window, args.pairs, rng)]
    say("%d pairs", len(cases))
    systems, gaps = comprehensiveness(recommender, cases, args.seed)
    say("comprehensiveness is measured")
    gates = {
        **gaps,
        "PN-S@5": necessity(recommender, cases[: args.ranked]),
        "planted_truth": planted(recommender, args.planted, rng),
    }
    record = {
        "protocol": "cj-next28, reasons of held-out purchases ranked in the first 20",
        "data_hash": window.data_hash,
        "seed": args.seed,
        "pairs": len(cases),
        "ranked_again": min(args.ranked, len(cases)),
        "systems": systems,
        "gates": gates,
        "evidence_per_person": round(float(np.mean([len(c.units) for c in cases])), 1),
    }
    finish(record, args.output)


def held_out(
    recommender: Recommender, window: EvaluationWindow, n: int, rng: np.random.Generator
) -> list[tuple[int, int, NDArray[np.float32]]]:
    """Row of the person, the item, and the person's first 20 scores; one pair a person, half of them popular items."""
    part = window.slice("ALL")
    rows = rng.permutation(part.users)
    basics = np.zeros((len(rows), recommender.encoder.dim), np.float32)
    events = window.dataset.events.rows(rows)
    lists = recommender.ranker.rank(UserInputs(events, window.dataset.as_of, rows, basics), K)
    position = {int(u): i for i, u in enumerate(part.users)}
    sold = recommender.population.stats.buyers_ever
    popular = sold >= np.quantile(sold[sold > 0], 0.8)
    picked: dict[bool, list[tuple[int, int, NDArray[np.float32]]]] = {True: [], False: []}
    for i, row in enumerate(rows):
        at = position[int(row)]
        bought = part.truth.item[part.truth.indptr[at] : part.truth.indptr[at + 1]]
        hits = lists.item[i][np.isin(lists.item[i], bought)]
        scarce = len(picked[True]) <= len(picked[False])  # popular items where fewer of them were picked so far
        of_kind = hits[popular[hits] == scarce] if len(hits) else hits
        if len(of_kind) and len(picked[scarce]) < n // 2 + n % 2:
            picked[scarce].append((int(row), int(rng.choice(of_kind)), lists.logit[i]))
        elif len(hits):
            kind = bool(popular[hits[0]])
            if len(picked[kind]) < n // 2:
                picked[kind].append((int(row), int(hits[0]), lists.logit[i]))
    both = picked[True] + picked[False]
    return [both[int(n)] for n in rng.permutation(len(both))]


def case(recommender: Recommender, row: int, item: int, scores: NDArray[np.float32], rng: np.random.Generator) -> Case:
    person, vectors = recommender.person(recommender.dataset.users["user_id"][row]), recommender.item_vectors
    units, by_item = recommender.explainer().evidence(person, np.array([item]))
    value = by_item[:, 0]
    cosine = np.array([float(vectors[unit.item] @ vectors[item]) if unit.item >= 0 else -1.0 for unit in units])
    last = {int(i): n for n, i in enumerate(person.events.item)}
    recent = np.array([last.get(unit.item, -1) for unit in units])
    tie = rng.random(len(units))
    orders = {
        "recllm": np.lexsort((tie, -np.nan_to_num(value, nan=0.0))),
        "random": rng.permutation(len(units)),
        "recency": np.lexsort((tie, -recent)),
        "cosine": np.lexsort((tie, -cosine)),
    }
    return Case(row, item, person, units, value, max(float(np.nanmax(scores) - np.nanmin(scores)), 1e-6), orders)


def scored(recommender: Recommender, case: Case, sets: Sequence[Sequence[Evidence]]) -> NDArray[np.float32]:
    """The item's score without each set of units."""
    ones = Pairs(np.arange(len(sets) + 1), np.full(len(sets), case.item, np.int32))
    return recommender.explainer().logits(lacking(case.person, sets), ones)


def comprehensiveness(
    recommender: Recommender, cases: Sequence[Case], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of each method, and what the gates ask of ours."""
    falls: dict[str, list[list[float]]] = {name: [] for name in ("recllm", *BASELINES)}
    for case in cases:
        sets: list[list[Evidence]] = [[], case.units]
        for order in case.orders.values():
            top = [case.units[int(n)] for n in order[:3]]
            heaviest_3 = {int(n) for n in order[:3]}
            sets += [top[:1], top, [u for n, u in enumerate(case.units) if n not in heaviest_3]]
        score = scored(recommender, case, sets)
        full, none = score[0], score[1]
        for number, name in enumerate(case.orders):
            without1, without3, only3 = score[2 + 3 * number : 5 + 3 * number]
            gained = (only3 - none) / (full - none) if abs(full - none) > 0.05 * case.spread else np.nan
            falls[name].append([(full - without1) / case.spread, (full - without3) / case.spread, float(gained)])
    table = {name: np.array(rows) for name, rows in falls.items()}
    systems = {
        name: {
            "ALL": {
                "comprehensiveness@1": round(float(rows[:, 0].mean()), 4),
                "comprehensiveness@3": round(float(rows[:, 1].mean()), 4),
                "sufficiency@3": round(float(np.nanmedian(rows[:, 2])), 4),
            }
        }
        for name, rows in table.items()
    }
    gates: dict[str, Any] = {"sufficiency@3": systems["recllm"]["ALL"]["sufficiency@3"]}
    for column, name in enumerate(("comprehensiveness@1", "comprehensiveness@3")):
        ours = table["recllm"][:, column]
        for baseline in BASELINES:
            (gap,) = paired_bootstraps((ours - table[baseline][:, column])[:, None], draws=1000, seed=seed)
            gates[f"{name} over {baseline}"] = {key: round(end, 4) for key, end in asdict(gap).items()}
    return systems, gates


def necessity(recommender: Recommender, cases: Sequence[Case]) -> dict[str, Any]:
    """Counterfactual sets for the first 5, each ranked once more by the serving code without these events."""
    emitted, true, sizes, n_ranked = 0, 0, [], 0
    for case in cases:
        ranks = recommender.explainer().positions(case.item, SHORT)
        if int(ranks(lacking(case.person, [()]))[0]) > SHORT:
            continue
        n_ranked += 1
        removed = counterfactual(case.person, case.units, case.deltas, ranks, k=SHORT)
        if removed is not None:
            emitted += 1
            sizes.append(len(removed.units))
            true += not shown_without(recommender, case, removed.units)
    return {
        "asked": n_ranked,
        "emitted": emitted,
        "share": round(true / max(emitted, 1), 4),
        "mean_size": round(float(np.mean(sizes)), 2) if sizes else None,
    }


def shown_without(recommender: Recommender, case: Case, units: Sequence[Evidence]) -> bool:
    """Whether the served ranking still puts the item among the first 5 names without these units."""
    from recllm.text.items import item_names

    listed = recommender.explainer().ranked(lacking(case.person, [units]), SHORT + 100).item[0]
    listed = listed[listed >= 0]
    names = item_names(recommender.dataset.items[listed.tolist()], recommender.locale)
    first = list(dict.fromkeys(names))[:SHORT]
    name = item_names(recommender.dataset.items[[case.item]], recommender.locale)[0]
    return name in first and case.item in listed[: names.index(first[-1]) + 1]


def planted(recommender: Recommender, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Made-up people: 20 purchases of other departments, and two of one product type among them."""
    facets = recommender.population.facets
    sold = recommender.population.stats.buyers_ever > 5
    sizes = np.bincount(facets.type[sold & (facets.type >= 0)], minlength=facets.type.max() + 1)
    hits = 0
    for kind in rng.choice(np.flatnonzero(sizes >= 3), n):
        two = rng.choice(np.flatnonzero(sold & (facets.type == kind)), 3, replace=False)
        elsewhere = np.flatnonzero(sold & (facets.department != facets.department[two[0]]))
        others = rng.choice(elsewhere, 20, replace=False)
        items = rng.permutation(np.concatenate([two[1:], others])).astype(np.int32)
        at = np.sort(recommender.dataset.as_of - rng.integers(1, 90, len(items)) * 86_400)
        bought, ones = np.full(len(items), ACTION_CODE[Action.PURCHASE], np.uint8), np.ones(len(items), np.float32)
        baskets = np.arange(len(items), dtype=np.int32)
        person = UserHistory(Events(np.array([0, len(items)]), items, at, bought, ones, ones, baskets), {})
        units = units_of(person, recommender.dataset.items["item_id"])
        tried = np.ones((len(units), 1), bool)
        values = deltas(person, units, two[:1], tried, recommender.explainer().logits)[:, 0]
        hits += units[int(np.argmax(values))].item in two[1:]
    return {"people": n, "share": round(hits / n, 4)}


if __name__ == "__main__":
    main()
