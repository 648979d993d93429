"""The serving state: answers from mapped arrays equal those that are computed anew, and people's rows stay apart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from shop_world import add_settings, load_lines, loaded
from store_view import add_feedback

from recllm.base.errors import ModelError
from recllm.base.schema import Intent, Purpose, Slate, SlateStatus
from recllm.base.settings import ScorerTrainingSettings
from recllm.learn.features.collaborative import ItemStatistics
from recllm.learn.models.sequence import SequenceArguments
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import DecisionKind, current, decisions, promote
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.serving_state import (
    CATALOGUE_STATE,
    ITEMS,
    PEOPLE_STATE,
    map_arrays,
    open_catalogue_state,
    together_of,
)
from recllm.recommend.recommender.shop_recommender import (
    open_recommender,
    publish_recommender,
    refresh,
    workspace_encoder,
)
from recllm.recommend.recommender.shop_states import states
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.loading import DEFAULT_ENCODER
from recllm.text.encoder.toy import ToyEncoder

PEOPLE = 40
TRAINING = ScorerTrainingSettings(n_windows=3, epochs=1, min_steps=20)
SEQUENCE = SequenceArguments(dim=16, epochs=3, later_epochs=1, negatives=32, batch_size=16, min_examples=20)
LAST_DAY = datetime(2025, 6, 1, 12, tzinfo=UTC)

KINDS = {
    "en": (("food", "tea", "Green tea {}"), ("home", "tools", "Steel hammer {}")),
    "zh": (("食品", "茶叶", "绿茶{}号"), ("家居", "工具", "钢锤{}号")),
}


def rows(locale: str, *, repeats: bool, browsing: bool) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Events, items and users of a shop of two tastes; every fourth person has told their age."""
    rng = np.random.default_rng(3)
    items = [
        (f"{kind}-{n}", title.format(n), f"{department} > {kind}", f"Brand {n % 3}", 2.0 + n + 20 * taste)
        for taste, (department, kind, title) in enumerate(KINDS[locale])
        for n in range(14)
    ]
    events = []
    for user in range(PEOPLE):
        kind = KINDS[locale][user % 2][1]
        liked = rng.permutation(14) if not repeats else rng.choice(14, 4, replace=False)
        for visit in range(12):
            at = LAST_DAY - timedelta(days=7 * visit + user % 7)
            picks = liked[visit : visit + 2] if not repeats else rng.choice(liked, 2, replace=False)
            for n in picks:
                events.append((f"u{user:02}", f"{kind}-{n}", "purchase", at.isoformat(), 1.0 + n % 2, 3.0 + n))
                if browsing:
                    seen = (at - timedelta(hours=3)).isoformat()
                    events.append((f"u{user:02}", f"{kind}-{(n + 1) % 14}", "view", seen, 1.0, None))
    columns = ["user_id", "item_id", "event", "timestamp", "quantity", "price"]
    users = [(f"u{user:02}", ["young", "old"][user % 2], None if user % 4 else "city") for user in range(PEOPLE)]
    return (
        pl.DataFrame(events, schema=columns, orient="row"),
        pl.DataFrame(items, schema=["item_id", "title", "category", "brand", "price"], orient="row"),
        pl.DataFrame([*users, ("told", "old", None)], schema=["user_id", "age", "area"], orient="row"),
    )


SHOPS = {
    "people who buy again": ("en", True, False),
    "people who browse, in Chinese": ("zh", True, True),
    "people who buy once, with a sequence model": ("en", False, True),
}


def open_with_tables(folder: Path, locale: str = "en", *, repeats: bool, browsing: bool, **settings: Any) -> Workspace:
    tables = dict(zip(("events", "items", "users"), rows(locale, repeats=repeats, browsing=browsing), strict=True))
    return Workspace.open(loaded(folder, tables, currency="EUR", timezone="UTC", locale=locale, **settings))


