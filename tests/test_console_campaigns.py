"""Campaigns and experiments in the console: every step, counts, decisions, conflicts, exports, in both languages."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from console_world import SHOP_ID, Page, press
from fastapi.testclient import TestClient
from test_console import assert_harmless, find_person, send, serving
from waiting import until

from recllm.base.stats.intervals import expected_hits, smallest_difference
from recllm.base.words.sentences import LANGUAGES
from recllm.doors.console.campaign_fields import (
    FIELDS,
    CampaignStep,
    FieldKind,
    WrongFieldsError,
    field_texts,
    fields_of_file,
    with_typed,
)
from recllm.doors.console.campaign_messages import marked
from recllm.market.campaigns.drafts import campaign_file, list_campaigns
from recllm.market.experiments.effect import Treatment, variant_of
from recllm.market.experiments.feedback import FEEDBACK_SCHEMA
from recllm.market.experiments.slates import experiment_outcome, list_experiments, start_experiment
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.record import record_events
from recllm.shop.workspace.keys import Scope, create_key
from recllm.shop.workspace.workspace import Workspace, present

SENDER = {
    "Name of the sender": "Leaf & Iron",
    "Postal address": "1 Market Street",
    "Unsubscribe link or mailbox": "https://example.com/stop",
}
GOAL = "Tea for <b>those</b> who drink it"
NAME = "tea-for-b-those-b-who-drink-it"
ADDRESS = f"/campaigns/campaign/{NAME}"
STEPS = ("occasion", "people", "products", "messages", "review")
PRODUCTS, TEAS = "Product numbers, one a line", "tea-1\ntea-2\ntea-3"


@pytest.fixture
def folder(console_shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(console_shop, tmp_path / "shop"))


def drafted(client: TestClient, **typed: Any) -> None:
    """A draft for three teas."""
    made = press(client, "/campaigns/new", "Choose people", {"Name of the campaign": GOAL, **SENDER, **typed})
    assert made.status_code == 303 and made.headers["location"].startswith(f"{ADDRESS}/people"), Page(made.text).text
    assert press(client, f"{ADDRESS}/products", "Save", {PRODUCTS: TEAS}).status_code == 303


def written(client: TestClient) -> str:
    """The page of the messages once they are written."""
    ordered = press(client, f"{ADDRESS}/products", "Write the messages")
    assert ordered.status_code == 303, Page(ordered.text).text
    return after_writing(client, str(ordered.headers["location"]))


def after_writing(client: TestClient, where: str) -> str:
    until(lambda: 'name="text_id"' in client.get(where).text or "could not be written" in client.get(where).text)
    return client.get(where).text


def approved(client: TestClient) -> None:
    done = press(client, f"{ADDRESS}/messages", "Approve all", {"Your name": "Ann <i>"})
    assert done.status_code == 303, Page(done.text).text


def test_from_an_empty_list_to_an_export(client: TestClient, folder: Path) -> None:
    assert "No campaigns yet" in client.get("/campaigns").text
    drafted(client)
    changed = press(client, f"{ADDRESS}/people", "Choose products", {"Share in per cent": "40"})
    assert changed.status_code == 303 and changed.headers["location"].startswith(f"{ADDRESS}/products")
    page = assert_harmless(client.get(f"{ADDRESS}/occasion").text)
    assert GOAL in page.text and "Draft, nothing is sent" in page.text
    with Workspace.open(folder) as shop:
        file = campaign_file(shop, NAME)
        assert file.limits.holdout == 0.4 and set(file.target.items or ()) == set(TEAS.split())
    page = assert_harmless(written(client))
    plan = folder / "campaigns" / NAME / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"silent_items": {"tea-1": "no_proof"}}))
    for language, words in (("en", "the law asks for a proof of the offer"), ("zh", "缺少法律要求的优惠证明")):
        assert words in client.get(f"{ADDRESS}/products", headers={"cookie": f"recllm-language={language}"}).text
    nameless = press(client, f"{ADDRESS}/messages", "Approve all")
    assert nameless.status_code == 422 and "Type your name" in nameless.text
    approved(client)
    page = assert_harmless(client.get(f"{ADDRESS}/review").text)
    assert "Ann <i>" in page.text and "Before it goes" in page.text and "Control group" in page.text
    forgotten = press(client, f"{ADDRESS}/review", "Export")
    assert forgotten.status_code == 422 and "Tick that you have read" in forgotten.text
    label = next(entry.label for form in page.forms for entry in form.fields if entry.label.startswith("I have read"))
    said = re.search(r"(\d+) messages, (\d+) customers held back", label)
    assert said
    assert "Too few to show any effect" in page.text and "The control group is too small" in page.text
    mail = client.get(f"{ADDRESS}/messages?channel=email").text
    button, added = re.findall(r'class="cta">([^<]+)<.*?class="xs muted">([^<]+)<', mail, re.DOTALL)[0]
    assert "Unsubscribe" in added and "Unsubscribe" not in button
    files = {"ids": ("ids.txt", f"{SHOP_ID}\nu02\nu04\nu06\n".encode())}
    exported = press(client, f"{ADDRESS}/review", "Export", {label: True}, files=files)
    assert exported.status_code == 200 and exported.headers["content-type"] == "application/zip", exported.text
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        rows = [row for name in archive.namelist() for row in csv.DictReader(io.StringIO(archive.read(name).decode()))]
    assert len(rows) == int(said[1])
    assert {row["user_id"] for row in rows if not row["user_id"].startswith("u1_")} <= {SHOP_ID, "u02", "u04", "u06"}
    assert any(not row["user_id"].startswith("u1_") for row in rows)
    result = assert_harmless(client.get(f"/results/campaign/{NAME}").text)
    assert "Customers written to" in result.text and "against the control group" in result.text
    assert "Cannot tell yet" in result.text and "Very likely between" not in result.text
    assert client.get(ADDRESS, follow_redirects=False).headers["location"] == f"/results/campaign/{NAME}"
    assert GOAL in assert_harmless(client.get("/results").text).text
    again = client.post(f"{ADDRESS}/export", data={"confirmed": "yes", "revision": "0" * 16})
    assert again.status_code == 409 and "Another person changed" in again.text
    with Workspace.open(folder) as shop:
        assert [line.stage for line in list_campaigns(shop)] == ["exported"]
    copied = press(client, f"/results/campaign/{NAME}", "Do it again")
    assert copied.status_code == 303 and f"{NAME}-2" in copied.headers["location"]


def test_today_drafts_a_whole_campaign(client: TestClient, folder: Path) -> None:
    until(lambda: "Draft it" in client.get("/").text)
    first = press(client, "/", "Draft it: Due again")
    assert first.headers["location"].startswith("/campaigns/new?occasion=replenish")  # who sends is typed once
    page = Page(client.get(first.headers["location"]).text)
    assert page.value("Name of the campaign").startswith("Due again, ")
    made = press(client, first.headers["location"], "Choose people", SENDER)
    assert made.status_code == 303, Page(made.text).text
    second = press(client, "/", "Draft it: Due again")
    assert "/messages?job=" in second.headers["location"]
    assert "kinds of message" in Page(after_writing(client, second.headers["location"])).text
    with Workspace.open(folder) as shop:
        files = [campaign_file(shop, line.campaign_id) for line in list_campaigns(shop)]
        assert [file.target.occasion for file in files] == ["replenish", "replenish"]
        assert {file.sender.name for file in files} == {"Leaf & Iron"}
    until(lambda: "Summer in 20 days" in client.get("/").text)
    of_day = press(client, "/", "Draft it: Summer in 20 days")
    assert "/messages?job=" in of_day.headers["location"]
    with Workspace.open(folder) as shop:
        file = campaign_file(shop, "summer-21-jun-2025")
        assert file.target.day == "summer" and file.target.items == ("tea-9",) and file.target.people
        assert file.send == datetime(2025, 6, 11, 9, tzinfo=UTC)
    offer = send(client, "/campaigns/draft", occasion="black_friday")  # there is nothing to say without one
    assert offer.headers["location"].startswith("/campaigns/new?occasion=black_friday")
    of_gifts = send(client, "/campaigns/draft", occasion="mothers_day")  # the shop has no gifts
    assert of_gifts.headers["location"].endswith("/products?notice=goods_first")
    assert send(client, "/campaigns/draft", occasion="birthday").status_code == 404
    days = list(Page(client.get("/campaigns/new").text).named("target.day")[0].options)
    assert days[:3] == ["None", "summer (21 Jun 2025)", "back to school (1 Sept 2025)"] and len(days) < 7


def test_every_page_in_both_languages(looking: TestClient) -> None:
    make_once(looking)
    paths = ["/campaigns", "/campaigns/new", *(f"{ADDRESS}/{step}" for step in STEPS), "/experiments"]
    for language, path in itertools.product(LANGUAGES, paths):
        answer = looking.get(path, headers={"cookie": f"recllm-language={language}"})
        assert answer.status_code == 200, (path, Page(answer.text).text)
        page = assert_harmless(answer.text)
        assert page.of("html")[0]["lang"] == {"en": "en", "zh": "zh-Hans"}[language] and len(page.of("h1")) == 1
        ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        assert not [e.name for f in page.forms for e in f.fields if e.kind != "hidden" and not e.label], path


def test_another_persons_change_loses_nothing(client: TestClient, folder: Path) -> None:
    drafted(client)
    seen = client.get(f"{ADDRESS}/occasion").text
    assert press(client, seen, "Choose people", {"Note for colleagues": "theirs"}).status_code == 303
    answer = press(client, seen, "Choose people", {"Note for colleagues": "mine & <b>"})
    page = assert_harmless(answer.text)
    assert answer.status_code == 409 and "Another person changed this campaign" in page.text
    assert page.value("Note for colleagues") == "mine & <b>"
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, NAME).note == "theirs"
        assert press(client, answer.text, "Choose people", {"Note for colleagues": "mine"}).status_code == 303
        assert campaign_file(shop, NAME).note == "mine"


PYTHON_WORDS = re.compile(
    r"campaign\.toml|Sender\(|at_least|one_of|all\[|lowest_30d|is missing\b|is wrong\b|\b\w+_\w+ is\b"
)
"""What the engine says to engineers."""


NO_AMOUNT = {"Kind of offer": "Per cent off"}
OFFER = NO_AMOUNT | {"How much (per cent or money)": "20"}
OFFER |= {"Offer starts": "2025-07-02T00:00", "Offer ends": "2025-07-01T00:00"}
NO_LINK = SENDER | {"Unsubscribe link or mailbox": "unsubscribe"}
LINK_WANTED = (
    ("Write a web address that begins with https://, or a mailbox.",),
    ("请填写以 https:// 开头的网址，或一个邮箱。",),
)
NO_CHOCOLATE = "No product on sale is in the category “巧克力”."
MISTAKES: tuple[tuple[str, dict[str, str], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "new",
        dict.fromkeys(SENDER, ""),
        ("Write the name that customers know you by.", "Write the postal address", "Write the link or mailbox"),
        ("请填写顾客熟悉的店名。", "请填写店铺的邮寄地址", "请填写退订链接或邮箱"),
    ),
    ("new", NO_LINK, *LINK_WANTED),
    ("products", {"Category": "巧克力"}, (NO_CHOCOLATE,), ("类目“巧克力”中没有在售商品。",)),
    ("products", {"Category": "te"}, ("Did you mean: food > tea",), ("您是否要找：food > tea",)),
    ("products", {PRODUCTS: "tea-1\nmug"}, ("Not on sale, or unknown: mug.",), ("不在售或不存在：mug。",)),
    ("occasion", NO_AMOUNT, ("Write how much: 20 for 20 % off",), ("请填写数值：20 表示减 20%",)),
    ("occasion", OFFER, ("The offer ends before it starts.",), ("优惠的结束早于开始",)),
    ("review", {"Goes out": "2025-01-01T10:00"}, ("This time is past: ",), ("该时间已过",)),
    (
        "people",
        {"Customers at most": "many", "Share in per cent": "x"},
        ("Type a whole number.", "Type a number from 0 to 100."),
        ("请输入整数。", "请输入 0 到 100 的数字。"),
    ),
)
"""Page, what is typed there, and what is said in English and in Chinese."""


@pytest.mark.parametrize(("step", "typed", "english", "chinese"), MISTAKES)
def test_what_is_wrong_is_said_at_its_field_in_the_shops_words(
    looking: TestClient, step: str, typed: dict[str, str], english: tuple[str, ...], chinese: tuple[str, ...]
) -> None:
    """All fields at once, nothing typed is lost, and no word of the engine is read."""
    make_once(looking)
    button = {"new": "Choose people", "occasion": "Choose people", "people": "Choose products"}.get(step, "Save")
    address, data = Page(looking.get("/campaigns/new" if step == "new" else f"{ADDRESS}/{step}").text).filled(
        button, typed
    )
    for language, sentences in (("en", english), ("zh", chinese)):
        answer = looking.post(address, data=data, headers={"cookie": f"recllm-language={language}"})
        page = assert_harmless(answer.text)
        words = " ".join(page.text.split())
        assert answer.status_code == 422 and ("aria-invalid" in answer.text or 'class="pad err"' in answer.text), words
        for sentence in sentences:
            assert words.count(sentence) >= 2, (sentence, words)  # on top, and at its field
        shown = re.sub(r"<details>.*?</details>", "", answer.text, flags=re.DOTALL)
        assert not PYTHON_WORDS.search(Page(shown).text), PYTHON_WORDS.search(Page(shown).text)
        returned = {entry.value for form in page.forms for entry in form.fields}
        lost = {line for texts in data.values() for text in texts for line in text.splitlines()} - returned
        assert not {line for line in lost if line not in ("plan", "mug")}, lost


def make_once(client: TestClient) -> None:
    """A campaign with its messages, in a shop that is only looked at."""
    if "No campaigns yet" in client.get("/campaigns").text:
        drafted(client)
        written(client)


def test_products_whose_lowest_price_a_law_asks_for_are_named_until_they_have_one(client: TestClient) -> None:
    offer = {"Kind of offer": "Per cent off", "How much (per cent or money)": "20", "Offer ends": "2025-06-20T00:00"}
    drafted(client, **offer, **{"Code": "TEA20", "On what": "all tea"})
    refused = Page(written(client))
    assert "could not be written" in refused.text and "the lowest price of the 30 days before" in refused.text
    assert all(f"Green tea {n} (tea-{n})" in refused.text for n in (1, 2, 3)), refused.text
    links = {link["href"] for link in refused.of("a")}
    assert f"{ADDRESS}/occasion#f-words_evidence_lowest_30d" in links and "Write the messages" in refused.text
    prices = {"Lowest price in the last 30 days, one product a line": "tea-1 = 3 EUR"}
    assert press(client, f"{ADDRESS}/occasion", "Choose people", prices).status_code == 303
    page = Page(written(client))
    assert "20% off all tea" in page.text and "code TEA20" in page.text
    for step in ("products", "messages", "review"):
        words = Page(client.get(f"{ADDRESS}/{step}").text).text
        assert "No customer gets a message about 2 products" in words and "Green tea 3 (tea-3)" in words, step
    assert "got a message of another campaign" not in words


def test_an_offer_that_starts_later_moves_the_messages_to_its_start(client: TestClient, folder: Path) -> None:
    offer = {"Kind of offer": "Free shipping", "Offer starts": "2025-06-02T00:00", "Offer ends": "2025-06-09T00:00"}
    drafted(client, **offer)
    with Workspace.open(folder) as shop:
        file = campaign_file(shop, NAME)
        assert file.offer is not None and file.send == file.offer.start
    assert "2025-06-02T00:00" in Page(client.get(f"{ADDRESS}/review").text).text or written(client)
    wrong = press(client, f"{ADDRESS}/review", "Save", {"Goes out": "2025-06-01T20:00"})
    assert wrong.status_code == 422 and "The offer starts on" in Page(wrong.text).text


def test_a_rule_is_asked_for_only_once_it_is_saved(client: TestClient) -> None:
    drafted(client)
    page = press(client, f"{ADDRESS}/people", "Add the condition", {"Kind of condition": "Spent money"})
    assert "Write at least one of the two amounts" not in page.text  # nothing was typed yet
    refused = press(client, page.text, "Choose products")
    words = Page(refused.text).text
    assert refused.status_code == 422 and "Write at least one of the two amounts." in words
    assert "A condition is not complete" in words and not PYTHON_WORDS.search(words.split("For the engineer")[0])
    mended = press(client, refused.text, "Choose products", {"At least (money)": "10"})
    assert mended.status_code == 303
    assert "10" in Page(client.get(f"{ADDRESS}/people").text).text


def test_the_count_follows_what_is_typed(client: TestClient, folder: Path) -> None:
    drafted(client)

    def count(**typed: str) -> str:
        labels = {"size": "Customers at most", "bought": "Days after a purchase"}
        named = {labels[name]: text for name, text in typed.items()}
        until(lambda: "read for the first time" not in press(client, f"{ADDRESS}/people", "Count again", named).text)
        return " ".join(Page(press(client, f"{ADDRESS}/people", "Count again", named).text).text.split())

    assert "24 customers could be reached" in count().replace("24customers", "24 customers")
    assert "bought it recently" in count(bought="60")
    assert re.search(r"Most likely to buy, written to: about ?5\D", count(size="5"))
    assert "Type a whole number" in count(size="five")
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, NAME).limits.bought_days is None  # nothing was written
    typed = Page(press(client, f"{ADDRESS}/people", "Count again", {"Customers at most": "7"}).text)
    assert typed.value("Customers at most") == "7"


def test_messages_are_checked_filtered_changed_and_taken_back(client: TestClient) -> None:
    drafted(client)
    page = Page(written(client))
    part = next(entry.label for form in page.forms for entry in form.fields if entry.name.startswith("part:"))
    bad = {part: "Green tea 1 for 0.01 EUR, the best tea in the world", "Your name": "Ann"}
    checked = press(client, f"{ADDRESS}/messages", "Only check", bad)
    assert checked.status_code == 200 and '<mark class="bad">' in checked.text and "Not saved yet" in checked.text
    address, data = page.filled("Only check", bad)
    chinese = client.post(address, data=data, headers={"cookie": "recllm-language=zh"})
    assert "每个数字都须出自商品资料" in chinese.text and "没有证明就不作宣称" in chinese.text
    assert Page(client.get(f"{ADDRESS}/messages").text).value("Your name") == "Ann"  # typed once
    saved = press(client, f"{ADDRESS}/messages", "Check and save", bad)
    assert saved.status_code == 303 and "notice=text_edited" in saved.headers["location"]
    blocked = assert_harmless(client.get(f"{ADDRESS}/messages?show=blocked").text)
    rows = blocked.named("text_id")
    assert len(rows) == 1 and "Cannot go" in blocked.text
    refused = press(client, f"{ADDRESS}/messages?show=blocked", "Approve selected", {rows[0].label: True})
    assert refused.status_code == 403
    assert press(client, saved.headers["location"], "Undo the last change").status_code == 303
    ready = Page(client.get(f"{ADDRESS}/messages?show=ready").text).named("text_id")
    assert len(ready) == len(page.named("text_id"))
    approved(client)
    assert "0 of" not in Page(client.get(f"{ADDRESS}/messages").text).text
    taken = press(client, f"{ADDRESS}/messages?show=approved&pick=all", "Take back")
    assert taken.status_code == 303 and "text_id" not in client.get(f"{ADDRESS}/messages?show=approved").text
    for query in ("sort=product", "sort=verdict", "channel=push", "show=nonsense"):
        assert client.get(f"{ADDRESS}/messages?{query}").status_code == (404 if "nonsense" in query else 200)
    why = {"Why not? (optional)": "dull"}
    assert press(client, f"{ADDRESS}/messages?pick=all", "Reject selected", why).status_code == 303
    assert "Fewer than" in Page(client.get(f"{ADDRESS}/review").text).text


def test_who_may_only_look_changes_nothing(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        _, looker = create_key(shop, "looks", [Scope.CONSOLE])
        _, marketer = create_key(shop, "Bo Market", [Scope.CONSOLE, Scope.MARKETING, Scope.PEOPLE])
    with serving(folder) as client:
        assert client.post("/sign-in", data={"key": marketer}).status_code == 200
        drafted(client)
        page = Page(written(client))
        assert not page.named("by")  # the key says who
        assert press(client, f"{ADDRESS}/messages?pick=all", "Reject selected").status_code == 303
        assert "Bo Market rejected the text" in Page(client.get(f"{ADDRESS}/review").text).text
    with serving(folder) as client:
        client.post("/sign-in", data={"key": looker})
        for step in STEPS:
            posted = [f for f in Page(client.get(f"{ADDRESS}/{step}").text).forms if f.method == "post" and f.buttons]
            assert not [form.action for form in posted if ADDRESS in form.action], step
        for path in ("plan", "decide", "save/occasion", "count", "export", "clone", "check", "products/find"):
            answer = send(client, f"{ADDRESS}/{path}", revision="0" * 16, act="approve", text_id="t1")
            assert answer.status_code == 403, path
        assert send(client, "/campaigns/draft", occasion="replenish").status_code == 403


def test_a_plan_that_cannot_be_says_why_and_keeps_the_draft(client: TestClient) -> None:
    drafted(client)
    limits = {"Days after a purchase": "3000", "Customers at most": "2"}
    assert press(client, f"{ADDRESS}/people", "Choose products", limits).status_code == 303
    page = assert_harmless(written(client))
    assert "could not be written" in page.text and "No customer would get one" in page.text
    stale = send(client, f"{ADDRESS}/plan", revision="0" * 16)
    assert stale.status_code == 409 and "Another person changed" in stale.text
    assert client.get("/campaigns/campaign/none").status_code == 404
    assert client.get("/campaigns/campaign/..%2f..%2fetc").status_code in (404, 422)


PURPOSES = ("Purpose", "Reorder", "Discover", "Cross-sell", "Win back", "Variety", "Uplift model")
MARKETERS_WORDS = (
    ("/", "en", ("Today", "Who can be contacted", "Results")),
    ("/models", "en", ("Model history",)),
    (f"{ADDRESS}/people", "en", ("Control group",)),
    (f"{ADDRESS}/products", "en", PURPOSES),
    (f"{ADDRESS}/review", "en", ("Quiet hours: from, to", "Control group")),
    (f"{ADDRESS}/occasion", "en", ("What is the occasion?",)),
    (f"{ADDRESS}/products", "zh", ("推荐目的", "按营销敏感度", "多样性")),
    (f"{ADDRESS}/people", "zh", ("对照组",)),
    (f"{ADDRESS}/occasion", "zh", ("时机",)),
)


def test_pages_speak_as_a_marketer_does(looking: TestClient) -> None:
    make_once(looking)
    until(lambda: "being counted" not in looking.get("/").text)
    of_person = ("Withdraw consent", "Restrict processing", "No predictions yet")
    for path, language, words in (*MARKETERS_WORDS, (find_person(looking), "en", of_person)):
        shown = Page(looking.get(path, headers={"cookie": f"recllm-language={language}"}).text).text
        assert not [word for word in words if word not in shown], path


VARIANTS = {"as now": (0.5, Treatment()), "popular": (0.5, Treatment(personal=False))}


def test_an_experiment_stops_only_when_confirmed(client: TestClient, folder: Path) -> None:
    stop, shown = (f"/experiments/{act}/e%2F1" for act in ("stop", "experiment"))
    with Workspace.open(folder) as shop:
        start_experiment(shop, "e/1", VARIANTS)
    page = assert_harmless(client.get(shown).text)
    assert "Nothing was shown yet" in page.text and "split as planned" in page.text
    assert "Everybody gets the serving model" in page.text  # what it would do is said first
    assert send(client, stop, revision="7").status_code == 409
    with Workspace.open(folder) as shop:
        (stored,) = list_experiments(shop)
        assert stored.ended_at is None
    assert press(client, shown, "Yes").status_code == 303 and "ended" in client.get(shown).text
    assert send(client, stop, revision="2").status_code == 409
    assert client.get("/experiments/experiment/never").status_code == 404


@pytest.fixture(scope="module")
def looking(console_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(Path(shutil.copytree(console_shop, tmp_path_factory.mktemp("campaigns") / "shop"))) as client:
        yield client


def test_what_may_be_said_is_said_in_words_with_a_table(folder: Path) -> None:
    """People of one variant click three times as often: enough people, and the interval leaves zero."""
    people, days = 240, 4
    with Workspace.open(folder) as shop:
        stored = start_experiment(shop, "e/1", VARIANTS)
        start, names = utc(present(shop)), shop.pseudonymiser()
        rows = []
        for person in range(people):
            name = names.one(f"x{person}")
            variant = variant_of(stored, name).name
            for n in range(10):
                at = start + timedelta(days=1 + (person + n) % days, seconds=person)
                row = {"user_id": name, "item_id": f"tea-{n}", "timestamp": at, "request_id": f"r{person}-{n}"}
                row |= {"experiment": "e/1", "variant": variant, "model_version": "m"}
                rows.append(row | {"event": "shown"})
                if n < (6 if variant == "as now" else 2):
                    rows.append(row | {"event": "click"})
        frame = pl.DataFrame([{c: r.get(c) for c in FEEDBACK_SCHEMA} for r in rows], schema=FEEDBACK_SCHEMA)
        record_events(frame, shop.store(), source="test")
        outcome = experiment_outcome(shop, "e/1")
    assert sum(outcome.people.values()) == people and outcome.report is not None
    assert outcome.report.comparisons[0].metric.difference == pytest.approx(-0.4)
    with serving(folder) as client:
        page = assert_harmless(client.get("/experiments/experiment/e%2F1").text)
        assert "Worse: stop it" in page.text and "split as planned" in page.text and "-40.00%" in page.text
        assert re.search(r"popular.*50%.*\d+", page.text, re.DOTALL)


def test_fields_go_to_a_form_and_back_unchanged() -> None:
    content = b"""id = "x"
