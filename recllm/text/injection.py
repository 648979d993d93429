"""Makes a shop's texts harmless before a model reads them.

Titles, brands and attributes are written by anyone who can list a product, so they are hostile input: they may hide
instructions in invisible characters, imitate the role tokens of a chat model, or carry mark-up and template syntax.
`neutralise` takes the tricks out and leaves the words. It is no guarantee that a model ignores those words; what a
model writes is therefore checked afterwards.
"""

from __future__ import annotations

import html
import re
import unicodedata

TITLE_CHARS = 120
"""The longest title that reaches a model, in characters."""

_MAX_ROUNDS = 6
UNSEEN_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
"""Letters, marks and signs that draw nothing, as they stand inside the brackets of a pattern; controls are others."""
_SUSPICIOUS = re.compile(rf"[<>&{{}}\[\]|＜＞｜`#{UNSEEN_LETTERS}]|\s\s")
_INVISIBLE_LETTERS = re.compile(f"[{UNSEEN_LETTERS}]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,31});")
_HIDDEN_BLOCK = re.compile(r"<(script|style)\b[^<>]*>[^<>]*</\1\s*>", re.IGNORECASE)
_COMMENT = re.compile(r"<!--[^<>]*-->")
_ROLE_TOKEN = re.compile(r"[<＜]\s*[|｜][^<>＜＞]{0,64}[|｜]\s*[>＞]")
_BRACKET_TOKEN = re.compile(
    r"\[/?(?:INST|SYS|SYSTEM\w{0,20}|AVAILABLE_TOOLS|TOOL_\w{1,20}|CLS|SEP|MASK|PAD|UNK|BOS|EOS|unused\d{1,4})\]",
    re.IGNORECASE,
)
_TAG = re.compile(r"(?<!<)<+[/!?%$A-Za-z|｜][^<>]*>+")
_LOOSE_ANGLE = re.compile(r"<(?!\s?\d)|(?<!\s)>(?!\s?\d)|[<＜][|｜]|[|｜][>＞]")
_BRACES = re.compile(r"[{}]")
_FENCES = re.compile(r"`{3,}|#{3,}")
_LAST_RESORT = re.compile(r"[<>&{}\[\]|＜＞｜`#]")


def neutralise(text: str, *, max_chars: int = TITLE_CHARS) -> str:
    """The words of `text` on one line, at most `max_chars` characters, ending at a word where possible.

    Removed: control, bidirectional, zero-width, tag and private characters and variation selectors; HTML (entities
    are resolved first, however often they were nested) with the content of scripts and styles; role tokens such as
    `<|im_start|>`, `[INST]` and `[SEP]`; braces, so no template syntax is left; code fences. White space is folded.
    Idempotent, and linear: of a very long text only the beginning is looked at.
    """
    text = text[: max(2_000, 8 * max_chars)]
    if text.isprintable() and not _SUSPICIOUS.search(text) and unicodedata.is_normalized("NFC", text):
        return _cut(text.strip(), max_chars)
    for _ in range(_MAX_ROUNDS):
        cleaned = _cut(_cleaned(text), max_chars)
        if cleaned == text:
            return text
        text = cleaned
    # built to reveal a new trick each time: it loses every character that tricks are made of
    return _cut(" ".join(_LAST_RESORT.sub(" ", text).split()), max_chars)


def _cleaned(text: str) -> str:
    """One round of the steps that `neutralise` lists."""
    text = unicodedata.normalize("NFC", _ENTITY.sub(lambda m: html.unescape(m[0]), text))
    # Unicode's "other" classes are not printable; the few letters and marks that draw nothing are.
    text = "".join(c if c.isprintable() else (" " if c.isspace() else "") for c in text)
    text = " ".join(_INVISIBLE_LETTERS.sub("", text).split())
    for trick in (_HIDDEN_BLOCK, _COMMENT, _ROLE_TOKEN, _BRACKET_TOKEN, _TAG, _LOOSE_ANGLE, _BRACES, _FENCES):
        text = trick.sub(" ", text)
    return " ".join(text.split())


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    head = text[:max_chars]
    word_end = head.rfind(" ")
    return (head[:word_end] if word_end > max_chars // 2 else head).rstrip()
