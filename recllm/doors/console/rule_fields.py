"""A rule over people as fields of a form: groups and conditions that are added, changed and taken away.

A form shows a tree of nodes. The negation of a rule is a field of its node, so that a form has groups and conditions
and nothing else; its outermost node is a group. Each field is named after its node's place: `people:r.0.1:days` is the
days of the second node in the first node of the outermost group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, get_args

from starlette.datastructures import FormData

from recllm.base.errors import UsageError
from recllm.market.audiences.people_rule import (
    MAX_DEPTH,
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

MAX_NODES = 200
"""Of a form; a rule has far fewer."""
ROOT = "r"
_FIELD = re.compile(r"people:(r(?:\.\d{1,3}){0,8}):([a-z_]{1,20})")


class NodeKind(StrEnum):
    """What a form asks of people; one kind of condition may stand for several of a rule."""

    GROUP = "group"
    DEED = "deed"
    SPENT = "spent"
    ORDERS = "orders"
    ORDER_AGE = "order_age"
    BASIC = "basic"
    AGREED = "agreed"
    REACHED = "reached"


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One field of a node."""

    name: str
    choices: tuple[str, ...] = ()
    """Of a list to choose from; nothing for a text or a number."""
    is_number: bool = False
    is_lines: bool = False
    """Several texts, one a line."""


_NO = RuleEntry("no", ("", "not"))
_OF = (RuleEntry("of", ("", "category", "brand", "item")), RuleEntry("named"))
_DAYS = RuleEntry("days", is_number=True)
_LOW, _HIGH = RuleEntry("at_least", is_number=True), RuleEntry("at_most", is_number=True)

ENTRIES: Mapping[NodeKind, tuple[RuleEntry, ...]] = {
    NodeKind.GROUP: (_NO, RuleEntry("join", ("all", "any"))),
    NodeKind.DEED: (_NO, RuleEntry("did", get_args(Deed)), *_OF, _LOW, _DAYS),
    NodeKind.SPENT: (_NO, *_OF, _LOW, RuleEntry("below", is_number=True), _DAYS),
    NodeKind.ORDERS: (_NO, _LOW, _HIGH, _DAYS),
    NodeKind.ORDER_AGE: (_NO, RuleEntry("which", ("last_order", "first_order")), _LOW, _HIGH),
    NodeKind.BASIC: (
        *(_NO, RuleEntry("name"), RuleEntry("test", ("is", "range", "stated"))),
        *(RuleEntry("values", is_lines=True), _LOW, _HIGH),
    ),
    NodeKind.AGREED: (_NO, RuleEntry("channel", get_args(RuleChannel))),
    NodeKind.REACHED: (_NO, RuleEntry("campaign"), RuleEntry("channel", ("", *get_args(RuleChannel))), _DAYS),
}
CONDITION_KINDS = tuple(kind for kind in NodeKind if kind is not NodeKind.GROUP)


@dataclass(frozen=True, slots=True)
class RuleNode:
    """A group or a condition as it is typed, which may be no rule yet."""

    kind: NodeKind
    texts: Mapping[str, str] = field(default_factory=dict)
    """Name of each of its entries -> what stands there."""
    parts: tuple[RuleNode, ...] = ()
    """Of a group."""

    def problem(self) -> str:
        """What is wrong in this node by itself; "" where nothing is, and for a group."""
        if self.kind is NodeKind.GROUP:
            return ""
        try:
            parse_rule(_document(self))
        except UsageError as error:
            return str(error).removeprefix("the rule over people: ").removeprefix("not.").removeprefix("not ")
        return ""


def new_node(kind: NodeKind, /, **texts: str) -> RuleNode:
    """A node with these texts; a list that says nothing shows its first choice."""
    defaults = {entry.name: entry.choices[0] if entry.choices else "" for entry in ENTRIES[kind]}
    choices = {entry.name: entry.choices for entry in ENTRIES[kind]}
    fit = {
        name: text for name, text in texts.items() if name in choices and (text in choices[name] or not choices[name])
    }
    return RuleNode(kind, defaults | fit)


# --- in a form, and as one text ---------------------------------------------------------------------------------------


