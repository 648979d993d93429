"""A child for `ProcessGenerator` that does what its prompt says: answer, hang, die, or talk nonsense."""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    start = sys.argv[1] if len(sys.argv) > 1 else "ready"
    if start == "refuse":
        print(json.dumps({"error": "no weights here"}), flush=True)
        return
    if start == "mute":
        time.sleep(60)
    if start == "garbage":
        print("\x00\xff not json", flush=True)
    print(json.dumps({"ready": True, "fingerprint": "f" * 64}), flush=True)
    if start == "deaf":
        time.sleep(60)
    for line in sys.stdin:
        act(json.loads(line))


def act(request: dict[str, object]) -> None:
    prompt, number = str(request["prompt"]), request["id"]
    if "act-hang" in prompt:
        time.sleep(60)
    if "act-die" in prompt:
        os._exit(9)
    answers = {
        "act-garbage": "][",
        "act-array": "[1, 2]",
        "act-deep": "[" * 100_000,
        "act-other": json.dumps({"id": 999, "texts": ["late"]}),
        "act-numbers": json.dumps({"id": number, "texts": [1, 2]}),
        "act-long": json.dumps({"id": number, "texts": ["x" * 5_000]}),
        "act-no": json.dumps({"id": number, "error": "I would rather not"}),
        "act-many": json.dumps({"id": number, "texts": ["a"] * 50}),
        "act-environment": json.dumps({"id": number, "texts": sorted(os.environ)}),
    }
    if "act-flood" in prompt:
        while True:
            print("{}", flush=True)
    if "act-endless" in prompt:
        while True:
            sys.stdout.write("x" * 65_536)
    known = next((answer for word, answer in answers.items() if word in prompt), None)
    print(
        known
        or json.dumps({"id": number, "texts": ["title: Sandwich buns\nbody: For your next order, if you need them."]}),
        flush=True,
    )


if __name__ == "__main__":
    main()
