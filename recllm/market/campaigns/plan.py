"""From a campaign's file to its plan in the workspace: people, one item each, texts, checks."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from recllm.base.documents import count_text, plain
from recllm.base.errors import DataError, NotFittedError, NothingToDo, UsageError
from recllm.base.schema import Generator, Intent, Reason, ReasonKind
from recllm.base.words.sentences import language
from recllm.learn.features.item_vectors import basics_of
from recllm.market.adcopy.ads import customer_facts, may_be_modelled, open_generator
from recllm.market.adcopy.request import PersonFacts, reason_kind
from recllm.market.audiences.audience import EligiblePool, build_audience, counts_in_words
from recllm.market.audiences.contacts import first_channels
from recllm.market.audiences.reasons import reasons_for
from recllm.market.audiences.selection import Selection, draws, select
from recllm.market.campaigns.file import SERVER, CampaignFile
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, PlannedPerson, publish
from recllm.market.campaigns.open_campaign import auto_approvals
from recllm.market.campaigns.reach import (
    CUSTOMERS_TRIED,
    FEW_PRODUCTS,
    PRODUCTS_TRIED,
    campaign_pool,
    first_items,
)
from recllm.market.campaigns.texts import SILENCES, CampaignWriter, Silence, TextKey, catalogue_at, public_keys
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
    check_times(file, send, moment)
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
    opened_generator = partial(open_generator, writer, workspace.cache_dir, adapter=file.words.adapter)
    with opened_generator():
        pass  # there is such a generator; a local one starts when it is asked for a text
    if recommender is None and current(workspace.models_dir) is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    tell("opening the workspace")
    loaded = recommender or open_recommender(workspace, now=now, everybody=True)
    tell(f"finding people for {file.id}")
    pool = campaign_pool(loaded, file, workspace)
    tell(f"writing the texts of {file.id}")
    with opened_generator() as speaker:
        plan = written_plan(workspace, loaded, file, pool, send, speaker)
    approvals = auto_approvals(plan, at=now or datetime.now(UTC)) if file.words.auto else []
    publish(folder, plan, replace=replace, decisions=approvals)
    _logger.info("planned %d people, %d held out, %d texts", len(plan.addressed), len(plan.held_out), len(plan.texts))
    return plan


def check_times(file: CampaignFile, send: datetime, moment: datetime) -> None:
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


def written_plan(
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
    writer = CampaignWriter(workspace, file, catalogue, send)
    selection, recipients, silent = Draw(workspace, recommender, file, pool, writer, speaker).drawn()
    audience = build_audience(recommender, pool, selection, file.id, 0, figures=FigureGate(workspace))
    if not audience.people:
        counts, n_held_out = counts_in_words(audience.excluded), len(audience.holdout)
        raise NothingToDo(f"the campaign {file.id!r} reaches no customers: {counts}; held out: {n_held_out}")
    addressed = [recipient for recipient in recipients if not recipient.person.held_out]
    if not addressed:
        if silent[Silence.NO_PROOF]:
            item_id, missing = next(iter(writer.unproven.items()))
            title = catalogue.items[item_id].title
            raise DataError(
                f"{file.source}: the offer cannot be stated for {title!r}: {missing}; give the proof, or change it"
            )
        raise NothingToDo(
            f"{file.source}: nothing can be said to these customers about these products: {counts_in_words(silent)}; "
            "name an offer, an occasion, or products that they have a reason to buy"
        )
    keys = Counter(recipient.key for recipient in addressed)
    keys.update(dict.fromkeys((recipient.key for recipient in recipients), 0))
    keys.update(dict.fromkeys(public_keys((recipient.key.item_id for recipient in recipients), file), 0))
    texts, remarks = writer.texts(keys, generator=speaker)
    if n_further := sum(recipient.is_further for recipient in addressed):
        customers = count_text(n_further, "customer")
        remarks.append(f"{customers}: a product from further down their list, as nothing can be said about the first")
    people, names = [], [recipient.person.user_id for recipient in recipients]
    # a hash of campaign and pseudonym draws each person's variant: so variants can be compared
    for recipient, draw in zip(recipients, draws(names, file.id, "variant"), strict=True):
        if variants := texts[recipient.key]:
            text, share = variants[int(draw * len(variants))], 1 / len(variants)
            people.append(replace(recipient.person, variant=text.variant, text_id=text.id, propensity=share))
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
        excluded={**audience.excluded, **{silence.value: n for silence, n in silent.items()}},
        expected_conversions=sum(recipient.person.probability for recipient in addressed),
        cost=None if cost is None else cost * len(addressed),
        items=audience.items,
        converts=tuple(action.value for action in audience.converts),
        group=tuple(plain(audience.group)),
        notes=(*audience.notes, *remarks),
        # all texts in the order of their numbers
        texts=tuple(replace(text, people=readers[text.id]) for variants in texts.values() for text in variants),
        people=tuple(people),
        silent_items=writer.silent_items,
    )


# --- its people, each with a product of which something can be said --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recipient:
    """One of a campaign's people with a product of which a text says something that no check stops."""

    person: PlannedPerson
    """So far without a text."""
    key: TextKey
    is_further: bool
    """Whether the product is not the first of the person's list."""


