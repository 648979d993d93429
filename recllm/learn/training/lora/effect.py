"""From A/B tests of texts to a model of which text people answer: LoRA under a Bradley-Terry loss with soft labels.

    tuned = tune_effect(pairs, "sentence-transformers/all-MiniLM-L6-v2", "effect", EffectSettings())
    model = load_effect(tuned.folder)

A pair's label is the probability, by its counts alone, that the first text has the higher rate. A step takes whole
tests and encodes each of their texts once, however many pairs it is in.

Cross-fitting: the tests are dealt to folds, and each of `members` models learns without one fold, which judges it.
These judgements give the accuracy and what a difference of scores is worth. The members start from one state, so the
mean of their weights is a model as well (Wortsman et al. 2022, "model soups"); it is the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from recllm.base.documents import json_text, plain
from recllm.base.errors import DataError, ModelError
from recllm.base.files import write_whole
from recllm.base.settings import EffectSettings
from recllm.base.stats.intervals import LEVEL
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.effect import (
    ADAPTER,
    CARD,
    CLEAR,
    HEAD,
    WORD_FORMS,
    Calibration,
    PairTable,
    Rows,
    TextPair,
    Values,
    accuracy,
    accuracy_interval,
    fold_of_test,
    word_features,
)
from recllm.learn.training.arguments import EffectArguments
from recllm.learn.training.lora.tower import Tower
from recllm.learn.training.lora.tune import trainable, usable_device
from recllm.text.encoder.adapters import save_adapter
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import load_encoder

MAX_TOKENS = 40  # of a text, its context included; it is cut there
MIN_TESTS = 40  # below which a run is refused
MIN_Z = 0.3  # pairs of a smaller difference, in standard errors, show hardly anything
HEAD_PENALTY = 3.0  # ridge of the linear score of vectors, in pairs
WORD_PENALTY = 0.5  # the same of the score of words
WEIGHT_DECAY = 0.01
WARMUP_SHARE = 0.1  # of the steps, in which the learning rate rises
MAX_GRAD_NORM = 1.0  # longer gradients are shortened to it

Progress = Callable[[str], None]
State = dict[str, Tensor]

VALIDATION = "validation.safetensors"
"""`expected`, (n_pairs,): the difference in log odds that was expected of each pair by what did not see its test."""
HEAD_KEY, WORDS_KEY, SCORES_KEY = "head", "words", "scores"
"""Of the two linear scores among a member's tensors, and of what they make of each text, (n_texts, 2)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TunedEffect:
    folder: Path
    accuracy: float
    """Of clear pairs (|z| > 1.96), each judged by the member that did not see its test."""
    low: float
    """Ends of the 95 % bootstrap interval over tests."""
    high: float
    calibration: Calibration
    coverage: float
    """Share of counted differences inside their interval, by a calibration on the other folds."""
    n_tests: int
    n_pairs: int
    seconds: float


def tune_effect(
    pairs: Sequence[TextPair],
    encoder: str | Path,
    destination: str | Path,
    args: EffectSettings | None = None,
    *,
    progress: Progress | None = None,
) -> TunedEffect:
    """Learns a model from pairs and writes it to the folder `destination`: adapter, score and card.

    Raises `DataError` for too few tests, a test in two folds, or a loss that is not finite; `ModelError` for an encoder
    that takes no adapter, or a folder that cannot be written.
    """
    args, destination, tell = EffectArguments.layered(args), Path(destination), progress or logger.info
    started = time.monotonic()
    table, fold = PairTable.of(pairs), folds(pairs, args)
    base = trainable(load_encoder(encoder, progress=False))
    run = EffectRun(base, table, args, tell)
    members, n_members = list[State](), int(fold.max()) + 1
    tell(f"{len(table):,} pairs of {len(set(table.test)):,} tests, {len(table.texts):,} texts, {n_members} folds")
    for number in range(n_members):
        spent = time.monotonic() - started
        seconds = math.inf if args.max_minutes is None else 60 * args.max_minutes - spent
        members.append(run.member(table.rows(fold != number), number, seconds / (n_members - number)))
        judged = table.rows(fold == number)
        by_encoder, by_words = (accuracy(side, judged) for side in predicted_of(members[-1], judged).T)
        right = f"{by_encoder:.1%} by the encoder, {by_words:.1%} by words"
        tell(f"member {number + 1} of {n_members}: of the clear pairs of its fold {right} are right")
    about = {
        "encoder": str(Path(encoder).resolve() if Path(encoder).is_dir() else encoder),
        "data_hash": data_hash(pairs),
        "base_hash": base.base_hash,
        "word_forms": WORD_FORMS,
        "settings": plain(args.model_copy(update={"max_minutes": None, "device": None})) | {"max_tokens": MAX_TOKENS},
    }
    return _finish(run, members, fold, about, destination, started)


