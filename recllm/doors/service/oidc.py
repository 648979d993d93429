"""OpenID Connect as its client: the authorization code flow with PKCE, and who may look.

Discovery, keys and tokens are fetched for each sign-in and nothing is kept, so that a key which the provider takes back
counts at once. What the provider answers is bounded in size and time; certificates are checked, redirects are not
followed and no proxy is used. What is raised and logged holds no token and nothing of a person.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode, urlsplit

import anyio
import httpx2

from recllm.base.errors import MissingExtraError, RecllmError, UsageError
from recllm.base.service_settings import PLAIN_HTTP_HOSTS, OidcSettings, group_grant
from recllm.shop.workspace.keys import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Of signatures that only the provider can make: none, and those with a shared secret, are not among them."""
REQUIRED_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
MIN_RSA_BITS = 2048
LEEWAY_SECONDS = 60
"""The provider's clock may differ by so much."""
MAX_REPLY = 2**20
"""Bytes of an answer of the provider."""
MAX_SUBJECT = 255
"""Characters of a subject, as OpenID Connect has it."""
ERROR_CODES = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "invalid_scope", "unauthorized_client"),
        *("unsupported_grant_type", "unsupported_response_type", "access_denied", "server_error"),
        *("temporarily_unavailable", "interaction_required", "login_required", "account_selection_required"),
        "consent_required",
    )
)
"""What a provider may say of a failure in a word; other words are not repeated anywhere."""


class SignInProblem(StrEnum):
    """Why a sign-in failed, for the visitor: `sign_in.<value>` of the words."""

    UNREACHABLE = "unreachable"
    """The provider does not answer, or not as a provider does."""
    NOT_SET_UP = "not_set_up"
    """The provider and these settings do not fit each other."""
    DECLINED = "declined"
    """The provider refused, or the visitor did."""
    STALE = "stale"
    """Begun too long ago, in another browser, or finished before."""
    NOT_GENUINE = "not_genuine"
    """The provider's answer failed a check."""
    NOT_ALLOWED = "not_allowed"
    """The settings do not let this person in."""
    NO_SCOPE = "no_console"
    """They let this person in, and not look."""


