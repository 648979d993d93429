"""What a batch run is asked, and where its files go.

A shard is the people whose pseudonyms hash to its number. The folder of a run holds

    plan.json               what is asked, of which model, as of when, in how many shards
    shard-00007.parquet     the answer for one shard, complete or missing
    done.json               after the last shard: bytes and SHA-256 of each file

On several machines the workspace and the folder have to be on a file system that all of them see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.base.documents import json_text, json_value
from recllm.base.errors import NotFittedError, UsageError
from recllm.base.files import PRIVATE, write_whole
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Objective
from recllm.recommend.recommender.shop_recommender import usable_version
from recllm.recommend.recommender.shop_states import newest_state
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recllm.market.audiences.request import AudienceRequest
    from recllm.market.propensity.prediction import PredictionRequest

PLAN = "plan.json"
MAX_SHARDS = 100_000


class BatchTask(StrEnum):
    RECOMMEND = "recommend"
    AUDIENCE = "audience"
    PREDICT = "predict"


def slates_request(options: Mapping[str, Any], users: Sequence[str] = ()) -> RecommendRequest:
    """Raises `UsageError` as `RecommendRequest` does."""
    return RecommendRequest(users=tuple(users), **{name: value for name, value in options.items() if name != "locale"})


def audience_request(options: Mapping[str, Any]) -> AudienceRequest:
    """Raises `UsageError` as `AudienceRequest` and its parts do, and for what is asked of all people at once."""
    from recllm.market.audiences.request import AudienceQuestion

    question = AudienceQuestion(**options)
    if question.objective is Objective.UPLIFT:
        raise UsageError("objective is uplift, and shards are ordered by chance, lift or margin; leave out --everybody")
    for name in ("text", "seeds", "suppressed", "people"):
        if getattr(question, name):
            raise UsageError(f"{name} needs all people at once: leave out --everybody")
    return question.request(explain=False)


def prediction_request(options: Mapping[str, Any]) -> PredictionRequest:
    """Raises `UsageError` as `PredictionRequest` does, and for coupons."""
    from recllm.market.propensity.prediction import PredictionRequest
    from recllm.market.propensity.question import PredictionKind

    if options["kind"] == PredictionKind.REDEEM:
        raise UsageError("who redeems is asked of a campaign's people alone: leave out --everybody")
    return PredictionRequest(**options)


CHECKS: Mapping[BatchTask, Callable[[Mapping[str, Any]], object]] = {
    BatchTask.RECOMMEND: slates_request,
    BatchTask.AUDIENCE: audience_request,
    BatchTask.PREDICT: prediction_request,
}
"""Each raises `UsageError` for options that cannot be, before anything is written."""


@dataclass(frozen=True, kw_only=True)
class BatchRun:
    """The work and where its files go: all that a worker gets."""

    workspace: Path
    folder: Path
    task: BatchTask
    options: str
    """JSON of the task's options: those of the command."""
    shards: int
    version: str | None
    """Of the model that answers, also if another one is published meanwhile; None for predictions."""
    as_of: datetime
    """The present of the whole run."""
    state: str | None = None
    """Name of the version's serving state, also if it is refreshed meanwhile; None of a run that began without one."""
    seed: int = 0
    """Of what slates explore."""

    @classmethod
    def plan(
        cls,
        workspace: Workspace,
        folder: Path,
        task: BatchTask,
        options: Mapping[str, Any],
        *,
        shards: int,
        version: str | None = None,
        seed: int = 0,
    ) -> BatchRun:
        """The run of a folder: a new one, whose plan is written there, or the one that was begun there.

        Raises `UsageError` for a number of shards outside of 1 to `MAX_SHARDS`, options that cannot be, a folder with
        other files, or with the plan of another run; `NotFittedError` without a trained model, but for predictions.
        """
        if not 1 <= shards <= MAX_SHARDS:
            raise UsageError(f"shards is {shards}; give 1 to {MAX_SHARDS:,}")
        request: dict[str, Any] = {
            "task": task.value,
            "options": json_text(dict(options)),
            "shards": shards,
            "seed": seed,
            "workspace": workspace.pseudonymiser().fingerprint(),
        }
        CHECKS[task](options)
        begun = _read_plan(folder)
        if begun is not None and begun != begun | request and not any(folder.glob("shard-*.parquet")):
            begun = None  # nothing was done yet of what was asked first
        if begun is None:
            if folder.exists() and any(file.name != PLAN for file in folder.iterdir()):
                raise UsageError(f"{folder} holds other files; give an empty or a new folder")
            needs_model = task is not BatchTask.PREDICT
            version = (version or usable_version(workspace)) if needs_model else None
            if version is None and needs_model:
                raise NotFittedError("a batch needs a trained model: recllm train")
            state = newest_state(workspace, version)
            begun = request | {"version": version, "as_of": utc(present(workspace)).isoformat()}
            begun["state"] = None if state is None else state.name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(folder / PLAN, json_text(begun, indent=2), mode=PRIVATE)
        elif changed := [name for name in request if begun.get(name) != request[name]]:
            raise UsageError(
                f"{folder} holds a run with other {', '.join(changed)}; ask as {folder / PLAN} says to go on with it, "
                "or give another folder"
            )
        elif version not in (None, begun["version"]):
            raise UsageError(f"{folder} holds a run of the model {begun['version']}; give another folder")
        return cls(
            workspace=workspace.root,
            folder=folder,
            task=task,
            options=request["options"],
            shards=shards,
            version=begun["version"],
            as_of=datetime.fromisoformat(begun["as_of"]),
            state=begun.get("state"),
            seed=seed,
        )

    def file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05}.parquet"


def _read_plan(folder: Path) -> dict[str, Any] | None:
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan = json_value(path.read_bytes())
        datetime.fromisoformat(plan["as_of"])
        str(plan["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no plan of a batch ({error}); give another folder") from error
    return dict(plan)


def shard_numbers(pseudonyms: Sequence[str], shards: int) -> NDArray[np.int64]:
    """The shard of each person, int64 (n,) in [0, shards): by a hash, so that it never depends on who else is
    there."""
    hashes = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in pseudonyms)
    return (np.frombuffer(hashes, "<u8") % np.uint64(shards)).astype(np.int64)