@dataclass(frozen=True, eq=False)
class Draw:
    """A campaign whose people are drawn from a pool."""

    workspace: Workspace
    recommender: Recommender
    file: CampaignFile
    pool: EligiblePool
    writer: CampaignWriter
    speaker: Generator | None

    def drawn(self) -> tuple[Selection, list[Recipient], Counter[Silence]]:
        """The people, best first, those held out among them, and how many are drawn without a text.

        Where the campaign has a size, the next customers replace those to whom nothing can be said; `CUSTOMERS_TRIED`
        times as many are looked at.
        """
        cut, limit = self.file.limits.cut, self.file.limits.cut.max_contacts
        max_size = CUSTOMERS_TRIED * (limit or 0)
        found: dict[int, Recipient | Silence] = {}
        while True:
            selection = select(self.pool.scores, self.pool.user_ids, self.file.id, cut)
            first = first_items(self.file, self.workspace, self.pool, selection)
            found |= self.with_products({at: item for at, item in first.items() if at not in found})
            addressed = selection.addressed.tolist()
            written = [n for n, at in enumerate(addressed, start=1) if isinstance(found[at], Recipient)]
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
        recipients, silent = [], Counter[Silence]()
        for at in (at for at in first if at in is_held_out):
            if isinstance(recipient := found[at], Silence):
                silent[recipient] += 1
            else:
                person = replace(recipient.person, held_out=is_held_out[at])
                recipients.append(replace(recipient, person=person))
        return selection, recipients, silent

    def with_products(self, first: Mapping[int, int]) -> dict[int, Recipient | Silence]:
        """Each person with the first product of their list of which something can be said, or why there is none.

        Reasons take a scoring of the person and each product. So products about which nothing is said to anyone drop
        out first; of the others those are scored that the person's own history gives something to say about, and the
        first of the list, of which a reason may. first: position in the pool -> row of the product that is tried first.
        """
        if not first:
            return {}
        scores, file, data = self.pool.scores, self.file, self.recommender.dataset
        names, rows = [self.pool.user_ids[at] for at in first], self.pool.user_rows[list(first)].tolist()
        channels = first_channels(self.workspace.gate(), names, file.personal_channels)
        item_ids, n_tried = data.items["item_id"], PRODUCTS_TRIED if file.limits.cut.max_contacts else FEW_PRODUCTS
        ways: dict[int, tuple[str, str]] = {}
        products: dict[int, Iterator[int]] = {}
        tried: dict[int, list[int]] = {at: [] for at in first}
        for (at, item), channel, basics in zip(first.items(), channels, basics_of(data.users[rows]), strict=True):
            # the first of the campaign's locales in a language that the person named; the first one without a name
            spoken = {language(value) for basic, value in basics.items() if basic.casefold() in LANGUAGE_BASICS}
            locale = next((locale for locale in file.locales if language(locale) in spoken), file.locales[0])
            ways[at] = channel or file.personal_channels[0], locale
            others = [] if scores.offers is None else scores.offers.item[at].tolist()
            listed = dict.fromkeys([item, *(other for other in others if other != -1)])
            products[at] = islice(self.sayable(listed, *ways[at]), n_tried)
        scored: dict[int, list[int]] = {}
        waiting = list(first)
        while pairs := [(at, item) for at in waiting if (item := next(products[at], None)) is not None]:
            waiting = []
            for (at, item), facts in zip(pairs, self.facts(pairs), strict=True):
                tried[at].append(item)
                key = TextKey(item_ids[item], ReasonKind.GENERAL, *ways[at], modelled=False, person=facts)
                if self.writer.verdict(key) is None:
                    scored[at] = list(dict.fromkeys([tried[at][0], item]))
                else:
                    waiting.append(at)
        scored |= {at: tried[at][:FEW_PRODUCTS] for at in first if at not in scored}
        found: dict[int, Recipient | Silence] = {
            at: self.writer.silence(item_ids[item], *ways[at]) or Silence.NOTHING_TO_SAY for at, item in first.items()
        }
        for at, person, key in self.candidates([(at, item) for at, items in scored.items() for item in items], ways):
            if isinstance(known := found[at], Silence):
                silence = self.writer.verdict(key)
                is_further = person.item_id != item_ids[first[at]]
                found[at] = max(known, silence, key=SILENCES.index) if silence else Recipient(person, key, is_further)
        return found

    def sayable(self, items: Iterable[int], channel: str, locale: str) -> Iterator[int]:
        """Those of the products about which something is said to some customers."""
        item_ids = self.recommender.dataset.items["item_id"]
        return (item for item in items if self.writer.silence(item_ids[item], channel, locale) is None)

    def facts(
        self, pairs: Sequence[tuple[int, int]], reasons: Sequence[Sequence[Reason]] | None = None
    ) -> list[PersonFacts]:
        """What may be said of people about products. pairs: position in the pool and row of the product. reasons: of
        each; None where they are not known."""
        if not pairs:
            return []
        positions, items = zip(*pairs, strict=True)
        recommender, data = self.recommender, self.recommender.dataset
        return customer_facts(
            data.events.rows(self.pool.user_rows[list(positions)]),
            data.items,
            data.as_of,
            items,
            reasons or [()] * len(pairs),
            recommender.together,
            recommender.policy,
            self.file.target.occasion,
            recommender.broad_categories,
        )

    def candidates(
        self, pairs: Sequence[tuple[int, int]], ways: Mapping[int, tuple[str, str]]
    ) -> Iterator[tuple[int, PlannedPerson, TextKey]]:
        """The people with products, and what decides the text of each. pairs: as of `facts`. ways: channel and locale
        of each position."""
        if not pairs:
            return
        recommender, scores = self.recommender, self.pool.scores
        positions, items = np.array(pairs, np.int64).T
        names, probabilities = [self.pool.user_ids[at] for at, _ in pairs], scores.probabilities()[positions]
        if scores.offers is not None and self.file.target.choice.intent is not Intent.MIXED:  # that of the product
            is_product = scores.offers.item[positions] == items[:, None]
            of_product = scores.offers.probability[positions, is_product.argmax(1)]
            probabilities = np.where(is_product.any(1), of_product, probabilities)
        modelled = may_be_modelled(self.workspace.gate(), names, self.speaker)
        reasons = reasons_for(recommender, self.pool.user_rows[positions], items)
        item_ids, facts = recommender.dataset.items["item_id"].gather(items).to_list(), self.facts(pairs, reasons)
        for n, (at, _) in enumerate(pairs):
            channel, locale = ways[at]
            person = PlannedPerson(
                user_id=names[n],
                held_out=False,
                probability=round(float(probabilities[n]), 6),
                item_id=item_ids[n],
                kind=reason_kind(reasons[n][0] if reasons[n] else None, item_ids[n], sensitive=False).value,
                channel=channel,
                locale=locale,
                variant=0,
                text_id="",
            )
            yield at, person, TextKey(person.item_id, person.kind, channel, locale, modelled[n], facts[n])
