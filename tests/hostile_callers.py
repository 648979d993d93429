"""Keys, sessions and forms of every kind, and what each of them may do at a shop's service and console.

`ROUTES` says who may do what, whatever the code says. `ask_everything` asks each route with each kind of key, session
and form: without a valid key or session the answer is 401, or the page of sign-in; without the scope it is 403, and
nothing changes; with the scope it is neither.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from service_world import serving

from recllm.base.service_settings import ServiceSettings
from recllm.doors.console.session import session_cookie
from recllm.doors.service.oidc import StaffIdentity
from recllm.recommend.recommender.registry import current
from recllm.shop.workspace.console_sessions import begin_session, end_session
from recllm.shop.workspace.keys import create_key, list_keys, revoke_key
from recllm.shop.workspace.workspace import Workspace

ROUTES = """
open       GET     /livez /readyz /openapi.json /static/ /sign-in /sign-in/oidc /sign-in/oidc/{provider}
open       GET     /language/{name}
open       POST    /sign-in
open       GET     /unsubscribe/{shop_name}/{message_id} /c/{shop_name}/{click} /recllm.js /recllm.d.ts
open       POST    /unsubscribe/{shop_name}/{message_id}
open       OPTIONS /v1/page/{name}
page       POST    /v1/page/consent /v1/page/events /v1/page/list
signature  POST    /webhooks/{shop_name}/{source_name}
recommend  GET     /v1/items/{item_id}/similar
recommend  POST    /v1/recommend /v1/explain /v1/search /v1/users/profile
events     POST    /v1/events /v1/items /v1/users /v1/consent /v1/sessions/join
events     DELETE  /v1/items/{item_id}
marketing  GET     /v1/campaigns /v1/campaigns/{campaign_id} /v1/campaigns/{campaign_id}/report /v1/jobs/{job_id}
marketing  GET     /v1/report /v1/experiments /v1/experiments/{name}
marketing  POST    /v1/copy/check /v1/audience /v1/campaigns /v1/campaigns/{campaign_id}/decisions
marketing  POST    /v1/jobs/{job_id}/cancel
marketing+people POST /v1/copy /v1/predict /v1/occasions /v1/campaigns/{campaign_id}/plan
marketing+people POST /v1/campaigns/{campaign_id}/export
marketing  POST    /v1/experiments /v1/experiments/{name}/stop
marketing  PUT     /v1/campaigns/{campaign_id}
privacy    GET     /v1/audit
privacy    POST    /v1/users/export /v1/users/erase /v1/users/restrict
metrics    GET     /metrics
console    GET     / /people /people/list/{kind} /people/{name} /people/{name}/predictions
console    GET     /items /items/item/{item_id} /items/picture/{item_id} /campaigns /campaigns/new /results
console    GET     /campaigns/campaign/{campaign_id} /campaigns/campaign/{campaign_id}/{step}
console    GET     /campaigns/campaign/{campaign_id}/sending
console    GET     /campaigns/campaign/{campaign_id}/plan/{job_id} /results/campaign/{campaign_id}
console    GET     /experiments /experiments/experiment/{name}
console    GET     /models /models/version/{version} /data /data/load/{load_id} /settings
console    POST    /people/search /search /shop /sign-out /settings/sessions/end
console    POST    /settings/sessions/{session_id}/end
events     GET     /data/quarantine/{name} /data/upload/{upload_id}
events     POST    /people/{name}/consent /people/{name}/feedback /data/upload /data/upload/{upload_id}/load
events     POST    /data/upload/{upload_id}/export /data/upload/{upload_id}/discard /data/load/{load_id}/cancel
marketing  POST    /people/{name}/predictions /campaigns /campaigns/draft
marketing  POST    /campaigns/campaign/{campaign_id}/save/{step} /campaigns/campaign/{campaign_id}/products/find
marketing  POST    /campaigns/campaign/{campaign_id}/count
marketing  POST    /campaigns/campaign/{campaign_id}/plan/{job_id}/cancel
marketing  POST    /campaigns/campaign/{campaign_id}/send/stop
marketing+people POST /campaigns/campaign/{campaign_id}/test /campaigns/send
marketing+people POST /campaigns/campaign/{campaign_id}/plan /campaigns/campaign/{campaign_id}/export
marketing  POST    /campaigns/campaign/{campaign_id}/check /campaigns/campaign/{campaign_id}/decide
marketing  POST    /campaigns/campaign/{campaign_id}/clone
marketing  POST    /experiments/stop/{name}
privacy    GET     /privacy /people/{name}/export.json /people/{name}/erase
privacy    POST    /people/{name}/restrict /people/{name}/erase
admin      POST    /settings/keys /settings/keys/{key_id}/revoke /models/version/{version}/promote
"""
"""Scope, verb, paths. Pages need the scope console besides; a signature stands in for a key, page for a public one."""
SCOPES = ("recommend", "events", "marketing", "people", "privacy", "metrics", "console", "admin")
SITE = "https://www.shop.example"
PROVIDER = "https://login.shop.example"
OIDC = f"""
[oidc]
issuer = "{PROVIDER}"
client_id = "shop"
redirect_uri = "https://console.shop.example/sign-in/oidc"
allowed_domains = ["shop.example"]
group_scopes = ["events = events", "marketing = marketing people", "privacy = privacy", "admin = admin"]
"""


@dataclass(frozen=True, order=True)
class Route:
    path: str
    verb: str
    is_page: bool
    """Whether a session opens it, and not a key."""

    def address(self, values: Mapping[str, str], other: str = "x") -> str:
        """With values in the place of its parameters; other: of those without one."""
        texts = (values.get(name, other) for name in re.findall(r"{(\w+)}", self.path))
        return re.sub(r"{\w+}", lambda _: quote(next(texts).encode("utf-8", "surrogatepass"), safe=""), self.path)


@dataclass(frozen=True)
class Caller:
    name: str
    headers: Mapping[str, str]
    scopes: frozenset[str] | None = None
    """None where the key or session is not valid."""
    is_forged: bool = False
    """Whether no page of this console sent the form."""


@dataclass(frozen=True)
class Verdicts:
    routes: int
    callers: int
    cases: int
    failures: tuple[str, ...]


def ask_everything(folder: Path, *, every: int = 1, paths: str = "") -> Verdicts:
    """folder: of a shop without keys, of `service_world.build_shop`, which is changed. For a quick look, every: one
    case in so many is asked, but each operation with every key in force; paths: a pattern of those that are asked."""
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    with (folder / "workspace.toml").open("a", encoding="utf-8") as file:
        file.write(OIDC)
    with Workspace.open(folder) as shop, Workspace.open(other) as other_shop:
        browsers = _browsers(shop, other_shop)
        with_keys = [*_with_keys(shop, other_shop), Caller("the cookie of a session", browsers[0].headers)]
        values = {
            "name": shop.pseudonymiser().one("u05"),
            "item_id": "tea-1",
            "shop_name": folder.name,
            "step": "people",
        }
        values["version"] = str(current(shop.models_dir))
    table = {(path, verb): scope for scope, verb, *paths in map(str.split, ROUTES.split("\n")[1:-1]) for path in paths}
    settings = ServiceSettings(watch_seconds=0.1, requests_per_minute=1_000_000)
    secret = mock.patch.dict(os.environ, RECLLM_OIDC_SECRET="secret")
    with secret, serving(folder, other, settings=settings, console=True) as client:
        routes, bodies = routes_of(client.app), bodies_of(client.app)
        failures = [f"{r.verb} {r.path} is in no line of ROUTES" for r in routes if (r.path, r.verb) not in table]
        n_unknown = len(failures)
        cases = [
            (
                _expected(table[route.path, route.verb], route, caller),
                route,
                caller,
                bodies.get((route.path, route.verb)),
            )
            for route in routes
            if (route.path, route.verb) in table and re.search(paths, route.path)
            for caller in (browsers if route.is_page else with_keys)
        ]
        cases = [
            case for n, case in enumerate(cases) if n % every == 0 or not (case[1].is_page or case[2].scopes is None)
        ]
        recommend = Route("/v1/recommend", "POST", False)  # what is recorded is an event
        cases.append(("403", recommend, with_keys[0], {"user_id": "u05", "record": True}))
        cases.sort(key=lambda case: (case[0] == "in", case[1].path == "/sign-out"))  # those that are refused first
        n_refused, before = sum(case[0] != "in" for case in cases), _state(folder)
        for number, (expected, route, caller, body) in enumerate(cases):
            if number == n_refused and (after := _state(folder)) != before:
                failures.append(f"requests that were refused changed {before} into {after}")
            client.cookies.clear()
            sent: dict[str, Any] = {} if body is None else {"json": body}
            address, headers = route.address(values), dict(caller.headers)
            answer = client.request(route.verb, address, headers=headers, follow_redirects=False, **sent)
            outcome = _outcome(answer)
            if outcome != expected and (route.path, outcome) != ("/sign-in", "401"):
                failures.append(f"{route.verb} {route.path} with {caller.name}: {outcome} and not {expected}")
    n_cases = len(cases) + n_unknown + 1
    return Verdicts(len(routes), len(browsers) + len(with_keys), n_cases, tuple(failures))


def routes_of(app: Any) -> list[Route]:
    """Of the service and of the console that is mounted in it."""

    def walk(routes: Sequence[Any], is_page: bool) -> Iterator[Route]:
        for route in routes:
            if getattr(route, "name", "") == "mcp":
                continue  # each of its calls is one of the others; see test_agents
            inner = getattr(route, "original_router", None) or getattr(route, "app", None)
            if verbs := getattr(route, "methods", None):
                yield from (Route(route.path.replace(":path", ""), verb, is_page) for verb in verbs if verb != "HEAD")
            elif hasattr(inner, "routes"):
                yield from walk(inner.routes, is_page or getattr(route, "name", "") == "console")
            else:
                yield Route(f"{route.path}/", "GET", is_page)

    return sorted(set(walk(app.routes, False)))


def bodies_of(app: Any) -> dict[tuple[str, str], Any]:
    """By path and verb, as the service's own description shows them, about a person of the shop."""
    described, bodies = json.loads(json.dumps(app.openapi()).replace('"4711"', '"u01"')), {}
    for path, verbs in described["paths"].items():
        for verb, operation in verbs.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if name := content.get("schema", {}).get("$ref", "").rpartition("/")[2]:
                bodies[path, verb.upper()] = described["components"]["schemas"][name]["examples"][0]
    return bodies


