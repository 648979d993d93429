"""The parts of `eval/attack.py` that take little time, on a tiny shop and on a sample of their cases; and that each of
them sees what it looks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_callers import ROUTES, ask_everything
from hostile_requests import fault_of, odd_requests
from service_world import serving


def test_who_may_what_at_every_route(folder: Path) -> None:
    verdicts = ask_everything(folder, every=31)
    assert verdicts.failures == () and verdicts.cases > 300 and verdicts.routes > 100


def test_a_route_that_is_in_no_line_or_may_be_asked_by_others_is_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = ROUTES.replace("/v1/users/erase ", "").replace(
        "metrics    GET     /metrics", "admin      GET     /metrics"
    )
    monkeypatch.setattr("hostile_callers.ROUTES", forgotten)
    failures = ask_everything(folder, paths="^/metrics$").failures
    assert "POST /v1/users/erase is in no line of ROUTES" in failures
    assert "GET /metrics with a key of metrics: in and not 403" in failures


def test_requests_without_a_meaning_are_refused_and_do_no_harm(folder: Path) -> None:
    with serving(folder, console=True) as client:
        faults = []
        for number, (route, address, sent) in enumerate(odd_requests(client.app, folder)):
            if number % 97 == 0 and (fault := fault_of(client.request(route.verb, address, **sent))):
                faults.append(f"{route.verb} {address} {sent}: {fault}")
    assert faults == [] and number > 5_000
