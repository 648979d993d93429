"""Learning from a sample of people: who is in it, what is read, how it is told, and that everybody is served."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retrain_world import PEOPLE, grow, log, make_shop
from shop_world import load_lines, vectors
from shop_world import shop as world

from recllm.base.schema import Purpose, SlateStatus
from recllm.base.settings import ScorerTrainingSettings
from recllm.doors.privacy.erasure import erase_people
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.sampled_people import COUNTED, sample_statistics
from recllm.market.experiments.batch import shard_numbers
from recllm.recommend.evaluation.retrain import retrain, served_model
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import current, taints
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.people_sample import PeopleSample, sampled_rows
from recllm.shop.store.readers import StoreReader
from recllm.shop.workspace.workspace import Workspace, overridden
from recllm.text.encoder.toy import ToyEncoder

LIMIT = 40
NAMES = [f"u1_{n}" for n in range(500)]
QUICK = ScorerTrainingSettings(
    n_windows=2, epochs=1, min_steps=10, horizon_days=14, heads=1, hidden=(8,), projection=4, learn_people=12
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose model learned from a sample of its people."""
    root = tmp_path_factory.mktemp("sample") / "shop"
    make_shop(root, range(20))
    with overridden({"scorer": {"learn_people": LIMIT}}), Workspace.open(root) as shop:
        train_workspace(shop)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "shop"))


def chosen(names: list[str], limit: int) -> set[str]:
    return {names[row] for row in sampled_rows(names, limit)}


def test_a_larger_sample_holds_a_smaller_one_and_order_does_not_matter() -> None:
    samples = [chosen(NAMES, limit) for limit in (5, 50, 499, 500)]
    assert [len(sample) for sample in samples] == [5, 50, 499, 500]
    assert all(small < large for small, large in pairwise(samples))
    assert chosen(NAMES[::-1], 50) == samples[1]
    assert sampled_rows(NAMES, 50).tolist() == sorted(sampled_rows(NAMES, 50).tolist())


def test_whoever_comes_or_goes_exchanges_one_person_at_most() -> None:
    before = chosen(NAMES, 50)
    for name in (*NAMES[:40], "u1_new", "u1_other"):
        after = chosen([n for n in NAMES if n != name] if name in NAMES else [*NAMES, name], 50)
        assert len(before - after) == len(after - before) <= 1
        assert before - after <= {name} or after - before <= {name}


def test_no_shard_is_learned_from_more_than_another() -> None:
    sample = sorted(chosen([f"u1_{n}" for n in range(20_000)], 2_000))
    assert np.bincount(shard_numbers(sample, 8), minlength=8).min() > 180


def test_a_dataset_that_is_a_sample_says_so() -> None:
    everybody = world()
    some = everybody.sampled(12)
    assert some.sample == PeopleSample(people=12, of_people=40) and some.n_users == 12
    assert some.before(some.as_of - 1).sample == some.sample
    assert some.sampled(5).sample == PeopleSample(people=5, of_people=40)
    assert everybody.sampled(40) is everybody and everybody.sample is None
    for row, name in enumerate(some.users["user_id"]):
        (whole_row,) = everybody.user_rows([name])
        assert len(some.events.rows(np.array([row]))) == len(everybody.events.rows(np.array([whole_row]))) > 0


def test_numbers_of_people_are_told_at_the_level_of_everybody() -> None:
    everybody = world(people=600)
    some = everybody.sampled(150)
    all_counted = CollaborativeStatistics.fit(everybody, vectors(everybody))
    of_sample, bare = sample_statistics(some, vectors(some)), CollaborativeStatistics.fit(some, vectors(some))
    for name in COUNTED:
        truth = getattr(all_counted.stats, name)
        assert getattr(of_sample.stats, name).sum() == pytest.approx(truth.sum(), rel=0.1)
        assert getattr(bare.stats, name).sum() < 0.4 * truth.sum()
    assert len(of_sample.pool) == len(all_counted.pool) > len(bare.pool)
    assert set(of_sample.pool[of_sample.pool >= 0]) == set(bare.pool)
    assert of_sample.profiles.nnz == bare.profiles.nnz and of_sample.recent.shape == all_counted.recent.shape
    assert of_sample.settings.neighbours == 25
    strength, in_sample, unscaled = (abs(c.item_item).sum() for c in (all_counted, of_sample, bare))
    assert abs(in_sample - strength) < abs(unscaled - strength)
    whole = sample_statistics(everybody, vectors(everybody))
    assert whole.stats.buyers_28.tolist() == all_counted.stats.buyers_28.tolist()


def test_a_model_of_a_sample_is_the_model_of_these_people_and_serves_all() -> None:
    everybody = world(people=40)
    fitted = Recommender(everybody, ToyEncoder()).fit(QUICK)
    assert fitted.model is not None and fitted.dataset is everybody
    training = fitted.model.training
    assert training["people"] == 12 and training["events"] == len(everybody.sampled(12).events)
    assert (training["sample"]["people"], training["sample"]["of_people"]) == (12, 40)
    again = Recommender(everybody.sampled(12), ToyEncoder()).fit(QUICK).model
    assert again is not None and again.training["data_hash"] == training["data_hash"]
    for name, weights in again.scorer.weights.items():
        assert np.array_equal(weights, fitted.model.scorer.weights[name]), name
    slates = fitted.recommend(everybody.users["user_id"].to_list(), k=3)
    assert {slate.status for slate in slates} == {SlateStatus.PERSONAL}
    unsampled = Recommender(everybody, ToyEncoder()).fit(QUICK.model_copy(update={"learn_people": 40})).model
    assert unsampled is not None and unsampled.training["sample"] is None


