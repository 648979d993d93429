"""The sentences of explanations: one template per kind of evidence, filled with evidence that exists."""

from __future__ import annotations

from typing import Any

from recllm.errors import PromptError
from recllm.text.injection import TITLE_CHARS, neutralise
from recllm.text.templates import Prompts

_RUNNING_TEXT = {"title", "category", "name"}
"""Facts told in running text; a brand and a person's own answers keep their spelling."""


def reason_kinds(prompts: Prompts | None = None) -> tuple[str, ...]:
    """The kinds that `reason_text` knows, sorted."""
    names = (prompts or Prompts.load()).names()
    return tuple(n.removeprefix("explanation.") for n in names if n.startswith("explanation."))


def reason_text(kind: str, locale: str = "en", *, prompts: Prompts | None = None, **facts: Any) -> str:
    """One sentence for a piece of evidence.

    kind and its facts: bought_before (title, times, interval_days or None, days_since), bought_similar (title,
    category or None), browsed_before (title, action, days_since), browsed_similar (title, action, category or None),
    category_favourite (category, share), brand_favourite (brand, share), price_fit (low, high), basics (name, value),
    neighbours (), popular (category or None), new_arrival (category or None), general (), withheld (). Times are in
    days, shares in [0, 1], actions a value of `recllm.schema.Action`. Raises `PromptError` for another kind, or other
    facts.
    """
    prompts = prompts or Prompts.load()
    if kind not in reason_kinds(prompts):
        raise PromptError(f"no reason of kind {kind!r}; there are: {', '.join(reason_kinds(prompts))}")
    clean = prompts.cleaner()
    values = {}
    for name, value in facts.items():
        if isinstance(value, str) and name in _RUNNING_TEXT:
            value = clean(value.replace("_", " ") if name == "name" else value, TITLE_CHARS)  # household_size
        elif isinstance(value, str):
            value = neutralise(value)
        values[name] = value
    return prompts.template(f"explanation.{kind}", locale).render(values)
