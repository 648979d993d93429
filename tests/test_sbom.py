"""The bill of materials names what is installed, and is a document of CycloneDX 1.6."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import sbom
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VENDORED = tomllib.loads(
    (ROOT / "recllm" / "doors" / "console" / "static" / "vendored.toml").read_text(encoding="utf-8")
)


def bill(*extras: str) -> dict[str, Any]:
    document: dict[str, Any] = sbom.bill(frozenset(extras))
    return document


@pytest.mark.parametrize("extras", [(), ("serve", "oidc")])
def test_every_direct_dependency_is_named(extras: tuple[str, ...]) -> None:
    document = bill(*extras)
    versions = {component["purl"].split("@")[0]: component["version"] for component in document["components"]}
    (own,) = [d for d in document["dependencies"] if d["ref"] == f"pkg:pypi/recllm@{PROJECT['version']}"]
    asked = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    wanted = [r for r in map(Requirement, asked) if r.marker is None or r.marker.evaluate()]
    assert len(wanted) > 20
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert versions[f"pkg:pypi/{name}"] == importlib.metadata.version(name)
        assert f"pkg:pypi/{name}@{versions[f'pkg:pypi/{name}']}" in own["dependsOn"]
    assert len(document["components"]) > len(own["dependsOn"]), "what they ask for in turn is named too"
    for entry in VENDORED.values():
        assert [
            c for c in document["components"] if {"alg": "SHA-256", "content": entry["sha256"]} in c.get("hashes", [])
        ]


def test_the_document_has_the_form_of_cyclonedx() -> None:
    document = bill("serve")
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"])
    components = [document["metadata"]["component"], *document["components"]]
    refs = [component["bom-ref"] for component in components]
    assert len(set(refs)) == len(refs)
    for component in components:
        assert component["type"] in {"application", "library"} and component["name"] and component["version"]
        assert re.fullmatch(r"pkg:(pypi|npm)/[\w.%/-]+@[^@\s]+", component["purl"])
        for choice in component.get("licenses", []):
            assert choice.get("expression") or choice["license"]["name"]
        expressions = [c for c in component.get("licenses", []) if "expression" in c]
        assert not expressions or len(component["licenses"]) == 1, "an expression stands alone"
    assert sorted(d["ref"] for d in document["dependencies"]) == sorted(refs)
    assert {ref for d in document["dependencies"] for ref in d["dependsOn"]} <= set(refs)
    assert bill("serve") == document, "equal environments give equal files"


def test_what_is_asked_for_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        bill()
    with pytest.raises(KeyError):
        bill("nothing")
