"""The command that writes the files of recllm/deploy."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from recllm import __version__
from recllm.base.errors import UsageError
from recllm.base.files import drafts_folder, sync_folder
from recllm.doors.cli.options import note

VERSIONED = ("Dockerfile", "compose.yaml")
"""Files that name the version of recllm."""


def deploy(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A new or empty folder."),
    ],
) -> None:
    """Write the files by which a server runs a shop.

    They are a Dockerfile, a compose file with PostgreSQL,
    systemd units with timers, alert rules for Prometheus
    and a Grafana board.
    """
    folder = folder.resolve()
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty:
        raise UsageError(f"{folder} is not empty, and no file is overwritten; name a new folder")
    package = Path(str(files("recllm")))
    with drafts_folder(folder.parent) as drafts:
        draft = drafts / folder.name
        shutil.copytree(package / "deploy", draft)
        for name in VERSIONED:
            text = (draft / name).read_text("utf-8")
            text = text.replace("@VERSION@", __version__)
            (draft / name).write_text(text, "utf-8")
        draft.rename(folder)
    sync_folder(folder.parent)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            typer.echo(path)
    page = package / "guide" / "service.md"
    note(f"how to use them: {page}, On a server")
