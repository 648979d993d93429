"""The jobs of a workspace, from its store to an answer. The command line and the demonstration call these.

The present: a live shop's clock. When the log ended more than `REPLAY_DAYS` ago it is being replayed, and its end
counts as the present, so that "16 days ago" is said of the log and not of the calendar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from recllm.dataset import Dataset, utc
from recllm.errors import DataError, PolicyError, UsageError
from recllm.feedback import FEEDBACK_SCHEMA, Outcome, outcomes, shown_events
from recllm.schema import Action, Encoder, IngestReport, Item, Profile, Purpose, Slate, Table
from recllm.workspace import Workspace

if TYPE_CHECKING:
    from recllm.adcopy import CopyRequest, Pack, Voice
    from recllm.advise import Advice
    from recllm.audiences import Audience
    from recllm.encoder.onnx_export import Exported
    from recllm.evaluation import Report
    from recllm.evolution import By, Evolution
    from recllm.finetuning import LoraArguments, TunedEncoder
    from recllm.recommender import Recommender
    from recllm.schema import AdCopy, Generator
    from recllm.text import UserTexts
    from recllm.windows import TrainingArguments

REPLAY_DAYS = 14

AD_CHOICE = 5
"""An ad is for the first of so many items that may be advertised."""

CHANNEL_PURPOSE = {"email": Purpose.EMAIL, "push": Purpose.PUSH, "sms_gsm": Purpose.SMS}
"""What a person must have agreed to besides personalisation before a text of this channel is written for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What `recllm train` tells. rows: events learned from; metrics: on the latest past window."""

    model_version: str
    rows: int
    seconds: float
    metrics: Mapping[str, float]


# --- in --------------------------------------------------------------------------------------------------------------


def load_file(
    workspace: Workspace,
    file: Path,
    table: str,
    *,
    mapping: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> IngestReport:
    """Read one file into the workspace. `options` are fields of `IngestOptions`; the settings fill what they leave.

    Raises `UsageError` for an unknown table, `IngestError` when the file or the load is refused.
    """
    from recllm.ingest import IngestOptions, ingest_file, load_map

    if table not in set(Table):
        raise UsageError(f"--table is one of {', '.join(Table)}, not {table!r}")
    settings = workspace.settings
    given: dict[str, Any] = {"shop_tz": settings.timezone, "shop_currency": settings.currency}
    given |= {name: value for name, value in options.items() if value is not None}
    return ingest_file(
        file,
        table,
        store=workspace.store(),
        pseudonymiser=workspace.pseudonymiser(),
        policy=workspace.policy,
        mapping=load_map(mapping) if mapping else None,
        options=IngestOptions(**given),
        quarantine_dir=workspace.quarantine_dir,
        dry_run=dry_run,
        progress=progress,
    )


def describe_workspace(workspace: Workspace) -> dict[str, Any]:
    """Counts, spans, gaps, categories, text lengths and languages of what the store holds."""
    from recllm.ingest import describe

    return describe(workspace.store())


def present(log_end: int, now: datetime | None = None) -> int:
    """The present in epoch seconds, for a log whose last event lies just before `log_end`; see the module."""
    clock = now or datetime.now(UTC)
    replayed = clock - utc(log_end) > timedelta(days=REPLAY_DAYS)
    return log_end if replayed else max(log_end, int(clock.timestamp()))


def add_feedback(
    workspace: Workspace,
    user_id: str,
    item_id: str,
    event: str,
    *,
    at: datetime | None = None,
    request_id: str | None = None,
    value: float | None = None,
    quantity: float = 1.0,
    price: float | None = None,
) -> Any:
    """Append one event of a person, by the shop's own id. `at` defaults to the present of the log.

    Returns the store's account of it. Raises `UsageError` for an unknown event or item.
    """
    from recllm.ingest import record_events

    known = [a.value for a in Action if a is not Action.SHOWN]
    if event not in known:
        raise UsageError(f"--event is one of {', '.join(known)}, not {event!r}")
    if (value is None) == (event == Action.RATING):
        raise UsageError("a rating needs --value, and only a rating takes one")
    items = workspace.store().items()
    if item_id not in items["item_id"]:
        raise UsageError(f"no item {item_id!r} in the catalogue; see recllm describe")
    moment = at or utc(present(_log_end(workspace)))
    row = {
        "user_id": workspace.pseudonymiser().one(user_id),
        "item_id": item_id,
        "event": event,
        "timestamp": moment,
        "request_id": request_id,
        "value": value,
        "quantity": quantity,
        "price": price,
    }
    schema = {**FEEDBACK_SCHEMA, "value": pl.Float64, "quantity": pl.Float64, "price": pl.Float64}
    frame = pl.DataFrame([row], schema={name: schema[name] for name in row})
    return record_events(frame, workspace.store(), source="feedback")


def record_shown(workspace: Workspace, slates: Sequence[Slate]) -> int:
    """Append what was shown, of people who may be counted (purpose analytics); returns the number of events."""
    from recllm.ingest import record_events

    names = workspace.pseudonymiser().many([s.user_id for s in slates])
    permitted = workspace.gate().permits_each(names, Purpose.ANALYTICS)
    pairs = [(s, n) for s, n, yes in zip(slates, names, permitted, strict=True) if yes and s.items]
    if not pairs:
        return 0
    frame = shown_events([s for s, _ in pairs])
    alias = {s.user_id: n for s, n in pairs}
    frame = frame.with_columns(pl.col("user_id").replace_strict(alias))
    return int(record_events(frame, workspace.store(), source="served").accepted)


def feedback_report(workspace: Workspace) -> tuple[Outcome, ...]:
    """What became of what was shown, by model version, over people who may be counted."""
    return outcomes(workspace.gate().events(Purpose.ANALYTICS))


# --- learn -----------------------------------------------------------------------------------------------------------


def workspace_encoder(workspace: Workspace) -> Encoder:
    """The workspace's encoder behind its cache on disk; bfloat16 where a probe, kept in the cache, found it pays."""
    from recllm.encoder import load_encoder

    return load_encoder(workspace.settings.encoder, cache_dir=workspace.cache_dir / "vectors", precision="auto")


