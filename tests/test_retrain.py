"""Learning from the grown log: due or not, worse challengers stay out, and whatever happens something good serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
from conftest import Command
from retrain_world import PEOPLE, grow, log, make_shop, mixed_up, tenth

from recllm.base.errors import NotFittedError, StoreError
from recllm.base.files import lock_file
from recllm.learn.models.scorer import load_scorer
from recllm.learn.training import scorer
from recllm.market.experiments.effect import Treatment
from recllm.market.experiments.slates import start_experiment, stop_experiment
from recllm.recommend.evaluation import retrain as job
from recllm.recommend.evaluation.retrain import RetrainOutcome, RetrainReport, model_history, retrain
from recllm.recommend.recommender import registry
from recllm.recommend.recommender.lineage import CheckKind, CheckVerdict, GateReason, Origin
from recllm.recommend.recommender.saved_model import Model, load_model
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import Workspace, overridden

HERE = Path(__file__).parent
WEEKS, LATER = range(20), range(20, 26)
Train = Callable[..., Model]


@pytest.fixture(scope="module", autouse=True)
def learned_alone() -> Iterator[None]:
    """Counting would make up for what a challenger has learned wrong; `counted` brings it back."""
    with patch.object(scorer, "SMALL_SHOP", 1):
        yield


@pytest.fixture
def counted() -> Iterator[None]:
    """The shop is small: counting and trees."""
    with patch.object(scorer, "SMALL_SHOP", 1_000):
        yield


@pytest.fixture(scope="module")
def young(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("young") / "shop"
    make_shop(root, WEEKS)
    with Workspace.open(root) as shop:
        train_workspace(shop)
    return root


@pytest.fixture(scope="module")
def grown(young: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shop six weeks later."""
    root = tmp_path_factory.mktemp("grown") / "shop"
    shutil.copytree(young, root)
    grow(root, log(LATER))
    return root


@pytest.fixture
def shop(grown: Path, tmp_path: Path) -> Path:
    shutil.copytree(grown, tmp_path / "shop")
    return tmp_path / "shop"


WIDE = {"margin": 0.3, "max_ece": 0.12}
"""Where a challenger like any other is to pass, which so few people cannot prove: their probabilities are off by
several points, and by others on another processor."""


def run_retrain(root: Path, limits: dict[str, Any] | None = None, **options: Any) -> RetrainReport:
    with overridden({"retraining": limits or {}}), Workspace.open(root) as workspace:
        return retrain(workspace, needed=(), **options)


def serving(root: Path) -> str | None:
    return registry.current(root / "models")


def changed_log(change: Callable[[Dataset, np.random.Generator], Dataset], seed: int) -> Train:
    real = job.train_challenger

    def train(past: Dataset, *rest: Any) -> Model:
        return real(change(past, np.random.default_rng(seed)), *rest)

    return train


@dataclass(frozen=True)
class Retrained:
    """A shop after one retraining that was due; tests copy its folder before they change it."""

    root: Path
    first: str
    """The version that served before."""
    report: RetrainReport
    logs: list[Dataset]
    """That a challenger learned from."""

    def copied(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.root, folder / "retrained"))


