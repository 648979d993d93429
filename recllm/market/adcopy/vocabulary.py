"""The words beyond the facts that a shop's people approved for its texts: a file of the workspace that only grows.

    add_words(vocabulary_file(workspace.root), ["toasty", "外脆里嫩"], by="Ana", at=datetime.now(UTC))
    approved_words(vocabulary_file(workspace.root))     # frozenset({"toasty", "外脆里嫩"})

Each addition is a version of the file, with who approved the words and when.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recllm.base.documents import plain
from recllm.base.errors import DataError, UsageError
from recllm.base.files import lock_file, write_whole
from recllm.market.adcopy.lexicon import fold
from recllm.market.adcopy.packs import FilledText, parse

FILE = "vocabulary.json"
"""In a workspace's folder."""
_LONGEST_WORD = 60
_READABLE = re.compile(r"[^\W_]")


class ApprovedWord(BaseModel):
    """One word or phrase that texts may hold, and who said so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: FilledText = Field(description="a word")
    by: FilledText = Field(description="a name")
    at: AwareDatetime = Field(description="a time with its zone")
    version: int = Field(ge=1, description="a number from 1 on")


class Vocabulary(BaseModel):
    """All approved words, in the order in which they came."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(0, ge=0, description="a number from 0 on")
    """Of the last addition; 0 before the first."""
    words: tuple[ApprovedWord, ...] = Field((), description="a list of words")


def vocabulary_file(workspace_root: Path) -> Path:
    return workspace_root / FILE


def read_vocabulary(file: Path) -> Vocabulary:
    """Empty where there is no file. Raises `DataError` that names the file and what in it is wrong."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Vocabulary(version=0, words=())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no vocabulary, since it is not JSON: {error}; put back an earlier copy") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: a vocabulary is an object with version and words")
    return parse(Vocabulary, values, owner="a vocabulary", prefix=f"{file}: ")


def approved_words(file: Path) -> frozenset[str]:
    """The approved words alone, as a request takes them. Raises `DataError` as `read_vocabulary` does."""
    return frozenset(word.word for word in read_vocabulary(file).words)


def add_words(file: Path, words: Iterable[str], *, by: str, at: datetime) -> tuple[str, ...]:
    """Approves words, and returns those that are new; others stay with the name that approved them first.

    Raises `UsageError` for a word that is none and for an empty name, `DataError` for a damaged file.
    """
    if not by.strip():
        raise UsageError("say who approves the words: --by NAME")
    cleaned = [" ".join(word.split()) for word in words]
    for word in cleaned:
        if not _READABLE.search(fold(word)) or len(word) > _LONGEST_WORD or not word.isprintable():
            raise UsageError(
                f"{word!r} is no word of a text; give words or phrases of up to {_LONGEST_WORD} characters"
            )
    with lock_file(file.with_name(f".{FILE}.lock")):
        before = read_vocabulary(file)
        approved = {fold(word.word) for word in before.words}
        new = {fold(word): word for word in cleaned if fold(word) not in approved}
        if new:
            version = before.version + 1
            added = (ApprovedWord(word=word, by=by.strip(), at=at, version=version) for word in new.values())
            grown = Vocabulary(version=version, words=(*before.words, *added))
            write_whole(file, json.dumps(plain(grown), ensure_ascii=False, indent=1) + "\n")
    return tuple(new.values())
