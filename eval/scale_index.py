"""How fast, how large and how exact the kinds of item index are on a million items.

    python eval/scale_index.py [--items 1000000] [--folder FOLDER] [-o FILE]

The items are those of a larger shop made of real ones: all distinct texts of Complete Journey, Online Retail, Amazon
Beauty and Amazon Industrial, and further products of Complete Journey's types, in the sizes of their category and with
its brands. Each comes four times, without a price and at three drawn prices, which the package tells in words ("low
price for frozen pizza"). Every vector is one that the package itself would serve for such a product: nothing is
jittered.
Queries are words of titles, and what candidates by text are looked up by: the mean vectors of what households of
Complete Journey bought last, less the mean of the catalogue. Vectors and indexes stay in FOLDER for the next run.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import DATA, finish, in_new_process, load_average, say, script_parser
from numpy.typing import NDArray
from public_logs import read_folder

from recllm.learn.features.item_index.catalogue import OVER_FETCH
from recllm.learn.features.item_index.faiss_lists import FaissIndex
from recllm.learn.features.item_vectors import item_vectors, new_item_vectors
from recllm.recommend.evaluation.benchmarks import complete_journey
from recllm.shop.data.dataset import ITEM_SCHEMA
from recllm.text.encoder.loading import load_encoder
from recllm.text.items import item_texts

FOLDERS = ("online_retail_uci", "amazon_beauty_p5", "minionerec_Industrial_and_Scientific")
FORMS = 4
"""An item of each text without a price, and at so many prices less one."""
BRANDS = ("National", "Private", "Organic", "Value")
SEED = 0
K = 100
NDCG_AT = 20
KINDS = ("exact", "faiss")
BLOCK = 16
"""Queries that are compared with all items at once."""


def main() -> None:
    if "--part" in sys.argv:  # of `measure`, in a process of its own
        task = json.load(sys.stdin)
        figures = build(task) if task["part"] == "build" else ask(task)
        print(json.dumps(figures))
        return
    parser = script_parser(__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "recllm" / "scale-index")
    args = parser.parse_args()
    record = {"protocol": "scale-index", "seed": SEED, "kinds": measure(args.items, args.folder)}
    finish(record | {"load_average": load_average()}, args.output)


def measure(n_items: int, folder: Path) -> dict[str, dict[str, Any]]:
    """For each kind: items; recall_100, of the 100 nearest of all queries; ms, the median of one query after another;
    mib, what the index adds to the memory of the process besides exact vectors that are mapped from their file
    (mapped_mib); ndcg_ratio, NDCG@20 of searches by the index over that of comparing all items, where items of the type
    that was searched for are relevant.

    Each kind is built in one process and asked in another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"items-{n_items}.arrow"
    if not path.exists():
        catalogue(n_items).write_ipc(path, compression="uncompressed")
    items = pl.read_ipc(path)
    vectors, kind_of = served_vectors(items, folder), types(items)
    say("%d items, %d distinct texts", n_items, items["text"].n_unique())
    searches, asked_types = search_queries(items, kind_of, folder)
    queries = np.concatenate([searches, people(vectors, folder)])
    exact_rows, exact = ranked(None, vectors, queries)
    np.savez(
        folder / "queries.npz", queries=queries, exact=exact, exact_rows=exact_rows, types=kind_of, asked=asked_types
    )
    figures = {}
    for kind in KINDS:
        task = {"kind": kind, "n_items": n_items, "folder": str(folder)}
        built = in_new_process("scale_index.py", "--part", task={**task, "part": "build"})
        figures[kind] = {**in_new_process("scale_index.py", "--part", task={**task, "part": "ask"}), **built}
    return figures


