"""A workspace's recommender: opened with its serving state, published, and brought up to the present."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.errors import ModelError
from recllm.base.schema import Encoder, Progress, Purpose, Table
from recllm.learn.features.item_vectors import new_item_vectors
from recllm.recommend.recommender.lineage import Lineage, Origin
from recllm.recommend.recommender.people import AgreedPeople, StorePeople
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import (
    check_usable,
    current,
    mark_tainted,
    new_version,
    note_refresh,
    publish,
    serving,
)
from recllm.recommend.recommender.saved_model import Model, lineage_of, load_model, save_model
from recllm.recommend.recommender.serving_state import CatalogueState, open_catalogue_state, population_of, together_of
from recllm.recommend.recommender.shop_index import bring_index_along, catalogue_index
from recllm.recommend.recommender.shop_states import (
    forget_in_states,
    newest_state,
    people_who_agree,
    remove_states,
    states,
    write_state,
)
from recllm.shop.data.dataset import Dataset, hash_order
from recllm.shop.workspace.workspace import Workspace, present

logger = logging.getLogger(__name__)


def usable_version(workspace: Workspace) -> str | None:
    """The serving version; None before the first, and where it learned from people who were erased and its time to be
    replaced is over: the shop answers without a trained model then, and says so."""
    version = current(workspace.models_dir)
    if version is None:
        return None
    try:
        check_usable(workspace.models_dir, version)
    except ModelError as error:
        logger.warning("ranked by counting and texts: %s", error)
        return None
    return version


def workspace_encoder(workspace: Workspace) -> Encoder:
    """The workspace's encoder behind its cache on disk."""
    from recllm.text.encoder.loading import load_encoder

    return load_encoder(workspace.settings.encoder, cache_dir=workspace.cache_dir / "vectors")


def open_recommender(
    workspace: Workspace,
    *,
    version: str | None = None,
    state: str | None = None,
    locale: str | None = None,
    encoder: Encoder | None = None,
    now: datetime | None = None,
    everybody: bool = False,
    recompute: bool = False,
) -> Recommender:
    """The recommender of a workspace: people who agreed to personalisation, and the current or named model.

    A published model is opened with its newest serving state, or with the one of the name `state`, and the history of
    each user who is asked for is read by key.
    everybody: `Recommender.dataset` holds all people, for jobs over them. recompute: count everything again from the
    store, which is slow, and what a state is compared with. Without a trained model, slates rank by counting and texts,
    and say so.
    """
    gate, names = workspace.gate(), workspace.pseudonymiser()
    version = version or usable_version(workspace)
    trained = version is not None
    model = load_model(workspace.models_dir, version) if trained else None
    common: dict[str, Any] = {
        "model": model,
        "policy": workspace.policy,
        "locale": workspace.locale(locale),
        "offers": workspace.settings.offers,
        "pseudonyms": names.many,
        "permits": lambda ids: gate.permits_each(ids, Purpose.PERSONALISATION),
    }
    encoder = encoder or model_encoder(workspace, model)
    if model is None or recompute:
        data = gate.dataset(Purpose.PERSONALISATION)
        data = data.before(present(workspace, now))
        return Recommender(data, encoder, text_locale=workspace.settings.locale, **common)
    folder = _state_folder(workspace, str(version), state, encoder)
    catalogue, people = open_catalogue_state(folder), people_who_agree(workspace, folder)
    items = _current_items(workspace, catalogue)
    shop = replace(Dataset.of_catalogue(items, present(workspace, now)), step_seconds=gate.step_seconds())
    population = population_of(catalogue, people, model.population, model.interests)
    if n_new := items.height - catalogue.items.height:
        grown = pl.concat([catalogue.items, items.tail(n_new)])
        paid = pl.Series(np.expm1(population.stats.log_price.astype(np.float64))).extend_constant(None, n_new)
        priced = grown.with_columns(pl.coalesce("price", paid.fill_nan(None)))
        vectors = new_item_vectors(encoder, priced, n_new, catalogue.locale)
        population = population.with_new_items(grown, vectors)
    population = replace(population, index=catalogue_index(workspace, model, catalogue))
    together = together_of(catalogue, items.height)
    common |= {"text_locale": catalogue.locale, "together": together}
    if everybody:
        data, pool = AgreedPeople.read(gate, shop, people).dataset()
        return Recommender(data, encoder, population=replace(population, pool=pool), **common)
    reader = StorePeople(gate, shop, people)
    return Recommender(shop, encoder, population=population, people=reader, **common)


def _state_folder(workspace: Workspace, version: str, name: str | None, encoder: Encoder) -> Path:
    """Of the state of this name, or the newest one, which is made where the version has none."""
    if name is not None:
        folder = next((folder for folder in states(workspace, version) if folder.name == name), None)
        if folder is None:
            raise ModelError(f"{workspace.root}: the serving state {name} is gone; begin again, with the present one")
        return folder
    if newest_state(workspace, version) is None:
        logger.warning("the model %s has no serving state; it is counted now, as recllm refresh does", version)
        write_state(workspace, load_model(workspace.models_dir, version), encoder)
    folder = newest_state(workspace, version)
    assert folder is not None  # noqa: S101 - it was written
    return folder


