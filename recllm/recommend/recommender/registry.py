"""Trained states on disk: each version a folder that never changes, and one pointer that says which one serves.

    models/
      CURRENT                  the version that serves
      decisions.jsonl          what was promoted, refused, rolled back or removed, and when; a line each, oldest first
    tainted.json             versions that learned from people who were erased, and until when they may be used
      versions/<version>/      the files of a version, and manifest.json with the SHA-256 of each and the lineage
      versions/<version>.tmp/  a version being written; swept away by the next publication

A version is complete before its name exists, and the pointer is replaced in one step: a process that is killed leaves
the old version or the new one. A decision is written just before the pointer, so what serves has its line.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from recllm.base.documents import CountOrZero, FrozenModel, Text, json_text, json_value, plain
from recllm.base.errors import ModelError, UsageError
from recllm.base.files import lock_file, safe_id, sweep_drafts, sync_folder, write_whole
from recllm.recommend.recommender.lineage import GateReason, GateReport, Lineage, Taint

MANIFEST = "manifest.json"
POINTER = "CURRENT"
DECISIONS = "decisions.jsonl"
TAINTED = "tainted.json"
ALLOWED_SUFFIXES = frozenset({".safetensors", ".arrow", ".json", ".txt", ".toml"})
"""Files that hold data and nothing that runs when they are read."""


class VersionFile(FrozenModel):
    sha256: Text
    bytes: CountOrZero


class Manifest(FrozenModel):
    """What a version consists of."""

    version: Text
    created_at: Text
    """ISO 8601, UTC."""
    files: dict[str, VersionFile]
    """By their paths with "/"."""
    lineage: Lineage | None = None
    """Where it comes from; None for a version that was published without."""
    number: CountOrZero = 0
    """Its place in the order of publication, whatever the clock said; 0 for one of an older recllm."""

    @property
    def is_refused(self) -> bool:
        """Whether the gate refused it."""
        return self.lineage is not None and self.lineage.is_refused


class DecisionKind(StrEnum):
    PROMOTED = "promoted"
    REFUSED = "refused"
    """By the gate."""
    OVERTAKEN = "overtaken"
    """It passed the gate, but meanwhile another version served than the one it had been compared with."""
    ROLLED_BACK = "rolled_back"
    """To this version."""
    REMOVED = "removed"
    """Its files, to keep the disk bounded."""
    REFRESHED = "refreshed"
    """Its serving state was counted again up to the present."""


class VersionDecision(FrozenModel):
    """What was decided about a version."""

    at: Text
    """ISO 8601, UTC."""
    kind: DecisionKind
    version: Text
    previous: Text | None = None
    """The version that served until then."""
    gate: GateReport | None = None
    """Of a version that does not serve because of it, or that was removed after it was refused."""
    overridden: tuple[GateReason, ...] = ()
    """Why the gate had refused a version that was promoted by hand all the same."""
    last_load: CountOrZero | None = None
    """Number of the newest load of the store that a refreshed state counts."""


def new_version() -> str:
    """A name for a version: the UTC time with a random end."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def publish(
    models_dir: Path,
    write: Callable[[Path], None],
    *,
    version: str | None = None,
    lineage: Lineage | None = None,
) -> str:
    """Lets `write` fill an empty folder, seals it as a new version and makes that the serving one.

    A version whose lineage says that the gate refused it is kept and does not serve. One that passed the gate serves
    only if its parent still does: it was compared with no other. Returns the version. Raises `ModelError` for a version
    that exists, a file type outside `ALLOWED_SUFFIXES`, a link, no file at all, or a full disk; `UsageError` for a
    version that is not a safe name. What else `write` raises goes through. The version that served then still serves.
    """
    version = safe_id(version or new_version(), "model version")
    if version.endswith(".tmp"):
        raise UsageError(f"model version {version!r}: the ending .tmp is reserved; choose another name")
    with explained(f"cannot publish model version {version} in {models_dir}"):
        (models_dir / "versions").mkdir(parents=True, exist_ok=True)
        with lock_file(models_dir / ".lock"):
            _write_version(models_dir / "versions", version, write, lineage)
            try:
                _inherit_taint(models_dir, version)
                gate, serving_now = lineage and lineage.gate, serving(models_dir)
                if lineage is not None and lineage.is_refused:
                    _decide(models_dir, DecisionKind.REFUSED, version, previous=serving_now, gate=gate)
                elif lineage is not None and gate is not None and serving_now != lineage.parent:
                    _decide(models_dir, DecisionKind.OVERTAKEN, version, previous=serving_now, gate=gate)
                else:
                    _point(models_dir, DecisionKind.PROMOTED, version)
            except BaseException:
                if serving(models_dir) != version:  # each try would leave another
                    shutil.rmtree(models_dir / "versions" / version, ignore_errors=True)
                raise
    return version


