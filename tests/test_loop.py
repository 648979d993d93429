"""The closed loop of a served shop: slates in experiments, what became of them, what may be said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from service_world import PEOPLE, publish_again, serving
from shop_world import add_settings
from waiting import until

from recllm.base.errors import ConflictError, NothingToDo, UnknownIdError, UsageError
from recllm.base.schema import Recommendation
from recllm.market.experiments import off_policy
from recllm.market.experiments import slates as slates_module
from recllm.market.experiments.effect import Treatment, variant_of
from recllm.market.experiments.feedback import FEEDBACK_SCHEMA, showings_with_answers
from recllm.market.experiments.off_policy import OffPolicyReport, ValueEstimate, estimate_model
from recllm.market.experiments.slates import (
    GLOBAL_HOLDOUT,
    Metric,
    experiment_outcome,
    list_experiments,
    start_experiment,
    stop_experiment,
)
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import current, rollback
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import model_encoder
from recllm.shop.data.dataset import DAY, Dataset, utc
from recllm.shop.ingest.record import record_events
from recllm.shop.workspace.workspace import Workspace, present

TWO = {"as before": (0.5, Treatment()), "popular": (0.5, Treatment(personal=False))}
VARIANTS = [{"name": "as before", "weight": 0.5}]
VARIANTS += [{"name": "popular", "weight": 0.5, "treatment": {"personal": False}}]
"""The same as a request has them."""
USERS = [f"u{n:02}" for n in range(PEOPLE)]


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder) as shop:
        yield shop


def slates(client: TestClient, **body: object) -> dict[str, dict[str, object]]:
    return {user: client.post("/v1/recommend", json={"user_id": user, "k": 4, **body}).json() for user in USERS}


def test_people_are_split_by_lot_and_each_gets_the_treatment_of_their_variant(folder: Path) -> None:
    with serving(folder) as client:
        body = {"name": "personal or not", "variants": VARIANTS}
        started = client.post("/v1/experiments", json=body)
        assert started.status_code == 200, started.text
        first, again = slates(client), slates(client)
        with Workspace.open(folder) as shop:
            (stored,) = list_experiments(shop)
            names = shop.pseudonymiser()
            expected = {user: variant_of(stored, names.one(user)).name for user in USERS}
        assert set(expected.values()) == {"as before", "popular"}
        for user, slate in first.items():
            assert (slate["experiment"], slate["variant"]) == ("personal or not", expected[user])
            assert slate["served_by"] == ("scorer" if expected[user] == "as before" else "popular")
            assert again[user]["variant"] == slate["variant"]
        stranger = client.post("/v1/recommend", json={"user_id": "nobody-knows"}).json()
        assert (stranger["status"], stranger["experiment"], stranger["variant"]) == ("unknown_user", None, None)
        assert client.post("/v1/experiments", json=body | {"name": "second"}).status_code == 409
        stale = client.post("/v1/experiments/personal or not/stop", json={"revision": 7})
        assert stale.status_code == 409
        assert client.post("/v1/experiments/personal or not/stop", json={"revision": 1}).status_code == 200
        assert {slate["experiment"] for slate in slates(client).values()} == {None}
        assert client.get("/v1/experiments").json()["experiments"][0]["ended_at"]
        assert client.get("/v1/experiments/never").status_code == 404


def test_a_variant_whose_model_is_damaged_is_not_served_under_its_name(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        older = current(shop.models_dir)
        newer = publish_again(shop)
        start_experiment(shop, "damaged", {"new": (0.5, Treatment()), "old": (0.5, Treatment(model=older))})
    (folder / "models" / "versions" / str(older) / "manifest.json").write_text("{}")
    with serving(folder) as client:
        until(lambda: {s["experiment"] for s in slates(client).values()} == {"damaged", None})
        assert {(s["variant"], s["model_version"]) for s in slates(client).values()} == {("new", newer), (None, newer)}
        assert "damaged" in client.get("/readyz").text or "goes on without" in client.get("/readyz").text


def test_what_was_shown_in_an_experiment_is_compared(folder: Path) -> None:
    with serving(folder) as client:
        client.post("/v1/experiments", json={"name": "e", "variants": VARIANTS, "guard": None}).raise_for_status()
        assert client.get("/v1/experiments/e").json()["report"] is None
        now = datetime.now(UTC)
        for user, slate in slates(client, record=True).items():
            if slate["variant"] == "as before":  # who gets personal slates clicks the first and buys it for 3
                item = slate["items"][0]["item_id"]
                common = {"user_id": user, "item_id": item, "request_id": slate["request_id"]}
                events = [{**common, "event": "click"}, {**common, "event": "purchase", "price": 3.0}]
                client.post("/v1/events", json={"events": events}).raise_for_status()
        outcome = client.get("/v1/experiments/e").json()
        assert sum(outcome["people"].values()) == PEOPLE
        (comparison,) = outcome["report"]["comparisons"]
        assert comparison["metric"]["control"] == pytest.approx(1 / 4) and comparison["metric"]["treatment"] == 0.0
        assert comparison["guard"] is None
        report = client.get("/v1/report", params={"by": "variant"}).json()
        groups = {group["name"]: group for group in report["groups"]}
        assert set(groups) == {"e: as before", "e: popular"}
        assert groups["e: as before"]["revenue"] == 3.0 * outcome["people"]["as before"]
        assert groups["e: popular"]["clicked"] == 0 and datetime.now(UTC) - now < timedelta(hours=1)


def test_revenue_counts_all_bought_after_the_first_showing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what people bought before would take its part out, and the lot decides how much that is
    monkeypatch.setattr("recllm.market.experiments.slates.COVARIATE_DAYS", 0)
    with Workspace.open(folder) as shop:
        start_experiment(shop, "money", TWO, metric=Metric.REVENUE, guard=None)
    with serving(folder) as client:
        until(lambda: slates(client)["u00"]["experiment"] == "money")
        shown = slates(client, record=True)
        for user, slate in shown.items():
            if slate["variant"] == "popular":
                event = {"user_id": user, "item_id": "tea-0", "event": "purchase", "price": 2.0, "quantity": 5}
                client.post("/v1/events", json={"events": [event]}).raise_for_status()
        with Workspace.open(folder) as shop:
            outcome = experiment_outcome(shop, "money")
        assert outcome.report is not None
        (comparison,) = outcome.report.comparisons
        assert comparison.metric.difference == pytest.approx(10)


def test_the_global_holdout_gets_nothing_personal_and_stays(folder: Path) -> None:
    add_settings(folder, '[experiments]\nholdout_share = 0.3\nholdout_salt = "2025"')
    with serving(folder) as client:
        first, again = slates(client), slates(client)
    held_out = {user for user, slate in first.items() if slate["status"] == "holdout"}
    assert 1 <= len(held_out) <= PEOPLE // 2
    assert held_out == {user for user, slate in again.items() if slate["status"] == "holdout"}
    assert {first[user]["experiment"] for user in held_out} == {GLOBAL_HOLDOUT}
    assert {first[user]["served_by"] for user in held_out} == {"popular"}


def test_exploring_slates_are_written_down_with_their_propensities(folder: Path) -> None:
    add_settings(folder, "[experiments]\nexplore_share = 0.5\nexplore_pool = 8")
    with serving(folder) as client:
        shown = slates(client, record=True)
    propensities = {item["propensity"] for slate in shown.values() for item in slate["items"]}  # type: ignore[attr-defined]
    assert propensities == {0.5, 0.25}
    with Workspace.open(folder) as shop:
        with shop.store().read() as reader:
            events = reader.events().filter(event="shown")
        assert set(events["propensity"].unique()) == {0.5, 0.25}
        rankings = shop.store().explored_slates(datetime(2000, 1, 1, tzinfo=UTC))
    assert set(rankings) == {slate["request_id"] for slate in shown.values()}
    assert {len(ranked) for ranked in rankings.values()} == {12}


def test_wrong_experiments_are_refused_and_change_nothing(shop: Workspace) -> None:
    for variants in (
        {"a": (0.5, Treatment()), "b": (0.4, Treatment(personal=False))},
        {"a": (0.5, Treatment()), "b": (0.5, Treatment())},
        {"a": (0.5, Treatment()), "b": (0.5, Treatment(model="no-such-version"))},
    ):
        with pytest.raises(UsageError):
            start_experiment(shop, "wrong", variants)
    assert list_experiments(shop) == []
    start_experiment(shop, "right", TWO)
    with pytest.raises(ConflictError, match="runs"):
        start_experiment(shop, "another", TWO)
    stop_experiment(shop, "right")
    with pytest.raises(NothingToDo):
        stop_experiment(shop, "right")
    with pytest.raises(UsageError, match="before"):
        start_experiment(shop, "right", TWO)
    with pytest.raises(UnknownIdError):
        experiment_outcome(shop, "never")


def test_each_slate_names_the_model_of_its_variant_and_a_rollback_ends_no_experiment(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        older, newer = current(shop.models_dir), publish_again(shop)
        assert older and newer != older
        start_experiment(shop, "e", {"new": (0.5, Treatment(model=newer)), "old": (0.5, Treatment(model=older))})
    with serving(folder) as client:
        until(lambda: {s["variant"] for s in slates(client).values()} == {"new", "old"})
        for slate in slates(client).values():
            assert slate["model_version"] == {"new": newer, "old": older}[str(slate["variant"])]
        rollback(folder / "models")
        until(lambda: client.get("/readyz").json()["shops"]["shop"]["model_version"] == older)
        until(lambda: {s["model_version"] for s in slates(client).values()} == {newer, older})


WORTH = {"tea-0": 0.7, "tea-1": 0.7, "tools-0": 0.7}
"""Probability of a click wherever it stands; of every other item .1."""
ROUNDS = 6
"""How often each user gets a slate."""


def test_exploring_slates_tell_what_another_ranking_brings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_settings(folder, "[experiments]\nexplore_share = 0.5\nexplore_pool = 8")
    rng = np.random.default_rng(3)
    worth_of_shown = []
    with serving(folder) as client:
        for _ in range(ROUNDS):
            events = []
            for user, slate in slates(client, record=True).items():
                for item in slate["items"]:  # type: ignore[attr-defined]
                    worth = WORTH.get(item["item_id"], 0.1)
                    if rng.random() < worth:
                        common = {"user_id": user, "item_id": item["item_id"], "request_id": slate["request_id"]}
                        events.append({**common, "event": "click"})
                worth_of_shown += [WORTH.get(item_id, 0.1) for item_id in slate["ranked"][:4]]  # type: ignore[index]
            client.post("/v1/events", json={"events": events}).raise_for_status()
        version = client.get("/readyz").json()["shops"]["shop"]["model_version"]
    with Workspace.open(folder) as shop:
        itself = estimate_of(shop, version)
        assert itself.requests == ROUNDS * PEOPLE and itself.too_early == 0
        assert _is_near(itself.serving, float(np.mean(worth_of_shown)))
        assert abs(itself.difference) < 0.05

        rankings = shop.store().explored_slates(datetime(2000, 1, 1, tzinfo=UTC))
        real, targets = off_policy._own_slate, []

        def another(recommender: Recommender, rows: pl.DataFrame) -> tuple[Recommendation, ...]:
            """The same people's slates from the end of what was drawn from."""
            items = real(recommender, rows)
            if len(targets) < 12:
                assert items == slate_of_the_past(recommender, rows)
            ranked = rankings[rows["request_id"][0]][::-1]
            targets.extend(WORTH.get(item_id, 0.1) for item_id in ranked[: len(items)])
            return tuple(replace(item, item_id=item_id) for item, item_id in zip(items, ranked, strict=False))

        monkeypatch.setattr(off_policy, "_own_slate", another)
        cuts = []
        before = Dataset.before
        monkeypatch.setattr(Dataset, "before", lambda data, as_of: cuts.append(as_of) or before(data, as_of))
        outcome = estimate_of(shop, version)
        assert len(cuts) < 50, "the log is not copied for each request"
        assert outcome.candidate.outside_support == 0
        assert _is_near(outcome.candidate, float(np.mean(targets))), outcome.candidate
        assert outcome.difference == pytest.approx(np.mean(targets) - np.mean(worth_of_shown), abs=0.15)


