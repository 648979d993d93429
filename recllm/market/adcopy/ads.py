"""Ad texts for customers of a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recllm.base.errors import DataError, PolicyError, UsageError
from recllm.base.schema import (
    AdCopy,
    Generator,
    Intent,
    Item,
    Objective,
    Occasion,
    Purpose,
    Recommendation,
    Slate,
    is_confidential,
)
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.learn.models.effect import EffectModel
    from recllm.market.adcopy.packs import Pack
    from recllm.market.adcopy.request import Voice
    from recllm.recommend.recommender.recommender import Recommender


EFFECT = "effect"
"""Folder of a workspace with its model of which text works."""

AD_CHOICE = 5
"""An ad is for the first of these items that may be advertised."""
WORDINGS = 101
"""Draws among the shop's wordings that people are spread over: too few to identify a person."""


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
    effect: EffectModel | None = None,
    records: Path | None = None,
    by_pseudonym: bool = False,
) -> list[AdCopy]:
    """One checked ad text per person, or up to `variants`, for `item_id` or for each person's best item of the
    `intent` by `objective`: by lift, as a person who buys an item anyway needs no advertisement for it.

    The people are `users`, or those of `slates` that were made before. A generative model is used only for people who
    agreed to it, by the generator's `purpose`; the others get the shop's own lines. A local one that is given by name,
    with its `adapter`, runs in a process of its own, and texts go on without it when it fails. `effect` orders the
    texts that pass the checks. `records` is the folder that receives what makes a text again. An item of a sensitive
    category is never advertised to a person. by_pseudonym: the people are pseudonyms, and `recommender` takes them.

    Raises `PolicyError` for a person without consent to personalisation or to the channel, and where every item is
    sensitive; `UsageError` for a person without any item.
    """
    from recllm.market.adcopy.channels import channel_written_for
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
        texts: list[AdCopy] = []
        for slate, modelled in zip(slates, permitted, strict=True):
            best, item = _best_item(slate, recommender.dataset, workspace)
            request = CopyRequest(
                item=item,
                channel=channel,
                now=slate.as_of,
                locale=workspace.locale(locale),
                reason_kind=reason_kind(best.reasons[0] if best.reasons else None, item.item_id, sensitive=False),
                occasion=occasion,
                intent=None if intent is Intent.MIXED else intent.value,
                seed=seed * WORDINGS + wording_of(slate.user_id),
                known_brands=frozenset(recommender.brands),
                policy=workspace.policy,
                packs=tuple(packs),
                voice=voice or Voice(),
                variants=variants,
                vocabulary=vocabulary,
            )
            for copy, record in write_recorded(
                request,
                generator=model if modelled else None,
                encoder=recommender.encoder,
                generator_spec=generator if isinstance(generator, str) else "",
                adapter=str(adapter or ""),
                user_id=slate.user_id,
                effect=effect,
            ):
                if records is not None:
                    save(record, records)
                texts.append(copy if records is not None else replace(copy, record_id=None))
    return texts


def effect_model(workspace: Workspace, folder: Path | None = None) -> EffectModel | None:
    """The model in `folder`, else the workspace's own; None where it has none. Raises `ModelError` for a bad one."""
    from recllm.learn.models.effect import CARD, load_effect

    workspace_folder = workspace.root / EFFECT
    if folder is None and not (workspace_folder / CARD).exists():
        return None
    return load_effect(folder or workspace_folder)


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


def _best_item(slate: Slate, dataset: Dataset, workspace: Workspace) -> tuple[Recommendation, Item]:
    """The first item of a slate that is of no sensitive category."""
    if not slate.items:
        why = slate.degraded_reason or "the catalogue has none on offer, or the filter leaves none"
        raise UsageError(f"there is no item to advertise: {why}")
    for recommendation in slate.items:
        row = int(dataset.item_rows([recommendation.item_id])[0])
        if row < 0:
            raise DataError(f"no item {recommendation.item_id!r} in the catalogue")
        item = item_of(dataset.items.row(row, named=True))
        if not workspace.policy.is_sensitive((*item.category, item.title)):
            return recommendation, item
    raise PolicyError("sensitive products are not advertised to single people; see sensitive_categories in [policy]")


@contextmanager
def open_generator(
    generator: str | Generator | None, cache_dir: Path, *, adapter: Path | None = None
) -> Iterator[Generator | None]:
    """A generator by its name, a local one in its own process, which ends with the block; another one as it is."""
    from recllm.text.generator.locate import find_generator
    from recllm.text.generator.process import ProcessGenerator

    if not isinstance(generator, str):
        yield generator
        return
    model = find_generator(generator, cache_dir=cache_dir / "generators", adapter=adapter, own_process=True)
    try:
        yield model
    finally:
        if isinstance(model, ProcessGenerator):
            model.close()


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