def current(models_dir: Path) -> str | None:
    """The serving version; None before the first publication. `ModelError` for a pointer that names nothing."""
    try:
        text = (models_dir / POINTER).read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{models_dir / POINTER} cannot be read ({error}); {_remedy(models_dir)}") from error
    try:
        return safe_id(text, "model version")
    except UsageError as error:
        raise ModelError(f"{models_dir / POINTER} is damaged: {error}; {_remedy(models_dir)}") from error


def serving(models_dir: Path) -> str | None:
    """The serving version; None also for a damaged pointer, which the next promotion mends."""
    try:
        return current(models_dir)
    except ModelError:
        return None


def _remedy(models_dir: Path) -> str:
    return f"let a version serve with: recllm models --promote VERSION -w {models_dir.parent}"


def versions(models_dir: Path) -> list[Manifest]:
    """Every version whose manifest can be read, in the order of their publication."""
    manifests = []
    for folder in sorted((models_dir / "versions").glob("*")):
        if folder.is_dir() and folder.suffix != ".tmp":
            try:
                manifests.append(_read_manifest(folder))
            except ModelError:
                continue
    return sorted(manifests, key=lambda manifest: (manifest.number, manifest.created_at, manifest.version))


def open_version(models_dir: Path, version: str | None = None) -> Path:
    """The folder of a version (default: the serving one) after checking every byte of it.

    Raises `ModelError` when there is none, when a file is missing, added, changed or of a type that is not allowed, and
    for one that learned from people who were erased, once the time to replace it is over; a process with an opened
    version keeps serving it.
    """
    version = version or current(models_dir)
    if version is None:
        raise ModelError(f"there is no trained model in {models_dir}; train one with: recllm train")
    check_usable(models_dir, version)
    folder = models_dir / "versions" / safe_id(version, "model version")
    if not folder.is_dir():
        names = ", ".join(manifest.version for manifest in versions(models_dir)) or "none"
        raise ModelError(f"model version {version} is not in {models_dir}; see recllm models; known: {names}")
    with explained(f"cannot read model version {version} in {models_dir}"):
        verify(folder)
    return folder


