"""Who a campaign addresses, on which channel, with which item and for which kind of reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recllm.adcopy.request import reason_kind
from recllm.audiences.assignment import select_jointly
from recllm.audiences.audience import Audience, EligiblePool, build_audience, eligible_pool
from recllm.audiences.exclusions import Consents, exclusion_masks
from recllm.audiences.probabilities import independent_probabilities
from recllm.audiences.reasons import reasons_for
from recllm.audiences.request import Exclusions
from recllm.audiences.selection import Selection, select
from recllm.audiences.targets import AudienceTarget, category_target, item_target, text_target
from recllm.campaigns.file import CampaignFile
from recllm.errors import NotFittedError
from recllm.features.item_vectors import basics_of
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import ReasonKind
from recllm.text.templates import language
from recllm.workspace.privacy import PolicyGate
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

LANGUAGE_BASICS = ("language", "locale", "lang", "语言")
"""Basics that say which of a campaign's locales a person reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One person of a campaign before there are texts."""

    user_id: str
    held_out: bool
    probability: float
    item_id: str
    kind: ReasonKind
    channel: str
    locale: str


@dataclass(frozen=True, eq=False)
class Recipients:
    """One campaign's people."""

    recommender: Recommender
    """That of the workspace, with one item more for a campaign about a text."""
    audience: Audience
    people: tuple[Recipient, ...]
    """Best first, those held out among them."""


@dataclass(frozen=True, eq=False)
class _CampaignPool:
    """Everybody whom a campaign could reach."""

    file: CampaignFile
    recommender: Recommender
    pool: EligiblePool

    def cut(self) -> Selection:
        return select(self.pool.scores, self.pool.user_ids, self.file.id, self.file.limits.cut)


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
    pools = [_campaign_pool(recommender, file, gate, suppressed.get(file.id, ())) for file in files]
    if len(pools) == 1:
        selections = [pools[0].cut()]
    else:
        names, limits = [file.id for file in files], [file.limits.cut for file in files]
        n_users = recommender.dataset.n_users
        selections, _ = select_jointly([p.pool for p in pools], names, limits, n_users, contacts=contacts)
    return [_recipients(pool, selection, gate) for pool, selection in zip(pools, selections, strict=True)]


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `recipients`."""
    candidates = _campaign_pool(recommender, file, workspace.gate(), file.limits.suppressed_ids())
    audience = build_audience(candidates.recommender, candidates.pool, candidates.cut(), file.id, explain)
    return audience.with_unconsented(unconsented(workspace, recommender))


def unconsented(workspace: Workspace, recommender: Recommender) -> int:
    """People of the store who did not agree to personalisation: the recommender does not know them."""
    with workspace.store().read() as reader:
        return max(0, reader.counts()["users"] - recommender.dataset.n_users)


def first_channel(gate: PolicyGate, ids: Sequence[str], channels: Sequence[str]) -> list[str | None]:
    """Of each person the first of the channels that they agreed to, now."""
    first: list[str | None] = [None] * len(ids)
    for channel in channels:
        for n, agreed in enumerate(gate.permits_each(ids, CHANNEL_PURPOSE[channel])):
            first[n] = first[n] or (channel if agreed else None)
    return first


def _campaign_pool(
    recommender: Recommender, file: CampaignFile, gate: PolicyGate, suppressed: Sequence[str]
) -> _CampaignPool:
    if recommender.model is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    section, limits = file.target, file.limits
    if section.text is not None:
        recommender, target = text_target(recommender, section.text, section.category)
    elif section.category is not None:
        target = category_target(recommender, section.category)
    else:
        target = item_target(recommender, section.items or ())
    rules = Exclusions(
        suppressed=suppressed,
        bought_days=limits.bought_days,
        returned=limits.returned,
        frequency_cap=limits.frequency_cap,
        frequency_days=limits.frequency_days,
        adult_age=limits.adult_age,
    )

    def agreed(ids: Sequence[str]) -> list[bool]:
        return [channel is not None for channel in first_channel(gate, ids, file.personal_channels)]

    if section.most_items is not None and len(target.items) > section.most_items:
        target = _narrowed(recommender, target, rules, agreed, file)
    return _CampaignPool(file, recommender, eligible_pool(recommender, target, rules, agreed))


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


def _recipients(candidates: _CampaignPool, selection: Selection, gate: PolicyGate) -> Recipients:
    file, recommender, people_pool = candidates.file, candidates.recommender, candidates.pool
    audience, scores = build_audience(recommender, people_pool, selection, file.id, explain=False), people_pool.scores
    ranks = np.concatenate([selection.addressed, selection.holdout])
    ranks = ranks[np.argsort(-scores.score[ranks], kind="stable")]
    held_out = np.isin(ranks, selection.holdout)
    rows, best = people_pool.user_rows[ranks], scores.best_item[ranks]
    best = np.where(best < 0, people_pool.target.items[0], best)  # nothing of the campaign was proposed for them
    names = [people_pool.user_ids[rank] for rank in ranks]
    channels = first_channel(gate, names, file.personal_channels)
    basics = basics_of(recommender.dataset.users[rows.tolist()])
    people, probability = [], scores.probabilities().astype(np.float64)
    for n, (name, item, reasons) in enumerate(zip(names, best, reasons_for(recommender, rows, best), strict=True)):
        item_id = recommender.dataset.items["item_id"][int(item)]
        people.append(
            Recipient(
                user_id=name,
                held_out=bool(held_out[n]),
                probability=float(probability[ranks[n]]),
                item_id=item_id,
                kind=reason_kind(reasons[0] if reasons else None, item_id, sensitive=False),
                channel=channels[n] or file.personal_channels[0],
                locale=_locale(basics[n], file.locales),
            )
        )
    return Recipients(recommender, audience, tuple(people))


def _locale(basics: Mapping[str, str], locales: Sequence[str]) -> str:
    """The first of the campaign's locales in a language that the person named; the first one without a name."""
    languages = {language(value) for name, value in basics.items() if name.casefold() in LANGUAGE_BASICS}
    return next((locale for locale in locales if language(locale) in languages), locales[0])
