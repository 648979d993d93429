"""Ad texts for customers of a workspace."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.base.errors import DataError, NothingToDo, PolicyError, UsageError
from recllm.base.schema import (
    AdCopy,
    Generator,
    Intent,
    Item,
    Objective,
    Occasion,
    Purpose,
    Slate,
    is_confidential,
)
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.base.schema import Recommendation
    from recllm.market.adcopy.packs import Pack
    from recllm.market.adcopy.request import PersonFacts, Voice
    from recllm.recommend.recommender.recommender import Recommender


AD_CHOICE = 5
"""An ad is for the first of these items that may be advertised."""
WORDINGS = 101
"""Draws among the shop's wordings that people are spread over: too few to identify a person."""


@dataclass(frozen=True)
class Ads:
    """Texts for customers, and why the others have none."""

    texts: tuple[AdCopy, ...]
    left_out: Mapping[str, str]
    """Customer -> why."""


def write_ads(
    workspace: Workspace,
    recommender: Recommender,
    users: Sequence[str] = (),
    *,
    slates: Sequence[Slate] | None = None,
    item_id: str | None = None,
    intent: Intent = Intent.MIXED,
    objective: Objective = Objective.LIFT,
    channel: str = "email",
    locale: str | None = None,
    generator: str | Generator | None = "template",
    adapter: Path | None = None,
    seed: int = 0,
    packs: Sequence[Pack] = (),
    voice: Voice | None = None,
    occasion: Occasion | None = None,
    variants: int = 1,
    records: Path | None = None,
    by_pseudonym: bool = False,
) -> Ads:
    """A checked ad text for each customer, or up to `variants`, for `item_id` or for the first of the customer's best
    items of the `intent` by `objective` about which there is something to say.

    The customers are `users`, or those of `slates` that were made before. A generative model is used only for customers
    who agreed to it, by the generator's `purpose`; the others get texts of frames. Texts go on without it when it
    fails. `records` is the folder that receives the records of texts. An item of a sensitive category is never
    advertised to a person. by_pseudonym: the people are pseudonyms, and `recommender` takes them.

    Raises `PolicyError` for a customer without consent to personalisation or to the channel, `NothingToDo` where no
    customer gets a text.
    """
    from recllm.market.adcopy.channels import channel_written_for
    from recllm.market.adcopy.customers import customer_facts
    from recllm.market.adcopy.record import save, write_recorded
    from recllm.market.adcopy.request import CopyRequest, Voice, reason_kind
    from recllm.market.adcopy.vocabulary import approved_words, vocabulary_file

    channel_written_for(channel)
    vocabulary = approved_words(vocabulary_file(workspace.root))
    people = [slate.user_id for slate in slates] if slates is not None else list(users)
    user_ids, gate = people if by_pseudonym else workspace.pseudonymiser().many(people), workspace.gate()
    for purpose in filter(None, (Purpose.PERSONALISATION, CHANNEL_PURPOSE.get(channel))):
        if not all(gate.permits_each(user_ids, purpose)):
            raise PolicyError(f"someone of the list has not agreed to {purpose}: no personal ad; nothing was written")
    with open_generator(generator, workspace.cache_dir, adapter=adapter) as model:
        permitted = may_be_modelled(gate, user_ids, model)
        if slates is None:
            allow = (item_id,) if item_id else None
            slates = recommender.recommend(people, k=AD_CHOICE, intent=intent, objective=objective, allow=allow)
        histories = recommender.people.histories(user_ids).events
        shop = recommender.dataset
        choices = [(n, best) for n, slate in enumerate(slates) for best in slate.items[:AD_CHOICE]]
        rows = shop.item_rows([best.item_id for _, best in choices]).tolist()
        if -1 in rows:
            raise DataError(f"no item {choices[rows.index(-1)][1].item_id!r} in the catalogue")
        facts = customer_facts(
            histories.rows(np.array([n for n, _ in choices], np.int64)),
            shop.items,
            shop.as_of,
            rows,
            [best.reasons for _, best in choices],
            recommender.together,
            workspace.policy,
            occasion,
            recommender.broad_categories,
        )
        of_slate: dict[int, list[tuple[Recommendation, int, PersonFacts]]] = defaultdict(list)
        for (n, best), row, person in zip(choices, rows, facts, strict=True):
            of_slate[n].append((best, row, person))
        texts: list[AdCopy] = []
        left_out: dict[str, str] = {}
        for n, (slate, modelled) in enumerate(zip(slates, permitted, strict=True)):
            why = slate.degraded_reason or "there is no item to advertise"
            for best, row, person in of_slate[n]:
                item = item_of(shop.items.row(row, named=True))
                if workspace.policy.is_sensitive((*item.category, item.title)):
                    why = "sensitive products are not advertised to single people; see sensitive_categories in [policy]"
                    continue
                request = CopyRequest(
                    item=item,
                    channel=channel,
                    now=slate.as_of,
                    locale=workspace.locale(locale),
                    reason_kind=reason_kind(best.reasons[0] if best.reasons else None, item.item_id, sensitive=False),
                    occasion=occasion,
                    person=person,
                    seed=seed * WORDINGS + wording_of(slate.user_id),
                    known_brands=frozenset(recommender.brands),
                    policy=workspace.policy,
                    packs=tuple(packs),
                    voice=voice or Voice(),
                    variants=variants,
                    vocabulary=vocabulary,
                )
                written = write_recorded(request, generator=model if modelled else None, user_id=slate.user_id)
                if not written:
                    why = "nothing that is known of the customer and the products makes a text for this channel"
                    continue
                for copy, record in written:
                    if records is not None:
                        save(record, records)
                    texts.append(copy if records is not None else replace(copy, record_id=None))
                break
            else:
                left_out[slate.user_id] = why
    if not texts and left_out:
        reason = next(iter(left_out.values()))
        error = PolicyError if reason.startswith("sensitive") else NothingToDo
        raise error(f"no text was written: {reason}")
    return Ads(tuple(texts), left_out)


def wording_of(user_id: str) -> int:
    """A person's draw in [0, `WORDINGS`), always the same: two people who get one item for one reason may read it in
    different words."""
    return int.from_bytes(sha256(user_id.encode()).digest()[:4], "big") % WORDINGS


def may_be_modelled(gate: PolicyGate, user_ids: Sequence[str], generator: Generator | None) -> list[bool]:
    """For each person, whether the generator may write a text for them. Raises `UsageError` for a generator without a
    purpose that people agree to."""
    if generator is None:
        return [False] * len(user_ids)
    purpose = getattr(generator, "purpose", None)
    if purpose not in (Purpose.LLM_LOCAL, Purpose.LLM_THIRD_PARTY):
        raise UsageError(
            f"the generator {generator.name!r} does not say where texts go; give it an attribute `purpose`, "
            f"{Purpose.LLM_LOCAL} where nothing leaves the shop's machines, {Purpose.LLM_THIRD_PARTY} otherwise"
        )
    return gate.permits_each(user_ids, purpose)


@contextmanager
def open_generator(
    generator: str | Generator | None, cache_dir: Path, *, adapter: Path | None = None
) -> Iterator[Generator | None]:
    """A generator by its name; another one as it is."""
    from recllm.text.generator.locate import find_generator

    if isinstance(generator, str):
        generator = find_generator(generator, cache_dir=cache_dir / "generators", adapter=adapter)
    yield generator


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
        attributes={name: value for name, value in stated.items() if not is_confidential(name)},
    )
