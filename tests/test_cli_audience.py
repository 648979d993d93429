"""`recllm audience` as a caller sees it: one document, exit codes, files without traps, ids that are the shop's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import Command
from shop_world import item_lines, loaded, purchase_lines, train
from shop_world import shop as world

from recllm.base.policy import Policy


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 people of two tastes, a trained model; nobody's consent is recorded but three refusals and one to e-mail."""
    data = world(people=130)
    no = [f"u{n:02},{purpose},false,2024-01-01T00:00:00Z" for n, purpose in REFUSALS]
    files = {"items": item_lines(data), "events": purchase_lines(data, data.users["user_id"].to_list())}
    files["consent"] = ["user_id,purpose,granted,timestamp", *no]
    return train(loaded(tmp_path_factory.mktemp("audience"), files, currency="USD", policy=Policy(small_shop=0)))


REFUSALS = [(10, "personalisation"), (11, "personalisation"), (12, "personalisation"), (14, "email")]


def test_the_contract(run: Command, shop: Path) -> None:
    code, out, _ = run("audience", "--item", "tea3", "--size", "52", "-w", str(shop), "--json")
    assert code == 0 and out.count("\n") == 1
    found = json.loads(out)
    assert {"campaign_id", "item_id", "size", "people", "excluded", "holdout", "expected_conversions"} <= set(found)
    assert found["item_id"] == "tea3" and found["size"] == len(found["people"]) == 52
    assert {"user_id", "probability", "reasons"} <= set(found["people"][0]) and found["people"][0]["reasons"][0]["text"]
    assert all(p["user_id"].startswith("u1_") for p in found["people"]), "pseudonyms"
    assert found["excluded"]["no_consent"] is None, "three people are few"
    assert {"no_consent", "beyond_the_cut"} <= set(found["excluded"])
    _, out, _ = run("audience", "--item", "tea3", "--size", "52", "-w", str(shop))
    assert "left out: no consent (few), " in out and "beyond size or budget (" in out
    assert not [code for code in ("no_consent", "beyond_the_cut", "wider group") if code in out]
    assert found["expected_conversions"] == pytest.approx(sum(p["probability"] for p in found["people"]), rel=1e-5)


def test_own_ids_and_files(run: Command, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(f"u{n:02}" for n in range(0, 130, 2)))
    arguments = ("--item", "tea3", "--size", "52", "-w", str(shop), "--ids", str(tmp_path / "ids.txt"))
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


def test_seeds_category_and_text(run: Command, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("\n".join(f"u{n:02}" for n in range(1, 21, 2)))
    code, out, _ = run(
        "audience", "--with", f"seeds=@{tmp_path / 'seeds.txt'}", "-w", str(shop), "--size", "50", "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["people"][0]["probability"] is None and found["excluded"]["seed"] is None
    for target in (("--category", "home > tools"), ("--text", "Steel hammer", "--category", "home > tools")):
        code, out, _ = run("audience", *target, "-w", str(shop), "--size", "50", "--with", "explain=false", "--json")
        assert code == 0 and json.loads(out)["size"] == 50


def test_exit_codes(run: Command, shop: Path) -> None:
    at = ("-w", str(shop))
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