def taints(models_dir: Path) -> dict[str, Taint]:
    """Version -> taint; of another folder than that of the models the names of what lies in it.

    Raises `ModelError` for a damaged file: it says which versions may be used."""
    try:
        return {version: Taint(**fields) for version, fields in json.loads((models_dir / TAINTED).read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, UsageError) as error:
        raise ModelError(
            f"{models_dir / TAINTED} is damaged ({error}), and with it what says which versions learned from people "
            "who were erased; put it back from a backup, or write {} into it after training again"
        ) from error


def check_usable(models_dir: Path, version: str) -> None:
    """Raises `ModelError` for a version whose time to be replaced is over, and for one of private training."""
    taint = taints(models_dir).get(version)
    if taint is not None and taint.has_ended(datetime.now(UTC)):
        raise ModelError(
            f"model version {version} learned from people who were erased, and its use ended on "
            f"{taint.use_until[:10]}; train another one: recllm train -w {models_dir.parent}"
        )
    if any(m.version == version and m.lineage and m.lineage.privacy for m in versions(models_dir)):
        raise ModelError(f"model version {version} is of private training, which is gone; train another: recllm train")


def versions_since(models_dir: Path, first_load: int, loaded_at: datetime) -> list[str]:
    """Versions on disk that were made or refreshed after a load.

    Numbers of loads decide, as clocks may go back; the time, aware, counts for versions from before numbers were
    written down.
    """
    last_counted = {decision.version: decision.last_load or 0 for decision in decisions(models_dir)}

    def is_later(manifest: Manifest) -> bool:
        last_load = None if manifest.lineage is None else manifest.lineage.last_load
        if last_load is None and datetime.fromisoformat(manifest.created_at) >= loaded_at:
            return True
        return max(last_load or 0, last_counted.get(manifest.version, 0)) >= first_load

    return [manifest.version for manifest in versions(models_dir) if is_later(manifest)]


def mark_tainted(folder: Path, names: Collection[str], *, at: datetime, use_until: datetime) -> None:
    """Marks versions, or what else was learned and lies by name in a folder: a customer was erased at `at` of whom it
    learned. The date of an earlier erasure stays. All times are aware."""
    if names:
        with explained(f"cannot mark what lies in {folder}"), lock_file(folder / ".lock"):
            taint = Taint(since=at.isoformat(), use_until=use_until.isoformat())
            _write_taints(folder, dict.fromkeys(names, taint) | taints(folder))


def clear_taint(folder: Path, name: str) -> None:
    """Something was learned again under a name."""
    with explained(f"cannot mark what lies in {folder}"), lock_file(folder / ".lock"):
        _write_taints(folder, {marked: taint for marked, taint in taints(folder).items() if marked != name})


def remove_tainted(models_dir: Path, *, ended_by: datetime | None = None) -> list[str]:
    """Removes the tainted versions that do not serve, with `ended_by` those whose use has ended; returns them."""
    if not models_dir.is_dir():
        return []
    with explained(f"cannot remove versions in {models_dir}"), lock_file(models_dir / ".lock"):
        marked, now_serving = taints(models_dir), serving(models_dir)
        going = {v for v, taint in marked.items() if ended_by is None or taint.has_ended(ended_by)} - {now_serving}
        removed = [m.version for m in versions(models_dir) if m.version in going]
        for version in removed:
            _remove(models_dir, version, now_serving)
        left = {version: taint for version, taint in marked.items() if (models_dir / "versions" / version).is_dir()}
        _write_taints(models_dir, left)
    return removed


def _write_taints(folder: Path, marked: Mapping[str, Taint]) -> None:
    if marked != taints(folder):
        write_whole(folder / TAINTED, json.dumps(plain(marked), indent=1) + "\n")


def _inherit_taint(models_dir: Path, version: str) -> None:
    """A new version is tainted like the one whose encoder's adapter it has. Under the lock."""
    by_version, marked = {m.version: m for m in versions(models_dir)}, taints(models_dir)
    lineage = by_version[version].lineage
    parent = by_version.get(lineage.parent or "") if lineage is not None else None
    if parent is None or lineage is None or parent.version not in marked:
        return
    adapters = [{n: f for n, f in m.files.items() if n.startswith("adapter/")} for m in (by_version[version], parent)]
    if adapters[0] and adapters[0] == adapters[1]:
        _write_taints(models_dir, marked | {version: marked[parent.version]})


def verify(folder: Path) -> Manifest:
    """Checks a version's folder against its manifest; see `open_version`."""
    manifest = _read_manifest(folder)
    if manifest.version != folder.name:
        raise ModelError(
            f"{folder}: its manifest belongs to version {manifest.version}; train again, or see: recllm models"
        )
    present = set(_files(folder)) - {MANIFEST}
    odd = sorted(present ^ set(manifest.files))
    if odd:
        raise ModelError(
            f"{folder}: {odd[0]} is missing or was added after publication; train again, or see: recllm models"
        )
    for name, file in manifest.files.items():
        with (folder / name).open("rb") as stream:
            unchanged = hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
        if not unchanged:
            raise ModelError(f"{folder / name} was changed after publication; train again, or see: recllm models")
    return manifest


def promote(models_dir: Path, version: str, *, force: bool = False) -> str:
    """Makes a version serve. Returns it.

    It is verified first. Raises `ModelError` when it is not there or was changed, and `UsageError`, with the gate's
    reasons, for a version that the gate refused, unless `force` overrides them.
    """
    manifest = verify(open_version(models_dir, version))
    overridden: tuple[GateReason, ...] = ()
    if manifest.lineage is not None and manifest.lineage.gate is not None and manifest.is_refused:
        overridden = manifest.lineage.gate.reasons
        if not force:
            raise UsageError(
                f"model version {version} was refused ({', '.join(overridden)}); see recllm models --json; "
                f"to let it serve all the same: recllm models --promote {version} --force"
            )
    with explained(f"cannot promote in {models_dir}"), lock_file(models_dir / ".lock"):
        _point(models_dir, DecisionKind.PROMOTED, version, overridden=overridden)
    return version


def rollback(models_dir: Path) -> str:
    """Makes an earlier version serve again: of those that the gate did not refuse the one published before the serving
    one. Returns it. It is verified first; raises `ModelError` where there is none, or it was changed."""
    manifests, now_serving = versions(models_dir), current(models_dir)
    names = [manifest.version for manifest in manifests]
    position = names.index(now_serving) if now_serving in names else len(names)
    earlier = [manifest.version for manifest in manifests[:position] if not manifest.is_refused]
    if not earlier:
        raise ModelError(f"there is no version before {now_serving} in {models_dir}; nothing to roll back to")
    open_version(models_dir, earlier[-1])
    with explained(f"cannot roll back in {models_dir}"), lock_file(models_dir / ".lock"):
        _point(models_dir, DecisionKind.ROLLED_BACK, earlier[-1])
    return earlier[-1]


def decisions(models_dir: Path) -> list[VersionDecision]:
    """What was decided, oldest first.
    A line that cannot be read, as a power cut may leave one, is left out."""
    try:
        lines = (models_dir / DECISIONS).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"{models_dir / DECISIONS} cannot be read ({error}); check its permissions") from error
    read = []
    for line in lines:
        try:
            read.append(VersionDecision(**json_value(line)))
        except (ValueError, TypeError, UsageError):
            continue
    return read


