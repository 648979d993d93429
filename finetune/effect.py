"""Learn from A/B tests which ad text people answer: LoRA on the text encoder and a linear score.

    python finetune/effect.py finetune/effect.toml --pairs tests.jsonl --out effect
    recllm copy check texts.jsonl --rank --model effect

A line of the pairs: {"test", "a", "b", "wins_a", "shown_a", "wins_b", "shown_b"}, and where known "reason", "channel",
"fold". The TOML file holds the section [effect] of `settings.Settings`. The folder gets the adapter, the score
and a card with what was measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from text_lines import read_pairs

from recllm.base.documents import json_text
from recllm.base.errors import RecllmError
from recllm.base.settings import Settings, read_settings_file
from recllm.learn.training.lora.effect import tune_effect
from recllm.text.encoder.loading import DEFAULT_ENCODER


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file of settings")
    parser.add_argument("--pairs", type=Path, required=True, help="A/B tests; see text_lines.py")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help="name or folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    options = parser.parse_args()
    try:
        settings = Settings(**read_settings_file(options.config)).effect
        tuned = tune_effect(read_pairs(options.pairs), options.encoder, options.out, settings, progress=tell)
    except RecllmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.pairs}: {error.strerror}\n")
        return 2
    sys.stdout.write(json_text(tuned))
    return 0


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