def _expected(scope: str, route: Route, caller: Caller) -> str:
    if caller.is_forged and route.verb == "POST":
        return "403"
    if scope in ("open", "signature"):
        return "in" if scope == "open" else "401"
    if caller.scopes is None:
        return "sign-in" if route.is_page else "401"
    needed = {*scope.split("+"), "console"} if route.is_page else {*scope.split("+")}
    return "in" if caller.scopes >= needed else "403"


def _outcome(answer: Any) -> str:
    if answer.status_code == 303 and answer.headers["location"].startswith("/sign-in?after="):
        return "sign-in"
    return str(answer.status_code) if answer.status_code in (401, 403) or answer.status_code >= 500 else "in"


def _state(folder: Path) -> dict[str, Any]:
    """What a request that is refused may not change."""
    files = [str(path) for name in ("campaign-files", "campaigns", "uploads") for path in (folder / name).rglob("*")]
    with Workspace.open(folder) as shop, shop.store().read() as reader:
        in_force = sorted(key.key_id for key in list_keys(shop) if key.revoked_at is None)
        return reader.counts() | {"keys": in_force, "model": current(shop.models_dir), "files": sorted(files)}


def _with_keys(shop: Workspace, other: Workspace) -> list[Caller]:
    """The first may ask for slates."""

    def caller(name: str, key: str, of: Workspace = shop, scopes: Sequence[str] | None = None) -> Caller:
        return Caller(name, {"X-API-Key": key, "X-Shop": of.root.name}, None if scopes is None else frozenset(scopes))

    revoked, text_of_revoked = create_key(shop, "revoked", SCOPES)
    revoke_key(shop, revoked.key_id)
    text = create_key(shop, "all", SCOPES)[1]
    public = caller("a publishable key", create_key(shop, "pages", [SITE])[1], scopes=["page"])
    return [
        *(caller(f"a key of {scope}", create_key(shop, scope, [scope])[1], scopes=[scope]) for scope in SCOPES),
        caller("a key of two", create_key(shop, "crm", ["marketing", "people"])[1], scopes=["marketing", "people"]),
        replace(public, headers=dict(public.headers) | {"Origin": SITE}),
        caller("a revoked key", text_of_revoked),
        caller("a key of another shop", create_key(other, "all", SCOPES)[1]),
        caller("a key for another shop", text, of=other),
        caller("half a key", text[:-1]),
        Caller("no key", {"X-Shop": shop.root.name}),
    ]


