"""`recllm predict`, `uplift` and `audience` as a caller sees them: one document, exit codes, consent, own ids."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from behaviour_world import DAYS, START, coupons, shop
from conftest import Command
from shop_world import item_lines, loaded, purchase_lines, train
from shop_world import shop as world
from tables import table

from recllm.base.policy import Policy
from recllm.market.propensity.effects import UpliftSettings, saved_effects
from recllm.shop.data.dataset import DAY
from recllm.shop.workspace.workspace import Workspace


def iso(at: int) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 people; u000 to u004 refuse personalisation, u007 refuses training."""
    folder, data = tmp_path_factory.mktemp("predict"), shop()
    no = [f"u{n:03},personalisation,false,2023-01-01T00:00:00Z" for n in range(5)]
    no.append("u007,model_training,false,2023-01-01T00:00:00Z")
    files = {"items": item_lines(data), "events": purchase_lines(data, data.users["user_id"].to_list())}
    loaded(folder, files | {"consent": ["user_id,purpose,granted,timestamp", *no]}, currency="USD")
    write_coupons(folder / "coupons")
    return folder


def write_coupons(folder: Path) -> None:
    folder.mkdir()
    made = coupons(shop())
    for name in ("mailings", "products", "redemptions"):
        frame = getattr(made, name)
        rows = frame.to_dicts()
        columns = [c for c in ("user_id", "campaign_id", "item_id", "kind") if c in frame.columns]
        timed = "at" in frame.columns
        lines = [",".join([*columns, *(["timestamp"] if timed else [])])]
        lines += [",".join([*(str(r[c]) for c in columns), *([iso(r["at"])] if timed else [])]) for r in rows]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_the_contract(run: Command, place: Path) -> None:
    code, out, _ = run("predict", "buy", "--horizon", "28", "--json", "-w", str(place / "shop"))
    assert code == 0 and out.count("\n") == 1
    found = json.loads(out)
    assert found["kind"] == "buy" and found["horizon_days"] == 28 and 0 <= found["calibration"]["ece"] < 0.2
    assert len(found["people"]) == 115 and found["left_out"] == {"no_consent": 5}
    assert {"user_id", "probability", "reasons"} <= set(found["people"][0]) and found["people"][0]["reasons"][0]["text"]
    assert all(one["user_id"].startswith("u1_") for one in found["people"]), "pseudonyms"


def test_files_and_own_ids(run: Command, place: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(f"u{n:03}" for n in range(120)))
    file = tmp_path / "x.csv"
    arguments = ("--ids", str(tmp_path / "ids.txt"), "--csv", str(file))
    code, out, _ = run("predict", "value", *arguments, "-w", str(place / "shop"))
    assert code == 0 and "95 more" in out and "mae" in out
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert len(rows) == 115 and all(row["user_id"].startswith("u") and len(row["user_id"]) == 4 for row in rows)


def test_next_order_and_leave(run: Command, place: Path) -> None:
    code, out, _ = run("predict", "next-order", "--with", "explain=false", "--json", "-w", str(place / "shop"))
    first = json.loads(out)["people"][0]
    assert code == 0 and first["date"].startswith("2024-06-0") and first["earliest"] <= first["date"]
    code, out, _ = run(
        "predict", "leave", "--with", "active_days=60", "--with", "explain=false", "-w", str(place / "shop")
    )
    assert code == 0 and "bought within the last 60 days" in out


def test_redeem(run: Command, place: Path) -> None:
    given = ("--coupons", str(place / "coupons"), "-w", str(place / "shop"), "--json")
    code, out, _ = run("predict", "redeem", *given, "--horizon", "21", "--with", "campaign=c4")
    found = json.loads(out)
    assert code == 0 and len(found["people"]) == 115 and found["as_of"].startswith(iso(START + 162 * DAY)[:10])
    assert "campaign c4" in found["notes"][0] and found["people"][0]["probability"] > 0.5


