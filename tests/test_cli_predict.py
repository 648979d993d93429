"""`recllm predict` as a caller sees it: one document, exit codes, consent, ids that are the shop's own."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from behaviour_world import START, coupons, shop
from conftest import Command
from shop_world import item_lines, loaded, purchase_lines

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


UNOPENED = {
    ("churn",): "'buy', 'leave', 'redeem', 'next-order' or 'value'",
    ("buy", "--horizon", "0"): "horizon_days must be 1 or more",
    ("redeem",): "needs coupon tables",
    ("buy", "--with", "active_days=9"): "not for the kind buy",
    ("leave", "--with", "active_days=0"): "active_days",
    ("leave", "--category", "food"): "any purchase",
    ("buy", "--category", "food", "--item", "i1"): "category",
}
"""Arguments -> what is wrong with them, which is said before a workspace is opened."""
UNREAD = {
    ("redeem", "--coupons", "nowhere"): "no coupon table",
    ("buy", "--item", "nothing"): "no item 'nothing'",
    ("buy", "--category", "garden"): "no item in the category",
}
"""The same of what is said before the log is read."""


def test_wrong_use_is_told_as_early_as_can_be(
    run: Command, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_reading(*_: object) -> None:
        raise AssertionError("the log was read")

    assert "spans 200 days" in run("predict", "buy", "--horizon", "150", "-w", str(place / "shop"))[2]
    monkeypatch.setattr("recllm.shop.workspace.privacy.PolicyGate.dataset", no_reading)
    wrong = {}
    for folder, cases in ((tmp_path / "nowhere", UNOPENED), (place / "shop", UNREAD)):
        for arguments, words in cases.items():
            code, _, said = run("predict", *arguments, "-w", str(folder))
            if code != 2 or words not in said or said.count("\n") != 1:
                wrong[arguments] = (code, said)
    assert wrong == {}


def test_nobody_agreed_to_training(run: Command, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "bare", consent_default=False, encoder="toy"):
        pass
    code, _, said = run("predict", "buy", "-w", str(tmp_path / "bare"))
    assert code == 4 and "model training" in said
