"""Experiments on the slates of a workspace: the treatment of each customer, and the results.

One experiment runs at a time, because a slate is made by one treatment. A hash of the pseudonym decides the variant.
People without a history, or without consent to personalisation, get the same slate in any variant and are in none.

People of the global holdout (`experiments.holdout_share`) get nothing personal. The difference between their purchases
and those of the others is what personalisation is worth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from recllm.base.arrays import Values
from recllm.base.errors import ConflictError, NothingToDo, UnknownIdError, UsageError
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Action, Purpose, Slate, SlateStatus
from recllm.base.stats.intervals import Interval
from recllm.market.audiences.selection import globally_held_out
from recllm.market.experiments.effect import (
    Effect,
    Experiment,
    ExperimentReport,
    Treatment,
    Variant,
    Verdict,
    analyse,
    people_values,
    variant_of,
)
from recllm.market.experiments.feedback import showings_with_answers
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import versions
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import JUST_BEFORE
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present

GLOBAL_HOLDOUT = "global holdout"
HELD_OUT = "held out"
STORED_EXPERIMENT = TypeAdapter(Experiment)
COVARIATE_DAYS = 28
"""Days before the first showing whose purchases take out what people would have bought anyway."""


class Metric(StrEnum):
    """What variants are compared on.

    Answers to a showing are joined as in `experiments.feedback`; purchases and revenue are all that a customer
    bought after their first showing, shown or not.
    """

    CLICKS = "clicks"
    """Showings that were clicked, of all showings."""
    CONVERSIONS = "conversions"
    """Showings whose item was bought, of all showings."""
    DISMISSALS = "dismissals"
    """Showings that were dismissed, of all showings."""
    PURCHASES = "purchases"
    """Purchases per person."""
    REVENUE = "revenue"
    """Paid per person, in the shop's currency."""


ANSWER_COLUMNS = {Metric.CLICKS: "clicked", Metric.CONVERSIONS: "bought", Metric.DISMISSALS: "dismissed"}


@dataclass(frozen=True, kw_only=True)
class ExperimentOutcome:
    """The results of an experiment now."""

    experiment: Mapping[str, Any]
    """`Experiment.document`."""
    until: datetime
    """The end of what is counted."""
    people: Mapping[str, int | None]
    """By variant: people with a slate of it who may be counted; None below the floor."""
    days: float
    """From its start to `until`."""
    report: ExperimentReport | None = field(default=None)
    """None before anybody was shown anything."""


def list_experiments(workspace: Workspace) -> list[Experiment]:
    """All of them, ordered by name."""
    return [
        STORED_EXPERIMENT.validate_python(json.loads(text) | {"revision": revision})
        for _, text, revision in workspace.store().experiments()
    ]


def find_experiment(workspace: Workspace, name: str) -> Experiment:
    """Raises `UnknownIdError` for an unknown one."""
    for experiment in list_experiments(workspace):
        if experiment.name == name:
            return experiment
    raise UnknownIdError(f"no experiment {name!r}; see recllm experiments report")


def running_experiment(experiments: Sequence[Experiment], at: datetime) -> Experiment | None:
    """The one that runs at a time; None when none does."""
    return next((e for e in experiments if e.is_running(at)), None)


def treatment_models(workspace: Workspace) -> set[str]:
    """Versions that the running experiment shows besides the serving one."""
    running = running_experiment(list_experiments(workspace), utc(present(workspace)))
    return {v.treatment.model for v in running.variants if v.treatment.model is not None} if running else set()


def start_experiment(
    workspace: Workspace,
    name: str,
    variants: Mapping[str, tuple[float, Treatment]],
    *,
    metric: Metric = Metric.CLICKS,
    guard: Metric | None = Metric.DISMISSALS,
) -> Experiment:
    """From the present on. variants: name -> weight and treatment, the control first.

    Raises `UsageError` for wrong variants, a name that was used before or a model that is not there, `ConflictError`
    while another experiment runs.
    """
    start = utc(present(workspace))
    experiment = Experiment(
        name=name,
        variants=tuple(Variant(variant, *fields) for variant, fields in variants.items()),
        metric=metric.value,
        guard=None if guard is None else guard.value,
        started_at=start,
    )
    if len({json.dumps(variant.treatment.explicit(), sort_keys=True) for variant in experiment.variants}) < 2:
        raise UsageError(f"experiment {name!r}: its variants do the same; give one a model, or another setting")
    published = {manifest.version for manifest in versions(workspace.models_dir)}
    for variant in experiment.variants:
        if variant.treatment.model is not None and variant.treatment.model not in published:
            raise UsageError(f"variant {variant.name!r}: no model {variant.treatment.model!r}; see recllm models")
    earlier = list_experiments(workspace)
    if name in {before.name for before in earlier}:
        raise UsageError(f"there was an experiment {name!r} before; a name draws the variants, so give a new one")
    if (running := running_experiment(earlier, start)) is not None:
        raise ConflictError(f"the experiment {running.name!r} runs; stop it first")
    return _save(workspace, experiment)


