"""What is asked of a prediction, in fields that every door shares."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from recllm.base.documents import Question
from recllm.base.questions import Ids


class PredictionKind(StrEnum):
    """What can be predicted of a person."""

    BUY = "buy"
    LEAVE = "leave"
    REDEEM = "redeem"
    NEXT_ORDER = "next-order"
    VALUE = "value"


class PredictionQuestion(Question):
    """What people will do within a horizon."""

    kind: PredictionKind
    """buy, leave, redeem, next-order or value."""
    horizon_days: Annotated[int, Field(ge=1)] = 28
    """Days to look ahead."""
    items: Ids = ()
    """Only purchases of these item ids count; all when empty."""
    category: str | None = None
    """Only purchases of this category count: a name, or a path "a > b"."""
    active_days: Annotated[int, Field(ge=1)] | None = None
    """leave: who bought within this many days is active; 91 when left out."""
    explain: bool = True
    """Whether each person gets the reasons."""
