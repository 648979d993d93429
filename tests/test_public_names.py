"""The public surface: a change of it is a decision, not an accident."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import recllm


def test_all_names_exist() -> None:
    for name in recllm.__all__:
        assert getattr(recllm, name) is not None


def test_version_is_the_package_version() -> None:
    import importlib.metadata

    assert recllm.__version__ == importlib.metadata.version("recllm")


def test_errors_have_their_exit_codes() -> None:
    from recllm import errors

    codes = {"RecllmError": 1, "UsageError": 2, "DataError": 2, "NothingToDo": 3, "PolicyError": 4, "StoreError": 1}
    assert {name: getattr(errors, name).exit_code for name in codes} == codes


@pytest.mark.parametrize(("set_before", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_do_not_spin_unless_the_caller_says_so(set_before: str | None, found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": set_before} if set_before else {}
    code = "import recllm, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found
