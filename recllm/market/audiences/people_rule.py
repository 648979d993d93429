"""Rules over people: conditions under all, any and not, as data that a file, a request and a form can hold.

    {"all": [
        {"condition": "bought", "category": "coffee", "days": 90},
        {"any": [{"condition": "basic", "name": "age", "at_least": 35}, {"condition": "spent", "at_least": 100}]},
        {"not": {"condition": "reached", "days": 14}}
    ]}

A rule says yes or no of every person. What is unknown counts as not done, so `not` also holds for people of whom
nothing is known.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from recllm.base.documents import fault_in_words, toml_table
from recllm.base.errors import UsageError

MAX_DEPTH = 5
"""Groups (all, any, not) around a condition."""
TOO_DEEP = f"the rule over people is nested deeper than {MAX_DEPTH} groups; write it with fewer"
MAX_CONDITIONS = 50
MAX_DAYS = 36_500


def _number(value: object) -> object:
    """TOML's exact decimals as floats."""
    return float(value) if isinstance(value, Decimal) and value.is_finite() else value


Name = Annotated[str, StringConstraints(pattern=r"\S", max_length=500)]
Names = Annotated[tuple[Name, ...], Strict(False), Field(min_length=1, max_length=100)]
Days = Annotated[float, BeforeValidator(_number), Field(gt=0, le=MAX_DAYS, allow_inf_nan=False)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Money = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1e12, allow_inf_nan=False)]
Times = Annotated[int, Field(ge=1, le=1_000_000)]
Deed = Literal["bought", "viewed", "carted", "favourited", "clicked", "dismissed", "returned"]
"""What a person did with an item."""
RuleChannel = Literal["email", "push", "sms_gsm"]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class _Bounded(_Rule):
    """A condition on a number, with a lower bound, an upper one, or both."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        upper = "below" if "below" in type(self).model_fields else "at_most"
        _check_bounds(getattr(self, "at_least", None), getattr(self, upper, None), upper)
        return self


class _OfItems(_Rule):
    """A condition on what was done with some items: those of one of the three, or any."""

    item: Name | None = None
    """An id."""
    category: Name | None = None
    """A name, or a path "food > tea"; of items on sale and of former ones."""
    brand: Name | None = None
    days: Days | None = None
    """Within this many last days; at any time when None."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(value is not None for value in (self.item, self.category, self.brand)) > 1:
            raise ValueError("give one of item, category and brand, or none of them for anything")
        return self


class DeedRule(_OfItems):
    """People who did something with one of the items, at least this often."""

    condition: Deed
    at_least: Times = 1
    """Times: what is done at one moment, such as the lines of one basket, is once."""


class SpentRule(_OfItems, _Bounded):
    """People who spent this much on the items.
    Purchases without a price count as 0; returns are not subtracted."""

    condition: Literal["spent"]
    at_least: Money | None = None
    """In the shop's currency."""
    below: Money | None = None


class OrdersRule(_Bounded):
    """People who ordered this often: purchases of one moment are one order."""

    condition: Literal["orders"]
    at_least: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    at_most: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    days: Days | None = None
    """Within this many last days; at any time when None."""


class OrderAgeRule(_Bounded):
    """People whose last or first order is this long ago; it never holds for a person without an order."""

    condition: Literal["last_order", "first_order"]
    at_least: Annotated[float, BeforeValidator(_number), Field(ge=0, le=MAX_DAYS, allow_inf_nan=False)] | None = None
    """Days ago."""
    at_most: Days | None = None
    """Days ago."""


class BasicRule(_Rule):
    """What people stated of themselves: one value, one of several, a range of numbers, or anything at all.

    Texts are compared in any case. In a range, a band such as "45-54", "65+" or "under 18" counts where all of it lies
    within, and "50-74K" is in thousands.
    """

    condition: Literal["basic"]
    name: Name
    """A column of the users table, such as age."""
    equals: Name | None = None
    one_of: Names | None = None
    at_least: Number | None = None
    at_most: Number | None = None
    stated: Literal[True] | None = None
    """Whatever the value."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        is_range = self.at_least is not None or self.at_most is not None
        if sum([self.equals is not None, self.one_of is not None, is_range, self.stated is not None]) != 1:
            raise ValueError("give one of equals, one_of, stated = true, and a range of at_least and at_most")
        if is_range:
            _check_bounds(self.at_least, self.at_most, "at_most")
        return self


class AgreedRule(_Rule):
    """People who agree to a channel now."""

    condition: Literal["agreed"]
    channel: RuleChannel


class ReachedRule(_Rule):
    """People in an export of a campaign, whether or not the message arrived."""

    condition: Literal["reached"]
    campaign: Name | None = None
    """Its id; any when None."""
    channel: RuleChannel | None = None
    days: Days | None = None
    """Within this many last days; at any time when None."""


class AllRule(_Rule):
    """People who meet every rule."""

    all: Annotated[tuple[PeopleRule, ...], Strict(False), Field(min_length=1, max_length=MAX_CONDITIONS)]


class AnyRule(_Rule):
    """People who meet at least one of the rules."""

    any: Annotated[tuple[PeopleRule, ...], Strict(False), Field(min_length=1, max_length=MAX_CONDITIONS)]


class NotRule(_Rule):
    """People who do not meet the rule."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    negated: Annotated[PeopleRule, Field(alias="not")]


