"""Commands of webhooks: who may report on messages, who is told of exports, and what waits to be sent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.base.documents import plain
from recllm.base.errors import NothingToDo, UsageError
from recllm.doors.cli.options import Json, WorkspaceDir, open_shop
from recllm.doors.cli.output import note, show, table

if TYPE_CHECKING:
    from recllm.shop.workspace.webhooks import WebhookSource, WebhookTarget


def add(
    *,
    provider: Annotated[str | None, typer.Option(help="How it signs: standard (Standard Webhooks) or sendgrid.")],
    url: Annotated[
        str | None, typer.Option(help="Announce exports to this system of yours: https, or http on this machine.")
    ],
    name: Annotated[str, typer.Option(help="Its name here, and at the end of a provider's address.")] = "target",
    secret_file: Annotated[
        Path | None,
        typer.Option(help="A file with its secret (whsec_...), or SendGrid's public key; - reads standard input."),
    ],
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Let a mail or message service report on messages (--provider), or announce exports to a system of yours (--url).
    The same name again adds a second secret: both are then in force."""
    from recllm.shop.workspace.webhooks import WebhookScheme, add_source

    if (provider is None) == (url is None):
        raise UsageError("give --provider for a service that reports, or --url for a system that gets announcements")
    if url is not None:
        target(name, url, workspace, json)
        return
    try:
        scheme = WebhookScheme(provider or "")
    except ValueError:
        raise UsageError(f"--provider is one of {', '.join(WebhookScheme)}, not {provider!r}") from None
    text = None if secret_file is None else _read_secret(secret_file)
    with open_shop(workspace) as shop:
        source, secret = add_source(shop, name, scheme, text)
    path = f"/webhooks/{workspace.resolve().name}/{name}"
    document = {"name": name, "provider": scheme, "path": path, "secret_id": secret.fingerprint}
    document |= {"secret": secret.text} if text is None else {}
    show(document, [secret.text if text is None else path], json=json)
    if not json:
        note(f"let it post to {path}")
        _note_rotation(name, [earlier.fingerprint for earlier in source.secrets[:-1]])


def target(name: str, url: str, workspace: Path, json: bool) -> None:
    """Adds a system that exports are announced to, and shows its secret."""
    from recllm.shop.workspace.webhooks import add_target

    with open_shop(workspace) as shop:
        entry, secret = add_target(shop, name, url)
    show({"name": name, "url": url, "secret_id": secret.fingerprint, "secret": secret.text}, [secret.text], json=json)
    if not json:
        note("its secret, by which it can check the signature of Standard Webhooks")
        _note_rotation(name, [earlier.fingerprint for earlier in entry.secrets[:-1]])


def list_all(
    workspace: WorkspaceDir,
    send: Annotated[
        bool,
        typer.Option("--send", help="Instead: send what is due, once; recllm serve does so by itself."),
    ] = False,
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead: end this provider or target, at once.")
    ] = None,
    secret: Annotated[str | None, typer.Option(help="With --remove: end only this secret, by its id.")] = None,
    json: Json = False,
) -> None:
    """Providers, targets and announcements with their state; no secrets."""
    from recllm.shop.workspace.webhooks import read_webhooks, remove_webhook

    if secret is not None and remove is None:
        raise UsageError("--secret says what --remove NAME ends; add it")
    if remove is not None:
        with open_shop(workspace) as shop:
            remove_webhook(shop, remove, secret)
        document = {"name": remove, "secret_id": secret, "removed": True}
        show(document, [f"{remove} {secret or ''} is removed"], json=json)
        return
    if send:
        send_now(workspace, json)
        return
    with open_shop(workspace) as shop:
        hooks = read_webhooks(shop)
        announcements = shop.store().announcements()
    sources: list[dict[str, Any]] = [
        {"name": entry.name, "provider": entry.scheme, "secrets": _secrets(entry)} for entry in hooks.sources.values()
    ]
    targets = [{"name": entry.name, "url": entry.url, "secrets": _secrets(entry)} for entry in hooks.targets.values()]
    sent = [{name: value for name, value in plain(entry).items() if name != "body"} for entry in announcements]
    rows = [(entry["name"], entry.get("provider") or entry.get("url"), _listed(entry)) for entry in sources + targets]
    lines = table(rows, ["name", "provider or address", "secrets"])
    if sent:
        columns = ["created_at", "target", "type", "status", "attempts", "next_at", "outcome"]
        lines += ["", *table([[entry[column] for column in columns] for entry in sent], columns)]
    show({"providers": sources, "targets": targets, "announcements": sent}, lines, json=json)


def send_now(workspace: Path, json: bool) -> None:
    """Sends the announcements that are due."""
    from recllm.market.jobs.announce import send_due

    with open_shop(workspace) as shop:
        account = send_due(shop)
    if not (account.delivered or account.postponed or account.failed):
        raise NothingToDo("nothing is due; see recllm webhooks list")
    line = f"{account.delivered} delivered, {account.postponed} to be tried again, {account.failed} given up"
    show(account, [line], json=json)


def _read_secret(file: Path) -> str:
    """From a file or standard input, so that it stands in no list of processes and no shell's history."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a secret: {type(error).__name__}") from None
    return "".join(line.strip() for line in text.splitlines() if not line.startswith("-----"))


def _secrets(entry: WebhookSource | WebhookTarget) -> list[dict[str, str]]:
    return [{"secret_id": secret.fingerprint, "created_at": plain(secret.created_at)} for secret in entry.secrets]


def _listed(entry: dict[str, Any]) -> str:
    return " ".join(secret["secret_id"] for secret in entry["secrets"])


def _note_rotation(name: str, earlier: list[str]) -> None:
    for fingerprint in earlier:
        remedy = f"recllm webhooks list --remove {name} --secret {fingerprint}"
        note(f"an earlier secret is in force too; end it with: {remedy}")
