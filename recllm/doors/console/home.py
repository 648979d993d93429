"""Home: what should go out, to whom, may it, and what did yesterday bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.base.words.sentences import language
from recllm.doors.console.data import quarantine_files
from recllm.doors.console.memory import ATTRIBUTION_DAYS, CHANNELS, CHART_DAYS, ShopFigures
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit, history
from recllm.doors.console.tables import day_chart
from recllm.market.campaigns.drafts import CampaignStage, list_campaigns
from recllm.market.experiments.feedback import reported_outcomes
from recllm.market.experiments.slates import list_experiments, running_experiment
from recllm.market.occasions.calendar import CalendarDay, day_names, is_sale
from recllm.market.occasions.suggest import OccasionSuggestion

PICTURES = 3


def suggestion_rows(visit: Visit, figures: ShopFigures | None) -> list[dict[str, Any]]:
    """The days that come and the occasions of today, those of most customers first; empty while they are looked for.

    what: who and which products; "" for customers below the policy's floor, whose number, people, is None. days_left:
    until a day of the calendar. pictured: the products of most customers, with their categories."""
    if figures is None or not figures.suggestions:
        return []
    # a day may have come since then
    suggestions = [line for line in figures.suggestions if (days := days_left(visit, line)) is None or days > 0]
    pictured = {item_id for line in suggestions for item_id in line.item_ids[:PICTURES]}
    items = visit.workspace.gate().catalogue(sorted(pictured))
    category = dict(zip(items["item_id"], items["category"].list.join(" > "), strict=True))
    rows = []
    for line in suggestions:
        people = visit.figures.people(len(line.people), "suggestion", line.occasion)
        rows.append(
            {
                "occasion": line.occasion,
                "title": suggestion_title(visit, line),
                "what": "" if people is None else suggestion_words(visit, line, people),
                "people": people,
                "products": len(line.item_ids),
                "days_left": days_left(visit, line),
                "pictured": [(item_id, category.get(item_id) or "") for item_id in line.item_ids[:PICTURES]],
            }
        )
    return sorted(rows, key=lambda row: row["people"] is None)


def days_left(visit: Visit, line: OccasionSuggestion) -> int | None:
    """From today to the day of the calendar."""
    if line.coming is None:
        return None
    return (line.coming.on - visit.now.astimezone(visit.workspace.settings.zone).date()).days


def day_name(visit: Visit, day: CalendarDay) -> str:
    return day_names(day)[language(visit.language)]


def suggestion_title(visit: Visit, line: OccasionSuggestion) -> str:
    """ "Due again", or "Christmas in 24 days"."""
    if line.coming is None:
        return visit.say(f"suggestion.{line.occasion}.title")
    name = day_name(visit, line.coming.day)
    days, name = days_left(visit, line) or 1, name[:1].upper() + name[1:]
    return visit.say("suggestion.day.title" if days > 1 else "suggestion.day.tomorrow", name=name, days=days)


def suggestion_words(visit: Visit, line: OccasionSuggestion, people: int) -> str:
    if line.coming is None:
        path = f"suggestion.{line.occasion}.what"
    else:
        path = f"suggestion.day.{'sale' if is_sale(line.coming.day) else line.source}"
    return visit.say(path, people=people, products=len(line.item_ids))


router = APIRouter(route_class=PageRoute)
SECTION = ConsoleSection("home", "/", router, is_main=True)

ACTS = 8


@router.get("/")
def home_page(visit: TheVisit) -> Response:
    template = "home_figures.html.j2" if visit.is_part else "home.html.j2"
    figures = visit.state.figures.get(visit.shop)
    groups = {} if figures is None else {"all": figures.people} | {p.value: n for p, n in figures.agreed.items()}
    outcomes_of = {} if figures is None else {"yesterday": figures.yesterday, "recent": figures.outcomes}
    floor = visit.workspace.policy.group_floor
    with visit.workspace.store().read() as reader:
        counts = reader.counts()
    return visit.page(
        template,
        section="home",
        channels=CHANNELS,
        chart_days=CHART_DAYS,
        attribution_days=ATTRIBUTION_DAYS,
        figures=figures,
        people={name: visit.figures.people(n, "home", name) for name, n in groups.items()},
        # which days, the model, and the outcomes of what was shown; None for those of few customers
        outcomes=[
            (days, o.name, next(iter(reported_outcomes([o], visit.figures)), None) if o.people >= floor else None)
            for days, outcomes in outcomes_of.items()
            for o in outcomes
        ],
        counts=counts,
        chart=None if figures is None else buyers_chart(visit, figures),
        suggested=figures is not None and figures.suggestions is not None,
        suggestions=suggestion_rows(visit, figures),
        waiting=[line for line in list_campaigns(visit.workspace) if line.stage is not CampaignStage.EXPORTED],
        experiment=running_experiment(list_experiments(visit.workspace), visit.now),
        quarantine=quarantine_files(visit),
        acts=history(visit.workspace, ACTS),
    )


def buyers_chart(visit: Visit, figures: ShopFigures) -> Mapping[str, Any] | None:
    """People who bought, by day; None without purchases, or with a day below the policy's floor."""
    buyers = [(day, n and visit.figures.people(n, "buyers", day)) for day, n in figures.buyers_by_day]
    if not any(n for _, n in buyers) or any(n is None for _, n in buyers):
        return None
    title = visit.say("home.chart", days=CHART_DAYS)
    return day_chart(visit.words, visit.table("buyers-by-day", buyers, title=title))
