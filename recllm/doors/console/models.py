"""Models and experiments."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.base.errors import ConflictError, ModelError, UnknownIdError
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.doors.console.campaign_pages import count_cell
from recllm.doors.console.pages import REFUSALS, ConsoleSection, PageRoute, TheForm, TheVisit, Visit, history, slow
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.market.experiments.effect import (
    MIN_PEOPLE,
    Effect,
    Experiment,
    RatioVerdict,
    Treatment,
    Variant,
    VariantComparison,
)
from recllm.market.experiments.effect import Verdict as EffectVerdict
from recllm.market.experiments.slates import (
    ExperimentOutcome,
    Metric,
    experiment_outcome,
    find_experiment,
    list_experiments,
    reported_experiment,
    stop_experiment,
)
from recllm.recommend.evaluation.retrain import ModelRecord, model_history
from recllm.recommend.recommender.registry import current, decisions, promote, serving
from recllm.shop.workspace.keys import Scope

router = APIRouter(route_class=PageRoute)
SECTION = ConsoleSection("models", "/models", router)

ACTS = 20
METRICS = {"ndcg@20_all": "models.ndcg_all", "ndcg@20_new": "models.ndcg_new"}
"""Figures of a version in words; the page has the others for the engineer."""


@router.get("/models")
def index(visit: TheVisit) -> Response:
    lines, problem, version = list[ModelRecord](), None, None
    decided = [(datetime.fromisoformat(d.at), d.kind, d.version) for d in decisions(visit.workspace.models_dir)][::-1]
    try:
        lines = model_lines(visit)
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
        decisions=visit.table("decisions", decided[:ACTS], all_rows=lambda: decided) if decided else None,
        acts=[act for act in history(visit.workspace, 500) if act["act"] == "promote"][:ACTS],
    )


def gate_table(visit: Visit, line: ModelRecord) -> ConsoleTable | None:
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


@router.get("/models/version/{version}")
def confirm_page(visit: TheVisit, version: str) -> Response:
    """What would change if this version served."""
    line = _line_of(visit, version)
    now_serving = next((other_line for other_line in model_lines(visit) if other_line.serves), None)
    with visit.workspace.store().read() as reader:
        people = reader.n_customers()
    versions_shown = (now_serving, line)

    def metric_cell(version: ModelRecord | None, name: str) -> TableCell:
        value = None if version is None else version.metrics.get(name)
        return TableCell(value=value, text=None if value is None else visit.words.number(value, 4))

    rows: list[TableRow] = [
        (TableCell(value=name, text=visit.say(label)), *(metric_cell(version, name) for version in versions_shown))
        for name, label in METRICS.items()
    ]
    for name, label in (("created_at", "models.made"), ("version", "models.version")):
        values = (None if version is None else getattr(version, name) for version in versions_shown)
        rows.append((TableCell(value=name, text=visit.say(label)), *values))
    table = visit.table("comparison", rows)
    return visit.page("model.html.j2", section="models", line=line, table=table, people=people)


@router.post("/models/version/{version}/promote")
def promote_version(visit: TheVisit, form: TheForm, version: str) -> Response:
    """Let a version serve; one that the gate refused needs a further tick."""
    visit.require(Scope.ADMIN)
    _line_of(visit, version)
    previous = serving(visit.workspace.models_dir)
    promote(visit.workspace.models_dir, version, force=form.text("force") == "yes")
    visit.remember("promote", version=version, previous=previous)
    return visit.back("/models", "promoted")


def _line_of(visit: Visit, version: str) -> ModelRecord:
    """Raises `UnknownIdError` for a version that there is not."""
    line = next((line for line in model_lines(visit) if line.version == version), None)
    if line is None:
        raise UnknownIdError(f"there is no model version {version[:80]!r}; see the list of models")
    return line


def model_lines(visit: Visit) -> list[ModelRecord]:
    """Every version whose manifest can be read, newest first."""
    return list(reversed(model_history(visit.workspace).versions))


SHARES = (Metric.CLICKS, Metric.CONVERSIONS, Metric.DISMISSALS)
"""Metrics that are shares of showings."""


class VariantAdvice(StrEnum):
    EMPTY = "empty"
    MISMATCH = "mismatch"
    FEW = "few"
    GUARD = "guard"
    WORSE = "worse"
    BETTER = "better"
    WAIT = "wait"


TONES = {
    VariantAdvice.BETTER: "good",
    VariantAdvice.WORSE: "bad",
    VariantAdvice.GUARD: "bad",
    VariantAdvice.MISMATCH: "bad",
}


@router.get("/experiments")
def experiments_page(visit: TheVisit) -> Response:
    at = visit.now
    stored = list_experiments(visit.workspace)
    stored.sort(key=lambda e: (not e.is_running(at), -(e.started_at or at).timestamp()))

    def row(e: Experiment) -> TableRow:
        is_running = e.is_running(at)
        variants = visit.say("people.comma").join(f"{v.name} {visit.words.percent(v.weight)}" for v in e.variants)
        state = visit.say("experiments.runs" if is_running else "experiments.ended")
        return (
            TableCell(value=e.name, href=f"/experiments/experiment/{quote(e.name)}", remark=variants),
            TableCell(value="runs" if is_running else "ended", text="", tag=state, tone="good" if is_running else ""),
            *(e.metric, e.started_at, e.ended_at, _days(e, at)),
        )

    rows = [row(e) for e in stored]
    share = visit.workspace.settings.experiments.holdout_share
    return visit.page(
        "experiments.html.j2",
        section="models",
        table=visit.table("experiments", rows) if rows else None,
        holdout_share=share,
    )


def _days(stored: Experiment, at: datetime) -> int:
    started = stored.started_at or at
    return max(0, ((stored.ended_at or at) - started).days)


def treatment_words(visit: Visit, treatment: Treatment) -> str:
    words = [visit.say("experiments.personal" if treatment.personal else "experiments.popular")]
    if treatment.model is not None:
        words.append(visit.say("experiments.with_model", version=treatment.model))
    if treatment.popularity_weight is not None:
        words.append(visit.say("experiments.with_weight", share=visit.words.percent(treatment.popularity_weight)))
    if treatment.explore_share is not None:
        words.append(visit.say("experiments.with_exploring", share=visit.words.percent(treatment.explore_share)))
    return visit.say("people.comma").join(words)


@router.get("/experiments/experiment/{name:path}")
@slow
def experiment_page(visit: TheVisit, name: str) -> Response:
    return visit.page("experiment.html.j2", section="models", **experiment_values(visit, name))


def experiment_values(visit: Visit, name: str) -> dict[str, Any]:
    stored, at = find_experiment(visit.workspace, name), visit.now

    def reported() -> ExperimentOutcome:
        return reported_experiment(experiment_outcome(visit.workspace, name), visit.figures)

    latest = visit.shop.once_a_day(visit.figures, ("experiment", name, stored.revision), reported)
    of_variants = latest.report.comparisons if latest.report else ()
    comparisons = [compared(visit, stored, latest, comparison) for comparison in of_variants]
    # what has to be stopped before what may stay
    first = min((c["advice"] for c in comparisons), key=list(VariantAdvice).index, default=VariantAdvice.EMPTY)
    total, floor = sum(n or 0 for n in latest.people.values()), visit.workspace.policy.group_floor

    def row(variant: Variant) -> TableRow:
        n = latest.people[variant.name]
        real_share = n / total if n is not None and n >= floor else None
        words = treatment_words(visit, variant.treatment)
        return variant.name, words, variant.weight, real_share, count_cell(visit, n)

    return {
        "problem": "",
        "stored": stored,
        "running": stored.is_running(at),
        "days": _days(stored, at),
        "metric": Metric(stored.metric),
        "guard": Metric(stored.guard) if stored.guard else None,
        "split": visit.table("split", [row(variant) for variant in stored.variants]),
        "as_planned": latest.report is None or latest.report.sample_ratio.verdict is RatioVerdict.AS_PLANNED,
        "comparisons": comparisons,
        "overall": VariantAdvice.FEW if None in latest.people.values() else first,
        "min_people": MIN_PEOPLE,
    }


def compared(
    visit: Visit, stored: Experiment, look: ExperimentOutcome, comparison: VariantComparison
) -> dict[str, Any]:
    assert look.report is not None  # noqa: S101 - it has this comparison
    fewest = min(look.people[name] or 0 for name in (stored.control.name, comparison.variant))
    if look.report.sample_ratio.verdict is RatioVerdict.MISMATCH:
        advice = VariantAdvice.MISMATCH
    elif fewest < MIN_PEOPLE:
        advice = VariantAdvice.FEW
    elif comparison.guard is not None and comparison.guard.verdict is EffectVerdict.WORSE:
        advice = VariantAdvice.GUARD
    elif comparison.metric.verdict is EffectVerdict.UNDECIDED:
        advice = VariantAdvice.WAIT
    else:
        advice = VariantAdvice.BETTER if comparison.metric.verdict is EffectVerdict.BETTER else VariantAdvice.WORSE
    return {
        "variant": comparison.variant,
        "advice": advice,
        "tone": TONES.get(advice, ""),
        "figures": effect_table(visit, stored, comparison),
        "model": next(v.treatment.model for v in stored.variants if v.name == comparison.variant),
    }


def effect_table(visit: Visit, experiment: Experiment, comparison: VariantComparison) -> ConsoleTable:
    effects = [(Metric(experiment.metric), comparison.metric)]
    if experiment.guard and comparison.guard:
        effects.append((Metric(experiment.guard), comparison.guard))
    variant = comparison.variant

    def row(metric: Metric, effect: Effect) -> TableRow:
        interval = effect.always_valid_interval
        ends = (_value(visit, end, metric, signed=True) for end in (interval.low, interval.high))
        difference = _value(visit, effect.difference, metric, signed=True)
        return (
            metric.value,
            TableCell(value=effect.control, text=_value(visit, effect.control, metric)),
            TableCell(value=effect.treatment, text=_value(visit, effect.treatment, metric)),
            # two cells of a page, one interval of a file
            TableCell(value=interval.around(effect.difference), text=difference),
            TableCell(text=" … ".join(ends)),
        )

    name = f"figures-{[v.name for v in experiment.variants].index(variant)}"
    headings = {"control": experiment.control.name, "variant": variant}
    rows = [row(metric, effect) for metric, effect in effects]
    return visit.table(name, rows, of="figures", title=variant, headings=headings)


def _value(visit: Visit, value: float, metric: Metric, *, signed: bool = False) -> str:
    """A value of a metric in its unit; a dash for what says nothing."""
    if not isfinite(value):
        return "–"
    sign = "+" if signed and value > 0 else ""
    if metric in SHARES:
        return sign + visit.words.percent(value, 2)
    return sign + (visit.words.money(value) if metric is Metric.REVENUE else visit.words.number(value, 2))


@router.post("/experiments/stop/{name:path}")
def stop(visit: TheVisit, form: TheForm, name: str) -> Response:
    visit.require(Scope.MARKETING)
    revision = form.text("revision", 9)

    try:
        stop_experiment(visit.workspace, name, revision=int(revision) if revision.isdecimal() else -1)
    except REFUSALS as error:
        word = "experiments.conflict" if isinstance(error, ConflictError) else "experiments.ended_already"
        values = experiment_values(visit, name) | {"problem": visit.say(word)}
        return visit.page("experiment.html.j2", section="models", status=409, **values)
    visit.remember("stop_experiment", file=name)
    visit.shop.update()
    return visit.back(f"/experiments/experiment/{quote(name)}", "experiment_stopped")
