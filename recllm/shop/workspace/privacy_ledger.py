"""The privacy budget that private trainings of a workspace have spent: privacy_budget.jsonl, and its hard limit.

A line is on the disk before a training begins: a killed training is paid for, because some of it may have been seen.
Epsilons and deltas are added up (sequential composition), which holds however later trainings were chosen; composing
the privacy losses themselves would be tighter. Lines are only ever added.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recllm.base.documents import FrozenModel, Positive, Text, plain
from recllm.base.errors import PolicyError, StoreError, UsageError
from recllm.base.files import PRIVATE, lock_file, sync_folder
from recllm.base.settings import PrivateTrainingSettings

LEDGER_FILE = "privacy_budget.jsonl"
LOCK_FILE = ".privacy_budget.lock"

_ROUNDING = 1 + 1e-9
"""Sums of shares may exceed the whole by their rounding."""


class PrivacySpending(FrozenModel):
    """One line: a training that was begun."""

    run: Text
    at: Text
    """ISO 8601, UTC."""
    epsilon: Positive
    delta: Positive
    mechanisms: tuple[dict[str, Any], ...]
    """Of each of its parts: noise, sampling rate, steps, see `training.private.accounting.PrivateMechanism`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyBudget:
    """What was spent, and may be in all."""

    trainings: int
    epsilon: float
    delta: float
    total_epsilon: float
    total_delta: float

    @property
    def epsilon_left(self) -> float:
        """At least 0, as is `delta_left`."""
        return max(0.0, self.total_epsilon - self.epsilon)

    @property
    def delta_left(self) -> float:
        return max(0.0, self.total_delta - self.delta)


class PrivacyLedger:
    def __init__(self, root: Path) -> None:
        self.path = root / LEDGER_FILE
        self._lock = root / LOCK_FILE

    def spendings(self) -> tuple[PrivacySpending, ...]:
        """All lines, oldest first. Raises `StoreError` for a damaged one, which leaves the spent budget unknown."""
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.path} cannot be read ({error}); put back a copy of it") from error
        lines = []
        for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
            try:
                lines.append(PrivacySpending(**json.loads(line)))
            except (ValueError, TypeError, UsageError) as error:
                raise StoreError(
                    f"{self.path}, line {number}: damaged, so what private trainings spent is not known; put back a "
                    "copy of the file, or write the line by hand, as the dearest training that it can have been"
                ) from error
        return tuple(lines)

    def budget(self, limits: PrivateTrainingSettings, n_users: int) -> PrivacyBudget:
        """What was spent of these limits. n_users: without a limit of delta it is 1 / n_users."""
        spendings = self.spendings()
        return PrivacyBudget(
            trainings=len(spendings),
            epsilon=sum(s.epsilon for s in spendings),
            delta=sum(s.delta for s in spendings),
            total_epsilon=limits.total_epsilon,
            total_delta=1 / max(n_users, 1) if limits.total_delta is None else limits.total_delta,
        )

    def spend(
        self,
        epsilon: float,
        delta: float,
        mechanisms: Sequence[Mapping[str, Any] | FrozenModel],
        limits: PrivateTrainingSettings,
        n_users: int,
    ) -> PrivacySpending:
        """Pay for a training that begins right after; the line is on the disk when this returns.

        Raises `PolicyError` where it would exceed the budget, and then writes nothing; `StoreError` for a ledger that
        is damaged or cannot be written.
        """
        with lock_file(self._lock):
            budget = self.budget(limits, n_users)
            over_epsilon = budget.epsilon + epsilon > budget.total_epsilon * _ROUNDING
            if over_epsilon or budget.delta + delta > budget.total_delta * _ROUNDING:
                raise PolicyError(_refusal(budget, epsilon, delta, over_epsilon=over_epsilon))
            spending = PrivacySpending(
                run=uuid.uuid4().hex,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                epsilon=epsilon,
                delta=delta,
                mechanisms=tuple(plain(mechanism) for mechanism in mechanisms),
            )
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
                with os.fdopen(descriptor, "ab") as stream:
                    stream.write((json.dumps(plain(spending)) + "\n").encode())
                    stream.flush()
                    os.fsync(stream.fileno())
                sync_folder(self.path.parent)
            except OSError as error:
                raise StoreError(
                    f"cannot write {self.path} ({error.strerror}), so no private training begins; free some space or "
                    "correct the folder's permissions"
                ) from error
        return spending


def _refusal(budget: PrivacyBudget, epsilon: float, delta: float, *, over_epsilon: bool) -> str:
    spent = (
        f"the privacy budget is used up: {budget.trainings} trainings spent epsilon {budget.epsilon:.4g} of "
        f"{budget.total_epsilon:.4g} and delta {budget.delta:.3g} of {budget.total_delta:.3g}; this one would spend "
        f"epsilon {epsilon:.4g} and delta {delta:.3g}, and nothing was trained. "
    )
    if over_epsilon:
        cheaper = (
            f"Train with --set privacy.epsilon={budget.epsilon_left:.3g} or less" if budget.epsilon_left >= 0.05 else ""
        )
        limit = "total_epsilon"
    else:
        cheaper = f"Set privacy.delta to {budget.delta_left:.2g} or less" if budget.delta_left else ""
        limit = "total_delta"
    raised = f"aise privacy.{limit}, which weakens the promise to all people in the log"
    return spent + (f"{cheaper}, or r{raised}" if cheaper else f"R{raised}")
