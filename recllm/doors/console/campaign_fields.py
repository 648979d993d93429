"""The fields of a campaign's file as fields of forms, step by step: what stands in a form, and what a form says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from starlette.datastructures import FormData

from recllm.base.documents import toml_table
from recllm.base.errors import UsageError
from recllm.base.schema import Intent, Objective, Occasion
from recllm.base.words.sentences import LANGUAGES
from recllm.doors.console.pages import text_of
from recllm.doors.console.rule_fields import rule_of_text, rule_text, typed_rule
from recllm.market.adcopy.channels import channels
from recllm.market.adcopy.request import OfferType
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.people_rule import parse_rule
from recllm.market.campaigns.drafts import GENERATORS

MAX_CHARACTERS = 20_000
"""Of one field of a form."""


class CampaignStep(StrEnum):
    """The steps of a campaign's page that have a form."""

    GOAL = "goal"
    WHO = "who"
    WHAT = "what"
    WORDS = "words"
    WHEN = "when"
    TEST = "test"


class FieldKind(StrEnum):
    """How a field is typed."""

    TEXT = "text"
    LINES = "lines"
    """A list of texts, one a line."""
    COUNT = "count"
    NUMBER = "number"
    AMOUNT = "amount"
    """An exact amount of money or per cent."""
    PERCENT = "percent"
    """A share, typed as 0 to 100."""
    MOMENT = "moment"
    """A time in the shop's zone."""
    TICK = "tick"
    CHOICE = "choice"
    SEVERAL = "several"
    """Some of a list."""
    PAIRS = "pairs"
    """A table of texts, one `key = text` a line."""
    PRICES = "prices"
    """A table of amounts, one `item = amount` a line."""
    RULE = "rule"
    """A rule over people, in fields of its own; see `recllm.doors.console.rule_fields`."""


@dataclass(frozen=True, slots=True)
class CampaignField:
    """One field of a form."""

    path: str
    """Key in the campaign's file, with its table before a dot; the field's name in the form too."""
    kind: FieldKind
    choices: tuple[str, ...] = ()
    default: str = ""
    """Of a tick: "yes" where nothing says otherwise."""

    @property
    def word(self) -> str:
        """Its words stand under `campaigns.field.<word>`."""
        return self.path.replace(".", "_")


CHANNELS = (
    *CHANNEL_PURPOSE,
    *(c for c, limits in channels().items() if not limits.segment_only and c not in CHANNEL_PURPOSE),
)
"""Those on which people can agree to be reached first; texts of the others are for everybody."""

FIELDS: Mapping[CampaignStep, tuple[CampaignField, ...]] = {
    CampaignStep.GOAL: (
        CampaignField("goal", FieldKind.TEXT),
        CampaignField("note", FieldKind.TEXT),
        CampaignField("offer.type", FieldKind.CHOICE, ("", *OfferType)),
        CampaignField("offer.value", FieldKind.AMOUNT),
        CampaignField("offer.start", FieldKind.MOMENT),
        CampaignField("offer.end", FieldKind.MOMENT),
        CampaignField("offer.list_prices", FieldKind.PRICES),
        CampaignField("sender.name", FieldKind.TEXT),
        CampaignField("sender.address", FieldKind.TEXT),
        CampaignField("sender.opt_out", FieldKind.TEXT),
    ),
    CampaignStep.WHO: (
        CampaignField("channels", FieldKind.SEVERAL, CHANNELS),
        CampaignField("target.people", FieldKind.RULE),
        CampaignField("limits.size", FieldKind.COUNT),
        CampaignField("limits.bought_days", FieldKind.NUMBER),
        CampaignField("limits.frequency_cap", FieldKind.COUNT),
        CampaignField("limits.frequency_days", FieldKind.NUMBER),
        CampaignField("limits.adult_age", FieldKind.COUNT),
        CampaignField("limits.returned", FieldKind.TICK, default="yes"),
        CampaignField("limits.cost", FieldKind.NUMBER),
        CampaignField("limits.budget", FieldKind.NUMBER),
        CampaignField("limits.margin", FieldKind.NUMBER),
    ),
    CampaignStep.WHAT: (
        CampaignField("target.category", FieldKind.TEXT),
        CampaignField("target.items", FieldKind.LINES),
        CampaignField("target.text", FieldKind.TEXT),
        CampaignField("target.occasion", FieldKind.CHOICE, ("", *Occasion)),
        CampaignField("target.most_items", FieldKind.COUNT),
        CampaignField("target.intent", FieldKind.CHOICE, ("", *Intent)),
        CampaignField("target.objective", FieldKind.CHOICE, ("", *Objective)),
        CampaignField("target.effects", FieldKind.TEXT),
        CampaignField("target.sure", FieldKind.TICK),
        CampaignField("target.spread", FieldKind.NUMBER),
    ),
    CampaignStep.WORDS: (
        CampaignField("locales", FieldKind.SEVERAL, tuple(LANGUAGES)),
        CampaignField("words.generator", FieldKind.CHOICE, GENERATORS),
        CampaignField("words.known_brands", FieldKind.LINES),
        CampaignField("words.evidence", FieldKind.PAIRS),
        CampaignField("words.auto", FieldKind.TICK),
    ),
    CampaignStep.WHEN: (
        CampaignField("send", FieldKind.MOMENT),
        CampaignField("limits.quiet", FieldKind.LINES),
        CampaignField("window_days", FieldKind.NUMBER),
    ),
    CampaignStep.TEST: (
        CampaignField("limits.holdout", FieldKind.PERCENT),
        CampaignField("words.variants", FieldKind.COUNT),
        CampaignField("words.learn_from", FieldKind.LINES),
    ),
}
"""What each step asks for. A key of a campaign's file that no step names stays as it is."""


