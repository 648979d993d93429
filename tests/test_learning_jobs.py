"""Training and measuring a workspace: whose data, by which settings, and what is said meanwhile."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Command
from shop_world import item_lines, load_lines, loaded, purchase_lines, shop
from test_order_logs import ordered

from recllm.base.settings import ScorerTrainingSettings
from recllm.learn.training import scorer
from recllm.learn.training.advise import advise
from recllm.learn.training.scorer import FittedScorer
from recllm.recommend.evaluation.protocols import leave_one_out
from recllm.recommend.evaluation.shop_evaluation import evaluate_workspace
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import Workspace
from recllm.text.items import item_texts

ROOT = Path(__file__).resolve().parents[1]
FAST = {"epochs": 1, "heads": 1, "hidden": (8,), "projection": 4, "min_steps": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of forty people who all agreed to everything, with the toy encoder."""
    data = shop()
    tables = {"items": item_lines(data), "events": purchase_lines(data, data.users["user_id"].to_list())}
    return loaded(tmp_path_factory.mktemp("learning"), tables, currency="USD")


Fits = list[tuple[Dataset, ScorerTrainingSettings, Mapping[str, Any]]]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    """What the scorer is trained on, by which settings, and what else; it is really trained by faster settings."""
    calls: Fits = []
    real = scorer.fit_scorer

    def spy(
        data: Dataset, vectors: Any, basics: Any, args: ScorerTrainingSettings, *rest: Any, **more: Any
    ) -> FittedScorer:
        calls.append((data, args, more))
        return real(data, vectors, basics, args.model_copy(update=FAST), *rest, **more)

    monkeypatch.setattr("recllm.learn.training.scorer.fit_scorer", spy)
    return calls


def test_evaluation_learns_from_nobody_who_refused_training(folder: Path, fits: Fits) -> None:
    refusing = {"u00": "model_training", "u01": "analytics"}
    lines = [f"{user},{purpose},false,2020-01-01T00:00:00Z" for user, purpose in refusing.items()]
    with Workspace.open(folder) as workspace:
        assert load_lines(workspace, "consent", ["user_id,purpose,granted,at", *lines]).accepted == 2
        evaluate_workspace(workspace, test_days=14, baselines=["popular"])
        pseudonyms = set(workspace.pseudonymiser().many(list(refusing)))
    learned_from = set(fits[0][0].users["user_id"])
    assert len(learned_from) == 38 and not learned_from & pseudonyms


def test_evaluation_measures_what_training_would_make(folder: Path, fits: Fits) -> None:
    with Workspace.open(folder) as workspace:
        evaluate_workspace(workspace, test_days=14, baselines=["popular"])
        train_workspace(workspace)
    past, measured, _ = fits[0]
    assert measured == advise(past, item_texts(past.items), encoder="toy", horizon_days=14).training
    data, trained, _ = fits[1]
    assert trained == advise(data, item_texts(data.items), encoder="toy").training


def test_a_log_of_orders_is_measured_as_one() -> None:
    rows = [(f"u{user}", f"i{(user + step) % 12}", step) for user in range(40) for step in range(8)]
    past = leave_one_out(ordered(pl.DataFrame(rows, schema=["user_id", "item_id", "order"], orient="row")))
    args = advise(past.fit_on, item_texts(past.fit_on.items), encoder="toy").training
    assert args is not None and (args.timed, args.n_windows, args.parts) == (False, 1, ("cosine", "features"))


def test_evaluation_and_training_use_every_section_that_is_set(folder: Path, fits: Fits, command: Command) -> None:
    for line in (("train",), ("evaluate", "--test-days", "14", "--baselines", "popular")):
        set_ = ("--set", "collaborative.neighbours=7")
        code, _, err = command(*line, *set_, "-w", str(folder))
        assert code == 0, err
    assert [more["population"].neighbours for *_, more in fits] == [7, 7]
    assert [more["interests"] for *_, more in fits] == [None, None], "advised for so small a log"
    assert command("train", "--set", "sequence_model=true", "-w", str(folder))[0] == 0
    assert fits[2][2]["interests"].epochs == 30


def test_without_a_terminal_each_step_is_a_line(
    folder: Path, fits: Fits, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "SMALL_SHOP", 1)
    for n, line in enumerate((("train",), ("evaluate", "--test-days", "14", "--baselines", "popular")), 1):
        code, out, err = command(*line, "-w", str(folder), "--json")
        assert code == 0 and out.count("\n") == 1
        assert "events to learn from" in err and "window 1" in err and "epoch 1" in err and "ndcg@20_all" in err
        assert logging.getLogger("recllm").handlers == [] and len(fits) == n


def test_a_terminal_keeps_its_bars(folder: Path, fits: Fits, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.doors.cli.learn.sys.stderr", _Terminal())
    assert command("train", "-w", str(folder))[0] == 0
    assert _Terminal.lines == [] and len(fits) == 1


class _Terminal:
    lines: list[str] = []  # noqa: RUF012 - one for the test

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.lines.append(text)
        return len(text)


def test_a_recipe_that_cannot_be_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    """What is wrong in a recipe: test_settings."""
    (tmp_path / "scorer.toml").write_text("[scorer]\nepochs = 0\n")
    script = [sys.executable, str(ROOT / "finetune" / "train.py"), str(tmp_path / "scorer.toml"), "-w", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "scorer.epochs: 0 is not a whole number at least 1" in done.stderr
    assert done.stderr.count("\n") == 1
