"""Commands that train and measure."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, Seed, WorkspaceDir
from recllm.cli.output import emit_json, note, say


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(evaluate)


@contextmanager
def progress_lines() -> Iterator[None]:
    """Where nobody watches a terminal: what is logged of training and measuring, a line a step, on standard error.

    A terminal has its bars instead.
    """
    if sys.stderr.isatty():
        yield
        return
    package, handler = logging.getLogger("recllm"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def train(
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    windows: Annotated[int | None, typer.Option(min=1, help="Past windows to learn from.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most rounds; stops earlier by itself.")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Fine-tune the text encoder on the log first.")] = False,
    lora_r: Annotated[int | None, typer.Option(min=1, help="Rank of the adapter; its alpha is twice that.")] = None,
    lora_steps: Annotated[int | None, typer.Option(min=1, help="Most steps; stops earlier by itself.")] = None,
    lora_minutes: Annotated[float | None, typer.Option(help="Most minutes of fine-tuning.")] = None,
    lora_lr: Annotated[float | None, typer.Option(help="Learning rate of the adapter.")] = None,
    lora_loss: Annotated[str | None, typer.Option(help="window, in-batch or bce.")] = None,
    report_to: Annotated[str, typer.Option(help="Trackers of the fine-tuning, with commas.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; the fastest otherwise.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train the scorer on the purchases of people who agreed, and publish it as the current model.

    Without --windows and --epochs it does what `recllm advise` proposes.
    """
    from recllm.jobs.train import train_workspace
    from recllm.settings import LoraSettings
    from recllm.workspace.workspace import Workspace

    arguments: dict[str, Any] = {
        name: value for name, value in (("n_windows", windows), ("epochs", epochs)) if value is not None
    }
    if lora:
        options = {
            "rank": lora_r,
            "alpha": 2.0 * lora_r if lora_r else None,
            "max_steps": lora_steps,
            "max_minutes": lora_minutes,
            "learning_rate": lora_lr,
            "loss": lora_loss,
            "report_to": tuple(t.strip() for t in report_to.split(",") if t.strip()) or None,
            "device": device,
            "seed": seed,
        }
        lora_settings = {name: value for name, value in options.items() if value is not None}
        arguments |= {"progress": note, "lora": LoraSettings.model_validate(lora_settings)}
    with Workspace.open(workspace) as shop, progress_lines():
        done = train_workspace(shop, seed=seed, **arguments)
    if json:
        emit_json(done)
    else:
        say(f"model {done.model_version}: {done.rows:,} rows, {done.seconds:.0f} s")
        say(*(f"  {name} {value:.4f}" for name, value in done.metrics.items()))


def evaluate(
    workspace: Annotated[Path | None, typer.Option("-w", "--workspace", help="Measure on a workspace's log.")] = None,
    data: Annotated[Path | None, typer.Option(help="Measure on a folder of parquet tables.")] = None,
    split: Annotated[str, typer.Option(help="time, or column: the split column of the tables.")] = "time",
    test_days: Annotated[int, typer.Option(min=1, help="Length of the test window at the end of the log.")] = 28,
    slices: Annotated[
        str, typer.Option("--slice", help="ALL, NEW, COLD, MASKED, UNMASKED with commas; the split's own otherwise.")
    ] = "",
    baselines: Annotated[
        str, typer.Option(help="Which baselines, with commas; 'all' for every one.")
    ] = "random,popular,popular-recent,personal-frequency,bm25,zero-shot",
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the JSON report here.")] = None,
    json: Json = False,
) -> None:
    """Rank the whole catalogue for everyone who bought in a held-out window, beside baselines, with intervals."""
    from recllm.jobs.train import evaluate_data

    with progress_lines():
        report = evaluate_data(
            workspace=workspace,
            data=data,
            split=split,
            test_days=test_days,
            slices=tuple(s.strip().upper() for s in slices.split(",") if s.strip()),
            baselines=tuple(b.strip() for b in baselines.split(",") if b.strip()),
            seed=seed,
        )
    if output:
        report.write(output)
    if json:
        emit_json(report.document())
    else:
        say(report.table())
