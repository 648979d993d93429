"""The people that a shop never contacts, from the file that a campaign names."""

from __future__ import annotations

from recllm.campaigns.file import CampaignFile
from recllm.errors import UsageError
from recllm.workspace.workspace import Workspace


def suppressed_ids(workspace: Workspace, file: CampaignFile) -> list[str]:
    """The shop's own ids, one a line in UTF-8. Raises `UsageError` when the file cannot be read."""
    if file.suppress is None:
        return []
    try:
        lines = file.suppress.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file.suppress}: cannot be read as a list of ids, one per line: {error}") from error
    return [line.strip() for line in lines if line.strip()]
