"""Which of several texts people answer more often, learned from A/B tests.

    model = load_effect("effect")                                   # what finetune/effect.py wrote
    ranked = rank_texts(model, ["Soft buns for Sunday.", "Buns."])  # RankedText of each, in the order given

Two scores are learned, each as a Bradley-Terry strength: P(a has the higher rate) = sigma(score_a - score_b). One is
w . e, where e is the text's unit vector by an encoder whose adapter was trained with the score; the other is v . f,
where f are the text's words and pairs of words, hashed. The tests that a model did not learn from say what differences
of these scores are worth, in log odds of an answer (a click):

    log odds_a - log odds_b = slope w . (e_a - e_b) + word_slope v . (f_a - f_b) + u_a - u_b,    u ~ N(0, spread^2)

Both slopes and the spread are the maximum of the likelihood of what these tests counted, whose own chance is known.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import json_value
from recllm.base.errors import DataError, ModelError
from recllm.base.schema import Encoder
from recllm.base.stats.intervals import bootstrap, normal_quantile
from recllm.text.encoder.batches import distinct
from recllm.text.word_index import terms_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

Values = NDArray[np.float64]
Rows = NDArray[np.int64]

CARD, HEAD, ADAPTER = "card.json", "head.safetensors", "adapter"
"""The two files of a model, and the folder of its adapter."""

WIDTH = normal_quantile()
"""Standard deviations from the middle of an interval to its end."""

CLEAR = 1.96
"""A pair whose rates differ by more standard errors has a clear winner."""

SEPARATOR = " | "
"""Between a text and what stands before it."""

WORD_COLUMNS = 1 << 15
"""Columns that words and pairs of words are hashed to."""

WORD_FORMS = 2
"""Version of `terms_of`: columns of another version stand for other words."""

CONTINUITY = 0.5
"""Added to answers and to showings without one, so that the log odds of no answer at all are a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPair:
    """Two texts that were shown at random in one test, and their answers."""

    test: str
    a: str
    b: str
    wins_a: int
    """Showings of `a` with an answer, such as a click."""
    shown_a: int
    wins_b: int
    shown_b: int
    reason: str | None = None
    """What the texts were shown for, and where: context that both share."""
    channel: str | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        """Raises `DataError` for counts that cannot be, and for a text against itself."""
        for side, wins, showings in (("a", self.wins_a, self.shown_a), ("b", self.wins_b, self.shown_b)):
            if not 0 <= wins <= showings or showings == 0:
                raise DataError(
                    f"wins_{side} is {wins} and shown_{side} {showings}; give showings above 0, and wins from 0 to them"
                )
        if self.a.strip() == self.b.strip():
            raise DataError("a and b are the same text; a pair needs two that differ")


@dataclass(frozen=True, eq=False, kw_only=True)
class PairTable:
    """Pairs as arrays: n pairs over distinct texts."""

    texts: tuple[str, ...]
    """With their context."""
    test: Rows
    """(n,) number of each pair's test."""
    a: Rows
    """(n,) row among `texts`."""
    b: Rows
    difference: Values
    """(n,) log odds of an answer to `a` less those to `b`, as counted."""
    variance: Values
    """(n,) of the counting."""

    @classmethod
    def of(cls, pairs: Sequence[TextPair]) -> PairTable:
        texts, row = distinct([in_context(text, p.reason, p.channel) for p in pairs for text in (p.a, p.b)])
        _, test = distinct([p.test for p in pairs])
        counts = np.array([(p.wins_a, p.shown_a, p.wins_b, p.shown_b) for p in pairs], np.float64).reshape(-1, 4)
        answers = counts[:, [0, 2]] + CONTINUITY
        others = counts[:, [1, 3]] - counts[:, [0, 2]] + CONTINUITY
        log_odds = np.log(answers / others)
        return cls(
            texts=tuple(texts),
            test=test,
            a=row[0::2],
            b=row[1::2],
            difference=log_odds[:, 0] - log_odds[:, 1],
            variance=(1 / answers + 1 / others).sum(axis=1),
        )

    def __len__(self) -> int:
        return len(self.a)

    def rows(self, pair_rows: NDArray[Any]) -> PairTable:
        """Some of the pairs, over the same texts and tests."""
        columns = {name: getattr(self, name)[pair_rows] for name in ("test", "a", "b", "difference", "variance")}
        return PairTable(texts=self.texts, **columns)

    @property
    def z(self) -> Values:
        """(n,) the difference in standard errors."""
        return np.asarray(self.difference / np.sqrt(self.variance))

    @property
    def label(self) -> Values:
        """(n,) how probable it is, by the counts alone, that `a` has the higher rate, in (0, 1)."""
        from scipy.special import ndtr

        return np.asarray(ndtr(self.z))


