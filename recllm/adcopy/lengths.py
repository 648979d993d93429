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


COUNTERS: Mapping[str, Callable[[str], int]] = {"codepoints": codepoints, "width": width, "utf16": utf16}


def room(text: str, limit: int, counter: str) -> tuple[int, int]:
    """(length, limit) of `text`. One foreign character turns a whole short message into UTF-16, which halves it."""
    if counter == "sms":
        return (septets(text), limit) if is_gsm7(text) else (utf16(text), UCS2_LIMIT)
    return COUNTERS[counter](text), limit
