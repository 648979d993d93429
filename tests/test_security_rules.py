"""Rules of security that the code itself shows: scopes, verbs, algorithms, doors that are not there."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from packaging.version import Version
from source_trees import SOURCES, tree
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from recllm.base.errors import StoreError
from recllm.doors.privacy.backup import lock_key, work_of_guess
from recllm.doors.service import api, marketing, webhooks
from recllm.doors.service.callers import Allowed
from recllm.shop.workspace.keys import Scope

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "recllm" / "doors" / "console" / "templates"

WITHOUT_KEY = {"/livez", "/readyz", "/webhooks/{shop_name}/{source_name}"}
"""Whether it lives and is ready, for whoever runs it; and what a signature opens instead."""
HASHES = {"sha256", "blake2b", "shake_128", "file_digest", "scrypt"}
CIPHERS = {"AESGCM"}
SHORT = {("data.py", 9)}
"""Bytes of what is random and shorter than 16: the nonce of one answer's content policy; the name of an uploaded file's
folder, which is of use only to whoever may upload files."""


def calls(path: Path) -> Iterator[ast.Call]:
    yield from (n for n in ast.walk(tree(path)) if isinstance(n, ast.Call))


def imported(path: Path) -> set[str]:
    """Whole names of what a module imports, also inside of its functions."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def routes() -> list[APIRoute]:
    routers = (api.router, marketing.router, webhooks.router)
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def operations() -> dict[tuple[str, str], set[Scope]]:
    """Verb and path of every operation, and the scopes that it asks for."""
    return {
        (verb, route.path.replace(":path", "")): {
            d.call._scope for d in route.dependant.dependencies if isinstance(d.call, Allowed)
        }
        for route in routes()
        for verb in route.methods
    }


def test_the_guide_names_the_scope_of_each_operation() -> None:
    """No operation is without a scope but three, and the guide's table says the same as the code."""
    asked = operations()
    assert len(asked) > 30
    assert {path for (_, path), scopes in asked.items() if not scopes} == WITHOUT_KEY
    assert all(len(scopes) <= 1 for scopes in asked.values())
    section = (ROOT / "recllm" / "guide" / "service.md").read_text(encoding="utf-8")
    compared = set()
    for names, written in re.findall(r"^\| (`.*?) \| .* \| ([^|]*) \|$", section, re.MULTILINE):
        verbs = re.findall(r"\b(?:GET|POST|PUT|DELETE)\b", names) or ["GET"]
        paths = {re.sub(r"{\w*}", "{}", path) for path in re.findall(r"(?<=[` ])/[\w/{}-]+", names)}
        for (verb, path), scopes in asked.items():
            if verb in verbs and re.sub(r"{\w+}", "{}", path) in paths and scopes:
                compared.add((verb, path))
                assert all(str(scope) in written for scope in scopes), f"{verb} {path}: the guide says {written}"
    assert len(compared) > 25


def test_no_address_of_an_operation_holds_a_person() -> None:
    """Ids of people and of sessions stand in bodies: what stands in a path or a query reaches logs of proxies."""
    n_named = 0
    for route in routes():
        parameters = [*route.dependant.path_params, *route.dependant.query_params]
        names = {parameter.alias for parameter in parameters}
        n_named += len(names)
        assert not [name for name in names if re.search(r"user|person|session|key|token|secret", name)], route.path
    assert n_named > 10


