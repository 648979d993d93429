"""Commands of the service: run it, and who may call it."""

from __future__ import annotations

import ipaddress
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir, open_shop, write_audit
from recllm.cli.output import LogFormatter, note, show, table
from recllm.errors import MissingExtraError, PolicyError, UsageError


def serve(
    *,
    workspace: Annotated[
        list[Path] | None, typer.Option("-w", "--workspace", help="A workspace folder; may be repeated.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; any but the loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8080,
) -> None:
    """Answer over HTTP: recommendations, explanations, events and items in. Ends with Ctrl-C."""
    try:
        import uvicorn

        from recllm.console.app import mount_console
        from recllm.service.app import create_app
        from recllm.service.headers import bounded_reader
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("recllm"):
            raise
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from threadpoolctl import threadpool_limits

    from recllm.service.live import LiveShop
    from recllm.service.slates import SlateProcesses, default_processes
    from recllm.workspace.keys import list_keys

    folders = workspace or [DEFAULT_WORKSPACE]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(f"two workspaces are called {max(names, key=names.count)!r}; the folder's name names the shop")
    shops = [open_shop(folder) for folder in folders]
    without_key = [name for name, shop in zip(names, shops, strict=True) if not list_keys(shop)]
    is_loopback = host == "localhost" or _is_loopback(host)
    if without_key and not is_loopback:
        folder = folders[names.index(without_key[0])]
        raise PolicyError(
            f"{host} can be reached by others, and {', '.join(without_key)} has no key; "
            f"make one with: recllm keys create --name web-shop --scope recommend -w {folder}"
        )
    if len(without_key) == len(names):
        note("no shop has a key: only this machine is answered, and whoever works on it may ask anything")
    settings = shops[0].settings.service
    n_processes = default_processes() if settings.processes is None else settings.processes
    slates = SlateProcesses(dict(zip(names, folders, strict=True)), n_processes) if n_processes else None
    live = [
        LiveShop(shop, name, None if slates is None else slates.update) for shop, name in zip(shops, names, strict=True)
    ]
    app = create_app(live, settings, slates=slates, loopback_only=is_loopback)
    mount_console(app)
    if port:
        note(f"http://{host}:{port}/ is the console; http://{host}:{port}/openapi.json describes what can be asked")
    if not logging.getLogger("recllm").handlers:  # -v has one that shows more
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LogFormatter("%(asctime)s %(name)s %(message)s"))
        logging.getLogger("recllm").addHandler(handler)
    # no log of requests: their paths hold ids; and nobody keeps the service from its end by half a request
    with threadpool_limits(1, user_api="blas"):  # an answer takes one core, and leaves the others to other answers
        uvicorn.run(
            app,
            host=host,
            port=port,
            access_log=False,
            log_level="info" if not port else "warning",  # which port was free is told by uvicorn
            server_header=False,
            timeout_graceful_shutdown=10,
            http=bounded_reader(),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def create(
    *,
    name: Annotated[str, typer.Option(help="Who uses the key.")],
    scope: Annotated[
        list[str],
        typer.Option(help="recommend, events, marketing, privacy, metrics, console or admin; may be repeated."),
    ],
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Make a key; it is printed once."""
    from recllm.workspace.audit import AuditAction
    from recllm.workspace.keys import create_key

    with open_shop(workspace) as shop:
        key, text = create_key(shop, name, scope)
        write_audit(shop, AuditAction.KEY_MADE, key=key.key_id, scopes=sorted(key.scopes))
    document = {"key_id": key.key_id, "name": key.name, "scopes": sorted(key.scopes), "key": text}
    show(document, [text], json=json)
    if not json:
        note("send it as X-API-Key; it cannot be shown again")


def list_all(workspace: WorkspaceDir, json: Json) -> None:
    """Keys with their scopes."""
    from recllm.workspace.keys import list_keys

    with open_shop(workspace) as shop:
        keys = list_keys(shop)
    rows = [
        (key.key_id, key.name, " ".join(sorted(key.scopes)), key.created_at.date().isoformat(), key.revoked_at or "")
        for key in keys
    ]
    show({"keys": keys}, table(rows, ["key", "name", "scopes", "made", "revoked"]), json=json)


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, the first part after rk_.")],
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Refuse a key from now on."""
    from recllm.workspace.audit import AuditAction
    from recllm.workspace.keys import revoke_key

    with open_shop(workspace) as shop:
        revoke_key(shop, key)
        write_audit(shop, AuditAction.KEY_REVOKED, key=key)
    show({"key_id": key, "revoked": True}, [f"{key} is refused from now on"], json=json)
