"""The fields of a campaign's file as fields of forms, step by step: from a file to texts of a form, and back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from zoneinfo import ZoneInfo

from starlette.datastructures import FormData

from recllm.base.documents import toml_table
from recllm.base.errors import UsageError
from recllm.base.schema import Intent
from recllm.base.words.sentences import LANGUAGES
from recllm.doors.console.pages import text_of, texts_of
from recllm.doors.console.rule_fields import TypedRule
from recllm.market.adcopy.channels import channels
from recllm.market.adcopy.request import OfferType
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.people_rule import parse_rule
from recllm.market.campaigns.drafts import GENERATORS
from recllm.market.campaigns.file import CampaignFile

MAX_CHARACTERS = 20_000
"""Of one field of a form."""


class CampaignStep(StrEnum):
    """The pages of a campaign, in their order; each has a form."""

    OCCASION = "occasion"
    PEOPLE = "people"
    PRODUCTS = "products"
    MESSAGES = "messages"
    REVIEW = "review"


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
    DATE = "date"
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
    """Of a tick: "yes" where it is ticked unless the file says otherwise."""

    @property
    def word(self) -> str:
        """Its words are at `campaigns.field.<word>`."""
        return self.path.replace(".", "_")


CHANNELS = (
    *CHANNEL_PURPOSE,
    *(c for c, limits in channels().items() if not limits.segment_only and c not in CHANNEL_PURPOSE),
)
"""Channels with a consent of their own first; texts of the others are for all customers."""
SPECIAL: Mapping[str, tuple[FieldKind, tuple[str, ...]]] = {
    "channels": (FieldKind.SEVERAL, CHANNELS),
    "limits.holdout": (FieldKind.PERCENT, ()),
    "locales": (FieldKind.SEVERAL, tuple(LANGUAGES)),
    "offer.type": (FieldKind.CHOICE, ("", *OfferType)),
    "target.people": (FieldKind.RULE, ()),
    "words.evidence.lowest_30d": (FieldKind.PAIRS, ()),
    "words.generator": (FieldKind.CHOICE, GENERATORS),
}
"""Fields whose kind does not follow from the type in the campaign's file."""
KINDS: Mapping[type, FieldKind] = {
    bool: FieldKind.TICK,
    int: FieldKind.COUNT,
    float: FieldKind.NUMBER,
    Decimal: FieldKind.AMOUNT,
    datetime: FieldKind.MOMENT,
    date: FieldKind.DATE,
    str: FieldKind.TEXT,
    tuple: FieldKind.LINES,
}
STEPS: Mapping[CampaignStep, str] = {
    CampaignStep.OCCASION: """goal note target.occasion target.day target.order_by offer.type offer.value offer.start
        offer.end offer.list_prices words.evidence.lowest_30d sender.name sender.address sender.opt_out""",
    CampaignStep.PEOPLE: """channels target.people limits.size limits.budget limits.cost limits.margin
        limits.bought_days limits.frequency_cap limits.frequency_days limits.adult_age limits.returned
        limits.holdout""",
    CampaignStep.PRODUCTS: """target.category target.items target.text target.most_items target.intent
        target.objective target.effects target.sure target.spread""",
    CampaignStep.MESSAGES: """locales words.generator words.variants words.known_brands words.evidence
        words.auto""",
    CampaignStep.REVIEW: "send limits.quiet window_days",
}
"""Keys that each step asks for. A key of a campaign's file that no step names stays as it is."""


def campaign_field(path: str) -> CampaignField:
    """The field of a form for a key of the campaign's file."""
    if path in SPECIAL:
        return CampaignField(path, *SPECIAL[path])
    model: Any = CampaignFile
    for table in path.split(".")[:-1]:
        model = next(_plain_type(f.annotation) for name, f in model.model_fields.items() if table in (name, f.alias))
    declared = model.model_fields[path.rpartition(".")[2]]
    annotation = _plain_type(declared.annotation)
    kind = get_origin(annotation) or annotation
    if issubclass(kind, StrEnum):
        return CampaignField(path, FieldKind.CHOICE, ("", *kind))
    if issubclass(kind, Mapping):
        return CampaignField(path, FieldKind.PRICES if "Decimal" in str(annotation) else FieldKind.PAIRS)
    return CampaignField(path, KINDS[kind], default="yes" if declared.default is True else "")


