"""What stands between the service and whoever asks it: TLS, proxies that end it, headers of every answer."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from unittest.mock import Mock

import httpx2
import pytest
import service_world
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from fastapi.testclient import TestClient
from service_world import server_process, stopped
from typer.testing import CliRunner
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from recllm.base.errors import PolicyError, RecllmError, UsageError
from recllm.base.service_settings import ServiceSettings
from recllm.doors.cli.main import app as command_line
from recllm.doors.service import api
from recllm.doors.service.callers import ANSWER_HEADERS
from recllm.doors.service.transport import tls_context
from recllm.shop.workspace.keys import create_key
from recllm.shop.workspace.workspace import Workspace

EVERYBODY = "0.0.0.0"  # noqa: S104 - an address that others reach


def make_certificate(folder: Path, name: str = "own", *, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """A certificate that signs itself, of this machine, and its key."""
    key = generate_private_key(SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(issuer).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(names, critical=False)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
    protection = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shop without data that has a key."""
    with Workspace.create(tmp_path / "shop", encoder="toy", consent_default=True) as shop:
        create_key(shop, "site", ["recommend"])
    return tmp_path / "shop"


serving = partial(service_world.serving, console=True, waits=False, follow_redirects=False)


def test_no_answer_of_the_service_is_rendered_by_a_browser(folder: Path) -> None:
    with serving(folder) as client:
        for path in ("/v1/audit", "/v1/nothing", "/metrics", "/livez", "/openapi.json", "/webhooks/a/b"):
            for headers in ({}, {"Host": "evil.example"}):
                answer = client.get(path, headers=headers)
                assert {name: answer.headers.get(name) for name in ANSWER_HEADERS} == dict(ANSWER_HEADERS), path


def test_a_failure_has_the_headers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace.create(tmp_path / "shop", encoder="toy").close()
    monkeypatch.setattr(api, "generate_latest", Mock(side_effect=RuntimeError))
    with serving(tmp_path / "shop", base="https://localhost") as client:
        answer = client.get("/metrics")
        assert answer.status_code == 500 and answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"] and "Strict-Transport-Security" in answer.headers


def test_whoever_came_by_https_is_told_to_do_so_for_a_year(folder: Path) -> None:
    paths = ("/v1/nothing", "/livez", "/", "/sign-in", "/static/console.css", "/no-page")
    with serving(folder, base="https://localhost") as client:
        for path in paths:
            policy = client.get(path).headers["Strict-Transport-Security"]
            assert policy == "max-age=31536000; includeSubDomains", path
    with serving(folder) as client:
        assert not [path for path in paths if "Strict-Transport-Security" in client.get(path).headers]


def test_what_came_by_http_from_elsewhere_is_refused(folder: Path) -> None:
    options = {"loopback_only": False, "https_only": True}
    with serving(folder, base="http://shop.example", **options) as client:
        for path in ("/v1/audit", "/metrics", "/", "/sign-in", "/static/console.css", "/openapi.json"):
            answer = client.get(path)
            assert answer.status_code == 403 and "by https alone" in answer.json()["error"]["message"], path
        assert client.get("/livez").status_code == 200
    with serving(folder, base="https://shop.example", **options) as client:
        assert client.get("/sign-in").status_code == 200 and client.get("/v1/audit").status_code == 401


def test_a_proxy_that_is_trusted_says_that_it_was_https(folder: Path) -> None:
    app = service_world.app_of(folder, loopback_only=False, https_only=True)
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    for address, status in (("10.0.0.7", 401), ("10.0.1.7", 403)):
        behind = ProxyHeadersMiddleware(app, trusted_hosts=["10.0.0.0/24"])
        client = TestClient(behind, base_url="http://shop.example", client=(address, 4000))
        answer = client.get("/v1/audit", headers=said)
        assert answer.status_code == status
        assert ("Strict-Transport-Security" in answer.headers) == (status == 401)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's side after both agreed. Raises `ssl.SSLError` where they do not."""
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(8):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return asking


