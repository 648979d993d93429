"""An exported encoder gives the original's vectors, alone or in company, or is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contracts_encoder import TEXTS, check_encoder
from tiny_encoders import edit_json, make_model, make_sentence_model

from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.text.encoder.file_hash import file_hash
from recllm.text.encoder.hardware import default_threads
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import load_encoder
from recllm.text.encoder.onnx import (
    LEAST_COSINE,
    RECORD,
    OnnxEncoder,
    export_onnx,
    quantise_matmuls,
    read_record,
)

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
REAL = [
    "red running shoes",
    "garden sofa with four cushions",
    "milk",
    "the milk and a sofa",
    "running with the red shoes, and milk",
    "秋装 新款 打底衫",
]


CPU_FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
OVERFLOWS = "avx2" in CPU_FLAGS and "vnni" not in CPU_FLAGS
WITHOUT_VNNI = "without VNNI this processor adds int8 products in 16 bits, which overflow"
BERT = pytest.mark.parametrize("pair", ["bert"], indirect=True)


@pytest.fixture(scope="module", params=["bert", "distilbert", "xlm-roberta"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A tiny encoder of each kind (RoBERTa is built as XLM-R), and its exports, exact and in int8. The exporter takes
    seconds, so the second gets the graph of the first."""
    folder = tmp_path_factory.mktemp(request.param)
    original = load_encoder(make_model(folder / "m", request.param), device="cpu")
    exact = export_onnx(original, folder / "exact", texts=REAL, int8=False)
    with pytest.MonkeyPatch.context() as patch:
        graph = (exact.folder / "model.onnx").read_bytes()
        patch.setattr("recllm.text.encoder.onnx.write_graph", lambda _, path: path.write_bytes(graph))
        return original, exact, export_onnx(original, folder / "onnx", texts=REAL)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a prompt, cut at twelve tokens and pooled at the first token; exact."""
    folder = tmp_path_factory.mktemp("sentence")
    original = load_encoder(
        make_sentence_model(folder / "m", pooling="cls", prompts={"query": "query: "}), device="cpu"
    )
    return export_onnx(original, folder / "onnx", texts=REAL, int8=False).folder


@pytest.fixture
def quick(pair, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The exporter takes seconds; equal weights have an equal graph, so the one already made is handed out."""
    _, exact, _ = pair

    def known(encoder: HuggingFaceEncoder, path: Path) -> None:
        assert encoder.model_type == "bert"
        path.write_bytes((exact.folder / "model.onnx").read_bytes())

    monkeypatch.setattr("recllm.text.encoder.onnx.write_graph", known)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_float32_has_the_originals_vectors(pair) -> None:  # type: ignore[no-untyped-def]
    original, exact, _ = pair
    served = load_encoder(exact.folder)
    check_encoder(served)
    for kind in ("document", "query"):
        np.testing.assert_allclose(served.encode(TEXTS, kind=kind), original.encode(TEXTS, kind=kind), atol=1e-4)
    assert served.count_tokens(TEXTS) == original.count_tokens(TEXTS) and served.max_tokens == original.max_tokens
    assert exact.precision == "float32" and exact.lowest_cosine > 0.9999 and exact.texts == len(REAL)


def test_int8_is_near_and_does_not_depend_on_company(pair) -> None:  # type: ignore[no-untyped-def]
    original, exact, small = pair
    if OVERFLOWS and small.precision == "float32":
        pytest.skip(f"{WITHOUT_VNNI}; the export noticed, and writes float32")
    served = load_encoder(small.folder)
    check_encoder(served, near=2e-4)
    cosine = (served.encode(REAL) * original.encode(REAL)).sum(axis=1)
    assert small.precision == "int8" and cosine.min() == pytest.approx(small.lowest_cosine, abs=1e-4)
    assert small.lowest_cosine >= LEAST_COSINE["int8"] and small.bytes < exact.bytes
    assert [path.name for path in small.folder.glob("*.onnx")] == ["model.int8.onnx"]


def test_prompts_limit_and_pooling_travel_with_it(exported: Path) -> None:
    served = load_encoder(exported)
    original = load_encoder(exported.parent / "m", device="cpu")
    long = "garden sofa with four cushions and red running shoes and milk"
    for kind in ("document", "query"):
        np.testing.assert_allclose(served.encode([long], kind=kind), original.encode([long], kind=kind), atol=1e-4)
    assert not np.allclose(*(served.encode([long], kind=kind) for kind in ("document", "query")))
    assert served.max_tokens == 10, "twelve less two of the prompt"


