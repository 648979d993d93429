"""What a log ten and a hundred times as long costs:  python eval/scale.py --parts DIR -o eval/results/scale.json

The log is Complete Journey (1.47 million rows, simulated from real shopping patterns by its package's own word),
copied: copy c of a household has another id, other baskets, and its days shifted by up to three, so that no copy equals
another. Products are the same. It is a log with more people, not one of another kind: what they buy is as diverse as
before.

Each part runs in a process of its own and its figures stay in --parts, so a run that was stopped goes on.

    nightly 1x, 10x   a workspace of that size: the log up to the last day is ingested (rows per second, peak memory), a
                      model that learned at 1x is published; then a night: the last day is ingested, the serving state
                      refreshed, everybody ranked (`recllm recommend --everybody`, k = 20, two processes); how long one
                      warm answer takes
    part 100x         the same at 100x, but only some of the people are ranked, in as many shards as told

top20_s is the ranking of everybody at 1x, 2,469 people, in one warm process; top20_batch_s the batch that writes
everybody's slates in two processes, their start included.
The exponent is the slope of log(time) over log(rows) of the nights of 1x and 10x. The night of 100x is what was
measured of it with the time of all people, taken from that of some; beside it stands what the exponent says.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import tempfile
import time
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from inputs import finish, finished_parts, in_new_process, peak_mib, script_parser, timed

SIZES = (1, 10)
SHIFT_DAYS = 3
DAYS_AT_ONCE = 30
K = 20
SHARDS_PER_COPY = 8
SHARDS_OF_100X = 40
ANSWERS = 60


def write_log(folder: Path, copies: int) -> dict[str, Any]:
    """log.parquet, all but the last day, and day.parquet, whose rows are told."""
    import polars as pl
    import pyarrow.parquet as pq

    from recllm.doors.start.demo import data_folder

    log = pl.read_parquet(data_folder() / "transactions.parquet")
    at = pl.col("transaction_timestamp").cast(pl.Datetime("us"))
    log = log.with_columns(at)
    end: datetime = log["transaction_timestamp"].max()  # type: ignore[assignment]
    last_day = end.replace(hour=0, minute=0, second=0) - timedelta(days=1)  # the last one that is whole
    rng = np.random.default_rng(0)
    households = log["household_id"].unique().sort()
    copied = [
        pl.DataFrame(
            {
                "household_id": households,
                "new_id": rng.permutation(len(households)) + 1 + copy * 1_000_000,
                "shift": rng.integers(-SHIFT_DAYS, SHIFT_DAYS + 1, len(households)) if copy else 0,
            }
        )
        for copy in range(copies)
    ]
    time, span = pl.col("transaction_timestamp"), pl.duration(days=SHIFT_DAYS)
    begin: datetime = log["transaction_timestamp"].min()  # type: ignore[assignment]
    edges = [begin - timedelta(days=SHIFT_DAYS + 1)]
    while edges[-1] < end:
        edges.append(edges[-1] + timedelta(days=DAYS_AT_ONCE))
    n_rows = 0
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        for low, high in pairwise(edges):  # the whole would not fit into memory
            near = log.filter((time >= low - span) & (time < high + span + pl.duration(days=1)))
            parts = [
                near.join(ids, on="household_id", maintain_order="left").with_columns(
                    household_id=pl.col("new_id"),
                    basket_id=pl.col("basket_id") + copy * 10**12,
                    transaction_timestamp=pl.min_horizontal(
                        at + pl.duration(days=pl.col("shift")), pl.lit(last_day) + pl.duration(hours=23)
                    ),
                )
                for copy, ids in enumerate(copied)
            ]
            part = pl.concat([part.filter((time >= low) & (time < high)).drop("new_id", "shift") for part in parts])
            part = part.sort("transaction_timestamp", maintain_order=True)
            n_rows += len(part)
            for name, rows in (("log", part.filter(time < last_day)), ("day", part.filter(time >= last_day))):
                table = rows.to_arrow()
                if name not in writers:
                    file = pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
                    writers[name] = stack.enter_context(file)
                writers[name].write_table(table, row_group_size=100_000)
    return {"rows": n_rows}


def step(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """A step in a process of its own: its seconds and peak memory, and its figures."""
    return in_new_process("scale.py", "--step", name, "--folder", str(folder), *arguments)


def ingest(folder: Path, file: str) -> dict[str, Any]:
    from recllm.shop.ingest.workspace_load import load_file
    from recllm.shop.workspace.workspace import Workspace

    with closing(Workspace.open(folder / "shop")) as shop:
        mapping = "complete-journey-transactions"
        seconds, cpu, report = timed(lambda: load_file(shop, folder / file, "events", mapping=mapping))
    return {
        "rows": report.read,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_s": round(report.read / seconds),
        "rows_per_cpu_s": round(report.read / cpu),
    }


def publish(folder: Path, model_folder: Path) -> dict[str, Any]:
    from recllm.recommend.recommender.saved_model import load_model
    from recllm.recommend.recommender.shop_recommender import model_encoder, publish_recommender
    from recllm.shop.workspace.workspace import Workspace

    began = time.perf_counter()
    with closing(Workspace.open(folder / "shop")) as shop:
        model = load_model(model_folder)
        publish_recommender(shop, model, model_encoder(shop, model))
    return {"seconds": round(time.perf_counter() - began, 1)}


def refresh_state(folder: Path) -> dict[str, Any]:
    from recllm.recommend.recommender.shop_recommender import refresh
    from recllm.shop.workspace.workspace import Workspace

    with closing(Workspace.open(folder / "shop")) as shop:
        return {"seconds": round(timed(lambda: refresh(shop))[0], 1)}


def everybody(folder: Path, shards: int, workers: int, only: int | None) -> dict[str, Any]:
    """only: work on so many of the shards."""
    from recllm.market.experiments.batch import PLAN, BatchRun, run_batch, worked_shards
    from recllm.shop.workspace.workspace import Workspace

    out = folder / "slates"
    with closing(Workspace.open(folder / "shop")) as shop:
        if (folder / PLAN).exists():  # the same model as of the same time
            out.mkdir()
            shutil.copy(folder / PLAN, out / PLAN)
        run = BatchRun.plan(shop, out, {"k": K, "explain": False}, shards=shards)
        if only is not None:
            seconds, _, outcomes = timed(lambda: list(worked_shards(run, range(only), workers)))
            assert not any(outcome.error for outcome in outcomes), outcomes
            shutil.copy(out / PLAN, folder / PLAN)
            return {
                "people": sum(o.people for o in outcomes),
                "seconds": round(seconds, 1),
                "shards": only,
                "of": shards,
            }
        result = run_batch(run, workers=workers)
    assert not result.failed, result.failed
    shutil.copy(out / PLAN, folder / PLAN)
    return {"people": result.people, "seconds": round(result.seconds, 1)}


def answers(folder: Path) -> dict[str, Any]:
    """Milliseconds of one answer from a warm recommender, with its reasons, median over people."""
    from recllm.base.schema import Purpose
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.workspace.workspace import Workspace

    with closing(Workspace.open(folder / "shop")) as shop:
        people = shop.gate().permitted_users(Purpose.PERSONALISATION)
        opened, _, recommender = timed(lambda: open_recommender(shop).by_pseudonym().warm())
        chosen = np.random.default_rng(0).permutation(sorted(people))[: ANSWERS + 10].tolist()
        times = [timed(partial(recommender.recommend, person, k=10))[0] for person in chosen]
    return {"open_s": round(opened, 2), "answer_ms": round(1000 * float(np.median(times[10:])), 1)}


def top(folder: Path) -> dict[str, Any]:
    """The best K of the whole catalogue for everybody, in one process that is warm."""
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.workspace.workspace import Workspace

    with closing(Workspace.open(folder / "shop")) as shop:
        recommender = open_recommender(shop, everybody=True).warm()
        data, rows = recommender.dataset, np.arange(recommender.dataset.n_users)
        everybody = recommender.inputs_of(rows)
        recommender.ranker.rank(recommender.inputs_of(rows[:64]), K)
        seconds, cpu, _ = timed(lambda: recommender.ranker.rank(everybody, K))
    return {"people": len(rows), "items": data.n_items, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


STEPS = {
    "top": top,
    "write": write_log,
    "ingest": ingest,
    "publish": publish,
    "refresh": refresh_state,
    "everybody": everybody,
    "answers": answers,
}


def nightly(copies: int, folder: Path, model_folder: Path, only: int | None = None) -> dict[str, Any]:
    """A workspace of so many copies, made in `folder`, and a night of it; of the people only so many shards."""
    from recllm.doors.start.demo import data_folder
    from recllm.shop.ingest.workspace_load import load_file
    from recllm.shop.workspace.workspace import Workspace

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    step("write", folder, "--copies", str(copies))
    with closing(Workspace.create(folder / "shop", consent_default=True, currency="USD", timezone="UTC")) as shop:
        load_file(shop, data_folder() / "products.parquet", "items", mapping="complete-journey-products")
    cache = model_folder.parent / "cache"
    if cache.exists():  # the texts are the same: encoded once
        shutil.copytree(cache, folder / "shop" / "cache", dirs_exist_ok=True)
    loaded = step("ingest", folder, "--file", "log.parquet")
    published = step("publish", folder, "--model", str(model_folder))
    options = ["--shards", str(SHARDS_PER_COPY * copies), "--workers", "2"]
    options += [] if only is None else ["--only", str(only)]
    night = {
        "ingest": step("ingest", folder, "--file", "day.parquet"),
        "refresh": step("refresh", folder),
        "everybody": step("everybody", folder, *options),
    }
    for file in ("log.parquet", "day.parquet"):
        (folder / file).unlink()
    answered = step("answers", folder)
    return {
        "copies": copies,
        "rows": loaded["rows"] + night["ingest"]["rows"],
        "loaded": loaded,
        "published": published,
        "night": night,
        "night_s": None if only is not None else round(sum(part["seconds"] for part in night.values()), 1),
        "answers": answered,
        "top": step("top", folder) if copies == 1 else None,
        "store_mib": round(sum(f.stat().st_size for f in (folder / "shop").glob("store.sqlite*")) / 2**20),
    }


def summary(parts: dict[str, Any]) -> dict[str, Any]:
    """The figures by which the aims are judged."""
    sizes = [parts[f"nightly-{copies}x"] for copies in SIZES]
    (small, large) = sizes
    exponent = math.log(large["night_s"] / small["night_s"]) / math.log(large["rows"] / small["rows"])
    hundred = parts["part-100x"]
    of_night, ranked = hundred["night"], hundred["night"]["everybody"]
    of_all = ranked["seconds"] * ranked["of"] / ranked["shards"]
    return {
        **{
            f"{job}_{size}": {name: figures[name] for name in names}
            for size, part in (("10x", large), ("100x", hundred))
            for job, figures, names in (
                ("ingest", part["loaded"], ("rows_per_s", "rows_per_cpu_s", "peak_mib")),
                ("refresh", part["night"]["refresh"], ("peak_mib", "seconds")),
            )
        },
        "nightly": {
            "1x": small["night_s"],
            "10x": large["night_s"],
            "exponent": round(exponent, 3),
            "100x_extrapolated_s": round(of_night["ingest"]["seconds"] + of_night["refresh"]["seconds"] + of_all),
            "100x_by_exponent_s": round(large["night_s"] * 10**exponent),
        },
        "answer_10x_over_1x": round(large["answers"]["answer_ms"] / small["answers"]["answer_ms"], 2),
        "top20_s": small["top"]["seconds"],
        "top20_batch_s": small["night"]["everybody"]["seconds"],
    }


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--parts", type=Path, help="a folder where workspaces and finished parts stay")
    parser.add_argument("--model", type=Path, help="models/ of a workspace of the demonstration, which trained it")
    for name in ("--step", "--folder", "--file"):
        parser.add_argument(name)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--copies", type=int)
    parser.add_argument("--only", type=int)
    args = parser.parse_args()
    if args.step:
        options: dict[str, tuple[Any, ...]] = {
            "write": (args.copies,),
            "ingest": (args.file,),
            "publish": (args.model,),
            "everybody": (args.shards, args.workers, args.only),
        }
        figures = STEPS[args.step](Path(args.folder), *options.get(args.step, ()))  # type: ignore[operator]
        of_children = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        print(json.dumps(figures | {"peak_mib": max(peak_mib(), of_children)}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.parts or Path(scratch)

        def measure(name: str) -> dict[str, Any]:
            if name == "part-100x":
                return nightly(100, folder / "100x", args.model, only=SHARDS_OF_100X)
            copies = int(name.removeprefix("nightly-").removesuffix("x"))
            return nightly(copies, folder / f"{copies}x", args.model)

        names = (*(f"nightly-{copies}x" for copies in SIZES), "part-100x")
        done = finished_parts(folder, names, measure)
    parts = {name: part["figures"] for name, part in done.items()}
    measured_at = {name: {key: part[key] for key in ("commit", "load_average")} for name, part in done.items()}
    finish({"protocol": "scale", **summary(parts), "parts": parts, "measured_at": measured_at}, args.output)


if __name__ == "__main__":
    main()
