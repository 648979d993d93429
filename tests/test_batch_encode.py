"""A catalogue encoded shard by shard: what trains and refreshes afterwards encodes nothing."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Command
from test_encoder_architectures import random_adapter
from tiny_encoders import make_model

from recllm.base.errors import DataError, StoreError, UsageError
from recllm.base.schema import Purpose
from recllm.learn.features.item_vectors import item_vectors
from recllm.market.batch import DONE, PLAN, BatchResult, BatchRun, BatchTask, keep_vectors, run_batch
from recllm.recommend.recommender.catalogue_vectors import encoding_options, read_vectors
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import open_recommender, publish_recommender, refresh
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import ITEM_SCHEMA
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.cache import CACHE_FILE, CachedEncoder
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import load_encoder, with_adapter
from recllm.text.items import item_texts, possible_price_texts, price_texts

SHARDS, ITEMS = 4, 40
TODAY = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module", autouse=True)
def encoded() -> Iterator[list[int]]:
    """Texts of each batch that the model really read."""
    sizes, forward = [], HuggingFaceEncoder.forward

    def counting(self: HuggingFaceEncoder, tokens: list[list[int]]) -> np.ndarray:
        sizes.append(len(tokens))
        return forward(self, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HuggingFaceEncoder, "forward", counting)
        yield sizes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that was never trained: half of its items have no price in the catalogue, two have the same text."""
    place, rng = tmp_path_factory.mktemp("encode"), random.Random(1)
    kinds = (("food > tea", "red milk {}"), ("home > shoes", "running shoes {}"))
    items = [
        (f"i{n}", kinds[n % 2][1].format(n), kinds[n % 2][0], 2.0 + n if n < ITEMS // 2 else None) for n in range(ITEMS)
    ]
    items.append(("twin", *items[0][1:]))
    events = [
        (
            f"u{user:02}",
            f"i{2 * rng.randrange(ITEMS // 2) + user % 2}",
            (TODAY - timedelta(days=7 * week)).isoformat(),
            9.5,
        )
        for user in range(24)
        for week in range(14)
        for _ in range(2)
    ]
    pl.DataFrame(items, schema=["item_id", "title", "category", "price"], orient="row").write_csv(place / "items.csv")
    columns = ["user_id", "item_id", "timestamp", "price"]
    pl.DataFrame(events, schema=columns, orient="row").write_csv(place / "events.csv")
    encoder = make_model(place / "tiny")
    common = {"consent_default": True, "currency": "EUR", "timezone": "UTC"}
    with Workspace.create(place / "shop", encoder=str(encoder), **common) as shop:
        for table in ("items", "events"):
            load_file(shop, place / f"{table}.csv", table)
    return place / "shop"


@pytest.fixture
def shop(folder: Path, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(shutil.copytree(folder, tmp_path / "shop")) as shop:
        yield shop


def plan(shop: Workspace, folder: Path, **changes: bool) -> BatchRun:
    return BatchRun.plan(shop, folder, BatchTask.ENCODE, encoding_options(shop, **changes), shards=SHARDS)


def encode(shop: Workspace, folder: Path) -> tuple[BatchRun, BatchResult]:
    run = plan(shop, folder)
    result = run_batch(run)
    assert result.failed == () and result.people == 0
    return run, result


def files(run: BatchRun) -> list[Path]:
    return [run.file(shard) for shard in range(run.shards)]


def add_items(shop: Workspace, *rows: tuple[str, str, str, float]) -> None:
    table = pl.DataFrame(rows, schema=["item_id", "title", "category", "price"], orient="row")
    table.write_csv(shop.root.parent / "more.csv")
    load_file(shop, shop.root.parent / "more.csv", "items")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory, encoded: list[int]) -> Path:
    """The shop, encoded and then trained without another text."""
    place = tmp_path_factory.mktemp("trained")
    with Workspace.open(shutil.copytree(folder, place / "shop")) as shop:
        encoded.clear()
        run, result = encode(shop, place / "out")
        fill, items = keep_vectors(run), shop.gate().catalogue()
        texts = {*item_texts(items), *possible_price_texts(items)}
        assert fill is not None and fill.vectors == fill.added == len(texts) <= result.texts == sum(encoded)
        encoded.clear()
        train_workspace(shop, n_windows=2, epochs=1, min_steps=20)
        assert encoded == []
    return place / "shop"


def test_a_refresh_encodes_nothing_and_new_items_are_encoded_as_usual(
    trained: Path, tmp_path: Path, command: Command, encoded: list[int]
) -> None:
    with Workspace.open(shutil.copytree(trained, tmp_path / "shop")) as shop:
        encoded.clear()
        refresh(shop)
        assert encoded == []
        bare = load_encoder(shop.settings.encoder, progress=False)
        vectors = item_vectors(bare, shop.gate().dataset(Purpose.PERSONALISATION))
        np.testing.assert_allclose(open_recommender(shop, everybody=True).item_vectors, vectors, atol=1e-5)
        shutil.copytree(trained.parent / "out", tmp_path / "out")
        place = ("--vectors", str(tmp_path / "out"), "-w", str(shop.root))
        arguments = ("refresh", *place, "--with", "shards=4", "--json")
        code, text, notes = command(*arguments)
        assert (code, notes, json.loads(text)["resumed"], json.loads(text)["texts"]) == (0, "", SHARDS, 0)
        encoded.clear()
        add_items(
            shop, ("new-1", "the sofa and cushions", "food > tea", 4.0), ("new-2", "a sofa", "home > shoes", 90.0)
        )
        refresh(shop)
        assert sum(encoded) == 2
        code, text, _ = command(*arguments)
        document = json.loads(text)
        assert (code, document["resumed"], document["texts"], document["added"]) == (0, 0, 2, 0)


def test_the_cache_has_every_bit_of_the_files(shop: Workspace, tmp_path: Path, encoded: list[int]) -> None:
    run, _ = encode(shop, tmp_path / "out")
    fill = keep_vectors(run)
    assert fill is not None and fill.added == fill.vectors
    assert keep_vectors(run) == replace(fill, added=0)
    encoded.clear()
    bare = load_encoder(shop.settings.encoder, progress=False)
    texts = item_texts(shop.gate().catalogue())
    rows = CachedEncoder(bare, shop.cache_dir / "vectors").encode(texts)
    assert encoded == []
    in_files = {row.tobytes() for file in files(run) for row in read_vectors(file, bare.fingerprint).rows}
    assert {row.tobytes() for row in rows} <= in_files
    np.testing.assert_allclose(rows, bare.encode(texts), atol=1e-5)  # in other batches, so up to rounding


def test_a_killed_run_goes_on_and_a_damaged_file_is_made_again(
    shop: Workspace, tmp_path: Path, encoded: list[int]
) -> None:
    run, first = encode(shop, tmp_path / "out")
    contents = [file.read_bytes() for file in files(run)]
    files(run)[0].unlink()
    files(run)[1].write_bytes(contents[1][: len(contents[1]) // 2])
    (run.folder / DONE).unlink()
    with pytest.raises(DataError, match=r"shard-00000\.parquet is missing or damaged; run the same batch again"):
        keep_vectors(run)
    encoded.clear()
    again, result = encode(shop, run.folder)
    assert (again, result.resumed) == (run, SHARDS - 2) and 0 < sum(encoded) == result.texts < first.texts
    assert [file.read_bytes() for file in files(run)] == contents and (run.folder / DONE).exists()


def test_no_flipped_bit_goes_unnoticed(shop: Workspace, tmp_path: Path) -> None:
    run, _ = encode(shop, tmp_path / "out")
    fingerprint = json.loads(run.options)["fingerprint"]
    file, rng = run.file(2), random.Random(0)
    content = file.read_bytes()
    sound = read_vectors(file, fingerprint)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            vectors = read_vectors(file, fingerprint)
        except DataError:
            continue
        assert vectors.keys == sound.keys and np.array_equal(vectors.rows, sound.rows)  # of what nobody reads


def test_vectors_of_another_encoder_are_refused(shop: Workspace, tmp_path: Path) -> None:
    run, _ = encode(shop, tmp_path / "out")
    other = make_model(tmp_path / "other", seed=1)
    settings = shop.settings.model_copy(update={"encoder": str(other)})
    with Workspace.open(shop.root) as changed:
        changed.settings = settings  # type: ignore[misc]
        with pytest.raises(UsageError, match=r"holds vectors of another encoder, see .*plan\.json"):
            plan(changed, run.folder)
        foreign = plan(changed, tmp_path / "foreign")
    for file in files(foreign):
        shutil.copy(run.file(1), file)
    for job in (run_batch, keep_vectors):
        with pytest.raises(UsageError, match=r"shard-00000\.parquet holds vectors of another encoder"):
            job(foreign)


def test_the_encoder_of_a_run_does_not_change_on_the_way(shop: Workspace, tmp_path: Path) -> None:
    run = plan(shop, tmp_path / "out")
    options = json.loads(run.options)
    shutil.copytree(make_model(tmp_path / "other", seed=1), options["encoder"], dirs_exist_ok=True)
    try:
        with pytest.raises(UsageError, match="is not the one that this run was begun with"):
            run_batch(run)
    finally:
        make_model(Path(options["encoder"]))
    assert run_batch(run).failed == ()


def test_the_adapter_of_the_current_model_is_used(trained: Path, tmp_path: Path, encoded: list[int]) -> None:
    with Workspace.open(shutil.copytree(trained, tmp_path / "shop")) as shop:
        bare, spare = (load_encoder(shop.settings.encoder, progress=False) for _ in range(2))
        assert isinstance(spare, HuggingFaceEncoder)
        adapter = random_adapter(spare, tmp_path / "adapter")
        tuned = with_adapter(bare, adapter)
        model = replace(load_model(shop.models_dir), adapter=adapter, encoder_fingerprint=tuned.fingerprint)
        publish_recommender(shop, model, tuned)
        run, _ = encode(shop, tmp_path / "out")
        assert json.loads(run.options)["fingerprint"] == tuned.fingerprint
        keep_vectors(run)
        encoded.clear()
        refresh(shop)
        assert encoded == []
        base = plan(shop, tmp_path / "base", base=True)
        assert json.loads(base.options)["fingerprint"] == bare.fingerprint


def test_a_cache_that_cannot_be_written_is_told(shop: Workspace, tmp_path: Path) -> None:
    run, _ = encode(shop, tmp_path / "out")
    vectors = shop.cache_dir / "vectors"
    shutil.rmtree(vectors, ignore_errors=True)
    (vectors / CACHE_FILE).mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot"), pytest.raises(StoreError, match="the files stand"):
        keep_vectors(run)


def test_an_encoder_without_a_cache_says_so(tmp_path: Path, command: Command) -> None:
    Workspace.create(tmp_path / "shop", encoder="toy").close()
    arguments = ("refresh", "--vectors", str(tmp_path / "out"), "-w", str(tmp_path / "shop"), "--with", "shards=2")
    code, text, _ = command(*arguments)
    assert code == 0 and "4 texts encoded" in text and "the encoder toy has no cache" in text
    plan_text = (tmp_path / "out" / PLAN).read_text()
    assert json.loads(plan_text)["version"] is None


def test_whatever_things_cost_their_price_texts_are_there() -> None:
    rng = random.Random(3)
    for case in range(12):
        paths = [None, *([f"d{n % 3}", f"g{n}", f"leaf {n}-{m}"] for n in range(8) for m in range(rng.choice((1, 90))))]
        n_items = rng.choice((5, 60, 700))
        rows = [
            {"category": rng.choice(paths), "currency": rng.choice(("EUR", None)), "available": rng.random() < 0.8}
            for _ in range(n_items)
        ]
        items = pl.DataFrame(
            [{name: {"item_id": str(n), **row}.get(name) for name in ITEM_SCHEMA} for n, row in enumerate(rows)],
            schema=ITEM_SCHEMA,
        )
        expected = set(possible_price_texts(items))
        assert len(expected) == len(possible_price_texts(items))
        for _ in range(3):
            prices = [rng.choice((None, 0.0, rng.random() * 50)) for _ in range(n_items)]
            priced = items.with_columns(price=pl.Series(prices, dtype=pl.Float64))
            assert set(price_texts(priced)) <= expected, case
            part = priced.filter(pl.col("available") | pl.Series([rng.random() < 0.5 for _ in range(n_items)]))
            assert set(price_texts(part)) <= expected, case
