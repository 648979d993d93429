"""From a campaign's file to its plan in the workspace: people, one item each, texts, checks."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from itertools import compress, islice, product

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import count_text, plain
from recllm.base.errors import DataError, NotFittedError, NothingToDo, UsageError
from recllm.base.schema import Generator, Intent, Reason, ReasonKind
from recllm.base.words.sentences import language
from recllm.learn.features.collaborative import NEW_ITEM_DAYS
from recllm.learn.features.item_vectors import basics_of
from recllm.market.adcopy.ads import customer_facts, generator_named, may_be_modelled
from recllm.market.adcopy.request import PersonFacts, reason_kind
from recllm.market.adcopy.suitability import item_codes
from recllm.market.audiences.audience import EligiblePool, build_audience, counts_in_words
from recllm.market.audiences.contacts import first_channels
from recllm.market.audiences.reasons import reasons_for
from recllm.market.audiences.selection import Selection, draws, select
from recllm.market.campaigns.file import SERVER, CampaignFile
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, PlannedPerson, publish
from recllm.market.campaigns.open_campaign import auto_approvals
from recllm.market.campaigns.reach import PRODUCTS_TRIED, campaign_pool, first_items
from recllm.market.campaigns.texts import CampaignWriter, Silence, TextKey, catalogue_at
from recllm.market.propensity.effects import saved_effects
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, log_end, present

URL_VARIABLE = "RECLLM_LLM_URL"
"""Where the operator's text server is, e.g. http://localhost:8000/v1#model."""
FEW_PRODUCTS = 3
"""`PRODUCTS_TRIED` of a campaign for all customers; and where only a reason could carry a text."""
CUSTOMERS_TRIED = 3
"""For each one of a campaign's size, until there is something to say to as many."""
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
    """Plans a campaign, and publishes the plan. generator: instead of the one that the file names. now: the clock.

    Raises `UsageError` or `DataError` for a campaign that cannot be, `NotFittedError` without a trained model,
    `PolicyError` for a sensitive target or a group under the floor, and `NothingToDo` with the counts when no customers
    would be reached; then without a plan.
    """
    tell = progress or (lambda _: None)
    if "locales" not in file.model_fields_set:
        file = file.model_copy(update={"locales": (workspace.settings.locale,)})
    folder, moment = CampaignFolder.of(workspace.root, file.id), utc(present(workspace, now))
    send = file.send or moment
    if fault := time_fault(file, send, moment):
        raise DataError(f"{file.source}: {fault[1]}")
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
    plan = written_plan(workspace, loaded, file, pool, send, speaker)
    approvals = auto_approvals(plan, at=now or datetime.now(UTC)) if file.words.auto else []
    publish(folder, plan, replace=replace, decisions=approvals)
    _logger.info("planned %d people, %d held out, %d texts", len(plan.addressed), len(plan.held_out), len(plan.texts))
    return plan


class TimeFault(StrEnum):
    """Why texts of a campaign cannot go out when they would."""

    PAST = "send_past"
    """The time to send is past."""
    OVER = "offer_over"
    EARLY = "offer_start"
    """The offer starts later."""


def time_fault(file: CampaignFile, send: datetime, moment: datetime) -> tuple[TimeFault, str] | None:
    """Why nothing can go out at `send` in the present `moment`, also in words; None where it can."""
    offer, texts = file.offer, f"and texts go out at {send.isoformat()}"
    if send < moment:
        return TimeFault.PAST, f"send is {send.isoformat()}, and the present is {moment.isoformat()}"
    if offer and offer.end and offer.end <= send:
        return TimeFault.OVER, f"the offer ended at {offer.end.isoformat()}, {texts}; give it another end"
    if offer and offer.start and offer.start > send:
        at = offer.start.isoformat()
        return TimeFault.EARLY, f"the offer begins at {at}, {texts}; set send to a time at or after it"
    return None


