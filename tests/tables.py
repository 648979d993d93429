"""Long tables of cases, as the files of data/tables hold them: one file for each test module, its tables by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def table(module: str, name: str) -> Any:
    """A table of a test module: its rows, or a mapping."""
    return json.loads((Path(__file__).parent / "data" / "tables" / f"{module}.json").read_text("utf-8"))[name]
