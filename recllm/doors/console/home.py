"""Home: what should go out, to whom, may it, and what did yesterday bring, as far as the shop's data answer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.doors.console.data import quarantine_files
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit, day_chart, history
from recllm.doors.console.suggestions import suggestion_rows
from recllm.market.campaigns.drafts import CampaignStage, list_campaigns
from recllm.market.campaigns.today import ATTRIBUTION_DAYS, CHANNELS, CHART_DAYS, ShopFigures
from recllm.market.experiments.feedback import ShownOutcome, reported_outcomes
from recllm.market.experiments.slates import list_experiments, running_experiment
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import present

router = APIRouter(route_class=PageRoute)
SECTION = ConsoleSection("home", "/", router, is_main=True)

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
        chart_days=CHART_DAYS,
        attribution_days=ATTRIBUTION_DAYS,
        figures=figures,
        people={} if figures is None else people_counts(visit, figures),
        outcomes=[] if figures is None else shown_lines(visit, figures),
        counts=counts,
        chart=None if figures is None else buyers_chart(visit, figures),
        suggested=figures is not None and figures.suggestions is not None,
        suggestions=suggestion_rows(visit, figures),
        waiting=[line for line in list_campaigns(visit.workspace) if line.stage is not CampaignStage.EXPORTED],
        experiment=running_experiment(list_experiments(visit.workspace), utc(present(visit.workspace))),
        quarantine=quarantine_files(visit),
        acts=history(visit.workspace, ACTS),
    )


def people_counts(visit: Visit, figures: ShopFigures) -> Mapping[str, int | None]:
    """Customers in all, and by purpose that they agreed to."""
    counts = {"all": figures.people} | {purpose.value: n for purpose, n in figures.agreed.items()}
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
    title = visit.say("home.chart", days=CHART_DAYS)
    return day_chart(visit, [(day, n or 0) for day, n in buyers], visit.table("buyers-by-day", buyers, title=title))
