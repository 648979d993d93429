"""Campaigns that leave by e-mail: each message once, to those who agree, whatever the server and the process do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from conftest import Command
from mail_server import Inbox, mail_server
from sending_child import SECRET, addresses_of, opened, sent_to
from service_world import app_of, listening, serving
from shop_world import QUICKLY, item_lines, loaded, purchase_lines, train
from shop_world import shop as world
from standardwebhooks import Webhook
from store_view import view
from test_generator import Server
from test_generator import send as answer
from waiting import until

from recllm.base.errors import DeliveryError, NothingToDo, PolicyError, UsageError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.doors.privacy.erasure import erase_people
from recllm.market.campaigns.export import export_campaign, messages_of
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import TextStatus
from recllm.market.campaigns.open_campaign import decide
from recllm.market.campaigns.outcome import campaign_outcome
from recllm.market.campaigns.plan import plan_campaign
from recllm.market.sending.addresses import read_addresses
from recllm.market.sending.clicks import click_token
from recllm.market.sending.example_gateway import ExampleGateway
from recllm.market.sending.gateway import Gateway, signed_headers
from recllm.market.sending.mail import Mail, MailServer
from recllm.market.sending.outbox import MessageState, Outbox
from recllm.market.sending.reports import record_reports
from recllm.market.sending.send import SendOutcome
from recllm.shop.ingest.workspace_load import add_consent
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import KEY_VARIABLE
from recllm.shop.workspace.webhooks import WebhookScheme, add_source
from recllm.shop.workspace.workspace import Workspace

PEOPLE, N = 120, 33
"""All customers of the shop, and those that the campaign addresses."""
LETTER = """\
id = "letter"
channels = ["email"]
[target]
category = "food > tea"
most_items = 1
[limits]
size = 40
holdout = 0.3
quiet = []
[words]
link = "leaf.example"
[sender]
name = "Leaf & Iron"
address = "1 Market Street"
opt_out = "https://mail.example/unsubscribe/shop"
"""


TEXTING = LETTER.replace("letter", "texting").replace('"email"', '"sms_gsm"')
"""The same by SMS."""


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "the same key each time")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, key: None) -> Path:
    """A folder with a trained shop, and a campaign whose texts are approved."""
    folder, data = tmp_path_factory.mktemp("sending"), world(people=PEOPLE)
    (folder / "letter.toml").write_text(LETTER)
    (folder / "texting.toml").write_text(TEXTING)
    tables = {"items": item_lines(data), "events": purchase_lines(data, list(data.users["user_id"]))}
    made = loaded(folder, tables, currency="USD", policy=Policy(small_shop=0, group_floor=5))
    with Workspace.open(train(made, **QUICKLY)) as shop:
        for name in ("letter", "texting"):
            plan = plan_campaign(shop, read_campaign(folder / f"{name}.toml"))
            decide(opened(shop, name), TextStatus.APPROVED, [t.id for t in plan.texts], by="Ann", at=datetime.now(UTC))
    names = [f"{raw},{raw}@home.example,00 44 (7700) {n:06}" for n, raw in enumerate(data.users["user_id"])]
    lines = ["customer_id,Mail,Mobile", *names, "stranger,no address,123"]
    (folder / "customers.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder / "shop") as workspace:
        yield workspace


@pytest.fixture
def gateway() -> Iterator[Server]:
    """Takes all messages, until a test says otherwise."""
    running = Server()
    running.answer = lambda handler, _: answer(handler, 202, b"")
    yield running
    running.close()


def sent(shop: Workspace, inbox: Inbox, unanswered: MessageState | None = None) -> SendOutcome:
    with mail_server(inbox) as url:
        return sent_to(shop, url, unanswered=unanswered)


def expected(shop: Workspace) -> set[str]:
    known = addresses_of(shop)
    return {known[p.user_id] for p in opened(shop).plan.addressed}


def test_each_customer_gets_their_text_once_and_the_control_group_none(shop: Workspace) -> None:
    inbox, people = Inbox(), expected(shop)
    assert sent(shop, inbox).sent == len(people) == N
    assert inbox.received == Counter(people)
    assert sent(shop, inbox).sent == N and len(inbox.mails) == N
    campaign = opened(shop)
    outcome = campaign_outcome(campaign, FigureGate(shop))
    assert outcome.messages == {"processed": N} and outcome.reached and outcome.reached.people == N
    assert outcome.held_out and outcome.held_out.people == len(campaign.plan.held_out) > 5
    of_text = {p.user_id: p.text_id for p in campaign.plan.addressed}
    texts = {text.id: text.text for text in campaign.plan.texts}
    known = addresses_of(shop)
    for mail in inbox.mails:
        person = next(user_id for user_id in of_text if known[user_id] == mail["To"])
        subject, _, headline, *_ = texts[of_text[person]].splitlines()
        assert mail["Subject"] == subject and mail["From"] == "Leaf & Iron <news@leaf.example>"
        plain, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
        assert plain and html
        link = mail["List-Unsubscribe"].strip("<>")
        assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert link.startswith("https://mail.example/unsubscribe/shop/m1_") and link in plain.get_content()
        assert headline in plain.get_content() and "1 Market Street" in plain.get_content()
        page = html.get_content()
        assert f'href="{link}"' in page and "Leaf &amp; Iron" in page
        (click,) = re.findall(r'href="https://mail.example(/c/shop/[^"]+)"', page)
        assert f"https://mail.example{click}" in plain.get_content() and "https://leaf.example" not in page
    assert len({mail["Message-ID"] for mail in inbox.mails}) == N


def test_a_server_that_refuses_puts_off_and_dies(shop: Workspace) -> None:
    first, second, *_ = sorted(expected(shop))
    inbox = Inbox(refused=(first,), later=(second,), dies_at=5)
    outcome = sent(shop, inbox)
    assert (outcome.sent, outcome.refused, outcome.deferred, len(outcome.unanswered)) == (N - 3, 1, 1, 1)
    assert first not in campaign_log(shop), "what a server says may hold an address"
    outcome = sent(shop, inbox)  # what was put off leaves; what may have left does not
    assert (outcome.sent, outcome.refused, outcome.deferred, len(outcome.unanswered)) == (N - 2, 1, 0, 1)
    assert outcome.dropped == {"address_bounced": 1}, "an address that does not exist gets no more messages"
    outcome = sent(shop, inbox, MessageState.DEFERRED)
    assert (outcome.sent, outcome.unanswered) == (N - 1, ())
    assert inbox.received == Counter(expected(shop) - {first})


def test_a_campaign_leaves_by_files_or_from_here_but_not_both(shop: Workspace, folder: Path) -> None:
    sent(shop, Inbox())
    with pytest.raises(NothingToDo, match="no customers left"):
        export_campaign(opened(shop), folder / "files")
    assert not list(folder.glob("files/*"))
    opened(shop).folder.exports.unlink()
    export_campaign(opened(shop), folder / "files")
    inbox = Inbox()
    with pytest.raises(PolicyError, match="were exported to a file"):
        sent(shop, inbox)
    assert not inbox.mails


def campaign_log(shop: Workspace) -> str:
    return opened(shop).folder.outbox.read_text()


@pytest.mark.parametrize("name", ["letter", "texting"])
def test_kills_in_the_middle_double_and_lose_no_message(folder: Path, gateway: Server, name: str) -> None:
    inbox, child = Inbox(), Path(__file__).with_name("sending_child.py")

    def received() -> list[str]:
        """Ids of messages."""
        if name == "letter":
            return [mail["Message-ID"] for mail in inbox.mails]
        return [headers["webhook-id"] for _, headers, _ in gateway.requests]

    with mail_server(inbox) as mail_url:
        url = mail_url if name == "letter" else gateway.url
        for n in range(4):
            process = subprocess.Popen([sys.executable, str(child), str(folder), url, "1200"], stdout=subprocess.PIPE)
            n_before = len(received())
            while len(received()) < n_before + 3 + 2 * n and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.wait()
        with Workspace.open(folder / "shop") as shop:
            unsure = sent_to(shop, url).unanswered
            assert len(unsure) <= 4 * 4, "at most one for each connection of a killed process"
            with pytest.raises(UsageError, match="no message without an answer has the id m1_other"):
                sent_to(shop, url, unanswered=["m1_other"])
            outcome = sent_to(shop, url, unanswered=[name for name in unsure if name in received()])
            n_people = len(opened(shop, name).plan.addressed)
    assert len(set(received())) == len(received()) == n_people == outcome.sent and not outcome.unanswered


def test_an_erased_customer_leaves_the_outbox(shop: Workspace) -> None:
    """As do people under other pseudonyms, by a rotation of the key."""
    sent(shop, Inbox())
    person, other, *_ = (p.user_id for p in opened(shop).plan.addressed)
    assert person in campaign_log(shop)
    outbox = Outbox(opened(shop).folder)
    erase_people(shop, [addresses_of(shop)[person].partition("@")[0]], actor="test")
    assert person not in campaign_log(shop)
    assert outbox.record([person, other], MessageState.LEAVING) == [other], "by a run that goes on meanwhile"
    assert person not in campaign_log(shop) and len(campaign_log(shop).splitlines()) == 2 * (N - 1) + 1


def test_the_command_sends_a_test_then_the_campaign(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox()
    send = ("campaign", "send", str(folder / "letter.toml"), "-w", str(folder / "shop"))
    with mail_server(inbox) as url:
        code, _, problem = command(*send, "--test", "ana@leaf.example")
        assert code == 2 and "RECLLM_SMTP" in problem
        monkeypatch.setenv("RECLLM_SMTP", url)
        code, printed, _ = command(*send, "--test", "ana@leaf.example")
        assert code == 0 and "was sent to ana@leaf.example" in printed and len(inbox.mails) == 1
        assert inbox.mails[0]["List-Unsubscribe"] == "<https://mail.example/unsubscribe/shop>", "of no customer"
        code, _, problem = command(*send)
        assert code == 2 and "--addresses FILE" in problem
        addresses = ("--addresses", str(folder / "customers.csv"))
        code, printed, _ = command(*send, *addresses, "--per-minute", "60000", "--json")
        assert code == 0 and json.loads(printed)["sent"] == N and len(inbox.mails) == 1 + N


def test_the_command_sends_texts_through_the_gateway(
    folder: Path, gateway: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = ("campaign", "send", str(folder / "texting.toml"), "-w", str(folder / "shop"))
    for name, value in (("RECLLM_GATEWAY", gateway.url), ("RECLLM_GATEWAY_SECRET", SECRET)):
        code, _, problem = command(*send, "--test", "+44 7700 900123")
        assert code == 2 and name in problem
        monkeypatch.setenv(name, value)
    assert "no address for sms_gsm" in command(*send, "--test", "ana@leaf.example")[2]
    assert command(*send, "--test", "+44 7700 900123")[0] == 0
    data = gateway.requests[0][2]["data"]
    assert (data["to"], data["link"]) == ("+447700900123", "https://leaf.example"), "of no customer"
    code, printed, _ = command(*send, "--addresses", str(folder / "customers.csv"), "--per-minute", "60000", "--json")
    assert code == 0 and json.loads(printed)["sent"] == len(gateway.requests) - 1 > 20


def test_one_click_unsubscribes_at_once(folder: Path) -> None:
    inbox = Inbox()
    with Workspace.open(folder / "shop") as shop:
        sent(shop, inbox)
    mail = inbox.mails[0]
    path = mail["List-Unsubscribe"].strip("<>").removeprefix("https://mail.example")
    with serving(folder / "shop") as client:
        page = client.get(path)
        assert page.status_code == 200 and "Yes, unsubscribe me" in page.text and str(mail["To"]) not in page.text
        done = client.post(path, data={"List-Unsubscribe": "One-Click"}, headers={"Accept-Language": "zh-CN"})
        assert done.status_code == 200 and "已退订" in done.text
        assert client.post(path[:-1]).status_code == 404 and "does not work" in client.post(path[:-1]).text
    with Workspace.open(folder / "shop") as shop:
        person = next(name for name, address in addresses_of(shop).items() if address == mail["To"])
        assert sent(shop, inbox).dropped == {"consent_withdrawn": 1} and len(inbox.mails) == N
        assert shop.gate().permits_each([person], Purpose.EMAIL) == [False]


def test_a_link_counts_its_click_once_and_leads_nowhere_else(folder: Path) -> None:
    """Together with the provider's report of the same click."""
    inbox = Inbox()
    with Workspace.open(folder / "shop") as shop:
        sent(shop, inbox)
        known = {address: user_id for user_id, address in addresses_of(shop).items()}
        first, second, third, fourth = (known[str(mail["To"])] for mail in inbox.mails[:4])
        of_message = messages_of(opened(shop), opened(shop).plan.addressed, datetime.now(UTC))
        add_consent(shop, [(fourth, Purpose.ANALYTICS, False, None)], source="test", by_pseudonym=True)
        made_up = click_token(shop, of_message[first].message_id, "https://evil.example")[:-2] + "AA"
    texts = [body.get_content() for mail in inbox.mails if (body := mail.get_body(("plain",)))]
    paths = [re.findall(r"https://mail.example(/c/shop/\S+)", text)[0] for text in texts]

    def clicks(*people: str) -> bool:
        """Whether these are in the log and in the report of the campaign, once each."""
        with Workspace.open(folder / "shop") as shop:
            known = sorted(view(shop.store()).events().filter(event="click")["user_id"])
            n_reported = campaign_outcome(opened(shop), FigureGate(shop)).messages.get("clicked", 0)
            return known == sorted(people) and n_reported == len(people)

    with serving(folder / "shop", follow_redirects=False) as client:
        assert client.head(paths[0]).status_code == 302
        for header in ("Sec-Purpose", "X-Moz", "Purpose"):
            assert client.get(paths[0], headers={header: "prefetch;prerender"}).status_code == 302
        for path in (f"/c/shop/{made_up}", "/c/shop/%C3%A4", paths[0].replace("/shop/", "/other/")):
            assert client.get(path).status_code == 404
        assert clicks()
        for path in (paths[0], paths[0], paths[3], f"{paths[1]}?to=https://evil.example"):
            led = client.get(path)
            assert (led.status_code, led.headers["location"]) == (302, "https://leaf.example")
            assert "set-cookie" not in led.headers
        assert clicks(first, second), "not of those who do not want to be counted"
        reported = [(f"e{n}", of_message[name].message_id) for n, name in enumerate((first, third))]
        kind, at = MessageEventKind.CLICKED, datetime.now(UTC)
        events = [MessageEvent(event_id=name, message_id=message_id, kind=kind, at=at) for name, message_id in reported]
        with Workspace.open(folder / "shop") as shop:
            assert record_reports(shop, "mail", events).accepted == 2
        client.get(paths[2])
        assert clicks(first, second, third)
        with Workspace.open(folder / "shop") as shop:
            erase_people(shop, [first], actor="test", by_pseudonym=True)
        assert client.get(paths[0]).headers["location"] == "https://leaf.example" and clicks(second, third)


