"""Occasions of today and days of the calendar as rows of a page."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from recllm.base.schema import Occasion
from recllm.base.words.sentences import language
from recllm.doors.console.pages import Visit
from recllm.market.campaigns.today import OccasionSuggestion, ShopFigures
from recllm.market.occasions.calendar import CalendarDay, profile_of
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import present

PICTURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestionRow:
    """An occasion of today, with counts as far as the visitor may see them."""

    occasion: Occasion | CalendarDay
    title: str
    what: str
    """Who and which products; "" for customers below the policy's floor."""
    people: int | None
    """None below the policy's floor."""
    products: int
    days_left: int | None
    """Until a day of the calendar."""
    categories: tuple[str, ...]
    """Of the products of most customers, for their pictures."""


def suggestion_rows(visit: Visit, figures: ShopFigures | None) -> list[SuggestionRow]:
    """The days that come and the occasions of today, those of most customers first; empty while they are looked for."""
    if figures is None or not figures.suggestions:
        return []
    pictured = {item_id for line in figures.suggestions for item_id in line.item_ids[:PICTURES]}
    items = visit.workspace.gate().catalogue(sorted(pictured))
    category = dict(zip(items["item_id"], items["category"].list.join(" > "), strict=True))
    rows = []
    for line in figures.suggestions:
        people = visit.figures.people(len(line.people), "suggestion", line.occasion)
        rows.append(
            SuggestionRow(
                occasion=line.occasion,
                title=suggestion_title(visit, line),
                what="" if people is None else suggestion_words(visit, line, people),
                people=people,
                products=len(line.item_ids),
                days_left=days_left(visit, line),
                categories=tuple(category.get(item_id) or "" for item_id in line.item_ids[:PICTURES]),
            )
        )
    return sorted(rows, key=lambda row: row.people is None)


def days_left(visit: Visit, line: OccasionSuggestion) -> int | None:
    """From today to the day of the calendar."""
    if line.coming is None:
        return None
    zone = ZoneInfo(visit.workspace.settings.timezone or "UTC")
    return (line.coming.on - utc(present(visit.workspace)).astimezone(zone).date()).days


def day_name(visit: Visit, day: CalendarDay) -> str:
    return profile_of(day, visit.workspace.settings).names[language(visit.language)]


def is_sale(visit: Visit, day: CalendarDay) -> bool:
    """Whether a campaign for the day needs an offer."""
    return profile_of(day, visit.workspace.settings).is_sale


def suggestion_title(visit: Visit, line: OccasionSuggestion) -> str:
    """ "Due again", or "Christmas in 24 days"."""
    if line.coming is None:
        return visit.say(f"suggestion.{line.occasion}.title")
    name = day_name(visit, line.coming.day)
    days, name = days_left(visit, line) or 1, name[:1].upper() + name[1:]
    return visit.say("suggestion.day.title" if days > 1 else "suggestion.day.tomorrow", name=name, days=days)


def suggestion_words(visit: Visit, line: OccasionSuggestion, people: int) -> str:
    """Who, and which products."""
    if line.coming is None:
        path = f"suggestion.{line.occasion}.what"
    else:
        path = f"suggestion.day.{'sale' if is_sale(visit, line.coming.day) else line.source}"
    return visit.say(path, people=people, products=len(line.item_ids))