def remove_old(models_dir: Path, *, refused: int, retrained: int, needed: Collection[str] = ()) -> list[str]:
    """Removes versions that `recllm retrain` made, the oldest first, until `refused` and `retrained` ones are left.

    The serving version and the one before it stay, as do `needed` ones and those that were made by hand. Returns what
    is gone.
    """
    with explained(f"cannot remove versions in {models_dir}"), lock_file(models_dir / ".lock"):
        now_serving, manifests = serving(models_dir), versions(models_dir)
        accepted = [m.version for m in manifests if not m.is_refused]
        position = accepted.index(now_serving) if now_serving in accepted else len(accepted)
        keep = {*needed, now_serving, *accepted[max(position - 1, 0) : position]}
        gated = [m for m in manifests if m.lineage is not None and m.lineage.gate is not None]
        removed = []
        for is_refused, limit in ((True, refused), (False, retrained)):
            kind = [m for m in gated if m.is_refused is is_refused]
            for manifest in kind[: max(len(kind) - limit, 0)]:
                if manifest.version in keep:
                    continue
                gate = manifest.lineage.gate if manifest.lineage and is_refused else None
                _remove(models_dir, manifest.version, now_serving, gate)
                removed.append(manifest.version)
    return removed


def _remove(models_dir: Path, version: str, now_serving: str | None, gate: GateReport | None = None) -> None:
    _decide(models_dir, DecisionKind.REMOVED, version, previous=now_serving, gate=gate)
    outdated = models_dir / "versions" / version
    draft = outdated.with_name(f"{version}.tmp")  # a kill leaves what the next publication sweeps
    outdated.rename(draft)
    shutil.rmtree(draft)


