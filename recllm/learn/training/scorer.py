"""Learn the scorer on past windows of the log.

Several windows are learned together with a listwise softmax over each user's candidates, once over all of them and
once over those that are new to the user, so that one model serves both questions. Validation users, who are not
learned from in the latest window, say when to stop and calibrate the probability.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from recllm.base.arrays import Floats, Ints, Values
from recllm.base.errors import DataError
from recllm.base.schema import Progress
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.base.stats.probabilities import log_odds, logistic_line
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.pair_features import FEATURE_NAMES, HISTORY, NEWCOMER_FEATURES, SALES, SOLD_FEATURES, TIMED
from recllm.learn.models.scorer import TREES, Scorer, ScorerConfig, counting_score, sales, score_in_chunks
from recllm.learn.models.scorer_network import ScorerNetwork
from recllm.learn.models.sequence import SequenceArguments, SequenceModel
from recllm.learn.models.sequence_network import learn_sequence_model
from recllm.learn.models.trees import BoostingSettings, grow_trees
from recllm.learn.training.windows import SMALL_SHOP, PastWindows, Window, choose_target, list_quality, window_starts
from recllm.shop.data.dataset import DAY, Dataset, utc
from recllm.shop.data.interactions import within_limits
from recllm.text.encoder.hardware import one_core_each, workers

NEW_ITEM_WINDOWS = 6  # past windows whose new items, which never sold before, are learned
DISCOVERY_WEIGHT = 1.0  # of the loss over items that are new to the user; the loss over all weighs 1
LEVEL_WEIGHT = 0.05
"""Of the term that ties the level of a user's logits to how much they buy: without it only differences within a user
mean something, and neither probabilities nor the effect of a left out line do."""
PATIENCE = 2  # rounds without a better evaluation before training ends
WARMUP_SHARE = 0.1  # of the steps, in which the learning rate rises
FINAL_LEARNING_RATE_SHARE = 0.01  # left at the end of the cosine
WEIGHT_DECAY = 1e-2
MAX_GRAD_NORM = 5.0  # longer gradients are shortened to it
VALIDATION_USERS = 300  # at most a fifth of all
MIN_VALIDATION_USERS = 30
TREE_STEPS, TREE_COLUMNS = BoostingSettings(rounds=TREES[0], leaves=TREES[1], learning_rate=0.01), 0.2
"""Small steps, each split by a share of the features: the mean of many, where few would be chance."""
MIN_GAIN = 0.005  # of the summed NDCG; 300 users show no smaller difference than chance makes
CALIBRATION_PRIOR = 10.0  # outcomes as strong as the pull of the probability's slope towards 1
COLD_START_PRIOR = 1.0  # pull of the ranking for new users towards popularity

logger = logging.getLogger(__name__)

STANDARDISED_ROWS = 7
"""Mean and spread of the features are those of every seventh pair: a seventh of the memory."""


@dataclass(frozen=True, eq=False)
class FittedScorer:
    """A trained scorer and the record of how it came about."""

    scorer: Scorer
    population: CollaborativeSettings
    candidates: CandidateCounts
    metrics: dict[str, float]
    """NDCG@20 of the validation users of the latest window, after the epoch whose weights these are. The same users
    chose it and calibrated the probability, so the figures are somewhat too good."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know, e.g. that browsing stood in for purchases."""
    interests: SequenceModel | None = None


UNTIMED = CollaborativeSettings(item_item_half_life_days=None, item_item_l2=500.0)
"""Of a log that knows only each user's order: its steps are no days that anything could be forgotten in."""


