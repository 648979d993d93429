"""What users of recommender services complain of most often, each as a test.

Sources are issues of public projects: gorse 1223, 756, 49, 240, 802, 831, 764, 366, 213, 228, 273, 336, 949, 1006,
1345, 516; metarank 1062; recommenders 1048.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from test_service import folder, serving, shown  # noqa: F401 - fixtures

from recllm.base.settings import ServiceSettings
from recllm.doors.service.api import MAX_EVENTS
from recllm.doors.service.everybody import MAX_PREDICTIONS
from recllm.shop.workspace.keys import create_key
from recllm.shop.workspace.workspace import Workspace


def test_1_a_list_that_is_a_fallback_says_so_and_why(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        personal = client.post("/v1/recommend", json={"user_id": "u00"}).json()
        fallback = client.post("/v1/recommend", json={"user_id": "never-seen"}).json()
    assert (personal["status"], personal["served_by"], personal["degraded_reason"]) == ("personal", "scorer", None)
    assert (fallback["status"], fallback["served_by"]) == ("unknown_user", "popular")
    assert "nothing is known" in fallback["degraded_reason"] and fallback["model_version"] is None


def test_2_what_was_bought_a_moment_ago_does_not_come_back(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        for _ in range(3):
            first = shown(client, repeats=False)[0]
            event = {"user_id": "u00", "item_id": first, "event": "purchase"}
            client.post("/v1/events", json={"events": [event]}).raise_for_status()
            assert first not in shown(client, repeats=False)


def test_3_what_is_off_sale_or_over_is_not_served(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        off_sale, over, running = shown(client)[:3]
        soon = datetime.now(UTC) - timedelta(seconds=1)
        items = [
            {"item_id": off_sale, "title": "Sold out", "available": False},
            {"item_id": over, "title": "Over", "available_until": "2025-01-01T00:00:00Z"},
            {"item_id": running, "title": "Running", "available_until": (soon + timedelta(days=1)).isoformat()},
        ]
        client.post("/v1/items", json={"items": items}).raise_for_status()
        for user in ("u00", "u01", "never-seen", None):
            listed = shown(client, user, basket=[] if user else ["tea-9"])
            assert off_sale not in listed and over not in listed
        assert running in shown(client)


def test_4_two_ways_can_be_compared_inside_and_the_shares_add_up(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        variants = [{"name": "a", "weight": 0.6}, {"name": "b", "weight": 0.6, "treatment": {"personal": False}}]
        refused = client.post("/v1/experiments", json={"name": "e", "variants": variants})
        assert refused.status_code == 422 and "add up to 1" in refused.json()["error"]["message"]
        variants[1]["weight"] = 0.4
        client.post("/v1/experiments", json={"name": "e", "variants": variants}).raise_for_status()
        assert client.post("/v1/recommend", json={"user_id": "u00"}).json()["variant"] in ("a", "b")


def test_5_several_shops_in_one_process_are_strictly_apart(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    keys = []
    for place in (folder, other):
        with Workspace.open(place) as shop:
            keys.append(create_key(shop, "site", ["recommend", "events"])[1])
    with serving(folder, other) as client:
        of_shop, of_other = ({"X-API-Key": key} for key in keys)
        gone = client.post("/v1/recommend", json={"user_id": "u00", "k": 1}, headers=of_shop).json()["items"][0][
            "item_id"
        ]
        event = {"user_id": "u00", "item_id": gone, "event": "dismiss"}
        client.post("/v1/events", json={"events": [event]}, headers=of_shop).raise_for_status()

        def slate(headers: dict[str, str]) -> list[str]:
            answer = client.post("/v1/recommend", json={"user_id": "u00", "k": 20}, headers=headers).raise_for_status()
            return [item["item_id"] for item in answer.json()["items"]]

        assert gone not in slate(of_shop) and gone in slate(of_other)
        assert client.post("/v1/recommend", json={}, headers=of_shop | {"X-Shop": "other"}).status_code == 401


def test_6_memory_can_be_watched_and_what_is_kept_is_bounded(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        figures = client.get("/metrics").text
    assert "process_resident_memory_bytes" in figures
    settings = ServiceSettings()
    assert settings.waiting and MAX_PREDICTIONS and MAX_EVENTS and settings.max_body_mib


def test_7_a_request_may_exclude_items(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        first, second = shown(client)[:2]
        assert not {first, second} & set(shown(client, exclude=[first, second]))


def test_8_nothing_that_is_sent_is_dropped_in_silence(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        click = {"user_id": "u00", "item_id": "tea-1", "event": "click"}
        ahead = {**click, "event_id": "ahead", "timestamp": "2999-01-01T00:00:00Z"}
        events = [
            {**click, "event_id": "a"},
            {**click, "event_id": "a"},
            ahead,
            {**click, "event_id": "a", "item_id": "tea-2"},
        ]
        account = client.post("/v1/events", json={"events": events}).json()
        assert account == {"accepted": 1, "duplicates": 1, "conflicts": [3], "rejected": [2]}
        wrong = client.post("/v1/events", json={"events": [click, {**click, "event": "stared"}]})
        assert wrong.status_code == 422 and "events.1.event" in wrong.json()["error"]["message"]


def test_9_a_shop_without_a_log_has_an_answer(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "new", consent_default=True, encoder="toy"):
        pass
    with serving(tmp_path / "new") as client:
        assert client.post("/v1/recommend", json={"user_id": "ann"}).json()["items"] == []
        items = [{"item_id": f"i{n}", "title": f"{kind} {n}"} for n, kind in enumerate(["Tea", "Tea", "Hammer", "Mug"])]
        client.post("/v1/items", json={"items": items}).raise_for_status()
        slate = client.post("/v1/recommend", json={"basket": ["i0"], "exclude": ["i0"], "k": 3}).json()
        assert slate["items"][0]["item_id"] == "i1" and slate["status"] == "text_only" and slate["degraded_reason"]


def test_10_the_report_has_the_measures_of_an_online_test(folder: Path) -> None:  # noqa: F811
    with serving(folder) as client:
        slate = client.post("/v1/recommend", json={"user_id": "u00", "k": 4, "record": True}).json()
        common = {"user_id": "u00", "item_id": slate["items"][0]["item_id"], "request_id": slate["request_id"]}
        events = [{**common, "event": "click"}, {**common, "event": "purchase", "price": 4.0}]
        client.post("/v1/events", json={"events": events}).raise_for_status()
        (group,) = client.get("/v1/report", params={"by": "model"}).json()["groups"]
    assert (group["shown"], group["clicked"], group["bought"], group["revenue"], group["items"]) == (4, 1, 1, 4.0, 4)
    assert group["ctr"]["low"] < group["ctr"]["value"] == 0.25 < group["ctr"]["high"]
    assert group["conversion"]["value"] == 0.25 and 0 < group["coverage"] <= 1 and "returned" in group
