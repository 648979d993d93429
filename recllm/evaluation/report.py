"""Runs systems over a window and keeps what came out: JSON for programs, a table for people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm import metrics
from recllm.data.dataset import utc
from recllm.evaluation import metric_table as figures
from recllm.evaluation.baselines import Contender, buyers
from recllm.evaluation.bootstrap import paired_bootstraps
from recllm.evaluation.protocols import SLICES, Judged, Slice, Window
from recllm.evaluation.slices import PARTS, Part, parts
from recllm.metrics import Values

OURS = "recllm"

COMPARED = ("ndcg", "recall")
"""Metrics for which differences get an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
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
    """What one run measured. `systems[name][slice][metric]`; metric names are lower case, such as "ndcg@20"."""

    protocol: str
    commit: str | None
    data_hash: str
    seed: int
    seconds: float
    systems: dict[str, dict[str, dict[str, float]]]
    differences: tuple[Difference, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the JSON document: best_peers (name of each slice's), note, notes, window, slices, settings,
    system_seconds, hardware, versions."""

    def document(self) -> dict[str, Any]:
        """What `write` puts into the file: the fields, then the extra keys."""
        return {
            "protocol": self.protocol,
            "commit": self.commit,
            "data_hash": self.data_hash,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "systems": self.systems,
            "differences": [{name: getattr(d, name) for name in Difference.__slots__} for d in self.differences],
            **self.extra,
        }

    def write(self, path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(self.document(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

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
            place = f"{d.slice:8} {d.metric:10} {d.ours} - {d.peer}"
            lines.append(f"{place:48} {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}] {verdict}")
        return "\n".join(lines)

    def _block(self, name: str, columns: list[str]) -> list[str]:
        rows = {s: scores[name] for s, scores in self.systems.items() if name in scores}
        columns = columns or list(dict.fromkeys(m for scores in rows.values() for m in scores))
        width = [max(9, len(c) + 2) for c in columns]
        told = self.extra.get("slices", {}).get(name, {})
        head = f"{name:20}" + "".join(f"{c:>{w}}" for c, w in zip(columns, width, strict=True))
        about = (SLICES | PARTS).get(name, "")
        items = f", {told['items']} items" if "items" in told else ""
        out = [f"{name}: {about}; {told.get('users', '?')} people" + items, head]
        for system, scores in sorted(rows.items(), key=lambda r: -r[1].get(columns[0], 0.0)):
            cells = (_cell(scores.get(c), w) for c, w in zip(columns, width, strict=True))
            out.append(f"{system:20}" + "".join(cells))
        return out


def _cell(value: float | None, width: int) -> str:
    if value is None:
        return f"{'-':>{width}}"
    return f"{value:>{width}.4f}" if abs(value) < 10 else f"{value:>{width}.1f}"


def evaluate(
    window: Window,
    systems: Mapping[str, Contender],
    *,
    k: int = 20,
    ours: str = OURS,
    seed: int = 0,
    draws: int = 1000,
    vectors: NDArray[np.float32] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Asks every system every slice it plays in, and compares `ours` with each of the others person by person.

    vectors: (n_items, dim), unit rows, for intra-list diversity. `seed` is the bootstrap's; systems have their own.
    """
    began = time.perf_counter()
    sold = buyers(window.fit_on, None)
    parted = parts(window, sold)
    values: dict[tuple[str, str], dict[str, Values]] = {}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    spent: dict[str, float] = {}
    for name, system in systems.items():
        start = time.perf_counter()
        for one in window.slices:
            if system.slices is not None and one.name not in system.slices:
                continue
            answer = system.answer(window.ask(one, k))
            for part, people, means in _measured(answer, one, parted[one.name], k, window, sold, vectors):
                values[name, part] = people
                scores.setdefault(name, {})[part] = {m: round(v, 6) for m, v in means.items() if np.isfinite(v)}
        spent[name] = round(time.perf_counter() - start, 2)
        main = f"{COMPARED[0]}@{k}"
        told = ", ".join(f"{part} {found.get(main, 0.0):.4f}" for part, found in scores.get(name, {}).items())
        progress(f"{name}: {spent[name]:.1f} s; {main} {told}")
    best = best_peers(scores, ours, f"{COMPARED[0]}@{k}")
    return Report(
        protocol=window.protocol,
        commit=commit(),
        data_hash=window.data_hash,
        seed=seed,
        seconds=time.perf_counter() - began,
        systems=scores,
        differences=tuple(_differences(values, best, ours, k, seed, draws)),
        extra={"best_peers": best} | _about(window, parted, systems, k, spent),
    )


def _measured(
    answer: NDArray[np.int32] | Judged,
    one: Slice,
    parted: list[Part],
    k: int,
    window: Window,
    sold: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
) -> Iterable[tuple[str, dict[str, Values], dict[str, float]]]:
    """Name, values per person and figures of the slice and of each of its parts."""
    lists = answer.items if isinstance(answer, Judged) else answer
    for part in parted:
        people = figures.per_person(lists, part, k)
        means = {m: metrics.average(v) for m, v in people.items()} | figures.of_money(lists, part, k)
        if part.name == one.name:
            means |= figures.of_lists(lists, one, k, window, sold, vectors)
            means |= figures.of_probabilities(answer, one, k) if isinstance(answer, Judged) else {}
        yield part.name, people, means


def best_peers(scores: Mapping[str, Mapping[str, Mapping[str, float]]], ours: str, metric: str) -> dict[str, str]:
    """Of each slice, the system with the highest `metric`. Systems named `ours` or `ours`-something are no peers."""
    best: dict[str, str] = {}
    for name, slices in scores.items():
        if name == ours or name.startswith(f"{ours}-"):
            continue
        for part, found in slices.items():
            if part not in best or found.get(metric, 0.0) > scores[best[part]][part].get(metric, 0.0):
                best[part] = name
    return best


def _differences(
    values: Mapping[tuple[str, str], Mapping[str, Values]],
    best: Mapping[str, str],
    ours: str,
    k: int,
    seed: int,
    draws: int,
) -> Iterable[Difference]:
    """Slice by slice, the best peer first. All comparisons of a slice see the same redrawn people."""
    compared = [f"{m}@{k}" for m in COMPARED]
    for part in dict.fromkeys(p for _, p in values):
        peers = [name for name, p in values if p == part and name != ours]
        if (ours, part) not in values or not peers:
            continue
        peers.sort(key=lambda name: name != best.get(part))
        pairs = [(peer, metric) for peer in peers for metric in compared]
        gaps = [values[ours, part][metric] - values[peer, part][metric] for peer, metric in pairs]
        intervals = paired_bootstraps(np.stack(gaps, axis=1), draws=draws, seed=seed)
        for (peer, metric), gap in zip(pairs, intervals, strict=True):
            mean, low, high = (round(v, 6) for v in (gap.mean, gap.low, gap.high))
            yield Difference(ours=ours, peer=peer, slice=part, metric=metric, mean=mean, low=low, high=high)


# --- the record ----------------------------------------------------------------------------------------------------


def _about(
    window: Window,
    parted: Mapping[str, list[Part]],
    systems: Mapping[str, Contender],
    k: int,
    spent: dict[str, float],
) -> dict[str, Any]:
    return {
        "note": window.note,
        "notes": [system.note for system in systems.values() if system.note],
        "k": k,
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "recllm")),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "window": {"as_of": utc(window.dataset.as_of).isoformat(), "until": utc(window.until).isoformat()},
        "slices": {
            s.name: {"users": len(s.users), "items": len(s.items), "pairs": len(s.truth.item), "masked": s.mask_seen}
            for s in window.slices
        }
        | {
            p.name: {"of": p.of, "users": len(p.rows), "pairs": len(p.truth.item)}
            for rows in parted.values()
            for p in rows[1:]
        },
        "settings": {name: dict(system.settings) for name, system in systems.items() if system.settings},
        "system_seconds": spent,
        "hardware": hardware(),
        "versions": versions(),
    }


def hardware() -> dict[str, Any]:
    """Cores this process may use, and the kind of processor."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": usable, "machine": platform.machine(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can move a figure."""
    found = {"python": platform.python_version()}
    for name in ("recllm", "numpy", "scipy", "polars", "torch", "transformers", "lightgbm", "implicit"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the checkout that this code runs from; None when it is installed or there is no git."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    root, git = Path(__file__).resolve().parents[2], which("git")
    if git is None or not (root / ".git").exists():
        return None
    done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
