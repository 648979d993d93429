"""One present for everything that a workspace does, whoever agreed to be seen by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recllm.data.dataset import utc
from recllm.encoder.toy import ToyEncoder
from recllm.jobs.load import load_file
from recllm.jobs.recommenders import open_recommender
from recllm.workspace.workspace import Workspace, log_end, present

NOW = datetime(2025, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    """Ann agreed to everything and was last seen 20 days ago; Bob refused and was seen yesterday."""
    files = {
        "items": "item_id,title\ntea,Green tea\nmug,Mug\n",
        "events": "user_id,item_id,event,timestamp\nann,tea,purchase,2025-11-06T12:00:00Z\n"
        "bob,mug,purchase,2025-11-25T12:00:00Z\n",
        "consent": "user_id,purpose,granted,timestamp\n"
        + "".join(f"bob,{purpose},false,2025-01-01T00:00:00Z\n" for purpose in ("personalisation", "analytics")),
    }
    workspace = Workspace.create(tmp_path / "shop", consent_default=True, encoder="toy", timezone="UTC")
    for table, text in files.items():
        (tmp_path / f"{table}.csv").write_text(text)
        assert load_file(workspace, tmp_path / f"{table}.csv", table).accepted
    return workspace


def test_the_recommender_lives_when_everything_else_does(shop: Workspace) -> None:
    recommender = open_recommender(shop, encoder=ToyEncoder(), now=NOW)
    assert utc(recommender.dataset.as_of) == utc(present(shop, NOW)) == NOW


def test_a_log_that_ended_long_ago_is_replayed(shop: Workspace) -> None:
    later = NOW + timedelta(days=30)
    assert present(shop, later) == log_end(shop) == int(datetime(2025, 11, 25, 12, 0, 1, tzinfo=UTC).timestamp())
    assert open_recommender(shop, encoder=ToyEncoder(), now=later).dataset.as_of == log_end(shop)


def test_an_empty_log_lives_now(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop") as empty:
        assert log_end(empty) is None and utc(present(empty, NOW)) == NOW
