"""Learning under user-level differential privacy: what is lost, and what attacks still see.

    python eval/private_training.py -o eval/results/private-training.json
    python eval/private_training.py --part lira -o FILE      one of its parts: quality, lira, audit

quality  HR@10 and NDCG@10 of the private scorer at epsilon 8, 3, 2 and 1, of the same scorer without privacy, of its
         first weights, and of recllm as it is otherwise trained (it counts the crowd), on cj-next28 and beauty-loo.
lira     64 models, each learned from a random half of some households of Complete Journey; the control is larger, and
         trained far too long without privacy: it has to be caught, or else the attack is worth nothing.
audit    one run with canaries, each in by a fair coin: white box (the sum of all noisy gradients is seen) and black box
         (the final weights are). The control has hardly any noise.

The noise and who is drawn come from the system's source of chance: private figures differ a little from run to run.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import RESULTS, default_encoder, finish, say, script_parser, window_of
from membership import audited_epsilon, likelihood_ratio_attack, logit_confidence
from numpy.typing import NDArray

from recllm.base.schema import Encoder
from recllm.base.settings import CollaborativeSettings, PrivateTrainingSettings
from recllm.base.stats.ranking import Truth, average, hit_rate, ndcg
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.learn.features.other_crowds import PRIVATE_CANDIDATES, is_listed
from recllm.learn.training.private import head
from recllm.learn.training.private.accounting import PrivateMechanism, planned_mechanism
from recllm.learn.training.private.descent import PrivateDescent
from recllm.learn.training.private.examples import PAIR_SIZES, TARGET, PairSizes, UserWindows, user_windows
from recllm.learn.training.private.head import (
    HeadExamples,
    HeadNetwork,
    learn_privately,
    main_directions,
    served_scorer,
)
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.evaluation.systems import advised_recipe, learned_system
from recllm.recommend.recommender.private_model import catalogue_vectors, private_population
from recllm.recommend.recommender.ranking import ItemRanker, UserInputs
from recllm.shop.data.dataset import DAY
from recllm.shop.data.interactions import Floats, Ints

EPSILONS = (8.0, 3.0, 2.0, 1.0)
K = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "cj-next28": {},
    "beauty-loo": {"sampling_rate": 0.01, "n_windows": 2},
}
"""Of ten times as many users a fifth is drawn a step: about twice as many users."""
METRICS = {"hr": hit_rate, "ndcg": ndcg}
MEASURED = 1_000
"""Users of a slice on whom a scorer is measured at most, always the same."""
SLICES = {"cj-next28": ("ALL", "NEW"), "beauty-loo": ("MASKED",)}

N_MODELS, N_PEOPLE = 64, 300
CONTROL_HIDDEN, CONTROL = 64, {"steps": 100, "sampling_rate": 1.0}
CONTROL_LOOP = (2e-2, 0.0)
NARROW, NARROW_PAIRS = {"n_windows": 1, "steps": 100}, (8, 8, 8, 8)
"""In the attacks: a third of the pairs and of the steps (at less noise), so that 128 models are learned in minutes."""
N_CANARIES = 1_000


@dataclass(frozen=True, eq=False)
class Task:
    """What a window lets a private scorer learn from."""

    window: EvaluationWindow
    vectors: Floats
    basics: Floats
    settings: PrivateTrainingSettings

    @classmethod
    def of(cls, protocol: str, encoder: Encoder, args: Namespace, **changes: Any) -> Task:
        window = window_of(protocol, args, validation=args.validation)
        past = window.fit_on
        basics = basics_vectors(encoder, basics_of(past.users))
        settings = PrivateTrainingSettings(**{**SETTINGS[protocol], "seed": args.seed, **changes})
        return cls(window, catalogue_vectors(encoder, past.items, past.as_of), basics, settings)

    @property
    def listed(self) -> NDArray[np.bool_]:
        return is_listed(self.window.fit_on.items)

    def windows(self, sizes: PairSizes = PAIR_SIZES) -> UserWindows:
        counted = CollaborativeSettings(target=TARGET)
        return user_windows(self.window.fit_on, self.vectors, self.basics, self.settings, counted, sizes)

    def buyers(self) -> Ints:
        """Rows of the users who bought anything in the latest window, each as often as they did."""
        past, days = self.window.fit_on, self.settings.horizon_days
        return past.between(past.as_of - days * DAY, past.as_of).user.astype(np.int64)

    def of_some(self, users: Ints) -> Task:
        """With nobody else's events."""
        past = self.window.fit_on
        events = past.events.select(np.isin(past.events.user, users))
        return replace(self, window=replace(self.window, fit_on=replace(past, events=events)))

    def directions(self) -> Floats:
        return main_directions(self.vectors[self.listed], head.COMPONENTS)

    def network(self, settings: PrivateTrainingSettings, hidden: int = head.HIDDEN) -> HeadNetwork:
        return HeadNetwork(head.COMPONENTS, hidden, int(self.listed.sum()), settings.seed)


