"""Entries of the audit log also go to where another system collects them, and show there what was cut here."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest
from conftest import Command
from sqlalchemy import text

from recllm.base.errors import UsageError
from recllm.base.service_settings import AuditSettings
from recllm.shop.store.connections import writing
from recllm.shop.workspace.audit import (
    AuditAction,
    anchor_audit,
    audit,
    audit_each,
    read_audit,
    verify_audit,
    verify_copy,
)
from recllm.shop.workspace.workspace import Workspace

PERSON = "u1_0123456789abcdef0123456789abcdef"


def shop_that_copies(folder: Path, copy_to: object) -> Workspace:
    Workspace.create(folder / "shop", encoder="toy", audit={"copy_to": str(copy_to)}).close()
    return Workspace.open(folder / "shop")


def test_each_entry_is_appended_to_a_file_without_whom_it_was_about(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.touch()
    with shop_that_copies(tmp_path, file) as shop:
        audit(shop, "key:0a", AuditAction.KEY_MADE, note="two\nlines")
        audit_each(shop, "cli:anna", AuditAction.PERSON_SHOWN, [PERSON, None])
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [line["number"] for line in lines] == [entry.number for entry in read_audit(shop)] == [1, 2, 3]
        assert [line["hash"] for line in lines] == [digest for _, _, digest in shop.store().audit_entries()]
        assert lines[0]["details"] == {"note": "two\nlines"} and lines[0]["actor"] == "key:0a"
        assert {"shop", "log", "number", "at", "actor", "action", "details", "hash"} == lines[1].keys()
        assert PERSON not in file.read_text() and lines[1]["at"].endswith("+00:00")


def test_syslog_and_standard_error_get_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(10)
        with shop_that_copies(tmp_path, tmp_path / "log") as shop:
            audit(shop, "key:0a", AuditAction.BACKED_UP)
            sent = syslog.recv(65_536).decode()
            assert sent.startswith("<85>recllm[") and verify_copy(shop, [sent]).problem is None
    with shop_that_copies(tmp_path / "other", "stderr") as shop:
        audit(shop, "key:0a", AuditAction.BACKED_UP)
        (line,) = capsys.readouterr().err.splitlines()
        assert json.loads(line)["action"] == "backed_up"


def test_what_was_cut_here_and_signed_anew_is_missed_there(tmp_path: Path, run: Command) -> None:
    file = tmp_path / "audit.jsonl"
    file.touch()
    with shop_that_copies(tmp_path, file) as shop:
        for number in range(3):
            audit(shop, "key:0a", AuditAction.PEOPLE_LISTED, people=number)
        assert verify_copy(shop, file.read_text().splitlines()).problem is None
    assert run("privacy", "audit", "--copy", str(file), "-w", str(tmp_path / "shop"))[0] == 0
    whole = file.read_text().splitlines()
    with Workspace.open(tmp_path / "shop") as shop:
        with writing(shop.store()._engine) as connection:
            connection.execute(text("DELETE FROM audit WHERE entry_no = 3"))
        anchor_audit(shop)  # by somebody who has the key
        assert verify_audit(shop).problem is None
        assert "entry 3 was copied and is missing" in (verify_copy(shop, whole).problem or "")
        audit(shop, "key:0a", AuditAction.PEOPLE_LISTED, people=7)
        assert verify_audit(shop).problem is None
        noise = ["Nov 27 16:00:01 host app: {not JSON", "[1]", '{"a": 1}', '{"log": "else", "number": 9, "hash": "x"}']
        assert "entry 3 is not the one that was copied" in (verify_copy(shop, [*noise, *whole]).problem or "")
        assert "the copy has no entry of this log" in (verify_copy(shop, noise).problem or "")
    code, out, err = run("privacy", "audit", "--copy", str(file), "-w", str(tmp_path / "shop"))
    assert code != 0 and "problem: entry 3" in out and "entry 3 is not the one that was copied" in err
    assert run("privacy", "audit", "--copy", str(tmp_path / "gone"), "-w", str(tmp_path / "shop"))[0] == 2


def test_what_cannot_be_copied_is_told_and_stands_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), shop_that_copies(tmp_path, tmp_path / "nothing") as shop:
        audit(shop, "key:0a", AuditAction.BACKED_UP)
        assert verify_audit(shop).entries == 1 and not (tmp_path / "nothing").exists()
    assert "1 entries of the audit log were not copied" in caplog.text and str(tmp_path / "nothing") in caplog.text


def test_where_a_copy_goes_is_a_path_or_a_word() -> None:
    with pytest.raises(UsageError, match=r"audit\.copy_to: 'syslog' is not stderr, or the path"):
        AuditSettings(copy_to="syslog")
