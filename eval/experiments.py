"""What the statistics of the closed loop keep of what they promise:

    pip download obp==0.4.1 --no-deps -d wheels
    python eval/experiments.py --open-bandit wheels/obp-0.4.1-py3-none-any.whl -o eval/results/experiments.json

Simulated with a seed, no real people, but for the last part. All runs use the functions that a shop would.

nothing differs   2,000 people are drawn into two equal variants by `variant_of` and come, see and buy for 60 days. Each
                  day all three metrics and the sample ratio are looked at: in how many of 1,000 experiments does any of
                  the 60 looks raise a false alarm? A fixed 95 % interval, looked at as often, stands beside.
something differs clicks of one variant are raised; until which day does half of the experiments know? And people of one
                  variant are lost from the log: until when does the sample ratio say so?
off-policy        slates by `explore`, another ranking's value (SNIPS): how many of 1,000 intervals at 95 %
                  hold the true value.
Open Bandit       the sample of Saito et al. 2021 (CC BY 4.0) in the wheel of obp, which is read and not installed:
                  10,000 items each that a fashion shop showed by Bernoulli Thompson sampling (bts) and at random, on
                  three campaigns. The click rate of each is estimated from the log of the other and compared with its
                  own. What bts would show is taken from how often it showed each item at each position.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import finish, say, script_parser
from numpy.typing import NDArray

from recllm.market.experiments.effect import (
    Experiment,
    RatioVerdict,
    Variant,
    Verdict,
    check_sample_ratio,
    estimate_effect,
    people_values,
    variant_of,
)
from recllm.market.experiments.off_policy import estimate_value
from recllm.recommend.recommender.slate_writer import explore, stratum

Values = NDArray[np.float64]
Days = NDArray[np.int64]

DAYS, PEOPLE = 60, 2_000
METRICS = ("clicks per showing", "buyers per person", "revenue per person")
CAMPAIGNS = ("all", "men", "women")
K, POOL, SHARE = 4, 20, 0.2
RANKS = K + POOL


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--runs", type=int, default=1_000, help="experiments where nothing differs, and logs")
    parser.add_argument("--open-bandit", type=Path, help="the wheel of obp 0.4.1; without it that part is left out")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "protocol": "experiments-simulated",
        "note": "simulated with a seed; no real people but in open_bandit",
        "seed": args.seed,
        "days": DAYS,
        "people": PEOPLE,
        "nothing_differs": nothing_differs(args.runs, args.seed),
        "something_differs": something_differs(max(20, args.runs // 5), args.seed),
        "off_policy": off_policy(args.runs, args.seed),
    }
    if args.open_bandit:
        record["open_bandit"] = open_bandit(args.open_bandit)
    finish(record, args.output)


def two_variants(name: str) -> Experiment:
    return Experiment(name=name, variants=(Variant("a", 0.5), Variant("b", 0.5)), metric=METRICS[0])


def traffic(
    name: str, rng: np.random.Generator, lift: float = 0.0
) -> tuple[NDArray[np.bool_], Days, dict[str, Values]]:
    """Who is in variant b, on which day each person comes first, and sums so far, (PEOPLE, DAYS) each.

    A quarter is there on the first day, the others come as the days go by. People differ in how often they come and in
    how much they click and buy; a visit shows four items; one purchase in a hundred is twenty times as large. lift: of
    the click rate in variant b.
    """
    experiment = two_variants(name)
    in_b = np.array([variant_of(experiment, f"person-{person}").name == "b" for person in range(PEOPLE)])
    first_day = np.where(rng.random(PEOPLE) < 0.25, 0, rng.integers(0, DAYS, PEOPLE))
    is_there = np.arange(DAYS) >= first_day[:, None]
    visits = rng.poisson(rng.gamma(1.0, 0.2, PEOPLE)[:, None] * is_there)
    visits[np.arange(PEOPLE), first_day] += 1
    showings = 4 * visits
    clicks = rng.binomial(showings, (rng.beta(2.0, 38.0, PEOPLE) * np.where(in_b, 1 + lift, 1.0))[:, None])
    orders = rng.binomial(visits, rng.beta(1.0, 19.0, PEOPLE)[:, None])
    amounts = rng.lognormal(3.0, 0.8, orders.shape) * np.where(rng.random(orders.shape) < 0.01, 20.0, 1.0)
    daily = {"showings": showings, "clicks": clicks, "orders": orders, "revenue": orders * amounts}
    return in_b, first_day, {column: np.cumsum(values, axis=1).astype(np.float64) for column, values in daily.items()}


def moments(metric: str, sums: dict[str, Values], people: NDArray[np.bool_], day: int) -> Values:
    if metric == "clicks per showing":
        return people_values(sums["clicks"][people, day], sums["showings"][people, day])
    if metric == "buyers per person":
        return people_values(sums["orders"][people, day] > 0)
    return people_values(sums["revenue"][people, day])


def nothing_differs(runs: int, seed: int) -> dict[str, Any]:
    alarms = {metric: {"always_valid": 0, "fixed": 0, "fixed_on_the_last_day": 0} for metric in METRICS}
    ratio_alarms = 0
    for run in range(runs):
        in_b, first_day, sums = traffic(f"nothing {seed} {run}", np.random.default_rng([seed, run, 0]))
        ratio_alarms += first_mismatch(in_b, first_day) is not None
        for metric in METRICS:
            crossed = {"always_valid": False, "fixed": False, "fixed_on_the_last_day": False}
            for day in range(DAYS):
                came = first_day <= day
                effect = estimate_effect(
                    moments(metric, sums, came & ~in_b, day), moments(metric, sums, came & in_b, day)
                )
                fixed = not effect.interval.holds(0.0)
                crossed["always_valid"] |= effect.verdict is not Verdict.UNDECIDED
                crossed["fixed"] |= fixed
                crossed["fixed_on_the_last_day"] |= fixed and day == DAYS - 1
            for name, is_alarm in crossed.items():
                alarms[metric][name] += is_alarm
        if run % 100 == 99:
            say("nothing differs: %d of %d", run + 1, runs)
    shares = {metric: {name: count / runs for name, count in counts.items()} for metric, counts in alarms.items()}
    return {"runs": runs, "looks": DAYS, "false_alarms": shares, "sample_ratio_false_alarms": ratio_alarms / runs}


def first_mismatch(in_b: NDArray[np.bool_], first_day: Days) -> int | None:
    """The first day, from 1, on which the sample ratio is a mismatch."""
    experiment = two_variants("ratio")
    for day in range(DAYS):
        came = first_day <= day
        people = {"a": int((came & ~in_b).sum()), "b": int((came & in_b).sum())}
        if check_sample_ratio(experiment, people).verdict is RatioVerdict.MISMATCH:
            return day + 1
    return None


def something_differs(runs: int, seed: int) -> dict[str, Any]:
    """Days until a verdict, the median over all runs (None when fewer than half decide), and the share decided."""
    figures: dict[str, Any] = {"runs": runs, "lifts": {}, "lost_people": {}}
    for lift in (0.1, 0.2, 0.4):
        days, at_the_end = [], 0
        for run in range(runs):
            rng = np.random.default_rng([seed, run, 1])
            in_b, first_day, sums = traffic(f"lift {seed} {run}", rng, lift)
            decided = None
            for day in range(DAYS):
                came = first_day <= day
                effect = estimate_effect(*(moments(METRICS[0], sums, came & (in_b == b), day) for b in (False, True)))
                if decided is None and effect.verdict is not Verdict.UNDECIDED:
                    decided = (day + 1, effect.verdict)
            days.append(decided)
            at_the_end += effect.interval.low > 0
        better = [day for day, verdict in filter(None, days) if verdict is Verdict.BETTER]
        figures["lifts"][f"{lift:.0%}"] = {
            "better": len(better) / runs,
            "worse": sum(verdict is Verdict.WORSE for _, verdict in filter(None, days)) / runs,
            "median_days": median_day(better, runs),
            "fixed_on_the_last_day": at_the_end / runs,
        }
    for lost in (0.1, 0.2, 0.3):
        mismatch = []
        for run in range(runs):
            rng = np.random.default_rng([seed, run, 2])
            in_b, first_day, _ = traffic(f"lost {seed} {run}", rng)
            is_logged = ~in_b | (rng.random(PEOPLE) >= lost)
            mismatch.append(first_mismatch(in_b[is_logged], first_day[is_logged]))
        days_of_mismatch = [day for day in mismatch if day is not None]
        figures["lost_people"][f"{lost:.0%}"] = {
            "mismatch": len(days_of_mismatch) / runs,
            "median_days": median_day(days_of_mismatch, runs),
        }
    say("something differs: %s", figures)
    return figures


def median_day(days: list[int], runs: int) -> int | None:
    """The day by which half of all runs had decided."""
    half = (runs + 1) // 2
    return sorted(days)[half - 1] if len(days) >= half else None


@dataclass(frozen=True, eq=False)
class SlateWorld:
    """Slates of people, one to three of each, before anything is shown."""

    person: NDArray[np.int64]
    """(n,), whose slate it is."""
    click_rates: Values
    """(n, ranks), which depend on the person too."""
    target: NDArray[np.int64]
    """(n, k), what another ranking shows at each position: what it prefers of the items that could be shown there."""

    @classmethod
    def draw(cls, rng: np.random.Generator, people: int) -> SlateWorld:
        person = np.repeat(np.arange(people), rng.integers(1, 4, people))
        taste = np.exp(rng.normal(0, 0.5, people))[person]
        appeal = 0.06 * np.exp(rng.normal(0, 0.6, (len(person), RANKS)) - 0.03 * np.arange(RANKS))
        liking = appeal * np.exp(rng.normal(0, 0.4, appeal.shape)) * np.where(np.arange(RANKS) < K, 2.0, 1.0)
        supports = [np.array([position, *stratum(position, K, RANKS, POOL)]) for position in range(K)]
        target = np.stack([support[liking[:, support].argmax(axis=1)] for support in supports], axis=1)
        return cls(person, np.minimum(1.0, taste[:, None] * appeal), target)

    def value(self) -> float:
        """Clicks per showing of the other ranking."""
        return float(np.take_along_axis(self.click_rates, self.target, axis=1).mean())

    def log(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """What is logged when `explore` shows the slates, as `estimate_value` takes it."""
        n = len(self.person)
        slates = [explore(np.arange(RANKS), K, SHARE, POOL, rng) for _ in range(n)]
        shown = np.stack([rows for rows, _ in slates])
        return {
            "rewards": (rng.random((n, K)) < np.take_along_axis(self.click_rates, shown, axis=1)).astype(float).ravel(),
            "propensities": np.stack([propensities for _, propensities in slates]).ravel(),
            "target_probabilities": (shown == self.target).astype(float).ravel(),
            "people": np.repeat(self.person, K),
        }


def off_policy(runs: int, seed: int) -> dict[str, Any]:
    """Coverage by number of people; widths and biases are shares of the true value."""
    figures: dict[str, Any] = {"runs": runs, "level": 0.95, "k": K, "pool": POOL, "share": SHARE}
    truth = SlateWorld.draw(np.random.default_rng([seed, 4]), 200_000).value()
    for people in (150, 300, 1_000):
        rows = []
        for run in range(runs):
            rng = np.random.default_rng([seed, run, people])
            choices = SlateWorld.draw(rng, people).log(rng)
            answer = estimate_value(**choices)
            if answer.interval is None:
                raise SystemExit(f"off-policy: no interval in run {run} of {people} people")
            width = (answer.interval.high - answer.interval.low) / truth
            rows.append((answer.interval.holds(truth), width, answer.value / truth - 1))
            if run % 200 == 199:
                say("off-policy, %d people: %d of %d", people, run + 1, runs)
        columns = ("coverage", "mean_width", "bias")
        figures[f"{people} people"] = {
            "rows_of_the_last": answer.rows,
            "effective_sample_size_of_the_last": answer.effective_sample_size,
        } | dict(zip(columns, np.mean(rows, axis=0).tolist(), strict=True))
    return figures


def open_bandit(wheel: Path) -> dict[str, Any]:
    """One cut for each campaign and direction, by SNIPS; and how many intervals hold the target's own rate."""
    cuts = []
    with zipfile.ZipFile(wheel) as archive:
        for campaign in CAMPAIGNS:
            logs = {policy: read_log(archive, policy, campaign) for policy in ("random", "bts")}
            for logged, target in (("random", "bts"), ("bts", "random")):
                cuts.append({"campaign": campaign, "log": logged, "target": target} | cut(logs[logged], logs[target]))
    return {
        "source": wheel.name,
        "cuts": len(cuts),
        "covered": sum(each["covered"] for each in cuts),
        "by_cut": cuts,
    }


