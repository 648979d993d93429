"""`recllm predict` as a caller sees it: one document, exit codes, consent, ids that are the shop's own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from behaviour_world import START, coupons, shop

from recllm.shop.data.dataset import DAY
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

Run = Callable[..., tuple[int, str, str]]


def iso(at: int) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 people; u000 to u004 refuse personalisation, u007 refuses training."""
    folder, data = tmp_path_factory.mktemp("predict"), shop()
    e, users, items = data.events, data.users["user_id"], data.items["item_id"]
    log = ["user_id,item_id,event,timestamp,quantity,price"]
    for user, item, at, price in zip(e.user, e.item, e.at, e.price, strict=True):
        log.append(f"{users[int(user)]},{items[int(item)]},purchase,{iso(at)},1,{float(price):.2f}")
    rows = [f"{r['item_id']},{r['title']},{' > '.join(r['category'])}" for r in data.items.to_dicts()]
    no = [f"u{n:03},personalisation,false,2023-01-01T00:00:00Z" for n in range(5)]
    no.append("u007,model_training,false,2023-01-01T00:00:00Z")
    for name, lines in (
        ("log", log),
        ("items", ["item_id,title,category", *rows]),
        ("consent", ["user_id,purpose,granted,timestamp", *no]),
    ):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    write_coupons(folder / "coupons")
    with Workspace.create(folder / "shop", consent_default=True, currency="USD", encoder="toy") as opened:
        for name, table in (("items", "items"), ("log", "events"), ("consent", "consent")):
            assert load_file(opened, folder / f"{name}.csv", table).accepted
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    monkeypatch.delenv("RECLLM_KEY", raising=False)
    return partial(command, "predict")


def test_the_contract(run: Run, place: Path) -> None:
    code, out, _ = run("buy", "--horizon", "28", "--json", "-w", str(place / "shop"))
    assert code == 0 and out.count("\n") == 1
    found = json.loads(out)
    assert found["kind"] == "buy" and found["horizon_days"] == 28 and 0 <= found["calibration"]["ece"] < 0.2
    assert len(found["people"]) == 115 and found["left_out"] == {"no_consent": 5}
    assert {"user_id", "probability", "reasons"} <= set(found["people"][0]) and found["people"][0]["reasons"][0]["text"]
    assert all(one["user_id"].startswith("u1_") for one in found["people"]), "pseudonyms"


def test_files_and_own_ids(run: Run, place: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(f"u{n:03}" for n in range(120)))
    files = {name: tmp_path / f"x.{name}" for name in ("csv", "html")}
    arguments = ("--ids", str(tmp_path / "ids.txt"), "--csv", str(files["csv"]), "--html", str(files["html"]))
    code, out, err = run("value", *arguments, "-w", str(place / "shop"))
    assert code == 0 and "115 people" in out and "mae" in out and "more" in err
    rows = list(csv.DictReader(files["csv"].open(encoding="utf-8")))
    assert len(rows) == 115 and all(row["user_id"].startswith("u") and len(row["user_id"]) == 4 for row in rows)
    assert "<svg" in files["html"].read_text(encoding="utf-8")


def test_next_order_and_leave(run: Run, place: Path) -> None:
    code, out, _ = run("next-order", "--with", "explain=false", "--json", "-w", str(place / "shop"))
    first = json.loads(out)["people"][0]
    assert code == 0 and first["date"].startswith("2024-06-0") and first["earliest"] <= first["date"]
    code, out, _ = run("leave", "--with", "active_days=60", "--with", "explain=false", "-w", str(place / "shop"))
    assert code == 0 and "bought within the last 60 days" in out


def test_redeem(run: Run, place: Path) -> None:
    given = ("--coupons", str(place / "coupons"), "-w", str(place / "shop"), "--json")
    code, out, _ = run("redeem", *given, "--horizon", "21", "--with", "campaign=c4")
    found = json.loads(out)
    assert code == 0 and len(found["people"]) == 115 and found["as_of"].startswith(iso(START + 162 * DAY)[:10])
    assert "campaign c4" in found["notes"][0] and found["people"][0]["probability"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("churn",), 2, "'buy', 'leave', 'redeem', 'next-order' or 'value'"),
        (("buy", "--horizon", "0"), 2, "at least 1"),
        (("buy", "--horizon", "150"), 2, "spans 200 days"),
        (("buy", "--category", "garden"), 2, "no item in the category"),
        (("buy", "--item", "nothing"), 2, "no item 'nothing'"),
        (("redeem",), 2, "needs coupon tables"),
        (("redeem", "--coupons", "nowhere"), 2, "no coupon table"),
        (("buy", "--with", "active_days=9"), 2, "not for the kind buy"),
        (("leave", "--category", "food"), 2, "any purchase"),
    ],
)
def test_wrong_use_is_told(run: Run, place: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    found, _, said = run(*arguments, "-w", str(place / "shop"))
    assert found == code and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("churn",),
        ("buy", "--horizon", "0"),
        ("redeem",),
        ("buy", "--with", "active_days=9"),
        ("leave", "--with", "active_days=0"),
        ("leave", "--category", "food"),
        ("buy", "--category", "food", "--item", "i1"),
    ],
)
def test_a_wrong_request_is_told_before_anything_is_opened(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert run(*arguments, "-w", str(tmp_path / "nowhere"))[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("redeem", "--coupons", "nowhere"), "no coupon table"),
        (("buy", "--item", "nothing"), "no item 'nothing'"),
        (("buy", "--category", "garden"), "no item in the category"),
    ],
)
def test_coupons_and_the_target_are_read_before_the_log(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    def no_reading(*_: object) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr("recllm.shop.workspace.privacy.PolicyGate.dataset", no_reading)
    code, _, said = run(*arguments, "-w", str(place / "shop"))
    assert code == 2 and words in said


def test_nobody_agreed_to_training(run: Run, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "bare", consent_default=False, encoder="toy"):
        pass
    code, _, said = run("buy", "-w", str(tmp_path / "bare"))
    assert code == 4 and "model training" in said
