"""A planned campaign as a document: what the preview shows and `--json` prints. It names people by pseudonym only."""

from __future__ import annotations

from collections import Counter
from typing import Any

from recllm.campaigns.decisions import State
from recllm.campaigns.hours import send_window
from recllm.campaigns.message import TEMPLATE, message
from recllm.campaigns.open_campaign import Desk
from recllm.campaigns.plan_types import Text
from recllm.documents import plain

SAMPLE = 12
"""People shown on a preview, spread over the list."""


def preview_document(desk: Desk) -> dict[str, Any]:
    plan, file = desk.plan, desk.file
    texts = text_documents(desk)
    return {
        "campaign_id": plan.campaign_id,
        "goal": plan.goal,
        "note": plan.note,
        "locale": desk.workspace.settings.locale,
        "as_of": plan.as_of,
        "offer": plan.offer,
        "window": _window(desk),
        "quiet": f"{file.quiet.start:%H:%M} – {file.quiet.end:%H:%M}" if file.quiet else "",
        "size": len(plan.addressed),
        "holdout": len(plan.held),
        "holdout_share": plan.holdout,
        "expected_conversions": plan.expected_conversions,
        "horizon_days": plan.horizon_days,
        "window_days": plan.window_days,
        "cost": plan.cost,
        "currency": desk.workspace.settings.currency or "",
        "model_version": plan.model_version,
        "excluded": dict(plan.excluded),
        "group": [dict(d) for d in plan.group],
        "notes": list(plan.notes),
        "items": _items(desk),
        "divided": {name: _counted(desk, name) for name in ("channel", "kind", "locale")},
        "counts": dict(Counter(one["status"] for one in texts)),
        "texts": texts,
        "people": _sample(desk),
    }


def text_documents(desk: Desk) -> list[dict[str, Any]]:
    """Every text with its state, the message that would leave, and what the checks say."""
    now = desk.states
    return [_text(desk, text, now[text.id]) for text in desk.plan.texts]


def _text(desk: Desk, text: Text, state: State) -> dict[str, Any]:
    item = desk.catalogue.items.get(text.item_id)
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
        "message": message(desk.file, state.text, channel=text.channel, locale=text.locale, generator=text.generator),
        "meta": {"generated": text.generator != TEMPLATE, "generator": text.generator, "record": text.record},
        "verified": not state.failures,
        "failures": plain(state.failures),
        "warnings": plain(state.warnings),
    }


def _window(desk: Desk) -> dict[str, Any] | None:
    offer = desk.file.offer
    zone = desk.workspace.settings.timezone
    found = send_window(desk.moment, desk.file.quiet, zone, offer.end if offer else None)
    return None if found is None else {"start": plain(found.start), "end": plain(found.end)}


def _items(desk: Desk) -> list[dict[str, Any]]:
    """The items that somebody gets, most people first."""
    often = Counter(p.item_id for p in desk.plan.addressed)
    return [
        {
            "item_id": name,
            "title": item.title if (item := desk.catalogue.items.get(name)) else "",
            "category": " > ".join(item.category) if item else "",
            "price": str(item.price) if item and item.price is not None else None,
            "currency": item.currency if item else None,
            "people": n,
        }
        for name, n in often.most_common()
    ]


def _counted(desk: Desk, field: str) -> dict[str, int]:
    return dict(Counter(getattr(p, field) for p in desk.plan.addressed).most_common())


def _sample(desk: Desk) -> list[dict[str, Any]]:
    people = desk.plan.addressed
    step = max(1, len(people) // SAMPLE)
    return [
        {name: getattr(p, name) for name in ("user_id", "probability", "item_id", "kind", "channel", "text_id")}
        for p in people[::step][:SAMPLE]
    ]