def stop_experiment(workspace: Workspace, name: str, *, revision: int | None = None) -> Experiment:
    """From the present on everybody gets the serving model; the showings stay.

    revision: what the caller saw. Raises `UnknownIdError` for an unknown experiment, `NothingToDo` for one that ended,
    `ConflictError` when it was changed since.
    """
    experiment = find_experiment(workspace, name)
    if experiment.ended_at is not None:
        raise NothingToDo(f"the experiment {name!r} ended on {experiment.ended_at:%Y-%m-%d}")
    if revision is not None and revision != experiment.revision:
        raise ConflictError(f"the experiment {name!r} was changed since; read it again")
    ended_at = max(utc(present(workspace)), experiment.started_at or utc(0))
    return _save(workspace, replace(experiment, ended_at=ended_at))


def _save(workspace: Workspace, experiment: Experiment) -> Experiment:
    document = experiment.document()
    del document["revision"]
    if not workspace.store().save_experiment(experiment.name, json.dumps(document), experiment.revision):
        raise ConflictError(f"the experiment {experiment.name!r} was changed at the same time; read it again")
    return replace(experiment, revision=experiment.revision + 1)


def recommend_in_experiments(
    workspace: Workspace,
    request: RecommendRequest,
    experiments: Sequence[Experiment],
    recommender_of: Callable[[str | None], Recommender | None],
    *,
    by_pseudonym: bool = False,
    rng: np.random.Generator | None = None,
) -> list[Slate]:
    """The slates of a request, each person's by the treatment of their variant, with experiment and variant named.

    recommender_of: the recommender of a model's version, None for the serving one's; None if it cannot be opened. Its
    people then get the serving model and are in no variant, which the sample ratio shows. by_pseudonym: the ids
    are pseudonyms, and the recommenders take them. rng: as in `Recommender.recommend`.
    """
    settings = workspace.settings.experiments
    serving = recommender_of(None)
    assert serving is not None  # noqa: S101 - without a serving recommender there is nothing to ask
    running = running_experiment(experiments, utc(serving.dataset.as_of))
    held_out = Variant(HELD_OUT, 1.0, Treatment(personal=False))
    groups: dict[Variant | None, list[int]] = {}
    names = request.users if by_pseudonym else workspace.pseudonymiser().many(request.users)
    is_held_out = globally_held_out(names, settings.holdout_share, settings.holdout_salt)
    for position, name in enumerate(names):
        variant = held_out if is_held_out[position] else variant_of(running, name) if running else None
        groups.setdefault(variant, []).append(position)
    slates: dict[int, Slate] = {}
    for variant, positions in groups.items():
        treatment = variant.treatment if variant else Treatment()
        recommender = recommender_of(treatment.model) if treatment.model else serving
        if recommender is None:
            variant, treatment, recommender = None, Treatment(), serving
        explore_share = settings.explore_share if treatment.explore_share is None else treatment.explore_share
        weight = request.popularity_weight if treatment.popularity_weight is None else treatment.popularity_weight
        changes = {
            "users": tuple(request.users[position] for position in positions),
            "personal": request.personal and treatment.personal,
            "popularity_weight": weight,
            "explore_share": request.explore_share or explore_share,
            "explore_pool": settings.explore_pool,
        }
        of_group = request.model_copy(update=changes)
        experiment = GLOBAL_HOLDOUT if variant is held_out else running.name if running and variant else None
        for position, slate in zip(positions, recommender.recommend(of_group, rng=rng), strict=True):
            if slate.status in (SlateStatus.PERSONAL, SlateStatus.TEXT_ONLY, SlateStatus.HOLDOUT):
                slate = replace(slate, experiment=experiment, variant=variant.name if variant else None)
            slates[position] = slate
    return [slates[position] for position in range(len(request.users))]


