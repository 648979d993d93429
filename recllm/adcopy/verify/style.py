"""G7, G13, G14: mandatory parts, variants that differ, the brand's voice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

from recllm.adcopy.lexicon import exceptions_pattern
from recllm.adcopy.reading import fold, words
from recllm.adcopy.verify.case import Case, Fault
from recllm.adcopy.verify.form import is_emoji

MAX_LIKENESS = 0.7
"""Most that two variants may share of their character trigrams (Jaccard)."""
MIN_DISTINCT = 0.6
"""Least share of different word pairs among all word pairs of the variants (distinct-2, Li et al. 2016)."""


def mandatory_parts(case: Case) -> Iterator[Fault]:
    """G7: the text ends with what its channel demands inside of it, such as the way to opt out.

    What code adds when a text leaves (`recllm.adcopy.mandatory`) is not asked for here.
    """
    closings = case.channel.closings
    if closings and not case.text.rstrip(" 。.").endswith(closings):
        yield Fault(f"{case.channel.name} ends with {' or '.join(closings)}", case.text[-20:])


def variants_differ(texts: Sequence[str]) -> Iterator[Fault]:
    """G13: no two variants share more than 0.7 of their trigrams, and all together do not say the same words."""
    for one, other in combinations(texts, 2):
        alike = likeness(one, other)
        if alike > MAX_LIKENESS:
            yield Fault(f"is {100 * alike:.0f} % the same as another variant", other)
    if len(texts) > 1 and (share := distinct_pairs(texts)) < MIN_DISTINCT:
        yield Fault(f"the variants repeat each other: only {100 * share:.0f} % of their word pairs differ")


def likeness(one: str, other: str) -> float:
    """Jaccard likeness of the folded texts' character trigrams, in [0, 1]; 1 for two texts too short to have any."""
    first, second = (_trigrams(text) for text in (one, other))
    return len(first & second) / len(first | second) if first | second else 1.0


def distinct_pairs(texts: Sequence[str]) -> float:
    """Different word pairs (Chinese: pairs of characters) over all word pairs, in [0, 1]; 1 when there are none."""
    tokens = [words(text) for text in texts]
    pairs = [pair for t in tokens for pair in pairwise(t)]
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def _trigrams(text: str) -> set[str]:
    folded = fold(text)
    return {folded[i : i + 3] for i in range(len(folded) - 2)}


def in_voice(case: Case) -> Iterator[Fault]:
    """G14: the brand's own words and none that it avoids, its form of address, emoji and exclamation marks."""
    voice = case.voice
    text = case.reading.squashed
    if voice.banned and (shape := exceptions_pattern(list(voice.banned))):
        yield from (Fault(f"the brand does not say {found!r}", found) for found in dict.fromkeys(shape.findall(text)))
    for word in voice.required:
        shape = exceptions_pattern([word])
        if shape and not shape.search(text):
            yield Fault(f"the brand always says {word!r}")
    other = {"您": "你", "你": "您"}.get(voice.address or "")
    if other and other in case.text:
        yield Fault(f"the brand says {voice.address}, not {other}", other)
    if not voice.emoji and (emoji := next((c for c in case.text if is_emoji(c)), None)):
        yield Fault("the brand uses no emoji", emoji)
    if not voice.exclamation and (mark := next((c for c in case.text if c in "!！"), None)):
        yield Fault("the brand uses no exclamation marks", mark)