def typed_rule(form: FormData) -> str:
    """The nodes of a form as one text, see `node_of`; "" where there are none."""
    texts: dict[str, dict[str, str]] = {}
    for name, value in form.multi_items():
        if (match := _FIELD.fullmatch(name)) and isinstance(value, str):
            texts.setdefault(match[1], {})[match[2]] = value[:5_000].replace("\r\n", "\n").strip()
    order = sorted(texts, key=lambda location: [int(part) for part in location.split(".")[1:]])[:MAX_NODES]

    def node(location: str) -> RuleNode | None:
        kind = texts[location].get("kind", "")
        if kind not in set(NodeKind):
            return None
        depth = location.count(".") + 1
        below = [p for p in order if p.startswith(f"{location}.") and p.count(".") == depth] if kind == "group" else []
        parts = tuple(part for p in below if (part := node(p)) is not None)
        return replace(new_node(NodeKind(kind), **texts[location]), parts=parts)

    root = node(ROOT) if ROOT in texts else None
    return node_text(root) if root is not None and root.kind is NodeKind.GROUP else ""


def node_text(root: RuleNode) -> str:
    """The same nodes always as the same text; "" for a group of nothing."""

    def plain(node: RuleNode) -> dict[str, Any]:
        parts = {"parts": [plain(part) for part in node.parts]} if node.kind is NodeKind.GROUP else {}
        return {"kind": node.kind.value, "texts": dict(node.texts), **parts}

    return json.dumps(plain(root), ensure_ascii=False, sort_keys=True) if root.parts else ""


def node_of(text: str) -> RuleNode:
    """The outermost group of what `typed_rule` or `rule_text` gave; an empty one for ""."""

    def node(plain: Mapping[str, Any]) -> RuleNode:
        return RuleNode(NodeKind(plain["kind"]), plain["texts"], tuple(map(node, plain.get("parts", ()))))

    return node(json.loads(text)) if text else new_node(NodeKind.GROUP)


def changed_rule(text: str, act: str, kind: str) -> str:
    """The nodes after a button was pressed.

    act: "add:PLACE", "group:PLACE" or "remove:PLACE"; kind: of the condition that is added. What is no place of a
    group, or leads too deep, changes nothing. A group that was added holds a condition of the kind.
    """
    what, _, location = act.partition(":")
    path = [int(part) for part in location.split(".")[1:]] if _FIELD.fullmatch(f"people:{location}:kind") else None
    if path is None or (what != "remove" and kind not in set(CONDITION_KINDS)):
        return text

    def after(node: RuleNode, path: list[int]) -> RuleNode:
        if node.kind is not NodeKind.GROUP:
            return node
        if what == "remove" and len(path) == 1:
            return replace(node, parts=tuple(part for n, part in enumerate(node.parts) if n != path[0]))
        if path:
            inner = (after(part, path[1:]) if n == path[0] else part for n, part in enumerate(node.parts))
            return replace(node, parts=tuple(inner))
        added = new_node(NodeKind(kind))
        if what == "group":
            added = replace(new_node(NodeKind.GROUP, join="any"), parts=(added,))
        return replace(node, parts=(*node.parts, added)) if what in ("add", "group") else node

    is_deep = what == "group" and len(path) + 1 >= MAX_DEPTH
    return text if is_deep else node_text(after(node_of(text), path))


# --- from a rule and to a rule ---------------------------------------------------------------------------------------


def rule_text(rule: PeopleRule) -> str:
    """What stands in a form for a rule."""
    node = _node(rule, negated=False)
    return node_text(node if node.kind is NodeKind.GROUP else replace(new_node(NodeKind.GROUP), parts=(node,)))


def rule_of_text(text: str) -> dict[str, Any] | None:
    """The rule that was typed, as a file holds it; None for none. Raises `UsageError` for what is no rule."""
    return rule_document(parse_rule(_document(node_of(text)))) if text else None


