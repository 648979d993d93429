"""What a 135M model's opening lines are worth: before and after LoRA, English and Chinese.

    python eval/copy_pairs.py --out pairs
    for language in en zh; do accelerate launch finetune/copywriter.py finetune/copywriter.toml \\
      --pairs pairs/$language.jsonl --out tuned/$language; done
    python eval/copy_models.py --tuned tuned -o eval/results/copy-models.json
    python eval/copy_models.py --notes "what a reader found" -o eval/results/copy-models.json

English items: groceries (Complete Journey, simulated from real shopping patterns by its package's own word), gifts (UCI
Online Retail), industrial goods whose sellers' lines were held back from the training. Chinese items: AdvertiseGen
clothing, held back too. Each text has 8 choices. "first_line" is the line that the model itself holds likeliest;
"lines" are all that it wrote. Lines are counted from what `write_copy` asked for and stopped; nothing is sent twice.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import copy_pairs
import polars as pl
from inputs import RESULTS, finish, load_average, script_parser

from recllm.base.schema import AdCopy, Item, ReasonKind
from recllm.doors.start.demo import data_folder
from recllm.market.adcopy.lexicon import words
from recllm.market.adcopy.request import CopyRequest
from recllm.market.adcopy.write import write_copy
from recllm.recommend.evaluation.report import write_record
from recllm.text.generator.locate import model_folder

CHANNELS = ("push", "email", "sms_gsm", "google_rsa")
ZH_CHANNELS = ("push", "email")
NOW = datetime(2017, 12, 1, tzinfo=UTC)
HELD = 0.1
"""The share of items that `split` holds back by default."""
SYSTEMS = (
    ("en", False),
    ("en", True),
    ("zh", False),
    ("zh", True),
)


@dataclass(frozen=True)
class CopySystem:
    locale: str
    tuned: bool

    @property
    def name(self) -> str:
        return f"{self.locale}{' + lora' if self.tuned else ''}"


class Listening:
    """A generator that keeps what it said."""

    def __init__(self, generator: Any) -> None:
        self.generator, self.said = generator, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def generate(self, prompt: str, **arguments: Any) -> list[str]:
        self.said = list(dict.fromkeys(self.generator.generate(prompt, **arguments)))
        return list(self.said)


def groceries(n: int, rng: random.Random) -> list[Item]:
    """Products of the Complete Journey data with a known type, at the median price of their sales."""
    folder = data_folder()
    products = pl.read_parquet(folder / "products.parquet").drop_nulls(["product_type", "product_category"])
    sales = pl.scan_parquet(folder / "transactions.parquet").filter(
        (pl.col("quantity") > 0) & (pl.col("sales_value") > 0)
    )
    price = (pl.col("sales_value") / pl.col("quantity")).median().round(2).alias("price")
    sold = products.join(sales.group_by("product_id").agg(price).collect(), on="product_id").sort("product_id")
    return [
        Item(
            item_id=str(row["product_id"]),
            title=" ".join(filter(None, (row["product_type"], row["package_size"]))),
            category=(row["department"], row["product_category"]),
            price=Decimal(str(row["price"])),
            currency="USD",
        )
        for row in sold.sample(n, seed=rng.randrange(2**31)).to_dicts()
    ]


def gifts(n: int, rng: random.Random, data: Path) -> list[Item]:
    items = pl.read_parquet(data / "online_retail_uci" / "items.parquet").drop_nulls(["title", "price"])
    rows = items.filter(pl.col("price") > 0).sort("item_id").sample(n, seed=rng.randrange(2**31)).to_dicts()
    return [
        Item(item_id=r["item_id"], title=r["title"], price=Decimal(f"{r['price']:.2f}"), currency="GBP") for r in rows
    ]


def held(n: int, rng: random.Random, lines: Any, currency: str) -> list[Item]:
    """Items whose approved lines were not learned, at a price drawn for the purpose."""
    draws = {line["item"]["id"]: sha256(line["item"]["id"].encode()).digest()[:4] for line in lines}
    by_id = {i["id"]: i for i in (line["item"] for line in lines) if int.from_bytes(draws[i["id"]]) < HELD * 2**32}
    ids = rng.sample(sorted(by_id), n)
    return [
        Item(
            item_id=key,
            title=by_id[key]["title"],
            brand=by_id[key].get("brand") or None,
            category=(by_id[key]["category"],) if "category" in by_id[key] else (),
            price=Decimal(rng.randrange(500, 9_900)) / 100,
            currency=currency,
        )
        for key in ids
    ]


KINDS = (ReasonKind.KNOWN, ReasonKind.TOGETHER, ReasonKind.INTEREST, ReasonKind.PICKED, ReasonKind.GENERAL)
"""Each in turn."""


def write_all(
    system: CopySystem, items: list[tuple[str, Item]], cache: str | None, tuned: str, seed: int
) -> tuple[CopySystem, list[dict[str, Any]]]:
    """One system's texts on one thread."""
    import torch

    from recllm.text.generator.local import LocalGenerator

    torch.set_num_threads(1)
    folder, name = model_folder("smollm2", cache)
    adapter = Path(tuned) / system.locale if system.tuned else None
    model = LocalGenerator(folder, name=name, adapter=adapter)
    rows = []
    for number, (source, item) in enumerate(items):
        speaker = Listening(model)
        channels = CHANNELS if system.locale == "en" else ZH_CHANNELS
        began, cpu = time.monotonic(), time.process_time()
        request = CopyRequest(
            item=item,
            channel=channels[number % len(channels)],
            now=NOW,
            locale=system.locale,
            reason_kind=KINDS[number % len(KINDS)],
            seed=seed + number,
        )
        (copy,) = write_copy(request, generator=speaker)
        rows.append(row(source, copy, speaker.said, time.monotonic() - began, time.process_time() - cpu))
    return system, rows


