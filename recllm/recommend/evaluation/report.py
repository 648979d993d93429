"""Runs systems over a window and keeps what came out: JSON for programs, a table for people."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from recllm.base.arrays import Values
from recllm.base.files import write_whole
from recllm.base.stats import probabilities, ranking
from recllm.base.stats.intervals import paired_bootstraps
from recllm.base.stats.ranking import Rankings, Truth
from recllm.recommend.evaluation.protocols import OURS, SLICES, EvaluationWindow, RankedLists, Slice, System
from recllm.shop.data.dataset import utc
from recllm.text.encoder.hardware import usable_cores

PER_PERSON: dict[str, Callable[[Rankings, Truth, int], Values]] = {
    "ndcg": ranking.ndcg,
    "recall": ranking.recall,
    "hr": ranking.hit_rate,
    "precision": ranking.precision,
    "mrr": ranking.reciprocal_rank,
}

Scores = dict[str, dict[str, dict[str, float]]]
"""By system, slice and metric; metric names are lower case, such as "ndcg@20"."""


COMPARED = ("ndcg", "recall")
"""Metrics for which differences get an interval. The first chooses the best peer of each slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemDifference:
    """Mean of ours - peer over people, and its 95 % interval."""

    ours: str
    peer: str
    slice: str
    metric: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run measured."""

    protocol: str
    commit: str | None
    data_hash: str
    seed: int
    seconds: float
    systems: Scores
    differences: tuple[SystemDifference, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the JSON document: best_peers (name of each slice's), note, notes, window, slices, settings,
    system_seconds, hardware, versions."""

    def document(self) -> dict[str, Any]:
        """What `write` puts into the file: the fields, then the extra keys."""
        document: dict[str, Any] = asdict(self) | {"seconds": round(self.seconds, 2)}
        extra: dict[str, Any] = document.pop("extra")
        return document | extra

    def write(self, path: str | Path) -> None:
        write_record(self.document(), path)

    def table(self, columns: Iterable[str] | None = None) -> str:
        """One block per slice, one line per system, best NDCG first; then the differences in NDCG."""
        lines = [f"{self.protocol}   seed {self.seed}, data {self.data_hash}, {self.seconds:.0f} s"]
        lines += [note for note in (self.extra.get("note"), *self.extra.get("notes", ())) if note]
        for name in dict.fromkeys(s for scores in self.systems.values() for s in scores):
            lines += ["", *self._block(name, list(columns or ()))]
        if self.differences:
            lines += ["", "ours - peer, mean and 95 % interval over people"]
        for d in (d for d in self.differences if d.metric.startswith(COMPARED[0])):
            verdict = "ahead" if d.low > 0 else "behind" if d.high < 0 else "tie"
            compared = f"{d.slice:8} {d.metric:10} {d.ours} - {d.peer}"
            lines.append(f"{compared:48} {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}] {verdict}")
        return "\n".join(lines)

    def _block(self, name: str, columns: list[str]) -> list[str]:
        rows = {s: scores[name] for s, scores in self.systems.items() if name in scores}
        measured = list(dict.fromkeys(m for scores in rows.values() for m in scores))
        if not columns and len(self.extra.get("ks", ())) > 1:  # all would fill no screen
            columns = [f"{metric}@{k}" for metric in ("ndcg", "recall", "hr") for k in self.extra["ks"]]
        columns = columns or measured
        width = [max(9, len(c) + 2) for c in columns]
        size = self.extra.get("slices", {}).get(name, {})
        items = f", {size['items']} items" if "items" in size else ""
        lines = [f"{name}: {SLICES.get(name, '')}; {size.get('users', '?')} people{items}"]
        lines.append(f"{name:20}" + "".join(f"{c:>{w}}" for c, w in zip(columns, width, strict=True)))
        for system, scores in sorted(rows.items(), key=lambda r: -r[1].get(columns[0], 0.0)):
            line = f"{system:20}"
            for column, w in zip(columns, width, strict=True):
                value = scores.get(column)
                line += f"{'-':>{w}}" if value is None else f"{value:>{w}.{4 if abs(value) < 10 else 1}f}"
            lines.append(line)
        return lines


