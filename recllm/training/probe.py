"""How long a training takes on this machine: its own parts, run on a few people of its own log and timed.

What `advise_costs.json` knows was measured on one log and one machine, and a log with other people, items and baskets
costs something else. Here the very code that trains is timed: it encodes some texts, counts the crowd once, makes pairs
of a few people, takes a few steps, and reads a few batches of sequences. The rest is multiplication. Seconds are those
of the clock, so that whatever else the machine does now is in them; a machine that is free later is faster.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from recllm.data.dataset import DAY, Dataset
from recllm.data.interactions import Floats, within_limits
from recllm.encoder.hardware import machine, workers
from recllm.encoder.json_cache import remembered
from recllm.models.sequence import SequenceModel
from recllm.models.sequence_network import SequenceLearner
from recllm.schema import Encoder
from recllm.settings import CandidateSettings, CollaborativeSettings, ScorerTrainingSettings, SequenceModelSettings
from recllm.training.advise import EXPECTED_EPOCHS, Advice, estimated_tokens
from recllm.training.scorer import UNTIMED, evaluate, learn
from recllm.training.windows import PastWindows, Window, choose_target, window_starts

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

PROBE_FILE = "training-probe.json"
TEXTS = 48
FEW_USERS, MORE_USERS = 32, 160
"""Users of the two windows whose difference tells what a user costs."""
VALIDATION_USERS = 48
BATCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredParts:
    """Seconds of the clock that the parts of one training take on this machine."""

    encode_seconds: float
    """All distinct texts, none of which is known."""
    count_seconds: float
    """What is counted over the crowd, once for each window and once at the end."""
    window_seconds: float
    """The pairs of all windows, new users and validation users, with what is counted before each."""
    step_seconds: float
    """All steps, with the evaluations after each round."""
    sequence_seconds: float
    """The sequence model with the expected number of passes; 0 without one."""
    longest_sequence_seconds: float
    """With all passes that it may take."""
    probe_seconds: float
    """What measuring took."""
    measured_at: str
    """ISO 8601, UTC."""

    @property
    def scorer_seconds(self) -> float:
        return self.window_seconds + self.step_seconds + self.count_seconds

    @property
    def seconds(self) -> float:
        return self.encode_seconds + self.scorer_seconds + self.sequence_seconds


def with_measured_cost(
    advice: Advice, dataset: Dataset, texts: Sequence[str], encoder: Encoder, cache_dir: Path | None = None
) -> Advice:
    """The advice with minutes that were measured here, on this log; as it is where nothing is trained.

    texts: of the items, (n_items,). cache_dir: where the measurement is kept, for the same log, settings and machine.
    """
    if advice.training is None:
        return advice
    training, interests = advice.training, advice.interests
    settings = [part and part.model_dump(mode="json") for part in (training, interests)]
    content = json.dumps([dataset.data_hash(), dataset.as_of, settings, encoder.fingerprint, PARTS_VERSION])
    key = f"{machine()} {workers()} workers {sha256(content.encode()).hexdigest()[:24]}"
    names = {field.name for field in fields(MeasuredParts)}
    answer = remembered(
        None if cache_dir is None else cache_dir / PROBE_FILE,
        key,
        lambda: asdict(measure_parts(dataset, texts, encoder, training, interests)),
        lambda value: isinstance(value, dict) and value.keys() == names,
    )
    parts = MeasuredParts(**answer)
    lora = advice.cost.lora_minutes
    cost = replace(
        advice.cost,
        encode_minutes=round(parts.encode_seconds / 60, 2),
        scorer_minutes=round(parts.scorer_seconds / 60, 2),
        sequence_minutes=round(parts.sequence_seconds / 60, 2),
        longest_sequence_minutes=round(parts.longest_sequence_seconds / 60, 2),
        minutes=round(parts.seconds / 60 + lora, 2),
        is_measured=True,
        source=f"the parts of this training, timed here for {parts.probe_seconds:.0f} s, {parts.measured_at}",
    )
    return replace(advice, cost=cost)


PARTS_VERSION = 1
"""Grows with what is measured, so that what was kept is measured anew."""


def measure_parts(
    dataset: Dataset,
    texts: Sequence[str],
    encoder: Encoder,
    args: ScorerTrainingSettings,
    interests: SequenceModelSettings | None,
) -> MeasuredParts:
    """Takes some seconds, on a large log about a minute: it counts over the whole log once."""
    began = time.perf_counter()
    encode_seconds = _encode(texts, encoder)
    dataset = replace(dataset, events=within_limits(dataset.events, CollaborativeSettings()))
    target, _ = choose_target(dataset, args)
    starts = window_starts(dataset, target, args)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(dataset.n_items, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sequence_seconds = longest = 0.0
    snapshot: SequenceModel | None = None
    if interests is not None:
        sequence_seconds, longest, snapshot = _sequences(dataset, vectors, starts, args, interests, target)
    collaborative = (CollaborativeSettings() if args.timed else UNTIMED).model_copy(update={"target": target})
    past = PastWindows(dataset, vectors, None, args, collaborative, CandidateSettings(), None)
    count_seconds, window_seconds, step_seconds = _windows_and_steps(past, starts, snapshot)
    return MeasuredParts(
        encode_seconds=round(encode_seconds, 3),
        count_seconds=round(count_seconds, 3),
        window_seconds=round(window_seconds, 3),
        step_seconds=round(step_seconds, 3),
        sequence_seconds=round(sequence_seconds, 3),
        longest_sequence_seconds=round(longest, 3),
        probe_seconds=round(time.perf_counter() - began, 1),
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
    )


def _encode(texts: Sequence[str], encoder: Encoder) -> float:
    """Seconds for all distinct texts, by some of them: by tokens, since a long text takes longer."""
    distinct = sorted({text for text in texts if text.strip()})
    if not distinct:
        return 0.0
    rows = np.random.default_rng(0).choice(len(distinct), min(TEXTS, len(distinct)), replace=False)
    sample = [distinct[row] for row in rows]
    inner = getattr(encoder, "encoder", encoder)  # a cache would know them
    inner.encode(sample[:4])  # loads the model
    seconds = _seconds(lambda: inner.encode(sample))
    return seconds * sum(map(estimated_tokens, distinct)) / sum(map(estimated_tokens, sample))


def _windows_and_steps(
    past: PastWindows, starts: list[int], snapshot: SequenceModel | None
) -> tuple[float, float, float]:
    """Seconds of counting once, of making all windows, and of all steps."""
    args = past.args
    n_new_items = args.n_new_item_windows if args.new_item_weight and args.timed else 0
    new_item_starts = window_starts(past.dataset, past.collaborative.target, args, n_new_items) if n_new_items else []
    if snapshot is not None:
        new_item_starts = new_item_starts[: len(starts)]
    times = max(starts, new_item_starts, key=len)

    def sampled(n_users: int, n_new_users: int = 0) -> PastWindows:
        changes = {"users_per_window": n_users, "new_users_per_window": n_new_users}
        return replace(past, args=args.model_copy(update=changes))

    count_seconds, population = _timed(lambda: past.population(starts[0], snapshot))
    few_seconds, _ = _timed(lambda: sampled(FEW_USERS).window(population))
    more_seconds, (window, _) = _timed(lambda: sampled(MORE_USERS).window(population))
    per_user = max(more_seconds - few_seconds, 0.0) / max(window.n - FEW_USERS, 1)
    once = max(few_seconds - FEW_USERS * per_user, 0.0)
    all_seconds, (_, validation) = _timed(lambda: sampled(FEW_USERS).window(population, n_validation=VALIDATION_USERS))
    per_validation_user = 0.0 if validation is None else max(all_seconds - few_seconds, 0.0) / validation.n
    n_validation = min(args.validation_users, past.dataset.n_users // 5)
    new_item_seconds, new_items = (0.0, None)
    if new_item_starts:
        new_item_seconds, new_items = _timed(lambda: sampled(MORE_USERS).new_items(population))
    new_user_seconds, new_users = (0.0, None)
    if args.timed:
        new_user_seconds, new_users = _timed(lambda: sampled(FEW_USERS, MORE_USERS).new_users(population))
    seconds, n_steps = 0.0, 0
    for number, start in enumerate(times):
        seconds += count_seconds
        buyers = _n_buyers(past, start)
        if number < len(starts):
            learned = min(args.users_per_window, buyers)
            seconds += once + learned * per_user + (0 if number else n_validation * per_validation_user)
            n_steps += -(-learned // args.batch_size)
            if new_users is not None:
                seconds += new_user_seconds / new_users.n * min(args.new_users_per_window, buyers)
        if new_items is not None and number < len(new_item_starts):
            n_buyers = min(args.users_per_window, _n_new_item_buyers(past, start))
            seconds += new_item_seconds / new_items.n * n_buyers
            n_steps += -(-n_buyers // args.batch_size)
    seconds /= _gain_of_threads(lambda: sampled(FEW_USERS).window(population)) if len(times) > 1 else 1.0
    return count_seconds, seconds, _steps(window, validation or window, args, n_steps, n_validation)


def _n_buyers(past: PastWindows, start: int) -> int:
    bought = past.dataset.between(start, start + past.args.horizon_days * DAY)
    return int((np.diff(bought.indptr) > 0).sum())


def _n_new_item_buyers(past: PastWindows, start: int) -> int:
    """Users who bought something in the window that had never sold."""
    bought = past.dataset.between(start, start + past.args.horizon_days * DAY)
    sold = np.bincount(past.dataset.before(start).events.item, minlength=past.dataset.n_items) > 0
    return int((np.diff(bought.select(~sold[bought.item]).indptr) > 0).sum())


def _gain_of_threads(work: Callable[[], Any]) -> float:
    """How many times as much the threads do that make windows side by side as one of them."""
    n = workers()
    if n < 2:
        return 1.0
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n) as pool:
        alone = _seconds(work)
        together = _seconds(lambda: list(pool.map(lambda _: work(), range(n))))
    return float(np.clip(n * alone / max(together, 1e-9), 1.0, n))


def _steps(window: Window, validation: Window, args: ScorerTrainingSettings, n_steps: int, n_validation: int) -> float:
    """Seconds of all rounds, by those of one round over a small window."""
    passes = max(1, -(-args.min_steps // max(args.epochs * n_steps, 1)))
    one_round = args.model_copy(update={"epochs": 1, "min_steps": 0})
    learn([window], one_round, validation, lambda _: None)  # the first call loads what the next ones have
    seconds, (network, _, _) = _timed(lambda: learn([window], one_round, validation, lambda _: None))
    judged = _seconds(lambda: evaluate(network, validation))
    per_step = max(seconds - judged, 0.0) / -(-window.n // args.batch_size)
    rounds = args.epochs + 2  # probabilities and their calibration read the validation users twice more
    return passes * args.epochs * n_steps * per_step + rounds * judged * n_validation / max(validation.n, 1)


def _sequences(
    dataset: Dataset,
    vectors: Floats,
    starts: list[int],
    args: ScorerTrainingSettings,
    interests: SequenceModelSettings,
    target: Sequence[Any],
) -> tuple[float, float, SequenceModel | None]:
    """Seconds with the expected and with all passes, and the untrained model as it would be asked."""
    cuts = [*sorted(starts), dataset.as_of]
    validation_start = cuts[0] - args.horizon_days * DAY
    learner = SequenceLearner(dataset, vectors, None, tuple(target), interests)
    at, rng = learner.baskets.at, np.random.default_rng(0)
    early = np.flatnonzero(at < validation_start)
    if len(early) < interests.min_examples:
        return 0.0, 0.0, None
    n_batches = sum(1 for _ in learner._batches(early, rng))
    users = rng.permutation(np.unique(learner.baskets.user[early]))
    share = min(1.0, BATCHES / n_batches)
    sample = early[np.isin(learner.baskets.user[early], users[: max(1, round(share * len(users)))])]
    n_sampled = sum(1 for _ in learner._batches(sample, rng))
    learner.epoch(sample)
    per_batch = _seconds(lambda: learner.epoch(sample)) / n_sampled
    later = 0.0
    for learned_until, cut in zip([validation_start, *cuts[:-1]], cuts, strict=True):
        n_new = int(((at >= learned_until) & (at < cut)).sum())
        later += 2 * n_new / len(early) * n_batches * per_batch * interests.later_epochs
    judged_on = np.flatnonzero((at >= validation_start) & (at < cuts[0]))
    first = judged_on[np.unique(learner.baskets.user[judged_on], return_index=True)[1]]
    n_judged = min(len(first), interests.validation_users)
    sample_judged = first[: min(len(first), 2 * FEW_USERS)]
    judged = (
        _seconds(lambda: learner.evaluate(sample_judged)) * n_judged / max(len(sample_judged), 1)
        if len(sample_judged)
        else 0.0
    )
    per_pass = n_batches * per_batch + judged / interests.epochs_per_evaluation
    expected = min(interests.epochs, EXPECTED_EPOCHS)
    model = learner.network.frozen(vectors, tuple(target))
    return expected * per_pass + later, interests.epochs * per_pass + later, model


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _seconds(work: Callable[[], Any]) -> float:
    return _timed(work)[0]
