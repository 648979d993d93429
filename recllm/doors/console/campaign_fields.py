"""The fields of a campaign's file as fields of forms, step by step: from a file to texts of a form, and back.

A rule over people is a list of conditions: `people:1:days` is the days of the second one. A rule with groups within
groups is shown in words and stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from starlette.datastructures import FormData

from recllm.base.documents import toml_table
from recllm.base.errors import UsageError
from recllm.base.schema import Intent, Objective, Occasion
from recllm.base.words.sentences import LANGUAGES
from recllm.doors.console.pages import ConsoleForm
from recllm.market.adcopy.channels import channels
from recllm.market.adcopy.request import OfferType
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.people_rule import (
    MAX_CONDITIONS,
    AgreedRule,
    AllRule,
    AnyRule,
    BasicRule,
    Deed,
    DeedRule,
    NotRule,
    OrderAgeRule,
    OrdersRule,
    PeopleRule,
    ReachedRule,
    RuleChannel,
    SpentRule,
    children,
    parse_rule,
    rule_document,
)
from recllm.market.campaigns.drafts import GENERATORS
from recllm.market.occasions.calendar import CalendarDay

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
    """A rule over people, in fields of its own; see `TypedRule`."""


@dataclass(frozen=True, slots=True)
class CampaignField:
    path: str
    """Key in the campaign's file, with its table before a dot; the field's name in the form too."""
    kind: FieldKind
    choices: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """Its words are at `campaigns.field.<word>`."""
        return self.path.replace(".", "_")


CHANNELS = (
    *CHANNEL_PURPOSE,
    *(c for c, limits in channels().items() if not limits.segment_only and c not in CHANNEL_PURPOSE),
)
"""Channels with a consent of their own first; texts of the others are for all customers."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "channels": CHANNELS,
    "locales": tuple(LANGUAGES),
    "offer.type": ("", *OfferType),
    "target.day": ("", *CalendarDay),
    "target.intent": ("", *Intent),
    "target.objective": ("", *Objective),
    "target.occasion": ("", *Occasion),
    "words.generator": GENERATORS,
}
TICKED = "limits.returned"
"""A box that is ticked unless the file says otherwise."""
STEPS: Mapping[CampaignStep, Mapping[FieldKind, str]] = {
    CampaignStep.OCCASION: {
        FieldKind.TEXT: "goal note offer.code offer.scope offer.gift sender.name sender.address sender.opt_out",
        FieldKind.CHOICE: "target.occasion target.day offer.type",
        FieldKind.DATE: "target.order_by",
        FieldKind.AMOUNT: "offer.value offer.min_spend",
        FieldKind.COUNT: "offer.count",
        FieldKind.MOMENT: "offer.start offer.end",
        FieldKind.PRICES: "offer.list_prices",
        FieldKind.PAIRS: "words.evidence.lowest_30d",
    },
    CampaignStep.PEOPLE: {
        FieldKind.SEVERAL: "channels",
        FieldKind.RULE: "target.people",
        FieldKind.COUNT: "limits.size limits.frequency_cap limits.adult_age",
        FieldKind.NUMBER: "limits.budget limits.cost limits.margin limits.bought_days limits.frequency_days",
        FieldKind.TICK: TICKED,
        FieldKind.PERCENT: "limits.holdout",
    },
    CampaignStep.PRODUCTS: {
        FieldKind.TEXT: "target.category target.text target.effects",
        FieldKind.LINES: "target.items",
        FieldKind.COUNT: "target.most_items",
        FieldKind.CHOICE: "target.intent target.objective",
        FieldKind.TICK: "target.sure",
        FieldKind.NUMBER: "target.spread",
    },
    CampaignStep.MESSAGES: {
        FieldKind.SEVERAL: "locales",
        FieldKind.CHOICE: "words.generator",
        FieldKind.COUNT: "words.variants",
        FieldKind.LINES: "words.known_brands",
        FieldKind.PAIRS: "words.evidence",
        FieldKind.TICK: "words.auto",
    },
    CampaignStep.REVIEW: {
        FieldKind.MOMENT: "send",
        FieldKind.LINES: "limits.quiet",
        FieldKind.NUMBER: "window_days",
    },
}
"""Keys that each step asks for, by their kind. A key of a campaign's file that no step names stays as it is."""
FIELDS: Mapping[CampaignStep, tuple[CampaignField, ...]] = {
    step: tuple(
        CampaignField(path, kind, CHOICES.get(path, ())) for kind, paths in kinds.items() for path in paths.split()
    )
    for step, kinds in STEPS.items()
}


