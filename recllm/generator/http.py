"""A text model behind an OpenAI-compatible server."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from recllm.errors import GenerationError, UsageError
from recllm.generator.chat import messages

KEY_VARIABLE = "RECLLM_LLM_KEY"
_MAX_REPLY = 1 << 20
_CHUNK = 1 << 16


class HttpGenerator:
    """Asks `POST {base_url}/chat/completions`, the interface of OpenAI, vLLM, llama.cpp, Ollama and others.

    `base_url` (such as "http://localhost:8000/v1") belongs in the operator's configuration and nowhere else: it decides
    where texts go. Redirects are not followed, proxies are not used, and nothing of a server's answer but the texts is
    ever shown. The key is read from the environment variable `key_variable` at each call and is optional.
    `timeout` in seconds bounds a whole `generate`, however many requests it takes.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "default",
        key_variable: str = KEY_VARIABLE,
        timeout: float = 10.0,
        temperature: float = 0.7,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UsageError(f"{base_url!r} is no address of a server; give one such as http://localhost:8000/v1")
        self.name = model
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/chat/completions"
        self._key_variable = key_variable
        self._timeout = timeout
        self._temperature = temperature

    def __repr__(self) -> str:
        key = "set" if os.environ.get(self._key_variable) else "not set"
        return f"HttpGenerator({self._scheme}://{self._host}, model={self.name!r}, {self._key_variable} {key})"

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
                "temperature": self._temperature,
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
        raw = self._post(json.dumps(body).encode(), deadline)
        try:
            return [str(choice["message"]["content"]).strip() for choice in json.loads(raw)["choices"]] or [""]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise GenerationError(f"{self._where()} answered in a form that is not a chat completion") from None

    def _post(self, body: bytes, deadline: float) -> bytes:
        connection = self._connection(max(0.1, deadline - time.monotonic()))
        try:
            connection.request("POST", self._path, body=body, headers=self._headers())
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise GenerationError(f"{self._where()} answered {response.status}; see the server's own log")
            return _read(response, deadline, self._where())
        except (OSError, http.client.HTTPException) as error:
            raise GenerationError(f"{self._where()} cannot be asked: {type(error).__name__}; is it running?") from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "recllm"}
        if key := os.environ.get(self._key_variable):
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _where(self) -> str:
        port = f":{self._port}" if self._port else ""
        return f"the text server {self._scheme}://{self._host}{port}"


def _read(response: http.client.HTTPResponse, deadline: float, where: str) -> bytes:
    """The body, as long as it is small and in time: a server may drip bytes for ever."""
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        if len(body) > _MAX_REPLY:
            raise GenerationError(f"{where} sent more than {_MAX_REPLY} bytes")
        if time.monotonic() > deadline:
            raise GenerationError(f"{where} did not finish in time")
    return bytes(body)
