"""Commands that prepare: advice before training, an encoder exported for fast serving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recllm.cli.options import Json
from recllm.cli.output import emit_json, say, table
from recllm.documents import plain

if TYPE_CHECKING:
    from recllm.training.advise import Advice

encoder = typer.Typer(help="Encoders on disk.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(advise)
    encoder.command("export")(export)
    app.add_typer(encoder, name="encoder")


def advise(
    workspace: Annotated[Path | None, typer.Option("-w", "--workspace", help="Advice for a workspace's log.")] = None,
    data: Annotated[Path | None, typer.Option(help="Advice for a folder of parquet tables.")] = None,
    encoder: Annotated[str | None, typer.Option(help="An encoder that is decided on.")] = None,
    json: Json = False,
) -> None:
    """What to train on this log and machine, why, and what it will cost; `train` without settings follows it."""
    from recllm.jobs.train import advise_data

    advice = advise_data(workspace=workspace, data=data, encoder=encoder)
    if json:
        emit_json(advice)
    else:
        _print_advice(advice)


def _print_advice(advice: Advice) -> None:
    survey, cost = advice.survey, advice.cost
    say(
        f"{advice.mode}: about {cost.minutes:.1f} minutes on one core and {cost.memory_gib:.1f} GiB",
        f"  {survey.people:,} people, {survey.items:,} items, {survey.events:,} events over {survey.span_days:.0f} "
        f"days; {survey.distinct_texts:,} distinct texts of about {survey.tokens_median:.0f} tokens",
        f"  minutes: encode {cost.encode_minutes:.1f}, lora {cost.lora_minutes:.1f}, scorer {cost.scorer_minutes:.1f}, "
        f"sequence model at most {cost.sequence_minutes:.1f} "
        f"({cost.source})",
    )
    say(*(f"missing: {line}" for line in advice.missing))
    rows = [[c.name, ", ".join(c.value) if isinstance(c.value, list) else str(c.value), c.rule] for c in advice.choices]
    say(*table(rows, ("setting", "value", "because")))
    say(*(f"note: {line}" for line in advice.notes))


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
    if json:
        emit_json(exported)
        return
    load = f"load_encoder({str(exported.folder)!r}, precision='auto')"
    say(f"{exported.folder}: {exported.name}; {load} takes {exported.auto_precision} here")
    for precision, parity in plain(exported.parity).items():
        size = f"{exported.bytes[precision] / 1e6:.0f} MB" if precision in exported.bytes else "left out: too far off"
        say(f"  {precision}: cosine {parity['lowest']:.5f} at least over {parity['texts']} texts, {size}")
    if exported.gain is not None:
        say(f"  int8 is {exported.gain:.1f} times as fast as float32 on this machine")
