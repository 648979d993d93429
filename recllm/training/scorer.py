"""Learn the scorer on past windows of the log.

Several windows are learned together with a listwise softmax over each person's candidates, once over all of them and
once over those that are new to the person, so that one model serves both questions. People of the latest window who
are not learned from in it say when to stop and calibrate the probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from recllm.data.dataset import DAY, Dataset, utc
from recllm.data.interactions import Floats, Ints
from recllm.encoder.hardware import workers
from recllm.errors import DataError
from recllm.features.pair_features import FEATURE_NAMES, HISTORY, NEWCOMER_FEATURES, SALES, SOLD_FEATURES, TIMED
from recllm.models.scorer import Scorer, ScorerConfig
from recllm.models.scorer_network import ScorerNetwork
from recllm.models.sequence.learn import learn_interests
from recllm.models.sequence.serve import Interests
from recllm.settings import CandidateSettings, CollaborativeSettings, ScorerTrainingSettings, SequenceModelSettings
from recllm.training.cold_start import newcomer_weights
from recllm.training.item_calibration import judged_offsets
from recllm.training.windows import Past, Window, choose_target, window_starts

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class FittedScorer:
    """A trained scorer and the record of how it came about.

    metrics: NDCG@20 on the latest window's judges at the kept epoch. history: one entry per epoch. notes: what a
    reader of the figures should know, e.g. that browsing stood in for purchases.
    """

    scorer: Scorer
    population: CollaborativeSettings
    candidates: CandidateSettings
    metrics: dict[str, float]
    history: tuple[dict[str, float], ...]
    notes: tuple[str, ...] = ()
    interests: Interests | None = None
    item_offsets: Floats | None = None
    """(n_items,), see `recllm.training.item_calibration`; None without a calibration of items."""


UNTIMED = CollaborativeSettings(item_item_half_life_days=None, item_item_l2=500.0)
"""Of a log that knows only each person's order: its steps are no days that anything could be forgotten in."""


def fit_scorer(
    dataset: Dataset,
    item_vectors: Floats,
    basics: Floats | None = None,
    args: ScorerTrainingSettings | None = None,
    progress: Progress | None = None,
    *,
    population: CollaborativeSettings | None = None,
    settings: CandidateSettings | None = None,
    interests: SequenceModelSettings | None = None,
) -> FittedScorer:
    """Train on past windows of `dataset`, whose latest window ends at its `as_of`.

    item_vectors: unit rows (n_items, dim). basics: Emb(I) of the dataset's people, (n_users, dim), or None.
    interests: with it the sequence model is learned too, and its score is one of the scorer's features. Raises
    `DataError` when the log is too short or holds too few actions to learn from; the message says what is missing.
    """
    args, settings = args or ScorerTrainingSettings(), settings or CandidateSettings()
    tell = progress or (lambda _: None)
    explicit = population.explicit() if population else {}
    target, notes = (explicit["target"], ()) if "target" in explicit else choose_target(dataset, args)
    population = (CollaborativeSettings() if args.timed else UNTIMED).model_copy(update={"target": target, **explicit})
    past = Past(dataset, np.asarray(item_vectors, np.float32), basics, args, population, settings)
    starts = window_starts(dataset, target, args)
    snapshots = _interests(past, starts, interests, tell)
    windows, judge, newcomers = _windows(past, starts, snapshots, tell)
    if not windows:
        raise DataError(
            f"in no window of {args.horizon_days} days did anybody take a candidate item, so there is nothing to learn "
            "from: load a longer log, or more people, or pass another horizon_days"
        )
    judge = judge or windows[0]
    if _verdicts(judge) < LEAST_JUDGES:
        few = f"too few people to judge by ({_verdicts(judge)}): the metrics are rough, and the last round was kept"
        notes = (*notes, few)
    scorer, history, best = learn(windows, past.item_vectors, args, judge, tell, newcomers)
    scorer.platt.copy_(calibrate(scorer, past.item_vectors, judge))
    metrics, offsets = history[best], None
    if args.item_calibration:
        logit = torch.from_numpy(predict(scorer, past.item_vectors, judge))
        offsets = judged_offsets(scorer.probability(logit).numpy(), judge, dataset, target)
    return FittedScorer(scorer.frozen(), population, settings, metrics, tuple(history), notes, snapshots[-1], offsets)


