"""Campaigns whose file lies in the workspace: created and changed there, listed, with their history.

campaign-files/ID.toml              the campaign's file, from the fields that a screen or a request gave
campaign-files/ID.history.jsonl     who made, changed, planned and exported it, and when

Fields that name files or models of this machine are refused: the sender of fields is not the operator of the machine.

A damaged file stops no erasure: the pseudonyms in it are changed byte by byte. It still counts as not read, because the
damage may hide another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import tomli_w

from recllm.base.documents import plain
from recllm.base.errors import ConflictError, DataError, UnknownIdError, UsageError
from recllm.base.files import PRIVATE, check_plain, safe_id, write_whole
from recllm.base.schema import SESSION_PREFIX
from recllm.market.adcopy.packs import pack_names
from recllm.market.campaigns.file import SERVER, CampaignFile, parse_campaign
from recllm.market.campaigns.folder import (
    CampaignFolder,
    Decision,
    ExportEntry,
    append,
    json_lines,
    read_entries,
    read_log,
    read_plan,
)
from recllm.market.campaigns.open_campaign import OpenCampaign, open_campaign
from recllm.shop.workspace import personal_records as records
from recllm.shop.workspace.privacy import PERSON_PREFIX
from recllm.shop.workspace.store_records import unnamed
from recllm.shop.workspace.workspace import Workspace

FILES = "campaign-files"
GENERATORS = ("template", "smollm2", SERVER)
"""What may write the texts of a campaign that comes as fields."""
_LEFTOVER = re.compile(r"\.(.+)\.(?:part|old)")
"""Of a stopped publication; `CampaignFolder.locked` puts it right."""
_PSEUDONYM = re.compile(rf"(?:{PERSON_PREFIX}|{SESSION_PREFIX})(?:[A-Z2-7]{{26}}|\w+)".encode())
"""Also in the middle of damage."""


class CampaignStage(StrEnum):
    """How far a campaign has come."""

    DRAFT = "draft"
    """Nothing is planned, or the file was changed since."""
    PLANNED = "planned"
    EXPORTED = "exported"


class CampaignAct(StrEnum):
    """Entries of a campaign's history, besides the decisions about its texts."""

    CREATED = "created"
    CHANGED = "changed"
    PLANNED = "planned"
    EXPORTED = "exported"


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSummary:
    """One line of the list of campaigns."""

    campaign_id: str
    goal: str
    stage: CampaignStage
    revision: str | None
    """What a change names; None where the file lies elsewhere."""
    addressed: int
    """People; 0 before the plan."""
    held_out: int
    texts: int


def campaign_of_fields(fields: Mapping[str, Any]) -> tuple[CampaignFile, bytes]:
    """The campaign that fields describe, named as the keys of a campaign's file, and its file in bytes.
    Raises `UsageError` or `DataError` for what is wrong in them, and for a field that names a file or a model here."""
    try:
        table = without_nulls(fields)
        content = tomli_w.dumps(table).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError("the fields cannot be written as a campaign's file: a text is broken, or too deep") from error
    limits, words = (table.get(name) for name in ("limits", "words"))
    for section, name in ((limits, "suppress"), (words, "adapter")):
        if isinstance(section, dict) and name in section:
            raise UsageError(f"{name} names a file of the machine that runs this; write it in a campaign's file there")
    if isinstance(words, dict):
        packs = words.get("packs", [])
        if isinstance(packs, list) and not set(map(str, packs)) <= set(pack_names()):
            raise UsageError(f"packs are {', '.join(pack_names())}")
        if words.get("generator", GENERATORS[0]) not in GENERATORS:
            raise UsageError(f"generator is {', '.join(GENERATORS)}")
    return parse_campaign(content, Path("campaign.toml")), content


def without_nulls(value: Any) -> Any:
    """Of a document, at any depth."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(member) for member in value] if isinstance(value, list) else value


def create_campaign(workspace: Workspace, fields: Mapping[str, Any], *, by: str) -> str:
    """Keeps a draft; returns its id. Raises as `campaign_of_fields`, and `ConflictError` for a taken id."""
    file, content = campaign_of_fields(fields)
    folder, path = CampaignFolder.of(workspace.root, file.id), file_path(workspace, file.id)
    with folder.locked():
        if folder.plan.exists() or path.exists():
            raise ConflictError(f"there is a campaign {file.id!r}; take another id, or change that one")
        folder.check_free(replace=False)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(path, content, mode=PRIVATE)
        append(history_path(workspace, file.id), [act_line(CampaignAct.CREATED, by)])
    return file.id


def change_campaign(
    workspace: Workspace, campaign_id: str, fields: Mapping[str, Any], *, revision: str, by: str
) -> None:
    """Puts other fields in the place of a campaign's; a plan that was made counts no more. Raises as
    `campaign_of_fields`, `UnknownIdError`, `ConflictError` for another revision, `PolicyError` once it was exported."""
    file, content = campaign_of_fields({**fields, "id": campaign_id})
    before, folder = campaign_file(workspace, campaign_id), CampaignFolder.of(workspace.root, file.id)
    with folder.locked():
        folder.check_revision(before.digest, revision)
        folder.check_free(replace=True)
        write_whole(file_path(workspace, campaign_id), content, mode=PRIVATE)
        append(history_path(workspace, campaign_id), [act_line(CampaignAct.CHANGED, by)])


def file_path(workspace: Workspace, campaign_id: str) -> Path:
    """Where a campaign's file lies, whether or not there is one."""
    return workspace.root / FILES / f"{safe_id(campaign_id, 'a campaign')}.toml"


