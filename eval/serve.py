"""How fast the service is:  python eval/serve.py -w demo -o eval/results/serve.json

The workspace (that of the demonstration) is copied, served by a process of its own on the loopback, and asked from this
one, so both share the cores of the machine. Requests come at fixed times (open loop) where a rate is given, and as fast
as eight callers can (closed loop) for the saturation. The peer is a plain service in the same run: FastAPI around the
same person's ALS factors of `implicit`, which reads no history and gives no reasons.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from inputs import HERE, finish, load_average, of_child, say, script_parser

from recllm.recommend.recommender.registry import current, promote
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import model_encoder, publish_recommender
from recllm.shop.workspace.workspace import Workspace

CALLERS = 8

REFUSED = (429, 503)
"""What the service answers when it has no room; such answers are counted apart from errors."""


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("-w", "--workspace", type=Path, required=True, help="a trained workspace of the demonstration")
    parser.add_argument("--seconds", type=float, default=30, help="of each load")
    parser.add_argument("--rate", type=float, default=20, help="requests a second of the open loop")
    parser.add_argument("--swaps", type=int, default=200, help="models that are exchanged under load")
    parser.add_argument("--soak-minutes", type=float, default=30, help="of the load over which memory is watched")
    parser.add_argument("--processes", type=int, default=2, help="that compute slates beside the one that is asked")
    args = parser.parse_args()
    import polars as pl

    from recllm.doors.start.demo import data_folder

    source = data_folder() / "transactions.parquet"
    households = pl.read_parquet(source, columns=["household_id"])["household_id"].cast(pl.String).unique().sort()
    rng = np.random.default_rng(args.seed)
    people = households.sample(400, seed=args.seed).to_list()
    load = load_average()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shop"
        shutil.copytree(args.workspace, folder)
        versions = publish_again(folder)
        serve = ["serve", "-w", str(folder), "--set", f"service.processes={args.processes}"]
        with server([sys.executable, "-m", "recllm", *serve]) as (address, process, start_s):
            figures = asyncio.run(measure(address, process, folder, versions, people, rng, args))
        with server([sys.executable, str(HERE / "serve_peer.py")]) as (address, _, peer_start_s):
            figures["peer"] = asyncio.run(measure_peer(address, people, args)) | {"start_s": peer_start_s}
    record = {"protocol": "serve", "seed": args.seed}
    lengths = {"processes": args.processes, "seconds_of_a_load": args.seconds, "soak_minutes": args.soak_minutes}
    finish(record | lengths | {"load_average": load, "start_s": start_s} | figures, args.output)


def publish_again(folder: Path) -> tuple[str, str]:
    """Publishes a second version of the serving model; returns both, the older one serving."""
    with Workspace.open(folder) as workspace:
        first = current(workspace.models_dir)
        if first is None:
            sys.exit(f"{folder}: nothing was trained; train a model first")
        model = load_model(workspace.models_dir)
        second = publish_recommender(workspace, model, model_encoder(workspace, model))
        promote(workspace.models_dir, first)
    return first, second


@contextmanager
def server(command: list[str]) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server on a free port: its address, its process, and the seconds until it was ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--port", str(port)], env=of_child())
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(trust_env=False) as client:
            while True:
                if process.poll() is not None:
                    sys.exit(f"{command} ended with {process.returncode}")
                try:
                    if client.get(address + "/readyz").status_code == 200:
                        break
                except httpx2.TransportError:
                    pass
                time.sleep(0.02)
        yield address, process, round(time.perf_counter() - started, 2)
    finally:
        process.terminate()
        process.wait(60)


def client_of(address: str) -> httpx2.AsyncClient:
    """Of any number of connections; one is given up before the server closes it, which it does after 5 idle seconds."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
    return httpx2.AsyncClient(base_url=address, trust_env=False, timeout=60, limits=limits)


