"""From an item to an advertisement whose every claim was checked."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Unpack

from recllm.adcopy.bounds import constraint_for
from recllm.adcopy.compose import Draft, drafts
from recllm.adcopy.job import Job, Rejected, Wanted, open_job
from recllm.adcopy.money import format_money, language
from recllm.adcopy.opening_line import (
    MAX_TOKENS,
    bare_prompt,
    hook_faults,
    hook_prompt,
    own_lines,
    ranked,
    reason_words,
)
from recllm.adcopy.titles import without_title
from recllm.adcopy.verify import passed
from recllm.adcopy.verify.style import MAX_LIKENESS, likeness, variants_differ
from recllm.errors import GenerationError, UsageError
from recllm.schema import AdCopy, Check, Encoder, Generator, Item, ReasonKind

TEMPLATE = "template"
"""What `AdCopy.generator` says of the shop's own lines."""


@dataclass(frozen=True, slots=True)
class _Written:
    hook: str | None
    draft: Draft
    checks: tuple[Check, ...]
    generator: str


def write_copy(
    item: Item,
    *,
    generator: Generator | None = None,
    n_candidates: int = 8,
    seed: int = 0,
    encoder: Encoder | None = None,
    user_id: str | None = None,
    **wanted: Unpack[Wanted],
) -> AdCopy:
    """One advertisement for one item, checked as a whole; the same arguments give the same text.

    The generator writes the opening line only; title, brand, price, offer and call are filled by code. Of its
    `n_candidates` lines the best that passes every check is taken: close to the item and the reason (by `encoder`,
    when given) and no echo of the prompt. When none passes, or the generator fails, one of the shop's own lines
    (`prompts/ad_lines`, and before them `voice.lines`) is. `AdCopy.generator` says whose line it is,
    `AdCopy.rejected` holds what was stopped and why. A generator with an attribute `languages` is asked in these
    languages only; one that `takes_constraints` is told what its lines may not hold, one that is `tuned` is asked
    without examples.

    `wanted` takes the fields of `Wanted`; `channel` and `now` are needed. Raises `UsageError` for an unknown channel,
    locale or pack.
    """
    job, forbidden = open_job(item, **wanted)
    rejected = list(forbidden)
    spoken = _spoken(job, generator, encoder, n_candidates, seed, rejected)
    rng = random.Random(f"{seed}:{item.item_id}")
    written = spoken[0] if spoken else _own(job, rng)
    if not passed(written.checks):  # a title like no other: the item goes by its category, or by a general name
        job = replace(job, facts=without_title(job.facts, job.frame))
        written = _own(job, rng)
    return _copy(job, written, tuple(rejected), user_id)


def write_variants(
    item: Item,
    n: int = 3,
    *,
    generator: Generator | None = None,
    n_candidates: int = 8,
    seed: int = 0,
    encoder: Encoder | None = None,
    user_id: str | None = None,
    **wanted: Unpack[Wanted],
) -> tuple[AdCopy, ...]:
    """Up to `n` verified advertisements that differ (G13), the most relevant to the item and the reason first.

    The generator's lines come first, then the shop's own for the reason, then its general ones; a text that is too
    like an earlier one is tried with fewer facts, then left out. Where fewer than `n` differ, fewer come back; the
    first is there always. The other arguments are those of `write_copy`; the same ones give the same texts. Raises
    `UsageError` for `n` below 1 and for what `write_copy` refuses.
    """
    if n < 1:
        raise UsageError(f"{n} variants are none; ask for at least 1")
    job, forbidden = open_job(item, **wanted)
    rejected = list(forbidden)
    spoken = _spoken(job, generator, encoder, n_candidates, seed, rejected)
    own = _own_lines(job, random.Random(f"{seed}:{item.item_id}"))
    chosen: list[_Written] = []
    for hook, source in (*((s.hook, s.generator) for s in spoken), *((line, TEMPLATE) for line in own)):
        if len(chosen) < n and (found := _unlike(chosen, hook, job, source)):
            chosen.append(found)
    if not chosen:
        only = write_copy(item, seed=seed, user_id=user_id, **wanted)
        return (replace(only, rejected=tuple(rejected)),)
    return tuple(_copy(job, written, tuple(rejected), user_id) for written in chosen)