def model_encoder(workspace: Workspace, model: Model | None) -> Encoder:
    from recllm.text.encoder.loading import with_adapter

    encoder = workspace_encoder(workspace)
    return encoder if model is None or model.adapter is None else with_adapter(encoder, model.adapter)


def _current_items(workspace: Workspace, catalogue: CatalogueState) -> pl.DataFrame:
    """The state's items as the store describes them now, and behind them those that it does not have yet.

    Only what was changed since is read.
    """
    with workspace.store().read() as reader:
        item_load = reader.marks().load_no.get(Table.ITEMS, 0)
    if item_load == catalogue.item_load:
        return catalogue.items
    columns = catalogue.items.columns
    if item_load > catalogue.item_load:
        changed = workspace.gate().catalogue(after_load=catalogue.item_load).select(columns)
        described = catalogue.items.update(changed, on="item_id", include_nulls=True)
    else:  # an older copy of the store than the state was made from
        changed = workspace.gate().catalogue().select(columns)
        described = _described(catalogue.items, changed)
    # one that is off sale, too: it may lie in a cart, or be asked about; but none of which events alone tell
    new = changed.join(catalogue.items, on="item_id", how="anti").filter(pl.col("title").is_not_null())
    return pl.concat([described, new[hash_order(new["item_id"])]])


def _described(items: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """The same items as the catalogue describes them now; what it has not is not available."""
    described = items.select("item_id").join(now, on="item_id", how="left", maintain_order="left")
    return described.with_columns(pl.col("available").fill_null(False)).select(items.columns)


def with_current_offer(workspace: Workspace, recommender: Recommender) -> Recommender:
    """A recommender in memory whose files are gone, with what the store says of its items now. New items wait until it
    can be opened again."""
    return recommender.offering(_described(recommender.dataset.items, workspace.gate().catalogue()))


def publish_recommender(
    workspace: Workspace,
    model: Model,
    encoder: Encoder,
    *,
    lineage: Lineage | None = None,
    now: datetime | None = None,
    erased: Collection[str] | None = None,
    progress: Progress | None = None,
) -> str:
    """Make a model the current one, with the serving state of the people who agreed to personalisation.

    encoder: that of the model. lineage: where it comes from; None for a training by hand. A model that the gate refused
    is kept and does not serve. erased: who had been erased before the data of the training were read; where others were
    erased since, the version is marked as `mark_tainted` does. Returns the version.
    """
    folder, version = workspace.models_dir, new_version()
    erased = _erased(workspace) if erased is None else erased
    lineage = lineage or lineage_of(model, Origin.TRAINED, serving(folder))
    try:  # the state first: on a full disk the old version goes on with what it has
        if lineage.is_refused:
            with workspace.store().read() as reader:
                last_load = max(reader.marks().load_no.values(), default=0)
        else:
            named = replace(model, version=version)
            last_load = write_state(workspace, named, encoder, now=now, progress=progress)
        lineage = lineage.model_copy(update={"last_load": last_load})
        publish(folder, lambda draft: save_model(model, draft), version=version, lineage=lineage)
    finally:
        if serving(folder) != version:
            remove_states(workspace, version)
    _mark_erased_since(workspace, version, erased)
    if serving(folder) == version:
        bring_index_along(workspace, progress)
    return version


def refresh(workspace: Workspace, *, progress: Progress | None = None) -> str:
    """Bring the serving state of the current model up to the present; returns the version, which stays as it is.

    Raises `NotFittedError` when nothing was trained.
    """
    model, erased = load_model(workspace.models_dir), _erased(workspace)
    version = str(model.version)
    last_load = write_state(workspace, model, model_encoder(workspace, model), progress=progress)
    note_refresh(workspace.models_dir, version, last_load)
    _mark_erased_since(workspace, version, erased)
    bring_index_along(workspace, progress)
    return version


def _erased(workspace: Workspace) -> set[str]:
    return set(workspace.store().tombstones())


def _mark_erased_since(workspace: Workspace, version: str, erased: Collection[str]) -> None:
    """erased: before the data were read that the version, or its state, was made of."""
    if _erased(workspace) - set(erased):
        at = datetime.now(UTC)
        mark_tainted(workspace.models_dir, [version], at=at, use_until=tainted_until(workspace, at))
        forget_in_states(workspace)


def tainted_until(workspace: Workspace, at: datetime) -> datetime:
    """Until when a model may be used that learned from a customer who was erased at a time."""
    return at + timedelta(days=workspace.settings.retention.tainted_models)
