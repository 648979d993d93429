"""Learn the scorer on past windows of the log.

Each window stands at an earlier time: the crowd and the histories are cut there, and what people took in the horizon
after it is the truth. Several windows are learned together with a listwise softmax over each person's candidates, once
over all of them and once over those that are new to the person, so that one model serves both questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recllm.candidates import Candidates, CandidateSettings, candidates
from recllm.dataset import DAY, Dataset, utc
from recllm.errors import DataError
from recllm.features import FEATURE_NAMES, pair_features
from recllm.histories import Floats, Ints, Tally, of_actions
from recllm.population import Asked, Population, PopulationSettings, ask
from recllm.schema import Action
from recllm.scorer import Scorer, ScorerConfig

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    horizon_days: int = 28
    least_actions: int = 200
    """Purchases below this number: weaker actions are learned from as well."""
    n_windows: int = 5
    """Past windows at most, fewer when the log is short."""
    epochs: int = 3
    """Rounds, with a verdict of the judges after each. A round is one pass over all windows, or more when the log is
    so small that all rounds together would take fewer than `least_steps` steps."""
    least_steps: int = 400
    patience: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    batch_people: int = 64
    own_negatives: int = 60
    """Sampled per person from what they took before and did not take in the window."""
    other_negatives: int = 90
    """Sampled per person from the candidates that are new to them."""
    new_weight: float = 1.0
    people_per_window: int = 4_000
    judge_people: int = 300
    """People of the latest window, at most a fifth of them, who are not learned from in it: their whole candidate
    lists say after each epoch whether to go on, and calibrate the probability."""
    projection: int = 32
    hidden: tuple[int, ...] = (96, 96)
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Window:
    """Pairs to learn from. Rows of person u are indptr[u]:indptr[u + 1].

    label: taken in the window. seen: taken before. correction: log of how many candidates a sampled negative stands
    for. truth, truth_new: how many items the person took in the window in all, and of those new to them.
    """

    indptr: Ints
    item: NDArray[np.int32]
    label: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    correction: Floats
    features: Floats
    cosine: Floats
    users: Floats
    truth: Ints
    truth_new: Ints

    @property
    def n(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True, eq=False)
class Past:
    """What every window is cut from. `basics`: Emb(I) of the people, (n_users, dim), or None."""

    dataset: Dataset
    item_vectors: Floats
    basics: Floats | None
    args: TrainingArguments
    population: PopulationSettings
    settings: CandidateSettings

    def window(self, start: int, *, judge: int = 0) -> tuple[Window, Window | None]:
        """The window [start, start + horizon), sampled, and its judges: `judge` people with all their candidates."""
        past, args = self.dataset.before(start), self.args
        crowd = Population.fit(past, self.item_vectors, self.population)
        truth = self._truth(start)
        allowed = crowd.stats.buyers_ever > 0
        rng = np.random.default_rng([args.seed, start])
        people = rng.permutation(np.unique(truth.user[allowed[truth.key]]))[: args.people_per_window]
        judge = min(judge, len(people) // 5)
        learned, judges = np.sort(people[judge:]), np.sort(people[:judge])

        def build(rows: Ints, sample: TrainingArguments | None) -> Window:
            parts = []
            for block in np.split(rows, range(256, len(rows), 256)):
                told = None if self.basics is None else self.basics[block]
                asked = ask(crowd, past.events.rows(block), start, own=block, basics=told)
                parts.append(_block(crowd, asked, block, truth, allowed, self.settings, sample, rng))
            return _join(parts)

        return build(learned, args), build(judges, None) if judge else None

    def _truth(self, start: int) -> Tally:
        """What people took in the window."""
        e = self.dataset.events
        after = e.select((e.at >= start) & (e.at < start + self.args.horizon_days * DAY))
        after = of_actions(after, self.population.target)
        return Tally.of(after.user, after.item, self.dataset.n_items)


def _block(
    crowd: Population,
    asked: Asked,
    rows: Ints,
    truth: Tally,
    allowed: NDArray[np.bool_],
    settings: CandidateSettings,
    sample: TrainingArguments | None,
    rng: np.random.Generator,
) -> Window:
    pairs = candidates(crowd, asked, settings, allowed=allowed)
    label = truth.find(rows[pairs.user], pairs.item) < len(truth.keys)
    seen = asked.owned.find(pairs.user, pairs.item) < len(asked.owned.keys)
    correction = np.zeros(len(label), np.float32)
    if sample is not None:
        kept, correction = _sample(pairs, label, seen, sample, rng)
        pairs, label, seen, correction = pairs.select(kept), label[kept], seen[kept], correction[kept]
    total, fresh = _truth_sizes(truth, rows, asked, allowed)
    return Window(
        pairs.indptr,
        pairs.item,
        label,
        seen,
        correction,
        pair_features(crowd, asked, pairs),
        pair_cosine(crowd.item_vectors, asked.vectors.user, pairs),
        asked.vectors.user,
        total,
        fresh,
    )


def pair_cosine(item_vectors: Floats, users: Floats, pairs: Candidates) -> Floats:
    """Cosine of each pair, (n_pairs,), person by person."""
    out = np.zeros(len(pairs.item), np.float32)
    for u in range(len(users)):
        part = slice(pairs.indptr[u], pairs.indptr[u + 1])
        out[part] = item_vectors[pairs.item[part]] @ users[u]
    return out


def _sample(
    pairs: Candidates, label: NDArray[np.bool_], seen: NDArray[np.bool_], args: TrainingArguments, rng: Any
) -> tuple[NDArray[np.bool_], Floats]:
    """All positives, and per person and kind a uniform sample of the negatives with the log of its inverse rate."""
    keep, correction = label.copy(), np.zeros(len(label), np.float32)
    draw = rng.random(len(label))
    user = pairs.user
    for kind, wanted in ((seen, args.own_negatives), (~seen, args.other_negatives)):
        rows = np.flatnonzero(kind & ~label)
        order = rows[np.lexsort((draw[rows], user[rows]))]
        count = np.bincount(user[rows], minlength=len(pairs.indptr) - 1)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        chosen = order[rank < wanted]
        keep[chosen] = True
        rate = count / np.maximum(np.minimum(count, wanted), 1)
        correction[chosen] = np.log(rate[user[chosen]])
    return keep, correction


def _truth_sizes(truth: Tally, rows: Ints, asked: Asked, allowed: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    place = np.full(int(max(truth.user.max(initial=0), rows.max(initial=0))) + 1, -1)
    place[rows] = np.arange(len(rows))
    user, item = place[truth.user], truth.key
    fit = (user >= 0) & allowed[item]
    user, item = user[fit], item[fit]
    fresh = asked.owned.find(user, item) == len(asked.owned.keys)
    return np.bincount(user, minlength=len(rows)), np.bincount(user[fresh], minlength=len(rows))


def _join(parts: list[Window]) -> Window:
    lengths = np.concatenate([np.diff(p.indptr) for p in parts])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    names = ("item", "label", "seen", "correction", "features", "cosine", "users", "truth", "truth_new")
    return Window(indptr, *(np.concatenate([getattr(p, name) for p in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class FittedScorer:
    """A trained scorer and the record of how it came about.

    metrics: NDCG@20 on the latest window's judges at the kept epoch. history: one entry per epoch. notes: what a
    reader of the figures should know, e.g. that browsing stood in for purchases.
    """

    scorer: Scorer
    population: PopulationSettings
    candidates: CandidateSettings
    metrics: dict[str, float]
    history: tuple[dict[str, float], ...]
    notes: tuple[str, ...] = ()


def fit_scorer(
    dataset: Dataset,
    item_vectors: Floats,
    basics: Floats | None = None,
    args: TrainingArguments | None = None,
    progress: Progress | None = None,
    *,
    population: PopulationSettings | None = None,
    settings: CandidateSettings | None = None,
) -> FittedScorer:
    """Train on past windows of `dataset`, whose latest window ends at its `as_of`.

    item_vectors: unit rows (n_items, dim). basics: Emb(I) of the dataset's people, (n_users, dim), or None. Raises
    `DataError` when the log is too short or holds too few actions to learn from; the message says what is missing.
    """
    args, settings, tell = args or TrainingArguments(), settings or CandidateSettings(), progress or (lambda _: None)
    target, notes = choose_target(dataset, args)
    population = replace(population or PopulationSettings(), target=target)
    past = Past(dataset, np.asarray(item_vectors, np.float32), basics, args, population, settings)
    windows: list[Window] = []
    judge: Window | None = None
    for place, start in enumerate(window_starts(dataset, target, args)):
        tell(f"window {place + 1}: {utc(start):%Y-%m-%d} and the {args.horizon_days} days after it")
        window, judges = past.window(start, judge=0 if place else args.judge_people)
        windows, judge = [*windows, window], judges or judge
    windows = [w for w in windows if w.label.any()]
    if not windows:
        raise DataError(
            f"in no window of {args.horizon_days} days did anybody take a candidate item, so there is nothing to learn "
            "from: load a longer log, or more people, or pass another horizon_days"
        )
    scorer, history, best = learn(windows, past.item_vectors, args, judge or windows[0], tell)
    scorer.platt.copy_(calibrate(scorer, past.item_vectors, judge or windows[0]))
    return FittedScorer(scorer.eval(), population, settings, history[best], tuple(history), notes)


def choose_target(dataset: Dataset, args: TrainingArguments) -> tuple[tuple[Action, ...], tuple[str, ...]]:
    """Purchases where there are enough; else carts and favourites with them; else all browsing as well."""
    ladder = (
        (Action.PURCHASE,),
        (Action.PURCHASE, Action.CART, Action.FAVOURITE),
        (Action.PURCHASE, Action.CART, Action.FAVOURITE, Action.CLICK, Action.VIEW),
    )
    counts = [len(of_actions(dataset.events, actions)) for actions in ladder]
    for actions, count in zip(ladder, counts, strict=True):
        if count >= args.least_actions:
            note = f"only {counts[0]} purchases: learned to predict {', '.join(actions)}"
            return actions, () if actions is ladder[0] else (note,)
    raise DataError(
        f"the log holds {counts[0]} purchases and {counts[-1]} purchases, carts, favourites, clicks and views in all; "
        f"training needs {args.least_actions}: load more events"
    )


def window_starts(dataset: Dataset, target: tuple[Action, ...], args: TrainingArguments) -> list[int]:
    """Starts of the windows, latest first; each has at least one horizon of history before it."""
    at = of_actions(dataset.events, target).at
    horizon = args.horizon_days * DAY
    first = int(at.min())
    starts = [dataset.as_of - horizon * i for i in range(1, args.n_windows + 1)]
    fit = [start for start in starts if start - first >= horizon / 2]
    if fit:
        return fit
    days = (dataset.as_of - first) / DAY
    raise DataError(
        f"the log spans {days:.0f} days; training with horizon_days={args.horizon_days} needs "
        f"{1.5 * args.horizon_days:.0f}: load a longer log or pass horizon_days={max(1, int(days // 3))}"
    )


def _goal(metrics: dict[str, float]) -> float:
    return metrics["ndcg@20_all"] + metrics["ndcg@20_new"]


def learn(
    windows: list[Window], item_vectors: Floats, args: TrainingArguments, judge: Window, tell: Progress
) -> tuple[Scorer, list[dict[str, float]], int]:
    """Train from scratch; the scorer of the kept round, all verdicts, and which was kept.

    A loss that is not finite ends training with the last good state.
    """
    config = ScorerConfig(
        dim=item_vectors.shape[1],
        features=FEATURE_NAMES,
        projection=args.projection,
        hidden=args.hidden,
        dropout=args.dropout,
        seed=args.seed,
    )
    scorer, vectors = Scorer(config), torch.from_numpy(item_vectors)
    scorer.standardise(np.concatenate([w.features[::7] for w in windows]))
    rng = np.random.default_rng(args.seed)
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    steps = args.epochs * sum(-(-w.n // args.batch_people) for w in windows)
    passes = max(1, -(-args.least_steps // steps))
    steps *= passes
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, steps))
    history: list[dict[str, float]] = []
    kept, best = _copy(scorer), -1
    for epoch in range(args.epochs):
        with torch.random.fork_rng(devices=[]):  # dropout is seeded, and the caller's random state left alone
            torch.manual_seed(args.seed * 1000 + epoch)
            loss = np.mean([_epoch(scorer, vectors, windows, args, optimiser, schedule, rng) for _ in range(passes)])
        if not np.isfinite(loss):
            tell(f"epoch {epoch + 1}: the loss is not finite; the last good state is kept")
            break
        history.append({"epoch": epoch + 1.0, "loss": float(loss), **evaluate(scorer, item_vectors, judge)})
        tell(", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
        # later rounds have the lower learning rate: only a clearly better earlier one is preferred to them
        if best < 0 or _goal(history[epoch]) > _goal(history[best]) - CLEAR:
            kept, best = _copy(scorer), epoch
        elif epoch - best >= args.patience:
            break
    if not history:
        raise DataError("the first epoch's loss is not finite: look for NaN or huge values in the vectors and prices")
    scorer.load_state_dict(kept)
    return scorer, history, best


CLEAR = 0.005
"""Differences of the judges' summed NDCG below this are chance: 300 people tell no finer."""


