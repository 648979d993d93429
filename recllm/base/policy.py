"""Rules as data: what a load may contain, and who may be addressed.

Nothing here acts. `ingest` applies the limits on input, `privacy` those on people, `explain` and `adcopy` those on
what may be said. A workspace may override single rules in the `[policy]` table of its `workspace.toml`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import ClassVar

from pydantic import field_validator

from recllm.base.documents import Count, CountOrZero, Flag, FrozenModel, Share, Weight, toml_table
from recllm.base.schema import Purpose

EARLIEST_YEAR = 1990  # events before it are bad rows: such times are broken clocks and empty dates
FUTURE_HOURS = 24  # an event may lie so far ahead of the clock: shops' clocks are not ours

_SENSITIVE = toml_table((files("recllm.base") / "sensitive.toml").read_text("utf-8"))
_ADULT = {name: re.compile(pattern) for name, pattern in _SENSITIVE["adult"].items()}


class Policy(FrozenModel):
    """Every rule with its default. Shares are in [0, 1], lengths in bytes, money in the shop's currency."""

    section: ClassVar[str] = "policy"

    # people
    explicit_purposes: frozenset[Purpose] = frozenset({Purpose.LLM_THIRD_PARTY})
    """A workspace's consent default never grants these: each person has to agree."""
    session_purposes: frozenset[Purpose] = frozenset({Purpose.ANALYTICS, Purpose.PERSONALISATION})
    """What a workspace's consent default grants to an anonymous session; nothing else is done with one."""
    event_days: CountOrZero | None = None
    """Events older than this many days do not pass the gate; None keeps them until they are erased."""
    group_floor: CountOrZero = 50
    """Smallest group that may be reported, or addressed as a segment; see `recllm.shop.workspace.figures`."""
    release_days: Count = 30
    """Days for which a caller's budget of group sizes lasts."""
    small_shop: CountOrZero = 1_000
    """Below this number of customers, sizes and campaign results are exact and have no floor; 0 never."""
    sensitive_categories: frozenset[str] = frozenset(_SENSITIVE["categories"])
    """Never named to a person as a reason, nor a campaign's target. Matched as whole words, in any case, against the
    category path, the title and a campaign's text; "diabet*" stands for all words that begin so."""

    # slates
    popularity_weight: Share = 0.0
    """How much less likely a popular item is to be shown, in [0, 1]; see `ItemRanker.rank`."""

    # loads
    reject_limit: Share = 0.05
    """A load with a larger share of bad rows is refused as a whole."""
    max_price: Weight = 10_000_000.0
    """Prices and amounts above this are bad rows."""
    mask_quarantine: Flag = False
    """Whether mails, phones, addresses and the like in refused rows stand in the quarantine file as placeholders. Then
    a row cannot be mended from that file, only from the one that it came from. Ids that are opaque stay as they are."""

    @field_validator("sensitive_categories")
    @classmethod
    def _any_case(cls, words: frozenset[str]) -> frozenset[str]:
        return frozenset(word.casefold() for word in words)

    @property
    def clock_error(self) -> timedelta:
        """What is dated further ahead of the clock was written by a clock that ran ahead."""
        return timedelta(hours=FUTURE_HOURS)

    def is_sensitive(self, category: Iterable[str]) -> bool:
        """True when any part of a category path, or of the given text, names a sensitive category."""
        return _names_any(self.sensitive_categories, " > ".join(category))


@lru_cache(maxsize=1 << 12)  # the same products are looked at again and again
def _names_any(words: frozenset[str], text: str) -> bool:
    text = _ADULT["people"].sub(" ", unicodedata.normalize("NFKC", text).casefold())
    text = _ADULT["grown"].sub(" ", text) if _ADULT["animals"].search(text) else text
    return _any_of(words).search(text) is not None


@cache
def _any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Finds any of the words; those of Latin letters as whole words, as Chinese has no spaces between words."""
    escaped = [re.escape(word).replace(r"\*", "[a-z]*") for word in sorted(words)]
    spaced, joined = ([word for word in escaped if word.isascii() == ascii_] for ascii_ in (True, False))
    parts = [rf"(?<![a-z0-9])(?:{'|'.join(spaced)})(?![a-z0-9])"] if spaced else []
    return re.compile("|".join([*parts, *joined]) or r"(?!)")