Condition: TypeAlias = DeedRule | SpentRule | OrdersRule | OrderAgeRule | BasicRule | AgreedRule | ReachedRule
GROUPS = ("all", "any", "not")
CONDITIONS: tuple[str, ...] = (
    *get_args(Deed),
    *("spent", "orders", "last_order", "first_order", "basic", "agreed", "reached"),
)
"""Everything that `condition` can be."""


def _tag(value: object) -> str | None:
    """Which of the models a rule is: a group by its key, a condition by its name."""
    names: Collection[object] = value if isinstance(value, Mapping) else ()
    if isinstance(value, _Rule):
        names = [field.alias or name for name, field in type(value).model_fields.items()]
    return next((name for name in (*GROUPS, "condition") if name in names), None)


PeopleRule: TypeAlias = Annotated[
    Annotated[AllRule, Tag("all")]
    | Annotated[AnyRule, Tag("any")]
    | Annotated[NotRule, Tag("not")]
    | Annotated[Annotated[Condition, Field(discriminator="condition")], Tag("condition")],
    Discriminator(_tag),
]

for _group in (AllRule, AnyRule, NotRule):
    _group.model_rebuild()


RULE: TypeAdapter[Any] = TypeAdapter(PeopleRule)


def _check_bounds(low: float | None, high: float | None, name: str) -> None:
    if low is None and high is None:
        raise ValueError(f"give at_least, {name} or both")
    if low is not None and high is not None and (low > high or (name == "below" and low == high)):
        raise ValueError(f"the range is empty: at_least is {low:g} and {name} is {high:g}")


def parse_rule(value: object) -> PeopleRule:
    """A rule from what a TOML or JSON document holds.
    Raises `UsageError` that says where in it what is wrong."""
    check_size(value)
    try:
        rule: PeopleRule = RULE.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"the rule over people: {_fault(error)}") from None
    return rule


def rule_document(rule: PeopleRule) -> dict[str, Any]:
    """The rule as `parse_rule` takes it, without what is left to its default."""

    def tidy(value: Any) -> Any:
        """Each condition's name first, and whole numbers as such."""
        if isinstance(value, Mapping):
            return {name: tidy(value[name]) for name in sorted(value, key=lambda name: name != "condition")}
        if isinstance(value, list):
            return [tidy(member) for member in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    document: dict[str, Any] = tidy(rule.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True))
    return document


def read_rule(text: str) -> PeopleRule:
    """A rule from JSON, or from the file of this name, TOML or JSON.
    Raises `UsageError` for what cannot be read."""
    try:
        source = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{text}: cannot be read as a rule over people: {error}; give JSON, or a file") from None
    with suppress(RecursionError):
        try:
            is_toml = source is not text and text.endswith(".toml")
            return parse_rule(toml_table(source) if is_toml else json.loads(source))
        except ValueError as error:
            raise UsageError(f"the rule over people is no {'TOML' if is_toml else 'JSON'}: {error}") from None
    raise UsageError(TOO_DEEP)


def _validated(value: object) -> object:
    try:
        return parse_rule(value)
    except UsageError as error:
        raise PydanticCustomError("people_rule", "{message}", {"message": str(error)}) from None


RuleField: TypeAlias = Annotated[PeopleRule, BeforeValidator(_validated)]
"""A field of a model: errors name the place in the rule."""


def check_size(rule: object) -> None:
    """Of a rule or its document, before anything descends into it.
    Raises `UsageError` where it is too large."""
    level, n_conditions = [rule], 0
    for _ in range(MAX_DEPTH + 1):
        below = [children(node) for node in level]
        n_conditions += sum(not inner for inner in below)
        level = [node for inner in below for node in inner]
        # every node of a level holds one condition or several
        if n_conditions + len(level) > MAX_CONDITIONS:
            raise UsageError(f"the rule over people has more than {MAX_CONDITIONS} conditions; write it with fewer")
        if not level:
            return
    raise UsageError(TOO_DEEP)


