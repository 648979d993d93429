"""The campaign's items as the catalogue has them now, and the facts that its texts rest on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from recllm.audiences.targets import TEXT_ITEM
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.plan_types import Facts
from recllm.schema import Item
from recllm.workspace.workspace import Workspace

GONE = Facts(title="", available=False)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """items: those of a campaign that the shop still has. brands: all of the shop's, and those the campaign names."""

    items: Mapping[str, Item]
    brands: frozenset[str]


def catalogue_now(workspace: Workspace, file: CampaignFile, item_ids: Iterable[str]) -> Catalogue:
    """As the store has it now. The item that a campaign's text stands for is always there."""
    wanted, rows = set(item_ids), workspace.store().items()
    found = {row["item_id"]: _item(row) for row in rows.filter(rows["item_id"].is_in(sorted(wanted))).to_dicts()}
    if file.text is not None and TEXT_ITEM in wanted:
        path = tuple(part.strip() for part in (file.category or "").split(">") if part.strip())
        found[TEXT_ITEM] = Item(item_id=TEXT_ITEM, title=file.text.strip(), category=path)
    return Catalogue(found, frozenset(rows["brand"].drop_nulls().unique()) | set(file.known_brands))


def facts_of(item: Item | None, file: CampaignFile) -> Facts:
    """What a text about the item may rest on; of an item that is gone, that it is gone."""
    if item is None:
        return GONE
    list_price = file.list_prices.get(item.item_id)
    return Facts(
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
