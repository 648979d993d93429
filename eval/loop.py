"""Does the closed loop improve a shop, and does it refuse what is worse:  python eval/loop.py -o eval/results/loop.json

For each seed a young shop of simulated customers (`simulated_shop.py`) begins with five weeks of Complete Journey,
trains a model, and serves it by `recllm serve` over HTTP for some weeks. Every week `recllm retrain --if-due` learns
from the grown log, which now has answers to slates in it. At each visit of the later weeks the slate of the first day's
model and that of the model which the loop promoted are both computed, from the same events and without exploration, and
the simulation knows exactly how many clicks each is worth. `improved` counts the seeds in which the interval (95 %,
people drawn anew) of the difference lies above zero. In those weeks an experiment of the service splits people between
the two models as well, as a shop would do it; what it says stands beside, from so few people with a wide interval.

The shop is too small to tell a slightly better model from a slightly worse one, so its gate lets pass what may be
either (`when_uncertain = "promote"`). At the end of each seed four worse models go before the gate as it is by default:
learned from mixed up purchases, from purchases half of which are made up, from a twentieth of the people, and not
learned at all; `refused` counts those that it refused.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
from inputs import finish, load_average, recllm, say, script_parser, show_progress
from serve import server
from simulated_shop import Customers, ServedSlate, ShopLog, replay

from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.workspace import Workspace, overridden, present

START = datetime(2017, 2, 5)
SETTINGS = """
[retraining]
window_days = 7
min_days = 6
max_new_events = 0.01
when_uncertain = "promote"

[experiments]
explore_share = 0.1