def ranked(index: FaissIndex | None, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> tuple[Any, Any]:
    """Rows and inner products of the `K` best items of each query, (n, K) each, best first; without an index all items
    are compared."""
    rows, products = np.zeros((len(queries), K), np.int64), np.zeros((len(queries), K), np.float32)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        proposals = [None] * len(block) if index is None else index.candidates(block, OVER_FETCH * K)
        of_all = block @ vectors.T if index is None else None
        for n, proposed in enumerate(proposals):
            value = of_all[n] if of_all is not None else vectors[proposed] @ block[n]
            best = np.argpartition(-value, K - 1)[:K]
            best = best[np.argsort(-value[best], kind="stable")]
            rows[start + n], products[start + n] = best if proposed is None else proposed[best], value[best]
    return rows, products


def build(task: dict[str, Any]) -> dict[str, Any]:
    """Build the index of a kind in its folder, unless it is there."""
    folder = Path(task["folder"])
    record = folder / f"built-{task['kind']}-{task['n_items']}.json"
    if record.exists():
        figures: dict[str, Any] = json.loads(record.read_text("utf-8"))
        return figures
    vectors = np.load(folder / f"vectors-{task['n_items']}.npy", mmap_mode="r", allow_pickle=False)
    place = folder / f"{task['kind']}-{task['n_items']}"
    place.mkdir(exist_ok=True)
    started = time.perf_counter()
    if task["kind"] == "faiss":
        FaissIndex.build(vectors, place)
    figures = {
        "build_seconds": round(time.perf_counter() - started, 1),
        "mapped_mib": round(vectors.nbytes / 2**20, 1),
        "file_mib": round(sum(path.stat().st_size for path in place.iterdir()) / 2**20, 1),
    }
    record.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def ask(task: dict[str, Any]) -> dict[str, Any]:
    """The figures of an index that is opened from its folder."""
    folder = Path(task["folder"])
    with np.load(folder / "queries.npz", allow_pickle=False) as arrays:
        queries, exact, exact_rows = arrays["queries"], arrays["exact"], arrays["exact_rows"]
        kind_of, asked = arrays["types"], arrays["asked"]
    vectors = np.load(folder / f"vectors-{task['n_items']}.npy", mmap_mode="r", allow_pickle=False)
    importlib.import_module("faiss" if task["kind"] == "faiss" else "numpy")
    before = resident_mib()
    index = FaissIndex.open(folder / f"faiss-{task['n_items']}") if task["kind"] == "faiss" else None
    rows, cosine = ranked(index, vectors, queries)  # what is mapped is read
    mib = resident_mib() - before
    one_by_one = queries[np.random.default_rng(5).permutation(len(queries))[:100]]
    times, processor = [], time.process_time()
    for query in one_by_one:
        started = time.perf_counter()
        ranked(index, vectors, query[None])
        times.append(1_000 * (time.perf_counter() - started))
    processor = 1_000 * (time.process_time() - processor) / len(one_by_one)
    # equal vectors are equally near, whichever of them is returned
    recall = (cosine >= exact[:, -1:] - 1e-5).mean(axis=1)
    n_searches = len(asked)
    gains = [ndcg(kind_of[of] == asked[:, None]) for of in (rows[:n_searches], exact_rows[:n_searches])]
    return {
        "items": len(vectors),
        "recall_100": round(float(recall.mean()), 4),
        "recall_100_searches": round(float(recall[:n_searches].mean()), 4),
        "recall_100_people": round(float(recall[n_searches:].mean()), 4),
        "ms": round(float(np.median(times)), 2),
        "ms_mean": round(float(np.mean(times)), 2),
        "ms_processor": round(processor, 2),
        "ms_p95": round(float(np.quantile(times, 0.95)), 2),
        "mib": round(mib, 1),
        "ndcg": round(float(gains[0].mean()), 4),
        "ndcg_ratio": round(float(gains[0].mean() / gains[1].mean()), 5),
        "load_average": load_average(),
    }


def ndcg(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """NDCG@20 of each row, (n,); there are more relevant items than places."""
    discount = 1 / np.log2(np.arange(2, NDCG_AT + 2))
    return np.asarray(relevant[:, :NDCG_AT] @ discount / discount.sum())


def resident_mib() -> float:
    """Memory of this process, without the exact vectors that it maps from their file: those the system may drop."""
    text = Path("/proc/self/smaps").read_text("utf-8")
    total, counts = 0, True
    for line in text.splitlines():
        if "-" in line.split(" ", 1)[0]:
            counts = not line.endswith(".npy")
        elif line.startswith("Rss:") and counts:
            total += int(line.split()[1])
    return total / 1024


def types(items: pl.DataFrame) -> NDArray[np.int64]:
    """The narrowest category of each item as a number, (n,); items without one are of one type."""
    name = items["category"].list.get(-1, null_on_oob=True).fill_null("")
    return name.cast(pl.Categorical).to_physical().cast(pl.Int64).to_numpy()


def search_queries(
    items: pl.DataFrame, kind_of: NDArray[np.int64], folder: Path, n: int = 500
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What somebody might type: two or three words of the title of an item whose type has many; and that type."""
    rng = np.random.default_rng(2)
    count = np.bincount(kind_of)
    count[kind_of[(items["category"].list.len().fill_null(0) == 0).to_numpy()]] = 0
    fit = np.flatnonzero(count[kind_of] >= 2 * NDCG_AT)
    rows = rng.choice(fit, n, replace=False)
    texts = []
    for title in items["title"].gather(rows).to_list():
        words = title.lower().split()
        start = int(rng.integers(max(1, len(words) - 2)))
        texts.append(" ".join(words[start : start + 3]))
    encoder = load_encoder(cache_dir=folder / "encoded", progress=False)
    return encoder.encode(texts, kind="query"), kind_of[rows]


def people(vectors: NDArray[np.float32], folder: Path, n: int = 200) -> NDArray[np.float32]:
    """Mean vectors of the last ten purchases of households of Complete Journey, less the mean of the catalogue."""
    log = complete_journey()
    encoder = load_encoder(cache_dir=folder / "encoded", progress=False)
    item_rows, rng = item_vectors(encoder, log), np.random.default_rng(3)
    buyers = rng.choice(np.flatnonzero(np.diff(log.events.indptr) >= 10), n, replace=False)
    means = np.stack(
        [
            item_rows[log.events.item[log.events.indptr[b + 1] - 10 : log.events.indptr[b + 1]]].mean(axis=0)
            for b in buyers
        ]
    )
    mean = vectors[np.sort(rng.integers(len(vectors), size=50_000))].mean(axis=0)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True) - mean, np.float32)


def catalogue(n_items: int, seed: int = SEED) -> pl.DataFrame:
    """A catalogue of `n_items`, with the text of each in a further column."""
    rng = np.random.default_rng(seed)
    columns = [name for name in ITEM_SCHEMA if name in ("title", "category", "brand", "description", "attributes")]
    journey = complete_journey().items.select(columns)
    frames = [journey] + [read_folder(DATA / n).dataset().items.select(columns) for n in FOLDERS if (DATA / n).exists()]
    real = pl.concat(frames)
    real = real.with_columns(text=pl.Series(item_texts(real))).unique("text", maintain_order=True)
    n_texts = -(-n_items // FORMS)
    texts = real.sample(min(n_texts, real.height), seed=seed, shuffle=True)
    n_real = texts.height
    if n_texts > n_real:
        texts = pl.concat([texts, _composed(journey, set(real["text"]), n_texts - n_real, rng)])
    items = pl.concat([texts] * FORMS)[:n_items].sample(fraction=1.0, shuffle=True, seed=seed)
    # forms of a text follow each other nowhere: prices are drawn for all rows, and a quarter has none
    price = np.exp(rng.normal(1.5, 0.8, items.height)).round(2)
    form = items.select(pl.int_range(pl.len()).over("text")).to_series().to_numpy()
    full = {
        name: pl.lit(None, dtype=kind).alias(name) for name, kind in ITEM_SCHEMA.items() if name not in items.columns
    }
    full["item_id"] = pl.int_range(pl.len()).cast(pl.String).alias("item_id")
    items = items.with_columns(*full.values())
    priced = pl.Series(np.where(form == 0, np.nan, price)).fill_nan(None)
    return items.with_columns(price=priced, available=pl.lit(True))


def _composed(journey: pl.DataFrame, taken: set[str], n: int, rng: np.random.Generator) -> pl.DataFrame:
    """`n` products of Complete Journey's types, each in a size of its category, with texts that no other has."""
    kinds = journey.filter(pl.col("category").list.len() == 3)
    size = pl.col("attributes").str.json_path_match("$.size")
    group = pl.col("category").list.get(1)
    sizes = kinds.select(group.alias("group"), size.alias("size")).drop_nulls().unique().sort("group", "size")
    types = kinds.select("category", group.alias("group")).unique().sort("category")
    brands = pl.DataFrame({"brand": BRANDS})
    every = (
        types.join(sizes, on="group")
        .join(brands, how="cross")
        .with_columns(
            title=pl.concat_str(pl.col("category").list.get(2), "size", separator=" "),
            attributes=pl.struct("size").struct.json_encode(),
            description=pl.lit(None, dtype=pl.String),
        )
    )
    every = every[rng.permutation(every.height)].select(*journey.columns)
    every = every.head(2 * n + 1000)
    every = every.with_columns(text=pl.Series(item_texts(every))).unique("text", maintain_order=True)
    every = every.filter(~pl.col("text").is_in(list(taken)))
    if every.height < n:
        raise ValueError(f"only {every.height} products can be composed, {n} are wanted; ask for fewer items")
    return every.head(n)


def served_vectors(items: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
    """The package's own vectors of a catalogue, with its default encoder; kept in `folder`."""
    path = folder / f"vectors-{items.height}.npy"
    if not path.exists():
        encoder = load_encoder(cache_dir=folder / "encoded", progress=False)
        np.save(path, new_item_vectors(encoder, items, items.height))
    return np.load(path, mmap_mode="r", allow_pickle=False)


if __name__ == "__main__":
    main()