def evaluate(
    window: EvaluationWindow,
    systems: Mapping[str, System],
    *,
    k: int = 20,
    ks: Sequence[int] = (),
    seed: int = 0,
    draws: int = 1000,
) -> Report:
    """Asks every system every slice it plays in, and compares recllm with each of the others person by person.

    k: length of the lists that are compared. ks: further lengths, at which everything is measured as well. `seed` is
    the bootstrap's; systems have their own.
    """
    began, main = time.perf_counter(), f"{COMPARED[0]}@{k}"
    lengths = sorted({k, *ks})
    values: dict[tuple[str, str], dict[str, Values]] = {}
    scores: Scores = {}
    spent: dict[str, float] = {}
    for number, (name, system) in enumerate(systems.items(), 1):
        logger.info("%s: system %d of %d on %s", name, number, len(systems), window.protocol)
        started = time.perf_counter()
        segments = [segment for segment in window.slices if system.slices is None or segment.name in system.slices]
        lists = {segment.name: system.rank(window.query(segment, lengths[-1])) for segment in segments}
        spent[name] = round(time.perf_counter() - started, 2)
        for segment in segments:
            for length in lengths:
                of_people, figures = measure(lists[segment.name].top(length), segment, length)
                values.setdefault((name, segment.name), {}).update(of_people)
                finite = {m: round(v, 6) for m, v in figures.items() if np.isfinite(v)}
                scores.setdefault(name, {}).setdefault(segment.name, {}).update(finite)
        summary = ", ".join(
            f"{segment} {figures.get(main, 0.0):.4f}" for segment, figures in scores.get(name, {}).items()
        )
        logger.info("%s: %.1f s; %s %s", name, spent[name], main, summary, extra={"scores": scores.get(name, {})})
    best = best_peers(scores, k)
    differences = tuple(system_differences(values, best, k, seed, draws))
    sizes = {
        s.name: {"users": len(s.users), "items": len(s.items), "pairs": len(s.truth.item), "masked": s.mask_seen}
        for s in window.slices
    }
    source = provenance()
    return Report(
        protocol=window.protocol,
        commit=source.pop("commit"),
        data_hash=window.data_hash,
        seed=seed,
        seconds=time.perf_counter() - began,
        systems=scores,
        differences=differences,
        extra={
            "best_peers": best,
            "note": window.note,
            "notes": [system.note for system in systems.values() if system.note],
            "k": k,
            "ks": lengths,
            "window": {"as_of": utc(window.dataset.as_of).isoformat(), "until": utc(window.until).isoformat()},
            "slices": sizes,
            "settings": {name: dict(system.settings) for name, system in systems.items() if system.settings},
            "system_seconds": spent,
            **source,
        },
    )


def measure(lists: RankedLists, segment: Slice, k: int) -> tuple[dict[str, Values], dict[str, float]]:
    """Values per person, and figures of a slice: means, and those over all lists and their probabilities."""
    items = lists.items
    values = {f"{name}@{k}": metric(items, segment.truth, k) for name, metric in PER_PERSON.items()}
    figures = {name: ranking.average(value) for name, value in values.items()}
    figures[f"coverage@{k}"] = ranking.coverage(items, len(segment.items), k)
    figures[f"gini@{k}"] = ranking.gini(items, len(segment.items), k)
    if lists.probabilities is not None:
        bought = ranking.hits(items, segment.truth, k)[items >= 0]
        probability = lists.probabilities[items >= 0]
        # whether "at least 0.5" and "bought" agree
        figures["accuracy@0.5"] = probabilities.accuracy(probability, bought)
        figures[f"probability@{k}"] = float(probability.mean()) if len(probability) else float("nan")
        figures[f"ece@{k}"] = probabilities.calibration_error(probability, bought)
    return values, figures


def best_peers(scores: Mapping[str, Mapping[str, Mapping[str, float]]], k: int) -> dict[str, str]:
    """Of each slice, the system with the highest main metric. recllm and its variants are no peers."""
    best: dict[str, str] = {}
    metric = f"{COMPARED[0]}@{k}"
    for name, slices in scores.items():
        if name == OURS or name.startswith(f"{OURS}-"):
            continue
        for segment, figures in slices.items():
            if segment not in best or figures.get(metric, 0.0) > scores[best[segment]][segment].get(metric, 0.0):
                best[segment] = name
    return best


def system_differences(
    values: Mapping[tuple[str, str], Mapping[str, Values]], best: Mapping[str, str], k: int, seed: int, draws: int
) -> Iterator[SystemDifference]:
    """Slice by slice, the best peer first. values: per person, by (system, slice) and metric."""
    for segment in dict.fromkeys(p for _, p in values):
        peers = [name for name, p in values if p == segment and name != OURS]
        if (OURS, segment) not in values or not peers:
            continue
        peers.sort(key=lambda name: name != best.get(segment))
        pairs = [(peer, f"{metric}@{k}") for peer in peers for metric in COMPARED]
        gaps = [values[OURS, segment][metric] - values[peer, segment][metric] for peer, metric in pairs]
        intervals = paired_bootstraps(np.stack(gaps, axis=1), draws=draws, seed=seed)
        for (peer, metric), gap in zip(pairs, intervals, strict=True):
            mean, low, high = (round(v, 6) for v in (gap.value, gap.low, gap.high))
            yield SystemDifference(ours=OURS, peer=peer, slice=segment, metric=metric, mean=mean, low=low, high=high)


logger = logging.getLogger("recllm.evaluation")

PACKAGE = Path(__file__).resolve().parents[2]
LIBRARIES = ("recllm", "numpy", "scipy", "polars", "torch", "transformers", "lightgbm", "implicit")
"""Libraries that can move a figure."""


def provenance() -> dict[str, Any]:
    """In every record: commit (None without a checkout), machine, versions of libraries."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "recllm")),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hash_scheme": "sha256-columns",
        "hardware": {"cores": usable_cores(), "machine": platform.machine(), "system": platform.system()},
        "versions": versions(),
    }


def versions(*others: str) -> dict[str, str]:
    """Of Python, of `LIBRARIES` and of other packages, as far as they are installed."""
    numbers = {"python": platform.python_version()}
    for name in (*LIBRARIES, *others):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers


def _git(*arguments: str) -> str | None:
    git = which("git")
    if git is None or not (PACKAGE.parent / ".git").exists():
        return None
    command = [git, "-C", str(PACKAGE.parent), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return process.stdout.strip() if process.returncode == 0 else None


def write_record(record: Mapping[str, Any], path: str | Path) -> None:
    """As JSON. Raises `ValueError` for a NaN, which is no JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