async def measure(
    address: str,
    process: subprocess.Popen[bytes],
    folder: Path,
    versions: tuple[str, str],
    people: list[str],
    rng: np.random.Generator,
    args: Any,
) -> dict[str, Any]:
    """versions: published ones of the served model, the first serving."""
    async with client_of(address) as client:

        async def recommend(**body: Any) -> Any:
            user = people[int(rng.integers(len(people)))]
            answer = await client.post("/v1/recommend", json={"user_id": user, "k": 10, **body})
            return answer if answer.status_code in REFUSED else answer.raise_for_status()

        async def explain() -> Any:
            return await recommend(explain=True)

        await asyncio.sleep(1)  # where the settings say so, the encoder is loaded in the background after the start
        while True:
            state = (await client.get("/readyz")).json()
            if state["slate_processes"] == args.processes and state["shops"]["shop"]["search_vectors"] != "loading":
                break
            await asyncio.sleep(0.2)
        for _ in range(40):  # what a first answer imports and reads, and neighbours' rows that the disk has to give
            await recommend()
        for _ in range(5):
            await explain()
        figures: dict[str, Any] = {}
        figures["recommend"] = await open_loop(recommend, args.rate, args.seconds)
        figures["explain"] = await open_loop(explain, min(args.rate, 5.0), args.seconds)
        figures["saturation"] = await closed_loop(recommend, args.seconds)
        figures["events_per_s"] = await event_rate(client, people, rng, args.seconds)
        figures["event_to_answer_p95_ms"] = await event_to_answer(client, people)
        figures["item_to_answer_s"] = await item_to_answer(client, people)
        figures |= await swap(folder / "models", versions, client, recommend, args.swaps)
        figures["memory_slope_mib_per_min"] = await soak(process, recommend, args.rate, args.soak_minutes)
        return figures


async def open_loop(ask: Callable[[], Awaitable[Any]], rate: float, seconds: float) -> dict[str, float]:
    """Requests at fixed times; the time of each counts from when it was due."""
    began, milliseconds, refused = time.perf_counter(), [], 0

    async def one(due: float) -> None:
        nonlocal refused
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        if (await ask()).status_code in REFUSED:
            refused += 1
        else:
            milliseconds.append((time.perf_counter() - began - due) * 1000)

    await asyncio.gather(*(one(n / rate) for n in range(int(rate * seconds))))
    return percentiles(milliseconds) | {"rate": rate, "refused": refused}


async def closed_loop(ask: Callable[[], Awaitable[Any]], seconds: float) -> dict[str, float]:
    """As many requests as `CALLERS` callers make when each waits for its answer."""
    end, milliseconds = time.perf_counter() + seconds, []

    async def caller() -> None:
        while time.perf_counter() < end:
            sent = time.perf_counter()
            if (await ask()).status_code not in REFUSED:
                milliseconds.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return percentiles(milliseconds) | {"rate": round(len(milliseconds) / seconds, 1)}


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "p99_ms": round(p99, 1)}


async def event_rate(client: httpx2.AsyncClient, people: list[str], rng: np.random.Generator, seconds: float) -> float:
    """Durable events a second in batches of 100, from two callers."""
    items = [i["item_id"] for i in (await client.post("/v1/recommend", json={"k": 100})).json()["items"]]
    end, accepted, number = time.perf_counter() + seconds, 0, 0

    async def sender(name: int) -> None:
        nonlocal accepted, number
        while time.perf_counter() < end:
            number += 1
            batch = [
                {
                    "event_id": f"{name}-{number}-{n}",
                    "user_id": people[int(rng.integers(len(people)))],
                    "item_id": items[int(rng.integers(len(items)))],
                    "event": "view",
                }
                for n in range(100)
            ]
            answer = (await client.post("/v1/events", json={"events": batch})).raise_for_status()
            accepted += answer.json()["accepted"]

    await asyncio.gather(sender(0), sender(1))
    return round(accepted / seconds, 1)