def _spoken(
    job: Job,
    generator: Generator | None,
    encoder: Encoder | None,
    n: int,
    seed: int,
    rejected: list[Rejected],
) -> list[_Written]:
    """The texts with a line of the generator that pass every check, best first; the other lines are recorded."""
    if generator is None or not job.askable:
        return []
    fit: dict[str, _Written] = {}
    for hook in _ask(generator, job, n, seed, rejected):
        faults = hook_faults(hook, job.facts, job.frame.locale)
        if not faults:
            written = _written(hook, job.draft(hook), job, generator.name)
            faults = tuple(check for check in written.checks if not check.passed)
            fit |= {} if faults else {hook: written}
        if faults:
            rejected.append((hook, faults))
    examples = bare_prompt(job.frame.locale, job.frame.prompts)
    why = reason_words(job.kind, job.frame.locale, job.frame.prompts)
    return [fit[hook] for hook in ranked(list(fit), job.facts, examples, encoder, why=why)]


def _ask(generator: Generator, job: Job, n: int, seed: int, rejected: list[Rejected]) -> list[str]:
    """The generator's lines, each once; a failure is recorded and leaves none."""
    spoken = getattr(generator, "languages", None)
    if spoken is not None and language(job.frame.locale) not in spoken:
        message = f"{generator.name} writes {', '.join(sorted(spoken))} only"
        rejected.append(("", (Check(guarantee="G11", passed=False, message=message),)))
        return []
    known, locale = job.frame.prompts, job.frame.locale
    prompt = hook_prompt(job.facts, job.kind, locale, known, examples=not getattr(generator, "tuned", False))
    more = {"constraint": constraint_for(job)} if getattr(generator, "takes_constraints", False) else {}
    try:
        lines = generator.generate(prompt, n=n, max_tokens=MAX_TOKENS[language(locale)], seed=seed, **more)
    except GenerationError as error:
        rejected.append(("", (Check(guarantee="G16", passed=False, message=str(error)),)))
        return []
    return list(dict.fromkeys(lines))


def _written(hook: str | None, draft: Draft, job: Job, source: str) -> _Written:
    return _Written(hook, draft, job.check(draft.text), source)


def _own_lines(job: Job, rng: random.Random) -> list[str | None]:
    """The brand's own lines, the shop's for the reason, its general ones, none: each once."""
    lines = own_lines(job.kind, job.frame.locale, job.frame.prompts, rng)
    general = own_lines(ReasonKind.GENERAL, job.frame.locale, job.frame.prompts, rng)
    return list(dict.fromkeys((*job.voice.lines, *lines, *general, None)))


def _own(job: Job, rng: random.Random) -> _Written:
    """The shop's own words: the first of its lines that passes, else facts alone."""
    for hook in _own_lines(job, rng):
        written = _written(hook, job.draft(hook), job, TEMPLATE)
        if passed(written.checks):
            break
    return written


def _unlike(chosen: list[_Written], hook: str | None, job: Job, source: str) -> _Written | None:
    """The richest text of a line that differs from all chosen ones, if it passes."""
    if hook and any(w.hook and likeness(hook, w.hook) > MAX_LIKENESS for w in chosen):
        return None
    before = [written.draft.text for written in chosen]
    texts = (draft for draft in drafts(hook, job.facts, job.frame) if not any(variants_differ([*before, draft.text])))
    draft = next(texts, None)
    written = _written(hook, draft, job, source) if draft else None
    return written if written and passed(written.checks) else None


def _copy(job: Job, written: _Written, rejected: tuple[Rejected, ...], user_id: str | None) -> AdCopy:
    return AdCopy(
        text=written.draft.text,
        channel=job.frame.channel.name,
        locale=job.frame.locale,
        generator=written.generator,
        verified=passed(written.checks),
        checks=written.checks,
        facts_used={name: _value(job, name) for name in written.draft.used},
        template_version=job.frame.prompts.version(f"ad_text.{job.frame.channel.name}", job.frame.locale),
        item_id=job.facts.item_id,
        user_id=user_id,
        rejected=rejected,
    )


def _value(job: Job, name: str) -> str:
    facts = job.facts
    if name == "price" and facts.price is not None and facts.currency is not None:
        return format_money(facts.price, facts.currency, job.frame.locale)
    if name == "offer" and facts.offer is not None:
        value = "" if facts.offer.value is None else f" {facts.offer.value}"
        return f"{facts.offer.type}{value}"
    return str(getattr(facts, name))
