"""Who a campaign addresses, on which channel, with which item and for which kind of reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.adcopy.request import reason_kind
from recllm.audiences.assignment import Campaign, assign
from recllm.audiences.audience import Audience, Pool, answer, names_of, pool
from recllm.audiences.exclusions import NO_CONSENT, Exclusions, reasons_against
from recllm.audiences.joint import selection_of
from recllm.audiences.probabilities import chances
from recllm.audiences.reasons import reasons_for
from recllm.audiences.selection import Selection, select
from recllm.audiences.targets import Target, category_target, item_target, text_target
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
    pool: Pool

    @property
    def names(self) -> list[str]:
        return names_of(self.recommender, self.pool)

    @property
    def probability(self) -> NDArray[np.float64]:
        """(n_people,), to take at least one of the items."""
        assert self.pool.found.probability is not None  # noqa: S101 - a pool of items has probabilities
        return self.pool.found.probability.astype(np.float64)

    def cut(self) -> Selection:
        chances = self.pool.found
        return select(chances.order, chances.probability, self.names, self.file.id, self.file.limits.cut)


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
    selections = [pools[0].cut()] if len(pools) == 1 else _compete(pools, contacts)
    return [_recipients(pool, selection, gate) for pool, selection in zip(pools, selections, strict=True)]


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `recipients`."""
    candidates = _campaign_pool(recommender, file, workspace.gate(), file.limits.suppressed_ids())
    audience = answer(candidates.recommender, candidates.pool, candidates.cut(), file.id, explain=explain)
    return with_unconsented(audience, unconsented(workspace, recommender))


def unconsented(workspace: Workspace, recommender: Recommender) -> int:
    """People of the store who did not agree to personalisation: the recommender does not know them."""
    with workspace.store().read() as reader:
        return max(0, reader.counts()["users"] - recommender.dataset.n_users)


def with_unconsented(audience: Audience, n: int) -> Audience:
    """The audience with `n` more people counted among those without consent."""
    if not n:
        return audience
    first = {NO_CONSENT: audience.excluded.get(NO_CONSENT, 0) + n}
    return replace(audience, excluded=first | {k: v for k, v in audience.excluded.items() if k != NO_CONSENT})


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
        agreed=lambda ids: [channel is not None for channel in first_channel(gate, ids, file.personal_channels)],
        bought_days=limits.bought_days,
        returned=limits.returned,
        frequency_cap=limits.frequency_cap,
        frequency_days=limits.frequency_days,
        adult_age=limits.adult_age,
    )
    if section.most_items is not None and len(target.items) > section.most_items:
        target = _narrowed(recommender, target, rules, file)
    return _CampaignPool(file, recommender, pool(recommender, target, rules))


def _narrowed(recommender: Recommender, target: Target, rules: Exclusions, file: CampaignFile) -> Target:
    """The `most_items` items that suit most of the people who come first."""
    against = reasons_against(recommender, target.items, rules)
    people = np.flatnonzero(~np.logical_or.reduce(list(against.values())))
    first_chances = chances(recommender, target.items, people)
    first = np.argsort(-first_chances.order, kind="stable")[: file.limits.cut.most]
    best = first_chances.best[first]
    n_people = np.bincount(best[best >= 0], minlength=int(target.items.max()) + 1)[target.items]
    top = np.argsort(-n_people, kind="stable")[: file.target.most_items]
    note = f"of {len(n_people):,} items the {len(top)} that suit most people"
    return Target(target.name, np.sort(target.items[top]), (*target.notes, note))


def _compete(pools: Sequence[_CampaignPool], contacts: int) -> list[Selection]:
    """Everybody goes to the campaign for which they are worth most, within each one's size and budget."""
    cuts = [p.file.limits.cut for p in pools]
    terms = [
        Campaign(
            name=p.file.id,
            value=1.0 if cut.margin is None else cut.margin,
            cost=cut.cost or 0.0,
            budget=cut.budget,
            cap=cut.size,
        )
        for p, cut in zip(pools, cuts, strict=True)
    ]
    probability = np.zeros((pools[0].recommender.dataset.n_users, len(pools)))
    eligible = np.zeros(probability.shape, bool)
    for n, (candidates, term, cut) in enumerate(zip(pools, terms, cuts, strict=True)):
        rows = candidates.pool.rows
        probability[rows, n] = candidates.probability
        eligible[rows, n] = (cut.margin is None) | (probability[rows, n] * term.value > term.cost)
    assignment = assign(probability, terms, contacts=contacts, eligible=eligible)
    return [
        selection_of(
            p.recommender, p.pool, assignment.person[assignment.campaign == n], p.file.id, cut.holdout, cut.salt
        )
        for n, (p, cut) in enumerate(zip(pools, cuts, strict=True))
    ]


def _recipients(candidates: _CampaignPool, selection: Selection, gate: PolicyGate) -> Recipients:
    file, recommender, people_pool = candidates.file, candidates.recommender, candidates.pool
    audience = answer(recommender, people_pool, selection, file.id, explain=False)
    ranks = np.concatenate([selection.addressed, selection.held])
    ranks = ranks[np.argsort(-people_pool.found.order[ranks], kind="stable")]
    held_out = np.isin(ranks, selection.held)
    rows, best = people_pool.rows[ranks], people_pool.found.best[ranks]
    best = np.where(best < 0, people_pool.target.items[0], best)  # nothing of the campaign was proposed for them
    everybody = candidates.names
    names = [everybody[rank] for rank in ranks]
    channels = first_channel(gate, names, file.personal_channels)
    basics = basics_of(recommender.dataset.users[rows.tolist()])
    people, probability = [], candidates.probability
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
