"""Who a campaign addresses, on which channel, with which item and for which kind of reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recllm.adcopy.request import reason_kind
from recllm.audiences.assignment import Selection, select, select_jointly
from recllm.audiences.audience import (
    Audience,
    AudienceTarget,
    EligiblePool,
    audience_target,
    build_audience,
    eligible_pool,
)
from recllm.audiences.exclusions import Consents, exclusion_masks
from recllm.audiences.probabilities import independent_probabilities
from recllm.audiences.reasons import reasons_for
from recllm.audiences.request import Exclusions
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.folder import PlannedPerson
from recllm.errors import NotFittedError
from recllm.features.item_vectors import basics_of
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.text.templates import language
from recllm.workspace.privacy import PolicyGate
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

LANGUAGE_BASICS = ("language", "locale", "lang", "语言")
"""Basics that say which of a campaign's locales a person reads."""


@dataclass(frozen=True, eq=False)
class Recipients:
    """One campaign's people."""

    recommender: Recommender
    """That of the workspace, with one item more for a campaign about a text."""
    audience: Audience
    people: tuple[PlannedPerson, ...]
    """Best first, those held out among them; without texts so far."""


def recipients(
    recommender: Recommender,
    files: Sequence[CampaignFile],
    gate: PolicyGate,
    suppressed: Mapping[str, Sequence[str]],
    *,
    contacts: int = 1,
) -> list[Recipients]:
    """The people of each campaign; several compete for them, and each person gets at most `contacts` of these.

    suppressed: campaign id -> ids never to contact. Raises `NotFittedError` without a trained model, `UsageError` for
    an unknown item, `PolicyError` for a sensitive target or a group under the policy's floor.
    """
    pools = [_pool(recommender, file, gate, suppressed.get(file.id, ())) for file in files]
    if len(files) == 1:
        selections = [_cut(pool, file) for (_, pool), file in zip(pools, files, strict=True)]
    else:
        names, limits = [file.id for file in files], [file.limits.cut for file in files]
        n_users = recommender.dataset.n_users
        selections, _ = select_jointly([pool for _, pool in pools], names, limits, n_users, contacts=contacts)
    return [
        _recipients(file, *pool, selection, gate)
        for file, pool, selection in zip(files, pools, selections, strict=True)
    ]


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `recipients`."""
    grown, pool = _pool(recommender, file, workspace.gate(), file.limits.suppressed_ids())
    audience = build_audience(grown, pool, _cut(pool, file), file.id, explain)
    return audience.with_unconsented(unconsented(workspace, recommender))


def unconsented(workspace: Workspace, recommender: Recommender) -> int:
    """People of the store who did not agree to personalisation: the recommender does not know them."""
    with workspace.store().read() as reader:
        return max(0, reader.counts()["users"] - recommender.dataset.n_users)


def _cut(pool: EligiblePool, file: CampaignFile) -> Selection:
    return select(pool.scores, pool.user_ids, file.id, file.limits.cut)


def _first_channel(gate: PolicyGate, ids: Sequence[str], channels: Sequence[str]) -> list[str | None]:
    """Of each person the first of the channels that they agreed to, now."""
    first: list[str | None] = [None] * len(ids)
    for channel in channels:
        for n, agreed in enumerate(gate.permits_each(ids, CHANNEL_PURPOSE[channel])):
            first[n] = first[n] or (channel if agreed else None)
    return first


def _pool(
    recommender: Recommender, file: CampaignFile, gate: PolicyGate, suppressed: Sequence[str]
) -> tuple[Recommender, EligiblePool]:
    """Everybody whom a campaign could reach, and the recommender that knows its items."""
    if recommender.model is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    section, limits = file.target, file.limits
    recommender, target = audience_target(recommender, section.items, section.category, section.text)
    names = ("bought_days", "returned", "frequency_cap", "frequency_days", "adult_age")
    rules = Exclusions(suppressed=suppressed, **{name: getattr(limits, name) for name in names})

    def agreed(ids: Sequence[str]) -> list[bool]:
        return [channel is not None for channel in _first_channel(gate, ids, file.personal_channels)]

    if section.most_items is not None and len(target.items) > section.most_items:
        target = _narrowed(recommender, target, rules, agreed, file)
    return recommender, eligible_pool(recommender, target, rules, agreed)


def _narrowed(
    recommender: Recommender, target: AudienceTarget, rules: Exclusions, agreed: Consents, file: CampaignFile
) -> AudienceTarget:
    """The `most_items` items that suit most of the people who come first."""
    masks = exclusion_masks(recommender, target.items, rules, agreed)
    user_rows = np.flatnonzero(~np.logical_or.reduce(list(masks.values())))
    scores = independent_probabilities(recommender, target.items, user_rows)
    first = np.argsort(-scores.score, kind="stable")[: file.limits.cut.max_contacts]
    best = scores.best_item[first]
    n_people = np.bincount(best[best >= 0], minlength=int(target.items.max()) + 1)[target.items]
    top = np.argsort(-n_people, kind="stable")[: file.target.most_items]
    note = f"of {len(n_people):,} items the {len(top)} that suit most people"
    return AudienceTarget(target.name, np.sort(target.items[top]), (*target.notes, note))


def _recipients(
    file: CampaignFile, recommender: Recommender, pool: EligiblePool, selection: Selection, gate: PolicyGate
) -> Recipients:
    audience, scores = build_audience(recommender, pool, selection, file.id, explain=False), pool.scores
    ranks = np.concatenate([selection.addressed, selection.holdout])
    ranks = ranks[np.argsort(-scores.score[ranks], kind="stable")]
    held_out = np.isin(ranks, selection.holdout)
    rows, best = pool.user_rows[ranks], scores.best_item[ranks]
    best = np.where(best < 0, pool.target.items[0], best)  # nothing of the campaign was proposed for them
    names = [pool.user_ids[rank] for rank in ranks]
    channels = _first_channel(gate, names, file.personal_channels)
    basics = basics_of(recommender.dataset.users[rows.tolist()])
    people, probability = [], scores.probabilities().astype(np.float64)
    for n, (name, item, reasons) in enumerate(zip(names, best, reasons_for(recommender, rows, best), strict=True)):
        item_id = recommender.dataset.items["item_id"][int(item)]
        # the first of the campaign's locales in a language that the person named; the first one without a name
        languages = {language(value) for basic, value in basics[n].items() if basic.casefold() in LANGUAGE_BASICS}
        person = PlannedPerson(
            user_id=name,
            held_out=bool(held_out[n]),
            probability=round(float(probability[ranks[n]]), 6),
            item_id=item_id,
            kind=reason_kind(reasons[0] if reasons else None, item_id, sensitive=False).value,
            channel=channels[n] or file.personal_channels[0],
            locale=next((locale for locale in file.locales if language(locale) in languages), file.locales[0]),
            variant=0,
            text_id="",
        )
        people.append(person)
    return Recipients(recommender, audience, tuple(people))
