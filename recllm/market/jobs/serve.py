"""What a workspace answers: audiences and profiles; slates come from `recommender.shop_recommender`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.errors import PolicyError, UnknownIdError, UsageError
from recllm.base.schema import Encoder, Profile, Purpose
from recllm.recommend.recommender.shop_recommender import open_recommender, workspace_encoder
from recllm.shop.data.catalogue import allowed_items, catalogue_rows
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.order import refuse_steps
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace, present
from recllm.text.items import item_names

if TYPE_CHECKING:
    from recllm.learn.profiles.evolution import By, Evolution
    from recllm.market.audiences.audience import Audience
    from recllm.market.audiences.exclusions import Consents
    from recllm.market.audiences.people_match import ContactRecords
    from recllm.market.audiences.request import AudienceRequest
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.text.users import UserTexts


CHANNEL_PURPOSE = {"email": Purpose.EMAIL, "push": Purpose.PUSH, "sms_gsm": Purpose.SMS}
"""What a person must have agreed to besides personalisation before a text of this channel is written for them."""


NOT_AGREED = "this person has not agreed to personalisation; nothing was read"
UNKNOWN_PERSON = "nobody with this id is known; check the id, or load the users and events tables"


def find_audience(
    workspace: Workspace,
    request: AudienceRequest,
    *,
    recommender: Recommender | None = None,
    version: str | None = None,
    locale: str | None = None,
    figures: FigureGate | None = None,
) -> Audience:
    """The people to reach: `recllm.market.audiences.audience.find_audience`, which tells the errors, for a workspace.

    Whoever has not agreed to the request's channel, or belongs to the global holdout, is left out too. Everybody who is
    known and has not agreed to personalisation is counted among the excluded. figures: what the caller may learn of
    groups; None for the owner of the machine. Raises `UsageError` for a channel that nobody can agree to.
    """
    from recllm.market.audiences import audience
    from recllm.market.jobs.effects import effects_of

    gate = workspace.gate()
    agreed, request = agreement(gate, request.channel), with_global_holdout(workspace, request)
    recommender = recommender or open_recommender(workspace, version=version, locale=locale, everybody=True)
    name = request.choice.effects
    effects = None if name is None else effects_of(workspace, name, recommender.dataset)
    return audience.find_audience(
        recommender,
        request,
        agreed=agreed,
        contacts=contact_records(gate),
        effects=effects,
        figures=figures or FigureGate(workspace),
    )


def agreement(gate: PolicyGate, channel: str | None) -> Consents | None:
    """Who agreed to a channel, as decided when it is asked; None without a channel. Raises `UsageError` for a channel
    that nobody can agree to."""
    if channel is None:
        return None
    if channel not in CHANNEL_PURPOSE:
        raise UsageError(
            f"nobody can agree to the channel {channel!r}; those with consent: {', '.join(CHANNEL_PURPOSE)}"
        )
    return lambda ids: gate.permits_each(ids, CHANNEL_PURPOSE[channel])


def with_global_holdout(workspace: Workspace, request: AudienceRequest) -> AudienceRequest:
    """The same without whoever belongs to the workspace's global holdout."""
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


def similar_items(recommender: Recommender, item_id: str, k: int) -> list[tuple[str, str, float]]:
    """Id, title and cosine of the items on offer whose texts are nearest to an item's, nearest first.

    Raises `UnknownIdError` for an unknown item.
    """
    dataset, vectors = recommender.dataset, recommender.item_vectors
    row = int(catalogue_rows(dataset, [item_id])[0])
    allowed, nearest_rows = allowed_items(dataset), None
    if recommender.index is not None:
        nearest_rows = recommender.index.nearest(vectors[row][None], k + 1, allowed)
    if nearest_rows is None:
        cosine = np.where(allowed, vectors @ vectors[row], -np.inf)
    else:
        cosine = np.full(len(vectors), -np.inf)
        cosine[nearest_rows[0]] = vectors[nearest_rows[0]] @ vectors[row]
    cosine[row] = -np.inf
    best = np.argsort(-cosine, kind="stable")[:k]
    best = best[np.isfinite(cosine[best])]
    items = dataset.items[best.tolist()]
    return list(zip(items["item_id"], item_names(items, recommender.locale), cosine[best].tolist(), strict=True))


def person_profile(
    workspace: Workspace, user_id: str, locale: str, *, by_pseudonym: bool = False
) -> tuple[Profile, UserTexts]:
    """One person's profile and its texts, read by key. by_pseudonym: the id is the pseudonym already.

    Raises `PolicyError` without consent, `UsageError` for a person who is not known.
    """
    from recllm.learn.profiles.profile import build_profile
    from recllm.text.users import user_texts

    gate, name = workspace.gate(), user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    if not gate.permits(name, Purpose.PERSONALISATION):
        raise PolicyError(NOT_AGREED)
    read = gate.histories([name], Purpose.PERSONALISATION)
    if not len(read.users):
        raise UnknownIdError(UNKNOWN_PERSON)
    items = gate.catalogue(read.events["item_id"].unique())
    data = Dataset.construct(read.events, read.users, items, as_of=present(workspace))
    data = replace(data, step_seconds=gate.step_seconds())
    profile = build_profile(data, 0)
    return profile, user_texts(profile, data.items, workspace.locale(locale))


def person_evolution(
    workspace: Workspace,
    user_id: str,
    *,
    by: By = "auto",
    encoder: Encoder | None = None,
) -> Evolution:
    """How one person's interests moved. Raises `PolicyError` without consent, `UsageError` for a stranger."""
    from recllm.learn.features.item_vectors import item_vectors
    from recllm.learn.profiles.evolution import evolve

    name = workspace.pseudonymiser().one(user_id)
    data = workspace.gate().dataset(Purpose.PERSONALISATION)
    refuse_steps(data.step_seconds, "periods of somebody's interests")
    row = _known_row(workspace, data, name)
    vectors = item_vectors(encoder or workspace_encoder(workspace), data, workspace.settings.locale)
    return evolve(data, row, vectors, present(workspace), by=by, policy=workspace.policy)


def _known_row(workspace: Workspace, data: Dataset, name: str) -> int:
    if not workspace.gate().permits(name, Purpose.PERSONALISATION):
        raise PolicyError(NOT_AGREED)
    row = int(data.user_rows([name])[0])
    if row < 0:
        raise UsageError(UNKNOWN_PERSON)
    return row
