"""Commands that train, measure and publish models."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from recllm.base.documents import plain
from recllm.base.errors import NothingToDo, UsageError
from recllm.doors.cli.options import (
    Answer,
    Seed,
    Shop,
    document_lines,
    note,
    write_audit,
)
from recllm.text.log_lines import LogFormatter


@contextmanager
def progress_lines() -> Iterator[None]:
    """Without a terminal, which has bars: logs each step of training and measuring on standard error."""
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
    names = ("mode", "time", "survey", "missing", "choices", "notes")
    return Answer(advice, document_lines({name: plain(getattr(advice, name)) for name in names}))


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
    return Answer(done)


def retrain(
    shop: Shop,
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Only when drift, age or an erasure ask for it; exit code 3 otherwise.")
    ] = False,
) -> Answer:
    """Train a challenger with the active model's recipe, and activate it if it is not worse on the latest window."""
    from recllm.market.experiments.slates import treatment_models
    from recllm.recommend.evaluation.retrain import RetrainOutcome
    from recllm.recommend.evaluation.retrain import retrain as retrain_workspace

    with progress_lines():
        progress, needed = note if sys.stderr.isatty() else None, treatment_models(shop)
        report = retrain_workspace(shop, if_due=if_due, needed=needed, progress=progress)
    problem = None
    if report.challenger is None:
        why = "no check asks for a retraining"
        if report.outcome is RetrainOutcome.TOO_EARLY:
            why = "the log grew too little since the last training (retraining.min_days)"
        problem = NothingToDo(f"{why}: model {report.parent} stays active; without --if-due it is trained anyway")
    return Answer(report, problem=problem)


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


def models(
    *,
    promote: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Verify and activate it; previous: the one before.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Also a version that the gate refused.")] = False,
    shop: Shop,
) -> Answer:
    """Published versions, oldest first, with origin and the verdict of the gate; or another one serves."""
    from recllm.recommend.evaluation.retrain import model_history
    from recllm.recommend.recommender.registry import promote as serve_version
    from recllm.recommend.recommender.registry import rollback

    if promote is not None:
        folder = shop.models_dir
        serving = rollback(folder) if promote == "previous" else serve_version(folder, promote, force=force)
        write_audit(shop, "model_promoted", version=serving)
        return Answer({"serving": serving})
    history = model_history(shop)
    rows = [
        {
            "version": record.version,
            "published": record.created_at.isoformat()[:19],
            "MB": record.megabytes,
            "origin": record.lineage and record.lineage.origin,
            "serves": record.serves,
            "gate": plain(record.lineage and record.lineage.gate and record.lineage.gate.reasons),
            "usable until": record.taint and record.taint.use_until[:10],
        }
        for record in history.versions
    ]
    missing = f"no model was published; train one with: recllm train -w {shop.root}"
    problem = None if rows else NothingToDo(missing)
    return Answer(history, document_lines({"models": rows}), problem=problem)


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
        return Answer({"serving": refresh_model(shop, progress=note)})
    report = build_index(shop, progress=note)
    in_use = f'it is in use while workspace.toml says so: kind = "{report.kind}" below [item_index]'
    return Answer(report, notes=[in_use])