def row(source: str, copy: AdCopy, lines: list[str], seconds: float, cpu: float) -> dict[str, Any]:
    stopped = {line: sorted({f.guarantee for f in faults}) for line, faults in copy.rejected}
    good = [line for line in lines if line not in stopped]
    used = next((line for line in good if copy.generator != "template" and line in copy.text), None)
    return {
        "source": source,
        "text": copy.text,
        "verified": copy.verified,
        "kept": used,
        "first": bool(lines) and lines[0] in good,
        "said": len(lines),
        "good": len(good),
        "stopped": stopped,
        "seconds": seconds,
        "cpu": cpu,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    model_lines = [r["kept"] for r in rows if r["kept"]]
    tokens = [words(line) for line in model_lines]
    ones, twos = [w for t in tokens for w in t], [p for t in tokens for p in pairwise(t)]
    answered = [r for r in rows if r["said"]]
    sources = sorted({r["source"] for r in rows})
    stopped = Counter(g for r in rows for faults in r["stopped"].values() for g in faults)
    return {
        "total": len(rows),
        "verified": sum(r["verified"] for r in rows),
        "asked": len(answered),
        "kept_model_words": len(model_lines),
        "kept_share": share(len(model_lines), len(rows)),
        "kept_by_source": {s: kept_share(rows, s) for s in sources},
        "first_line_verified": share(sum(r["first"] for r in answered), len(answered)),
        "lines": sum(r["said"] for r in rows),
        "lines_verified": share(sum(r["good"] for r in rows), sum(r["said"] for r in rows)),
        "stopped_by": dict(sorted(stopped.items(), key=lambda pair: int(pair[0][1:]))),
        "distinct-1": share(len(set(ones)), len(ones)),
        "distinct-2": share(len(set(twos)), len(twos)),
        "texts_per_second": round(len(rows) / sum(r["seconds"] for r in rows), 3),
        "cpu_seconds_per_text": round(sum(r["cpu"] for r in rows) / len(rows), 2),
        "examples": [r["text"] for r in rows if r["kept"]][:6],
    }


def kept_share(rows: list[dict[str, Any]], source: str) -> float | None:
    some = [bool(r["kept"]) for r in rows if r["source"] == source]
    return share(sum(some), len(some))


def share(part: float, total: float) -> float | None:
    return round(part / total, 4) if total else None


def training(tuned: Path) -> dict[str, Any]:
    """Perplexity per token of the held-back lines, before and after each epoch, as the runs recorded it."""
    records = {name: json.loads((tuned / name / "recllm.json").read_text(encoding="utf-8")) for name in ("en", "zh")}
    return {
        name: {
            "perplexity": [round(p, 2) for p in r["perplexity"]],
            "arguments": r["arguments"],
            "data": r["data"][:16],
        }
        for name, r in records.items()
    }


def main() -> None:
    parser = script_parser(__doc__, "data", "seed")
    parser.set_defaults(output=RESULTS / "copy-models.json", seed=7)
    parser.add_argument("--tuned", type=Path, default=Path("tuned"), help="folder with the adapters en and zh")
    parser.add_argument("--cache-dir")
    parser.add_argument("--texts", type=int, default=60, help="English items, a third of each source")
    parser.add_argument("--zh-texts", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--notes", nargs="+", help="put a reader's findings into the result, and do nothing else")
    args = parser.parse_args()
    if args.notes:
        write_record(json.loads(args.output.read_text(encoding="utf-8")) | {"notes": args.notes}, args.output)
        return
    rng = random.Random(args.seed)
    third = args.texts // 3
    items = {
        "en": [
            *(("complete_journey", i) for i in groceries(third, rng)),
            *(("online_retail", i) for i in gifts(third, rng, args.data)),
            *(("industrial_held_back", i) for i in held(third, rng, copy_pairs.english(args.data), "USD")),
        ],
        "zh": [("advertisegen_held_back", i) for i in held(args.zh_texts, rng, copy_pairs.chinese(args.data), "CNY")],
    }
    model_folder("smollm2", args.cache_dir)  # unpacks once, before the clock and the workers start
    systems = [CopySystem(*system) for system in SYSTEMS]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(write_all, s, items[s.locale], args.cache_dir, str(args.tuned), args.seed) for s in systems]
        rows_of = {system.name: rows for system, rows in (job.result() for job in jobs)}
    figures = {name: summary(rows) for name, rows in rows_of.items()}
    head = figures["en"]
    result = {
        "protocol": "copy-models",
        "generator": "smollm2",
        "seed": args.seed,
        "candidates": 8,
        "workers": args.workers,
        "load": load_average(),
        **{name: head[name] for name in ("total", "verified", "kept_model_words", "kept_share")},
        "training": training(args.tuned),
        "systems": figures,
        "notes": [],
    }
    finish(result, args.output)


if __name__ == "__main__":
    main()