def main() -> None:
    parser = script_parser(__doc__, "seed", "data", "cache", "validation")
    parser.add_argument("--full", action="store_true", help="train recllm without privacy here, too")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="only these parts; all without")
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder, record = default_encoder(args), _earlier(args.output)
    for part in args.part or PARTS:
        started = time.perf_counter()
        for name, values in PARTS[part](encoder, args).items():
            record[name] = {**record.get(name, {}), **values}
        record.setdefault("part_seconds", {})[part] = round(time.perf_counter() - started, 1)
    record |= {
        "protocol": "private-training" + ("-validation" if args.validation else ""),
        "seed": args.seed,
    }
    finish(record, args.output)


def _earlier(output: Path | None) -> dict[str, Any]:
    """What other parts wrote into the file before."""
    if output is None or not output.exists():
        return {}
    record = json.loads(output.read_text("utf-8"))
    kept_names = ("data_hash", "epsilon", "lira", "audit", "quality", "settings", "part_seconds")
    return {name: record[name] for name in kept_names if name in record}


# --- quality ---------------------------------------------------------------------------------------------------------


def quality(encoder: Encoder, args: Namespace) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    mechanisms: dict[str, Any] = {}
    hashes, used = {}, {}
    for protocol in SLICES:
        task = Task.of(protocol, encoder, args)
        examples = HeadExamples.of(task.windows(), task.vectors, task.directions())
        say("%s: %d examples of %d users", protocol, len(examples.windows), examples.windows.n_users)
        rows = {"first weights": measured(task, task.network(task.settings), protocol)}
        plain = task.network(task.settings)
        learn_without_privacy(plain, examples, task.settings, np.random.default_rng(args.seed))
        rows["without privacy, same features"] = measured(task, plain, protocol)
        for epsilon in EPSILONS:
            settings = task.settings.model_copy(update={"epsilon": epsilon})
            mechanism = planned_mechanism(examples.windows.n_users, settings)
            network = task.network(settings)
            learn_privately(network, examples, settings, mechanism)
            rows[f"epsilon {epsilon:g}"] = measured(task, network, protocol)
            mechanisms[f"{protocol} {epsilon:g}"] = mechanism.model_dump()
            say("%s epsilon %g: %s", protocol, epsilon, rows[f"epsilon {epsilon:g}"])
        if not args.validation:
            rows["recllm without privacy"] = full(task, encoder, protocol, args.seed, trained_here=args.full)
        tables[protocol], hashes[protocol] = rows, task.window.data_hash
        used[protocol] = task.settings.model_dump(mode="json")
    return {
        "quality": tables,
        "data_hash": hashes,
        "settings": used,
        "epsilon": {"accountant": "prv", "mechanisms": mechanisms},
    }


def measured(task: Task, network: HeadNetwork, protocol: str) -> dict[str, Any]:
    """HR@10 and NDCG@10 of each slice, served as a private model is."""
    window, past = task.window, task.window.fit_on
    scorer = served_scorer(network, task.directions())
    population = private_population(past.items, task.vectors, past.as_of, scorer, CollaborativeSettings(target=TARGET))
    ranker, values = ItemRanker(scorer, population, PRIVATE_CANDIDATES), {}
    first = window.slice(SLICES[protocol][0])
    people = first.users[measured_users(len(first.users), MEASURED)]
    query = window.query(replace(first, users=people), K)
    allowed = np.isin(np.arange(past.n_items), query.items)
    users = UserInputs(query.dataset.events.rows(people), query.as_of, None, task.basics[people])
    both = ranker.rank_with_and_without_repeats(users, 2 * K, allowed=allowed)
    for name in SLICES[protocol]:
        part = window.slice(name)
        of_both, at, in_part = np.intersect1d(people, part.users, return_indices=True)
        values[name] = figures_of(both[part.mask_seen].item[at], part.truth.rows(in_part)) | {"users": len(of_both)}
    return values


def measured_users(n: int, size: int) -> Ints:
    """Numbers of those on whom scorers are measured, of n at most `size`."""
    return np.sort(np.random.default_rng(0).permutation(n)[:size])


def figures_of(lists: NDArray[np.int32], truth: Truth) -> dict[str, float]:
    return {f"{name}@{k}": average(metric(lists, truth, k)) for k in (K, 2 * K) for name, metric in METRICS.items()}


