"""Occasions of today as rows of a page."""

from __future__ import annotations

from dataclasses import dataclass

from recllm.base.schema import Occasion
from recllm.doors.console.pages import Visit
from recllm.market.campaigns.today import ShopFigures

PICTURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestionRow:
    """An occasion of today, with counts as far as the visitor may see them."""

    occasion: Occasion
    people: int | None
    """None below the policy's floor."""
    products: int
    categories: tuple[str, ...]
    """Of the products of most customers, for their pictures."""


def suggestion_rows(visit: Visit, figures: ShopFigures | None) -> list[SuggestionRow]:
    """The occasions of today, those of most customers first; empty while they are looked for."""
    if figures is None or not figures.suggestions:
        return []
    pictured = {item_id for line in figures.suggestions for item_id in line.item_ids[:PICTURES]}
    items = visit.workspace.gate().catalogue(sorted(pictured))
    category = dict(zip(items["item_id"], items["category"].list.join(" > "), strict=True))
    rows = [
        SuggestionRow(
            occasion=line.occasion,
            people=visit.figures.people(len(line.people), "suggestion", line.occasion),
            products=len(line.item_ids),
            categories=tuple(category.get(item_id) or "" for item_id in line.item_ids[:PICTURES]),
        )
        for line in figures.suggestions
    ]
    return sorted(rows, key=lambda row: row.people is None)
