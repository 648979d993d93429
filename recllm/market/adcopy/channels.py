"""Where a text goes: the channels of `data/channels.toml` with their slots, limits and allowed characters, how they
measure length (code points, display width, septets or UTF-16 units of SMS), and what is added when a text leaves.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from recllm.base.errors import UsageError
from recllm.base.words.sentences import language
from recllm.market.adcopy.lexicon import fold, folded_pattern, limit, pattern, table

_GSM = limit("gsm7")
GSM_BASIC = frozenset(_GSM["basic"])
GSM_EXTENDED = frozenset(_GSM["extended"])
"""These take an escape septet before their own."""
CALL_TO_ACTION = "call_to_action"
"""The part of a text that asks for a step, where it stands in a paragraph of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One line of a text, or its last lines, such as a headline or a body."""

    name: str
    max: int
    counter: str
    """How length is measured: "codepoints", "width" or "sms"."""
    lines: bool = False
    """True when the slot may hold several lines; only the last slot of a channel may."""
    each_line: bool = False
    """True where the slot is a list of lines, and the limit is that of each; such slots are paragraphs of a text."""

    def length_and_limit(self, text: str) -> tuple[int, int]:
        """One foreign character turns a whole short message into UTF-16, which halves its limit."""
        if self.each_line and "\n" in text:
            return max(self.length_and_limit(line) for line in text.split("\n"))
        if self.counter == "sms" and not is_gsm7(text):
            return len(text.encode("utf-16-le")) // 2, _GSM["utf16"]["alone"]
        return {"codepoints": len, "width": width, "sms": septets}[self.counter](text), self.max

    def fits(self, text: str) -> bool:
        length, longest = self.length_and_limit(text)
        return length <= longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    name: str
    slots: tuple[Slot, ...]
    emoji: bool = True
    forbidden: str = ""
    """Characters that may not stand in a text."""
    headline_alone: bool = False
    """True where a single line that ends no sentence is the first slot, a headline."""
    title_only: bool = False
    """True where the text is a product's title: it holds facts only, and no words of a model."""
    segment_only: bool = False
    """True where a carrier takes approved templates only: one text for a whole segment, no words for a person."""
    closings: tuple[str, ...] = ()
    """One of these ends the text."""
    added: tuple[str, ...] = ()
    """Mandatory parts that code adds when a text leaves, by their names in data/mandatory.toml."""

    def split(self, text: str) -> list[tuple[Slot, str]]:
        """The slots of a text with what each holds.

        As many lines as slots: one each, surplus lines join the last slot. With fewer lines, the last one is still the
        last slot, so that a body or description can be judged alone; a headline alone is one (`headline_alone`).
        """
        if self.slots[0].each_line and "\n\n" in text:
            return list(zip(self.slots, text.split("\n\n", len(self.slots) - 1), strict=False))
        lines = text.split("\n")
        if self.headline_alone and len(lines) == 1 and not pattern("form.sentence_end").search(text):
            return [(self.slots[0], text)]
        head = min(len(lines), len(self.slots)) - 1
        body = "\n".join(lines[head:])
        return [*zip(self.slots[:head], lines[:head], strict=True), (self.slots[-1], body)]

    def joined(self, parts: Mapping[str, str]) -> str:
        """The text of these parts, by name of slot; `button` becomes the last paragraph."""
        text = ("\n\n" if self.slots[0].each_line else "\n").join(parts[slot.name] for slot in self.slots)
        return f"{text}\n\n{parts['button']}" if parts.get("button") else text

    def parts(self, text: str) -> dict[str, str]:
        """A text by its slots, and the last paragraph of several in the last slot as `call_to_action`."""
        parts = {slot.name: content.strip() for slot, content in self.split(text)}
        if self.slots[0].each_line:
            return parts
        body, gap, call = parts.get(self.slots[-1].name, "").rpartition("\n\n")
        return parts if not gap else parts | {self.slots[-1].name: body, CALL_TO_ACTION: call.strip()}


