"""Long tables of cases, as the files of data/tables hold them: one for each test module, with its tests by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def table(module: str, test: str) -> list[Any]:
    """The rows of one test."""
    return list(json.loads((Path(__file__).parent / "data" / "tables" / f"{module}.json").read_text("utf-8"))[test])
