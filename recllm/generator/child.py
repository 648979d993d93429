"""The other side of `recllm.generator.process`: loads one model, and answers one request after the other.

    python -m recllm.generator.child '{"folder": "...", "name": "...", "adapter": null, "decoding": "grammar", ...}'

Says `{"ready": true, "fingerprint": ..., "decoding": ...}` or `{"error": ...}` first, then `{"id": N, "texts": [...]}`
or `{"id": N, "error": ...}` for each `{"id": N, "prompt": ..., "n": ..., "max_tokens": ..., "seed": ..., "constraint":
...}`. What libraries print goes nowhere.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

from recllm.errors import GenerationError, RecllmError
from recllm.generator.constraint import Constraint


def main() -> int:
    out = _own_output()
    told = json.loads(sys.argv[1])
    try:
        from recllm.generator.local import LocalGenerator

        generator = LocalGenerator(told.pop("folder"), **told)
        _say(out, {"ready": True, "fingerprint": generator.fingerprint, "decoding": generator.decoding})
    except RecllmError as error:
        _say(out, {"error": str(error)})
        return 1
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number = request.pop("id")
        try:
            _say(out, {"id": number, "texts": _answer(generator, request)})
        except GenerationError as error:
            _say(out, {"id": number, "error": str(error)})
    return 0


def _answer(generator: Any, request: dict[str, Any]) -> list[str]:
    bounds = request.pop("constraint")
    texts: list[str] = generator.generate(**request, constraint=Constraint.read(bounds) if bounds else None)
    return texts


def _own_output() -> BinaryIO:
    """The pipe to the parent, for answers alone: whatever else prints gets the null device."""
    pipe = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return pipe


def _say(out: BinaryIO, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
