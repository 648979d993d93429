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
from recllm.campaigns.suppression import suppressed_ids
from recllm.errors import NotFittedError, UsageError
from recllm.features.item_vectors import basics_of
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import ReasonKind
from recllm.workspace.privacy import PolicyGate
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

LANGUAGE_BASICS = ("language", "locale", "lang", "语言")
"""Basics that say which of a campaign's locales a person reads."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One person before there are texts."""

    user_id: str
    held: bool
    probability: float
    item_id: str
    kind: ReasonKind
    channel: str
    locale: str


@dataclass(frozen=True, eq=False)
class Group:
    """One campaign's people. recommender: that of the workspace, with one item more for a campaign about a text."""

    recommender: Recommender
    audience: Audience
    people: tuple[Planned, ...]
    """Best first, those held out among them."""


@dataclass(frozen=True, eq=False)
class _Open:
    recommender: Recommender
    pool: Pool


def groups(
    recommender: Recommender,
    files: Sequence[CampaignFile],
    gate: PolicyGate,
    suppressed: Mapping[str, Sequence[str]],
    *,
    contacts: int = 1,
) -> list[Group]:
    """The people of each campaign; several compete for them, and each person gets at most `contacts` of these.

    suppressed: campaign id -> ids never to contact. Raises `NotFittedError` without a trained model, `UsageError` for
    an unknown item, `PolicyError` for a sensitive target or a group under the policy's floor.
    """
    _check_trained(recommender)
    opened = [_open(recommender, file, gate, suppressed.get(file.id, ())) for file in files]
    selections = [_cut(opened[0], files[0])] if len(files) == 1 else _compete(opened, files, contacts)
    return [_group(one, file, chosen, gate) for one, file, chosen in zip(opened, files, selections, strict=True)]


def audience_of(
    workspace: Workspace, recommender: Recommender, file: CampaignFile, *, explain: bool = True
) -> Audience:
    """Whom a campaign would address, without planning it; the errors are those of `groups`."""
    _check_trained(recommender)
    one = _open(recommender, file, workspace.gate(), suppressed_ids(workspace, file))
    found = answer(one.recommender, one.pool, _cut(one, file), file.id, explain=explain)
    return with_outside(found, outside(workspace, recommender))


def outside(workspace: Workspace, recommender: Recommender) -> int:
    """People of the store who did not agree to personalisation: the recommender does not know them."""
    with workspace.store().read() as reader:
        return max(0, reader.counts()["users"] - recommender.dataset.n_users)


def with_outside(found: Audience, n: int) -> Audience:
    """The audience with `n` more people counted among those without consent."""
    if not n:
        return found
    counted = {NO_CONSENT: found.excluded.get(NO_CONSENT, 0) + n}
    return replace(found, excluded=counted | {k: v for k, v in found.excluded.items() if k != NO_CONSENT})


def first_channel(gate: PolicyGate, ids: Sequence[str], channels: Sequence[str]) -> list[str | None]:
    """Of each person the first of the channels that they agreed to, now."""
    out: list[str | None] = [None] * len(ids)
    for channel in channels:
        for place, yes in enumerate(gate.permits_each(ids, CHANNEL_PURPOSE[channel])):
            out[place] = out[place] or (channel if yes else None)
    return out


def _check_trained(recommender: Recommender) -> None:
    if recommender.model is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")


def _open(recommender: Recommender, file: CampaignFile, gate: PolicyGate, suppressed: Sequence[str]) -> _Open:
    if file.text is not None:
        recommender, target = text_target(recommender, file.text, file.category)
    elif file.category is not None:
        target = category_target(recommender, file.category)
    else:
        target = _on_offer(recommender, file)
    rules = Exclusions(
        suppressed=suppressed,
        agreed=lambda ids: [channel is not None for channel in first_channel(gate, ids, file.personal)],
        bought_days=file.bought_days,
        returned=file.returned,
        frequency_cap=file.frequency_cap,
        frequency_days=file.frequency_days,
        adult_age=file.adult_age,
    )
    if file.most_items is not None and len(target.items) > file.most_items:
        target = _narrowed(recommender, target, rules, file)
    return _Open(recommender, pool(recommender, target, rules))


def _on_offer(recommender: Recommender, file: CampaignFile) -> Target:
    target = item_target(recommender, file.items or ())
    data = recommender.dataset
    gone = [name for name in file.items or () if not data.items["available"][int(data.item_rows([name])[0])]]
    if gone:
        raise UsageError(f"the item {gone[0]!r} of the campaign {file.id!r} is no longer on offer; take it out")
    return target


