"""Runs systems over a window and keeps what came out: JSON for programs, a table for people.

What is measured of the lists of a slice is also measured of subgroups, read off the same lists. Items (HEAD, TAIL) and
users (LIGHT, HEAVY) are cut in two for the window's first slice of items that were sold before: ALL by time, the first
of MASKED and UNMASKED elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recllm.base.documents import html_table
from recllm.base.schema import Action
from recllm.base.stats import probabilities, ranking
from recllm.base.stats.intervals import paired_bootstraps
from recllm.base.stats.ranking import Rankings, Truth, Values
from recllm.recommend.evaluation.baselines import buyers
from recllm.recommend.evaluation.protocols import COLD, SLICES, EvaluationWindow, RankedLists, Slice, System
from recllm.recommend.evaluation.recllm_system import OURS
from recllm.recommend.evaluation.record import load_lists, logger, provenance, run_key, save_lists, write_record
from recllm.shop.data.dataset import utc

HEAD, TAIL, LIGHT, HEAVY = "HEAD", "TAIL", "LIGHT", "HEAVY"

SUBGROUPS = {
    HEAD: "judged by what people took of the fifth of the items with most buyers before",
    TAIL: "judged by what people took of the other items",
    LIGHT: "people with at most the median number of purchases before",
    HEAVY: "people with more",
}

HEAD_SHARE = 0.2

PER_PERSON: dict[str, Callable[[Rankings, Truth, int], Values]] = {
    "ndcg": ranking.ndcg,
    "recall": ranking.recall,
    "hr": ranking.hit_rate,
    "precision": ranking.precision,
    "mrr": ranking.reciprocal_rank,
}

Scores = dict[str, dict[str, dict[str, float]]]
"""By system, slice or subgroup, and metric; metric names are lower case, such as "ndcg@20"."""


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

    def _repr_html_(self) -> str:
        """For notebooks: a table for each slice, best system first."""
        parts = []
        for name in dict.fromkeys(s for scores in self.systems.values() for s in scores):
            scores = {system: by_slice[name] for system, by_slice in self.systems.items() if name in by_slice}
            columns = list(dict.fromkeys(metric for row in scores.values() for metric in row))
            order = sorted(scores, key=lambda system: -scores[system].get(columns[0], 0.0))
            rows = [(system, *(scores[system].get(metric, "") for metric in columns)) for system in order]
            parts.append(html_table(("system", *columns), rows, f"{name}: {(SLICES | SUBGROUPS).get(name, '')}"))
        return "".join(parts)

    def _block(self, name: str, columns: list[str]) -> list[str]:
        rows = {s: scores[name] for s, scores in self.systems.items() if name in scores}
        measured = list(dict.fromkeys(m for scores in rows.values() for m in scores))
        if not columns and len(self.extra.get("ks", ())) > 1:  # all figures of all lengths would fill no screen
            columns = [f"{metric}@{k}" for metric in ("ndcg", "recall", "hr") for k in self.extra["ks"]]
        columns = columns or measured
        width = [max(9, len(c) + 2) for c in columns]
        size = self.extra.get("slices", {}).get(name, {})
        items = f", {size['items']} items" if "items" in size else ""
        lines = [f"{name}: {(SLICES | SUBGROUPS).get(name, '')}; {size.get('users', '?')} people{items}"]
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
    vectors: NDArray[np.float32] | None = None,
    resume: Path | None = None,
) -> Report:
    """Asks every system every slice it plays in, and compares recllm with each of the others person by person.

    k: length of the lists that are compared. ks: further lengths, at which everything is measured as well.
    vectors: (n_items, dim), unit rows, for intra-list diversity. `seed` is the bootstrap's; systems have their own.
    resume: a folder that holds the lists of each system that has finished, so that a run that was interrupted goes on
    with the next one. They count only for the same data, settings, versions and source. They are about people, by row:
    the caller deletes the folder when the report is written.
    """
    began, sold = time.perf_counter(), buyers(window.fit_on, None)
    groups, main = subgroups(window, sold), f"{COMPARED[0]}@{k}"
    lengths = sorted({k, *ks})
    values: dict[tuple[str, str], dict[str, Values]] = {}
    scores: Scores = {}
    spent: dict[str, float] = {}
    for number, (name, system) in enumerate(systems.items(), 1):
        logger.info("%s: system %d of %d on %s", name, number, len(systems), window.protocol)
        spent[name], lists = _ranked(window, name, system, lengths[-1], resume)
        for segment in window.slices:
            if segment.name not in lists:
                continue
            for length in lengths:
                top, of_part = lists[segment.name].top(length), groups[segment.name]
                for group, people, figures in measure(top, segment, of_part, length, window, sold, vectors):
                    values.setdefault((name, group), {}).update(people)
                    finite = {m: round(v, 6) for m, v in figures.items() if np.isfinite(v)}
                    scores.setdefault(name, {}).setdefault(group, {}).update(finite)
        summary = ", ".join(
            f"{segment} {figures.get(main, 0.0):.4f}" for segment, figures in scores.get(name, {}).items()
        )
        logger.info("%s: %.1f s; %s %s", name, spent[name], main, summary, extra={"scores": scores.get(name, {})})
    best = best_peers(scores, k)
    differences = tuple(system_differences(values, best, k, seed, draws))
    source = provenance()
    return Report(
        protocol=window.protocol,
        commit=source.pop("commit"),
        data_hash=window.data_hash,
        seed=seed,
        seconds=time.perf_counter() - began,
        systems=scores,
        differences=differences,
        extra={"best_peers": best, **_about(window, groups, systems, k, lengths), "system_seconds": spent, **source},
    )


def _ranked(
    window: EvaluationWindow, name: str, system: System, k: int, resume: Path | None
) -> tuple[float, dict[str, RankedLists]]:
    """Seconds that the system took, and its lists on each slice it plays in."""
    parts = [segment for segment in window.slices if system.slices is None or segment.name in system.slices]
    if resume is not None:
        path = resume / f"{window.protocol}-{name}.npz"
        key = run_key(
            data=window.data_hash, protocol=window.protocol, k=k, settings=dict(system.settings),
            slices={segment.name: _split_key(window, segment) for segment in parts},
        )  # fmt: skip
        if (saved := load_lists(path, key)) is not None:
            logger.info("%s: finished before, taken from %s", name, path)
            return saved
    start = time.perf_counter()
    lists = {segment.name: system.rank(window.query(segment, k)) for segment in parts}
    seconds = round(time.perf_counter() - start, 2)
    if resume is not None:
        save_lists(path, key, seconds, lists)
    return seconds, lists


def _split_key(window: EvaluationWindow, segment: Slice) -> str:
    """Hash of what was learned from, who is asked and what they bought: another split of a log has other lists."""
    events, digest = window.fit_on.events, sha256()
    for column in (events.indptr, events.item, events.at, segment.users, segment.truth.indptr, segment.truth.item):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _about(
    window: EvaluationWindow,
    groups: Mapping[str, list[Subgroup]],
    systems: Mapping[str, System],
    k: int,
    lengths: list[int],
) -> dict[str, Any]:
    return {
        "note": window.note,
        "notes": [system.note for system in systems.values() if system.note],
        "k": k,
        "ks": lengths,
        "window": {"as_of": utc(window.dataset.as_of).isoformat(), "until": utc(window.until).isoformat()},
        "slices": {
            s.name: {"users": len(s.users), "items": len(s.items), "pairs": len(s.truth.item), "masked": s.mask_seen}
            for s in window.slices
        }
        | {
            g.name: {"of": g.slice, "users": len(g.rows), "pairs": len(g.truth.item)}
            for parts in groups.values()
            for g in parts[1:]
        },
        "settings": {name: dict(system.settings) for name, system in systems.items() if system.settings},
    }


@dataclass(frozen=True, eq=False, kw_only=True)
class Subgroup:
    """A slice, or a part of it."""

    name: str
    slice: str
    rows: NDArray[np.int64]
    """Positions of its people in the slice's lists."""
    truth: Truth
    """One run per person of `rows`, all non-empty."""


