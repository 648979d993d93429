"""Where campaigns lie in a workspace, each in a folder of its own.

campaigns/ID/plan.json         the plan without its people
campaigns/ID/people.jsonl      one line per person: pseudonym, item, kind of reason, text; never what somebody bought
campaigns/ID/decisions.jsonl   who approved, edited, rejected or withdrew which text, and when; only ever longer
campaigns/ID/exports.jsonl     what left, and whom it reached
copies/                        what made each text, where recllm copy replay finds it

A plan appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from recllm.campaigns.plan_types import Doubt, Facts, Person, Plan, Text
from recllm.documents import plain
from recllm.errors import DataError, PolicyError, UsageError
from recllm.files import safe_id


@dataclass(frozen=True)
class CampaignFolder:
    """The folder of one campaign, there or not."""

    path: Path

    @classmethod
    def of(cls, root: Path, campaign_id: str) -> CampaignFolder:
        """root: the workspace's folder."""
        found = cls(root / "campaigns" / safe_id(campaign_id, "a campaign's id"))
        if found.old.exists() and not found.path.exists():  # stopped between the two renames of `publish`
            found.old.replace(found.path)
        return found

    @property
    def old(self) -> Path:
        """Where a plan lies that is being replaced."""
        return self.path.with_name(f".{self.path.name}.old")

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def people(self) -> Path:
        return self.path / "people.jsonl"

    @property
    def decisions(self) -> Path:
        return self.path / "decisions.jsonl"

    @property
    def exports(self) -> Path:
        return self.path / "exports.jsonl"

    @property
    def draft(self) -> CampaignFolder:
        """Where a plan is written before it takes its place."""
        return CampaignFolder(self.path.with_name(f".{self.path.name}.part"))

    def check_free(self, *, replace: bool) -> None:
        """Raises `UsageError` for an id that is taken, `PolicyError` when what is there has been exported."""
        if not self.plan.exists():
            return
        if self.exports.exists():
            raise PolicyError(
                f"the campaign {self.path.name!r} has been exported, and its report needs its plan; take another id"
            )
        if not replace:
            raise UsageError(f"there is a campaign {self.path.name!r}; take another id, or plan again with --replace")


COPIES = "copies"
"""Folder of a workspace with the records of its texts."""


def begin(folder: CampaignFolder) -> CampaignFolder:
    """An empty draft; one that an interrupted run left is thrown away."""
    shutil.rmtree(folder.draft.path, ignore_errors=True)
    folder.draft.path.mkdir(mode=0o700, parents=True)
    return folder.draft


def publish(folder: CampaignFolder, plan: Plan) -> None:
    """Writes the plan into the draft and puts the draft in its place."""
    draft, whole = folder.draft, plain(plan)
    people = whole.pop("people")
    draft.people.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in people), encoding="utf-8")
    draft.plan.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder.old, ignore_errors=True)
    if folder.path.exists():
        folder.path.replace(folder.old)
    draft.path.replace(folder.path)
    shutil.rmtree(folder.old, ignore_errors=True)


def read_plan(folder: CampaignFolder) -> Plan:
    """Raises `UsageError` where nothing was planned, `DataError` for a damaged file."""
    if not folder.plan.exists():
        raise UsageError(f"nothing is planned for {folder.path.name!r}; run: recllm campaign plan FILE")
    try:
        whole = json.loads(folder.plan.read_text(encoding="utf-8"))
        people = [Person(**json.loads(line)) for line in folder.people.read_text(encoding="utf-8").splitlines()]
        whole |= {name: tuple(whole[name]) for name in ("items", "converts", "group", "notes")}
        whole["texts"] = tuple(_text(t) for t in whole["texts"])
        return Plan(**whole, people=tuple(people))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{folder.path}: the plan is damaged: {error}; plan again with --replace") from error


def _text(values: Mapping[str, Any]) -> Text:
    return Text(**{**values, "facts": Facts(**values["facts"]), **doubts(values)})


def doubts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `failures` and `warnings` from their JSON."""
    return {name: tuple(Doubt(**d) for d in values.get(name, ())) for name in ("failures", "warnings")}


def append(file: Path, entries: list[dict[str, Any]]) -> None:
    """Adds lines to a log, each with the hash over the line before and itself, and waits for the disk.

    Source: the hash chain of Haber and Stornetta 1991. It shows a changed or removed line, but not a cut end.
    """
    with file.open("a", encoding="utf-8") as out:
        if fcntl is not None:
            fcntl.flock(out, fcntl.LOCK_EX)  # one writer at a time; the lock falls with the process that holds it
        last = "".join(entry["hash"] for entry in [*read_log(file)][-1:])
        for entry in entries:
            last = _hash(last, entry)
            out.write(json.dumps({**entry, "hash": last}, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, oldest first; none without the file. Raises `DataError` at the first line that is not as it
    was written."""
    last = ""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            said = entry.pop("hash")
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{file}, line {number}: damaged; put back the file from a backup") from error
        last = _hash(last, entry)
        if said != last:
            raise DataError(f"{file}, line {number}: changed after it was written; put back the file from a backup")
        yield {**entry, "hash": said}


def _hash(last: str, entry: Mapping[str, Any]) -> str:
    return sha256((last + json.dumps(entry, sort_keys=True, ensure_ascii=False)).encode()).hexdigest()
