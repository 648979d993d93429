"""Requests without a meaning, for every route there is: odd paths, queries, forms and bodies."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hostile_callers import Route, bodies_of, routes_of
from test_service_inputs import BODIES, WRONG

TEMPLATES = Path(__file__).parents[1] / "recllm" / "doors" / "console" / "templates"
ODD = (
    *("", "\0", "\ud800", "a\u202eb", "../../key", "..%2f..%2fkey", "x" * 5_000, "9" * 5_000, "NaN", "-1", "1e400"),
    *("<script>alert(1)</script>", "{{ 7 * 7 }}", "' OR 1=1 --", "a\r\nSet-Cookie: x=y"),
)
"""Texts in the place of a value."""
VALUES = (
    *(*ODD, None, True, -1, 0.5, 1e308, 10**400, float("nan")),
    *([], {}, [[]] * 2_000, json.loads("[" * 60 + "]" * 60)),
)
"""JSON in the place of a value; Python writes NaN, which is no JSON."""
KINDS = ("text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "application/xml", "a", "")
WIDE = (b'{"a": 1' + b', "b": 1' * 100_000 + b"}", b"[" + b"0," * 500_000 + b"0]", b" " * (5 << 20))
KNOWN = {"item_id": "tea-1", "campaign_id": "spring"}


def odd_requests(app: Any) -> Iterator[tuple[Route, str, dict[str, Any]]]:
    """Route, address, and what is sent to it: to a shop without keys, of `service_world.build_shop`."""
    rng, bodies, queries = random.Random(0), bodies_of(app), _query_names(app)
    templates = "".join(path.read_text("utf-8") for path in sorted(TEMPLATES.glob("*.j2")))
    names = sorted(set(re.findall(r'name="([\w.-]+)"', templates)))

    def form(fields: dict[str, str]) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return {"content": urlencode(fields, errors="surrogatepass"), "headers": headers}

    for route in routes_of(app):
        address, is_form = route.address(KNOWN), route.is_page and route.verb == "POST"
        for odd in ODD:
            if "{" in route.path:
                yield route, route.address({}, odd), form({}) if is_form else {}
            if route.verb == "GET":
                for name in (*queries.get(route.path, ()), *rng.sample(names, 3)):
                    yield route, f"{address}?{urlencode({name: odd}, errors='surrogatepass')}", {}
            if is_form:
                yield route, address, form(dict.fromkeys(names, odd))
                yield route, address, form({name: rng.choice(ODD) for name in rng.sample(names, 9)})
        if example := bodies.get((route.path, route.verb)):
            for changed in (example, *_changed(example)):
                yield route, address, _body(json.dumps(changed))
            for content in (*BODIES.values(), *WIDE, (b" " * 1_000 for _ in range(6_000))):
                yield route, address, _body(content)
            for kind in KINDS:
                yield route, address, _body(json.dumps(example), kind)
    for path, value in WRONG:
        yield Route(path, "POST", False), path, _body(json.dumps(value))


def _body(content: Any, kind: str = "application/json") -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": kind}}


def _changed(value: Any) -> Iterator[Any]:
    """The body with another value in the place of one of its own, or of itself."""
    yield from VALUES
    if isinstance(value, dict):
        yield value | {"unknown": 1}
        for name, inner in value.items():
            yield {other: value[other] for other in value if other != name}
            yield from (value | {name: changed} for changed in _changed(inner))
    elif isinstance(value, list) and value:
        yield value * 2_000
        yield from ([changed] for changed in _changed(value[0]))


def _query_names(app: Any) -> dict[str, list[str]]:
    """Path -> names of its query, of the service and of the console."""
    apps = [app, *(route.app for route in app.routes if getattr(route, "name", "") == "console")]
    return {
        path: [field["name"] for field in verbs.get("get", {}).get("parameters", ()) if field["in"] == "query"]
        for one in apps
        for path, verbs in one.openapi()["paths"].items()
    }


def fault_of(answer: Any) -> str:
    """What an answer should not be; "" where nothing is wrong with it."""
    if answer.status_code < 500 and not re.search(r'Traceback|File "/', answer.text):
        return ""
    return f"{answer.status_code} {' '.join(re.sub('<[^>]*>', ' ', answer.text).split())[-300:]}"
