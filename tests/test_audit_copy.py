"""Entries of the audit log are printed for another system, and show there what was cut here."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Command
from sqlalchemy import text

from recllm.shop.store.connections import writing
from recllm.shop.workspace.audit import AuditAction, anchor_audit, audit, audit_each, verify_audit
from recllm.shop.workspace.workspace import Workspace

PERSON = "u1_0123456789abcdef0123456789abcdef"


def test_entries_are_printed_for_another_system_without_whom_they_were_about(shop: Path, run: Command) -> None:
    with Workspace.open(shop) as workspace:
        last = audit(workspace, "key:0a", AuditAction.KEY_MADE, note="two\nlines")
        audit_each(workspace, "cli:anna", AuditAction.PERSON_SHOWN, [PERSON, None])
        digests = {number: digest for number, _, digest in workspace.store().audit_entries()}
    code, out, _ = run("privacy", "audit", "--after", str(last - 1), "-w", str(shop))
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["number"] for line in lines] == [last, last + 1, last + 2]
    assert all(line["hash"] == digests[line["number"]] for line in lines)
    assert lines[0]["details"] == {"note": "two\nlines"} and lines[0]["actor"] == "key:0a"
    assert {"shop", "log", "number", "at", "actor", "action", "details", "hash"} == lines[1].keys()
    assert PERSON not in out and lines[1]["at"].endswith("+00:00")
    assert run("privacy", "audit", "--after", str(last + 2), "-w", str(shop))[:2] == (0, "")


def test_what_was_cut_here_and_signed_again_differs_from_the_lines_collected(shop: Path, run: Command) -> None:
    with Workspace.open(shop) as workspace:
        for number in range(3):
            last = audit(workspace, "key:0a", AuditAction.PEOPLE_LISTED, people=number)
    collected = run("privacy", "audit", "--after", "0", "-w", str(shop))[1].splitlines()
    with Workspace.open(shop) as workspace:
        with writing(workspace.store()._engine) as connection:
            connection.execute(text("DELETE FROM audit WHERE entry_no = :last"), {"last": last})
        anchor_audit(workspace)  # by an attacker who has the key
        assert verify_audit(workspace).problem is None
        audit(workspace, "key:0a", AuditAction.PEOPLE_LISTED, people=7)
    printed = run("privacy", "audit", "--after", "0", "-w", str(shop))[1].splitlines()
    assert printed[:-1] == collected[:-1] and printed[-1] != collected[-1]
