"""Ways to divide a campaign's people, the same way for those reached and those held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from recllm.campaigns.plan_types import PlannedPerson
from recllm.schema import Item

OTHERS = "others"
THIRDS = ("likely", "middling", "unlikely")

BothSides = tuple[list[PlannedPerson], list[PlannedPerson]]
"""People reached, and people held out."""


def divided(
    reached: Sequence[PlannedPerson], held_out: Sequence[PlannedPerson], items: Mapping[str, Item], floor: int
) -> dict[str, dict[str, BothSides]]:
    """How -> part -> people. Parts with fewer reached people than `floor` stand together under `OTHERS`, together with
    the next larger ones until these are enough. A way that leaves a single part is left out."""
    ways = {}
    for by, name_of in _ways(reached, held_out, items).items():
        parts: dict[str, BothSides] = {}
        for side, people in enumerate((reached, held_out)):
            for person in people:
                parts.setdefault(name_of(person), ([], []))[side].append(person)
        merged = _merged(parts, floor)
        if len(merged) > 1:
            ways[by] = dict(sorted(merged.items(), key=lambda part: _rank(by, part[0])))
    return ways


def _rank(by: str, name: str) -> tuple[bool, int]:
    """Thirds and variants in their own order, other parts as they are, and what is told together last."""
    if name == OTHERS or by not in ("likelihood", "variant"):
        return name == OTHERS, 0
    return False, THIRDS.index(name) if by == "likelihood" else int(name)


def _ways(
    reached: Sequence[PlannedPerson], held_out: Sequence[PlannedPerson], items: Mapping[str, Item]
) -> dict[str, Callable[[PlannedPerson], str]]:
    chances = [p.probability for p in (*reached, *held_out)] or [0.0]
    third, two_thirds = np.quantile(chances, [1 / 3, 2 / 3])

    def likelihood(p: PlannedPerson) -> str:
        return THIRDS[int(p.probability < two_thirds) + int(p.probability < third)]

    def category(p: PlannedPerson) -> str:
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


def _merged(parts: Mapping[str, BothSides], floor: int) -> dict[str, BothSides]:
    """Largest first, what is told together last."""
    order = sorted(parts, key=lambda name: (-len(parts[name][0]), name))
    large = [name for name in order if len(parts[name][0]) >= floor]
    small = [name for name in order if name not in large]
    while small and large and sum(len(parts[name][0]) for name in small) < floor:
        small.insert(0, large.pop())
    merged = {name: parts[name] for name in large}
    if small:
        merged[OTHERS] = ([p for n in small for p in parts[n][0]], [p for n in small for p in parts[n][1]])
    return merged
