"""The public surface: a change of it is a decision, not an accident."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest

import recllm
from recllm.base import errors
from recllm.base.errors import DataError
from recllm.market.adcopy.request import Offer, OfferType


def test_all_names_exist() -> None:
    for name in recllm.__all__:
        assert getattr(recllm, name) is not None


def test_version_is_the_package_version() -> None:
    assert recllm.__version__ == importlib.metadata.version("recllm")


def test_errors_have_their_exit_codes() -> None:
    codes = {"RecllmError": 1, "UsageError": 2, "DataError": 2, "NothingToDo": 3, "PolicyError": 4, "StoreError": 1}
    assert {name: getattr(errors, name).exit_code for name in codes} == codes


@pytest.mark.parametrize(("set_before", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_do_not_spin_unless_the_caller_says_so(set_before: str | None, found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": set_before} if set_before else {}
    code = "import recllm, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


def test_any_number_is_a_price_and_what_is_none_is_refused_in_words() -> None:
    now = datetime(2025, 6, 1, tzinfo=UTC)
    texts = set()
    for price in (4.9, "4.9", Decimal("4.90"), np.float64(4.9), np.float32(4.9), 4.90):
        item = recllm.Item(
            item_id="t", title="Green tea", price=price, currency="EUR", category="Tea", attributes={"pieces": 20}
        )
        assert (item.price, item.category, item.attributes) == (Decimal("4.9"), ("Tea",), {"pieces": "20"})
        offer = Offer(type=OfferType.PERCENT, value=20, end=datetime(2025, 7, 1, tzinfo=UTC))
        request = recllm.CopyRequest(item=item, channel="email", now=now, list_price=6.5, offer=offer)
        texts.add(recllm.write_copy(request)[0].text)
    assert len(texts) == 1 and "3.92" in texts.pop()
    assert recllm.Item(item_id="t", title="Tea", price=5).price == 5
    for price in (float("nan"), float("inf"), -1, "-0.01", "cheap", "", True, "4,90", [4.9], Decimal("nan")):
        for make in (
            lambda price: recllm.Item(item_id="t", title="Tea", price=price),
            lambda price: recllm.CopyRequest(item=item, channel="email", now=now, list_price=price),
            lambda price: Offer(type=OfferType.PERCENT, value=price),
        ):
            with pytest.raises(DataError, match="give a number of at least 0"):
                make(price)
    for wrong in ({"item_id": 7, "title": "Tea"}, {"item_id": "7", "title": None}):
        with pytest.raises(DataError, match="give a text"):
            recllm.Item(**wrong)  # type: ignore[arg-type]
