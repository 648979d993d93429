"""Tables that pages of campaigns share: people left out, traits of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from recllm.base.stats.intervals import ConfidenceInterval
from recllm.doors.console.pages import Visit
from recllm.doors.console.tables import ConsoleTable, TableCell
from recllm.market.audiences.reasons import AudienceTrait


def count_cell(visit: Visit, n: int | None, *, is_estimate: bool = False) -> TableCell:
    """A number of people; the page names the floor where it is below. None: no figure, or no budget."""
    floor = visit.figures.floor
    if n is None and not is_estimate:
        return TableCell(value=None, text=visit.say("items.untold", floor=floor))
    if n is None or 0 < n < floor:
        return TableCell(value=None, text=visit.say("home.fewer", floor=floor))
    return TableCell(value=n)


def excluded_table(
    visit: Visit, excluded: Sequence[tuple[str, int | None]], *, name: str = "left-out", is_estimate: bool = False
) -> ConsoleTable:
    """excluded: reason and people, in the order of the table."""
    rows = [
        (
            TableCell(value=reason, text=visit.words.label(f"left_out.{reason}", reason.replace("_", " "))),
            count_cell(visit, n, is_estimate=is_estimate),
        )
        for reason, n in excluded
    ]
    return visit.table(name, rows, of="left-out")


def left_out(excluded: Mapping[str, int | None]) -> list[tuple[str, int | None]]:
    """Reason and people, the largest first, and those without a figure last."""
    return sorted(((reason, n) for reason, n in excluded.items() if n != 0), key=lambda pair: -(pair[1] or 0))


def traits_table(visit: Visit, traits: Sequence[AudienceTrait | Mapping[str, Any]]) -> ConsoleTable | None:
    """What a group has more of than others; None where nothing may be named."""
    fields = [trait if isinstance(trait, Mapping) else asdict(trait) for trait in traits]
    rows = [
        (
            TableCell(value=trait["name"], text=visit.words.basic(trait["name"])),
            *(trait["share"], trait["share_of_rest"]),
            ConfidenceInterval(trait["lift"], trait["low"], trait["high"]),
        )
        for trait in fields
    ]
    return visit.table("traits", rows) if rows else None