def written_plan(
    workspace: Workspace,
    recommender: Recommender,
    file: CampaignFile,
    pool: EligiblePool,
    send: datetime,
    speaker: Generator | None,
) -> CampaignPlan:
    items, offers, data = pool.target.items, pool.scores.offers, recommender.dataset
    if file.target.is_personal and offers is not None:
        items = np.unique(offers.item[offers.item >= 0])
    item_ids = data.items["item_id"].gather(items).to_list()
    catalogue = catalogue_at(workspace, file, item_ids, send)
    if file.target.intent is None:  # else a customer may get any item of the shop
        catalogue = replace(catalogue, day_items=frozenset(item_ids))
    days_sold = recommender.population.stats.days_since_arrival[items]
    arrived = catalogue.arrived.intersection(compress(item_ids, days_sold <= NEW_ITEM_DAYS))
    catalogue = replace(catalogue, arrived=arrived)
    writer = CampaignWriter(workspace, file, catalogue, send)
    selection, recipients, silent = Draw(workspace, recommender, file, pool, writer, speaker).drawn()
    silences: dict[str, int | None] = {silence.value: n for silence, n in silent.items()}
    audience = build_audience(recommender, pool, selection, file.id, 0, figures=FigureGate(workspace))
    if not audience.people:
        counts = counts_in_words(audience.excluded)
        n_held_out = len(audience.holdout)
        empty = NothingToDo(f"the campaign {file.id!r} reaches no customers: {counts}; held out: {n_held_out}")
        empty.left_out = audience.excluded
        raise empty
    addressed = [r for r in recipients if not r.held_out]
    if not addressed:
        if silent[Silence.NO_PROOF]:
            titles = ", ".join(repr(catalogue.items[item_id].title) for item_id in writer.unproven)
            missing = next(iter(writer.unproven.values()))
            refusal = DataError(
                f"{file.source}: the offer cannot be stated for {titles}: {missing.message}; "
                "give the proof, or change it"
            )
            refusal.keys = tuple(f"words.evidence.{missing.needs}.{item_id}" for item_id in writer.unproven)
            raise refusal
        empty = NothingToDo(
            f"{file.source}: nothing can be said to these customers about these products: {counts_in_words(silences)}; "
            "name an offer, an occasion, or products that they have a reason to buy"
        )
        empty.left_out = {**audience.excluded, **silences}
        raise empty
    keys = Counter(r.key for r in addressed)
    keys.update(dict.fromkeys((r.key for r in recipients), 0))
    public = product({r.key.item_id for r in recipients}, file.public_channels, file.locales)
    keys.update({TextKey(item, ReasonKind.GENERAL, channel, locale, False): 0 for item, channel, locale in public})
    texts, remarks = writer.texts(keys, generator=speaker)
    if n_further := sum(r.is_further for r in addressed):
        customers = count_text(n_further, "customer")
        remarks.append(f"{customers}: a product from further down their list, as nothing can be said about the first")
    people, names = [], [r.user_id for r in recipients]
    # a hash draws each person's variant, so that variants can be compared
    for recipient, draw in zip(recipients, draws(names, file.id, "variant"), strict=True):
        if variants := texts[recipient.key]:
            text = variants[int(draw * len(variants))]
            person = PlannedPerson(
                user_id=recipient.user_id,
                held_out=recipient.held_out,
                probability=recipient.probability,
                text_id=text.id,
                propensity=1 / len(variants),
                **{name: getattr(text, name) for name in ("item_id", "kind", "channel", "locale", "variant")},
            )
            people.append(person)
    readers = Counter(p.text_id for p in people if not p.held_out)
    cost = file.limits.cost
    return CampaignPlan(
        campaign_id=file.id,
        goal=file.goal,
        note=file.note,
        digest=file.digest,
        as_of=plain(audience.as_of),
        log_end=plain(utc(min(log_end(workspace) or data.as_of, data.as_of))),
        send=plain(send),
        offer=plain(file.offer),
        horizon_days=audience.horizon_days,
        window_days=file.window_days or audience.horizon_days,
        model_version=audience.model_version,
        holdout=file.limits.holdout,
        excluded={**audience.excluded, **silences},
        expected_conversions=sum(r.probability for r in addressed),
        cost=None if cost is None else cost * len(addressed),
        items=tuple(sorted({p.item_id for p in people})) if file.target.is_personal else audience.items,
        own_items=file.target.is_personal,
        converts=tuple(action.value for action in audience.converts),
        group=tuple(plain(audience.group)),
        notes=(*audience.notes, *remarks, *writer.product_remarks()),
        # all texts in the order of their numbers
        texts=tuple(replace(text, people=readers[text.id]) for variants in texts.values() for text in variants),
        people=tuple(people),
        silent_items=writer.silent_items,
    )


