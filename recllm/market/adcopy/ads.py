"""Ad texts for customers of a workspace, and what may be said of them, counted from their purchases.

What a customer only looked at is not said. Times are coarse, so that customers who read the same words share a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.arrays import Ints
from recllm.base.errors import NothingToDo, PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import (
    ACTION_CODE,
    VARIANT_PRICES,
    Action,
    AdCopy,
    Generator,
    Intent,
    Item,
    Objective,
    Occasion,
    Purpose,
    Reason,
    is_confidential,
)
from recllm.market.adcopy.channels import channel_written_for
from recllm.market.adcopy.naming import goods_of, is_silent
from recllm.market.adcopy.packs import Pack
from recllm.market.adcopy.request import Ago, CopyRequest, PersonFacts, ThingFacts, voice_of
from recllm.market.adcopy.suitability import Suitability, item_codes, repurchased
from recllm.market.adcopy.write import write_copy
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.catalogue import known_rows
from recllm.shop.data.dataset import DAY, Events, utc
from recllm.shop.data.interactions import Pairs
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

    from recllm.learn.features.collaborative import ItemStatistics
    from recllm.recommend.recommender.recommender import Recommender


AD_CHOICE = 5
"""An ad is for the first of these items that may be advertised."""
WORDINGS = 101
"""Draws among the wordings, of which a person always gets the same: too few to identify anyone."""


@dataclass(frozen=True)
class Ads:
    """Texts for customers, and why the others have none."""

    texts: tuple[AdCopy, ...]
    left_out: Mapping[str, str]
    """Customer -> why."""


def write_ads(
    workspace: Workspace,
    recommender: Recommender,
    users: Sequence[str],
    *,
    item_id: str | None = None,
    intent: Intent = Intent.MIXED,
    objective: Objective = Objective.LIFT,
    channel: str = "email",
    locale: str | None = None,
    generator: str | Generator | None = "template",
    adapter: Path | None = None,
    seed: int = 0,
    packs: Sequence[Pack] = (),
    variants: int = 1,
) -> Ads:
    """A checked ad text for each customer, or up to `variants`, for `item_id` or for the first of the customer's best
    items of the `intent` by `objective` about which there is something to say.

    A generative model is used only for customers who agreed to it, by the generator's `purpose`; the others get texts
    of frames. Texts go on without it when it fails. An item of a sensitive category is never advertised to a person.

    Raises `PolicyError` for a customer without consent to personalisation or to the channel, `NothingToDo` where no
    customer gets a text.
    """
    channel_written_for(channel)
    voice = voice_of(workspace.root)
    user_ids, gate = workspace.pseudonymiser().many(users), workspace.gate()
    for purpose in filter(None, (Purpose.PERSONALISATION, CHANNEL_PURPOSE.get(channel))):
        if not all(gate.permits_each(user_ids, purpose)):
            raise PolicyError(f"someone of the list has not agreed to {purpose}: no personal ad; nothing was written")
    model = generator_named(generator, workspace.cache_dir, adapter=adapter)
    permitted = may_be_modelled(gate, user_ids, model)
    allow = (item_id,) if item_id else None
    slates = recommender.recommend(users, k=AD_CHOICE, intent=intent, objective=objective, allow=allow)
    histories = recommender.people.histories(user_ids).events
    shop = recommender.dataset
    choices = [(n, best) for n, slate in enumerate(slates) for best in slate.items]
    rows = known_rows(shop, [best.item_id for _, best in choices]).tolist()
    ends = np.concatenate([[0], np.cumsum([len(slate.items) for slate in slates])])
    is_unsuited = Suitability(recommender, intent).unsuited(histories, Pairs(ends, np.array(rows, np.int32)))
    facts = customer_facts(
        histories.rows(np.array([n for n, _ in choices], np.int64)),
        shop.items,
        item_codes(shop.items, recommender.broad_categories),
        shop.as_of,
        rows,
        [best.reasons for _, best in choices],
        recommender.together,
        workspace.policy,
        recommender.population.stats,
    )
    of_choices = zip(rows, facts, is_unsuited.tolist(), strict=True)
    texts: list[AdCopy] = []
    left_out: dict[str, str] = {}
    for slate, modelled in zip(slates, permitted, strict=True):
        why = slate.degraded_reason or "there is no item to advertise"
        for row, person, unsuited in list(islice(of_choices, len(slate.items))):
            item = item_of(shop.items.row(row, named=True))
            if unsuited and item_id is None:
                why = "they have the products that come first, or these are made for others than they buy for"
                continue
            if workspace.policy.is_sensitive((*item.category, item.title)):
                why = "sensitive products are not advertised to single people; see sensitive_categories in [policy]"
                continue
            draw = int.from_bytes(sha256(slate.user_id.encode()).digest()[:4])
            request = CopyRequest(
                item=item,
                channel=channel,
                now=slate.as_of,
                locale=workspace.locale(locale),
                person=person,
                seed=seed * WORDINGS + draw % WORDINGS,
                known_brands=frozenset(recommender.brands),
                policy=workspace.policy,
                packs=tuple(packs),
                voice=voice,
                variants=variants,
            )
            written = write_copy(request, generator=model if modelled else None)
            if not written:
                why = "nothing that is known of the customer and the products makes a text for this channel"
                continue
            texts += (replace(copy, user_id=slate.user_id) for copy in written)
            break
        else:
            left_out[slate.user_id] = why
    if not texts and left_out:
        reason = next(iter(left_out.values()))
        error = PolicyError if reason.startswith("sensitive") else NothingToDo
        raise error(f"no text was written: {reason}")
    return Ads(tuple(texts), left_out)


def may_be_modelled(gate: PolicyGate, user_ids: Sequence[str], generator: Generator | None) -> list[bool]:
    """Whether the generator may write for each person. Raises `UsageError` for one without a purpose."""
    if generator is None:
        return [False] * len(user_ids)
    purpose = getattr(generator, "purpose", None)
    if purpose not in (Purpose.LLM_LOCAL, Purpose.LLM_THIRD_PARTY):
        raise UsageError(
            f"the generator {generator.name!r} does not say where texts go; give it an attribute `purpose`, "
            f"{Purpose.LLM_LOCAL} where nothing leaves the shop's machines, {Purpose.LLM_THIRD_PARTY} otherwise"
        )
    return gate.permits_each(user_ids, purpose)


def generator_named(
    generator: str | Generator | None, cache_dir: Path, *, adapter: Path | None = None
) -> Generator | None:
    """A generator by its name; another one as it is."""
    from recllm.text.generator.locate import find_generator

    if isinstance(generator, str):
        return find_generator(generator, cache_dir=cache_dir / "generators", adapter=adapter)
    return generator


def item_of(row: Mapping[str, Any]) -> Item:
    """The item of one row of a dataset's or the store's items, as the facts of ad copy need it."""
    stated = json.loads(row["attributes"]) if row["attributes"] else {}
    return Item(
        item_id=row["item_id"],
        title=row["title"] or "",
        category=tuple(row["category"] or ()),
        brand=row["brand"],
        description=row["description"],
        price=row["price"],
        currency=row["currency"],
        available=bool(row["available"]) and not row.get("pending"),
        available_until=row.get("available_until"),
        stock_stated=bool(row.get("stock_stated")),
        attributes={k: text for k, text in stated.items() if k == VARIANT_PRICES or not is_confidential(k)},
    )


STEADY_DAYS = 3
"""Days with a purchase from which on a rhythm is known."""
STEADY_SPREAD = 0.35
"""Most that the middle half of the gaps lies from their median, as a share of it."""
CART_DAYS = 14.0
YEAR_DAYS = 365.0
AWAY_DAYS, AWAY_GAPS, LONGEST_GAP = 60.0, 2.0, 90.0
"""A customer stayed away for these days, and these many usual gaps, none counted as longer."""
FIRST_ORDER_DAYS = 21.0
CLEAR_DELTA = 0.2
"""Least fall of the logit without a purchase, for it to be given as the reason."""


def customer_facts(
    events: Events,
    catalogue: pl.DataFrame,
    codes: Mapping[str, Ints],
    as_of: int,
    items: Sequence[int],
    reasons: Sequence[Sequence[Reason]],
    together: csr_matrix | None,
    policy: Policy,
    stats: ItemStatistics,
    occasion: Occasion | None = None,
) -> list[PersonFacts]:
    """For each customer (a run of `events`) and item (row of the catalogue, as `Dataset.items`).

    codes: `item_codes` of the catalogue. reasons: of each, the clearest first: a purchase named there may be named with
    the item where the two are bought together more often than chance. together: see `recllm.learn.features.together`;
    None where it is not known. stats: of the catalogue's items.
    """
    goes_with = None if together is None else together.tocsc()
    is_repurchased = repurchased(stats, codes["category"])
    facts = [
        _facts(events.rows(np.array([n])), catalogue, codes, as_of, int(item), of_user, goes_with, policy, occasion)
        for n, (item, of_user) in enumerate(zip(items, reasons, strict=True))
    ]
    return [replace(f, is_repurchased=is_repurchased[item]) for f, item in zip(facts, items, strict=True)]


def _facts(
    history: Events,
    catalogue: pl.DataFrame,
    codes: Mapping[str, Ints],
    now: int,
    item: int,
    reasons: Sequence[Reason],
    together: csc_matrix | None,
    policy: Policy,
    occasion: Occasion | None,
) -> PersonFacts:
    is_purchase = history.action == ACTION_CODE[Action.PURCHASE]
    purchases, when = history.item[is_purchase], history.at[is_purchase]
    today = utc(now).date()

    def ago(seconds: int) -> Ago:
        return Ago.of((now - seconds) / DAY, today)

    def thing(row: int) -> ThingFacts | None:
        """None for no item, and for one of which nothing is said."""
        if row < 0:
            return None
        title, category, brand = catalogue.select("title", "category", "brand").row(row)
        names = (title or "", *(category or ()))
        is_unsaid = policy.is_sensitive(names) or is_silent(goods_of(names))
        return None if is_unsaid else ThingFacts(title or "", tuple(category or ()), brand)

    facts: dict[str, Any] = {}
    days = np.unique(when // DAY)
    if occasion is Occasion.WELCOME and len(days) == 1 and now - when.max() <= FIRST_ORDER_DAYS * DAY:
        facts["first_order"] = thing(int(purchases[-1]))
    elif occasion is Occasion.WIN_BACK and len(days):
        away = (now - int(when.max())) / DAY
        gaps = np.diff(days) if len(days) > 1 else LONGEST_GAP
        if away >= max(AWAY_DAYS, AWAY_GAPS * min(LONGEST_GAP, float(np.median(gaps)))):
            facts["away"] = ago(int(when.max()))
    is_same = codes["title"][purchases] == codes["title"][item]
    same = when[is_same]
    if len(same):
        facts |= {**steady_rhythm(same, now), "last": ago(int(same.max()))}
    is_recent = when >= now - YEAR_DAYS * DAY
    for name in ("category", "brand"):
        is_alike = is_recent & (codes[name][purchases] == codes[name][item])
        facts[f"{name}_bought"] = len(np.unique(when[is_alike] // DAY)) if codes[name][item] > 0 else 0
    carted = history.at[(history.action == ACTION_CODE[Action.CART]) & (history.item == item)]
    if len(carted) and now - carted.max() <= CART_DAYS * DAY and not (len(same) and same.max() > carted.max()):
        facts["in_cart"] = True
    rows = np.setdiff1d(purchases, [item])
    others = {f"B:{name}": row for name, row in zip(catalogue["item_id"].gather(rows), rows.tolist(), strict=True)}
    named = [reason for reason in reasons if reason.evidence_id in others]
    facts["because"] = thing(next((others[r.evidence_id] for r in named if r.delta >= CLEAR_DELTA), -1))
    if together is not None:  # what goes best with the item, one that a reason names before others
        column = slice(*together.indptr[item : item + 2])
        strength = dict(zip(together.indices[column].tolist(), together.data[column].tolist(), strict=True))
        of_reasons = {others[reason.evidence_id] for reason in named}
        usable = (row for row in others.values() if row in strength)
        companion = max(usable, key=lambda row: (row in of_reasons, strength[row]), default=-1)
        if (with_item := thing(companion)) is not None:
            facts |= {"with_item": with_item, "with_last": ago(int(when[purchases == companion].max()))}
    facts["bought_last_year"] = bool((np.abs((now - same) / DAY - YEAR_DAYS) <= 30).any())
    return PersonFacts(**facts).coarse()


def steady_rhythm(at: Ints, now: int) -> Mapping[str, object]:
    """times_bought, and every_days and waited of a steady buyer."""
    days = np.unique(at // DAY)
    gaps = np.diff(days)
    if len(days) >= STEADY_DAYS:
        low, median, high = np.quantile(gaps, (0.25, 0.5, 0.75)).tolist()
        if max(high - median, median - low) <= STEADY_SPREAD * median:
            return {"times_bought": len(days), "every_days": median, "waited": (now - float(at.max())) / DAY / median}
    return {"times_bought": len(days)}
