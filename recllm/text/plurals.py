"""The singular of English words, for search and for the checks of ad texts.

Only plurals are joined. A stemmer such as Porter's also joins "natural" with "nature" and "recycled" with "recyclable":
a check that used it would take the name of an item as proof of what the item is not.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files

_SINGULARS: dict[str, str] = tomllib.loads((files("recllm.text") / "data" / "plurals.toml").read_text("utf-8"))
"""Of plurals that follow no rule below, and of singulars that look like a plural."""


def stem(word: str) -> str:
    """The singular of a folded word: "dresses" -> "dress", "berries" -> "berry"; another word as it is."""
    if word in _SINGULARS:
        return _SINGULARS[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if len(word) > 4 and word.endswith(("ches", "oes", "shes", "sses", "xes", "zzes")) else word[:-1]