class SignInError(RecllmError):
    """A sign-in failed. The message is the cause for the log, without secrets and personal data."""

    def __init__(self, problem: SignInProblem, cause: str) -> None:
        super().__init__(cause)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMetadata:
    """What the discovery document says, checked."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    algorithms: tuple[str, ...]
    """Of ID tokens: the announced ones that are among `ALGORITHMS`."""
    secret_in_header: bool
    """Whether the client's secret goes into the header or, else, into the form."""
    names_itself: bool
    """Whether the answer through the browser says who gives it (RFC 9207)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInRequest:
    """What a sign-in was begun with, and has to be finished with."""

    metadata: ProviderMetadata
    state: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    begun_at: float
    """Epoch seconds."""


class OidcClient:
    """A console as the client of one provider."""

    def __init__(self, settings: OidcSettings, secret: str | None) -> None:
        assert settings.issuer is not None  # noqa: S101 - connect makes none without
        self._settings, self._secret, self._client_id = settings, secret, settings.client_id
        self.issuer = settings.issuer
        self.title = urlsplit(self.issuer).netloc
        """What people call the provider."""

    def __repr__(self) -> str:
        return f"OidcClient({self.issuer}, {self._client_id})"

    async def begin(self, language: str, *, asks_again: bool = False) -> tuple[str, SignInRequest]:
        """The address for the browser, and the request to finish. asks_again: ask for a new proof."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        async with self._asking() as http:
            metadata = await self._discover(http)
        request = SignInRequest(
            metadata=metadata,
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            begun_at=time.time(),
        )
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._settings.redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": request.state,
            "nonce": request.nonce,
            "code_challenge": create_s256_code_challenge(request.verifier),
            "code_challenge_method": "S256",
            "ui_locales": language,
        } | ({"prompt": "login"} if asks_again else {})
        address = metadata.authorization_endpoint
        return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", request

    async def finish(
        self, request: SignInRequest, answer: Mapping[str, str], claim_names: Sequence[str]
    ) -> dict[str, Any]:
        """Verified claims of the person who signed in.

        answer: the query that the browser came back with. claim_names: where the ID token lacks one of them, the user
        info endpoint is asked. Raises `SignInError`.
        """
        issuer = answer.get("iss")
        if issuer != self.issuer and (issuer is not None or request.metadata.names_itself):
            raise SignInError(SignInProblem.NOT_GENUINE, "the answer came from another provider")
        if "error" in answer:
            raise SignInError(SignInProblem.DECLINED, f"the provider says {_word(answer['error'])}")
        if not answer.get("code"):
            raise SignInError(SignInProblem.NOT_GENUINE, "the answer has no code")
        async with self._asking() as http:
            tokens = await self._redeem(http, request, answer["code"])
            keys = await self._ask(http, "GET", request.metadata.jwks_uri, "the provider's keys")
            claims = self._verified(tokens, signing_keys(keys), request)
            endpoint, access_token = request.metadata.userinfo_endpoint, tokens.get("access_token")
            if endpoint and isinstance(access_token, str) and any(name not in claims for name in claim_names):
                headers = {"Authorization": f"Bearer {access_token}"}
                profile = await self._ask(http, "GET", endpoint, "the user info", headers=headers)
                if profile.get("sub") != claims["sub"]:
                    raise SignInError(SignInProblem.NOT_GENUINE, "the user info is another person's")
                # an address and whether it is verified come from the same place
                elsewhere = claims if "email" not in claims else profile
                elsewhere.pop("email_verified", None)
                claims = profile | claims
        return claims

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client for the requests of one step, which together have `timeout_seconds`."""
        seconds = self._settings.timeout_seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "recllm"}
        try:
            with anyio.fail_after(seconds):
                async with httpx2.AsyncClient(
                    trust_env=False, follow_redirects=False, timeout=seconds, headers=headers
                ) as http:
                    yield http
        except TimeoutError:
            raise SignInError(SignInProblem.UNREACHABLE, f"it did not answer within {seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise SignInError(SignInProblem.UNREACHABLE, f"it cannot be asked: {type(error).__name__}") from None

    async def _ask(self, http: httpx2.AsyncClient, method: str, url: str, what: str, **options: Any) -> dict[str, Any]:
        """The JSON object that the provider answers with. what: for the log."""
        reply = bytearray()
        async with http.stream(method, url, **options) as response:
            async for chunk in response.aiter_raw():
                reply += chunk
                if len(reply) > MAX_REPLY:
                    raise SignInError(SignInProblem.UNREACHABLE, f"{what}: more than {MAX_REPLY} bytes")
        try:
            document = json.loads(reply)
        except (ValueError, RecursionError):
            document = None
        status = response.status_code
        if status != httpx2.codes.OK:
            code = f", {_word(document['error'])}" if isinstance(document, dict) and "error" in document else ""
            problem = SignInProblem.UNREACHABLE if status >= 500 else SignInProblem.NOT_SET_UP
            raise SignInError(problem, f"{what}: status {status}{code}")
        if not isinstance(document, dict):
            raise SignInError(SignInProblem.UNREACHABLE, f"{what}: no JSON object")
        return document

    async def _discover(self, http: httpx2.AsyncClient) -> ProviderMetadata:
        url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = await self._ask(http, "GET", url, "discovery")
        if document.get("issuer") != self.issuer:
            raise SignInError(SignInProblem.NOT_SET_UP, "discovery names another issuer than oidc.issuer")
        required = {name: self._endpoint(document, name) for name in REQUIRED_ENDPOINTS}
        if lacking := [name for name, url in required.items() if url is None]:
            raise SignInError(SignInProblem.NOT_SET_UP, f"discovery has no {', '.join(lacking)}")
        announced = _texts(document, "id_token_signing_alg_values_supported")
        algorithms = tuple(name for name in ALGORITHMS if name in announced)
        if not algorithms:
            raise SignInError(SignInProblem.NOT_SET_UP, "discovery announces no asymmetric signature of ID tokens")
        if "code" not in _texts(document, "response_types_supported"):
            raise SignInError(SignInProblem.NOT_SET_UP, "discovery announces no authorization code flow")
        methods = _texts(document, "token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if self._secret and not {"client_secret_basic", "client_secret_post"} & set(methods):
            raise SignInError(SignInProblem.NOT_SET_UP, "discovery announces no way to show a client secret")
        return ProviderMetadata(
            **{name: url for name, url in required.items() if url is not None},
            userinfo_endpoint=self._endpoint(document, "userinfo_endpoint"),
            algorithms=algorithms,
            secret_in_header="client_secret_basic" in methods,
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
        )

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str | None:
        """An address of the document; None where it has none.
        Only a provider on this machine may do without https."""
        url = document.get(name)
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            is_safe = parts.scheme == "https" or (
                parts.scheme == "http" and parts.hostname in PLAIN_HTTP_HOSTS and self.issuer.startswith("http:")
            )
            is_safe = is_safe and bool(parts.hostname) and parts.username is None and not parts.fragment
        except (TypeError, ValueError, AttributeError):
            is_safe = False
        if not is_safe:
            raise SignInError(SignInProblem.NOT_SET_UP, f"discovery: {name} is no https address")
        return str(url)

    async def _redeem(self, http: httpx2.AsyncClient, request: SignInRequest, code: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._settings.redirect_uri,
            "code_verifier": request.verifier,
        }
        auth = None
        if self._secret and request.metadata.secret_in_header:
            auth = httpx2.BasicAuth(quote_plus(self._client_id), quote_plus(self._secret))
        else:
            form |= {"client_id": self._client_id} | ({"client_secret": self._secret} if self._secret else {})
        endpoint = request.metadata.token_endpoint
        return await self._ask(http, "POST", endpoint, "the token", data=form, auth=auth)

    def _verified(self, tokens: Mapping[str, Any], keys: Any, request: SignInRequest) -> dict[str, Any]:
        """Claims of an ID token of this client, this sign-in and one of these keys."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        text = tokens.get("id_token")
        if not isinstance(text, str):
            raise SignInError(SignInProblem.NOT_GENUINE, "the answer has no ID token")
        try:
            token = jwt.decode(text, keys, algorithms=request.metadata.algorithms)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self._client_id},
                },
                {
                    "nonce": request.nonce,
                    "client_id": self._client_id,
                    "access_token": tokens.get("access_token"),
                },
            )
            claims.validate(int(time.time()), LEEWAY_SECONDS)
        except JoseError as error:  # its message may repeat the token
            claim = getattr(error, "claim", "")
            detail = f" ({claim})" if claim in CodeIDToken.REGISTERED_CLAIMS else ""
            cause = f"the ID token: {type(error).__name__}{detail}"
            raise SignInError(SignInProblem.NOT_GENUINE, cause) from None
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise SignInError(SignInProblem.NOT_GENUINE, f"the ID token: {type(error).__name__}") from None
        subject = claims["sub"]
        if str(token.header.get("typ", "JWT")).lower() != "jwt":
            raise SignInError(SignInProblem.NOT_GENUINE, "the ID token: it is a token of another kind")
        if claims["iat"] < request.begun_at - LEEWAY_SECONDS:
            raise SignInError(SignInProblem.NOT_GENUINE, "the ID token: issued before this sign-in began")
        if not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
            cause = "the ID token: its subject is empty, too long or not printable"
            raise SignInError(SignInProblem.NOT_GENUINE, cause)
        return dict(claims)


