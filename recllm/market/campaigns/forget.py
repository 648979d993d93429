"""People in the campaigns of a workspace: they leave plans and logs, get other pseudonyms, and are exported; texts,
decisions and figures stay.

A damaged file stops nothing: the pseudonyms in it are changed byte by byte. It still counts as not read, because the
damage may hide another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from recllm.base.documents import plain
from recllm.base.errors import DataError
from recllm.base.files import check_plain, write_whole
from recllm.base.schema import SESSION_PREFIX
from recllm.market.campaigns.folder import CampaignFolder, ExportEntry, json_lines, read_entries, read_log, read_plan
from recllm.shop.workspace import personal_records as records
from recllm.shop.workspace.privacy import PERSON_PREFIX
from recllm.shop.workspace.store_records import unnamed
from recllm.shop.workspace.workspace import Workspace

_LEFTOVER = re.compile(r"\.(.+)\.(?:part|old)")
"""Of a publication that was stopped; `CampaignFolder.locked` puts it right."""
_PSEUDONYM = re.compile(rf"(?:{PERSON_PREFIX}|{SESSION_PREFIX})(?:[A-Z2-7]{{26}}|\w+)".encode())
"""Also in the middle of damage."""

IsLeaving = Callable[[str], bool]
"""Whether the person of a pseudonym leaves."""


def all_campaigns(workspace: Workspace) -> list[CampaignFolder]:
    """Every campaign, planned or not, whatever its id."""
    folder = workspace.root / "campaigns"
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    ids = {match[1] if (match := _LEFTOVER.fullmatch(name)) else name for name in names}
    return [CampaignFolder(folder / campaign_id) for campaign_id in sorted(ids)]


def take_out(campaigns: Iterable[CampaignFolder], is_leaving: IsLeaving) -> records.Removed:
    removed = records.Removed(files={"campaign_people": 0, "campaign_exports": 0})
    for campaign in campaigns:
        with campaign.locked():
            for file in sorted(campaign.path.glob("*")):
                removed = removed.plus(take_out_of_file(file, is_leaving))
    return removed


def take_out_of_file(file: Path, is_leaving: IsLeaving) -> records.Removed:
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
