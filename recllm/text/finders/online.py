"""E-mail, links, handles and addresses of machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv6Address

from recllm.text.finders.patterns import Span, pattern, word_set


def emails(text: str) -> Iterator[Span]:
    if "@" in text or "&" in text:
        for match in pattern("email.plain").finditer(text):
            if match["top"].lower() not in word_set("email.no_hosts"):
                yield match.span()
    for match in pattern("email.spoken").finditer(text):
        last = match["local"].split()[-1].lower()
        is_labelled = pattern("email.label").search(text[max(0, match.start() - 20) : match.start()]) is not None
        has_sign = re.search(r"[\d._+-]| dot | punkt | punto | point ", match["local"].lower()) is not None
        is_host_spelled = match["dot"] != "."
        if last not in word_set("email.no_locals") and (is_labelled or has_sign or is_host_spelled):
            yield match.span()
    for name in ("email.spelled", "email.disguised", "email.local"):
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
                if name == "handle.at_han" or _is_mention(text, match.start(), match["name"]):
                    yield match.start("name") - (name == "handle.at"), match.end()
    for name in ("handle.owned", "handle.reddit"):
        yield from (match.span("name") for match in pattern(name).finditer(text))
    for match in pattern("handle.labelled").finditer(text):
        group = next(name for name in ("name", "name_zh", "number") if match[name])
        value = match[group].rstrip(".-")
        is_word = value.isalpha() and value.islower() and group == "name"
        if value.lower() not in word_set("handle.no_handles") and not (is_word and match[0].lower().startswith("line")):
            yield match.start(group), match.start(group) + len(value)


def _is_mention(text: str, start: int, name: str) -> bool:
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
        if not _is_ipv6(address):
            continue
        groups = [group for group in address.split(":") if group]
        before = text[max(0, match.start() - 24) : match.start()]
        if any(len(group) > 2 for group in groups) or address == "::1" or pattern("ip.label").search(before):
            yield start, match.end()
    for match in pattern("ip.v4").finditer(text):
        before = text[max(0, match.start() - 24) : match.start()]
        is_small = all(int(part) < 10 for part in match[0].split("."))
        label = max((match.end() for match in pattern("ip.label").finditer(before)), default=0)
        version = pattern("ip.version").search(before)
        is_version = pattern("ip.version_after").search(text[match.end() : match.end() + 14]) is not None
        if label and (version is None or label > version.end() - len(version[0]) + 3):
            is_version = False
        elif version or is_small:
            is_version = True
        if not is_version:
            yield match.span()


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