def campaign_file(workspace: Workspace, campaign_id: str) -> CampaignFile:
    """Raises `UnknownIdError` for a campaign that the workspace has no file of."""
    path = file_path(workspace, campaign_id)
    if not path.is_file():
        elsewhere = CampaignFolder.of(workspace.root, campaign_id).plan.exists()
        where = "its file lies elsewhere: go on with recllm campaign" if elsewhere else "see the list of campaigns"
        raise UnknownIdError(f"no file of a campaign {campaign_id!r} in this workspace; {where}")
    # its bare name: its errors reach callers, who see no folders of this machine
    return parse_campaign(path.read_bytes(), Path(path.name))


def revision_of(workspace: Workspace, campaign_id: str) -> str:
    """What a change of the campaign has to name. Raises `UnknownIdError` as `campaign_file` does."""
    folder = CampaignFolder.of(workspace.root, campaign_id)
    file = campaign_file(workspace, campaign_id)
    with folder.locked():
        return folder.revision(file.digest)


def list_campaigns(workspace: Workspace) -> list[CampaignSummary]:
    """All campaigns of the workspace, by id, those planned by the command line too."""
    files = {path.stem for path in (workspace.root / FILES).glob("*.toml")}
    folders = {p.name for p in (workspace.root / "campaigns").glob("*") if p.is_dir() and not p.name.startswith(".")}
    return [summary_of(workspace, name, is_here=name in files) for name in sorted(files | folders)]


def summary_of(workspace: Workspace, campaign_id: str, *, is_here: bool = True) -> CampaignSummary:
    """is_here: whether its file lies in the workspace. Raises `UnknownIdError` as `campaign_file` does."""
    folder = CampaignFolder.of(workspace.root, campaign_id)
    file = campaign_file(workspace, campaign_id) if is_here else None
    plan = read_plan(folder) if folder.plan.exists() else None
    stage = CampaignStage.EXPORTED if folder.exports.exists() else CampaignStage.PLANNED
    if stage is CampaignStage.PLANNED and (plan is None or (file is not None and plan.digest != file.digest)):
        stage = CampaignStage.DRAFT
    return CampaignSummary(
        campaign_id=campaign_id,
        goal=file.goal if file else plan.goal if plan else "",
        stage=stage,
        revision=revision_of(workspace, campaign_id) if file else None,
        addressed=len(plan.addressed) if plan else 0,
        held_out=len(plan.held_out) if plan else 0,
        texts=len(plan.read_texts) if plan else 0,
    )


def open_by_id(workspace: Workspace, campaign_id: str, *, recheck: bool = True) -> OpenCampaign:
    """`open_campaign` for one whose file lies in the workspace; raises `UnknownIdError` too."""
    return open_campaign(workspace, campaign_file(workspace, campaign_id), recheck=recheck)


def note(workspace: Workspace, campaign_id: str, act: CampaignAct, *, by: str, **counts: int) -> None:
    """Adds a line to a campaign's history."""
    with CampaignFolder.of(workspace.root, campaign_id).locked():
        append(history_path(workspace, campaign_id), [act_line(act, by, **counts)])


def act_line(act: CampaignAct, by: str, **counts: int) -> dict[str, Any]:
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": by, "action": act.value, **counts}


def history(workspace: Workspace, campaign_id: str) -> list[dict[str, Any]]:
    """Who did what to a campaign and its texts, oldest first; texts of an earlier plan are not in it."""
    folder = CampaignFolder.of(workspace.root, campaign_id)
    with folder.locked():
        acts = read_log(history_path(workspace, campaign_id))
        decisions = [plain(decision) for decision in read_entries(folder.decisions, Decision)]
    of_texts = [{name: d[name] for name in ("at", "by", "action", "text_id", "why")} for d in decisions]
    # within one second texts are decided about before they leave
    return sorted([*acts, *of_texts], key=lambda line: (line["at"], line["action"] == CampaignAct.EXPORTED))


def history_path(workspace: Workspace, campaign_id: str) -> Path:
    return file_path(workspace, campaign_id).with_suffix(".history.jsonl")


def all_campaigns(workspace: Workspace) -> list[CampaignFolder]:
    """Every campaign, planned or not, whatever its id."""
    folder = workspace.root / "campaigns"
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    ids = {match[1] if (match := _LEFTOVER.fullmatch(name)) else name for name in names}
    return [CampaignFolder(folder / campaign_id) for campaign_id in sorted(ids)]


