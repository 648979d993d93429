"""Clean files with known defects planted in them: what a load has to find, line by line."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Cells = dict[str, str]

NO_USER = ("", "NaN", "null", "N/A", "-", "  ", f"u1_{26 * 'A'}")
UNSEEN = "\u200b\u202e\u2066\ufe0f\u034f\u3164\u2800"
DEFECTS: Mapping[str, tuple[str, Callable[[Cells, random.Random], None]]] = {
    "no user": ("E_NO_USER", lambda c, r: c.update(user=r.choice(NO_USER))),
    "no item": ("E_NO_ITEM", lambda c, r: c.update(item=r.choice(["", "   "]))),
    "unseen character": ("E_CTRL_CHAR", lambda c, r: c.update(item=c["item"] + r.choice(UNSEEN) + "x")),
    "overlong id": ("E_TOO_LONG", lambda c, r: c.update(item="z" * r.randint(257, 400))),
    "bad time": (
        "E_TIMESTAMP",
        lambda c, r: c.update(time=r.choice(["", "soon", "2011-13-45 10:00", "2011-02-30 10:00"])),
    ),
    "old time": (
        "E_TS_RANGE",
        lambda c, r: c.update(time=r.choice(["1970-01-01 00:00", "20023-01-01 10:00", "45123"])),
    ),
    "future": ("E_FUTURE", lambda c, r: c.update(time=f"20{r.randint(60, 99)}-05-01 10:00")),
    "bad quantity": ("E_NUMBER", lambda c, r: c.update(quantity=r.choice(["six", "1x", "--3", "NaN", "inf"]))),
    "zero quantity": ("E_ZERO_QTY", lambda c, r: c.update(quantity=r.choice(["0", "0.0" if c["dot"] else "0,0"]))),
    "bad price": ("E_NUMBER", lambda c, r: c.update(price=r.choice(["free", "2..5", "#REF!"]))),
    "negative price": ("E_NEG_PRICE", lambda c, r: c.update(price="-9" + c["price"])),
    "absurd price": ("E_PRICE_RANGE", lambda c, r: c.update(price="99000000000")),
}
"""Twelve kinds: the code that each must get and how it is planted."""

LINE_DEFECTS: Mapping[str, str] = {
    "field too many": "E_FIELD_COUNT",
    "field too few": "E_FIELD_COUNT",
    "open quote": "E_QUOTE",
    "header again": "E_REPEATED_HEADER",
}
"""Defects of the whole line; with them a file's neighbours stay clean."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a file is written."""

    header: tuple[str, ...] = ("user_id", "item_id", "timestamp", "quantity", "price", "basket_id")
    delimiter: str = ","
    decimal: str = "."
    newline: str = "\n"


@dataclass(frozen=True, kw_only=True)
class Dirty:
    """The text and the code that each bad line must get; lines count from 1, the header is line 1."""

    text: str
    codes: Mapping[int, str]
    clean: tuple[int, ...]
    """Positions in the rows that were given, of those left as they were."""
    kinds: Mapping[str, int] = field(default_factory=dict)


def plant(
    rows: list[tuple[str, str, str, str, str, str]], style: Style, per_kind: int, seed: int, *, whole_lines: bool = True
) -> Dirty:
    """Spoil `per_kind` of `rows` (user, item, time, quantity, price, basket; decimal points) for every kind."""
    rng = random.Random(seed)
    kinds = [*DEFECTS, *(LINE_DEFECTS if whole_lines else ())]
    chosen = rng.sample(range(len(rows)), per_kind * len(kinds))
    spoiled = {position: kinds[n % len(kinds)] for n, position in enumerate(chosen)}
    out, codes, clean = [style.delimiter.join(style.header)], {}, []
    for position, row in enumerate(rows):
        kind = spoiled.get(position)
        if kind is None:
            clean.append(position)
        else:
            codes[len(out) + 1] = LINE_DEFECTS[kind] if kind in LINE_DEFECTS else DEFECTS[kind][0]
        out.append(_line(row, kind, style, rng))
    count = {kind: per_kind for kind in kinds}
    return Dirty(text=style.newline.join(out) + style.newline, codes=codes, clean=tuple(clean), kinds=count)


def _line(row: tuple[str, ...], kind: str | None, style: Style, rng: random.Random) -> str:
    user, item, time, quantity, price, basket = row
    point = style.decimal == "."
    cells = {"user": user, "item": item, "time": time, "basket": basket, "dot": "yes" if point else ""}
    cells |= {"quantity": quantity, "price": price if point else price.replace(".", ",")}
    if kind in DEFECTS:
        DEFECTS[kind][1](cells, rng)
    ordered = [cells[n] for n in ("user", "item", "time", "quantity", "price", "basket")]
    if kind == "open quote":
        ordered[1] = '"' + ordered[1]
    line = style.delimiter.join(ordered)
    if kind == "field too many":
        return line + style.delimiter + "9"
    if kind == "field too few":
        return line.rsplit(style.delimiter, 2)[0]
    return style.delimiter.join(style.header) if kind == "header again" else line