def test_reading_changes_nothing_by_its_verb() -> None:
    """What changes rows asks for a scope of writing, and is never reached by GET."""
    for verb, path in operations():
        if verb == "GET":
            assert not re.search(r"/(?:events|consent|join|plan|cancel|decisions|export/?)$", path), path
    for file in sorted((ROOT / "recllm" / "doors" / "console").glob("*.py")):
        for function in (n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
            verbs = {d.func.attr for d in function.decorator_list if isinstance(d, ast.Call) and _is_route(d)}
            names = {a.annotation.id for a in function.args.args if isinstance(a.annotation, ast.Name)}
            if "get" in verbs:
                assert "TheForm" not in names, f"{file.name}: {function.name} takes a form by GET"


def _is_route(call: ast.Call) -> bool:
    return (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and "router" in call.func.value.id
    )


def test_ciphers_and_hashes_are_those_of_the_list() -> None:
    for path in SOURCES:
        for call in calls(path):
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                module, name = call.func.value.id, call.func.attr
                assert module != "hashlib" or name in HASHES, f"{path.name}: hashlib.{name}"
                if (module, name) in {("hashlib", "file_digest"), ("hmac", "digest"), ("hmac", "new")}:
                    kind = ast.unparse(call.args[-1])
                    assert kind in {"'sha256'", "hashlib.sha256"}, f"{path.name}: {kind}"
        names = imported(path)
        assert {name.rsplit(".", 1)[1] for name in names if ".primitives.ciphers" in name} <= CIPHERS, path.name
        assert not [name for name in names if re.match(r"(Crypto|nacl|rsa|M2Crypto)\b", name)], path.name


def test_a_passphrase_is_stretched() -> None:
    """By scrypt (r = 8) with 128 MiB for each guess, with a salt of its own for each backup."""
    locked_keys = [lock_key(b"key", "correct horse battery") for _ in range(2)]
    assert all(128 * 8 * 2 ** work_of_guess(key) >= 128 << 20 for key in locked_keys)
    salts = [b64decode(b"".join(key.splitlines()[1:-1])).splitlines()[1].split()[2] for key in locked_keys]
    assert len(set(salts)) == 2


def test_a_key_that_is_too_easy_to_guess_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    easy = [
        b"-----BEGIN AGE ENCRYPTED FILE-----",
        b64encode(b"age-encryption.org/v1\n-> scrypt c2FsdA 16\n"),
        b"-----END",
    ]
    monkeypatch.setattr(pyrage.passphrase, "encrypt", lambda *_, **__: b"\n".join(easy))
    with pytest.raises(StoreError, match="too busy"):
        lock_key(b"key", "correct horse battery")


def test_what_nobody_may_guess_comes_from_the_secure_generator() -> None:
    """Where secrets are made `random` is not imported, and 128 bits are drawn but for what `SHORT` names."""
    drawn = set()
    for path in SOURCES:
        if path.relative_to(ROOT / "recllm").parts[1:2] in [
            (room,) for room in ("workspace", "console", "service", "privacy", "store")
        ]:
            assert "random" not in {name.split(".")[0] for name in imported(path)}, path.name
        for call in calls(path):
            is_draw = isinstance(call.func, ast.Attribute) and call.func.attr in {"token_urlsafe", "token_bytes"}
            if is_draw and ast.literal_eval(call.args[0]) < 16:
                drawn.add((path.name, ast.literal_eval(call.args[0])))
    assert drawn == SHORT


def test_no_parser_of_xml_and_no_other_door_is_imported() -> None:
    """No XML, no WebSocket, no GraphQL; other origins may read what `pages` answers to those that a key lists."""
    doors = re.compile(r"\bxml\b|lxml|websocket|graphql|CORSMiddleware|soap|ldap3?\b", re.IGNORECASE)
    for path in SOURCES:
        assert not [name for name in imported(path) if doors.search(name)], path.name
        text = path.read_text(encoding="utf-8").lower()
        is_open = "access-control-" in text and not path.match("service/pages.py")
        assert not is_open and ".websocket(" not in text, path.name


def test_no_folder_is_listed() -> None:
    client = TestClient(Starlette(routes=[Mount("/", StaticFiles(packages=[("recllm.doors.console", "static")]))]))
    assert client.get("/console.css").status_code == 200
    for path in ("/", "/.", "/%2e%2e/", "/../app.py", "/..%2fapp.py"):
        assert client.get(path).status_code == 404, path


def test_the_field_of_a_key_hides_it_and_takes_what_is_pasted() -> None:
    (field,) = re.findall(r'<input id="key"[^>]*>', (TEMPLATES / "sign_in.html.j2").read_text(encoding="utf-8"))
    assert 'type="password"' in field and 'autocomplete="current-password"' in field and "maxlength" not in field
    scripts = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.j2"))
    assert "onpaste" not in scripts and "paste" not in re.findall(r'name="key"[^>]*', scripts)[0]


def test_every_page_of_somebody_signed_in_has_a_way_out() -> None:
    """Each page extends the frame, whose form of signing out stands outside of what a page may replace; the others are
    parts of a page."""
    frame = (TEMPLATES / "frame.html.j2").read_text(encoding="utf-8")
    header = frame[frame.index("<header") : frame.index("</header>")]
    assert 'action="/sign-out"' in header and "{% block" not in header
    for path in TEMPLATES.glob("*.j2"):
        text = path.read_text(encoding="utf-8")
        is_page = text.startswith('{% extends "frame.html.j2" %}')
        assert is_page or path == TEMPLATES / "frame.html.j2" or not re.search(r"<html|<body|<!doctype", text, re.I)


FLOORS = {
    "transformers": "5.5.0",  # CVE-2026-4372, CVE-2026-5241: remote code in spite of trust_remote_code=False
    "torch": "2.10",  # CVE-2026-24747, CVE-2025-32434
    "jinja2": "3.1.6",  # CVE-2025-27516: sandbox escape through |attr
}


@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_floor(package: str, floor: str) -> None:
    assert Version(importlib.metadata.version(package)) >= Version(floor)
