"""Works until it is killed: a child process for the tests that kill -9 a load or a publication.

    python crash_child.py store|publish TARGET ACKS ROUNDS SEED

The heavy imports happen once; each round forks a worker, kills it after a random time (the first one not before it
told of something safe), says so on standard output
and waits for a line on standard input, so that the test can look at what was left. A worker appends to ACKS the name
of what it was told is safe.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import polars as pl

from recllm.recommend.recommender import registry as artifacts
from recllm.shop.store.database import Store

ROWS = 2_000
WRITES = 3


def frame(tag: int, start: int, n: int) -> pl.DataFrame:
    """Events whose keys are unique for (tag, row)."""
    rows = range(start, start + n)
    return pl.DataFrame(
        {
            "event_key": pl.Series([tag.to_bytes(8, "big") + r.to_bytes(8, "big") for r in rows], dtype=pl.Binary),
            "payload_hash": pl.Series([0] * n, dtype=pl.Int64),
            "user_id": [f"u{tag % 7}-{r % 50}" for r in rows],
            "item_id": [f"i{tag}-{r % 90}" for r in rows],
            "event": ["purchase"] * n,
            "at": pl.Series(rows, dtype=pl.Int64),
            "quantity": [1.0] * n,
        }
    )


def load_forever(target: str, acks: int, round_no: int) -> None:
    store = Store.open(target)
    for n in range(10_000):
        tag = round_no * 10_000 + n
        with store.load("events", load_id=f"load-{tag}", source="crash") as load:
            for k in range(WRITES):
                load.write(frame(tag, k * ROWS, ROWS))
        os.write(acks, f"load-{tag}\n".encode())


def publish_forever(target: str, acks: int, round_no: int) -> None:
    for n in range(10_000):
        version = f"v{round_no * 10_000 + n}"

        def write(folder: Path, version: str = version) -> None:
            (folder / "sub").mkdir()
            (folder / "config.json").write_text(f'{{"version": "{version}"}}')
            (folder / "sub" / "weights.safetensors").write_bytes(version.encode() * 50_000)

        artifacts.publish(Path(target), write, version=version)
        os.write(acks, f"{version}\n".encode())


def main(kind: str, target: str, acks_path: str, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    work = {"store": load_forever, "publish": publish_forever}[kind]
    for round_no in range(rounds):
        pid = os.fork()
        if pid == 0:
            work(target, os.open(acks_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), round_no)
            os._exit(0)
        while round_no == 0 and not (Path(acks_path).exists() and Path(acks_path).stat().st_size):
            time.sleep(0.01)  # on the slowest machine too, something is safe before the first kill
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(round_no, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
