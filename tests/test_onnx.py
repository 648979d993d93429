"""An exported encoder gives the original's vectors, alone or in company, or is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contracts_encoder import TEXTS, check_encoder
from tables import table
from tiny_encoders import edit_json, make_model, make_sentence_model

from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.text.encoder.folder import file_hash
from recllm.text.encoder.hardware import default_threads
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import load_encoder
from recllm.text.encoder.onnx import RECORD, OnnxEncoder, export_onnx, read_record

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnx", reason="the extra onnx is not installed")
REAL = table("onnx", "texts")


BERT = pytest.mark.parametrize("pair", ["bert"], indirect=True)


@pytest.fixture(scope="module", params=["bert", "distilbert", "xlm-roberta"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A tiny encoder of each kind (RoBERTa is built as XLM-R), and its export."""
    folder = tmp_path_factory.mktemp(request.param)
    original = load_encoder(make_model(folder / "m", request.param), device="cpu")
    return original, export_onnx(original, folder / "exact", texts=REAL)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a prompt, cut at twelve tokens and pooled at the first token; exact."""
    folder = tmp_path_factory.mktemp("sentence")
    original = load_encoder(
        make_sentence_model(folder / "m", pooling="cls", prompts={"query": "query: "}), device="cpu"
    )
    return export_onnx(original, folder / "onnx", texts=REAL).folder


@pytest.fixture
def quick(pair, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The exporter takes seconds; equal weights have an equal graph, so the one already made is handed out."""
    _, exact = pair

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
    original, exact = pair
    served = load_encoder(exact.folder)
    check_encoder(served)
    for kind in ("document", "query"):
        np.testing.assert_allclose(served.encode(TEXTS, kind=kind), original.encode(TEXTS, kind=kind), atol=1e-4)
    assert exact.lowest_cosine > 0.9999 and exact.texts == len(REAL)


def test_prompts_limit_and_pooling_travel_with_it(exported: Path) -> None:
    served = load_encoder(exported)
    original = load_encoder(exported.parent / "m", device="cpu")
    long = "garden sofa with four cushions and red running shoes and milk"
    for kind in ("document", "query"):
        np.testing.assert_allclose(served.encode([long], kind=kind), original.encode([long], kind=kind), atol=1e-4)
    assert not np.allclose(*(served.encode([long], kind=kind) for kind in ("document", "query")))


def test_served_without_torch(exported: Path) -> None:
    code = (
        "import sys; from recllm.text.encoder.loading import load_encoder; "
        f"load_encoder({str(exported)!r}).encode(['milk']); "
        "print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@BERT
def test_an_export_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    original = load_encoder(make_model(tmp_path / "m"), device="cpu")
    real = type(original).encode
    monkeypatch.setattr(type(original), "encode", lambda self, texts, **k: -real(self, texts, **k))
    with pytest.raises(ModelError, match=r"lowest cosine .* nothing was kept"):
        export_onnx(original, tmp_path / "onnx", texts=REAL)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@BERT
def test_an_earlier_export_is_replaced_and_anything_else_is_not(tmp_path: Path, quick: None) -> None:
    original = load_encoder(make_model(tmp_path / "m"), device="cpu")
    first = export_onnx(original, tmp_path / "onnx", texts=REAL)  # type: ignore[arg-type]
    again = export_onnx(original, tmp_path / "onnx", texts=REAL[:2])  # type: ignore[arg-type]
    assert (first.texts, again.texts) == (len(REAL), 2) and read_record(again.folder).parity["float32"]["texts"] == 2
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
    with pytest.raises(UsageError, match="leave out prompts"):
        load_encoder(exported, prompts={})
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


@BERT
def test_a_folder_in_int8_is_served_as_earlier_versions_wrote_it(pair, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, exact = pair
    for path in exact.folder.iterdir():
        (tmp_path / path.name.replace("model.onnx", "model.int8.onnx")).write_bytes(path.read_bytes())
    edit_json(tmp_path / RECORD, files={p.name: file_hash(p) for p in tmp_path.iterdir() if p.name != RECORD})
    served = load_encoder(tmp_path)
    assert served.fingerprint == load_encoder(exact.folder).fingerprint and served.encode(REAL[:1]).shape == (1, 32)