def subgroups(window: EvaluationWindow, sold: NDArray[np.integer]) -> dict[str, list[Subgroup]]:
    """By name of the slice, the slice itself first. sold: buyers of each item before, (n_items,)."""
    groups = {
        s.name: [Subgroup(name=s.name, slice=s.name, rows=np.arange(len(s.users)), truth=s.truth)]
        for s in window.slices
    }
    main = next((s for s in window.slices if s.name != COLD and not s.hidden), None)
    if main is not None:
        # equal numbers of buyers at the border are ordered by item row, whose order is that of a hash
        order = main.items[np.argsort(-sold[main.items], kind="stable")]
        head = np.zeros(len(sold), dtype=bool)
        head[order[: int(np.ceil(HEAD_SHARE * len(order)))]] = True
        bought = np.diff(window.dataset.events.of(Action.PURCHASE).indptr)[main.users]
        heavy = bought > np.median(bought)
        truths = {HEAD: main.truth.select(head[main.truth.item]), TAIL: main.truth.select(~head[main.truth.item])}
        rows = {name: np.flatnonzero(truth.sizes > 0) for name, truth in truths.items()}
        rows |= {LIGHT: np.flatnonzero(~heavy), HEAVY: np.flatnonzero(heavy)}
        groups[main.name] += [
            Subgroup(name=name, slice=main.name, rows=users, truth=truths.get(name, main.truth).rows(users))
            for name, users in rows.items()
            if len(users)
        ]
    return groups


