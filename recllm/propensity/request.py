"""What is asked of a prediction. A request says at once what is wrong in it, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from recllm.errors import UsageError
from recllm.propensity.coupons import Coupons


class PredictionKind(StrEnum):
    """What can be predicted of a person."""

    BUY = "buy"
    LEAVE = "leave"
    REDEEM = "redeem"
    NEXT_ORDER = "next-order"
    VALUE = "value"

    @classmethod
    def named(cls, name: str) -> PredictionKind:
        """Raises `UsageError` for another name than these."""
        if name not in set(cls):
            raise UsageError(f"what can be predicted is {', '.join(cls)}, not {name!r}")
        return cls(name)


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """Raises `UsageError` for a horizon below a day, and for what does not fit the kind."""

    kind: PredictionKind
    horizon_days: int = 28
    items: tuple[str, ...] = ()
    """Only purchases of these item ids count; all when empty."""
    category: str | None = None
    """Only purchases of this category count: a name, or a path "a > b"."""
    active_days: int | None = None
    """`LEAVE` alone: who bought within so many days is active; 91 when None."""
    coupons: Path | Coupons | None = None
    """`REDEEM` alone, and needed there: the coupon tables or their folder, see `recllm.propensity.coupons`."""
    campaign: str | None = None
    """`REDEEM` alone: its id; the latest when None."""
    basics: bool = False
    """Whether what people told of themselves is used: on Complete Journey it adds nothing."""
    explain: bool = True
    locale: str = "en"
    """Language of the reasons."""
    seed: int = 0

    def __post_init__(self) -> None:
        leave, redeem = PredictionKind.LEAVE, PredictionKind.REDEEM
        kinds = {"active_days": leave, "coupons": redeem, "campaign": redeem}
        unfit = [name for name, kind in kinds.items() if getattr(self, name) is not None and kind != self.kind]
        if unfit:
            raise UsageError(f"{', '.join(unfit)} is not for the kind {self.kind}")
        if self.horizon_days < 1:
            raise UsageError(f"a horizon of {self.horizon_days} days: give at least 1")
        if self.active_days is not None and self.active_days < 1:
            raise UsageError(f"active within {self.active_days} days: give at least 1")
        if self.items and self.category is not None:
            raise UsageError("a prediction is of items or of a category: give one of them")
        if self.targeted and self.kind == leave:
            raise UsageError("leaving is about any purchase; use buy for --item and --category")
        if self.targeted and self.kind == redeem:
            raise UsageError("redeem is about a campaign's own products; leave out --item and --category")
        if self.coupons is None and self.kind == redeem:
            raise UsageError(
                "redeem needs coupon tables: give --coupons FOLDER with mailings, products and redemptions"
            )

    @property
    def targeted(self) -> bool:
        """Whether only some items count."""
        return bool(self.items) or self.category is not None