def signing_keys(document: Mapping[str, Any]) -> Any:
    """The provider's public keys that sign, as a key set of joserfc: a shared secret among them is none of them."""
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet, RSAKey, import_key

    entries = document.get("keys")
    usable = []
    for entry in entries if isinstance(entries, list) else []:
        is_public = isinstance(entry, dict) and entry.get("kty") in ("RSA", "EC", "OKP")
        if is_public and entry.get("use", "sig") == "sig":
            with suppress(JoseError, ValueError, TypeError, KeyError):  # another key may be usable
                key = import_key(entry)
                if not isinstance(key, RSAKey) or key.public_key.key_size >= MIN_RSA_BITS:
                    usable.append(key)
    if not usable:
        raise SignInError(SignInProblem.NOT_SET_UP, "the provider publishes no key that can be used")
    return KeySet(usable)


def connect_provider(settings: OidcSettings) -> OidcClient:
    """The client of settings with an issuer.
    Raises `UsageError` for incomplete ones, and `MissingExtraError`."""
    for package in ("joserfc", "authlib"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "oidc")
    for name in ("client_id", "redirect_uri"):
        if not getattr(settings, name):
            raise UsageError(f"setting oidc.issuer is set and oidc.{name} is not; set both, or neither")
    variable = settings.secret_variable
    secret = os.environ.get(variable, "") if variable else None
    if secret == "":
        raise UsageError(
            f"the environment variable {variable} holds no secret of the client {settings.client_id}; set it, or set "
            "oidc.secret_variable to none for a client without one"
        )
    return OidcClient(settings, secret)


