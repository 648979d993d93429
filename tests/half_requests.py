"""Connections on which half a request was sent, as many as there shall be."""

from __future__ import annotations

import socket
from contextlib import suppress
from urllib.parse import urlsplit

HALF_HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: y"
HALF_BODY = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{"


class HalfRequests:
    """Every second connection drips: it sends a byte at each look, so that it is never idle."""

    def __init__(self, address: str) -> None:
        self._place = (urlsplit(address).hostname, urlsplit(address).port)
        self._drips: dict[socket.socket, bool] = {}

    def begin(self, n: int, half: bytes) -> int:
        """How many of so many further ones were taken."""
        n_before = len(self._drips)
        for number in range(n):
            with suppress(OSError):
                line = socket.create_connection(self._place, timeout=5)
                line.sendall(half)
                line.setblocking(False)
                self._drips[line] = number % 2 == 0
        return len(self._drips) - n_before

    def look(self) -> int:
        """How many the service ended since the last look, with an answer or without."""
        ended = [line for line, drips in self._drips.items() if _is_closed(line, drips=drips)]
        for line in ended:
            line.close()
            del self._drips[line]
        return len(ended)

    @property
    def n_open(self) -> int:
        return len(self._drips)

    @property
    def n_dripping(self) -> int:
        return sum(self._drips.values())

    def close(self) -> None:
        for line in self._drips:
            line.close()


def _is_closed(line: socket.socket, *, drips: bool) -> bool:
    try:
        while line.recv(1 << 16):
            pass
        return True
    except BlockingIOError:
        pass
    except OSError:
        return True
    try:
        return drips and not line.send(b"y")
    except BlockingIOError:
        return False
    except OSError:
        return True
