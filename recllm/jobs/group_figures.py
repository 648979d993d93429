"""What a workspace tells of groups besides lists for action: see `recllm.workspace.releases`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from recllm.data.dataset import USER_COLUMN
from recllm.schema import SESSION_PREFIX
from recllm.workspace.releases import PEOPLE, GroupFigure, Releases
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.audiences.audience import GroupTeller
    from recllm.recommender.recommender import Recommender


def group_teller(workspace: Workspace, recommender: Recommender, topic: str = PEOPLE) -> GroupTeller:
    """Tells groups of an audience, beside others of the topic. Whom the recommender does not hold is without consent,
    and counted so."""
    from recllm.audiences.exclusions import ExclusionReason

    refused = ExclusionReason.NO_CONSENT.value

    def tell(groups: Mapping[str, Sequence[str]], listed: Sequence[str]) -> Mapping[str, GroupFigure]:
        unconsented = unconsented_people(workspace, recommender)
        if unconsented:
            groups = {**groups, refused: [*groups.get(refused, ()), *unconsented]}
        return Releases(workspace).figures(groups, listed=listed, topic=topic)

    return tell


def unconsented_people(workspace: Workspace, recommender: Recommender) -> list[str]:
    """Pseudonyms of everybody of the store whom the recommender does not hold, without sessions."""
    dataset_users = set(recommender.dataset.users[USER_COLUMN])
    with workspace.store().read() as reader:
        users = reader.users()["user_id"].to_list()
    return [name for name in users if name not in dataset_users and not name.startswith(SESSION_PREFIX)]
