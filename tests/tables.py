"""Long tables of cases, as the files of data/tables hold them: one file for each test module, its tables by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recllm.base.errors import RecllmError


def table(module: str, name: str) -> Any:
    """A table of a test module: its rows, or a mapping."""
    return json.loads((Path(__file__).parent / "data" / "tables" / f"{module}.json").read_text("utf-8"))[name]


def wrongly_refused(
    cases: Mapping[str, Callable[[], object]], error: type[RecllmError] = RecllmError
) -> dict[str, str]:
    """What each call says that does not end with this error and the words, a pattern, under which it stands here."""
    wrong = {}
    for words, call in cases.items():
        try:
            wrong[words] = f"it was taken: {call()}"
        except error as refusal:
            if not re.search(words, str(refusal)):
                wrong[words] = str(refusal)
    return wrong
