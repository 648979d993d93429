"""An audience as a document and as a CSV that a spreadsheet cannot be tricked with."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recllm.audiences.audience import Audience, Reached
from recllm.documents import plain

COLUMNS = ("user_id", "probability", "item_id", "reasons")

MOST_ITEMS = 100
"""Items of a wide category beyond so many are not listed."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def document(found: Audience, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints; it names nobody who is held out. ids: pseudonym -> the shop's own id, where it is known."""
    ids = ids or {}
    return {
        "campaign_id": found.campaign_id,
        "item_id": found.items[0] if len(found.items) == 1 else None,
        "items": list(found.items[:MOST_ITEMS]),
        "as_of": plain(found.as_of),
        "horizon_days": found.horizon_days,
        "model_version": found.model_version,
        "size": found.size,
        "people": [_person(one, ids) for one in found.people],
        "excluded": dict(found.excluded),
        "holdout": len(found.held),
        "expected_conversions": found.expected_conversions,
        "group": plain(found.group),
        "notes": list(found.notes),
    }


def write_csv(found: Audience, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """One line per addressed person, `COLUMNS`; reasons joined by " | ". UTF-8."""
    ids = ids or {}
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in found.people:
            chance = "" if one.probability is None else f"{one.probability:.6f}"
            reasons = " | ".join(reason.text for reason in one.reasons)
            writer.writerow(
                [guarded(ids.get(one.user_id, one.user_id)), chance, guarded(one.item_id), guarded(reasons)]
            )


def guarded(cell: str | None) -> str:
    """Text that no spreadsheet takes for a formula: a quote stands before = + - @, a tab or a line break."""
    text = cell or ""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _person(one: Reached, ids: Mapping[str, str]) -> dict[str, Any]:
    return {
        "user_id": ids.get(one.user_id, one.user_id),
        "probability": one.probability,
        "score": one.score,
        "item_id": one.item_id,
        "reasons": plain(one.reasons),
    }
