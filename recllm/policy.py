"""Rules as data: what a load may contain, and who may be addressed.

Nothing here acts. `ingest` applies the limits on input, `privacy` those on people, `explain` and `adcopy` those on
what may be said. A workspace may override single rules in the `[policy]` table of its `workspace.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from recllm.errors import UsageError
from recllm.schema import Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every rule with its default. Shares are in [0, 1], lengths in bytes, money in the shop's currency."""

    # people
    explicit_purposes: frozenset[Purpose] = frozenset({Purpose.LLM_THIRD_PARTY})
    """A workspace's consent default never grants these: each person has to agree."""
    event_days: int | None = None
    """Events older than this many days do not pass the gate; None keeps them until they are erased."""
    group_floor: int = 50
    """The smallest group that may be reported or addressed as a segment."""
    sensitive_categories: frozenset[str] = frozenset(
        {
            "adult",
            "alcohol",
            "baby",
            "contraception",
            "condoms",
            "diabetes",
            "family planning",
            "fertility",
            "gambling",
            "health",
            "hemorrhoid",
            "incontinence",
            "liquor",
            "lingerie",
            "medical",
            "medicine",
            "medication",
            "pharmacy",
            "pregnancy",
            "sexual",
            "smoking",
            "tobacco",
            "weight loss",
            "计生",
            "成人用品",
            "医药",
            "药品",
            "烟草",
            "酒类",
            "孕妇",
        }
    )
    """Never named to a person as a reason. Matched as whole words, in any case, against a category path."""

    # slates
    popularity_weight: float = 0.0
    """How much less likely a popular item is to be shown, in [0, 1]; see `recllm.recommender.ranking.rank`."""

    # loads
    reject_limit: float = 0.05
    """A load with a larger share of bad rows is refused as a whole."""
    reject_head_rows: int = 1_000
    reject_head_limit: float = 0.5
    """A load is refused at once when more than this share of its first `reject_head_rows` rows is bad."""
    max_id_bytes: int = 256
    max_cell_bytes: int = 64 * 1024
    max_row_bytes: int = 1024 * 1024
    max_file_bytes: int = 64 * 1024**3
    """Limit on the unpacked size of one input file."""
    max_gzip_ratio: int = 200
    max_price: float = 10_000_000.0
    earliest_year: int = 1990
    future_hours: int = 24
    """An event may lie this far ahead of the clock: shops' clocks are not ours."""
    heavy_user_share: float = 0.3
    """One person with a larger share of a load's events is reported."""

    def with_rules(self, rules: Mapping[str, Any]) -> Policy:
        """The policy with these rules replaced; lists stand for sets. Raises `UsageError` for an unknown rule."""
        known = {f.name for f in fields(self)}
        unknown = sorted(set(rules) - known)
        if unknown:
            raise UsageError(f"unknown policy rule {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return replace(self, **{name: _like(getattr(self, name), name, value) for name, value in rules.items()})

    def is_sensitive(self, category: Iterable[str]) -> bool:
        """True when any part of a category path names a sensitive category."""
        return _any_of(self.sensitive_categories).search(" > ".join(category).casefold()) is not None


def _like(current: object, name: str, value: Any) -> Any:
    if isinstance(current, frozenset):
        if not isinstance(value, list | tuple | set | frozenset):
            raise UsageError(f"policy rule {name}: {value!r} is not a list")
        return frozenset(_purpose(v) if name == "explicit_purposes" else str(v).casefold() for v in value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if number and not isinstance(current, float):
        number = value == int(value)
    if not number or (isinstance(current, float) and current <= 1 < value):
        raise UsageError(f"policy rule {name}: {value!r} is not a value of its kind, such as {current!r}")
    return float(value) if isinstance(current, float) else int(value)


def _purpose(value: str) -> Purpose:
    try:
        return Purpose(value)
    except ValueError:
        raise UsageError(f"unknown purpose {value!r}; known: {', '.join(Purpose)}") from None


@cache
def _any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Finds any of the words; those of Latin letters as whole words, as Chinese has no spaces between words."""
    spaced, joined = ([re.escape(w) for w in sorted(words) if w.isascii() == ascii_] for ascii_ in (True, False))
    parts = [rf"(?<![a-z0-9])(?:{'|'.join(spaced)})(?![a-z0-9])"] if spaced else []
    return re.compile("|".join([*parts, *joined]) or r"(?!)")
