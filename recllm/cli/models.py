"""Commands over the published models of a workspace: which there are, which serves, and what it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.errors import NothingToDo

models = typer.Typer(help="Published models: list them, and choose which one serves.", no_args_is_help=True)
Version = Annotated[str, typer.Argument(help="A version, as `recllm models list` names it.")]


def register(app: typer.Typer) -> None:
    models.command("list")(list_models)
    models.command()(promote)
    models.command()(rollback)
    app.add_typer(models, name="models")
    app.command()(refresh)


def list_models(workspace: WorkspaceDir = DEFAULT_WORKSPACE, json: Json = False) -> None:
    """Every published version, oldest first, and which one serves."""
    from recllm.errors import ModelError
    from recllm.recommender.registry import current, versions
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        folder = shop.models_dir
    manifests = versions(folder)
    try:
        serving = current(folder)
    except ModelError:  # a damaged pointer: promote mends it
        serving = None
    rows: list[dict[str, Any]] = [
        {
            "version": manifest.version,
            "created_at": manifest.created_at,
            "megabytes": round(sum(size for _, size in manifest.files.values()) / 1e6, 1),
            "serves": manifest.version == serving,
        }
        for manifest in manifests
    ]
    if json:
        emit_json({"serving": serving, "versions": rows})
    elif rows:
        cells = [(r["version"], r["created_at"][:19], r["megabytes"], "serves" if r["serves"] else "") for r in rows]
        say(*table(cells, ("version", "published", "MB", "")))
    if not rows:
        raise NothingToDo(f"no model was published in {folder}; train one with: recllm train -w {workspace}")


def promote(version: Version, workspace: WorkspaceDir = DEFAULT_WORKSPACE, json: Json = False) -> None:
    """Let this version serve, after checking every byte of it."""
    _serve(workspace, version, json)


def rollback(workspace: WorkspaceDir = DEFAULT_WORKSPACE, json: Json = False) -> None:
    """Let the version before the serving one serve again."""
    _serve(workspace, None, json)


def _serve(workspace: Path, version: str | None, json: bool) -> None:
    from recllm.recommender.registry import rollback as serve_version
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        serving = serve_version(shop.models_dir, version)
    if json:
        emit_json({"serving": serving})
    else:
        say(f"model {serving} serves")


def refresh(workspace: WorkspaceDir = DEFAULT_WORKSPACE, json: Json = False) -> None:
    """Count everything that the current model answers from anew, up to the present, without training."""
    from recllm.jobs.recommenders import refresh as refresh_model
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        version = refresh_model(shop, progress=note)
    if json:
        emit_json({"serving": version})
    else:
        say(f"model {version} serves")
