"""G7, the parts that code adds when a text leaves: advertisement mark, sender, way to opt out, AI label.

    message = complete(text, channel="email", locale="en", sender=Sender(name="Hearth", address="...", opt_out="..."))
    missing_parts(message, channel="email", locale="en", sender=...)   # ()

The words stand in data/mandatory.toml with the law behind each. A part that the text holds already is not added twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from recllm.adcopy.channels import channel_named
from recllm.adcopy.lexicon import fold, folded_pattern, table
from recllm.errors import UsageError
from recllm.text.templates import language

AI_LABEL = "ai_label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends, and how a person says no."""

    name: str
    address: str = ""
    """Postal address; needed for e-mail and short messages."""
    opt_out: str = ""
    """Link or mailbox that ends the messages; needed for e-mail."""


def complete(text: str, *, channel: str, locale: str, sender: Sender, generated: bool = False) -> str:
    """`text` with the parts that its channel needs, in the channel's order; `generated`: a model wrote words of it.

    E-mail gets one part a line, other channels all in one line. Raises `UsageError` for an unknown channel, and when
    the sender lacks what a part states.
    """
    names = missing_parts(text, channel=channel, locale=locale, sender=sender, generated=generated)
    parts = [_words(name, locale, sender) for name in names]
    if not parts:
        return text
    if channel_named(channel).slots[-1].lines:
        return "\n".join([text, "", *parts])
    return " ".join([text.rstrip(), *(f"{part}." for part in parts)])


def missing_parts(
    message: str, *, channel: str, locale: str, sender: Sender, generated: bool = False
) -> tuple[str, ...]:
    """Names of the mandatory parts that a message lacks."""
    needed = (*channel_named(channel).added, *((AI_LABEL,) if generated else ()))
    folded, missing = fold(message), []
    for name in needed:
        shape = table("mandatory.toml")[name]["pattern"]
        present = folded_pattern(shape).search(folded) if shape else fold(_words(name, locale, sender)) in folded
        if not present:
            missing.append(name)
    return tuple(missing)


def _words(name: str, locale: str, sender: Sender) -> str:
    template: str = table("mandatory.toml")[name][language(locale)]
    for field in ("name", "address", "opt_out"):
        value = getattr(sender, field).strip()
        if f"{{{field}}}" in template and not value:
            raise UsageError(f"the part {name} states the sender's {field}; give Sender({field}=...)")
        template = template.replace(f"{{{field}}}", value)
    return template
