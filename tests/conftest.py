from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from postgres_server import PASSWORD, PostgresServer, find_binaries
from shop_world import EVENTS_CSV, ITEMS_CSV

from recllm.cli.main import main

# before torch is imported: small worlds gain nothing by threads, which wait for each other on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("untimed", deadline=None)  # what takes long on a busy machine is not wrong
settings.load_profile("untimed")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["recllm", *arguments])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Command:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECLLM_KEY", raising=False)
    monkeypatch.delenv("RECLLM_STORE_URL", raising=False)
    return command


@pytest.fixture
def shop(run: Command, tmp_path: Path) -> Path:
    """A workspace with four items and two people, read from CSV files beside it."""
    (tmp_path / "items.csv").write_text(ITEMS_CSV)
    (tmp_path / "log.csv").write_text(EVENTS_CSV)
    assert run("init", "-w", "shop", "--consent-default", "granted", "--currency", "USD", "--encoder", "toy")[0] == 0
    assert run("ingest", "items.csv", "--table", "items", "-w", "shop")[0] == 0
    policy = "\n[policy]\nreject_limit = 0.5\n"
    settings = tmp_path / "shop" / "workspace.toml"
    settings.write_text(settings.read_text() + policy)
    assert run("ingest", "log.csv", "--table", "events", "-w", "shop")[0] == 0
    return tmp_path / "shop"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this run; `url()` gives a database without tables. Its password is in PGPASSWORD."""
    binaries, reason = find_binaries(), ""
    if importlib.util.find_spec("psycopg") is None:
        reason = "the driver of PostgreSQL is missing: pip install 'recllm[postgres]'"
    elif binaries is None:
        reason = "no PostgreSQL in PATH or /usr/lib/postgresql: apt-get install postgresql"
    if reason or binaries is None:
        if os.environ.get("RECLLM_TEST_POSTGRES") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    server = PostgresServer(binaries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield server
    server.close()
