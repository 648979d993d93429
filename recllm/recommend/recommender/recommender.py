"""The composition: a user to a slate, with reasons.

    recommender = Recommender(dataset, encoder).fit()
    slate = recommender.recommend("ann", k=10)[0]

The ladder, each step named by the slate's `status`: the trained score; without a model, the cosine of texts alone;
without anything known of the user, or without their consent, what is popular now.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import ModelError, PolicyError, UnknownIdError, UsageError
from recllm.base.policy import Policy
from recllm.base.questions import RecommendRequest
from recllm.base.schema import (
    ACTION_CODE,
    COST_NAMES,
    MARGIN_NAMES,
    Action,
    Encoder,
    Intent,
    Note,
    NoteKind,
    Objective,
    Profile,
    Reason,
    ReasonKind,
    Recommendation,
    ServedBy,
    Slate,
    SlateStatus,
)
from recllm.base.settings import (
    CollaborativeSettings,
    OfferSettings,
    ScorerTrainingSettings,
)
from recllm.learn.features.candidates import POPULAR, CandidateCounts, served_by
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.item_vectors import DatedItemVectors, basics_of, basics_vectors, item_vectors
from recllm.learn.features.other_crowds import sample_statistics
from recllm.learn.features.together import bought_together
from recllm.learn.models.scorer import ItemProjections
from recllm.recommend.recommender.explanation import Explainer, Explanation, spreads
from recllm.recommend.recommender.exploration import explore
from recllm.recommend.recommender.leave_one_out import Evidence, UserHistory, broad_categories
from recllm.recommend.recommender.people import DatasetPeople, Histories, People, PeopleLacking
from recllm.recommend.recommender.private_model import catalogue_vectors, private_population
from recllm.recommend.recommender.ranking import (
    LIST_DEPTH,
    NAMESAKES,
    FittingItems,
    ItemRanker,
    Ranked,
    Remark,
    UserInputs,
    fitting_items,
    shops_weekly,
)
from recllm.shop.data.catalogue import allowed_items, catalogue_rows, known_rows, sensitive_items
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset, Events, utc
from recllm.shop.data.event_files import EventLog
from recllm.shop.data.interactions import Ints
from recllm.shop.data.order import refuse_steps
from recllm.text.domains import domain_of, in_domain, without_domain
from recllm.text.items import ItemNames, reason_text
from recllm.text.templates import Prompts
from recllm.text.users import UserTexts, user_texts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from recllm.base.schema import FloatArray
    from recllm.learn.features.item_index.catalogue import CatalogueIndex
    from recllm.learn.models.sequence import SequenceArguments
    from recllm.recommend.recommender.saved_model import CardFacts, Model

SERVED_BY = {SlateStatus.PERSONAL: ServedBy.SCORER, SlateStatus.TEXT_ONLY: ServedBy.COSINE}
"""What orders a slate of a status; popularity for all the rest."""

WHY_SHORT = (
    NoteKind.SHORT,
    NoteKind.NO_RECENT_PURCHASE,
    NoteKind.NOTHING_GOES_WITH,
    NoteKind.NOTHING_TO_WIN_BACK,
)
"""Notes that say why a slate has fewer items than asked, or none."""

PERSONAL_INTENTS = (Intent.REMIND, Intent.CROSS_SELL, Intent.WIN_BACK)
"""Of which each person has items of their own."""

Pseudonyms = Callable[[Sequence[str]], list[str]]
Permits = Callable[[Sequence[str]], list[bool]]


class Recommender:
    """Ranks a catalogue for users and says why.

    dataset: those who agreed, and what they did. `people` reads histories from elsewhere, by key; the dataset then
    may be without users. `pseudonyms` turns the caller's ids into the dataset's; answers carry the caller's own.
    `permits` says who may be served personally; without it everybody in the dataset. item_vectors, population,
    together: what these properties would compute, where it is known already.
    locale: the language of answers; text_locale: that of the texts that are encoded, where it is another.
    log: what the dataset's people did, where it is not in `dataset.events`; for counting over all of them.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        *,
        model: Model | None = None,
        policy: Policy | None = None,
        locale: str = "en",
        offers: OfferSettings | None = None,
        pseudonyms: Pseudonyms | None = None,
        permits: Permits | None = None,
        people: People | None = None,
        item_vectors: FloatArray | None = None,
        population: CollaborativeStatistics | None = None,
        together: csr_matrix | None = None,
        text_locale: str | None = None,
        log: EventLog | None = None,
    ) -> None:
        self.dataset = dataset
        self._log = dataset.events if log is None else log
        self.encoder = encoder
        self.model = model
        self.policy = policy or Policy()
        self.locale = locale
        self.text_locale = text_locale or without_domain(locale)
        self.offers = offers or OfferSettings()
        self.people = people or DatasetPeople(dataset)
        self._pseudonyms = pseudonyms or list
        self._permits = permits or (lambda ids: [True] * len(ids))
        self.names = ItemNames(dataset.items, locale)
        self._projections: ItemProjections | None = None
        if population is not None:
            self.population, self.item_vectors = population, population.item_vectors
        if item_vectors is not None:
            self.item_vectors = item_vectors
        if together is not None:
            self.together = together
        if model is not None and model.encoder_fingerprint != encoder.fingerprint:
            raise UsageError(
                f"the model was trained with the encoder {model.encoder}, not with {encoder.name}: their vectors do "
                "not mix; load that encoder, or train again"
            )

    def __repr__(self) -> str:
        trained = self.model.version or "trained" if self.model else "no model"
        return f"Recommender({self.dataset.n_users} people, {self.dataset.n_items} items, {trained})"

    # --- what is computed once ---------------------------------------------------------------------------------------

    @cached_property
    def item_vectors(self) -> FloatArray:
        """Unit rows, (n_items, dim); for a private model by what the catalogue says alone."""
        if self.model is not None and self.model.privacy is not None:
            return catalogue_vectors(self.encoder, self.dataset.items, self.dataset.as_of, self.text_locale)
        return item_vectors(self.encoder, self.dataset, self.text_locale, self._log)

    @cached_property
    def population(self) -> CollaborativeStatistics:
        """The collaborative statistics as of the dataset's time, of a sample of people as if everybody had been
        counted; for a private model, of no one."""
        if self.model is not None and self.model.privacy is not None:
            public = (self.dataset.items, self.item_vectors, self.dataset.as_of)
            return private_population(*public, self.model.scorer, self.model.population)
        settings = self.model.population if self.model else None
        basics = basics_vectors(self.encoder, basics_of(self.dataset.users), self.text_locale)
        stored = self.model.interests if self.model else None
        ids = self.dataset.items["item_id"].to_list()
        interests = None if stored is None else stored.bind(ids, self.item_vectors)
        if self.dataset.sample is not None:
            return sample_statistics(self.dataset, self.item_vectors, settings, basics, interests)
        return CollaborativeStatistics.fit(self.dataset, self.item_vectors, settings, basics, interests, log=self._log)

    @property
    def index(self) -> CatalogueIndex | None:
        """What finds items by their vectors; None where all of them are compared."""
        population = vars(self).get("population")  # an index comes with a serving state, never with counting
        return None if population is None else population.index

    @cached_property
    def together(self) -> csr_matrix:
        """What goes together, (n_items, n_items); see `recllm.learn.features.together.bought_together`.

        Raises `ModelError` where the dataset holds no users to count, and the serving state does not say it.
        """
        if not self.dataset.n_users:
            raise ModelError("the serving state does not say what is bought together; run: recllm refresh")
        kind, limits = self.population.facets.type, self.population.settings
        return bought_together(self._log, self.dataset.n_items, kind, limits)

    @property
    def ranker(self) -> ItemRanker:
        """What scores users and items: the model's scorer, or the cosine of texts without a model."""
        if self.model is None:
            return ItemRanker(None, self.population)
        scorer, vectors = self.model.scorer, self.population.item_vectors
        projections = self._projections
        if projections is None or not projections.fit(scorer, vectors):
            self._projections = projections = ItemProjections(scorer, vectors)
        horizon_days = self.model.horizon_days
        return ItemRanker(scorer, self.population, self.model.candidates, projections, horizon_days)

    @cached_property
    def margins(self) -> NDArray[np.float32]:
        """What the shop earns by each item, (n_items,): its attribute `margin`, else price less `cost`, NaN unknown.

        Raises `UsageError` where no item says it.
        """
        attributes, amounts = self.dataset.items["attributes"], {}
        for name, keys in (("margin", MARGIN_NAMES), ("cost", COST_NAMES)):
            texts = [attributes.str.json_path_match(f'$["{key}"]') for key in keys]
            amounts[name] = pl.select(pl.coalesce(texts)).to_series().cast(pl.Float64, strict=False)
        earned = self.dataset.items["price"].cast(pl.Float64) - amounts["cost"]
        margins = pl.select(pl.coalesce(amounts["margin"], earned)).to_series().fill_null(np.nan).to_numpy()
        if not np.isfinite(margins).any():
            raise UsageError(
                "no item says what the shop earns by it: load the catalogue with an attribute margin, or with prices "
                "and an attribute cost"
            )
        return np.asarray(margins, np.float32)

    @cached_property
    def brands(self) -> frozenset[str]:
        """Every brand of the catalogue."""
        return frozenset(self.dataset.items["brand"].drop_nulls().unique().to_list())

    def warm(self) -> Recommender:
        """Compute now what the first answer would otherwise wait for."""
        _ = (self.item_vectors, self.population, self.ranker)
        return self

    # --- learn -------------------------------------------------------------------------------------------------------

    def fit(
        self,
        arguments: ScorerTrainingSettings | None = None,
        *,
        interests: SequenceArguments | None = None,
        collaborative: CollaborativeSettings | None = None,
        candidates: CandidateCounts | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Recommender:
        """A recommender with a scorer trained on the dataset, of more than `learn_people` people on a sample of them;
        this one stays as it is.

        interests: settings of the sequence model, which is trained first; None leaves it out. collaborative,
        candidates: settings of what is counted and proposed.
        Raises `DataError` when the log is too small or too short to learn from.
        """
        from recllm.learn.training.scorer import fit_scorer
        from recllm.recommend.recommender.saved_model import Model

        arguments = arguments or ScorerTrainingSettings()
        dataset = self.dataset.sampled(arguments.learn_people)
        basics = basics_vectors(self.encoder, basics_of(dataset.users), self.text_locale)
        ids = dataset.items["item_id"].to_list()
        dated = DatedItemVectors(self.encoder, dataset, self.text_locale)
        fitted = fit_scorer(
            dataset,
            dated.latest,
            basics,
            arguments,
            progress,
            population=collaborative,
            settings=candidates,
            interests=interests,
            vectors_before=dated.before,
        )
        model = Model(
            scorer=fitted.scorer,
            population=fitted.population,
            candidates=fitted.candidates,
            encoder=self.encoder.name,
            encoder_fingerprint=self.encoder.fingerprint,
            horizon_days=arguments.horizon_days,
            metrics=fitted.metrics,
            training={
                "data_hash": dataset.data_hash(),
                "people": dataset.n_users,
                "sample": None if dataset.sample is None else dataset.sample.record(),
                "items": dataset.n_items,
                "events": len(dataset.events),
                "from": utc(int(dataset.events.at.min())).isoformat(),
                "until": utc(dataset.as_of).isoformat(),
                "arguments": arguments.model_dump(mode="json"),
                "sequence": None if interests is None else interests.model_dump(mode="json"),
                "notes": list(fitted.notes),
            },
            interests=None if fitted.interests is None else fitted.interests.stored(ids),
        )
        vectors = dated.latest if dataset is self.dataset else None  # they hold the prices that people paid
        return self._copy(model=model, population=None, item_vectors=vectors)

    def save_pretrained(self, folder: str | Path, facts: CardFacts | None = None) -> Path:
        """Write the model and the catalogue into a folder that can be handed on, without any person; see
        `recllm.recommend.recommender.saved_model`. facts: what the card is to say besides."""
        from recllm.recommend.recommender.saved_model import save_pretrained

        of_items = (self.population, self.together)
        return save_pretrained(Path(folder), self.model, self.dataset, *of_items, locale=self.text_locale, facts=facts)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, encoder: Encoder | None = None) -> Recommender:
        """What `save_pretrained` wrote: a folder, or a repository "owner/name" of the model hub. It knows no customers:
        ask it with a basket. Raises what `read_pretrained` does."""
        from recllm.recommend.recommender.saved_model import read_pretrained

        return cls(**read_pretrained(name, encoder))

    # --- answer ------------------------------------------------------------------------------------------------------

    def recommend(
        self,
        users: RecommendRequest | str | Sequence[str],
        *,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> list[Slate]:
        """One slate per user, in order.

        users: ids, with `options` being the other fields of `RecommendRequest`; or a request. rng draws what a slate
        explores; another one at each call when None. What a user dismissed and did not buy since is never shown.
        Filters come before the ranking, so a slate is short only when fewer than `k` items pass them, and says so.
        Raises `UsageError` for a value out of range, an unknown item, or a condition that cannot be read.
        """
        request = users if isinstance(users, RecommendRequest) else RecommendRequest(users=users, **options)  # type: ignore[arg-type]
        if request.intent is Intent.WIN_BACK:
            refuse_steps(self.dataset.step_seconds, "offers to win customers back")
        allowed = allowed_items(self.dataset, request.allow, request.exclude, request.where)
        if request.objective is Objective.MARGIN:
            allowed &= np.isfinite(self.margins)
        basket = known_rows(self.dataset, request.basket)
        pseudonyms = self._pseudonyms(request.users)
        permitted, histories = self._agreed(pseudonyms)
        agreed = np.flatnonzero(permitted)
        if len(basket):
            histories = replace(histories, events=_with_basket(histories.events, basket, self.dataset.as_of - 1))
        personal = np.flatnonzero(_has_evidence(histories))
        to_compare = set(agreed[personal].tolist())
        slates: dict[int, Slate] = {}
        if len(personal) and request.personal:
            histories, rng = histories.select(personal), rng or np.random.default_rng()
            fitting = self.fitting(request.intent, histories.events, basket)
            for group, allowed_to_group in _by_allowed(fitting, len(personal), allowed):
                of_group = histories.select(group)
                ranked, best = self._best(of_group, request, allowed_to_group)
                spreads = self._spreads(of_group, request, ranked) if request.explain else np.ones(len(group))
                for n, position in enumerate(agreed[personal[group]].tolist()):
                    person = UserHistory(of_group.events.rows(np.array([n])), of_group.basics[n], int(of_group.rows[n]))
                    causes, remark = ({}, None) if fitting is None else fitting.of_offers(int(group[n]))
                    slates[position] = self._slate(
                        request, position, person, causes, remark, ranked.row(n), best[n], spreads[n], rng
                    )
        for position in range(len(request.users)):
            if position not in slates:
                status = SlateStatus.UNKNOWN_USER if permitted[position] else SlateStatus.NO_CONSENT
                if position in to_compare:
                    status = SlateStatus.HOLDOUT
                slates[position] = self._popular(request, position, allowed, status)
        return [slates[position] for position in range(len(request.users))]

    def explain(self, user: str, item: str, *, k: int = 10) -> Explanation:
        """One item for one user, whether or not it would be shown: the reasons that a slate gives, and more.

        An item that is off sale is explained, too, and has no rank. Raises `UsageError` for an unknown item or a user
        of whom nothing is known, `PolicyError` for one who has not agreed to personalisation.
        """
        column = int(catalogue_rows(self.dataset, [item])[0])
        return self.explainer().explanation(self.person(user), user, column, k)

    def explainer(self) -> Explainer:
        """What measures the evidence behind this recommender's scores."""

        def ranked(histories: Histories, k: int) -> Ranked:
            return self._ranked(histories, RecommendRequest(users=("",)), allowed_items(self.dataset), k)

        return Explainer(
            self.dataset,
            self.policy,
            self.locale,
            self.item_vectors,
            self.population.facets.type,
            logits=lambda histories, pairs: self.ranker.score(self._inputs(histories), pairs).logit,
            ranked=ranked,
            broad=self.broad_categories,
        )

    @cached_property
    def broad_categories(self) -> frozenset[tuple[str, ...]]:
        """Paths of categories that hold more than half of what is bought, which are no reason."""
        return broad_categories(self.dataset.items, self.population.stats.buyers_ever)

    def person(self, user: str) -> UserHistory:
        """What is known of one user. Raises as `explain` does."""
        pseudonym = self._pseudonyms([user])[0]
        permitted, histories = self._agreed([pseudonym])
        if not permitted[0]:
            raise PolicyError("this person has not agreed to personalisation; there is nothing to explain")
        if not _has_evidence(histories)[0]:
            raise UnknownIdError("nothing to explain: nothing is known of this person; check the id, or load events")
        return UserHistory(histories.events, histories.basics[0], int(histories.rows[0]))

    def fitting(
        self, intent: Intent, histories: Events, cart: NDArray[np.integer] | None = None
    ) -> FittingItems | None:
        """What fits an intent, of n people with these histories; None where it leaves nothing out person by person.

        Raises what `together` raises, for offers that go with something.
        """

        def sensitive(rows: Ints) -> NDArray[np.bool_]:
            return sensitive_items(self.dataset.items[rows.tolist()], self.policy)

        as_of = self.dataset.as_of
        return fitting_items(intent, histories, as_of, self.offers, lambda: self.together, sensitive, cart)

    def _agreed(self, pseudonyms: Sequence[str]) -> tuple[NDArray[np.bool_], Histories]:
        """Who may be served personally, (n,), and the histories of those alone."""
        histories = self.people.histories(pseudonyms)
        permitted = histories.permitted
        if permitted is None:
            permitted = np.array(self._permits(pseudonyms), bool)
        return permitted, histories if permitted.all() else histories.select(np.flatnonzero(permitted))

    def profile(self, user: str) -> tuple[Profile, UserTexts]:
        """The user's profile as of the dataset's time, and its texts. Raises `UsageError` for an unknown user."""
        pseudonym = self._pseudonyms([user])[0]
        histories = self.people.histories([pseudonym])
        if not histories.is_known[0]:
            raise UnknownIdError("no customer with this id is known here; check the id, or the consent table")
        person = UserHistory(histories.events, histories.basics[0])
        profile = self.explainer().profile(person, pseudonym)
        return profile, user_texts(profile, self.dataset.items, self.locale)

    def observe(self, user: str, item: str, action: Action, *, at: int | None = None) -> Recommender:
        """A recommender that knows of one more event; the collaborative statistics stay as they were.

        at: epoch seconds, the dataset's time when None. Raises `UsageError` for an unknown user or item.
        """
        user_row = int(self.dataset.user_rows(self._pseudonyms([user]))[0])
        item_row = int(self.dataset.item_rows([item])[0])
        if user_row < 0 or item_row < 0:
            raise UsageError("observe takes known people and items; load the tables first")
        at = self.dataset.as_of if at is None else at
        self.warm()
        return self._copy(dataset=self.dataset.with_event(user_row, item_row, at, action), people=None)

    def at(self, as_of: int) -> Recommender:
        """The same at another present, epoch seconds; what `people` read by key until then counts, the collaborative
        statistics stay as they were."""
        shop = replace(self.dataset, as_of=as_of)
        return self._copy(dataset=shop, people=self.people.at(shop))

    def for_ids(self, pseudonyms: Pseudonyms) -> Recommender:
        """The same for callers whose ids are others, such as those of anonymous sessions."""
        return self._copy(pseudonyms=pseudonyms)

    def for_nobody(self) -> Recommender:
        """The same for a visitor without an id, of whom the request says everything: no history is read, and no
        consent is asked."""
        visitors = DatasetPeople(Dataset.of_catalogue(self.dataset.items, self.dataset.as_of))
        return self._copy(people=visitors, pseudonyms=None, permits=None)

    def by_pseudonym(self) -> Recommender:
        """The same for a caller whose ids are pseudonyms already; consent is asked as before."""
        return self._copy(pseudonyms=list)

    def in_language(self, locale: str) -> Recommender:
        """The same with answers in another language and the same domain; texts are encoded as before."""
        return self._copy(locale=in_domain(locale, domain_of(self.locale)))

    def lacking(self, user: str, evidence_ids: Sequence[str]) -> Recommender:
        """The same as if some of what is known of one user had never happened: "B:<item_id>" all purchases of an item,
        "H:<item_id>" all browsing of it, "I:<name>" one of the basics, as in `Reason.evidence_id`.

        The collaborative statistics stay as they were. Raises `UsageError` for an id of another form, or an unknown
        item.
        """
        units = []
        for evidence_id in evidence_ids:
            kind, _, name = evidence_id.partition(":")
            if kind not in ("B", "H", "I") or not name:
                raise UsageError(f"evidence is B:<item id>, H:<item id> or I:<name>, not {evidence_id[:80]!r}")
            row = -1 if kind == "I" else int(known_rows(self.dataset, [name])[0])
            units.append(Evidence(kind, row, name if kind == "I" else ""))
        self.warm()
        return self._copy(people=PeopleLacking(self.people, self._pseudonyms([user])[0], tuple(units)))

    def permitted(self) -> NDArray[np.bool_]:
        """Who of the dataset's users may be served personally, as decided now; (n_users,)."""
        return np.array(self._permits(self.dataset.users[USER_COLUMN].to_list()), bool)

    def user_rows(self, users: Sequence[str]) -> NDArray[np.int64]:
        """Row of each of the caller's ids in the dataset's users, -1 for an unknown one."""
        return self.dataset.user_rows(self._pseudonyms(users))

    def with_people(self, dataset: Dataset, pool: Ints) -> Recommender:
        """The same items and model over other people; pool: their row, or -1, for each neighbour of the collaborative
        statistics."""
        return self._copy(dataset=dataset, people=None, population=replace(self.population, pool=pool))

    def with_items(self, dataset: Dataset, vectors: FloatArray) -> Recommender:
        """This one's model over another dataset, which has its items first; vectors: those of further items, if any."""
        vectors = np.concatenate([self.item_vectors, vectors])
        return self._copy(dataset=dataset, people=None, population=None, item_vectors=vectors)

    def offering(self, items: pl.DataFrame) -> Recommender:
        """The same with other facts of the same items in the same order, such as prices and what is on offer."""
        shop = replace(self.dataset, items=items)
        return self._copy(dataset=shop, people=self.people.at(shop))

    # --- ranking -----------------------------------------------------------------------------------------------------

    def _copy(self, **changes: Any) -> Recommender:
        """With other arguments; what is computed already is kept unless it is among the changes."""
        arguments: dict[str, Any] = {
            "dataset": self.dataset,
            "encoder": self.encoder,
            "model": self.model,
            "policy": self.policy,
            "locale": self.locale,
            "offers": self.offers,
            "pseudonyms": self._pseudonyms,
            "permits": self._permits,
            "people": self.people,
            "text_locale": self.text_locale,
            "log": None if "dataset" in changes else self._log,
        }
        computed = {name: vars(self)[name] for name in ("item_vectors", "population") if name in vars(self)}
        copied = Recommender(**(arguments | computed | changes))
        copied._projections = self._projections
        if "together" in vars(self) and copied.dataset.n_items == self.dataset.n_items:
            copied.together = self.together
        if copied.dataset.items is self.dataset.items:
            copied.names = self.names
            vars(copied).update({"margins": self.margins} if "margins" in vars(self) else {})
        return copied

    def _ranked(self, histories: Histories, request: RecommendRequest, allowed: NDArray[np.bool_], k: int) -> Ranked:
        """The first `k` items of each user."""
        weight = request.popularity_weight
        by_margin = request.objective is Objective.MARGIN
        return self.ranker.rank(
            self._inputs(histories),
            k,
            items=np.flatnonzero(allowed) if request.allow is not None or request.intent in PERSONAL_INTENTS else None,
            allowed=allowed,
            banned=dismissed(histories.events),
            repeats=request.shows_repeats,
            popularity_weight=self.policy.popularity_weight if weight is None else weight,
            objective=request.objective,
            margins=self.margins if by_margin else None,
        )

    def _inputs(self, histories: Histories) -> UserInputs:
        basics = basics_vectors(self.encoder, histories.basics, self.text_locale)
        return UserInputs(histories.events, self.dataset.as_of, histories.rows, basics)

    def _best(
        self, histories: Histories, request: RecommendRequest, allowed: NDArray[np.bool_]
    ) -> tuple[Ranked, list[Ints]]:
        """A ranking, and the columns in it of each user's first items, of each name only the best: `k`, and where the
        slate explores those of the pool.

        When namesakes fill the ranking, it is made again four times as deep, until it holds `k` names or all items.
        """
        n_ranked = _n_ranked(request)
        depth = max(LIST_DEPTH, n_ranked + NAMESAKES)
        while True:
            ranked = self._ranked(histories, request, allowed, depth)
            best = [self._first_of_names(row[row >= 0], request) for row in ranked.item]
            complete = (len(b) == n_ranked or row[-1] < 0 for b, row in zip(best, ranked.item, strict=True))
            if request.same_names or all(complete):
                return ranked, best
            depth *= 4

    def _first_of_names(self, items: NDArray[np.integer], request: RecommendRequest) -> Ints:
        """Positions of the first items, as many as `_n_ranked`, of each name only the first."""
        n_ranked = _n_ranked(request)
        if request.same_names:
            return np.arange(min(n_ranked, len(items)))
        names = self.names.of(items.tolist())
        first = {name: position for position, name in reversed(list(enumerate(names)))}
        return np.array(sorted(first.values())[:n_ranked], np.int64)

    def _spreads(self, histories: Histories, request: RecommendRequest, ranked: Ranked) -> NDArray[np.float64]:
        """Range of each user's scores in the list that nothing filters, in logits, at least 1; (n,).

        It does not depend on what was asked for, so that one item has the same reasons wherever it is shown.
        """
        plain = RecommendRequest(users=request.users)
        names = ("k", "explain", "same_names", "explore_share", "explore_pool")
        as_plain = {name: getattr(plain, name) for name in names}
        filters = request.model_copy(update=as_plain)
        if filters != plain or ranked.item.shape[1] != LIST_DEPTH:
            ranked = self._ranked(histories, plain, allowed_items(self.dataset), LIST_DEPTH)
        return spreads(ranked)

    # --- slates ------------------------------------------------------------------------------------------------------

    def _slate(
        self,
        request: RecommendRequest,
        position: int,
        person: UserHistory,
        causes: Mapping[int, int],
        remark: Remark | None,
        ranked: Ranked,
        best: Ints,
        spread: float,
        rng: np.random.Generator,
    ) -> Slate:
        """causes, remark: as `FittingItems.of_offers` gives them."""
        drawn_from: tuple[str, ...] = ()
        propensities = np.ones(len(best))
        if request.explore_share:
            drawn_from = tuple(self.dataset.items["item_id"].gather(ranked.item[best].astype(np.int64)).to_list())
            best, propensities = explore(best, request.k, request.explore_share, request.explore_pool, rng)
        item_rows = ranked.item[best].astype(np.int64)
        reasons = self.explainer().reasons(person, item_rows, spread) if request.explain else [()] * len(best)
        if request.explain and causes:
            reasons = [
                (self._goes_with(causes[int(row)], person), *measured)
                for row, measured in zip(item_rows, reasons, strict=True)
            ]
        purchases = person.events.of(Action.PURCHASE)
        parts = _parts(request.intent, frozenset(purchases.item.tolist()), item_rows.tolist())
        is_weekly = self.dataset.step_seconds is None and shops_weekly(purchases)
        headings: dict[Intent | None, str] = {
            heading: self._heading(heading, is_weekly) for heading in set(parts) if heading is not None
        }
        names = self.names.of(item_rows.tolist())
        item_ids = self.dataset.items["item_id"].gather(item_rows).to_list()
        items = tuple(
            Recommendation(
                rank=n + 1,
                item_id=item_ids[n],
                title=names[n],
                score=float(ranked.logit[column]),
                cosine=float(ranked.cosine[column]),
                logit=float(ranked.logit[column]),
                mlp=float(ranked.mlp[column]) if self.model else None,
                probability=float(ranked.probability[column]) if self.model else None,
                propensity=float(propensities[n]),
                served_by=served_by(int(ranked.sources[column])) or ("asked_for",),
                reasons=tuple(reasons[n]),
                part=parts[n],
                part_text=headings.get(parts[n], ""),
            )
            for n, column in enumerate(best)
        )
        status = SlateStatus.PERSONAL if self.model else SlateStatus.TEXT_ONLY
        probabilities = [item.probability for item in items if item.probability is not None]
        notes: tuple[Note, ...] = ()
        if probabilities != sorted(probabilities, reverse=True) and not request.explore_share:
            kind = NoteKind.BY_MARGIN if request.objective is Objective.MARGIN else NoteKind.BY_LIFT
            notes = (self._note(kind),)
        if remark is not None:
            days = remark[1] if self.dataset.step_seconds is None else None
            notes = (*notes, self._note(remark[0], days=days))
        return replace(self._envelope(request, position, items, status, notes), ranked=drawn_from)

    def _popular(
        self, request: RecommendRequest, position: int, allowed: NDArray[np.bool_], status: SlateStatus
    ) -> Slate:
        order = self.population.popular
        order = order[allowed[order]]
        item_rows, depth = order[:0], request.k + NAMESAKES
        while len(item_rows) < request.k:
            item_rows = order[:depth][self._first_of_names(order[:depth], request)][: request.k]
            if depth >= len(order):
                break
            depth *= 4
        reason = Reason(evidence_id="general", delta=0.0, text=reason_text("popular", self.locale, category=None))
        names = self.names.of(item_rows.tolist())
        items = tuple(
            Recommendation(
                rank=n + 1,
                item_id=self.dataset.items["item_id"][int(row)],
                title=names[n],
                score=float(self.population.stats.buyers_28[row]),
                cosine=None,
                logit=None,
                probability=None,
                served_by=(POPULAR,),
                reasons=(reason,),
            )
            for n, row in enumerate(item_rows)
        )
        return self._envelope(request, position, items, status, ())

    def _goes_with(self, cause: int, person: UserHistory) -> Reason:
        """The purchase, or the item in the cart, that an offer goes with."""
        events, item_id = person.events, self.dataset.items["item_id"][cause]
        bought = events.at[(events.item == cause) & (events.action == ACTION_CODE[Action.PURCHASE])]
        days = None if not len(bought) else (self.dataset.as_of - int(bought.max())) / DAY
        in_cart = days is None or days > self.offers.cross_sell_days
        told_days = None if in_cart or self.dataset.step_seconds is not None else days
        title = self.names.of([cause])[0]
        text = reason_text("goes_with", self.locale, title=title, days_since=told_days, in_cart=in_cart)
        return Reason(evidence_id=f"B:{item_id}", delta=0.0, text=text, kind=ReasonKind.TOGETHER)

    def _heading(self, intent: Intent, weekly: bool) -> str:
        variables = {"weekly": weekly} if intent is Intent.REMIND else {}
        return Prompts.load().render(f"slate.part_{intent}", self.locale, **variables)

    def _note(self, kind: NoteKind, **numbers: float | None) -> Note:
        text = Prompts.load().render(f"slate.{kind}", self.locale, **numbers)
        return Note(kind=kind, numbers={n: value for n, value in numbers.items() if value is not None}, text=text)

    def _envelope(
        self,
        request: RecommendRequest,
        position: int,
        items: tuple[Recommendation, ...],
        status: SlateStatus,
        notes: tuple[Note, ...],
    ) -> Slate:
        if len(items) < request.k:
            notes = (*notes, self._note(NoteKind.SHORT, shown=len(items), k=request.k))
        words = [] if status is SlateStatus.PERSONAL else [Prompts.load().render(f"slate.{status}", self.locale)]
        words += [note.text for note in notes if note.kind in WHY_SHORT]
        return Slate(
            user_id=request.users[position],
            request_id=uuid.uuid4().hex,
            as_of=utc(self.dataset.as_of),
            model_version=self.model.version if self.model and status is SlateStatus.PERSONAL else None,
            items=items,
            status=status,
            served_by=SERVED_BY.get(status, ServedBy.POPULAR),
            propensity=math.prod(item.propensity for item in items),
            notes=notes,
            degraded_reason="; ".join(words) or None,
        )


def _parts(intent: Intent, bought: frozenset[int], item_rows: Sequence[int]) -> list[Intent | None]:
    """What each item is to a person who bought these rows; None where all is new to them, as they bought nothing."""
    if intent in (Intent.CROSS_SELL, Intent.WIN_BACK):
        return [intent if bought or intent is Intent.CROSS_SELL else None] * len(item_rows)
    return [(Intent.REMIND if row in bought else Intent.DISCOVER) if bought else None for row in item_rows]


def _by_allowed(
    fitting: FittingItems | None, n: int, allowed: NDArray[np.bool_]
) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
    """Users with the items that they may be shown: the same for all, but where each has items of their own."""
    if fitting is None:
        yield np.arange(n), allowed
        return
    for user in range(n):
        fits = np.zeros_like(allowed)
        fits[fitting.of(user)] = True
        yield np.array([user]), allowed & fits


def _n_ranked(request: RecommendRequest) -> int:
    """Items that a slate may be made of."""
    return request.k + (request.explore_pool if request.explore_share else 0)


def _has_evidence(histories: Histories) -> NDArray[np.bool_]:
    """Of whom an event or a basic is known; what was only shown to a user is nothing that they did. (n,)"""
    events = histories.events
    acted = np.diff(events.select(events.action != ACTION_CODE[Action.SHOWN]).indptr) > 0
    stated = np.array([any(basics.values()) for basics in histories.basics], bool)
    return np.asarray(acted | stated)


def _with_basket(events: Events, item_rows: Ints, at: int) -> Events:
    """Each user's events followed by these items in the cart at `at` (epoch seconds)."""
    n, size = len(events.indptr) - 1, len(item_rows)
    added: dict[str, Any] = {
        "item": item_rows,
        "at": at,
        "action": ACTION_CODE[Action.CART],
        "quantity": 1,
        "price": np.nan,
        "basket": -1,
    }
    ends = np.repeat(events.indptr[1:], size)
    columns = {
        name: np.insert(getattr(events, name), ends, np.tile(np.broadcast_to(value, size), n))
        for name, value in added.items()
    }
    return Events(events.indptr + size * np.arange(n + 1), **columns)


def dismissed(events: Events) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Compressed rows of what each user dismissed and did not buy since: (indptr, item)."""
    n = len(events.indptr) - 1
    if not (events.action == ACTION_CODE[Action.DISMISS]).any():
        return np.zeros(n + 1, np.int64), events.item[:0]
    pair = pl.DataFrame({"user": events.user, "item": events.item, "at": events.at, "action": events.action})
    latest = pair.group_by("user", "item").agg(
        no=pl.col("at").filter(pl.col("action") == ACTION_CODE[Action.DISMISS]).max(),
        yes=pl.col("at").filter(pl.col("action") == ACTION_CODE[Action.PURCHASE]).max(),
    )
    hidden = latest.filter(pl.col("no").is_not_null() & (pl.col("yes").is_null() | (pl.col("yes") <= pl.col("no"))))
    hidden = hidden.sort("user", "item")
    counts = np.bincount(hidden["user"].to_numpy(), minlength=n)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), hidden["item"].to_numpy()
