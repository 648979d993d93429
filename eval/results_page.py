"""Write eval/results/README.md and the figures in README.md from the result files:  python eval/results_page.py

Nothing is measured here; the words stand in eval/results_page.md.jinja. tests/test_readme.py compares both with what
this script makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "eval" / "results"
PAGE, README = RESULTS / "README.md", ROOT / "README.md"

COLUMNS = {
    "cj-next28": ("ALL ndcg@20", "NEW ndcg@20", "COLD ndcg@20", "NOHISTORY ndcg@20"),
    "or-next28": ("ALL ndcg@20", "NEW ndcg@20"),
    "or-carts": ("MASKED recall@10", "MASKED ndcg@10"),
    "beauty-loo": ("MASKED recall@10", "MASKED ndcg@10"),
    "industrial-time": ("UNMASKED hr@10", "UNMASKED ndcg@10"),
}
"""Slice and metric of the columns of each protocol's table."""

PUBLISHED = {
    "beauty-loo": (
        ("SASRec with sampled softmax", 0.0921, 0.0531, "a public rerun"),
        ("eSASRec", 0.0928, 0.0523, ""),
        ("BSARec", 0.1008, 0.0611, "its own log, no rerun known"),
        ("WEARec", 0.1016, 0.0599, "a public rerun"),
        ("FADE", 0.1088, 0.0616, "an unreviewed draft, no rerun known"),
    ),
    "industrial-time": (
        ("SASRec", 0.1088, 0.0806, ""),
        ("BIGRec", 0.1370, 0.0997, ""),
        ("S-DPO", 0.1524, 0.1082, ""),
        ("MiniOneRec", 0.1586, 0.1167, "retrained elsewhere .1396 to .1423 / .0963 to .0971"),
        ("its weights decoded independently", 0.1577, 0.1176, "demon2036/minionerec-jax-repro"),
    ),
}
"""Figures of others in the columns of a protocol's table, and who measured them."""

COMMANDS = {
    "ablation-cj-next28": "eval/ablation.py cj-next28 --slices ALL,NEW,COLD",
    "ablation-industrial-time": "eval/ablation.py industrial-time",
    "coverage-cj-next28": "eval/catalogue_coverage.py",
    "experiments": "eval/experiments.py --open-bandit obp-0.4.1-py3-none-any.whl",
} | {name: f"eval/run.py {name}" for name in COLUMNS}
"""Of the files that are not named after their script, or whose script takes arguments."""

OLD_AND_NEW_HASHES = {
    "cj-next28": ("6c15a6f2a77de6ac", "47136734fd61f6fe"),
    "cj-next28-validation": ("b62efd93e651c3c2", "e818dfd86002befd"),
}


def load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def source(name: str) -> str:
    """Command and commit behind a file."""
    command, record = COMMANDS.get(name, f"eval/{name.replace('-', '_')}.py"), load(name)
    commits = record.get("commits", [record["commit"]] if "commit" in record else [])  # of parts, or of the whole
    return f"`python {command}`" + (f", commit {' and '.join(c[:7] for c in commits)}" if commits else "")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " --- |" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def interval(gap: dict[str, Any] | None) -> str:
    return "–" if gap is None else f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"


def protocol(name: str) -> str:
    """The table of a protocol, ours against the best other system, and where it comes from."""
    record, pairs = load(name), [tuple(column.split()) for column in COLUMNS[name]]
    cells = {s: [scores.get(part, {}).get(metric) for part, metric in pairs] for s, scores in record["systems"].items()}
    order = sorted(cells, key=lambda system: -next((value for value in cells[system] if value is not None), 0.0))
    rows = [(f"**{s}**" if s.startswith("recllm") else s, *map(cell, cells[s])) for s in order]
    metric = next(metric for _, metric in pairs if metric.startswith("ndcg"))
    first = {d["slice"]: d for d in reversed(record["differences"]) if d["metric"] == metric}  # the best peer's
    gaps = [f"{part} {interval(first[part])} ({first[part]['peer']})" for part in dict.fromkeys(p for p, _ in pairs)]
    return (
        f"<!-- {name}.json -->\n{table(('system', *COLUMNS[name]), rows)}\n\n"
        f"recllm minus the best other system, {metric}: {'; '.join(gaps)}.\n\n"
        f"{source(name)}, data {record['data_hash']}, seed {record['seed']}."
    )


def published(name: str) -> str:
    """The figures of others, and which of them are above ours."""
    pairs = [tuple(column.split()) for column in COLUMNS[name]]
    ours = [load(name)["systems"]["recllm"][part][metric] for part, metric in pairs]
    rows = []
    for system, *figures, measured_by in PUBLISHED[name]:
        above = [metric for (_, metric), theirs, own in zip(pairs, figures, ours, strict=True) if theirs > own]
        shown = " / ".join(f"{figure:.4f}".lstrip("0") for figure in figures)
        notes = [measured_by] * bool(measured_by) + [f"**above recllm** by {' and '.join(above)}"] * bool(above)
        rows.append(f"{system} {shown}" + (f" ({'; '.join(notes)})" if notes else ""))
    return "; ".join(rows)


