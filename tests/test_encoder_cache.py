"""The cache on disk: exact, bounded, shared, killable, and never wrong whatever happens to its file."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from contracts_encoder import TEXTS, Counting, check_encoder
from tiny_encoders import make_model
from waiting import at_once

from recllm.text.encoder.cache import CACHE_FILE, UNUSED_DAYS, CachedEncoder
from recllm.text.encoder.folder import HASH_FILE
from recllm.text.encoder.loading import load_encoder
from recllm.text.encoder.toy import ToyEncoder

WORDS = [f"product number {number}" for number in range(400)]


@pytest.fixture
def expected() -> np.ndarray:
    return ToyEncoder().encode(WORDS)


def test_contract(tmp_path: Path) -> None:
    check_encoder(CachedEncoder(ToyEncoder(), tmp_path), refuses_kinds=False)
    encoder = load_encoder(make_model(tmp_path / "m"), cache_dir=tmp_path / "cache")
    assert isinstance(encoder, CachedEncoder)
    check_encoder(encoder)


def test_second_time_nothing_is_computed_and_every_bit_is_equal(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    first = load_encoder(folder, cache_dir=tmp_path / "cache").encode(TEXTS * 2)
    again = CachedEncoder(Counting(32, load_encoder(folder).fingerprint), tmp_path / "cache")
    np.testing.assert_array_equal(again.encode(TEXTS[::-1])[::-1], first[: len(TEXTS)])
    assert again.encoder.seen == []  # type: ignore[attr-defined]


HEAVY = ("torch", "transformers", "sentence_transformers")


def test_a_text_that_the_cache_knows_is_answered_without_torch(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    encoder = load_encoder(folder, cache_dir=tmp_path / "cache")
    expected = encoder.encode(["red running shoes"])
    code = (
        "import sys; from recllm.text.encoder.loading import load_encoder\n"
        f"encoder = load_encoder({str(folder)!r}, cache_dir={str(tmp_path / 'cache')!r})\n"
        "row = encoder.encode(['red running shoes'])\n"
        "print(encoder.fingerprint, encoder.name, encoder.dim, row.tobytes().hex())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "encoder.encode(['a new text']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known, heavy, after = done.stdout.splitlines()
    assert known == f"{encoder.fingerprint} m 32 {expected.tobytes().hex()}"
    assert heavy == "[]" and after == "True"


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    """Hashes are kept by path, size and time; weights of the same size written later are other weights."""
    folder, cache = make_model(tmp_path / "m"), tmp_path / "cache"
    first = load_encoder(folder, cache_dir=cache).fingerprint
    assert load_encoder(folder, cache_dir=cache).fingerprint == first
    kept = json.loads((cache / HASH_FILE).read_text())
    assert any("model.safetensors" in key for key in kept)
    other = make_model(tmp_path / "other", seed=1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert load_encoder(folder, cache_dir=cache).fingerprint == load_encoder(other).fingerprint != first
    (cache / HASH_FILE).write_text("{ half a fi")
    assert load_encoder(folder, cache_dir=cache).fingerprint == load_encoder(other).fingerprint


def test_only_new_texts_are_computed(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedEncoder(inner, tmp_path)
    cached.encode(["a", "bb", "a"])
    cached.encode(["ccc", "bb", "ccc"])
    assert inner.seen == ["a", "bb", "ccc"]
    (tmp_path / CACHE_FILE).unlink()
    cached.encode(["a"])
    assert inner.seen[3:] == ["a"]


def test_model_kind_and_text_are_all_part_of_the_key(tmp_path: Path) -> None:
    for fingerprint in ("one", "two"):
        inner = Counting(fingerprint=fingerprint)
        cached = CachedEncoder(inner, tmp_path)
        cached.encode(["milk", "Milk", "milk "])
        cached.encode(["milk"], kind="query")
        assert inner.seen == ["milk", "Milk", "milk ", "milk"]


def test_no_text_is_in_the_file(tmp_path: Path) -> None:
    CachedEncoder(ToyEncoder(), tmp_path).encode(["zzcanary in a text"])
    assert not any(b"zzcanary" in path.read_bytes() for path in tmp_path.iterdir())


def test_what_is_not_asked_for_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = [0]
    monkeypatch.setattr("recllm.text.encoder.cache.time", SimpleNamespace(time=lambda: day[0] * 86_400))
    inner = Counting()
    cached = CachedEncoder(inner, tmp_path)
    cached.encode(WORDS[:150])
    day[0] = UNUSED_DAYS
    cached.encode(WORDS[:50])
    day[0] += 1
    cached.encode(["another one"])
    inner.seen.clear()
    cached.encode(WORDS[:50])
    assert inner.seen == [], "what was used lately is still there"
    cached.encode(WORDS[50:150])
    assert inner.seen == WORDS[50:150], "what was not, is gone"


def test_flipped_bytes_never_make_a_wrong_vector(tmp_path: Path, expected: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    whole = _whole_file(tmp_path)
    warned = 0
    for _ in range(30):
        spoilt = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 200)):
            spoilt[place] ^= int(rng.integers(1, 256))
        warned += _vectors_are_right(tmp_path, bytes(spoilt), expected)
    assert warned > 20, "the damage is noticed and told"


def test_what_is_no_database_is_started_anew(tmp_path: Path, expected: np.ndarray) -> None:
    whole = _whole_file(tmp_path)
    cut = [whole[: int(len(whole) * share)] for share in (0.01, 0.3, 0.5, 0.9, 0.999)]
    for content in (b"", b"x", b"no database\n" * 9000, b"SQLite format 3\0", *cut):
        _vectors_are_right(tmp_path, content, expected)
        inner = Counting()
        CachedEncoder(inner, tmp_path).encode(WORDS)
        assert inner.seen == [], "and works from then on"


def _whole_file(folder: Path) -> bytes:
    CachedEncoder(ToyEncoder(), folder).encode(WORDS)
    return (folder / CACHE_FILE).read_bytes()


def _vectors_are_right(folder: Path, content: bytes, expected: np.ndarray) -> bool:
    """Put `content` in the cache's place, use it twice; whether a warning was given."""
    for suffix in ("-wal", "-shm"):
        (folder / (CACHE_FILE + suffix)).unlink(missing_ok=True)
    (folder / CACHE_FILE).unlink(missing_ok=True)
    (folder / CACHE_FILE).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            np.testing.assert_array_equal(CachedEncoder(ToyEncoder(), folder).encode(WORDS), expected)
    return bool(caught)


