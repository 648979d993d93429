"""Commands that train and measure: advice, training, evaluation, the published models, an encoder for fast serving."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import Json, Seed, WorkspaceDir, open_shop, write_audit
from recllm.cli.output import note, show, table
from recllm.documents import plain
from recllm.errors import NothingToDo, UsageError
from recllm.jobs.engines import Engine
from recllm.text.log_lines import LogFormatter

if TYPE_CHECKING:
    from recllm.jobs.retrain import RetrainReport
    from recllm.recommender.lineage import CheckFigure
    from recllm.training.advise import Advice

Version = Annotated[str, typer.Argument(help="A version, as `recllm models list` names it.")]


@contextmanager
def progress_lines() -> Iterator[None]:
    """Where nobody watches a terminal: what is logged of training and measuring, a line a step, on standard error.

    A terminal has its bars instead.
    """
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
    workspace: Annotated[Path | None, typer.Option("-w", "--workspace", help="Advice for a workspace's log.")] = None,
    data: Annotated[Path | None, typer.Option(help="Advice for a folder of parquet tables.")] = None,
    encoder: Annotated[str | None, typer.Option(help="An encoder that is decided on.")] = None,
    json: Json = False,
) -> None:
    """What to train on this log and machine, why, and about how long it takes; `train` without settings follows it."""
    from recllm.jobs.train import advise_data

    advice = advise_data(workspace=workspace, data=data, encoder=encoder)
    show(advice, _advice_lines(advice), json=json)


def _advice_lines(advice: Advice) -> list[str]:
    survey = advice.survey
    rows = [[c.name, ", ".join(c.value) if isinstance(c.value, list) else str(c.value), c.rule] for c in advice.choices]
    return [
        f"{advice.mode}: {advice.time}",
        f"  {survey.people:,} people, {survey.items:,} items, {survey.events:,} events over {survey.span_days:.0f} "
        f"days; {survey.distinct_texts:,} distinct texts of about {survey.tokens_median:.0f} tokens",
        *(f"missing: {line}" for line in advice.missing),
        *table(rows, ("setting", "value", "because")),
        *(f"note: {line}" for line in advice.notes),
    ]


def train(
    workspace: WorkspaceDir,
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
    private: Annotated[
        bool | None,
        typer.Option("--private/--no-private", help="Under user-level differential privacy; as privacy.required says."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What this private training may tell of any one user; privacy.epsilon.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train the scorer on the purchases of people who agreed, and publish it as the current model.

    Without --windows and --epochs it does what `recllm advise` proposes.
    """
    from recllm.jobs.train import train_workspace
    from recllm.training.arguments import LoraArguments
    from recllm.workspace.audit import AuditAction

    arguments: dict[str, Any] = {
        name: value for name, value in (("n_windows", windows), ("epochs", epochs)) if value is not None
    }
    if lora:
        options = {
            "rank": lora_r,
            "max_steps": lora_steps,
            "max_minutes": lora_minutes,
            "learning_rate": lora_lr,
            "loss": lora_loss,
            "report_to": tuple(t.strip() for t in report_to.split(",") if t.strip()) or None,
            "device": device,
            "seed": seed,
        }
        lora_settings = {name: value for name, value in options.items() if value is not None}
        arguments |= {"progress": note, "lora": LoraArguments.model_validate(lora_settings)}
    with open_shop(workspace) as shop, progress_lines():
        done = train_workspace(shop, seed=seed, private=private, epsilon=epsilon, **arguments)
        write_audit(shop, AuditAction.MODEL_TRAINED, version=done.model_version)
    lines = [f"model {done.model_version}: {done.rows:,} rows, {done.seconds:.0f} s"]
    lines += [f"  {name} {value:.4f}" for name, value in done.metrics.items()]
    lines += [f"  note: {line}" for line in done.notes]
    show(done, lines, json=json)