def read_log(archive: zipfile.ZipFile, policy: str, campaign: str) -> pl.DataFrame:
    file = f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"
    columns = ["item_id", "position", "click", "propensity_score"]
    return pl.read_csv(io.BytesIO(archive.read(file)), columns=columns)


def cut(log: pl.DataFrame, own: pl.DataFrame) -> dict[str, Any]:
    """own: the log of the target itself, from which its probabilities and its click rate come, and nothing else.

    At random every item has one propensity, which is then the target's probability of each; how often bts showed an
    item at a position estimates the mean of its probabilities, which moved from hour to hour."""
    if own["propensity_score"].n_unique() == 1:
        probabilities = np.full(log.height, own["propensity_score"][0])
    else:
        shares = (
            own.group_by("item_id", "position").len().with_columns(share=pl.col("len") / pl.sum("len").over("position"))
        )
        joined = log.join(shares, on=["item_id", "position"], how="left", maintain_order="left")
        probabilities = joined["share"].fill_null(0.0).to_numpy()
    clicks, propensities = log["click"].to_numpy().astype(np.float64), log["propensity_score"].to_numpy()
    answer = estimate_value(clicks, propensities, probabilities, np.arange(log.height))
    rate = float(own["click"].mean())
    if answer.interval is None:
        raise SystemExit("Open Bandit: too few clicks for an interval; is this the wheel of obp 0.4.1?")
    return {
        "estimate": answer.value,
        "low": answer.interval.low,
        "high": answer.interval.high,
        "own_rate": rate,
        "covered": answer.interval.holds(rate),
        "effective_sample_size": answer.effective_sample_size,
    }


if __name__ == "__main__":
    main()
