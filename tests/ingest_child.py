"""A process that loads files one after the other until it is killed: python ingest_child.py STORE QUARANTINE FILE..."""

from __future__ import annotations

import sys
from pathlib import Path

from recllm.ingest.load import ingest_file
from recllm.ingest.options import IngestOptions
from recllm.policy import Policy
from recllm.store.database import Store
from recllm.workspace.privacy import Pseudonymiser


def main(store_path: str, quarantine: str, *files: str) -> None:
    store = Store.open(store_path)
    sys.stdin.readline()
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


if __name__ == "__main__":
    main(*sys.argv[1:])
