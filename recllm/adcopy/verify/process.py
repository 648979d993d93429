"""G15, G16, G18: what holds of the way a text came about, and not of its words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from recllm.adcopy.record import CopyRecord
from recllm.adcopy.verify.case import Fault
from recllm.schema import AdCopy, Check


def reproducible(record: CopyRecord) -> Iterator[Fault]:
    """G15: everything that made the text is kept, and the record is as it was written."""
    for name in ("text", "generator", "generator_sha256", "template_version", "lists_sha256", "request"):
        if not getattr(record, name):
            yield Fault(f"the record lacks {name}")
    if record.id != record.digest():
        yield Fault("the record was changed after it was written", record.id)


def answered(copy: AdCopy, *, seconds: float, deadline: float) -> Iterator[Fault]:
    """G16: a verified text came back within `deadline` seconds, whatever became of the generator."""
    if not copy.verified:
        yield Fault("no verified text came back", copy.text)
    if seconds > deadline:
        yield Fault(f"the text took {seconds:.1f} s of {deadline:.1f}")


def approvable(checks: Iterable[Check], *, warnings: int, by: str | None, auto: bool = False) -> Iterator[Fault]:
    """G18: a text is approved by a person, or by a campaign's `auto` when no rule warns; a failed one by nobody."""
    if failed := next((c for c in checks if not c.passed), None):
        yield Fault(f"fails {failed.guarantee}: {failed.message}", failed.span)
    if not (by or "").strip():
        if not auto:
            yield Fault("nobody approved it")
        elif warnings:
            yield Fault(f"{warnings} warnings need a person; auto approves texts without any")
