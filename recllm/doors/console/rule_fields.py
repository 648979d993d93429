"""A rule over people as fields of a form: conditions that are added, changed and removed, all or any of which hold.

Each field is named after its condition's place: `people:1:days` is the days of the second one. A rule with groups
within groups, which files and requests may hold, is shown in words and stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from starlette.datastructures import FormData

from recllm.base.errors import UsageError
from recllm.market.audiences.people_rule import (
    AgreedRule,
    AllRule,
    AnyRule,
    BasicRule,
    DeedRule,
    NotRule,
    OrderAgeRule,
    OrdersRule,
    PeopleRule,
    ReachedRule,
    SpentRule,
    children,
    parse_rule,
    rule_document,
)

MAX_CONDITIONS = 50
JOINS = ("all", "any")
_FIELD = re.compile(r"people:(\d{1,3}):([a-z_]{1,20})")


class ConditionKind(StrEnum):
    """What a form asks of people; one kind may cover several conditions of a rule."""

    DEED = "deed"
    SPENT = "spent"
    ORDERS = "orders"
    ORDER_AGE = "order_age"
    BASIC = "basic"
    AGREED = "agreed"
    REACHED = "reached"


MODELS: Mapping[ConditionKind, type[BaseModel]] = {
    ConditionKind.DEED: DeedRule,
    ConditionKind.SPENT: SpentRule,
    ConditionKind.ORDERS: OrdersRule,
    ConditionKind.ORDER_AGE: OrderAgeRule,
    ConditionKind.BASIC: BasicRule,
    ConditionKind.AGREED: AgreedRule,
    ConditionKind.REACHED: ReachedRule,
}
"""The conditions, whose fields are those of the forms."""
ITEM_FIELDS = ("category", "brand", "item")
"""Of a condition on items at most one is stated: a form asks which one (`of`) and for its name (`named`)."""
ORDER = ("no", "condition", "of", "named", "campaign", "channel", "at_least", "below", "at_most", "days")
"""Of the fields of a condition on a form."""


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One field of a node."""

    name: str
    choices: tuple[str, ...] = ()
    """Of a list to choose from; empty for a text or a number."""
    is_number: bool = False
    is_lines: bool = False
    """Several texts, one a line."""


def _entries(model: type[BaseModel]) -> tuple[RuleEntry, ...]:
    """The fields of a condition."""
    entries = {"no": RuleEntry("no", ("", "not"))}
    if model.model_fields.keys() >= set(ITEM_FIELDS):
        entries |= {"of": RuleEntry("of", ("", *ITEM_FIELDS)), "named": RuleEntry("named")}
    for name, declared in model.model_fields.items():
        kinds = get_args(declared.annotation) or (declared.annotation,)
        choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
        choices = choices or tuple(kind for kind in kinds if isinstance(kind, str))
        is_optional = type(None) in kinds and choices
        is_number = bool({int, float} & {getattr(kind, "__origin__", kind) for kind in kinds})
        entries[name] = RuleEntry(name, ("", *choices) if is_optional else choices, is_number=is_number)
    if len(entries["condition"].choices) < 2:
        del entries["condition"]
    return tuple(entries[name] for name in ORDER if name in entries)


_RANGE = (RuleEntry("at_least", is_number=True), RuleEntry("at_most", is_number=True))
ENTRIES: Mapping[ConditionKind, tuple[RuleEntry, ...]] = {
    **{kind: _entries(model) for kind, model in MODELS.items()},
    ConditionKind.BASIC: (
        *(RuleEntry("no", ("", "not")), RuleEntry("name"), RuleEntry("test", ("is", "range", "stated"))),
        *(RuleEntry("values", is_lines=True), *_RANGE),
    ),
}


@dataclass(frozen=True, slots=True)
class TypedCondition:
    """A condition as it is typed, which may not be complete yet."""

    kind: ConditionKind
    texts: Mapping[str, str]
    """Name of each entry -> its text."""

    @property
    def is_rule(self) -> bool:
        try:
            return bool(parse_rule(_document(self)))
        except UsageError:
            return False