def ablation(name: str) -> str:
    record = load(f"ablation-{name}")
    metric, slices = f"ndcg@{record['k']}", [s for s in ("ALL", "NEW", "COLD", "UNMASKED") if s in record["slices"]]
    gaps = {(d["peer"], d["slice"]): d for d in record["differences"] if d["metric"] == metric}
    parts = [system for system in record["systems"] if system != "recllm"]
    rows = [(part, *(interval(gaps.get((part, name))) for name in slices)) for part in parts]
    header = (f"{name}, {metric} lost", *slices)
    return f"{table(header, rows)}\n\n{source(f'ablation-{name}')}."


def coverage() -> str:
    record, columns = load("coverage-cj-next28"), ("ndcg@20", "recall@20", "coverage@20", "gini@20")
    weights = {system: settings["popularity_weight"] for system, settings in record["settings"].items()}
    rows = [(f"{weights[s]:g}", *(cell(scores["ALL"][c]) for c in columns)) for s, scores in record["systems"].items()]
    return f"{table(('weight', *columns), rows)}\n\n{source('coverage-cj-next28')}."


def offers() -> str:
    record, columns = load("offers"), ("bought", "others", "natural_lift", "overlap", "ndcg@20")
    rows = []
    for name, window in record["windows"].items():
        for intent, systems in window["intents"].items():
            for order, figures in systems.items():
                cells = (*(cell(figures[column]) for column in columns), f"{figures['items_offered']:,}")
                rows.append((f"{name}, {intent}, {order}", *cells, interval(figures.get("natural_lift_gap"))))
    header = ("window, intent, order", *columns, "items offered", "natural lift above that by probability")
    return f"{table(header, rows)}\n\n{source('offers')}, seed {record['seed']}."


def occasions() -> str:
    rows = []
    for name, log in load("occasions")["logs"].items():
        columns = ("auc", "average_precision", "precision", "recall")
        for system, scores in sorted(log["systems"].items(), key=lambda pair: -pair[1]["ALL"]["average_precision"]):
            figures = scores["ALL"]
            gap = log["ahead"].get(system)
            ahead = "" if gap is None else f"{gap['average_precision']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
            label = f"**{system}**" if system == "recllm" else system
            rows.append((f"{name}, {label}", *(cell(figures[c]) for c in columns), cell(figures.get("ece")), ahead))
    header = (
        "log, system",
        "AUC",
        "average precision",
        "precision of the first",
        "recall of the first",
        "ECE",
        "recllm ahead",
    )
    return f"{table(header, rows)}\n\n{source('occasions')}, seed {load('occasions')['seed']}."


def of_offers(part: str, columns: Sequence[str], header: Sequence[str]) -> str:
    rows = [
        (f"{name}, {what}", *(cell(figures[column]) for column in columns))
        for name, window in load("offers")["windows"].items()
        for what, figures in window[part].items()
    ]
    return table(header, rows)


def own_offers() -> str:
    columns = ("share_of_people", "bought", "others", "natural_lift", "items_offered")
    return of_offers("own_items", columns, ("window, intent, order", "to whom any fits", *columns[1:]))


def spread() -> str:
    columns = ("items", "largest_share", "probability", "given_up", "bought", "natural_lift")
    return of_offers("spread", columns, ("window, among, spread", *columns))


def false_alarms(figures: dict[str, Any]) -> str:
    names = {
        "always_valid": "always-valid interval",
        "fixed": "fixed interval, daily",
        "fixed_on_the_last_day": "fixed interval, on the last day alone",
    }
    rows = [(m, *(f"{shares[name]:.1%}" for name in names)) for m, shares in figures["false_alarms"].items()]
    return table(("any false alarm", *names.values()), rows)


def off_policy_coverage(figures: dict[str, Any]) -> str:
    sizes = [size for size in figures if size.endswith(" people")]
    shares = [f"{figures[s]['coverage']:.1%}" for s in sizes]
    return table(("intervals at 95 %", *sizes), [("intervals that hold the truth", *shares)])


def served(record: dict[str, Any]) -> str:
    peer = record["peer"]
    loads = {
        "slates": record["recommend"],
        "slates with reasons": record["explain"],
        "slates, as many as can be": record["saturation"],
        "peer (FastAPI around ALS)": peer["recommend"],
        "peer, as many as can be": peer["saturation"],
    }
    columns = ("rate", "p50_ms", "p95_ms", "p99_ms")
    rows = [(name, *(f"{figures[column]:g}" for column in columns)) for name, figures in loads.items()]
    return table(("load", "a second", "p50 ms", "p95 ms", "p99 ms"), rows)


def looped(record: dict[str, Any]) -> str:
    rows = []
    for run in record["runs"]:
        gap = run["difference"]
        promoted = sum(retrain["outcome"] == "promoted" for retrain in run["retrains"])
        figures = (f"{gap['first_model']:.4f}", f"{gap['the_loop']:.4f}", f"{gap['value']:+.4f}")
        rows.append((str(run["seed"]), *figures, f"{gap['low']:+.4f} to {gap['high']:+.4f}", str(promoted)))
    return table(("seed", "first model", "the loop", "difference", "95 % interval", "models promoted"), rows)


