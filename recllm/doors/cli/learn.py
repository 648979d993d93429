"""Commands that train and measure: advice, training, evaluation, the published models, an encoder for fast serving."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.base.errors import NothingToDo, UsageError
from recllm.doors.cli.options import (
    Answer,
    Seed,
    Shop,
    fields_table,
    note,
    table,
    write_audit,
)
from recllm.text.log_lines import LogFormatter

if TYPE_CHECKING:
    from recllm.recommend.evaluation.retrain import RetrainReport


@contextmanager
def progress_lines() -> Iterator[None]:
    """Without a terminal, which has bars: logs training and measuring on standard error, a line for each step."""
    package = logging.getLogger("recllm")
    if sys.stderr.isatty() or package.isEnabledFor(logging.INFO):  # -v shows them already
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def advise(
    shop: Shop,
    encoder: Annotated[str | None, typer.Option(help="An encoder that is decided on.")] = None,
) -> Answer:
    """What to train on this log and machine, why, and the order of time; `train` without settings follows it."""
    from recllm.recommend.recommender.train import workspace_advice

    advice = workspace_advice(shop, encoder=encoder)
    survey = advice.survey
    rows = [[c.name, ", ".join(c.value) if isinstance(c.value, list) else str(c.value), c.rule] for c in advice.choices]
    lines = [
        f"{advice.mode}: {advice.time}",
        f"  {survey.people:,} people, {survey.items:,} items, {survey.events:,} events over {survey.span_days:.0f} "
        f"days; {survey.distinct_texts:,} distinct texts",
        *(f"missing: {line}" for line in advice.missing),
        *table(rows, ("setting", "value", "because")),
        *(f"note: {line}" for line in advice.notes),
    ]
    return Answer(advice, lines)


def train(
    shop: Shop,
    lora: Annotated[
        bool,
        typer.Option("--lora", help="Fine-tune the text encoder first; settings: lora."),
    ] = False,
    seed: Seed = 0,
) -> Answer:
    """Train the scorer on the purchases of customers with consent, and publish it as the current model. Settings that
    are not set follow `recllm advise`."""
    from recllm.learn.training.lora.examples import LoraArguments
    from recllm.recommend.recommender.train import train_workspace

    arguments: dict[str, Any] = {}
    if lora:
        arguments = {"progress": note, "lora": LoraArguments.model_validate({"seed": seed})}
    with progress_lines():
        done = train_workspace(shop, seed=seed, **arguments)
    write_audit(shop, "model_trained", version=done.model_version)
    lines = [f"model {done.model_version}: {done.rows:,} rows, {done.seconds:.0f} s"]
    lines += [f"  {name} {value:.4f}" for name, value in done.metrics.items()]
    return Answer(done, [*lines, *(f"  note: {line}" for line in done.notes)])


def retrain(
    shop: Shop,
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Only when drift, age or an erasure ask for it; exit code 3 otherwise.")
    ] = False,
    seed: Seed = 0,
) -> Answer:
    """Train a challenger with the active model's recipe, and activate it if it is not worse on the latest window."""
    from recllm.market.experiments.slates import treatment_models
    from recllm.recommend.evaluation.retrain import RetrainOutcome
    from recllm.recommend.evaluation.retrain import retrain as retrain_workspace

    with progress_lines():
        progress, needed = note if sys.stderr.isatty() else None, treatment_models(shop)
        report = retrain_workspace(shop, if_due=if_due, seed=seed, needed=needed, progress=progress)
    problem = None
    if report.challenger is None:
        why = "no check asks for a retraining"
        if report.outcome is RetrainOutcome.TOO_EARLY:
            why = "the log grew too little since the last training (retraining.min_days)"
        problem = NothingToDo(f"{why}: model {report.parent} stays active; without --if-due it is trained anyway")
    return Answer(report, _retrain_lines(report), problem=problem)


def _retrain_lines(report: RetrainReport) -> list[str]:
    cells = [
        (check.kind.value, check.verdict.value, name, f.value, f.low, f.high, f.lower_limit, f.upper_limit)
        for check in report.checks
        for name, f in check.figures.items()
    ]
    lines = table(cells, ("check", "verdict", "figure", "value", "low", "high", "at least", "at most"))
    if (gate := report.gate) is not None:
        lines += ["", f"judged on {gate.window_start[:10]} to {gate.window_end[:10]}, which the challenger never saw"]
        if gate.serving_seen_days:
            lines.append(f"the serving model had learned from {gate.serving_seen_days:.1f} of these days: an advantage")
        lines += fields_table(gate.comparisons, "slice metric people challenger serving difference low high")
    if report.challenger is not None:
        reasons = "judged by no gate" if gate is None else ", ".join(gate.reasons)
        lines += ["", f"model {report.challenger}: {report.outcome.value} ({reasons})"]
    return [*lines, *(f"removed: {version}" for version in report.removed), f"{report.seconds:.0f} s"]