def test_a_gateway_gets_each_text_once_signed_and_its_answer_counts(shop: Workspace, gateway: Server) -> None:
    """The signature by the library of Standard Webhooks."""
    answers = {7: 410, 11: 400, 13: 429, 17: 503, 19: 500, 23: 0}
    posts: list[tuple[str, dict[str, Any]]] = []
    lock = threading.Lock()

    def by_turn(handler: Any, body: dict[str, Any]) -> None:
        Webhook(SECRET).verify(handler.content, dict(handler.headers))
        with lock:
            posts.append((handler.headers["webhook-id"], body["data"]))
            status = answers.get(len(posts), 202)
        handler.connection.close() if not status else answer(handler, status, b"")

    gateway.answer = by_turn
    plan = opened(shop, "texting").plan
    n, phones = len(plan.addressed), addresses_of(shop, "sms_gsm")
    outcome = sent_to(shop, gateway.url)
    assert (outcome.sent, outcome.refused, outcome.deferred, len(outcome.unanswered)) == (n - 6, 2, 2, 2)
    assert Counter(data["to"] for _, data in posts) == Counter(phones[p.user_id] for p in plan.addressed)
    message_id, data = posts[0]
    assert data["to"].startswith("+447700") and data["recllm_message_id"] == message_id and "Leaf" in data["text"]
    assert "Reply STOP to opt out" in data["text"] and data["variables"]["shop"] == "Leaf & Iron"
    assert data["link"].startswith("https://mail.example/c/shop/") and len({data["link"] for _, data in posts}) == n
    assert data["unsubscribe"] == f"https://mail.example/unsubscribe/shop/{message_id}"
    deferred, unsure = {posts[12][0], posts[16][0]}, {posts[18][0], posts[22][0]}
    assert set(outcome.unanswered) == unsure and "+44" not in opened(shop, "texting").folder.outbox.read_text()
    outcome = sent_to(shop, gateway.url)
    assert (outcome.sent, outcome.deferred, set(outcome.unanswered)) == (n - 4, 0, unsure)
    assert {message_id for message_id, _ in posts[n:]} == deferred, "under the same key"
    assert outcome.dropped == {"address_bounced": 1}
    assert sent_to(shop, gateway.url, unanswered=MessageState.DEFERRED).sent == n - 2
    assert {message_id for message_id, _ in posts[n + 2 :]} == unsure


