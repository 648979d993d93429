"""Commands of the service: run it, its keys, its webhooks."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.base.errors import MissingExtraError, PolicyError, UsageError
from recllm.doors.cli.options import (
    DEFAULT_WORKSPACE,
    Answer,
    Shop,
    WorkspaceDir,
    note,
    open_shop,
    write_audit,
)
from recllm.text.log_lines import log_to_stderr

if TYPE_CHECKING:
    from recllm.shop.workspace.webhooks import WebhookSource
    from recllm.shop.workspace.workspace import Workspace


def serve(
    *,
    workspace: Annotated[
        list[Path] | None, typer.Option("-w", "--workspace", help="A workspace folder; may be repeated.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but the loopback needs a key and TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8080,
) -> None:
    """Answer over HTTP: recommendations, explanations, events and items in. Ends with Ctrl-C."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise UsageError(f"{host}, port {port}: {error.strerror}; give another --port or --host") from None
    try:
        import uvicorn

        from recllm.doors.console.app import mount_console
        from recllm.doors.service.app import create_app
        from recllm.doors.service.transport import BoundedRequests, tls_context
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("recllm"):
            raise
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from threadpoolctl import threadpool_limits

    from recllm.doors.service.live import LiveShop, SlateProcesses, default_processes

    folders = workspace or [DEFAULT_WORKSPACE]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(f"two workspaces are called {max(names, key=names.count)!r}; the folder's name names the shop")
    shops = [open_shop(folder) for folder in folders]
    settings = shops[0].settings.service
    certificate = None
    if settings.certificate is not None:
        key = None if settings.certificate_key is None else Path(settings.certificate_key)
        certificate = tls_context(Path(settings.certificate), key)
    elif settings.certificate_key is not None:
        raise UsageError("setting service.certificate_key is set and service.certificate is not; set both, or neither")
    is_loopback = host == "localhost" or re.fullmatch(r"127\.[0-9.]+|::1", host) is not None
    check_exposure(host, is_loopback, dict(zip(folders, shops, strict=True)), has_certificate=certificate is not None)
    n_processes = default_processes() if settings.processes is None else settings.processes
    slates = SlateProcesses(dict(zip(names, folders, strict=True)), n_processes) if n_processes else None
    live = [
        LiveShop(shop, name, None if slates is None else slates.update) for shop, name in zip(shops, names, strict=True)
    ]
    app = create_app(
        live,
        settings,
        slates=slates,
        loopback_only=is_loopback,
        https_only=not is_loopback and not settings.plain_http,
    )
    mount_console(app)
    if port:
        address = f"{'http' if certificate is None else 'https'}://{host}:{port}"
        note(f"{address}/ is the console; {address}/openapi.json describes what can be asked")
    log_to_stderr()
    # no log of requests: their paths hold ids; and half a request does not delay the end
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        log_level="info" if not port else "warning",  # uvicorn logs the free port
        server_header=False,
        timeout_graceful_shutdown=10,
        http=BoundedRequests,
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.certificate_key,
    )
    config.load()
    if certificate is not None:
        config.ssl = certificate  # uvicorn's own takes older ciphers
    server = uvicorn.Server(config)
    # an answer takes one core, and leaves the others to other answers
    with threadpool_limits(1, user_api="blas"), suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise typer.Exit(1)