def _browsers(shop: Workspace, other: Workspace) -> list[Caller]:
    """The first may do everything."""

    def of_key(*scopes: str, of: Workspace = shop) -> tuple[Any, str]:
        return begin_session(of, key_id=create_key(of, " ".join(scopes), scopes)[0].key_id)

    def of_staff(*groups: str, issuer: str = PROVIDER, email: str = "ann@shop.example") -> tuple[Any, str]:
        person = {"subject": " ".join(groups), "issuer": issuer, "client_id": "shop", "email": email, "groups": groups}
        return begin_session(shop, person=asdict(StaffIdentity(**person)))

    def browser(name: str, session: Any = None, token: str = "", scopes: Sequence[str] | None = None) -> Caller:
        cookies = {"Cookie": f"{session_cookie(shop.root.name)}={token}"}
        return Caller(name, cookies, None if scopes is None else frozenset(scopes))

    def changed(session: tuple[Any, str], used_at: float | None = None, **values: float) -> tuple[Any, str]:
        path = shop.root / "console-sessions" / session[0].session_id
        path.write_text(json.dumps(json.loads(path.read_bytes()) | values), "utf-8")
        os.utime(path, None if used_at is None else (used_at, used_at))
        return session

    every = browser("every scope", *of_key(*SCOPES), SCOPES)
    let_in = [every]
    let_in += [browser(f"console, {scope}", *of_key("console", scope), ("console", scope)) for scope in SCOPES]
    for groups in ((), ("events",), ("marketing",), ("privacy",), ("admin",)):
        people = ("people",) if groups == ("marketing",) else ()
        let_in.append(browser(f"staff of {groups}", *of_staff(*groups), ("console", *groups, *people)))

    last_week, ended, of_revoked = time.time() - 7 * 24 * 3_600, of_key(*SCOPES), of_key(*SCOPES)
    end_session(shop, ended[0].session_id)
    revoke_key(shop, of_revoked[0].key_id)
    kept_out: dict[str, tuple[Any, str]] = {
        "no session": (None, ""),
        "a token that never was one": (None, "A" * 43),
        "a session that was ended": ended,
        "a session of a revoked key": of_revoked,
        "a session of another shop": of_key(*SCOPES, of=other),
        "a session without console": of_key(*(scope for scope in SCOPES if scope != "console")),
        "staff of another domain": of_staff("admin", email="ann@evil.example"),
        "staff of another provider": of_staff("admin", issuer="https://evil.example"),
        "staff that was not confirmed": changed(of_staff("admin"), proven_at=last_week),
        "a session past its end": changed(of_key(*SCOPES), end=last_week),
        "an idle session": changed(of_key(*SCOPES), used_at=last_week),  # the last one: a new one removes those
    }
    evil = dict(every.headers) | {"Origin": "https://evil.example"}
    return [
        *let_in,
        *(browser(name, *session) for name, session in kept_out.items()),
        replace(every, name="a form of no stated site", headers=dict(every.headers) | {"Origin": ""}, is_forged=True),
        replace(every, name="another site's form", headers=evil, is_forged=True),
    ]
