from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fastapi.testclient import TestClient
from filelock import FileLock
from hypothesis import settings
from postgres_server import PASSWORD, PostgresServer, find_binaries
from shop_world import EVENTS_CSV, ITEMS_CSV

from recllm.base.files import PRIVATE, write_whole
from recllm.doors.cli.main import main
from recllm.shop.store.database import Store
from recllm.shop.workspace import workspace

# last, as a script may be called like a library: what tests of the benchmarks' peers read
sys.path.append(str(Path(__file__).resolve().parents[1] / "eval"))
# before torch is imported: small worlds gain nothing by threads, which wait for each other on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
# some shells forbid bytecode, and each worker and each of the many child processes would compile the package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# what takes long on a busy machine is not wrong; 40 examples of a property in each run find what one run should find
settings.register_profile("untimed", deadline=None, max_examples=40)
settings.load_profile("untimed")

# the parser of the command line stays the same, and making it takes longer than many a command
typer.main.get_command = cache(typer.main.get_command)

Command = Callable[..., tuple[int, str, str]]

SLOW_FILES = """
campaigns faults sources uplift retrain console_browser serving_state store batch erasure hostile service_marketing
oidc service_processes console_campaigns_browser console_campaigns recommender training webhooks rights
cli_people transport ingest_properties service_inputs generator finetuning learning_jobs behaviour evaluation console
exports_to_campaigns store_postgres loop encoder_cache service audiences wheel ranking worked_case
"""
"""What takes longest, or cannot be told before it ran, about in this order."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first: of several workers, none then waits at the end for another that began one late."""
    places = {name: place for place, name in enumerate(SLOW_FILES.split())}
    items.sort(key=lambda item: places.get(item.path.stem.removeprefix("test_"), len(places)))


def pytest_collection_finish() -> None:
    """What was imported stays, and what is imported later mostly too: the garbage collector need not look through it
    time and again, which took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """No test leaves the package's log louder or quieter for the next one of its process."""
    yield
    logging.getLogger("recllm").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def keys_by_place() -> Iterator[None]:
    """The key of a workspace that is made in this process hangs on its folder's name, and not on chance.

    Pseudonyms decide the order of people, and that what a model learns of a few of them.
    """

    def make_key_file(path: Path) -> None:
        folder = path.resolve().parent
        place = f"{folder.parent.name.rstrip('0123456789')}/{folder.name}"
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                write_whole(path, hashlib.sha256(place.encode()).hexdigest() + "\n", mode=PRIVATE, overwrite=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "make_key_file", make_key_file)
        yield


def exit_code(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Of the command line in this process."""
    patch.setattr(sys, "argv", ["recllm", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = exit_code(monkeypatch, *arguments)
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


@pytest.fixture(scope="session")
def first_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace `shop` and the files that it was read from, for `shop` to copy."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "items.csv").write_text(ITEMS_CSV)
    (folder / "log.csv").write_text(EVENTS_CSV)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RECLLM_KEY", raising=False)
        patch.delenv("RECLLM_STORE_URL", raising=False)
        init = ("init", "-w", "shop", "--consent-default", "granted", "--currency", "USD", "--encoder", "toy")
        assert exit_code(patch, *init) == 0
        assert exit_code(patch, "ingest", "items.csv", "--table", "items", "-w", "shop") == 0
        settings = folder / "shop" / "workspace.toml"
        settings.write_text(settings.read_text() + "\n[policy]\nreject_limit = 0.5\n")
        assert exit_code(patch, "ingest", "log.csv", "--table", "events", "-w", "shop") == 0
    return folder


@pytest.fixture
def shop(run: Command, first_shop: Path, tmp_path: Path) -> Path:
    """A workspace with four items and two people, read from CSV files beside it; it is the test's own."""
    shutil.copytree(first_shop, tmp_path, dirs_exist_ok=True)
    return tmp_path / "shop"


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Path]) -> Path:
    """A folder that one of the workers of this run builds, for tests of all workers to copy."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return build(factory.mktemp(name))
    folder = factory.getbasetemp().parent / name  # of all workers
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = factory.mktemp(name)
            result = build(unfinished)
            unfinished.rename(folder)
            return folder / result.name
    (result,) = (path.parent for path in folder.glob("*/workspace.toml"))
    return result


@pytest.fixture(scope="session")
def service_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained shop for tests of the service, which copy it."""
    from service_world import build_shop

    return built_once(tmp_path_factory, "service", build_shop)


@pytest.fixture(scope="session")
def made(service_shop: Path) -> Path:
    """A small trained shop; a module may make another one."""
    return service_shop


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "shop"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store in a file."""
    with contextlib.closing(Store.open(tmp_path / "store.sqlite", create=True)) as opened:
        yield opened


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    """A browser at the console of `folder`, or a program at its service."""
    from service_world import serving

    with serving(folder, console=True) as client:
        yield client


@pytest.fixture(scope="session")
def console_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained shop with hostile titles for tests of the console, which copy it."""
    from console_world import build_shop

    return built_once(tmp_path_factory, "console", build_shop)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser; see `test_console_browser`."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program, chromedriver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if program is None or chromedriver is None:
        if os.environ.get("RECLLM_TEST_BROWSER") == "required":
            pytest.fail("Chromium or chromedriver is not installed")
        pytest.skip("Chromium or chromedriver is not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


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
