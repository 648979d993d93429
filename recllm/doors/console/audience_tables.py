"""Tables that pages of items and campaigns share: who is left out, what sets a group apart, what the checks said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from recllm.base.schema import AdCopy, Check
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.doors.console.pages import Visit
from recllm.doors.console.tables import CellKind, ConsoleTable, TableCell, TableColumn, TableRow
from recllm.market.audiences.reasons import AudienceTrait


def count_cell(visit: Visit, n: int | None, *, is_estimate: bool = False) -> TableCell:
    """A number of people; below the floor the page says so, and the cell of the file is empty. None is no figure: few
    people, or no budget; of an estimate, few people."""
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

    def row(reason: str, n: int | None) -> TableRow:
        text = visit.words.label(f"left_out.{reason}", reason.replace("_", " "))
        return TableCell(value=reason, text=text), count_cell(visit, n, is_estimate=is_estimate)

    return ConsoleTable(
        name=name,
        title=visit.say("items.excluded"),
        columns=(
            TableColumn(name="reason", label=visit.say("items.reason")),
            TableColumn(name="people", label=visit.say("items.people"), kind=CellKind.NUMBER),
        ),
        rows=[row(reason, n) for reason, n in excluded],
    )


def traits_table(visit: Visit, traits: Sequence[AudienceTrait | Mapping[str, Any]]) -> ConsoleTable | None:
    """What a group has more of than others; None where nothing may be named. traits: `AudienceTrait`s, or as mappings
    in a campaign's plan."""
    rows = []
    for trait in traits:
        fields: Mapping[str, Any] = trait if isinstance(trait, Mapping) else asdict(trait)
        lift = ConfidenceInterval(fields["lift"], fields["low"], fields["high"])
        name = TableCell(value=fields["name"], text=visit.words.basic(fields["name"]))
        rows.append((name, fields["share"], fields["share_of_rest"], lift))
    if not rows:
        return None
    share = CellKind.SHARE
    return ConsoleTable(
        name="traits",
        title=visit.say("items.apart"),
        columns=(
            TableColumn(name="trait", label=visit.say("items.trait")),
            TableColumn(name="share", label=visit.say("items.of_them"), kind=share),
            TableColumn(name="share_of_others", label=visit.say("items.of_rest"), kind=share),
            TableColumn(name="ratio", label=visit.say("items.ratio"), kind=CellKind.NUMBER, digits=1, is_ranged=True),
        ),
        rows=rows,
    )


def checks_table(visit: Visit, channel: str, text: AdCopy) -> ConsoleTable:
    """What each guarantee said of a text."""

    def row(check: Check) -> tuple[TableCell, ...]:
        words = visit.say(f"check.{check.guarantee}", rule=check.guarantee)
        result = visit.say("items.yes" if check.passed else "items.fails")
        return (
            TableCell(value=check.guarantee, text=words, remark=check.guarantee),
            TableCell(value=check.passed, text=result, remark=check.message),
            TableCell(value=check.message),
        )

    return ConsoleTable(
        name=f"checks-{channel}",
        title=f"{visit.say('items.texts')}: {channel}",
        columns=(
            TableColumn(name="check", label=visit.say("items.check")),
            TableColumn(name="passed", label=visit.say("items.result")),
            TableColumn(name="message"),
        ),
        rows=[row(check) for check in text.checks],
    )