def word_features(texts: Sequence[str]) -> csr_matrix:
    """(n, `WORD_COLUMNS`) sparse unit rows: a text's words and pairs of neighbouring words, hashed to columns; a word
    that stands in a context also as the word of this context, which may work in one channel and not in another."""
    from scipy.sparse import csr_matrix

    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, text in enumerate(texts):
        context, _, words = text.rpartition(SEPARATOR)
        terms = terms_of(words)
        in_its_context = [SEPARATOR.join((context, term)) for term in terms] if context else []
        counts = Counter(map(_column, [*terms, *map(" ".join, pairwise(terms)), *in_its_context]))
        norm = math.sqrt(sum(n * n for n in counts.values()))
        rows += [row] * len(counts)
        columns += counts.keys()
        values += [n / norm for n in counts.values()]
    return csr_matrix((values, (rows, columns)), shape=(len(texts), WORD_COLUMNS))


@lru_cache(maxsize=1 << 16)
def _column(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest()) % WORD_COLUMNS


def in_context(text: str, reason: str | None = None, channel: str | None = None) -> str:
    """A text as the encoder reads it: behind its channel and its reason, where they are known."""
    return SEPARATOR.join((*(piece.strip() for piece in (channel, reason) if piece and piece.strip()), text.strip()))


def fold_of_test(test: str, n_folds: int, seed: int = 0) -> int:
    """The fold of a test, from its name alone: all its pairs are in one."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{test}".encode()).digest()[:8]) % n_folds


def accuracy(predicted: Values, pairs: PairTable) -> float:
    """Share of the clear pairs whose winner has the higher score; a tie is half right. NaN without such a pair.

    predicted: (n,) score of `a` less that of `b`. A pair is clear where |z| is above `CLEAR`.
    """
    clear = np.abs(pairs.z) > CLEAR
    return float(_right(predicted[clear], pairs.z[clear]).mean()) if clear.any() else math.nan


def accuracy_interval(
    predicted: Values, pairs: PairTable, rng: np.random.Generator, draws: int = 2_000
) -> tuple[float, float]:
    """Ends of the 95 % bootstrap interval of `accuracy` over tests; NaN without a clear pair."""
    clear = np.abs(pairs.z) > CLEAR
    if not clear.any():
        return math.nan, math.nan
    _, test = np.unique(pairs.test[clear], return_inverse=True)
    n_right = np.bincount(test, _right(predicted[clear], pairs.z[clear]))
    n_pairs = np.bincount(test)
    interval = bootstrap(lambda tests: n_right[tests].sum() / n_pairs[tests].sum(), len(n_pairs), draws=draws, seed=rng)
    return interval.low, interval.high


def _right(predicted: Values, z: Values) -> Values:
    return np.asarray((np.sign(predicted) * np.sign(z) + 1) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a difference of scores is worth; see the module."""

    slope: float
    """Log odds for one unit of the encoder's score, at least 0."""
    word_slope: float
    """The same of the words' score."""
    spread: float
    """Standard deviation of what a text's own effect has beyond its score, in log odds."""

    @classmethod
    def of(cls, predicted: Values, pairs: PairTable) -> Calibration:
        """By maximum likelihood from pairs that the scores were not learned from.

        predicted: (n, 2) difference of each pair's scores, the encoder's and the words'. Pairs of a test share texts,
        so each test counts as often as it has texts, however many pairs they make.
        """
        from scipy.optimize import minimize

        _, of_test, n_pairs = np.unique(pairs.test, return_inverse=True, return_counts=True)
        n_texts = (1 + np.sqrt(1 + 8 * n_pairs)) / 2  # of a test that has every pair
        weight = (n_texts - 1)[of_test] / n_pairs[of_test]

        def loss(theta: Values) -> float:
            variance = pairs.variance + 2 * np.exp(2 * theta[2])
            error = pairs.difference - predicted @ theta[:2]
            return float((weight * (np.log(variance) + error**2 / variance)).sum() / weight.sum())

        bounds = [(0.0, None), (0.0, None), (-7.0, 2.0)]
        starts = [(slope, slope, math.log(spread)) for slope in (0.0, 0.3) for spread in (0.05, 0.3)]
        best = min((minimize(loss, start, bounds=bounds) for start in starts), key=lambda result: float(result.fun))
        return cls(slope=float(best.x[0]), word_slope=float(best.x[1]), spread=float(np.exp(best.x[2])))

    def expected(self, predicted: Values) -> Values:
        """(n,) log odds of scores, or of their differences, (n, 2)."""
        return np.asarray(predicted @ np.array([self.slope, self.word_slope]))

    def within_interval(self, expected: Values, pairs: PairTable) -> NDArray[np.bool_]:
        """(n,) whether a pair's counted difference lies in the interval of its expected one, which is widened by the
        chance of the counting: in 95 % of the cases where the interval is honest. expected: (n,)."""
        reach = WIDTH * np.sqrt(pairs.variance + 2 * self.spread**2)
        return np.asarray(np.abs(pairs.difference - expected) <= reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedText:
    """A text among those of its group."""

    score: float
    """Expected log odds of an answer less their mean over the group's texts; higher is better. 0.1 is about a tenth
    more answers, where few people answer."""
    rank: int
    """From 1. Texts of one score share a rank, and the next one counts them all."""
    low: float
    """Ends of the interval that holds the text's true difference from the mean of its group in 95 % of cases."""
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectModel:
    """A learned score of texts."""

    encoder: Encoder
    """With the adapter merged."""
    weight: Values
    """(dim,) w of the score."""
    word_weight: Values
    """(`WORD_COLUMNS`,) v of the words' score."""
    calibration: Calibration
    card: Mapping[str, Any]
    """What the model was learned from, and how well it does."""
    fingerprint: str
    """Hash over the score's and the adapter's files."""

    @property
    def name(self) -> str:
        return f"effect-{self.fingerprint[:12]}"

    def scores(self, texts: Sequence[str]) -> Values:
        """Of texts with their context, (n,) in log odds."""
        vectors = self.encoder.encode(texts).astype(np.float64)
        both = vectors @ self.weight, word_features(texts) @ self.word_weight
        return self.calibration.expected(np.stack(both, axis=1))

    def order(self, texts: Sequence[str], reason: str | None = None, channel: str | None = None) -> list[int]:
        """Positions of the texts, best first; equal ones as they came."""
        scores = self.scores([in_context(text, reason, channel) for text in texts])
        return [int(position) for position in np.argsort(-scores, kind="stable")]


def rank_texts(model: EffectModel, texts: Sequence[str], groups: Sequence[str] | None = None) -> list[RankedText]:
    """Each text among those of its group, in the order given; without groups all are one.

    texts: with their context (`in_context`). A text that stands twice in a group counts once in the group's mean, and
    both have the same score and rank; a text alone in its group differs from nothing: 0, from 0 to 0.

    The interval is of the true difference of log odds, and not of what a test with few showings would count. It covers
    what texts like those of the tests have beyond their score. It does not cover texts unlike those of the tests
    (another language, another kind of product), and no drift of what people answer.
    """
    if not texts:
        return []
    scores = model.scores(texts)
    _, group_of = distinct(list(groups) if groups is not None else [""] * len(texts))
    ranked: dict[int, RankedText] = {}
    for group in range(int(group_of.max()) + 1):
        members = np.flatnonzero(group_of == group)
        once = list({texts[int(i)]: int(i) for i in members}.values())
        half = WIDTH * model.calibration.spread * math.sqrt(1 - 1 / len(once))
        order = np.sort(-scores[members])
        for i in members:
            score = float(scores[i] - scores[once].mean())
            rank = 1 + int(np.searchsorted(order, -scores[i]))
            ranked[int(i)] = RankedText(score=score, rank=rank, low=score - half, high=score + half)
    return [ranked[i] for i in range(len(texts))]


def load_effect(folder: str | Path, *, cache_dir: Path | None = None, threads: int | None = None) -> EffectModel:
    """A model as `recllm.learn.training.lora.effect.tune_effect` wrote it; its weights are opened at the first text.

    Raises `ModelError` for a folder that holds none, that is damaged, or whose encoder is not here.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from recllm.text.encoder.adapters import adapter_hash
    from recllm.text.encoder.loading import load_encoder

    folder = Path(folder)
    try:
        card = json_value((folder / CARD).read_text(encoding="utf-8"))
        head = (folder / HEAD).read_bytes()
        weight, word_weight = (load(head)[name].astype(np.float64) for name in ("weight", "word_weight"))
        names = [field.name for field in fields(Calibration)]
        calibration = Calibration(**{name: float(card["calibration"][name]) for name in names})
        name, max_tokens = str(card["encoder"]), int(card["settings"]["max_tokens"])
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no effect model ({Path(str(error.filename)).name} is missing); learn one from your tests: "
            "python finetune/effect.py finetune/effect.toml --pairs FILE.jsonl --out DIR"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(f"{folder}: no effect model that recllm wrote ({type(error).__name__}: {error})") from error
    if card.get("word_forms") != WORD_FORMS:
        logger.warning("%s: the effect model counts some plurals as other words; learn it again", folder)
    if not all(np.isfinite(a).all() for a in (weight, word_weight, astuple(calibration))):
        raise ModelError(f"{folder}: its score is not finite; learn it again")
    fingerprint = hashlib.sha256(head + adapter_hash(folder / ADAPTER).encode()).hexdigest()
    encoder = load_encoder(
        name,
        adapter=folder / ADAPTER,
        max_tokens=max_tokens,
        cache_dir=cache_dir,
        threads=threads,
        progress=False,
    )
    if (weight.shape, word_weight.shape) != ((encoder.dim,), (WORD_COLUMNS,)):
        raise ModelError(f"{folder}: its score has the shape {weight.shape}, the encoder's vectors have {encoder.dim}")
    return EffectModel(
        encoder=encoder,
        weight=weight,
        word_weight=word_weight,
        calibration=calibration,
        card=card,
        fingerprint=fingerprint,
    )
