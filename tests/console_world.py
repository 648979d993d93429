"""A small shop for the console: two tastes, a person with an odd id, and items with hostile titles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import service_world
from service_world import LAST_DAY
from tables import table

SHOP_ID = "Zürich-4711"
"""The shop's own id of a person, odd enough to be found wherever it might leak."""

HOSTILE = table("console_world", "hostile")
"""Titles that would do something if they were not text."""


def build_shop(folder: Path) -> Path:
    """The shop of `service_world`, whose first person has an odd id and bought 40 more teas, with hostile titles; one
    tea is for the summer."""
    bad = [f"bad-{n}" for n in range(len(HOSTILE))]
    items = {"item_id": bad, "title": HOSTILE, "category": "food > tea", "price": 3.0}
    summer = {"item_id": ["tea-9"], "title": ["Summer tea"], "category": "food > tea", "price": 11.0}
    events = {"user_id": SHOP_ID, "item_id": bad, "event": "purchase", "timestamp": LAST_DAY.isoformat(), "price": 3.0}
    view = events | {"item_id": ["tea-1"], "event": "view", "price": None}
    users = {"user_id": [SHOP_ID, "u01"], "age": ["35-44", "18-24"], "city": ["<b>Bern</b>", "Basel"]}
    tables = {"items": pl.concat([pl.DataFrame(items), pl.DataFrame(summer)]), "users": pl.DataFrame(users)}
    tables["events"] = pl.concat([pl.DataFrame(events), pl.DataFrame(view)], how="vertical_relaxed")
    return service_world.build_shop(folder, first=SHOP_ID, more=tables)


@dataclass
class FormField:
    """A field of a form; a box that is not ticked has no value."""

    name: str
    kind: str
    value: str
    is_ticked: bool = False
    options: dict[str, str] = field(default_factory=dict)
    """Words of each option of a list -> its value."""
    label: str = ""


@dataclass
class PageForm:
    """A form with its fields and buttons."""

    action: str
    method: str
    fields: list[FormField] = field(default_factory=list)
    buttons: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Words on a button -> its attributes."""


class Page(HTMLParser):
    """The elements of a page, (name, attributes) each, the text between them, and its forms."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.forms: list[PageForm] = []
        self._label: tuple[str | None, list[str], list[FormField]] | None = None
        self._labels: dict[str, str] = {}
        self._by_id: dict[str, FormField] = {}
        self._open: FormField | None = None
        self._read: list[str] = []
        self._option: str | None = None
        self.feed(text)
        for name, label in self._labels.items():
            if name in self._by_id:
                self._by_id[name].label = label

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "form":
            self.forms.append(PageForm(attributes.get("action") or "", attributes.get("method") or "get"))
        elif tag == "label":
            self._label = (attributes.get("for"), [], [])
        elif tag in ("input", "select", "textarea") and self.forms:
            is_ticked = "checked" in attributes
            kind = attributes.get("type") or tag
            entry = FormField(attributes.get("name") or "", kind, attributes.get("value") or "", is_ticked)
            entry.label = attributes.get("aria-label") or ""
            self.forms[-1].fields.append(entry)
            self._by_id[attributes.get("id") or ""] = entry
            if self._label:
                self._label[2].append(entry)
            self._open, self._read = (entry, []) if tag != "input" else (None, [])
        elif tag == "option" and self._open:
            self._option, self._read = attributes.get("value"), []
            if "selected" in attributes or not self._open.options:
                self._open.value = self._option or ""
        elif tag == "button" and self.forms:
            self._read = []
            self._button = attributes

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        self._read.append(data)
        if self._label:
            self._label[1].append(data)

    def handle_endtag(self, tag: str) -> None:
        read = " ".join("".join(self._read).split())
        if tag == "label" and self._label:
            for_id, words, entries = self._label
            text = " ".join("".join(words).split())
            for entry in entries:
                entry.label = entry.label or text
            if for_id:
                self._labels[for_id] = text
            self._label = None
        elif tag == "option" and self._open:
            self._open.options[read] = self._option if self._option is not None else read
        elif tag == "textarea" and self._open:
            self._open.value = "".join(self._read).removeprefix("\n")
        elif tag == "button" and self.forms:
            self.forms[-1].buttons[read] = self._button
        if tag in ("select", "textarea"):
            self._open = None

    @property
    def text(self) -> str:
        return "".join(self.words)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def value(self, label: str) -> str:
        """What stands in the field of a label."""
        return next(entry.value for form in self.forms for entry in form.fields if entry.label == label)

    def named(self, name: str) -> list[FormField]:
        """The fields of a name."""
        return [entry for form in self.forms for entry in form.fields if entry.name == name]

    def filled(self, button: str, typed: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The address and the fields of the form with this button, after typing into the fields of these labels."""
        form = next(form for form in self.forms if any(words.startswith(button) for words in form.buttons))
        pressed = next(form.buttons[words] for words in form.buttons if words.startswith(button))
        left = dict(typed)
        data: dict[str, list[str]] = {}
        for entry in form.fields:
            if entry.label in left:
                value = left.pop(entry.label)
                if entry.kind in ("checkbox", "radio"):
                    entry.is_ticked = bool(value)
                    if entry.kind == "radio" and value:
                        for other in form.fields:
                            other.is_ticked = other.is_ticked and (other.name != entry.name or other is entry)
                else:
                    entry.value = entry.options.get(str(value), str(value))
        assert not left, f"no field is labelled {list(left)}: {[entry.label for entry in form.fields]}"
        for entry in form.fields:
            if entry.name and entry.kind != "file" and (entry.kind not in ("checkbox", "radio") or entry.is_ticked):
                data.setdefault(entry.name, []).append(entry.value)
        if name := pressed.get("name"):
            data[str(name)] = [str(pressed.get("value") or "")]
        return pressed.get("formaction") or form.action, data


def press(client: Any, path: str, button: str, typed: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """The answer after a person opened a page, typed into labelled fields and pressed a button."""
    page = Page(path if "<" in path else client.get(path).text)
    address, data = page.filled(button, typed or {})
    return client.post(address, data=data, follow_redirects=False, **options)
