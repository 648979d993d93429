"""The public surface: a change of it is a decision, not an accident."""

from __future__ import annotations

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
