"""Measure on cj-next28 or or-next28:  python eval/next28.py cj-next28 -o eval/results/cj-next28.json

Every system runs in this one process on the same window. `--validation` moves to the tuning window; the test window is
for runs that are reported. Settings of the peers were chosen there and stand in eval/peers.toml.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from pathlib import Path

from recllm.dataset import Dataset
from recllm.encoder import DEFAULT_ENCODER, load_encoder
from recllm.evaluation import BASELINES, OURS, PROTOCOLS, complete_journey, evaluate, read_folder, systems_for
from recllm.training import TrainingArguments

HERE = Path(__file__).parent
ONLINE_RETAIL = HERE.parents[1] / "shared" / "data" / "online_retail_uci"


def load(protocol: str, data: Path | None = None) -> Dataset:
    if protocol.startswith("cj"):
        return complete_journey().dataset()
    return read_folder(data or ONLINE_RETAIL).dataset()


def peer_settings(protocol: str) -> dict[str, dict[str, float]]:
    return dict(tomllib.loads((HERE / "peers.toml").read_text(encoding="utf-8")).get(protocol, {}))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument("--systems", default=",".join((OURS, *BASELINES)), help="names with commas")
    parser.add_argument("--validation", action="store_true", help="the tuning window instead of the test window")
    parser.add_argument("--data", type=Path, help="folder of the Online Retail tables")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recllm", help="keeps text vectors")
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    began = time.perf_counter()
    window = PROTOCOLS[args.protocol](load(args.protocol, args.data), validation=args.validation)
    say(f"{window.protocol}: read in {time.perf_counter() - began:.1f} s")
    systems = systems_for(
        window,
        args.systems.split(","),
        lambda: load_encoder(args.encoder, cache_dir=args.cache, precision="auto"),
        arguments=TrainingArguments(seed=args.seed),
        settings=peer_settings(args.protocol),
        seed=args.seed,
        progress=say,
    )
    say(f"prepared in {time.perf_counter() - began:.1f} s")
    report = evaluate(window, systems, k=args.k, seed=args.seed, progress=say)
    print(report.table())
    if args.output:
        report.write(args.output)


if __name__ == "__main__":
    main()
