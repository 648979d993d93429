"""Facts become words: items, people, reasons and prompts as text, in English and Chinese."""

from recllm.text.hostile import TITLE_CHARS, neutralise
from recllm.text.items import item_names, item_texts, price_texts
from recllm.text.reasons import reason_kinds, reason_text
from recllm.text.templates import LOCALES, Prompts, Template
from recllm.text.users import UserTexts, profile_texts, user_texts
from recllm.text.words import natural

__all__ = [
    "LOCALES",
    "TITLE_CHARS",
    "Prompts",
    "Template",
    "UserTexts",
    "item_names",
    "item_texts",
    "natural",
    "neutralise",
    "price_texts",
    "profile_texts",
    "reason_kinds",
    "reason_text",
    "user_texts",
]