def _copy(scorer: Scorer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in scorer.state_dict().items()}


def _pace(step: int, steps: int) -> float:
    """Learning rate over the run, in [0, 1]: a warm-up of a tenth, then a cosine down to 1 %."""
    return float(min(1.0, (step + 1) / (steps / 10 + 1)) * (0.5 * (1 + np.cos(np.pi * step / max(steps, 1))) + 0.01))


def _epoch(
    scorer: Scorer,
    vectors: Tensor,
    windows: list[Window],
    args: TrainingArguments,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
) -> float:
    """One pass over all windows' people in random batches; the mean loss, nan as soon as a step's is not finite."""
    scorer.train()
    orders = [rng.permutation(w.n) for w in windows]
    batches = [(i, start) for i, w in enumerate(windows) for start in range(0, w.n, args.batch_people)]
    total = 0.0
    for place in rng.permutation(len(batches)):
        i, start = batches[place]
        loss = _loss(scorer, vectors, windows[i], orders[i][start : start + args.batch_people], args.new_weight)
        if not torch.isfinite(loss):
            return float("nan")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
    return total / max(len(batches), 1)


def _loss(scorer: Scorer, vectors: Tensor, window: Window, people: Ints, new_weight: float) -> Tensor:
    lengths = np.diff(window.indptr)[people]
    starts = np.repeat(window.indptr[people] - np.cumsum(lengths) + lengths, lengths)
    rows = starts + np.arange(len(starts))
    items, item = np.unique(window.item[rows], return_inverse=True)
    person = torch.from_numpy(np.repeat(np.arange(len(people)), lengths))
    score = scorer(
        scorer.project(torch.from_numpy(window.users[people])),
        scorer.project(vectors[items]),
        person,
        torch.from_numpy(item),
        torch.from_numpy(window.cosine[rows]),
        torch.from_numpy(window.features[rows]),
    )
    label = torch.from_numpy(window.label[rows])
    weighed = score.logit + torch.from_numpy(window.correction[rows])
    loss = listwise(score.logit, weighed, label, person, len(people))
    if new_weight:
        new = torch.from_numpy(~window.seen[rows])
        loss = loss + new_weight * listwise(score.logit[new], weighed[new], label[new], person[new], len(people))
    return loss


