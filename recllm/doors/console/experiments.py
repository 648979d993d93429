"""Experiments: what is compared on whom, whether the split is as planned, what may be said by now; and what became of
everything that was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.datastructures import FormData

from recllm.base.charts import Bar, BarChart, Line, LineChart
from recllm.base.errors import ConflictError, DataError, NothingToDo, UnknownIdError, UsageError
from recllm.base.schema import ReportBy
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.doors.console.audience_tables import count_cell
from recllm.doors.console.models import model_lines
from recllm.doors.console.pages import ConsoleSection, TheForm, TheVisit, Visit, WordedError, text_of
from recllm.doors.console.tables import CellKind, ConsoleTable, TableCell, TableColumn, TableRow
from recllm.market.experiments.effect import MIN_PEOPLE, Effect, VariantComparison
from recllm.market.experiments.effect import Verdict as EffectVerdict
from recllm.market.experiments.feedback import WINDOWS, ShownOutcome, reported_outcomes
from recllm.market.experiments.sample_ratio import RatioVerdict
from recllm.market.experiments.slates import (
    ExperimentOutcome,
    Metric,
    SlateExperiment,
    Treatment,
    experiment_course,
    find_experiment,
    list_experiments,
    reported_experiment,
    start_experiment,
    stop_experiment,
)
from recllm.market.experiments.split import Experiment, Variant
from recllm.market.jobs.load import feedback_report
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import present

router = APIRouter(prefix="/experiments")
SECTION = ConsoleSection("experiments", "/experiments", router)

MAX_VARIANTS = 4
CHART_BARS = 12
"""Groups of a report that are drawn; the table has all."""
SHARES = (Metric.CLICKS, Metric.CONVERSIONS, Metric.DISMISSALS)
"""Metrics that are shares of showings."""


class VariantAdvice(StrEnum):
    """What to do with a variant."""

    NOBODY = "nobody"
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


@router.get("")
async def index(visit: TheVisit) -> Response:
    """All experiments, the running one first; what the global holdout is."""

    def values() -> dict[str, Any]:
        at = utc(present(visit.workspace))
        stored = list_experiments(visit.workspace)
        lines = [(e, e.experiment.is_running(at), _days(e, at)) for e in stored]
        lines.sort(key=lambda line: (not line[1], -(line[0].experiment.started_at or at).timestamp()))
        share = visit.workspace.settings.experiments.holdout_share
        return {"table": experiments_table(visit, lines) if lines else None, "holdout_share": share}

    return visit.page("experiments.html.j2", section="experiments", **await visit.run(values))


def experiments_table(visit: Visit, lines: Sequence[tuple[SlateExperiment, bool, int]]) -> ConsoleTable:
    """lines: experiment, whether it runs, its days."""

    def row(stored: SlateExperiment, is_running: bool, days: int) -> TableRow:
        e = stored.experiment
        variants = visit.say("people.comma").join(f"{v.name} {visit.words.percent(v.weight)}" for v in e.variants)
        href = f"/experiments/experiment/{quote(e.name)}"
        state = visit.say("experiments.runs" if is_running else "experiments.ended")
        return (
            TableCell(value=e.name, href=href, remark=variants),
            TableCell(value="runs" if is_running else "ended", text="", tag=state, tone="good" if is_running else ""),
            TableCell(value=e.metric, text=visit.say(f"experiments.metric.{e.metric}")),
            *(e.started_at, e.ended_at, days),
        )

    return ConsoleTable(
        name="experiments",
        title=visit.say("experiments.title"),
        columns=(
            TableColumn(name="experiment", label=visit.say("experiments.name")),
            TableColumn(name="state", label=visit.say("campaigns.state")),
            TableColumn(name="metric", label=visit.say("experiments.compared_on")),
            TableColumn(name="started_at"),
            TableColumn(name="ended_at"),
            TableColumn(name="days", label=visit.say("experiments.days"), kind=CellKind.NUMBER),
        ),
        rows=[row(*line) for line in lines],
    )


def _days(stored: SlateExperiment, at: datetime) -> int:
    started = stored.experiment.started_at or at
    return max(0, ((stored.experiment.ended_at or at) - started).days)


# --- start -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantForm:
    """One variant as it is typed."""

    name: str = ""
    weight: str = ""
    """Per cent."""
    model: str = ""
    personal: str = "yes"
    popularity_weight: str = ""
    explore_share: str = ""
    """Per cent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentForm:
    """The form of a new experiment as it is typed."""

    name: str = ""
    metric: str = Metric.CLICKS.value
    guard: str = Metric.DISMISSALS.value
    variants: tuple[VariantForm, ...] = field(default=())