async def event_to_answer(client: httpx2.AsyncClient, people: list[str]) -> float:
    """From sending a dismissal to an answer without the item, one request after the other; 95th percentile, ms."""
    milliseconds = []
    for user in people[:60]:
        answer = await client.post("/v1/recommend", json={"user_id": user, "k": 5})
        gone = answer.json()["items"][0]["item_id"]
        sent = time.perf_counter()
        event = {"user_id": user, "item_id": gone, "event": "dismiss"}
        (await client.post("/v1/events", json={"events": [event]})).raise_for_status()
        while True:
            answer = await client.post("/v1/recommend", json={"user_id": user, "k": 5})
            if gone not in {item["item_id"] for item in answer.json()["items"]}:
                break
        milliseconds.append((time.perf_counter() - sent) * 1000)
    return round(float(np.percentile(milliseconds, 95)), 1)


async def item_to_answer(client: httpx2.AsyncClient, people: list[str]) -> float:
    """From sending an item to its place on somebody's slate, longest of five, seconds."""
    seconds = []
    for n in range(5):
        item = {"item_id": f"new-{n}", "title": f"Organic oat drink {n}", "category": "FOOD > DRINKS", "price": 2.5}
        sent = time.perf_counter()
        (await client.post("/v1/items", json={"items": [item]})).raise_for_status()
        while True:
            body = {"user_id": people[n], "k": 1, "allow": [item["item_id"]]}
            answer = await client.post("/v1/recommend", json=body)
            if answer.status_code == 200 and answer.json()["items"]:
                break
            await asyncio.sleep(0.05)
        seconds.append(time.perf_counter() - sent)
    return round(max(seconds), 2)


async def swap(
    models_dir: Path,
    versions: tuple[str, str],
    client: httpx2.AsyncClient,
    recommend: Callable[[], Awaitable[Any]],
    n_swaps: int,
) -> dict[str, int]:
    """The pointer to the serving model goes back and forth between two versions while requests go on.

    versions: the first serves. A request that is not answered is a failure, one that is refused for its number is not.
    """
    done, failures, finished = 0, 0, False

    async def asking() -> None:
        nonlocal failures
        while not finished:
            try:
                await recommend()
            except httpx2.HTTPError:
                failures += 1

    callers = [asyncio.create_task(asking()) for _ in range(2)]
    for n in range(n_swaps):
        version = versions[(n + 1) % 2]
        await asyncio.to_thread(promote, models_dir, version)
        while (await client.get("/readyz")).json()["shops"]["shop"]["model_version"] != version:
            await asyncio.sleep(0.02)
        done += 1
    finished = True
    await asyncio.gather(*callers)
    return {"swaps": done, "swap_failures": failures}


async def soak(
    process: subprocess.Popen[bytes], recommend: Callable[[], Awaitable[Any]], rate: float, minutes: float
) -> float:
    """Slope of the memory of the server and its processes under load, MiB a minute, by least squares over the later
    four fifths. Pages that they share count once (proportional set size)."""
    points: list[tuple[float, float]] = []

    async def watch() -> None:
        while True:
            threads = Path(f"/proc/{process.pid}/task").glob("*/children")  # each with the processes that it started
            children = [pid for thread in threads for pid in thread.read_text().split()]
            mebibytes = sum(map(memory, [str(process.pid), *children]))
            points.append((time.perf_counter() / 60, mebibytes))
            await asyncio.sleep(2)

    watching = asyncio.create_task(watch())
    await open_loop(recommend, rate, minutes * 60)
    watching.cancel()
    later = np.array(points[len(points) // 5 :])
    say("memory: %.0f MiB at the start, %.0f at the end", points[0][1], points[-1][1])
    return round(float(np.polyfit(later[:, 0], later[:, 1], 1)[0]), 3)


def memory(pid: str) -> float:
    """MiB of a process; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def measure_peer(address: str, people: list[str], args: Any) -> dict[str, Any]:
    async with client_of(address) as client:

        async def recommend() -> Any:
            user = people[int(np.random.default_rng().integers(len(people)))]
            return (await client.get("/recommend", params={"user_id": user, "k": 10})).raise_for_status()

        for _ in range(20):
            await recommend()
        return {
            "recommend": await open_loop(recommend, args.rate, args.seconds),
            "saturation": await closed_loop(recommend, args.seconds),
        }


if __name__ == "__main__":
    main()
