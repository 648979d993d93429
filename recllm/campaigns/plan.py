"""From a campaign's file to its plan in the workspace: people, one item each, texts, checks."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from recllm.audiences.assignment import draws
from recllm.campaigns.decisions import auto_approvals
from recllm.campaigns.file import SERVER, CampaignFile
from recllm.campaigns.folder import CampaignFolder, CampaignPlan, publish
from recllm.campaigns.people import Recipients, recipients, unconsented
from recllm.campaigns.texts import TextKey, catalogue_now, text_keys, write_texts
from recllm.data.catalogue import in_category
from recllm.data.dataset import utc
from recllm.documents import plain
from recllm.errors import DataError, NotFittedError, NothingToDo, UsageError
from recllm.jobs.ad_copy import may_be_modelled, open_generator
from recllm.jobs.recommenders import open_recommender
from recllm.recommender.registry import current
from recllm.schema import Generator
from recllm.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

Progress = Callable[[str], None]

URL_VARIABLE = "RECLLM_LLM_URL"
"""Where the operator's text server is, e.g. http://localhost:8000/v1#model."""

_logger = logging.getLogger(__name__)


def plan_campaigns(
    workspace: Workspace,
    files: Sequence[CampaignFile],
    *,
    contacts: int = 1,
    replace: bool = False,
    recommender: Recommender | None = None,
    generator: Generator | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> list[CampaignPlan]:
    """Plans one campaign, or several that compete for the same people, and publishes the plans in the workspace.

    contacts: of these campaigns, most that one person gets. generator: instead of the one that the file names. now: the
    clock. What is wrong in the files is found before anything is loaded.

    Raises `UsageError` or `DataError` for a campaign that cannot be (a taken id, an offer that does not run when texts
    go out, an item that is gone), `PolicyError` for a group under the floor, and `NothingToDo` with the counts when a
    campaign would reach nobody. Then nothing is published.
    """
    tell = progress or (lambda _: None)
    checked = _checked(workspace, files, replace, generator, now)
    if recommender is None and current(workspace.models_dir) is None:
        raise NotFittedError("a campaign needs calibrated probabilities: train a model first, with recllm train")
    tell("opening the workspace")
    loaded = recommender or open_recommender(workspace, now=now, everybody=True)
    tell(f"finding people for {', '.join(file.id for file in files)}")
    suppressed = {c.file.id: c.suppressed for c in checked}
    groups = recipients(loaded, files, workspace.gate(), suppressed, contacts=contacts)
    for file, group in zip(files, groups, strict=True):
        if not group.audience.people:
            counts = ", ".join(f"{reason} {n:,}" for reason, n in group.audience.excluded.items())
            n_held_out = len(group.audience.holdout)
            raise NothingToDo(f"the campaign {file.id!r} reaches nobody: {counts}; held out: {n_held_out}")
    plans = []
    for campaign, group in zip(checked, groups, strict=True):
        tell(f"writing the texts of {campaign.file.id}")
        with campaign.speaker(workspace) as speaker:
            plans.append(_plan(workspace, campaign, group, speaker, unconsented(workspace, loaded)))
    for campaign, plan in zip(checked, plans, strict=True):
        approvals = auto_approvals(plan, at=now or datetime.now(UTC)) if campaign.file.words.auto else []
        publish(campaign.folder, plan, replace=replace, decisions=approvals)
        people, n_held_out, n_texts = len(plan.addressed), len(plan.held_out), len(plan.texts)
        _logger.info("planned %d people, %d held out, %d texts", people, n_held_out, n_texts)
    return plans


# --- what is wrong, before anything is loaded ------------------------------------------------------------------------


@dataclass(frozen=True)
class _CheckedCampaign:
    """A campaign that can be planned, as far as its file and the workspace tell."""

    file: CampaignFile
    folder: CampaignFolder
    send: datetime
    """When texts go out."""
    suppressed: list[str]
    generator: Generator | str
    """Or what finds it."""

    def speaker(self, workspace: Workspace) -> AbstractContextManager[Generator | None]:
        return open_generator(self.generator, workspace.cache_dir, adapter=self.file.words.adapter)


def _checked(
    workspace: Workspace,
    files: Sequence[CampaignFile],
    replace: bool,
    generator: Generator | None,
    now: datetime | None,
) -> list[_CheckedCampaign]:
    if twice := [name for name, n in Counter(file.id for file in files).items() if n > 1]:
        raise DataError(f"two of the files are about a campaign {twice[0]!r}; each needs its own id")
    moment, campaigns = utc(present(workspace, now)), []
    for file in files:
        folder, send, offer = CampaignFolder.of(workspace.root, file.id), file.send or moment, file.offer
        if send < moment:
            raise DataError(f"{file.source}: send is {send.isoformat()}, and the present is {moment.isoformat()}")
        if offer is not None and not offer.runs(send):
            over = offer.end is not None and offer.end <= send
            edge = offer.end if over else offer.start
            remedy = "give it another end" if over else "set send to a time at or after it"
            raise DataError(
                f"{file.source}: the offer {'ended' if over else 'begins'} at {edge.isoformat() if edge else ''}, "
                f"and texts go out at {send.isoformat()}; {remedy}"
            )
        with folder.locked():
            folder.check_free(replace=replace)
        _check_target(workspace, file)
        suppressed, speaker = file.limits.suppressed_ids(), generator or file.words.generator
        if speaker == SERVER and not (speaker := os.environ.get(URL_VARIABLE, "")):
            raise UsageError(
                f"{file.source} asks for the operator's text server, and none is set; "
                f"set {URL_VARIABLE}, e.g. to http://localhost:8000/v1#model"
            )
        campaigns.append(_CheckedCampaign(file, folder, send, suppressed, speaker))
        with campaigns[-1].speaker(workspace):
            pass  # there is such a generator; a local one starts when it is asked for a text
    return campaigns


def _check_target(workspace: Workspace, file: CampaignFile) -> None:
    """Raises `UsageError` for an item that does not exist or is not on offer, or a category without any."""
    target = file.target
    items = workspace.store().items(target.items)
    on_offer = items.filter(items["available"] & ~items["pending"])
    if target.items is not None:
        ids, offered = set(items["item_id"]), set(on_offer["item_id"])
        for name in target.items:
            if name not in ids:
                raise UsageError(f"no item {name!r} in the catalogue, and the campaign {file.id!r} is for it")
            if name not in offered:
                raise UsageError(f"the item {name!r} of the campaign {file.id!r} is no longer on offer; take it out")
    elif target.text is None and target.category is not None and not in_category(on_offer, target.category).any():
        raise UsageError(f"no item on offer in the category {target.category!r}; write a name, or a path as 'a > b'")


# --- the plan --------------------------------------------------------------------------------------------------------


def _plan(
    workspace: Workspace, campaign: _CheckedCampaign, group: Recipients, speaker: Generator | None, n_unconsented: int
) -> CampaignPlan:
    file, audience = campaign.file, group.audience
    names = [p.user_id for p in group.people]
    modelled = dict(zip(names, may_be_modelled(workspace.gate(), names, speaker), strict=True))
    texts, remarks = write_texts(
        text_keys(group.people, modelled, file),
        workspace,
        file,
        catalogue_now(workspace, file, {p.item_id for p in group.people}),
        campaign.send,
        generator=speaker,
        generator_name=campaign.generator if isinstance(campaign.generator, str) else file.words.generator,
        encoder=group.recommender.encoder,
    )
    people = []
    # each person's variant is drawn by a hash of campaign and pseudonym, so that variants can be compared
    for person, draw in zip(group.people, draws(names, file.id, "variant"), strict=True):
        variants = texts[TextKey.of(person, modelled)]
        text = variants[int(draw * len(variants))]
        people.append(replace(person, variant=text.variant, text_id=text.id))
    readers = Counter(p.text_id for p in people if not p.held_out)
    cost = file.limits.cost
    return CampaignPlan(
        campaign_id=file.id,
        goal=file.goal,
        note=file.note,
        digest=file.digest,
        as_of=plain(audience.as_of),
        send=plain(campaign.send),
        offer=plain(file.offer),
        horizon_days=audience.horizon_days,
        window_days=file.window_days or audience.horizon_days,
        model_version=audience.model_version,
        holdout=file.limits.holdout,
        excluded=audience.with_unconsented(n_unconsented).excluded,
        expected_conversions=audience.expected_conversions or 0.0,
        cost=None if cost is None else cost * len(audience.people),
        items=audience.items,
        converts=tuple(action.value for action in group.recommender.population.settings.target),
        group=tuple(plain(audience.group)),
        notes=(*audience.notes, *remarks),
        # all texts in the order of their numbers
        texts=tuple(replace(text, people=readers[text.id]) for variants in texts.values() for text in variants),
        people=tuple(people),
    )
