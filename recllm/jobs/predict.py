"""From a workspace to a prediction or an uplift: who may be learned from, who may be told about, and the present.

Learned from: people who agreed to model training. Told about: people who agreed to personalisation.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.errors import PolicyError, UsageError
from recllm.schema import Purpose
from recllm.workspace.clock import present

if TYPE_CHECKING:
    from recllm.propensity.prediction import Prediction
    from recllm.propensity.uplift.people import UpliftAnswer
    from recllm.workspace.workspace import Workspace


EXTRA = {"buy": (), "leave": ("active_days",), "redeem": ("coupons", "campaign"), "next-order": (), "value": ()}
"""What else each kind may be given."""


def predict_workspace(workspace: Workspace, kind: str, *, locale: str | None = None, **asked: Any) -> Prediction:
    """Predict everybody of a workspace. asked: fields of `recllm.propensity.Question`, `active_days` for
    leave, `coupons` (a folder, see `recllm.propensity.coupons`) and `campaign` for redeem.

    Raises `UsageError` for an unknown kind, `PolicyError` when nobody may be learned from, and what
    `recllm.propensity.predict` tells.
    """
    from recllm.propensity.coupons import Coupons
    from recllm.propensity.kinds import predict
    from recllm.propensity.prediction import Kind
    from recllm.propensity.question import Question

    if kind not in set(Kind):
        raise UsageError(f"what can be predicted is {', '.join(Kind)}, not {kind!r}")
    gate = workspace.gate()
    learn, ask = gate.dataset(Purpose.MODEL_TRAINING), gate.dataset(Purpose.PERSONALISATION)
    if not len(learn.events):
        raise PolicyError(
            "nobody in this workspace has agreed to model training; load a consent table, "
            "or make the workspace with --consent-default granted"
        )
    extra = {name: asked.pop(name) for name in EXTRA[kind] if name in asked}
    wrong = [name for names in EXTRA.values() for name in names if name in asked]
    if wrong:
        raise UsageError(f"{', '.join(wrong)} is not for the kind {kind}")
    if kind == Kind.REDEEM and extra.get("coupons") is not None:
        extra["coupons"] = Coupons.read(extra["coupons"], workspace.pseudonymiser().many)
    question = Question(
        learn=learn,
        ask=ask.before(present(workspace)),
        locale=locale or workspace.settings.locale,
        policy=workspace.policy,
        reasons=workspace.settings.prediction_reasons,
        **asked,
    )
    found = predict(Kind(kind), question, **extra)
    return found if kind == Kind.REDEEM else _with_the_others(workspace, found, ask.n_users)


def _with_the_others(workspace: Workspace, found: Prediction, asked: int) -> Prediction:
    """Everybody who is known and has not agreed to personalisation is counted among those left out."""
    with workspace.store().read() as reader:
        outside = reader.counts()["users"] - asked
    return found if outside <= 0 else replace(found, left_out={"no_consent": outside, **found.left_out})


def uplift_workspace(
    workspace: Workspace, file: Path, *, start: datetime, randomised: bool = False, learner: str = "x", seed: int = 0
) -> UpliftAnswer:
    """Everybody's uplift, learned from a trial's CSV. start: a time without a zone is UTC.

    Raises `PolicyError` for what is no trial, `UsageError` for an unknown learner, and what
    `recllm.propensity.uplift.people`
    tells.
    """
    from recllm.propensity.uplift.learners import Learner
    from recllm.propensity.uplift.people import read_trial, uplift_of

    if learner not in set(Learner):
        raise UsageError(f"a learner is one of {', '.join(Learner)}, not {learner!r}")
    began = start if start.tzinfo else start.replace(tzinfo=UTC)
    frame, gate = read_trial(file, workspace.pseudonymiser().many), workspace.gate()
    learn, ask = gate.dataset(Purpose.MODEL_TRAINING), gate.dataset(Purpose.PERSONALISATION)
    ask = ask.before(present(workspace))
    at = int(began.timestamp())
    return uplift_of(learn, ask, frame, at, randomised=randomised, learner=Learner(learner), seed=seed)
