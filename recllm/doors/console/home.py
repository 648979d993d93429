"""Home: what should go out, to whom, may it, and what did yesterday bring, as far as the shop's data answer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.base.charts import Line, LineChart
from recllm.doors.console.campaigns import waiting_work
from recllm.doors.console.data import quarantine_files
from recllm.doors.console.figures import ATTRIBUTION_DAYS, CHANNELS, CHART_DAYS, DUE_DAYS, ShopFigures
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit, history
from recllm.market.experiments.feedback import ShownOutcome, reported_outcomes
from recllm.market.experiments.slates import list_experiments, running_experiment
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import present

router = APIRouter(route_class=PageRoute)
SECTION = ConsoleSection("home", "/", router)

ACTS = 8


@router.get("/")
def home_page(visit: TheVisit) -> Response:
    """The four questions."""
    template = "home_figures.html.j2" if visit.is_part else "home.html.j2"
    figures = visit.state.figures.get(visit.shop)
    with visit.workspace.store().read() as reader:
        counts = reader.counts()
    return visit.page(
        template,
        section="home",
        channels=CHANNELS,
        due_days=DUE_DAYS,
        chart_days=CHART_DAYS,
        attribution_days=ATTRIBUTION_DAYS,
        figures=figures,
        people={} if figures is None else people_counts(visit, figures),
        outcomes=[] if figures is None else shown_lines(visit, figures),
        counts=counts,
        chart=None if figures is None else buyers_chart(visit, figures),
        waiting=waiting_work(visit.workspace),
        experiment=running_experiment(list_experiments(visit.workspace), utc(present(visit.workspace))),
        quarantine=quarantine_files(visit),
        acts=history(visit.workspace, ACTS),
    )


def people_counts(visit: Visit, figures: ShopFigures) -> Mapping[str, int | None]:
    """Customers in all, by purpose that they agreed to, and who is due or quiet."""
    counts = {"all": figures.people, "due": len(figures.due), "quiet": len(figures.quiet)}
    counts |= {purpose.value: n for purpose, n in figures.agreed.items()}
    return {name: visit.figures.people(n, "home", name) for name, n in counts.items()}


def shown_lines(visit: Visit, figures: ShopFigures) -> list[tuple[str, str, ShownOutcome | None]]:
    """Which days, the model, and the outcomes of what was shown; None for those of few customers."""
    floor, days = visit.workspace.policy.group_floor, {"yesterday": figures.yesterday, "recent": figures.outcomes}
    return [
        (key, o.name, next(iter(reported_outcomes([o], visit.figures)), None) if o.people >= floor else None)
        for key, outcomes in days.items()
        for o in outcomes
    ]


def buyers_chart(visit: Visit, figures: ShopFigures) -> Mapping[str, Any] | None:
    """People who bought, by day; None without purchases, or with a day below the policy's floor."""
    buyers = [(day, n and visit.figures.people(n, "buyers", day)) for day, n in figures.buyers_by_day]
    if not any(n for _, n in buyers) or any(n is None for _, n in buyers):
        return None
    points = [(float(day), float(n or 0)) for day, (_, n) in enumerate(buyers, 1)]
    title, y = visit.say("home.chart", days=CHART_DAYS), visit.say("home.buyers")
    line = Line(name=y, points=points, marked=True)
    chart = LineChart(title=title, x=visit.say("home.chart_days"), y=y, lines=(line,), percent="", width=640)
    return visit.picture(chart, visit.table("buyers-by-day", buyers, title=title))