def test_another_program_s_database_is_replaced(tmp_path: Path, expected: np.ndarray) -> None:
    db = sqlite3.connect(tmp_path / CACHE_FILE)
    db.executescript("CREATE TABLE vector (other TEXT); INSERT INTO vector VALUES ('x')")
    db.close()
    with pytest.warns(UserWarning, match="damaged .*it is replaced"):
        np.testing.assert_array_equal(CachedEncoder(ToyEncoder(), tmp_path).encode(WORDS), expected)


def test_rows_of_another_length_are_computed_anew(tmp_path: Path) -> None:
    CachedEncoder(Counting(32, "same"), tmp_path).encode(["milk"])
    with pytest.warns(UserWarning, match="damaged vectors"):
        rows = CachedEncoder(Counting(16, "same"), tmp_path).encode(["milk"])
    np.testing.assert_array_equal(rows, ToyEncoder(16).encode(["milk"]))


def test_where_nothing_can_be_kept_the_encoder_still_works(tmp_path: Path, expected: np.ndarray) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="working without it"):
        np.testing.assert_array_equal(CachedEncoder(ToyEncoder(), tmp_path / "file").encode(WORDS), expected)


def test_a_held_lock_costs_only_the_cache(
    tmp_path: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recllm.text.encoder.cache._PATIENCE", 0.05)
    CachedEncoder(ToyEncoder(), tmp_path).encode(["milk"])
    other = sqlite3.connect(tmp_path / CACHE_FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.warns(UserWarning, match="locked"):
        np.testing.assert_array_equal(CachedEncoder(ToyEncoder(), tmp_path).encode(WORDS), expected)
    other.close()


def test_file_removed_under_an_open_encoder(tmp_path: Path, expected: np.ndarray) -> None:
    cached = CachedEncoder(Counting(), tmp_path)
    cached.encode(WORDS)
    (tmp_path / CACHE_FILE).unlink()
    np.testing.assert_array_equal(cached.encode(WORDS), expected)
    again = Counting()
    CachedEncoder(again, tmp_path).encode(WORDS)
    assert again.seen == [], "the first one went on in the new file"


_WORKER = """
import pathlib, sys, numpy as np
from recllm.text.encoder.cache import CachedEncoder
from recllm.text.encoder.toy import ToyEncoder
import recllm.text.encoder.cache as cache
cache._CHUNK = 20
texts = [f"product number {n}" for n in range(400)]
np.random.default_rng(int(sys.argv[2])).shuffle(texts)
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    encoder = CachedEncoder(ToyEncoder(), sys.argv[1])
    assert (encoder.encode(texts) == ToyEncoder().encode(texts)).all()
    if int(sys.argv[3]) > 100:
        for path in pathlib.Path(sys.argv[1]).glob("*.sqlite*"):
            path.unlink(missing_ok=True)
"""


def _worker(folder: Path, seed: int, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _WORKER, str(folder), str(seed), str(rounds)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_three_processes_share_one_file(tmp_path: Path, expected: np.ndarray) -> None:
    workers = [_worker(tmp_path, seed, 3) for seed in range(3)]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], errors
    inner = Counting()
    np.testing.assert_array_equal(CachedEncoder(inner, tmp_path).encode(WORDS), expected)
    assert inner.seen == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_kill_at_any_moment(tmp_path: Path, expected: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        worker = _worker(tmp_path, seed, 1_000_000)
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        time.sleep(float(rng.uniform(0.0, 0.15)))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(CachedEncoder(ToyEncoder(), tmp_path).encode(WORDS), expected)


def test_threads_share_one_encoder(tmp_path: Path, expected: np.ndarray) -> None:
    cached = CachedEncoder(ToyEncoder(), tmp_path)
    results = at_once(*[lambda: cached.encode(WORDS)] * 6)
    assert all((rows == expected).all() for rows in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_disturb_its_parent(tmp_path: Path, expected: np.ndarray) -> None:
    cached = CachedEncoder(ToyEncoder(), tmp_path)
    cached.encode(WORDS[:200])
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = bool((cached.encode(WORDS) == expected).all())
        finally:
            os._exit(0 if right else 1)
    np.testing.assert_array_equal(cached.encode(WORDS), expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(cached.encode(WORDS), expected)