def make(folder: Path, locale: str, repeats: bool, browsing: bool, *, store: str | None = None) -> Workspace:
    shop = open_with_tables(folder, locale, repeats=repeats, browsing=browsing, store=store)
    data = shop.gate().dataset(Purpose.MODEL_TRAINING)
    model = Recommender(data, ToyEncoder(), locale=locale).fit(TRAINING, interests=None if repeats else SEQUENCE).model
    assert model is not None and (model.interests is None) == repeats
    publish_recommender(shop, model, ToyEncoder())
    return shop


@pytest.fixture(scope="module", params=SHOPS, ids=lambda name: name.replace(" ", "-"))
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make(tmp_path_factory.mktemp("state"), *SHOPS[request.param])


@pytest.fixture(scope="module")
def shop_to_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = make(tmp_path_factory.mktemp("copied"), "en", True, True)
    shop.close()
    return shop.root


@pytest.fixture
def own_shop(shop_to_copy: Path, tmp_path: Path) -> Workspace:
    """A shop that a test may change."""
    shutil.copytree(shop_to_copy, tmp_path / "shop")
    return Workspace.open(tmp_path / "shop")


def all_same(one: Recommender, other: Recommender, **options: object) -> None:
    for a, b in zip(one.recommend(EVERYBODY, **options), other.recommend(EVERYBODY, **options), strict=True):
        same(a, b)


def same(one: Slate, other: Slate) -> None:
    assert [i.item_id for i in one.items] == [i.item_id for i in other.items]
    assert (one.status, one.degraded_reason, one.as_of) == (other.status, other.degraded_reason, other.as_of)
    for a, b in zip(one.items, other.items, strict=True):
        assert a.served_by == b.served_by
        assert a.score == pytest.approx(b.score, abs=1e-4)
        assert (a.logit is None) == (b.logit is None)
        assert a.probability == (None if b.probability is None else pytest.approx(b.probability, abs=1e-5))
        assert [r.evidence_id for r in a.reasons] == [r.evidence_id for r in b.reasons]
        assert [r.text for r in a.reasons] == [r.text for r in b.reasons]
        assert [r.delta for r in a.reasons] == pytest.approx([r.delta for r in b.reasons], abs=1e-3)


EVERYBODY = [*(f"u{n:02}" for n in range(0, PEOPLE, 5)), "told", "nobody"]
"""People of every kind."""


def test_the_state_answers_as_counting_anew_does(shop: Workspace) -> None:
    light, reference = open_recommender(shop), open_recommender(shop, recompute=True)
    assert light.dataset.n_users == 0 and reference.dataset.n_users == PEOPLE + 1
    all_same(light, reference, k=6)
    all_same(light, reference, k=4, repeats=False, where="price < 12")
    in_carts = np.flatnonzero(np.diff(light.population.carts[0].indptr))[:2]
    all_same(light, reference, k=4, basket=light.dataset.items["item_id"].gather(in_carts).to_list())
    item = light.recommend("u01", k=1)[0].items[0].item_id
    mine, theirs = light.explain("u01", item), reference.explain("u01", item)
    assert (mine.reasons[0].text, mine.rank, mine.without) == (theirs.reasons[0].text, theirs.rank, theirs.without)


def test_offers_of_an_intent_are_those_of_counting_anew(shop: Workspace) -> None:
    light, reference = open_recommender(shop), open_recommender(shop, recompute=True)
    assert np.array_equal(light.together.toarray(), reference.together.toarray())
    for intent in (Intent.CROSS_SELL, Intent.WIN_BACK):
        all_same(light, reference, k=4, intent=intent)


def test_a_state_of_an_older_version_is_refreshed_before_anything_goes_with_anything(own_shop: Workspace) -> None:
    catalogue = open_catalogue_state(the_state(own_shop))
    assert together_of(catalogue, len(catalogue.items) + 2) is not None
    for name in [name for name in catalogue.arrays if name.startswith("together.")]:
        del catalogue.arrays[name]
    assert together_of(catalogue, len(catalogue.items)) is None
    shop = open_recommender(own_shop)
    shop.population = replace(shop.population, carts=None)
    # the cart counts as viewed
    assert shop.recommend("nobody", basket=("tea-1",), k=3)[0].status is SlateStatus.PERSONAL


