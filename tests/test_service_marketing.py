"""Search, audiences, predictions, campaigns, sessions and rights over HTTP, of a shop where even people buy tea."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import service_world
from fastapi.testclient import TestClient
from service_world import make_key, serving
from shop_world import item_lines, loaded, purchase_lines, train
from shop_world import shop as world
from tables import table
from waiting import until

from recllm.base.errors import PolicyError, UnknownIdError
from recllm.base.policy import Policy
from recllm.base.schema import SESSION_PREFIX, Purpose
from recllm.base.settings import ServiceSettings
from recllm.doors.service import everybody
from recllm.doors.service.jobs import Background, JobState
from recllm.market.audiences import audience
from recllm.market.audiences.exclusions import ExclusionReason
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh
from recllm.shop.workspace.workspace import Workspace

PEOPLE = 240
FAST = ServiceSettings(watch_seconds=0.05, marketing_seconds=0.0)
CAMPAIGN = service_world.CAMPAIGN | {
    "target": {"category": "food > tea", "most_items": 3},
    "offer": {"type": "percent", "value": 10},
    "limits": {"size": 60, "holdout": 0.3},
    "words": {"packs": ["us_ftc"]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a published model."""
    data = world(people=PEOPLE)
    files = {"items": item_lines(data), "events": purchase_lines(data, data.users["user_id"].to_list())}
    settings = {"currency": "USD", "timezone": "UTC", "service": FAST, "policy": Policy(small_shop=0)}
    return train(loaded(tmp_path_factory.mktemp("marketing"), files, **settings))


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with serving(folder, settings=FAST) as client:
        yield client


def ask(
    client: TestClient, path: str, body: dict[str, Any], status: int = 200, *, headers: dict[str, str] | None = None
) -> Any:
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def everyone() -> list[str]:
    return [f"u{n:02}" for n in range(PEOPLE)]


def found(client: TestClient, query: str, **body: Any) -> list[str]:
    return [item["item_id"] for item in ask(client, "/v1/search", {"query": query, "k": 20, **body})["items"]]


def shown(client: TestClient, **body: Any) -> list[str]:
    return [item["item_id"] for item in ask(client, "/v1/recommend", {"k": 30, **body})["items"]]


def load_encoder(client: TestClient) -> None:
    """A query is answered by its words alone until the encoder is loaded, and in another order afterwards."""
    until(lambda: not ask(client, "/v1/search", {"query": "tea", "k": 3})["notes"])