def small_shops() -> str:
    """Means over seeds of each cut of a log: ours, ours before any training, and the other systems."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in load("small-shops")["means"]:
        cut = cells.setdefault((row["log"], str(row["people"])), {})
        cut[row["system"]] = f"{cell(row['all'])}/{cell(row['new'])}"
    systems = list(next(iter(cells.values())))
    rows = [(*cut, *figures.values()) for cut, figures in cells.items()]
    return table(("log", "customers", *systems), rows)


def small_shop_gaps() -> str:
    """recllm less the best simple system, and less each of the others: means over cuts, and cuts that are certain."""
    gaps: dict[str, dict[str, list[dict[str, float]]]] = {}
    for row in load("small-shops")["ahead"]:
        parts = gaps.setdefault(row.get("of", "best simple"), {"ALL": [], "NEW": []})
        for part, of_cuts in parts.items():
            of_cuts.append(row[part])
    rows = []
    for name, parts in gaps.items():
        cells = []
        for of_cuts in parts.values():
            mean = sum(gap["mean"] for gap in of_cuts) / len(of_cuts)
            ahead, behind = sum(gap["low"] > 0 for gap in of_cuts), sum(gap["high"] < 0 for gap in of_cuts)
            cells.append(f"{mean:+.4f}, {ahead} / {behind} of {len(of_cuts)}")
        rows.append((name, *cells))
    return table(("recllm minus", *next(iter(gaps.values()))), rows)


def per_thousand(figures: dict[str, float]) -> str:
    value, low, high = (1_000 * figures[name] for name in ("qini", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def real_trials(record: dict[str, Any]) -> str:
    """Qini of the trial as it was, and of its arms shuffled."""
    trials, placebo = record["trials"], record["placebo"]
    rows = []
    for name in next(iter(trials.values()))["systems"]:
        noise = [of["systems"][name] for of in placebo.values()]
        rows.append(
            (
                name,
                *(per_thousand(of["systems"][name]) for of in trials.values()),
                *(f"{1_000 * of['qini']:.1f} ± {1_000 * of['sd_over_splits']:.1f}" for of in noise),
            )
        )
    return table(("Qini x 1,000", *trials, *(f"{name}, arms shuffled" for name in placebo)), rows)


def comprehensiveness(record: dict[str, Any]) -> dict[str, float]:
    return {system: slices["ALL"]["comprehensiveness@1"] for system, slices in record["systems"].items()}


def page() -> str:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    environment.globals |= {
        "load": load,
        "small_shops": small_shops,
        "small_shop_gaps": small_shop_gaps,
        "source": source,
        "protocol": protocol,
        "published": published,
        "interval": interval,
        "ablation": ablation,
        "coverage": coverage,
        "offers": offers,
        "occasions": occasions,
        "own_offers": own_offers,
        "spread": spread,
        "false_alarms": false_alarms,
        "off_policy_coverage": off_policy_coverage,
        "comprehensiveness": comprehensiveness,
        "served": served,
        "looped": looped,
        "per_thousand": per_thousand,
        "real_trials": real_trials,
        "first50": lambda record, system: f"{record['systems'][system]['ALL']['precision@50']:.1%}",
        "hashes": lambda: table(("data", "old", "new"), [(name, *pair) for name, pair in OLD_AND_NEW_HASHES.items()]),
    }
    template = (ROOT / "eval" / "results_page.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render()


def with_headlines(readme: str) -> str:
    """README's text with the headline figures between its marks."""
    rows = []
    for name in [name for name in COLUMNS if name != "or-carts"]:  # the other lines of its carts were learned from
        systems = load(name)["systems"]
        for column in [column for column in COLUMNS[name] if "ndcg" in column][:2]:
            part, metric = column.split()
            figures = {s: scores[part][metric] for s, scores in systems.items() if metric in scores.get(part, {})}
            best = max((s for s in figures if not s.startswith("recllm")), key=lambda s: figures[s])
            rows.append((name, column, f"**{figures['recllm']:.4f}**", f"{figures[best]:.4f} ({best})"))
    drop, checks, ms = comprehensiveness(load("explanations")), load("copy-guarantees"), load("speed")["figures"]
    last = checks["outside_7"]
    lines = [
        "<!-- results -->",
        table(("protocol", "figure", "recllm", "best other system"), rows),
        "",
        f"Without the evidence named first a score falls by {drop['recllm']:.2f} of a list's range, without a random",
        f"piece by {drop['random']:.2f}; of {checks['bad_total']} bad ad texts {checks['bad_passed']} pass the checks, "
        f"of {last['bad_total']} by people who have read no rule {last['when_judged']['bad_passed']};",
        f"a warm answer takes {ms['recommend ms']:.0f} ms.",
        "<!-- end of results -->",
    ]
    pattern = r"<!-- results -->.*?<!-- end of results -->"
    return re.sub(pattern, lambda _: "\n".join(lines), readme, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(with_headlines(README.read_text(encoding="utf-8")), encoding="utf-8")
