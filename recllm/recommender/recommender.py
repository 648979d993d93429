"""The composition: a person to a slate, with reasons.

    recommender = Recommender(dataset, encoder).fit()
    slate = recommender.recommend("ann", k=10)[0]

The ladder, each step saying its name in `served_by` and its cause in `degraded_reason`: the trained score; without a
model, the cosine of texts alone; without anything known of the person, or without their consent, what is popular now.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.catalogue import allowed_items
from recllm.data.dataset import USER_COLUMN, Dataset, Events, utc
from recllm.errors import UsageError
from recllm.explain.leave_one_out import Pairs, Person, Speaker, Unit, choose, deltas, units_of
from recllm.features.candidates import POPULAR, served_by
from recllm.features.collaborative import Population
from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.policy import Policy
from recllm.profiles.profile import build_profile
from recllm.recommender.ranking import Ranked, rank, rank_items, score_pairs
from recllm.recommender.saved_model import Model, publish_model
from recllm.recommender.text_ranking import rank_by_text, score_by_text
from recllm.schema import ACTION_CODE, Action, Encoder, Profile, Reason, Recommendation, Slate
from recllm.settings import (
    CandidateSettings,
    CollaborativeSettings,
    ExplanationSettings,
    ScorerTrainingSettings,
    SequenceModelSettings,
)
from recllm.text.items import item_names
from recllm.text.reasons import reason_text
from recllm.text.users import UserTexts, user_texts
from recllm.training.item_calibration import ItemOffsets
from recllm.training.scorer import fit_scorer

if TYPE_CHECKING:
    from recllm.schema import FloatArray

NO_CONSENT = "no consent to personalisation: what is popular now"
UNKNOWN = "nothing is known of this person: what is popular now"
UNTRAINED = "no trained model: ranked by text similarity alone"

NAMESAKES = 100
"""So many more items are ranked than are asked for, because several may share a name."""

Pseudonyms = Callable[[Sequence[str]], list[str]]
Permits = Callable[[Sequence[str]], list[bool]]


@dataclass(frozen=True)
class _Asked:
    """People of one call that get personal slates. place: where each stands in the caller's list."""

    place: list[int]
    rows: NDArray[np.int64]