def full(task: Task, encoder: Encoder, protocol: str, seed: int, *, trained_here: bool) -> dict[str, Any]:
    """recllm as it is otherwise trained, from its own result file: all users of the slices, at that protocol's k. With
    `--full` it is trained here, its encoder left as it is."""
    record = json.loads((RESULTS / f"{protocol}.json").read_text("utf-8"))
    names = [f"{metric}@{record['k']}" for metric in METRICS]
    slices = record["systems"]["recllm"]
    values: dict[str, Any] = {part: {name: slices[part][name] for name in names} for part in SLICES[protocol]}
    values |= {"source": f"{protocol}.json", "same_data": record["data_hash"] == task.window.data_hash}
    if not trained_here:
        return values
    system = learned_system(encoder, advised_recipe(task.window.fit_on, encoder, tuned=False, seed=seed))
    for name in SLICES[protocol]:
        part = task.window.slice(name)
        values[name] |= figures_of(system.rank(task.window.query(part, 2 * K)).items, part.truth)
    return values


def learn_without_privacy(
    network: HeadNetwork,
    examples: HeadExamples,
    settings: PrivateTrainingSettings,
    rng: np.random.Generator,
    users: Ints | None = None,
    loop: tuple[float, float] = (head.LEARNING_RATE, head.AVERAGED_SHARE),
) -> None:
    """The same loop without a limit of any user's gradient, and without noise. loop: learning rate, averaged share."""
    rows = np.arange(examples.windows.n_users) if users is None else users
    optimiser = torch.optim.Adam(network.parameters(), lr=loop[0])
    after_step = head.averaged(network, settings.steps, loop[1])
    for step in range(1, settings.steps + 1):
        drawn = rows[rng.random(len(rows)) < settings.sampling_rate]
        some = examples.draw(drawn, rng.random(len(drawn)))
        some = some[some >= 0]
        if len(some):
            optimiser.zero_grad()
            examples.losses(network, some).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        after_step(step)


# --- attacks ---------------------------------------------------------------------------------------------------------


def lira(encoder: Encoder, args: Namespace) -> dict[str, Any]:
    task = Task.of("cj-next28", encoder, args, **NARROW)
    rng = np.random.default_rng([args.seed, 1])
    task = task.of_some(np.sort(rng.permutation(np.unique(task.buyers()))[:N_PEOPLE]))
    windows = task.windows(NARROW_PAIRS)
    people = np.unique(windows.user)
    examples = HeadExamples.of(only(windows, people), task.vectors, task.directions())
    # each household is in half of the models
    member = np.argsort(rng.random((N_MODELS, len(people))), axis=0) < N_MODELS // 2
    control = task.settings.model_copy(update=CONTROL)
    mechanism = planned_mechanism(int(member[0].sum()), task.settings)

    def overtrained(number: int) -> HeadNetwork:
        network = task.network(control, CONTROL_HIDDEN)
        rng, members = np.random.default_rng([args.seed, number]), np.flatnonzero(member[number])
        learn_without_privacy(network, examples, control, rng, members, CONTROL_LOOP)
        return network

    def private(number: int) -> HeadNetwork:
        network = task.network(task.settings)
        learn_privately(network, examples, task.settings, mechanism, users=np.flatnonzero(member[number]))
        return network

    trained = {"control": overtrained, "private": private}
    confidence: dict[str, list[NDArray[np.float64]]] = {name: [] for name in trained}
    for number in range(N_MODELS):
        for name, train in trained.items():
            confidence[name].append(confidences(train(number), examples))
        done = number + 1
        some = member[:done].sum(axis=0)
        if done % 8 == 0:
            enough = (some >= 3) & (done - some >= 3)
            reports = {
                name: likelihood_ratio_attack(np.stack(of)[:, enough], member[:done, enough])
                for name, of in confidence.items()
            }
            say("lira, %d models, %d users: %s", done, enough.sum(), reports)
    figures: dict[str, Any] = {"models": N_MODELS, "users": len(people), "fpr": 0.01}
    for name, report in reports.items():
        figures |= {f"{name}_auc": report.auc, f"{name}_tpr": report.tpr}
    figures |= {"epsilon": mechanism.epsilon, "delta": mechanism.delta, "control": CONTROL, "private": NARROW}
    return {"lira": figures, "data_hash": {"cj-next28": task.window.data_hash}}


def only(windows: UserWindows, people: Ints) -> UserWindows:
    """The latest example of these users, who get the rows 0, 1, ..."""
    at = np.searchsorted(windows.user, people)
    columns = {
        name: getattr(windows, name)[at]
        for name in ("start", "item", "is_pair", "label", "is_new", "correction", "cosine", "features", "user_vectors")
    }
    return UserWindows(n_users=len(people), user=np.arange(len(people)), **columns)


