"""Reads the sentences of a language: `words/<language>/*.toml`, tables of sentences with {places} to fill in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文"}
"""Every language that people are addressed in, by its own name; all have the same sentences."""


def language(locale: str) -> str:
    """ "zh-Hans-CN", "ZH_tw" and "zh@media" -> "zh"."""
    return re.split(r"[-_@]", locale.strip(), maxsplit=1)[0].casefold()


def language_of(locale: str) -> str:
    """The language that speaks to a locale: English where there is no other."""
    name = language(locale)
    return name if name in LANGUAGES else "en"


@cache
def sentences(name: str, file: str | None = None) -> Mapping[str, str]:
    """Every sentence of one of `LANGUAGES` by its path: "nav.people". file: those of one file alone, which is read in
    a fraction of the time."""
    folder = resources.files(__package__).joinpath(name)
    files = list(folder.iterdir()) if file is None else [folder.joinpath(f"{file}.toml")]
    return {path: text for each in files for path, text in _flat(tomllib.loads(each.read_text("utf-8")), "")}


@cache
def section(path: str, locale: str) -> Mapping[str, str]:
    """The sentences below a path by what follows it, in the language of a locale: "left_out" -> {"minor": ...}. Its
    file has the name with which the path begins."""
    start = f"{path}."
    texts = sentences(language_of(locale), path.partition(".")[0])
    return {name.removeprefix(start): text for name, text in texts.items() if name.startswith(start)}


def _flat(table: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
    pairs = []
    for name, value in table.items():
        pairs += _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else [(f"{path}{name}", str(value))]
    return pairs
