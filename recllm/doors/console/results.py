"""Results: what each campaign that went out brought."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.base.errors import RecllmError, UnknownIdError
from recllm.base.stats.intervals import LEAST_COMPARED
from recllm.doors.console.campaign_pages import excluded_table
from recllm.doors.console.campaign_review import act_lines
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit, slow
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.market.audiences.audience import aim
from recllm.market.campaigns.drafts import CampaignStage, campaign_file, history, list_campaigns, open_by_id, summary_of
from recllm.market.campaigns.outcome import CampaignOutcome, SegmentFigures, campaign_outcome, conclusions

router = APIRouter(prefix="/results", route_class=PageRoute)
SECTION = ConsoleSection("results", "/results", router, is_main=True)

LISTED_CAMPAIGNS = 30
TONES = {"worked": "good", "lost": "bad", "unclear": ""}


@router.get("")
@slow
def index(visit: TheVisit) -> Response:
    outcomes = []
    sent = [line for line in list_campaigns(visit.workspace) if line.stage is CampaignStage.EXPORTED]
    for line in [line for line in sent if line.revision is not None][:LISTED_CAMPAIGNS]:
        try:
            outcomes.append(outcome_of(visit, line.campaign_id))
        except RecllmError:  # its own page says why
            continue
    sales = [outcome.extra_sales for outcome in outcomes if outcome.extra_sales]
    ends = [end for extra in sales for end in (extra.low, extra.high, 0.0)]
    return visit.page(
        "results.html.j2",
        section="results",
        outcomes=outcomes,
        low=min(ends, default=0.0),
        high=max(ends, default=0.0),
        tones=TONES,
        least_compared=LEAST_COMPARED,
    )


def outcome_of(visit: Visit, campaign_id: str) -> CampaignOutcome:
    figures, campaign = visit.figures, open_by_id(visit.workspace, campaign_id, recheck=False)
    return visit.shop.once_a_day(figures, ("campaign", campaign_id), lambda: campaign_outcome(campaign, figures))


@router.get("/campaign/{campaign_id}")
@slow
def campaign_page(visit: TheVisit, campaign_id: str) -> Response:
    """What one campaign brought: sentences, figures and a picture.
    Raises `UnknownIdError` for one not sent yet."""
    file = campaign_file(visit.workspace, campaign_id)
    if summary_of(visit.workspace, campaign_id).stage is not CampaignStage.EXPORTED:
        raise UnknownIdError("this campaign has not gone out yet")
    outcome = outcome_of(visit, campaign_id)
    words = conclusions(outcome, visit.figures.floor, visit.language)
    variants = [segment for segment in outcome.segments if segment.by == "variant"]
    others = [s for s in outcome.segments if s.by in ("channel", "likelihood", "category", "reason")]
    return visit.page(
        "result.html.j2",
        section="results",
        campaign_id=campaign_id,
        goal=file.goal or campaign_id,
        figures=outcome,
        aim=aim(outcome.converts),
        tones=TONES,
        conclusion=words[0],
        remarks=words[1:],
        variants=segments_table(visit, "variants", variants, outcome) if variants else None,
        segments=segments_table(visit, "segments", others, outcome) if others else None,
        dropped=excluded_table(visit, outcome.dropped, name="dropped") if outcome.dropped else None,
        acts=act_lines(history(visit.workspace, campaign_id)),
    )


def segments_table(
    visit: Visit, name: str, segments: Sequence[SegmentFigures], outcome: CampaignOutcome
) -> ConsoleTable:
    """Parts of the people, each with those held out where enough of these are."""

    def label(segment: SegmentFigures) -> str:
        by = segment.by
        if by == "variant" and segment.name.isdecimal():
            return visit.say("campaigns.variant_n", n=int(segment.name))
        paths = (f"channel.{segment.name}", f"campaigns.part.{segment.name}", f"campaigns.kind.{segment.name}")
        name = next((visit.say(path) for path in paths if visit.words.has(path)), segment.name)
        return name if by == "variant" else f"{visit.say(f'campaigns.by.{by}')}{visit.say('campaigns.colon')}{name}"

    is_compared = any(segment.effect for segment in segments)

    def row(segment: SegmentFigures) -> TableRow:
        effect, reached, held_out = segment.effect, segment.reached, segment.held_out
        ends = [visit.words.number(100 * end, 1) for end in (effect.value, effect.low, effect.high)] if effect else []
        difference = TableCell(value=effect, text="{} ({} – {})".format(*ends) if ends else None)
        compared = (held_out.rate if held_out else None, difference) if is_compared else ()
        return TableCell(value=segment.name, text=label(segment)), segment.by, reached.people, reached.rate, *compared

    aimed = f"campaigns.aim.{aim(outcome.converts)}"
    headings = {"bought_share": visit.say(f"{aimed}.share"), "held_out_share": visit.say(f"{aimed}.share_held_out")}
    return visit.table(
        name,
        [row(segment) for segment in segments],
        of="segments",
        title=visit.say(f"campaigns.outcome.{name}"),
        headings=headings,
        without=() if is_compared else ("held_out_share", "difference"),
    )