class Recommender:
    """Ranks a catalogue for people and says why.

    dataset: those who agreed, and what they did. `pseudonyms` turns the caller's ids into the dataset's; answers carry
    the caller's own. `permits` says who may be served personally; without it everybody in the dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        *,
        model: Model | None = None,
        policy: Policy | None = None,
        locale: str = "en",
        explanations: ExplanationSettings | None = None,
        pseudonyms: Pseudonyms | None = None,
        permits: Permits | None = None,
    ) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self.model = model
        self.policy = policy or Policy()
        self.locale = locale
        self.explanations = explanations or ExplanationSettings()
        self._pseudonyms = pseudonyms or list
        self._permits = permits or (lambda ids: [True] * len(ids))
        _check_encoder(model, encoder)

    def __repr__(self) -> str:
        trained = self.model.version or "trained" if self.model else "no model"
        return f"Recommender({self.dataset.n_users} people, {self.dataset.n_items} items, {trained})"

    # --- what is computed once ---------------------------------------------------------------------------------------

    @cached_property
    def item_vectors(self) -> FloatArray:
        """Unit rows, (n_items, dim)."""
        return item_vectors(self.encoder, self.dataset, self.locale)

    @cached_property
    def population(self) -> Population:
        """The crowd as of the dataset's time."""
        settings = self.model.population if self.model else None
        told = basics_vectors(self.encoder, basics_of(self.dataset.users), self.locale)
        weights = self.model.interests if self.model else None
        ids = self.dataset.items["item_id"].to_list()
        interests = None if weights is None else weights.bind(ids, self.item_vectors)
        return Population.fit(self.dataset, self.item_vectors, settings, told, interests)

    @cached_property
    def item_offsets(self) -> FloatArray | None:
        """Calibration of each item, (n_items,); None without one."""
        known = self.model.item_offsets if self.model else None
        return None if known is None else known.bind(self.dataset.items["item_id"].to_list())

    @cached_property
    def brands(self) -> frozenset[str]:
        """Every brand of the catalogue."""
        return frozenset(self.dataset.items["brand"].drop_nulls().unique().to_list())

    def warm(self) -> Recommender:
        """Compute now what the first answer would otherwise wait for."""
        _ = (self.item_vectors, self.population, self.item_offsets)
        return self

    # --- learn -------------------------------------------------------------------------------------------------------

    def fit(
        self,
        arguments: ScorerTrainingSettings | None = None,
        *,
        interests: SequenceModelSettings | None = None,
        collaborative: CollaborativeSettings | None = None,
        candidates: CandidateSettings | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Recommender:
        """A recommender with a scorer trained on the dataset; this one stays as it is.

        interests: settings of the sequence model, which is trained first; None leaves it out. collaborative,
        candidates: settings of what is counted and proposed.
        Raises `DataError` when the log is too small or too short to learn from.
        """
        arguments = arguments or ScorerTrainingSettings()
        told = basics_vectors(self.encoder, basics_of(self.dataset.users), self.locale)
        ids = self.dataset.items["item_id"].to_list()
        fitted = fit_scorer(
            self.dataset,
            self.item_vectors,
            told,
            arguments,
            progress,
            population=collaborative,
            settings=candidates,
            interests=interests,
        )
        model = Model(
            scorer=fitted.scorer,
            population=fitted.population,
            candidates=fitted.candidates,
            encoder=self.encoder.name,
            encoder_fingerprint=self.encoder.fingerprint,
            horizon_days=arguments.horizon_days,
            metrics=fitted.metrics,
            training=_training_record(self.dataset, arguments, fitted.notes),
            interests=None if fitted.interests is None else fitted.interests.weights(ids),
            item_offsets=None if fitted.item_offsets is None else ItemOffsets.of(ids, fitted.item_offsets),
        )
        return self._with(model=model)

    def publish(self, models_dir: Path) -> str:
        """Make the trained model the current one of `models_dir`; returns its version. An untrained one raises."""
        if self.model is None:
            raise UsageError("there is no trained model to publish: call fit first")
        version = publish_model(self.model, models_dir)
        self.model = replace(self.model, version=version)
        return version

    # --- answer ------------------------------------------------------------------------------------------------------

    def recommend(
        self,
        users: str | Sequence[str],
        *,
        k: int = 10,
        filter_viewed: bool = False,
        items_to_recommend: Iterable[str] | None = None,
        exclude_items: Iterable[str] = (),
        where: str | None = None,
        twins: bool = False,
        explain: bool = True,
        popularity_weight: float | None = None,
    ) -> list[Slate]:
        """One slate per person, in order.

        filter_viewed: leave out what the person bought; off, because many shops live from buying again.
        items_to_recommend: only these item ids, also ones that never sold; exclude_items: not these. where: an SQL
        condition on item_id, title, category ("a > b > c"), brand, price, currency, e.g. "price < 50". twins: show
        several items of one name; otherwise only the best of them. What a person dismissed and did not buy since is
        never shown. Filters come before the ranking, so a slate is short only when
        fewer than `k` items pass them, and says so. popularity_weight: above 0 shows more of the catalogue and less of
        what everybody buys, see `recllm.recommender.ranking.rank`; the policy's own when None. Slates of the lower
        steps of the
        ladder do not know it. Raises `UsageError` for a `k` below 1, a weight outside of [0, 1], an unknown item, or a
        condition that cannot be read.
        """
        asked = [users] if isinstance(users, str) else list(users)
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 item")
        weight = self.policy.popularity_weight if popularity_weight is None else popularity_weight
        if not 0 <= weight <= 1:
            raise UsageError(f"popularity_weight is {weight}; give 0 (by score alone) to 1 (by lift over popularity)")
        allowed = allowed_items(self.dataset, items_to_recommend, exclude_items, where)
        names = self._pseudonyms(asked)
        permitted, rows = self._permits(names), self.dataset.user_rows(names)
        personal = self._personal(permitted, rows)
        explicit = np.flatnonzero(allowed) if items_to_recommend is not None else None
        slates: dict[int, Slate] = {}
        if len(personal.rows):
            more = k if twins else k + NAMESAKES
            ranked = self._rank(personal.rows, more, allowed, explicit, weight, repeats=not filter_viewed)
            for n, place in enumerate(personal.place):
                best = self._best(ranked, n, k, twins)
                slates[place] = self._slate(asked[place], int(personal.rows[n]), ranked, n, best, explain)
        for place, name in enumerate(asked):
            if place not in slates:
                why = UNKNOWN if permitted[place] else NO_CONSENT
                slates[place] = self._popular(name, k, allowed, why, twins)
        return [_with_note(slates[place], k) for place in range(len(asked))]

    def explain(self, user: str, item: str) -> tuple[Reason, ...]:
        """Why this item for this person, whether or not it would be shown.

        Raises `UsageError` for an unknown item, or a person of whom nothing is known.
        """
        slate = self.recommend(user, k=1, items_to_recommend=[item])[0]
        if slate.model_version is None and slate.degraded_reason in (NO_CONSENT, UNKNOWN):
            raise UsageError(f"nothing to explain: {slate.degraded_reason}")
        return slate.items[0].reasons if slate.items else ()

    def profile(self, user: str) -> tuple[Profile, UserTexts]:
        """The person's profile as of the dataset's time, and its texts. Raises `UsageError` for a stranger."""
        row = int(self.dataset.user_rows(self._pseudonyms([user]))[0])
        if row < 0:
            raise UsageError("nobody with this id is known here; check the id, or the consent table")
        profile = build_profile(self.dataset, row)
        return profile, user_texts(profile, self.dataset.items, self.locale)

    def observe(self, user: str, item: str, action: Action, *, at: int | None = None) -> Recommender:
        """A recommender that knows of one more event; the crowd's counts stay as they were.

        at: epoch seconds, the dataset's time when None. Raises `UsageError` for an unknown person or item.
        """
        row = int(self.dataset.user_rows(self._pseudonyms([user]))[0])
        place = int(self.dataset.item_rows([item])[0])
        if row < 0 or place < 0:
            raise UsageError("observe takes known people and items; load the tables first")
        longer = self.dataset.with_event(row, place, self.dataset.as_of if at is None else at, action)
        following = self._with(dataset=longer)
        for name in ("item_vectors", "population", "item_offsets"):
            if name in self.__dict__:
                following.__dict__[name] = self.__dict__[name]
        return following

    def permitted(self) -> NDArray[np.bool_]:
        """Who of the dataset's people may be served personally, as decided now; (n_users,)."""
        return np.array(self._permits(self.dataset.users[USER_COLUMN].to_list()), bool)

    def user_rows(self, users: Sequence[str]) -> NDArray[np.int64]:
        """Row of each of the caller's ids in the dataset's users, -1 for a stranger."""
        return self.dataset.user_rows(self._pseudonyms(users))

    def with_items(self, dataset: Dataset, vectors: FloatArray) -> Recommender:
        """This one's model over another dataset, which has its items first; vectors: those of further items, if any."""
        longer = self._with(dataset=dataset)
        longer.__dict__["item_vectors"] = np.concatenate([self.item_vectors, vectors])
        return longer

    # --- inside ------------------------------------------------------------------------------------------------------

    def _with(self, **changed: Any) -> Recommender:
        made = Recommender(
            changed.get("dataset", self.dataset),
            self.encoder,
            model=changed.get("model", self.model),
            policy=self.policy,
            locale=self.locale,
            explanations=self.explanations,
            pseudonyms=self._pseudonyms,
            permits=self._permits,
        )
        if "item_vectors" in self.__dict__ and "dataset" not in changed:
            made.__dict__["item_vectors"] = self.item_vectors
        return made

    def _personal(self, permitted: Sequence[bool], rows: NDArray[np.int64]) -> _Asked:
        """Those who agreed and of whom anything is known: an event, or a basic."""
        has = self._has_history
        place = [n for n, row in enumerate(rows) if permitted[n] and row >= 0 and (has[row] or self._basics(int(row)))]
        return _Asked(place, rows[place].astype(np.int64))

    @cached_property
    def _has_history(self) -> NDArray[np.bool_]:
        """Who did anything: what was shown to a person is not a deed of theirs."""
        e = self.dataset.events
        return np.diff(e.select(e.action != ACTION_CODE[Action.SHOWN]).indptr) > 0

    def _best(self, ranked: Ranked, n: int, k: int, twins: bool) -> NDArray[np.int64]:
        """Places of the first `k` items of person n, of each name only the first unless `twins`."""
        places = np.flatnonzero(ranked.item[n] >= 0)
        return places[:k] if twins else places[self._first_of_name(ranked.item[n][places])][:k]

    def _first_of_name(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        names = item_names(self.dataset.items[items.tolist()], self.locale)
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        return np.array(sorted(first.values()), np.int64)

    def _basics(self, row: int) -> dict[str, str]:
        if self.dataset.users.width == 1:
            return {}
        found = self.dataset.users.row(row, named=True)
        return {name: str(v) for name, v in found.items() if v is not None and name != USER_COLUMN}

    def _rank(
        self,
        rows: NDArray[np.int64],
        k: int,
        allowed: NDArray[np.bool_],
        explicit: NDArray[np.int64] | None,
        popularity_weight: float,
        *,
        repeats: bool,
    ) -> Ranked:
        basics = [self._basics(int(r)) for r in rows]
        e = self.dataset.events.rows(rows)
        return self._ranked(e, basics, rows, k, allowed, explicit, popularity_weight, repeats=repeats)

    def _ranked(
        self,
        e: Events,
        basics: Sequence[Mapping[str, str]],
        rows: NDArray[np.int64],
        k: int,
        allowed: NDArray[np.bool_],
        explicit: NDArray[np.int64] | None,
        popularity_weight: float,
        *,
        repeats: bool = True,
    ) -> Ranked:
        told = basics_vectors(self.encoder, basics, self.locale)
        hidden = dismissed(e)
        if self.model is None:
            return rank_by_text(
                self.population, e, self.dataset.as_of, k, basics=told, allowed=allowed, banned=hidden, repeats=repeats
            )
        common: dict[str, Any] = {"own": rows, "basics": told, "banned": hidden, "repeats": repeats}
        common |= {"popularity_weight": popularity_weight, "item_offsets": self.item_offsets}
        if explicit is not None:
            return rank_items(self.model.scorer, self.population, e, self.dataset.as_of, explicit, k, **common)
        settings = self.model.candidates
        return rank(
            self.model.scorer, self.population, e, self.dataset.as_of, k, allowed=allowed, settings=settings, **common
        )

    def _slate(self, user: str, row: int, ranked: Ranked, n: int, best: NDArray[np.int64], explain: bool) -> Slate:
        shown = ranked.item[n][best].astype(np.int64)
        reasons = self._reasons(row, shown, ranked.logit[n]) if explain else [()] * len(shown)
        names = item_names(self.dataset.items[shown.tolist()], self.locale)
        ids = self.dataset.items["item_id"].gather(shown).to_list()
        items = tuple(
            Recommendation(
                rank=rank_from_0 + 1,
                item_id=ids[rank_from_0],
                title=names[rank_from_0],
                score=float(ranked.logit[n, place]),
                cosine=float(ranked.cosine[n, place]),
                logit=float(ranked.logit[n, place]),
                mlp=float(ranked.mlp[n, place]) if self.model else None,
                probability=float(ranked.probability[n, place]) if self.model else None,
                served_by=served_by(int(ranked.sources[n, place])) or ("asked_for",),
                reasons=tuple(reasons[rank_from_0]),
            )
            for rank_from_0, place in enumerate(best)
        )
        return self._envelope(user, items, None if self.model else UNTRAINED)

    def _envelope(self, user: str, items: tuple[Recommendation, ...], degraded: str | None) -> Slate:
        return Slate(
            user_id=user,
            request_id=uuid.uuid4().hex,
            as_of=utc(self.dataset.as_of),
            model_version=self.model.version if self.model and degraded is None else None,
            items=items,
            degraded_reason=degraded,
        )

    def _reasons(self, row: int, shown: NDArray[np.int64], logit: NDArray[np.float32]) -> list[tuple[Reason, ...]]:
        if not len(shown):
            return []
        units, worth = self.evidence(row, shown)
        speaker = self.speaker()
        profile = build_profile(self.dataset, row)
        spread = max(float(np.nanmax(logit) - np.nanmin(logit)), 1.0)
        return [speaker.reasons(units, worth[:, n], int(i), profile, spread) for n, i in enumerate(shown)]

    def person(self, row: int) -> Person:
        """What is known of the person in this row of the dataset."""
        return Person(self.dataset.events.rows(np.array([row])), self._basics(row))

    def speaker(self) -> Speaker:
        """Tells measured evidence in words, in this recommender's language and under its policy."""
        return Speaker(self.dataset.items, self.policy, self.locale, self.explanations)

    def evidence(self, row: int, shown: NDArray[np.integer]) -> tuple[list[Unit], NDArray[np.float32]]:
        """The person's pieces of evidence, and their measured worth for the shown item rows, (n_units, n_shown)."""
        person = self.person(row)
        units = units_of(person)
        tried = choose(
            units, shown, self.item_vectors, self.population.facets.type, self.explanations.evidence_per_item
        )
        return units, deltas(person, units, shown, tried, self.score_versions(row))

    def rank_versions(self, row: int, k: int) -> Callable[[Events, Sequence[Mapping[str, str]]], Ranked]:
        """The served ranking, first `k` of each, for versions of one person, who is never their own neighbour."""

        def ranking(histories: Events, basics: Sequence[Mapping[str, str]]) -> Ranked:
            own, allowed = np.full(len(basics), row), allowed_items(self.dataset)
            return self._ranked(histories, basics, own, k, allowed, None, self.policy.popularity_weight)

        return ranking

    def score_versions(self, row: int) -> Callable[[Events, Sequence[Mapping[str, str]], Pairs], NDArray[np.float32]]:
        """The served score for versions of one person, who is never their own neighbour."""

        def score(histories: Events, basics: Sequence[Mapping[str, str]], pairs: Pairs) -> NDArray[np.float32]:
            told = basics_vectors(self.encoder, basics, self.locale)
            as_of = self.dataset.as_of
            if self.model is None:
                return score_by_text(self.population, histories, as_of, pairs, basics=told)
            own = np.full(len(basics), row)
            scored = score_pairs(self.model.scorer, self.population, histories, as_of, pairs, own=own, basics=told)
            return scored.logit

        return score

    def _popular(self, user: str, k: int, allowed: NDArray[np.bool_], why: str, twins: bool) -> Slate:
        order = self.population.popular
        shown = order[allowed[order]][: k if twins else k + NAMESAKES]
        shown = shown if twins else shown[self._first_of_name(shown)][:k]
        text = reason_text("popular", self.locale, category=None)
        reason = Reason(evidence_id="general", delta=0.0, text=text)
        names = item_names(self.dataset.items[shown.tolist()], self.locale)
        items = tuple(
            Recommendation(
                rank=place + 1,
                item_id=self.dataset.items["item_id"][int(item)],
                title=names[place],
                score=float(self.population.stats.buyers_28[item]),
                cosine=None,
                logit=None,
                probability=None,
                served_by=(POPULAR,),
                reasons=(reason,),
            )
            for place, item in enumerate(shown)
        )
        return self._envelope(user, items, why)


def dismissed(events: Events) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Compressed rows of what each person dismissed and did not buy since: (indptr, item)."""
    n = len(events.indptr) - 1
    pair = pl.DataFrame({"user": events.user, "item": events.item, "at": events.at, "action": events.action})
    latest = pair.group_by("user", "item").agg(
        no=pl.col("at").filter(pl.col("action") == ACTION_CODE[Action.DISMISS]).max(),
        yes=pl.col("at").filter(pl.col("action") == ACTION_CODE[Action.PURCHASE]).max(),
    )
    hidden = latest.filter(pl.col("no").is_not_null() & (pl.col("yes").is_null() | (pl.col("yes") <= pl.col("no"))))
    hidden = hidden.sort("user", "item")
    counts = np.bincount(hidden["user"].to_numpy(), minlength=n)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), hidden["item"].to_numpy()


def _with_note(slate: Slate, k: int) -> Slate:
    if len(slate.items) >= k:
        return slate
    short = f"only {len(slate.items)} of {k} items: no more pass the filters"
    return replace(slate, degraded_reason=f"{slate.degraded_reason}; {short}" if slate.degraded_reason else short)


def _check_encoder(model: Model | None, encoder: Encoder) -> None:
    if model is not None and model.encoder_fingerprint != encoder.fingerprint:
        raise UsageError(
            f"the model was trained with the encoder {model.encoder}, not with {encoder.name}: their vectors do not "
            "mix; load that encoder, or train again"
        )


def _training_record(dataset: Dataset, arguments: ScorerTrainingSettings, notes: Sequence[str]) -> dict[str, Any]:
    e = dataset.events
    return {
        "data_hash": dataset.data_hash(),
        "people": dataset.n_users,
        "items": dataset.n_items,
        "events": len(e),
        "from": utc(int(e.at.min())).isoformat(),
        "until": utc(dataset.as_of).isoformat(),
        "arguments": arguments.model_dump(mode="json"),
        "notes": list(notes),
    }