def listwise(logit: Tensor, weighed: Tensor, label: Tensor, person: Tensor, n: int) -> Tensor:
    """Mean over people of the mean of -log softmax at their positives.

    All (n_pairs,); `weighed` is the logit plus the sampling correction, which makes the sampled denominator an
    unbiased estimate of the full one. People without a positive do not count; 0 when nobody has one.
    """
    top = torch.full((n,), -torch.inf).scatter_reduce(0, person, weighed.detach(), "amax").clamp(min=-1e30)
    mass = torch.zeros(n).index_add(0, person, torch.exp(weighed - top[person]))
    place = person[label]
    loss = torch.zeros(n).index_add(0, place, (torch.log(mass) + top)[place] - logit[label])
    count = torch.zeros(n).index_add(0, place, torch.ones(len(place)))
    has = count > 0
    return (loss[has] / count[has]).sum() / has.sum().clamp(min=1)


def predict(scorer: Scorer, item_vectors: Floats, window: Window) -> Floats:
    """Logits (n_pairs,) of a window."""
    scorer.eval()
    person = np.repeat(np.arange(window.n), np.diff(window.indptr))
    out = np.zeros(len(person), np.float32)
    with torch.no_grad():
        users = scorer.project(torch.from_numpy(window.users))
        items, item = np.unique(window.item, return_inverse=True)
        projected = scorer.project(torch.from_numpy(item_vectors[items]))
        for start in range(0, len(person), 65_536):
            part = slice(start, start + 65_536)
            columns = (person[part], item[part], window.cosine[part], window.features[part])
            out[part] = scorer(users, projected, *(torch.from_numpy(c) for c in columns)).logit.numpy()
    return out


def evaluate(scorer: Scorer, item_vectors: Floats, window: Window, k: int = 20) -> dict[str, float]:
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


def calibrate(scorer: Scorer, item_vectors: Floats, window: Window) -> Tensor:
    """Platt's slope and intercept (2,): the likeliest sigmoid of the logit, by Newton's method on the window.

    Source: Platt 1999, with his smoothed targets.
    """
    logit, label = predict(scorer, item_vectors, window).astype(np.float64), window.label
    positives, n = label.sum(), len(label)
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (n - positives + 2))
    x = np.stack([logit, np.ones(n)], axis=1)
    weight = np.array([1.0, float(np.log((positives + 1) / (n - positives + 1)) - logit.mean())])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weight, -30, 30)))
        curve = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(curve, x.T @ (target - p))
        weight += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    return torch.tensor(weight, dtype=torch.float32)
