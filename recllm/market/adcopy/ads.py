"""Ad texts for customers of a workspace, and what may be said of them, counted from their purchases.

What a customer only looked at is not said. Times are coarse, so that customers who read the same words share a text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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
from recllm.market.adcopy.naming import animals_in, goods_of, is_silent
from recllm.market.adcopy.packs import Pack
from recllm.market.adcopy.request import Ago, CopyRequest, PersonFacts, ThingFacts, voice_of
from recllm.market.adcopy.write import write_copy
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.catalogue import PRIOR_BUYERS, known_rows
from recllm.shop.data.dataset import DAY, Events, utc
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
    of_choices = zip(rows, facts, strict=True)
    texts: list[AdCopy] = []
    left_out: dict[str, str] = {}
    for slate, modelled in zip(slates, permitted, strict=True):
        why = slate.degraded_reason or "there is no item to advertise"
        for row, person in list(islice(of_choices, len(slate.items))):
            item = item_of(shop.items.row(row, named=True))
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
LEAST_EXPECTED, RARE_SHARE = 2.5, 0.25
"""Buyers expected back by the shop's mean, and the share of these that is too few."""
DEAR, DEAR_BUYERS = 3, 2
"""Times the shop's median price, and buyers none of whom came back: one such purchase is enough."""
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


def item_codes(catalogue: pl.DataFrame, broad: Collection[tuple[str, ...]] = ()) -> Mapping[str, Ints]:
    """What makes items one thing to a customer: title, narrowest category, brand; each (n,).
    broad: paths of categories that hold most of what is bought, and say nothing of a customer."""
    keys = catalogue.select(
        title=pl.col("title").str.strip_chars().str.to_lowercase().replace("", None),
        category=pl.col("category").list.join("\x1f").replace(dict.fromkeys(["", *map("\x1f".join, broad)])),
        brand=pl.col("brand").str.to_lowercase(),
    )
    titles = keys["title"].drop_nulls().unique().to_list()
    animals = {title: " ".join(sorted(animals_in(title))) for title in titles}
    keys = keys.with_columns(animals=pl.col("title").replace_strict(animals, default="", return_dtype=pl.String))
    of_several = pl.col("animals").replace("", None).drop_nulls().n_unique().over("category") > 1
    of_animal = pl.concat_str("category", "animals", separator="\x1f")
    keys = keys.with_columns(category=pl.when(of_several).then(of_animal).otherwise("category"))
    return {name: _codes(keys[name]) for name in ("title", "category", "brand")}


def repurchased(stats: ItemStatistics, category: Ints) -> list[bool | None]:
    """Whether customers come back for each item, or others of its category unless it is dear and none came back for
    itself; None where unknown. category: its code, (n_items,), below 0 for none."""
    mean, buyers = stats.mean_repeat_rate, stats.buyers_ever.astype(np.float64)
    returned = np.rint(stats.repeat_rate * (buyers + PRIOR_BUYERS) - mean * PRIOR_BUYERS)
    code = np.maximum(category, 0)
    of_category = [np.where(code > 0, np.bincount(code, n)[code], 0) for n in (returned, buyers)]
    prices = stats.log_price[np.isfinite(stats.log_price)]
    is_dear = stats.log_price > (np.median(prices) + np.log(DEAR) if len(prices) else np.inf)
    is_seen, is_rare = np.zeros(len(code), bool), is_dear & (returned == 0) & (buyers >= DEAR_BUYERS)
    for n_returned, n_buyers in ((returned, buyers), of_category):
        is_seen |= n_returned > 0
        is_rare |= (n_buyers * mean >= LEAST_EXPECTED) & (n_returned < RARE_SHARE * mean * n_buyers)
    pairs = zip(is_rare.tolist(), is_seen.tolist(), strict=True)
    return [False if rare else bought or None for rare, bought in pairs]


def _codes(keys: pl.Series) -> Ints:
    """One number for each key; a number of its own for each null."""
    codes = keys.rank("dense").cast(pl.Int64).fill_null(0).to_numpy().copy()
    missing = np.flatnonzero(codes == 0)
    codes[missing] = -1 - missing
    return codes


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
