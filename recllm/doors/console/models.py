"""Models: which version serves, what each was trained on and how good it was, and letting another one serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.base.errors import ModelError, UnknownIdError
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheForm, TheVisit, Visit, history, text_of
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.recommend.recommender.lineage import Lineage
from recllm.recommend.recommender.registry import VersionDecision, current, decisions, promote, serving, versions
from recllm.recommend.recommender.saved_model import MODEL_FILE
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/models", route_class=PageRoute)
SECTION = ConsoleSection("models", "/models", router)

ACTS = 20
METRICS = {"ndcg@20_all": "models.ndcg_all", "ndcg@20_new": "models.ndcg_new"}
"""Figures of a version in words; the page has the others for the engineer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One version as the list shows it."""

    version: str
    created_at: datetime
    serves: bool
    metrics: Mapping[str, float]
    training: Mapping[str, Any]
    """People, items, events, span and notes of the training, where they are known."""
    lineage: Lineage | None
    """Where it comes from, and what the gate said of it."""

    @property
    def is_refused(self) -> bool:
        return self.lineage is not None and self.lineage.is_refused


@router.get("")
def index(visit: TheVisit) -> Response:
    """All versions, newest first."""
    lines, problem, version = model_lines(visit), None, None
    try:
        version = current(visit.workspace.models_dir)
    except ModelError as error:
        problem = str(error)
    return visit.page(
        "models.html.j2",
        section="models",
        metrics=METRICS,
        lines=lines,
        serving=version,
        problem=problem,
        gates={line.version: gate_table(visit, line) for line in lines},
        decisions=decisions_table(visit),
        acts=[act for act in history(visit.workspace, 500) if act["act"] == "promote"][:ACTS],
    )


def gate_table(visit: Visit, line: ModelLine) -> ConsoleTable | None:
    """A version and the one that served when the gate compared them; None where it did not compare."""
    gate = line.lineage.gate if line.lineage is not None else None
    rows = [
        (
            *(f"{c.slice} {c.metric}", c.serving, c.challenger),
            *(ConfidenceInterval(c.difference, c.low, c.high), c.people),
        )
        for c in (gate.comparisons if gate is not None else ())
    ]
    return visit.table(f"gate-{line.version}", rows, of="gate") if rows else None


def decisions_table(visit: Visit) -> ConsoleTable | None:
    """Which version served when, newest first; None before the first decision."""

    def row(decision: VersionDecision) -> TableRow:
        kind = TableCell(value=decision.kind, text=visit.say(f"decision.{decision.kind}"))
        return datetime.fromisoformat(decision.at), kind, decision.version

    rows = [row(decision) for decision in reversed(decisions(visit.workspace.models_dir))]
    return visit.table("decisions", rows[:ACTS], all_rows=lambda: rows) if rows else None


@router.get("/version/{version}")
def confirm_page(visit: TheVisit, version: str) -> Response:
    """What would change if this version served."""
    line = _line_of(visit, version)
    now_serving = next((other_line for other_line in model_lines(visit) if other_line.serves), None)
    with visit.workspace.store().read() as reader:
        people = reader.counts()["users"]
    table = comparison_table(visit, now_serving, line)
    return visit.page("model.html.j2", section="models", line=line, table=table, people=people)


def comparison_table(visit: Visit, now_serving: ModelLine | None, line: ModelLine) -> ConsoleTable:
    """The serving version and the one that would serve instead."""
    versions_shown = (now_serving, line)

    def metric_cell(version: ModelLine | None, name: str) -> TableCell:
        value = None if version is None else version.metrics.get(name)
        return TableCell(value=value, text=None if value is None else visit.words.number(value, 4))

    rows: list[TableRow] = [
        (TableCell(value=name, text=visit.say(label)), *(metric_cell(version, name) for version in versions_shown))
        for name, label in METRICS.items()
    ]
    for name, label in (("created_at", "models.made"), ("version", "models.version")):
        values = (None if version is None else getattr(version, name) for version in versions_shown)
        rows.append((TableCell(value=name, text=visit.say(label)), *values))
    return visit.table("comparison", rows)


@router.post("/version/{version}/promote")
def promote_version(visit: TheVisit, form: TheForm, version: str) -> Response:
    """Let a version serve. Every byte of it is verified first; one that the gate refused needs a further tick."""
    visit.require(Scope.ADMIN)
    _line_of(visit, version)
    previous = serving(visit.workspace.models_dir)
    promote(visit.workspace.models_dir, version, force=text_of(form, "force") == "yes")
    visit.remember("promote", version=version, previous=previous)
    return visit.back("/models", "promoted")


def _line_of(visit: Visit, version: str) -> ModelLine:
    """Raises `UnknownIdError` for a version that there is not."""
    line = next((line for line in model_lines(visit) if line.version == version), None)
    if line is None:
        raise UnknownIdError(f"there is no model version {version[:80]!r}; see the list of models")
    return line


def model_lines(visit: Visit) -> list[ModelLine]:
    """Every version whose manifest can be read, newest first."""
    models_dir = visit.workspace.models_dir
    now_serving = serving(models_dir)
    lines = []
    for manifest in reversed(versions(models_dir)):
        try:
            text = (models_dir / "versions" / manifest.version / MODEL_FILE).read_text("utf-8")
            record = json.loads(text)
        except (OSError, ValueError):  # a version that cannot serve: its promotion says why
            record = {}
        lines.append(
            ModelLine(
                version=manifest.version,
                created_at=datetime.fromisoformat(manifest.created_at),
                serves=manifest.version == now_serving,
                metrics=record.get("metrics", {}),
                training=record.get("training", {}),
                lineage=manifest.lineage,
            )
        )
    return lines
