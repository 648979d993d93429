"""Ways to divide a campaign's people, the same way for those reached and those held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from recllm.campaigns.plan_types import Person
from recllm.schema import Item

OTHERS = "others"
THIRDS = ("likely", "middling", "unlikely")

Both = tuple[list[Person], list[Person]]
"""People reached, and people held out."""


def divided(
    reached: Sequence[Person], held: Sequence[Person], items: Mapping[str, Item], floor: int
) -> dict[str, dict[str, Both]]:
    """How -> part -> people. Parts with fewer reached people than `floor` stand together under `OTHERS`, together with
    the next larger ones until these are enough. A way that leaves a single part is left out."""
    found = {}
    for by, name_of in _ways(reached, held, items).items():
        parts: dict[str, Both] = {}
        for side, people in enumerate((reached, held)):
            for person in people:
                parts.setdefault(name_of(person), ([], []))[side].append(person)
        merged = _merged(parts, floor)
        if len(merged) > 1:
            found[by] = dict(sorted(merged.items(), key=lambda part: _place(by, part[0])))
    return found


def _place(by: str, name: str) -> tuple[bool, int]:
    """Thirds and variants in their own order, other parts as they are, and what is told together last."""
    if name == OTHERS or by not in ("likelihood", "variant"):
        return name == OTHERS, 0
    return False, THIRDS.index(name) if by == "likelihood" else int(name)


def _ways(
    reached: Sequence[Person], held: Sequence[Person], items: Mapping[str, Item]
) -> dict[str, Callable[[Person], str]]:
    chances = [p.probability for p in (*reached, *held)] or [0.0]
    third, two_thirds = np.quantile(chances, [1 / 3, 2 / 3])

    def likelihood(p: Person) -> str:
        return THIRDS[int(p.probability < two_thirds) + int(p.probability < third)]

    def category(p: Person) -> str:
        item = items.get(p.item_id)
        return item.category[0] if item is not None and item.category else "no category"

    return {
        "channel": lambda p: p.channel,
        "locale": lambda p: p.locale,
        "reason": lambda p: p.kind,
        "likelihood": likelihood,
        "category": category,
        "item": lambda p: p.item_id,
        "variant": lambda p: str(p.variant + 1),
        "text": lambda p: p.text_id,
    }


def _merged(parts: Mapping[str, Both], floor: int) -> dict[str, Both]:
    """Largest first, what is told together last."""
    order = sorted(parts, key=lambda name: (-len(parts[name][0]), name))
    kept = [name for name in order if len(parts[name][0]) >= floor]
    small = [name for name in order if name not in kept]
    while small and kept and sum(len(parts[name][0]) for name in small) < floor:
        small.insert(0, kept.pop())
    out = {name: parts[name] for name in kept}
    if small:
        out[OTHERS] = ([p for n in small for p in parts[n][0]], [p for n in small for p in parts[n][1]])
    return out
