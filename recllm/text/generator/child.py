"""The other side of `recllm.text.generator.process`: loads one model, and answers one request after the other.

    python -m recllm.text.generator.child '{"folder": "...", "name": "...", "adapter": null, "max_time": 24.0}'

Says `{"ready": true, "fingerprint": ...}` or `{"error": ...}` first, then `{"id": N, "texts": [...]}`
or `{"id": N, "error": ...}` for each `{"id": N, "prompt": ..., "n": ..., "max_tokens": ..., "seed": ..., "constraint":
...}`. What libraries print goes nowhere.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

from recllm.base.errors import GenerationError, RecllmError
from recllm.text.generator.constraint import Constraint


def main() -> int:
    # the pipe to the parent is for answers alone: whatever else prints gets the null device
    pipe = os.fdopen(os.dup(1), "wb")
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)
    os.close(null_device)
    arguments = json.loads(sys.argv[1])
    try:
        from recllm.text.generator.local import LocalGenerator

        generator = LocalGenerator(arguments.pop("folder"), **arguments)
        _say(pipe, {"ready": True, "fingerprint": generator.fingerprint})
    except RecllmError as error:
        _say(pipe, {"error": str(error)})
        return 1
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number = request.pop("id")
        bounds = request.pop("constraint")
        constraint = Constraint.of(bounds["language"], bounds["forbidden"], bounds["names"]) if bounds else None
        try:
            _say(pipe, {"id": number, "texts": generator.generate(**request, constraint=constraint)})
        except GenerationError as error:
            _say(pipe, {"id": number, "error": str(error)})
    return 0


def _say(pipe: BinaryIO, answer: dict[str, Any]) -> None:
    pipe.write(json.dumps(answer).encode() + b"\n")
    pipe.flush()


if __name__ == "__main__":
    sys.exit(main())
