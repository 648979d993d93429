"""Versions below these run foreign code or skip a limit; the floors stand in pyproject.toml with their reasons."""

from __future__ import annotations

import importlib.metadata

import pytest
from packaging.version import Version

FLOORS = {
    "transformers": "5.5.0",  # CVE-2026-4372, CVE-2026-5241: remote code in spite of trust_remote_code=False
    "torch": "2.10",  # CVE-2026-24747, CVE-2025-32434
    "jinja2": "3.1.6",  # CVE-2025-27516: sandbox escape through |attr
}


@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_floor(package: str, floor: str) -> None:
    assert Version(importlib.metadata.version(package)) >= Version(floor)