def fields_of_file(content: bytes) -> dict[str, Any]:
    """The fields of a campaign's file. Raises `UsageError` for what is no TOML in UTF-8."""
    try:
        return toml_table(content.decode("utf-8-sig"), parse_float=Decimal)
    except ValueError as error:
        raise UsageError(f"the file is no TOML in UTF-8: {error}") from error


def field_texts(fields: Mapping[str, Any], zone: str | None) -> dict[str, str]:
    """Path -> text of the field: lists one a line, ticks "yes" or "". zone: the shop's."""
    return {f.path: _text(f, _at(fields, f.path), zone) for step in FIELDS.values() for f in step}


def typed_texts(form: ConsoleForm, step: CampaignStep) -> dict[str, str]:
    """Path -> what was typed into a step's form."""
    return {field.path: _typed(form, field) for field in FIELDS[step]}


def _typed(form: ConsoleForm, field: CampaignField) -> str:
    if field.kind is FieldKind.RULE:
        return TypedRule.of_form(form).text
    if field.kind in (FieldKind.SEVERAL, FieldKind.LINES):
        lines = "\n".join(form.texts(field.path))[:MAX_CHARACTERS].splitlines()
        return "\n".join(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return form.text(field.path, MAX_CHARACTERS).replace("\r\n", "\n").strip()


def _at(fields: Mapping[str, Any], path: str) -> Any:
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(field: CampaignField, value: Any, zone: str | None) -> str:
    if value is None:
        return "yes" if field.path == TICKED else ""
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
            value = _value(field, typed[field.path], zone)
        except (ValueError, ArithmeticError, UsageError):
            wrong[field.path] = field.kind
            continue
        *tables, name = field.path.split(".")
        table = result
        for table_name in tables:
            table = table.setdefault(table_name, {})
        if value is None:
            table.pop(name, None)
        else:
            table[name] = value
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


def _value(field: CampaignField, text: str, zone: str | None) -> Any:
    """None for a field that is left to its default."""
    if field.kind is FieldKind.TICK:
        return text == "yes"
    if not text:
        return None
    match field.kind:
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


MODELS: Mapping[str, type[BaseModel]] = {
    "deed": DeedRule,
    "spent": SpentRule,
    "orders": OrdersRule,
    "order_age": OrderAgeRule,
    "basic": BasicRule,
    "agreed": AgreedRule,
    "reached": ReachedRule,
}
"""What a form asks of people; one kind may cover several conditions of a rule."""
ITEM_FIELDS = ("category", "brand", "item")
"""Of a condition on items at most one is stated: a form asks which one (`of`) and for its name (`named`)."""
_NO: Mapping[str, tuple[str, ...]] = {"no": ("", "not")}
_OF_ITEMS: Mapping[str, tuple[str, ...]] = {"of": ("", *ITEM_FIELDS), "named": ()}
RULE_FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "deed": {**_NO, "condition": get_args(Deed), **_OF_ITEMS, "at_least": (), "days": ()},
    "spent": {**_NO, **_OF_ITEMS, "at_least": (), "below": (), "days": ()},
    "orders": {**_NO, "at_least": (), "at_most": (), "days": ()},
    "order_age": {**_NO, "condition": ("last_order", "first_order"), "at_least": (), "at_most": ()},
    "basic": {**_NO, "name": (), "test": ("is", "range", "stated"), "values": (), "at_least": (), "at_most": ()},
    "agreed": {**_NO, "channel": get_args(RuleChannel)},
    "reached": {**_NO, "campaign": (), "channel": ("", *get_args(RuleChannel)), "days": ()},
}
"""Kind of a condition -> its fields in order, each with what there is to choose from; none for what is typed."""
RULE_NUMBERS = ("at_least", "below", "at_most", "days")
FORM_FIELDS = ("condition", "no", "of", "named", "test", "values")
"""Fields of a form that are no plain fields of a condition."""
_FIELD = re.compile(r"people:(\d{1,3}):([a-z_]{1,20})")


