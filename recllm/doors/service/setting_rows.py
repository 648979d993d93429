"""Every setting with its value, and what set it."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

from recllm.base.documents import plain
from recllm.base.settings import Settings, merged, sections, setting_names
from recllm.shop.workspace.workspace import SETTINGS_FILE, STORE_VARIABLE, Workspace, environment_settings


def setting_rows(workspace: Path | None, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per setting: section, name, value, default, from, range, doc."""
    Settings(**options)
    tables: dict[str, dict[str, Any]] = {"RECLLM_STORE_URL": {}, "option": options, "workspace.toml": {}}
    if workspace is not None:
        tables[STORE_VARIABLE] = environment_settings()
        with Workspace.open(workspace):  # it checks the file
            tables["workspace.toml"] = tomllib.loads((workspace / SETTINGS_FILE).read_text("utf-8"))
            del tables["workspace.toml"]["key_fingerprint"]
    values = Settings(**functools.reduce(merged, reversed(tables.values())))
    rows = []
    for section, name in setting_names():
        model = sections()[section]
        section_values = getattr(values, section) if section else values
        sources = [source for source, table in tables.items() if name in (table.get(section, {}) if section else table)]
        rows.append(
            {
                "section": section,
                "name": name,
                "value": plain(getattr(section_values, name)),
                "default": plain(model.model_fields[name].get_default(call_default_factory=True)),
                "from": sources[0] if sources else "default",
                "range": model.expected(name),
                "doc": " ".join((model.model_fields[name].description or name.replace("_", " ")).split()),
            }
        )
    return rows


def setting_text(value: Any) -> str:
    """A value of a setting as people read it."""
    if isinstance(value, list):
        return ", ".join(map(setting_text, value)) or "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
