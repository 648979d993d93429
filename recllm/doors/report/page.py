"""What all pages share, and the page of a demonstration run.

A page is one file: no script, no style and no picture from elsewhere, and every value is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recllm.base.charts import Bar, bar_chart


def render(template: str, **values: Any) -> str:
    """A page from one of the templates of this folder."""
    environment = Environment(
        loader=PackageLoader("recllm.doors.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["moment"] = _moment
    return environment.get_template(template).render(**values)


def picture(svg: str) -> Markup:
    """A chart's element for a template."""
    return Markup(svg)  # noqa: S704 - recllm.base.charts escapes its texts


def _moment(when: str | datetime) -> str:
    """To the minute, with its zone."""
    at = datetime.fromisoformat(when) if isinstance(when, str) else when
    zone = f"UTC{at.isoformat()[-6:]}" if at.utcoffset() else "UTC"
    return f"{at:%Y-%m-%d %H:%M} ({zone})"


def render_page(record: Mapping[str, Any]) -> str:
    """The page for the JSON record that `recllm start --demo --json` prints."""

    def metric_chart(evaluation: Mapping[str, Any], slice_name: str, metric: str) -> Markup:
        systems = {name: slices[slice_name] for name, slices in evaluation["systems"].items() if slice_name in slices}
        ranked = sorted(systems.items(), key=lambda pair: -pair[1][metric])
        bars = [Bar(name, values[metric], strong=name == "recllm") for name, values in ranked]
        return picture(bar_chart(bars, title=f"{metric} on {slice_name}"))

    def timing_chart(timings: list[Mapping[str, Any]]) -> Markup:
        bars = [Bar(t["step"], t["seconds"], f"{t['seconds']:.1f} s") for t in timings]
        return picture(bar_chart(bars, title="seconds per step"))

    def share_chart(shares: list[Mapping[str, Any]]) -> Markup:
        bars = [Bar(s["name"][:28], s["share"], f"{100 * s['share']:.0f} %") for s in shares]
        return picture(bar_chart(bars, title="share of purchases", width=520))

    charts = {"metric_chart": metric_chart, "timing_chart": timing_chart, "share_chart": share_chart}
    return render("demo.html.j2", **record, **charts)