def test_who_else_is_asked_for_changes_no_answer(shop: Workspace) -> None:
    """One user's sums, projections and names come another way than those of many."""
    recommender = open_recommender(shop)
    for _ in range(2):  # the second time much is kept from the first
        for user, among_others in zip(EVERYBODY, recommender.recommend(EVERYBODY, k=6), strict=True):
            same(recommender.recommend(user, k=6)[0], among_others)


def test_everybody_at_once_is_the_dataset_of_the_store(shop: Workspace) -> None:
    light, reference = open_recommender(shop, everybody=True), open_recommender(shop, recompute=True)
    assert light.dataset.users.equals(reference.dataset.users)
    assert light.dataset.items.equals(reference.dataset.items) and light.dataset.as_of == reference.dataset.as_of
    for column in ("indptr", "item", "at", "action", "quantity", "price"):
        one, other = getattr(light.dataset.events, column), getattr(reference.dataset.events, column)
        np.testing.assert_array_equal(one, other)
    all_same(light, reference, k=3)


def test_a_fresh_event_changes_the_next_answer(own_shop: Workspace) -> None:
    before = open_recommender(own_shop).recommend("u00", k=3, explain=False)[0]
    gone = before.items[0].item_id
    add_feedback(own_shop, "u00", gone, "dismiss")
    after = open_recommender(own_shop).recommend("u00", k=14, explain=False)[0]
    assert gone not in {item.item_id for item in after.items}
    add_feedback(own_shop, "u02", "tools-3", "view")
    all_same(open_recommender(own_shop), open_recommender(own_shop, everybody=True), k=5)


def test_refreshing_brings_the_state_to_the_present_without_training(own_shop: Workspace) -> None:
    first = open_recommender(own_shop)
    add_feedback(own_shop, "u02", "tea-3", "purchase")
    before, files = the_state(own_shop), contents(own_shop.models_dir / "versions")
    version = refresh(own_shop)
    light, reference = open_recommender(own_shop), open_recommender(own_shop, recompute=True)
    assert light.model is not None and first.model is not None and light.model.version == first.model.version == version
    assert contents(own_shop.models_dir / "versions") == files, "a version never changes"
    assert [(d.kind, d.version) for d in decisions(own_shop.models_dir)][-1] == (DecisionKind.REFRESHED, version)
    all_same(light, reference, k=5)
    older = open_recommender(own_shop, state=before.name)
    assert older.population.as_of == first.population.as_of
    np.testing.assert_array_equal(older.population.stats.buyers_ever, first.population.stats.buyers_ever)


def test_what_began_with_an_older_state_is_refused_once_it_is_gone(own_shop: Workspace) -> None:
    first = the_state(own_shop)
    for _ in range(2):
        refresh(own_shop)
    with pytest.raises(ModelError, match=f"{first.name} is gone"):
        open_recommender(own_shop, state=first.name)


