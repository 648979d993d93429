"""Which headline people click, learned from A/B tests:  python eval/effect.py -o eval/results/effect.json

The tests of `upworthy_headlines`: headlines of one test and one picture were shown by lot; packages that share both are
added up. A fifth of the tests, by the hash of their ids, was not looked at while anything was chosen, and judges once.
On the others all is learned, and cross-validated by test: each fold by what did not learn from it.

accuracy  share of pairs with |z| > 1.96 whose winner has the higher score, 95 % bootstrap interval over tests
coverage  share of the counted differences of all pairs inside their interval, widened by the chance of the counting
bandit    Thompson sampling in the tests held out, with the rates that were counted as if they were the true ones and as
          many showings as the test had: clicks over an equal split, as a share of what always showing the best would
          bring over it. The chance in the counted rates makes "the best" look better than it was, for all policies.
          Priors: flat, Beta(1, 1); level, the rate of all headlines of the test so far; effect, this rate moved by the
          expected differences. Strengths are the best on the other tests, expected by what did not see them.

Systems: the longer headline; TF-IDF of words and pairs of words with a logistic regression of differences; the frozen
encoder with a linear score; and what `finetune/effect.py` makes of its recipe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import HERE, file_hash, finish, load_average, say, script_parser
from numpy.typing import NDArray

from recllm.base.schema import Encoder
from recllm.base.settings import Settings, read_settings_file
from recllm.base.stats.probabilities import log_odds, sigmoid
from recllm.learn.models.effect import (
    CARD,
    CLEAR,
    EffectModel,
    PairTable,
    TextPair,
    Values,
    accuracy,
    accuracy_interval,
    load_effect,
)
from recllm.learn.training.arguments import EffectArguments
from recllm.learn.training.lora import effect as effect_training
from recllm.learn.training.lora.effect import VALIDATION, data_hash, fit_score, folds, tune_effect
from recllm.market.experiments.bandit import FLOOR
from recllm.text.encoder.loading import DEFAULT_ENCODER, load_encoder

RECIPE = HERE.parent / "finetune" / "effect.toml"
HELD_OUT = 0.2
"""Share of the tests that is held out."""
DRAWS = 2_000
STRENGTHS = (30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
LEVEL_SHOWINGS = 500
"""The rate of a test so far begins as if it had so many showings at the mean rate of the other tests."""
REPLAYS, ROUND, BELIEFS = 60, 500, 32
"""Replays of a test, showings between two looks at the counts, and draws from what is then believed of the rates."""


def main() -> None:
    parser = script_parser(__doc__, "seed", "data", "cache")
    parser.add_argument("--model", type=Path, help="folder of the model; one that is there already is only judged")
    args = parser.parse_args()
    file = args.data / "upworthy_headlines" / "headlines.parquet"
    arms = read_arms(file)
    pairs = pairs_of(arms)
    learn = [pair for pair in pairs if not is_held_out(pair.test)]
    judge = [pair for pair in pairs if is_held_out(pair.test)]
    settings = EffectArguments.layered(Settings(**read_settings_file(RECIPE)).effect)
    # no limit of minutes: on a machine that is shared they would decide how much is learned
    settings = settings.model_copy(update={"seed": args.seed, "max_minutes": None})
    folder = args.model or args.cache / "effect" / f"{data_hash(learn)}-{args.seed}"
    learned(learn, settings, folder)
    model = load_effect(folder)
    rng = np.random.default_rng(args.seed)
    learned_from, judged = PairTable.of(learn), PairTable.of(judge)
    encoder = load_encoder(DEFAULT_ENCODER, max_tokens=effect_training.MAX_TOKENS, cache_dir=args.cache, progress=False)
    by_system = simple_systems(learned_from, judged, encoder) | {"recllm": expected_by(model, judged)}
    by_system = {name: by_system[name] for name in ("recllm", "frozen", "tfidf", "longer")}
    record = {
        "protocol": "upworthy: pairs of one test and picture with |z| > 1.96; held out: a fifth of the tests by hash, "
        "judged once; cross-validation by test on the others, each fold by what did not learn from it",
        "data": "upworthy_headlines",
        "data_hash": file_hash(file),
        "seed": args.seed,
        "draws": DRAWS,
        "counts": {"learned": counts(learned_from), "held_out": counts(judged)},
        "model": {"card": model.card, "fingerprint": model.fingerprint},
        "systems": {name: {"ALL": told(values, judged, rng)} for name, values in by_system.items()},
        "recllm minus": {
            name: difference(by_system["recllm"], values, judged, rng)
            for name, values in by_system.items()
            if name != "recllm"
        },
        "cross_validation": cross_validation(learn, learned_from, settings, encoder, folder, rng),
        "coverage": coverage(model, judged),
        "milliseconds": milliseconds(folder, [p.a for p in judge]),
        "bandit": bandit(arms, learn, learned_from, model, folder, args.seed),
    }
    finish(record, args.output)


# --- the data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Arms:
    """Headlines that were shown against each other: of one test and one picture."""

    test: str
    headlines: tuple[str, ...]
    shown: NDArray[np.int64]
    clicks: NDArray[np.int64]


def read_arms(file: Path) -> list[Arms]:
    table = pl.read_parquet(file).drop_nulls("eyecatcher_id").with_columns(pl.col("headline").str.strip_chars())
    keys = ["test_id", "eyecatcher_id", "headline"]
    table = table.group_by(keys).agg(pl.sum("impressions", "clicks")).sort(keys)
    groups = []
    for (test, _), rows in table.group_by(keys[:2], maintain_order=True):
        if len(rows) > 1:
            numbers = (rows[name].to_numpy().astype(np.int64) for name in ("impressions", "clicks"))
            groups.append(Arms(str(test), tuple(rows["headline"]), *numbers))
    return groups


def is_held_out(test: str) -> bool:
    return int.from_bytes(sha256(f"effect:{test}".encode()).digest()[:4]) < HELD_OUT * 2**32


def pairs_of(groups: Sequence[Arms]) -> list[TextPair]:
    return [
        TextPair(
            test=arms.test,
            a=arms.headlines[i],
            b=arms.headlines[j],
            wins_a=int(arms.clicks[i]),
            shown_a=int(arms.shown[i]),
            wins_b=int(arms.clicks[j]),
            shown_b=int(arms.shown[j]),
        )
        for arms in groups
        for i, j in combinations(range(len(arms.headlines)), 2)
    ]


def counts(pairs: PairTable) -> dict[str, int]:
    clear = np.abs(pairs.z) > CLEAR
    return {
        "tests": len(set(pairs.test)),
        "pairs": len(pairs),
        "clear_pairs": int(clear.sum()),
        "tests_with_a_clear_pair": len(set(pairs.test[clear])),
        "texts": len(pairs.texts),
    }


# --- the systems -----------------------------------------------------------------------------------------------------


def learned(pairs: Sequence[TextPair], settings: EffectArguments, folder: Path) -> None:
    """Trains where the folder holds no model of these pairs."""
    if (folder / CARD).exists():
        card = json.loads((folder / CARD).read_text("utf-8"))
        if card["data_hash"] != data_hash(pairs):
            raise SystemExit(f"{folder} holds a model of other pairs; name another folder")
    else:
        tune_effect(pairs, DEFAULT_ENCODER, folder, settings, progress=say)


def simple_systems(learn: PairTable, judge: PairTable, encoder: Encoder) -> dict[str, Values]:
    """(n,) score of a less that of b, of each pair that is judged, by what was learned on others."""
    learn = learn.rows(np.abs(learn.z) > effect_training.MIN_Z)
    score = fit_score(encoder.encode(learn.texts).astype(np.float64), learn, effect_training.HEAD_PENALTY)
    frozen = encoder.encode(judge.texts) @ score
    length = np.array([len(text) for text in judge.texts], np.float64)
    by_text = {"frozen": frozen, "tfidf": tfidf(learn, judge.texts), "longer": length}
    return {name: values[judge.a] - values[judge.b] for name, values in by_text.items()}


def tfidf(learn: PairTable, texts: Sequence[str]) -> Values:
    from scipy.sparse import csr_matrix, vstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    words = csr_matrix(vectoriser.fit_transform(learn.texts))
    differences = words[learn.a] - words[learn.b]
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1_000)
    both = np.repeat([1, 0], len(learn))  # a soft label is a pair that counts both ways
    model.fit(vstack([differences, differences]), both, np.concatenate([learn.label, 1 - learn.label]))
    return np.asarray(vectoriser.transform(texts) @ model.coef_[0])


def expected_by(model: EffectModel, pairs: PairTable) -> Values:
    """(n,) expected difference of each pair."""
    scores = model.scores(pairs.texts)
    return np.asarray(scores[pairs.a] - scores[pairs.b])


def cross_validation(
    learn: Sequence[TextPair],
    table: PairTable,
    settings: EffectArguments,
    encoder: Encoder,
    folder: Path,
    rng: np.random.Generator,
) -> dict[str, Any]:
    fold, ours = folds(learn, settings), expected_of(folder)
    simple = {name: np.zeros(len(table)) for name in ("frozen", "tfidf", "longer")}
    for number in range(int(fold.max()) + 1):
        judged = fold == number
        # a table of their own, so that no word of the fold's texts is in the vocabulary
        others = PairTable.of([pair for pair, of_fold in zip(learn, judged, strict=True) if not of_fold])
        for name, values in simple_systems(others, table.rows(judged), encoder).items():
            simple[name][judged] = values
    systems = {"recllm": ours, **simple}
    return {
        "folds": int(fold.max()) + 1,
        **{name: told(values, table, rng) for name, values in systems.items()},
        "recllm minus frozen": difference(ours, simple["frozen"], table, rng),
    }


def expected_of(folder: Path) -> Values:
    from safetensors.numpy import load_file

    return load_file(folder / VALIDATION)["expected"]


def told(predicted: Values, pairs: PairTable, rng: np.random.Generator) -> dict[str, float]:
    low, high = accuracy_interval(predicted, pairs, rng, DRAWS)
    return {"accuracy": accuracy(predicted, pairs), "low": low, "high": high}


def difference(ours: Values, other: Values, pairs: PairTable, rng: np.random.Generator) -> dict[str, float]:
    """Of two accuracies, with the bootstrap interval over the same draws of tests."""
    clear = np.abs(pairs.z) > CLEAR
    _, test = np.unique(pairs.test[clear], return_inverse=True)
    sign = np.sign(pairs.z[clear])
    gained = np.bincount(test, (np.sign(ours[clear]) * sign - np.sign(other[clear]) * sign) / 2)
    n_pairs = np.bincount(test)
    drawn = rng.integers(0, len(n_pairs), (DRAWS, len(n_pairs)))
    low, high = np.percentile(gained[drawn].sum(axis=1) / n_pairs[drawn].sum(axis=1), [2.5, 97.5])
    return {"accuracy": float(gained.sum() / n_pairs.sum()), "low": float(low), "high": float(high)}


def coverage(model: EffectModel, pairs: PairTable) -> dict[str, float]:
    """Of the intervals in the tests held out."""
    inside = model.calibration.within_interval(expected_by(model, pairs), pairs)
    bare = np.abs(pairs.difference) <= 1.96 * np.sqrt(pairs.variance)
    return {
        "pairs": float(inside.mean()),
        "pairs if texts did not differ": float(bare.mean()),
        "half_width_of_a_difference": float(1.96 * np.sqrt(2) * model.calibration.spread),
    }


def milliseconds(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """A text on one core: 200 at once, and one after the other."""
    import torch

    n_threads = torch.get_num_threads()
    model, some = load_effect(folder, threads=1), list(dict.fromkeys(texts))[:200]
    model.scores(some[:2])
    started, cpu = time.perf_counter(), time.process_time()
    model.scores(some)
    together, cpu_together = time.perf_counter() - started, time.process_time() - cpu
    started, cpu = time.perf_counter(), time.process_time()
    for text in some[:50]:
        model.scores([text])
    alone, cpu_alone = time.perf_counter() - started, time.process_time() - cpu
    torch.set_num_threads(n_threads)
    per_text = {"together": (together, cpu_together, len(some)), "alone": (alone, cpu_alone, 50)}
    return {
        **{name: {"wall": 1e3 * wall / n, "processor": 1e3 * cpu / n} for name, (wall, cpu, n) in per_text.items()},
        "load": load_average(),
    }


# --- the bandit ------------------------------------------------------------------------------------------------------


def bandit(
    groups: Sequence[Arms],
    learn: Sequence[TextPair],
    table: PairTable,
    model: EffectModel,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    others = [arms for arms in groups if not is_held_out(arms.test)]
    held_out = [arms for arms in groups if is_held_out(arms.test)]
    rate = float(sum(a.clicks.sum() for a in others) / sum(a.shown.sum() for a in others))
    expected = scores_of_groups(others, expected_of(folder))
    flat = [np.zeros(len(arms.headlines)) for arms in others]
    tried = {
        name: {strength: won_back(others, scores, rate, strength, seed, REPLAYS // 10) for strength in STRENGTHS}
        for name, scores in (("level", flat), ("effect", expected))
    }
    best = {name: max(values, key=lambda s, v=values: float(share(v[s]))) for name, values in tried.items()}  # type: ignore[misc]
    ours = []
    for arms in held_out:
        scores = model.scores(arms.headlines)
        ours.append(scores - scores.mean())
    flat = [np.zeros(len(arms.headlines)) for arms in held_out]
    gains = {
        "flat": won_back(held_out, flat, rate, None, seed, REPLAYS),
        "level": won_back(held_out, flat, rate, best["level"], seed, REPLAYS),
        "effect": won_back(held_out, ours, rate, best["effect"], seed, REPLAYS),
    }
    rng = np.random.default_rng(seed)
    tests = {test: number for number, test in enumerate(dict.fromkeys(arms.test for arms in held_out))}
    of_test = np.array([tests[arms.test] for arms in held_out])
    drawn = rng.integers(0, len(tests), (DRAWS, len(tests)))

    def in_draws(values: Values) -> Values:
        """The share in each draw of tests; values: (2, n) of each group."""
        sums = np.stack([np.bincount(of_test, row) for row in values])
        return np.asarray(sums[0][drawn].sum(axis=1) / sums[1][drawn].sum(axis=1))

    uniform = sum(float((arms.clicks / arms.shown).mean() * arms.shown.sum()) for arms in held_out)

    def figures(values: Values) -> dict[str, float]:
        low, high = np.percentile(in_draws(values), [2.5, 97.5])
        more = float(values[0].sum())
        return {"won_back": share(values), "low": low, "high": high, "clicks": more, "clicks_share": more / uniform}

    def minus(a: str, b: str) -> dict[str, float]:
        low, high = np.percentile(in_draws(gains[a]) - in_draws(gains[b]), [2.5, 97.5])
        return {"won_back": share(gains[a]) - share(gains[b]), "low": low, "high": high}

    return {
        "tests": len(tests),
        "groups": len(held_out),
        "replays": REPLAYS,
        "showings_between_looks": ROUND,
        "draws_of_beliefs": BELIEFS,
        "rate": rate,
        "strength": best,
        "won_back_on_other_tests": {n: {f"{s:g}": share(v) for s, v in values.items()} for n, values in tried.items()},
        "clicks_of_an_equal_split": uniform,
        "policies": {name: figures(values) for name, values in gains.items()},
        "effect minus flat": minus("effect", "flat"),
        "effect minus level": minus("effect", "level"),
    }


def share(values: Values) -> float:
    return float(values[0].sum() / values[1].sum())


def scores_of_groups(groups: Sequence[Arms], expected: Values) -> list[Values]:
    """Expected difference of each headline from the mean of its group, from those of the pairs in their order."""
    scores, start = [], 0
    for arms in groups:
        m = len(arms.headlines)
        of_arm = np.zeros(m)
        for i, j in combinations(range(m), 2):
            of_arm[i] += expected[start] / m
            of_arm[j] -= expected[start] / m
            start += 1
        scores.append(of_arm)
    assert start == len(expected)
    return scores


def won_back(
    groups: Sequence[Arms], scores: Sequence[Values], rate: float, strength: float | None, seed: int, replays: int
) -> Values:
    """(2, n_groups): clicks over an equal split, in the mean of the replays; and those of always showing the best.

    rate: of the other tests. strength: showings that a prior is worth; None for a flat one.
    """
    gains = np.zeros((2, len(groups)))
    for number, (arms, of_arm) in enumerate(zip(groups, scores, strict=True)):
        rng, m = np.random.default_rng([seed, number]), len(arms.headlines)
        true, n_shown = arms.clicks / arms.shown, int(arms.shown.sum())
        clicked, shown, clicks = np.zeros((replays, m)), np.zeros((replays, m)), 0.0
        for start in range(0, n_shown, ROUND):
            size = min(ROUND, n_shown - start)
            alpha = beta = np.ones((replays, m))
            if strength is not None:
                so_far = (rate * LEVEL_SHOWINGS + clicked.sum(axis=1)) / (LEVEL_SHOWINGS + shown.sum(axis=1))
                mean = sigmoid(log_odds(so_far[:, None]) + of_arm)
                alpha, beta = strength * mean, strength * (1 - mean)
            best = rng.beta(alpha + clicked, beta + shown - clicked, (BELIEFS, replays, m)).argmax(axis=2)
            frequency = (best[:, :, None] == np.arange(m)).mean(axis=0)
            now = rng.multinomial(size, FLOOR + (1 - FLOOR * m) * frequency)
            clicked, shown = clicked + rng.binomial(now, true), shown + now
            clicks += float((now * true).sum(axis=1).mean())
        gains[:, number] = clicks - true.mean() * n_shown, (true.max() - true.mean()) * n_shown
    return gains


if __name__ == "__main__":
    main()
