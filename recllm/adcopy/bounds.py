"""What a generator is kept from writing at all, where it can be: rival brands and numbers as words.

A generator that is not bound by it loses nothing but lines: the verifier stops them.
"""

from __future__ import annotations

import re
from functools import lru_cache

from recllm.adcopy.job import Job
from recllm.adcopy.lexicon import table
from recllm.adcopy.money import language
from recllm.adcopy.reading import fold
from recllm.generator.constraint import Constraint

_NUMBERS = (
    "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty hundred thousand "
    "million billion percent dollar dollars euro euros cents yuan pounds"
)
_NAME = re.compile(r"[A-Z][A-Za-z'-]+")


def constraint_for(job: Job) -> Constraint:
    """Forbidden: the words that the brand's voice avoids, other brands than the item's, and number words, unless the
    item's own texts hold them. Allowed with a capital: the names of its title.

    The words of claims would cost more time at each token than the lines that they save: the verifier stops those.
    """
    lang = language(job.frame.locale)
    held = fold(" ".join(job.facts.texts))
    own = set(job.facts.words)
    words = (*map(fold, job.voice.banned), *_brands(job.known_brands), *(_NUMBERS.split() if lang == "en" else ()))
    free = (w for w in words if not (w in own if w.isascii() and " " not in w else w in held))
    names = _NAME.findall(" ".join((job.facts.title, job.facts.brand or "")))
    return Constraint.of(lang, free, names)


@lru_cache(maxsize=8)
def _brands(known: frozenset[str]) -> tuple[str, ...]:
    """Folded, without the ones that are also plain words: those are names with a capital only, which a line has not."""
    plain = set(table("brands.toml")["plain_words"])
    return tuple(
        b for name in (*sorted(known), *table("brands.toml")["famous"]) if len(b := fold(name)) > 1 and b not in plain
    )