def test_every_precision_has_its_own_fingerprint(pair, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    original, exact, small = pair
    encoders = [load_encoder(export.folder, cache_dir=tmp_path) for export in (exact, small)]
    whole, rounded = (encoder.encode(REAL[:1]) for encoder in encoders)
    assert len({e.fingerprint for e in [*encoders, original]}) == 3
    assert np.abs(whole - rounded).max() > 1e-6, "int8 vectors are not served from those of float32"


def test_served_without_torch(exported: Path) -> None:
    code = (
        "import sys; from recllm.text.encoder.loading import load_encoder; "
        f"load_encoder({str(exported)!r}).encode(['milk']); "
        "print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@BERT
def test_an_export_that_differs_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    original = load_encoder(make_model(tmp_path / "m"), device="cpu")
    real = type(original).encode
    monkeypatch.setattr(type(original), "encode", lambda self, texts, **k: -real(self, texts, **k))
    with pytest.raises(ModelError, match=r"lowest cosine .* nothing was kept"):
        export_onnx(original, tmp_path / "onnx", texts=REAL)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@BERT
def test_int8_too_far_off_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setitem(LEAST_COSINE, "int8", 1.1)  # type: ignore[arg-type]
    done = export_onnx(load_encoder(make_model(tmp_path / "m"), device="cpu"), tmp_path / "onnx", texts=REAL)  # type: ignore[arg-type]
    assert done.precision == "float32" and load_encoder(done.folder).encode(REAL[:1]).shape == (1, 32)
    assert [path.name for path in done.folder.glob("*.onnx")] == ["model.onnx"]


@BERT
def test_a_folder_of_both_models_is_served_in_int8(pair, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """As earlier releases wrote it."""
    _, exact, small = pair
    for folder in (exact.folder, small.folder):
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    files = {path.name: file_hash(path) for path in tmp_path.iterdir() if path.name != RECORD}
    edit_json(tmp_path / RECORD, files=files)
    assert load_encoder(tmp_path).fingerprint == load_encoder(small.folder).fingerprint


@BERT
def test_an_earlier_export_is_replaced_and_anything_else_is_not(tmp_path: Path, quick: None) -> None:
    original = load_encoder(make_model(tmp_path / "m"), device="cpu")
    first = export_onnx(original, tmp_path / "onnx", texts=REAL, int8=False)  # type: ignore[arg-type]
    again = export_onnx(original, tmp_path / "onnx", texts=REAL[:2])  # type: ignore[arg-type]
    assert (first.texts, again.texts) == (len(REAL), 2) and read_record(again.folder).parity[again.precision][
        "texts"
    ] == 2
    with pytest.raises(UsageError, match="not an export"):
        export_onnx(original, tmp_path / "m", texts=REAL)  # type: ignore[arg-type]
    assert (tmp_path / "m" / "config.json").exists()


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_changed_file_is_noticed(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name}: missing, or not the file that was exported"):
        load_encoder(copy)


def test_a_damaged_record_and_a_file_from_elsewhere_are_refused(copy: Path) -> None:
    edit_json(copy / RECORD, files={"../../etc/passwd": "0"})
    with pytest.raises(ModelError, match="not the file that was exported"):
        read_record(copy)
    edit_json(copy / RECORD, scheme="recllm-onnx-0")
    with pytest.raises(ModelError, match="another version"):
        read_record(copy)
    (copy / RECORD).write_text("{")
    with pytest.raises(ModelError, match="not a readable export"):
        read_record(copy)


def test_what_cannot_be_chosen_afterwards(exported: Path) -> None:
    with pytest.raises(UsageError, match="leave out max_tokens"):
        load_encoder(exported, max_tokens=5)
    with pytest.raises(UsageError, match="device='cuda'"):
        load_encoder(exported, device="cuda")


def test_a_missing_package_names_the_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"recllm\[onnx\]"):
        OnnxEncoder(exported)


def test_a_runtime_that_fails_without_a_word(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("  \n")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ModelError, match=r"does not load it \(RuntimeError\)"):
        OnnxEncoder(exported).encode(["milk"])


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert default_threads() >= 1


@pytest.mark.skipif(OVERFLOWS, reason=WITHOUT_VNNI)
def test_int8_product_on_numbers_that_are_exact() -> None:
    """127 levels hold whole numbers up to 127 exactly, per row and per output, whatever the other rows hold."""
    runtime = pytest.importorskip("onnxruntime")
    weight = np.array([[127, 1], [64, -127], [-3, 5]], np.float32) * np.array([0.5, 100], np.float32)
    x = np.array([[[127, 3, -4]], [[1270, 10, 0]], [[0, 0, 0]]], np.float32)  # (3, 1, 3)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", 1, ["a", "b", 3])],
        [helper.make_tensor_value_info("y", 1, ["a", "b", 2])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    small, changed = quantise_matmuls(model)
    session = runtime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
    assert changed == 1 and session.run(None, {"x": x})[0] == pytest.approx(x @ weight, rel=1e-5)
    assert [w.name for w in model.graph.initializer] == ["w"], "the model handed in is left as it was"
