"""Ingest, measured on a whole real log with planted defects, of which exactly the planted rows must be quarantined.
Writes eval/results/ingest.json; scale.py measures larger logs.

    python eval/ingest.py [--data ../shared/data] [-o eval/results/ingest.json]
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inputs import HERE, RESULTS, finish, script_parser

sys.path.insert(0, str(HERE.parent / "tests"))


def load(file: str, table: str, mapping: str, folder: Path) -> dict[str, Any]:
    """One load into a new store."""
    from recllm.base.policy import Policy
    from recllm.shop.ingest.load import ingest_file
    from recllm.shop.ingest.options import load_map
    from recllm.shop.store.database import Store
    from recllm.shop.workspace.privacy import Pseudonymiser

    store = Store.open(folder / "store.sqlite", create=True)
    pseudonymiser, columns = Pseudonymiser(b"measure measure measure"), load_map(mapping)
    options = {"pseudonymiser": pseudonymiser, "policy": Policy(), "mapping": columns, "quarantine_dir": folder}
    report = ingest_file(file, table, store=store, **options)
    lines = Path(report.quarantine_file).read_text("utf-8").splitlines() if report.quarantine_file else []
    return {
        "rows": report.read,
        "accepted": report.accepted,
        "codes": dict(report.codes),
        "bad_lines": [json.loads(line)["line_no"] for line in lines],
    }


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
    figures = load(str(folder / "retail.csv"), "events", "online-retail-events", folder)
    figures["planted"], bad_lines = len(dirty.codes), figures.pop("bad_lines")
    figures["exact"] = sorted(bad_lines) == sorted(dirty.codes) and figures["accepted"] == len(dirty.clean)
    return figures


def main() -> None:
    parser = script_parser(__doc__, "data")
    parser.set_defaults(output=RESULTS / "ingest.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        finish({"online_retail_planted": planted(args.data, Path(name))}, args.output)


if __name__ == "__main__":
    main()
