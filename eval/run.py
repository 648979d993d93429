"""Measure on a protocol:  python eval/run.py PROTOCOL -o eval/results/PROTOCOL.json

PROTOCOL: cj-next28, or-next28, or-carts, beauty-loo or industrial-time. Every system runs in this one process, on the
same window.
`--validation` moves to the tuning window; the test window is for runs that are reported. Settings of the peers were
chosen on the former and stand in eval/peers.toml.
"""

from __future__ import annotations

import time

from inputs import finish_report, peer_settings, say, script_parser, window_of
from peers import PEERS
from published import BENCHMARKS

from recllm.recommend.evaluation.protocols import OURS
from recllm.recommend.evaluation.report import evaluate
from recllm.recommend.evaluation.systems import BASELINES, check_systems, systems_for
from recllm.text.encoder.loading import DEFAULT_ENCODER, load_encoder


def main(argv: list[str] | None = None) -> None:
    parser = script_parser(__doc__, "validation", "slices", "data", "cache", "seed")
    parser.add_argument("protocol", choices=sorted(BENCHMARKS))
    parser.add_argument("--systems", default=",".join((OURS, *BASELINES, *PEERS)), help="names with commas")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("-k", type=int, help="length of the lists; the protocol's own otherwise")
    args = parser.parse_args(argv)
    names = args.systems.split(",")
    check_systems(names, PEERS)
    began = time.perf_counter()
    window = window_of(args.protocol, args, validation=args.validation)
    say("%s: read in %.1f s", window.protocol, time.perf_counter() - began)
    systems = systems_for(
        window,
        names,
        lambda: load_encoder(args.encoder, cache_dir=args.cache),
        settings=peer_settings(args.protocol),
        seed=args.seed,
        further=PEERS,
    )
    say("prepared in %.1f s", time.perf_counter() - began)
    k = args.k or BENCHMARKS[args.protocol].k
    report = evaluate(window, systems, k=k, seed=args.seed)
    finish_report(report, args.output)


if __name__ == "__main__":
    main()