def test_only_the_events_of_the_sample_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []
    read_events = StoreReader.events_by_user

    def events(reader: StoreReader, user_ids: Iterable[str], *args: Any, **more: Any) -> Any:
        asked.append(set(user_ids))
        return read_events(reader, user_ids, *args, **more)

    monkeypatch.setattr(StoreReader, "events_by_user", events)
    with Workspace.open(root) as shop:
        gate = shop.gate()
        some = gate.dataset(Purpose.MODEL_TRAINING, people_limit=LIMIT)
        assert asked == [set(some.users["user_id"])] and some.n_users == LIMIT
        everybody = gate.dataset(Purpose.MODEL_TRAINING)
        assert some.data_hash() == everybody.sampled(LIMIT).data_hash()
        whole = gate.dataset(Purpose.MODEL_TRAINING, people_limit=PEOPLE)
        assert whole.sample is None and whole.data_hash() == everybody.data_hash()


def test_who_refused_training_is_neither_in_a_sample_nor_counted(root: Path) -> None:
    with Workspace.open(root) as shop:
        first = shop.gate().dataset(Purpose.MODEL_TRAINING, people_limit=LIMIT)
        raw_of = dict(zip(shop.pseudonymiser().many(RAW), RAW, strict=True))
        refusing = [raw_of[name] for name in first.users["user_id"][:5]]
        rows = [f"{raw},model_training,false,2020-01-01T00:00:00Z" for raw in refusing]
        load_lines(shop, "consent", ["user_id,purpose,granted,at", *rows])
        second = shop.gate().dataset(Purpose.MODEL_TRAINING, people_limit=LIMIT)
    left, joined = (set(a.users["user_id"]) - set(b.users["user_id"]) for a, b in ((first, second), (second, first)))
    assert {raw_of[name] for name in left} == set(refusing) and len(joined) == 5
    assert second.sample == PeopleSample(people=LIMIT, of_people=PEOPLE - 5)


RAW = [f"u{n:03}" for n in range(PEOPLE)]


def test_the_model_of_a_sample_says_of_how_many_and_serves_everybody(root: Path) -> None:
    with Workspace.open(root) as shop:
        model, recommender = load_model(shop.models_dir), open_recommender(shop)
        assert model.training["sample"] == {
            "people": LIMIT,
            "of_people": PEOPLE,
            "rule": "the first by a salted BLAKE2b hash of their pseudonyms",
        }
        assert model.training["arguments"]["learn_people"] == LIMIT
        assert {slate.status for slate in recommender.recommend(RAW, k=3)} == {SlateStatus.PERSONAL}
        everybody = open_recommender(shop, everybody=True)
        counted = CollaborativeStatistics.fit(everybody.dataset, everybody.item_vectors, model.population)
        assert recommender.population.stats.buyers_ever.tolist() == counted.stats.buyers_ever.tolist()
        assert recommender.population.settings == model.population


def test_a_retraining_learns_from_as_few_and_judges_at_the_level_of_everybody(root: Path) -> None:
    grow(root, log(range(20, 23)))
    with Workspace.open(root) as shop:
        served = served_model(shop)
        assert served.data.sample == PeopleSample(people=LIMIT, of_people=PEOPLE)
        buyers = served.at(served.end).population.stats.buyers_ever.sum()
        assert buyers == pytest.approx(
            CollaborativeStatistics.fit(
                shop.gate().dataset(Purpose.MODEL_TRAINING).before(served.end), served.at(served.end).item_vectors
            ).stats.buyers_ever.sum(),
            rel=0.1,
        )
        report = retrain(shop, needed=())
        assert report.challenger is not None
        assert load_model(shop.models_dir, report.challenger).training["sample"]["people"] == LIMIT


def test_an_erased_person_of_the_sample_taints_the_model_and_another_takes_their_place(root: Path) -> None:
    with Workspace.open(root) as shop:
        version, before = current(shop.models_dir), shop.gate().dataset(Purpose.MODEL_TRAINING, people_limit=LIMIT)
        raw_of = dict(zip(shop.pseudonymiser().many(RAW), RAW, strict=True))
        (gone,) = before.users["user_id"][:1]
        certificate = erase_people(shop, [raw_of[gone]], actor="test")
        assert [model.name for model in certificate.models] == [version] and version in taints(shop.models_dir)
        after = shop.gate().dataset(Purpose.MODEL_TRAINING, people_limit=LIMIT)
        assert gone not in set(after.users["user_id"]) and after.n_users == LIMIT
        assert len(set(before.users["user_id"]) - set(after.users["user_id"])) == 1
        trained = train_workspace(shop, learn_people=LIMIT).model_version
        assert trained not in taints(shop.models_dir)
        assert load_model(shop.models_dir).training["sample"]["of_people"] == PEOPLE - 1
