"""Measure on a protocol:  python eval/run.py PROTOCOL -o eval/results/PROTOCOL.json

PROTOCOL: cj-next28, or-next28, beauty-loo or industrial-time. Every system runs in this one process on the same window.
`--validation` moves to the tuning window; the test window is for runs that are reported. Settings of the peers were
chosen on the former and stand in eval/peers.toml.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recllm.encoder.loading import DEFAULT_ENCODER, load_encoder
from recllm.evaluation.benchmarks import PROTOCOLS
from recllm.evaluation.protocols import Window
from recllm.evaluation.report import OURS, evaluate
from recllm.evaluation.run import systems_for
from recllm.evaluation.systems import BASELINES, PEERS

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"


def window_of(protocol: str, *, validation: bool, data: Path = DATA) -> Window:
    fixed = PROTOCOLS[protocol]
    return fixed.window(fixed.read(data), validation=validation)


def peer_settings(protocol: str) -> Mapping[str, Mapping[str, Any]]:
    found = tomllib.loads((HERE / "peers.toml").read_text(encoding="utf-8"))
    settings: Mapping[str, Mapping[str, Any]] = found.get(protocol, {})
    return settings


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument("--systems", default=",".join((OURS, *BASELINES, *PEERS)), help="names with commas")
    parser.add_argument("--validation", action="store_true", help="the tuning window instead of the test window")
    parser.add_argument("--slices", help="only these, names with commas")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds the data folders")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recllm", help="keeps text vectors")
    parser.add_argument("-k", type=int, help="length of the lists; the protocol's own otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    began = time.perf_counter()
    window = window_of(args.protocol, validation=args.validation, data=args.data)
    window = window.only(args.slices.split(",")) if args.slices else window
    say(f"{window.protocol}: read in {time.perf_counter() - began:.1f} s")
    systems = systems_for(
        window,
        args.systems.split(","),
        lambda: load_encoder(args.encoder, cache_dir=args.cache, precision="auto"),
        settings=peer_settings(args.protocol),
        seed=args.seed,
        runs=args.cache / "lora",
        progress=say,
    )
    say(f"prepared in {time.perf_counter() - began:.1f} s")
    report = evaluate(window, systems, k=args.k or PROTOCOLS[args.protocol].k, seed=args.seed, progress=say)
    print(report.table())
    if args.output:
        report.write(args.output)


if __name__ == "__main__":
    main()