@dataclass(frozen=True, slots=True)
class TypedCondition:
    """A condition as it is typed, which may not be complete yet."""

    kind: str
    texts: Mapping[str, str]
    """Name of each field -> its text."""

    @classmethod
    def of(cls, kind: str, typed: Mapping[str, str]) -> TypedCondition:
        """With these texts; a list that says nothing shows its first choice."""
        return cls(
            kind,
            {
                name: text if (text := typed.get(name, "")) in choices or not choices else choices[0]
                for name, choices in RULE_FIELDS[kind].items()
            },
        )

    @classmethod
    def of_rule(cls, rule: PeopleRule) -> TypedCondition | None:
        """None for a group."""
        inner = rule.negated if isinstance(rule, NotRule) else rule
        kind = next((kind for kind, model in MODELS.items() if type(inner) is model), None)
        if kind is None:
            return None
        stated = inner.model_dump(exclude_defaults=True)
        texts = {n: f"{v:.15g}" if isinstance(v, int | float) else str(v) for n, v in stated.items()}
        if isinstance(inner, BasicRule):
            values = "\n".join(inner.one_of or ([inner.equals] if inner.equals is not None else []))
            texts |= {"test": "is" if values else "stated" if inner.stated else "range", "values": values}
        if of := next((name for name in ITEM_FIELDS if name in texts), None):
            texts |= {"of": of, "named": texts[of]}
        return cls.of(kind, texts | {"no": "not" if inner is not rule else ""})

    @property
    def document(self) -> dict[str, Any]:
        """As `parse_rule` takes it, right or wrong."""
        texts, is_range = self.texts, self.texts.get("test", "range") == "range"
        document: dict[str, Any] = {"condition": texts.get("condition") or self.kind}
        for name, text in texts.items():
            if text and name not in FORM_FIELDS and (is_range or name not in RULE_NUMBERS):
                document[name] = _number(text) if name in RULE_NUMBERS else text
        if texts.get("of"):
            document[texts["of"]] = texts["named"]
        if texts.get("test") == "stated":
            document["stated"] = True
        if texts.get("test") == "is":
            values = _lines(texts["values"])
            document |= {"equals": values[0]} if len(values) == 1 else {"one_of": values}
        return {"not": document} if texts["no"] == "not" else document

    @property
    def is_rule(self) -> bool:
        try:
            return bool(parse_rule(self.document))
        except UsageError:
            return False


@dataclass(frozen=True, slots=True)
class TypedRule:
    """The conditions of a form, all or any of which hold."""

    join: str = "all"
    conditions: tuple[TypedCondition, ...] = ()

    @property
    def text(self) -> str:
        """The same conditions always as the same text; "" for none."""
        plain = [[condition.kind, dict(condition.texts)] for condition in self.conditions]
        return json.dumps([self.join, plain], ensure_ascii=False, sort_keys=True) if plain else ""

    @classmethod
    def of_text(cls, text: str) -> TypedRule:
        join, plain = json.loads(text or '["all", []]')
        return cls(join, tuple(TypedCondition(*condition) for condition in plain))

    @classmethod
    def of_form(cls, form: FormData) -> TypedRule:
        texts: dict[int, dict[str, str]] = {}
        for name, value in form.multi_items():
            if (match := _FIELD.fullmatch(name)) and isinstance(value, str):
                texts.setdefault(int(match[1]), {})[match[2]] = value[:5_000].replace("\r\n", "\n").strip()
        typed_fields = [texts[n] for n in sorted(texts) if texts[n].get("kind") in MODELS][:MAX_CONDITIONS]
        join = "any" if form.get("people:join") == "any" else "all"
        return cls(join, tuple(TypedCondition.of(fields["kind"], fields) for fields in typed_fields))

    @classmethod
    def of_rule(cls, rule: PeopleRule) -> TypedRule:
        """Empty for a rule with groups within groups."""
        parts = children(rule) if isinstance(rule, AllRule | AnyRule) else (rule,)
        conditions = tuple(filter(None, map(TypedCondition.of_rule, parts)))
        join = "any" if isinstance(rule, AnyRule) else "all"
        return cls(join, conditions) if len(conditions) == len(parts) else cls()

    def after(self, act: str, kind: str) -> TypedRule:
        """After a button was pressed. act: "add", or "remove:N"; kind: of the condition that is added."""
        what, _, number = act.partition(":")
        if what == "add" and kind in MODELS:
            return replace(self, conditions=(*self.conditions, TypedCondition.of(kind, {})))
        if what == "remove" and number.isdecimal():
            return replace(self, conditions=tuple(c for n, c in enumerate(self.conditions) if n != int(number)))
        return self

    def document(self) -> dict[str, Any] | None:
        """The rule as a file holds it; None for none.
        Raises `UsageError` where a condition is not complete."""
        documents = [condition.document for condition in self.conditions]
        return rule_document(parse_rule({self.join: documents})) if documents else None


def _number(text: str) -> int | float | str:
    """The text itself where it is no number: the rule then says what is wrong with it."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text.replace(",", "."))
    return text
