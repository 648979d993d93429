"""Teach a causal language model a shop's voice: LoRA on its approved copy.

    accelerate launch finetune/copywriter.py finetune/copywriter.toml --pairs approved.jsonl --out voice
    recllm copy --user 42 --generator smollm2 --adapter voice

The file holds the section [copywriter] of `settings.Settings`. Lines that may not be said are left out; a tenth
of the items is held back for validation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from accelerate import PartialState
from text_lines import pairs, read_approved, split

from recllm.base.documents import json_text
from recllm.base.errors import RecllmError
from recllm.base.settings import Settings, merged, read_settings_file
from recllm.learn.training.lora.copywriter import tune_generator
from recllm.text.generator.locate import model_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file of settings")
    parser.add_argument("--pairs", type=Path, required=True, help="approved lines; see text_lines.py")
    parser.add_argument("--generator", default="smollm2")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    options = parser.parse_args()
    try:
        approved = list(read_approved(options.pairs))
        learn, validation = split(pairs(approved))
        languages = tuple(sorted({line.locale[:2] for line in approved}))
        settings = Settings(**merged({"copywriter": {"languages": languages}}, read_settings_file(options.config)))
        is_first = PartialState().is_main_process
        folder, _ = model_folder(options.generator, options.cache_dir)
        progress = tell if is_first else None
        tuned = tune_generator(learn, validation, folder, options.out, settings.copywriter, progress=progress)
    except RecllmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if is_first:
        sys.stdout.write(json_text(tuned))
    return 0


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
