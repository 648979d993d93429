"""Home: what should go out, to whom, may it, and what did yesterday bring, as far as the shop's data answer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.charts import Line, LineChart
from recllm.console.campaigns import waiting_work
from recllm.console.data import quarantine_files
from recllm.console.figures import ATTRIBUTION_DAYS, CHANNELS, CHART_DAYS, DUE_DAYS, ShopFigures
from recllm.console.pages import ConsoleSection, TheVisit, Visit, history
from recllm.console.tables import CellKind, ConsoleTable, TableColumn
from recllm.data.dataset import utc
from recllm.jobs.experiments import list_experiments, running_experiment
from recllm.workspace.workspace import present

router = APIRouter()
SECTION = ConsoleSection("home", "/", router)

ACTS = 8


@router.get("/")
async def home_page(visit: TheVisit) -> Response:
    """The four questions."""

    def values() -> dict[str, Any]:
        figures = visit.state.figures.get(visit.shop)
        with visit.workspace.store().read() as reader:
            counts = reader.counts()
        return {
            "figures": figures,
            "counts": counts,
            "chart": None if figures is None else buyers_chart(visit, figures),
            "waiting": waiting_work(visit.workspace),
            "experiment": running_experiment(list_experiments(visit.workspace), utc(present(visit.workspace))),
            "quarantine": quarantine_files(visit),
            "acts": history(visit.workspace, ACTS),
        }

    template = "home_figures.html.j2" if visit.is_part else "home.html.j2"
    return visit.page(
        template,
        section="home",
        channels=CHANNELS,
        due_days=DUE_DAYS,
        chart_days=CHART_DAYS,
        attribution_days=ATTRIBUTION_DAYS,
        **await visit.run(values),
    )


def buyers_chart(visit: Visit, figures: ShopFigures) -> Mapping[str, Any] | None:
    """People who bought, day by day, as a picture and a table; None where nobody did, or on a day fewer than the
    policy's floor."""
    counts, floor = [n for _, n in figures.buyers_by_day], visit.workspace.policy.group_floor
    if not any(counts) or any(0 < n < floor for n in counts):
        return None
    points = [(float(n), float(count)) for n, count in enumerate(counts, 1)]
    title = visit.say("home.chart", days=CHART_DAYS)
    line = Line(name=visit.say("home.buyers"), points=points, marked=True)
    chart = LineChart(
        title=title, x=visit.say("home.chart_days"), y=visit.say("home.buyers"), lines=(line,), percent="", width=640
    )
    table = ConsoleTable(
        name="buyers-by-day",
        title=title,
        columns=(
            TableColumn(name="day", label=visit.say("home.date"), kind=CellKind.DAY),
            TableColumn(name="people", label=visit.say("home.buyers"), kind=CellKind.NUMBER),
        ),
        rows=figures.buyers_by_day,
    )
    return {"picture": visit.picture(chart), "table": table, "caption": ""}
