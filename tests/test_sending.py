"""Campaigns that leave by e-mail: each message once, to those who agree, whatever the server and the process do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Command
from mail_server import Inbox, mail_server
from service_world import serving
from shop_world import QUICKLY, item_lines, loaded, purchase_lines, train
from shop_world import shop as world
from waiting import until

from recllm.base.errors import DeliveryError, NothingToDo, PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.doors.privacy.erasure import erase_people
from recllm.market.campaigns.export import export_campaign
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import TextStatus
from recllm.market.campaigns.open_campaign import OpenCampaign, decide, open_campaign
from recllm.market.campaigns.outcome import campaign_outcome
from recllm.market.campaigns.plan import plan_campaign
from recllm.market.sending.addresses import read_addresses
from recllm.market.sending.mail import MailServer
from recllm.market.sending.outbox import MessageState, Outbox
from recllm.market.sending.send import SendOutcome, send_campaign
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import KEY_VARIABLE
from recllm.shop.workspace.workspace import Workspace

PEOPLE, N = 120, 37
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


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "the same key each time")
        yield


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, key: None) -> Path:
    """A folder with a trained shop, and a campaign whose texts are approved."""
    folder, data = tmp_path_factory.mktemp("sending"), world(people=PEOPLE)
    (folder / "letter.toml").write_text(LETTER)
    tables = {"items": item_lines(data), "events": purchase_lines(data, list(data.users["user_id"]))}
    made = loaded(folder, tables, currency="USD", policy=Policy(small_shop=0, group_floor=5))
    with Workspace.open(train(made, **QUICKLY)) as shop:
        plan = plan_campaign(shop, read_campaign(folder / "letter.toml"))
        decide(opened(shop), TextStatus.APPROVED, [t.id for t in plan.texts], by="Ann", at=datetime.now(UTC))
    lines = ["Customer,Mail", *(f"{raw},{raw}@home.example" for raw in data.users["user_id"]), "stranger,no address"]
    (folder / "customers.csv").write_text("\n".join(lines).replace("Customer", "customer_id"))
    return folder


@pytest.fixture
def folder(planned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planned, tmp_path / "copy"))


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder / "shop") as workspace:
        yield workspace


def opened(shop: Workspace) -> OpenCampaign:
    return open_campaign(shop, read_campaign(shop.root.parent / "letter.toml"))


def addresses_of(shop: Workspace) -> dict[str, str]:
    return read_addresses(shop, shop.root.parent / "customers.csv")


def sent(shop: Workspace, inbox: Inbox, unanswered: MessageState | None = None) -> SendOutcome:
    with mail_server(inbox) as url:
        server = MailServer.of(url)
        return send_campaign(opened(shop), server, addresses_of(shop), per_minute=60_000, unanswered=unanswered)


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
        assert f'href="{link}"' in page and 'href="https://leaf.example"' in page and "Leaf &amp; Iron" in page
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


def test_kills_in_the_middle_double_and_lose_no_message(folder: Path) -> None:
    inbox, child = Inbox(), Path(__file__).with_name("sending_child.py")
    with mail_server(inbox) as url:
        for n in range(4):
            command = [sys.executable, str(child), str(folder), url, "1200"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            n_before = len(inbox.mails)
            while len(inbox.mails) < n_before + 3 + 2 * n and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.wait()
        with Workspace.open(folder / "shop") as shop:
            outcome = send_campaign(opened(shop), MailServer.of(url), addresses_of(shop), per_minute=60_000)
            people = expected(shop)
    assert max(inbox.received.values()) == 1
    ids = {mail["Message-ID"] for mail in inbox.mails}
    not_received = [name for name in outcome.unanswered if name not in ids]
    assert outcome.sent + len(outcome.unanswered) == N and len(inbox.mails) == N - len(not_received)
    assert len(outcome.unanswered) <= 4 * 4, "at most one for each connection of a killed process"
    assert set(inbox.received) <= people


def test_an_erased_customer_leaves_the_outbox(shop: Workspace) -> None:
    inbox = Inbox()
    sent(shop, inbox)
    person = opened(shop).plan.addressed[0].user_id
    assert person in campaign_log(shop)
    outbox = Outbox(opened(shop).folder)
    erase_people(shop, [addresses_of(shop)[person].partition("@")[0]], actor="test")
    assert person not in campaign_log(shop)
    outbox.record([person], MessageState.SENT)  # by a run that goes on meanwhile
    assert person not in campaign_log(shop) and len(campaign_log(shop).splitlines()) == 2 * (N - 1)


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


def test_a_file_with_two_columns_of_addresses_is_not_guessed(shop: Workspace) -> None:
    file = shop.root.parent / "people.csv"
    file.write_text("user_id,contact,account_manager\nu00,a@home.example,m@shop.example\nu02,,m@shop.example\n")
    with pytest.raises(UsageError, match="contact, account_manager"):
        read_addresses(shop, file)
    file.write_text("user_id,email,account_manager\nu00,a@home.example,m@shop.example\nu02,,m@shop.example\n")
    assert set(read_addresses(shop, file).values()) == {"a@home.example"}


def test_nothing_leaves_for_people_who_left_the_plan_meanwhile(shop: Workspace) -> None:
    """Erased, or under other pseudonyms by a rotation of the key."""
    campaign = opened(shop)
    first, second, *_ = (p.user_id for p in campaign.plan.addressed)
    outbox = Outbox(campaign.folder)
    erase_people(shop, [first], actor="test", by_pseudonym=True)
    assert outbox.record([first, second], MessageState.LEAVING) == [second]
    assert first not in campaign_log(shop)


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


def test_the_console_sends_a_test_then_the_campaign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, path = Inbox(), "/campaigns/campaign/letter"
    with mail_server(inbox) as url, serving(folder / "shop", console=True) as client:
        (folder / "shop" / "campaign-files").mkdir()
        shutil.copy(folder / "letter.toml", folder / "shop" / "campaign-files" / "letter.toml")
        page = client.get(f"{path}/review")
        assert "No mail server is set up" in page.text, page.text
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


def test_files_without_addresses_and_servers_that_are_none_are_refused(shop: Workspace) -> None:
    file = shop.root.parent / "people.csv"
    for text, problem in (("a,b\n1,x@home.example\n", "call the column with the customers' ids user_id"),
                          ("user_id,b\nu00,x\n", "customers' e-mail addresses email")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UsageError, match=problem):
            read_addresses(shop, file)
    wrong = ("", "secret.example", "http://mail.example?from=a@b.example", "smtp://secret.example")
    for url in (*wrong, "smtp://h:port?from=a@b"):
        with pytest.raises(UsageError, match="RECLLM_SMTP") as refused:
            MailServer.of(url)
        assert not url or url not in str(refused.value), "it may hold a password"
    server = MailServer.of("smtps://news%40leaf.example:p%3Aw@mail.example")
    assert (server.port, server.password, server.sender, server.starts_tls) == (465, "p:w", "news@leaf.example", False)
    assert MailServer.of("smtp://a@mail.example?from=news@leaf.example").starts_tls, "no password leaves unencrypted"
    nowhere = MailServer.of("smtp://127.0.0.1:9?from=a@b.example")
    with pytest.raises(DeliveryError, match="cannot be reached"):
        send_campaign(opened(shop), nowhere, addresses_of(shop), per_minute=60)