@dataclass(frozen=True, slots=True)
class Recipient:
    """One of a campaign's people with a product about which a text can go out."""

    user_id: str
    probability: float
    key: TextKey
    is_further: bool
    """Whether the product is not the first of the person's list."""
    held_out: bool = False


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

        Where the campaign has a size, the next customers replace those to whom nothing can be said.
        """
        cut = self.file.limits.cut
        limit = cut.max_contacts
        max_size = CUSTOMERS_TRIED * (limit or 0)
        results: dict[int, Recipient | Silence] = {}
        while True:
            selection = select(self.pool.scores, self.pool.user_ids, self.file.id, cut)
            first = first_items(self.file, self.workspace, self.pool, selection)
            results |= self.with_products({at: item for at, item in first.items() if at not in results})
            addressed = selection.addressed.tolist()
            written = [n for n, at in enumerate(addressed, start=1) if isinstance(results[at], Recipient)]
            size = cut.max_contacts or 0
            if limit is None or len(written) >= limit or len(addressed) < size or size >= max_size:
                break
            size += max(2 * (limit - len(written)), limit // 2)  # so that a few passes suffice
            cut = cut.model_copy(update={"size": min(size, max_size), "budget": None})
        if limit is not None and len(written) > limit:
            cut = cut.model_copy(update={"size": written[limit - 1], "budget": None})
            selection = select(self.pool.scores, self.pool.user_ids, self.file.id, cut)
        held_out = set(selection.holdout.tolist())
        drawn = held_out.union(selection.addressed.tolist())
        tried = [(at, results[at]) for at in first if at in drawn]
        recipients = [replace(r, held_out=at in held_out) for at, r in tried if isinstance(r, Recipient)]
        return selection, recipients, Counter(silence for _, silence in tried if isinstance(silence, Silence))

    def with_products(self, first: Mapping[int, int]) -> dict[int, Recipient | Silence]:
        """Each person with the first product of their list about which a text can go out, or why none can. first: the
        row of the product that is tried first, by position in the pool."""
        if not first:
            return {}
        item_ids = self.recommender.dataset.items["item_id"]
        ways = self.ways(list(first))
        results: dict[int, Recipient | Silence] = {}
        for at, item in first.items():
            silence = self.writer.silence(item_ids[item], *ways[at])
            results[at] = silence or Silence.NOTHING_TO_SAY
        scored = self.promising_products(first, ways)
        pairs = [(at, item) for at, items in scored.items() for item in items]
        for at, recipient in self.candidates(pairs, ways, first):
            before, silence = results[at], self.writer.verdict(recipient.key)
            if isinstance(before, Recipient):
                continue
            results[at] = recipient if silence is None else max(before, silence, key=list(Silence).index)
        return results

    def promising_products(self, first: Mapping[int, int], ways: Mapping[int, tuple[str, str]]) -> dict[int, list[int]]:
        """Which products are scored for each person: a score finds the reasons, and takes long.

        It is the first of which their history alone gives something to say, and the first of the list, of which a
        reason may. Products that get no text at all are passed over.
        """
        item_ids = self.recommender.dataset.items["item_id"]
        offers = self.pool.scores.offers
        limit = PRODUCTS_TRIED if self.file.limits.cut.max_contacts else FEW_PRODUCTS
        products: dict[int, Iterator[int]] = {}
        for at, item in first.items():
            further = [] if offers is None else offers.item[at].tolist()
            items = dict.fromkeys([item, *(row for row in further if row != -1)])
            products[at] = islice(self.sayable(items, *ways[at]), limit)
        tried: dict[int, list[int]] = {at: [] for at in first}
        scored: dict[int, list[int]] = {}
        waiting = list(first)
        while waiting:
            pairs = [(at, item) for at in waiting for item in islice(products[at], 1)]
            waiting = []
            for (at, item), facts in zip(pairs, self.facts(pairs), strict=True):
                tried[at].append(item)
                key = TextKey(item_ids[item], ReasonKind.GENERAL, *ways[at], False, facts)
                if self.writer.verdict(key) is None:
                    scored[at] = list(dict.fromkeys([tried[at][0], item]))
                else:
                    waiting.append(at)
        return {at: scored.get(at, tried[at][:FEW_PRODUCTS]) for at in first}

    def ways(self, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Position in the pool -> channel and locale of a person's text, as of `CampaignFile.locales`."""
        channels, locales = self.file.personal_channels, self.file.locales
        names = [self.pool.user_ids[at] for at in positions]
        users = self.recommender.dataset.users[self.pool.user_rows[positions].tolist()]
        agreed = first_channels(self.workspace.gate(), names, channels)
        ways = {}
        for at, channel, basics in zip(positions, agreed, basics_of(users), strict=True):
            named = [name for name in basics if name.casefold() in LANGUAGE_BASICS]
            languages = {language(basics[name]) for name in named}
            locale = next((name for name in locales if language(name) in languages), locales[0])
            ways[at] = channel or channels[0], locale
        return ways

    def sayable(self, items: Iterable[int], channel: str, locale: str) -> Iterator[int]:
        """Those of the products about which something is said to some customers."""
        item_ids = self.recommender.dataset.items["item_id"]
        return (item for item in items if self.writer.silence(item_ids[item], channel, locale) is None)

    def facts(
        self, pairs: Sequence[tuple[int, int]], reasons: Sequence[Sequence[Reason]] | None = None
    ) -> list[PersonFacts]:
        """What may be said of people about products.
        pairs: position in the pool and row of the product. reasons: of each; None if unknown."""
        if not pairs:
            return []
        positions, items = zip(*pairs, strict=True)
        recommender, data = self.recommender, self.recommender.dataset
        return customer_facts(
            data.events.rows(self.pool.user_rows[list(positions)]),
            data.items,
            self.codes,
            max(data.as_of, int(self.writer.send.timestamp())),
            items,
            reasons or [()] * len(pairs),
            recommender.together,
            recommender.policy,
            recommender.population.stats,
            self.file.target.text_occasion,
        )

    @cached_property
    def codes(self) -> Mapping[str, NDArray[np.int64]]:
        return item_codes(self.recommender.dataset.items, self.recommender.broad_categories)

    def candidates(
        self, pairs: Sequence[tuple[int, int]], ways: Mapping[int, tuple[str, str]], first: Mapping[int, int]
    ) -> Iterator[tuple[int, Recipient]]:
        """pairs, ways, first: as of the methods `facts`, `ways` and `with_products`."""
        if not pairs:
            return
        recommender, offers = self.recommender, self.pool.scores.offers
        positions, items = np.array(pairs, np.int64).T
        names = [self.pool.user_ids[at] for at, _ in pairs]
        probabilities = self.pool.scores.probabilities()[positions]
        if offers is not None and (self.file.target.is_personal or self.file.target.choice.intent is not Intent.MIXED):
            # that of the product itself
            is_product = offers.item[positions] == items[:, None]
            of_product = offers.probability[positions, is_product.argmax(1)]
            probabilities = np.where(is_product.any(1), of_product, probabilities)
        modelled = may_be_modelled(self.workspace.gate(), names, self.speaker)
        reasons = reasons_for(recommender, self.pool.user_rows[positions], items)
        item_ids = recommender.dataset.items["item_id"].gather(items).to_list()
        facts = self.facts(pairs, reasons)
        for n, (at, item) in enumerate(pairs):
            kind = reason_kind(reasons[n][0] if reasons[n] else None, item_ids[n])
            key = TextKey(item_ids[n], kind.value, *ways[at], modelled[n], facts[n])
            yield at, Recipient(names[n], round(float(probabilities[n]), 6), key, is_further=item != first[at])
