"""How fast, on this machine:  python eval/speed.py -o eval/results/speed.json

Everything runs in this one command, each part in a process of its own where memory is measured, on the whole Complete
Journey log. Encoding is compared with a plain `SentenceTransformer.encode` of the same texts in the same run, on a
slice of the list for the plain one; ratios travel between machines, seconds do not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from inputs import finish, in_new_process, peak_mib, script_parser, timed

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
        spent, _, report = timed(lambda: load_file(shop, data_folder() / f"{name}.parquet", table, mapping=mapping))
    return {"ingest rows": report.read, "ingest rows/s": round(report.read / spent), "ingest peak MiB": peak_mib()}


def encode(args: argparse.Namespace) -> dict[str, Any]:
    """The texts of cj-next28's catalogue, duplicates and all, with an empty cache as a new shop has it; the plain
    encoder gets a sample, as its speed per text does not depend on how many there are, before ours and after, and the
    better run counts."""
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    from recllm.recommend.evaluation.benchmarks import cj_next28, complete_journey
    from recllm.text.encoder.batches import encode_once
    from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights, load_encoder
    from recllm.text.items import item_texts

    window = cj_next28(complete_journey())
    texts = item_texts(window.dataset.items[window.slice("ALL").items])
    options = {"dtype": torch.float32, "use_safetensors": True}
    model = SentenceTransformer(str(find_weights(DEFAULT_ENCODER).path), device="cpu", model_kwargs=options)
    n_distinct = len(set(texts))
    sample = [texts[row] for row in np.random.default_rng(0).choice(len(texts), args.plain, replace=False)]

    def plain_seconds(texts: list[str]) -> float:
        return timed(lambda: model.encode(texts, show_progress_bar=False, normalize_embeddings=True))[0]

    plain_seconds(["warm up"])
    before = plain_seconds(sample)
    with tempfile.TemporaryDirectory() as cache:
        encoder = load_encoder(cache_dir=cache, progress=False)
        encoder.encoder.encode(["warm up"])  # type: ignore[attr-defined]
        ours, _, _ = timed(lambda: encode_once(encoder, texts))
    seconds = min(before, plain_seconds(sample)) / args.plain  # of a text
    return {
        "encode texts": len(texts),
        "encode distinct texts": n_distinct,
        "encode plain texts/s": round(1 / seconds, 1),
        "encode texts/s": round(len(texts) / ours, 1),
        "encode ratio": round(seconds * len(texts) / ours, 2),
        "encode ratio, distinct texts only": round(seconds * n_distinct / ours, 2),
    }


def serve(args: argparse.Namespace) -> dict[str, Any]:
    """The workspace is trained; then everything is warm."""
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.recommend.recommender.shop_recommender import open_recommender, workspace_encoder
    from recllm.recommend.recommender.train import train_workspace
    from recllm.shop.workspace.workspace import Workspace

    shop = Workspace.open(args.folder)
    encoder = workspace_encoder(shop)
    training, _, trained = timed(lambda: train_workspace(shop, encoder=encoder))
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
    from recllm.market.propensity.predict import predict_workspace
    from recllm.market.propensity.prediction import PredictionKind, PredictionRequest
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.workspace.workspace import Workspace

    shop = Workspace.open(args.folder)
    recommender = open_recommender(shop, everybody=True).warm()
    fit = [not recommender.policy.is_sensitive(path or ()) for path in recommender.dataset.items["category"].to_list()]
    order = [i for i in recommender.population.popular[:200].tolist() if fit[i]]
    ids = recommender.dataset.items["item_id"].gather(order[:50]).to_list()
    requests = [AudienceRequest(items=items, limits=AudienceLimits(size=200)) for items in (ids[20:21], ids)]
    (of_one, _, _), (of_50, _, reached) = (timed(partial(find_audience, recommender, request)) for request in requests)
    predicting, _, predicted = timed(lambda: predict_workspace(shop, PredictionRequest(kind=PredictionKind.BUY)))
    return {
        "audience people": recommender.dataset.n_users,
        "audience of 1 item s": round(of_one, 1),
        "audience of 50 items s": round(of_50, 1),
        "audience size": len(reached.people),
        "predict people": len(predicted.people),
        "predict s": round(predicting, 1),
    }


def _median_ms(call: Callable[[str], Any], people: list[str]) -> float:
    return round(1000 * sorted(timed(partial(call, user))[0] for user in people)[len(people) // 2], 1)


PARTS = {"ingest": ingest, "encode": encode, "serve": serve, "market": market}

if __name__ == "__main__":
    main()
