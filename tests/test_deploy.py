"""The files of `recllm deploy`: tools that read them find no fault, and they name only what recllm has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

import recllm
from recllm.base.schema import SlateStatus
from recllm.doors.cli.main import app

SOURCE = Path(recllm.__file__).parent / "deploy"
PROGRAM = "/opt/recllm/bin/recllm"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
"""What Prometheus appends to the name of a metric."""


@pytest.fixture
def server(run: Command, tmp_path: Path) -> Path:
    code, _, said = run("deploy", "server")
    assert code == 0 and "service.md" in said
    return tmp_path / "server"


def paths(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def check(*command: str, folder: Path) -> None:
    """Lets a tool look for faults; a warning is one."""
    program = shutil.which(command[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_folder_is_written_whole_and_never_over_another(server: Path, run: Command, tmp_path: Path) -> None:
    assert paths(server) == paths(SOURCE)
    texts = [path.read_text("utf-8") for path in server.rglob("*") if path.is_file()]
    assert f"recllm:{recllm.__version__}" in "".join(texts) and not any("@VERSION@" in text for text in texts)
    (server / "Caddyfile").write_text("mine")
    code, _, said = run("deploy", "server")
    assert code == 2 and "is not empty" in said and (server / "Caddyfile").read_text() == "mine"
    assert run("deploy", "server/Dockerfile")[0] == 2
    (tmp_path / "empty").mkdir()
    assert run("deploy", "empty")[0] == 0 and paths(tmp_path / "empty") == paths(SOURCE)
    assert {path.name for path in tmp_path.iterdir()} == {"server", "empty"}, "nothing half written stays"


def command_lines(server: Path) -> Iterator[list[str]]:
    """Each command line of recllm in the files, without the program."""
    for unit in server.rglob("*.service"):
        for line in re.findall(rf"{PROGRAM} (.*?)'?$", unit.read_text("utf-8"), re.MULTILINE):
            line = re.sub(r"\$\$\([^)]*\)", "2025-03-01", line)  # the shell's
            yield shlex.split(line.replace("${RECLLM_PORT}", "8080"))
    image = dict(re.findall(r"^([A-Z]+) (.*)$", (server / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    yield json.loads(image["CMD"])
    yield yaml.safe_load((server / "compose.yaml").read_text("utf-8"))["services"]["recllm"]["command"]


def test_every_command_line_is_understood(server: Path) -> None:
    lines = list(command_lines(server))
    assert len(lines) == len(list(server.rglob("*.service"))) + 2
    for line in lines:
        command: Any = get_command(app)
        while line[0] in getattr(command, "commands", {}):
            command, line = command.commands[line[0]], line[1:]
        assert command.make_context("recllm", line).params, line


def test_units_have_no_fault(server: Path) -> None:
    units = server / "systemd"
    services, timers = sorted(units.glob("*.service")), sorted(units.glob("*.timer"))
    for unit in services:  # the program is not installed here
        unit.write_text(unit.read_text("utf-8").replace(PROGRAM, "/bin/true"), "utf-8")
    jobs = ["backup", "occasions", "retention", "retrain", "send@"]
    assert [unit.stem for unit in services] == [f"recllm-{name}" for name in sorted([*jobs, "serve"])]
    assert [unit.stem for unit in timers] == [f"recllm-{name}" for name in jobs]
    check("systemd-analyze", "verify", *(path.name for path in services + timers), folder=units)


@pytest.mark.parametrize("line", ["hadolint Dockerfile", "promtool check rules prometheus/recllm-rules.yml"])
def test_a_tool_finds_no_fault(server: Path, line: str) -> None:
    check(*line.split(), folder=server)


def test_the_image_runs_without_rights(server: Path) -> None:
    text = (server / "Dockerfile").read_text("utf-8")
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE) and "--uid 10001" in text
    assert "http://127.0.0.1:8080/readyz" in text.split("HEALTHCHECK")[1]
    services = yaml.safe_load((server / "compose.yaml").read_text("utf-8"))["services"]
    assert services["db"]["image"].startswith("postgres:") and "healthcheck" in services["db"]
    open_to_others = [services[name] for name in ("recllm", "proxy")]
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in open_to_others)
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"], "https alone leads in"


def expressions(server: Path) -> list[str]:
    """Of the alarms and of the board."""
    rules = yaml.safe_load((server / "prometheus" / "recllm-rules.yml").read_text("utf-8"))
    board = json.loads((server / "grafana" / "recllm.json").read_text("utf-8"))
    targets = [target for panel in board["panels"] for target in panel["targets"]]
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]] + [t["expr"] for t in targets]


def test_alarms_and_board_ask_for_what_the_service_exports(server: Path, client: TestClient) -> None:
    client.post("/v1/recommend", json={"user_id": "u00"})
    client.post("/v1/events", json={"events": [{"user_id": "u00", "item_id": "tea-1", "event": "view"}]})
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    names = {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES.get(family.type, [""])}
    values: dict[tuple[str, str], set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        for label, value in sample.labels.items():
            values.setdefault((sample.name, label), set()).add(value)
    values["recllm_slates_total", "status"] |= set(SlateStatus)
    values["recllm_requests_total", "status"] |= {"429", "503"}
    of_scrapes = {"job", "shop"}
    asked = expressions(server)
    assert len(asked) > 20
    for expression in asked:
        used = set(re.findall(r"\b(?:recllm|process)_\w+", expression))
        assert used <= names and (used or expression == 'up{job="recllm"} == 0'), used - names
        for name, selectors in re.findall(r"(\w+)\{([^}]*)\}", expression):
            for label, pattern in re.findall(r'(\w+)=~?"([^"]*)"', selectors):
                if label not in of_scrapes:
                    known = values[name, label]
                    assert any(re.fullmatch(pattern, value) for value in known), (name, label, pattern)
        labels = {label for inner in re.findall(r"by \(([^)]*)\)", expression) for label in inner.split(", ")}
        known_labels = {label for name, label in values if name in used} | of_scrapes
        assert labels <= known_labels | ({"outcome"} if "recllm_message_events_total" in used else set()), expression
