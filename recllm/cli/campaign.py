"""Commands about campaigns: from a file to people and texts, to a decision about each text, to what it brought."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids
from recllm.errors import UsageError

if TYPE_CHECKING:
    from recllm.campaigns.open_campaign import Desk
    from recllm.campaigns.plan_types import Plan
    from recllm.workspace.workspace import Workspace

Files = Annotated[list[Path], typer.Argument(help="Campaigns as TOML; several compete for the same people.")]
OneFile = Annotated[Path, typer.Argument(help="The campaign as TOML.")]
Page = Annotated[Path | None, typer.Option("-o", "--output", help="The page; ID-preview.html or ID-report.html.")]
Picture = Annotated[Path | None, typer.Option(help="Also draw its charts to this PNG (extra plots).")]
TextIds = Annotated[list[str] | None, typer.Option("--text", "-t", help="A text's id; may be repeated.")]


def register(app: typer.Typer) -> None:
    campaigns = typer.Typer(no_args_is_help=True, help="Campaigns from plan to report.")
    for command in (plan, preview, approve, export, report):
        campaigns.command()(command)
    app.add_typer(campaigns, name="campaign")


def plan(
    files: Files,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    contacts: Annotated[int, typer.Option(min=1, help="Of several campaigns, most that one person gets.")] = 1,
    replace: Annotated[bool, typer.Option(help="Plan again; refused once anything was exported.")] = False,
    json: Json = False,
) -> None:
    """Choose the people, one item each, and write the texts; everything is kept in the workspace."""
    from recllm.campaigns.file import read_campaign
    from recllm.campaigns.plan import plan_campaigns
    from recllm.workspace.workspace import Workspace

    read = [read_campaign(file) for file in files]
    with Workspace.open(workspace) as opened:
        plans = plan_campaigns(opened, read, contacts=contacts, replace=replace, progress=_progress)
    if json:
        documents = [_plan_document(one) for one in plans]
        emit_json(documents if len(documents) != 1 else documents[0])
    else:
        for one in plans:
            _tell_plan(one)


def preview(
    file: OneFile,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    output: Page = None,
    png: Picture = None,
    json: Json = False,
) -> None:
    """A page with the audience, its reasons, who is left out, and every text with its checks."""
    from recllm.campaigns.overview import preview_document
    from recllm.report.campaign import preview_png, write_preview
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as opened:
        desk = _desk(opened, file)
        document = preview_document(desk)
    target = output or Path(f"{desk.plan.campaign_id}-preview.html")
    write_preview(document, target)
    if png and (remark := preview_png(document, png)):
        note(remark)
    if json:
        emit_json(document)
    else:
        say(f"{target}")


def approve(
    file: OneFile,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    by: Annotated[str, typer.Option(help="Who decides.")] = "",
    text: TextIds = None,
    all_clear: Annotated[bool, typer.Option("--all", help="Approve every text that no check doubts.")] = False,
    reject: Annotated[bool, typer.Option(help="Reject the texts instead.")] = False,
    edit: Annotated[str | None, typer.Option(help="A wording of your own for one text; it is checked at once.")] = None,
    why: Annotated[str, typer.Option(help="Said of a rejection.")] = "",
    json: Json = False,
) -> None:
    """Decide about texts; without a decision, list them with their state."""
    from recllm.campaigns.overview import text_documents
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as opened:
        desk = _desk(opened, file)
        if all_clear or text:
            _decide(desk, text or [], by=by, all_clear=all_clear, reject=reject, edit=edit, why=why)
        elif edit is not None or reject:
            raise UsageError("say which text: --text ID")
        texts = text_documents(desk)
    if json:
        emit_json({"campaign_id": desk.plan.campaign_id, "counts": _counts(texts), "texts": texts})
    else:
        for one in texts:
            say(
                "",
                f"{one['id']}  {one['status']}  {one['channel']} {one['locale']}  {one['people']:,} people",
                one["text"],
            )
            say(*(f"  {d['rule']}: {d['message']}" for d in (*one["failures"], *one["warnings"])))
        note(", ".join(f"{n} {status}" for status, n in _counts(texts).items()))


def export(
    file: OneFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for ID-CHANNEL.csv.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    ids: Annotated[Path | None, typer.Option(help="A file of your ids; they stand for their pseudonyms.")] = None,
    json: Json = False,
) -> None:
    """Write what leaves: approved texts, for people who agree at this moment."""
    from recllm.campaigns.export import export_campaign
    from recllm.workspace.workspace import Workspace

    own = read_ids(ids) if ids else []
    with Workspace.open(workspace) as opened:
        names = dict(zip(opened.pseudonymiser().many(own), own, strict=True))
        done = export_campaign(_desk(opened, file), output, ids=names)
    if json:
        emit_json({name: value for name, value in _fields(done).items() if name != "people"})
        return
    say(f"{done.reached:,} people, {done.held:,} held out; from {done.window.start}" + f" until {done.window.end}")
    say(*(f"  left out: {reason} {n:,}" for reason, n in done.dropped.items()), *done.files)


def report(
    file: OneFile,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    output: Page = None,
    png: Picture = None,
    json: Json = False,
) -> None:
    """What it brought: reached, converted, revenue, unsubscribed, and the difference to those held out."""
    from recllm.campaigns.outcome import campaign_outcome
    from recllm.report.campaign import report_png, write_report
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as opened:
        found = campaign_outcome(_desk(opened, file, recheck=False))
        settings = opened.settings
    target = output or Path(f"{found.campaign_id}-report.html")
    write_report(found, target, currency=settings.currency or "", locale=settings.locale)
    if png and (remark := report_png(found, png, locale=settings.locale)):
        note(remark)
    if json:
        emit_json(found)
        return
    for name, arm in (("reached", found.reached), ("held out", found.held), ("the rest", found.rest)):
        if arm is not None:
            say(f"{name}: {arm.people:,} people, {arm.converted:,} converted ({100 * arm.rate.value:.1f} %)")
    say(*found.words, str(target))


# --- inside ----------------------------------------------------------------------------------------------------------


def _progress(line: str) -> None:
    import sys

    if sys.stderr.isatty():
        note(line)


def _desk(opened: Workspace, file: Path, *, recheck: bool = True) -> Desk:
    from recllm.campaigns.file import read_campaign
    from recllm.campaigns.open_campaign import open_desk

    return open_desk(opened, read_campaign(file), recheck=recheck)


def _decide(
    desk: Desk, texts: list[str], *, by: str, all_clear: bool, reject: bool, edit: str | None, why: str
) -> None:
    from recllm.campaigns import decisions
    from recllm.campaigns.open_campaign import enter_edit

    now, clock = desk.states, datetime.now(UTC)
    if edit is not None:
        if len(texts) != 1 or all_clear or reject:
            raise UsageError("--edit is a wording for one text: give one --text")
        enter_edit(desk, texts[0], edit, by=by, at=clock)
        return
    if all_clear:
        waiting = (decisions.Status.DRAFT, decisions.Status.EDITED)
        texts = texts + [name for name, s in now.items() if s.status in waiting and not (s.failures or s.warnings)]
    if reject:
        decisions.reject(desk.folder, desk.plan, texts, by=by, at=clock, why=why)
    else:
        decisions.approve(desk.folder, desk.plan, texts, by=by, at=clock)


def _counts(texts: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in texts:
        found[one["status"]] = found.get(one["status"], 0) + 1
    return found


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _plan_document(one: Plan) -> dict[str, Any]:
    whole = _fields(one)
    people = [{k: v for k, v in _fields(p).items() if k != "held"} for p in one.addressed]
    return {**whole, "size": len(people), "people": people, "holdout_share": one.holdout, "holdout": len(one.held)}


def _tell_plan(one: Plan) -> None:
    people = len(one.addressed)
    expected = f"{one.expected_conversions:.1f} expected to buy within {one.horizon_days} days"
    say(f"{one.campaign_id}: {people:,} people, {len(one.held):,} held out; {expected}")
    left = ", ".join(f"{reason} {n:,}" for reason, n in one.excluded.items()) or "nobody"
    failing = sum(bool(t.failures) for t in one.texts)
    say(f"  left out: {left}", f"  {len(one.texts)} texts, {failing} of them fail a check; see recllm campaign preview")
    say(*(f"  note: {line}" for line in one.notes))
    rows = [(d["name"], d["share"], d["share_of_rest"], d["lift"]) for d in one.group]
    if rows:
        say("", *table(rows, ["what sets them apart", "share", "of the rest", "lift"]))
