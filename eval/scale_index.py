"""How fast, how large and how exact the kinds of item index are on a million items, and what filters leave.

    python eval/scale_index.py [--items 1000000] [--kinds exact,faiss,usearch] [--folder FOLDER] [-o FILE]

The items are those of a larger shop made of real ones: all distinct texts of Complete Journey, Online Retail, Amazon
Beauty and Amazon Industrial, and further products of Complete Journey's types, in the sizes of their category and with
its brands. Each comes four times, without a price and at three drawn prices, which the package tells in words ("low
price for frozen pizza"). Every vector is one that the package itself would serve for such a product: nothing is
jittered.
Vectors stay in FOLDER for the next run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import ITEM_SCHEMA
from recllm.encoder.loading import load_encoder
from recllm.evaluation.tables import complete_journey, read_folder
from recllm.features.item_vectors import new_item_vectors
from recllm.text.items import item_texts

SETS = Path("/work/shared/data")
FOLDERS = ("online_retail_uci", "amazon_beauty_p5", "minionerec_Industrial_and_Scientific")
FORMS = 4
"""An item of each text without a price, and at so many prices less one."""
BRANDS = ("National", "Private", "Organic", "Value")
SEED = 0


def catalogue(n_items: int, seed: int = SEED) -> tuple[pl.DataFrame, int]:
    """A catalogue of `n_items`, and how many distinct texts of it are of real products."""
    rng = np.random.default_rng(seed)
    columns = [name for name in ITEM_SCHEMA if name in ("title", "category", "brand", "description", "attributes")]
    journey = complete_journey().dataset().items.select(columns)
    frames = [journey] + [read_folder(SETS / n).dataset().items.select(columns) for n in FOLDERS if (SETS / n).exists()]
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
    return items.with_columns(price=priced, available=pl.lit(True)), n_real


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
        encoder = load_encoder(precision="auto", cache_dir=folder / "encoded", progress=False)
        np.save(path, new_item_vectors(encoder, items, items.height))
    return np.load(path, mmap_mode="r", allow_pickle=False)