def test_a_query_is_answered_by_its_words_in_the_persons_order(client: TestClient) -> None:
    load_encoder(client)
    answer = ask(client, "/v1/search", {"query": "green TEAS", "user_id": "u00", "k": 5, "explain": True})
    assert answer["status"] == "personal" and answer["model_version"]
    assert all(item["item_id"].startswith("tea") for item in answer["items"])
    assert {"words", "vectors"} >= set(answer["items"][0]["served_by"]) and answer["items"][0]["reasons"]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True) and [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    bought = [item for item in shown(client, user_id="u00") if item.startswith("tea")][:2]
    assert set(bought) <= set(found(client, "tea", user_id="u00")[:4])
    assert found(client, "tea", user_id="u00") != found(client, "tea", user_id="u02")
    assert ask(client, "/v1/search", {"query": "tea"})["status"] == "unknown_user"


def test_whoever_refused_gets_the_querys_own_order(client: TestClient) -> None:
    load_encoder(client)
    ask(client, "/v1/consent", {"consent": [{"user_id": "u00", "purpose": "personalisation", "granted": False}]})
    answer = ask(client, "/v1/search", {"query": "tea", "user_id": "u00", "k": 20})
    assert answer["status"] == "no_consent" and all(item["probability"] is None for item in answer["items"])
    assert [item["item_id"] for item in answer["items"]] == found(client, "tea")


def test_an_exact_id_or_title_comes_first_and_filters_hold(client: TestClient) -> None:
    assert found(client, "tool3", user_id="u00")[0] == "tool3"
    assert found(client, "  hammer 7 ", user_id="u00")[0] == "tool7"
    assert found(client, "hammer 7", exclude=["tool7"])[:1] != ["tool7"]
    assert set(found(client, "hammer", where="price < 23")) == {"tool0", "tool1", "tool2"}
    assert client.post("/v1/search", json={"query": "tea", "where": "price <"}).status_code == 422
    assert client.post("/v1/search", json={"query": " "}).status_code == 422


def test_new_items_are_found_at_once_and_chinese_by_two_signs(client: TestClient) -> None:
    found(client, "tea")  # there is an index
    new = [{"item_id": "cha", "title": "西湖龙井绿茶", "category": "食品 > 茶叶", "price": 30}]
    ask(client, "/v1/items", {"items": new})
    assert found(client, "绿茶")[0] == "cha" and found(client, "龙井 茶叶")[0] == "cha"
    ask(client, "/v1/items", {"items": [{**new[0], "title": "普洱"}]})
    assert "cha" not in [item for item in found(client, "龙井") if item == "cha"] or found(client, "普洱")[0] == "cha"
    assert client.delete("/v1/items/cha").status_code == 204
    assert "cha" not in found(client, "普洱") + found(client, "茶叶") + found(client, "cha")


def test_an_audience_stands_under_pseudonyms_or_the_callers_ids(client: TestClient) -> None:
    query = {"category": "food > tea", "size": 60, "limit": 100}
    answer = ask(client, "/v1/audience", query)
    assert answer["size"] == len(answer["people"]) == 60
    assert all(person["user_id"].startswith("u1_") for person in answer["people"])
    assert all(n is None or n >= 50 for n in answer["excluded"].values()) and answer["excluded"]["beyond_the_cut"]
    assert answer["people"][0]["reasons"] and not answer["people"][-1]["reasons"]
    names = [p["user_id"] for p in ask(client, "/v1/audience", query | {"ids": everyone()})["people"]]
    assert all(name[1:].isdigit() and int(name[1:]) % 2 == 0 for name in names)  # tea drinkers
    few = ask(client, "/v1/audience", query | {"limit": 5, "explain_first": 0})
    assert few["size"] == 60 and len(few["people"]) == 5 and not few["people"][0]["reasons"]


def test_an_audience_by_lift_and_by_effects_that_nobody_told(client: TestClient) -> None:
    query = {"items": ["tea1"], "size": 60, "limit": 100, "explain_first": 0, "holdout": 0}
    lift, chance = (ask(client, "/v1/audience", query | {"objective": name}) for name in ("lift", "probability"))
    assert lift["size"] == 60 and lift["people"] != chance["people"]
    scores = [person["score"] for person in lift["people"]]
    assert scores == sorted(scores, reverse=True) and max(scores) < 1
    new = ask(client, "/v1/audience", {"items": ["tea1"], "intent": "discover", "holdout": 0, "explain_first": 0})
    assert "no_fitting_offer" in new["excluded"]
    for wrong, words in table("service_marketing", "wrong objectives"):
        assert words in ask(client, "/v1/audience", query | wrong, 422)["error"]["message"]


def test_few_who_are_left_out_are_not_counted_and_small_groups_are_refused(client: TestClient) -> None:
    query = {"where": "price < 4", "size": 60, "ids": everyone(), "limit": 100}
    drinkers = [f"u{n:02}" for n in range(0, PEOPLE, 2)]
    answer = ask(client, "/v1/audience", query | {"suppressed": drinkers[:40]})
    assert answer["excluded"]["suppression_list"] is None and set(answer["items"]) == {"tea0", "tea1"}
    assert not {p["user_id"] for p in answer["people"]} & set(drinkers[:40])
    withdrawn = [{"user_id": user, "purpose": "email", "granted": False} for user in drinkers[:30]]
    ask(client, "/v1/consent", {"consent": withdrawn})
    answer = ask(client, "/v1/audience", query | {"channel": "email"})
    assert answer["excluded"]["no_consent"] is None
    assert not {p["user_id"] for p in answer["people"]} & set(drinkers[:30])
    assert "smaller than 50" in ask(client, "/v1/audience", query | {"size": 10}, 403)["error"]["message"]
    for wrong in ({"items": ["tea1"], "where": "price < 4"}, {}, {"items": ["nothing"]}, {"where": "price > 1000"}):
        assert client.post("/v1/audience", json=wrong).status_code in (404, 422), wrong


def test_a_prediction_is_learned_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, calls = everybody.predict_workspace, []
    monkeypatch.setattr(everybody, "predict_workspace", lambda *a: (calls.append(a), learn(*a))[1])
    query = {"kind": "buy", "horizon_days": 7, "items": ["tea0", "tea1"], "limit": 500, "ids": everyone()}
    first = ask(client, "/v1/predict", query)
    assert first["size"] == len(first["people"]) == PEOPLE and 0 <= first["people"][0]["probability"] <= 1
    likely = first["people"][0]["user_id"]
    assert ask(client, "/v1/predict", query | {"limit": 3})["people"] == first["people"][:3] and len(calls) == 1
    (exported,) = client.post("/v1/users/export", json={"user_id": likely}).json()["inferred"]["predictions"]
    assert exported["kind"] == "buy" and exported["probability"] == first["people"][0]["probability"]
    ask(client, "/v1/consent", {"consent": [{"user_id": likely, "purpose": "personalisation", "granted": False}]})
    inferred = client.post("/v1/users/export", json={"user_id": likely}).json()["inferred"]
    assert inferred["status"] == "not_agreed" and not (inferred["predictions"] or inferred["profile"])
    second = ask(client, "/v1/predict", query)
    assert len(calls) == 1 and likely not in {p["user_id"] for p in second["people"]}
    assert second["left_out"]["no_consent"] == 1
    assert client.post("/v1/users/erase", json={"user_id": first["people"][1]["user_id"]}).status_code == 200
    assert ask(client, "/v1/predict", query)["size"] == PEOPLE - 2 and len(calls) == 1
    ask(client, "/v1/predict", {"kind": "buy", "horizon_days": 7, "items": ["tea2"], "limit": 3})
    assert len(calls) == 2


def test_a_wrong_prediction_is_told(client: TestClient) -> None:
    assert client.post("/v1/predict", json={"kind": "redeem"}).status_code == 422
    assert client.post("/v1/predict", json={"kind": "leave", "items": ["tea0"]}).status_code == 422
    assert client.post("/v1/predict", json={"kind": "buy", "items": ["nothing"]}).status_code == 404
    mailing = {"user_id": "u00", "campaign_id": "c1", "timestamp": "2024-01-01T00:00:00Z"}
    coupons = {"mailings": [mailing], "products": [{"campaign_id": "c1", "item_id": "tea1"}], "redemptions": []}
    refused = ask(client, "/v1/predict", {"kind": "redeem", "coupons": coupons}, 422)
    assert "there is nothing to learn from" in refused["error"]["message"]


def test_a_long_learning_keeps_no_visitor_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, began = threading.Event(), threading.Event()

    def learn(*_: Any) -> Any:
        began.set()
        assert release.wait(60)
        raise PolicyError("it was learned in vain")

    monkeypatch.setattr(everybody, "predict_workspace", learn)
    settings = ServiceSettings(workers=1, watch_seconds=0.05)
    monkeypatch.setattr("recllm.doors.service.app.MARKETING_WAITING", 0)
    with serving(folder, settings=settings) as client:
        answers: list[int] = []
        learning = threading.Thread(
            target=lambda: answers.append(client.post("/v1/predict", json={"kind": "leave"}).status_code)
        )
        learning.start()
        assert began.wait(60)
        assert shown(client, user_id="u00")
        busy = client.post("/v1/predict", json={"kind": "leave"})
        assert busy.status_code == 429 and busy.headers["Retry-After"]
        release.set()
        learning.join()
        assert answers == [403]


def finished(client: TestClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The job that was ordered, at its end."""
    address = f"/v1/jobs/{ask(client, path, body, 202)['job_id']}"
    until(lambda: client.get(address).json()["state"] not in ("queued", "running"))
    return client.get(address).json()


def planned(client: TestClient, revision: str, **body: Any) -> dict[str, Any]:
    """The campaign after its plan is made."""
    job = finished(client, "/v1/campaigns/tea/plan", {"revision": revision, **body})
    assert job["state"] == "done" and job["step"] >= 2, job
    return client.get("/v1/campaigns/tea").json()


def drafted(client: TestClient, **fields: Any) -> str:
    """The revision of a new draft."""
    return ask(client, "/v1/campaigns", {"campaign": CAMPAIGN | fields}, 201)["revision"]


def decide(client: TestClient, campaign: dict[str, Any], status: int = 200, **body: Any) -> Any:
    return ask(client, "/v1/campaigns/tea/decisions", {"revision": campaign["revision"], **body}, status)


def emailed(sent: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of an export."""
    return list(csv.DictReader(io.StringIO(sent["files"]["tea-email.csv"])))


def test_a_campaign_goes_from_a_draft_to_a_report(client: TestClient) -> None:
    revision = drafted(client, limits={"size": 100, "holdout": 0.1})
    assert client.get("/v1/campaigns/tea").json()["stage"] == "draft"
    campaign = planned(client, revision)
    assert campaign["stage"] == "planned" and campaign["holdout"] > 0
    silent = [int(note.split()[0]) for note in campaign["notes"] if "nothing to say to them" in note]
    assert campaign["size"] + sum(silent) == 100, "each is counted"
    assert campaign["counts"] == {"draft": len(campaign["texts"])} and campaign["excluded"]
    names = [text["id"] for text in campaign["texts"]]
    edited = decide(client, campaign, decision="edit", text_ids=names[:1], text="Sips for you. Green tea 5, now $999.")
    assert edited["texts"][0]["status"] == "edited" and edited["texts"][0]["failures"]  # it is no price of the item
    refused = decide(client, edited, 403, decision="approve", text_ids=names[:1])
    assert "cannot be approved" in refused["error"]["message"]
    rejected = decide(client, edited, decision="reject", text_ids=names[:1], why="wrong price")
    assert rejected["texts"][0]["why"] == "wrong price"
    approved = decide(client, rejected, decision="approve", text_ids=names[1:])
    of_rejected = rejected["texts"][0]["people"]
    sent = ask(client, "/v1/campaigns/tea/export", {"revision": approved["revision"], "ids": everyone()})
    rows = emailed(sent)
    assert len(rows) == sent["reached"] == campaign["size"] - of_rejected
    assert sent["dropped"].get("text_not_approved", 0) == of_rejected
    assert {row["user_id"] for row in rows} <= set(everyone()) and names[0] not in {row["text_id"] for row in rows}
    assert client.get("/v1/campaigns/tea/report").json()["campaign_id"] == "tea"
    history = client.get("/v1/campaigns/tea").json()["history"]
    acts = [line["action"] for line in history]
    assert acts[:5] == ["created", "planned", "edited", "rejected", "approved"] and acts[-1] == "exported"
    assert {line["by"] for line in (*history[:5], history[-1])} == {"this machine"}
    (listed,) = client.get("/v1/campaigns").json()["campaigns"]
    assert listed["stage"] == "exported" and listed["addressed"] == campaign["size"]
    change = {"revision": sent["revision"], "campaign": CAMPAIGN}
    assert client.put("/v1/campaigns/tea", json=change).status_code == 403  # its report needs its plan


def test_every_write_names_the_revision_that_was_read(client: TestClient) -> None:
    first = drafted(client)
    taken = ask(client, "/v1/campaigns", {"campaign": CAMPAIGN}, 409)
    assert taken["error"]["type"] == "ConflictError"
    change = {"revision": first, "campaign": CAMPAIGN | {"goal": "more tea"}}
    second = client.put("/v1/campaigns/tea", json=change).json()["revision"]
    assert second != first and client.put("/v1/campaigns/tea", json=change).status_code == 409
    assert client.post("/v1/campaigns/tea/plan", json={"revision": first}).status_code == 409
    campaign = planned(client, second)
    assert campaign["goal"] == "more tea" and campaign["revision"] != second
    names = [text["id"] for text in campaign["texts"]]
    decide(client, campaign | {"revision": second}, 409, decision="approve", text_ids=names)
    assert client.get("/v1/campaigns/tea").json()["counts"] == {"draft": len(names)}
    approved = decide(client, campaign, decision="approve", text_ids=names)
    decide(client, campaign, 409, decision="reject", text_ids=names)
    ask(client, "/v1/campaigns/tea/export", {"revision": campaign["revision"]}, 409)
    # a changed file makes the plan count no more
    change = {"revision": approved["revision"], "campaign": CAMPAIGN}
    assert client.put("/v1/campaigns/tea", json=change).status_code == 200
    now = client.get("/v1/campaigns/tea").json()
    assert now["stage"] == "draft" and "texts" not in now
    again = ask(client, "/v1/campaigns/tea/export", {"revision": now["revision"]}, 422)
    assert "was changed after" in again["error"]["message"]
    assert planned(client, now["revision"], replace=True)["stage"] == "planned"


def test_a_price_that_changes_between_reading_and_deciding_is_a_conflict(client: TestClient) -> None:
    campaign = planned(client, drafted(client))
    item = campaign["texts"][0]["item_id"]
    changed = {"item_id": item, "title": f"Green tea {item[3:]}", "category": "food > tea", "price": 77}
    ask(client, "/v1/items", {"items": [changed]})
    decide(client, campaign, 409, decision="approve", text_ids=[campaign["texts"][0]["id"]])
    now = client.get("/v1/campaigns/tea").json()
    assert {t["status"] for t in now["texts"] if t["item_id"] == item} == {"withdrawn"}


def test_nobody_who_withdrew_or_was_erased_since_is_exported(client: TestClient) -> None:
    campaign = planned(client, drafted(client))
    campaign = decide(client, campaign, decision="approve", text_ids=[t["id"] for t in campaign["texts"]])
    order = {"revision": campaign["revision"], "ids": everyone()}
    first = ask(client, "/v1/campaigns/tea/export", order)
    reached = [row["user_id"] for row in emailed(first)]
    ask(client, "/v1/consent", {"consent": [{"user_id": reached[0], "purpose": "email", "granted": False}]})
    assert client.post("/v1/users/erase", json={"user_id": reached[1]}).status_code == 200
    ask(client, "/v1/campaigns/tea/export", order | {"revision": first["revision"]}, 409)
    now = client.get("/v1/campaigns/tea").json()["revision"]
    second = ask(client, "/v1/campaigns/tea/export", order | {"revision": now})
    (message,) = client.post("/v1/users/export", json={"user_id": reached[2]}).json()["messages"]
    assert message["campaign_id"] == "tea" and message["channel"] == "email"
    assert {row["user_id"] for row in emailed(second)} == set(reached[2:])
    assert second["dropped"] == {"consent_withdrawn": 1}


def test_a_wrong_campaign_is_told_what_is_wrong(client: TestClient) -> None:
    for fields, message in table("service_marketing", "a wrong campaign is told what is wrong"):
        body = json.dumps({"campaign": CAMPAIGN | fields})  # escaped, as half a sign cannot be sent otherwise
        answer = client.post("/v1/campaigns", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422 and message in answer.json()["error"]["message"], answer.text
    assert client.get("/v1/campaigns").json() == {"campaigns": []}


def test_campaigns_that_do_not_exist_are_not_found(client: TestClient) -> None:
    revision = {"revision": "0" * 16}
    for verb, path, body in (
        ("GET", "/v1/campaigns/none", None),
        ("GET", "/v1/campaigns/none/report", None),
        ("PUT", "/v1/campaigns/none", revision | {"campaign": CAMPAIGN}),
        ("POST", "/v1/campaigns/none/plan", revision),
        ("POST", "/v1/campaigns/none/decisions", revision | {"decision": "approve", "text_ids": ["t1"]}),
        ("POST", "/v1/campaigns/none/export", revision),
        ("GET", "/v1/jobs/none", None),
        ("POST", "/v1/jobs/none/cancel", None),
    ):
        assert client.request(verb, path, json=body).status_code == 404, path


def test_a_plan_that_cannot_be_made_says_why(client: TestClient) -> None:
    job = finished(client, "/v1/campaigns/tea/plan", {"revision": drafted(client, limits={"size": 5})})
    assert job["state"] == "failed" and job["error_type"] == "PolicyError" and "smaller than 50" in job["error"]
    assert client.get("/v1/campaigns/tea").json()["stage"] == "draft"


def test_a_job_waits_runs_and_is_cancelled() -> None:
    background, step, goes_on = Background(1), threading.Event(), threading.Event()

    def work(tell: Callable[[str], None]) -> str:
        tell("first")
        step.set()
        assert goes_on.wait(60)
        tell("second")
        return "done"

    def state(job_id: str) -> JobState:
        return background.job("shop", job_id).state

    first, waiting = background.submit("shop", "a", work), background.submit("shop", "b", lambda _: 7)
    background.start()
    assert step.wait(60) and state(first.job_id) is JobState.RUNNING
    assert background.open_job("shop", "a") and not background.open_job("other", "a")
    with pytest.raises(UnknownIdError):
        background.job("other", first.job_id)
    assert background.cancel("shop", first.job_id).cancelling
    goes_on.set()
    until(lambda: state(first.job_id) is JobState.CANCELLED)
    until(lambda: state(waiting.job_id) is JobState.DONE)
    assert background.job("shop", waiting.job_id).result == 7
    assert background.cancel("shop", waiting.job_id).state is JobState.DONE
    failing = background.submit("shop", "c", lambda _: 1 / 0)
    until(lambda: state(failing.job_id) is JobState.FAILED)
    assert background.job("shop", failing.job_id).error_type == "internal"
    background.close()


def viewed(session: str, *items: str, **fields: Any) -> dict[str, Any]:
    return {"events": [{"session_id": session, "item_id": item, "event": "cart", **fields} for item in items]}


def test_a_session_has_a_history_and_joins_one_person(client: TestClient) -> None:
    assert ask(client, "/v1/recommend", {"session_id": "v1", "k": 3})["status"] == "unknown_user"
    ask(client, "/v1/events", viewed("v1", "tool1", "tool2"))
    answer = ask(client, "/v1/recommend", {"session_id": "v1", "k": 5})
    assert answer["status"] == "personal" and answer["items"][0]["item_id"].startswith("tool")
    assert answer["user_id"] == "v1"
    assert ask(client, "/v1/recommend", {"user_id": "v1", "k": 3})["status"] == "unknown_user"  # no person's id
    assert ask(client, "/v1/search", {"session_id": "v1", "query": "hammer"})["status"] == "personal"
    assert ask(client, "/v1/recommend", {"user_id": "newcomer", "k": 3})["status"] == "unknown_user"
    join = {"session_id": "v1", "user_id": "newcomer"}
    assert ask(client, "/v1/sessions/join", join) == {"joined": True, "events": 2}
    assert ask(client, "/v1/sessions/join", join) == {"joined": True, "events": 0}
    assert ask(client, "/v1/sessions/join", join | {"user_id": "u00"}, 409)["error"]["type"] == "ConflictError"
    answer = ask(client, "/v1/recommend", {"user_id": "newcomer", "k": 5})
    assert answer["status"] == "personal" and answer["items"][0]["item_id"].startswith("tool")
    ask(client, "/v1/events", viewed("v1", "tea1"))  # late events, too, are the person's
    own = client.post("/v1/users/export", json={"user_id": "newcomer"}).json()
    assert sorted(event["item_id"] for event in own["events"]) == ["tea1", "tool1", "tool2"]
    assert len(own["sessions"]) == 1
    assert ask(client, "/v1/recommend", {"session_id": "v1", "k": 5})["status"] == "personal"  # by the person's consent


def test_sessions_are_nobody_in_what_concerns_everybody(folder: Path, client: TestClient) -> None:
    before = ask(client, "/v1/audience", {"category": "food > tea", "size": 60})
    ask(client, "/v1/events", {"events": [e for n in range(9) for e in viewed(f"v{n}", "tea1")["events"]]})
    after = ask(client, "/v1/audience", {"category": "food > tea", "size": 60})
    assert {name: before[name] for name in ("size", "holdout", "excluded")}.items() <= after.items()
    with Workspace.open(folder) as shop:
        gate, session = shop.gate(), shop.session_pseudonymiser().one("v1")
        assert session.startswith(SESSION_PREFIX) and not shop.pseudonymiser().one("v1").startswith(SESSION_PREFIX)
        assert gate.permits(session, Purpose.PERSONALISATION) and not gate.permits(session, Purpose.EMAIL)
        assert not gate.permits(session, Purpose.MODEL_TRAINING)
        assert session not in gate.permitted_users(Purpose.PERSONALISATION)
        assert len(gate.dataset(Purpose.PERSONALISATION).users) == PEOPLE


def test_a_session_of_someone_who_refused_is_not_joined_and_has_refused(client: TestClient) -> None:
    refusal = {"user_id": "u01", "purpose": "personalisation", "granted": False}
    ask(client, "/v1/consent", {"consent": [refusal]})
    ask(client, "/v1/events", viewed("v3", "tool1"))
    assert ask(client, "/v1/recommend", {"session_id": "v3", "k": 3})["status"] == "personal"
    join = {"session_id": "v3", "user_id": "u01"}
    assert ask(client, "/v1/sessions/join", join) == {"joined": False, "events": 0}
    assert ask(client, "/v1/recommend", {"session_id": "v3", "k": 3})["status"] == "no_consent"
    own = client.post("/v1/users/export", json={"user_id": "u01"}).json()
    assert own["sessions"] == [] and len(own["events"]) == 28
    ask(client, "/v1/consent", {"consent": [refusal | {"granted": True}]})
    assert ask(client, "/v1/sessions/join", join) == {"joined": True, "events": 1}


def test_an_event_is_of_a_person_or_a_session(client: TestClient) -> None:
    event = {"item_id": "tea1", "event": "view"}
    for who in ({}, {"user_id": "a", "session_id": "b"}, {"session_id": "null"}):
        assert client.post("/v1/events", json={"events": [event | who]}).status_code == 422
    assert client.post("/v1/recommend", json={"user_id": "a", "session_id": "b"}).status_code == 422
    mixed = {"events": [event | {"user_id": "u00"}, event | {"session_id": "u00"}]}
    assert ask(client, "/v1/events", mixed)["accepted"] == 2


def test_an_erased_person_is_gone_from_every_operation(client: TestClient) -> None:
    """What is erased, and where: test_erasure."""
    ask(client, "/v1/consent", {"consent": [{"user_id": "u00", "purpose": "email", "granted": True}]})
    ask(client, "/v1/events", viewed("v1", "tea1"))
    ask(client, "/v1/sessions/join", {"session_id": "v1", "user_id": "u00"})
    rows = ask(client, "/v1/users/erase", {"user_id": "u00"})["rows"]
    assert {table: n for table, n in rows.items() if n} == {"events": 29, "consent": 1, "sessions": 1, "users": 1}
    back = {"user_id": "u00", "item_id": "tool1", "event": "purchase"}
    assert ask(client, "/v1/events", {"events": [back, back | {"user_id": "u01"}]})["rejected"] == [0]
    assert ask(client, "/v1/users", {"users": [{"user_id": "u00", "basics": {}}]})["erased"] == 1
    assert ask(client, "/v1/sessions/join", {"session_id": "v2", "user_id": "u00"})["joined"] is False
    for path in ("users/profile", "users/export", "users/erase"):
        ask(client, f"/v1/{path}", {"user_id": "u00"}, 404)
    ask(client, "/v1/explain", {"user_id": "u00", "item_id": "tea1"}, 404)
    assert client.post("/v1/copy", json={"user_id": "u00", "channel": "push"}).status_code < 500
    assert ask(client, "/v1/recommend", {"user_id": "u00", "k": 3})["status"] == "unknown_user"
    assert ask(client, "/v1/recommend", {"user_id": "u02", "k": 3})["status"] == "personal"
    assert ask(client, "/v1/audience", {"category": "food > tea", "size": 60})["size"] == 60


def test_what_is_written_after_an_erasure_counts_for_everybody(folder: Path) -> None:
    """The last events are those of the person erased: their numbers are given again."""
    with serving(folder, settings=FAST) as client:
        last = {"user_id": "last", "item_id": "tea1", "event": "purchase"}
        ask(client, "/v1/events", {"events": [last]})
        with Workspace.open(folder) as shop:
            refresh(shop)
        client.post("/v1/users/erase", json={"user_id": "last"})
        ask(client, "/v1/events", {"events": [last | {"user_id": "u01", "item_id": "tea7"}]})
        with Workspace.open(folder) as shop:
            data = open_recommender(shop, everybody=True).dataset
            row = int(data.user_rows([shop.pseudonymiser().one("u01")])[0])
            mine = data.items["item_id"].gather(data.events.rows([row]).item.tolist()).to_list()
            assert mine.count("tea7") == 1 and len(mine) == 29


def test_an_item_taken_off_is_nowhere_and_its_events_stay(client: TestClient) -> None:
    item = next(item for item in shown(client, user_id="u00") if item.startswith("tea"))
    assert client.delete(f"/v1/items/{item}").status_code == 204
    assert client.delete(f"/v1/items/{item}").status_code == 404
    assert client.delete("/v1/items/nothing").status_code == 404
    assert item not in shown(client, user_id="u00") + shown(client, user_id="stranger")
    assert item not in shown(client, basket=["tea1"]) + found(client, "tea", user_id="u00") + found(client, item)
    assert client.post("/v1/explain", json={"user_id": "u00", "item_id": item}).status_code == 404
    assert client.get(f"/v1/items/{item}/similar").status_code == 404
    assert item not in {i["item_id"] for i in client.get("/v1/items/tea1/similar?k=30").json()["items"]}
    assert client.post("/v1/copy", json={"user_id": "u00", "item_id": item}).status_code in (404, 422)
    assert client.post("/v1/audience", json={"items": [item]}).status_code == 404
    ask(client, "/v1/recommend", {"user_id": "u00", "exclude": [item], "basket": [item], "explain": True})
    assert item in {e["item_id"] for e in client.post("/v1/users/export", json={"user_id": "u00"}).json()["events"]}
    assert client.post("/v1/users/profile", json={"user_id": "u00"}).status_code == 200
    ask(client, "/v1/items", {"items": [{"item_id": item, "title": "Green tea again", "category": "food > tea"}]})
    assert item in shown(client, user_id="u00")


def test_an_offer_ends_while_the_service_runs(client: TestClient) -> None:
    now = datetime.fromisoformat(ask(client, "/v1/recommend", {"user_id": "u00"})["as_of"])
    item = {"item_id": "tea1", "title": "Green tea 1", "category": "food > tea", "price": 3}
    ends = (now + timedelta(days=1)).isoformat()
    ask(client, "/v1/items", {"items": [item | {"available_until": ends}]})
    assert "tea1" in shown(client, user_id="u00") and "tea1" in found(client, "tea")
    late = {"user_id": "u99", "item_id": "tool1", "event": "view", "timestamp": (now + timedelta(days=2)).isoformat()}
    ask(client, "/v1/events", {"events": [late]})  # the log that is replayed goes on, and with it the present
    assert "tea1" not in shown(client, user_id="u00") + found(client, "tea") + found(client, "tea1")
    assert client.post("/v1/copy", json={"user_id": "u00", "item_id": "tea1"}).status_code == 404


def test_the_work_for_a_figure_does_not_show_who_is_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer would show it."""
    calls: list[tuple[int, ...]] = []
    for name in ("target_probabilities", "likeness", "reasons_for"):
        real = getattr(audience, name)
        monkeypatch.setattr(
            audience, name, lambda *args, real=real, **kw: calls.append(tuple(map(len, args[1:3]))) or real(*args, **kw)
        )
    alone = {"suppressed": [f"u{n:02}" for n in range(1, PEOPLE)], "explain_first": 5}
    with serving(folder, settings=FAST) as client:
        figures = {"X-API-Key": make_key(folder, "marketing")}
        for target in ({"items": ["tea2", "tea1"]}, {"seeds": ["u01", "u02"]}):
            calls.clear()
            for n in (1, 999):  # one customer, or none
                body = target | alone | {"people": {"condition": "orders", "at_least": n}}
                ask(client, "/v1/audience", body, headers=figures)
            assert calls[: len(calls) // 2] == calls[len(calls) // 2 :] and any(PEOPLE in n for n in calls), calls
        calls.clear()
        for n in (0, 1):  # all customers are seeds, or all but one
            ask(client, "/v1/audience", {"seeds": [f"u{k:02}" for k in range(n, PEOPLE)]}, headers=figures)
        assert [sizes for sizes in calls if any(sizes)] == [(PEOPLE, PEOPLE), (PEOPLE - 1, PEOPLE)]
        strangers = [{"seeds": ["stranger", seed]} for seed in ("u01", "another")]
        known, unknown = (ask(client, "/v1/audience", body, headers=figures) for body in strangers)
        assert known["notes"] == unknown["notes"] and known["campaign_id"] == unknown["campaign_id"]


def test_a_key_without_the_scope_people_gets_rounded_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.shop.workspace.figures.SIZE_BUDGET", 60.0)
    body = {"items": ["tea2"], "size": 60, "people": {"condition": "orders", "at_least": 1}}
    with serving(folder, settings=FAST) as client:
        figures = {"X-API-Key": make_key(folder, "marketing")}
        lists = {"X-API-Key": make_key(folder, "marketing", "people")}
        exact = ask(client, "/v1/audience", body, headers=lists)
        rounded = ask(client, "/v1/audience", body, headers=figures)
        assert len(exact["people"]) == exact["size"] and rounded["people"] == []
        numbers = [n for n in (rounded["size"], *rounded["excluded"].values(), rounded["rule"][0]["people"]) if n]
        assert all(n % 50 == 0 for n in numbers) and rounded["excluded"].keys() >= exact["excluded"].keys()
        alone = {"suppressed": [f"u{n:02}" for n in range(1, PEOPLE)], "seeds": ["u01"], "holdout": 0.5}
        for n in (1, 999):  # one customer is left, or none: neither a missing reason nor an error shows it
            few = alone | {"people": {"condition": "orders", "at_least": n}}
            assert ask(client, "/v1/audience", few, headers=figures)["excluded"].keys() == set(ExclusionReason)
        assert ask(client, "/v1/audience", body | {"explain_first": 0}, headers=figures)["size"] == rounded["size"]
        # neither the size of the list nor an error shows how near a group is to the floor
        one = body | {"suppressed": [f"u{n:02}" for n in range(30, PEOPLE)]}
        assert client.post("/v1/audience", json=one, headers=lists).status_code == 403
        assert ask(client, "/v1/audience", one, headers=figures)["people"] == []
        many = [ask(client, "/v1/audience", body | {"salt": str(n)}, headers=figures) for n in range(40)]
        assert {answer["size"] for answer in many[-9:]} == {None} and many[-1]["notes"][-1].startswith("no sizes")


def test_the_occasions_of_a_day_are_listed_in_the_background(client: TestClient) -> None:
    """Over HTTP as from the command line: each person once, with the reason and the channel."""
    ids = everyone()
    job = finished(client, "/v1/occasions", {"limit": 25, "ids": ids})
    assert job["about"] == "occasions" and job["state"] == JobState.DONE
    people = job["result"]["people"]
    assert 0 < len(people) <= 25 and sum(job["result"]["counts"].values()) == len(people)
    assert len({person["user_id"] for person in people}) == len(people)
    assert all(person["user_id"] in ids and person["reasons"] and person["channel"] for person in people)


def test_a_day_beyond_the_log_has_no_occasions(client: TestClient) -> None:
    job = finished(client, "/v1/occasions", {"on": "2090-01-01"})
    assert job["state"] == JobState.FAILED and "2090-01-01" in job["error"]