def _narrowed(recommender: Recommender, target: Target, rules: Exclusions, file: CampaignFile) -> Target:
    """The `most_items` items that suit most of the people who come first."""
    against = reasons_against(recommender, target.items, rules)
    found = chances(recommender, target.items, np.flatnonzero(~np.logical_or.reduce(list(against.values()))))
    first = np.argsort(-found.order, kind="stable")[: file.cut.most]
    best = found.best[first]
    often = np.bincount(best[best >= 0], minlength=int(target.items.max()) + 1)[target.items]
    kept = np.argsort(-often, kind="stable")[: file.most_items]
    note = f"of {len(often):,} items the {len(kept)} that suit most people"
    return Target(target.name, np.sort(target.items[kept]), (*target.notes, note))


def _cut(opened: _Open, file: CampaignFile) -> Selection:
    found = opened.pool
    names = names_of(opened.recommender, found)
    return select(found.found.order, found.found.probability, names, file.id, file.cut)


def _compete(opened: Sequence[_Open], files: Sequence[CampaignFile], contacts: int) -> list[Selection]:
    terms = [
        Campaign(
            name=f.id,
            value=1.0 if f.cut.margin is None else f.cut.margin,
            cost=f.cut.cost or 0.0,
            budget=f.cut.budget,
            cap=f.cut.size,
        )
        for f in files
    ]
    probability = np.zeros((opened[0].recommender.dataset.n_users, len(files)))
    eligible = np.zeros(probability.shape, bool)
    for place, (one, term, file) in enumerate(zip(opened, terms, files, strict=True)):
        chance = _probability(one.pool)
        probability[one.pool.rows, place] = chance
        eligible[one.pool.rows, place] = (file.cut.margin is None) | (chance * term.value > term.cost)
    chosen = assign(probability, terms, contacts=contacts, eligible=eligible)
    return [
        selection_of(one.recommender, one.pool, chosen.person[chosen.campaign == n], f.id, f.cut.holdout, f.cut.salt)
        for n, (one, f) in enumerate(zip(opened, files, strict=True))
    ]


def _group(opened: _Open, file: CampaignFile, chosen: Selection, gate: PolicyGate) -> Group:
    recommender, found = opened.recommender, opened.pool
    made = answer(recommender, found, chosen, file.id, explain=False)
    held = np.isin(np.concatenate([chosen.addressed, chosen.held]), chosen.held)
    places = np.concatenate([chosen.addressed, chosen.held])
    order = np.argsort(-found.found.order[places], kind="stable")
    return Group(recommender, made, _planned(opened, file, places[order], held[order], gate))


def _planned(
    opened: _Open, file: CampaignFile, places: NDArray[np.int64], held: NDArray[np.bool_], gate: PolicyGate
) -> tuple[Planned, ...]:
    recommender, found = opened.recommender, opened.pool
    rows, best = found.rows[places], found.found.best[places]
    best = np.where(best < 0, found.target.items[0], best)  # nothing of the campaign was proposed for them
    everybody = names_of(recommender, found)
    names = [everybody[place] for place in places]
    item_ids = [recommender.dataset.items["item_id"][int(item)] for item in best]
    kinds = [
        reason_kind(reasons[0] if reasons else None, item, sensitive=False)
        for reasons, item in zip(reasons_for(recommender, rows, best), item_ids, strict=True)
    ]
    channels = [channel or file.personal[0] for channel in first_channel(gate, names, file.personal)]
    basics = basics_of(recommender.dataset.users[rows.tolist()])
    spoken = [_locale(told, file.locales) for told in basics]
    chances = _probability(found)[places].tolist()
    return tuple(
        Planned(*one) for one in zip(names, held.tolist(), chances, item_ids, kinds, channels, spoken, strict=True)
    )


def _probability(found: Pool) -> NDArray[np.float64]:
    assert found.found.probability is not None  # noqa: S101 - a pool of items has probabilities
    return found.found.probability.astype(np.float64)


def _locale(basics: Mapping[str, str], locales: Sequence[str]) -> str:
    """The first of the campaign's locales in a language that the person named; the first one without a name."""
    named = {_language(value) for name, value in basics.items() if name.casefold() in LANGUAGE_BASICS}
    return next((locale for locale in locales if _language(locale) in named), locales[0])


def _language(locale: str) -> str:
    return locale.casefold().replace("_", "-").split("-")[0]