def export_encoder(
    folder: Path,
    *,
    workspace: Path | None = None,
    encoder: str | None = None,
    adapter: Path | None = None,
    int8: bool = True,
) -> Exported:
    """An encoder, the workspace's or the named one, written for onnxruntime; see `recllm.encoder.onnx_export`.

    With a workspace the vectors are compared on its item texts, else on those of the probe. Raises `UsageError` for an
    encoder that is no transformers model.
    """
    from recllm.encoder import DEFAULT_ENCODER, HuggingFaceEncoder, load_encoder
    from recllm.encoder.onnx_export import export_onnx
    from recllm.encoder.precision import PROBE_TEXTS
    from recllm.text import item_texts

    texts, name = list(PROBE_TEXTS), encoder or DEFAULT_ENCODER
    if workspace is not None:
        with Workspace.open(str(workspace)) as opened:
            name = encoder or opened.settings.encoder
            items = opened.gate().dataset(Purpose.ANALYTICS).items
            texts = item_texts(items, opened.settings.locale) or texts
    loaded = load_encoder(name, adapter=adapter, device="cpu", progress=False)
    if not isinstance(loaded, HuggingFaceEncoder):
        raise UsageError(f"the encoder {name!r} is not a transformers model, so there is nothing to export")
    return export_onnx(loaded, folder, texts=texts, int8=int8)


