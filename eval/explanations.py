"""Are the reasons faithful?  python eval/explanations.py -o eval/results/explanations.json

Pairs of the cj-next28 window: a person and an item that they bought after the cut and that the trained model ranks in
their first 20. Comprehensiveness@1 is how far the score falls when the piece of evidence that the explanation names
first is taken out of the person's history, as a share of the range of their 20 scores; beside it the same for a random
piece of evidence, the most recent one, and the one whose text is nearest. What is removed is removed from the history
and the pair is scored again by the serving code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recllm.encoder import load_encoder
from recllm.evaluation import cj_next28, complete_journey, paired_bootstrap
from recllm.evaluation.protocols import Window
from recllm.evaluation.report import commit, hardware, versions
from recllm.explain import Person, Unit, choose, deltas, units_of
from recllm.ranking import rank
from recllm.recommender import Recommender
from recllm.training import TrainingArguments

K = 20


def main() -> None:
    args = parse()
    started = time.perf_counter()
    window = cj_next28(complete_journey().dataset())
    encoder = load_encoder(cache_dir=args.cache)
    recommender = Recommender(window.dataset, encoder).fit(TrainingArguments(seed=args.seed), progress=say)
    rng = np.random.default_rng(args.seed)
    people = held_out(recommender, window, args.pairs, rng)
    rows = [measure(recommender, row, items, scores, rng) for row, items, scores in zip(*people, strict=True)]
    table = {name: np.array([r[name] for r in rows]) for name in rows[0]}
    gap = paired_bootstrap(table["ours"], table["random"], draws=1000, seed=args.seed)
    ratio = float(table["ours"].mean() / max(table["random"].mean(), 1e-9))
    record = {
        "protocol": "cj-next28, reasons of held-out purchases ranked in the first 20",
        "commit": commit(),
        "data_hash": window.data_hash,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "pairs": len(rows),
        "systems": {
            name: {"ALL": {"comprehensiveness@1": round(float(v.mean()), 4), "median": round(float(np.median(v)), 4)}}
            for name, v in {"recllm": table["ours"], **{n: table[n] for n in ("random", "recency", "cosine")}}.items()
        },
        "ratio_to_random": round(ratio, 2),
        "difference_to_random": {k: round(getattr(gap, k), 4) for k in ("mean", "low", "high")},
        "evidence_per_person": round(float(table["units"].mean()), 1),
        "hardware": hardware(),
        "versions": versions(),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


def held_out(recommender: Recommender, window: Window, n: int, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Pairs drawn one per person: rows of people, the item, and the person's first 20 scores."""
    part = window.slice("ALL")
    rows = rng.permutation(part.users)[: 4 * n]
    told = np.zeros((len(rows), recommender.encoder.dim), np.float32)
    model = recommender.model
    assert model is not None
    lists = rank(
        model.scorer,
        recommender.population,
        window.dataset.events.rows(rows),
        window.dataset.as_of,
        K,
        own=rows,
        basics=told,
        settings=model.candidates,
    )
    place = {int(u): i for i, u in enumerate(part.users)}
    picked: tuple[list[int], list[int], list[NDArray[np.float32]]] = ([], [], [])
    for i, row in enumerate(rows):
        bought = part.truth.item[part.truth.indptr[place[int(row)]] : part.truth.indptr[place[int(row)] + 1]]
        hits = np.flatnonzero(np.isin(lists.item[i], bought))
        if len(hits) and len(picked[0]) < n:
            picked[0].append(int(row))
            picked[1].append(int(lists.item[i][rng.choice(hits)]))
            picked[2].append(lists.logit[i])
    return picked


def measure(
    recommender: Recommender, row: int, item: int, scores: NDArray[np.float32], rng: np.random.Generator
) -> dict[str, float]:
    person = Person(recommender.dataset.events.rows(np.array([row])), {})
    units = units_of(person)
    shown = np.array([item])
    score = recommender.score_versions(row)
    tried = choose(units, shown, recommender.item_vectors, recommender.population.facets.type, 8)
    worth = deltas(person, units, shown, tried, score)[:, 0]
    picks = {
        "ours": int(np.nanargmax(worth)),
        "random": int(rng.integers(len(units))),
        "recency": most_recent(person, units),
        "cosine": int(np.argmax(recommender.item_vectors[[u.item for u in units]] @ recommender.item_vectors[item])),
    }
    asked = np.zeros((len(units), 1), bool)
    asked[list(picks.values())] = True
    again = deltas(person, units, shown, asked, score)[:, 0]
    spread = max(float(np.nanmax(scores) - np.nanmin(scores)), 1e-6)
    return {name: float(again[u]) / spread for name, u in picks.items()} | {"units": float(len(units))}


def most_recent(person: Person, units: list[Unit]) -> int:
    last = {int(i): n for n, i in enumerate(person.events.item)}
    return max(range(len(units)), key=lambda u: last.get(units[u].item, -1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recllm")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
