"""A planned campaign as a document: what the preview shows and `--json` prints. It names people by pseudonym only."""

from __future__ import annotations

from collections import Counter
from typing import Any

from recllm.adcopy.write import TEMPLATE
from recllm.campaigns.decisions import TextState
from recllm.campaigns.open_campaign import OpenCampaign
from recllm.campaigns.plan_types import CampaignText
from recllm.campaigns.texts import message
from recllm.documents import plain

SAMPLE = 12
"""People shown on a preview, spread over the list."""

OF_THE_PLAN = (
    *("campaign_id", "goal", "note", "as_of", "offer", "expected_conversions", "horizon_days", "window_days"),
    *("cost", "model_version", "excluded", "group", "notes"),
)

OF_A_PERSON = ("user_id", "probability", "item_id", "kind", "channel", "text_id")


def preview_document(campaign: OpenCampaign) -> dict[str, Any]:
    plan, quiet, window = campaign.plan, campaign.file.limits.quiet_hours, campaign.window
    texts, people = text_documents(campaign), plan.addressed
    sample = people[:: max(1, len(people) // SAMPLE)][:SAMPLE]
    return {
        **{name: plain(getattr(plan, name)) for name in OF_THE_PLAN},
        "locale": campaign.workspace.settings.locale,
        "currency": campaign.workspace.settings.currency or "",
        "window": None if window is None else {"start": plain(window.start), "end": plain(window.end)},
        "quiet": f"{quiet.start:%H:%M} – {quiet.end:%H:%M}" if quiet else "",
        "size": len(people),
        "holdout": len(plan.held_out),
        "holdout_share": plan.holdout,
        "items": _items(campaign),
        "divided": {
            way: dict(Counter(getattr(p, way) for p in people).most_common()) for way in ("channel", "kind", "locale")
        },
        "counts": dict(Counter(text["status"] for text in texts)),
        "texts": texts,
        "people": [{name: getattr(p, name) for name in OF_A_PERSON} for p in sample],
    }


def text_documents(campaign: OpenCampaign) -> list[dict[str, Any]]:
    """Every text with its state, the message that would leave, and what the checks say."""
    states = campaign.states
    return [_text(campaign, text, states[text.id]) for text in campaign.plan.texts]


def _text(campaign: OpenCampaign, text: CampaignText, state: TextState) -> dict[str, Any]:
    item = campaign.catalogue.items.get(text.item_id)
    return {
        "id": text.id,
        "status": state.status.value,
        "by": state.by,
        "at": state.at,
        "why": state.why,
        "item_id": text.item_id,
        "title": item.title if item else text.facts.title,
        "kind": text.kind,
        "channel": text.channel,
        "locale": text.locale,
        "variant": text.variant + 1,
        "people": text.people,
        "text": state.text,
        "message": message(
            campaign.file, state.text, channel=text.channel, locale=text.locale, generator=text.generator
        ),
        "meta": {"generated": text.generator != TEMPLATE, "generator": text.generator, "record": text.record},
        "verified": not state.failures,
        "failures": plain(state.failures),
        "warnings": plain(state.warnings),
    }


def _items(campaign: OpenCampaign) -> list[dict[str, Any]]:
    """The items that somebody gets, most people first."""
    n_people = Counter(p.item_id for p in campaign.plan.addressed)
    return [
        {
            "item_id": name,
            "title": item.title if (item := campaign.catalogue.items.get(name)) else "",
            "category": " > ".join(item.category) if item else "",
            "price": str(item.price) if item and item.price is not None else None,
            "currency": item.currency if item else None,
            "people": n,
        }
        for name, n in n_people.most_common()
    ]
