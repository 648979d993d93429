"""How channels measure a text: code points, display width, UTF-16 units, GSM 7-bit septets."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping

GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENDED = frozenset("^{}\\[~]|€\f")
"""These take an escape septet before their own."""

UCS2_LIMIT = 70
"""UTF-16 units in a single short message that holds any character outside GSM 7 bit."""

_WIDE = {"W", "F"}


def codepoints(text: str) -> int:
    return len(text)


def width(text: str) -> int:
    """East Asian wide and full-width characters count 2, combining marks 0, all others 1."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in _WIDE else 1 for c in text)


def utf16(text: str) -> int:
    """UTF-16 units: characters beyond the basic plane, such as most emoji, count 2."""
    return len(text.encode("utf-16-le")) // 2


def is_gsm7(text: str) -> bool:
    return all(c in GSM_BASIC or c in GSM_EXTENDED for c in text)


def septets(text: str) -> int:
    """GSM 7-bit septets. Raises `ValueError` for a character outside the alphabet."""
    if not is_gsm7(text):
        outside = next(c for c in text if c not in GSM_BASIC and c not in GSM_EXTENDED)
        raise ValueError(f"{outside!r} is not in the GSM 7-bit alphabet")
    return sum(2 if c in GSM_EXTENDED else 1 for c in text)


def segments(text: str) -> int:
    """Short messages that a text is sent as: 160 septets or 70 UTF-16 units alone, 153 or 67 in each part of several.

    3GPP TS 23.040: a part gives 7 septets, or 3 units, to the header that joins the parts. A character that takes two
    places is never split over two parts.
    """
    gsm = is_gsm7(text)
    sizes = [len(GSM_EXTENDED & {c}) + 1 if gsm else utf16(c) for c in text]
    alone, joined = (160, 153) if gsm else (UCS2_LIMIT, 67)
    if sum(sizes) <= alone:
        return 1
    parts, used = 1, 0
    for size in sizes:
        if used + size > joined:
            parts, used = parts + 1, 0
        used += size
    return parts


COUNTERS: Mapping[str, Callable[[str], int]] = {"codepoints": codepoints, "width": width, "utf16": utf16}


def room(text: str, limit: int, counter: str) -> tuple[int, int]:
    """(length, limit) of `text`. One foreign character turns a whole short message into UTF-16, which halves it."""
    if counter == "sms":
        return (septets(text), limit) if is_gsm7(text) else (utf16(text), UCS2_LIMIT)
    return COUNTERS[counter](text), limit
