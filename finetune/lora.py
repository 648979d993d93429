"""Fine-tune the encoder on a workspace's purchase log, train the scorer on its vectors, and publish both.

    accelerate launch finetune/lora.py finetune/lora.toml --workspace demo

The settings are fields of `recllm.settings.LoraSettings`. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path

from accelerate import PartialState

from recllm.documents import plain
from recllm.errors import RecllmError
from recllm.jobs.train import train_workspace, tune_workspace
from recllm.settings import LoraSettings
from recllm.workspace.workspace import Workspace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file of arguments")
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    try:
        settings = tomllib.loads(said.config.read_text(encoding="utf-8"))
        arguments = LoraSettings(seed=said.seed, device="cpu" if said.cpu else None, **settings)
        first = PartialState(cpu=said.cpu).is_main_process
        with Workspace.open(said.workspace) as workspace:
            tuned = tune_workspace(workspace, arguments, progress=tell if first else None)
            if first:
                done = train_workspace(workspace, tuned=tuned, seed=said.seed, progress=tell)
                sys.stdout.write(json.dumps(plain(done)) + "\n")
    except RecllmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