def fields_of_file(content: bytes) -> dict[str, Any]:
    """The fields of a campaign's file. Raises `UsageError` for what is no TOML in UTF-8."""
    try:
        return toml_table(content.decode("utf-8-sig"), parse_float=Decimal)
    except ValueError as error:
        raise UsageError(f"the file is no TOML in UTF-8: {error}") from error


# --- what stands in a form -------------------------------------------------------------------------------------------


def field_texts(fields: Mapping[str, Any], zone: str | None) -> dict[str, str]:
    """Path -> what stands in the field. Of several and lines one a line; ticks are "yes" or "". zone: the shop's."""
    return {f.path: _text(f, _at(fields, f.path), zone) for step in FIELDS.values() for f in step}


def typed_texts(form: FormData, step: CampaignStep) -> dict[str, str]:
    """Path -> what was typed into a step's form."""
    return {field.path: _typed(form, field) for field in FIELDS[step]}


def _typed(form: FormData, field: CampaignField) -> str:
    if field.kind is FieldKind.RULE:
        return typed_rule(form)
    if field.kind is FieldKind.SEVERAL:
        return "\n".join(text for text in form.getlist(field.path) if isinstance(text, str))
    return text_of(form, field.path, MAX_CHARACTERS).replace("\r\n", "\n").strip()


def _at(fields: Mapping[str, Any], path: str) -> Any:
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(field: CampaignField, value: Any, zone: str | None) -> str:
    if value is None:
        return field.default
    match field.kind:
        case FieldKind.RULE:
            with suppress(UsageError):
                return rule_text(parse_rule(value))
            return ""
        case FieldKind.TICK:
            return "yes" if value else ""
        case FieldKind.LINES | FieldKind.SEVERAL:
            return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        case FieldKind.PERCENT:
            return f"{100 * float(value):.6g}"
        case FieldKind.PAIRS | FieldKind.PRICES:
            plain = isinstance(value, Mapping) and not any(isinstance(v, Mapping) for v in value.values())
            return "\n".join(f"{key} = {text}" for key, text in value.items()) if plain else ""
        case FieldKind.MOMENT:
            at = value
            if isinstance(at, str):
                with suppress(ValueError):
                    at = datetime.fromisoformat(at)
            if isinstance(at, datetime) and at.tzinfo is not None:
                return f"{at.astimezone(ZoneInfo(zone or 'UTC')):%Y-%m-%dT%H:%M}"
            return str(value)
        case _:
            return str(value)


# --- what a form says ------------------------------------------------------------------------------------------------


class WrongFieldError(UsageError):
    """A field holds what it cannot; the message is the path and the kind."""

    def __init__(self, path: str, kind: FieldKind) -> None:
        super().__init__(f"{path}: {kind}")
        self.path, self.kind = path, kind


def with_typed(
    fields: Mapping[str, Any], typed: Mapping[str, str], step: CampaignStep, zone: str | None
) -> dict[str, Any]:
    """The fields of a campaign with those of a step as they were typed; an empty one is left to its default.

    Raises `WrongFieldError` for the first that is no number or time, `UsageError` for what is no rule over people.
    """
    result = deepcopy(dict(fields))
    for field in FIELDS[step]:
        before = _at(result, field.path)
        if typed[field.path] == _text(field, before, zone):
            continue  # as it was: also what a form cannot show in full
        _put(result, field.path, _value(field, typed[field.path], zone))
    if step is CampaignStep.GOAL and not typed["offer.type"]:
        result.pop("offer", None)
    return {name: value for name, value in result.items() if value != {}}


def _put(fields: dict[str, Any], path: str, value: Any) -> None:
    *tables, name = path.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
    if value is None:
        fields.pop(name, None)
    else:
        fields[name] = value


def _value(field: CampaignField, text: str, zone: str | None) -> Any:
    """None for a field that is left to its default."""
    try:
        return _PARSERS[field.kind](text, zone) if text or field.kind in _EMPTY_COUNTS else None
    except (ValueError, InvalidOperation, ArithmeticError) as error:
        raise WrongFieldError(field.path, field.kind) from error


def _amount(text: str) -> Decimal:
    amount = Decimal(text.replace(",", "."))
    if not amount.is_finite():
        raise ValueError(text)
    return amount


def _moment(text: str, zone: str | None) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone or "UTC"))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for line in _lines(text):
        key, sign, value = line.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise ValueError(line)
        pairs[key.strip()] = value.strip()
    return pairs


_EMPTY_COUNTS = (FieldKind.TICK,)
_PARSERS: Mapping[FieldKind, Callable[[str, str | None], Any]] = {
    FieldKind.TEXT: lambda text, _: text,
    FieldKind.CHOICE: lambda text, _: text,
    FieldKind.LINES: lambda text, _: _lines(text),
    FieldKind.SEVERAL: lambda text, _: _lines(text),
    FieldKind.COUNT: lambda text, _: int(text),
    FieldKind.NUMBER: lambda text, _: _amount(text),
    FieldKind.AMOUNT: lambda text, _: _amount(text),
    FieldKind.PERCENT: lambda text, _: _amount(text) / 100,
    FieldKind.MOMENT: _moment,
    FieldKind.TICK: lambda text, _: text == "yes",
    FieldKind.PAIRS: lambda text, _: _pairs(text),
    FieldKind.RULE: lambda text, _: rule_of_text(text),
    FieldKind.PRICES: lambda text, _: {key: _amount(price) for key, price in _pairs(text).items()},
}
