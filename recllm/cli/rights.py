"""Commands about what is stored of single people."""

from __future__ import annotations

from typing import Annotated

import typer

from recllm.cli.options import Json, User, WorkspaceDir, open_shop
from recllm.cli.output import show
from recllm.errors import UsageError


def export(user: User, workspace: WorkspaceDir) -> None:
    """Everything that the store has of one person, as JSON."""
    from recllm.jobs.rights import export_person

    with open_shop(workspace) as shop:
        document = export_person(shop, user)
    show(document, [], json=True)


def erase(
    *,
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it: nothing brings the person back.")] = False,
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Delete every row of one person: events, basics, consent, joined sessions."""
    from recllm.jobs.rights import erase_person

    if not yes:
        raise UsageError("nothing brings an erased person back; say --yes")
    with open_shop(workspace) as shop:
        done = erase_person(shop, user)
    lines = [f"{table}: {n:,} rows" for table, n in done.rows.items()]
    show(done, [*lines, "not erased: models trained before, quarantined rows, plans of campaigns, backups"], json=json)