def test_wrong_use_is_told_early(run: Command, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_reading(*_: object) -> None:
        raise AssertionError("the log was read")

    assert "spans 200 days" in run("predict", "buy", "--horizon", "150", "-w", str(place / "shop"))[2]
    monkeypatch.setattr("recllm.shop.workspace.privacy.PolicyGate.dataset", no_reading)
    wrong = {}
    for folder, when in ((tmp_path / "nowhere", "a workspace is opened"), (place / "shop", "the log is read")):
        for arguments, words in table("cli_people", f"said before {when}"):
            code, _, said = run("predict", *arguments, "-w", str(folder))
            if code != 2 or words not in said or said.count("\n") != 1:
                wrong[words] = (code, said)
    assert wrong == {}


def test_nobody_agreed_to_training(run: Command, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "bare", consent_default=False, encoder="toy"):
        pass
    code, _, said = run("predict", "buy", "-w", str(tmp_path / "bare"))
    assert code == 4 and "model training" in said


PEOPLE = 700
BEGIN = "2024-05-20"  # the log ends on 2024-06-02


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def uplift(monkeypatch: pytest.MonkeyPatch, run: Command, trials: Path) -> Command:
    monkeypatch.setattr("recllm.market.propensity.effects.UpliftSettings", partial(UpliftSettings, forest_groups=6))

    def call(trial: str, *arguments: str) -> tuple[int, str, str]:
        where = ("--start", BEGIN, "-w", str(trials / "shop"), *arguments)
        return run("uplift", str(trials / trial), *where)

    return call


def test_the_log_ends_after_the_trial_begins() -> None:
    assert datetime.fromtimestamp(START + DAYS * DAY, UTC).date().isoformat() > BEGIN


@pytest.mark.parametrize(("trial", "flag"), [("lot.csv", ("--randomised",)), ("known.csv", ())])
def test_whom_a_treatment_moves(
    uplift: Command, trials: Path, tmp_path: Path, trial: str, flag: tuple[str, ...]
) -> None:
    files = ("--csv", str(tmp_path / "x.csv"), "--ids", str(trials / "ids.txt"))
    code, out, _ = uplift(trial, *flag, *files, "--json")
    found = json.loads(out)
    assert code == 0 and found["trial"]["people"] == PEOPLE and 0.1 < found["trial"]["effect"] < 0.4
    moved = [int(one["user_id"][1:]) % 2 for one in found["people"]]
    assert np.mean(moved[:300]) > 0.9 and np.mean(moved[-300:]) < 0.1 and found["qini"] > 0.02
    rows = list(csv.DictReader((tmp_path / "x.csv").open(encoding="utf-8")))
    assert [row["user_id"] for row in rows] == [one["user_id"] for one in found["people"]]


@pytest.mark.parametrize(("trial", "flag", "code", "words"), table("cli_people", "what is no trial"))
def test_what_is_no_trial_is_refused(uplift: Command, trial: str, flag: tuple[str, ...], code: int, words: str) -> None:
    found, out, said = uplift(trial, *flag)
    assert found == code and words in said and out == "" and said.count("\n") == 1


def test_effects_are_kept_with_their_intervals(uplift: Command, trials: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "x.csv")
    code, out, err = uplift("lot.csv", "--randomised", "--save", "lot", "--csv", file)
    assert code == 0 and "kept as lot" in err and "low" in out
    rows = list(csv.DictReader(Path(file).read_text(encoding="utf-8").splitlines()))
    assert all(float(row["low"]) <= float(row["uplift"]) <= float(row["high"]) for row in rows)
    with Workspace.open(trials / "shop") as opened:
        source = saved_effects(opened, "lot").source
    assert (source.trial, source.people, source.start[:10]) == ("lot.csv", PEOPLE, BEGIN)
    assert source.effect_low < 0.25 < source.effect_high  # .5 of half of the people


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 people of two tastes, a trained model; nobody's consent is recorded but three refusals and one to e-mail."""
    data = world(people=130)
    no = [f"u{n:02},{purpose},false,2024-01-01T00:00:00Z" for n, purpose in REFUSALS]
    files = {"items": item_lines(data), "events": purchase_lines(data, data.users["user_id"].to_list())}
    files["consent"] = ["user_id,purpose,granted,timestamp", *no]
    return train(loaded(tmp_path_factory.mktemp("audience"), files, currency="USD", policy=Policy(small_shop=0)))


REFUSALS = [(10, "personalisation"), (11, "personalisation"), (12, "personalisation"), (14, "email")]


def test_the_audience_contract(run: Command, trained: Path) -> None:
    code, out, _ = run("audience", "--item", "tea3", "--size", "52", "-w", str(trained), "--json")
    assert code == 0 and out.count("\n") == 1
    found = json.loads(out)
    assert {"campaign_id", "item_id", "size", "people", "excluded", "holdout", "expected_conversions"} <= set(found)
    assert found["item_id"] == "tea3" and found["size"] == len(found["people"]) == 52
    assert {"user_id", "probability", "reasons"} <= set(found["people"][0]) and found["people"][0]["reasons"][0]["text"]
    assert all(p["user_id"].startswith("u1_") for p in found["people"]), "pseudonyms"
    assert found["excluded"]["no_consent"] is None, "three people are few"
    assert {"no_consent", "beyond_the_cut"} <= set(found["excluded"])
    _, out, _ = run("audience", "--item", "tea3", "--size", "52", "-w", str(trained))
    assert "left out: no consent (few), " in out and "beyond size or budget (" in out
    assert not [code for code in ("no_consent", "beyond_the_cut", "wider group") if code in out]
    assert found["expected_conversions"] == pytest.approx(sum(p["probability"] for p in found["people"]), rel=1e-5)


def test_own_ids_and_files(run: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(f"u{n:02}" for n in range(0, 130, 2)))
    arguments = ("--item", "tea3", "--size", "52", "-w", str(trained), "--ids", str(tmp_path / "ids.txt"))
    code, out, _ = run("audience", *arguments, "--csv", str(tmp_path / "people.csv"), "--with", "explain=false")
    assert code == 0 and "52 people" in out
    rows = list(csv.DictReader((tmp_path / "people.csv").open(encoding="utf-8")))
    known = [r["user_id"] for r in rows if not r["user_id"].startswith("u1_")]
    assert len(rows) == 52 and len(known) >= 45 and all(int(name[1:]) % 2 == 0 for name in known)
    (tmp_path / "never.txt").write_text("\n".join([*known[:2], "a stranger"]))
    code, out, _ = run(
        "audience", *arguments, "--with", f"suppressed=@{tmp_path / 'never.txt'}", "--channel", "email", "--json"
    )
    found = json.loads(out)
    assert {"suppression_list": None, "no_consent": None}.items() <= found["excluded"].items(), "both are few"
    assert not {*known[:2], "u14"} & {p["user_id"] for p in found["people"]}


def test_seeds_category_and_text(run: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("\n".join(f"u{n:02}" for n in range(1, 21, 2)))
    code, out, _ = run(
        "audience", "--with", f"seeds=@{tmp_path / 'seeds.txt'}", "-w", str(trained), "--size", "50", "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["people"][0]["probability"] is None and found["excluded"]["seed"] is None
    for target in (("--category", "home > tools"), ("--text", "Steel hammer", "--category", "home > tools")):
        code, out, _ = run("audience", *target, "-w", str(trained), "--size", "50", "--with", "explain=false", "--json")
        assert code == 0 and json.loads(out)["size"] == 50


def test_exit_codes(run: Command, trained: Path) -> None:
    at = ("-w", str(trained))
    code, out, err = run("audience", "--item", "tea3", "--with", "budget=0,cost=1", *at, "--json")
    assert code == 3 and json.loads(out)["size"] == 0 and "beyond size or budget (127)" in err
    code, out, err = run("audience", "--item", "tea3", "--size", "49", *at, "--json")
    assert code == 4 and not out and "50 people" in err
    costless = ("--item", "tea3", "--with", "budget=9")
    for wrong in (("--item", "nothing"), (), costless, ("--item", "tea3", "--text", "x")):
        code, out, err = run("audience", *wrong, *at, "--json")
        assert code == 2 and not out and err.count("\n") == 1
    assert run("audience", "--item", "tea3", "--channel", "billboard", *at)[0] == 2


def test_wrong_use_is_told_before_anything_is_opened(run: Command, tmp_path: Path) -> None:
    for wrong in ((), ("--item", "tea3", "--text", "x"), ("--item", "tea3", "--with", "budget=9"), ("--text", " ")):
        assert run("audience", *wrong, "-w", str(tmp_path / "nowhere"))[0] == 2
