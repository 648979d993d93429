"""E-mail, links, handles and addresses of machines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import AddressValueError, IPv6Address

from recllm.text.finders.patterns import Span, matches, pattern, text_after, text_before, word_set


def emails(text: str) -> Iterator[Span]:
    if "@" in text or "%40" in text or ("&" in text and pattern("email.sign").search(text)):
        for match in pattern("email.plain").finditer(text):
            local, _, host = match[0].partition(" @")
            is_handle = host[:1].isalpha() and local.lower() in word_set("email.networks")  # IG @ann.bakes
            if match["top"].lower() not in word_set("email.no_hosts") and not is_handle:
                yield match.span()
        yield from (match.span() for match in pattern("email.letters").finditer(text))
    if any(matches("email.hidden", text)):
        yield from hidden_emails(text)


def hidden_emails(text: str) -> Iterator[Span]:
    """Those whose signs are in words, in brackets, or other signs."""
    for match in pattern("email.spoken").finditer(text):
        last = match["local"].split()[-1].lower()
        is_labelled = pattern("email.label").search(text_before(match, 20)) is not None
        has_sign = re.search(r"[\d._+-]| dot | punkt | punto | point ", match["local"].lower()) is not None
        is_host_spelled = match["dot"] != "."
        if last not in word_set("email.no_locals") and (is_labelled or has_sign or is_host_spelled):
            yield match.span()
    for match in pattern("email.stand_in").finditer(text):
        explanation = pattern("email.stand_in_told").search(text_after(match, 20))
        if explanation or pattern("email.label").search(text_before(match, 20)):
            yield match.span()
    for name in ("email.spelled", "email.disguised", *(("email.local",) if "@" in text else ())):
        for match in pattern(name).finditer(text):
            if match[0].split()[0].lower() not in word_set("email.no_locals"):
                yield match.span()


def links(text: str) -> Iterator[Span]:
    for match in pattern("handle.link").finditer(text) if "/" in text else ():
        yield match.start(), match.start() + len(match[0].rstrip(".,;:!?"))


def handles(text: str) -> Iterator[Span]:
    if "@" in text:
        for name in ("handle.at", "handle.at_han"):
            for match in pattern(name).finditer(text):
                if name == "handle.at_han" or is_mention(text, match.start(), match["name"]):
                    yield match.start("name") - (name == "handle.at"), match.end()
    for name in ("handle.owned", "handle.reddit"):
        yield from (match.span("name") for match in matches(name, text))
    for match in matches("handle.labelled", text):
        group = next(name for name in ("name", "name_zh", "number") if match[name])
        value = match[group].rstrip(".-")
        is_word = value.isalpha() and value[1:].islower() and group == "name"
        if is_word and re.match(r" (?:[a-z]{3}|[A-Z] )", text_after(match, 4)):  # discord: teal purple
            continue
        if value.lower() not in word_set("handle.no_handles") and not (is_word and match[0].lower().startswith("line")):
            yield match.start(group), match.start(group) + len(value)


def is_mention(text: str, start: int, name: str) -> bool:
    """True for "@ann_s" and "@annsmith", False for "@Brighton Pier", but after a word such as "follow"."""
    if not name.isalpha():
        return True
    is_place = name.istitle() or name.isupper() or name in word_set("handle.at_words")
    return not is_place or pattern("handle.at_label").search(text[max(0, start - 24) : start]) is not None


def ip_addresses(text: str) -> Iterator[Span]:
    for match in pattern("ip.v6").finditer(text) if ":" in text else ():
        # A colon before it may be that of a label.
        start = match.start() + (match[0].startswith(":") and not match[0].startswith("::"))
        address = text[start : match.end()]
        try:
            IPv6Address(address)
        except AddressValueError:
            continue
        groups = [group for group in address.split(":") if group]
        before = text_before(match, 24)
        if (
            (len(groups) > 1 and any(len(group) > 2 for group in groups))
            or address == "::1"
            or pattern("ip.label").search(before)
        ):
            yield start, match.end()
    for match in pattern("ip.v4").finditer(text) if pattern("ip.dotted").search(text) else ():
        parts = [int(piece) for piece in match[0].split(".")]
        if is_of_every_network(parts):
            continue
        before = text_before(match, 24)
        label = max((match.end() for match in pattern("ip.label").finditer(before)), default=0)
        version = pattern("ip.version").search(before)
        is_version = pattern("ip.version_after").search(text_after(match, 14)) is not None
        if label and (version is None or label > version.end() - len(version[0]) + 3):
            is_version = False
        elif (version and parts[0] < 100) or max(parts) < 10:
            is_version = True
        elif parts[0] < _MAX_VERSION:  # a field of a line of a log is none of a version
            is_version = not pattern("ip.field").search(text_before(match, 2))
        if not is_version:
            yield match.span()
    for match in pattern("ip.hidden").finditer(text) if not text.isalnum() else ():
        parts = [int(piece) for piece in re.findall(r"\d+", match[0])]
        if max(parts) < 256 and not is_of_every_network(parts):
            yield match.span()


_MAX_VERSION = 40
"""Four numbers of which the first is lower are a version, unless a word says that they are an address."""


def is_of_every_network(parts: Sequence[int]) -> bool:
    """True for IPv4 addresses that all networks have: private, loopback, link-local, multicast, and masks."""
    first, second = parts[:2]
    is_private = first == 10 or (first, second) == (192, 168) or (first == 172 and 16 <= second < 32)
    return is_private or first in (0, 127) or first >= 224 or (first, second) == (169, 254)