def _fault(error: ValidationError) -> str:
    """What is wrong and where, e.g. "all[0].days must be a number".
    What was given is not repeated: it may be an id."""
    faults = error.errors(include_url=False)
    # a list whose members are wrong counts as too short as well
    fault = next((fault for fault in faults if fault["type"] != "too_short"), faults[0])
    words = fault_in_words(fault, quoted=False)
    if fault["type"] == "union_tag_not_found":
        words = f"must be a group ({', '.join(GROUPS)}) or a condition: {', '.join(CONDITIONS)}"
    elif fault["type"] == "union_tag_invalid":
        nearest = difflib.get_close_matches(str(fault["ctx"]["tag"]), CONDITIONS, n=1)
        words = f"has an unknown condition; did you mean {(nearest or CONDITIONS)[0]}?"
    return f"{_path(fault['loc']) or 'it'} {words}"


def _path(location: tuple[int | str, ...]) -> str:
    """pydantic's place as "all[1].not.days", without the names of the models that it passes through: a group's tag
    stands before its key, a condition's two before its field."""
    parts, path = list(location), list[int | str]()
    while parts:
        if parts.pop(0) == "condition":
            path += parts[1:]
            break
        path += parts[:1]
        del parts[:1]
        if parts and isinstance(parts[0], int):
            path.append(parts.pop(0))
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def children(rule: Any) -> tuple[Any, ...]:
    """What a group holds, of a rule or of its document; nothing of a condition."""
    match rule:
        case AllRule(all=inner) | AnyRule(any=inner) | {"all": [*inner]} | {"any": [*inner]}:
            return tuple(inner)
        case NotRule(negated=only):
            return (only,)
        case {"not": only} if not rule.keys() & {"all", "any"}:
            return (only,)
        case _:
            return ()


def conditions_of(rule: PeopleRule) -> Iterator[PeopleRule]:
    """Every condition, each once, in the order of the rule."""
    conditions: dict[PeopleRule, None] = {}
    pending = [rule]
    while pending:
        node = pending.pop()
        inner = children(node)
        if not inner:
            conditions.setdefault(node)
        pending += reversed(inner)
    yield from conditions


def rule_words(rule: PeopleRule, locale: str, currency: str | None = None) -> str:
    """The rule as one line. currency: of the amounts, e.g. "EUR"; without one they are bare numbers.
    A name or an inner group of more than some thousand characters is cut."""
    from recllm.text.templates import Prompts

    def rendered(name: str, /, **values: object) -> str:
        return Prompts.load().render(f"people_rule.{name}", locale, **values)

    def words(node: PeopleRule, *, negated: bool = False) -> str:
        inner = children(node)
        match node:
            case NotRule():
                return words(node.negated, negated=not negated)
            case AllRule() | AnyRule() if len(inner) == 1:
                return words(inner[0], negated=negated)
            case AllRule() | AnyRule() | OrdersRule() | OrderAgeRule() if negated:
                return rendered("not", part=words(node))
            case BasicRule() if negated and (node.at_least is not None or node.at_most is not None):
                return rendered("not", part=words(node))
            case AllRule() | AnyRule():
                return rendered("all" if isinstance(node, AllRule) else "any", parts=[member(each) for each in inner])
        values = node.model_dump()
        match node:
            case DeedRule():
                return rendered("deed", **values | {"times": values.pop("at_least")}, negated=negated)
            case SpentRule():
                values |= {name: _money(values[name], currency) for name in ("at_least", "below")}
            case OrderAgeRule():
                return rendered("order_age", first=values.pop("condition") == "first_order", **values)
            case BasicRule():
                stated = values.pop("equals")
                values["values"] = list(values.pop("one_of") or ([] if stated is None else [stated]))
                values["name"] = node.name.replace("_", " ")
                del values["stated"]
        if not isinstance(node, OrdersRule):
            values["negated"] = negated
        return rendered(values.pop("condition"), **values)

    def member(node: PeopleRule) -> str:
        """Of a group: a group of several stands in brackets."""
        inner = node
        while len(children(inner)) == 1 and not isinstance(inner, NotRule):
            inner = children(inner)[0]
        return rendered("brackets", part=words(node)) if len(children(inner)) > 1 else words(node)

    return words(rule)


def _money(amount: float | None, currency: str | None) -> str | None:
    if amount is None:
        return None
    number = f"{amount:,.2f}".removesuffix(".00")
    return f"{number} {currency}" if currency else number