def _plain_type(annotation: Any) -> Any:
    """The type without None and constraints."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return _plain_type(kinds[0])
    return annotation


FIELDS: Mapping[CampaignStep, tuple[CampaignField, ...]] = {
    step: tuple(map(campaign_field, paths.split())) for step, paths in STEPS.items()
}


def fields_of_file(content: bytes) -> dict[str, Any]:
    """The fields of a campaign's file. Raises `UsageError` for what is no TOML in UTF-8."""
    try:
        return toml_table(content.decode("utf-8-sig"), parse_float=Decimal)
    except ValueError as error:
        raise UsageError(f"the file is no TOML in UTF-8: {error}") from error


# --- from a file to a form -------------------------------------------------------------------------------------------


def field_texts(fields: Mapping[str, Any], zone: str | None) -> dict[str, str]:
    """Path -> text of the field: lists one a line, ticks "yes" or "". zone: the shop's."""
    return {f.path: _text(f, _at(fields, f.path), zone) for step in FIELDS.values() for f in step}


def typed_texts(form: FormData, step: CampaignStep) -> dict[str, str]:
    """Path -> what was typed into a step's form."""
    return {field.path: _typed(form, field) for field in FIELDS[step]}


def _typed(form: FormData, field: CampaignField) -> str:
    if field.kind is FieldKind.RULE:
        return TypedRule.of_form(form).text
    if field.kind in (FieldKind.SEVERAL, FieldKind.LINES):
        lines = "\n".join(texts_of(form, field.path))[:MAX_CHARACTERS].splitlines()
        return "\n".join(dict.fromkeys(line.strip() for line in lines if line.strip()))
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
                return TypedRule.of_rule(parse_rule(value)).text
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


# --- from a form to a file -------------------------------------------------------------------------------------------


class WrongFieldsError(UsageError):
    """Fields hold what they cannot: all of them, by path, with the kind that is asked for."""

    def __init__(self, kinds: Mapping[str, FieldKind]) -> None:
        super().__init__("; ".join(f"{path}: {kind}" for path, kind in kinds.items()))
        self.kinds = kinds


def with_typed(
    fields: Mapping[str, Any], typed: Mapping[str, str], step: CampaignStep, zone: str | None
) -> dict[str, Any]:
    """The fields of a campaign with those of a step as they were typed; an empty one is left to its default.

    Raises `WrongFieldsError` for all that are no number, time or rule.
    """
    result, wrong = deepcopy(dict(fields)), dict[str, FieldKind]()
    for field in FIELDS[step]:
        before = _at(result, field.path)
        if typed[field.path] == _text(field, before, zone):
            continue  # as it was: also what a form cannot show in full
        try:
            _put(result, field.path, _value(field, typed[field.path], zone))
        except (ValueError, ArithmeticError, UsageError):
            wrong[field.path] = field.kind
    if wrong:
        raise WrongFieldsError(wrong)
    if step is CampaignStep.OCCASION and not typed["offer.type"]:
        result.pop("offer", None)
    return {name: value for name, value in _with_one_target(result).items() if value != {}}


def _with_one_target(fields: dict[str, Any]) -> dict[str, Any]:
    """An occasion says itself who gets what; without a target the campaign picks the goods of its day, or else from the
    whole catalogue."""
    target = fields.setdefault("target", {})
    if target.get("occasion"):
        fields["target"] = {name: target[name] for name in ("occasion", "people") if name in target}
        if isinstance(fields.get("limits"), dict):
            fields["limits"].pop("bought_days", None)
    elif not any(target.get(name) for name in ("items", "category", "text", "intent", "day")):
        target["intent"] = Intent.MIXED.value
    return fields


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
    if field.kind is FieldKind.TICK:
        return text == "yes"
    return _parsed(field.kind, text, zone) if text else None


def _parsed(kind: FieldKind, text: str, zone: str | None) -> Any:
    match kind:
        case FieldKind.LINES | FieldKind.SEVERAL:
            return _lines(text)
        case FieldKind.COUNT:
            return int(text)
        case FieldKind.NUMBER | FieldKind.AMOUNT:
            return _amount(text)
        case FieldKind.PERCENT:
            return _amount(text) / 100
        case FieldKind.MOMENT:
            at = datetime.fromisoformat(text)
            return at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone or "UTC"))
        case FieldKind.DATE:
            return date.fromisoformat(text)
        case FieldKind.PAIRS:
            return _pairs(text)
        case FieldKind.PRICES:
            return {key: _amount(price) for key, price in _pairs(text).items()}
        case FieldKind.RULE:
            return TypedRule.of_text(text).document()
        case _:
            return text


def _amount(text: str) -> Decimal:
    amount = Decimal(text.replace(",", "."))
    if not amount.is_finite():
        raise ValueError(text)
    return amount


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
