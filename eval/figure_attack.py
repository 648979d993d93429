"""What figures of groups show of one customer; the part `figures` of attack.py:  python eval/attack.py --part figures

The households of Complete Journey with drawn age bands, behind the HTTP service. An attacker holds keys of the scope
`marketing` and the ids of all customers, knows what all others bought, and asks adaptively:

    spread       one key, many targets: pairs of audiences with and without the target, by age band, spending, purchase
    focus        a key for each target: its whole budget on pairs about this one
    threshold    49 customers of whom the answer is known, and the target: is there a figure?
    trait        what sets an audience apart, with and without the target
    alone        all but the target are suppressed: does anything but a number differ from a question about no customer?
    timed        the same with items to score: does the answer for the target take longer than for none?
    poll         the report before and after the moment when the target may have clicked

A guess about the target is right or not; chance is what the commonest answer gets. `isolated` is how many more guesses
were right than chance and 2 % explain at 99 %. Without noise (`exact`) the same pairs are right nearly always.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from starlette.testclient import TestClient

from recllm.base.service_settings import ServiceSettings
from recllm.doors.service.app import create_app
from recllm.doors.service.live import LiveShop
from recllm.doors.start.demo import data_folder
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.keys import create_key
from recllm.shop.workspace.workspace import Workspace

BANDS = {"18-24": 0.1, "25-34": 0.25, "35-44": 0.3, "45-54": 0.2, "55+": 0.15}
KNOWN = 160
TOLERANCE = 0.02
QUERIES = {"spread": 4_000, "focus": 4_400, "threshold": 600, "trait": 600, "poll": 400, "alone": 240, "timed": 720}

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def measure(seed: int) -> dict[str, Any]:
    """The figures of the part."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch, _shop(Path(scratch), rng) as (asker, facts, click):
        one_key = asker("spread")
        attacks = {
            "spread": _in_pairs(lambda _: one_key, facts, QUERIES["spread"], 40, rng),
            "focus": _in_pairs(lambda n: asker(f"focus {n}"), facts, QUERIES["focus"], 110, rng),
            "threshold": _threshold(asker, facts, QUERIES["threshold"], rng),
            "trait": _traits(asker, facts, QUERIES["trait"], rng),
            "poll": _poll(asker("poll"), facts, click, QUERIES["poll"], rng),
            "alone": _alone(asker("alone"), facts, QUERIES["alone"], rng),
            "timed": _timed(asker("timed"), facts, QUERIES["timed"], rng),
        }
        exact = _in_pairs(lambda n: asker(f"exact {n}", "people"), facts, 200, 10, rng)
    attacks = {name: _judged(guesses) for name, guesses in attacks.items()}
    return {
        "queries": sum(attack["queries"] for attack in attacks.values()),
        "isolated": sum(attack["isolated"] for attack in attacks.values()),
        "people": len(facts["age"]),
        "attacks": attacks,
        "exact": _judged(exact),
    }


def _judged(guesses: dict[str, Any]) -> dict[str, Any]:
    right, n, chance = int(guesses["right"]), guesses["guesses"], guesses["chance"]
    explained = n * (chance + TOLERANCE) + 2.33 * (n * chance * (1 - chance)) ** 0.5
    isolated = max(0, int(right - np.ceil(explained)))
    return guesses | {"right": right, "share_right": round(right / n, 3), "isolated": isolated}


@contextmanager
def _shop(
    folder: Path, rng: np.random.Generator
) -> Iterator[tuple[Callable[..., Ask], dict[str, Any], Callable[..., int]]]:
    lines = pl.read_parquet(data_folder() / "transactions.parquet").with_columns(
        pl.col("household_id").cast(pl.String), pl.col("product_id").cast(pl.String)
    )
    common = lines["product_id"].value_counts().sort("count", "product_id", descending=True)["product_id"].head(60)
    lines = lines.filter(pl.col("product_id").is_in(common.implode()))
    ids = sorted(lines["household_id"].unique())[:1_200]
    lines = lines.filter(pl.col("household_id").is_in(ids))
    age = dict(zip(ids, rng.choice(list(BANDS), len(ids), p=list(BANDS.values())), strict=True))
    (folder / "users.csv").write_text("user_id,age\n" + "".join(f"{name},{band}\n" for name, band in age.items()))
    events = lines.select(
        user_id="household_id",
        item_id="product_id",
        event=pl.lit("purchase"),
        timestamp=pl.col("transaction_timestamp").cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        quantity=pl.lit(1),
        price="sales_value",
    )
    events.write_csv(folder / "events.csv")
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"{name},product {name}\n" for name in common))
    with Workspace.create(folder / "shop", consent_default=True, currency="USD", timezone="UTC", encoder="toy") as made:
        for table in ("items", "users", "events"):
            load_file(made, folder / f"{table}.csv", table)
        train_workspace(made)
    spent = dict(lines.group_by("household_id").agg(pl.sum("sales_value")).iter_rows())
    item = str(common[20])
    buyers = set(lines.filter(pl.col("product_id") == item)["household_id"])
    median = float(np.median(list(spent.values())))
    facts = {"age": age, "spent": spent, "median": median, "item": item, "buyers": buyers, "items": list(common[:8])}
    settings = ServiceSettings(requests_per_minute=None, watch_seconds=3600)
    with TestClient(
        create_app([LiveShop(Workspace.open(folder / "shop"), "shop")], settings), base_url="http://localhost"
    ) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        with Workspace.open(folder / "shop") as shop:
            writer = {"X-API-Key": create_key(shop, "site", ["events", "recommend"])[1]}

        def asker(name: str, *scopes: str) -> Ask:
            with Workspace.open(folder / "shop") as shop:
                headers = {"X-API-Key": create_key(shop, name, ["marketing", *scopes])[1]}

            def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
                answer = client.post(path, json=body, headers=headers) if body else client.get(path, headers=headers)
                return dict(answer.json())

            return ask

        def click(name: str, showing: str) -> int:
            event = {"user_id": name, "item_id": item, "event": "click", "request_id": showing}
            return client.post("/v1/events", json={"events": [event]}, headers=writer).status_code

        shown = [
            {"user_id": name, "item_id": item, "event": "shown", "request_id": f"r{name}", "position": 1}
            for name in ids[:200]
        ]
        client.post("/v1/events", json={"events": shown}, headers=writer)
        yield asker, facts, click