def _interests(
    past: Past, starts: list[int], args: SequenceModelSettings | None, tell: Progress
) -> Sequence[Interests | None]:
    """The sequence model as it stood at each start, and at last with everything; all None without one."""
    if args is None:
        return [None] * (len(starts) + 1)
    dataset, cuts = past.dataset, [*sorted(starts), past.dataset.as_of]
    judge_from = cuts[0] - past.args.horizon_days * DAY
    learned = learn_interests(
        dataset, past.item_vectors, past.basics, past.population.target, cuts, judge_from, args, tell
    )
    if learned is None:
        tell("interests: too few events before the first window; the sequence model is left out")
        return [None] * len(cuts)
    return [*reversed(learned[:-1]), learned[-1]]


class _Cut(NamedTuple):
    """What is learned from one time: people who took something, judges, people without their history, arrivals."""

    window: Window | None = None
    judges: Window | None = None
    newcomers: Window | None = None
    arrivals: Window | None = None


def _windows(
    past: Past, starts: list[int], snapshots: Sequence[Interests | None], tell: Progress
) -> tuple[list[Window], Window | None, list[Window]]:
    """What to learn from, latest first, the judges of the latest window, and people shown without their history."""
    args, target, further = past.args, past.population.target, []
    if args.new_item_weight and args.timed:
        further = window_starts(past.dataset, target, args, args.n_new_item_windows)
    if snapshots[-1] is not None:  # no snapshot is old enough for the windows before the first of `starts`
        further = further[: len(starts)]
    times, cuts = max(starts, further, key=len), []  # both go back from the same day, window by window
    # products of matrices leave the second core to the other window
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers()) as pool:
        cut = partial(_cut, past, times, (len(starts), len(further)), snapshots)
        for place, done in enumerate(pool.map(cut, range(len(times)))):
            tell(f"window {place + 1}: {utc(times[place]):%Y-%m-%d} and the {args.horizon_days} days after it")
            cuts.append(done)
    windows = [w for c in cuts for w in (c.window, c.arrivals) if w is not None and w.label.any()]
    newcomers = [c.newcomers for c in cuts if c.newcomers is not None and c.newcomers.label.any()]
    return windows, cuts[0].judges, newcomers


def _cut(
    past: Past, times: list[int], wanted: tuple[int, int], snapshots: Sequence[Interests | None], place: int
) -> _Cut:
    """What the window from times[place] teaches; `wanted`: of how many windows people, and of how many arrivals."""
    crowd = past.crowd(times[place], snapshots[min(place, wanted[0] - 1)])
    arrivals = past.arrivals(crowd) if place < wanted[1] else None
    if place >= wanted[0]:
        return _Cut(arrivals=arrivals)
    window, judges = past.window(crowd, judge=0 if place else past.args.validation_users)
    return _Cut(window, judges, past.newcomers(crowd) if past.args.timed else None, arrivals)


def _of_arrivals(window: Window) -> bool:
    return not window.features[:, FEATURE_NAMES.index(SALES)].any()


LEAST_JUDGES = 30


def _verdicts(judge: Window) -> int:
    """Judges who took something: only their lists can be right or wrong."""
    return int((judge.truth > 0).sum())


def _goal(metrics: dict[str, float]) -> float:
    return metrics["ndcg@20_all"] + metrics["ndcg@20_new"]


