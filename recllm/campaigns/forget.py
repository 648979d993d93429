"""People who leave the campaigns of a workspace: out of plans and logs, while texts, decisions and figures stay."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recllm.campaigns.folder import CampaignFolder, people_lines, read_log, rewrite_log, rewrite_people
from recllm.files import sweep_drafts


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenInCampaigns:
    people: int
    """Lines of plans."""
    exports: int
    """Mentions in logs of exports."""
    exported_in: tuple[str, ...]
    """Campaigns whose exports had one of them."""


def campaign_folders(root: Path) -> list[CampaignFolder]:
    """Those of a workspace that were planned. root: its folder."""
    paths = sorted((root / "campaigns").glob("*/plan.json"))
    return [CampaignFolder.at(path.parent) for path in paths if not path.parent.name.startswith(".")]


def forget_people(
    root: Path, user_ids: Collection[str] | None, folder: CampaignFolder | None = None
) -> ForgottenInCampaigns:
    """Removes people, or everybody where `user_ids` is None, from all campaigns of a workspace or from one.

    The log of exports is chained anew from the first entry that changed. Raises `DataError` for a damaged log.
    """
    leaving = None if user_ids is None else frozenset(user_ids)
    n_people, n_exports, exported_in = 0, 0, []
    for campaign in campaign_folders(root) if folder is None else [folder]:
        with campaign.locked():
            # what a publication that was killed left beside the campaign
            shutil.rmtree(campaign.path.with_name(f".{campaign.path.name}.part"), ignore_errors=True)
            sweep_drafts(campaign.path)
            lines = people_lines(campaign)
            staying = [line for line in lines if leaving is not None and line["user_id"] not in leaving]
            if len(staying) < len(lines):
                rewrite_people(campaign, staying)
                n_people += len(lines) - len(staying)
            entries = list(read_log(campaign.exports))
            remaining = [_without(entry, leaving) for entry in entries]
            n_mentions = sum(
                _mentions(before) - _mentions(after) for before, after in zip(entries, remaining, strict=True)
            )
            if n_mentions:
                rewrite_log(campaign.exports, remaining)
                n_exports += n_mentions
                exported_in.append(campaign.path.name)
    return ForgottenInCampaigns(people=n_people, exports=n_exports, exported_in=tuple(exported_in))


def rename_people(root: Path, renamed: Mapping[str, str]) -> None:
    """Gives the people of all campaigns other pseudonyms: old -> new; who is not named keeps theirs."""
    for campaign in campaign_folders(root):
        with campaign.locked():
            lines = people_lines(campaign)
            if any(line["user_id"] in renamed for line in lines):
                rewrite_people(
                    campaign, [line | {"user_id": renamed.get(line["user_id"], line["user_id"])} for line in lines]
                )
            entries = [
                entry
                | {name: [renamed.get(user, user) for user in entry[name]] for name in ("reached", "held")}
                | {"texts": {renamed.get(user, user): text for user, text in entry["texts"].items()}}
                for entry in read_log(campaign.exports)
            ]
            if entries:
                rewrite_log(campaign.exports, entries)


def _without(entry: Mapping[str, Any], leaving: Collection[str] | None) -> dict[str, Any]:
    def stays(user_id: str) -> bool:
        return leaving is not None and user_id not in leaving

    lists = {name: [user for user in entry[name] if stays(user)] for name in ("reached", "held")}
    return {**entry, **lists, "texts": {user: text for user, text in entry["texts"].items() if stays(user)}}


def _mentions(entry: Mapping[str, Any]) -> int:
    return len(entry["reached"]) + len(entry["held"])
