"""A rule over people as fields of a form: groups and conditions that are added, changed and removed.

A form shows a tree of groups and conditions, whose outermost node is a group; the negation of a rule is a field of its
node. Each field is named after its node's place: `people:r.0.1:days` is the days of the second node in the first node
of the outermost group.
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
    MAX_DEPTH,
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

MAX_NODES = 200
"""Of a form; a rule has far fewer."""
ROOT = "r"
_FIELD = re.compile(r"people:(r(?:\.\d{1,3}){0,8}):([a-z_]{1,20})")


class NodeKind(StrEnum):
    """What a form asks of people; one kind may cover several conditions of a rule."""

    GROUP = "group"
    DEED = "deed"
    SPENT = "spent"
    ORDERS = "orders"
    ORDER_AGE = "order_age"
    BASIC = "basic"
    AGREED = "agreed"
    REACHED = "reached"


MODELS: Mapping[NodeKind, type[BaseModel]] = {
    NodeKind.DEED: DeedRule,
    NodeKind.SPENT: SpentRule,
    NodeKind.ORDERS: OrdersRule,
    NodeKind.ORDER_AGE: OrderAgeRule,
    NodeKind.BASIC: BasicRule,
    NodeKind.AGREED: AgreedRule,
    NodeKind.REACHED: ReachedRule,
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
ENTRIES: Mapping[NodeKind, tuple[RuleEntry, ...]] = {
    NodeKind.GROUP: (RuleEntry("no", ("", "not")), RuleEntry("join", ("all", "any"))),
    **{kind: _entries(model) for kind, model in MODELS.items()},
    NodeKind.BASIC: (
        *(RuleEntry("no", ("", "not")), RuleEntry("name"), RuleEntry("test", ("is", "range", "stated"))),
        *(RuleEntry("values", is_lines=True), *_RANGE),
    ),
}
CONDITION_KINDS = tuple(MODELS)


@dataclass(frozen=True, slots=True)
class RuleNode:
    """A group or a condition as it is typed, which may be no rule yet."""

    kind: NodeKind
    texts: Mapping[str, str] = field(default_factory=dict)
    """Name of each entry -> its text."""
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
    valid_texts = {
        name: text for name, text in texts.items() if name in choices and (text in choices[name] or not choices[name])
    }
    return RuleNode(kind, defaults | valid_texts)


# --- in a form, and as one text ---------------------------------------------------------------------------------------


def typed_rule(form: FormData) -> str:
    """The nodes of a form as one text, see `node_of`; "" where there are none."""
    texts: dict[str, dict[str, str]] = {}
    for name, value in form.multi_items():
        if (match := _FIELD.fullmatch(name)) and isinstance(value, str):
            texts.setdefault(match[1], {})[match[2]] = value[:5_000].replace("\r\n", "\n").strip()
    order = sorted(texts, key=lambda location: [int(number) for number in location.split(".")[1:]])[:MAX_NODES]

    def node(location: str) -> RuleNode | None:
        kind = texts[location].get("kind", "")
        if kind not in set(NodeKind):
            return None
        depth = location.count(".") + 1
        below = [p for p in order if p.startswith(f"{location}.") and p.count(".") == depth] if kind == "group" else []
        parts = tuple(inner for p in below if (inner := node(p)) is not None)
        return replace(new_node(NodeKind(kind), **texts[location]), parts=parts)

    root = node(ROOT) if ROOT in texts else None
    return node_text(root) if root is not None and root.kind is NodeKind.GROUP else ""


def node_text(root: RuleNode) -> str:
    """The same nodes always as the same text; "" for a group of nothing."""

    def plain(node: RuleNode) -> dict[str, Any]:
        parts = {"parts": [plain(inner) for inner in node.parts]} if node.kind is NodeKind.GROUP else {}
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
    path = [int(number) for number in location.split(".")[1:]] if _FIELD.fullmatch(f"people:{location}:kind") else None
    if path is None or (what != "remove" and kind not in set(CONDITION_KINDS)):
        return text

    def after(node: RuleNode, path: list[int]) -> RuleNode:
        if node.kind is not NodeKind.GROUP:
            return node
        if what == "remove" and len(path) == 1:
            return replace(node, parts=tuple(inner for n, inner in enumerate(node.parts) if n != path[0]))
        if path:
            inner = (after(child, path[1:]) if n == path[0] else child for n, child in enumerate(node.parts))
            return replace(node, parts=tuple(inner))
        added = new_node(NodeKind(kind))
        if what == "group":
            added = replace(new_node(NodeKind.GROUP, join="any"), parts=(added,))
        return replace(node, parts=(*node.parts, added)) if what in ("add", "group") else node

    is_deep = what == "group" and len(path) + 1 >= MAX_DEPTH
    return text if is_deep else node_text(after(node_of(text), path))


# --- from a rule and to a rule ---------------------------------------------------------------------------------------


def rule_text(rule: PeopleRule) -> str:
    """The text of a form for a rule."""
    node = _node(rule, negated=False)
    return node_text(node if node.kind is NodeKind.GROUP else replace(new_node(NodeKind.GROUP), parts=(node,)))


def rule_of_text(text: str) -> dict[str, Any] | None:
    """The rule that was typed, as a file holds it; None for none. Raises `UsageError` for what is no rule."""
    return rule_document(parse_rule(_document(node_of(text)))) if text else None


def _node(rule: PeopleRule, negated: bool) -> RuleNode:
    no = "not" if negated else ""
    if isinstance(rule, NotRule):
        return _node(rule.negated, not negated)
    if isinstance(rule, AllRule | AnyRule):
        group = new_node(NodeKind.GROUP, no=no, join="all" if isinstance(rule, AllRule) else "any")
        return replace(group, parts=tuple(_node(inner, negated=False) for inner in children(rule)))
    kind = next(kind for kind, model in MODELS.items() if type(rule) is model)
    texts = {
        name: _text(value)
        for name, value in rule
        if value is not None and value != type(rule).model_fields[name].default
    }
    if isinstance(rule, BasicRule):
        values = "\n".join(rule.one_of or ([rule.equals] if rule.equals is not None else []))
        texts |= {"test": "is" if values else "stated" if rule.stated else "range", "values": values}
    if of := next((name for name in ITEM_FIELDS if name in texts), None):
        texts |= {"of": of, "named": texts[of]}
    return new_node(kind, no=no, **texts)


def _text(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _document(node: RuleNode) -> dict[str, Any]:
    """The node as `parse_rule` takes it, right or wrong."""
    texts = node.texts
    if node.kind is NodeKind.GROUP:
        document: dict[str, Any] = {texts["join"]: [_document(inner) for inner in node.parts]}
    else:
        document = {"condition": texts.get("condition") or node.kind.value}
        entries = [
            entry for entry in ENTRIES[node.kind] if entry.name not in (*SPECIAL, "condition") and texts[entry.name]
        ]
        if node.kind is NodeKind.BASIC and texts["test"] != "range":
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
