"""Ad text for a workspace's people, and texts made again from their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from recllm.data.dataset import Dataset
from recllm.errors import DataError, PolicyError, UsageError
from recllm.jobs.recommenders import open_recommender
from recllm.jobs.serve import CHANNEL_PURPOSE
from recllm.schema import Item, Purpose, Slate
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.adcopy.packs import Pack
    from recllm.adcopy.record import CopyRequest
    from recllm.adcopy.voice import Voice
    from recllm.recommender.recommender import Recommender
    from recllm.schema import AdCopy, Generator


AD_CHOICE = 5
"""An ad is for the first of so many items that may be advertised."""


def write_ads(
    workspace: Workspace,
    users: Sequence[str],
    *,
    item_id: str | None = None,
    channel: str = "email",
    locale: str | None = None,
    generator: str | Generator | None = "template",
    adapter: Path | None = None,
    seed: int = 0,
    recommender: Recommender | None = None,
    packs: Sequence[Pack] = (),
    voice: Voice | None = None,
    variants: int = 1,
    records: Path | None = None,
) -> list[AdCopy]:
    """One checked ad text per person, or up to `variants`, for `item_id` or for each person's best item.

    A generative model is used only for people who agreed to it (purpose llm_local, or llm_third_party for a server);
    the others get the shop's own lines. A local one that is given by name, with its `adapter`, runs in a process of its
    own, and texts go on without it when it fails. `records` is the folder that receives what makes a text again.
    Raises `PolicyError` when a person has not agreed to personalisation, or to the channel: there is no personal ad
    without it.
    """
    from recllm.adcopy.record import keep
    from recllm.generator.http import HttpGenerator

    names, gate = _agreed(workspace, users, channel), workspace.gate()
    found_as = generator if isinstance(generator, str) else ""
    with open_generator(generator, workspace.cache_dir, adapter=adapter) as speaker:
        model_use = Purpose.LLM_THIRD_PARTY if isinstance(speaker, HttpGenerator) else Purpose.LLM_LOCAL
        modelled = gate.permits_each(names, model_use)
        open_one = recommender or open_recommender(workspace, locale=locale)
        chosen = {"allow": [item_id]} if item_id else {}
        slates = open_one.recommend(users, k=AD_CHOICE, explain=True, **chosen)
        texts: list[AdCopy] = []
        for slate, yes in zip(slates, modelled, strict=True):
            request = ad_request(open_one, slate, workspace, channel=channel, locale=locale, seed=seed)
            request = replace(request, packs=tuple(packs), voice=voice or request.voice, variants=variants)
            texts += keep(
                request,
                records,
                generator=speaker if yes else None,
                encoder=open_one.encoder,
                found_as=found_as,
                adapter=str(adapter or ""),
                user_id=slate.user_id,
            )
    return texts


def _agreed(workspace: Workspace, users: Sequence[str], channel: str) -> list[str]:
    """The people's pseudonyms. Raises `PolicyError` unless all agreed to personalisation and to the channel."""
    names, gate = workspace.pseudonymiser().many(users), workspace.gate()
    for purpose in filter(None, (Purpose.PERSONALISATION, CHANNEL_PURPOSE.get(channel))):
        if not all(gate.permits_each(names, purpose)):
            raise PolicyError(f"someone of the list has not agreed to {purpose}: no personal ad; nothing was written")
    return names


@contextmanager
def open_generator(
    generator: str | Generator | None, cache_dir: Path, *, adapter: Path | None = None
) -> Iterator[Generator | None]:
    """A generator by its name, a local one in its own process, which ends with the block; another one as it is."""
    from recllm.generator.locate import find_generator
    from recllm.generator.process import ProcessGenerator

    if not isinstance(generator, str):
        yield generator
        return
    found = find_generator(generator, cache_dir=cache_dir / "generators", adapter=adapter, own_process=True)
    try:
        yield found
    finally:
        if isinstance(found, ProcessGenerator):
            found.close()


def replay_ad(
    workspace: Path,
    record_id: str,
    *,
    records: Path,
    generator: str | None = None,
    adapter: Path | None = None,
    packs: Sequence[Pack] = (),
) -> AdCopy:
    """The text of a record, made again. Generator and adapter are the record's, unless they lie elsewhere now.

    Raises `DataError` for an unknown record, `GenerationError` saying what changed when it cannot be the same text.
    """
    from recllm.adcopy.record import load, replay

    record = load(records, record_id)
    tuned = adapter or (Path(record.adapter) if record.adapter else None)
    with open_generator(generator or record.found_as, workspace / "cache", adapter=tuned) as speaker:
        encoder = None
        if record.encoder:
            with Workspace.open(workspace) as opened:
                encoder = open_recommender(opened).encoder
        return replay(record, generator=speaker, encoder=encoder, packs=packs)


def ad_for(
    recommender: Recommender,
    slate: Slate,
    workspace: Workspace,
    *,
    channel: str,
    locale: str | None = None,
    generator: Generator | None = None,
    seed: int = 0,
) -> AdCopy:
    """The ad text for the first item of a slate that is of no sensitive category: those are never targeted.

    Raises `UsageError` for an empty slate, `PolicyError` when every item of it is sensitive.
    """
    from recllm.adcopy.record import write_recorded

    request = ad_request(recommender, slate, workspace, channel=channel, locale=locale, seed=seed)
    copy, _ = write_recorded(request, generator=generator, encoder=recommender.encoder)
    return replace(copy, user_id=slate.user_id, record_id=None)


def ad_request(
    recommender: Recommender,
    slate: Slate,
    workspace: Workspace,
    *,
    channel: str,
    locale: str | None = None,
    seed: int = 0,
) -> CopyRequest:
    """What `ad_for` asks for."""
    from recllm.adcopy.record import CopyRequest

    if not slate.items:
        raise UsageError("there is no item to advertise: the catalogue has none on offer, or the filter leaves none")
    offered = [(shown, catalogue_item(recommender.dataset, shown.item_id)) for shown in slate.items]
    fit = [(s, i) for s, i in offered if not workspace.policy.is_sensitive((*i.category, i.title))]
    if not fit:
        raise PolicyError(
            "sensitive products are not advertised to single people; see sensitive_categories in [policy]"
        )
    best, item = fit[0]
    return CopyRequest(
        item=item,
        channel=channel,
        now=slate.as_of,
        locale=locale or workspace.settings.locale,
        reason=best.reasons[0] if best.reasons else None,
        seed=seed,
        known_brands=tuple(sorted(recommender.brands)),
        policy=workspace.policy,
    )


def catalogue_item(dataset: Dataset, item_id: str) -> Item:
    """The item as the ad copy's facts need it. Raises `DataError` for an unknown one."""
    import json

    row = int(dataset.item_rows([item_id])[0])
    if row < 0:
        raise DataError(f"no item {item_id!r} in the catalogue")
    found = dataset.items.row(row, named=True)
    price = found["price"]
    return Item(
        item_id=item_id,
        title=found["title"] or "",
        category=tuple(found["category"] or ()),
        brand=found["brand"],
        description=found["description"],
        price=None if price is None else Decimal(str(price)),  # shortest text of the float: 3.99, not 3.98999...
        currency=found["currency"],
        available=found["available"],
        attributes=json.loads(found["attributes"]) if found["attributes"] else {},
    )
