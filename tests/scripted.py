"""A generator that says what it was given, for tests and demonstrations. It is no model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from recllm.base.errors import GenerationError
from recllm.base.schema import Purpose

Reply = str | Exception | Callable[[str], str]


class ScriptedGenerator:
    """Answers from a queue of replies. This is a script, not a model: it understands nothing.

    A reply is a text, an exception that is raised, or a function of the prompt. Each call takes `n` replies, and fewer
    when the queue runs out; an empty queue raises `GenerationError`. With `repeat=True` the replies start over.
    `purpose` is what people must have agreed to before it is asked for a text for them.
    """

    def __init__(
        self,
        replies: Iterable[Reply] = (),
        *,
        name: str = "scripted",
        repeat: bool = False,
        purpose: Purpose = Purpose.LLM_LOCAL,
    ) -> None:
        self.name, self.purpose = name, purpose
        self.prompts: list[str] = []
        """The prompts received so far."""
        self._queue = deque(replies)
        self._repeat = repeat

    def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
        """The next `n` replies; `max_tokens` and `seed` change nothing."""
        self.prompts.append(prompt)
        texts: list[str] = []
        while len(texts) < n and self._queue:
            reply = self._queue.popleft()
            if self._repeat:
                self._queue.append(reply)
            if isinstance(reply, Exception):
                raise reply
            texts.append((reply(prompt) if callable(reply) else reply).strip())
        if not texts:
            raise GenerationError(f"{self.name} has no reply left")
        return texts
