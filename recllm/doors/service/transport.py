"""What comes before a request is answered: TLS of the service's own, and bounds of length and time for requests.

uvicorn's reader keeps headers of any length in memory and waits for the rest of a request for ever; here both are
bounded, and so are idle connections.
"""

from __future__ import annotations

import ssl
from asyncio import BaseTransport, TimerHandle
from enum import Enum
from pathlib import Path
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recllm.base.errors import UsageError

MAX_HEADER_BYTES = 64 << 10
"""Of the line and the headers of a request, about: what came with the piece in which it began is not counted."""
HEADER_SECONDS = 10.0
"""From the begin of a connection, or the end of an answer, to the end of the headers of the next request."""
BODY_SECONDS, BODY_BYTES = 20.0, 16 << 10
"""A body brings so much in each such time."""
MAX_WAITING = 512
"""Connections on which nothing is being answered; files that are open are few, too (`ulimit -n`)."""


class Arrival(Enum):
    """What of a request is being read."""

    NOTHING = 0
    HEADERS = 1
    BODY = 2


class BoundedRequests(HttpToolsProtocol):
    """Hangs up on slow or endless requests, and where too many connections wait, on the oldest one."""

    waiting: ClassVar[dict[BoundedRequests, None]] = {}
    """Those on which nothing is being answered, the longest waiting first."""
    arrival = Arrival.NOTHING
    n_bytes = 0
    """Of the headers, or of the body in this span of time."""
    deadline: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait(HEADER_SECONDS)
        if len(self.waiting) > MAX_WAITING:
            longest = next((line for line in self.waiting if line.arrival is not Arrival.BODY), self)
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self.arrival, self.n_bytes = Arrival.HEADERS, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.arrival, self.n_bytes = Arrival.BODY, 0
        self._wait(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.arrival = Arrival.NOTHING
        super().on_message_complete()
        if self.cycle.response_complete:  # before all of its body was there
            self._wait(HEADER_SECONDS)
        else:
            self._go_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        before = self.arrival
        super().data_received(data)
        if self.arrival is before:
            self.n_bytes += len(data)
            if self.arrival is Arrival.HEADERS and self.n_bytes > MAX_HEADER_BYTES:
                self.send_400_response("The headers are too long.")

    def _wait(self, seconds: float) -> None:
        self._go_on()
        self.waiting[self] = None
        self.deadline = self.loop.call_later(seconds, self._is_late)

    def _go_on(self) -> None:
        self.waiting.pop(self, None)
        if self.deadline is not None:
            self.deadline.cancel()

    def _is_late(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        # what the service itself does not read yet is not late
        is_going_on = self.n_bytes >= BODY_BYTES or self.flow.read_paused
        if self.arrival is Arrival.BODY and is_answering and (is_going_on or self.cycle.waiting_for_100_continue):
            self.n_bytes = 0
            self._wait(BODY_SECONDS)
        elif self.arrival is Arrival.NOTHING or (is_answering and self.cycle.response_started):
            self.transport.close()
        else:
            self.send_400_response("The request did not arrive in time.")


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 and newer with a certificate and its key, both in PEM. key: None where it is in the certificate's file.

    Raises `UsageError` for files that cannot be used.
    """
    files = f"{certificate} and {key or certificate}"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for path in (certificate, key or certificate):
            path.read_bytes()  # OpenSSL does not say which one is missing
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise UsageError(
            f"{files} are not a certificate and its private key, in PEM and without a passphrase; "
            "see service.certificate and service.certificate_key"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be read ({error.strerror}); see service.certificate and service.certificate_key"
        ) from error
    return context