EMPTY = tuple(VariantForm() for _ in range(MAX_VARIANTS - 2))


@router.get("/new")
async def new_page(visit: TheVisit) -> Response:
    first = VariantForm(name=visit.say("experiments.as_now"), weight="50")
    second = VariantForm(name=visit.say("experiments.new_variant"), weight="50")
    return await _new_page(visit, ExperimentForm(variants=(first, second, *EMPTY)))


async def _new_page(visit: Visit, typed: ExperimentForm, *, problem: str = "", status: int = 200) -> Response:
    models = await visit.run(lambda: model_lines(visit))
    return visit.page(
        "experiment_new.html.j2",
        section="experiments",
        status=status,
        typed=typed,
        problem=problem,
        models=models,
        metrics=list(Metric),
    )


@router.post("")
async def start(visit: TheVisit, form: TheForm) -> Response:
    """Say what would happen; start it when that was confirmed."""
    visit.require(Scope.MARKETING)
    typed = _typed(form)
    try:
        variants = {name: (weight, treatment) for name, weight, treatment in _variants(visit, typed)}
        if text_of(form, "confirmed") != "yes":
            return await _confirm_page(visit, typed, variants)
        await visit.run(lambda: _start(visit, typed, variants))
    except ConflictError as error:
        return await _new_page(visit, typed, problem=visit.problem_text(error), status=409)
    except (UsageError, DataError) as error:
        return await _new_page(visit, typed, problem=visit.problem_text(error), status=422)
    return visit.back(f"/experiments/experiment/{quote(typed.name)}", "experiment_started")


def _start(visit: Visit, typed: ExperimentForm, variants: Mapping[str, tuple[float, Treatment]]) -> None:
    metric, guard = Metric(typed.metric), Metric(typed.guard) if typed.guard else None
    start_experiment(visit.workspace, typed.name, variants, metric=metric, guard=guard)
    visit.remember("start_experiment", file=typed.name)
    visit.shop.update()  # what is answered is in force


async def _confirm_page(
    visit: Visit, typed: ExperimentForm, variants: Mapping[str, tuple[float, Treatment]]
) -> Response:
    def people() -> int:
        with visit.workspace.store().read() as reader:
            return int(reader.counts()["users"])

    return visit.page(
        "experiment_confirm.html.j2",
        section="experiments",
        typed=typed,
        people=await visit.run(people),
        table=ConsoleTable(
            name="variants",
            title=visit.say("experiments.variants"),
            columns=(
                TableColumn(name="variant", label=visit.say("experiments.variant")),
                TableColumn(name="share", label=visit.say("experiments.share"), kind=CellKind.SHARE),
                TableColumn(name="shows", label=visit.say("experiments.shows")),
            ),
            rows=[(name, weight, treatment_words(visit, t)) for name, (weight, t) in variants.items()],
        ),
    )


def _typed(form: FormData) -> ExperimentForm:
    metric, guard = text_of(form, "metric"), text_of(form, "guard")
    return ExperimentForm(
        name=text_of(form, "name", 80).strip(),
        metric=metric if metric in set(Metric) else Metric.CLICKS.value,
        guard=guard if guard in set(Metric) else "",
        variants=tuple(
            VariantForm(
                **{
                    name: text_of(form, f"{name}-{n}", 80).strip()
                    for name in VariantForm.__dataclass_fields__
                    if name != "personal"
                },
                personal="" if text_of(form, f"personal-{n}") == "no" else "yes",
            )
            for n in range(MAX_VARIANTS)
        ),
    )


