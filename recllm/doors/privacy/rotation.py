"""Exchange of the pseudonym key: every pseudonym becomes one of the new key, without a raw id.

A pseudonym of the new key is made from that of the old one, p2 = HMAC(k2, p1), and an id that comes later goes through
both. So the key file grows by a line, and none may be lost. The old key and an old copy of the store reveal nothing
about the new store.

The store is renamed in one transaction. The files follow, from `key.next`, which lies next to the key until all is
done: no command works in between, and the next one finishes first.
"""

from __future__ import annotations

import json
import secrets
import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from recllm.base.errors import PolicyError, UsageError
from recllm.base.files import PRIVATE, sweep_drafts, write_whole
from recllm.base.schema import SESSION_PREFIX
from recllm.doors.privacy.erasure import finish_erasures
from recllm.doors.privacy.registry import REGISTRY
from recllm.shop.workspace.audit import AuditAction, anchor_audit, audit, command_line_actor
from recllm.shop.workspace.privacy import Pseudonymiser
from recllm.shop.workspace.workspace import NEXT_KEY, SETTINGS_FILE, Workspace

LOST_WITH_THE_KEY = (
    "people known so far are found by pseudonym alone (--pseudonyms, the console), their later data belong to unknown "
    "people, tombstones do not keep out erased people who are sent under their own id, certificates can no longer be "
    "verified, and of the audit log only what is written from now on"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    generation: int
    """Keys in force, the new one included."""
    pseudonyms: int
    """People, sessions and tombstones that were renamed."""


def rotate_key(
    workspace: Workspace,
    *,
    actor: str,
    lost: bool = False,
    force: bool = False,
) -> Rotation:
    """Adds a new random key to the workspace's, and renames all people; services have to be started again.

    lost: the old key is gone for good: the new one replaces it, see `LOST_WITH_THE_KEY`. force: draw the variants of a
    running experiment, and the global holdout, again. Raises `UsageError` where the key comes from RECLLM_KEY, whose
    text only its owner can change, and `PolicyError` while an experiment runs, without `force`.
    """
    if workspace.key_file is None:
        raise UsageError(
            "the key comes from RECLLM_KEY; put it into a file that RECLLM_KEY_FILE names, then repeat this"
        )
    if not force and any(json.loads(text)["ended_at"] is None for _, text, _ in workspace.store().experiments()):
        raise PolicyError(
            "an experiment is running, and variants are drawn by pseudonym: stop it first (recllm experiments stop), "
            "or say --force to draw its people, and those of the global holdout, again"
        )
    if not lost:
        finish_erasures(workspace, actor=actor)  # their notes have the old names
    old_keys = () if lost else workspace.keys()
    keys = (*old_keys, secrets.token_hex(32).encode())
    write_whole(workspace.root / NEXT_KEY, b"\n".join(keys) + b"\n", mode=PRIVATE)
    fingerprint = workspace.fingerprint_under(keys)
    successor = successor_of(keys, workspace.settings.tenant)
    n_renamed = workspace.store().rename_users(successor, fingerprint)
    workspace.close()
    finish_rotation(workspace, actor=actor).close()
    return Rotation(generation=len(keys), pseudonyms=n_renamed)


def resume_rotation(root: Path) -> Workspace:
    """Opens a workspace whose rotation was stopped: as it was, or finished where the store was renamed."""
    rotated = Workspace.open_rotated(root)
    if rotated.is_rotated():
        return finish_rotation(rotated, actor=command_line_actor())
    rotated.close()
    (root / NEXT_KEY).unlink(missing_ok=True)
    sweep_drafts(root)  # one of a key may be among them
    return Workspace.open(root)


def finish_rotation(workspace: Workspace, *, actor: str) -> Workspace:
    """After the store was renamed: renames in the files, then writes settings and key. Returns the workspace, opened
    with the new key. It can be stopped and repeated."""
    root, key_file = workspace.root, workspace.key_file
    renamed = Workspace.open_rotated(root)
    keys = renamed.keys()
    successor, store = successor_of(keys, renamed.settings.tenant), renamed.store()

    def renamed_among(names: Collection[str]) -> dict[str, str]:
        with store.read() as reader:
            stored = set(reader.users([*names, *map(successor, names)])["user_id"])
        return {name: successor(name) for name in names if name not in stored and successor(name) in stored}

    for record in REGISTRY.records:
        if record.rename is not None:
            record.rename(renamed, renamed_among)
    settings_file = root / SETTINGS_FILE
    table = tomllib.loads(settings_file.read_text("utf-8"))
    table["key_fingerprint"] = renamed.fingerprint_under(keys)
    assert key_file is not None  # noqa: S101 - a rotation does not begin without
    write_whole(settings_file, tomli_w.dumps(table))
    write_whole(key_file, b"\n".join(keys) + b"\n", mode=PRIVATE)
    anchor_audit(renamed)
    # a key alone, after a rotation, stands behind none that it came from
    audit(renamed, actor, AuditAction.KEY_ROTATED, generation=len(keys), lost=len(keys) == 1)
    (root / NEXT_KEY).unlink()
    renamed.close()
    return Workspace.open(root)


def successor_of(keys: tuple[bytes, ...], tenant: str) -> Callable[[str], str]:
    """What the newest key makes of a pseudonym, of a person or a session, under the key before it."""
    people = Pseudonymiser(*keys, tenant=tenant)
    sessions = people.of_sessions()
    return lambda name: (sessions if name.startswith(SESSION_PREFIX) else people).successor(name)
