"""A prediction as a document and as a CSV that a spreadsheet cannot be tricked with."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recllm.documents import plain
from recllm.propensity.prediction import Kind, Predicted, Prediction

COLUMNS = ("user_id", "probability", "value", "date", "earliest", "latest", "reasons")


def document(found: Prediction, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `--json` prints. ids: pseudonym -> the shop's own id, where it is known."""
    ids, q = ids or {}, found.quality
    return {
        "kind": found.kind.value,
        "horizon_days": found.horizon_days,
        "as_of": plain(found.as_of),
        "meaning": found.meaning,
        "people": [_person(one, found.kind, ids) for one in found.people],
        "calibration": {
            "ece": q.ece,
            "checked": found.checked,
            "n": q.n,
            "base_rate": q.base_rate,
            "auc": q.auc,
            "lift@10%": q.lift_at_10,
            "reliability": plain(q.bins),
            **found.figures,
        },
        "left_out": dict(found.left_out),
        "notes": list(found.notes),
    }


def _person(one: Predicted, kind: Kind, ids: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {"user_id": ids.get(one.user_id, one.user_id), "probability": one.probability}
    if kind is Kind.VALUE:
        out["value"] = one.value
    if kind is Kind.NEXT_ORDER:
        out |= {name: _day(getattr(one, name)) for name in ("date", "earliest", "latest")}
    return out | {"reasons": plain(one.reasons)}


def write_csv(found: Prediction, file: Path, ids: Mapping[str, str] | None = None) -> None:
    """One line per person, `COLUMNS`; reasons joined by " | ". UTF-8."""
    from recllm.audiences.export import guarded  # brings torch, which nothing else here needs

    ids = ids or {}
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in found.people:
            value = "" if one.value is None else f"{one.value:.2f}"
            days = [_day(day) or "" for day in (one.date, one.earliest, one.latest)]
            reasons = " | ".join(reason.text for reason in one.reasons)
            name = guarded(ids.get(one.user_id, one.user_id))
            writer.writerow([name, f"{one.probability:.6f}", value, *days, guarded(reasons)])


def _day(day: Any) -> str | None:
    return None if day is None else str(day.isoformat())
