"""The day's list: who should hear what, why, on which channel and at which hour."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recllm.base.errors import NothingToDo, UsageError
from recllm.base.schema import count_text
from recllm.doors.cli.options import (
    Csv,
    Explain,
    Ids,
    Json,
    ReasonLocale,
    WorkspaceDir,
    ids_by_pseudonym,
    open_shop,
    write_audit,
)
from recllm.doors.cli.output import note, show

if TYPE_CHECKING:
    from recllm.market.occasions.choose import OccasionList

MAX_PRINTED = 5
"""People of each occasion on a screen; --json and --csv hold all."""

CSV_COLUMNS = ("user_id", "occasion", "item_id", "title", "probability", "best_hour", "channel", "reasons")


def occasions(
    *,
    on: Annotated[str | None, typer.Option(metavar="DATE", help="The day, such as 2026-03-01; today when left out.")],
    workspace: WorkspaceDir,
    size: Annotated[int | None, typer.Option(min=0, help="People at most.")],
    explain: Explain,
    csv: Csv,
    ids: Ids,
    locale: ReasonLocale,
    json: Json,
) -> None:
    """Who should hear what on a day: due again, left in the cart, cheaper, back, new, long away, just come."""
    from recllm.base.documents import plain
    from recllm.market.occasions.day import find_occasions
    from recllm.shop.workspace.audit import AuditAction

    day = None if on is None else _day(on)
    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        listed = find_occasions(shop, day, size=size, explain=explain, locale=locale, progress=note)
        write_audit(shop, AuditAction.PEOPLE_LISTED, what="occasions", people=len(listed.people))
    document = plain(listed)
    for person in document["people"]:
        person["user_id"] = names.get(person["user_id"], person["user_id"])
    show(document, _lines(listed, names), json=json)
    if csv:
        write_occasions(listed, csv, names)
    if not listed.people:
        raise NothingToDo(f"nobody has an occasion on {listed.date}; {'; '.join(listed.notes) or 'nothing is due'}")


def write_occasions(listed: OccasionList, file: Path, names: dict[str, str]) -> None:
    """One line for each person; a cell that a spreadsheet would take for a formula is guarded."""
    from recllm.base.documents import guarded, write_csv

    rows = (
        (
            guarded(names.get(p.user_id, p.user_id)),
            p.occasion.value,
            guarded(p.item_id),
            guarded(p.title),
            "" if p.probability is None else f"{p.probability:.6f}",
            str(p.best_hour),
            p.channel or "",
            guarded(" ".join(reason.text for reason in p.reasons)),
        )
        for p in listed.people
    )
    write_csv(file, CSV_COLUMNS, rows)


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise UsageError(f"--on takes a day such as 2026-03-01, not {text!r}") from None


def _lines(listed: OccasionList, names: dict[str, str]) -> Iterator[str]:
    from recllm.market.audiences.audience import counts_in_words

    left_out = counts_in_words(listed.left_out) or "nobody"
    yield f"{listed.date}: {count_text(len(listed.people), 'person', 'people')}; left out: {left_out}"
    yield from (f"  note: {line}" for line in listed.notes)
    for occasion, n in listed.counts.items():
        if not n:
            continue
        yield ""
        yield f"{occasion}: {count_text(n, 'person', 'people')}"
        for person in [p for p in listed.people if p.occasion is occasion][:MAX_PRINTED]:
            chance = "" if person.probability is None else f"  {100 * person.probability:.0f} %"
            when = f"{person.channel} at {person.best_hour}:00"
            text = " ".join(reason.text for reason in person.reasons) or person.title or ""
            yield f"  {names.get(person.user_id, person.user_id)}{chance}  {when}  {text}"
