"""A model that is handed on: it answers from a cart, says what it is, and holds nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_recommender import trained, untrained, world  # noqa: F401

from recllm.base.errors import ModelError, UsageError
from recllm.base.schema import SlateStatus
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.saved_model import CardFacts, push_to_hub
from recllm.recommend.recommender.serving_state import map_arrays
from recllm.text.encoder.toy import ToyEncoder


@pytest.fixture(scope="module")
def folder(trained: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    facts = CardFacts(title="Tea and tools", licence="CC BY 4.0", consent="A made-up world: nobody was asked.")
    return trained.save_pretrained(tmp_path_factory.mktemp("model") / "tea", facts)


def test_it_answers_from_a_cart(trained: Recommender, folder: Path) -> None:  # noqa: F811
    away = Recommender.from_pretrained(folder, encoder=ToyEncoder())
    (cart,) = [item for item in trained.dataset.items["item_id"].to_list()[:1]]
    (slate,) = away.recommend("a visitor", k=3, basket=[cart])
    assert slate.status is SlateStatus.PERSONAL and len(slate.items) == 3 and slate.items[0].reasons
    assert away.item_vectors == pytest.approx(trained.item_vectors)
    kind = {row["item_id"]: row["category"] for row in trained.dataset.items.iter_rows(named=True)}
    assert [kind[item.item_id] for item in slate.items].count(kind[cart]) >= 2
    (stranger,) = away.recommend("a stranger", k=3)
    assert stranger.items and stranger.status is not SlateStatus.PERSONAL


def test_nobody_is_in_it(trained: Recommender, folder: Path) -> None:  # noqa: F811
    away = Recommender.from_pretrained(folder, encoder=ToyEncoder())
    assert away.dataset.n_users == 0 and len(away.population.pool) == 0 and not away.population.profiles.nnz
    arrays, _ = map_arrays(folder / "people.safetensors")
    assert not len(arrays["digests"]) and not any(
        len(array) for name, array in arrays.items() if "events." in name[:7] and name != "events.indptr"
    )
    assert trained.population.profiles.nnz, "at home somebody is"


def test_its_card_says_what_it_is(trained: Recommender, folder: Path) -> None:  # noqa: F811
    card = (folder / "README.md").read_text("utf-8")
    assert trained.model is not None
    for words in ("# Tea and tools", "CC BY 4.0", "nobody was asked", "not learned under differential privacy"):
        assert words in card
    assert trained.model.training["data_hash"] in card and f"{trained.dataset.n_items:,} items" in card


def test_wrong_use_is_told(trained: Recommender, untrained: Recommender, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="call fit first"):
        untrained.save_pretrained(tmp_path / "a")
    with pytest.raises(UsageError, match="holds something already"):
        trained.save_pretrained(folder)
    with pytest.raises(UsageError, match="do not mix"):
        Recommender.from_pretrained(folder, encoder=ToyEncoder(dim=32))
    with pytest.raises(ModelError, match="no folder, and no repository"):
        Recommender.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UsageError, match="owner/name"):
        push_to_hub(folder, "tea")


def test_from_a_hub_and_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    class Hub:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            calls.append((repo_id, private))

        def upload_folder(self, *, folder_path: Path, repo_id: str, allow_patterns: list[str]) -> str:
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
            return f"https://hub.example/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(folder))
    assert push_to_hub(folder, "leaf/tea") == "https://hub.example/leaf/tea"
    assert calls[0] == ("leaf/tea", True) and "README.md" in json.dumps(calls[1])
    away = Recommender.from_pretrained("leaf/tea", encoder=ToyEncoder())
    assert away.model is not None and away.dataset.n_items
