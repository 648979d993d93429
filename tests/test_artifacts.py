"""Publishing model versions: old or new, never half; every byte checked; nothing that could run."""

from __future__ import annotations

import errno
import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from waiting import at_once

from recllm.base.errors import ModelError, UsageError
from recllm.recommend.recommender import registry as artifacts
from recllm.recommend.recommender.lineage import GateReason, GateReport, GateVerdict, Lineage, Origin


def write(folder: Path) -> None:
    (folder / "encoder").mkdir()
    (folder / "encoder" / "weights.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "config.json").write_text('{"horizon_days": 28}')


def publish(models: Path, version: str) -> str:
    return artifacts.publish(models, write, version=version)


def assert_only(models: Path, version: str) -> None:
    assert artifacts.current(models) == version
    assert [p.name for p in (models / "versions").iterdir()] == [version]
    artifacts.open_version(models)


def test_a_published_version_serves_and_opens(tmp_path: Path) -> None:
    assert artifacts.current(tmp_path) is None
    version = artifacts.publish(tmp_path, write)
    assert artifacts.current(tmp_path) == version
    folder = artifacts.open_version(tmp_path)
    assert folder == tmp_path / "versions" / version
    assert json.loads((folder / "config.json").read_text()) == {"horizon_days": 28}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"config.json", "encoder/weights.safetensors"}
    assert [m.version for m in artifacts.versions(tmp_path)] == [version]
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ModelError, match=f"{version} exists"):
        publish(tmp_path, version)
    assert (folder / "manifest.json").read_bytes() == before, "versions never change"


