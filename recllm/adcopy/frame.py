"""Where a text goes, in which language and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from recllm.adcopy.channels import Channel
from recllm.text.templates import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Everything about a text but its item and its words."""

    channel: Channel
    locale: str
    now: datetime
    """Decides whether an offer runs."""
    prompts: Prompts
