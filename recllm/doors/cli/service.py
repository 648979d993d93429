"""Commands of the service: run it, and who may call it."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recllm.base.errors import MissingExtraError, PolicyError, UsageError
from recllm.doors.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir, open_shop, write_audit
from recllm.doors.cli.output import note, show, table
from recllm.text.log_lines import log_to_stderr

if TYPE_CHECKING:
    from recllm.base.settings import ServiceSettings
    from recllm.doors.service.tls import ServerCertificate


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
        from recllm.doors.service.headers import BoundedRequests
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("recllm"):
            raise
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from threadpoolctl import threadpool_limits

    from recllm.doors.service.live import LiveShop
    from recllm.doors.service.slates import SlateProcesses, default_processes
    from recllm.shop.workspace.keys import list_keys

    folders = workspace or [DEFAULT_WORKSPACE]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(f"two workspaces are called {max(names, key=names.count)!r}; the folder's name names the shop")
    shops = [open_shop(folder) for folder in folders]
    # a directory closes a shop as a key does
    open_names = [
        name
        for name, shop in zip(names, shops, strict=True)
        if shop.settings.oidc.issuer is None and not list_keys(shop)
    ]
    is_loopback = host == "localhost" or re.fullmatch(r"127\.[0-9.]+|::1", host) is not None
    if open_names and not is_loopback:
        folder = folders[names.index(open_names[0])]
        raise PolicyError(
            f"{host} can be reached by others, and {', '.join(open_names)} has no key; "
            f"make one with: recllm keys --create web-shop --scope recommend -w {folder}"
        )
    settings = shops[0].settings.service
    certificate = _certificate(settings)
    if is_loopback:
        if len(open_names) == len(names):
            note("no shop has a key: only this machine is answered, and its users have full access")
    elif certificate is None and settings.plain_http:
        note(f"{host} can be reached by others, and keys and people's data go there without TLS (service.plain_http)")
    elif certificate is None and "trusted_proxies" not in settings.explicit():
        raise PolicyError(
            f"{host} can be reached by others, and nothing encrypts what they send; set service.certificate and "
            "service.certificate_key, or service.trusted_proxies where a proxy ends https, "
            "or in a network that encrypts by itself: --set service.plain_http=true"
        )
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
        callback_notify=None if certificate is None else certificate.renew,
    )
    config.load()
    if certificate is not None:
        config.ssl = certificate.context
    server = uvicorn.Server(config)
    # an answer takes one core, and leaves the others to other answers
    with threadpool_limits(1, user_api="blas"), suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise typer.Exit(1)


def _certificate(settings: ServiceSettings) -> ServerCertificate | None:
    """What the settings name; None where the service speaks http."""
    from recllm.doors.service.tls import ServerCertificate

    if settings.certificate is None:
        if settings.certificate_key is not None:
            raise UsageError(
                "setting service.certificate_key is set and service.certificate is not; set both, or neither"
            )
        return None
    return ServerCertificate(
        Path(settings.certificate), None if settings.certificate_key is None else Path(settings.certificate_key)
    )


def keys(
    *,
    create: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make a key for this user; it is printed once. Needs --scope.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="recommend, events, marketing, people, privacy, metrics, console or admin; may be repeated."),
    ],
    revoke: Annotated[str | None, typer.Option(metavar="KEY", help="Refuse this key from now on; its id in the list.")],
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """API keys of the service with their scopes: list them, make one, revoke one."""
    from recllm.shop.workspace.audit import AuditAction
    from recllm.shop.workspace.keys import create_key, list_keys, revoke_key

    if (create is None) != (not scope) or (create is not None and revoke is not None):
        raise UsageError("--create NAME needs --scope SCOPE; --revoke KEY stands alone")
    with open_shop(workspace) as shop:
        if create is not None:
            key, text = create_key(shop, create, scope or [])
            write_audit(shop, AuditAction.KEY_MADE, key=key.key_id, scopes=sorted(key.scopes))
            document = {"key_id": key.key_id, "name": key.name, "scopes": sorted(key.scopes), "key": text}
            show(document, [text], json=json)
            if not json:
                note("send it as X-API-Key; it cannot be shown again")
            return
        if revoke is not None:
            revoke_key(shop, revoke)
            write_audit(shop, AuditAction.KEY_REVOKED, key=revoke)
            show({"key_id": revoke, "revoked": True}, [f"{revoke} is refused from now on"], json=json)
            return
        entries = list_keys(shop)
    rows = [
        (key.key_id, key.name, " ".join(sorted(key.scopes)), key.created_at.date().isoformat(), key.revoked_at or "")
        for key in entries
    ]
    show({"keys": entries}, table(rows, ["key", "name", "scopes", "made", "revoked"]), json=json)
