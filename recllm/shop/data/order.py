"""Logs without times, which have only the order of each person's events.

An earlier version loaded them into workspaces, which go on: a step of a person counts as `Dataset.step_seconds`. What
needs real time (seasons, intervals, "two weeks ago") is neither learned nor said.
"""

from __future__ import annotations

from recllm.base.errors import UsageError

HORIZON_DAYS = 28
"""Days of a step where histories are short, so that the latest window to learn from holds a step of each person."""


def refuse_steps(step_seconds: int | None, what: str) -> None:
    """Raises `UsageError` in a log without times. step_seconds: of the `Dataset`. what: the subject, in the plural."""
    if step_seconds is not None:
        raise UsageError(
            f"{what} need times, and this log has only an order; load a log with times into a workspace of its own"
        )
