"""A text model behind an OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from recllm.base.errors import GenerationError, UsageError
from recllm.base.schema import Purpose
from recllm.text.generator.chat import messages

KEY_VARIABLE = "RECLLM_LLM_KEY"
_MAX_REPLY = 1 << 20
"""Bytes."""


class HttpGenerator:
    """Asks `POST {base_url}/chat/completions`, the interface of OpenAI, vLLM, llama.cpp, Ollama and others.

    `base_url` (such as "http://localhost:8000/v1") belongs in the operator's configuration and nowhere else: it decides
    where texts go. Redirects are not followed, proxies are not used, and nothing of a server's answer but the texts is
    ever shown. The key is read from the environment variable `KEY_VARIABLE` at each call and is optional.
    `timeout` in seconds bounds a whole `generate`, however many requests it takes. `transport` carries the requests,
    for tests.
    """

    purpose = Purpose.LLM_THIRD_PARTY
    takes_briefs = True
    """A server's model is large enough to follow rules and to mend a line."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "default",
        timeout: float = 10.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UsageError(f"{base_url!r} is no address of a server; give one such as http://localhost:8000/v1")
        self.name = model
        self._origin = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._timeout, self._transport = timeout, transport

    def __repr__(self) -> str:
        key = "set" if os.environ.get(KEY_VARIABLE) else "not set"
        return f"HttpGenerator({self._origin}, model={self.name!r}, {KEY_VARIABLE} {key})"

    def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
        """Up to `n` texts; servers that ignore `n` are asked again while there is time.

        Raises `GenerationError` when the server cannot be reached, refuses, redirects, or answers something else.
        """
        deadline = time.monotonic() + self._timeout
        texts: list[str] = []
        turns = [{"role": turn.role, "content": turn.text} for turn in messages(prompt)]
        while len(texts) < n and (not texts or time.monotonic() < deadline):
            body = {
                "model": self.name,
                "messages": turns,
                "n": n - len(texts),
                "max_tokens": max_tokens,
                "temperature": 0.7,
                "seed": seed + len(texts),
            }
            try:
                texts.extend(self._ask(body, deadline))
            except GenerationError:
                if not texts:
                    raise
                break
        return texts[:n]

    def _ask(self, body: Mapping[str, Any], deadline: float) -> list[str]:
        """The texts of a reply, as long as it is small and in time: a server may drip bytes for ever, or pack them."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "recllm"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        server, reply = f"the text server {self._origin}", bytearray()
        seconds = max(0.1, deadline - time.monotonic())
        try:
            with (
                httpx2.Client(
                    trust_env=False, follow_redirects=False, timeout=seconds, transport=self._transport
                ) as client,
                client.stream("POST", self._url, json=body, headers=headers) as response,
            ):
                if response.status_code != httpx2.codes.OK:
                    raise GenerationError(f"{server} answered {response.status_code}; see the server's own log")
                for chunk in response.iter_raw():
                    reply += chunk
                    if len(reply) > _MAX_REPLY:
                        raise GenerationError(f"{server} sent more than {_MAX_REPLY} bytes")
                    if time.monotonic() > deadline:
                        raise GenerationError(f"{server} did not finish in time")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise GenerationError(f"{server} cannot be asked: {type(error).__name__}; is it running?") from None
        try:
            return [str(choice["message"]["content"]).strip() for choice in json.loads(reply)["choices"]] or [""]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise GenerationError(f"{server} answered in a form that is not a chat completion") from None