def _audience(rule: dict[str, Any], facts: dict[str, Any], without: Sequence[str], salt: int = 0) -> dict[str, Any]:
    seeds = list(facts["age"])[:1]
    body = {"seeds": seeds, "people": rule, "suppressed": list(without), "explain_first": 0, "holdout": 0}
    return body | {"salt": str(salt), "size": 1_000_000}


def _number(answer: dict[str, Any]) -> float:
    """The size of the list, and of those whom the rule leaves out, which tell the same; NaN without figures."""
    size, left_out = answer.get("size"), (answer.get("excluded") or {}).get("people_rule")
    numbers = [float(n) for n in (size, None if left_out is None else -left_out) if n is not None]
    return float(np.mean(numbers)) if numbers else float("nan")


def _questions(facts: dict[str, Any], target: str) -> dict[str, tuple[dict[str, Any], bool, float]]:
    """Kind -> a rule, whether the target meets it, and what the commonest answer gets."""
    older = [band for band in BANDS if band >= "35"]
    rich = {"condition": "spent", "at_least": facts["median"]}
    share = len(facts["buyers"]) / len(facts["age"])
    return {
        "age": ({"condition": "basic", "name": "age", "one_of": older}, facts["age"][target] in older, 0.65),
        "spent": (rich, facts["spent"][target] >= facts["median"], 0.5),
        "bought": ({"condition": "bought", "item": facts["item"]}, target in facts["buyers"], max(share, 1 - share)),
    }


def _targets(facts: dict[str, Any], n: int, rng: np.random.Generator) -> list[str]:
    return [str(name) for name in rng.choice(list(facts["age"])[300:], n, replace=False)]


