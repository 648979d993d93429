"""Requests are read with headers of bounded length.

uvicorn's fast reader, of httptools, keeps headers of any length in memory before anything of the service is asked; its
other one, of h11, takes 64 KiB.
"""

from __future__ import annotations

from asyncio import Protocol
from typing import Literal

MAX_HEADER_BYTES = 64 << 10
"""Of the line and the headers of a request, about: what came with the piece in which it began is not counted."""


def bounded_reader() -> type[Protocol] | Literal["h11"]:
    """What uvicorn takes as `http`: the fast reader with a bound where httptools is installed, else that of h11."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return "h11"

    class BoundedHeaders(HttpToolsProtocol):
        """Hangs up on a request whose headers do not end."""

        in_headers = False
        header_bytes = 0

        def on_message_begin(self) -> None:
            self.in_headers, self.header_bytes = True, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.in_headers = False
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            was_in_headers = self.in_headers
            super().data_received(data)
            if was_in_headers and self.in_headers:
                self.header_bytes += len(data)
                if self.header_bytes > MAX_HEADER_BYTES:
                    self.send_400_response("The headers are too long.")
                    self.transport.close()

    return BoundedHeaders
