"""Which wording does better: what became of the same wording in earlier campaigns decides how often it goes out.

A wording is a text on a channel, as it was sent: an edited text is another wording. A success is a click or a purchase
that belongs to the showing (`recllm.jobs.feedback`); a guard event is a dismissal, an unsubscription or a complaint.
People who may not be counted (purpose analytics) are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from recllm.campaigns.folder import CampaignFolder, CampaignText, Decision, TextStatus, read_entries, read_plan
from recllm.errors import UsageError
from recllm.experiments.bandit import VariantCounts, choice_probabilities
from recllm.jobs.feedback import showings_with_answers
from recllm.schema import MessageEventKind, Purpose
from recllm.workspace.workspace import Workspace

Wording = tuple[str, str]
"""Channel and text."""

GUARD_KINDS = (MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED)


def wording_counts(workspace: Workspace, campaign_ids: Sequence[str]) -> dict[Wording, VariantCounts]:
    """What became of each wording of these campaigns; a wording that nobody was shown is not there.

    Raises `UsageError` for a campaign that was not planned here.
    """
    if not campaign_ids:
        return {}
    wordings: dict[tuple[str, str], Wording] = {}
    for campaign_id in campaign_ids:
        folder = CampaignFolder.of(workspace.root, campaign_id)
        if not folder.plan.exists():
            raise UsageError(
                f"words.learn_from: there is no campaign {campaign_id!r} here; name campaigns that were sent"
            )
        for text in read_plan(folder).texts:
            wordings[campaign_id, text.id] = (text.channel, text.text)
        for decision in read_entries(folder.decisions, Decision):
            if decision.action is TextStatus.EDITED:
                channel, _ = wordings[campaign_id, decision.text_id]
                wordings[campaign_id, decision.text_id] = (channel, decision.text)
    left = {
        (campaign_id, user_id)
        for campaign_id in campaign_ids
        for user_id, _, kind in workspace.store().campaign_message_events(campaign_id)
        if kind in GUARD_KINDS
    }
    showings = showings_with_answers(workspace.gate().events(Purpose.ANALYTICS))
    showings = showings.filter(pl.col("campaign_id").is_in(list(campaign_ids)))
    gone = pl.DataFrame(sorted(left), schema={"campaign_id": pl.String, "user_id": pl.String}, orient="row")
    showings = showings.join(gone.with_columns(left=True), on=["campaign_id", "user_id"], how="left")
    showings = showings.with_columns(
        success=pl.col("clicked") | pl.col("bought"), guarded=pl.col("dismissed") | pl.col("left").fill_null(False)
    )
    sums: dict[Wording, list[int]] = {}
    grouped = showings.group_by("campaign_id", "template", maintain_order=True).agg(
        pl.len(), pl.sum("success", "guarded")
    )
    for campaign_id, text_id, *counts in grouped.iter_rows():
        wording = wordings.get((campaign_id, text_id))
        if wording is not None:
            total = sums.setdefault(wording, [0, 0, 0])
            for n, count in enumerate(counts):
                total[n] += count
    return {
        wording: VariantCounts(showings=n_shown, successes=successes, guard_events=guard_events)
        for wording, (n_shown, successes, guard_events) in sums.items()
    }


def variant_shares(
    variants: Sequence[CampaignText], counts: Mapping[Wording, VariantCounts], guard_limit: float | None
) -> list[float]:
    """How often each variant of one text goes out, adding up to 1: equally often where nothing is known of any."""
    nothing = VariantCounts(showings=0, successes=0)
    tallies = {str(n): counts.get((text.channel, text.text), nothing) for n, text in enumerate(variants)}
    if not any(tally.showings for tally in tallies.values()):
        return [1 / len(variants)] * len(variants)
    return list(choice_probabilities(tallies, baseline="0", guard_limit=guard_limit).values())
