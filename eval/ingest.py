"""Ingest, measured: rows per second and memory on the whole Complete Journey log, and a whole real log with planted
defects, of which exactly the planted rows must be quarantined. Writes eval/results/ingest.json.

    python eval/ingest.py [--data ../shared/data] [-o eval/results/ingest.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inputs import HERE, RESULTS, finish, in_new_process, load_average, peak_mib, script_parser, timed

sys.path.insert(0, str(HERE.parent / "tests"))


def load(file: str, table: str, mapping: str, folder: Path) -> dict[str, Any]:
    """One load into a new store, in this process."""
    from recllm.base.policy import Policy
    from recllm.shop.ingest.load import ingest_file
    from recllm.shop.ingest.options import load_map
    from recllm.shop.store.database import Store
    from recllm.shop.workspace.privacy import Pseudonymiser

    store = Store.open(folder / "store.sqlite", create=True)
    pseudonymiser, columns = Pseudonymiser(b"measure measure measure"), load_map(mapping)
    options = {"pseudonymiser": pseudonymiser, "policy": Policy(), "mapping": columns, "quarantine_dir": folder}
    wall, cpu, report = timed(lambda: ingest_file(file, table, store=store, **options))
    lines = Path(report.quarantine_file).read_text("utf-8").splitlines() if report.quarantine_file else []
    return {
        "rows": report.read,
        "accepted": report.accepted,
        "codes": dict(report.codes),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_second": round(report.read / wall),
        "rows_per_cpu_second": round(report.read / cpu),
        "peak_mib": peak_mib(),
        "bad_lines": [json.loads(line)["line_no"] for line in lines],
    }


def complete_journey(folder: Path) -> dict[str, Any]:
    import polars as pl

    from recllm.doors.start.demo import data_folder

    source = data_folder() / "transactions.parquet"
    pl.read_parquet(source).write_csv(folder / "cj.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    figures = {}
    for name, file in (("parquet", source), ("csv", folder / "cj.csv")):
        figures[name] = in_new_process("ingest.py", "--load", str(file), "events", "complete-journey-transactions")
        figures[name].pop("bad_lines")
    return figures


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
    figures = in_new_process("ingest.py", "--load", str(folder / "retail.csv"), "events", "online-retail-events")
    figures["planted"], bad_lines = len(dirty.codes), figures.pop("bad_lines")
    figures["exact"] = sorted(bad_lines) == sorted(dirty.codes) and figures["accepted"] == len(dirty.clean)
    return figures


def main() -> None:
    parser = script_parser(__doc__, "data")
    parser.set_defaults(output=RESULTS / "ingest.json")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.load:
            print(json.dumps(load(*args.load, folder)))
            return
        record: dict[str, Any] = {"cores": os.cpu_count(), "load_average": load_average()[0]}
        record["complete_journey"] = complete_journey(folder)
        if args.data.is_dir():
            record["online_retail_planted"] = planted(args.data, folder)
    finish(record, args.output)


if __name__ == "__main__":
    main()