def fit_scorer(
    dataset: Dataset,
    item_vectors: Floats,
    basics: Floats | None = None,
    args: ScorerTrainingSettings | None = None,
    progress: Progress | None = None,
    *,
    population: CollaborativeSettings | None = None,
    settings: CandidateCounts | None = None,
    interests: SequenceArguments | None = None,
    vectors_before: Callable[[int], Floats] | None = None,
) -> FittedScorer:
    """Train on past windows of `dataset`, whose latest window ends at its `as_of`; of each person's events within the
    limits of a day (`within_limits`). Where they are a sample of people, counts are scaled to all people.

    item_vectors: unit rows (n_items, dim). basics: Emb(I) of the dataset's users, (n_users, dim), or None.
    interests: of the sequence model, if any, whose score is one of the scorer's features.
    vectors_before: item vectors as of a past time, such as `DatedItemVectors.before`; without it `item_vectors` hold
    for the past as well. Without `progress` lines are logged. Raises `DataError` when the log is too short or holds too
    few actions to learn from.
    """
    args, settings = args or ScorerTrainingSettings(), settings or CandidateCounts()
    tell = progress or logger.info
    dataset = replace(dataset, events=within_limits(dataset.events, population or CollaborativeSettings()))
    explicit = population.explicit() if population else {}
    target, notes = (explicit["target"], ()) if "target" in explicit else choose_target(dataset, args)
    population = (CollaborativeSettings() if args.timed else UNTIMED).model_copy(update={"target": target, **explicit})
    vectors = np.asarray(item_vectors, np.float32)
    past = PastWindows(dataset, vectors, basics, args, population, settings, vectors_before)
    starts = window_starts(dataset, target, args)
    snapshots = _sequence_models(past, starts, interests, tell)
    counts = args.timed and dataset.n_users < SMALL_SHOP
    all_judge = counts and len(starts) > 1
    windows, validation, new_users = training_windows(past, starts, snapshots, tell, all_judge)
    if not windows:
        raise DataError(
            f"in no window of {args.horizon_days} days did anybody buy a candidate item, so there is nothing to learn "
            "from: load a longer log, or more people, or pass another horizon_days"
        )
    validation = validation or windows[0]
    if (n_buyers := validation.n_buyers) < MIN_VALIDATION_USERS:
        notes = (*notes, f"too few validation users ({n_buyers}): the metrics are rough, and the last round was used")
    metrics: dict[str, float] = {}
    if counts:
        judged, scorer = _counting(windows, args, validation, tell, new_users)
    else:
        network, metrics = learn(windows, args, validation, tell, new_users)
        judged = scorer = network.frozen()
    logit = predict(judged, validation)
    metrics |= list_quality(logit, validation)
    tell(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    scorer.weights["platt"][:] = calibrate(logit, validation, CALIBRATION_PRIOR)
    return FittedScorer(scorer, population, settings, metrics, notes, snapshots[-1])


def _counting(
    windows: list[Window], args: ScorerTrainingSettings, validation: Window, tell: Progress, new_users: Sequence[Window]
) -> tuple[Scorer, Scorer]:
    """Counting with the trees that `validation` judges, and with those to serve, which have learned from it, too. Items
    that never sold have the network."""
    arrivals, sold = ([w for w in windows if w.is_of_new_items == is_new] for is_new in (True, False))
    network = _untrained(windows, args, new_users)
    if arrivals:
        network, _ = learn(arrivals, args.model_copy(update={"min_steps": 0}), None, tell, new_users)
    columns = [validation.features[:, FEATURE_NAMES.index(name)] for name in ("buyers_28", "buyers_91")]
    best_seller = float(sales(*map(np.expm1, columns)).max())
    counting = counting_score(validation.features, FEATURE_NAMES, best_seller) + validation.correction
    # exp(logit) is an expected number of purchases
    level = float(np.log(max(validation.label.sum(), 1) / np.exp(counting, dtype=np.float64).sum()))
    names = network.config.sold_features

    def corrected(learned: list[Window]) -> Scorer:
        features, label, correction = (
            np.concatenate([getattr(w, name) for w in learned]) for name in ("features", "label", "correction")
        )
        trees = grow_trees(
            features[:, [FEATURE_NAMES.index(name) for name in names]],
            label.astype(np.float64),
            replace(TREE_STEPS, seed=args.seed),
            names=names,
            weights=np.exp(correction, dtype=np.float64),
            offset=counting_score(features, FEATURE_NAMES, best_seller).astype(np.float64) + level,
            column_share=TREE_COLUMNS,
        )
        return network.frozen().with_counting(trees, level, best_seller)

    sold = sold or windows
    return corrected([w for w in sold if w.as_of < validation.as_of] or sold), corrected(sold)


def _sequence_models(
    past: PastWindows, starts: list[int], args: SequenceArguments | None, tell: Progress
) -> Sequence[SequenceModel | None]:
    """The sequence model as it stood at each start, and at last with everything; all None without one."""
    cuts = [*sorted(starts), past.dataset.as_of]
    if args is None:
        return [None] * len(cuts)
    snapshots = learn_sequence_model(
        past.dataset,
        past.vectors_at,
        past.basics,
        past.collaborative.target,
        cuts,
        validation_start=cuts[0] - past.args.horizon_days * DAY,
        args=args,
        progress=tell,
    )
    if snapshots is None:
        tell("sequence model: too few events before the first window; it is left out")
        return [None] * len(cuts)
    return [*reversed(snapshots[:-1]), snapshots[-1]]


def training_windows(
    past: PastWindows, starts: list[int], snapshots: Sequence[SequenceModel | None], tell: Progress, all_judge: bool
) -> tuple[list[Window], Window | None, list[Window]]:
    """What to learn from, latest first, the validation users of the latest window, and users without their history."""
    args, new_item_starts = past.args, list[int]()
    if args.timed:
        new_item_starts = window_starts(past.dataset, past.collaborative.target, args, NEW_ITEM_WINDOWS)
    if snapshots[-1] is not None:  # no snapshot is old enough for the windows before the first of `starts`
        new_item_starts = new_item_starts[: len(starts)]
    times = max(starts, new_item_starts, key=len)  # both go back from the same day, window by window

    def examples(number: int) -> tuple[Window | None, ...]:
        """Window, new items, new users and validation users of one time."""
        population = past.population(times[number], snapshots[min(number, len(starts) - 1)])
        new_items = past.new_items(population) if number < len(new_item_starts) else None
        if number >= len(starts):
            return None, new_items, None, None
        judges = SMALL_SHOP if all_judge else VALIDATION_USERS
        window, validation = past.window(population, n_validation=0 if number else judges, overlap=all_judge)
        return window, new_items, past.new_users(population) if args.timed else None, validation

    parts = []
    # products of matrices leave the second core to the other window
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers()) as pool:
        for number, piece in enumerate(pool.map(examples, range(len(times)))):
            tell(f"window {number + 1}: {utc(times[number]):%Y-%m-%d} and the {args.horizon_days} days after it")
            parts.append(piece)
    windows = [w for piece in parts for w in piece[:2] if w is not None and w.label.any()]
    new_users = [piece[2] for piece in parts if piece[2] is not None and piece[2].label.any()]
    return windows, parts[0][3], new_users


