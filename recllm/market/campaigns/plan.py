"""From a campaign's file to its plan in the workspace: people, one item each, texts, checks."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.documents import count_text, plain
from recllm.base.errors import DataError, NotFittedError, NothingToDo, UsageError
from recllm.base.schema import CopyVerdict, Generator, Intent
from recllm.base.words.sentences import language
from recllm.learn.features.item_vectors import basics_of
from recllm.market.adcopy.ads import customer_facts, generator_named, may_be_modelled
from recllm.market.adcopy.request import reason_kind
from recllm.market.audiences.audience import EligiblePool, build_audience, counts_in_words
from recllm.market.audiences.contacts import first_channels
from recllm.market.audiences.reasons import reasons_for
from recllm.market.audiences.selection import Selection, draws, select
from recllm.market.campaigns.file import SERVER, CampaignFile
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, CampaignText, PlannedPerson, publish
from recllm.market.campaigns.open_campaign import auto_approvals
from recllm.market.campaigns.reach import CUSTOMERS_TRIED, PRODUCTS_TRIED, campaign_pool, first_items
from recllm.market.campaigns.texts import (
    Silence,
    TextKey,
    catalogue_at,
    public_keys,
    verdicts_of_frames,
    write_texts,
)
from recllm.market.propensity.effects import saved_effects
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender

URL_VARIABLE = "RECLLM_LLM_URL"
"""Where the operator's text server is, e.g. http://localhost:8000/v1#model."""

LANGUAGE_BASICS = ("language", "locale", "lang", "语言")
"""Basics that say which of a campaign's locales a person reads."""


_logger = logging.getLogger(__name__)