def test_only_tls_1_2_and_newer_is_spoken(tmp_path: Path) -> None:
    context = tls_context(*make_certificate(tmp_path))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = ssl.create_default_context()
        client.minimum_version = client.maximum_version = version
        assert handshake(context, client).version() == version.name.replace("_", ".")
    old = ssl.create_default_context()
    old.set_ciphers("ALL:@SECLEVEL=0")  # or this side would not even ask
    with pytest.warns(DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        handshake(context, old)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    other_key = make_certificate(tmp_path, "another")[1]
    locked_key = make_certificate(tmp_path, "locked", passphrase=b"secret")[1]
    text = tmp_path / "notes.txt"
    text.write_text("no PEM\n")
    for files, message in (
        ((tmp_path / "gone.crt", key), r"gone\.crt cannot be read \(No such file"),
        ((certificate, tmp_path / "gone.key"), r"gone\.key cannot be read \(No such file"),
        ((certificate, tmp_path), r"cannot be read \(Is a directory"),
        ((certificate, other_key), r"another\.key are not a certificate and its private key"),
        ((text, key), r"are not a certificate and its private key, in PEM"),
        ((certificate, text), r"are not a certificate and its private key, in PEM"),
        ((certificate, None), r"are not a certificate and its private key, in PEM"),
        ((certificate, locked_key), r"locked\.key are not .* without a passphrase"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            tls_context(*files)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert tls_context(both, None).minimum_version == ssl.TLSVersion.TLSv1_2


def serve(folder: Path, host: str, **settings: object) -> tuple[str, RecllmError | None]:
    """What is said at the start, and why there is none."""
    options = [word for name, value in settings.items() for word in ("--set", f"service.{name}={value}")]
    result = CliRunner().invoke(
        command_line, ["serve", "-w", str(folder), "--host", host, "--set", "service.processes=0", *options]
    )
    assert result.exception is None or isinstance(result.exception, RecllmError), result.exception
    return result.output, result.exception


def test_others_are_not_answered_without_tls(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[uvicorn.Config] = []

    def run(server: uvicorn.Server) -> None:
        started.append(server.config)
        server.started = True

    monkeypatch.setattr(uvicorn.Server, "run", run)
    _, error = serve(folder, EVERYBODY)
    assert isinstance(error, PolicyError) and "service.certificate" in str(error) and "trusted_proxies" in str(error)
    certificate, key = make_certificate(tmp_path)
    files = {"certificate": certificate, "certificate_key": key}
    _, error = serve(folder, EVERYBODY, certificate_key=key)
    assert isinstance(error, UsageError) and "service.certificate is not" in str(error)
    assert not started

    said, error = serve(folder, EVERYBODY, **files)
    assert error is None and f"https://{EVERYBODY}:8080/ is the console" in said
    assert started[0].ssl is not None and started[0].ssl.minimum_version == ssl.TLSVersion.TLSv1_2
    said, error = serve(folder, EVERYBODY, trusted_proxies="10.0.0.0/24")
    assert error is None and started[1].ssl is None and started[1].forwarded_allow_ips == ["10.0.0.0/24"]
    said, error = serve(folder, EVERYBODY, plain_http="true")
    assert error is None and "without TLS" in said
    said, error = serve(folder, "127.0.0.1")
    assert error is None and "TLS" not in said and started[3].forwarded_allow_ips == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("networks", ["proxy.example", "10.0.0.7/24", "*", "-1"])
def test_a_proxy_is_an_address_or_network(networks: str) -> None:
    with pytest.raises(UsageError, match=r"service\.trusted_proxies: .* is not an address or network"):
        ServiceSettings(trusted_proxies=(networks,))


def test_the_service_speaks_tls_itself(folder: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    settings = ("service.processes=0", f"service.certificate={certificate}", f"service.certificate_key={key}")
    with server_process(folder, *settings, certificate=certificate, path="/livez") as (client, server):
        page = client.get("/sign-in")
        assert page.status_code == 200 and "Strict-Transport-Security" in page.headers
        assert all("Secure" in cookie for cookie in page.headers.get_list("set-cookie"))
        port = client.base_url.port
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://localhost:{port}/livez", trust_env=False)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"https://localhost:{port}/livez", trust_env=False)
        assert f"https://127.0.0.1:{port}/ is the" in stopped(server)
