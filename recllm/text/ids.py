"""What may be a customer's id in a text of any format: cells, words, e-mail addresses and phone numbers, decoded.

A text cannot be searched for an id of which only the pseudonym is known. So every string in it that could be an id is
named, and the caller compares pseudonyms. Time and number of strings are linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode
from collections.abc import Iterator
from html import unescape
from urllib.parse import unquote

from recllm.text.finders.reading import plain_text

LAYERS = 4
"""Encodings inside one another that are taken off a text."""
LONGEST_ID = 256
TELLING_LENGTH = 7
"""A string of fewer characters, such as 4711, may stand in a text as a quantity or the number of an item."""

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});?")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrtbf])|(.))")
_QUOTED_PRINTABLE = re.compile(r"=(?=[0-9A-F]{2})")
_HEXADECIMAL = re.compile(r"(?:[0-9a-fA-F]{2}){8,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{8,}|[A-Za-z0-9_-]{8,}")
_AT = re.compile(r"\s{0,3}[\[({<]\s{0,3}(?:at|@)\s{0,3}[\])}>]\s{0,3}|\s{1,3}(?:at\s{1,3}|@\s{0,3})|@\s{1,3}", re.I)
_DOT = re.compile(r"\s{0,3}[\[({<]\s{0,3}(?:dot|punkt)\s{0,3}[\])}>]\s{0,3}|\s{1,3}dot\s{1,3}", re.I)

_SEPARATORS = tuple(map(re.compile, (r"[\t\r\n,;|\"]+", r"[^\w!#$%&*+/=?^~@.:\\-]+", r"[^\w@.+-]+", r"[\W_]+")))
"""Between cells, words, parts of addresses of the web, and the smallest pieces."""
_NUMBERS = re.compile(r"(?<!\d)(?:\d{1,4}([-/.])\d{1,2}\1\d{1,4}(?:T\d+)?|\d+(?:[:.]\d+)+)")
"""Dates, times and decimals, whose parts are no ids."""
_EDGES = "!#$%&*+/=?^~@.:\\-_'`"
_DOMAIN = re.compile(r"[^\W_](?:[^\W_]|[.-]){0,252}")
_TO_TOP_LEVEL = re.compile(r".*\.[^\W\d_]+")
_NEXT_SENTENCE = re.compile(r"(?:\.[A-Z][a-z]+)+$")
_PHONE = re.compile(r"(?<![A-Za-z0-9_])\+?\(?\d(?:[\s().\-/]{0,3}\d){6,18}(?![A-Za-z0-9_])")


def possible_ids(text: str) -> set[str]:
    """Every string in a text that may be an id; capitals as small letters too."""
    ids: set[str] = set()
    for reading in _readings(text):
        candidates = {*_pieces(reading), *_addresses(reading), *_phones(reading)}
        ids |= candidates | {candidate.lower() for candidate in candidates}
        ids |= {candidate.casefold() for candidate in candidates if not candidate.isascii()}
    return {some_id for some_id in ids if 0 < len(some_id) <= LONGEST_ID}


def is_telling(some_id: str) -> bool:
    """Whether a string stands in a text for nothing else than an id: an address, a phone number, or a long one."""
    return "@" in some_id or len(some_id) >= TELLING_LENGTH


def normal_ids(user_id: str) -> set[str]:
    """Spellings of an id of which one is among the `possible_ids` of a text with any spelling of it: small letters, the
    domain in ASCII, and of a phone number those with and without the country."""
    plain = _plain(user_id).strip().casefold()
    if _PHONE.fullmatch(plain):
        return _phone_spellings(re.sub(r"[^+\d]", "", plain.replace("(0)", "")))
    local, at, domain = plain.rpartition("@")
    return {f"{local}{at}{_ascii(domain)}"}


def _readings(text: str) -> dict[str, None]:
    """The text and what it decodes to, layer by layer."""
    readings, layer = {text: None}, [text]
    for _ in range(LAYERS):
        layer = list(dict.fromkeys(inner for outer in layer for inner in _decoded(outer) if inner not in readings))
        readings.update(dict.fromkeys(layer))
    return readings


def _decoded(text: str) -> Iterator[str]:
    yield _plain(text)
    yield _ESCAPE.sub(_unescaped, _ENTITY.sub(lambda entity: unescape(entity[0]), unquote(text)))
    yield unquote(_QUOTED_PRINTABLE.sub("%", text))
    yield unquote(text.replace("+", " "))
    yield _DOT.sub(".", _AT.sub("@", text))
    for content in (*map(bytes.fromhex, _HEXADECIMAL.findall(text)), *_unpacked(text)):
        if (unpacked := content.decode(errors="replace")).isprintable() and "\ufffd" not in unpacked:
            yield unpacked


def _plain(text: str) -> str:
    """Without full-width and unseen signs."""
    return plain_text(unicodedata.normalize("NFKC", text))[0]


def _unescaped(escape: re.Match[str]) -> str:
    code, byte, space, sign = escape.groups()
    return chr(int(code or byte, 16)) if code or byte else " " if space else sign


def _unpacked(text: str) -> Iterator[bytes]:
    """What stands in base64, between slashes as well."""
    runs: list[str] = _BASE64.findall(text)
    for packed in dict.fromkeys((*runs, *(piece for run in runs for piece in run.split("/")))):
        packed = packed[: len(packed) - (len(packed) % 4 == 1)]
        yield b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_" if set(packed) & set("-_") else None)


def _pieces(text: str) -> Iterator[str]:
    """The whole text, its cells, and what stands between separators of each kind, Chinese words among these."""
    cells, words, *smaller = _SEPARATORS
    yield from map(str.strip, (text, *cells.split(text), *re.split("[^!-~]+", text)))
    bare = _NUMBERS.sub(" ", text)
    for pieces in (words.split(text), *(separators.split(bare) for separators in smaller)):
        bare_pieces = [piece.strip(_EDGES) for piece in pieces]
        yield from (
            *bare_pieces,
            *(piece.removesuffix(".0") for piece in bare_pieces),
        )  # as spreadsheets write a number


def _addresses(text: str) -> Iterator[str]:
    """Round each @ what may be the address: from each sign on that could stand before it, to each end it may have."""
    for match in re.finditer("@", text):
        local = re.split(r"[\s@]", text[max(match.start() - 64, 0) : match.start()])[-1]
        domain = _DOMAIN.match(text, match.end())
        if not local or domain is None:
            continue
        starts = {local, *(local[sign.end() :] for sign in re.finditer(r"[^\w.-]", local))}
        starts |= {re.split(r"[^!-~]", local)[-1]}  # behind Chinese words there is no space
        starts |= {start.strip("._-") for start in starts}
        ends = {domain[0], _NEXT_SENTENCE.sub("", domain[0]), re.split(r"[^!-~]", domain[0])[0]}
        ends |= {top[0] for end in ends if (top := _TO_TOP_LEVEL.match(end))}
        ends |= {_ascii(end.casefold()) for end in ends}
        yield from (f"{start}@{end.rstrip('.-')}" for start in starts - {""} for end in ends)


def _ascii(domain: str) -> str:
    """A domain with other letters as name servers know it."""
    try:
        return domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        return domain


def _phones(text: str) -> Iterator[str]:
    """Numbers that are written in groups: all runs of neighbouring groups."""
    for match in _PHONE.finditer(text.replace("(0)", "")):
        groups = re.findall(r"\+?\d+", match[0])
        runs = ("".join(groups[n : m + 1]) for n in range(len(groups)) for m in range(n, len(groups)))
        for number in (run for run in runs if len(run) >= TELLING_LENGTH):
            yield from _phone_spellings(number)


def _phone_spellings(number: str) -> set[str]:
    """With each sign for abroad and without; of one with such a sign also that in its own country, whose code has one
    to three digits, and which has no 0 in front in North America."""
    bare = number.removeprefix("+").removeprefix("00")
    at_home = {f"0{bare[n:]}" for n in (1, 2, 3)} if bare != number else set()
    at_home |= {bare[1:]} if at_home and bare.startswith("1") else set()
    return {bare, f"+{bare}", f"00{bare}", *at_home}
