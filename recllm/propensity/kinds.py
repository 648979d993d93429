"""One door to every kind of prediction."""

from __future__ import annotations

from typing import Any

from recllm.propensity.chance import predict_buy, predict_leave
from recllm.propensity.next_order import predict_next_order
from recllm.propensity.prediction import Kind, Prediction
from recllm.propensity.question import Question
from recllm.propensity.redeem import predict_redeem
from recllm.propensity.value import predict_value


def predict(kind: Kind, question: Question, **extra: Any) -> Prediction:
    """The answer of one kind. extra: `active_days` for `Kind.LEAVE`; `coupons` and `campaign` for `Kind.REDEEM`.

    Raises `UsageError` for a horizon below a day, or one that does not fit the kind; `DataError` for a log that is
    shorter than two horizons, too few people, or an outcome that always or never happened; `NothingToDo` for nobody to
    predict; `PolicyError` for a target of a sensitive category.
    """
    doors = {
        Kind.BUY: predict_buy,
        Kind.LEAVE: predict_leave,
        Kind.REDEEM: predict_redeem,
        Kind.NEXT_ORDER: predict_next_order,
        Kind.VALUE: predict_value,
    }
    return doors[kind](question, **extra)
