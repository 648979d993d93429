"""Where campaigns lie in a workspace, each in a folder of its own.

campaigns/ID/plan.json         the plan without its people
campaigns/ID/people.jsonl      one line per person: pseudonym, item, kind of reason, text; never what somebody bought
campaigns/ID/decisions.jsonl   who approved, edited, rejected or withdrew which text, and when; only ever longer
campaigns/ID/exports.jsonl     what left, and whom it reached
campaigns/.ID.lock             held by whoever reads, publishes or decides, so that nobody sees half of it
copies/                        what made each text, where recllm copy replay finds it

A plan with its first decisions appears complete or not at all, and so do the lines that one decision adds.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from recllm.campaigns.plan_types import CampaignPlan, Decision, ExportEntry, PlannedPerson
from recllm.documents import plain
from recllm.errors import DataError, PolicyError, UsageError
from recllm.files import lock_file, safe_id, write_whole

COPIES = "copies"
"""Folder of a workspace with the records of its texts."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CampaignFolder:
    """The folder of one campaign, whether it exists or not."""

    path: Path

    @classmethod
    def of(cls, root: Path, campaign_id: str) -> CampaignFolder:
        """root: the workspace's folder."""
        return cls(root / "campaigns" / safe_id(campaign_id, "a campaign's id"))

    @property
    def old(self) -> Path:
        """Where a plan lies while it is being replaced."""
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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or changes the campaign meanwhile. What a publication that was stopped left is put right.

        Not to be nested. Raises `StoreError` when another process keeps the campaign for a minute.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock_file(self.path.with_name(f".{self.path.name}.lock")):
            if self.old.exists() and self.path.exists():
                shutil.rmtree(self.old, ignore_errors=True)
            elif self.old.exists():  # stopped between the two renames of `publish`
                self.old.replace(self.path)
            yield

    def check_free(self, *, replace: bool) -> None:
        """Raises `UsageError` for an id that is taken, `PolicyError` when its campaign has been exported."""
        if not self.plan.exists():
            return
        if self.exports.exists():
            raise PolicyError(
                f"the campaign {self.path.name!r} has been exported, and its report needs its plan; take another id"
            )
        if not replace:
            raise UsageError(f"there is a campaign {self.path.name!r}; take another id, or plan again with --replace")


def publish(folder: CampaignFolder, plan: CampaignPlan, *, replace: bool, decisions: Sequence[Decision] = ()) -> None:
    """Puts a plan with its first decisions into its folder. Raises what `check_free` raises."""
    with folder.locked():
        folder.check_free(replace=replace)
        draft = CampaignFolder(folder.path.with_name(f".{folder.path.name}.part"))
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.path.mkdir(mode=0o700)
        people = _adapter(tuple[PlannedPerson, ...]).dump_python(plan.people, mode="json", by_alias=True)
        write_whole(draft.people, _json_lines(people))
        head = plain(dataclasses.replace(plan, people=()))
        del head["people"]
        write_whole(draft.plan, json.dumps(head, ensure_ascii=False, indent=1) + "\n")
        append(draft.decisions, [decision_entry(decision) for decision in decisions])
        if folder.path.exists():
            folder.path.replace(folder.old)
        draft.path.replace(folder.path)
        shutil.rmtree(folder.old, ignore_errors=True)


def read_plan(folder: CampaignFolder) -> CampaignPlan:
    """Raises `UsageError` where nothing was planned, `DataError` for a damaged file."""
    with folder.locked():
        head = _read_head(folder)
        try:
            lines = folder.people.read_bytes().split(b"\n")
            people = _adapter(tuple[PlannedPerson, ...]).validate_json(
                b"[" + b",".join(filter(None, lines)) + b"]", strict=True
            )
        except (OSError, ValueError) as error:
            raise _damaged(folder.people, error) from error
    return dataclasses.replace(head, people=people)


def check_current(folder: CampaignFolder, plan: CampaignPlan) -> None:
    """Under the lock: raises `UsageError` when the campaign was planned again since `plan` was read."""
    if _read_head(folder) != dataclasses.replace(plan, people=()):
        raise UsageError(f"{plan.campaign_id!r} was planned again meanwhile; look at its preview, then repeat this")


def _read_head(folder: CampaignFolder) -> CampaignPlan:
    """The plan without its people."""
    if not folder.plan.exists():
        raise UsageError(f"nothing is planned for {folder.path.name!r}; run: recllm campaign plan FILE")
    try:
        fields = json.loads(folder.plan.read_bytes()) | {"people": []}
        head: CampaignPlan = _adapter(CampaignPlan).validate_json(json.dumps(fields), strict=True)
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(folder.plan, error) from error
    return head


def _damaged(file: Path, error: Exception) -> DataError:
    reason = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return DataError(f"{file}: the plan is damaged: {reason}; plan again with --replace")


# --- logs ------------------------------------------------------------------------------------------------------------


def append(log: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to a log under the folder's lock, all or none, each with the hash over the line before and itself.

    Source: the hash chain of Haber and Stornetta 1991. It shows a changed or removed line, but not a cut end.
    """
    if not entries:
        return
    lines = list(read_log(log))
    last = lines[-1]["hash"] if lines else ""
    for entry in entries:
        last = _hash(last, entry)
        lines.append({**entry, "hash": last})
    write_whole(log, _json_lines(lines))


def read_log(log: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, oldest first; none without the file. A last line that a stopped process left unfinished is
    dropped with a warning. Raises `DataError` at the first line that is not as it was written."""
    *lines, torn = log.read_bytes().split(b"\n") if log.exists() else [b""]
    if torn:
        _logger.warning("%s: the last line is incomplete, as a stopped process leaves it, and does not count", log)
    last = ""
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            recorded = entry.pop("hash")
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{log}, line {number}: damaged; put back the file from a backup") from error
        last = _hash(last, entry)
        if recorded != last:
            raise DataError(f"{log}, line {number}: changed after it was written; put back the file from a backup")
        yield {**entry, "hash": recorded}


def read_decisions(folder: CampaignFolder) -> list[Decision]:
    decisions: list[Decision] = _read_entries(folder.decisions, Decision)
    return decisions


def read_exports(folder: CampaignFolder) -> list[ExportEntry]:
    exports: list[ExportEntry] = _read_entries(folder.exports, ExportEntry)
    return exports


def decision_entry(decision: Decision) -> dict[str, Any]:
    """The line of a decision: what is empty stays out."""
    return {name: value for name, value in plain(decision).items() if value or name == "by"}


def _read_entries(log: Path, form: type) -> Any:
    entries = [{name: value for name, value in line.items() if name != "hash"} for line in read_log(log)]
    try:
        return _adapter(list[form]).validate_python(entries)  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        row, *path = first["loc"]
        raise DataError(
            f"{log}, line {int(row) + 1}: {'.'.join(str(part) for part in path)}: {first['msg']}; "
            "another version of recllm wrote it: use that one"
        ) from error


def _json_lines(entries: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _hash(last: str, entry: Mapping[str, Any]) -> str:
    return sha256((last + json.dumps(entry, sort_keys=True, ensure_ascii=False)).encode()).hexdigest()


@cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)