def measure(
    lists: RankedLists,
    segment: Slice,
    groups: list[Subgroup],
    k: int,
    window: EvaluationWindow,
    sold: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
) -> Iterator[tuple[str, dict[str, Values], dict[str, float]]]:
    """Name, values per person and figures of each of the slice's `groups`.

    Over lists, money and probabilities only the whole slice has figures. sold: buyers of each item before, (n_items,).
    vectors: (n_items, dim), unit rows, for intra-list diversity.
    """
    for group in groups:
        items = lists.items[group.rows]
        values = {f"{name}@{k}": metric(items, group.truth, k) for name, metric in PER_PERSON.items()}
        figures = {name: ranking.average(value) for name, value in values.items()}
        if group.truth.value is not None and group.truth.value.any():  # of the money spent on what counts as truth
            figures[f"revenue_recall@{k}"] = ranking.average(ranking.value_recall(items, group.truth, k))
            figures[f"spend_covered@{k}"] = ranking.spend_covered(items, group.truth, k)
        if group.name == segment.name:
            figures |= _of_lists(lists, segment, k, window, sold, vectors)
        yield group.name, values, figures


def _of_lists(
    answer: RankedLists,
    segment: Slice,
    k: int,
    window: EvaluationWindow,
    sold: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
) -> dict[str, float]:
    """Figures of all lists together, of their probabilities over the listed pairs, and those that the system gave."""
    lists = answer.items
    figures = {
        f"coverage@{k}": ranking.coverage(lists, len(segment.items), k),
        f"gini@{k}": ranking.gini(lists, len(segment.items), k),
    }
    if sold[segment.items].any():
        # ranks among the items of the slice, so that never-sold rows of the dataset do not stretch the scale
        position = np.searchsorted(segment.items, np.maximum(lists, 0)).astype(np.int32)
        positions = np.where(lists >= 0, position, -1)
        figures[f"mean_popularity@{k}"] = ranking.mean_popularity(lists, sold, k)
        figures[f"popularity_rank@{k}"] = ranking.popularity_rank(positions, sold[segment.items], k)
        figures[f"novelty@{k}"] = ranking.novelty(lists, sold, window.fit_on.n_users, k)
    if vectors is not None:
        figures[f"diversity@{k}"] = ranking.average(ranking.diversity(lists, vectors, k))
    if window.retained and not segment.hidden and segment.truth.value is not None and segment.truth.value.any():
        figures[f"retained_reached@{k}"] = ranking.retained_reached(lists, segment.truth, k, window.retained)
    if answer.probabilities is not None:
        bought = ranking.hits(lists, segment.truth, k)[lists >= 0]
        probability = answer.probabilities[lists >= 0]
        # whether "at least 0.5" and "bought" agree
        figures["accuracy@0.5"] = probabilities.accuracy(probability, bought)
        figures[f"probability@{k}"] = float(probability.mean()) if len(probability) else float("nan")
        figures[f"ece@{k}"] = probabilities.calibration_error(probability, bought)
        figures |= answer.figures
    return figures


# --- ours and the peers ----------------------------------------------------------------------------------------------


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