def learn(
    windows: list[Window],
    args: ScorerTrainingSettings,
    validation: Window | None,
    tell: Progress,
    new_users: Sequence[Window] = (),
) -> tuple[ScorerNetwork, dict[str, float]]:
    """Train from scratch; the network with the weights of the best round, and its metrics.

    validation: None for the last round. new_users: windows of users without their history. A loss that is not finite
    ends training with the last good state.
    """
    network = _untrained(windows, args, new_users)
    rng = np.random.default_rng(args.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=WEIGHT_DECAY)
    # only windows of items that sold are repeated for a small log
    sold_windows = [w for w in windows if not w.is_of_new_items]
    n_batches, n_sold = (sum(-(-w.n // args.batch_size) for w in of) for of in (windows, sold_windows))
    passes = max(1, -(-args.min_steps // max(args.epochs * n_sold, 1)))
    steps = args.epochs * (n_batches + (passes - 1) * n_sold)

    def pace(step: int) -> float:
        """Share of the learning rate: a warm-up, then a cosine."""
        warm_up = min(1.0, (step + 1) / (steps * WARMUP_SHARE + 1))
        return float(warm_up * (0.5 * (1 + np.cos(np.pi * step / max(steps, 1))) + FINAL_LEARNING_RATE_SHARE))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, pace)
    history: list[dict[str, float]] = []
    weights, best = {name: value.clone() for name, value in network.state_dict().items()}, -1
    for epoch in range(args.epochs):
        with one_core_each() as pool:
            of_passes = [windows, *[sold_windows] * (passes - 1)]
            loss = np.mean([_epoch(network, of, args, optimiser, schedule, rng, pool) for of in of_passes])
        if not np.isfinite(loss):
            tell(f"epoch {epoch + 1}: the loss is not finite; the last good state is used")
            break
        quality = list_quality(predict(network.frozen(), validation), validation) if validation else {}
        history.append({"epoch": epoch + 1.0, "loss": float(loss), **quality})
        tell(", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
        # an earlier round, of a higher learning rate, must be clearly better
        goals = [metrics.get("ndcg@20_all", 0) + metrics.get("ndcg@20_new", 0) for metrics in history]
        says_little = validation is None or validation.n_buyers < MIN_VALIDATION_USERS
        if best < 0 or says_little or goals[epoch] > goals[best] - MIN_GAIN:
            weights, best = {name: value.clone() for name, value in network.state_dict().items()}, epoch
        elif epoch - best >= PATIENCE:
            break
    if not history:
        raise DataError("the first epoch's loss is not finite: look for NaN or huge values in the vectors and prices")
    network.load_state_dict(weights)
    return network, history[best]


def _untrained(windows: list[Window], args: ScorerTrainingSettings, new_users: Sequence[Window]) -> ScorerNetwork:
    """A network with random MLPs, the features' spread, and what to offer to users without a history."""
    timed, new_items = args.timed and "features" in args.parts, any(w.is_of_new_items for w in windows)
    config = ScorerConfig(
        dim=windows[0].item_vectors.shape[1],
        features=FEATURE_NAMES,
        sold_features=tuple(n for n in SOLD_FEATURES if args.timed or n not in TIMED),
        sales=SALES if timed or new_items else None,
        learned_arrivals=new_items,
        newcomer_features=NEWCOMER_FEATURES if timed else (),
        history=HISTORY if timed else None,
        **args.model_dump(include={"projection", "hidden", "parts", "heads", "seed"}),
    )
    network = ScorerNetwork(config)
    network.standardise(np.concatenate([w.features[::STANDARDISED_ROWS] for w in windows]))
    if timed:
        network.newcomer.copy_(torch.from_numpy(cold_start_weights(new_users, COLD_START_PRIOR)))
    return network


def _epoch(
    network: ScorerNetwork,
    windows: list[Window],
    args: ScorerTrainingSettings,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
) -> float:
    """One pass over all windows' users in random batches; the mean loss, nan once a step's is not finite."""
    network.train()
    orders = [rng.permutation(w.n) for w in windows]
    batches = [(i, start) for i, w in enumerate(windows) for start in range(0, w.n, args.batch_size)]
    total = 0.0
    for number in rng.permutation(len(batches)):
        i, start = batches[number]
        window, users = windows[i], orders[i][start : start + args.batch_size]
        buyers = window.buyers_among(users)
        optimiser.zero_grad()
        # two halves, one core each: their gradients sum to the same in either order
        halves = [piece for piece in np.array_split(users, 2) if len(piece)]
        loss = sum(pool.map(lambda piece, w=window, n=buyers: _add_gradient(network, w, args, n, piece), halves))
        if not np.isfinite(loss):
            return float("nan")
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
        optimiser.step()
        schedule.step()
        total += loss
    return total / max(len(batches), 1)


def _add_gradient(
    network: ScorerNetwork, window: Window, args: ScorerTrainingSettings, buyers: tuple[int, int], users: Ints
) -> float:
    """Adds the gradient of a part of a batch; what the part adds to the loss of the batch, which has `buyers`."""
    loss = _loss(network, window, users, args, buyers)
    if torch.isfinite(loss):
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _loss(
    network: ScorerNetwork, window: Window, users: Ints, args: ScorerTrainingSettings, buyers: tuple[int, int]
) -> Tensor:
    """What `users` add to the mean loss of a batch. buyers: of the batch, of anything and of what is new to them."""
    lengths = np.diff(window.indptr)[users]
    starts = np.repeat(window.indptr[users] - np.cumsum(lengths) + lengths, lengths)
    rows = starts + np.arange(len(starts))
    items, item = np.unique(window.vector_row[rows], return_inverse=True)
    user = torch.from_numpy(np.repeat(np.arange(len(users)), lengths))
    cosine = torch.from_numpy(window.cosine[rows])
    heads = network.each_head(
        network.project(torch.from_numpy(window.user_vectors[users])),
        network.project(torch.from_numpy(window.item_vectors[items])),
        user,
        torch.from_numpy(item),
        cosine,
        torch.from_numpy(window.features[rows]),
    )
    label, new = torch.from_numpy(window.label[rows]), torch.from_numpy(~window.bought_before[rows])
    correction, n = torch.from_numpy(window.correction[rows]), len(users)
    pairs = zip(window.buyers_among(users), buyers, strict=True)
    share, share_new = (count / max(total, 1) for count, total in pairs)
    loss = torch.zeros(())
    for logit in heads + network.cosine_weight * cosine:  # each head learns for itself, so that their mistakes differ
        corrected = logit + correction
        loss = loss + share * listwise(logit, corrected, label, user, n)
        new_loss = listwise(logit[new], corrected[new], label[new], user[new], n)
        loss = loss + DISCOVERY_WEIGHT * share_new * new_loss
        loss = loss + LEVEL_WEIGHT * share * level(corrected, label, user, n)
    return loss / len(heads)


def listwise(logit: Tensor, corrected: Tensor, label: Tensor, user: Tensor, n: int) -> Tensor:
    """Mean over users of the mean of -log softmax at their positives.

    All (n_pairs,); `corrected` is the logit plus the sampling correction, which makes the sampled denominator an
    unbiased estimate of the full one. Users without a positive do not count; 0 without any positive.
    """
    total = _log_total(corrected, user, n)
    buyer = user[label]
    loss = torch.zeros(n).index_add(0, buyer, total.index_select(0, buyer) - logit[label])
    count = torch.zeros(n).index_add(0, buyer, torch.ones(len(buyer)))
    has = count > 0
    return (loss[has] / count[has]).sum() / has.sum().clamp(min=1)


def level(corrected: Tensor, label: Tensor, user: Tensor, n: int) -> Tensor:
    """Mean over users of the squared log ratio between the summed exp(logit) and what the user bought.

    It makes exp(logit) an expected number of purchases. Users without a positive do not count.
    """
    count = torch.zeros(n).index_add(0, user, label.float())
    has = count > 0
    off = _log_total(corrected, user, n)[has] - torch.log(count[has])
    return (off**2).sum() / has.sum().clamp(min=1)


def _log_total(corrected: Tensor, user: Tensor, n: int) -> Tensor:
    """Log of each user's summed exp, (n,), without overflow; very low for a user without pairs."""
    top = torch.full((n,), -torch.inf).scatter_reduce(0, user, corrected.detach(), "amax").clamp(min=-1e30)
    return torch.log(torch.zeros(n).index_add(0, user, torch.exp(corrected - top[user])).clamp(min=1e-30)) + top


def predict(scorer: Scorer, window: Window) -> Floats:
    """Logits (n_pairs,) of a window."""
    users, items = scorer.project(window.user_vectors), scorer.project(window.item_vectors)
    pairs = (window.user, window.vector_row, window.cosine, window.features)
    return np.asarray(score_in_chunks(scorer.score, users, items, *pairs).logit)


def calibrate(logit: Floats, window: Window, prior: float) -> Floats:
    """Platt's slope and intercept (2,): the likeliest sigmoid of the logit (n_pairs,), by Newton's method.

    Source: Platt 1999, with his smoothed targets. Sampled negatives weigh as much as they stand for. The slope is drawn
    towards 1, the slope of a softmax that is right, as strongly as `prior` outcomes would draw it, so that a handful of
    users cannot turn it round.
    """
    weight, label = np.exp(window.correction.astype(np.float64)), window.label
    positives, negatives = label.sum(), weight[~label].sum()
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    rate = (label.sum() + 1) / (weight.sum() + 2)
    start = (1.0, float(log_odds(rate) - np.average(logit, weights=weight)))
    line = logistic_line(logit, target, weight, start=start, strength=(prior, 1e-3))
    return np.array([max(line[0], 0.05), line[1]], np.float32)


def cold_start_weights(windows: Sequence[Window], prior: float) -> Values:
    """Weights of `NEWCOMER_FEATURES` and, last, the constant, (n + 1,), from windows of users without a history.

    prior: pull of each weight towards popularity, the first weight to 1 and the others to 0. Popularity alone without
    any window.
    """
    start = np.zeros(len(NEWCOMER_FEATURES) + 1)
    start[0] = 1.0
    if not windows:
        return start
    columns = [FEATURE_NAMES.index(name) for name in NEWCOMER_FEATURES]
    x = np.concatenate([w.features[:, columns] for w in windows]).astype(np.float64)
    label = np.concatenate([w.label for w in windows]).astype(np.float64)
    return poisson(x, label, np.concatenate([w.correction for w in windows]).astype(np.float64), start, prior)


def poisson(
    x: Values,
    label: Values,
    log_weight: Values,
    start: Values,
    ridge: float,
) -> Values:
    """Weights and, last, the constant that minimise sum(exp(z + log_weight)) - sum(label z) + ridge towards `start`,
    z = x w + b; the constant is free. x (n, d), label and log_weight (n,), start (d + 1,)."""
    from sklearn.linear_model import PoissonRegressor

    # what is learned is the distance from `start`, whose part of the rate weighs like the weight itself
    weight = np.exp(log_weight + x @ start[:-1])
    model = PoissonRegressor(alpha=2 * ridge / weight.sum(), solver="newton-cholesky", tol=1e-9)
    model.fit(x, np.maximum(label, 1e-9) / weight, sample_weight=weight)  # a rate of 0 has no logarithm
    return np.append(start[:-1] + model.coef_, model.intercept_)
