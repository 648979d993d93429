"""From a campaign's file to its plan in the workspace: people, one item each, texts, checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from recllm.audiences.selection import draws
from recllm.campaigns.catalogue import catalogue_now
from recllm.campaigns.decisions import approve_alone
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.folder import COPIES, CampaignFolder, begin, publish
from recllm.campaigns.people import Group, groups, outside, with_outside
from recllm.campaigns.plan_types import Person, Plan, Text
from recllm.campaigns.suppression import suppressed_ids
from recllm.campaigns.texts import Key, Writing, counted, key_of, keys_of, write_texts
from recllm.data.dataset import utc
from recllm.documents import plain
from recllm.errors import DataError, NothingToDo
from recllm.jobs.ad_copy import may_be_modelled, open_generator
from recllm.jobs.recommenders import open_recommender
from recllm.schema import Generator
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

Progress = Callable[[str], None]


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
) -> list[Plan]:
    """Plans one campaign, or several that compete for the same people, and keeps the plans in the workspace.

    contacts: most of these campaigns that one person gets. generator: instead of the one that the file names. now: the
    clock, for approvals by `auto`.

    Raises `UsageError` or `DataError` for a campaign that cannot be (a taken id, an offer that does not run when texts
    go out, an item that is gone), `PolicyError` for a group under the floor, and `NothingToDo` with the counts when a
    campaign would reach nobody. Then nothing is kept.
    """
    tell = progress or (lambda _: None)
    folders = _folders(workspace, files, replace=replace)
    tell("opening the workspace")
    opened = recommender or open_recommender(workspace)
    sends = [_send(file, utc(opened.dataset.as_of)) for file in files]
    tell(f"finding people for {', '.join(file.id for file in files)}")
    suppressed = {file.id: suppressed_ids(workspace, file) for file in files}
    found = groups(opened, files, workspace.gate(), suppressed, contacts=contacts)
    for file, group in zip(files, found, strict=True):
        _check_reached(file, group)
    plans = []
    for file, group, folder, send in zip(files, found, folders, sends, strict=True):
        tell(f"writing the texts of {file.id}")
        begin(folder)
        with open_generator(generator or file.generator, workspace.cache_dir, adapter=file.adapter) as speaker:
            writing = _writing(workspace, file, group, send, speaker)
            plans.append(_plan(workspace, writing, group, outside=outside(workspace, opened)))
    for file, plan, folder in zip(files, plans, folders, strict=True):
        publish(folder, plan)
        if file.auto:
            approve_alone(folder, plan, at=now or datetime.now(UTC))
    return plans


def _folders(workspace: Workspace, files: Sequence[CampaignFile], *, replace: bool) -> list[CampaignFolder]:
    """Where the plans go. Raises `DataError` for two files of one id, and what `check_free` raises."""
    twice = [name for name, n in Counter(file.id for file in files).items() if n > 1]
    if twice:
        raise DataError(f"two of the files are about a campaign {twice[0]!r}; each needs its own id")
    folders = [CampaignFolder.of(workspace.root, file.id) for file in files]
    for folder in folders:
        folder.check_free(replace=replace)
    return folders


def _send(file: CampaignFile, present: datetime) -> datetime:
    """When texts go out. Raises `DataError` when the campaign's offer does not run then."""
    send = file.send or present
    if send < present:
        raise DataError(f"{file.source}: send is {send.isoformat()}, and the present is {present.isoformat()}")
    if file.offer is not None and not file.offer.runs(send):
        over = file.offer.end is not None and file.offer.end <= send
        edge = file.offer.end if over else file.offer.start
        remedy = "give it another end" if over else "set send to a time at or after it"
        raise DataError(
            f"{file.source}: the offer {'ended' if over else 'begins'} at {edge.isoformat() if edge else ''}, "
            f"and texts go out at {send.isoformat()}; {remedy}"
        )
    return send


def _check_reached(file: CampaignFile, group: Group) -> None:
    if not group.audience.people:
        counts = ", ".join(f"{reason} {n:,}" for reason, n in group.audience.excluded.items())
        raise NothingToDo(f"the campaign {file.id!r} reaches nobody: {counts}; held out: {len(group.audience.held)}")


def _writing(
    workspace: Workspace, file: CampaignFile, group: Group, send: datetime, speaker: Generator | None
) -> Writing:
    catalogue = catalogue_now(workspace, file, {p.item_id for p in group.people})
    return Writing(
        file=file,
        items=catalogue.items,
        brands=catalogue.brands,
        send=send,
        generator=speaker,
        encoder=group.recommender.encoder,
        policy=workspace.policy,
        records=workspace.root / COPIES,
    )


def _plan(workspace: Workspace, writing: Writing, group: Group, *, outside: int) -> Plan:
    file, audience = writing.file, group.audience
    modelled = _modelled(workspace, writing, [p.user_id for p in group.people])
    texts, remarks = write_texts(keys_of(group.people, modelled, file), writing)
    people = _people(group, texts, modelled, file)
    return Plan(
        campaign_id=file.id,
        goal=file.goal,
        note=file.note,
        digest=file.digest,
        as_of=plain(audience.as_of),
        send=plain(writing.send),
        offer=plain(file.offer),
        horizon_days=audience.horizon_days,
        window_days=file.window_days or audience.horizon_days,
        model_version=audience.model_version,
        holdout=file.cut.holdout,
        excluded=with_outside(audience, outside).excluded,
        expected_conversions=audience.expected_conversions or 0.0,
        cost=None if file.cut.cost is None else file.cut.cost * len(audience.people),
        items=audience.items,
        converts=tuple(action.value for action in group.recommender.population.settings.target),
        group=tuple(plain(audience.group)),
        notes=(*audience.notes, *remarks),
        texts=counted(texts, Counter(p.text_id for p in people if not p.held)),
        people=people,
    )


def _modelled(workspace: Workspace, writing: Writing, names: Sequence[str]) -> dict[str, bool]:
    """Whether a generative model may be asked for a text that each person gets."""
    return dict(zip(names, may_be_modelled(workspace.gate(), names, writing.generator), strict=True))


def _people(
    group: Group, texts: Mapping[Key, Sequence[Text]], modelled: Mapping[str, bool], file: CampaignFile
) -> tuple[Person, ...]:
    """Each person's variant is drawn by a hash of campaign and pseudonym, so that variants can be compared."""
    out = []
    for one, draw in zip(group.people, draws([p.user_id for p in group.people], file.id, "variant"), strict=True):
        choice = texts[key_of(one, modelled)]
        text = choice[int(draw * len(choice))]
        out.append(
            Person(
                user_id=one.user_id,
                held=one.held,
                probability=round(one.probability, 6),
                item_id=one.item_id,
                kind=one.kind.value,
                channel=one.channel,
                locale=one.locale,
                variant=text.variant,
                text_id=text.id,
            )
        )
    return tuple(out)
