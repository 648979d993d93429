"""Channels and the consent that each needs, and the audience of a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recllm.base.errors import UsageError
from recllm.base.schema import Purpose
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.market.audiences.audience import Audience
    from recllm.market.audiences.exclusions import Consents
    from recllm.market.audiences.people_match import ContactRecords
    from recllm.market.audiences.request import AudienceRequest
    from recllm.recommend.recommender.recommender import Recommender

CHANNEL_PURPOSE = {"email": Purpose.EMAIL, "push": Purpose.PUSH, "sms_gsm": Purpose.SMS}
"""What a person must have agreed to besides personalisation before a text of this channel is written for them."""


def find_audience(
    workspace: Workspace, recommender: Recommender, request: AudienceRequest, figures: FigureGate | None = None
) -> Audience:
    """`audiences.audience.find_audience`, which lists the errors, for a workspace. recommender: of everybody.

    Customers who did not agree to the request's channel, or belong to the global holdout, are left out too. Known
    customers without consent to personalisation count among the excluded. figures: what the caller may learn of groups;
    None for the owner of the machine. Raises `UsageError` for a channel without consent records.
    """
    from recllm.market.audiences import audience
    from recllm.market.propensity.effects import effects_of

    gate, name = workspace.gate(), request.choice.effects
    return audience.find_audience(
        recommender,
        with_global_holdout(workspace, request),
        agreed=agreement(gate, request.channel),
        contacts=contact_records(gate),
        effects=None if name is None else effects_of(workspace, name, recommender.dataset),
        figures=figures or FigureGate(workspace),
    )


def agreement(gate: PolicyGate, channel: str | None) -> Consents | None:
    """Who agreed to a channel, as decided at each call; None without a channel. Raises `UsageError` for a channel
    without consent records."""
    if channel is None:
        return None
    if channel not in CHANNEL_PURPOSE:
        raise UsageError(f"there is no consent for the channel {channel!r}; take one of {', '.join(CHANNEL_PURPOSE)}")
    return lambda ids: gate.permits_each(ids, CHANNEL_PURPOSE[channel])


def with_global_holdout(workspace: Workspace, request: AudienceRequest) -> AudienceRequest:
    """The same without the workspace's global holdout."""
    holdout = workspace.settings.experiments
    of_holdout = {"holdout_share": holdout.holdout_share, "holdout_salt": holdout.holdout_salt}
    exclusions = request.exclusions.model_copy(update=of_holdout)
    return request.model_copy(update={"exclusions": exclusions})


def contact_records(gate: PolicyGate) -> ContactRecords:
    """What rules over people ask of a workspace."""
    from recllm.market.audiences.people_match import ContactRecords

    return ContactRecords(
        agreed=lambda channel, ids: gate.permits_each(ids, CHANNEL_PURPOSE[channel]),
        messages=lambda: gate.messages(Purpose.PERSONALISATION),
    )


def first_channels(gate: PolicyGate, ids: Sequence[str], channels: Sequence[str]) -> list[str | None]:
    """Of each person the first of the channels, keys of `CHANNEL_PURPOSE`, that they agreed to, now."""
    first: list[str | None] = [None] * len(ids)
    for channel in channels:
        for n, agreed in enumerate(gate.permits_each(ids, CHANNEL_PURPOSE[channel])):
            first[n] = first[n] or (channel if agreed else None)
    return first
