"""A shop attacked from outside, and what of it held:  python eval/attack.py -o eval/results/attack.json

Each part runs in a process of its own. `--part NAME` runs one and, with -o, adds its figures to those of the file.

    scopes      every route of the service and of the console with every kind of key and session (tests/hostile_callers)
    bodies      malicious files at the doors that read them (tests/hostile_artefacts); paths, queries, forms and bodies
                without a meaning for every route (tests/hostile_requests)
    texts       hostile texts (--texts FILE) at each door for texts of others (tests/hostile_texts): processor time
    slow        connections that send half a request and wait: is a new caller answered, do they end
    figures     what figures of groups show of one customer (figure_attack.py)
    canaries    people with a mark in every field go in at every door and are erased; every byte is looked at
    kills       a serving process that takes events is killed; each event that it acknowledged has to be there
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
from inputs import HERE, file_hash, finish, in_new_process, script_parser

sys.path.insert(0, str(HERE.parent / "tests"))

from recllm.base.settings import ServiceSettings
from recllm.recommend.evaluation.report import provenance
from recllm.shop.workspace.workspace import Workspace

FIGURES = (
    *("scope_cases", "scope_held", "bodies", "body_faults", "queries", "isolated", "texts", "slow_texts"),
    *("canaries_outside", "kills", "acknowledged", "lost"),
)
"""Of the whole run; the others stand with their part."""
SERVE = [sys.executable, "-m", "recllm", "serve", "--set", "service.processes=0", "-w"]


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--part", choices=PARTS, help="run this part alone")
    parser.add_argument("--texts", type=Path, default=HERE / "attack" / "hostile_texts.json.gz")
    args = parser.parse_args()
    if args.part in (None, "texts") and not args.texts.exists():
        parser.error(f"{args.texts}: there is no such file; give a file of hostile texts with --texts")
    if args.part and not args.output:
        began = time.perf_counter()
        measured = PARTS[args.part](args)
        print(json.dumps(measured | {"commit": provenance()["commit"], "seconds": round(time.perf_counter() - began)}))
        return
    goes_on = args.part and args.output.exists()
    record: dict[str, Any] = json.loads(args.output.read_text("utf-8")) if goes_on else {"parts": {}}
    for part in [args.part] if args.part else PARTS:
        measured = in_new_process("attack.py", "--part", part, "--seed", str(args.seed), "--texts", str(args.texts))
        record |= {name: measured.pop(name) for name in FIGURES if name in measured}
        record["parts"][part] = measured
    finish(record | {"protocol": "attack", "seed": args.seed}, args.output)


def scopes(args: argparse.Namespace) -> dict[str, Any]:
    from hostile_callers import ask_everything
    from service_world import build_shop

    with tempfile.TemporaryDirectory() as scratch:
        verdicts = ask_everything(build_shop(Path(scratch)))
    n_held = verdicts.cases - len(verdicts.failures)
    sizes = {"routes": verdicts.routes, "callers": verdicts.callers}
    return {"scope_cases": verdicts.cases, "scope_held": n_held, **sizes, "failures": verdicts.failures}


def bodies(args: argparse.Namespace) -> dict[str, Any]:
    """A fault is an answer of 500 and above, a stack trace, or an effect of a file that should have none."""
    from hostile_requests import fault_of, odd_requests
    from service_world import build_shop, serving

    n_requests, faults, first = 0, Counter[str](), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = build_shop(Path(scratch))
        with serving(folder, settings=ServiceSettings(watch_seconds=0.1), console=True) as client:
            for route, address, sent in odd_requests(client.app):
                n_requests += 1
                answer = client.request(route.verb, address, follow_redirects=False, **sent)
                if fault := fault_of(answer):
                    name = f"{route.verb} {route.path} {answer.status_code}"
                    faults[name] += 1
                    first.setdefault(name, {"address": address[:200], "sent": str(sent)[:500], "fault": fault})
    files = artefacts()
    n_faults = faults.total() + files["artefacts_effects"]
    return {"bodies": n_requests, "body_faults": n_faults, "faults": faults, "first_of_each": first, **files}


def artefacts() -> dict[str, Any]:
    """Each at the door that would read it in earnest."""
    from hostile_artefacts import look_at_all

    with tempfile.TemporaryDirectory(prefix="recllm-hostile-") as folder:
        outcomes = sorted(look_at_all(Path(folder)), key=lambda outcome: -outcome.seconds)
    return {
        "artefacts_total": len(outcomes),
        "artefacts_effects": sum(bool(outcome.effects) for outcome in outcomes),
        "artefacts_refused": sum(bool(outcome.refusal) for outcome in outcomes),
        "slowest_s": round(outcomes[0].seconds, 2),
        "over_a_second": {o.name: round(o.seconds, 2) for o in outcomes if o.seconds > 1},
        "peak_mib": round(max(outcome.peak_mib for outcome in outcomes)),
        "effects": {outcome.name: outcome.effects for outcome in outcomes if outcome.effects},
    }


SLOW_SECONDS = 0.05
"""Of processor time, for one text at one door, above what an ordinary text takes there."""


def texts(args: argparse.Namespace) -> dict[str, Any]:
    from hostile_texts import PLAIN, doors, processor_seconds
    from service_world import build_shop
    from test_hostile_texts import hostile_texts

    rows, spent = json.loads(gzip.decompress(args.texts.read_bytes())), []
    with tempfile.TemporaryDirectory() as scratch, Workspace.open(build_shop(Path(scratch))) as shop:
        ways = doors(shop, Path(scratch))
        warm = list(hostile_texts(500).values())[::8] + [PLAIN.format(n) for n in range(9)]  # the first use compiles
        usual = {at: median([processor_seconds(door, text) for text in warm][-9:]) for at, door in ways.items()}
        gc.collect()
        gc.freeze()
        for row in rows:
            for at, door in ways.items():
                spent.append((processor_seconds(door, row["text"]) - usual[at], at, row["family"], str(row["id"])))
    slow = sorted((case for case in spent if case[0] > SLOW_SECONDS), reverse=True)
    return {
        "texts": len(rows),
        "slow_texts": len({text_id for *_, text_id in slow}),
        "slow_by_door": Counter(at for _, at, _, _ in slow),
        "slow_by_family": Counter(family for _, _, family, _ in slow),
        "longest_ms": {at: round(1_000 * max(case[0] for case in spent if case[1] == at), 1) for at in ways},
        "slowest": [f"{text_id} ({family}) at {at}: {seconds:.3f} s" for seconds, at, family, text_id in slow[:20]],
        "data_hash": file_hash(args.texts),
    }


USUAL_FILES, HALF_HEADS, HALF_BODIES, WATCHED_SECONDS = 1_024, 1_300, 200, 90
"""Files that a process may have open by default; connections; seconds that they are watched."""


def slow(args: argparse.Namespace) -> dict[str, Any]:
    from half_requests import HALF_BODY, HALF_HEAD, HalfRequests
    from serve import server
    from service_world import build_shop

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_FILES, most))
    waits: list[float | None] = []  # of new callers; None where one was not answered
    with (
        tempfile.TemporaryDirectory() as scratch,
        server([*SERVE, str(build_shop(Path(scratch)))]) as (address, _, _),
        closing(HalfRequests(address)) as half,
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65_536), most))  # of this process alone
        n_taken = half.begin(HALF_HEADS, HALF_HEAD) + half.begin(HALF_BODIES, HALF_BODY)
        began, last_closed = time.monotonic(), 0.0
        while time.monotonic() < began + WATCHED_SECONDS and (half.n_open or len(waits) < 10):
            waits.append(_wait_of_a_caller(f"{address}/livez"))
            last_closed = time.monotonic() - began if half.look() else last_closed
            time.sleep(1)
        n_left, n_dripping = half.n_open, half.n_dripping
    answered = [wait for wait in waits if wait is not None]
    return {
        "half_requests": HALF_HEADS + HALF_BODIES,
        "taken": n_taken,
        "left_open": n_left,
        "left_open_that_drip": n_dripping,
        "last_closed_s": round(last_closed, 1),
        "new_callers": len(waits),
        "answered": len(answered),
        "longest_wait_s": round(max(answered, default=0.0), 2),
    }


def _wait_of_a_caller(address: str) -> float | None:
    began = time.monotonic()
    with suppress(httpx2.HTTPError):
        httpx2.get(address, trust_env=False, timeout=5).raise_for_status()
        return time.monotonic() - began
    return None


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from figure_attack import measure

    return measure(args.seed)


def canaries(args: argparse.Namespace) -> dict[str, Any]:
    """On SQLite and on PostgreSQL. Outside are files with a mark that belong to no registered place before the
    erasure, and all after it."""
    from canary_doors import marks_of
    from postgres_server import PASSWORD, PostgresServer, find_binaries
    from test_erasure import make_shop

    with tempfile.TemporaryDirectory() as scratch:
        shops = {"sqlite": marks_of(make_shop(Path(scratch)))}
    if (binaries := find_binaries()) is not None:
        os.environ["PGPASSWORD"] = PASSWORD
        with closing(PostgresServer(binaries)) as server, tempfile.TemporaryDirectory() as scratch:
            folder = make_shop(Path(scratch), store=server.url(user="admin", database="postgres"))
            shops["postgresql"] = marks_of(folder, server._data)
    n_outside = sum(len(marks.unregistered or ()) + len(marks.after) for marks in shops.values())
    n_files = sum(marks.files for marks in shops.values())
    return {"canaries_outside": n_outside, "files": n_files, "shops": {at: asdict(of) for at, of in shops.items()}}


KILLS, SENDERS, BATCH, BEFORE_A_KILL = 10, 4, 40, 1_700
"""Kills, callers that send at once, events of a request, and events that are acknowledged before each kill."""


def kills(args: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL at a moment drawn by lot while callers send. What was acknowledged is sent again at the end: an event
    that is not known then, or known otherwise, was lost."""
    from faults import damage_of_file
    from serve import server
    from service_world import build_shop

    rng, batches, before_each, damage, lost = random.Random(args.seed), list[str](), [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = build_shop(Path(scratch))
        for number in range(KILLS):
            n_before = len(batches)
            with server([*SERVE, str(folder)]) as (address, process, _):
                names = [f"{number}-{sender}" for sender in range(SENDERS)]
                senders = [threading.Thread(target=_send, args=(address, name, batches)) for name in names]
                for sender in senders:
                    sender.start()
                while (len(batches) - n_before) * BATCH < BEFORE_A_KILL and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.2))
                os.kill(process.pid, signal.SIGKILL)
                for sender in senders:
                    sender.join()
            before_each.append((len(batches) - n_before) * BATCH)
            with Workspace.open(folder) as shop:
                damage += damage_of_file(shop)
        with (
            server([*SERVE, str(folder)]) as (address, _, _),
            httpx2.Client(base_url=address, trust_env=False) as client,
        ):
            for name in batches:
                account = client.post("/v1/events", json=_batch(name), timeout=60).raise_for_status().json()
                lost += BATCH - account["duplicates"]
    acknowledged = sum(before_each)
    return {"kills": KILLS, "acknowledged": acknowledged, "lost": lost, "before_each": before_each, "damage": damage}


def _batch(name: str) -> dict[str, Any]:
    event = {"item_id": "tea-1", "event": "view"}
    return {"events": [event | {"event_id": f"{name}-{n}", "user_id": f"u{n % 24:02}"} for n in range(BATCH)]}


def _send(address: str, name: str, acknowledged: list[str]) -> None:
    """Until the service is gone; appends the name of each batch that was acknowledged whole."""
    with suppress(httpx2.TransportError), httpx2.Client(base_url=address, trust_env=False, timeout=60) as client:
        for number in count():
            answer = client.post("/v1/events", json=_batch(f"{name}-{number}"))
            if answer.status_code == 200 and answer.json()["accepted"] == BATCH:
                acknowledged.append(f"{name}-{number}")


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    part.__name__: part for part in (scopes, bodies, texts, slow, figures, canaries, kills)
}

if __name__ == "__main__":
    main()
