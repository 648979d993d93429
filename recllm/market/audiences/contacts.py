"""Channels, and the consent that each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recllm.base.errors import UsageError
from recllm.base.schema import Purpose
from recllm.shop.workspace.privacy import PolicyGate

CHANNEL_PURPOSE = {"email": Purpose.EMAIL, "push": Purpose.PUSH, "sms_gsm": Purpose.SMS}
"""What a person must have agreed to, besides personalisation, for a text of this channel."""


def agreement(gate: PolicyGate, channels: Sequence[str]) -> Callable[[Sequence[str]], Sequence[bool]]:
    """Who agreed to one of the channels, as decided at each call. Raises `UsageError` for a channel without consent
    records."""
    for name in channels:
        if name not in CHANNEL_PURPOSE:
            raise UsageError(f"there is no consent for the channel {name!r}; take one of {', '.join(CHANNEL_PURPOSE)}")
    return lambda ids: [channel is not None for channel in first_channels(gate, ids, channels)]


def first_channels(gate: PolicyGate, ids: Sequence[str], channels: Sequence[str]) -> list[str | None]:
    """Of each person the first of the channels, keys of `CHANNEL_PURPOSE`, that they agreed to, now."""
    first: list[str | None] = [None] * len(ids)
    for channel in channels:
        for n, agreed in enumerate(gate.permits_each(ids, CHANNEL_PURPOSE[channel])):
            first[n] = first[n] or (channel if agreed else None)
    return first