def experiment_outcome(workspace: Workspace, name: str) -> ExperimentOutcome:
    """Variants against the control until the present or the experiment's end, over people who may be counted (purpose
    analytics).

    Raises `UnknownIdError` for an unknown experiment.
    """
    experiment = find_experiment(workspace, name)
    until = experiment.ended_at or utc(present(workspace))
    since = (experiment.started_at or until) - timedelta(days=COVARIATE_DAYS) - JUST_BEFORE
    events = workspace.gate().events(Purpose.ANALYTICS, since=since).filter(pl.col("timestamp") <= until)
    persons = people_shown(events, name)
    by_variant = {v.name: persons.filter(pl.col("variant") == v.name) for v in experiment.variants}

    def values(metric: str) -> dict[str, Values]:
        answer = ANSWER_COLUMNS.get(Metric(metric))
        columns = (answer, "showings") if answer else (metric, pl.lit(1.0), f"{metric}_before")
        return {
            name: people_values(*rows.select(pl.col(c) if isinstance(c, str) else c for c in columns).to_numpy().T)
            for name, rows in by_variant.items()
        }

    report, people = None, {name: rows.height for name, rows in by_variant.items()}
    if any(people.values()):
        report = analyse(experiment, values(experiment.metric), (experiment.guard and values(experiment.guard)) or None)
    days = (until - (experiment.started_at or until)) / timedelta(days=1)
    return ExperimentOutcome(experiment=experiment.document(), until=until, people=people, days=days, report=report)


def people_shown(events: pl.DataFrame, experiment: str) -> pl.DataFrame:
    """One row per person of an experiment: variant, showings, the answers to them, purchases and revenue since the
    first showing, and purchases_before and revenue_before in the `COVARIATE_DAYS` before it."""
    of_experiment = events.filter(pl.col("experiment") == experiment).select("user_id").unique()
    events = events.join(of_experiment, on="user_id", how="semi", maintain_order="left")
    showings = showings_with_answers(events).filter(pl.col("experiment") == experiment)
    persons = showings.group_by("user_id", maintain_order=True).agg(
        pl.col("variant").first(),  # at random, so it is the same on all of them
        pl.len().alias("showings"),
        pl.col(*ANSWER_COLUMNS.values()).sum(),
        first_at=pl.col("timestamp").min(),
    )
    paid = (pl.col("price") * pl.col("quantity")).fill_null(0.0).alias("paid")
    bought = events.filter(pl.col("event") == Action.PURCHASE).select("user_id", "timestamp", paid)
    bought = bought.join(persons.select("user_id", "first_at"), on="user_id")
    is_after = pl.col("timestamp") > pl.col("first_at")
    is_just_before = pl.col("timestamp") > pl.col("first_at") - timedelta(days=COVARIATE_DAYS)
    after = bought.filter(is_after).group_by("user_id")
    before = bought.filter(~is_after, is_just_before).group_by("user_id")
    persons = persons.join(after.agg(purchases=pl.len(), revenue=pl.sum("paid")), on="user_id", how="left")
    earlier = before.agg(purchases_before=pl.len(), revenue_before=pl.sum("paid"))
    persons = persons.join(earlier, on="user_id", how="left")
    return persons.with_columns(pl.col("^(purchases|revenue).*$").fill_null(0))


def reported_experiment(outcome: ExperimentOutcome, figures: FigureGate) -> ExperimentOutcome:
    """With the figures that a caller gets: no comparison while a variant is below the floor."""
    floor = 0 if figures.caller is None else figures.part_floor
    people = {name: n if n is not None and n >= floor else None for name, n in outcome.people.items()}
    report = outcome.report if None not in people.values() else None
    if report is not None and not figures.is_exact:
        comparisons = tuple(
            replace(
                comparison,
                metric=_reported_effect(comparison.metric, figures),
                guard=comparison.guard and _reported_effect(comparison.guard, figures),
            )
            for comparison in report.comparisons
        )
        report = replace(report, comparisons=comparisons)
        people = {name: n and figures.people(n, name) for name, n in people.items()}
    return replace(outcome, people=people, report=report)


def _reported_effect(effect: Effect, figures: FigureGate) -> Effect:
    """The same with noise on the treatment's value, and half of it on the control's."""
    fixed, always = (i.around(effect.difference) for i in (effect.interval, effect.always_valid_interval))
    difference = figures.interval(fixed, "effect").value
    control = figures.amount(effect.control, (fixed.high - fixed.low) / 4, "control")
    fixed, always = (figures.moved(i, difference) for i in (fixed, always))
    return replace(
        effect,
        control=control,
        treatment=control + difference,
        difference=difference,
        relative_difference=difference / control if control else float("nan"),
        interval=Interval(fixed.low, fixed.high),
        always_valid_interval=Interval(always.low, always.high),
        verdict=effect.verdict if always.excludes_zero else Verdict.UNDECIDED,
    )
