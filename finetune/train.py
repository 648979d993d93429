"""Train the scorer f(User, Item) = a * cosine + MLP on a workspace's purchase log, and publish it.

    python finetune/train.py finetune/scorer.toml --workspace demo

The settings are fields of `recllm.settings.ScorerTrainingSettings`; what the file leaves out keeps its default. The
encoder stays as it is: its vectors are input.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path

from recllm.documents import plain
from recllm.errors import RecllmError
from recllm.jobs.train import train_workspace
from recllm.workspace.workspace import Workspace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file of training arguments")
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    arguments = tomllib.loads(said.config.read_text(encoding="utf-8"))
    try:
        with Workspace.open(said.workspace) as workspace:
            done = train_workspace(workspace, seed=said.seed, progress=tell, **arguments)
    except RecllmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(plain(done)) + "\n")
    return 0


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