goal = "g"
channels = ["email", "push"]
send = 2025-11-01T09:00:00+08:00
[target]
items = ["a", "b"]
[offer]
type = "percent"
value = 12.5
min_spend = 30
[offer.list_prices]
"a b" = 4.99
[limits]
holdout = 0.15
returned = false
[words]
packs = ["us_ftc"]
[words.evidence]
award = "Tea of the year"
[words.evidence.lowest_30d]
a = "3 EUR"
"""
    fields = fields_of_file(content)
    texts = field_texts(fields, "Asia/Shanghai")
    assert texts["send"] == "2025-11-01T09:00" and texts["limits.holdout"] == "15" and texts["limits.returned"] == ""
    assert texts["offer.min_spend"] == "30"
    same = fields
    for step in CampaignStep:
        same = with_typed(same, {f.path: texts[f.path] for f in FIELDS[step]}, step, "Asia/Shanghai")
    assert same == fields  # also the evidence by item and the packs, which no form shows
    changed = with_typed(fields, texts | {"offer.type": ""}, CampaignStep.OCCASION, None)
    assert "offer" not in changed and changed["words"] == fields["words"]
    wrong = {"offer.list_prices": "a 4.99", "offer.value": "much"}
    with pytest.raises(WrongFieldsError) as caught:
        with_typed(fields, texts | wrong, CampaignStep.OCCASION, None)
    assert caught.value.kinds == {"offer.value": FieldKind.AMOUNT, "offer.list_prices": FieldKind.PRICES}


def test_what_may_be_expected_is_what_draws_give() -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0, 0.4, 300)
    expected = expected_hits(chances.tolist())
    draws = (rng.random((4_000, 300)) < chances).sum(axis=1)
    assert expected.value == pytest.approx(draws.mean(), rel=0.01)
    assert np.mean((draws >= expected.low) & (draws <= expected.high)) == pytest.approx(0.95, abs=0.02)
    assert expected_hits([]).high == 0.0
    size = smallest_difference(0.1, 900, 100)
    assert size is not None and smallest_difference(0.1, 900, 0) is None
    differences = rng.binomial(900, 0.1 + size, 20_000) / 900 - rng.binomial(100, 0.1, 20_000) / 100
    error = np.sqrt(0.1 * 0.9 * (1 / 900 + 1 / 100))
    assert np.mean(differences > 1.96 * error) == pytest.approx(0.8, abs=0.04)


def test_marks_are_text_between_marks() -> None:
    shown = marked("the <Best> tea & the best", [("<best>", "bad"), ("best", "warn"), ("best", "bad"), ("", "bad")])
    assert shown == 'the <mark class="bad">&lt;Best&gt;</mark> tea &amp; the <mark class="warn">best</mark>'
    assert marked("a < b", []) == "a &lt; b"