def estimate_of(shop: Workspace, version: str, **options: Any) -> OffPolicyReport:
    model = load_model(shop.models_dir, version)
    return estimate_model(shop, model, model_encoder(shop, model), **options)


def slate_of_the_past(recommender: Recommender, rows: pl.DataFrame) -> tuple[Recommendation, ...]:
    """One logged request, answered from a copy of the log up to it."""
    past = Recommender(
        recommender.dataset.before(int(rows["timestamp"][0].timestamp())),
        recommender.encoder,
        model=recommender.model,
        locale=recommender.locale,
        population=recommender.population,
    )
    return past.recommend([rows["user_id"][0]], k=int(rows["position"].max()), explain=False)[0].items  # type: ignore[arg-type]


def _is_near(estimate: ValueEstimate, truth: float) -> bool:
    """Within five standard errors: what the slates explored is drawn anew in each run."""
    assert estimate.interval is not None
    return abs(estimate.value - truth) < 5 * (estimate.interval.high - estimate.interval.low) / (2 * 1.96)


def test_an_outcome_knows_nothing_of_later(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers come days later, and some without the id of the slate: an earlier outcome must not know of them."""
    rng = np.random.default_rng(5)
    experiment = start_experiment(shop, "course", TWO)
    start, names = utc(present(shop)), shop.pseudonymiser()
    rows = []
    for person in range(60):
        name = names.one(f"x{person}")
        for n in range(6):
            at = start + timedelta(days=float(rng.uniform(0, 5)))
            row = {
                "user_id": name,
                "item_id": f"tea-{rng.integers(3)}",
                "timestamp": at,
                "request_id": f"r{person}-{n}",
            }
            row |= {"experiment": "course", "variant": variant_of(experiment, name).name}
            rows.append(row | {"event": "shown"})
            for event in rng.choice(["click", "purchase", "dismiss"], size=rng.integers(3)):
                later = at + timedelta(days=float(rng.exponential(1.5)))
                request_id = row["request_id"] if rng.random() < 0.7 else None
                rows.append(row | {"event": str(event), "timestamp": later, "request_id": request_id})
    frame = pl.DataFrame([{c: r.get(c) for c in FEEDBACK_SCHEMA} for r in rows], schema=FEEDBACK_SCHEMA)
    record_events(frame, shop.store(), source="test")
    for day in (1, 3, 9):
        until_then = frame.filter(pl.col("timestamp") <= start + timedelta(days=day))
        monkeypatch.setattr(slates_module, "present", lambda _, d=day: int(start.timestamp()) + d * DAY)
        look, showings = experiment_outcome(shop, "course"), showings_with_answers(until_then)
        control, treated = (showings.filter(pl.col("variant") == variant) for variant in TWO)
        assert list(look.people.values()) == [control["user_id"].n_unique(), treated["user_id"].n_unique()]
        assert look.report is not None
        gap = treated["clicked"].mean() - control["clicked"].mean()
        assert look.report.comparisons[0].metric.difference == pytest.approx(gap)


def test_without_slates_that_explored_there_is_nothing_to_estimate_from(shop: Workspace) -> None:
    version = str(current(shop.models_dir))
    with pytest.raises(NothingToDo, match="explore_share"):
        estimate_of(shop, version)
    with pytest.raises(UsageError, match="not of showings"):
        estimate_of(shop, version, metric=Metric.REVENUE)