def _variants(visit: Visit, typed: ExperimentForm) -> list[tuple[str, float, Treatment]]:
    """Name, weight and treatment of each variant that has a name. Raises `UsageError` for what cannot be."""
    if not typed.name:
        raise WordedError(visit.say("experiments.no_name"))
    filled = [variant for variant in typed.variants if variant.name]
    if len(filled) < 2 or len({variant.name for variant in filled}) < len(filled):
        raise WordedError(visit.say("experiments.two_variants"))
    weights = [_share(visit, variant.weight) for variant in filled]
    if any(weight is None for weight in weights) or abs(sum(weight or 0.0 for weight in weights) - 1) > 1e-6:
        raise WordedError(visit.say("experiments.weights"))
    total = sum(weight or 0.0 for weight in weights)
    return [
        (
            variant.name,
            (weight or 0.0) / total,
            Treatment(
                model=variant.model or None,
                personal=variant.personal == "yes",
                popularity_weight=_share(visit, variant.popularity_weight),
                explore_share=_share(visit, variant.explore_share),
            ),
        )
        for variant, weight in zip(filled, weights, strict=True)
    ]


def _share(visit: Visit, text: str) -> float | None:
    """A share typed as per cent; None for an empty field. Raises `UsageError` for no number from 0 to 100."""
    if not text:
        return None
    try:
        share = float(text.replace(",", ".").removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise WordedError(visit.say("experiments.not_percent", text=text))
    return share


def treatment_words(visit: Visit, treatment: Treatment) -> str:
    """What people of a variant get, in words."""
    words = [visit.say("experiments.personal" if treatment.personal else "experiments.popular")]
    if treatment.model is not None:
        words.append(visit.say("experiments.with_model", version=treatment.model))
    if treatment.popularity_weight is not None:
        words.append(visit.say("experiments.with_weight", share=visit.words.percent(treatment.popularity_weight)))
    if treatment.explore_share is not None:
        words.append(visit.say("experiments.with_exploring", share=visit.words.percent(treatment.explore_share)))
    return visit.say("people.comma").join(words)


# --- one experiment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A variant against the control, in words and figures."""

    variant: str
    advice: VariantAdvice
    figures: ConsoleTable
    """The metric, and what guards it."""
    model: str | None
    """Version of the model that the variant shows, where it has one of its own."""

    @property
    def tone(self) -> str:
        return TONES.get(self.advice, "")


@router.get("/experiment/{name:path}")
async def experiment_page(visit: TheVisit, name: str) -> Response:
    """What may be said of an experiment now."""
    values = await visit.state.service.marketing.run(lambda: experiment_values(visit, name))
    return visit.page("experiment.html.j2", section="experiments", **values)


def experiment_values(visit: Visit, name: str) -> dict[str, Any]:
    stored = find_experiment(visit.workspace, name)
    experiment, at = stored.experiment, utc(present(visit.workspace))

    def reported() -> list[ExperimentOutcome]:
        return [reported_experiment(look, visit.figures) for look in experiment_course(visit.workspace, name)]

    looks = visit.shop.once_a_day(visit.figures, ("course", name, stored.revision), reported)
    latest, metric = looks[-1], Metric(experiment.metric)
    guard = Metric(experiment.guard) if experiment.guard else None
    comparisons = [
        compared(visit, stored, latest, comparison)
        for comparison in (latest.report.comparisons if latest.report else ())
    ]
    return {
        "stored": stored,
        "running": experiment.is_running(at),
        "days": _days(stored, at),
        "metric": metric,
        "guard": guard,
        "split": split_table(visit, stored, latest),
        "as_planned": latest.report is None or latest.report.sample_ratio.verdict is RatioVerdict.AS_PLANNED,
        "comparisons": comparisons,
        "figures": [comparison.figures for comparison in comparisons],
        "overall": VariantAdvice.FEW if None in latest.people.values() else overall(comparisons),
        "charts": [course_chart(visit, stored, looks, c.variant) for c in comparisons],
        "floor": visit.workspace.policy.group_floor,
        "min_people": MIN_PEOPLE,
    }


def split_table(visit: Visit, stored: SlateExperiment, latest: ExperimentOutcome) -> ConsoleTable:
    """Who was planned to be in each variant, and who is."""
    total, floor = sum(n or 0 for n in latest.people.values()), visit.workspace.policy.group_floor
    share = CellKind.SHARE

    def row(variant: Variant) -> TableRow:
        n = latest.people[variant.name]
        real_share = n / total if n is not None and n >= floor else None
        words = treatment_words(visit, stored.treatments[variant.name])
        return variant.name, words, variant.weight, real_share, count_cell(visit, n)

    return ConsoleTable(
        name="split",
        title=visit.say("experiments.split"),
        columns=(
            TableColumn(name="variant", label=visit.say("experiments.variant")),
            TableColumn(name="shows", label=visit.say("experiments.shows")),
            TableColumn(name="planned_share", label=visit.say("experiments.planned"), kind=share),
            TableColumn(name="real_share", label=visit.say("experiments.real"), kind=share, digits=1),
            TableColumn(name="people", label=visit.say("items.people"), kind=CellKind.NUMBER),
        ),
        rows=[row(variant) for variant in stored.experiment.variants],
    )


def overall(comparisons: Sequence[Comparison]) -> VariantAdvice:
    """What matters most of all variants: what has to be stopped before what may stay."""
    order = list(VariantAdvice)
    return min((c.advice for c in comparisons), key=order.index, default=VariantAdvice.NOBODY)


def compared(
    visit: Visit, stored: SlateExperiment, look: ExperimentOutcome, comparison: VariantComparison
) -> Comparison:
    experiment = stored.experiment
    assert look.report is not None  # noqa: S101 - it has this comparison
    fewest = min(look.people[name] or 0 for name in (experiment.control.name, comparison.variant))
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
    return Comparison(
        variant=comparison.variant,
        advice=advice,
        figures=effect_table(visit, experiment, comparison),
        model=stored.treatments[comparison.variant].model,
    )


def effect_table(visit: Visit, experiment: Experiment, comparison: VariantComparison) -> ConsoleTable:
    """A variant beside the control, with the range of the difference that holds at any look."""
    effects = [(Metric(experiment.metric), comparison.metric)]
    if experiment.guard and comparison.guard:
        effects.append((Metric(experiment.guard), comparison.guard))
    variant, control = comparison.variant, experiment.control.name

    def row(metric: Metric, effect: Effect) -> TableRow:
        interval = effect.always_valid_interval
        ends = [_value(visit, end, metric, signed=True) for end in (interval.low, interval.high)]
        return (
            TableCell(value=metric.value, text=visit.say(f"experiments.metric.{metric.value}")),
            TableCell(value=effect.control, text=_value(visit, effect.control, metric)),
            TableCell(value=effect.treatment, text=_value(visit, effect.treatment, metric)),
            TableCell(
                value=interval.around(effect.difference), text=_value(visit, effect.difference, metric, signed=True)
            ),
            TableCell(value=None, text=" … ".join(ends)),
        )

    return ConsoleTable(
        name=f"figures-{[v.name for v in experiment.variants].index(variant)}",
        title=variant,
        columns=(
            TableColumn(name="figure", label=visit.say("experiments.figure")),
            TableColumn(name="control", label=control, kind=CellKind.NUMBER),
            TableColumn(name="variant", label=variant, kind=CellKind.NUMBER),
            *difference_columns(visit),
        ),
        rows=[row(metric, effect) for metric, effect in effects],
    )


def difference_columns(visit: Visit) -> tuple[TableColumn, TableColumn]:
    """A difference and its range: two columns of a page, one interval of a file."""
    difference, interval = visit.say("experiments.difference"), visit.say("experiments.interval")
    return (
        TableColumn(name="difference", label=difference, kind=CellKind.NUMBER, is_ranged=True),
        TableColumn(name="range", label=interval, kind=CellKind.NUMBER, is_in_file=False),
    )


def _value(visit: Visit, value: float, metric: Metric, *, signed: bool = False) -> str:
    """A value of a metric in its unit; a dash for what says nothing."""
    if not isfinite(value):
        return "–"
    sign = "+" if signed and value > 0 else ""
    if metric in SHARES:
        return sign + visit.words.percent(value, 2)
    return sign + (visit.words.money(value) if metric is Metric.REVENUE else visit.words.number(value, 2))


def course_chart(
    visit: Visit, stored: SlateExperiment, looks: Sequence[ExperimentOutcome], variant: str
) -> Mapping[str, Any] | None:
    """The difference to the control day by day with its always-valid interval, as a picture and a table; None while
    nothing may be said."""
    metric, start = Metric(stored.experiment.metric), stored.experiment.started_at or looks[0].until
    points, intervals, rows = [], [], list[TableRow]()
    for look in looks:
        effect = (
            next((c.metric for c in look.report.comparisons if c.variant == variant), None) if look.report else None
        )
        if effect is None or not isfinite(effect.always_valid_interval.low):
            continue
        interval = effect.always_valid_interval
        day = (look.until - start).total_seconds() / 86_400
        points.append((day, effect.difference))
        intervals.append((interval.low, interval.high))
        ends = [_value(visit, end, metric, signed=True) for end in (interval.low, interval.high)]
        difference = _value(visit, effect.difference, metric, signed=True)
        rows.append(
            (
                *(TableCell(value=day, text=visit.words.number(day, 0 if day % 1 < 0.05 else 1)), look.until),
                *(
                    TableCell(value=interval.around(effect.difference), text=difference),
                    TableCell(value=None, text=" … ".join(ends)),
                ),
            )
        )
    if not points:
        return None
    title = visit.say("experiments.chart", variant=variant)
    zero = Line(name=visit.say("experiments.no_difference"), points=[(0.0, 0.0), (points[-1][0], 0.0)], dashed=True)
    line = Line(name=variant, points=points, intervals=intervals, marked=True)
    chart = LineChart(
        title=title,
        x=visit.say("experiments.days"),
        y=visit.say(f"experiments.metric.{metric.value}"),
        lines=(line, zero),
        percent="y" if metric in SHARES else "",
        width=640,
    )
    position = [v.name for v in stored.experiment.variants].index(variant)
    table = ConsoleTable(
        name=f"course-{position}",
        title=title,
        columns=(
            TableColumn(name="days", label=visit.say("experiments.days"), kind=CellKind.NUMBER),
            TableColumn(name="until"),
            *difference_columns(visit),
        ),
        rows=rows[::-1],
    )
    return {"picture": visit.picture(chart), "table": table, "caption": ""}


@router.get("/stop/{name:path}")
async def stop_page(visit: TheVisit, name: str) -> Response:
    """What stopping would do, before anybody does it."""
    return await _stop_page(visit, name)


async def _stop_page(visit: Visit, name: str, *, problem: str = "", status: int = 200) -> Response:
    stored = await visit.run(lambda: find_experiment(visit.workspace, name))
    return visit.page("experiment_stop.html.j2", section="experiments", status=status, stored=stored, problem=problem)


@router.post("/stop/{name:path}")
async def stop(visit: TheVisit, form: TheForm, name: str) -> Response:
    """End an experiment: everybody gets the serving model again."""
    visit.require(Scope.MARKETING)
    revision = text_of(form, "revision")

    def ended() -> None:
        looked_at = int(revision) if revision.isdecimal() and len(revision) < 10 else -1
        stop_experiment(visit.workspace, name, revision=looked_at)
        visit.remember("stop_experiment", file=name)
        visit.shop.update()

    try:
        await visit.run(ended)
    except UnknownIdError:
        raise
    except (ConflictError, NothingToDo) as error:
        word = "experiments.conflict" if isinstance(error, ConflictError) else "experiments.ended_already"
        return await _stop_page(visit, name, problem=visit.say(word), status=409)
    return visit.back(f"/experiments/experiment/{quote(name)}", "experiment_stopped")


# --- the report ------------------------------------------------------------------------------------------------------


By = Annotated[ReportBy, Query()]
Days = Annotated[float, Query(gt=0, le=365)]


@router.get("/report")
async def report(visit: TheVisit, by: By = ReportBy.MODEL, days: Days = 7.0) -> Response:
    """What became of what was shown: by model, campaign, variant, template or day."""

    def values() -> dict[str, Any]:
        outcomes, n_small = large_groups(visit, by, days)
        table = report_table(visit, outcomes, by) if outcomes else None
        return {"table": table, "n_small": n_small, "charts": report_charts(visit, outcomes, by)}

    answer = await visit.state.service.marketing.run(values)
    return visit.page(
        "experiment_report.html.j2", section="experiments", by=by, days=days, ways=list(ReportBy), **answer
    )


def report_table(visit: Visit, outcomes: Sequence[ShownOutcome], by: ReportBy) -> ConsoleTable:
    """One row for each group."""

    def label(word: str) -> str:
        return visit.say(f"experiments.report.{word}")

    share, number = CellKind.SHARE, CellKind.NUMBER
    return ConsoleTable(
        name=f"report-{by.value}",
        title=label("title"),
        columns=(
            TableColumn(name=by.value, label=visit.say(f"experiments.report.way.{by.value}")),
            TableColumn(name="shown", label=label("shown"), kind=number),
            TableColumn(name="people", label=label("people"), kind=number),
            TableColumn(name="clicked"),
            TableColumn(name="click_share", label=label("clicked"), kind=share, digits=2, is_ranged=True),
            TableColumn(name="bought"),
            TableColumn(name="bought_share", label=label("bought"), kind=share, digits=2, is_ranged=True),
            TableColumn(name="dismissed"),
            TableColumn(name="revenue", label=label("revenue"), kind=CellKind.MONEY),
            TableColumn(name="returned_share", label=label("returned"), kind=share, digits=2, is_ranged=True),
            TableColumn(name="items"),
            TableColumn(name="catalogue_share", label=label("coverage"), kind=share, digits=1),
        ),
        rows=[
            (
                *(TableCell(value=o.name, text=group_name(visit, o.name)), o.showings, o.people),
                *(o.clicked, o.ctr, o.bought, o.conversion, o.dismissed),
                *(o.revenue, o.returned, o.items, o.coverage),
            )
            for o in outcomes
        ],
    )


def large_groups(visit: Visit, by: ReportBy, days: float) -> tuple[list[ShownOutcome], int]:
    """The groups of the report that are told, and how many are of too few people."""
    figures, floor = visit.figures, visit.workspace.policy.group_floor
    window = days if figures.is_exact else next(window for window in WINDOWS if window >= days)

    def reported() -> tuple[list[ShownOutcome], int]:
        outcomes = feedback_report(visit.workspace, by=by, window_days=window)
        large = [outcome for outcome in outcomes if outcome.people >= floor]
        return list(reported_outcomes(large, figures)), len(outcomes) - len(large)

    return visit.shop.once_a_day(figures, ("report page", by, window), reported)


def report_charts(visit: Visit, outcomes: Sequence[ShownOutcome], by: ReportBy) -> list[Mapping[str, Any]]:
    """Clicks and purchases per showing with intervals."""
    charts: list[Mapping[str, Any]] = []
    for key, interval_of in (("clicked", _clicked), ("bought", _bought)):
        title = visit.say(f"experiments.report.{key}")
        if not outcomes or not any(interval_of(outcome).value for outcome in outcomes):
            continue
        if by is ReportBy.DAY and len(outcomes) > 1:
            points = [(float(n), interval_of(o).value) for n, o in enumerate(outcomes, 1)]
            intervals = [(interval_of(o).low, interval_of(o).high) for o in outcomes]
            line = Line(name=title, points=points, intervals=intervals, marked=True)
            x = visit.say("experiments.days_shown")
            chart: Any = LineChart(title=title, x=x, y=title, lines=(line,), percent="y", width=560)
        else:
            bars = [
                Bar(
                    group_name(visit, o.name),
                    interval_of(o).value,
                    visit.words.percent(interval_of(o).value, 2),
                    low=interval_of(o).low,
                    high=interval_of(o).high,
                )
                for o in sorted(outcomes, key=lambda o: -o.showings)[:CHART_BARS]
            ]
            chart = BarChart(title=title, bars=bars, width=560)
        charts.append({"picture": visit.picture(chart), "title": title, "caption": "" if by is ReportBy.DAY else title})
    return charts


def group_name(visit: Visit, name: str) -> str:
    return visit.say("experiments.report.none") if name == "none" else name


def _clicked(outcome: ShownOutcome) -> ConfidenceInterval:
    return outcome.ctr


def _bought(outcome: ShownOutcome) -> ConfidenceInterval:
    return outcome.conversion