def folds(pairs: Sequence[TextPair], args: EffectArguments) -> Rows:
    """(n,) the fold of each pair, from 0 without a gap: as given, else by the hash of its test.

    Raises `DataError` for folds given to some of the pairs only, a test in two folds, or too few tests.
    """
    table = PairTable.of(pairs)
    n_tests = len(np.unique(table.test[np.abs(table.z) > MIN_Z]))
    if n_tests < MIN_TESTS:
        raise DataError(
            f"{n_tests} tests have a pair that says which text did better, and a model needs {MIN_TESTS} "
            "; give more tests"
        )
    fold_by_test: dict[str, int] = {}
    for pair in pairs:
        if (pair.fold is None) != (pairs[0].fold is None):
            raise DataError("some pairs have a fold and some have none; give one to all, or to none")
        if pair.fold is not None and fold_by_test.setdefault(pair.test, pair.fold) != pair.fold:
            raise DataError(
                f"pairs of the test {pair.test!r} stand in the folds {fold_by_test[pair.test]} and {pair.fold}"
            )
    fold = [fold_by_test.get(p.test, fold_of_test(p.test, args.members, args.seed)) for p in pairs]
    numbers, of_pair = np.unique(fold, return_inverse=True)
    if len(numbers) < 2:
        raise DataError(
            "all pairs are in one fold; give at least two, so that each model is judged by tests it never saw"
        )
    return of_pair.astype(np.int64)