@dataclass(frozen=True, slots=True)
class TypedRule:
    """The conditions of a form."""

    join: str = "all"
    conditions: tuple[TypedCondition, ...] = ()
    entries: Mapping[ConditionKind, tuple[RuleEntry, ...]] = field(default_factory=lambda: ENTRIES, compare=False)

    @property
    def text(self) -> str:
        """The same conditions always as the same text; "" for none."""
        plain = [{"kind": condition.kind.value, "texts": dict(condition.texts)} for condition in self.conditions]
        return json.dumps([self.join, plain], ensure_ascii=False, sort_keys=True) if plain else ""

    @classmethod
    def of_text(cls, text: str) -> TypedRule:
        if not text:
            return cls()
        join, plain = json.loads(text)
        return cls(join, tuple(TypedCondition(ConditionKind(entry["kind"]), entry["texts"]) for entry in plain))

    @classmethod
    def of_form(cls, form: FormData) -> TypedRule:
        texts: dict[int, dict[str, str]] = {}
        for name, value in form.multi_items():
            if (match := _FIELD.fullmatch(name)) and isinstance(value, str):
                texts.setdefault(int(match[1]), {})[match[2]] = value[:5_000].replace("\r\n", "\n").strip()
        typed_fields = [texts[n] for n in sorted(texts) if texts[n].get("kind") in set(ConditionKind)][:MAX_CONDITIONS]
        join = str(form.get("people:join", ""))
        parts = tuple(new_condition(ConditionKind(fields["kind"]), fields) for fields in typed_fields)
        return cls(join if join in JOINS else JOINS[0], parts)

    @classmethod
    def of_rule(cls, rule: PeopleRule) -> TypedRule:
        """Empty for a rule with groups within groups."""
        parts = children(rule) if isinstance(rule, AllRule | AnyRule) else (rule,)
        conditions = [_condition(inner) for inner in parts]
        complete = tuple(condition for condition in conditions if condition is not None)
        return cls("any" if isinstance(rule, AnyRule) else "all", complete) if len(complete) == len(parts) else cls()

    def after(self, act: str, kind: str) -> TypedRule:
        """After a button was pressed. act: "add", or "remove:N"; kind: of the condition that is added."""
        what, _, number = act.partition(":")
        if what == "add" and kind in set(ConditionKind):
            return replace(self, conditions=(*self.conditions, new_condition(ConditionKind(kind), {})))
        if what == "remove" and number.isdecimal():
            return replace(self, conditions=tuple(c for n, c in enumerate(self.conditions) if n != int(number)))
        return self

    def document(self) -> dict[str, Any] | None:
        """The rule as a file holds it; None for none. Raises `UsageError` where a condition is not complete."""
        documents = [_document(condition) for condition in self.conditions]
        return rule_document(parse_rule({self.join: documents})) if documents else None


def new_condition(kind: ConditionKind, texts: Mapping[str, str]) -> TypedCondition:
    """With these texts; a list that says nothing shows its first choice."""
    entries = {entry.name: entry for entry in ENTRIES[kind]}
    valid = {n: t for n, t in texts.items() if n in entries and (t in entries[n].choices or not entries[n].choices)}
    return TypedCondition(kind, {n: entry.choices[0] if entry.choices else "" for n, entry in entries.items()} | valid)


def _condition(rule: PeopleRule) -> TypedCondition | None:
    """None for a group."""
    no = "not" if isinstance(rule, NotRule) else ""
    rule = rule.negated if isinstance(rule, NotRule) else rule
    kind = next((kind for kind, model in MODELS.items() if type(rule) is model), None)
    if kind is None:
        return None
    fields = type(rule).model_fields
    texts = {name: _text(value) for name, value in rule if value is not None and value != fields[name].default}
    if isinstance(rule, BasicRule):
        values = "\n".join(rule.one_of or ([rule.equals] if rule.equals is not None else []))
        texts |= {"test": "is" if values else "stated" if rule.stated else "range", "values": values}
    if of := next((name for name in ITEM_FIELDS if name in texts), None):
        texts |= {"of": of, "named": texts[of]}
    return new_condition(kind, texts | {"no": no})


def _text(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _document(node: TypedCondition) -> dict[str, Any]:
    """As `parse_rule` takes it, right or wrong."""
    texts = node.texts
    document: dict[str, Any] = {"condition": texts.get("condition") or node.kind.value}
    entries = [entry for entry in ENTRIES[node.kind] if entry.name not in (*SPECIAL, "condition") and texts[entry.name]]
    if node.kind is ConditionKind.BASIC and texts["test"] != "range":
        entries = [entry for entry in entries if not entry.is_number]
    document |= {e.name: _number(texts[e.name]) if e.is_number else texts[e.name] for e in entries}
    if texts.get("of"):
        document[texts["of"]] = texts["named"]
    if texts.get("test") == "stated":
        document["stated"] = True
    if texts.get("test") == "is":
        values = [line.strip() for line in texts["values"].splitlines() if line.strip()]
        document |= {"equals": values[0]} if len(values) == 1 else {"one_of": values}
    return {"not": document} if texts["no"] == "not" else document


SPECIAL = ("condition", "no", "of", "named", "test", "values")
"""Fields of a form that are no plain fields of a condition."""


def _number(text: str) -> int | float | str:
    """The text itself where it is no number: the rule then says what is wrong with it."""
    for kind in (int, float):
        try:
            return kind(text.replace(",", "."))
        except ValueError:
            continue
    return text
