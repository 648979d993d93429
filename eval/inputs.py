"""What the scripts share: their arguments, data and encoder, a part in a process of its own, the end of a run."""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from published import BENCHMARKS

from recllm.base.schema import Encoder
from recllm.recommend.evaluation.protocols import EvaluationWindow
from recllm.recommend.evaluation.report import Report, provenance, write_record
from recllm.text.encoder.loading import DEFAULT_ENCODER, load_encoder

if TYPE_CHECKING:
    from recllm.recommend.evaluation.systems import TrainingRecipe
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.shop.data.dataset import Dataset

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PEERS = HERE / "peers.toml"
DATA = HERE.parents[1] / "shared" / "data"
STARTED = time.perf_counter()

OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"type": int, "default": 0},
    "data": {"type": Path, "default": DATA, "help": "folder that holds the data folders"},
    "cache": {"type": Path, "default": Path.home() / ".cache" / "recllm", "help": "keeps text vectors and runs"},
    "validation": {"action": "store_true", "help": "the tuning window instead of the test window"},
    "slices": {"help": "only these, names with commas"},
}

say = logging.getLogger("eval").info


def show_progress() -> None:
    """Progress, also that of `recllm`, goes to stderr. A process that was spawned needs it said again."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("eval", "recllm"):
        logging.getLogger(name).setLevel(logging.INFO)


def script_parser(doc: str | None, *options: str) -> argparse.ArgumentParser:
    """With these of `OPTIONS`, and -o; `show_progress` is done."""
    show_progress()
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in options:
        parser.add_argument(f"--{name}", **OPTIONS[name])
    parser.add_argument("-o", "--output", type=Path, help="the result file")
    return parser


def window_of(protocol: str, args: argparse.Namespace, *, validation: bool) -> EvaluationWindow:
    """The window of a protocol, of --slices only where they are given."""
    benchmark = BENCHMARKS[protocol]
    window = benchmark.window(benchmark.read(getattr(args, "data", DATA)), validation=validation)
    slices = getattr(args, "slices", None)
    return window.only(slices.split(",")) if slices else window


def default_encoder(args: argparse.Namespace) -> Encoder:
    return load_encoder(DEFAULT_ENCODER, cache_dir=args.cache)


def advised(
    past: Dataset, args: argparse.Namespace, progress: Callable[[str], None] | None = None
) -> tuple[Recommender, TrainingRecipe]:
    """What `recllm advise` proposes for a log, trained and warm."""
    from recllm.recommend.evaluation.systems import advised_recipe, fit_recipe

    encoder = default_encoder(args)
    recipe = advised_recipe(past, encoder, seed=args.seed)
    return fit_recipe(past, encoder, recipe, progress).warm(), recipe


def peer_settings(protocol: str) -> Mapping[str, Mapping[str, Any]]:
    """By system, as keywords."""
    settings: Mapping[str, Mapping[str, Any]] = tomllib.loads(PEERS.read_text("utf-8")).get(protocol, {})
    return settings


def finished_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its provenance, arrays as lists, and floats of six decimals, or of three digits below 1e-4."""

    def rounded(digits: str) -> float:
        number = float(digits)
        return round(number, 6) if abs(number) >= 1e-4 else float(f"{number:.3g}")

    text = json.dumps(dict(record) | provenance(), default=lambda value: value.tolist())
    finished: dict[str, Any] = json.loads(text, parse_float=rounded)
    return finished


def finish(record: Mapping[str, Any], output: Path | None) -> None:
    """Prints the record with its provenance and the seconds that the script took, and writes it."""
    finished = finished_record({"seconds": round(time.perf_counter() - STARTED, 1), **record})
    print(json.dumps(finished, indent=1, ensure_ascii=False))
    if output:
        write_record(finished, output)


def finish_report(report: Report, output: Path | None, columns: Sequence[str] = ()) -> None:
    """Prints the table, and writes the whole."""
    print(report.table(columns))
    if output:
        report.write(output)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of the processor, and the result."""
    began, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - began, time.process_time() - processor, result


def of_child() -> dict[str, str]:
    """The environment of a process that imports what this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE.parent), *sys.path))}


def recllm(*arguments: str) -> str:
    """What a command prints; where it fails, the script ends."""
    command = [sys.executable, "-m", "recllm", *arguments]
    done = subprocess.run(command, env=of_child(), capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"recllm {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def in_new_process(script: str, *arguments: str) -> dict[str, Any]:
    """Runs a script of this folder and returns the JSON of its last line."""
    command = [sys.executable, str(HERE / script), *arguments]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=of_child())
    if process.returncode:
        sys.exit(f"{script} {' '.join(arguments)} ended with {process.returncode}")
    line = process.stdout.splitlines()[-1]
    say("%s %s", " ".join(arguments), line)
    figures: dict[str, Any] = json.loads(line)
    return figures


def finished_parts(
    folder: Path, names: Iterable[str], measure: Callable[[str], Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Of each part `figures`, `commit` and `load_average`. They stay in the folder: a run that was stopped goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for name in names:
        file = folder / f"{name}.json"
        if not file.exists():
            say(name)
            load = load_average()
            part = {"figures": measure(name), "commit": provenance()["commit"], "load_average": load}
            file.write_text(json.dumps(part, indent=1), encoding="utf-8")
        parts[name] = json.loads(file.read_text("utf-8"))
    return parts


def file_hash(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()[:16]


def peak_mib() -> int:
    """Peak memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def load_average() -> list[float]:
    return [round(load, 1) for load in os.getloadavg()]