def train_workspace(
    workspace: Workspace,
    *,
    seed: int = 0,
    encoder: Encoder | None = None,
    progress: Callable[[str], None] | None = None,
    lora: LoraArguments | None = None,
    tuned: TunedEncoder | None = None,
    **arguments: Any,
) -> Trained:
    """Train the scorer on people who agreed to it, and publish it as the current model.

    `arguments` are fields of `TrainingArguments`; without any, `recllm.advise` chooses them, and in any case whether
    there is a sequence model. lora: fine-tune the
    encoder first; its adapter becomes part of the model. tuned: what `tune_workspace` gave, instead of that. Raises
    `DataError` when the log is too small to learn from.
    """
    from recllm.recommender import Recommender
    from recllm.training import TrainingArguments

    started = time.monotonic()
    data = workspace.gate().dataset(Purpose.MODEL_TRAINING)
    if not len(data.events):
        raise PolicyError(
            "nobody in this workspace has agreed to model training; load a consent table, "
            "or make the workspace with --consent-default granted"
        )
    base, locale = encoder or workspace_encoder(workspace), workspace.settings.locale
    if lora is not None:
        tuned = tune_workspace(workspace, lora, encoder=base, progress=progress)
    recommender = Recommender(data, tuned.encoder if tuned else base, locale=locale)
    advice = _advice(workspace, data, seed=seed)
    args = TrainingArguments(seed=seed, **arguments) if arguments else _advised(advice)
    recommender = recommender.fit(args, interests=advice.interests, progress=progress)
    if tuned and recommender.model:
        recommender.model = replace(recommender.model, adapter=tuned.adapter)
    version = recommender.publish(workspace.models_dir)
    assert recommender.model is not None  # noqa: S101 - fit returned
    return Trained(
        model_version=version,
        rows=len(data.events),
        seconds=time.monotonic() - started,
        metrics=recommender.model.metrics,
    )


def tune_workspace(
    workspace: Workspace,
    lora: LoraArguments | None = None,
    *,
    encoder: Encoder | None = None,
    progress: Callable[[str], None] | None = None,
) -> TunedEncoder:
    """Fine-tune the encoder on people who agreed to training, in a folder of the cache.

    An interrupted run of the same data and settings goes on there. `recllm.finetuning.tune_encoder` tells the errors.
    """
    from recllm.finetuning import LoraArguments, run_folder_name, tune_encoder

    lora, base = lora or LoraArguments(), encoder or workspace_encoder(workspace)
    data = workspace.gate().dataset(Purpose.MODEL_TRAINING)
    return tune_encoder(
        data,
        base,
        lora,
        workspace.cache_dir / "lora" / run_folder_name(data, base, lora),
        progress,
        locale=workspace.settings.locale,
        consent="people of the workspace who agreed to model training, no one else",
    )


def advise_data(*, workspace: Path | None = None, data: Path | None = None, encoder: str | None = None) -> Advice:
    """Advice for a workspace, on people who agreed to training, or for a folder of parquet tables.

    encoder: one that is decided on; the workspace's own when its settings name another than the default. Raises
    `UsageError` when neither or both sources are given.
    """
    from recllm.advise import advise
    from recllm.evaluation import read_folder
    from recllm.text import item_texts

    if (workspace is None) == (data is None):
        raise UsageError("give one of --workspace and --data")
    if workspace is not None:
        with Workspace.open(str(workspace)) as opened:
            return _advice(opened, opened.gate().dataset(Purpose.MODEL_TRAINING), encoder)
    tables = read_folder(Path(str(data)))
    whole = tables.dataset()
    return advise(whole, item_texts(whole.items), encoder=encoder)


def _advice(workspace: Workspace, data: Dataset, encoder: str | None = None, seed: int = 0) -> Advice:
    from recllm.advise import advise
    from recllm.encoder import DEFAULT_ENCODER
    from recllm.text import item_texts

    settings = workspace.settings
    decided = encoder or (settings.encoder if settings.encoder != DEFAULT_ENCODER else None)
    return advise(data, item_texts(data.items, settings.locale), encoder=decided, seed=seed)


def _advised(advice: Advice) -> TrainingArguments:
    if advice.training is None:
        raise DataError(f"{'; '.join(advice.missing)}. Without training there is {advice.mode}: recllm recommend works")
    return advice.training