def retrain(
    workspace: WorkspaceDir,
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Only when drift, calibration or age ask for it; exit code 3 otherwise.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a challenger with the serving model's recipe, and let it serve if it is not worse on the latest window."""
    from recllm.jobs.retrain import RetrainOutcome
    from recllm.jobs.retrain import retrain as retrain_workspace

    with open_shop(workspace) as shop, progress_lines():
        report = retrain_workspace(shop, if_due=if_due, seed=seed, progress=note if sys.stderr.isatty() else None)
    show(report, _retrain_lines(report), json=json)
    if report.challenger is None:
        why = "no check asks for a retraining"
        if report.outcome is RetrainOutcome.TOO_EARLY:
            why = "the log grew too little since the last training (retraining.min_days)"
        raise NothingToDo(f"{why}: model {report.parent} goes on serving; without --if-due it is done anyway")


def _retrain_lines(report: RetrainReport) -> list[str]:
    cells = [
        (check.kind.value, check.verdict.value, name, figure.value, _interval(figure), _limits(figure))
        for check in report.checks
        for name, figure in check.figures.items()
    ]
    lines = table(cells, ("check", "verdict", "figure", "value", "95 %", "limits"))
    if report.gate is not None:
        gate = report.gate
        rows = [
            (c.slice, c.metric, c.people, c.challenger, c.serving, f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]")
            for c in gate.comparisons
        ]
        lines += ["", f"judged on {gate.window_start[:10]} to {gate.window_end[:10]}, which the challenger never saw"]
        if gate.serving_seen_days:
            lines.append(f"the serving model had learned from {gate.serving_seen_days:.1f} of these days: an advantage")
        lines += table(rows, ("slice", "metric", "people", "challenger", "serving", "difference, 95 %"))
        lines += ["", f"model {report.challenger}: {report.outcome.value} ({', '.join(gate.reasons)})"]
    elif report.challenger is not None:
        lines += ["", f"model {report.challenger}: {report.outcome.value}, judged by no gate"]
    lines += [f"removed: {version}" for version in report.removed]
    return [*lines, f"{report.seconds:.0f} s"]


def _interval(figure: CheckFigure) -> str:
    return "" if figure.low is None or figure.high is None else f"[{figure.low:.4f}, {figure.high:.4f}]"


def _limits(figure: CheckFigure) -> str:
    low, high = figure.lower_limit, figure.upper_limit
    return "" if high is None else f"to {high:.4g}" if low is None else f"{low:.4g} to {high:.4g}"


def evaluate(
    workspace: Annotated[Path | None, typer.Option("-w", "--workspace", help="Measure on a workspace's log.")] = None,
    data: Annotated[Path | None, typer.Option(help="Measure on a folder of parquet tables.")] = None,
    split: Annotated[
        str,
        typer.Option(
            help="time; column: the split column, the files train, valid, test, or the published rows; leave-one-out: "
            "the last purchase of each person."
        ),
    ] = "time",
    test_days: Annotated[int, typer.Option(min=1, help="Length of the test window at the end of the log.")] = 28,
    slices: Annotated[
        str, typer.Option("--slice", help="ALL, NEW, COLD, MASKED, UNMASKED with commas; the split's own otherwise.")
    ] = "",
    baselines: Annotated[
        str, typer.Option(help="Which baselines, with commas; 'all' for every one.")
    ] = "random,popular,popular-recent,personal-frequency,bm25,zero-shot",
    k: Annotated[str, typer.Option("--k", help="Lengths of the lists, with commas, e.g. 5,10,20.")] = "20",
    candidates: Annotated[
        Path | None,
        typer.Option(help="A .parquet or .csv file of user_id (or row) and item_id: rank only these for each user."),
    ] = None,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the JSON report here.")] = None,
    json: Json = False,
) -> None:
    """Rank the whole catalogue for everyone who bought in a held-out window, beside baselines, with intervals.

    \b
    --data DIR is a folder of tables, each a .parquet or .csv file:
      interactions  user_id, item_id, timestamp (epoch seconds, ISO 8601 in CSV)
                    or order (0, 1, 2 ... of each person); where known event,
                    split (train, valid, test), quantity, price, basket_id
      train, test   instead of it, and valid where there is one: the parts of a
                    split that others made, with the same columns
      items         item_id, title, brand, category, description, price; may be
                    missing, as may all columns but the first
      users         user_id and what people told of themselves; may be missing
      eval_rows     published rows: split, row, user_id, history (item_ids, the
                    oldest first), target; may be missing

    Slices of --split column and leave-one-out: MASKED leaves out what a person bought before, UNMASKED does not.
    Systems that have finished are kept until the report is made: the same command goes on after an interruption.
    """
    from recllm.jobs.train import evaluate_data

    try:
        ks = [int(length) for length in k.split(",")]
    except ValueError:
        raise UsageError(f"--k is {k!r}; give lengths of lists with commas, such as 5,10,20") from None

    with progress_lines():
        report = evaluate_data(
            workspace=workspace,
            data=data,
            split=split,
            test_days=test_days,
            slices=tuple(s.strip().upper() for s in slices.split(",") if s.strip()),
            baselines=tuple(b.strip() for b in baselines.split(",") if b.strip()),
            ks=ks,
            candidates=candidates,
            seed=seed,
        )
    if output:
        report.write(output)
    show(report.document(), [report.table()], json=json)


def list_models(workspace: WorkspaceDir, json: Json) -> None:
    """Every published version, oldest first, which one serves, where each comes from and what the gate said."""
    from recllm.jobs.retrain import model_history

    with open_shop(workspace) as shop:
        history = model_history(shop)
    cells = []
    for record in history.versions:
        lineage = record.lineage
        gate = lineage.gate if lineage else None
        state = "serves" if record.serves else gate.verdict.value if gate and gate.verdict == "refused" else ""
        origin, reasons = lineage.origin.value if lineage else "", ", ".join(gate.reasons) if gate else ""
        privacy = f"epsilon {lineage.privacy.epsilon:.3g}" if lineage and lineage.privacy else ""
        until = record.taint.use_until[:10] if record.taint else ""
        named = (record.version, record.created_at[:19], record.megabytes)
        cells.append((*named, origin, state, reasons, privacy, until))
    heads = ("version", "published", "MB", "origin", "", "gate", "privacy", "usable until")
    lines = table(cells, heads) if cells else []
    show(history, lines, json=json)
    if not cells:
        raise NothingToDo(f"no model was published; train one with: recllm train -w {workspace}")


def promote(
    version: Version,
    workspace: WorkspaceDir,
    force: Annotated[bool, typer.Option("--force", help="Also one that the gate refused.")] = False,
    json: Json = False,
) -> None:
    """Let this version serve, after checking every byte of it."""
    from recllm.recommender.registry import promote as serve_version
    from recllm.workspace.audit import AuditAction

    with open_shop(workspace) as shop:
        serving = serve_version(shop.models_dir, version, force=force)
        write_audit(shop, AuditAction.MODEL_PROMOTED, version=serving)
    show({"serving": serving}, [f"model {serving} serves"], json=json)


def rollback(workspace: WorkspaceDir, json: Json) -> None:
    """Let the version before the serving one serve again; refused ones are passed over."""
    from recllm.recommender.registry import rollback as roll_back
    from recllm.workspace.audit import AuditAction

    with open_shop(workspace) as shop:
        serving = roll_back(shop.models_dir)
        write_audit(shop, AuditAction.MODEL_PROMOTED, version=serving)
    show({"serving": serving}, [f"model {serving} serves"], json=json)


def refresh(
    *,
    engine: Annotated[Engine, typer.Option(help="Who counts the log: as of recllm batch.")] = Engine.HERE,
    workers: Annotated[int, typer.Option(min=1, help="Processes, or actors of Ray.")] = 1,
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Count everything that the current model answers from anew, up to the present, without training."""
    from recllm.jobs.recommenders import refresh as refresh_model

    with open_shop(workspace) as shop:
        version = refresh_model(shop, engine=engine, workers=workers, progress=note)
    show({"serving": version}, [f"model {version} serves"], json=json)


def index(
    workspace: WorkspaceDir,
    kind: Annotated[
        str | None, typer.Option(help="faiss, pgvector or qdrant; item_index.kind of the settings else.")
    ] = None,
    json: Json = False,
) -> None:
    """Build the index of item vectors, or bring it up to date: for catalogues too large to compare every item.

    What is in use is the setting item_index.kind.
    """
    from recllm.jobs.item_index import build_index
    from recllm.settings import ItemIndexSettings

    with open_shop(workspace) as shop:
        index_kind = None if kind is None else ItemIndexSettings.model_validate({"kind": kind}).kind
        report = build_index(shop, index_kind, progress=note)
        in_use = shop.settings.item_index.kind
    lines = [
        f"{report.kind} index of model {report.model_version}: {report.items:,} items ({report.added:,} added, "
        f"{report.changed:,} changed, {report.removed:,} removed), {report.mib:.0f} MiB, {report.seconds:.0f} s",
        f"  finds {100 * report.recall:.1f} % of the 100 nearest in {report.ms:.1f} ms; comparing all takes "
        f"{report.exact_ms:.1f} ms",
    ]
    if in_use != report.kind:
        lines.append(f'  in use is {in_use}; to use it: kind = "{report.kind}" below [item_index] in workspace.toml')
    show(report, lines, json=json)


def export(
    folder: Annotated[Path, typer.Argument(help="Where the exported encoder goes; an earlier export is replaced.")],
    workspace: Annotated[
        Path | None, typer.Option("-w", "--workspace", help="Compare on this workspace's item texts; use its encoder.")
    ] = None,
    model: Annotated[str | None, typer.Option("--encoder", help="Hub id or folder; the default encoder else.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter to merge first.")] = None,
    int8: Annotated[bool, typer.Option(help="Also write int8, where its vectors are near enough.")] = True,
    json: Json = False,
) -> None:
    """Write an encoder for onnxruntime (extra onnx): three to four times as fast on a CPU, and without torch."""
    from recllm.jobs.train import export_encoder

    exported = export_encoder(folder, workspace=workspace, encoder=model, adapter=adapter, int8=int8)
    load = f"load_encoder({str(exported.folder)!r}, precision='auto')"
    lines = [f"{exported.folder}: {exported.name}; {load} takes {exported.auto_precision} here"]
    for precision, parity in plain(exported.parity).items():
        size = f"{exported.bytes[precision] / 1e6:.0f} MB" if precision in exported.bytes else "left out: too far off"
        lines.append(f"  {precision}: cosine {parity['lowest']:.5f} at least over {parity['texts']} texts, {size}")
    if exported.gain is not None:
        lines.append(f"  int8 is {exported.gain:.1f} times as fast as float32 on this machine")
    show(exported, lines, json=json)
