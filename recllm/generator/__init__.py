"""A prompt to text: a local model, a server, or a script. Everything here satisfies `recllm.schema.Generator`.

    generator = find_generator("smollm2", cache_dir=Path("cache"))
    generator.generate("Say hello.", n=4, seed=1)

A generator has no tools, no files and no say: what it writes is checked by whoever asked. Nothing heavy is imported
before a local model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recllm.generator.chat import Message, messages
from recllm.generator.http import HttpGenerator
from recllm.generator.locate import find_generator
from recllm.generator.scripted import ScriptedGenerator

if TYPE_CHECKING:
    from recllm.generator.local import LocalGenerator

__all__ = ["HttpGenerator", "LocalGenerator", "Message", "ScriptedGenerator", "find_generator", "messages"]


def __getattr__(name: str) -> Any:
    if name != "LocalGenerator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recllm.generator.local import LocalGenerator

    return LocalGenerator
