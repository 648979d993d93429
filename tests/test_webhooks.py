"""Webhooks: what is forged, stale or sent twice changes nothing; what is true counts once, in whatever order."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Command
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from service_world import serving
from standardwebhooks import Webhook
from store_view import campaign_message, view
from test_campaigns import LIGHT, plan_tea, rows_of
from waiting import at_once

from recllm.base.errors import StoreError, UnknownIdError, UsageError
from recllm.base.messages import CampaignMessage, MessageEvent, MessageEventKind
from recllm.base.policy import Policy
from recllm.base.questions import ReportBy
from recllm.base.schema import Purpose
from recllm.base.service_settings import ServiceSettings
from recllm.doors.service.report_forms import FORMS, message_events
from recllm.market.campaigns.export import export_campaign, undeliverable
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import TextStatus
from recllm.market.campaigns.open_campaign import OpenCampaign, decide, open_campaign
from recllm.market.campaigns.outcome import campaign_outcome
from recllm.market.experiments.feedback import feedback_report
from recllm.market.sending.reports import record_reports
from recllm.shop.ingest.workspace_load import add_consent
from recllm.shop.workspace import sns
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import KEY_VARIABLE
from recllm.shop.workspace.webhooks import (
    SignedCall,
    WebhookScheme,
    WebhookSecret,
    WebhookSource,
    add_source,
    read_webhooks,
    remove_webhook,
    verify,
)
from recllm.shop.workspace.workspace import Workspace

HOUR = timedelta(hours=1)
FILES = ("tea-email.csv", "tea-push.csv")


def sign(secrets: Sequence[WebhookSecret], call_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks, with a signature by each secret."""
    timestamp = str(int(at.timestamp()))
    content = f"{call_id}.{timestamp}.".encode() + body
    keys = (base64.b64decode(secret.text.removeprefix("whsec_") + "==") for secret in secrets)
    signatures = (base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
    return {
        "webhook-id": call_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


TOLERANCE = timedelta(seconds=300)


@dataclass(frozen=True)
class SendGridKey:
    """A key as SendGrid holds it; the shop knows the public half."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def public_text(self) -> str:
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(self.private.public_key().public_bytes(*form)).decode()

    def headers(self, body: bytes, at: datetime) -> dict[str, str]:
        timestamp = str(int(at.timestamp()))
        signature = self.private.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return {
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        }


@dataclass(frozen=True)
class Door:
    """A served shop with one provider of each kind, and messages that left an hour ago."""

    client: TestClient
    shop: Workspace
    secret: WebhookSecret
    key: SendGridKey
    messages: Sequence[CampaignMessage]

    def standard(self, name: str, message: CampaignMessage | str, *, call_id: str, at: datetime | None = None) -> Any:
        body = standard_body(name, message, at or datetime.now(UTC))
        return self.post("mail", body, sign([self.secret], call_id, datetime.now(UTC), body))

    def sendgrid(self, *entries: Any, at: datetime | None = None) -> Any:
        body = json.dumps(entries).encode()
        return self.post("grid", body, self.key.headers(body, at or datetime.now(UTC)))

    def post(self, source: str, body: bytes, headers: Mapping[str, str]) -> Any:
        return self.client.post(f"/webhooks/shop/{source}", content=body, headers=dict(headers))

    def kinds(self) -> list[tuple[str, str]]:
        """(event id, kind) of everything that was counted."""
        with self.shop.store()._engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT event_id, kind FROM message_events").all()
        return sorted((row[0], row[1]) for row in rows)


def standard_body(name: str, message: CampaignMessage | str, at: datetime) -> bytes:
    message_id = message if isinstance(message, str) else message.message_id
    data = {"recllm_message_id": message_id, "email": "ann@example.com"}
    return json.dumps({"type": name, "timestamp": at.isoformat(), "data": data}).encode()


def entry(event: str, message: CampaignMessage, number: int, at: datetime | None = None, **more: Any) -> dict[str, Any]:
    seconds = int((at or datetime.now(UTC)).timestamp())
    found = {"event": event, "timestamp": seconds, "sg_event_id": f"sg-{number}", "email": "ann@example.com"}
    return found | {"recllm_message_id": message.message_id} | more


@pytest.fixture
def sent(shop: Path) -> tuple[CampaignMessage, ...]:
    """Messages of a campaign to the two people of the shop, by e-mail and push."""
    with Workspace.open(shop) as workspace:
        people = workspace.pseudonymiser().many(["ann", "bob"])
        left = datetime.now(UTC) - HOUR
        messages = tuple(
            campaign_message(number, user, channel, "tea", message_id=f"m1_{user}{channel}", exported_at=left)
            for number, user in enumerate(people)
            for channel in ("email", "push")
        )
        workspace.store().add_messages(messages)
    return messages


@pytest.fixture
def door(shop: Path, sent: tuple[CampaignMessage, ...]) -> Iterator[Door]:
    settings = ServiceSettings(watch_seconds=0.05, max_body_mib=2.0)
    with Workspace.open(shop) as workspace, serving(shop, settings=settings) as client:
        key = SendGridKey()
        _, secret = add_source(workspace, "mail", WebhookScheme.STANDARD)
        add_source(workspace, "grid", WebhookScheme.SENDGRID, key.public_text)
        yield Door(client, workspace, secret, key, sent)


def test_both_kinds_of_providers_report(door: Door) -> None:
    first, second = door.messages[:2]
    answer = door.standard("message.delivered", first, call_id="call-1")
    assert answer.status_code == 200 and answer.json() == {"accepted": 1, "duplicates": 0, "ignored": 0}
    told = ["delivered", "open", "processed", "deferred", "click", "bounce", "unsubscribe"]
    answer = door.sendgrid(*reversed([entry(event, second, n) for n, event in enumerate(told)]))
    assert answer.json() == {"accepted": len(told), "duplicates": 0, "ignored": 0}
    kinds = ["delivered", "opened", "processed", "deferred", "clicked", "bounced", "unsubscribed"]
    assert door.kinds() == [("call-1", "delivered"), *((f"sg-{n}", kind) for n, kind in enumerate(kinds))]


def test_what_is_forged_stale_or_sent_again_counts_nothing(door: Door) -> None:
    """240 requests in a random order: 40 good ones count once each, 200 bad ones count nothing."""
    rng, now = random.Random(5), datetime.now(UTC)
    other_secret = WebhookSecret(text="whsec_" + base64.b64encode(bytes(range(32))).decode(), created_at=now)
    other_key = SendGridKey()
    good: list[tuple[str, bytes, dict[str, str]]] = []
    for n in range(20):
        message = door.messages[n % len(door.messages)]
        body = standard_body("message.opened", message, now)
        good.append(("mail", body, sign([door.secret], f"call-{n}", now, body)))
        body = json.dumps([entry("delivered", message, n, now)]).encode()
        good.append(("grid", body, door.key.headers(body, now)))
    bad: list[tuple[str, bytes, dict[str, str]]] = []
    for n in range(25):
        message = door.messages[n % len(door.messages)]
        body = standard_body("message.unsubscribed", message, now)
        entries = json.dumps([entry("unsubscribe", message, 1_000 + n, now)]).encode()
        source, content, headers = good[n]
        shift = rng.choice((-1, 1)) * timedelta(seconds=rng.uniform(310, 86_400))
        cut = sign([door.secret], f"bad-{n}", now, body)
        cut["webhook-signature"] = cut["webhook-signature"][: -rng.randint(1, 40)]
        bad += [
            ("mail", body, sign([other_secret], f"bad-{n}", now, body)),
            ("mail", body, cut),
            ("mail", body, sign([door.secret], f"bad-{n}", now + shift, body)),
            ("mail", body, sign([door.secret], f"bad-{n}", now, body) | {"webhook-id": f"bad-{n}x"}),
            ("grid", entries, other_key.headers(entries, now)),
            ("grid", entries, door.key.headers(entries, now + shift)),
            ("grid", entries + b" ", door.key.headers(entries, now)),
            (source, content.replace(b"ann@", b"bob@"), headers),
        ]
    assert (len(good), len(bad)) == (40, 200)
    requests = [(True, request) for request in good] + [(False, request) for request in bad]
    rng.shuffle(requests)
    for is_good, (source, body, headers) in requests:
        answer = door.post(source, body, headers)
        assert answer.status_code == (200 if is_good else 401), answer.text
        if is_good:
            assert answer.json() == {"accepted": 1, "duplicates": 0, "ignored": 0}
            again = door.post(source, body, headers)
            assert again.json() == {"accepted": 0, "duplicates": 1, "ignored": 0}
    counted = [(f"call-{n}", "opened") for n in range(20)] + [(f"sg-{n}", "delivered") for n in range(20)]
    assert door.kinds() == sorted(counted)
    assert all(door.shop.gate().permits(message.user_id, Purpose.EMAIL) for message in door.messages)


def test_a_refusal_says_nothing_of_its_reason(door: Door) -> None:
    body = standard_body("message.opened", door.messages[0], datetime.now(UTC))
    right = sign([door.secret], "call", datetime.now(UTC), body)
    stale = sign([door.secret], "call", datetime.now(UTC) - HOUR, body)
    wrong = (stale, {}, right | {"webhook-signature": "v1,=?&"}, right | {"webhook-timestamp": "1e9"})
    cases = [("shop/mail", headers) for headers in wrong]
    cases += [(path, right) for path in ("shop/nobody", "elsewhere/mail", "shop/grid")]
    for path, headers in cases:
        answer = door.client.post(f"/webhooks/{path}", content=body, headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["message"]) == (401, "http", "no valid signature of now")
    assert door.kinds() == []


def test_the_same_events_at_once_count_once(door: Door) -> None:
    body = json.dumps([entry("click", door.messages[0], n) for n in range(10)]).encode()
    headers = door.key.headers(body, datetime.now(UTC))
    answers = at_once(*[lambda: door.post("grid", body, headers)] * 4)
    assert sum(answer.json()["accepted"] for answer in answers) == 10 and len(door.kinds()) == 10
    clicks = view(door.shop.store()).events().filter(event="click")
    assert clicks.height == 10


def test_a_click_is_one_of_the_item_and_of_its_showing(door: Door) -> None:
    end = max(view(door.shop.store()).events()["timestamp"])
    message = door.messages[0]
    door.sendgrid(entry("click", message, 1), entry("click", message, 1))
    (row,) = view(door.shop.store()).events().filter(event="click").to_dicts()
    assert (row["user_id"], row["item_id"], row["request_id"]) == (message.user_id, "tea", message.request_id)
    assert row["timestamp"] <= end, "a log that is replayed ends where it did"


def test_a_message_about_no_item_is_clicked_all_the_same(door: Door) -> None:
    letter = replace(door.messages[0], message_id="m1_letter", item_id=None)
    door.shop.store().add_messages([letter])
    assert door.sendgrid(entry("click", letter, 1)).json()["accepted"] == 1
    assert door.kinds() == [("sg-1", "clicked")]
    assert not view(door.shop.store()).events().filter(event="click").height


def test_an_unsubscription_counts_in_the_next_answer(door: Door) -> None:
    message = door.messages[0]
    asked = {"user_id": "ann", "channel": "email"}
    for number, event in enumerate(("unsubscribe", "group_unsubscribe", "spamreport")):
        add_consent(door.shop, [("ann", Purpose.EMAIL, True, datetime.now(UTC))], source="test")
        assert door.client.post("/v1/copy", json=asked).status_code == 200
        assert door.sendgrid(entry(event, message, number)).json()["accepted"] == 1
        # what she agreed to before does not count, however late it comes
        add_consent(door.shop, [("ann", Purpose.EMAIL, True, datetime.now(UTC) - HOUR / 2)], source="test")
        assert door.client.post("/v1/copy", json=asked).status_code == 403, event
    assert door.shop.gate().permits(message.user_id, Purpose.PUSH)
    push = next(m for m in door.messages if m.channel == "push" and m.user_id == message.user_id)
    assert door.standard("message.unsubscribed", push, call_id="push").json()["accepted"] == 1
    assert not door.shop.gate().permits(message.user_id, Purpose.PUSH)
    add_consent(door.shop, [("ann", Purpose.EMAIL, True, datetime.now(UTC))], source="test")
    assert door.shop.gate().permits(message.user_id, Purpose.EMAIL), "she may change her mind"


@pytest.mark.parametrize("at", [timedelta(days=-9_000), timedelta(days=400)])
def test_a_providers_clock_can_neither_lose_nor_prolong_a_withdrawal(door: Door, at: timedelta) -> None:
    message = door.messages[0]
    add_consent(door.shop, [("ann", Purpose.EMAIL, True, message.exported_at)], source="test")
    assert door.sendgrid(entry("unsubscribe", message, 1, datetime.now(UTC) + at)).json()["accepted"] == 1
    assert not door.shop.gate().permits(message.user_id, Purpose.EMAIL)
    with door.shop.store().read() as reader:
        last = reader.consent("email", [message.user_id]).filter(~pl.col("granted"))["at"][-1]
    assert message.exported_at <= last <= datetime.now(UTC)
    add_consent(door.shop, [("ann", Purpose.EMAIL, True, datetime.now(UTC) + timedelta(seconds=1))], source="test")
    assert door.shop.gate().permits(message.user_id, Purpose.EMAIL)


def test_an_unsubscription_that_is_sent_again_ends_no_newer_consent(door: Door) -> None:
    message = door.messages[0]
    body = json.dumps([entry("unsubscribe", message, 1, timestamp="soon")]).encode()
    headers = door.key.headers(body, datetime.now(UTC))
    assert door.post("grid", body, headers).json()["accepted"] == 1
    add_consent(door.shop, [("ann", Purpose.EMAIL, True, datetime.now(UTC))], source="test")
    assert door.post("grid", body, headers).json()["duplicates"] == 1
    assert door.shop.gate().permits(message.user_id, Purpose.EMAIL)


def test_a_hard_bounce_is_trouble_of_the_address_until_something_arrives(door: Door) -> None:
    message, start = door.messages[0], datetime.now(UTC) - HOUR / 2
    door.sendgrid(entry("bounce", message, 1, start, type="blocked"))
    assert undeliverable(door.shop, "email") == set(), "a soft one"
    door.sendgrid(entry("bounce", message, 2, start, type="bounce"))
    assert undeliverable(door.shop, "email") == {message.user_id} and undeliverable(door.shop, "push") == set()
    assert door.shop.gate().permits(message.user_id, Purpose.EMAIL), "consent is as it was"
    door.sendgrid(entry("delivered", message, 3, start - timedelta(minutes=1)))
    assert undeliverable(door.shop, "email") == {message.user_id}, "it arrived before"
    door.sendgrid(entry("delivered", message, 4, start + timedelta(minutes=1)))
    assert undeliverable(door.shop, "email") == set()
    door.sendgrid(entry("bounce", message, 5, start + timedelta(minutes=2)))
    assert undeliverable(door.shop, "email") == {message.user_id}
    add_consent(door.shop, [("ann", Purpose.EMAIL, True, datetime.now(UTC))], source="test")
    assert undeliverable(door.shop, "email") == set(), "she agreed anew, with an address"


OPEN = {"event": "open", "sg_event_id": "e"}
HOSTILE: Mapping[str, Any] = {
    "numbers": [0, 1e308, 10**4_000, -1, float("nan"), float("-inf")],
    "nulls": [None, [], {}, [[]], ""],
    "wrong types": [{"event": ["open"], "sg_event_id": {"a": 1}, "recllm_message_id": 7, "timestamp": []}],
    "an unknown event": [{"event": "teleported", "sg_event_id": "e", "recllm_message_id": "m1_a"}],
    "an unknown message": [OPEN | {"recllm_message_id": "m1_" + "A" * 26, "timestamp": 1}],
    "no message": [OPEN | {"email": "ann@example.com", "timestamp": 1}],
    "a long id": [OPEN | {"sg_event_id": "e" * 1_000_000, "recllm_message_id": "m1_a"}],
    "a long message": [OPEN | {"recllm_message_id": "m" * 1_000_000}],
    "a zero byte": [OPEN | {"sg_event_id": "e\0", "recllm_message_id": "m\0"}],
    "half a letter": [OPEN | {"sg_event_id": "e\ud800", "recllm_message_id": "m\ud800"}],
}


def test_what_has_another_form_is_ignored(door: Door) -> None:
    for name, entries in HOSTILE.items():
        answer = door.sendgrid(*entries)
        assert answer.status_code == 200, name
        assert answer.json() == {"accepted": 0, "duplicates": 0, "ignored": len(entries)}, name
        for document in (entries, {"type": "message.opened", "data": entries[0]}):
            body = json.dumps(document).encode()
            answer = door.post("mail", body, sign([door.secret], "call", datetime.now(UTC), body))
            assert answer.status_code == 200 and answer.json()["ignored"] == 1, name
    assert door.kinds() == []


def test_a_time_that_is_none_is_that_of_the_request(door: Door) -> None:
    for number, seconds in enumerate([10**30, -5, 1.5e300, "now", None, True, [1], 2**63]):
        answer = door.sendgrid(entry("open", door.messages[0], number, timestamp=seconds))
        assert answer.json()["accepted"] == 1, seconds


def test_what_is_no_json_is_refused(door: Door) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for body in (b"", b"\xff", b"{", deep, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"[1e", b"{]"):
        for source, headers in (
            ("mail", sign([door.secret], "call", datetime.now(UTC), body)),
            ("grid", door.key.headers(body, datetime.now(UTC))),
        ):
            answer = door.post(source, body, headers)
            assert answer.status_code == 422 and answer.json()["error"]["message"] == "the body is not JSON"


def test_a_body_is_bounded_before_it_is_checked(door: Door) -> None:
    body = b" " * (2 * 2**20 + 1)
    assert door.post("mail", body, sign([door.secret], "call", datetime.now(UTC), body)).status_code == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["event", "timestamp", "sg_event_id", "recllm_message_id", "type", "data"]) | st.text(), inner
    ),
    max_leaves=20,
)  # fmt: skip


MAILGUN_KEY = "key-of-mailgun-0123456789abcdef"


def mailgun(event: str, message_id: str, number: int, **more: Any) -> dict[str, Any]:
    timestamp, token = str(int(datetime.now(UTC).timestamp())), f"token{number}"
    signature = hmac.new(MAILGUN_KEY.encode(), f"{timestamp}{token}".encode(), "sha256").hexdigest()
    data = {"event": event, "id": f"mg{number}", "timestamp": int(timestamp) - 1.5} | more
    data["user-variables"] = {"recllm_message_id": message_id}
    return {"signature": {"timestamp": timestamp, "token": token, "signature": signature}, "event-data": data}


def postmark(record: str, message_id: str, **more: Any) -> dict[str, Any]:
    return {"RecordType": record, "Metadata": {"recllm_message_id": message_id}} | more


def resend(event: str, message_id: str, **more: Any) -> dict[str, Any]:
    data = {"email_id": "4ef9", "tags": {"recllm_message_id": message_id}} | more
    return {"type": f"email.{event}", "created_at": "2026-11-22T23:41:12.126Z", "data": data}


def test_resend_mailgun_and_postmark_are_understood(door: Door) -> None:
    """Bodies as their documentation shows them, and the same with a signature that does not hold."""
    first, second = (message.message_id for message in door.messages[:2])
    _, password = add_source(door.shop, "postmark", WebhookScheme.POSTMARK)
    _, secret = add_source(door.shop, "resend", WebhookScheme.RESEND, f"whsec_{'c2VjcmV0' * 5}")
    add_source(door.shop, "mailgun", WebhookScheme.MAILGUN, MAILGUN_KEY)
    basic = base64.b64encode(f"recllm:{password.text}".encode()).decode()
    suppressed = {"SuppressSending": True, "ChangedAt": "2026-12-01T10:00:00Z"}
    reports = [
        ("mailgun", mailgun("delivered", first, 1), "delivered"),
        ("mailgun", mailgun("failed", second, 2, severity="permanent"), "bounced"),
        ("mailgun", mailgun("failed", second, 3, severity="temporary"), "blocked"),
        ("mailgun", mailgun("list_member_uploaded", second, 4), None),
        ("postmark", postmark("Delivery", first, DeliveredAt="2026-12-01T10:00:00.1234567Z"), "delivered"),
        ("postmark", postmark("Bounce", second, Type="HardBounce"), "bounced"),
        ("postmark", postmark("Bounce", second, Type="SoftBounce"), "blocked"),
        ("postmark", postmark("SubscriptionChange", first, SuppressionReason="HardBounce", **suppressed), None),
        ("postmark", postmark("SubscriptionChange", second, SuppressionReason="ManualSuppression", **suppressed),
         "unsubscribed"),
        ("resend", resend("opened", first), "opened"),
        ("resend", resend("bounced", second, bounce={"type": "Permanent"}), "bounced"),
        ("resend", resend("bounced", second, bounce={"type": "Transient"}), "blocked"),
        ("resend", resend("scheduled", first), None),
    ]  # fmt: skip
    for n, (source, document, kind) in enumerate(reports):
        body, now, before = json.dumps(document).encode(), datetime.now(UTC), door.kinds()
        signed = sign([secret], f"call{n}", now, body) if source == "resend" else {}
        headers = {name.replace("webhook", "svix"): value for name, value in signed.items()}
        headers |= {"Authorization": f"Basic {basic}"} if source == "postmark" else {}
        forged = {name: value[:-4] + "AAA=" for name, value in headers.items()}
        wrong = body.replace(b"token", b"talon") if source == "mailgun" else body
        assert door.post(source, wrong, forged).status_code == 401, source
        answer = door.post(source, body, headers).json()
        assert answer["accepted"] == (kind is not None) and answer["ignored"] == (kind is None), (source, document)
        added = [event for event in door.kinds() if event not in before]
        assert [word for _, word in added] == ([kind] if kind else []), (source, document)
        again = door.post(source, body, headers).json()
        assert again["accepted"] == 0 and again["duplicates"] == (kind is not None), (source, document)


@dataclass(frozen=True)
class AmazonKey:
    """A key of SNS with a certificate, as its hosts show it."""

    private: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    url: str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"

    def certificate(self) -> bytes:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
        now = datetime.now(UTC)
        maker = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.private.public_key())
        maker = maker.serial_number(1).not_valid_before(now - HOUR).not_valid_after(now + HOUR)
        return maker.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def message(self, kind: str, text: str, number: int, **more: str) -> dict[str, str]:
        """Signed as Amazon says: the names and values of the fields, in the order of the alphabet."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = {"Type": kind, "MessageId": f"sns{number}", "TopicArn": "arn:aws:sns:eu-west-1:1:shop"}
        message |= {"Message": text, "Timestamp": at} | more
        content = "".join(f"{name}\n{message[name]}\n" for name in sorted(message)).encode()
        signature = self.private.sign(content, padding.PKCS1v15(), hashes.SHA256())
        signed = {"SignatureVersion": "2", "Signature": base64.b64encode(signature).decode()}
        return message | signed | {"SigningCertURL": self.url}


def test_ses_reports_by_sns_and_nothing_else_is_asked(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    key, stranger, asked = AmazonKey(), AmazonKey(), list[str]()

    def fetched(url: str) -> bytes:
        asked.append(url)
        return key.certificate()

    certificate_host = sns.fetched
    sns.certificate_of.cache_clear()
    monkeypatch.setattr(sns, "fetched", fetched)
    add_source(door.shop, "ses", WebhookScheme.SES, "arn:aws:sns:eu-west-1:1:shop")
    first, second = (message.message_id for message in door.messages[:2])

    def post(message: Mapping[str, str]) -> Any:
        return door.post("ses", json.dumps(message).encode(), {"x-amz-sns-message-type": message["Type"]})

    def event(kind: str, message_id: str, **more: Any) -> str:
        return json.dumps({"eventType": kind, "mail": {"tags": {"recllm_message_id": [message_id]}}} | more)

    place = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"
    begun = key.message("SubscriptionConfirmation", "You have chosen to subscribe", 1, SubscribeURL=place, Token="t")
    assert post(begun).status_code == 200 and asked[-1] == place
    delivery = event("Delivery", first)
    post(key.message("Notification", delivery, 2))
    post(key.message("Notification", event("Bounce", second, bounce={"bounceType": "Permanent"}), 3, Subject="x"))
    post(key.message("Notification", event("Bounce", second, bounce={"bounceType": "Transient"}), 4))
    assert post(key.message("Notification", delivery, 2)).json()["duplicates"] == 1
    assert door.kinds() == [("sns2", "delivered"), ("sns3", "bounced"), ("sns4", "blocked")]
    good = key.message("Notification", event("Complaint", first), 5)
    for forged in (
        stranger.message("Notification", event("Complaint", first), 5),
        good | {"Message": event("Complaint", second)},
        good | {"TopicArn": "arn:aws:sns:eu-west-1:1:other"},
        good | {"SignatureVersion": "3"},
        good | {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com/?Action=GetEndpointAttributes"},
        good | {"Timestamp": "2025-01-01T00:00:00.000Z"},
    ):
        assert post(forged).status_code == 401, forged
    amazon = "sns.a.amazonaws.com"
    for host in ("sns.evil.example", "127.0.0.1", f"{amazon}@evil.example", f"{amazon}.evil.example"):
        with pytest.raises(LookupError, match="no address of Amazon"):
            certificate_host(f"https://{host}/x.pem")


@given(document=JSON, scheme=st.sampled_from(sorted(FORMS)))
def test_any_json_is_events_and_what_is_none(document: Any, scheme: WebhookScheme) -> None:
    call = SignedCall(call_id="call" if scheme is WebhookScheme.STANDARD else None, sent_at=datetime.now(UTC))
    read, ignored = message_events(scheme, json.dumps(document).encode(), call)
    is_batch = scheme is WebhookScheme.SENDGRID and isinstance(document, list)
    assert len(read) + ignored == (len(document) if is_batch else 1)
    assert all(event.at.tzinfo is not None for event in read)


def source_of(*secrets: WebhookSecret) -> WebhookSource:
    return WebhookSource(name="mail", scheme=WebhookScheme.STANDARD, secrets=secrets)


def secret_of(key: bytes) -> WebhookSecret:
    return WebhookSecret(text="whsec_" + base64.b64encode(key).decode(), created_at=datetime.now(UTC))


@given(
    key=st.binary(min_size=24, max_size=64),
    call_id=st.from_regex(r"[!-~]{1,40}", fullmatch=True),
    body=st.text().map(str.encode),
)
def test_signatures_are_those_of_the_standards_own_library(key: bytes, call_id: str, body: bytes) -> None:
    secret, now = secret_of(key), datetime.now(UTC).replace(microsecond=0)
    ours = sign([secret], call_id, now, body)
    theirs = Webhook(secret.text)
    assert ours["webhook-signature"] == theirs.sign(call_id, now, body.decode())
    assert theirs.verify(body, ours, json_parse=False) is None
    call = verify(source_of(secret), ours, body, now=now, tolerance=TOLERANCE)
    assert call == SignedCall(call_id=call_id, sent_at=now)


@given(
    body=st.binary(min_size=1, max_size=60),
    position=st.integers(0, 59),
    flip=st.integers(1, 255),
    shift=st.integers(-700, 700),
)
def test_a_signature_holds_for_its_bytes_and_its_time_alone(body: bytes, position: int, flip: int, shift: int) -> None:
    secret, now = secret_of(bytes(32)), datetime.now(UTC)
    changed = bytearray(body)
    changed[position % len(body)] ^= flip
    headers = sign([secret], "call", now, body)
    assert verify(source_of(secret), headers, bytes(changed), now=now, tolerance=TOLERANCE) is None
    moment = datetime.fromtimestamp(int(now.timestamp()), UTC) + timedelta(seconds=shift)
    call = verify(source_of(secret), headers, body, now=moment, tolerance=TOLERANCE)
    assert (call is not None) == (abs(shift) <= 300)


def test_secrets_change_without_a_loss(door: Door) -> None:
    message = door.messages[0]
    old, (_, new) = door.secret, add_source(door.shop, "mail", WebhookScheme.STANDARD)

    def status(*secrets: WebhookSecret, call_id: str) -> int:
        body = standard_body("message.opened", message, datetime.now(UTC))
        return int(door.post("mail", body, sign(secrets, call_id, datetime.now(UTC), body)).status_code)

    stranger = secret_of(bytes(40))
    both = [status(old, call_id="a"), status(new, call_id="b"), status(stranger, old, call_id="c")]
    assert [*both, status(stranger, call_id="d")] == [200, 200, 200, 401]
    remove_webhook(door.shop, "mail", old.fingerprint)
    after = [status(old, call_id="e"), status(new, call_id="f"), status(old, new, call_id="g")]
    assert after == [401, 200, 200]
    key = SendGridKey()
    add_source(door.shop, "grid", WebhookScheme.SENDGRID, key.public_text)
    for number, private in enumerate((door.key, key)):
        body = json.dumps([entry("open", message, number)]).encode()
        assert door.post("grid", body, private.headers(body, datetime.now(UTC))).status_code == 200
    remove_webhook(door.shop, "grid")
    assert door.sendgrid(entry("open", message, 9)).status_code == 401


def test_secrets_lie_as_private_as_the_key(shop: Path) -> None:
    with Workspace.open(shop) as workspace:
        _, secret = add_source(workspace, "mail", WebhookScheme.STANDARD)
        assert workspace.webhooks_path.stat().st_mode & 0o777 == 0o600
        assert secret.text not in repr(read_webhooks(workspace)) and secret.fingerprint not in secret.text
        workspace.webhooks_path.chmod(0o640)
        with pytest.raises(StoreError, match="chmod 600") as caught:
            read_webhooks(workspace)
        workspace.webhooks_path.chmod(0o600)
        workspace.webhooks_path.write_text('{"sources": {"mail": "' + secret.text + '"}}')
        with pytest.raises(StoreError, match="is damaged") as damaged:
            read_webhooks(workspace)
        assert secret.text not in f"{caught.value}{damaged.value}{damaged.value.__cause__}"


def test_what_cannot_be_a_secret_is_refused_and_not_repeated(shop: Path) -> None:
    p384 = SendGridKey(ec.generate_private_key(ec.SECP384R1())).public_text
    wrong = {
        WebhookScheme.STANDARD: (secret_of(bytes(10)).text, "whsec_?"),
        WebhookScheme.SENDGRID: (base64.b64encode(b"no key").decode(), p384),
    }
    with Workspace.open(shop) as workspace:
        for scheme, text in ((scheme, text) for scheme, texts in wrong.items() for text in texts):
            with pytest.raises(UsageError) as caught:
                add_source(workspace, "mail", scheme, text)
            assert text not in str(caught.value)
        with pytest.raises(UsageError, match="public key"):
            add_source(workspace, "mail", WebhookScheme.SENDGRID)
        add_source(workspace, "mail", WebhookScheme.STANDARD)
        with pytest.raises(UsageError, match="another name"):
            add_source(workspace, "mail", WebhookScheme.SENDGRID, SendGridKey().public_text)
        with pytest.raises(UnknownIdError):
            remove_webhook(workspace, "nobody")


def test_no_secret_and_no_person_is_in_logs_or_metrics(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    message = door.messages[0]
    door.sendgrid(entry("open", message, 1), entry("unsubscribe", message, 2), 7)
    door.standard("message.clicked", message, call_id="call")
    door.post("mail", b"{}", {})
    logged = "".join(f"{r.getMessage()}{vars(r)}" for r in caplog.records if not r.name.startswith("httpx2"))
    figures = door.client.get("/metrics").text
    for private in (message.user_id, message.message_id, "ann@example.com", door.secret.text, door.secret.text[6:]):
        assert private not in logged + figures
    assert 'recllm_message_events_total{outcome="accepted"} 3.0' in figures
    assert 'recllm_message_events_total{outcome="ignored"} 1.0' in figures


def test_one_bad_letter_does_not_take_the_others_along(door: Door) -> None:
    message = door.messages[0]
    entries = [entry("unsubscribe", message, 1, useragent="\ud800"), entry("open", message, 2, length="endless")]
    raw = json.dumps(entries).encode().replace(b"ann@", b"\xff@").replace(b'"endless"', b"9" * 5_000)
    assert door.post("grid", raw, door.key.headers(raw, datetime.now(UTC))).json()["accepted"] == 2
    assert not door.shop.gate().permits(message.user_id, Purpose.EMAIL)


@pytest.fixture(scope="module")
def spring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained shop and an approved campaign; its floor is 5, so that parts of it can be told."""
    folder = tmp_path_factory.mktemp("spring")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "the same key each time")
        plan_tea(folder, LIGHT, Policy(group_floor=5, small_shop=0))
        with Workspace.open(folder / "shop") as workspace:
            campaign = open_campaign(workspace, read_campaign(folder / "tea.toml"))
            texts = [text.id for text in campaign.plan.texts]
            decide(campaign, TextStatus.APPROVED, texts, by="Ann", at=datetime.now(UTC))
    return folder


@pytest.fixture
def campaign(spring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenCampaign]:
    monkeypatch.setenv(KEY_VARIABLE, "the same key each time")
    folder = Path(shutil.copytree(spring, tmp_path / "spring"))
    with Workspace.open(folder / "shop") as workspace:
        yield open_campaign(workspace, read_campaign(folder / "tea.toml"))


def delivered(file: Path) -> list[MessageEvent]:
    """One delivery of each message of an exported file, a second after another."""
    report, start = partial(MessageEvent, kind=MessageEventKind.DELIVERED), datetime.now(UTC) - HOUR
    return [
        report(event_id=f"{file.stem}-{n}", message_id=row["recllm_message_id"], at=start + timedelta(seconds=n))
        for n, row in enumerate(rows_of(str(file)))
    ]


def test_what_is_exported_is_recognised_again(campaign: OpenCampaign, tmp_path: Path) -> None:
    shop = campaign.workspace
    export_campaign(campaign, tmp_path / "first")
    rows = [row for file in FILES for row in rows_of(str(tmp_path / "first" / file))]
    ids = [row["recllm_message_id"] for row in rows]
    assert len(set(ids)) == len(rows) == 60 and all(re.fullmatch(r"m1_[A-Z2-7]{26}", name) for name in ids)
    messages, planned = shop.store().messages(ids), {p.user_id: p for p in campaign.plan.people}
    for row in rows:
        message = messages[row["recllm_message_id"]]
        person = planned[row["user_id"]]
        assert (message.user_id, message.request_id) == (row["user_id"], row["request_id"])
        assert (message.campaign_id, message.channel) == ("tea", person.channel)
        assert (message.item_id, message.variant, message.text_id) == (person.item_id, person.variant, person.text_id)
        assert row["user_id"][3:] not in message.message_id
    export_campaign(campaign, tmp_path / "again")
    again = [row["recllm_message_id"] for file in FILES for row in rows_of(str(tmp_path / "again" / file))]
    assert again == ids, "the same message has the same id"
    assert {m.exported_at for m in shop.store().messages(ids).values()} == {m.exported_at for m in messages.values()}


def test_a_click_belongs_to_the_showing_of_its_export(campaign: OpenCampaign, tmp_path: Path) -> None:
    shop = campaign.workspace
    export_campaign(campaign, tmp_path)
    (first, *_) = delivered(tmp_path / FILES[0])
    record_reports(shop, "mail", [replace(first, kind=MessageEventKind.CLICKED, event_id="c")])
    (outcome,) = feedback_report(shop, by=ReportBy.CAMPAIGN)
    assert (outcome.showings, outcome.clicked) == (60, 1)


def test_who_unsubscribed_or_bounced_is_not_exported_again(campaign: OpenCampaign, tmp_path: Path) -> None:
    shop = campaign.workspace
    export_campaign(campaign, tmp_path / "first")
    kinds = ("unsubscribed", "complained", "bounced", "blocked")
    email = zip(delivered(tmp_path / "first" / FILES[0]), kinds, strict=False)
    reports = [replace(event, kind=MessageEventKind(kind)) for event, kind in email]
    assert record_reports(shop, "mail", reports).accepted == 4
    done = export_campaign(campaign, tmp_path / "again")
    assert done.dropped == {"consent_withdrawn": 2, "address_bounced": 1} and done.reached == 57
    first, again = ([row["user_id"] for row in rows_of(str(tmp_path / n / FILES[0]))] for n in ("first", "again"))
    assert set(first[:4]) & set(again) == {first[3]}


def test_who_is_reached_and_whose_message_is_not_known_to_have_arrived(campaign: OpenCampaign, tmp_path: Path) -> None:
    shop = campaign.workspace
    done = export_campaign(campaign, tmp_path)
    before = campaign_outcome(campaign, FigureGate(shop))
    assert before.reached and before.reached.people == 60 and not before.messages and before.not_delivered == 0
    email, push = (delivered(tmp_path / file) for file in FILES)
    assert len(push) + len(email) == 60
    record_reports(shop, "mail", [*email[6:], replace(email[0], kind=MessageEventKind.BOUNCED, event_id="b")])
    record_reports(shop, "mail", [replace(email[7], kind=MessageEventKind.OPENED, event_id="o")])
    after = campaign_outcome(campaign, FigureGate(shop))
    assert after.reached == before.reached and after.effect == before.effect
    assert after.not_delivered == 6 and after.messages == {"delivered": len(email) - 6, "opened": 1, "bounced": 1}
    assert after.planned == after.reached.people + after.not_counted + sum(done.dropped.values())
    assert any("6 messages left and are not known to have arrived" in line for line in after.words)
    record_reports(shop, "mail", email[:6])
    assert campaign_outcome(campaign, FigureGate(shop)).not_delivered == 0


def test_webhooks_by_command(run: Command, shop: Path, tmp_path: Path) -> None:
    code, out, err = run("webhooks", "--add", "mail", "--provider", "standard", "-w", "shop")
    secret = out.strip()
    assert code == 0 and secret.startswith("whsec_") and "/webhooks/shop/mail" in err
    key = SendGridKey()
    (tmp_path / "key.txt").write_text(f"{key.public_text[:64]}\n{key.public_text[64:]}\n")
    code, out, _ = run("webhooks", "--add", "grid", "--provider", "sendgrid", "--secret-file", "key.txt")
    assert (code, out) == (0, "/webhooks/shop/grid\n")
    assert run("webhooks", "--add", "mail", "--provider", "pigeon")[0] == 2
    assert run("webhooks", "--add", "../mail", "--provider", "standard")[0] == 2
    code, out, _ = run("webhooks", "--json")
    listed = json.loads(out)
    assert [entry["name"] for entry in listed["providers"]] == ["mail", "grid"]
    assert secret not in out and key.public_text not in out
    with Workspace.open(shop) as workspace:  # as an older version left it
        hooks = json.loads(workspace.webhooks_path.read_text())
        hooks["targets"] = {"crm": {"name": "crm", "url": "https://crm.example/", "secrets": []}}
        workspace.webhooks_path.write_text(json.dumps(hooks))
    code, _, err = run("webhooks", "--add", "mail", "--provider", "standard")
    fingerprint = listed["providers"][0]["secrets"][0]["secret_id"]
    assert code == 0 and f"recllm webhooks --remove mail:{fingerprint}" in err
    assert run("webhooks", "--remove", f"mail:{fingerprint}")[0] == 0
    assert run("webhooks", "--remove", f"mail:{fingerprint}")[0] == 2
    assert run("webhooks", "--remove", "mail")[0] == 0 and run("webhooks", "--remove", "mail")[0] == 2