def evaluate_data(
    *,
    workspace: Path | None = None,
    data: Path | None = None,
    split: str = "time",
    test_days: int = 28,
    slices: Sequence[str] = (),
    baselines: Sequence[str] = (),
    encoder: Encoder | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure `recllm`, trained on what came before, beside baselines on a workspace or a folder of parquet tables.

    The scorer learns to look as far ahead as the test window reaches. Without `slices` the split's own are used; "all"
    among the baselines stands for every one. Raises `UsageError` when neither or both sources are given, or the test
    days do not fit into the log.
    """
    from recllm.encoder import load_encoder
    from recllm.evaluation import BASELINES, evaluate, read_folder, split_tables, systems_for, time_split
    from recllm.training import TrainingArguments

    if (workspace is None) == (data is None):
        raise UsageError("give one of --workspace and --data")
    if data is not None:
        window = split_tables(read_folder(data), split=split, test_days=test_days, slices=tuple(slices) or None)
        load = load_encoder if encoder is None else lambda: encoder
    else:
        if split != "time":
            raise UsageError("a workspace is split by time; --split column is for a folder of tables")
        opened = Workspace.open(str(workspace))
        known = opened.gate().dataset(Purpose.ANALYTICS)
        chosen = tuple(slices) or ("ALL", "NEW", "COLD")
        window = time_split(known, test_days=test_days, name=f"workspace-last{test_days}", slices=chosen)
        load = (lambda: workspace_encoder(opened)) if encoder is None else lambda: encoder
    arguments = TrainingArguments(horizon_days=test_days if split == "time" else 28, seed=seed)
    names = ("recllm", *(BASELINES if "all" in baselines else baselines))
    systems = systems_for(window, names, load, arguments=arguments, seed=seed, progress=progress)
    return evaluate(window, systems, seed=seed)


# --- answer ----------------------------------------------------------------------------------------------------------


def open_recommender(
    workspace: Workspace,
    *,
    version: str | None = None,
    locale: str | None = None,
    encoder: Encoder | None = None,
    now: datetime | None = None,
) -> Recommender:
    """The recommender of a workspace: people who agreed to personalisation, and the current or named model.

    Without a trained model, slates rank by text alone and say so.
    """
    from recllm.artifacts import current
    from recllm.encoder import with_adapter
    from recllm.model import load_model
    from recllm.recommender import Recommender

    gate, names = workspace.gate(), workspace.pseudonymiser()
    data = gate.dataset(Purpose.PERSONALISATION)
    data = data.before(present(data.as_of, now))
    trained = version is not None or current(workspace.models_dir) is not None
    model = load_model(workspace.models_dir, version) if trained else None
    if encoder is None:
        encoder = workspace_encoder(workspace)
        encoder = encoder if model is None or model.adapter is None else with_adapter(encoder, model.adapter)
    return Recommender(
        data,
        encoder,
        model=model,
        policy=workspace.policy,
        locale=locale or workspace.settings.locale,
        pseudonyms=names.many,
        permits=lambda ids: gate.permits_each(ids, Purpose.PERSONALISATION),
    )


def find_audience(
    workspace: Workspace,
    *,
    channel: str | None = None,
    exclusions: Mapping[str, Any] | None = None,
    recommender: Recommender | None = None,
    version: str | None = None,
    locale: str | None = None,
    **target: Any,
) -> Audience:
    """The people to reach. `target` is what `recllm.audiences.audience` takes, and tells its errors.

    channel: also leave out who has not agreed to it. exclusions: fields of `Exclusions`. Everybody who is known and has
    not agreed to personalisation is counted among the excluded.
    """
    from recllm.audiences import Exclusions, audience
    from recllm.audiences.exclusions import NO_CONSENT

    gate, purpose = workspace.gate(), CHANNEL_PURPOSE.get(channel or "")
    if channel is not None and purpose is None:
        raise UsageError(
            f"nobody can agree to the channel {channel!r}; those with consent: {', '.join(CHANNEL_PURPOSE)}"
        )
    agreed = None if purpose is None else lambda ids: gate.permits_each(ids, purpose)
    opened = recommender or open_recommender(workspace, version=version, locale=locale)
    found = audience(opened, exclusions=Exclusions(agreed=agreed, **(exclusions or {})), **target)
    with workspace.store().read() as reader:
        outside = reader.counts()["users"] - opened.dataset.n_users
    if outside <= 0:
        return found
    counted = {NO_CONSENT: found.excluded.get(NO_CONSENT, 0) + outside}
    return replace(found, excluded=counted | {k: n for k, n in found.excluded.items() if k != NO_CONSENT})


def person_profile(workspace: Workspace, user_id: str, locale: str) -> tuple[Profile, UserTexts]:
    """One person's profile and its texts. Raises `PolicyError` without consent, `UsageError` for a stranger."""
    from recllm.profiles import build_profile
    from recllm.text import user_texts

    data = workspace.gate().dataset(Purpose.PERSONALISATION)
    row = _known_row(workspace, data, workspace.pseudonymiser().one(user_id))
    profile = build_profile(data, row, as_of=present(data.as_of))
    return profile, user_texts(profile, data.items, locale)


def person_evolution(
    workspace: Workspace,
    user_id: str,
    *,
    by: By = "auto",
    encoder: Encoder | None = None,
) -> Evolution:
    """How one person's interests moved. Raises `PolicyError` without consent, `UsageError` for a stranger."""
    from recllm.evolution import evolve
    from recllm.vectors import item_vectors

    name = workspace.pseudonymiser().one(user_id)
    data = workspace.gate().dataset(Purpose.PERSONALISATION)
    row = _known_row(workspace, data, name)
    vectors = item_vectors(encoder or workspace_encoder(workspace), data, workspace.settings.locale)
    return evolve(data, row, vectors, present(data.as_of), by=by, policy=workspace.policy)


def _known_row(workspace: Workspace, data: Dataset, name: str) -> int:
    if not workspace.gate().permits(name, Purpose.PERSONALISATION):
        raise PolicyError("this person has not agreed to personalisation; nothing was read")
    row = int(data.user_rows([name])[0])
    if row < 0:
        raise UsageError("nobody with this id is known; check the id, or load the users and events tables")
    return row


def write_ads(
    workspace: Workspace,
    users: Sequence[str],
    *,
    item_id: str | None = None,
    channel: str = "email",
    locale: str | None = None,
    generator: str | Generator | None = "template",
    adapter: Path | None = None,
    seed: int = 0,
    recommender: Recommender | None = None,
    packs: Sequence[Pack] = (),
    voice: Voice | None = None,
    variants: int = 1,
    records: Path | None = None,
) -> list[AdCopy]:
    """One checked ad text per person, or up to `variants`, for `item_id` or for each person's best item.

    A generative model is used only for people who agreed to it (purpose llm_local, or llm_third_party for a server);
    the others get the shop's own lines. A local one that is given by name, with its `adapter`, runs in a process of its
    own, and texts go on without it when it fails. `records` is the folder that receives what makes a text again.
    Raises `PolicyError` when a person has not agreed to personalisation, or to the channel: there is no personal ad
    without it.
    """
    from recllm.adcopy.record import keep
    from recllm.generator import HttpGenerator

    names, gate = workspace.pseudonymiser().many(users), workspace.gate()
    for purpose in filter(None, (Purpose.PERSONALISATION, CHANNEL_PURPOSE.get(channel))):
        if not all(gate.permits_each(names, purpose)):
            raise PolicyError(f"someone of the list has not agreed to {purpose}: no personal ad; nothing was written")
    found_as = generator if isinstance(generator, str) else ""
    with open_generator(generator, workspace.cache_dir, adapter=adapter) as speaker:
        model_use = Purpose.LLM_THIRD_PARTY if isinstance(speaker, HttpGenerator) else Purpose.LLM_LOCAL
        modelled = gate.permits_each(names, model_use)
        open_one = recommender or open_recommender(workspace, locale=locale)
        chosen = {"items_to_recommend": [item_id]} if item_id else {}
        slates = open_one.recommend(users, k=AD_CHOICE, explain=True, **chosen)  # type: ignore[arg-type]
        texts: list[AdCopy] = []
        for slate, yes in zip(slates, modelled, strict=True):
            request = ad_request(open_one, slate, workspace, channel=channel, locale=locale, seed=seed)
            request = replace(request, packs=tuple(packs), voice=voice or request.voice, variants=variants)
            texts += keep(
                request,
                records,
                generator=speaker if yes else None,
                encoder=open_one.encoder,
                found_as=found_as,
                adapter=str(adapter or ""),
                user_id=slate.user_id,
            )
    return texts


@contextmanager
def open_generator(
    generator: str | Generator | None, cache_dir: Path, *, adapter: Path | None = None
) -> Iterator[Generator | None]:
    """A generator by its name, a local one in its own process, which ends with the block; another one as it is."""
    from recllm.generator import ProcessGenerator, find_generator

    if not isinstance(generator, str):
        yield generator
        return
    found = find_generator(generator, cache_dir=cache_dir / "generators", adapter=adapter, own_process=True)
    try:
        yield found
    finally:
        if isinstance(found, ProcessGenerator):
            found.close()


def replay_ad(
    workspace: Path,
    record_id: str,
    *,
    records: Path,
    generator: str | None = None,
    adapter: Path | None = None,
    packs: Sequence[Pack] = (),
) -> AdCopy:
    """The text of a record, made again. Generator and adapter are the record's, unless they lie elsewhere now.

    Raises `DataError` for an unknown record, `GenerationError` saying what changed when it cannot be the same text.
    """
    from recllm.adcopy.record import load, replay

    record = load(records, record_id)
    tuned = adapter or (Path(record.adapter) if record.adapter else None)
    with open_generator(generator or record.found_as, workspace / "cache", adapter=tuned) as speaker:
        encoder = None
        if record.encoder:
            with Workspace.open(workspace) as opened:
                encoder = open_recommender(opened).encoder
        return replay(record, generator=speaker, encoder=encoder, packs=packs)


def ad_for(
    recommender: Recommender,
    slate: Slate,
    workspace: Workspace,
    *,
    channel: str,
    locale: str | None = None,
    generator: Generator | None = None,
    seed: int = 0,
) -> AdCopy:
    """The ad text for the first item of a slate that is of no sensitive category: those are never targeted.

    Raises `UsageError` for an empty slate, `PolicyError` when every item of it is sensitive.
    """
    from recllm.adcopy import write_recorded

    request = ad_request(recommender, slate, workspace, channel=channel, locale=locale, seed=seed)
    copy, _ = write_recorded(request, generator=generator, encoder=recommender.encoder)
    return replace(copy, user_id=slate.user_id, record_id=None)


def ad_request(
    recommender: Recommender,
    slate: Slate,
    workspace: Workspace,
    *,
    channel: str,
    locale: str | None = None,
    seed: int = 0,
) -> CopyRequest:
    """What `ad_for` asks for."""
    from recllm.adcopy import CopyRequest

    if not slate.items:
        raise UsageError("there is no item to advertise: the catalogue has none on offer, or the filter leaves none")
    offered = [(shown, catalogue_item(recommender.dataset, shown.item_id)) for shown in slate.items]
    fit = [(s, i) for s, i in offered if not workspace.policy.is_sensitive((*i.category, i.title))]
    if not fit:
        raise PolicyError(
            "sensitive products are not advertised to single people; see sensitive_categories in [policy]"
        )
    best, item = fit[0]
    return CopyRequest(
        item=item,
        channel=channel,
        now=slate.as_of,
        locale=locale or workspace.settings.locale,
        reason=best.reasons[0] if best.reasons else None,
        seed=seed,
        known_brands=tuple(sorted(recommender.brands)),
        policy=workspace.policy,
    )


def catalogue_item(dataset: Dataset, item_id: str) -> Item:
    """The item as the ad copy's facts need it. Raises `DataError` for an unknown one."""
    import json

    row = int(dataset.item_rows([item_id])[0])
    if row < 0:
        raise DataError(f"no item {item_id!r} in the catalogue")
    found = dataset.items.row(row, named=True)
    price = found["price"]
    return Item(
        item_id=item_id,
        title=found["title"] or "",
        category=tuple(found["category"] or ()),
        brand=found["brand"],
        description=found["description"],
        price=None if price is None else Decimal(str(price)),  # shortest text of the float: 3.99, not 3.98999...
        currency=found["currency"],
        available=found["available"],
        attributes=json.loads(found["attributes"]) if found["attributes"] else {},
    )


def _log_end(workspace: Workspace) -> int:
    with workspace.store().read() as reader:
        last = reader.last_event()
    return int((last or datetime.now(UTC)).timestamp()) + (last is not None)