def evaluate(
    shop: Shop,
    split: Annotated[
        str, typer.Option(help="time: the last days; leave-one-out: the last purchase of each person.")
    ] = "time",
    test_days: Annotated[int, typer.Option(min=1, help="Length of the test window at the end of the log.")] = 28,
    slices: Annotated[
        str, typer.Option("--slice", help="ALL, NEW, COLD, MASKED, UNMASKED with commas; the split's own otherwise.")
    ] = "",
    baselines: Annotated[
        str, typer.Option(help="Which baselines, with commas; 'all' for every one.")
    ] = "random,popular,popular-recent,personal-frequency,zero-shot",
    k: Annotated[str, typer.Option("--k", help="Lengths of the lists, with commas, e.g. 5,10,20.")] = "20",
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the JSON report here.")] = None,
) -> Answer:
    """Rank the whole catalogue for the buyers of a held-out window, and compare with baselines, with intervals.

    Slices of --split leave-one-out: MASKED leaves out what a person bought before, UNMASKED does not.
    """
    from recllm.recommend.evaluation.shop_evaluation import evaluate_workspace

    try:
        ks = [int(length) for length in k.split(",")]
    except ValueError:
        raise UsageError(f"--k is {k!r}; give lengths of lists with commas, such as 5,10,20") from None

    with progress_lines():
        report = evaluate_workspace(
            shop,
            split=split,
            test_days=test_days,
            slices=tuple(s.strip().upper() for s in slices.split(",") if s.strip()),
            baselines=tuple(b.strip() for b in baselines.split(",") if b.strip()),
            ks=ks,
            seed=seed,
        )
    if output:
        report.write(output)
    return Answer(report.document(), [report.table()])


def list_models(shop: Shop) -> Answer:
    """Published versions, oldest first, with origin and the verdict of the gate."""
    from recllm.recommend.evaluation.retrain import model_history

    history = model_history(shop)
    cells = []
    for record in history.versions:
        lineage = record.lineage
        gate = lineage.gate if lineage else None
        state = "serves" if record.serves else gate.verdict.value if gate and gate.verdict == "refused" else ""
        origin, reasons = lineage.origin.value if lineage else "", ", ".join(gate.reasons) if gate else ""
        until = record.taint.use_until[:10] if record.taint else ""
        named = (record.version, record.created_at[:19], record.megabytes)
        cells.append((*named, origin, state, reasons, until))
    heads = ("version", "published", "MB", "origin", "", "gate", "usable until")
    missing = f"no model was published; train one with: recllm train -w {shop.root}"
    return Answer(history, table(cells, heads), problem=None if cells else NothingToDo(missing))


def promote(
    shop: Shop,
    version: Annotated[
        str | None, typer.Argument(help="As `recllm models list` names it; the one before the serving one otherwise.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also a version that the gate refused.")] = False,
) -> Answer:
    """Verify and activate a version; without VERSION the one before the active one. It skips refused versions."""
    from recllm.recommend.recommender.registry import promote as serve_version
    from recllm.recommend.recommender.registry import rollback

    folder = shop.models_dir
    serving = rollback(folder) if version is None else serve_version(folder, version, force=force)
    write_audit(shop, "model_promoted", version=serving)
    return Answer({"serving": serving}, [f"model {serving} serves"])


def refresh(
    *,
    index: Annotated[bool, typer.Option("--index", help="Instead: build the index of item vectors.")] = False,
    shop: Shop,
) -> Answer:
    """Bring all counts of the current model up to the present, without training. --index is for catalogues too large to
    compare every item."""
    from recllm.recommend.recommender.shop_index import build_index
    from recllm.recommend.recommender.shop_recommender import refresh as refresh_model

    if not index:
        version = refresh_model(shop, progress=note)
        return Answer({"serving": version}, [f"model {version} serves"])
    report = build_index(shop, progress=note)
    lines = [
        f"{report.kind} index of model {report.model_version}: {report.items:,} items, {report.mib:.0f} MiB, "
        f"{report.seconds:.0f} s",
        f'  it is in use while workspace.toml says so: kind = "{report.kind}" below [item_index]',
    ]
    return Answer(report, lines)