def channel_named(name: str) -> Channel:
    """Raises `UsageError` with the names of all channels for an unknown one."""
    if name not in channels():
        raise UsageError(f"unknown channel {name!r}; known: {', '.join(channels())}")
    return channels()[name]


def channel_written_for(name: str) -> Channel:
    """A channel for which texts to persons are written.
    Raises `UsageError` with the names of these for another one."""
    channel = channels().get(name)
    if channel is None or channel.segment_only:
        written = ", ".join(key for key, channel in channels().items() if not channel.segment_only)
        problem = "takes a carrier's approved templates for a whole segment only" if channel else "is no known channel"
        raise UsageError(f"{name!r} {problem}; texts are written for: {written}")
    return channel


@cache
def channels() -> Mapping[str, Channel]:
    form = TypeAdapter(dict[str, Channel])
    return form.validate_python({name: {"name": name, **entry} for name, entry in table("channels.toml").items()})


def width(text: str) -> int:
    """East Asian wide and full-width characters count 2, combining marks 0, all others 1."""
    wide = {"W", "F"}
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in wide else 1 for c in text)


def is_gsm7(text: str) -> bool:
    return all(c in GSM_BASIC or c in GSM_EXTENDED for c in text)


def septets(text: str) -> int:
    """GSM 7-bit septets of a text in that alphabet."""
    return sum(2 if c in GSM_EXTENDED else 1 for c in text)


# The words stand in data/mandatory.toml with the law behind each. A part that a text holds already is not added twice.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends, and how a person says no."""

    name: str
    address: str = ""
    """Postal address; needed for e-mail."""
    opt_out: str = ""
    """Link (http, https or mailto) or mailbox that ends the messages; needed for e-mail."""

    def __post_init__(self) -> None:
        """A mailbox gets mailto: before it. Raises `UsageError` for what is neither."""
        link = f"mailto:{self.opt_out}" if pattern("form.mailbox").fullmatch(self.opt_out) else self.opt_out
        if link and not pattern("form.link").fullmatch(link):
            raise UsageError(f"opt_out {link[:80]!r} ends no messages; give a link with https://, http:// or mailto:")
        object.__setattr__(self, "opt_out", link)


def complete(text: str, *, channel: str, locale: str, sender: Sender, generated: bool = False) -> str:
    """`text` with the parts that its channel needs, in the channel's order; `generated`: a model wrote words of it.

    E-mail gets one part a line. A short message begins with the sender's name, and all is one line. Raises
    `UsageError` for an unknown channel, and when the sender lacks what a part states.
    """
    needed = (*channel_named(channel).added, *(("ai_label",) if generated else ()))
    folded, parts = fold(text), {}
    for name in needed:
        shape = table("mandatory.toml")[name]["pattern"]
        is_there = folded_pattern(shape).search(folded) if shape else fold(_words(name, locale, sender)) in folded
        if not is_there:
            parts[name] = _words(name, locale, sender)
    if not parts:
        return text
    if channel_named(channel).slots[-1].lines:
        return "\n".join([text, "", *parts.values()])
    is_chinese = language(locale) == "zh"
    signature = [parts.pop(name) for name in tuple(parts) if table("mandatory.toml")[name].get("begins")]
    endings = [words if is_chinese else f"{words}." for words in parts.values()]
    return ("" if is_chinese else " ").join([*signature, " ".join([text.rstrip(), *endings])])


def _words(name: str, locale: str, sender: Sender) -> str:
    template: str = table("mandatory.toml")[name][language(locale)]
    for field in ("name", "address", "opt_out"):
        value = getattr(sender, field).strip()
        if f"{{{field}}}" in template and not value:
            raise UsageError(f"a text of this channel states the sender's {field}; name it under [sender]")
        template = template.replace(f"{{{field}}}", value)
    return template
