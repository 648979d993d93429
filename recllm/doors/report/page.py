"""What all pages share.

A page is one file: no script, no style and no picture from elsewhere, and every value is escaped.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


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