def test_a_workspace_of_an_older_version_gets_its_state_when_it_is_opened(
    own_shop: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """Its catalogue lay in the version, and what was known of people in one file for each version."""
    before, folder = open_recommender(own_shop).recommend("u03", k=5)[0], the_state(own_shop)
    old = folder.parent / f"{folder.stem}.safetensors"
    (folder / PEOPLE_STATE).rename(old)
    shutil.rmtree(folder)
    same(before, open_recommender(own_shop).recommend("u03", k=5)[0])
    assert the_state(own_shop).exists() and not old.exists()
    assert "has no serving state; it is counted now" in caplog.text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def the_state(shop: Workspace) -> Path:
    """The newest one of the serving version."""
    return states(shop, current(shop.models_dir))[-1]


def test_the_state_of_one_earlier_version_stays_until_a_customer_withdraws(own_shop: Workspace) -> None:
    model = load_model(own_shop.models_dir)
    first, (second, third) = model.version, [publish_recommender(own_shop, model, ToyEncoder()) for _ in range(2)]
    assert {path.stem for path in states(own_shop)} == {second, third} and first not in {second, third}
    before = (states(own_shop, second)[0] / PEOPLE_STATE).read_bytes()
    promote(own_shop.models_dir, second)
    open_recommender(own_shop)
    assert (states(own_shop, second)[0] / PEOPLE_STATE).read_bytes() == before, "it was not made again"
    refuse(own_shop, "u00")
    open_recommender(own_shop)
    assert [path.stem for path in states(own_shop)] == [second]


def refuse(shop: Workspace, user: str) -> None:
    line = f"{user},personalisation,false,2025-06-02T00:00:00Z"
    load_lines(shop, "consent", ["user_id,purpose,granted,timestamp", line])


def test_whoever_withdraws_is_gone_from_the_state_at_once(own_shop: Workspace) -> None:
    path = the_state(own_shop) / PEOPLE_STATE
    before, _ = map_arrays(path)
    n_users, n_pool = len(before["digests"]), len(before["pool"])
    refuse(own_shop, "u00")
    slate = open_recommender(own_shop).recommend("u00")[0]
    assert slate.status is SlateStatus.NO_CONSENT
    after, _ = map_arrays(path)
    assert len(after["digests"]) == n_users - 1 and len(after["pool"]) == n_pool - 1
    assert after["profiles.indptr"].shape == (n_pool,) and len(after["events.item"]) < len(before["events.item"])
    everybody = open_recommender(own_shop, everybody=True)
    assert everybody.dataset.n_users == PEOPLE and (everybody.population.pool >= 0).all()
    for user in ("u02", "u04"):
        same(open_recommender(own_shop).recommend(user, k=5)[0], everybody.recommend(user, k=5)[0])


def test_a_state_that_was_swept_away_is_made_anew(own_shop: Workspace) -> None:
    before = open_recommender(own_shop).recommend("u03", k=5)[0]
    shutil.rmtree(own_shop.root / "serving")
    same(before, open_recommender(own_shop).recommend("u03", k=5)[0])
    light, reference = open_recommender(own_shop, everybody=True), open_recommender(own_shop, recompute=True)
    assert len(light.dataset.events) == len(reference.dataset.events)
    all_same(light, reference, k=4)


def test_events_that_are_too_old_by_the_policy_are_not_used(own_shop: Workspace) -> None:
    add_settings(own_shop.root, f"[policy]\nevent_days = {(datetime.now(UTC) - LAST_DAY).days + 30}")
    aging = Workspace.open(own_shop.root)
    light, reference = open_recommender(aging, everybody=True), open_recommender(aging, recompute=True)
    assert 0 < len(light.dataset.events) < len(open_recommender(own_shop, everybody=True).dataset.events)
    np.testing.assert_array_equal(light.dataset.events.at, reference.dataset.events.at)


def test_what_is_on_offer_and_its_price_are_those_of_the_store(own_shop: Workspace) -> None:
    best = open_recommender(own_shop).recommend("u00", k=1, explain=False)[0].items[0].item_id
    row = f"{best},Green tea,food > tea,1.5,false"
    load_lines(own_shop, "items", ["item_id,title,category,price,available", row])
    again = open_recommender(own_shop)
    assert best not in {item.item_id for item in again.recommend("u00", k=20, explain=False)[0].items}
    assert again.dataset.items.filter(pl.col("item_id") == best)["price"].item() == 1.5


NEW_ITEMS = {  # a known type, maker and price; an unknown type; nothing but a title
    "en": ("Green tea 99", "food > tea", "Garden spade"),
    "zh": ("绿茶99号", "食品 > 茶叶", "花园铲"),
}


def add_new_items(shop: Workspace) -> None:
    tea, path, spade = NEW_ITEMS[shop.settings.locale]
    lines = ["item_id,title,category,brand,price", f"new-tea,{tea},{path},Brand 1,9.5", f"new-spade,{spade},,,"]
    lines += [f"new-{n},{spade} {n},garden > tools,Brand {n},3" for n in (1, 7)]
    assert not load_lines(shop, "items", lines).quarantined


def test_a_new_item_is_recommended_as_if_the_state_had_been_made_with_it(shop: Workspace, tmp_path: Path) -> None:
    shutil.copytree(shop.root, tmp_path / "shop")
    shop = Workspace.open(tmp_path / "shop")
    add_new_items(shop)
    light, reference = open_recommender(shop), open_recommender(shop, recompute=True)
    assert light.dataset.n_items == reference.dataset.n_items == 32
    rows = reference.dataset.item_rows(light.dataset.items["item_id"])
    one, other = light.population, reference.population
    for field in fields(ItemStatistics):
        values = getattr(one.stats, field.name), getattr(other.stats, field.name)[rows]
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6, err_msg=field.name)
    for grouping, sales in one.group_statistics.items():
        for measure in ("buyers_56", "arrivals", "arrival_rate"):
            values = getattr(sales, measure), getattr(other.group_statistics[grouping], measure)[rows]
            np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6, err_msg=f"{grouping}.{measure}")
    all_same(light, reference, k=32, repeats=False)
    all_same(light, reference, k=8, basket=("new-tea", light.dataset.items["item_id"][0]))
    shown = {item.item_id for slate in light.recommend(EVERYBODY, k=32) for item in slate.items}
    of_one = open_recommender(shop, everybody=True).recommend("u00", k=32)[0].items
    assert "new-tea" in shown & {item.item_id for item in of_one}


