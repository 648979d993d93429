"""From the record of a demonstration run to its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recllm.charts import Bar, bar_chart


def render_page(record: Mapping[str, Any]) -> str:
    """The page for the JSON record that `recllm demo --json` prints. Every value is escaped."""
    environment = Environment(
        loader=PackageLoader("recllm.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("page.html.j2")
    return template.render(
        **record,
        metric_chart=_metric_chart,
        timing_chart=_timing_chart,
        share_chart=_share_chart,
        reason_chart=_reason_chart,
    )


def write_page(record: Mapping[str, Any], path: Path) -> None:
    """Write the page whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(render_page(record), encoding="utf-8")
    partial.replace(path)


def _metric_chart(evaluation: Mapping[str, Any], slice_name: str, metric: str) -> Markup:
    systems = {name: slices[slice_name] for name, slices in evaluation["systems"].items() if slice_name in slices}
    ranked = sorted(systems.items(), key=lambda pair: -pair[1][metric])
    bars = [Bar(name, values[metric], strong=name == "recllm") for name, values in ranked]
    return Markup(bar_chart(bars, title=f"{metric} on {slice_name}"))  # noqa: S704 - labels are escaped in plots


def _timing_chart(timings: list[Mapping[str, Any]]) -> Markup:
    bars = [Bar(t["step"], t["seconds"], f"{t['seconds']:.1f} s") for t in timings]
    return Markup(bar_chart(bars, title="seconds per step"))  # noqa: S704


def _share_chart(shares: list[Mapping[str, Any]]) -> Markup:
    bars = [Bar(s["name"][:28], s["share"], f"{100 * s['share']:.0f} %") for s in shares]
    return Markup(bar_chart(bars, title="share of purchases", width=520))  # noqa: S704


def _reason_chart(reasons: list[Mapping[str, Any]]) -> Markup:
    bars = [Bar(r["evidence"][:28], r["delta"], f"{r['delta']:+.2f}") for r in reasons]
    return Markup(bar_chart(bars, title="what each piece of evidence adds", width=520))  # noqa: S704
