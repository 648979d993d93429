"""How fast, on this machine:  python eval/speed.py -o eval/results/speed.json

Everything runs in this one command, each part in a process of its own where memory is measured, on the whole Complete
Journey log. Encoding is compared with a plain `SentenceTransformer.encode` of the same texts in the same run, on a
slice of the list for the plain one; ratios travel between machines, seconds do not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from inputs import finish, in_new_process, peak_mib, script_parser

GOALS = {
    "ingest rows/s": ">= 20000",
    "ingest peak MiB": "<= 600",
    "encode ratio": ">= 2.5",
    "recommend ms": "<= 100",
    "recommend with reasons ms": "<= 700",
    "train seconds": "<= 120 for the scorer alone; here the texts are encoded as well",
    "audience of 1 item s": "<= 5",
    "audience of 50 items s": "<= 60",
    "predict s": "<= 60",
}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="run one part and print its figures")
    parser.add_argument("--folder", type=Path, help="where the workspace is made; a temporary folder otherwise")
    parser.add_argument("--plain", type=int, default=3000, help="texts that the plain encoder gets")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "shop"
        figures: dict[str, Any] = {}
        for part in PARTS:
            figures |= in_new_process("speed.py", "--part", part, "--folder", str(folder), "--plain", str(args.plain))
    finish({"protocol": "speed", "figures": figures, "goals": GOALS}, args.output)


def ingest(args: argparse.Namespace) -> dict[str, Any]:
    from recllm.doors.start.demo import FILES, data_folder
    from recllm.shop.ingest.workspace_load import load_file
    from recllm.shop.workspace.workspace import Workspace

    with Workspace.create(args.folder, consent_default=True, currency="USD", timezone="UTC") as shop:
        for name, table, mapping in FILES[:2]:
            load_file(shop, data_folder() / f"{name}.parquet", table, mapping=mapping)
        name, table, mapping = FILES[2]
        started = time.perf_counter()
        report = load_file(shop, data_folder() / f"{name}.parquet", table, mapping=mapping)
        spent = time.perf_counter() - started
    return {"ingest rows": report.read, "ingest rows/s": round(report.read / spent), "ingest peak MiB": peak_mib()}


def encode(args: argparse.Namespace) -> dict[str, Any]:
    """The catalogue, against the plain encoder."""
    import numpy as np
    from encoder_speed import SEED, catalogue_texts, encode_catalogue, plain_encoder, timed

    texts, plain = catalogue_texts(), plain_encoder()
    n_distinct = len(set(texts))
    sample = [texts[row] for row in np.random.default_rng(SEED).choice(len(texts), args.plain, replace=False)]
    before, _ = timed(lambda: plain(sample))
    ours = encode_catalogue(texts)
    after, _ = timed(lambda: plain(sample))
    seconds = min(before[0], after[0]) / args.plain  # of a text
    return {
        "encode texts": len(texts),
        "encode distinct texts": n_distinct,
        "encode plain texts/s": round(1 / seconds, 1),
        "encode texts/s": ours["texts_per_s"],
        "encode ratio": round(seconds * len(texts) / ours["seconds"], 2),
        "encode ratio, distinct texts only": round(seconds * n_distinct / ours["seconds"], 2),
    }


def serve(args: argparse.Namespace) -> dict[str, Any]:
    """The workspace is trained; then everything is warm."""
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.recommend.recommender.shop_recommender import open_recommender, workspace_encoder
    from recllm.recommend.recommender.train import train_workspace
    from recllm.shop.workspace.workspace import Workspace

    shop = Workspace.open(args.folder)
    encoder = workspace_encoder(shop)
    started = time.perf_counter()
    trained = train_workspace(shop, encoder=encoder)
    training = time.perf_counter() - started
    serving = open_recommender(shop, encoder=encoder, everybody=True).warm()
    people = serving.dataset.users["user_id"].sample(40, seed=0).to_list()
    plain = Recommender(serving.dataset, encoder, model=serving.model, population=serving.population)
    plain.recommend(people[0])
    return {
        "train seconds": round(training, 1),
        "train reported seconds": round(trained.seconds, 1),
        "recommend ms": _median_ms(lambda user: plain.recommend(user, explain=False), people),
        "recommend with reasons ms": _median_ms(lambda user: plain.recommend(user), people),
        "serve peak MiB": peak_mib(),
    }


def market(args: argparse.Namespace) -> dict[str, Any]:
    """Audiences of the workspace that `serve` trained, the crowd warm, reasons and all; a prediction with training."""
    from recllm.market.audiences.audience import find_audience
    from recllm.market.audiences.request import AudienceLimits, AudienceRequest
    from recllm.market.propensity.answers import predict_workspace
    from recllm.market.propensity.prediction import PredictionKind, PredictionRequest
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.workspace.workspace import Workspace

    shop = Workspace.open(args.folder)
    recommender = open_recommender(shop, everybody=True).warm()
    fit = [not recommender.policy.is_sensitive(path or ()) for path in recommender.dataset.items["category"].to_list()]
    order = [i for i in recommender.population.popular[:200].tolist() if fit[i]]
    ids = recommender.dataset.items["item_id"].gather(order[:50]).to_list()
    spent = []
    for items in (ids[20:21], ids):
        started = time.perf_counter()
        reached = find_audience(recommender, AudienceRequest(items=items, limits=AudienceLimits(size=200)))
        spent.append(round(time.perf_counter() - started, 1))
    started = time.perf_counter()
    predicted = predict_workspace(shop, PredictionRequest(kind=PredictionKind.BUY))
    return {
        "audience people": recommender.dataset.n_users,
        "audience of 1 item s": spent[0],
        "audience of 50 items s": spent[1],
        "audience size": len(reached.people),
        "predict people": len(predicted.people),
        "predict s": round(time.perf_counter() - started, 1),
    }


def _median_ms(call: Any, people: list[str]) -> float:
    spent = []
    for user in people:
        started = time.perf_counter()
        call(user)
        spent.append(time.perf_counter() - started)
    return round(1000 * sorted(spent)[len(spent) // 2], 1)


PARTS = {"ingest": ingest, "encode": encode, "serve": serve, "market": market}

if __name__ == "__main__":
    main()
