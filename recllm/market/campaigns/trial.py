"""A campaign that went out, as a trial: who was sent it, who was held out by lot, and who did what it was for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from recllm.base.errors import DataError, NothingToDo
from recllm.market.campaigns.folder import ExportEntry, read_entries
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.campaigns.outcome import converted_in_window
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import log_end


@dataclass(frozen=True, eq=False)
class CampaignTrial:
    """What `recllm.market.propensity.uplift.estimate_uplift` learns from."""

    start: datetime
    """When the first message left."""
    table: pl.DataFrame
    """user_id (pseudonyms), treated, outcome: 0 or 1."""


def campaign_trial(campaign: OpenCampaign) -> CampaignTrial:
    """People whose message left against those whom the draw held out of the same exports; the outcome is a conversion
    within the campaign's window, of people who agreed to be counted.

    Raises `NothingToDo` before the first export or while the window is open, `DataError` for a campaign that held
    nobody out.
    """
    plan, exports = campaign.plan, read_entries(campaign.folder.exports, ExportEntry)
    if not exports:
        raise NothingToDo(f"the campaign {plan.campaign_id!r} was not exported yet; there is nothing to learn from")
    start = datetime.fromisoformat(exports[0].send_from)
    end, known_until = start + timedelta(days=plan.window_days), utc(log_end(campaign.workspace) or 0)
    if known_until < end:
        raise NothingToDo(
            f"the window of {plan.campaign_id!r} ends on {end:%Y-%m-%d}, and the log on {known_until:%Y-%m-%d}; learn "
            "from it when all is known"
        )
    sent = {name for entry in exports for name in entry.reached}
    held_out = {name for entry in exports for name in entry.held_out} - sent
    if not held_out:
        raise DataError(
            f"the campaign {plan.campaign_id!r} held nobody out: without a control no effect can be told; set "
            "limits.holdout above 0 in the next one"
        )
    names = [person.user_id for person in plan.people if person.user_id in sent | held_out]
    converted = converted_in_window(campaign, names, start, end)
    table = pl.DataFrame({"user_id": names, "treated": [float(name in sent) for name in names], "outcome": converted})
    return CampaignTrial(start, table.filter(pl.col("outcome").is_finite()))