def provider_id(settings: OidcSettings) -> str:
    """An opaque word for the connection; shops that share it are signed in to together."""
    parts = (settings.issuer, settings.client_id, settings.redirect_uri, settings.secret_variable, settings.scopes)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _texts(document: Mapping[str, Any], name: str) -> list[str]:
    values = document.get(name)
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _word(code: object) -> str:
    return code if isinstance(code, str) and code in ERROR_CODES else "another error"


MAX_EMAIL = 254
"""Characters of an email address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffIdentity:
    """Claims of a person that this shop's settings use."""

    issuer: str
    client_id: str
    subject: str
    email: str
    """"" where there is none, or the provider does not say that it is verified."""
    groups: tuple[str, ...]
    """Those alone that make a difference here, sorted."""


@dataclass(frozen=True, slots=True)
class StaffMember:
    identity: StaffIdentity
    name: str
    """By which the history names them."""
    scopes: frozenset[Scope]

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes


def groups_in_use(settings: OidcSettings) -> frozenset[str]:
    return frozenset(settings.allowed_groups) | {group for group, _ in map(group_grant, settings.group_scopes)}


def staff_identity(claims: Mapping[str, Any], settings: OidcSettings) -> StaffIdentity:
    """From claims whose token was verified."""
    email, groups = claims.get("email"), claims.get(settings.groups_claim)
    is_verified = (
        claims.get("email_verified") is True
        and isinstance(email, str)
        and len(email) <= MAX_EMAIL
        and re.fullmatch(r"[^@\s]+@[^@\s]+", email) is not None
        and email.isprintable()  # nothing that could be taken for another address
    )
    names = groups if isinstance(groups, list) else [groups]
    return StaffIdentity(
        issuer=settings.issuer or "",
        client_id=settings.client_id,
        subject=claims["sub"],
        email=str(email) if is_verified else "",
        groups=tuple(sorted(groups_in_use(settings) & {name for name in names if isinstance(name, str)})),
    )


def staff_member(identity: StaffIdentity, settings: OidcSettings) -> StaffMember | None:
    """The person with their scopes; None where these settings do not let them in, and of another provider."""
    if settings.issuer is None or (identity.issuer, identity.client_id) != (settings.issuer, settings.client_id):
        return None
    is_allowed = (
        identity.subject in settings.allowed_subjects
        or (identity.email and identity.email.rpartition("@")[2].lower() in settings.allowed_domains)
        or not set(settings.allowed_groups).isdisjoint(identity.groups)
    )
    if not is_allowed:
        return None
    grants = map(group_grant, settings.group_scopes)
    scopes = frozenset[str](settings.base_scopes).union(*(names for group, names in grants if group in identity.groups))
    name = identity.email if settings.history_name == "email" and identity.email else identity.subject
    return StaffMember(identity, name, frozenset(map(Scope, scopes)))
