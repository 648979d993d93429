"""The serving states of a workspace: counted from its store, opened, and written again when a customer withdraws.

    serving/<version>.<number>/     a state of a model's version, see `serving_state`; the highest number is the newest

A state is complete before its name exists. The newest one serves, and one more stays: what was opened or begun with it
goes on with it. A version whose state is missing gets one when it is opened.
"""

from __future__ import annotations

import errno
import shutil
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from recllm.base.errors import ModelError
from recllm.base.files import drafts_folder, sweep_drafts, sync_folder
from recllm.base.schema import Encoder, Progress, Purpose, Table
from recllm.learn.features.item_vectors import basics_of, basics_vectors
from recllm.recommend.recommender.people import PeopleState
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import explained, serving
from recllm.recommend.recommender.saved_model import Model
from recllm.recommend.recommender.serving_state import PEOPLE_STATE, open_people_state, save_state, without_people
from recllm.shop.workspace.workspace import Workspace, present

BASICS_TEXTS = 20_000
"""Texts of users' basics with one left out that are encoded for a state at most: reasons need them."""


def states(workspace: Workspace, version: str | None = None) -> list[Path]:
    """The states on disk, of each version the oldest first; of one version, or of all."""
    folders = [path for path in (workspace.root / "serving").glob("[!.]*.*") if path.suffix[1:].isdecimal()]
    named = [path for path in folders if version in (None, path.stem)]
    return sorted(named, key=lambda path: (path.stem, int(path.suffix[1:])))


def newest_state(workspace: Workspace, version: str | None) -> Path | None:
    return next(reversed(states(workspace, version)), None) if version is not None else None


def write_state(
    workspace: Workspace,
    model: Model,
    encoder: Encoder,
    *,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> int:
    """Count what the customers did who agreed to personalisation, and keep it as the newest state of the model's
    version. Returns the number of the newest load of the store that is counted.

    encoder: that of the model.
    """
    gate, locale = workspace.gate(), workspace.settings.locale
    if progress:
        progress("count what the crowd did, for answers in a moment")
    with (
        explained(f"cannot write {workspace.root / 'serving'}"),
        drafts_folder(workspace.root / "serving") as scratch,
    ):
        (scratch / "state").mkdir(mode=0o700)
        everything, marks = gate.dataset_and_marks(Purpose.PERSONALISATION)
        shop = everything.before(present(workspace, now))
        recommender = Recommender(shop, encoder, model=model, locale=locale, offers=workspace.settings.offers)
        population, basics = recommender.count_carts().population, basics_of(shop.users)
        lacking_one = [{n: v for n, v in row.items() if n != name} for row in basics for name in row]
        variants = {tuple(sorted(row.items())): row for row in lacking_one}
        basics_vectors(encoder, list(variants.values())[:BASICS_TEXTS], locale)
        save_state(
            scratch / "state",
            shop,
            population,
            recommender.together,
            everything.events,
            locale=locale,
            item_load=marks.load_no.get(Table.ITEMS, 0),
            event_no=marks.event_no,
            consent_load=marks.load_no.get(Table.CONSENT, 0),
        )
        folder = _named(workspace, scratch / "state", str(model.version))
    _sweep(workspace, folder, 1)
    return max(marks.load_no.values(), default=0)


def _named(workspace: Workspace, draft: Path, version: str) -> Path:
    """Names a complete state by a higher number than all others: two may come within a second."""
    while True:
        numbers = [int(path.suffix[1:]) for path in states(workspace)]
        number = max(int(time.time()), 1 + max(numbers, default=0))
        folder = workspace.root / "serving" / f"{version}.{number}"
        try:
            draft.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise
        else:
            sync_folder(folder.parent)
            return folder


def people_who_agree(workspace: Workspace, folder: Path) -> PeopleState:
    """The people's part of a state; written again first, without customers who withdrew or were erased since."""
    with workspace.store().read() as reader:
        marks = reader.marks()
    path = folder / PEOPLE_STATE
    consent_load, state = marks.load_no.get(Table.CONSENT, 0), open_people_state(path)
    if consent_load != state.consent_load:
        agreed = state.digest(workspace.gate().permitted_users(Purpose.PERSONALISATION))
        keep = np.isin(state.digests, agreed)
        # numbers of erased events may be given again: what the store writes from now on is to count as new
        event_no = min(state.event_no, marks.event_no)
        with explained(f"cannot write {path}"):
            state = without_people(path, state, keep, event_no=event_no, consent_load=consent_load)
        _sweep(workspace, folder, 0)
    return state


def forget_in_states(workspace: Workspace) -> None:
    """Write the people's part of the serving version's state again without customers who withdrew or were erased, and
    remove all other states, which are made again when needed; also one that is damaged."""
    folder = newest_state(workspace, serving(workspace.models_dir))
    if folder is not None:
        try:
            people_who_agree(workspace, folder)
        except ModelError:
            folder = None
    _sweep(workspace, folder, 0)


def remove_states(workspace: Workspace, version: str | None = None) -> None:
    """Remove the states of a version, or all; they are made again when they are needed."""
    for folder in states(workspace, version):
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(workspace: Workspace, folder: Path | None, n_others: int) -> None:
    """Remove all states but this one and the latest `n_others` that know the same decisions on consent; what a killed
    process left, which holds everybody's history; and files of older versions of recllm."""
    parent = workspace.root / "serving"
    sweep_drafts(parent)
    others = sorted(set(states(workspace)) - {folder}, key=lambda path: int(path.suffix[1:]))
    consent_load = None if folder is None or not n_others else _consent_load(folder)
    current = [path for path in others if n_others and _consent_load(path) == consent_load]
    for outdated in set(others) - set(current[len(current) - n_others :] if n_others else ()):
        shutil.rmtree(outdated, ignore_errors=True)
    for file in parent.glob("*.safetensors"):
        file.unlink(missing_ok=True)


def _consent_load(folder: Path) -> int:
    try:
        return open_people_state(folder / PEOPLE_STATE).consent_load
    except ModelError:
        return -1
