"""Sign-in through a company's directory: a real provider on the loopback, the real console, attacks on both."""

from __future__ import annotations

import base64
import hmac
import html
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import pytest
import service_world
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from fastapi.testclient import TestClient
from joserfc.jwk import ECKey, OKPKey, RSAKey
from oidc_provider import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, Claims, Provider, running_provider, stranger_key
from service_world import make_key
from tables import table

from recllm.base.errors import MissingExtraError, UsageError
from recllm.base.service_settings import ConsoleScope, OidcSettings
from recllm.doors.console.pages import HISTORY_FILE
from recllm.doors.console.session import session_cookie, session_visitor
from recllm.doors.service.oidc import StaffMember, connect_provider
from recllm.shop.workspace.audit import AuditAction, read_audit
from recllm.shop.workspace.console_sessions import find_session
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import Workspace


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLLM_OIDC_SECRET", CLIENT_SECRET)
    monkeypatch.setattr("recllm.doors.console.app.FAILURES_A_MINUTE", 1_000)  # each is looked at


DRAWN = {"created", "msecs", "relativeCreated", "thread", "threadName", "process", "taskName", "request_id", "session"}
"""Clocks, counters and random names of a record: their digits may hold any number by chance."""


@pytest.fixture
def provider(caplog: pytest.LogCaptureFixture) -> Iterator[Provider]:
    """Whatever a test does with it: no log of ours holds a secret or anything of a person."""
    caplog.set_level(logging.DEBUG)
    with running_provider() as provider:
        yield provider
        logged = ""
        for record in (*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.records):
            if record.name.startswith("recllm"):
                held = {key: value for key, value in vars(record).items() if key not in DRAWN}
                logged += f"{record.getMessage()}{held}".replace(provider.issuer, "")  # its port is drawn, too
        personal = [provider.person.get(name) for name in ("sub", "email", "name")]
        for text in (*provider.issued, CLIENT_SECRET, *personal, "anna", "4711"):
            assert not text or str(text) not in logged


def causes(caplog: pytest.LogCaptureFixture) -> str:
    """What the log says of sign-ins that failed."""
    return "\n".join(r.getMessage() for r in caplog.records if r.name == "recllm.doors.console.sign_in")


