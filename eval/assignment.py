"""Campaigns that compete for the same people:  python eval/assignment.py -o eval/results/assignment.json

Simulated with a seed: people differ in how much they buy and in taste, campaigns in appeal, value, cost, budget and
cap. Told are the seconds, the gap to the bound of the whole linear program (no pair left out), and what two simpler
rules gain: the best pair first, and each campaign in turn taking its best people.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from inputs import finish, script_parser

from recllm.market.audiences.assignment import assign, solved, worthwhile
from recllm.market.audiences.request import AudienceLimits


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--campaigns", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5, help="so many simulations, from seed 0")
    args = parser.parse_args()
    runs = [run(args.people, args.campaigns, contacts, seed) for contacts in (1, 3) for seed in range(args.seeds)]
    record = {
        "protocol": f"assignment-simulated-{args.people}x{args.campaigns}",
        "note": "simulated with a seed; no real people",
        "people": args.people,
        "campaigns": args.campaigns,
        "most_seconds": max(r["seconds"] for r in runs),
        "largest_gap": max(r["gap"] for r in runs),
        "runs": runs,
    }
    finish(record, args.output)


def world(n: int, m: int, seed: int) -> tuple[np.ndarray, list[AudienceLimits]]:
    rng = np.random.default_rng(seed)
    taste, theme = rng.normal(size=(n, 6)), rng.normal(size=(m, 6))
    logit = rng.normal(-4, 1, n)[:, None] + rng.normal(0, 0.7, m) + taste @ theme.T / 2
    campaigns = [
        AudienceLimits(
            margin=float(rng.lognormal(2.5, 0.6)),
            cost=float(rng.uniform(0.02, 0.3)),
            budget=float(rng.lognormal(np.log(0.1 * n / m), 0.7)),
            size=int(rng.integers(n // m // 4, 4 * n // m)),
        )
        for _ in range(m)
    ]
    return 1 / (1 + np.exp(-logit)), campaigns


def run(n: int, m: int, contacts: int, seed: int) -> dict[str, Any]:
    probability, campaigns = world(n, m, seed)
    began = time.perf_counter()
    gain = probability * np.array([c.margin for c in campaigns])
    limit = np.array([c.reachable(n) for c in campaigns])
    person, campaign = assign(gain, limit, contacts)
    seconds = time.perf_counter() - began
    broken = (np.bincount(campaign, minlength=m) > limit).any() or (np.bincount(person, minlength=n) > contacts).any()
    total, bound = float(gain[person, campaign].sum()), upper_bound(gain, limit, contacts)
    started = time.perf_counter()
    order = np.argsort(-gain, axis=None, kind="stable")
    best_first = greedy(((int(at) // m, int(at) % m) for at in order), gain, limit, contacts)
    greedy_seconds = time.perf_counter() - started
    turns = ((int(u), c) for c in range(m) for u in np.argsort(-gain[:, c], kind="stable"))
    return {
        "seed": seed,
        "contacts": contacts,
        "seconds": seconds,
        "gain": total,
        "bound": bound,
        "gap": 1 - total / bound,
        "limits_kept": not broken,
        "addressed": len(person),
        "limits_in_all": int(limit.sum()),
        "best_pair_first": {"of_bound": best_first / bound, "seconds": greedy_seconds},
        "campaign_by_campaign": {"of_bound": greedy(turns, gain, limit, contacts) / bound},
    }


def upper_bound(gain: np.ndarray, limit: np.ndarray, contacts: int) -> float:
    """What no assignment exceeds: the value of the dual program, at the prices of ours."""
    columns, _ = worthwhile(gain, limit, contacts)
    _, prices = solved(gain, columns, limit, contacts) or (None, np.zeros(len(limit)))
    best = -np.sort(-(gain - prices), axis=1)[:, :contacts]
    return float(prices @ limit + np.maximum(best, 0).sum())


def greedy(pairs: Iterable[tuple[int, int]], gain: np.ndarray, limit: np.ndarray, contacts: int) -> float:
    free, left, total = [contacts] * len(gain), limit.tolist(), 0.0
    for u, c in pairs:
        if free[u] and left[c]:
            free[u], left[c], total = free[u] - 1, left[c] - 1, total + gain[u, c]
    return float(total)


if __name__ == "__main__":
    main()