def data_hash(pairs: Sequence[TextPair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(asdict(pair), sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


class EffectRun:
    """The encoder with an adapter, on the texts of one set of pairs; a member is trained from the same state."""

    def __init__(self, base: HuggingFaceEncoder, table: PairTable, args: EffectArguments, tell: Progress) -> None:
        self.args, self.tell, self.table = args, tell, table
        self.encoder = HuggingFaceEncoder(
            base.weights,
            max_length=MAX_TOKENS,
            prompts=base.prompts,
            device=usable_device(args.device),
            progress=False,
        )
        self.tower = Tower(self.encoder, table.texts, rank=args.rank, top_layers=None, seed=args.seed)
        self.dropouts = [module for module in self.tower.model.modules() if isinstance(module, nn.Dropout)]
        self.first_state = self.tower.state()
        self.frozen = self.vectors()
        """Unit rows of the untuned encoder, (n_texts, dim)."""
        self.words = word_features(table.texts)

    def vectors(self) -> Values:
        """Unit rows of all texts by the present weights, (n_texts, dim)."""
        return self.encoder.encode(self.table.texts).astype(np.float64)

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.tower.model, {n: t for n, t in state.items() if n in self.first_state})

    def member(self, pairs: PairTable, number: int, seconds: float) -> State:
        """Adapter and scores, learned from `pairs` within about `seconds`, and what they make of all texts."""
        args, began = self.args, time.process_time()
        pairs = pairs.rows(np.abs(pairs.z) > MIN_Z)
        first = fit_score(self.frozen, pairs, HEAD_PENALTY)  # the encoder need not bend to make up for a bad one
        self.set_state(self.first_state)
        head = nn.Parameter(torch.from_numpy(first).float().to(self.tower.device))
        for module in self.dropouts:
            module.p = args.dropout
        n_epochs = self._epochs(pairs, head, number, seconds) if args.epochs else 0
        for module in self.dropouts:
            module.p = 0.0
        vectors = self.vectors() if n_epochs else self.frozen
        word_weight = fit_score(self.words, pairs, WORD_PENALTY)
        scores = np.stack([vectors @ head.detach().cpu().double().numpy(), self.words @ word_weight], axis=1)
        return {
            **self.tower.state(),
            HEAD_KEY: head.detach().cpu().clone(),
            WORDS_KEY: torch.from_numpy(word_weight),
            SCORES_KEY: torch.from_numpy(scores),
            "epochs": torch.tensor(float(n_epochs)),
            "processor_seconds": torch.tensor(time.process_time() - began),
        }

    def _epochs(self, pairs: PairTable, head: nn.Parameter, number: int, seconds: float) -> int:
        """Passes over the pairs; how many there were."""
        from tqdm import tqdm

        args, adapter = self.args, self.tower.parameters
        groups: list[dict[str, Any]] = [
            {"params": adapter, "lr": args.learning_rate, "weight_decay": WEIGHT_DECAY},
            {"params": [head], "lr": args.head_learning_rate, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups)
        rng = np.random.default_rng([args.seed, number])
        n_steps = sum(1 for _ in steps(pairs, args.batch_texts, np.random.default_rng(0)))
        total, began = n_steps * args.epochs, time.monotonic()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step, total))
        label = torch.from_numpy(pairs.label).float().to(head.device)
        with torch.random.fork_rng(), tqdm(total=total, desc="effect", unit="step", disable=None) as bar:
            torch.manual_seed(args.seed * 1_000 + number)
            for epoch in range(1, args.epochs + 1):
                losses, n_pairs = 0.0, 0
                for rows in steps(pairs, args.batch_texts, rng):
                    loss = self._loss(pairs.rows(rows), head, label[torch.from_numpy(rows)])
                    optimiser.zero_grad(set_to_none=True)
                    # a step of few pairs weighs less, so that each pair counts once
                    (loss * (n_steps / len(pairs))).backward()  # type: ignore[no-untyped-call]
                    norm = torch.nn.utils.clip_grad_norm_(adapter, MAX_GRAD_NORM)
                    if not math.isfinite(float(loss.detach())) or not torch.isfinite(norm):
                        raise DataError("the loss is not finite; look for broken values in the encoder's weights")
                    optimiser.step()
                    schedule.step()
                    losses, n_pairs = losses + float(loss.detach()), n_pairs + len(rows)
                    bar.update()
                spent = time.monotonic() - began
                self.tell(
                    f"member {number + 1}, epoch {epoch} of {args.epochs}: loss {losses / n_pairs:.4f}, {spent:.0f} s"
                )
                if spent * (epoch + 1) / epoch > seconds:
                    break
        return epoch

    def _loss(self, pairs: PairTable, head: nn.Parameter, label: Tensor) -> Tensor:
        """Sum over the pairs of -log likelihood of the soft label."""
        texts, row = np.unique(np.concatenate([pairs.a, pairs.b]), return_inverse=True)
        score = self.tower.rows(texts) @ head
        a, b = torch.from_numpy(row[: len(pairs)]), torch.from_numpy(row[len(pairs) :])
        return nn.functional.binary_cross_entropy_with_logits(score[a] - score[b], label, reduction="sum")


def pace(step: int, total: int) -> float:
    """Learning rate over a run, in [0, 1]: a linear warm-up, then linearly down to 5 %."""
    return min(1.0, (step + 1) / (WARMUP_SHARE * total + 1)) * (1 - 0.95 * step / total)


def steps(pairs: PairTable, batch_texts: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Rows of pairs, whole tests in a random order, until a step has `batch_texts` texts."""
    by_test = np.argsort(pairs.test, kind="stable")
    _, start = np.unique(pairs.test[by_test], return_index=True)
    tests = np.split(by_test, start[1:])
    rows: list[NDArray[Any]] = []
    texts: set[int] = set()
    for test in rng.permutation(len(tests)):
        rows.append(tests[test])
        texts |= {*pairs.a[tests[test]].tolist(), *pairs.b[tests[test]].tolist()}
        if len(texts) >= batch_texts:
            yield np.concatenate(rows)
            rows, texts = [], set()
    if rows:
        yield np.concatenate(rows)


def fit_score(rows: Any, pairs: PairTable, penalty: float) -> Values:
    """(n_columns,) w that minimises the loss of the pairs plus penalty |w|^2. rows: of the texts, dense or sparse."""
    from scipy.optimize import minimize

    x, label = rows[pairs.a] - rows[pairs.b], pairs.label

    def loss(weight: Values) -> tuple[float, Values]:
        score = x @ weight
        value = (np.logaddexp(0, score) - label * score).sum() + penalty * weight @ weight
        return float(value), np.asarray(x.T @ (sigmoid(score) - label) + 2 * penalty * weight)

    options = {"maxiter": 1_000, "ftol": 1e-13, "gtol": 1e-8}
    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options=options).x)


def predicted_of(member: Mapping[str, Tensor], pairs: PairTable) -> Values:
    """(n, 2) difference of each pair's scores, the encoder's and the words'."""
    scores = member[SCORES_KEY].numpy()
    return np.asarray(scores[pairs.a] - scores[pairs.b])


def _finish(
    run: EffectRun, members: Sequence[State], fold: Rows, about: Mapping[str, Any], destination: Path, started: float
) -> TunedEffect:
    """The mean of the members, what their folds say of it, and the card, which is written last."""
    table, args = run.table, run.args
    predicted, expected, inside = np.zeros((len(table), 2)), np.zeros(len(table)), np.zeros(len(table), bool)
    for number, member in enumerate(members):
        judged = fold == number
        predicted[judged] = predicted_of(member, table.rows(judged))
    for number in range(len(members)):
        judged = fold == number
        apart = Calibration.of(predicted[~judged], table.rows(~judged))
        expected[judged] = apart.expected(predicted[judged])
        inside[judged] = apart.within_interval(expected[judged], table.rows(judged))
    calibration = Calibration.of(predicted, table)
    interval = accuracy_interval(expected, table, np.random.default_rng(args.seed))
    names = (*run.first_state, HEAD_KEY, WORDS_KEY)
    soup = {name: torch.stack([member[name] for member in members]).mean(dim=0) for name in names}
    tuned = TunedEffect(
        folder=destination,
        accuracy=accuracy(expected, table),
        low=interval[0],
        high=interval[1],
        calibration=calibration,
        coverage=float(inside.mean()),
        n_tests=len(set(table.test)),
        n_pairs=len(table),
        seconds=time.monotonic() - started,
    )
    clear = np.abs(table.z) > CLEAR
    card = {
        **about,
        "counts": {
            "tests": tuned.n_tests,
            "pairs": tuned.n_pairs,
            "learned_pairs": int((np.abs(table.z) > MIN_Z).sum()),
            "texts": len(table.texts),
        },
        "validation": {
            "protocol": f"each test by the member that did not learn from it; pairs with |z| > {CLEAR}",
            "accuracy": tuned.accuracy,
            "low": tuned.low,
            "high": tuned.high,
            "pairs": int(clear.sum()),
            "tests": len(set(table.test[clear])),
            "by_fold": [accuracy(expected[fold == n], table.rows(fold == n)) for n in range(len(members))],
            "encoder_alone": accuracy(predicted[:, 0], table),
            "words_alone": accuracy(predicted[:, 1], table),
        },
        "calibration": {**asdict(calibration), "level": LEVEL, "coverage": tuned.coverage},
        "epochs": [int(member["epochs"]) for member in members],
        "processor_seconds": round(sum(float(member["processor_seconds"]) for member in members), 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    try:
        destination.mkdir(parents=True, exist_ok=True)
        (destination / CARD).unlink(missing_ok=True)  # a folder with a card is complete
        save_adapter({name: soup[name] for name in run.first_state}, run.tower.spec, destination / ADAPTER)
        write_whole(destination / VALIDATION, save({"expected": torch.from_numpy(expected)}))
        write_whole(destination / HEAD, save({"weight": soup[HEAD_KEY], "word_weight": soup[WORDS_KEY].float()}))
        write_whole(destination / CARD, json_text(card, indent=1))
    except OSError as error:
        raise ModelError(f"{destination} cannot be written ({error.strerror}); make room, and learn again") from error
    return tuned