def make_shop(folder: Path, provider: Provider, tries: int = 1_000, **settings: Any) -> Path:
    """A shop without data whose people sign in at the provider; those of shop.example are let in.

    tries: sign-ins in a minute.
    """
    oidc: dict[str, Any] = {"issuer": provider.issuer, "client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI}
    oidc |= {"allowed_domains": ["shop.example"], "timeout_seconds": 120.0} | settings
    console = {"sign_ins_per_minute": tries}
    Workspace.create(folder, encoder="toy", consent_default=True, oidc=oidc, console=console).close()
    return folder


serving = partial(service_world.serving, console=True, waits=False, follow_redirects=False)


@pytest.fixture
def folder(tmp_path: Path, provider: Provider) -> Path:
    return make_shop(tmp_path / "shop", provider)


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with serving(folder) as client:
        yield client


def another_browser(of: TestClient) -> TestClient:
    return TestClient(of.app, base_url="http://localhost", headers=service_world.HERE, follow_redirects=False)


def link(client: TestClient, after: str = "/settings") -> str:
    """The way to the provider, as the sign-in page has it."""
    page = client.get("/sign-in", params={"after": after})
    match = re.search(r'href="(/sign-in/oidc/[0-9a-f]{12}\?[^"]*)"', page.text)
    assert page.status_code == 200 and match, page.text
    return html.unescape(match[1])


def begin(client: TestClient, after: str = "/settings") -> str:
    """Where the provider sends the browser back."""
    return returned(client.get(link(client, after)))


def sign_in(client: TestClient, after: str = "/settings") -> Any:
    answer = client.get(link(client, after))
    return client.get(returned(answer)) if answer.status_code == 303 else answer


def is_in(client: TestClient) -> bool:
    return client.get("/settings").status_code == 200


def returned(answer: Any) -> str:
    """Where the provider sends a browser back that this answer sent there."""
    assert answer.status_code == 303, answer.text
    sent_back = httpx2.get(answer.headers["location"], trust_env=False)
    assert sent_back.status_code == 303
    return str(sent_back.headers["location"])


def problem(answer: Any) -> str:
    """What a visitor is told."""
    match = re.search(r'<div class="notice is-bad".*?<span class="lines">([^<]*)</span>', answer.text, re.DOTALL)
    return html.unescape(match[1]) if match else ""


def test_somebody_signs_in_and_out(client: TestClient, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    answer = sign_in(client)
    assert answer.status_code == 200, answer.text
    assert causes(caplog) == f"sign-in through {provider.issuer}: succeeded"
    assert '<meta http-equiv="refresh" content="0; url=/settings">' in answer.text
    session = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("recllm-session-"))
    assert all(part in session for part in ("HttpOnly", "SameSite=strict", "Max-Age=43200"))
    assert "anna@shop.example" in client.get("/settings").text
    (_, query), *_ = [entry for entry in provider.requests if entry[0] == "/authorize"]
    assert query["code_challenge_method"] == "S256" and query["scope"] == "openid email profile"
    assert client.post("/sign-out").status_code == 303 and not is_in(client)


def test_every_asymmetric_signature_that_is_announced(client: TestClient, provider: Provider) -> None:
    kinds = {"RS256": (RSAKey, 2048), "PS384": (RSAKey, 2048), "ES256": (ECKey, "P-256"), "ES512": (ECKey, "P-521")}
    for algorithm, (kind, size) in (kinds | dict.fromkeys(("EdDSA", "Ed25519"), (OKPKey, "Ed25519"))).items():
        provider.key, provider.algorithm = kind.generate_key(size, {"kid": "k"}), algorithm
        provider.announced = [algorithm, "none", "HS256"]
        client.cookies.clear()
        assert sign_in(client).status_code == 200 and is_in(client), algorithm


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def part(value: Any) -> str:
    """A part of a token that has no signature."""
    return encoded(json.dumps(value).encode())


def by_secret(provider: Provider, claims: Claims, secret: bytes) -> str:
    """Signed with HS256 by what others know too."""
    signed = f"{part({'alg': 'HS256', 'kid': provider.key.kid})}.{part(claims)}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"


def critical(provider: Provider, claims: Claims) -> str:
    """With a header that whoever does not understand it has to refuse."""
    signed = f"{part({'alg': 'RS256', 'kid': provider.key.kid, 'crit': ['new'], 'new': 1})}.{part(claims)}"
    return f"{signed}.{encoded(provider.key.private_key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def swapped_payload(provider: Provider, claims: Claims) -> str:
    header, _, signature = provider.sign(claims).split(".")
    return f"{header}.{part(claims | {'groups': ['it']})}.{signature}"


FORGERIES: dict[str, Any] = {
    "another key": lambda p, c: p.sign(c, key=stranger_key()),
    "a key of the token's own": lambda p, c: p.sign(c, key=stranger_key(), jwk=stranger_key().as_dict(private=False)),
    "a key from elsewhere": lambda p, c: p.sign(c, key=stranger_key(), jku="https://evil.example/keys"),
    "an unknown key": lambda p, c: p.sign(c, key=RSAKey.generate_key(2048, {"kid": "rsa-2"})),
    "other claims": swapped_payload,
    "no signature": lambda p, c: f"{part({'alg': 'none'})}.{part(c)}.",
    "no signature, with a key": lambda p, c: f"{part({'alg': 'none', 'kid': p.key.kid})}.{part(c)}.",
    "none in capitals": lambda p, c: f"{part({'alg': 'NONE'})}.{part(c)}.",
    "the public key as a secret": lambda p, c: by_secret(p, c, p.key.as_pem(private=False)),
    "the public number as a secret": lambda p, c: by_secret(p, c, p.key.as_dict(private=False)["n"].encode()),
    "the client's secret": lambda p, c: by_secret(p, c, CLIENT_SECRET.encode()),
    "an algorithm that is not announced": lambda p, c: p.sign(c, algorithm="PS256"),
    "a token of another kind": lambda p, c: p.sign(c, typ="at+jwt"),
    "something critical": critical,
    "a header in a word": lambda p, c: f"{part('alg')}.{part(c)}.x",
    "a header of lists": lambda p, c: f"{part({'alg': ['RS256'], 'kid': ['rsa-1']})}.{part(c)}.x",
    "no token": lambda p, c: "nothing signed",
    "empty": lambda p, c: "",
    "two dots": lambda p, c: "..",
    "a list": lambda p, c: ["x"],
    "no text": lambda p, c: 86_420_135,
    "claims that are a list": lambda p, c: f"{part({'alg': 'RS256'})}.{part([1])}.x",
    "very long": lambda p, c: p.sign(c | {"x": "x" * 200_000}),
}


def without(name: str) -> Any:
    return lambda claims: {key: value for key, value in claims.items() if key != name}


def having(**changed: Any) -> Any:
    return lambda claims: claims | changed


def at_time(**seconds: int) -> Any:
    """Times so many seconds from when the token is made."""
    return lambda claims: claims | {name: int(time.time()) + value for name, value in seconds.items()}


WRONG_CLAIMS: dict[str, Any] = {
    **{name: having(**claims) for name, claims in table("oidc", "wrong claims").items()},
    "an issuer with a slash more": lambda claims: claims | {"iss": claims["iss"] + "/"},
    "issuers": lambda claims: claims | {"iss": [claims["iss"]]},
    "no issuer": without("iss"),
    "no audience": without("aud"),
    "an audience that begins alike": having(aud=CLIENT_ID + "-2"),
    "several audiences, nobody authorised": having(aud=[CLIENT_ID, "other"]),
    "somebody else authorised": having(aud=[CLIENT_ID, "other"], azp="other"),
    "expired": at_time(exp=-120),
    "no end": without("exp"),
    "not yet": at_time(nbf=600),
    "issued in the future": at_time(iat=3_600),
    "issued before it began": at_time(iat=-3_600),
    "no time of issue": without("iat"),
    "no nonce": without("nonce"),
    "another nonce": having(nonce="0" * 43),
    "nonces": lambda claims: claims | {"nonce": [claims["nonce"]]},
    "no subject": without("sub"),
    "a long subject": having(sub="s" * 256),
    "another access token": having(at_hash="0" * 22),
}


def refusals(provider: Provider) -> Iterator[tuple[str, dict[str, Any], int, str, str]]:
    """Name, what the provider does, and the status and the words for the visitor and for the log that follow."""
    not_genuine, unfit, no_domain = "could not be verified", "do not fit together", "no allowed domain"
    usual, genuine, nobody = provider.person, provider.key.as_dict(private=False), {"sub": "subject-4711"}
    announced = ["RS256", "HS256", "none"]
    for name, forge in FORGERIES.items():
        doing = {"forge": partial(forge, provider), "announced": announced}
        yield name, doing, 401, not_genuine, f"{provider.issuer}: the "
    for name, change in WRONG_CLAIMS.items():
        yield name, {"change": change}, 401, not_genuine, f"{provider.issuer}: the ID token: "
    for name, claims in table("oidc", "strangers").items():
        yield name, {"person": usual | claims}, 403, "not among the people", no_domain
    for name, discovery in table("oidc", "discoveries").items():
        yield name, {"discovery": discovery}, 502, unfit, "discovery"
    weak = RSAKey.generate_key(1024, {"kid": "rsa-1"}).as_dict(private=False)
    for n, keys in enumerate(([], [SHARED_KEY], [weak], [genuine | {"use": "enc"}], ["x", {}, {"kty": "RSA"}])):
        yield f"keys {n}", {"published": keys}, 502, unfit, "no key that can be used"
    for subject in ("other", None):
        doing = {"person": nobody, "profile": usual | {"sub": subject}}
        yield f"user info of {subject}", doing, 401, not_genuine, "another person"
    yield "no", {"refuses": "access_denied"}, 401, "you cancelled", "says access_denied"
    yield "a word of its own", {"refuses": "<b>evil"}, 401, "you cancelled", "says another error"
    yield "the code is refused", {"token_error": "invalid_grant"}, 502, unfit, "status 400, invalid_grant"


SHARED_KEY = {"kty": "oct", "kid": "rsa-1", "k": encoded(b"k" * 32)}


def test_what_proves_nothing_is_refused(
    client: TestClient, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {}
    for name, doing, status, told, cause in refusals(provider):
        logged, before = causes(caplog), {attribute: getattr(provider, attribute) for attribute in doing}
        vars(provider).update(doing)
        client.cookies.clear()
        answer = sign_in(client)
        vars(provider).update(before)
        logged = causes(caplog).removeprefix(logged)
        is_out = "recllm-session-" not in str(answer.headers) and not is_in(client) and "evil" not in answer.text
        if not (answer.status_code == status and told in problem(answer) and cause in logged and is_out):
            wrong[name] = (answer.status_code, problem(answer), logged, is_out)
    assert wrong == {}
    assert sign_in(client).status_code == 200 and is_in(client), "nothing of it stays"
    genuine = provider.key.as_dict(private=False)
    provider.published = [SHARED_KEY, {"kty": "new", "kid": "rsa-1"}, genuine]  # what is not understood is passed over
    provider.change = having(aud=[CLIENT_ID, "project"], azp=CLIENT_ID)  # of several audiences, this one is authorised
    assert sign_in(client).status_code == 200


def test_a_key_that_was_taken_back_counts_at_once(client: TestClient, provider: Provider) -> None:
    assert sign_in(client).status_code == 200
    lost, provider.key = provider.key, RSAKey.generate_key(2048, {"kid": "rsa-2"})
    assert sign_in(client).status_code == 200
    provider.forge = lambda claims: provider.sign(claims, key=lost)
    assert sign_in(client).status_code == 401


def test_a_way_back_is_gone_once(client: TestClient, provider: Provider) -> None:
    way = begin(client)
    assert client.get(way).status_code == 200 and is_in(client)
    client.cookies.clear()
    replayed = client.get(way)
    assert replayed.status_code == 400 and "Begin again" in problem(replayed) and not is_in(client)
    way, n_asked = begin(client), len(provider.requests)
    kept_cookies = dict(client.cookies)
    assert client.get(way).status_code == 200
    client.cookies.clear()
    client.cookies.update(kept_cookies)  # the browser's cookie too
    assert client.get(way).status_code == 400 and len(provider.requests) == n_asked + 2


def test_a_way_back_of_another_browser(client: TestClient, provider: Provider) -> None:
    """Nobody is signed in as somebody else by a link."""
    way = begin(client)
    client.cookies.clear()
    answer = client.get(way)
    assert answer.status_code == 400 and "another browser" in problem(answer) and not is_in(client)
    n_asked = len(provider.requests)
    begin(client)
    assert client.get(way).status_code == 400  # with the cookie of another sign-in
    assert len([path for path, _ in provider.requests[n_asked:] if path == "/token"]) == 0


def test_a_state_that_was_never_given_out(client: TestClient, provider: Provider) -> None:
    genuine = {name: values[0] for name, values in parse_qs(urlsplit(begin(client)).query).items()}
    for state in ("", "x" * 43, None, "ü"):
        query = genuine | {"state": state}
        answer = client.get("/sign-in/oidc", params={name: value for name, value in query.items() if value is not None})
        assert answer.status_code == 400 and not is_in(client), state
    assert "/token" not in [path for path, _ in provider.requests]
    assert client.get("/sign-in/oidc").headers["location"] == "/sign-in"


def test_a_sign_in_that_took_too_long(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    way = begin(client)
    monkeypatch.setattr("recllm.doors.console.memory.monotonic", lambda: time.monotonic() + 601)
    assert client.get(way).status_code == 400 and not is_in(client)


def test_a_few_sign_ins_wait(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.doors.console.app.MAX_PENDING", 2)
    with serving(make_shop(tmp_path / "shop", provider)) as client:
        first = begin(client)
        cookies = dict(client.cookies)
        for _ in range(2):
            begin(client)
        client.cookies.update(cookies)
        assert client.get(first).status_code == 400


def test_an_answer_of_another_provider(client: TestClient, provider: Provider) -> None:
    provider.names_itself = True
    assert sign_in(client).status_code == 200
    client.cookies.clear()
    way = begin(client)
    assert client.get(re.sub(r"&iss=[^&]*", "", way)).status_code == 401  # it says that it always names itself
    way = begin(client)
    assert client.get(re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Fevil.example", way)).status_code == 401
    assert not is_in(client)
    provider.names_itself = False
    assert client.get(begin(client) + "&iss=https%3A%2F%2Fevil.example").status_code == 401


def test_nobody_is_led_elsewhere(client: TestClient) -> None:
    provider_id = urlsplit(link(client)).path.rsplit("/", 1)[1]
    for elsewhere in ("//evil.example", "https://evil.example", "javascript:alert(1)", ""):
        client.cookies.clear()
        way = returned(client.get(f"/sign-in/oidc/{provider_id}", params={"after": elsewhere}))
        answer = client.get(f"{way}&after={quote(elsewhere)}&redirect=//evil.example&next=//evil.example")
        assert answer.status_code == 200 and "evil" not in answer.text, elsewhere
        assert re.findall(r'url=([^"]*)"', answer.text) == ["/"] and "location" not in answer.headers


def test_the_way_back_is_what_the_settings_say(tmp_path: Path, provider: Provider) -> None:
    with serving(make_shop(tmp_path / "shop", provider), loopback_only=False) as client:
        del client.headers["origin"]
        client.headers |= {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
        location = client.get(link(client)).headers["location"]
        assert parse_qs(urlsplit(location).query)["redirect_uri"] == [REDIRECT_URI] and "evil" not in location


def test_another_site_sends_nobody_away(client: TestClient, provider: Provider) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        answer = client.get(link(client), headers=headers)
        assert answer.status_code == 303 and answer.headers["location"] == "/sign-in?after=/settings"
    assert not provider.requests
    assert client.get("/sign-in/oidc/000000000000").status_code == 404


def test_domains_subjects_and_groups_let_somebody_in(tmp_path: Path, provider: Provider) -> None:
    provider.person["email"] = "Anna@SHOP.example"
    ways = ("allowed_subjects", ["other", "subject-4711"]), ("allowed_groups", ["crm"])
    for allowed in ({}, *({name: values} for name, values in (*ways, ("allowed_domains", ["shop.example"])))):
        folder = make_shop(tmp_path / "-".join(["shop", *allowed]), provider, **{"allowed_domains": []} | allowed)
        with serving(folder) as client:
            assert sign_in(client).status_code == (200 if allowed else 403), allowed
            assert is_in(client) == bool(allowed)


def signed_in_scopes(client: TestClient, folder: Path) -> set[str]:
    """What the session of a browser allows."""
    cookies = {cookie.name: cookie.value for cookie in client.cookies.jar if cookie.value}
    with Workspace.open(folder) as shop:
        session = find_session(shop, cookies.get(session_cookie(folder.name), ""), is_used=False)
        member = session_visitor(shop, session) if session else None
    return set(member.scopes) if isinstance(member, StaffMember) else set()


def test_groups_give_scopes(tmp_path: Path, provider: Provider) -> None:
    grants = ["crm = events marketing", "cn=it,dc=shop = admin", "everybody=privacy"]
    folder = make_shop(tmp_path / "shop", provider, group_scopes=grants, groups_claim="roles")
    for roles, scopes in table("oidc", "groups give scopes"):
        provider.person |= {"roles": roles, "groups": ["cn=it,dc=shop"]}  # the claim is the one of the settings
        with serving(folder) as client:
            assert sign_in(client).status_code == 200 and signed_in_scopes(client, folder) == set(scopes)


def test_who_may_not_look_is_told_so(tmp_path: Path, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_shop(tmp_path / "shop", provider, base_scopes=[], group_scopes=["crm = events", "team = console"])
    with serving(folder) as client:
        answer = sign_in(client)
        assert answer.status_code == 403 and "scope console" in problem(answer) and not is_in(client)
        assert "oidc.base_scopes" in causes(caplog)
        provider.person["groups"] = ["team"]
        assert sign_in(client).status_code == 200 and is_in(client)


def test_what_is_done_needs_the_scope(tmp_path: Path, provider: Provider) -> None:
    folder = make_shop(tmp_path / "shop", provider, group_scopes=["it = admin"])
    with serving(folder) as client:
        for groups, status in (([], 403), (["it"], 200), ([], 403)):  # who left the group: from the next sign-in on
            provider.person["groups"] = groups
            sign_in(client)
            assert (
                client.post("/settings/keys", data={"name": "web", "scope": ["console", "admin"]}).status_code == status
            )
    (line,) = (folder / HISTORY_FILE).read_text("utf-8").splitlines()
    assert json.loads(line)["by"] == "anna@shop.example" and json.loads(line)["act"] == "make_key"


def test_the_history_names_people_as_the_settings_say(tmp_path: Path, provider: Provider) -> None:
    usual = dict(provider.person)
    for name, person, by in table("oidc", "names in the history"):
        provider.person = usual | person
        folder = tmp_path / name
        if not folder.exists():
            make_shop(folder, provider, history_name=name, allowed_subjects=["subject-4711"])
        with serving(folder) as client:
            sign_in(client)
            match = re.search(r'<span class="wide-only">([^<]*)</span>', client.get("/settings").text)
            assert match and html.unescape(match[1]) == by, person


def test_settings_that_change_count_for_sessions(tmp_path: Path, provider: Provider) -> None:
    options = {"allowed_groups": ["crm"], "group_scopes": ["crm = admin"]}
    folder = make_shop(tmp_path / "shop", provider, **options)
    with serving(folder) as client:
        sign_in(client)
    assert signed_in_scopes(client, folder) == {"console", "admin"}
    file = folder / "workspace.toml"
    text = file.read_text("utf-8")
    for changed, scopes in (
        ({"crm = admin": "it = admin"}, {"console"}),
        ({'"shop.example"': '"other.example"'}, {"console", "admin"}),
        ({'"shop.example"': '"other.example"', '"crm"': '"it"'}, set()),
        ({provider.issuer: "https://login.shop.example"}, set()),
        ({CLIENT_ID: "other"}, set()),
    ):
        new = text
        for old, replacement in changed.items():
            assert old in new
            new = new.replace(old, replacement)
        file.write_text(new, "utf-8")
        assert signed_in_scopes(client, folder) == scopes, changed


def session_files(folder: Path) -> list[Path]:
    return sorted((folder / "console-sessions").iterdir())


def change_session(folder: Path, **seconds_ago: float) -> dict[str, Any]:
    """The one session there is, as if some of its times were so long ago."""
    (path,) = session_files(folder)
    content = json.loads(path.read_bytes())
    content |= {name: time.time() - seconds for name, seconds in seconds_ago.items()}
    path.write_text(json.dumps(content), "utf-8")
    return dict(content)


def to_provider_and_back(answer: Any, client: TestClient, provider: Provider) -> Any:
    """A browser that a page sent to the provider, which sends it back."""
    assert answer.headers["location"].startswith(provider.issuer), answer.headers
    return client.get(returned(answer))


def test_a_session_goes_on_while_it_is_confirmed(client: TestClient, folder: Path, provider: Provider) -> None:
    sign_in(client)
    token = client.cookies[session_cookie("shop")]
    before = change_session(folder, proven_at=31 * 60, begun_at=31 * 60)
    # what cannot be led away waits
    for path, headers in (("/settings", {"hx-request": "true"}), ("/settings?csv=sessions", {})):
        assert client.get(path, headers=headers).status_code == 200
    assert client.post("/settings/sessions/end").status_code == 303
    first_tab = client.get("/settings?page=1")
    assert is_in(client)  # tabs that open together ask once
    answer = to_provider_and_back(first_tab, client, provider)
    assert answer.status_code == 200 and 'content="0; url=/settings?page=1"' in answer.text
    (_, query) = [entry for entry in provider.requests if entry[0] == "/authorize"][-1]
    assert "prompt" not in query  # who is signed in there is asked nothing
    after = change_session(folder)
    assert (after["begun_at"], after["end"]) == (before["begun_at"], before["end"])
    assert after["proven_at"] > time.time() - 60 and is_in(client)
    new, _ = client.cookies[session_cookie("shop")], client.cookies.clear()
    client.cookies.set(session_cookie("shop"), token)
    assert new != token and not is_in(client)  # the token until then is of no use


def test_who_left_the_directory_is_out(tmp_path: Path, provider: Provider) -> None:
    folder = make_shop(tmp_path / "shop", provider, base_scopes=[], group_scopes=["crm = console"])
    usual = dict(provider.person)
    with serving(folder) as client:
        for refuses, person in (
            ("access_denied", {}),
            (None, {"email": "anna@elsewhere.example"}),
            (None, {"groups": []}),  # out of the group that may look
        ):
            client.cookies.clear()
            provider.refuses, provider.person = None, usual
            sign_in(client)
            change_session(folder, proven_at=31 * 60)
            provider.refuses, provider.person = refuses, usual | person
            cookies = dict(client.cookies)
            assert to_provider_and_back(client.get("/settings"), client, provider).status_code in (401, 403)
            assert session_files(folder) == []
            client.cookies.clear()
            client.cookies.update(cookies)
            assert client.get("/settings").headers["location"] == "/sign-in?after=/settings"


def test_who_is_not_confirmed_is_out_in_the_end(client: TestClient, folder: Path, provider: Provider) -> None:
    sign_in(client)
    change_session(folder, proven_at=31 * 60)
    provider.answers["/.well-known/openid-configuration"] = lambda: (500, b"")
    assert is_in(client)  # it does not answer: that may be over soon
    n_asked = len(provider.requests)
    assert is_in(client) and len(provider.requests) == n_asked  # and no page waits for it
    change_session(folder, proven_at=61 * 60)
    assert client.get("/settings").headers["location"] == "/sign-in?after=/settings"


def test_a_session_is_of_one_person(
    client: TestClient, folder: Path, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """Who comes back may be another person, under the address of the first one even, and did not ask to be let in."""
    sign_in(client)
    change_session(folder, proven_at=31 * 60)
    provider.person["sub"] = "subject-0815"
    assert to_provider_and_back(client.get("/settings"), client, provider).status_code == 401
    assert "another person is signed in there" in causes(caplog)
    assert session_files(folder) == [] and not is_in(client)
    assert sign_in(client).status_code == 200 and is_in(client)


def test_an_address_that_another_person_has_now(folder: Path, provider: Provider) -> None:
    """People are known by issuer and subject: who got somebody's address got nothing else of theirs."""
    with serving(folder) as first:
        sign_in(first)
        provider.person["sub"] = "subject-0815"
        second = another_browser(first)
        sign_in(second)
        assert len(session_files(folder)) == 2
        for client in (first, second):
            page = client.get("/settings").text
            assert client.get("/settings?csv=sessions").text.count("anna@shop.example") == 1
            assert "/settings/sessions/" not in page
        for path in session_files(folder):
            assert second.post(f"/settings/sessions/{path.name}/end").status_code == 404
        assert second.post("/settings/sessions/end").status_code == 404 and is_in(first)
        provider.person["sub"] = "subject-4711"
        third = another_browser(first)
        sign_in(third)
        assert third.post("/settings/sessions/end").status_code == 303
        assert is_in(second) and is_in(third) and not is_in(first)
    with Workspace.open(folder) as shop:  # and the audit log tells which of them it was
        entries = [entry.details for entry in read_audit(shop) if entry.action == AuditAction.SIGNED_IN]
    assert [(entry["issuer"], entry["person"]) for entry in entries] == [
        (provider.issuer, f"subject-{number}") for number in ("4711", "0815", "4711")
    ]


def test_a_second_sign_in_has_its_own_secrets_and_is_proved_again(client: TestClient, provider: Provider) -> None:
    for _ in range(2):
        assert sign_in(client).status_code == 200
    first, second = (query for path, query in provider.requests if path == "/authorize")
    assert (first.get("prompt"), second.get("prompt")) == (None, "login")
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name] and len(first[name]) >= 43


def test_a_session_of_another_version_lets_no_one_in(client: TestClient, folder: Path, provider: Provider) -> None:
    issued = {"issuer": provider.issuer, "groups": ["crm"]}
    for person in ({}, {"subject": "subject-4711"}, {"groups": None}, issued):
        sign_in(client)
        (path,) = session_files(folder)
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"person": person}), "utf-8")
        assert client.get("/settings").status_code == 303
        path.unlink()


def test_a_providers_tokens_go_nowhere(tmp_path: Path, provider: Provider) -> None:
    """The server asks who it is and drops them: no browser, no file and (see `provider`) no log gets one."""
    provider.profile = {"sub": "subject-4711", "email": "anna@shop.example", "email_verified": True, "groups": ["crm"]}
    provider.person = {"sub": "subject-4711"}
    folder = make_shop(tmp_path / "shop", provider, group_scopes=["crm = admin"])
    with serving(folder) as client:
        answers = [client.get(link(client))]
        answers.append(client.get(returned(answers[0])))
        answers += [client.get("/settings"), client.get("/settings?csv=sessions")]
        assert answers[2].status_code == 200
        answers.append(client.post("/sign-out"))
        sign_in(client)  # a session that lasts
        heard = "".join(f"{answer.headers.multi_items()}{answer.text}" for answer in answers)
        kept = "".join(f"{cookie.value}" for cookie in client.cookies.jar)
        kept += "".join(cookie for answer in answers for cookie in answer.headers.get_list("set-cookie"))
        assert "anna@" not in kept and "subject-" not in kept  # nothing of a person either
        by_browser = {query["nonce"] for path, query in provider.requests if path == "/authorize"}
        codes = {form["code"] for path, form in provider.requests if path == "/token"}
        tokens = set(provider.issued) - by_browser - codes
        assert len(tokens) == 2 * 3 and "/me" in [path for path, _ in provider.requests]
        for secret in (*tokens, CLIENT_SECRET):  # ID token, access token, verifier
            assert secret not in heard + kept
        files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        assert len(session_files(folder)) == 1
        for secret in (*tokens, *by_browser, *codes, CLIENT_SECRET):
            assert not any(secret.encode() in content for content in files)


def test_the_user_info_tells_what_the_token_does_not(tmp_path: Path, provider: Provider) -> None:
    folder = make_shop(tmp_path / "shop", provider, group_scopes=["crm = events"])
    provider.profile, provider.person = provider.person, {"sub": "subject-4711"}
    with serving(folder) as client:
        assert sign_in(client).status_code == 200
        assert signed_in_scopes(client, folder) == {"console", "events"}
        provider.person |= provider.profile  # nothing is lacking, and it is not asked
        n_asked = len(provider.requests)
        assert sign_in(client).status_code == 200
        assert "/me" not in [path for path, _ in provider.requests[n_asked:]]
        # an address is verified where it stands
        claims, ours = {"sub": "subject-4711"}, {"email": "chief@shop.example"}
        verified = {"email": "x@evil.example", "email_verified": True}
        provider.person, provider.profile = claims | ours, claims | verified  # groups are lacking, so it is asked
        assert sign_in(client).status_code == 403
        provider.person, provider.profile = claims | {"email_verified": True}, claims | ours
        assert sign_in(client).status_code == 403


TROUBLES: dict[str, tuple[int, bytes]] = {
    "failing": (500, b"oh"),
    "busy": (503, b"{}"),
    "no JSON": (200, b"<html>"),
    "a list": (200, b"[]"),
    "nothing": (200, b""),
    "not UTF-8": (200, b"\xff\xfe{"),
    "huge": (200, b"{" + b" " * 2**21 + b"}"),
    "deep": (200, b"[" * 100_000),
    "elsewhere": (302, b""),
    "gone": (404, b""),
}


def test_a_provider_in_trouble(
    client: TestClient, provider: Provider, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = make_key(folder, Scope.CONSOLE)
    for path in ("/.well-known/openid-configuration", "/token", "/keys"):
        for name, trouble in TROUBLES.items():
            provider.answers, before = {path: lambda trouble=trouble: trouble}, causes(caplog)
            answer = sign_in(client)
            assert answer.status_code == 502 and problem(answer) and not is_in(client), (path, name)
            assert causes(caplog) != before, (path, name)
        page = client.post("/sign-in", data={"key": key})
        assert page.status_code == 303 and is_in(client)
        client.cookies.clear()


def test_a_provider_that_is_down_or_slow(tmp_path: Path, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    provider.delay = 60
    with running_provider() as stopped:
        down = make_shop(tmp_path / "down", stopped)
    slow = make_shop(tmp_path / "slow", provider, timeout_seconds=0.2)
    for folder, words in ((down, "ConnectError"), (slow, "within 0.2 s|ReadTimeout")):
        with serving(folder) as client:
            answer = client.get(link(client))
            assert answer.status_code == 502 and "does not answer" in problem(answer)
            assert re.search(words, causes(caplog))


def test_the_client_shows_its_secret_as_the_provider_wants(tmp_path: Path, provider: Provider) -> None:
    folder = make_shop(tmp_path / "shop", provider)
    for methods in (None, ["client_secret_basic"], ["client_secret_post"], ["none"]):
        provider.discovery = {"token_endpoint_auth_methods_supported": methods}
        if methods == ["none"]:
            provider.secret = None
            folder = make_shop(tmp_path / "without", provider, secret_variable="none")
        with serving(folder) as client:
            assert sign_in(client).status_code == 200
        *_, form = [parameters for path, parameters in provider.requests if path == "/token"]
        assert (form.get("client_secret") == CLIENT_SECRET) is (methods == ["client_secret_post"])


def test_one_sign_in_for_several_shops(tmp_path: Path, provider: Provider) -> None:
    tea = make_shop(tmp_path / "tea", provider)
    tools = make_shop(tmp_path / "tools", provider, group_scopes=["crm = events"])
    third = make_shop(tmp_path / "hardware-shop", provider, allowed_domains=["other.example"])
    with serving(tea, tools, third) as client:
        page = client.get("/sign-in").text
        assert page.count("/sign-in/oidc/") == 1
        assert not [name for name in ("tea", "tools", "hardware-shop") if f">{name}<" in page]
        assert sign_in(client).status_code == 200
        page = client.get("/settings").text
        assert "<option selected>tea</option><option>tools</option>" in page and "hardware-shop" not in page
        assert signed_in_scopes(client, tea) == {"console"} and signed_in_scopes(client, third) == set()
        assert client.post("/shop", data={"shop": "tools"}).status_code == 303
        sign_in(client)
        assert "<option selected>tools</option>" in client.get("/settings").text  # the shop that was looked at
        assert client.post("/sign-out").status_code == 303
        assert not is_in(client) and signed_in_scopes(client, tea) == set()


def test_shops_with_different_providers(tmp_path: Path, provider: Provider) -> None:
    with running_provider() as second:
        second.person["email"] = "zoe@shop.example"
        tea, tools = make_shop(tmp_path / "tea", provider), make_shop(tmp_path / "tools", second)
        with serving(tea, tools) as client:
            links = re.findall(r'href="(/sign-in/oidc/[^"]*)">([^<]*)<', client.get("/sign-in").text)
            assert [title for _, title in links] == [f"Sign in with {each.issuer[7:]}" for each in (provider, second)]
            answer = client.get(html.unescape(links[1][0]))
            assert to_provider_and_back(answer, client, second).status_code == 200
            assert "zoe@shop.example" in client.get("/settings").text
            assert signed_in_scopes(client, tea) == set() and signed_in_scopes(client, tools) == {"console"}


def test_a_person_of_one_shop_and_a_key_of_another(tmp_path: Path, provider: Provider) -> None:
    tea, tools = make_shop(tmp_path / "tea", provider), tmp_path / "tools"
    Workspace.create(tools, encoder="toy").close()
    text = make_key(tools, Scope.CONSOLE, name="Bert")
    with serving(tea, tools) as client:
        sign_in(client)
        assert client.post("/sign-in", data={"key": text}).status_code == 303
        page = client.get("/settings").text
        assert "<option>tea</option><option selected>tools</option>" in page and ">Bert</span>" in page
        client.post("/shop", data={"shop": "tea"})
        client.post("/sign-out")
        assert ">Bert</span>" in client.get("/settings").text  # the key's session goes on


def test_the_operations_of_a_shop_with_a_directory_need_a_key(client: TestClient) -> None:
    person = {"user_id": "u01"}
    answers = [client.post(f"/v1/{name}", json=person) for name in ("recommend", "users/profile", "users/export")]
    for answer in (*answers, client.get("/v1/audit"), client.get("/metrics")):
        assert answer.status_code == 401 and "X-API-Key" in answer.json()["error"]["message"], answer.url
    assert client.get("/livez").status_code == 200


def test_sign_in_is_tried_a_few_times_a_minute(tmp_path: Path, provider: Provider) -> None:
    with serving(make_shop(tmp_path / "shop", provider, tries=3)) as client:
        way = link(client)
        assert [client.get(way).status_code for _ in range(4)] == [303, 303, 303, 429]
        assert "Too many tries" in problem(client.get(way))
        assert client.get("/sign-in/oidc", params={"state": "guess"}).status_code == 429
        assert len(provider.requests) == 3


def test_failures_are_told_in_the_visitors_language(client: TestClient, provider: Provider) -> None:
    client.cookies.set("recllm-language", "zh")
    provider.person["email"] = "anna@evil.example"
    answer = client.get(urlsplit(re.findall(r'href="(/sign-in/oidc/[^"]*)"', client.get("/sign-in").text)[0]).path)
    way = returned(answer)
    client.cookies.delete("recllm-language")  # it is not sent on the way back from another site
    assert "不在可以使用本控制台的人员之列" in problem(client.get(way))
    assert [query["ui_locales"] for path, query in provider.requests if path == "/authorize"] == ["zh-Hans"]


def test_cookies_are_secure_over_https(tmp_path: Path, provider: Provider) -> None:
    provider.redirect_uri = "https://localhost/sign-in/oidc"
    folder = make_shop(tmp_path / "shop", provider, redirect_uri=provider.redirect_uri)
    with serving(folder, base="https://localhost") as client:
        begun = client.get(link(client))
        pending = next(c for c in begun.headers.get_list("set-cookie") if c.startswith("__Host-recllm-oidc="))
        for word in ("HttpOnly", "SameSite=lax", "Secure", "Path=/", "Max-Age=600"):
            assert word in pending
        answer = sign_in(client)
        cookies = answer.headers.get_list("set-cookie")
        assert len(cookies) == 3 and all(re.match(r"__Host-recllm-[\w-]+=", cookie) for cookie in cookies)
        assert all("Secure" in c and "SameSite=strict" in c and "; Path=/;" in f"{c};" for c in cookies)
        assert is_in(client)


def test_wrong_settings_are_named() -> None:
    for changed, says in table("oidc", "wrong settings are named"):
        with pytest.raises(UsageError) as caught:
            OidcSettings(**changed)
        assert says in str(caught.value) and "\n" not in str(caught.value), changed


def test_scopes_of_the_settings_are_those_of_keys() -> None:
    assert set(get_args(ConsoleScope)) == set(Scope) - {Scope.RECOMMEND, Scope.METRICS}


COMPLETE = {"issuer": "https://login.shop.example", "client_id": "c", "redirect_uri": "https://c.example/sign-in/oidc"}


def test_what_is_not_complete_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("client_id", "redirect_uri"):
        with pytest.raises(UsageError, match=f"oidc.{name} is not; set both"):
            connect_provider(OidcSettings(**COMPLETE | {name: ""}))
    client = connect_provider(OidcSettings(**COMPLETE))
    assert CLIENT_SECRET not in repr(client) and client.title == "login.shop.example"
    monkeypatch.delenv("RECLLM_OIDC_SECRET")
    with pytest.raises(UsageError, match="RECLLM_OIDC_SECRET holds no secret of the client c; set it, or set"):
        connect_provider(OidcSettings(**COMPLETE))
    assert connect_provider(OidcSettings(**COMPLETE, secret_variable="none")).title == "login.shop.example"
    monkeypatch.setitem(sys.modules, "authlib", None)
    with pytest.raises(MissingExtraError, match=r"authlib is not installed; run: pip install 'recllm\[oidc\]'"):
        connect_provider(OidcSettings(**COMPLETE))