def mcp(workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Answer agents by the Model Context Protocol, on standard input and output; `serve` does it at /mcp."""
    from recllm.doors.service.agents import serve_by_stdio
    from recllm.doors.service.app import create_app
    from recllm.doors.service.live import LiveShop

    shop = open_shop(workspace)
    log_to_stderr()
    serve_by_stdio(create_app([LiveShop(shop, workspace.resolve().name)], shop.settings.service))


def check_exposure(host: str, is_loopback: bool, shops: Mapping[Path, Workspace], *, has_certificate: bool) -> None:
    """Raises `PolicyError` where others could reach a shop without a key, or send what nothing encrypts. shops: by
    their folders; the first one's settings are those of the connection."""
    from recllm.shop.workspace.keys import is_unlocked

    without_key = [folder for folder, shop in shops.items() if is_unlocked(shop)]
    if is_loopback:
        if len(without_key) == len(shops):
            note("no shop has a key: only this machine is answered, and its users have full access")
        return
    if without_key:
        raise PolicyError(
            f"{host} can be reached by others, and {', '.join(f.resolve().name for f in without_key)} has no key; "
            f"make one with: recllm keys --create web-shop --scope recommend -w {without_key[0]}"
        )
    settings = next(iter(shops.values())).settings.service
    if not has_certificate and settings.plain_http:
        note(f"{host} can be reached by others, and keys and people's data go there without TLS (service.plain_http)")
    elif not has_certificate and "trusted_proxies" not in settings.explicit():
        raise PolicyError(
            f"{host} can be reached by others, and nothing encrypts what they send; set service.certificate and "
            "service.certificate_key, or service.trusted_proxies where a proxy ends https, "
            "or in a network that encrypts by itself: --set service.plain_http=true"
        )


def keys(
    *,
    create: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make a key for this user; it is printed once. Needs --scope.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="recommend, events, marketing, people, privacy, metrics, console or admin; or an origin of the shop's "
            "pages, such as https://shop.example, for a publishable key; may be repeated."
        ),
    ],
    revoke: Annotated[str | None, typer.Option(metavar="KEY", help="Refuse this key from now on; its id in the list.")],
    shop: Shop,
) -> Answer:
    """API keys of the service with their scopes: list them, make one, revoke one."""
    from recllm.shop.workspace.keys import create_key, list_keys, revoke_key

    if (create is None) != (not scope) or (create is not None and revoke is not None):
        raise UsageError("--create NAME needs --scope SCOPE; --revoke KEY stands alone")
    if create is not None:
        key, text = create_key(shop, create, scope or [])
        scopes = sorted(key.scopes | key.origins)
        write_audit(shop, "key_made", key=key.key_id, scopes=scopes)
        document = {"key_id": key.key_id, "name": key.name, "scopes": scopes, "key": text}
        if key.origins:
            line = f'<script src="https://SERVICE/recllm.js" data-key="{text}" defer></script>'
            return Answer(document, [line], ["put this line into the head of each page; SERVICE is the host of recllm"])
        return Answer(document, [text], ["send it as X-API-Key; it cannot be shown again"])
    if revoke is not None:
        revoke_key(shop, revoke)
        write_audit(shop, "key_revoked", key=revoke)
        return Answer({"key_id": revoke, "revoked": True})
    return Answer({"keys": list_keys(shop)})


def webhooks(
    *,
    add: Annotated[str | None, typer.Option(metavar="NAME", help="Accept its reports. Again: adds a second secret.")],
    provider: Annotated[
        str, typer.Option(help="Of --add: standard, sendgrid, ses, resend, mailgun, postmark, woocommerce or shopify.")
    ] = "standard",
    secret_file: Annotated[
        Path | None,
        typer.Option(help="Of --add: a file with the key that it shows (SendGrid: the public one), or -."),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="End this provider at once, or one secret: NAME:SECRET_ID."),
    ] = None,
    shop: Shop,
) -> Answer:
    """Services that report on messages, or a shop's system: a list, without secrets, or a change."""
    from recllm.shop.workspace.webhooks import WebhookScheme, add_source, read_webhooks, remove_webhook

    if remove is not None:
        name, _, secret_id = remove.partition(":")
        remove_webhook(shop, name, secret_id or None)
        return Answer({"name": name, "secret_id": secret_id or None, "removed": True})
    if add is None:
        return Answer({"providers": list(map(_source_row, read_webhooks(shop).sources.values()))})
    if provider not in set(WebhookScheme):
        raise UsageError(f"--provider is one of {', '.join(WebhookScheme)}, not {provider!r}")
    text = None if secret_file is None else _read_secret(secret_file)
    entry, secret = add_source(shop, add, WebhookScheme(provider), text)
    path = f"/webhooks/{shop.root.resolve().name}/{add}"
    document = {"name": add, "provider": provider, "path": path, "secret_id": secret.fingerprint}
    document |= {"secret": secret.text} if text is None else {}
    rotations = (
        f"an earlier secret is in force too; end it with: recllm webhooks --remove {add}:{earlier.fingerprint}"
        for earlier in entry.secrets[:-1]
    )
    return Answer(document, [secret.text if text is None else path], [f"let it post to {path}", *rotations])


def _read_secret(file: Path) -> str:
    """From a file or standard input: an option would be in the list of processes, and in the shell's history."""
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a secret: {type(error).__name__}") from None
    return "".join(line.strip() for line in content.splitlines() if not line.startswith("-----"))


def _source_row(source: WebhookSource) -> dict[str, Any]:
    """Without its secrets."""
    secrets = [{"secret_id": s.fingerprint, "created_at": s.created_at} for s in source.secrets]
    return {"name": source.name, "provider": source.scheme, "secrets": secrets}
