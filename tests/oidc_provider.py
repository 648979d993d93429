"""A small OpenID Connect provider: real HTTP on the loopback, keys made anew, switches for whatever may go wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT_ID = "recllm-console"
CLIENT_SECRET = "s3cret-of-the-client/+%&:"
"""With signs that HTTP Basic has to be written for."""
REDIRECT_URI = "http://localhost/sign-in/oidc"

Claims = dict[str, Any]
ANNA: Claims = {"sub": "subject-4711", "email": "anna@shop.example", "email_verified": True, "groups": ["crm"]}


@cache
def rsa_key() -> RSAKey:
    """Made once a run: it takes a while."""
    return RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig"})


@cache
def stranger_key() -> RSAKey:
    """Of another provider, by the same name."""
    return RSAKey.generate_key(2048, {"kid": "rsa-1"})


@dataclass
class Provider:
    """Who signs in is `person`; `forge` may put another token in the place of the genuine one."""

    issuer: str = ""
    person: Claims = field(default_factory=lambda: dict(ANNA))
    profile: Claims | None = None
    """What the user info endpoint answers; None: discovery announces none."""
    key: Any = field(default_factory=rsa_key)
    algorithm: str = "RS256"
    announced: list[str] = field(default_factory=lambda: ["RS256"])
    discovery: Claims = field(default_factory=dict)
    """Replaces parts of the discovery document; a value of None takes one out."""
    published: list[Claims] | None = None
    """Instead of the provider's own keys."""
    forge: Callable[[Claims], str] | None = None
    change: Callable[[Claims], Claims] | None = None
    """Of the claims, before they are signed."""
    refuses: str | None = None
    """Error that the browser is sent back with."""
    has_page: bool = False
    """Whether somebody has to press a link to go back, and is not sent there at once."""
    redirect_uri: str = REDIRECT_URI
    secret: str | None = CLIENT_SECRET
    names_itself: bool = False
    token_error: str | None = None
    delay: float = 0.0
    answers: dict[str, Callable[[], tuple[int, bytes]]] = field(default_factory=dict)
    """By path: instead of the genuine answer."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """(path, parameters) in their order."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    issued: list[str] = field(default_factory=list)
    """Everything secret that was handed out."""
    closing: Event = field(default_factory=Event)

    def sign(self, claims: Claims, *, key: Any = None, algorithm: str | None = None, **header: Any) -> str:
        key, algorithm = key or self.key, algorithm or self.algorithm
        head = {"alg": algorithm} | ({"kid": key.kid} if key.kid else {}) | header
        return jwt.encode(head, claims, key, algorithms=[algorithm])

    def claims(self, nonce: str) -> Claims:
        now = int(time.time())
        return {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce} | self.person

    def document(self) -> Claims:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/leave",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": self.announced,
            "authorization_response_iss_parameter_supported": self.names_itself,
        }
        if self.profile is not None:
            document["userinfo_endpoint"] = f"{self.issuer}/me"
        return {name: value for name, value in (document | self.discovery).items() if value is not None}

    def authorize(self, query: dict[str, str]) -> tuple[int, str]:
        """(status, where the browser goes); somebody is signed in here already."""
        right = {"client_id": CLIENT_ID, "redirect_uri": self.redirect_uri, "response_type": "code"}
        if {name: query.get(name) for name in right} != right or query.get("code_challenge_method") != "S256":
            return 400, ""
        if self.refuses:
            answer = {"error": self.refuses, "error_description": "for anna@shop.example", "state": query["state"]}
        else:
            code = secrets.token_urlsafe(16)
            self.codes[code] = query
            self.issued += [code, query["nonce"]]
            answer = {"code": code, "state": query["state"]}
        answer |= {"iss": self.issuer} if self.names_itself else {}
        return 303, f"{self.redirect_uri}?{urlencode(answer)}"

    def token(self, form: dict[str, str], authorization: str | None) -> tuple[int, Claims]:
        if self.token_error:
            return 400, {"error": self.token_error, "error_description": "of anna@shop.example"}
        if authorization:
            name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            client = (unquote_plus(name), unquote_plus(secret))
        else:
            client = (form.get("client_id", ""), form.get("client_secret"))
        if client != (CLIENT_ID, self.secret):
            return 401, {"error": "invalid_client"}
        begun = self.codes.pop(form.get("code", ""), None)  # a code is good for once
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if begun is None or challenge != begun["code_challenge"] or form.get("redirect_uri") != self.redirect_uri:
            return 400, {"error": "invalid_grant"}
        claims = self.claims(begun["nonce"])
        claims = self.change(claims) if self.change else claims
        text = self.forge(claims) if self.forge else self.sign(claims)
        access_token = secrets.token_urlsafe(16)
        self.issued += [text, access_token, form["code_verifier"]]
        return 200, {"access_token": access_token, "token_type": "Bearer", "expires_in": 300, "id_token": text}

    def answer(self, method: str, path: str, parameters: dict[str, str], headers: Any) -> tuple[int, bytes, str]:
        """(status, body, location)."""
        if path in self.answers:
            return (*self.answers[path](), "")
        if path == "/.well-known/openid-configuration":
            return 200, json.dumps(self.document()).encode(), ""
        if path == "/keys":
            keys = KeySet([self.key]).as_dict()["keys"] if self.published is None else self.published
            return 200, json.dumps({"keys": keys}).encode(), ""
        if path == "/authorize":
            status, location = self.authorize(parameters)
            if self.has_page:
                return 200, f"<!doctype html><title>Login</title><a href='{escape(location)}'>Go</a>".encode(), ""
            return status, b"", location
        if path == "/token" and method == "POST":
            status, document = self.token(parameters, headers.get("Authorization"))
            return status, json.dumps(document).encode(), ""
        if path == "/me" and self.profile is not None:
            token = headers.get("Authorization", "").removeprefix("Bearer ")
            return (200 if token in self.issued else 401), json.dumps(self.profile).encode(), ""
        return 404, b"", ""


class _Handler(BaseHTTPRequestHandler):
    provider: Provider

    def do_GET(self) -> None:
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        parameters = {name: values[0] for name, values in parse_qs(body or urlsplit(self.path).query).items()}
        self.provider.requests.append((path, parameters))
        if self.provider.delay:
            self.provider.closing.wait(self.provider.delay)
        status, content, location = self.provider.answer(self.command, path, parameters, self.headers)
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 - what the server calls

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_provider(**options: Any) -> Iterator[Provider]:
    provider = Provider(**options)
    handler = type("Handler", (_Handler,), {"provider": provider})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        provider.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
