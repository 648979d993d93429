"""Rules over people through every door: audience, service, command line, a campaign's file and the console's form.

The shop has no model: seeds need none, and neither does a count.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from console_world import Page, press
from fastapi.testclient import TestClient
from shop_world import START, item_lines, load_lines, loaded, purchase_lines
from shop_world import shop as world
from store_view import campaign_message
from test_console import assert_harmless
from waiting import until

from recllm.base.errors import DataError
from recllm.base.policy import Policy
from recllm.base.service_settings import ServiceSettings
from recllm.market.audiences.people_rule import parse_rule
from recllm.market.campaigns.drafts import campaign_file, change_campaign, create_campaign, revision_of
from recllm.market.campaigns.reach import count_reachable
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace

PEOPLE = 40
FLOOR = 3
REFUSED, NO_EMAIL = ("u00", "u01"), ("u02", "u04")
"""Even people buy tea, odd ones tools."""
TEA = {"condition": "bought", "category": "tea"}
OLDER = {"condition": "basic", "name": "age", "at_least": 35}
REACHED = {"condition": "reached", "campaign": "winter"}
RULE = {"all": [TEA, {"any": [OLDER, {"condition": "agreed", "channel": "email"}]}, {"not": REACHED}]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people refused everything personal, two e-mail; u06 and u00 were sent a message."""
    folder = tmp_path_factory.mktemp("rules")
    data = world(people=PEOPLE, visits=4)
    log = purchase_lines(data, data.users["user_id"].to_list())
    ages = ["user_id,age", *(f"u{n:02},{'35-44' if n % 4 == 0 else '18-24'}" for n in range(PEOPLE))]
    no = [f"{name},personalisation,false,2024-01-01T00:00:00Z" for name in REFUSED]
    no += [f"{name},email,false,2024-01-01T00:00:00Z" for name in NO_EMAIL]
    consent = ["user_id,purpose,granted,timestamp", *no]
    settings: dict[str, Any] = {"currency": "EUR", "timezone": "UTC", "service": ServiceSettings(watch_seconds=0.05)}
    files = {"items": item_lines(data), "events": log, "users": ages, "consent": consent}
    loaded(folder, files, policy=Policy(group_floor=FLOOR, small_shop=0), **settings)
    with Workspace.open(folder / "shop") as shop:
        at = datetime.fromtimestamp(START, UTC) + timedelta(days=20)
        names = enumerate(shop.pseudonymiser().many(["u06", "u00"]))
        sent = [campaign_message(n, name, "email", "tea1", campaign_id="winter", exported_at=at) for n, name in names]
        shop.store().add_messages(sent)
    return folder / "shop"


def expected() -> set[int]:
    """Numbers of the people whom RULE means."""
    return {n for n in range(2, PEOPLE) if n % 2 == 0 and (n % 4 == 0 or n not in (2, 4)) and n != 6}