def take_out(campaigns: Iterable[CampaignFolder], is_leaving: Callable[[str], bool]) -> records.Removed:
    removed = records.Removed(files={"campaign_people": 0, "campaign_exports": 0})
    for campaign in campaigns:
        with campaign.locked():
            for file in sorted(campaign.path.glob("*")):
                removed = removed.plus(take_out_of_file(file, is_leaving))
    return removed


def take_out_of_file(file: Path, is_leaving: Callable[[str], bool]) -> records.Removed:
    kind, name, n_removed, is_whole = f"campaign_{file.stem}", f"campaigns/{file.parent.name}/{file.name}", 0, True
    try:
        check_plain(file)
        content = remaining = file.read_bytes()
    except OSError:
        return records.Removed(unread=(name,))
    try:
        if file.name in ("people.jsonl", "outbox.jsonl"):
            lines = content.splitlines(keepends=True)
            remaining = b"".join(line for line in lines if not is_leaving(json.loads(line)["user_id"]))
            n_removed = len(lines) - len(remaining.splitlines())
        elif file.name == "exports.jsonl":
            entries, n_leaving = read_log(file), 0
            for entry in entries:
                for users in ("reached", "held"):
                    staying = [user for user in entry[users] if not is_leaving(user)]
                    n_leaving += len(entry[users]) - len(staying)
                    entry[users] = staying
                entry["texts"] = {user: text for user, text in entry["texts"].items() if not is_leaving(user)}
            n_removed = n_leaving
            remaining = json_lines(entries).encode() if n_removed else content
    except (DataError, ValueError, KeyError, TypeError):
        is_whole = False
    remaining = with_names(remaining, lambda pseudonym: "erased" if is_leaving(pseudonym) else None)
    if remaining != content:
        write_whole(file, remaining)
    is_exported = file.name == "exports.jsonl" and remaining != content
    return records.Removed(
        files={kind: n_removed} if n_removed else {},
        exported_in=(file.parent.name,) if is_exported else (),
        unread=() if is_whole else (name,),
    )


def with_names(content: bytes, name_of: Callable[[str], str | None]) -> bytes:
    """The content with other pseudonyms, whatever its form."""
    return _PSEUDONYM.sub(lambda match: (name_of(match[0].decode()) or match[0].decode()).encode(), content)


def outdated_people(workspace: Workspace, clock: datetime, dry_run: bool) -> records.Removed:
    """Takes everybody out of campaigns that were planned and exported long ago."""
    days, old = workspace.settings.retention.campaigns, []
    for campaign in all_campaigns(workspace) if days is not None else ():
        dated = [path for path in (campaign.plan, campaign.exports) if path.exists()] or [campaign.people]
        is_old = campaign.people.is_file() and min(records.age(p, clock) for p in dated) > timedelta(days=days or 0)
        old += [campaign] if is_old else []
    if dry_run:
        return records.Removed(files={"campaign_people": sum(c.people.read_bytes().count(b"\n") for c in old)})
    removed = take_out(old, lambda name: True)
    return records.Removed(files={"campaign_people": sum(removed.files.values())}, unread=removed.unread)


def rename_people(workspace: Workspace, renamed: records.Renamed) -> None:
    for campaign in all_campaigns(workspace):
        with campaign.locked():
            for file in (path for path in sorted(campaign.path.glob("*")) if path.is_file()):
                content = file.read_bytes()
                names = renamed({name.decode() for name in _PSEUDONYM.findall(content)})
                if names:
                    write_whole(file, with_names(content, names.get))


def export_campaigns(workspace: Workspace, person: records.ExportedPerson) -> dict[str, Any]:
    """Each campaign that planned for the person: what for, with which text, and when it left."""
    lines: list[dict[str, Any]] = []
    for folder in all_campaigns(workspace):
        if not folder.plan.exists():
            continue
        try:
            plan = read_plan(folder)
            with folder.locked():
                exports = read_entries(folder.exports, ExportEntry)
        except DataError as error:
            lines.append({"campaign_id": folder.path.name, "problem": str(error)})
            continue
        texts = {text.id: text.text for text in plan.texts}
        for planned in plan.people:
            if planned.user_id == person.name:
                exported_at = [entry.at for entry in exports if person.name in entry.reached]
                text = {"text": texts.get(planned.text_id), "exported_at": exported_at}
                campaign = {"campaign_id": plan.campaign_id, "planned_as_of": plan.as_of}
                lines.append(campaign | unnamed(plain(planned)) | text)
    return {"campaigns": lines}


CAMPAIGNS = records.PersonalRecords(
    name="campaigns",
    files=("campaigns",),
    in_backup=True,
    leftovers=("campaigns/.*.lock", "campaigns/.*.send", "campaigns/.*.part", "campaigns/.*.old"),
    locked=lambda file: CampaignFolder(file.parent).locked(),
    forget=lambda workspace, people: take_out(all_campaigns(workspace), people.subjects.__contains__),
    rename=rename_people,
    export=export_campaigns,
    counts=lambda shop: [records.StoredCount("campaigns", len(all_campaigns(shop)), shop.settings.retention.campaigns)],
    outdated=outdated_people,
)
