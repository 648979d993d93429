"""The service against its own description: whatever fits the schemas, or just misses them, is answered as they say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from service_world import app_of, listening, make_key
from waiting import until

from recllm.shop.workspace.keys import Scope

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'recllm[dev]'")

EXAMPLES = 2
"""Of each operation, of what fits and of what does not."""


@pytest.fixture(scope="module")
def server(service_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a real server with the console beside the operations, and the headers of a key that may do all."""
    folder = Path(shutil.copytree(service_shop, tmp_path_factory.mktemp("schema") / "shop"))
    key = make_key(folder, *Scope)
    with listening(app_of(folder, console=True)) as (host, port), session() as client:
        address = f"http://{host}:{port}"
        until(lambda: client.get(f"{address}/readyz").status_code == 200)
        yield address, {"X-API-Key": key}


def session() -> requests.Session:
    """One that asks no proxy of the environment."""
    client = requests.Session()
    client.trust_env = False
    return client


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_operation_answers_as_it_is_described(server: tuple[str, dict[str, str]], mode: str) -> None:
    address, headers = server
    with session() as client:
        document = client.get(f"{address}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=address)
        # what a description cannot say, such as that one of two fields is needed, is refused with 422
        exempt = [schemathesis.checks.positive_data_acceptance]
        n_operations = n_answered = 0
        for result in schema.get_all_operations():
            operation = result.ok()
            generation_mode = schemathesis.GenerationMode[mode]

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=generation_mode))
            def check(case: Any) -> None:
                case.call_and_validate(session=client, headers=dict(headers), excluded_checks=exempt)

            try:
                check()
                n_answered += 1
            except Unsatisfiable:  # of what takes anything, nothing is wrong
                assert mode == "NEGATIVE", operation.label
            n_operations += 1
        assert n_operations == sum(len(verbs) for verbs in document["paths"].values())
        assert n_answered >= 0.6 * n_operations
        assert client.get(f"{address}/readyz").status_code == 200
