"""The campaign's items as the catalogue has them now, and the facts that its texts rest on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from recllm.audiences.targets import TEXT_ITEM
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.plan_types import TextFacts
from recllm.schema import Item
from recllm.workspace.workspace import Workspace

GONE = TextFacts(title="", available=False)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What of the shop's catalogue a campaign is about."""

    items: Mapping[str, Item]
    """Those of the campaign that the shop still has."""
    brands: frozenset[str]
    """All of the shop's, and those that the campaign names."""


def catalogue_now(workspace: Workspace, file: CampaignFile, item_ids: Iterable[str]) -> Catalogue:
    """As the store has it now. The item that a campaign's text stands for is always there."""
    ids, rows = set(item_ids), workspace.store().items()
    items = {row["item_id"]: _item(row) for row in rows.filter(rows["item_id"].is_in(sorted(ids))).to_dicts()}
    if file.target.text is not None and TEXT_ITEM in ids:
        path = tuple(part.strip() for part in (file.target.category or "").split(">") if part.strip())
        items[TEXT_ITEM] = Item(item_id=TEXT_ITEM, title=file.target.text.strip(), category=path)
    return Catalogue(items, frozenset(rows["brand"].drop_nulls().unique()) | set(file.words.known_brands))


def facts_of(item: Item | None, file: CampaignFile) -> TextFacts:
    """What a text about the item may rest on; of an item that is gone, that it is gone."""
    if item is None:
        return GONE
    list_price = file.list_prices.get(item.item_id)
    return TextFacts(
        title=item.title,
        price=_amount(item.price),
        list_price=_amount(list_price),
        currency=item.currency,
        available=item.available,
    )


def _amount(value: Decimal | None) -> str | None:
    return None if value is None else f"{value.normalize():f}"


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        item_id=row["item_id"],
        title=row["title"] or "",
        category=tuple(row["category"] or ()),
        brand=row["brand"],
        description=row["description"],
        price=None if row["price"] is None else Decimal(row["price"]),
        currency=row["currency"],
        available=bool(row["available"]) and not row["pending"],
        attributes=json.loads(row["attributes"]) if row["attributes"] else {},
    )