def learn(
    windows: list[Window],
    item_vectors: Floats,
    args: ScorerTrainingSettings,
    judge: Window,
    tell: Progress,
    newcomers: Sequence[Window] = (),
) -> tuple[ScorerNetwork, list[dict[str, float]], int]:
    """Train from scratch; the scorer of the kept round, all verdicts, and which was kept.

    newcomers: windows of people shown without their history. A loss that is not finite ends training with the last
    good state.
    """
    scorer, vectors = _untrained(windows, item_vectors.shape[1], args, newcomers), torch.from_numpy(item_vectors)
    rng = np.random.default_rng(args.seed)
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    sold = args.epochs * sum(-(-w.n // args.batch_size) for w in windows if not _of_arrivals(w))
    passes = max(1, -(-args.min_steps // max(sold, 1)))
    steps = passes * args.epochs * sum(-(-w.n // args.batch_size) for w in windows)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, steps))
    history: list[dict[str, float]] = []
    kept, best = _copy(scorer), -1
    for epoch in range(args.epochs):
        # dropout is seeded, and the caller's random state left alone
        with torch.random.fork_rng(devices=[]), _halves_at_once(args) as pool:
            torch.manual_seed(args.seed * 1000 + epoch)
            run = (scorer, vectors, windows, args, optimiser, schedule, rng, pool)
            loss = np.mean([_epoch(*run) for _ in range(passes)])
        if not np.isfinite(loss):
            tell(f"epoch {epoch + 1}: the loss is not finite; the last good state is kept")
            break
        history.append({"epoch": epoch + 1.0, "loss": float(loss), **evaluate(scorer, item_vectors, judge)})
        tell(", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
        # later rounds have the lower learning rate: only a clearly better earlier one is preferred to them
        if best < 0 or _verdicts(judge) < LEAST_JUDGES or _goal(history[epoch]) > _goal(history[best]) - CLEAR:
            kept, best = _copy(scorer), epoch
        elif epoch - best >= args.patience:
            break
    if not history:
        raise DataError("the first epoch's loss is not finite: look for NaN or huge values in the vectors and prices")
    scorer.load_state_dict(kept)
    return scorer, history, best


def _untrained(
    windows: list[Window], dim: int, args: ScorerTrainingSettings, newcomers: Sequence[Window]
) -> ScorerNetwork:
    """A scorer with random MLPs that knows the features' spread, and what to offer to newcomers."""
    timed, arrivals = args.timed and "features" in args.parts, any(_of_arrivals(w) for w in windows)
    config = ScorerConfig(
        dim=dim,
        features=FEATURE_NAMES,
        sold_features=tuple(n for n in SOLD_FEATURES if args.timed or n not in TIMED),
        sales=SALES if timed or arrivals else None,
        learned_arrivals=arrivals,
        newcomer_features=NEWCOMER_FEATURES if timed else (),
        history=HISTORY if timed else None,
        projection=args.projection,
        hidden=args.hidden,
        dropout=args.dropout,
        parts=args.parts,
        heads=args.heads,
        seed=args.seed,
    )
    scorer = ScorerNetwork(config)
    scorer.standardise(np.concatenate([w.features[::7] for w in windows]))
    if timed:
        scorer.newcomer.copy_(torch.from_numpy(newcomer_weights(newcomers)))
    return scorer


CLEAR = 0.005
"""Differences of the judges' summed NDCG below this are chance: 300 people tell no finer."""


def _copy(scorer: ScorerNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in scorer.state_dict().items()}


def _pace(step: int, steps: int) -> float:
    """Learning rate over the run, in [0, 1]: a warm-up of a tenth, then a cosine down to 1 %."""
    return float(min(1.0, (step + 1) / (steps / 10 + 1)) * (0.5 * (1 + np.cos(np.pi * step / max(steps, 1))) + 0.01))


def _epoch(
    scorer: ScorerNetwork,
    vectors: Tensor,
    windows: list[Window],
    args: ScorerTrainingSettings,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
) -> float:
    """One pass over all windows' people in random batches; the mean loss, nan as soon as a step's is not finite."""
    scorer.train()
    orders = [rng.permutation(w.n) for w in windows]
    batches = [(i, start) for i, w in enumerate(windows) for start in range(0, w.n, args.batch_size)]
    total = 0.0
    for place in rng.permutation(len(batches)):
        i, start = batches[place]
        people = orders[i][start : start + args.batch_size]
        optimiser.zero_grad()
        halves = [part for part in np.array_split(people, 2) if len(part)]
        loss = sum(pool.map(partial(_gradient, scorer, vectors, windows[i], args, _takers(windows[i], people)), halves))
        if not np.isfinite(loss):
            return float("nan")
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        total += loss
    return total / max(len(batches), 1)


@contextmanager
def _halves_at_once(args: ScorerTrainingSettings) -> Iterator[ThreadPoolExecutor]:
    """Threads for the two halves of a batch, one core each: products this small gain little from two. The gradients of
    two halves sum to the same in either order, so the number of threads changes nothing; dropout draws from one state.
    """
    threads = torch.get_num_threads()
    most = 1 if args.dropout else workers()
    try:
        with ThreadPoolExecutor(most, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _gradient(
    scorer: ScorerNetwork,
    vectors: Tensor,
    window: Window,
    args: ScorerTrainingSettings,
    whole: tuple[int, int],
    people: Ints,
) -> float:
    """Adds the gradient of a part of a batch; what the part adds to the batch's loss. whole: takers of the batch."""
    loss = _loss(scorer, vectors, window, people, args, whole)
    if torch.isfinite(loss):
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _takers(window: Window, people: Ints) -> tuple[int, int]:
    """How many of the people took anything, and anything new to them."""
    return int(window.takes[people].sum()), int(window.takes_new[people].sum())


def _loss(
    scorer: ScorerNetwork,
    vectors: Tensor,
    window: Window,
    people: Ints,
    args: ScorerTrainingSettings,
    whole: tuple[int, int],
) -> Tensor:
    """What `people` add to the mean loss of a batch with `whole` takers, of anything and of what is new to them."""
    lengths = np.diff(window.indptr)[people]
    starts = np.repeat(window.indptr[people] - np.cumsum(lengths) + lengths, lengths)
    rows = starts + np.arange(len(starts))
    items, item = np.unique(window.item[rows], return_inverse=True)
    person = torch.from_numpy(np.repeat(np.arange(len(people)), lengths))
    cosine = torch.from_numpy(window.cosine[rows])
    heads = scorer.each_head(
        scorer.project(torch.from_numpy(window.users[people])),
        scorer.project(vectors[items]),
        person,
        torch.from_numpy(item),
        cosine,
        torch.from_numpy(window.features[rows]),
    )
    label, new = torch.from_numpy(window.label[rows]), torch.from_numpy(~window.seen[rows])
    correction, n = torch.from_numpy(window.correction[rows]), len(people)
    share, share_new = (mine / max(all_, 1) for mine, all_ in zip(_takers(window, people), whole, strict=True))
    loss = torch.zeros(())
    for logit in heads + scorer.cosine_weight * cosine:  # each head learns for itself, so that their mistakes differ
        weighed = logit + correction
        loss = loss + share * listwise(logit, weighed, label, person, n)
        if args.discovery_weight:
            new_loss = listwise(logit[new], weighed[new], label[new], person[new], n)
            loss = loss + args.discovery_weight * share_new * new_loss
        if args.level_weight:
            loss = loss + args.level_weight * share * level(weighed, label, person, n)
    return window.weight * loss / len(heads)


def listwise(logit: Tensor, weighed: Tensor, label: Tensor, person: Tensor, n: int) -> Tensor:
    """Mean over people of the mean of -log softmax at their positives.

    All (n_pairs,); `weighed` is the logit plus the sampling correction, which makes the sampled denominator an
    unbiased estimate of the full one. People without a positive do not count; 0 when nobody has one.
    """
    total = _log_total(weighed, person, n)
    place = person[label]
    loss = torch.zeros(n).index_add(0, place, total.index_select(0, place) - logit[label])
    count = torch.zeros(n).index_add(0, place, torch.ones(len(place)))
    has = count > 0
    return (loss[has] / count[has]).sum() / has.sum().clamp(min=1)


def level(weighed: Tensor, label: Tensor, person: Tensor, n: int) -> Tensor:
    """Mean over people of the squared log ratio between the summed exp(logit) and what the person took.

    It makes exp(logit) an expected number of takings. People without a positive do not count.
    """
    count = torch.zeros(n).index_add(0, person, label.float())
    has = count > 0
    off = _log_total(weighed, person, n)[has] - torch.log(count[has])
    return (off**2).sum() / has.sum().clamp(min=1)


def _log_total(weighed: Tensor, person: Tensor, n: int) -> Tensor:
    """Log of each person's summed exp, (n,), without overflow; very low for a person without pairs."""
    top = torch.full((n,), -torch.inf).scatter_reduce(0, person, weighed.detach(), "amax").clamp(min=-1e30)
    return torch.log(torch.zeros(n).index_add(0, person, torch.exp(weighed - top[person])).clamp(min=1e-30)) + top


def predict(scorer: ScorerNetwork, item_vectors: Floats, window: Window) -> Floats:
    """Logits (n_pairs,) of a window."""
    scorer.eval()
    person = np.repeat(np.arange(window.n), np.diff(window.indptr))
    out = np.zeros(len(person), np.float32)
    with torch.no_grad():
        users = scorer.project(torch.from_numpy(window.users))
        items, item = np.unique(window.item, return_inverse=True)
        projected = scorer.project(torch.from_numpy(item_vectors[items]))
        for start in range(0, len(person), 8_192):  # more at once takes twice as long: it does not fit the cache
            part = slice(start, start + 8_192)
            columns = (person[part], item[part], window.cosine[part], window.features[part])
            out[part] = scorer(users, projected, *(torch.from_numpy(c) for c in columns)).logit.numpy()
    return out


def evaluate(scorer: ScorerNetwork, item_vectors: Floats, window: Window, k: int = 20) -> dict[str, float]:
    """NDCG@k over the window's candidates, against everything the people took: all items, and those new to them."""
    logit = predict(scorer, item_vectors, window)
    fresh = np.where(window.seen, -np.inf, logit)
    return {
        f"ndcg@{k}_all": _ndcg(window, logit, window.label, window.truth, k),
        f"ndcg@{k}_new": _ndcg(window, fresh, window.label & ~window.seen, window.truth_new, k),
    }


def _ndcg(window: Window, score: Floats, label: NDArray[np.bool_], truth: Ints, k: int) -> float:
    person = np.repeat(np.arange(window.n), np.diff(window.indptr))
    order = np.lexsort((window.item, -score, person))
    rank = np.arange(len(order)) - window.indptr[person]
    gain = 1 / np.log2(np.arange(2, k + 2))
    hit = (rank < k) & label[order]
    got = np.bincount(person[hit], gain[rank[hit]], minlength=window.n)
    ideal = np.concatenate([[1.0], np.cumsum(gain)])[np.minimum(truth, k)]
    counted = truth > 0
    return float((got[counted] / ideal[counted]).mean()) if counted.any() else 0.0


def calibrate(scorer: ScorerNetwork, item_vectors: Floats, window: Window) -> Tensor:
    """Platt's slope and intercept (2,): the likeliest sigmoid of the logit, by Newton's method on the window.

    Source: Platt 1999, with his smoothed targets. Sampled negatives weigh as much as they stand for. The slope is drawn
    towards 1, the slope of a softmax that is right, as strongly as ten outcomes would draw it, so that a handful of
    people cannot turn it round.
    """
    x = np.stack([predict(scorer, item_vectors, window), np.ones(len(window.label))], axis=1).astype(np.float64)
    weight, label = np.exp(window.correction.astype(np.float64)), window.label
    positives, negatives = label.sum(), weight[~label].sum()
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    rate = (label.sum() + 1) / (weight.sum() + 2)
    line = np.array([1.0, np.log(rate / (1 - rate)) - np.average(x[:, 0], weights=weight)])
    prior, strength = np.array([1.0, 0.0]), np.array([10.0, 1e-3])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ line, -30, 30)))
        slope = x.T @ (weight * (target - p)) - strength * (line - prior)
        curve = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(strength)
        step = np.linalg.solve(curve, slope)
        line += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    return torch.tensor([max(line[0], 0.05), line[1]], dtype=torch.float32)
