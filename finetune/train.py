"""Train the scorer f(User, Item) = a * cosine + MLP on a workspace's purchase log, and publish it.

    python finetune/train.py finetune/scorer.toml --workspace demo

The file holds sections of `recllm.base.settings.Settings`, such as [scorer] and [sequence], that stand above those of
`workspace.toml`; what both leave out follows `recllm advise`. The encoder stays as it is: its vectors are input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recllm.base.documents import json_text
from recllm.base.errors import RecllmError
from recllm.base.settings import read_settings_file
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.workspace.workspace import Workspace, overridden


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file of settings")
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        with overridden(read_settings_file(options.config)), Workspace.open(options.workspace) as workspace:
            trained = train_workspace(workspace, seed=options.seed, progress=tell)
    except RecllmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json_text(trained))
    return 0


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
