"""A small trained shop for tests of the service's behaviour under faults, and the ways in which they serve it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import numpy as np
import polars as pl
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from shop_world import load_lines
from waiting import until

from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.base.service_settings import ServiceSettings
from recllm.base.settings import ScorerTrainingSettings
from recllm.doors.console.app import mount_console
from recllm.doors.service.app import create_app
from recllm.doors.service.live import LiveShop
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import model_encoder, publish_recommender
from recllm.shop.workspace.keys import create_key
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.toy import ToyEncoder

LAST_DAY = datetime(2025, 6, 1, 12, tzinfo=UTC)
PEOPLE = 24
FAST = ServiceSettings(watch_seconds=0.1)


def build_shop(
    folder: Path,
    people: int = PEOPLE,
    *,
    store: str | None = None,
    n_models: int = 2,
    first: str = "u00",
    more: Mapping[str, pl.DataFrame] = MappingProxyType({}),
) -> Path:
    """A shop whose even people buy tea and whose odd people buy tools, each of another name.

    n_models: versions of a model that are published, which score differently. store: as of `Workspace.create`. first:
    id of the first person. more: further rows by table, loaded last.
    """
    rng = np.random.default_rng(1)
    kinds = (("food > tea", "tea", "Green tea {}"), ("home > tools", "tools", "Steel hammer {}"))
    items = [(f"{name}-{n}", title.format(n), path, 2.0 + n) for path, name, title in kinds for n in range(10)]
    events = []
    for user in range(people):
        liked = rng.choice(10, 4, replace=False)
        for visit in range(14):
            at = LAST_DAY - timedelta(days=7 * visit + user % 7)
            for n in rng.choice(liked, 2, replace=False):
                events.append((f"u{user:02}" if user else first, f"{kinds[user % 2][1]}-{n}", at.isoformat(), 2.0 + n))
    tables = {
        "items": pl.DataFrame(items, schema=["item_id", "title", "category", "price"], orient="row"),
        "events": pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "price"], orient="row"),
    }
    with Workspace.create(
        folder / "shop",
        consent_default=True,
        store=store,
        currency="EUR",
        timezone="UTC",
        encoder="toy",
        service=FAST,
        policy=Policy(group_floor=3, small_shop=0),
    ) as shop:
        for table, rows in (*tables.items(), *more.items()):
            load_lines(shop, table, rows)
        data = shop.gate().dataset(Purpose.MODEL_TRAINING)
        for seed in range(n_models):
            arguments = ScorerTrainingSettings(n_windows=2, epochs=1, min_steps=20, seed=seed)
            model = Recommender(data, ToyEncoder()).fit(arguments).model
            assert model is not None
            publish_recommender(shop, model, ToyEncoder())
    return folder / "shop"


CAMPAIGN: dict[str, Any] = {
    "id": "tea",
    "goal": "tea for those who drink it",
    "channels": ["email"],
    "sender": {"name": "Leaf & Iron", "address": "1 Market Street", "opt_out": "https://example.com/stop"},
}
"""Of the fields of a campaign, those that any has."""


def counts(folder: Path) -> dict[str, int]:
    with Workspace.open(folder) as shop, shop.store().read() as reader:
        return reader.counts()


def publish_again(shop: Workspace) -> str:
    """Another version with the weights of the serving one, which serves from then on."""
    model = load_model(shop.models_dir)
    return publish_recommender(shop, model, model_encoder(shop, model))


def make_key(folder: Path, *scopes: str, name: str = "Anna") -> str:
    """The text of a new key, in which its id stands second."""
    with Workspace.open(folder) as shop:
        return create_key(shop, name, scopes)[1]


HERE = {"Origin": "http://localhost"}
"""As a browser says of a form of this console."""


def app_of(*folders: Path, settings: ServiceSettings = FAST, console: bool = False, **options: Any) -> FastAPI:
    """The service of these shops, with the console or without."""
    app = create_app([LiveShop(Workspace.open(folder), folder.name) for folder in folders], settings, **options)
    if console:
        mount_console(app)
    return app


@contextmanager
def listening(app: Any, door: socket.socket | None = None, **options: Any) -> Iterator[tuple[str, int]]:
    """Host and port where the app answers, in a thread of this process; the door is a socket that is bound."""
    with door or socket.socket() as listener:
        if door is None:
            listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def serving(
    *folders: Path, base: str = "http://localhost", waits: bool = True, follow_redirects: bool = True, **options: Any
) -> Iterator[TestClient]:
    """waits: until the shops are open. options: of `app_of`."""
    client_options: dict[str, Any] = {"raise_server_exceptions": False, "follow_redirects": follow_redirects}
    with TestClient(app_of(*folders, **options), base_url=base, headers={"Origin": base}, **client_options) as client:
        if waits:
            until(lambda: client.get("/readyz").status_code == 200)
        yield client


@contextmanager
def server_process(
    folder: Path, *settings: str, certificate: Path | None = None, path: str = "/readyz"
) -> Iterator[tuple[httpx2.Client, subprocess.Popen[str]]]:
    """A server of its own, with settings for the call, and a client of it that trusts the certificate; it is ready when
    the path is answered, and killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "recllm", "serve", "-w", str(folder), "--port", str(port)]
    command += [f"--set={setting}" for setting in settings]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    trusted = ssl.create_default_context(cafile=certificate) if certificate else True
    address = f"{'https' if certificate else 'http'}://localhost:{port}"
    try:
        with httpx2.Client(base_url=address, verify=trusted, trust_env=False, timeout=60) as client:

            def ready() -> bool:
                assert server.poll() is None, server.communicate()[0]
                try:
                    return client.get(path).status_code == 200
                except httpx2.TransportError:
                    return False

            until(ready)
            yield client, server
    finally:
        server.kill()
        server.wait(60)


def stopped(server: subprocess.Popen[str]) -> str:
    """What a server said, which ends when it is told to."""
    server.send_signal(signal.SIGTERM)
    said = server.communicate(timeout=60)[0]
    assert server.returncode in (0, -signal.SIGTERM)  # uvicorn passes the signal on at its end
    return said
