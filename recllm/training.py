"""Learn the scorer on past windows of the log.

Each window stands at an earlier time: the crowd and the histories are cut there, and what people took in the horizon
after it is the truth. Several windows are learned together with a listwise softmax over each person's candidates, once
over all of them and once over those that are new to the person, so that one model serves both questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recllm.candidates import Candidates, CandidateSettings, candidates
from recllm.dataset import DAY, Dataset, utc
from recllm.errors import DataError, ModelError
from recllm.features import FEATURE_NAMES, pair_features
from recllm.histories import Floats, Ints, Tally, of_actions
from recllm.population import Asked, Population, PopulationSettings, ask
from recllm.schema import Action
from recllm.scorer import Scorer, ScorerConfig, load_scorer, save_scorer

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    horizon_days: int = 28
    least_actions: int = 200
    """Purchases below this number: weaker actions are learned from as well."""
    n_windows: int = 5
    """Windows at most; the latest decides when to stop, and the others are learned from before that."""
    epochs: int = 3
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
    judged_people: int = 600
    """People of the latest window whose whole candidate lists judge the model after each epoch."""
    refit: bool = True
    """Learn once more with the latest window included, for as many epochs as were best."""
    projection: int = 32
    hidden: tuple[int, ...] = (96, 96)
    dropout: float = 0.1
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


def build_window(
    dataset: Dataset,
    item_vectors: Floats,
    basics: Floats | None,
    start: int,
    args: TrainingArguments,
    population: PopulationSettings,
    settings: CandidateSettings,
    *,
    sample: bool,
    people_limit: int,
) -> Window:
    """The window [start, start + horizon). `sample` keeps all positives and some negatives, else every candidate."""
    past = dataset.before(start)
    crowd = Population.fit(past, item_vectors, population)
    e = dataset.events
    after = of_actions(e.select((e.at >= start) & (e.at < start + args.horizon_days * DAY)), population.target)
    truth = Tally.of(after.user, after.item, dataset.n_items)
    allowed = crowd.stats.buyers_ever > 0
    rng = np.random.default_rng([args.seed, start])
    people = np.unique(truth.user[allowed[truth.key]])
    if len(people) > people_limit:
        people = np.sort(rng.choice(people, people_limit, replace=False))
    parts = []
    for block in range(0, len(people), 256):
        rows = people[block : block + 256]
        told = None if basics is None else basics[rows]
        asked = ask(crowd, past.events.rows(rows), start, own=rows, basics=told)
        parts.append(_block(crowd, asked, rows, truth, allowed, settings, args if sample else None, rng))
    return _join(parts)


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

    metrics: of the latest window, before the refit. history: one entry per epoch. notes: what a reader of the
    figures should know, e.g. that browsing stood in for purchases.
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
    starts = window_starts(dataset, target, args)

    def build(start: int, sample: bool, limit: int) -> Window:
        tell(f"building the window of {utc(start):%Y-%m-%d}")
        return build_window(
            dataset, item_vectors, basics, start, args, population, settings, sample=sample, people_limit=limit
        )

    judge = build(starts[0], False, args.judged_people)
    older = [build(start, True, args.people_per_window) for start in starts[1:]]
    scorer, history = _learn(older or [judge], item_vectors, args, tell, judge)
    platt = calibrate(scorer, item_vectors, judge)
    best = max(range(len(history)), key=lambda i: _goal(history[i]))
    if args.refit and older:
        latest = build(starts[0], True, args.people_per_window)
        scorer, _ = _learn([latest, *older], item_vectors, replace(args, epochs=best + 1), tell, None)
    scorer.platt.copy_(platt)
    return FittedScorer(scorer.eval(), population, settings, history[best], tuple(history), notes)


RECORD = "trained.json"


def save_fitted(fitted: FittedScorer, folder: Path) -> None:
    """Write the scorer and its record into an existing folder. Nothing in it is about a single person."""
    save_scorer(fitted.scorer, folder)
    record = {
        "population": asdict(fitted.population),
        "candidates": asdict(fitted.candidates),
        "metrics": fitted.metrics,
        "history": fitted.history,
        "notes": fitted.notes,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_fitted(folder: Path) -> FittedScorer:
    """Read what `save_fitted` wrote. Raises `ModelError` when a file is missing or does not fit this version."""
    scorer = load_scorer(folder)
    if scorer.config.features != FEATURE_NAMES:
        raise ModelError(f"{folder}: trained on other pair features than this version computes; train again")
    try:
        raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        raw["population"]["target"] = tuple(Action(a) for a in raw["population"]["target"])
        return FittedScorer(
            scorer,
            PopulationSettings(**raw["population"]),
            CandidateSettings(**raw["candidates"]),
            raw["metrics"],
            tuple(raw["history"]),
            tuple(raw["notes"]),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder / RECORD}: not a record of this version ({error}); train again") from error


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


def _learn(
    windows: list[Window], item_vectors: Floats, args: TrainingArguments, tell: Progress, judge: Window | None
) -> tuple[Scorer, list[dict[str, float]]]:
    """Train from scratch. With a judge its best epoch is kept. A loss that is not finite ends training."""
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
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, steps))
    history: list[dict[str, float]] = []
    best = _copy(scorer)
    for epoch in range(args.epochs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed * 1000 + epoch)
            loss = _epoch(scorer, vectors, windows, args, optimiser, schedule, rng)
        if not np.isfinite(loss):
            scorer.load_state_dict(best)
            tell(f"epoch {epoch + 1}: the loss is not finite; the last good state is kept")
            break
        entry = {"epoch": epoch + 1.0, "loss": loss, **(evaluate(scorer, item_vectors, judge) if judge else {})}
        tell(", ".join(f"{name} {value:.4f}" for name, value in entry.items()))
        history.append(entry)
        if judge is None or max(range(len(history)), key=lambda i: _goal(history[i])) == epoch:
            best = _copy(scorer)
        elif epoch - max(range(len(history)), key=lambda i: _goal(history[i])) >= args.patience:
            break
    scorer.load_state_dict(best)
    return scorer, history


def _copy(scorer: Scorer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in scorer.state_dict().items()}


def _pace(step: int, steps: int) -> float:
    """Learning rate over the run, in [0, 1]: 50 steps of warm-up, then a cosine down to 1 %."""
    return float(min(1.0, (step + 1) / 50) * (0.5 * (1 + np.cos(np.pi * step / max(steps, 1))) + 0.01))


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
