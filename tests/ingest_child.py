"""Loads files until it is killed: python ingest_child.py STORE QUARANTINE

The heavy imports happen once. Each line of standard input names files; a worker, forked from this process, loads one
after the other and tells of each on standard output, after its own id. When the worker ended, or was killed, "ended" is
told.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from recllm.base.policy import Policy
from recllm.shop.ingest.load import ingest_file
from recllm.shop.ingest.options import IngestOptions
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import Pseudonymiser


def load(store_path: str, quarantine: str, files: list[str]) -> None:
    store = Store.open(store_path)
    print("worker", os.getpid(), flush=True)
    for file in files:
        print("begin", file, flush=True)
        report = ingest_file(
            file,
            "events",
            store=store,
            pseudonymiser=Pseudonymiser(b"0123456789abcdef"),
            policy=Policy(),
            options=IngestOptions(block_bytes=32 << 10),
            quarantine_dir=quarantine,
        )
        print("done", Path(file).name, report.load_id, flush=True)


def main(store_path: str, quarantine: str) -> None:
    for line in sys.stdin:
        worker = os.fork()
        if worker == 0:
            load(store_path, quarantine, line.rstrip("\n").split("\t"))
            os._exit(0)
        os.waitpid(worker, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
