"""What `recllm doctor` finds missing, wrong and good."""

from __future__ import annotations

import json
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from conftest import Command

from recllm.doors.cli import doctor
from recllm.doors.cli.doctor import CheckState, check_installation


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
