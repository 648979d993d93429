"""Commands of experiments: start one, see what may be said of it, end it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.base.errors import UsageError
from recllm.doors.cli.options import Json, WorkspaceDir, open_shop, write_audit
from recllm.doors.cli.output import show, table

if TYPE_CHECKING:
    from recllm.base.stats.intervals import Interval

Name = Annotated[str, typer.Argument(help="The experiment's name.")]


def start(
    name: Name,
    variant: Annotated[
        list[str],
        typer.Option(
            "--variant",
            help="NAME:WEIGHT, or NAME:WEIGHT:setting=value,... with model, personal, popularity_weight or "
            "explore_share; the first is the control.",
        ),
    ],
    metric: Annotated[str, typer.Option(help="clicks, conversions, dismissals, purchases or revenue.")] = "clicks",
    guard: Annotated[str, typer.Option(help="What no variant may raise, or none.")] = "dismissals",
    *,
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Split people by lot between ways to make their slates, from now on."""
    from recllm.market.experiments.slates import Metric, start_experiment
    from recllm.shop.workspace.audit import AuditAction

    try:
        compared_on, guarded = Metric(metric), None if guard == "none" else Metric(guard)
    except ValueError as error:
        raise UsageError(f"{error}; metrics are {', '.join(Metric)}") from None
    variants = dict(_variant(text) for text in variant)
    if len(variants) < len(variant):
        raise UsageError("two variants have one name; give each its own")
    with open_shop(workspace) as shop:
        stored = start_experiment(shop, name, variants, metric=compared_on, guard=guarded)
        write_audit(shop, AuditAction.EXPERIMENT_STARTED, experiment=name)
    document = stored.document()
    lines = [f"{name} runs since {document['started_at']}: {', '.join(v['name'] for v in document['variants'])}"]
    show(document, lines, json=json)


def _variant(text: str) -> tuple[str, tuple[float, Any]]:
    from recllm.market.experiments.slates import Treatment

    name, _, weighted = text.partition(":")
    weight, _, settings = weighted.partition(":")
    values: dict[str, Any] = {}
    try:
        for pair in filter(None, settings.split(",")):
            setting, _, value = pair.partition("=")
            values[setting] = value if setting == "model" else _number_or_flag(value)
        return name, (float(weight), Treatment(**values))
    except ValueError:
        raise UsageError(f"--variant {text!r}: give NAME:WEIGHT or NAME:WEIGHT:setting=value, e.g. new:0.5") from None


def _number_or_flag(value: str) -> float | bool:
    return {"true": True, "false": False}[value] if value in ("true", "false") else float(value)


def list_all(workspace: Path, json: bool) -> None:
    """Shows all experiments with their variants."""
    from recllm.market.experiments.slates import list_experiments

    with open_shop(workspace) as shop:
        documents = [stored.document() for stored in list_experiments(shop)]
    rows = [
        (
            *(document["name"], ", ".join(f"{v['name']} {v['weight']:g}" for v in document["variants"])),
            *(document["metric"], document["guard"] or ""),
            *(document["started_at"] or "", document["ended_at"] or "runs"),
        )
        for document in documents
    ]
    show({"experiments": documents}, table(rows, ["name", "variants", "metric", "guard", "start", "end"]), json=json)


def report(
    *,
    name: Annotated[str | None, typer.Argument(help="The experiment's name; a list of all when left out.")],
    model: Annotated[
        str | None,
        typer.Option(help="Instead: what this version would have brought, from slates that explored."),
    ],
    metric: Annotated[str, typer.Option(help="Of --model: clicks, conversions or dismissals.")] = "clicks",
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Variants against the control, with intervals that may be looked at every day."""
    from recllm.market.experiments.slates import experiment_outcome

    if model is not None:
        estimate(model, metric, workspace, json)
        return
    if name is None:
        list_all(workspace, json)
        return
    with open_shop(workspace) as shop:
        outcome = experiment_outcome(shop, name)
    people = ", ".join(f"{variant} {n:,}" for variant, n in outcome.people.items())
    lines = [f"{name}: {outcome.days:.1f} days; people: {people}"]
    if outcome.report is None:
        lines.append("nobody was shown anything in it yet")
    else:
        lines.append(f"people by variant: {outcome.report.sample_ratio.verdict.value}")
        rows = []
        for comparison in outcome.report.comparisons:
            effects = {"metric": comparison.metric, "guard": comparison.guard}
            for role, effect in effects.items():
                if effect is not None:
                    interval = effect.always_valid_interval
                    rows.append(
                        (
                            *(comparison.variant, outcome.experiment[role], f"{effect.control:.4g}"),
                            *(f"{effect.treatment:.4g}", f"{effect.difference:+.4g}"),
                            *(f"{interval.low:+.4g} to {interval.high:+.4g}", effect.verdict.value),
                        )
                    )
        heads = ["variant", "metric", "control", "variant's", "difference", "always valid", "verdict"]
        lines += table(rows, heads)
    show(outcome, lines, json=json)


def stop(name: Name, *, workspace: WorkspaceDir, json: Json) -> None:
    """End an experiment: everybody gets the serving model again."""
    from recllm.market.experiments.slates import stop_experiment
    from recllm.shop.workspace.audit import AuditAction

    with open_shop(workspace) as shop:
        stored = stop_experiment(shop, name)
        write_audit(shop, AuditAction.EXPERIMENT_STOPPED, experiment=name)
    show(stored.document(), [f"{name} ended"], json=json)


MAX_REQUESTS = 2_000
"""Logged slates that an estimate uses at most: more take minutes, and narrow its interval little."""


def estimate(model: str, metric: str, workspace: Path, json: bool) -> None:
    """Shows what a model would have brought, from slates that explored."""
    import numpy as np
    from tqdm import tqdm

    from recllm.market.experiments.off_policy import estimate_model
    from recllm.market.experiments.slates import Metric
    from recllm.recommend.recommender.saved_model import load_model
    from recllm.recommend.recommender.shop_recommender import model_encoder

    if metric not in set(Metric):
        raise UsageError(f"--metric is one of {', '.join(Metric)}, not {metric!r}")
    bar = tqdm(unit=" slates", disable=None)
    with open_shop(workspace) as shop, bar:
        loaded = load_model(shop.models_dir, model)
        outcome = estimate_model(
            shop,
            loaded,
            model_encoder(shop, loaded),
            metric=Metric(metric),
            max_requests=MAX_REQUESTS,
            rng=np.random.default_rng(0),
            progress=lambda n: bar.update(n - bar.n) and None,
        )
    rows = [
        (name, f"{value.value:.5f}", _ends(value.interval), f"{value.outside_support:.0%}")
        for name, value in (("this model", outcome.candidate), ("shown until now", outcome.serving))
    ]
    lines = table(rows, ["estimate", f"{metric} per item", "95 %", "outside of the log"])
    lines.append(
        f"difference {outcome.difference:+.5f} ({_ends(outcome.difference_interval)}), {outcome.requests} slates"
    )
    show(outcome, lines, json=json)


def _ends(interval: Interval | None) -> str:
    return "too few answers" if interval is None else f"{interval.low:+.5f} to {interval.high:+.5f}"