def note_refresh(models_dir: Path, version: str, last_load: int) -> None:
    """Writes down that a version's serving state was counted again; last_load: as in `VersionDecision`."""
    with explained(f"cannot write decisions in {models_dir}"), lock_file(models_dir / ".lock"):
        _decide(models_dir, DecisionKind.REFRESHED, version, last_load=last_load)


def _point(models_dir: Path, kind: DecisionKind, version: str, *, overridden: tuple[GateReason, ...] = ()) -> None:
    """Lets a version serve; the caller holds the lock."""
    _decide(models_dir, kind, version, previous=serving(models_dir), overridden=overridden)
    write_whole(models_dir / POINTER, version + "\n")


def _decide(models_dir: Path, kind: DecisionKind, version: str, **details: Any) -> None:
    decision = VersionDecision(at=datetime.now(UTC).isoformat(), kind=kind, version=version, **details)
    path = models_dir / DECISIONS
    if path.is_symlink():
        raise ModelError(f"{path} is a link, and what it leads to is not written; put back the file, or remove it")
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):  # a power cut left half a line
        before += b"\n"
    # a new file: another name of the same file, as a hard link is, keeps what it has
    write_whole(path, before + json_text(decision).encode())


def _write_version(
    versions_dir: Path, version: str, write: Callable[[Path], None], lineage: Lineage | None = None
) -> None:
    if (versions_dir / version).exists():
        raise ModelError(f"model version {version} exists in {versions_dir}; versions never change, choose a new name")
    for leftover in versions_dir.glob("*.tmp"):  # of killed publications: this one holds the lock
        shutil.rmtree(leftover)
    sweep_drafts(versions_dir.parent)
    draft = versions_dir / f"{version}.tmp"
    draft.mkdir()
    try:
        write(draft)
        _seal(draft, version, lineage)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    draft.rename(versions_dir / version)
    sync_folder(versions_dir)


def _seal(draft: Path, version: str, lineage: Lineage | None) -> None:
    """Writes the manifest of what a draft holds, and makes all of it survive a power cut."""
    names = _files(draft)
    if not names:
        raise ModelError(f"model version {version} has no files; nothing was published")
    if MANIFEST in names:
        raise ModelError(f"{MANIFEST} is written by the publication; use another file name")
    files = {}
    for name in names:
        with (draft / name).open("rb") as stream:
            os.fsync(stream.fileno())
            files[name] = VersionFile(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), bytes=stream.tell())
    number = 1 + max((manifest.number for manifest in versions(draft.parents[1])), default=0)
    now = datetime.now(UTC).isoformat()
    manifest = Manifest(version=version, created_at=now, files=files, lineage=lineage, number=number)
    write_whole(draft / MANIFEST, _sealed(plain(manifest)))
    for folder in sorted({(draft / name).parent for name in names} - {draft}, reverse=True):
        sync_folder(folder)


def _files(folder: Path) -> list[str]:
    """Path of each file with "/", in order.
    Raises `ModelError` for what no version may hold."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ModelError(f"{path} is a link or a special file; a model version holds plain files only")
        if path.is_file():
            if path.suffix not in ALLOWED_SUFFIXES:
                allowed = ", ".join(sorted(ALLOWED_SUFFIXES))
                raise ModelError(f"{path}: files of this type are refused; allowed: {allowed}")
            names.append(path.relative_to(folder).as_posix())
    return names


def _sealed(body: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        text = path.read_text("utf-8")
        body = {name: value for name, value in json_value(text).items() if name != "sha256"}
        manifest = Manifest(**body)
    except (OSError, ValueError, TypeError, AttributeError, UsageError) as error:
        raise ModelError(f"{path} is missing or damaged; train again, or see: recllm models") from error
    # every byte of the manifest counts, too; a lineage as it was written, whatever fields later versions add to it
    if _sealed(body) != text:
        raise ModelError(f"{path} was changed after publication; train again, or see: recllm models")
    return manifest


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raises `ModelError` for a disk that refuses."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{what}: {error.strerror or error}; check the disk's free space and permissions") from error