def retrained(root: Path, train: Train, limits: dict[str, Any] | None = None) -> Retrained:
    logs: list[Dataset] = []

    def recorded(past: Dataset, *rest: Any) -> Model:
        logs.append(past)
        return train(past, *rest)

    first = str(serving(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "train_challenger", recorded)
        return Retrained(root, first, run_retrain(root, limits, if_due=True), logs)


@pytest.fixture(scope="module")
def better(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """Its challenger is like any other."""
    root = shutil.copytree(grown, tmp_path_factory.mktemp("better") / "shop")
    return retrained(root, job.train_challenger, WIDE)


@pytest.fixture(scope="module")
def worse(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """Its challenger learned from a log in which each purchase is of a random item."""
    root = shutil.copytree(grown, tmp_path_factory.mktemp("worse") / "shop")
    return retrained(root, changed_log(mixed_up, 0))


def test_an_unchanged_log_is_not_due_and_a_grown_one_is(young: Path, better: Retrained) -> None:
    report = run_retrain(young, if_due=True)
    assert (report.outcome, report.challenger, report.gate) == (RetrainOutcome.NOT_DUE, None, None)
    assert {check.kind: check.verdict for check in report.checks} == dict.fromkeys(
        set(CheckKind) - {CheckKind.SCORE_DRIFT, CheckKind.CALIBRATION}, CheckVerdict.NOT_DUE
    )
    report = better.report
    by_kind = {check.kind: check for check in report.checks}
    grew = by_kind[CheckKind.DATA_DRIFT]
    assert grew.verdict is CheckVerdict.DUE and grew.figures["new_events"].is_beyond
    assert grew.figures["new_events"].value == pytest.approx(len(LATER) / len(WEEKS), rel=0.02)
    assert grew.figures["new_items"].value == 0
    assert by_kind[CheckKind.AGE].figures["days"].value == pytest.approx(42, abs=0.1)
    assert report.parent == better.first and report.challenger and report.gate is not None


@pytest.mark.parametrize("kind", ["mixed up", "a tenth"])
def test_a_worse_challenger_is_refused(request: pytest.FixtureRequest, kind: str) -> None:
    if kind == "mixed up":
        done = request.getfixturevalue("worse")
    else:
        done = retrained(request.getfixturevalue("shop"), changed_log(tenth, 0))
    assert done.report.outcome is RetrainOutcome.REFUSED and done.report.gate is not None
    assert set(done.report.gate.reasons) & {GateReason.WORSE, GateReason.MISCALIBRATED}, "not for want of people"
    assert serving(done.root) == done.first


@pytest.mark.usefixtures("counted")
def test_trees_of_a_small_shop_pass_the_gate_and_those_of_a_mixed_up_log_do_not(shop: Path) -> None:
    good = retrained(shop, job.train_challenger, WIDE)
    assert good.report.outcome is RetrainOutcome.PROMOTED and serving(shop) == good.report.challenger
    assert load_scorer(shop / "models" / "versions" / str(serving(shop))).config.trees
    grow(shop, log(range(26, 32)))
    bad = retrained(shop, changed_log(mixed_up, 0))
    assert bad.report.outcome is RetrainOutcome.REFUSED and bad.report.gate is not None
    assert set(bad.report.gate.reasons) & {GateReason.WORSE, GateReason.MISCALIBRATED}
    assert serving(shop) == bad.first == good.report.challenger


def test_a_better_challenger_serves(worse: Retrained, tmp_path: Path) -> None:
    shop, bad = worse.copied(tmp_path), worse.report
    registry.promote(shop / "models", str(bad.challenger), force=True)
    report = run_retrain(shop, WIDE)
    assert report.outcome is RetrainOutcome.PROMOTED and report.gate is not None
    assert report.gate.reasons == (GateReason.BETTER,) and report.parent == bad.challenger
    every = report.gate.comparisons[0]
    assert every.slice == "ALL" and every.people == PEOPLE and every.low > 0
    assert every.challenger - every.serving == pytest.approx(every.difference, abs=1e-5)
    assert serving(shop) == report.challenger
    with Workspace.open(shop) as workspace:
        slate = open_recommender(workspace).recommend("u000", k=3)[0]
    assert slate.model_version == report.challenger
    assert all(item.item_id.startswith("green tea") for item in slate.items)


def test_the_challenger_never_saw_the_window_it_is_judged_on(better: Retrained) -> None:
    report, logs = better.report, better.logs
    assert report.gate is not None
    assert logs[0].as_of == np.datetime64(report.gate.window_start[:19]).astype("datetime64[s]").astype(int)
    assert int(logs[0].events.at.max()) < logs[0].as_of
    assert report.gate.serving_seen_days == 0, "the serving model was trained six weeks ago"


def test_a_serving_model_that_saw_the_window_is_said_to_have_an_advantage(young: Path, tmp_path: Path) -> None:
    shutil.copytree(young, tmp_path / "shop")
    report = run_retrain(tmp_path / "shop")
    assert report.gate is not None and report.gate.serving_seen_days == pytest.approx(13, abs=1)


def test_a_refused_version_stays_with_its_reasons(worse: Retrained, tmp_path: Path, command: Command) -> None:
    shop, before, report = worse.copied(tmp_path), worse.first, worse.report
    code, out, _ = command("models", "-w", str(shop), "--json")
    listed = json.loads(out)
    assert code == 0 and listed["serving"] == before
    record = next(v for v in listed["versions"] if v["version"] == report.challenger)
    lineage = record["lineage"]
    assert not record["serves"] and lineage["parent"] == before and lineage["origin"] == "retrained"
    assert lineage["gate"]["verdict"] == "refused" and "worse" in lineage["gate"]["reasons"]
    assert lineage["gate"]["comparisons"][0]["high"] < 0 and lineage["checks"][0]["verdict"] == "due"
    assert listed["decisions"][-1]["kind"] == "refused" and listed["decisions"][-1]["version"] == report.challenger
    code, _, err = command("models", "--promote", str(report.challenger), "-w", str(shop))
    assert code == 2 and "was refused (worse" in err and "--force" in err and serving(shop) == before
    assert command("models", "--promote", str(report.challenger), "--force", "-w", str(shop))[0] == 0
    assert serving(shop) == report.challenger
    decision = registry.decisions(shop / "models")[-1]
    assert GateReason.WORSE in decision.overridden and decision.previous == before
    assert command("models", "--promote", "previous", "-w", str(shop))[0] == 0 and serving(shop) == before


def test_history_tells_parents_verdicts_and_since_when(better: Retrained, tmp_path: Path) -> None:
    shop, first, report = better.copied(tmp_path), better.first, better.report
    assert report.outcome is RetrainOutcome.PROMOTED
    with Workspace.open(shop) as workspace:
        history = model_history(workspace)
    old, new = history.versions
    assert (old.version, new.version, history.serving) == (first, report.challenger, report.challenger)
    assert old.lineage is not None and old.lineage.origin is Origin.TRAINED and old.lineage.parent is None
    assert new.lineage is not None and new.lineage.origin is Origin.RETRAINED and new.lineage.parent == first
    assert new.lineage.gate == report.gate and new.lineage.checks == report.checks
    assert new.lineage.data_hash != old.lineage.data_hash and new.lineage.events > old.lineage.events
    assert new.serves and new.serving_since and old.serving_since is None
    assert set(new.metrics) >= {"ndcg@20_all", "ndcg@20_new"}
    assert registry.rollback(shop / "models") == first
    with Workspace.open(shop) as workspace:
        assert model_history(workspace).versions[0].serving_since == registry.decisions(shop / "models")[-1].at


def test_the_next_training_waits_until_the_log_grew(worse: Retrained, tmp_path: Path) -> None:
    shop = worse.copied(tmp_path)
    assert worse.report.outcome is RetrainOutcome.REFUSED
    report = run_retrain(shop, if_due=True)
    assert (report.outcome, report.challenger) == (RetrainOutcome.TOO_EARLY, None)
    assert any(check.verdict is CheckVerdict.DUE for check in report.checks)
    grow(shop, log(range(26, 27)))
    assert run_retrain(shop, if_due=True).challenger is not None


def test_old_versions_go_and_their_reasons_stay(shop: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    first = serving(shop)
    monkeypatch.setattr(job, "train_challenger", changed_log(tenth, 0))
    monkeypatch.setattr(job, "REFUSED_VERSIONS", 1)
    refused: list[str] = []
    removed: list[list[str]] = []
    for attempt in range(3):
        code, out, err = command("retrain", "-w", str(shop), "--json")
        assert code == 0, err
        refused.append(json.loads(out)["challenger"])
        removed.append(json.loads(out)["removed"])
        with Workspace.open(shop) as workspace:
            if attempt == 0:
                start_experiment(workspace, "it", {"a": (0.5, Treatment()), "b": (0.5, Treatment(model=refused[0]))})
            elif attempt == 1:
                stop_experiment(workspace, "it")
    assert removed == [[], [], refused[:2]], "what an experiment shows stays"
    assert [m.version for m in registry.versions(shop / "models")] == [first, refused[2]]
    gone = next(d for d in registry.decisions(shop / "models") if d.kind is registry.DecisionKind.REMOVED)
    assert (
        gone.version == refused[0]
        and gone.gate is not None
        and set(gone.gate.reasons) <= {GateReason.WORSE, GateReason.MISCALIBRATED}
    )


def test_two_retrains_at_once(shop: Path, command: Command) -> None:
    with lock_file(shop / "models" / job.LOCK):
        with pytest.raises(StoreError, match="locked by another process"):
            run_retrain(shop)
        assert command("retrain", "-w", str(shop))[0] == 1
    assert len(registry.versions(shop / "models")) == 1


def test_whoever_is_promoted_meanwhile_goes_on_serving(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = job.train_challenger
    first = str(serving(shop))

    def train(*arguments: Any) -> Model:
        folder = shop / "models" / "versions" / first
        registry.publish(
            shop / "models",
            lambda draft: shutil.copytree(
                folder, draft, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest*")
            ),  # type: ignore[arg-type,return-value]
            version="meanwhile",
        )
        return real(*arguments)

    monkeypatch.setattr(job, "train_challenger", train)
    report = run_retrain(shop, WIDE)
    assert report.outcome is RetrainOutcome.OVERTAKEN and report.challenger
    assert serving(shop) == "meanwhile"


def test_a_kill_in_the_middle_leaves_the_serving_model(shop: Path) -> None:
    before = serving(shop)
    child = subprocess.Popen(
        [sys.executable, HERE / "retrain_child.py", str(shop)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
    )
    assert child.stdout
    assert any(line.startswith("window") for line in child.stdout)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert serving(shop) == before
    assert [m.version for m in registry.versions(shop / "models")] == [before]
    with Workspace.open(shop) as workspace:
        assert open_recommender(workspace).recommend("u000", k=1)[0].model_version == before
    assert run_retrain(shop).challenger is not None, "the lock fell with its process"


def test_an_interrupted_publication_leaves_the_serving_model(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = serving(shop)

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recllm.recommend.recommender.shop_states.save_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_retrain(shop, WIDE)
    assert serving(shop) == before
    assert [path.name for path in (shop / "models" / "versions").iterdir()] == [before]


def test_a_shop_without_a_model_or_purchases_is_told(tmp_path: Path, command: Command) -> None:
    make_shop(tmp_path / "shop", range(3), people=3)
    with pytest.raises(NotFittedError, match="recllm train"):
        run_retrain(tmp_path / "shop")


def test_the_command_says_what_it_found(young: Path, shop: Path, command: Command) -> None:
    code, out, err = command("retrain", "--if-due", "-w", str(young))
    assert code == 3 and "no check asks" in err and "new_events" in out
    limits = [f"--set=retraining.{name}={json.dumps(value)}" for name, value in WIDE.items()]
    code, out, _ = command("retrain", "--if-due", "-w", str(shop), *limits)
    assert code == 0 and "data_drift" in out and "outcome: promoted" in out


def test_settings_of_the_workspace_stand_above_the_stored_recipe(shop: Path) -> None:
    with Workspace.open(shop) as workspace:
        model = load_model(workspace.models_dir)
        recipe = job.serving_recipe(model, workspace.settings, 3)
        assert recipe.training.min_steps == model.training["arguments"]["min_steps"]
        assert recipe.training.seed == 3 and recipe.interests is None
        settings = workspace.settings.model_copy(update={"scorer": {"epochs": 5}, "sequence_model": True})
        recipe = job.serving_recipe(model, settings, 3)
    assert recipe.training.epochs == 5 and recipe.candidates == model.candidates
    assert recipe.training.min_steps == model.training["arguments"]["min_steps"] and recipe.interests is not None


def test_consent_counts_at_each_step(shop: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    rows = ["u000,model_training,false,2020-01-01T00:00:00Z", "u001,analytics,false,2020-01-01T00:00:00Z"]
    (shop / "consent.csv").write_text("user_id,purpose,granted,at\n" + "\n".join(rows) + "\n")
    assert command("ingest", str(shop / "consent.csv"), "--table", "consent", "-w", str(shop))[0] == 0
    monkeypatch.setattr(job, "train_challenger", train := Mock(wraps=job.train_challenger))
    report = run_retrain(shop)
    assert report.gate is not None
    assert train.call_args_list[0].args[0].n_users == PEOPLE - 1, "who refused training is not learned from"
    assert report.gate.comparisons[0].people == PEOPLE - 2, "who refused analytics is not measured"
