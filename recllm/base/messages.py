"""Messages of campaigns, and what providers report of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class MessageEventKind(StrEnum):
    """State of a message, as the sending service reports it."""

    PROCESSED = "processed"
    """Taken by the service."""
    DEFERRED = "deferred"
    """Put off by the receiving server; it will be tried again."""
    DROPPED = "dropped"
    """Never sent."""
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    BLOCKED = "blocked"
    """Refused this time: a soft bounce."""
    BOUNCED = "bounced"
    """Refused for good: a hard bounce."""
    UNSUBSCRIBED = "unsubscribed"
    COMPLAINED = "complained"
    """Marked as spam."""


ARRIVED: frozenset[MessageEventKind] = frozenset(
    {MessageEventKind.DELIVERED, MessageEventKind.OPENED, MessageEventKind.CLICKED}
)
"""What only happens to a message that was delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignMessage:
    """One message of a campaign to a person."""

    message_id: str
    """Unguessable; what a provider hands back with each of its events."""
    user_id: str
    """A pseudonym."""
    campaign_id: str
    channel: str
    text_id: str
    variant: int
    item_id: str | None
    """None where the text is about no item of the catalogue."""
    request_id: str
    exported_at: datetime
    """UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEvent:
    """State of a message at a time, as the provider reports it."""

    event_id: str
    """The provider's own."""
    message_id: str
    kind: MessageEventKind
    at: datetime
    """UTC."""
