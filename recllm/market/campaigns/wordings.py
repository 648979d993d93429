"""Which wording does better: the answers to the same wording in earlier campaigns decide how often it goes out.

A wording is a text on a channel, as it was sent: an edited text is another wording. A success is a click or a purchase
that belongs to the showing (`recllm.market.experiments.feedback`); a guard event is a dismissal, an unsubscription or a
complaint. Only customers who agreed to analytics are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from recllm.base.errors import UsageError
from recllm.base.messages import MessageEventKind
from recllm.base.schema import Purpose
from recllm.market.campaigns.folder import (
    CampaignFolder,
    CampaignText,
    Decision,
    ExportEntry,
    TextStatus,
    read_entries,
    read_plan,
)
from recllm.market.experiments.bandit import VariantCounts, choice_probabilities
from recllm.market.experiments.feedback import showings_with_answers
from recllm.shop.workspace.workspace import Workspace

Wording = tuple[str, str]
"""Channel and text."""

GUARD_KINDS = (MessageEventKind.UNSUBSCRIBED, MessageEventKind.COMPLAINED)


def wording_counts(workspace: Workspace, campaign_ids: Sequence[str]) -> dict[Wording, VariantCounts]:
    """The answers to each wording of these campaigns that was shown.

    Raises `UsageError` for a campaign that was not planned here.
    """
    if not campaign_ids:
        return {}
    exported = pl.concat([_exported_wordings(workspace, campaign_id) for campaign_id in campaign_ids])
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
    # a person whose export is older than the shop keeps it, and a page that the shop shows itself
    last_exported = exported.filter(pl.col("user_id").is_null()).drop("user_id")
    showings = showings.join(exported, on=["campaign_id", "user_id", "template"], how="left")
    showings = showings.join(last_exported, on=["campaign_id", "template"], suffix="_last")
    wording = {name: pl.coalesce(name, f"{name}_last") for name in ("channel", "text")}
    grouped = showings.group_by(**wording, maintain_order=True).agg(
        pl.len(),
        success=(pl.col("clicked") | pl.col("bought")).sum(),
        guarded=(pl.col("dismissed") | pl.col("left").fill_null(False)).sum(),
    )
    return {
        (channel, text): VariantCounts(showings=n_shown, successes=successes, guard_events=guard_events)
        for channel, text, n_shown, successes, guard_events in grouped.iter_rows()
    }


def _exported_wordings(workspace: Workspace, campaign_id: str) -> pl.DataFrame:
    """campaign_id, user_id, template (the text's id), channel and text: the wording of the first export that reached a
    person, whatever was edited later; for user_id null that of the last export."""
    folder = CampaignFolder.of(workspace.root, campaign_id)
    if not folder.plan.exists():
        raise UsageError(f"words.learn_from: there is no campaign {campaign_id!r} here; name campaigns that were sent")
    plan_texts = {text.id: text for text in read_plan(folder).texts}
    decisions = read_entries(folder.decisions, Decision)
    edits: dict[str, str] = {}
    rows: dict[tuple[str | None, str], tuple[str | None, ...]] = {}
    for entry in read_entries(folder.exports, ExportEntry):
        n_decisions = entry.decisions
        if n_decisions is None:
            n_decisions = sum(decision.at <= entry.at for decision in decisions)
        edits = {d.text_id: d.text for d in decisions[:n_decisions] if d.action is TextStatus.EDITED}
        for user_id, text_id in entry.texts.items():
            text = plan_texts[text_id]
            row = (campaign_id, user_id, text_id, text.channel, edits.get(text_id, text.text))
            rows.setdefault((user_id, text_id), row)
    for text_id, text in plan_texts.items():
        rows[None, text_id] = (campaign_id, None, text_id, text.channel, edits.get(text_id, text.text))
    columns = ("campaign_id", "user_id", "template", "channel", "text")
    return pl.DataFrame(list(rows.values()), schema=dict.fromkeys(columns, pl.String), orient="row")


def variant_shares(
    variants: Sequence[CampaignText], counts: Mapping[Wording, VariantCounts], guard_limit: float | None
) -> list[float]:
    """How often each variant of one text goes out, adding up to 1: equally often where nothing is known of any."""
    nothing = VariantCounts(showings=0, successes=0)
    tallies = [counts.get((text.channel, text.text), nothing) for text in variants]
    if not any(tally.showings for tally in tallies):
        return [1 / len(variants)] * len(variants)
    return choice_probabilities(tallies, guard_limit=guard_limit)