[scorer]
horizon_days = 14
n_windows = 6
epochs = 4
heads = 1
hidden = [32]
projection = 16
"""


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--households", type=int, default=300)
    parser.add_argument("--weeks", type=int, default=8, help="of the replay")
    parser.add_argument("--learning-weeks", type=int, default=5, help="of them, before models are compared")
    parser.add_argument("--parallel", type=int, default=2, help="seeds at once, each in a process of its own")
    parser.add_argument("--encoder", default=None, help="of the workspace; the default encoder when left out")
    args = parser.parse_args()
    load = load_average()
    with ProcessPoolExecutor(args.parallel, mp_context=get_context("spawn"), initializer=show_progress) as pool:
        runs = list(pool.map(one_seed, range(args.seeds), repeat(args)))
    record = {
        "protocol": "loop",
        "seeds": args.seeds,
        "households": args.households,
        "weeks": args.weeks,
        "learning_weeks": args.learning_weeks,
        "encoder": args.encoder,
        "improved": sum(run["difference"]["low"] > 0 for run in runs),
        "worse_models": sum(run["worse_models"] for run in runs),
        "refused": sum(run["refused"] for run in runs),
        "runs": runs,
        "load_average": load,
    }
    finish(record, args.output)


def one_seed(seed: int, args: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    log = ShopLog.read(args.households, START, rng, min_sales=5)
    customers = Customers(log, rng)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shop"
        options = [] if args.encoder is None else ["--encoder", args.encoder]
        recllm("init", "-w", str(folder), "--consent-default", "granted", "--currency", "USD", *options)
        with (folder / "workspace.toml").open("a") as settings:
            settings.write(SETTINGS)
        products, transactions = log.write(Path(scratch))
        recllm("ingest", str(products), "--table", "items", "--map", "complete-journey-products", "-w", str(folder))
        recllm(
            *("ingest", str(transactions), "--table", "events", "--map", "complete-journey-transactions"),
            *("-w", str(folder)),
        )
        recllm("train", "-w", str(folder), "--seed", str(seed))
        first = models(folder)["serving"]
        slates: list[ServedSlate] = []
        pairs = ModelPairs(folder, customers, first)
        retrains = []
        command = [sys.executable, "-m", "recllm", "serve", "-w", str(folder), "--set", "service.processes=0"]
        with (
            server(command) as (address, _, _),
            httpx2.Client(base_url=address, trust_env=False, timeout=60) as client,
        ):
            for week in range(args.weeks):
                if week == args.learning_weeks:
                    variants = [
                        {"name": "first model", "weight": 0.5, "treatment": {"model": first}},
                        {"name": "the loop", "weight": 0.5},
                    ]
                    body = {"name": "the loop", "variants": variants, "metric": "clicks"}
                    client.post("/v1/experiments", json=body).raise_for_status()
                is_late = week >= args.learning_weeks
                if is_late:
                    pairs.week, pairs.newest = week, models(folder)["serving"]
                slates += replay(
                    client, customers, range(7 * week, 7 * week + 7), at_visit=pairs.ask if is_late else None
                )
                of_week = [slate for slate in slates if slate.day // 7 == week]
                say("seed %d week %d: %.4f clicks expected", seed, week, _mean(of_week))
                if week + 1 < args.weeks:
                    retrains.append(retrain(folder))
                    say("  %s", retrains[-1])
            report = client.get("/v1/experiments/the loop").raise_for_status().json()
            shown = client.get("/v1/report", params={"by": "variant"}).raise_for_status().json()
        pairs.close()
        worse, refused = worse_models(folder, seed)
    return {
        "seed": seed,
        "slates": len(slates),
        "expected_clicks_by_week": [
            round(_mean([slate for slate in slates if slate.day // 7 == week]), 5) for week in range(args.weeks)
        ],
        "retrains": retrains,
        "first_model": first,
        "last_model": pairs.newest,
        "difference": difference(pairs.worth, rng),
        "experiment": report["report"]["comparisons"][0]["metric"],
        "people": report["people"],
        "ctr": {group["name"]: group["ctr"]["value"] for group in shown["groups"]},
        "worse_models": worse,
        "refused": refused,
    }


def models(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(recllm("models", "-w", str(folder), "--json"))
    return document


def retrain(folder: Path) -> dict[str, Any]:
    report = json.loads(recllm("retrain", "--if-due", "-w", str(folder), "--json"))
    gate = report["gate"]
    return {
        "outcome": report["outcome"],
        "due": [check["kind"] for check in report["checks"] if check["verdict"] == "due"],
        "comparisons": None if gate is None else gate["comparisons"],
        "seconds": round(report["seconds"], 1),
    }


def _mean(slates: list[ServedSlate]) -> float:
    return float(np.mean([slate.expected_clicks for slate in slates])) if slates else 0.0


class ModelPairs:
    """What the slates of two models are worth at the same visits."""

    def __init__(self, folder: Path, customers: Customers, first: str) -> None:
        self._workspace = Workspace.open(folder)
        self._customers = customers
        self._first = first
        self._recommenders = {first: open_recommender(self._workspace, version=first)}
        self.newest = first
        """Version of the model that the loop serves now."""
        self.week = 0
        self.worth: list[tuple[str, int, float, float]] = []
        """Household, week, expected clicks per item of the first model's slate and of the newest one's."""

    def ask(self, household: str, at: datetime) -> None:
        if self.newest not in self._recommenders:
            self._recommenders[self.newest] = open_recommender(self._workspace, version=self.newest)
        expected = []
        for version in (self._first, self.newest):
            recommender = self._recommenders[version].at(present(self._workspace))
            items = recommender.recommend(household, k=10)[0].items
            shown = [item.item_id for item in items]
            expected.append(self._customers.expected_clicks(household, shown, at))
        self.worth.append((household, self.week, *expected))

    def close(self) -> None:
        self._workspace.close()


def difference(worth: list[tuple[str, int, float, float]], rng: np.random.Generator) -> dict[str, Any]:
    """Expected clicks per item, the loop - the first model, at the same visits; people are drawn anew 2,000 times."""
    frame = pl.DataFrame(worth, schema=["household", "week", "first", "loop"], orient="row")
    gap = pl.col("loop") - pl.col("first")
    people = frame.group_by("household").agg(gap.sum().alias("gap"), pl.len().alias("n")).sort("household")
    gaps, n = people["gap"].to_numpy(), people["n"].to_numpy()
    picked = rng.integers(len(gaps), size=(2_000, len(gaps)))
    low, high = np.quantile(gaps[picked].sum(axis=1) / n[picked].sum(axis=1), [0.025, 0.975])
    by_week = frame.group_by("week").agg(gap.mean().alias("gap")).sort("week")
    return {
        "visits": frame.height,
        "people": people.height,
        "first_model": round(frame["first"].mean(), 5),
        "the_loop": round(frame["loop"].mean(), 5),
        "value": round(float(gaps.sum() / n.sum()), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
        "by_week": {str(week): round(value, 5) for week, value in by_week.iter_rows()},
    }


def worse_models(folder: Path, seed: int) -> tuple[int, int]:
    """How many worse models went before the gate, and how many it refused."""
    from recllm.recommend.evaluation import retrain as job
    from recllm.shop.data.dataset import Dataset

    train = job.train_challenger
    rng = np.random.default_rng([seed, 7])

    def mixed_up(past: Dataset) -> Dataset:
        return replace(past, events=replace(past.events, item=rng.permutation(past.events.item)))

    def half_at_random(past: Dataset) -> Dataset:
        is_fake = rng.random(len(past.events.item)) < 0.5
        fake = rng.integers(past.n_items, size=len(is_fake)).astype(past.events.item.dtype)
        return replace(past, events=replace(past.events, item=np.where(is_fake, fake, past.events.item)))

    def few_people(past: Dataset) -> Dataset:
        kept = rng.random(past.n_users) < 0.05
        return replace(past, events=past.events.select(kept[past.events.user]))

    changes: list[tuple[Callable[[Dataset], Dataset], dict[str, Any]]] = [
        (mixed_up, {}),
        (half_at_random, {}),
        (few_people, {"min_actions": 0}),
        (lambda past: past, {"epochs": 1, "min_steps": 0, "learning_rate": 1e-12}),  # not learned at all
    ]
    refused = 0
    with overridden({"retraining": {"when_uncertain": "keep"}}), Workspace.open(folder) as workspace:
        for change_log, settings in changes:

            def worse(
                past: Dataset, encoder: Any, recipe: Any, progress: Any, *, change=change_log, to=settings
            ) -> Any:
                training = recipe.training.model_copy(update=to)
                return train(change(past), encoder, replace(recipe, training=training), progress)

            job.train_challenger = worse
            try:
                report = job.retrain(workspace, needed=(), seed=seed)
            finally:
                job.train_challenger = train
            say("  worse model: %s %s", report.outcome, report.gate and report.gate.reasons)
            refused += report.outcome is job.RetrainOutcome.REFUSED
    return len(changes), refused


if __name__ == "__main__":
    main()
