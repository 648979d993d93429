"""An example of a gateway: SMS and WhatsApp by Twilio, and its reports back. Run it next to the service:

    RECLLM_GATEWAY_SECRET=whsec_... REPORTS=https://HOST/webhooks/SHOP/texts REPORTS_SECRET=whsec_... \\
    PROVIDER=https://api.twilio.com/2010-04-01/Accounts/SID/Messages.json PROVIDER_USER=SID PROVIDER_PASSWORD=TOKEN \\
    FROM=+15550100 HERE=https://gateway.shop.example python -m recllm.market.sending.example_gateway 8090

FROM=whatsapp:+15550100 and TEMPLATE=HX... send approved templates by WhatsApp. For another provider, such as 企业微信,
copy the file, and change `hand_over` and `REPORTED`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx2

MAX_BYTES, TOLERANCE_SECONDS = 64 << 10, 300
NOTHING_LEFT = frozenset({401, 403, 404, 405, 429, 503})
NO_SUCH_NUMBER = frozenset({21211, 21614})
"""Twilio's codes of numbers that get no messages."""
REPORTED: Mapping[str, str] = {
    "delivered": "delivered",
    "read": "opened",
    "undelivered": "blocked",
    "failed": "dropped",
}
"""Twilio's status -> event of the contract."""
ANSWERED_STOP = 21610
"""Twilio's code of a person who wants no more messages."""


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Of Standard Webhooks 1.0."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


class ExampleGateway(BaseHTTPRequestHandler):
    """POST /messages is the contract. The provider calls POST /status/MESSAGE."""

    protocol_version = "HTTP/1.1"
    database = "gateway.sqlite"
    """Answers by message, so that none is handed over twice."""

    def do_POST(self) -> None:
        self.send_response(self.answer())
        self.send_header("content-length", "0")
        self.end_headers()

    def answer(self) -> int:
        """The status."""
        length = int(self.headers.get("content-length", MAX_BYTES + 1))
        if length > MAX_BYTES:
            self.close_connection = True
            return 413
        body = self.rfile.read(length)
        if self.path.startswith("/status/"):
            kind = REPORTED.get(parse_qs(body.decode()).get("MessageStatus", [""])[0])
            is_reported = kind is None or report(self.path.removeprefix("/status/"), kind)
            return 204 if is_reported else 502  # without success, the provider calls again
        message_id = self.headers.get("webhook-id", "")
        timestamp = self.headers.get("webhook-timestamp", "")
        secret = os.environ["RECLLM_GATEWAY_SECRET"]
        expected = signature(secret, message_id, timestamp, body)
        signed = self.headers.get("webhook-signature", "")
        is_signed = hmac.compare_digest(expected.encode(), signed.encode())
        if not is_signed or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
            return 401
        return self.once(message_id, json.loads(body)["data"])

    def once(self, message_id: str, data: Mapping[str, Any]) -> int:
        """The answer to a message; of one that was there before, the answer of that time."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as rows:
            rows.execute("CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, status INTEGER)")
            # 500: it may have left, as the process ended before the provider's answer
            is_new = rows.execute("INSERT OR IGNORE INTO answers VALUES (?, 500)", [message_id]).rowcount
            if not is_new:
                row = rows.execute("SELECT status FROM answers WHERE id = ?", [message_id])
                return int(row.fetchone()[0])
            status = hand_over(message_id, data)
            if status in NOTHING_LEFT:  # the next attempt is a first one
                rows.execute("DELETE FROM answers WHERE id = ?", [message_id])
            else:
                rows.execute("UPDATE answers SET status = ? WHERE id = ?", [status, message_id])
            return status

    def log_message(self, format: str, *arguments: object) -> None:
        """No ids of messages in the log."""


def hand_over(message_id: str, data: Mapping[str, Any]) -> int:
    """Gives a message to the provider: the answer by the contract."""
    sender = os.environ["FROM"]
    to = f"whatsapp:{data['to']}" if sender.startswith("whatsapp:") else data["to"]
    callback = f"{os.environ['HERE']}/status/{message_id}"
    form = {"To": to, "From": sender, "StatusCallback": callback}
    if template := os.environ.get("TEMPLATE"):
        variables = data["variables"] | {"link": data["link"]}
        form |= {"ContentSid": template, "ContentVariables": json.dumps(variables)}
    else:
        lines = (data["title"], data["body"], data["link"]) if "body" in data else (data["text"],)
        form["Body"] = "\n".join(lines)
    sign_in = os.environ["PROVIDER_USER"], os.environ["PROVIDER_PASSWORD"]
    try:
        answer = httpx2.post(os.environ["PROVIDER"], data=form, auth=sign_in, timeout=20)
    except httpx2.ConnectError:
        return 503
    except httpx2.HTTPError:
        return 500
    if answer.status_code == 400:
        code = answer.json().get("code")
        if code == ANSWERED_STOP:
            report(message_id, "unsubscribed")
        return 410 if code in NO_SUCH_NUMBER else 400
    return answer.status_code


def report(message_id: str, kind: str) -> bool:
    """Reports on a message as a provider does. Returns whether the service took the report."""
    document = {
        "type": f"message.{kind}",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {"recllm_message_id": message_id},
    }
    body, event_id = json.dumps(document).encode(), f"{message_id}.{kind}"
    timestamp = f"{time.time():.0f}"
    signed = signature(os.environ["REPORTS_SECRET"], event_id, timestamp, body)
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signed,
    }
    answer = httpx2.post(os.environ["REPORTS"], content=body, headers=headers)
    return answer.is_success


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), ExampleGateway).serve_forever()
