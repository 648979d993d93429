"""The profile of one customer of a workspace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from recllm.base.errors import PolicyError, UnknownIdError
from recllm.base.schema import Profile, Purpose
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.text.items import UserTexts

NOT_AGREED = "this person has not agreed to personalisation; nothing was read"
UNKNOWN_PERSON = "no customer with this id is known; check the id, or load the users and events tables"


def person_profile(
    workspace: Workspace, user_id: str, locale: str, *, by_pseudonym: bool = False
) -> tuple[Profile, UserTexts]:
    """One person's profile and its texts, read by key. by_pseudonym: the id is the pseudonym already.

    Raises `PolicyError` without consent, `UsageError` for a person who is not known.
    """
    from recllm.learn.profiles.profile import build_profile
    from recllm.text.items import user_texts

    gate, name = workspace.gate(), user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    if not gate.permits(name, Purpose.PERSONALISATION):
        raise PolicyError(NOT_AGREED)
    read = gate.histories([name], Purpose.PERSONALISATION)
    if not len(read.users):
        raise UnknownIdError(UNKNOWN_PERSON)
    items = gate.catalogue(read.events["item_id"].unique())
    data = Dataset.construct(read.events, read.users, items, as_of=present(workspace))
    data = replace(data, step_seconds=gate.step_seconds())
    profile = build_profile(data, 0)
    return profile, user_texts(profile, data.items, workspace.locale(locale))