def test_no_model_yet(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no trained model in .*recllm train"):
        artifacts.open_version(tmp_path / "models")
    with pytest.raises(ModelError, match=r"v9 is not in .*known: none"):
        artifacts.open_version(tmp_path / "models", "v9")
    assert artifacts.versions(tmp_path / "models") == []


def _odd_type(name: str):
    return lambda folder: (folder / name).write_bytes(b"\x80\x04.")


def _link(folder: Path) -> None:
    write(folder)
    (folder / "link.json").symlink_to("/etc/hostname")


def test_what_may_not_be_published(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    names = ("m.pkl", "m.bin", "m.pt", "m.joblib", "m.npy", "m.py", "m", "m.JSON.exe")
    for fill, message in (
        *((_odd_type(name), "refused") for name in names),
        (_link, "link"),
        (lambda folder: None, "no files"),
        (_odd_type("manifest.json"), "is written by the publication"),
    ):
        with pytest.raises(ModelError, match=message):
            artifacts.publish(tmp_path, fill, version="v2")
        assert_only(tmp_path, "v1")


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_writer_that_fails_or_has_no_space_changes_nothing(tmp_path: Path, fault: BaseException) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise fault

    publish(tmp_path, "v1")
    is_told = isinstance(fault, OSError)
    words = r"cannot publish model version v2 .*No space left" if is_told else "^$"
    with pytest.raises(ModelError if is_told else KeyboardInterrupt, match=words):
        artifacts.publish(tmp_path, fail, version="v2")
    assert_only(tmp_path, "v1")


@pytest.mark.parametrize("version", ["../v", "a/b", "..", "v1.tmp", "x" * 65])
def test_unsafe_names_of_versions(tmp_path: Path, version: str) -> None:
    publish(tmp_path, "v1")
    with pytest.raises(UsageError):
        publish(tmp_path, version)
    with pytest.raises((UsageError, ModelError)):
        artifacts.open_version(tmp_path, version)
    assert_only(tmp_path, "v1")


@pytest.mark.parametrize("name", ["config.json", "encoder/weights.safetensors", "manifest.json"])
def test_one_flipped_bit_is_refused_and_the_old_version_still_opens(tmp_path: Path, name: str) -> None:
    publish(tmp_path, "v1")
    publish(tmp_path, "v2")
    path = tmp_path / "versions" / "v2" / name
    whole = path.read_bytes()
    step = max(1, len(whole) // 60)
    for place in range(0, len(whole), step):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ModelError):
            artifacts.open_version(tmp_path)
    assert artifacts.open_version(tmp_path, "v1").name == "v1"
    path.write_bytes(whole)
    assert artifacts.open_version(tmp_path).name == "v2"


def test_files_that_come_or_go_after_publication(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    folder = tmp_path / "versions" / "v1"
    for name, message in (("extra.json", r"extra.json is missing or was added"), ("extra.pkl", "refused")):
        (folder / name).write_text("{}")
        with pytest.raises(ModelError, match=message):
            artifacts.open_version(tmp_path)
        (folder / name).unlink()
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config.json is missing"):
        artifacts.open_version(tmp_path)


def test_a_renamed_version_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    (tmp_path / "versions" / "v1").rename(tmp_path / "versions" / "v2")
    with pytest.raises(ModelError, match="belongs to version v1"):
        artifacts.open_version(tmp_path, "v2")
    with pytest.raises(ModelError, match="v1 is not in"):
        artifacts.open_version(tmp_path)


@pytest.mark.parametrize("content", [b"", b"../../etc", b"\xff\xfe", b"a b"])
def test_a_damaged_pointer_is_an_error_and_a_rollback_mends_it(tmp_path: Path, content: bytes) -> None:
    publish(tmp_path, "v1")
    (tmp_path / "CURRENT").write_bytes(content)
    with pytest.raises(ModelError, match="recllm models --promote VERSION"):
        artifacts.open_version(tmp_path)
    assert artifacts.promote(tmp_path, "v1") == "v1"
    assert artifacts.open_version(tmp_path).name == "v1"


def test_rollback_goes_back_one_by_one_or_to_a_name(tmp_path: Path) -> None:
    for version in ("b", "a", "c"):  # the order is that of publication, not of the names
        publish(tmp_path, version)
    assert artifacts.rollback(tmp_path) == "a"
    assert artifacts.rollback(tmp_path) == artifacts.current(tmp_path) == "b"
    with pytest.raises(ModelError, match="no version before b"):
        artifacts.rollback(tmp_path)
    assert artifacts.promote(tmp_path, "c") == "c"
    (tmp_path / "versions" / "a" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="changed after publication"):
        artifacts.rollback(tmp_path)
    assert artifacts.current(tmp_path) == "c"


def test_publishers_at_once_take_turns_and_readers_never_see_half(tmp_path: Path) -> None:
    publish(tmp_path, "first")

    def read() -> None:
        end = time.monotonic() + 60
        while len(artifacts.versions(tmp_path)) < 25 and time.monotonic() < end:
            artifacts.open_version(tmp_path)

    def write_versions(name: str) -> None:
        for number in range(8):
            publish(tmp_path, f"{name}-{number}")

    at_once(read, *(partial(write_versions, name) for name in "abc"))
    assert len(artifacts.versions(tmp_path)) == 25


def lineage(parent: str | None, verdict: GateVerdict | None = None) -> Lineage:
    """Of a version that the gate let pass or refused, or never saw."""
    reasons = (GateReason.WORSE,) if verdict is GateVerdict.REFUSED else (GateReason.NOT_WORSE,)
    begin, until, end = (f"2025-{day}T00:00:00+00:00" for day in ("01-01", "03-01", "03-29"))
    window: dict[str, Any] = {"window_start": until, "window_end": end, "comparisons": (), "serving_seen_days": 0.0}
    gate = verdict and GateReport(verdict=verdict, reasons=reasons, **window)
    trained: dict[str, Any] = {"people": 3, "items": 4, "events": 5, "trained_from": begin, "trained_until": until}
    return Lineage(origin=Origin.RETRAINED, parent=parent, data_hash="abc", gate=gate, **trained)


def publish_with(models: Path, version: str, parent: str | None, verdict: GateVerdict | None = None) -> str:
    return artifacts.publish(models, write, version=version, lineage=lineage(parent, verdict))


def test_a_refused_version_is_kept_and_does_not_serve(tmp_path: Path) -> None:
    publish_with(tmp_path, "v1", None)
    publish_with(tmp_path, "v2", "v1", GateVerdict.REFUSED)
    publish_with(tmp_path, "v3", "v1", GateVerdict.PASSED)
    assert artifacts.current(tmp_path) == "v3"
    manifests = {m.version: m for m in artifacts.versions(tmp_path)}
    assert [m.is_refused for m in manifests.values()] == [False, True, False]
    assert manifests["v2"].lineage == lineage("v1", GateVerdict.REFUSED), "the manifest seals it"
    with pytest.raises(UsageError, match=r"v2 was refused \(worse\).*--force"):
        artifacts.promote(tmp_path, "v2")
    assert artifacts.rollback(tmp_path) == "v1", "a refused version is passed over"
    assert artifacts.promote(tmp_path, "v2", force=True) == artifacts.current(tmp_path) == "v2"
    told = [(d.kind.value, d.version, d.previous, d.overridden) for d in artifacts.decisions(tmp_path)]
    assert told == [
        ("promoted", "v1", None, ()),
        ("refused", "v2", "v1", ()),
        ("promoted", "v3", "v1", ()),
        ("rolled_back", "v1", "v3", ()),
        ("promoted", "v2", "v1", (GateReason.WORSE,)),
    ]


def test_a_version_that_passed_serves_only_in_place_of_the_one_it_was_compared_with(tmp_path: Path) -> None:
    publish_with(tmp_path, "v1", None)
    publish_with(tmp_path, "v3", "v1", GateVerdict.PASSED)
    artifacts.note_refresh(tmp_path, "v3", 7)
    assert artifacts.current(tmp_path) == "v3"
    publish_with(tmp_path, "v4", "v1", GateVerdict.PASSED)
    assert artifacts.current(tmp_path) == "v3"
    assert artifacts.decisions(tmp_path)[-1].kind is artifacts.DecisionKind.OVERTAKEN


def test_a_refreshed_version_counts_what_was_loaded_since(tmp_path: Path) -> None:
    publish_with(tmp_path, "v1", None)
    later = datetime.now(UTC) + timedelta(days=1)
    assert artifacts.versions_since(tmp_path, 5, later) == []
    artifacts.note_refresh(tmp_path, "v1", 7)
    assert [artifacts.versions_since(tmp_path, first_load, later) for first_load in (7, 8)] == [["v1"], []]


def test_a_half_written_decision_spoils_no_other(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    with (tmp_path / "decisions.jsonl").open("a") as stream:
        stream.write('{"at": "2025-')
    publish(tmp_path, "v2")
    assert [d.version for d in artifacts.decisions(tmp_path)] == ["v1", "v2"]


def test_a_version_of_private_training_is_listed_and_not_opened(tmp_path: Path) -> None:
    private = lineage(None).model_copy(update={"privacy": {"epsilon": 2.0}})
    version = artifacts.publish(tmp_path, write, lineage=private)
    with pytest.raises(ModelError, match="private training, which is gone; train another: recllm train"):
        artifacts.open_version(tmp_path)
    assert [manifest.version for manifest in artifacts.versions(tmp_path)] == [version]
    assert artifacts.open_version(tmp_path, artifacts.publish(tmp_path, write)).is_dir(), "another one takes its place"


def test_old_versions_of_the_loop_go_and_others_stay(tmp_path: Path) -> None:
    publish(tmp_path, "hand")
    for n in range(4):
        publish_with(tmp_path, f"r{n}", "hand", GateVerdict.REFUSED)
    serving = "hand"
    for n in range(4):
        serving = publish_with(tmp_path, f"p{n}", serving, GateVerdict.PASSED)
    assert artifacts.remove_old(tmp_path, refused=1, retrained=1) == ["r0", "r1", "r2", "p0", "p1"]
    assert [m.version for m in artifacts.versions(tmp_path)] == ["hand", "r3", "p2", "p3"]
    assert artifacts.rollback(tmp_path) == "p2", "the one before the serving one is there"
    assert artifacts.remove_old(tmp_path, refused=0, retrained=1, needed=["r3"]) == []
    assert artifacts.remove_old(tmp_path, refused=0, retrained=1) == ["r3"], "the serving one is never removed"
    gates = {d.version: d.gate for d in artifacts.decisions(tmp_path) if d.kind is artifacts.DecisionKind.REMOVED}
    assert all((gates[name] is not None) == name.startswith("r") for name in gates)


def test_a_manifest_without_later_fields_of_the_lineage_is_still_whole(tmp_path: Path) -> None:
    publish_with(tmp_path, "v1", None)
    path = tmp_path / "versions" / "v1" / "manifest.json"
    body = json.loads(path.read_text())
    del body["sha256"], body["lineage"]["checks"]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(body | {"sha256": digest}, indent=1, sort_keys=True) + "\n")
    assert artifacts.open_version(tmp_path).name == "v1"
