"""Prompts as conversations.

A prompt may mark its turns by lines that hold nothing but `[system]`, `[user]` or `[assistant]`; without such lines it
is one user turn. Data inside a turn must stay on its own line with a label before it, so that it can never be a mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from recllm.base.errors import GenerationError
from recllm.text.personal_data import scrub

Role = Literal["system", "user", "assistant"]

_MARK = re.compile(r"^\[(system|user|assistant)\][ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str


def messages(prompt: str) -> list[Message]:
    """The turns of a prompt, with placeholders for personal data.

    Every prompt goes through here, and a shop's texts may hold a phone number or an address that no model needs. Raises
    `GenerationError` unless the last turn is the user's.
    """
    pieces = _MARK.split(prompt)
    if len(pieces) == 1:
        return [Message("user", scrub(prompt.strip())[0])]
    if pieces[0].strip():
        raise GenerationError("the prompt has text before its first mark; begin with [system] or [user]")
    turns = [
        Message(cast(Role, role), scrub(text.strip())[0]) for role, text in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    if turns[-1].role != "user":
        raise GenerationError(f"the prompt ends with a turn of {turns[-1].role}; the last turn must be the user's")
    return turns
