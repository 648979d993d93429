"""Which product texts speak to a machine instead of a buyer.

Whoever can list a product can write into its title. A text with instructions, code or reversed writing is no name: it
counts as empty. Worse than an odd text cannot come of one that is missed: every advertisement is verified.
"""

from __future__ import annotations

import re

from recllm.adcopy.lexicon import families
from recllm.adcopy.reading import ROLE_TOKEN, fold, pattern, read
from recllm.schema import Item

_CODE = pattern(
    r"\bon[a-z]{3,16} ?=|<(?:script|style|iframe|img|svg|a|object|embed|meta|link|form)\b|javascript:|vbscript:"
    r"|data:text|\bhref\b|\bsrc ?=|\bhyperlink\(|^[=+@-][a-z]|\bcmd ?\||\$\{|%[0-9a-f]{2}%?[0-9a-f]{2}|\.\./"
    r"|\b(?:drop|alter) table\b|\bset-cookie\b|'; ?[a-z]|; ?--|\"[a-z]{2,20}\" ?:|\bjndi\b|\{\{|\}\}|\{%|https?:"
    r"|\bwww\."
    r"|(?<![\w.])[a-z0-9-]{2,40}\.(?:com|net|org|biz|info|live|shop|store|online|site|xyz|top|club|click|link|ru|cn|io"
    r"|me|example)(?![a-z0-9])"
)
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
"""Characters that turn the direction of writing, and tags that nobody sees."""
_DIGITS_AS_LETTERS = str.maketrans("0134578@$", "oieastbas")


def speaks_to_machines(text: str) -> bool:
    """True for instructions, role tokens, code, links and hidden writing; `text` is as the catalogue holds it."""
    folded = fold(text)
    if _HIDDEN.search(text) or ROLE_TOKEN.search(folded) or _CODE.search(folded):
        return True
    forms = (read(text), read(folded.translate(_DIGITS_AS_LETTERS)))
    return any(family.find(form) for family in families("instructions.toml") for form in forms)


def is_hostile(item: Item) -> bool:
    """True when a text of an item that is told or asked about speaks to machines; no model is asked about it then."""
    texts = (item.title, item.brand, *item.category, *item.attributes, *item.attributes.values())
    return any(speaks_to_machines(text) for text in texts if text)
