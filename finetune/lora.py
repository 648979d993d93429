"""Fine-tune the encoder on a workspace's purchase log, train the scorer on its vectors, and publish both.

    accelerate launch finetune/lora.py finetune/lora.toml --workspace demo

The file holds the section [lora] of `settings.Settings`, and others as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from accelerate import PartialState

from recllm.base.documents import json_text
from recllm.base.errors import RecllmError
from recllm.base.settings import read_settings_file
from recllm.learn.training.lora.examples import LoraArguments
from recllm.recommend.recommender.train import train_workspace, tune_workspace
from recllm.shop.workspace.workspace import Workspace, overridden


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file of settings")
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lora = LoraArguments(seed=options.seed, **({"device": "cpu"} if options.cpu else {}))
    try:
        is_first = PartialState(cpu=options.cpu).is_main_process
        with overridden(read_settings_file(options.config)), Workspace.open(options.workspace) as workspace:
            tuned = tune_workspace(workspace, lora, progress=tell if is_first else None)
            if is_first:
                trained = train_workspace(workspace, tuned=tuned, seed=options.seed, progress=tell)
                sys.stdout.write(json_text(trained))
    except RecllmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
