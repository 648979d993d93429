"""The command line's contract: one JSON document, exit codes, one clear line per fault, nothing changed by a fault."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from shop_world import EVENTS_CSV, ITEMS_CSV

from recllm.doors.cli import doctor
from recllm.doors.cli.doctor import CheckState, check_installation
from recllm.doors.cli.options import document_lines
from recllm.shop.ingest import describe


def document(out: str) -> Any:
    assert out.count("\n") == 1, "exactly one JSON document"
    return json.loads(out)


def test_ingest_reports_what_the_contract_names(run: Command, shop: Path) -> None:
    code, out, _ = run("ingest", "log.csv", "--table", "events", "-w", "shop", "--json")
    report = document(out)
    assert code == 0
    assert (report["read"], report["accepted"], report["duplicates"], report["quarantined"]) == (5, 0, 4, 1)
    assert {"load_id", "table", "warnings", "quarantine_file"} <= set(report)
    line = json.loads(Path(report["quarantine_file"]).read_text().splitlines()[0])
    assert (line["line_no"], line["column"], line["code"]) == (6, "user_id", "E_NO_USER") and line["message"]


def test_a_header_without_rows_is_nothing_to_do(run: Command, shop: Path) -> None:
    (shop.parent / "empty.csv").write_text("user_id,item_id,timestamp\n")
    code, out, err = run("ingest", "empty.csv", "--table", "events", "-w", "shop", "--json")
    assert code == 3 and document(out)["warnings"] == {"W_NO_ROWS": 1} and "no rows" in err


def test_recommend(run: Command, shop: Path) -> None:
    code, out, _ = run("recommend", "-u", "ann", "-u", "zoe", "-k", "2", "-w", "shop", "--json")
    ann, zoe = document(out)
    assert code == 0
    assert (ann["user_id"], zoe["user_id"]) == ("ann", "zoe")
    assert {"request_id", "model_version", "items"} <= set(ann)
    item = ann["items"][0]
    assert {"rank", "item_id", "title", "score", "cosine", "logit", "probability", "served_by", "reasons"} <= set(item)
    assert {"evidence_id", "delta", "text", "kind"} == set(item["reasons"][0])
    assert zoe["items"][0]["served_by"] == ["popular"]


def test_explain(run: Command, shop: Path) -> None:
    slate = document(run("recommend", "-u", "ann", "-k", "1", "-w", "shop", "--json")[1])[0]
    code, out, _ = run("explain", "-u", "ann", "-i", slate["items"][0]["item_id"], "-w", "shop", "--json")
    explained = document(out)
    assert code == 0 and explained["place"] == 1 and explained["available"] is True
    assert explained["reasons"] == slate["items"][0]["reasons"]
    assert {"contributions", "withheld", "counterfactual", "without", "after", "k", "title"} <= set(explained)
    assert run("explain", "-u", "zoe", "-i", slate["items"][0]["item_id"], "-w", "shop")[0] == 2
    assert run("explain", "-u", "ann", "-i", "no such item", "-w", "shop")[0] == 2


def test_recommend_takes_a_weight_on_popularity(run: Command, shop: Path) -> None:
    command = ("recommend", "-u", "ann", "-w", "shop", "--json", "--with")
    assert document(run(*command, "popularity_weight=1")[1])[0]["items"]
    for wrong in ("popularity_weight=1.5", "popularity_wait=1", "popularity_weight"):
        code, _, err = run(*command, wrong)
        assert code == 2 and ("popularity_weight" in err or "--with" in err)


def test_copy(run: Command, shop: Path) -> None:
    code, out, _ = run("copy", "-u", "ann", "--channel", "push", "-w", "shop", "--json")
    text = document(out)
    assert code == 0
    assert {"text", "channel", "locale", "generator", "verified", "checks", "facts_used"} <= set(text)
    assert text["verified"] is True and text["channel"] == "push"


def test_feedback_changes_the_next_slate_and_the_report(run: Command, shop: Path) -> None:
    first = document(run("recommend", "-u", "ann", "-k", "1", "--record", "-w", "shop", "--json")[1])[0]
    item, request = first["items"][0]["item_id"], first["request_id"]
    header, row = "user_id,item_id,event,timestamp,request_id", f"ann,{item},dismiss,{first['as_of']},{request}"
    _write(shop.parent / "dismissed.csv", f"{header}\n{row}\n")
    assert run("ingest", "dismissed.csv", "--table", "events", "-w", "shop")[0] == 0
    second = document(run("recommend", "-u", "ann", "-k", "4", "-w", "shop", "--json")[1])[0]
    assert item not in {i["item_id"] for i in second["items"]}
    (version,) = document(run("feedback", "report", "-w", "shop", "--json")[1])["groups"]
    assert (version["shown"], version["dismissed"], version["clicked"]) == (1, 1, 0)


def test_looking_is_not_recording(run: Command, shop: Path) -> None:
    """A typing mistake is answered and makes no person, whatever is asked of it; only --record and events make one."""
    ids = _write(shop.parent / "ids.txt", "nobody123\nann\n")
    before = rows_about_people(shop)
    _, out, told = run("recommend", "-u", "ann", "-u", "nobody123", "-k", "2", "-w", "shop", "--json")
    slate = document(out)[1]
    assert slate["status"] == "unknown_user" and slate["items"] and "popular now" in slate["degraded_reason"]
    assert "nobody123: not known" in told and "ann" not in told
    looks = [
        ("recommend", "-u", "nobody123", "-u", "ann"),
        ("recommend", "--user", f"@{ids}", "--no-record"),
        ("recommend", "-u", "nobody123", "--intent", "cross_sell"),
        ("search", "tea", "-u", "nobody123"),
        ("explain", "-u", "nobody123", "-i", "tea"),
        ("copy", "-u", "nobody123", "--channel", "push"),
        ("copy", "--user", f"@{ids}", "--channel", "email"),
        ("explain", "-u", "nobody123"),
        ("audience", "--item", "tea", "--with", f"suppressed=@{ids}"),
        ("audience", "--with", f"seeds=@{ids}"),
        ("predict", "buy", "--ids", str(ids)),
        ("occasions",),
        ("feedback", "report"),
        ("explain",),
        ("explain", "--ids", str(ids)),
        ("privacy", "export", "-u", "nobody123"),
    ]
    for look in looks:
        code, _, problem = run(*look, "-w", "shop")
        assert code in range(5) and "No such" not in problem and "Missing" not in problem, (look, problem)
        assert rows_about_people(shop) == before, look
    assert run("recommend", "-u", "nobody123", "-k", "2", "--record", "-w", "shop")[0] == 0
    users, events, _, _ = rows_about_people(shop)
    assert (len(users), len(events)) == (len(before[0]) + 1, len(before[1]) + 2), "as HTTP does with record"


def rows_about_people(shop: Path) -> list[list[Any]]:
    """All rows of the tables about people."""
    with closing(sqlite3.connect(shop / "store.sqlite")) as store:
        tables = ("users", "events", "consent", "sessions")
        return [store.execute(f"select * from {table}").fetchall() for table in tables]  # noqa: S608


def test_consent_is_asked_for_by_default(run: Command, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(EVENTS_CSV.splitlines()[:5]) + "\n")
    (tmp_path / "items.csv").write_text(ITEMS_CSV)
    (tmp_path / "yes.csv").write_text(
        "user_id,purpose,granted,timestamp\nbob,personalisation,true,2025-01-01T00:00:00Z\n"
    )
    run("init", "-w", "shop", "--encoder", "toy")
    run("ingest", "items.csv", "--table", "items", "-w", "shop", "--read", "currency=USD")
    run("ingest", "log.csv", "--table", "events", "-w", "shop")
    assert "zoe: not known" in run("recommend", "-u", "zoe", "-w", "shop")[2], "whatever silence means here"
    assert run("ingest", "yes.csv", "--table", "consent", "-w", "shop")[0] == 0
    ann, bob = document(run("recommend", "-u", "ann", "-u", "bob", "-k", "1", "-w", "shop", "--json")[1])
    assert ann["items"][0]["served_by"] == ["popular"] and "consent" in ann["degraded_reason"]
    assert bob["items"][0]["served_by"] != ["popular"]
    for refused in (("copy", "-u", "ann"), ("train",), ("explain", "-u", "ann")):
        code, _, err = run(*refused, "-w", "shop")
        assert code == 4 and err.count("\n") == 1 and "agreed" in err


def test_variants_and_rules_of_the_shop(run: Command, shop: Path) -> None:
    ads = document(run("copy", "-u", "ann", "-w", "shop", "--variants", "3", "--pack", "us_ftc", "--json")[1])
    assert len({ad["text"] for ad in ads}) == len(ads) >= 2
    _write(shop / "voice.toml", 'banned = ["match"]\n')
    own = _write(
        shop.parent / "own.toml",
        'name = "own"\n[[rule]]\nid = "x"\nguarantee = "G3"\nseverity = "error"\ncitation = "house"\n'
        'evidence = "never"\nreviewed = "2025-11-25"\nmessage = "is not said"\nphrases = ["basket"]\n'
        'languages = ["en"]\nhit = ["A basket"]\nmiss = ["A bag"]\n',
    )
    ad = document(run("copy", "-u", "ann", "-w", "shop", "--pack", str(own), "--json")[1])
    assert "match" not in ad["text"] and "basket" not in ad["text"]
    assert run("copy", "-u", "ann", "-w", "shop", "--pack", "mars")[0] == 2
    for refused in ("sms", "sms_cn"):
        code, _, error = run("copy", "-u", "ann", "-w", "shop", "--channel", refused)
        offered = error.partition("texts are written for: ")[2].split()
        assert code == 2 and "sms_gsm," in offered and "sms_cn," not in offered


def test_sensitive_products_are_never_targeted(run: Command, shop: Path) -> None:
    more = "item_id,title,category,price,currency\nwine,Red wine,food > alcohol,9.00,USD\n"
    run("ingest", str(_write(shop.parent / "wine.csv", more)), "--table", "items", "-w", "shop")
    log = "user_id,item_id,timestamp\n" + "".join(f"cy,wine,2025-03-0{d}T10:00:00Z\n" for d in range(1, 9))
    run("ingest", str(_write(shop.parent / "cy.csv", log)), "--table", "events", "-w", "shop")
    best = document(run("recommend", "-u", "cy", "-k", "1", "-w", "shop", "--json")[1])[0]["items"][0]
    assert best["item_id"] == "wine" and best["reasons"][0]["evidence_id"] == "withheld"
    code, out, _ = run("copy", "-u", "cy", "-w", "shop", "--json")
    assert code == 3 or document(out)["item_id"] != "wine"
    code, out, err = run("copy", "-u", "cy", "--item", "wine", "-w", "shop")
    assert code == 4 and not out and "sensitive" in err


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("recommend", "-u", "ann", "-k", "0"), 2, "k must be 1 or more"),
        (("recommend", "-u", "ann", "--where", "price <"), 2, "--where"),
        (("recommend",), 2, "no user is named"),
        (("recommend", "-u", "ann", "--with", "model=v-none"), 1, "v-none"),
        (("ingest", "gone.csv", "--table", "events"), 2, "gone.csv"),
        (("ingest", "log.csv", "--table", "eventz"), 2, "--table"),
        (("copy", "-u", "ann", "--item", "nothing"), 2, "nothing"),
        (("copy", "-u", "ann", "--channel", "fax"), 2, "fax"),
        (("copy", "-u", "ann", "--generator", "http://127.0.0.1:9"), 0, "template"),
        (("explain", "-u", "zoe"), 2, "known"),
        (("train",), 2, "training needs"),
        (("evaluate", "--test-days", "900"), 2, "900"),
    ],
)
def test_a_fault_has_its_line_and_code(
    run: Command, shop: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    def rows() -> list[tuple[str]]:
        return list(sqlite3.connect(shop / "store.sqlite").execute("select count(*) from events"))

    before = rows()
    got, out, err = run(*arguments, "-w", "shop")
    assert (got, words in err + out) == (code, True), err
    if code:
        assert err.startswith("recllm: ") and err.count("\n") == 1 and not out
        assert rows() == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda shop: (shop / "store.sqlite").write_bytes(b"not a database" * 100), "store.sqlite"),
        (lambda shop: (shop / "workspace.toml").unlink(), "no workspace"),
        (lambda shop: (shop / "key").write_text("another key of the right length"), "key"),
    ],
    ids=["corrupt store", "no workspace", "another key"],
)
def test_a_spoilt_workspace_is_named(run: Command, shop: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(shop)
    code, out, err = run("recommend", "-u", "ann", "-w", "shop")
    assert code == 1 and not out
    assert err.startswith("recllm: ") and err.count("\n") == 1 and words in err


def test_a_document_is_printed_with_all_that_it_says() -> None:
    people: list[dict[str, Any]] = [{"user_id": f"u{n}", "reasons": [{"text": "Hi."}]} for n in range(21)]
    people[1]["value"] = 2.0
    rate = {"value": 0.25, "low": 0.1, "high": 0.5}
    document = {"size": 1200, "gone": None, "rows": {"events": 3}, "ctr": rate, "notes": ["a", "b"], "people": people}
    lines = list(document_lines(document))
    assert lines[:5] == ["size: 1,200", "rows", "  events: 3", "ctr: 0.25 (0.1 to 0.5)", "notes: a; b"]
    assert [line.split() for line in lines[6:9]] == [
        ["user_id", "reasons", "value"],
        ["u0", "Hi.", "-"],
        ["u1", "Hi.", "2"],
    ]
    assert len(lines) == 6 + 1 + 20 + 1 and lines[-1].startswith("  ... and 1 more; --csv")


def test_the_log_goes_to_stderr_with_its_fields(run: Command, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(store: object) -> dict[str, int]:
        logging.getLogger("recllm.shop.ingest.workspace_load").info("described", extra={"tables": 4})
        return {"items": 4}

    monkeypatch.setattr(describe, "describe", described)
    monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))
    assert run("explain", "-w", "shop", "--json")[2] == ""
    code, out, err = run("-v", "explain", "-w", "shop", "--json")
    assert code == 0 and document(out) == {"items": 4} and "recllm.shop.ingest.workspace_load described tables=4" in err
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO ", err), "times are UTC and say so"


def test_the_shell_completes_commands(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_RECLLM_COMPLETE", "complete_bash"), ("COMP_WORDS", "recllm ba"), ("COMP_CWORD", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # `python -m pytest` would name the command
    assert run()[1].split() == ["backup"]
    monkeypatch.setenv("COMP_WORDS", "recllm experiments ")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run()[1].split() == ["start", "report"]


def states(folder: Path | None = None) -> dict[str, CheckState]:
    return {check.name: check.state for check in check_installation(folder)}


def test_an_extra_that_lacks_something_says_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = Message()
    for extra in ("there", "absent", "old", "dev"):
        extras["Provides-Extra"] = extra
    requirements = [
        "numpy>=1",
        'numpy>=1; extra == "there"',
        'no-such-package>=2; extra == "absent"',
        'numpy>=999; extra == "old"',
        'tzdata>=1; platform_system == "Windows" and extra == "there"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda _: requirements)
    monkeypatch.setattr(metadata, "metadata", lambda _: extras)
    checks = {check.name: check for check in doctor.check_extras()}
    assert set(checks) == {"extra there", "extra absent", "extra old"}
    assert checks["extra there"].state is CheckState.GOOD
    assert "lacks no-such-package; pip install 'recllm[absent]'" in checks["extra absent"].what
    assert "numpy >=999 (found" in checks["extra old"].what and checks["extra old"].state is CheckState.MISSING


def test_a_workspace_is_looked_at(shop: Path, run: Command) -> None:
    assert states(shop)["workspace"] is CheckState.GOOD
    assert states(shop)["model"] is CheckState.MISSING
    code, out, _ = run("doctor", "-w", "shop", "--json")
    assert code == 0 and {check["name"] for check in json.loads(out)["checks"]} > {"versions", "audit log"}
    (shop / "key").chmod(0o644)
    code, out, errors = run("doctor", "-w", "shop")
    assert code == 1 and "chmod 600" in out and "not well: workspace" in errors


def test_nothing_is_fetched_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.text.encoder.loading.package", lambda *_: None)
    monkeypatch.setattr("recllm.text.encoder.loading.hub_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("something was fetched"))
    monkeypatch.setattr("recllm.text.generator.locate.smollm2_file", lambda: None)
    found = {check.name: check for check in check_installation()}
    assert found["encoder"].state is CheckState.MISSING and "recllm[demo]" in found["encoder"].what
    assert found["generator"].state is CheckState.MISSING