def plan_campaign(
    workspace: Workspace,
    file: CampaignFile,
    *,
    replace: bool = False,
    recommender: Recommender | None = None,
    generator: Generator | None = None,
    now: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> CampaignPlan:
    """Plans a campaign, and publishes the plan in the workspace.

    generator: instead of the one that the file names. now: the clock. What the file alone shows to be wrong is found
    before anything is loaded.

    Raises `UsageError` or `DataError` for a campaign that cannot be (a taken id, an offer that does not run when texts
    go out, an item that is gone), `NotFittedError` without a trained model, `PolicyError` for a sensitive target or a
    group under the floor, and `NothingToDo` with the counts when a campaign would reach no customers. Then nothing is
    published.
    """
    tell = progress or (lambda _: None)
    if "locales" not in file.model_fields_set:
        file = file.model_copy(update={"locales": (workspace.settings.locale,)})
    folder, moment = CampaignFolder.of(workspace.root, file.id), utc(present(workspace, now))
    send = file.send or moment
    _check_times(file, send, moment)
    with folder.locked():
        folder.check_free(replace=replace)
    if file.target.effects is not None:
        saved_effects(workspace, file.target.effects)  # there are such effects
    file.limits.suppressed_ids()  # can be read
    writer = generator or file.words.generator
    if writer == SERVER and not (writer := os.environ.get(URL_VARIABLE, "")):
        raise UsageError(
            f"{file.source} asks for the operator's text server, and none is set; "
            f"set {URL_VARIABLE}, e.g. to http://localhost:8000/v1#model"
        )
    speaker = generator_named(writer, workspace.cache_dir, adapter=file.words.adapter)
    if recommender is None and current(workspace.models_dir) is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    tell("opening the workspace")
    loaded = recommender or open_recommender(workspace, now=now, everybody=True)
    tell(f"finding people for {file.id}")
    pool = campaign_pool(loaded, file, workspace)
    tell(f"writing the texts of {file.id}")
    plan = _plan(workspace, loaded, file, pool, send, speaker)
    approvals = auto_approvals(plan, at=now or datetime.now(UTC)) if file.words.auto else []
    publish(folder, plan, replace=replace, decisions=approvals)
    _logger.info("planned %d people, %d held out, %d texts", len(plan.addressed), len(plan.held_out), len(plan.texts))
    return plan


def _check_times(file: CampaignFile, send: datetime, moment: datetime) -> None:
    """Raises `DataError` where texts would go out before `moment`, or while the offer does not run."""
    if send < moment:
        raise DataError(f"{file.source}: send is {send.isoformat()}, and the present is {moment.isoformat()}")
    offer = file.offer
    if offer is None or offer.runs(send):
        return
    over = offer.end is not None and offer.end <= send
    edge = offer.end if over else offer.start
    remedy = "give it another end" if over else "set send to a time at or after it"
    raise DataError(
        f"{file.source}: the offer {'ended' if over else 'begins'} at {edge.isoformat() if edge else ''}, "
        f"and texts go out at {send.isoformat()}; {remedy}"
    )


# --- the plan --------------------------------------------------------------------------------------------------------


def _plan(
    workspace: Workspace,
    recommender: Recommender,
    file: CampaignFile,
    pool: EligiblePool,
    send: datetime,
    speaker: Generator | None,
) -> CampaignPlan:
    item_ids = recommender.dataset.items["item_id"].gather(pool.target.items).to_list()
    catalogue = catalogue_at(workspace, file, item_ids, send)
    if file.target.intent is None:  # else a customer may get any item of the shop
        catalogue = replace(catalogue, day_items=frozenset(item_ids))
    verdict = verdicts_of_frames(workspace, file, catalogue, send)
    selection, drawn = Draw(workspace, recommender, file, pool, verdict, speaker).drawn()
    recipients = [recipient for recipient in drawn if isinstance(recipient.verdict, CopyVerdict)]
    silent = Counter(recipient.verdict.value for recipient in drawn if isinstance(recipient.verdict, Silence))
    audience = build_audience(recommender, pool, selection, file.id, 0, figures=FigureGate(workspace))
    if not audience.people:
        counts, n_held_out = counts_in_words(audience.excluded), len(audience.holdout)
        raise NothingToDo(f"the campaign {file.id!r} reaches no customers: {counts}; held out: {n_held_out}")
    addressed = [recipient for recipient in recipients if not recipient.person.held_out]
    if not addressed:
        raise NothingToDo(
            f"{file.source}: nothing can be said to these customers about these products: {counts_in_words(silent)}; "
            "name an offer, an occasion, or products that they have a reason to buy"
        )
    keys = Counter(recipient.key for recipient in addressed)
    keys.update(dict.fromkeys((recipient.key for recipient in recipients), 0))
    keys.update(dict.fromkeys(public_keys((recipient.key.item_id for recipient in recipients), file), 0))
    texts, remarks = write_texts(keys, workspace, file, catalogue, send, generator=speaker)
    _check_proofs(file, texts)
    if n_further := sum(recipient.is_further for recipient in addressed):
        customers = count_text(n_further, "customer")
        remarks.append(f"{customers}: a product from further down their list, as nothing can be said about the first")
    people = _with_texts(file, recipients, texts)
    readers, cost = Counter(person.text_id for person in people if not person.held_out), file.limits.cost
    return CampaignPlan(
        campaign_id=file.id,
        goal=file.goal,
        note=file.note,
        digest=file.digest,
        as_of=plain(audience.as_of),
        send=plain(send),
        offer=plain(file.offer),
        horizon_days=audience.horizon_days,
        window_days=file.window_days or audience.horizon_days,
        model_version=audience.model_version,
        holdout=file.limits.holdout,
        excluded={**audience.excluded, **silent},
        expected_conversions=sum(recipient.person.probability for recipient in addressed),
        cost=None if cost is None else cost * len(addressed),
        items=audience.items,
        converts=tuple(action.value for action in audience.converts),
        group=tuple(plain(audience.group)),
        notes=(*audience.notes, *remarks),
        # all texts in the order of their numbers
        texts=tuple(replace(text, people=readers[text.id]) for variants in texts.values() for text in variants),
        people=tuple(people),
    )


def _check_proofs(file: CampaignFile, texts: Mapping[TextKey, Sequence[CampaignText]]) -> None:
    """Raises `DataError` for an offer that a law forbids to state for want of a proof."""
    for text in (text for variants in texts.values() for text in variants if file.offer is not None):
        for note in text.failures:
            if "; needs " in note.message:
                raise DataError(
                    f"{file.source}: the offer cannot be stated for {text.facts.title!r}: {note.message}; give the "
                    "proof, or change it"
                )


def _with_texts(
    file: CampaignFile, recipients: Sequence[Recipient], texts: Mapping[TextKey, Sequence[CampaignText]]
) -> list[PlannedPerson]:
    """Each person with a variant of their text, drawn by a hash of campaign and pseudonym: so variants can be
    compared."""
    people, names = [], [recipient.person.user_id for recipient in recipients]
    for recipient, draw in zip(recipients, draws(names, file.id, "variant"), strict=True):
        if variants := texts[recipient.key]:
            text, share = variants[int(draw * len(variants))], 1 / len(variants)
            people.append(replace(recipient.person, variant=text.variant, text_id=text.id, propensity=share))
    return people


# --- its people, each with a product of which something can be said --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recipient:
    """One of a campaign's people with a product."""

    person: PlannedPerson
    """So far without a text."""
    key: TextKey
    verdict: CopyVerdict | Silence
    """What can be said of the product."""
    is_further: bool
    """Whether the product is not the first of the person's list."""

    @property
    def strength(self) -> int:
        return VERDICTS.index(self.verdict)


VERDICTS = (
    Silence.NO_TEXT_FOR_PRODUCT,
    Silence.NOTHING_TO_SAY,
    CopyVerdict.BLOCKED,
    CopyVerdict.PERSON,
    CopyVerdict.PASS,
)
"""The best last."""


@dataclass(frozen=True, eq=False)
class Draw:
    """A campaign whose people are drawn from a pool."""

    workspace: Workspace
    recommender: Recommender
    file: CampaignFile
    pool: EligiblePool
    verdict: Callable[[TextKey], CopyVerdict | Silence]
    speaker: Generator | None

    def drawn(self) -> tuple[Selection, list[Recipient]]:
        """The people, best first, those held out among them.

        Where the campaign has a size, the next customers replace those to whom nothing can be said; `CUSTOMERS_TRIED`
        times as many are looked at.
        """
        cut, limit = self.file.limits.cut, self.file.limits.cut.max_contacts
        max_size = CUSTOMERS_TRIED * (limit or 0)
        recipients: dict[int, Recipient] = {}
        while True:
            selection = select(self.pool.scores, self.pool.user_ids, self.file.id, cut)
            first = first_items(self.file, self.workspace, self.pool, selection)
            recipients |= self.with_products({at: item for at, item in first.items() if at not in recipients})
            addressed = selection.addressed.tolist()
            written = [n for n, at in enumerate(addressed, start=1) if isinstance(recipients[at].verdict, CopyVerdict)]
            size = cut.max_contacts or 0
            if limit is None or len(written) >= limit or len(addressed) < size or size >= max_size:
                break
            size += max(2 * (limit - len(written)), limit // 2)  # so that a few passes suffice
            cut = cut.model_copy(update={"size": min(size, max_size), "budget": None})
        if limit is not None and len(written) > limit:
            cut = cut.model_copy(update={"size": written[limit - 1], "budget": None})
            selection = select(self.pool.scores, self.pool.user_ids, self.file.id, cut)
        is_held_out = dict.fromkeys(selection.addressed.tolist(), False)
        is_held_out |= dict.fromkeys(selection.holdout.tolist(), True)
        return selection, [
            replace(recipients[at], person=replace(recipients[at].person, held_out=is_held_out[at]))
            for at in first
            if at in is_held_out
        ]

    def with_products(self, first: Mapping[int, int]) -> dict[int, Recipient]:
        """Each person with the first product of their list of which a text says something that no check stops;
        `PRODUCTS_TRIED` are looked at, and where there is none, the one that comes nearest is taken. first: position in
        the pool -> row of the product that is tried first."""
        offers, recipients = self.pool.scores.offers, dict[int, Recipient]()
        lists = {at: [item] for at, item in first.items()}
        if offers is not None:
            for at, items in lists.items():
                items += [item for item in offers.item[at].tolist() if item not in (-1, items[0])]
        stopped = VERDICTS.index(CopyVerdict.BLOCKED)
        for n in range(PRODUCTS_TRIED):
            waiting = [at for at in lists if at not in recipients or recipients[at].strength <= stopped]
            products = {at: lists[at][n] for at in waiting if len(lists[at]) > n}
            for at, (person, key) in self.candidates(products).items():
                recipient = Recipient(person, key, self.verdict(key), is_further=n > 0)
                if n == 0 or recipient.strength > recipients[at].strength:
                    recipients[at] = recipient
        return recipients

    def candidates(self, products: Mapping[int, int]) -> dict[int, tuple[PlannedPerson, TextKey]]:
        """The people at positions of the pool with these products, and what decides the text of each."""
        if not products:
            return {}
        recommender, file, scores = self.recommender, self.file, self.pool.scores
        positions, items = np.array(list(products), np.int64), np.array(list(products.values()), np.int64)
        data, gate, rows = recommender.dataset, self.workspace.gate(), self.pool.user_rows[positions]
        names, probabilities = [self.pool.user_ids[at] for at in products], scores.probabilities()[positions]
        if scores.offers is not None and file.target.choice.intent is not Intent.MIXED:  # that of the product itself
            is_product = scores.offers.item[positions] == items[:, None]
            of_product = scores.offers.probability[positions, is_product.argmax(1)]
            probabilities = np.where(is_product.any(1), of_product, probabilities)
        channels = first_channels(gate, names, file.personal_channels)
        modelled = may_be_modelled(gate, names, self.speaker)
        basics, reasons = basics_of(data.users[rows.tolist()]), reasons_for(recommender, rows, items)
        facts = customer_facts(
            data.events.rows(rows),
            data.items,
            data.as_of,
            items.tolist(),
            reasons,
            recommender.together,
            recommender.policy,
            file.target.occasion,
            recommender.broad_categories,
        )
        candidates = {}
        for n, (at, item_id) in enumerate(zip(products, data.items["item_id"].gather(items).to_list(), strict=True)):
            person = PlannedPerson(
                user_id=names[n],
                held_out=False,
                probability=round(float(probabilities[n]), 6),
                item_id=item_id,
                kind=reason_kind(reasons[n][0] if reasons[n] else None, item_id).value,
                channel=channels[n] or file.personal_channels[0],
                locale=_locale(file, basics[n]),
                variant=0,
                text_id="",
            )
            candidates[at] = person, TextKey.of(person, modelled[n], facts[n])
        return candidates


def _locale(file: CampaignFile, basics: Mapping[str, str]) -> str:
    """The first of the campaign's locales in a language that the person named; the first one without a name."""
    languages = {language(value) for basic, value in basics.items() if basic.casefold() in LANGUAGE_BASICS}
    return next((locale for locale in file.locales if language(locale) in languages), file.locales[0])
