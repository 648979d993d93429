"""Commands about ad texts: write them, and check those that anyone else wrote."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from recllm.base.documents import count_text
from recllm.base.errors import NothingToDo, UsageError
from recllm.base.questions import AdQuestion
from recllm.base.schema import CopyVerdict
from recllm.doors.cli.options import (
    DEFAULT_WORKSPACE,
    Answer,
    Options,
    Users,
    WorkspaceDir,
    note,
    open_shop,
    read_user_ids,
)

if TYPE_CHECKING:
    from recllm.base.schema import AdCopy
    from recllm.market.adcopy.packs import Pack
    from recllm.market.adcopy.verify.guarantees import Review

Packs = Annotated[
    list[str] | None,
    typer.Option("--pack", help="A rule pack: cn, eu, us_ftc, or a file of your own; may be repeated."),
]


class CopyOptions(AdQuestion):
    item_id: str | None = None
    """The item; each person's best one otherwise."""
    generator: str | None = None
    """template (the default), smollm2, a folder or hub id of a causal LM, or a server's URL."""
    adapter: Path | None = None
    """A tuned generator's adapter (finetune/copywriter.py)."""
    variants: Annotated[int, Field(ge=1)] = 1
    """Texts that differ for each person, at most."""
    seed: int = 0
    """Random seed."""


def copy(
    context: typer.Context,
    question: Annotated[CopyOptions, Options(("item_id", "channel", "generator", "variants"))],
    *,
    user: Users,
    workspace: WorkspaceDir,
    pack: Packs,
) -> Answer | None:
    """One ad text per person, whose claims all passed their checks."""
    if context.invoked_subcommand:
        return None
    from recllm.market.adcopy.ads import write_ads
    from recllm.recommend.recommender.shop_recommender import open_recommender

    asked_fields = ("item_id", "intent", "objective", "channel", "locale", "adapter", "seed", "variants")
    people = read_user_ids(user)
    with open_shop(workspace) as shop:
        ads = write_ads(
            shop,
            open_recommender(shop, locale=question.locale),
            people,
            generator=question.generator or "template",
            packs=read_packs(pack),
            **{name: getattr(question, name) for name in asked_fields},
        )
    for person, why in ads.left_out.items():
        note(f"{person}: no text: {why}")
    failures = [c.message for text in ads.texts for _, faults in text.rejected for c in faults if c.guarantee == "G16"]
    if failures:  # of the generator, one for each text
        note(f"{len(failures)} of {count_text(len(ads.texts), 'text')} had to do without the generator: {failures[0]}")
    return texts_answer(ads.texts)


def texts_answer(texts: Sequence[AdCopy]) -> Answer:
    lines = []
    for text in texts:
        failed = [c.guarantee for c in text.checks if not c.passed]
        verdict = "held for a person" if text.verdict is CopyVerdict.PERSON else ""
        verdict += f", nothing grounds: {', '.join(text.ungrounded)}" if text.ungrounded else ""
        verdict = f"failed: {', '.join(failed)}" if failed else verdict or "all checks passed"
        lines += ["", text.text, f"  {text.channel}, words by {text.generator}; {verdict}"]
    return Answer(texts if len(texts) != 1 else texts[0], lines)


def check(
    *,
    file: Annotated[Path, typer.Argument(help="One JSON object a line: id, text, channel, locale, item, offer, ...")],
    workspace: WorkspaceDir,
    at: Annotated[str | None, typer.Option("--at", help="Time at which offers are judged; default: now.")],
    pack: Packs,
) -> Answer:
    """Check ad texts of any author: each passes, is held for a person, or is blocked.

    A workspace adds its voice and the laws of its country. Ends with 2 when a text does not pass or a line cannot be
    read, with 3 when there is nothing to check.
    """
    from recllm.market.adcopy.request import voice_of
    from recllm.market.adcopy.submissions import Submission, UnreadableLine, judge, read_submissions, reviews_document
    from recllm.market.occasions.calendar import countries_of
    from recllm.shop.workspace.workspace import SETTINGS_FILE
    from recllm.text.domains import domain_of

    try:
        moment = datetime.fromisoformat(at) if at else datetime.now(UTC)
    except ValueError as error:
        raise UsageError(f"--at is a time such as 2025-11-10T00:00:00+08:00, not {at!r}") from error
    if moment.tzinfo is None:
        raise UsageError(f"--at {at} has no time zone; add one, such as +00:00")
    if workspace != DEFAULT_WORKSPACE and not workspace.is_dir():
        raise UsageError(f"there is no workspace in {workspace}; leave -w out where there is none")
    of_shop: dict[str, Any] = {"voice": voice_of(workspace)}
    if (workspace / SETTINGS_FILE).is_file():
        with open_shop(workspace) as shop:
            of_shop |= {"domain": domain_of(shop.locale()), "countries": countries_of(shop.settings)}
    entries = list(read_submissions(file, now=moment, packs=read_packs(pack), **of_shop))
    reviews = [(entry.id, judge(entry)) for entry in entries if isinstance(entry, Submission)]
    unreadable = [entry for entry in entries if isinstance(entry, UnreadableLine)]
    for line in unreadable:
        note(f"{file}, line {line.line_no}: {line.message}")
    if not entries:
        raise NothingToDo(f"{file} has no text to check; give one JSON object a line")
    document = reviews_document(reviews, unreadable)
    passed = document["passed"]
    counts = f"{document['held']} held for a person, {document['blocked']} blocked"
    of_texts = f"{passed} of {count_text(len(reviews), 'text')} pass"
    summary = f"{of_texts}; {counts}, {count_text(len(unreadable), 'line')} unreadable"
    lines = itertools.chain.from_iterable(itertools.starmap(_lines, reviews))
    return Answer(document, lines, [summary], typer.Exit(2) if passed < len(entries) else None)


def read_packs(names: list[str] | None) -> tuple[Pack, ...]:
    from recllm.market.adcopy.packs import load_pack, pack_named, pack_names

    shipped, files = [], []
    for name in dict.fromkeys(names or ()):
        if name in pack_names():
            shipped.append(pack_named(name))
        elif Path(name).is_file():
            files.append(load_pack(Path(name)))
        else:
            raise UsageError(f"--pack {name}: neither a shipped pack ({', '.join(pack_names())}) nor a file")
    return (*shipped, *files)


def _lines(text_id: str, answer: Review) -> list[str]:
    faults = [f"  {c.guarantee}: {c.message}" + (f" ({c.span!r})" if c.span else "") for c in answer.failures]
    doubts = [f"  look at {w.rule}: {w.message}" for w in answer.warnings]
    if answer.ungrounded:
        words = ", ".join(repr(word) for word in dict.fromkeys(w.word for w in answer.ungrounded))
        doubts.append(f"  no fact grounds {words}; what the shop may say stands in voice.toml: words = [...]")
    return [f"{text_id}: {_VERDICTS[answer.verdict]}", *faults, *doubts]


_VERDICTS = {"pass": "passes", "person": "held for a person", "blocked": "BLOCKED"}
