"""What is wrong in the fields of a campaign: every field with a sentence in the visitor's language."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

from recllm.base.errors import DataError, RecllmError, UsageError
from recllm.doors.console.campaign_fields import FIELDS, CampaignStep, WrongFieldsError
from recllm.doors.console.pages import Visit, WordedError
from recllm.doors.console.pickers import categories
from recllm.market.adcopy.channels import Sender, channels
from recllm.market.adcopy.request import OfferType
from recllm.market.campaigns.drafts import campaign_of_fields
from recllm.shop.data.catalogue import on_offer
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import present

SENDER_PARTS: Mapping[str, tuple[str, ...]] = {"sender": ("name", "address"), "unsubscribe": ("opt_out",)}
"""What a message must carry -> what of the sender it states."""
ERROR_LINE = re.compile(r"campaign\.toml(?:, line \d+)?: (?P<key>[\w.]+|all\[\S+) (?P<message>.*)")
UNKNOWN_NAME = re.compile(r"'(?P<name>[^']+)'.*did you mean '?(?P<near>[^'?]+)")
Problems = dict[str, str]
"""Path of a field -> what to do, in the visitor's language."""
STEP_OF: Mapping[str, CampaignStep] = {field.path: step for step, fields in FIELDS.items() for field in fields}


class FieldProblemsError(WordedError):
    """Fields that a person has to mend before anything is written."""

    def __init__(self, problems: Problems, english: str = "") -> None:
        super().__init__("\n".join(problems.values()))
        self.problems = problems
        self.english = english
        """What the engine said, for the engineer."""


def check_fields(visit: Visit, fields: Mapping[str, Any], step: CampaignStep | None = None) -> None:
    """Raises `FieldProblemsError` for all that is wrong, on the pages from the first one to `step`, or on all."""
    problems = sender_problems(visit, fields, step) | target_problems(visit, fields) | offer_problems(visit, fields)
    english = ""
    try:
        campaign_of_fields(fields)
    except (DataError, UsageError) as error:
        english = str(error)
        if not problems:
            problems = problems_of_error(visit, error)
    if problems:
        raise FieldProblemsError(problems, english)


def problems_of_error(visit: Visit, error: RecllmError) -> Problems:
    """An error of the engine, by field where it names one; under "" where it does not."""
    if isinstance(error, FieldProblemsError):
        return error.problems
    if isinstance(error, WrongFieldsError):
        return {path: visit.say(f"campaigns.wrong.{kind.value}") for path, kind in error.kinds.items()}
    if isinstance(error, WordedError):
        return {"": str(error)}
    if match := UNKNOWN_NAME.search(str(error)):
        return {"": visit.say("campaigns.missing.named", name=match["name"], near=match["near"])}
    problems = Problems()
    for line in str(error).splitlines():
        match = ERROR_LINE.fullmatch(line)
        key = match["key"] if match else ""
        path = next((path for path in STEP_OF if key == path or key.startswith(f"{path}.")), "")
        path = "target.people" if key.startswith("target.people") else path
        word = f"campaigns.invalid.{path.replace('.', '_')}"
        problems[path] = visit.say(word if visit.words.has(word) else "campaigns.invalid.other")
    return problems


def sender_problems(visit: Visit, fields: Mapping[str, Any], step: CampaignStep | None) -> Problems:
    """What the channels need of the sender."""
    sender = fields.get("sender") or {}
    needed = [mark for name in fields.get("channels", ()) if name in channels() for mark in channels()[name].added]
    parts = dict.fromkeys(field for name in needed for field in SENDER_PARTS.get(name, ()))
    problems = {
        f"sender.{name}": visit.say(f"campaigns.missing.sender_{name}")
        for name in parts
        if not str(sender.get(name, "")).strip()
    }
    if opt_out := str(sender.get("opt_out", "")).strip():
        try:
            Sender(name="", opt_out=opt_out)
        except UsageError:
            problems["sender.opt_out"] = visit.say("campaigns.invalid.sender_opt_out")
    if step is CampaignStep.PEOPLE and problems:
        return {"channels": visit.say("campaigns.missing.sender")}
    return problems


def target_problems(visit: Visit, fields: Mapping[str, Any]) -> Problems:
    """Categories and products that are not on sale, with the nearest that are."""
    target, problems = fields.get("target") or {}, Problems()
    category, item_ids = target.get("category"), target.get("items")
    if category and not target.get("text") and (names := categories(visit)):
        path = " > ".join(step.strip() for step in str(category).split(">"))
        if not any(path.casefold() in (name.casefold(), name.rpartition(" > ")[2].casefold()) for name in names):
            similar = [name for name in names if path.casefold() in name.casefold()][:3]
            similar = similar or difflib.get_close_matches(path, names, 3)
            problems["target.category"] = visit.say("campaigns.missing.category", name=path) + (
                visit.say("campaigns.missing.near", names=visit.say("people.comma").join(similar)) if similar else ""
            )
    if isinstance(item_ids, list) and item_ids:
        items = visit.workspace.gate().catalogue(list(map(str, item_ids)))
        offered = set(items.filter(on_offer(items, present(visit.workspace)))["item_id"])
        if gone := [str(name) for name in item_ids if name not in offered]:
            listed = visit.say("people.comma").join(gone[:5])
            problems["target.items"] = visit.say("campaigns.missing.items", names=listed)
    return problems


def offer_problems(visit: Visit, fields: Mapping[str, Any]) -> Problems:
    """An offer without its amount, or outside of the time in which the messages go out."""
    offer, problems = fields.get("offer") or {}, Problems()
    now, send = utc(present(visit.workspace)), fields.get("send")
    start, end = offer.get("start"), offer.get("end")
    leaves = send if _is_time(send) else now
    if _is_time(send) and send < now:
        problems["send"] = visit.say("campaigns.invalid.send_past", now=visit.words.moment(now))
    if offer.get("type") in (OfferType.PERCENT, OfferType.AMOUNT, OfferType.COUPON) and not offer.get("value"):
        problems["offer.value"] = visit.say("campaigns.missing.offer_value")
    elif offer.get("type") == OfferType.PERCENT and not 0 < offer["value"] < 100:
        problems["offer.value"] = visit.say("campaigns.invalid.offer_percent")
    if _is_time(start) and _is_time(end) and end <= start:
        problems["offer.end"] = visit.say("campaigns.invalid.offer_end")
    elif _is_time(end) and end <= leaves:
        problems["offer.end"] = visit.say("campaigns.invalid.offer_over", send=visit.words.moment(leaves))
    if _is_time(start) and start > leaves:
        at = {"start": visit.words.moment(start), "send": visit.words.moment(leaves)}
        problems["send"] = visit.say("campaigns.invalid.offer_start", **at)
    return problems


def _is_time(value: object) -> TypeGuard[datetime]:
    return isinstance(value, datetime) and value.tzinfo is not None


def mended(fields: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Fields of an offer that starts later: messages that had no time of their own go out when it starts."""
    start = (fields.get("offer") or {}).get("start")
    if _is_time(start) and not fields.get("send") and start > now:
        return fields | {"send": start}
    return fields
