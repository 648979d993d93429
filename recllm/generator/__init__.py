"""A prompt to text: a local model, a server, or a script. Everything here satisfies `recllm.schema.Generator`.

    generator = find_generator("smollm2", cache_dir=Path("cache"))
    generator.generate("Say hello.", n=4, seed=1)

With `own_process=True` a local model runs in a process of its own, with a deadline, a circuit breaker and restarts;
with the extra `constrained` its lines are decoded under a grammar. A generator has no tools, no files and no say: what
it writes is checked by whoever asked. Nothing heavy is imported before a local model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recllm.generator.breaker import Breaker
from recllm.generator.chat import Message, messages
from recllm.generator.constraint import Constraint
from recllm.generator.http import HttpGenerator
from recllm.generator.locate import find_generator, model_folder
from recllm.generator.process import ProcessGenerator
from recllm.generator.scripted import ScriptedGenerator

if TYPE_CHECKING:
    from recllm.generator.local import LocalGenerator

__all__ = [
    "Breaker",
    "Constraint",
    "HttpGenerator",
    "LocalGenerator",
    "Message",
    "ProcessGenerator",
    "ScriptedGenerator",
    "find_generator",
    "messages",
    "model_folder",
]


def __getattr__(name: str) -> Any:
    if name != "LocalGenerator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recllm.generator.local import LocalGenerator

    return LocalGenerator
