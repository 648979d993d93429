"""Facts become words: items, people, reasons and prompts as text, in English and Chinese."""

from recllm.text.hostile import TITLE_CHARS, neutralise
from recllm.text.templates import LOCALES, Prompts, Template

__all__ = ["LOCALES", "TITLE_CHARS", "Prompts", "Template", "neutralise"]