def _node(rule: PeopleRule, negated: bool) -> RuleNode:
    no = "not" if negated else ""
    match rule:
        case NotRule():
            return _node(rule.negated, not negated)
        case AllRule() | AnyRule():
            group = new_node(NodeKind.GROUP, no=no, join="all" if isinstance(rule, AllRule) else "any")
            return replace(group, parts=tuple(_node(part, negated=False) for part in children(rule)))
        case DeedRule():
            times = "" if rule.at_least == 1 else str(rule.at_least)
            return new_node(
                NodeKind.DEED, no=no, did=rule.condition, **_named(rule), at_least=times, days=_text(rule.days)
            )
        case SpentRule():
            bounds = {name: _text(getattr(rule, name)) for name in ("at_least", "below", "days")}
            return new_node(NodeKind.SPENT, no=no, **_named(rule), **bounds)
        case OrdersRule():
            bounds = {name: _text(getattr(rule, name)) for name in ("at_least", "at_most", "days")}
            return new_node(NodeKind.ORDERS, no=no, **bounds)
        case OrderAgeRule():
            bounds = {name: _text(getattr(rule, name)) for name in ("at_least", "at_most")}
            return new_node(NodeKind.ORDER_AGE, no=no, which=rule.condition, **bounds)
        case BasicRule():
            values = "\n".join(rule.one_of or ([rule.equals] if rule.equals is not None else []))
            bounds = {name: _text(getattr(rule, name)) for name in ("at_least", "at_most")}
            test = "is" if values else "stated" if rule.stated else "range"
            return new_node(NodeKind.BASIC, no=no, name=rule.name, test=test, values=values, **bounds)
        case AgreedRule():
            return new_node(NodeKind.AGREED, no=no, channel=rule.channel)
        case ReachedRule():
            texts = {"campaign": rule.campaign or "", "channel": rule.channel or "", "days": _text(rule.days)}
            return new_node(NodeKind.REACHED, no=no, **texts)
    raise AssertionError(rule)  # every rule is one of these


def _named(rule: DeedRule | SpentRule) -> dict[str, str]:
    return next(
        (
            {"of": name, "named": str(value)}
            for name in ("category", "brand", "item")
            if (value := getattr(rule, name)) is not None
        ),
        {},
    )


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.15g}"


def _document(node: RuleNode) -> dict[str, Any]:
    """The node as `parse_rule` takes it, right or wrong."""
    texts = node.texts
    match node.kind:
        case NodeKind.GROUP:
            document: dict[str, Any] = {texts["join"]: [_document(part) for part in node.parts]}
        case NodeKind.DEED:
            document = {"condition": texts["did"], **_selection(texts), **_numbers(texts, "at_least", "days")}
        case NodeKind.SPENT:
            numbers = _numbers(texts, "at_least", "below", "days")
            document = {"condition": "spent", **_selection(texts), **numbers}
        case NodeKind.ORDERS:
            document = {"condition": "orders", **_numbers(texts, "at_least", "at_most", "days")}
        case NodeKind.ORDER_AGE:
            document = {"condition": texts["which"], **_numbers(texts, "at_least", "at_most")}
        case NodeKind.BASIC:
            document = {"condition": "basic", "name": texts["name"], **_test(texts)}
        case NodeKind.AGREED:
            document = {"condition": "agreed", "channel": texts["channel"]}
        case NodeKind.REACHED:
            named = {name: texts[name] for name in ("campaign", "channel") if texts[name]}
            document = {"condition": "reached", **named, **_numbers(texts, "days")}
    return {"not": document} if texts["no"] == "not" else document


def _selection(texts: Mapping[str, str]) -> dict[str, str]:
    return {texts["of"]: texts["named"]} if texts["of"] else {}


def _test(texts: Mapping[str, str]) -> dict[str, Any]:
    if texts["test"] == "stated":
        return {"stated": True}
    if texts["test"] == "range":
        return _numbers(texts, "at_least", "at_most")
    values = [line.strip() for line in texts["values"].splitlines() if line.strip()]
    return {"equals": values[0]} if len(values) == 1 else {"one_of": values}


def _numbers(texts: Mapping[str, str], *names: str) -> dict[str, Any]:
    return {name: _number(texts[name]) for name in names if texts[name]}


def _number(text: str) -> int | float | str:
    """The text itself where it is no number: the rule then says what is wrong with it."""
    for kind in (int, float):
        try:
            return kind(text.replace(",", "."))
        except ValueError:
            continue
    return text
