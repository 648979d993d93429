"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceDir = Annotated[Path, typer.Option("-w", "--workspace", help="The workspace folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
DEFAULT_WORKSPACE = Path("shop")