@pytest.mark.parametrize("name", [CATALOGUE_STATE, ITEMS, PEOPLE_STATE])
def test_a_damaged_state_is_refused(own_shop: Workspace, name: str) -> None:
    path = the_state(own_shop) / name
    whole = path.read_bytes()
    for damaged in (whole[:50], b"", b"x" * 200, whole[:8] + b"?" + whole[9:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="recllm refresh"):
            open_recommender(own_shop)


LIGHT = """
import json, sys
from recllm.doors.cli.main import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["recllm", *command]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    heavy = [n for n in ("torch", "transformers", "sentence_transformers", "sklearn", "pandas") if n in sys.modules]
    print("HEAVY", json.dumps([command[0], heavy, code]), file=sys.stderr)
"""


@pytest.mark.slow
def test_the_light_door_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    real = open_with_tables(tmp_path, repeats=True, browsing=True, encoder=DEFAULT_ENCODER)
    try:
        encoder = workspace_encoder(real)
        fitted = Recommender(real.gate().dataset(Purpose.MODEL_TRAINING), encoder).fit(TRAINING)
    except ModelError as error:
        pytest.skip(str(error))
    assert fitted.model is not None
    publish_recommender(real, fitted.model, encoder)
    real.close()
    commands = (
        ["recommend", "--user", "u00"],
        ["recommend", "--user", "u01", "--user", "told", "--user", "nobody", "--where", "price < 9"],
        ["explain", "--user", "u00", "--item", "tea-1"],
        ["copy", "--user", "u00", "--channel", "push"],
        ["explain", "-u", "u00"],
    )
    argument = json.dumps([[*command, "-w", str(real.root)] for command in commands])
    done = subprocess.run([sys.executable, "-c", LIGHT, argument], capture_output=True, text=True)
    answers = [json.loads(line.removeprefix("HEAVY ")) for line in done.stderr.splitlines() if "HEAVY" in line]
    assert answers == [[command[0], [], 0] for command in commands], done.stderr[-500:]
