"""`recllm uplift` as a caller sees it: whom a trial's treatment moves, and exit 4 for what is no trial."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from behaviour_world import DAYS, START, shop
from conftest import Command
from shop_world import loaded, purchase_lines

from recllm.market.propensity.effects import UpliftSettings, saved_effects
from recllm.shop.data.dataset import DAY
from recllm.shop.workspace.workspace import Workspace

PEOPLE = 700
BEGIN = "2024-05-20"  # the log ends on 2024-06-02


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial drawn by lot that moves odd people (who buy rarely) alone, and one that was sent to odd people."""
    folder, data, rng = tmp_path_factory.mktemp("uplift"), shop(people=PEOPLE, stop=False), np.random.default_rng(0)
    users = data.users["user_id"].to_list()
    loaded(folder, {"events": purchase_lines(data, users)}, currency="USD")
    odd = np.arange(PEOPLE) % 2 == 1
    lot = rng.random(PEOPLE) < 0.5
    chosen = rng.random(PEOPLE) < np.where(odd, 0.8, 0.2)
    for name, treated in (("lot", lot), ("chosen", chosen)):
        outcome = rng.random(PEOPLE) < np.where(odd, 0.2 + 0.5 * treated, 0.5)
        rows = [f"{users[n]},{int(treated[n])},{int(outcome[n])}" for n in range(PEOPLE)]
        (folder / f"{name}.csv").write_text("\n".join(["user_id,treated,outcome", *rows]) + "\n")
    known = [f"{row},{0.8 if odd[n] else 0.2}" for n, row in enumerate(rows)]
    (folder / "known.csv").write_text("\n".join(["user_id,treated,outcome,propensity", *known]) + "\n")
    (folder / "ids.txt").write_text("\n".join(users))
    return folder


@pytest.fixture
def uplift(monkeypatch: pytest.MonkeyPatch, run: Command, place: Path) -> Command:
    monkeypatch.setattr("recllm.market.propensity.effects.UpliftSettings", partial(UpliftSettings, forest_groups=6))

    def call(trial: str, *arguments: str) -> tuple[int, str, str]:
        where = ("--start", BEGIN, "-w", str(place / "shop"), *arguments)
        return run("uplift", str(place / trial), *where)

    return call


def test_the_log_ends_after_the_trial_begins() -> None:
    assert datetime.fromtimestamp(START + DAYS * DAY, UTC).date().isoformat() > BEGIN


@pytest.mark.parametrize(("trial", "flag"), [("lot.csv", ("--randomised",)), ("known.csv", ())])
def test_whom_it_moves(uplift: Command, place: Path, tmp_path: Path, trial: str, flag: tuple[str, ...]) -> None:
    files = ("--csv", str(tmp_path / "x.csv"), "--ids", str(place / "ids.txt"))
    code, out, _ = uplift(trial, *flag, *files, "--json")
    found = json.loads(out)
    assert code == 0 and found["trial"]["people"] == PEOPLE and 0.1 < found["trial"]["effect"] < 0.4
    moved = [int(one["user_id"][1:]) % 2 for one in found["people"]]
    assert np.mean(moved[:300]) > 0.9 and np.mean(moved[-300:]) < 0.1 and found["qini"] > 0.02
    rows = list(csv.DictReader((tmp_path / "x.csv").open(encoding="utf-8")))
    assert [row["user_id"] for row in rows] == [one["user_id"] for one in found["people"]]


@pytest.mark.parametrize(
    ("trial", "flag", "code", "words"),
    [
        ("lot.csv", (), 4, "drawn at random"),
        ("chosen.csv", ("--randomised",), 4, "not drawn as declared"),
        ("ids.txt", ("--randomised",), 2, "missing column"),
        ("lot.csv", ("--randomised", "--save", "a/b"), 2, "safe name"),
        ("lot.csv", ("--randomised", "--campaign", "c.toml"), 2, "give a trial's table, or --campaign"),
        ("nothing.csv", ("--randomised",), 2, "cannot be read"),
    ],
)
def test_what_is_refused(uplift: Command, trial: str, flag: tuple[str, ...], code: int, words: str) -> None:
    found, out, said = uplift(trial, *flag)
    assert found == code and words in said and out == "" and said.count("\n") == 1


def test_effects_are_kept_with_their_intervals(uplift: Command, place: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "x.csv")
    code, out, err = uplift("lot.csv", "--randomised", "--save", "lot", "--csv", file)
    assert code == 0 and "kept as lot" in err and "low" in out
    rows = list(csv.DictReader(Path(file).read_text(encoding="utf-8").splitlines()))
    assert all(float(row["low"]) <= float(row["uplift"]) <= float(row["high"]) for row in rows)
    with Workspace.open(place / "shop") as opened:
        source = saved_effects(opened, "lot").source
    assert (source.trial, source.people, source.start[:10]) == ("lot.csv", PEOPLE, BEGIN)
    assert source.effect_low < 0.25 < source.effect_high  # .5 of half of the people