def _pairs(
    ask: Ask, facts: dict[str, Any], target: str, kind: str, n: int, rng: np.random.Generator
) -> tuple[int, bool]:
    """Questions asked, and whether the guess was right. Each pair has other known customers suppressed."""
    rule, truth, _ = _questions(facts, target)[kind]
    differences = []
    others = [name for name in list(facts["age"])[1:] if name != target]
    for number in range(n // 2):
        known = [str(name) for name in rng.choice(others, KNOWN, replace=False)]
        pair = [ask("/v1/audience", _audience(rule, facts, without, number)) for without in (known, [*known, target])]
        differences.append(_number(pair[0]) - _number(pair[1]))
    values = np.array(differences)[np.isfinite(differences)]
    # equal answers to both say that the target is in neither
    is_in = bool(rng.integers(2)) if not len(values) else bool(values.any() and values.mean() > 0.25)
    return 2 * (n // 2), is_in == truth


def _tally(facts: dict[str, Any], outcomes: list[tuple[str, int, bool]]) -> dict[str, Any]:
    target = next(iter(facts["spent"]))
    chances = {kind: chance for kind, (_, _, chance) in _questions(facts, target).items()}
    return {
        "queries": sum(n for _, n, _ in outcomes),
        "guesses": len(outcomes),
        "right": sum(is_right for *_, is_right in outcomes),
        "chance": round(float(np.mean([chances[kind] for kind, *_ in outcomes])), 3),
    }


def _in_pairs(
    ask_with: Callable[[int], Ask], facts: dict[str, Any], queries: int, each: int, rng: np.random.Generator
) -> dict[str, Any]:
    """`each` questions about a target. ask_with: the key for the n-th one."""
    outcomes = []
    for n, target in enumerate(_targets(facts, queries // each, rng)):
        kind = ("age", "spent", "bought")[n % 3]
        outcomes.append((kind, *_pairs(ask_with(n), facts, target, kind, each, rng)))
    return _tally(facts, outcomes)


def _threshold(
    asker: Callable[[str], Ask], facts: dict[str, Any], queries: int, rng: np.random.Generator
) -> dict[str, Any]:
    """All but 49 customers who meet the rule, and the target, are suppressed: 50 are left, or 49."""
    outcomes, names, ask_with = [], list(facts["age"]), cache(asker)
    for n, target in enumerate(_targets(facts, queries // 10, rng)):
        ask = ask_with(f"threshold {n // 20}")  # a new key for each 20 targets
        rule, truth, _ = _questions(facts, target)["age"]
        older = [name for name in names[1:] if facts["age"][name] in rule["one_of"] and name != target]
        answers = []
        for number in range(10):
            left = set(rng.choice(older, 49, replace=False)) | {target}
            body = _audience(rule, facts, [name for name in names if name not in left], number)
            answers.append(ask("/v1/audience", body).get("size") is not None)
        # with 50 customers rather than 49 a figure would be likelier
        outcomes.append(("age", 10, (np.mean(answers) >= 0.5) == truth))
    return _tally(facts, outcomes)


def _traits(
    asker: Callable[[str], Ask], facts: dict[str, Any], queries: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Shares of age bands among the list of an audience, which the list itself does not show."""
    outcomes = []
    for n, target in enumerate(_targets(facts, queries // 20, rng)):
        ask, sums = asker(f"trait {n}"), dict.fromkeys(BANDS, 0.0)
        others = [name for name in list(facts["age"])[1:] if name != target]
        for number in range(10):
            known = [str(name) for name in rng.choice(others, KNOWN, replace=False)]
            for sign, without in ((1, known), (-1, [*known, target])):
                rule = {"condition": "spent", "at_least": 0.01}
                answer = ask("/v1/audience", _audience(rule, facts, without, number) | {"size": 800})
                for trait in answer.get("group", []):
                    band = str(trait["name"]).removeprefix("age = ")
                    if band in sums:
                        sums[band] += sign * trait["people"]
        guess = max(sums, key=lambda band: sums[band]) if any(sums.values()) else "35-44"
        outcomes.append((n, 20, guess == facts["age"][target]))
    right = sum(is_right for *_, is_right in outcomes)
    return {"queries": 20 * len(outcomes), "guesses": len(outcomes), "right": right, "chance": max(BANDS.values())}


def _alone(ask: Ask, facts: dict[str, Any], queries: int, rng: np.random.Generator) -> dict[str, Any]:
    """What an answer has besides its numbers: its fields, their names, an error, a number that is exactly nothing."""

    def shape(rule: dict[str, Any], target: str, number: int) -> dict[str, Any]:
        body = _audience(rule, facts, [name for name in facts["age"] if name != target], number)
        answer = ask("/v1/audience", body | {"holdout": 0.5, "seeds": list(facts["age"])[: 1 + 60 * (number % 2)]})
        exact = [answer.get(name) in (0, 1) for name in ("size", "holdout")]
        return {"exact": exact} | {name: sorted(v) if isinstance(v, dict) else len(name) for name, v in answer.items()}

    outcomes, never = [], {"condition": "spent", "at_least": 1e9}
    for n, target in enumerate(_targets(facts, queries // 2, rng)):
        kind = ("age", "spent", "bought")[n % 3]
        rule, truth, _ = _questions(facts, target)[kind]
        outcomes.append((kind, 2, (shape(rule, target, n) != shape(never, target, n)) == truth))
    return _tally(facts, outcomes)


def _timed(ask: Ask, facts: dict[str, Any], queries: int, rng: np.random.Generator) -> dict[str, Any]:
    """The shorter of three times for the rule, and for its opposite: one of them holds for the target alone."""
    outcomes = []
    for n, target in enumerate(_targets(facts, queries // 6, rng)):
        kind = ("age", "spent", "bought")[n % 3]
        rule, truth, _ = _questions(facts, target)[kind]
        seconds = {True: float("inf"), False: float("inf")}
        for number in range(6):
            is_rule = number % 2 == 0
            left_out = [name for name in facts["age"] if name != target]
            body = _audience(rule if is_rule else {"not": rule}, facts, left_out, number) | {"seeds": None}
            started = time.perf_counter()
            ask("/v1/audience", body | {"items": facts["items"], "size": None})
            seconds[is_rule] = min(seconds[is_rule], time.perf_counter() - started)
        outcomes.append((kind, 6, (seconds[True] > seconds[False]) == truth))
    return _tally(facts, outcomes)


def _poll(
    ask: Ask, facts: dict[str, Any], click: Callable[[str, str], int], queries: int, rng: np.random.Generator
) -> dict[str, Any]:
    right, names = 0, list(facts["age"])[: queries // 2]
    for name in names:
        before = ask("/v1/report?by=model&days=7", {})
        if clicks := bool(rng.integers(2)):
            click(name, f"r{name}")
        after = ask("/v1/report?by=model&days=7", {})
        right += (json.dumps(before) != json.dumps(after)) == clicks
    return {"queries": 2 * len(names), "guesses": len(names), "right": right, "chance": 0.5}