def test_a_gateway_that_takes_nothing_ends_the_run_and_loses_none(
    shop: Workspace, gateway: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recllm.market.sending.send.RECONNECT_SECONDS", (0.01,) * 3)
    for status in (401, 302):
        gateway.answer = lambda handler, _, status=status: answer(handler, status, b"", Location=gateway.url)  # type: ignore[misc]
        with pytest.raises(DeliveryError, match=f"takes nothing: it answered {status}"):
            sent_to(shop, gateway.url)
    with pytest.raises(DeliveryError, match="cannot be reached"):
        sent_to(shop, "http://127.0.0.1:9/")
    gateway.answer = lambda handler, _: answer(handler, 500, b"")
    n_before = len(gateway.requests)
    with pytest.raises(DeliveryError, match="it answered 500"):
        sent_to(shop, gateway.url)
    n_unsure = len(gateway.requests) - n_before
    assert n_unsure <= 4 * 4, "a gateway without answers is not given all"
    gateway.answer = lambda handler, _: answer(handler, 204, b"")
    outcome = sent_to(shop, gateway.url)
    assert outcome.sent + len(outcome.unanswered) == len(opened(shop, "texting").plan.addressed)
    assert len(outcome.unanswered) == n_unsure


def test_the_example_gateway_hands_over_once_and_reports_back(
    folder: Path, gateway: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twilio and the service are servers of this test."""
    forms: list[dict[str, list[str]]] = []
    lock, codes = threading.Lock(), {3: (400, 21211), 4: (400, 21610), 5: (429, 20429)}

    def twilio(handler: Any, _: Any) -> None:
        with lock:
            forms.append(parse_qs(handler.content.decode()))
            status, code = codes.get(len(forms), (201, None))
        answer(handler, status, json.dumps({"code": code}).encode())

    gateway.answer = twilio
    example = ThreadingHTTPServer(("127.0.0.1", 0), ExampleGateway)
    threading.Thread(target=example.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{example.server_port}"
    with Workspace.open(folder / "shop") as shop:
        _, reports = add_source(shop, "texts", WebhookScheme.STANDARD)
    with listening(app_of(folder / "shop")) as (_, port), Workspace.open(folder / "shop") as shop:
        of_twilio = {"PROVIDER": gateway.url, "PROVIDER_USER": "AC1", "PROVIDER_PASSWORD": "x", "FROM": "+15550100"}
        of_recllm = {"RECLLM_GATEWAY_SECRET": SECRET, "REPORTS": f"http://localhost:{port}/webhooks/shop/texts"}
        for name, value in {**of_twilio, **of_recllm, "REPORTS_SECRET": reports.text, "HERE": here}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(ExampleGateway, "database", str(tmp_path / "answers.sqlite"))
        campaign, outcome = opened(shop, "texting"), sent_to(shop, f"{here}/messages")
        n = len(campaign.plan.addressed)
        assert (outcome.sent, outcome.refused, outcome.deferred, outcome.unanswered) == (n - 3, 2, 1, ())
        assert outcome.dropped == {"address_bounced": 1, "consent_withdrawn": 1}, "of no number, and after STOP"
        assert forms[0]["To"][0].startswith("+447700") and "Reply STOP" in forms[0]["Body"][0]
        outcome = sent_to(shop, f"{here}/messages")
        assert outcome.sent == n - 2 and len(forms) == n + 1 and forms[-1] == forms[4], "under the same id"
        callback = forms[0]["StatusCallback"][0]
        for status in ("sent", "delivered", "delivered"):
            assert httpx2.post(callback, data={"MessageStatus": status}).status_code == 204
        messages = campaign_outcome(campaign, FigureGate(shop)).messages
        assert messages["delivered"] == messages["unsubscribed"] == messages["bounced"] == 1
        again = Mail(user_id="", message_id=callback.rpartition("/")[2], address="", content=b'{"data": {}}')
        for secret, status in ((SECRET, 201), (reports.text, 401)):
            headers = signed_headers(Gateway.of(here, secret), again)
            assert httpx2.post(f"{here}/messages", content=again.content, headers=headers).status_code == status
        assert len(forms) == n + 1, "a message that it knows is not handed over again"
    example.shutdown()


def test_the_console_sends_a_test_then_the_campaign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, path = Inbox(), "/campaigns/campaign/letter"
    with mail_server(inbox) as url, serving(folder / "shop", console=True) as client:
        (folder / "shop" / "campaign-files").mkdir()
        shutil.copy(folder / "letter.toml", folder / "shop" / "campaign-files" / "letter.toml")
        page = client.get(f"{path}/review")
        assert "No server for these messages is set up" in page.text, page.text
        monkeypatch.setenv("RECLLM_SMTP", url)
        assert "First, send one message to yourself" in client.get(f"{path}/review").text
        page = client.post(f"{path}/test", data={"to": "ana@leaf.example"})
        assert "The test is on its way." in page.text and len(inbox.mails) == 1
        page = client.post("/campaigns/send", data={"confirmed": "yes", "campaign": "letter"})
        assert page.status_code == 422 and "Choose the file" in page.text
        with (folder / "customers.csv").open("rb") as file:
            client.post("/campaigns/send", data={"confirmed": "yes", "campaign": "letter"}, files={"addresses": file})
        until(lambda: "Go on sending" in client.get(f"{path}/review").text)
        page = client.get(f"{path}/review")
        assert f"<dt>Sent</dt><dd>{N}</dd>" in page.text and inbox.received.total() == N + 1
        assert f"<dt>Taken by the service</dt><dd>{N}</dd>" in client.get("/results/campaign/letter").text


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        (["Customer ID,Email,Accepts Email Marketing,Total Spent,Total Orders", "7,u00@home.example,yes,1,1"], False),
        (["user_id;e-mail", "u00;ann@home.example", "u01;none", ";lost@home.example"], True),
        (["会员号,姓名,邮箱", "u00,安,ann@home.example"], True),
    ],
)
def test_addresses_are_read_from_the_shops_own_file(shop: Workspace, lines: list[str], known: bool) -> None:
    """Shopify's export knows customers by their address."""
    file = shop.root.parent / "people.csv"
    file.write_text("\n".join(lines))
    name = "u00" if known else "u00@home.example"
    address = "ann@home.example" if known else "u00@home.example"
    assert read_addresses(shop, file) == {shop.pseudonymiser().one(name): address}


def test_files_without_addresses_and_servers_that_are_none_are_refused(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recllm.market.sending.send.RECONNECT_SECONDS", (0.0,))
    file = shop.root.parent / "people.csv"
    two = "user_id,contact,account_manager\nu00,a@home.example,m@shop.example\nu02,,m@shop.example\n"
    for text, problem in (("a,b\n1,x@home.example\n", "call the column with the customers' ids user_id"),
                          ("user_id,b\nu00,x\n", "customers' e-mail addresses email"),
                          (two, "contact, account_manager")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UsageError, match=problem):
            read_addresses(shop, file)
    file.write_text(two.replace("contact", "email"))
    assert set(read_addresses(shop, file).values()) == {"a@home.example"}
    file.write_text("user_id,Mobile,Fax\nu00,0044 (7700) 900-123,+441\nu02,07700 900124,\nu04,＋86 138 0013 8000,\n")
    assert sorted(read_addresses(shop, file, "sms_gsm").values()) == ["+447700900123", "+8613800138000"]
    with pytest.raises(UsageError, match="push_token"):
        read_addresses(shop, file, "push")
    wrong = ("", "secret.example", "http://mail.example?from=a@b.example", "smtp://secret.example")
    for url in (*wrong, "smtp://h:port?from=a@b"):
        with pytest.raises(UsageError, match="RECLLM_SMTP") as refused:
            MailServer.of(url)
        assert not url or url not in str(refused.value), "it may hold a password"
    server = MailServer.of("smtps://news%40leaf.example:p%3Aw@mail.example")
    assert (server.port, server.password, server.sender, server.starts_tls) == (465, "p:w", "news@leaf.example", False)
    assert MailServer.of("smtp://a@mail.example?from=news@leaf.example").starts_tls, "no password leaves unencrypted"
    with pytest.raises(DeliveryError, match="cannot be reached"):
        sent_to(shop, "smtp://127.0.0.1:9?from=a@b.example")
    for url in ("http://secret.example", "https://u:secret@h.example", "http://localhost", "smtp://secret.example"):
        with pytest.raises(UsageError, match="RECLLM_GATEWAY") as refused:
            Gateway.of(url, SECRET)
        assert "secret" not in str(refused.value)
    assert SECRET[6:] not in repr(Gateway.of("https://h.example", SECRET))