def audience(client: TestClient, status: int = 200, **body: Any) -> Any:
    answer = client.post("/v1/audience", json={"seeds": ["u03", "u05"], "holdout": 0, "explain_first": 0, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_audience_of_a_rule_adds_up_and_names_it(client: TestClient) -> None:
    ids = [f"u{n:02}" for n in range(PEOPLE)]
    answer = audience(client, people=RULE, ids=ids)
    assert {person["user_id"] for person in answer["people"]} == {f"u{n:02}" for n in expected()}
    assert answer["excluded"]["people_rule"] == PEOPLE - len(REFUSED) - 2 - len(expected())
    assert answer["excluded"]["no_consent"] is None and answer["excluded"]["seed"] is None  # few
    assert {count["words"]: count["people"] for count in answer["rule"]} == {
        "bought “tea” and (age of 35 or more or agreed to e-mail) and never reached by the campaign winter": 17,
        "bought “tea”": 19,
        "age of 35 or more": 9,
        "agreed to e-mail": 36,
        "reached by the campaign winter": None,  # one person: fewer than the floor
    }
    assert any("only people of whom this is true: bought “tea”" in note for note in answer["notes"])
    everybody = audience(client)
    assert everybody["rule"] == [] and "people_rule" not in everybody["excluded"]


def test_only_people_who_agreed_are_counted_and_a_withdrawal_acts_at_once(client: TestClient, folder: Path) -> None:
    before = audience(client, people=TEA)
    assert before["rule"][0]["people"] == 19  # u00 bought tea too, and refused
    refusals = [f"{name},personalisation,false,2025-01-01T00:00:00Z" for name in ("u08", "u10")]
    with Workspace.open(folder) as shop:
        load_lines(shop, "consent", ["user_id,purpose,granted,timestamp", *refusals])
    after = audience(client, people=TEA)
    assert after["rule"][0]["people"] == 17 and after["excluded"]["no_consent"] in (None, len(REFUSED) + 2)
    # of those who agreed to the channel alone, where one is asked for
    assert audience(client, people=TEA, channel="email")["rule"][0]["people"] == 15


def test_a_wrong_rule_is_refused_with_a_remedy_and_sensitive_products_pick_nobody(client: TestClient) -> None:
    for rule, words in (
        ({"condition": "bought", "category": "tee"}, "did you mean 'tea'"),
        ({"all": [TEA, {"condition": "bought", "days": "x"}]}, "all[1].days must be a number"),
        ("tea", "must be a group"),
    ):
        assert words in audience(client, 422, people=rule)["error"]["message"]
    refused = audience(client, 403, people={"condition": "bought", "category": "tobacco"})
    assert refused["error"]["type"] == "PolicyError"


def test_the_schema_tells_every_condition(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"AllRule", "AnyRule", "NotRule", "DeedRule", "SpentRule", "BasicRule", "ReachedRule"} <= set(schemas)
    (condition,) = [part for part in schemas["NotRule"]["properties"]["not"]["oneOf"] if "discriminator" in part]
    assert condition["discriminator"]["mapping"]["last_order"].endswith("OrderAgeRule")
    assert "minItems" in schemas["AllRule"]["properties"]["all"]


CAMPAIGN = {
    "id": "tea",
    "channels": ["email"],
    "target": {"items": ["tea1"], "people": RULE},
    "sender": {"name": "Leaf & Iron", "address": "1 Market Street", "opt_out": "https://example.com/stop"},
}


def test_a_campaign_over_http_keeps_its_rule_and_says_it(client: TestClient, folder: Path) -> None:
    rule = {"all": [{**TEA, "days": None}, *RULE["all"][1:]]}  # JSON has nulls, a file has none
    answer = client.post("/v1/campaigns", json={"campaign": CAMPAIGN | {"target": {"items": ["tea1"], "people": rule}}})
    assert answer.status_code == 201, answer.text
    document = client.get("/v1/campaigns/tea").json()
    assert parse_rule(document["people_rule"]["rule"]) == parse_rule(RULE)
    assert document["people_rule"]["words"].startswith("bought “tea” and (age of 35 or more or agreed to e-mail)")
    wrong = CAMPAIGN | {"id": "wrong", "target": {"items": ["tea1"], "people": {"all": [TEA, {"not": 3}]}}}
    refused = client.post("/v1/campaigns", json={"campaign": wrong})
    assert refused.status_code == 422 and "all[1].not must be a group" in refused.text
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, "tea").target.people == parse_rule(RULE)


def test_a_campaign_counts_whom_its_rule_leaves_out(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        create_campaign(shop, CAMPAIGN, by="Ann")
        recommender, file = open_recommender(shop, everybody=True), campaign_file(shop, "tea")
        reach = count_reachable(shop, recommender, file, FigureGate(shop))
        emailed = expected() - {2, 4}
        assert (reach.reachable, reach.excluded["people_rule"]) == (len(emailed), PEOPLE - 4 - len(emailed))
        assert list(reach.rule.values()) == [16, 17, 8, 36, None]  # the last is one person
        noisy = count_reachable(shop, recommender, file, FigureGate(shop, "key:1"))
        assert noisy.excluded.keys() > reach.excluded.keys()
        broken = CAMPAIGN | {"target": {"items": ["tea1"], "people": {"any": []}}}
        with pytest.raises(DataError, match="any must not be empty"):
            change_campaign(shop, "tea", broken, revision=revision_of(shop, "tea"), by="Ann")


def test_the_command_line_takes_json_and_files(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("u03\nu05\n")
    (tmp_path / "rule.toml").write_text('[[all]]\ncondition = "bought"\ncategory = "tea"\n')
    options = ["audience", "--with", f"seeds=@{tmp_path / 'seeds.txt'},holdout=0", "-w", str(folder)]
    code, out, error = command(*options, "--people", str(tmp_path / "rule.toml"), "--json")
    assert code == 0, error
    document = json.loads(out)
    assert document["rule"][0] == {"words": "bought “tea”", "people": 19} and document["size"] == 19
    code, out, _ = command(*options, "--people", json.dumps(RULE))
    assert code == 0 and "only people of whom this is true: bought “tea” and" in out
    assert re.search("bought “tea” +19\n", out) and re.search("reached by the campaign winter +-\n", out)
    for wrong, words in {"{": "no JSON", '{"all": []}': "must not be empty", "nothing.toml": "cannot be read"}.items():
        code, _, error = command(*options, "--people", wrong)
        assert code == 2 and words in error
    code, _, error = command("audience", "--campaign", "x.toml", "--people", json.dumps(RULE), "-w", str(folder))
    assert code == 2 and "says whom the campaign is for" in error


ADDRESS = "/campaigns/campaign/tea"


def drafted(folder: Path, **target: Any) -> None:
    with Workspace.open(folder) as shop:
        create_campaign(shop, CAMPAIGN | {"target": {"items": ["tea1"], **target}}, by="Ann")


def test_a_rule_is_built_saved_and_changed_without_scripts(client: TestClient, folder: Path) -> None:
    drafted(folder)
    path = f"{ADDRESS}/people"
    text = press(client, path, "Add the condition", {"Kind of condition": "Did something"}).text
    tea = {"With what": "a category", "Its name or number": "tea", "Within the last days": "3000"}
    text = press(client, text, "Add the condition", tea | {"Kind of condition": "Reached by a campaign"}).text
    address, data = Page(text).filled("Count again", {"Customers at most": "7", "Campaign (its id)": "winter"})
    data["people:1:no"] = ["not"]
    assert data["people:0:named"] == ["tea"]
    until(lambda: "read for the first time" not in client.post(address, data=data).text)
    counted = assert_harmless(client.post(address, data=data).text).text
    match = re.search(r"\b(\d+)\s+customers who agreed meet the whole rule", counted)
    assert match is not None and int(match[1]) > FLOOR, counted
    assert "are estimates" not in counted  # exact numbers on this machine
    assert re.search(r"bought “tea” in the last 3000 days\s*17(?!\d)", counted)
    assert re.search(r"reached by the campaign winter\s*fewer than 3", counted)
    assert "do not meet the rule" in counted
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, "tea").target.people is None  # nothing was written so far
    assert client.post(f"{ADDRESS}/save/people", data=data, follow_redirects=False).status_code == 303
    with Workspace.open(folder) as shop:
        file = campaign_file(shop, "tea")
        assert file.target.people == parse_rule({"all": [{**TEA, "days": 3_000}, {"not": REACHED}]})
        assert file.limits.size == 7
    sentence = "bought “tea” in the last 3000 days and never reached by the campaign winter"
    assert sentence in Page(client.get(path).text).text
    nothing = press(client, press(client, path, "Remove").text, "Remove").text
    assert press(client, nothing, "Choose products").status_code == 303
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, "tea").target.people is None


def test_htmx_gets_the_fields_and_the_count_alone(client: TestClient, folder: Path) -> None:
    drafted(folder, people={"all": [TEA, {"not": REACHED}]})
    address, data = Page(client.get(f"{ADDRESS}/people").text).filled("Count again", {})
    until(lambda: "read for the first time" not in client.post(address, data=data).text)
    part = client.post(f"{ADDRESS}/count?act=remove:1", data=data, headers={"hx-request": "true"}).text
    assert "<html" not in part and 'id="people-rule"' in part and 'hx-swap-oob="outerHTML"' in part
    assert "reached by the campaign winter" not in part and "meet the whole rule" in part
    assert "<script" not in part and "style=" not in part


def test_a_rule_that_a_form_would_write_otherwise_stays_as_it_is(client: TestClient, folder: Path) -> None:
    for n, rule in enumerate((RULE, {"not": {"not": {"condition": "bought", "category": "tea", "at_least": 1}}})):
        with Workspace.open(folder) as shop:
            fields = CAMPAIGN | {"id": f"deep{n}", "target": {"items": ["tea1"], "people": rule}}
            create_campaign(shop, fields, by="Ann")
        path = f"/campaigns/campaign/deep{n}/people"
        assert press(client, path, "Choose products", {"Customers at most": "9"}).status_code == 303
        with Workspace.open(folder) as shop:
            file = campaign_file(shop, f"deep{n}")
            assert file.target.people == parse_rule(rule) and file.limits.size == 9


def test_what_is_wrong_stands_at_its_condition_and_nothing_is_lost(client: TestClient, folder: Path) -> None:
    drafted(folder, people=TEA)
    path, hostile = f"{ADDRESS}/people", "</textarea><script>alert(1)</script>"
    seen = client.get(path).text
    answer = press(client, seen, "Choose products", {"Within the last days": "often", "Its name or number": hostile})
    page = assert_harmless(answer.text)
    assert answer.status_code == 422 and "Choose what they did" in page.text
    assert page.value("Within the last days") == "often" and page.value("Its name or number") == hostile
    until(lambda: "read for the first time" not in press(client, path, "Count again").text)
    unknown = press(client, path, "Count again", {"Its name or number": "tee"})
    assert "“tee” is unknown. Did you mean: tea" in Page(unknown.text).text
    assert press(client, path, "Choose products", {"Customers at most": "5"}).status_code == 303
    late = press(client, seen, "Choose products", {"Its name or number": "tools"})
    assert late.status_code == 409 and assert_harmless(late.text).value("Its name or number") == "tools"


def test_the_form_speaks_both_languages_and_labels_every_field(client: TestClient, folder: Path) -> None:
    conditions = [
        *(TEA, {"condition": "spent", "at_least": 5}, {"condition": "orders", "at_least": 1}),
        *({"condition": "last_order", "at_most": 900}, OLDER, {"condition": "agreed", "channel": "push"}, REACHED),
    ]
    drafted(folder, people={"any": [*conditions, {"not": TEA}]})
    for language, words in {"en": "spent at least 5 EUR", "zh": "消费至少 5 EUR"}.items():
        client.cookies.set("recllm-language", language)
        page = assert_harmless(client.get(f"{ADDRESS}/people").text)
        assert words in page.text
        ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
        labels = {attributes.get("for") for attributes in page.of("label")}
        fields = [f for tag in ("input", "select", "textarea") for f in page.of(tag) if f.get("type") != "hidden"]
        assert len(ids) == len(set(ids)) and all(field["id"] in labels for field in fields)