def confidences(network: HeadNetwork, examples: HeadExamples) -> NDArray[np.float64]:
    """Of each user's example, (n_users,)."""
    network.eval()
    with torch.no_grad():
        loss = torch.cat(
            [examples.losses(network, rows) for rows in np.array_split(np.arange(len(examples.windows)), 8)]
        )
    # the loss has two lists and a level: half of it is about one list's
    return logit_confidence(loss.numpy().astype(np.float64) / 2)


def with_canaries(windows: UserWindows, n: int, rng: np.random.Generator) -> UserWindows:
    """Behind the users, copies of some who bought other items of their lists than they did."""
    rows = rng.choice(len(windows), n, replace=False)
    label = np.zeros_like(windows.label[rows])
    for number, row in enumerate(rows.tolist()):
        pairs = np.flatnonzero(windows.is_pair[row] & ~windows.label[row])
        label[number, rng.choice(pairs, min(3, len(pairs)), replace=False)] = True
    columns = {
        name: np.concatenate([getattr(windows, name), getattr(windows, name)[rows]])
        for name in ("start", "item", "is_pair", "is_new", "correction", "cosine", "features", "user_vectors")
    }
    users = np.arange(len(windows) + n)
    return UserWindows(n_users=len(users), user=users, label=np.concatenate([windows.label, label]), **columns)


def audit(encoder: Encoder, args: Namespace) -> dict[str, Any]:
    task = Task.of("cj-next28", encoder, args, **NARROW)
    rng = np.random.default_rng([args.seed, 2])
    windows = task.windows(NARROW_PAIRS)
    people = np.sort(rng.permutation(np.unique(windows.user)))
    latest = only(windows, people)
    included = rng.random(N_CANARIES) < 0.5
    n_real = len(people)
    mechanism = planned_mechanism(n_real + int(included.sum()), task.settings)
    quiet = mechanism.model_copy(update={"noise_multiplier": 0.02})
    figures: dict[str, Any] = {"canaries": N_CANARIES, "level": 0.95, "claimed": mechanism.epsilon}
    for name, used in (("private", mechanism), ("control", quiet)):
        score = white_box_scores(included, used)
        figures[f"white_box_{name}"] = audited_epsilon(score, included, mechanism.delta)
        say("audit, white box, %s: %.3f", name, figures[f"white_box_{name}"])
    mislabelled = with_canaries(latest, N_CANARIES, rng)
    examples = HeadExamples.of(mislabelled, task.vectors, task.directions())
    users = np.concatenate([np.arange(n_real), n_real + np.flatnonzero(included)])
    for name in ("private", "control"):
        control = task.settings.model_copy(update=CONTROL | {"steps": 600, "sampling_rate": 0.1})
        network = task.network(task.settings) if name == "private" else task.network(control, CONTROL_HIDDEN)
        if name == "private":
            learn_privately(network, examples, task.settings, mechanism, users=users)
        else:
            learn_without_privacy(network, examples, control, np.random.default_rng(args.seed), users, CONTROL_LOOP)
        # a canary's own first loss is taken off: some are easier than others
        start = confidences(task.network(task.settings), examples)[n_real:]
        score = confidences(network, examples)[n_real:] - start
        figures[f"black_box_{name}"] = audited_epsilon(score, included, mechanism.delta)
        say("audit, black box, %s: %.3f", name, figures[f"black_box_{name}"])
    low = max(figures["white_box_private"], figures["black_box_private"])
    return {
        "audit": figures,
        "epsilon": {"claimed": mechanism.epsilon, "accountant": mechanism.accountant, "audit_low": low},
        "data_hash": {"cj-next28": task.window.data_hash},
    }


def white_box_scores(included: NDArray[np.bool_], mechanism: PrivateMechanism) -> NDArray[np.float64]:
    """What all noisy sums together hold in the direction of each canary, (n_canaries,).

    A canary is a user whose gradient is one coordinate of a linear layer, longer than it may be; there are no others,
    as whoever is sought is easiest to see where nobody else moves anything.
    """
    canaries, directions = np.flatnonzero(included), torch.eye(len(included)) * 1e3
    network = torch.nn.Linear(len(included), 1, bias=False)

    def losses(users: Ints) -> torch.Tensor:
        return network(directions[torch.from_numpy(canaries[users])]).squeeze(1)

    optimiser = torch.optim.SGD(network.parameters(), lr=1e-9)
    descent = PrivateDescent(network, optimiser, losses, len(canaries), mechanism)
    total = torch.zeros(1, len(included))
    descent.optimiser.attach_step_hook(lambda _: total.add_(network.weight.grad))
    descent.run()
    return total.flatten().numpy().astype(np.float64)


PARTS: dict[str, Callable[[Encoder, Namespace], dict[str, Any]]] = {
    "quality": quality,
    "lira": lira,
    "audit": audit,
}


if __name__ == "__main__":
    main()
