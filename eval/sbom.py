"""What an installed recllm consists of, as CycloneDX 1.6:  python eval/sbom.py -o sbom.json [--extra serve ...]

Read from the environment that runs it, without a network: every package that `pyproject.toml` asks for and, in turn,
what these ask for, with version, licence and package URL; and the files of others that lie in the console, with their
hashes. Equal environments give equal files. A package that is asked for and not installed is an error.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import json
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
VENDORED = ROOT / "recllm" / "doors" / "console" / "static" / "vendored.toml"


def bill(extras: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The document. extras: of `pyproject.toml`; without one, what `pip install .` brings.

    Raises `PackageNotFoundError` for a package that is asked for and not installed, `KeyError` for an unknown extra.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"]]
    for extra in sorted(extras):
        asked += project["optional-dependencies"][extra]
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    components: dict[str, dict[str, Any]] = {}
    edges: dict[str, list[str]] = {}
    seen: dict[str, frozenset[str]] = {}
    ahead = [(own, _wanted(asked, frozenset({""})))]
    while ahead:
        parent, wanted = ahead.pop()
        for requirement in wanted:
            name = canonicalize_name(requirement.name)
            if name == canonicalize_name(project["name"]):  # one of our extras asks for others of ours
                more = [
                    text for extra in sorted(requirement.extras) for text in project["optional-dependencies"][extra]
                ]
                ahead.append((own, _wanted(more, frozenset({""}))))
                continue
            package = metadata.distribution(name)
            url = f"pkg:pypi/{name}@{package.version}"
            if url not in edges.setdefault(parent, []):
                edges[parent].append(url)
            components.setdefault(url, _component(package, url))
            new = frozenset(requirement.extras) | {""}
            if not new <= seen.get(name, frozenset()):
                seen[name] = seen.get(name, frozenset()) | new
                ahead.append((url, _wanted(package.requires or [], seen[name])))
    for file, entry in tomllib.loads(VENDORED.read_text(encoding="utf-8")).items():
        url = f"pkg:npm/{entry['package'].replace('@', '%40')}@{entry['version']}#{entry['from']}"
        components[url] = {
            "type": "library",
            "bom-ref": url,
            "name": f"{entry['package']}: {file}",
            "version": entry["version"],
            "purl": url,
            "licenses": [{"expression": entry["licence"]}],
            "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
        }
        edges.setdefault(own, []).append(url)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "purl": own,
                "licenses": [{"expression": project["license"]}],
            }
        },
        "components": [components[url] for url in sorted(components)],
        "dependencies": [{"ref": url, "dependsOn": sorted(edges.get(url, []))} for url in sorted({own, *components})],
    }
    return document | {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document))}"}


def _wanted(texts: list[str], extras: frozenset[str]) -> list[Requirement]:
    """Those that hold on this machine, with any of the extras."""
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]


def _component(package: metadata.Distribution, url: str) -> dict[str, Any]:
    head = package.metadata
    component = {"type": "library", "bom-ref": url, "name": head["Name"], "version": package.version, "purl": url}
    said = (head.get("License") or "").strip()
    classified = [c.rsplit(" :: ", 1)[1] for c in head.get_all("Classifier") or [] if c.startswith("License :: ")]
    if expression := head.get("License-Expression"):
        return component | {"licenses": [{"expression": expression}]}
    names = [said] if said and len(said) <= 80 and "\n" not in said else classified
    return component | ({"licenses": [{"license": {"name": name}} for name in names]} if names else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="where to write it; else it is printed")
    parser.add_argument("--extra", action="append", default=[], help="an extra that is installed too; may be repeated")
    args = parser.parse_args()
    text = json.dumps(bill(frozenset(args.extra)), indent=1, ensure_ascii=False) + "\n"
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
