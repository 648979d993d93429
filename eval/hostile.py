"""Hostile files and requests: what comes of each, and how long it takes.

    python eval/hostile.py -o eval/results/hostile.json

Every artefact of tests/hostile_artefacts.py goes through the door of the package that would read it in earnest, under
the watch of tests/hostile_watch.py. An effect is whatever should not have happened: code that ran, a file outside that
was changed or told, a connection or a process that was begun, more memory than `MAX_MIB`, no end within `NEVER_ENDS`
seconds, an error of another class than `RecllmError`, or an answer where a refusal is due. The aim is a second each;
those that take longer are listed.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from inputs import HERE, finish, script_parser

sys.path.insert(0, str(HERE.parent / "tests"))
from hostile_artefacts import ARTEFACTS, World, look_at
from hostile_watch import MAX_MIB, NEVER_ENDS, Outcome

BUDGET_SECONDS = 1.0


def looks() -> list[Outcome]:
    """Each artefact once, in the order of the table; libraries are loaded before."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="recllm-hostile-") as folder:
        root = Path(folder)
        world = World(root / "world")
        (root / "world").mkdir()
        try:
            for name in ("adapter: a sound one", "generator: code beside the weights", "effects: sound ones"):
                look_at(ARTEFACTS[name], root / f"warm {len(list(root.iterdir()))}", world)
            for number, artefact in enumerate(ARTEFACTS.values()):
                around = root / f"{number}"
                outcomes.append(look_at(artefact, around, world))
                shutil.rmtree(around)
        finally:
            world.close()
    return outcomes


def measure() -> dict[str, Any]:
    outcomes = looks()
    by_time = sorted(outcomes, key=lambda outcome: -outcome.seconds)
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return {
        "artefacts_total": len(outcomes),
        "artefacts_effects": sum(bool(outcome.effects) for outcome in outcomes),
        "artefacts_refused": sum(bool(outcome.refusal) for outcome in outcomes),
        "artefacts_inert": sum(not outcome.refusal and not outcome.effects for outcome in outcomes),
        "slowest_s": round(by_time[0].seconds, 2),
        "median_s": round(seconds[len(seconds) // 2], 4),
        "over_budget": {o.name: round(o.seconds, 2) for o in by_time if o.seconds > BUDGET_SECONDS},
        "peak_mib": round(max(outcome.peak_mib for outcome in outcomes)),
        "kinds": dict(Counter(outcome.name.partition(":")[0] for outcome in outcomes)),
        "effects": {outcome.name: list(outcome.effects) for outcome in outcomes if outcome.effects},
        "bounds": {"seconds": BUDGET_SECONDS, "peak_mib": MAX_MIB, "never_ends_s": NEVER_ENDS},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def main() -> None:
    parser = script_parser(__doc__)
    arguments = parser.parse_args()
    finish(measure(), arguments.output)


if __name__ == "__main__":
    main()
