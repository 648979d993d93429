"""What the row stage of one load shares: settled facts, rules, and the tallies that run over all chunks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import polars as pl

from recllm.ingest.identity import Occurrences
from recllm.ingest.options import IngestOptions
from recllm.ingest.plan import Plan
from recllm.ingest.survey import Facts
from recllm.ingest.tally import IdTally, PriceTally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recllm.policy import Policy


class Pseudonyms(Protocol):
    """What ingest needs of `privacy.Pseudonymiser`."""

    def many(self, raw: Sequence[str], /) -> list[str]: ...


@dataclass(slots=True, kw_only=True)
class Context:
    """One load. Only `notes` and the tallies change."""

    name: str
    plan: Plan
    facts: Facts
    options: IngestOptions
    policy: Policy
    pseudonyms: Pseudonyms
    now: datetime
    notes: Counter[str] = field(default_factory=Counter)
    occurrences: Occurrences = field(default_factory=Occurrences)
    people: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"raw": pl.String, "made": pl.String}))
    """Raw ids met so far and their pseudonyms, in memory only."""
    users: IdTally = field(default_factory=IdTally)
    items: IdTally = field(default_factory=IdTally)
    prices: PriceTally = field(default_factory=PriceTally)
