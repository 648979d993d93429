"""The composition: a user to a slate, with reasons.

    recommender = Recommender(dataset, encoder).fit()
    slate = recommender.recommend("ann", k=10)[0]

The ladder, each step named by the slate's `status`: the trained score; without a model, counting and texts;
without anything known of the user, or without their consent, what is popular now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recllm.base.arrays import Floats, Ints, Mask, Rows, Values
from recllm.base.errors import ModelError, PolicyError, UnknownIdError, UsageError
from recllm.base.policy import Policy
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Encoder, Intent, Objective, Progress, Slate, SlateStatus
from recllm.base.settings import CollaborativeSettings, OfferSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import CandidateCounts
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.item_vectors import basics_of, basics_vectors, item_vectors
from recllm.learn.features.sampled_people import sample_statistics
from recllm.learn.features.together import bought_together, cart_weights
from recllm.learn.models.scorer import ItemProjections
from recllm.recommend.recommender.explanation import Explainer, Explanation, spreads
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.recommend.recommender.intent_items import PERSONAL_INTENTS, FittingItems, fitting_items
from recllm.recommend.recommender.leave_one_out import Evidence, broad_categories
from recllm.recommend.recommender.people import DatasetPeople, People, PeopleLacking
from recllm.recommend.recommender.ranking import LIST_DEPTH, NAMESAKES, ItemRanker, Ranked, UserInputs, item_margins
from recllm.recommend.recommender.slate_writer import SlateWriter, slate_depth
from recllm.shop.data.catalogue import allowed_items, catalogue_rows, known_rows, sensitive_items
from recllm.shop.data.dataset import USER_COLUMN, Dataset, Events
from recllm.shop.data.order import refuse_steps
from recllm.text.domains import domain_of, in_domain, without_domain
from recllm.text.items import ItemNames

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from recllm.learn.features.item_index.catalogue import CatalogueIndex
    from recllm.learn.models.sequence import SequenceArguments
    from recllm.recommend.recommender.saved_model import Model

Pseudonyms = Callable[[Sequence[str]], list[str]]
Permits = Callable[[Sequence[str]], list[bool]]


class Recommender:
    """Ranks a catalogue for users and says why.

    dataset: those who agreed, and what they did. `people` reads histories from elsewhere, by key; the dataset then
    may be without users. `pseudonyms` turns the caller's ids into the dataset's; answers carry the caller's own.
    `permits` says who may be served personally; without it everybody in the dataset. item_vectors, population,
    together: these properties, where known.
    locale: the language of answers; text_locale: that of the texts that are encoded, where it is another.
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
        item_vectors: Floats | None = None,
        population: CollaborativeStatistics | None = None,
        together: csr_matrix | None = None,
        text_locale: str | None = None,
    ) -> None:
        self.dataset = dataset
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
        fingerprints = (encoder.fingerprint, getattr(encoder, "earlier_fingerprint", ""))
        if model is not None and model.encoder_fingerprint not in fingerprints:
            raise UsageError(
                f"the model was trained with another state of the encoder {model.encoder} than {encoder.name} is now: "
                "their vectors do not mix; load that encoder, or run: recllm train"
            )

    def __repr__(self) -> str:
        trained = self.model.version or "trained" if self.model else "no model"
        return f"Recommender({self.dataset.n_users} people, {self.dataset.n_items} items, {trained})"

    @cached_property
    def item_vectors(self) -> Floats:
        """Unit rows, (n_items, dim)."""
        return item_vectors(self.encoder, self.dataset, self.text_locale)

    @cached_property
    def population(self) -> CollaborativeStatistics:
        """The collaborative statistics as of the dataset's time, of a sample of people as if everybody had been
        counted."""
        settings = self.model.population if self.model else None
        basics = basics_vectors(self.encoder, basics_of(self.dataset.users), self.text_locale)
        stored = self.model.interests if self.model else None
        ids = self.dataset.items["item_id"].to_list()
        interests = None if stored is None else stored.bind(ids, self.item_vectors)
        return sample_statistics(self.dataset, self.item_vectors, settings, basics, interests)

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
        return bought_together(self.dataset.events, self.dataset.n_items, kind, limits)

    def count_carts(self) -> Recommender:
        """Counts what completes a cart, unless it is known."""
        if self.population.carts is None and self.dataset.n_users:
            carts = cart_weights(self.dataset.events, self.dataset.n_items, self.population.settings)
            self.population = replace(self.population, carts=carts)
        return self

    @property
    def ranker(self) -> ItemRanker:
        """What scores users and items: the model's scorer, or counting and texts without a model."""
        if self.model is None:
            return ItemRanker(None, self.population)
        scorer, vectors = self.model.scorer, self.population.item_vectors
        projections = self._projections
        if projections is None or not projections.fit(scorer, vectors):
            self._projections = projections = ItemProjections(scorer, vectors)
        horizon_days = self.model.horizon_days
        return ItemRanker(scorer, self.population, self.model.candidates, projections, horizon_days)

    @cached_property
    def margins(self) -> Floats:
        """See `item_margins`."""
        return item_margins(self.dataset.items)

    @cached_property
    def brands(self) -> frozenset[str]:
        return frozenset(self.dataset.items["brand"].drop_nulls().unique().to_list())

    def warm(self) -> Recommender:
        """Compute now what the first answer would otherwise wait for."""
        _ = (self.item_vectors, self.population, self.ranker)
        return self

    def fit(
        self,
        arguments: ScorerTrainingSettings | None = None,
        *,
        interests: SequenceArguments | None = None,
        collaborative: CollaborativeSettings | None = None,
        candidates: CandidateCounts | None = None,
        progress: Progress | None = None,
    ) -> Recommender:
        """A recommender with a scorer trained on the dataset, of more than `learn_people` people on a sample of them;
        this one stays as it is.

        interests: settings of the sequence model, which is trained first; None leaves it out. collaborative,
        candidates: settings of what is counted and proposed.
        Raises `DataError` when the log is too small or too short to learn from.
        """
        from recllm.recommend.recommender.saved_model import fit_model

        arguments = arguments or ScorerTrainingSettings()
        dataset = self.dataset.sampled(arguments.learn_people)
        settings: dict[str, Any] = {"interests": interests, "collaborative": collaborative, "candidates": candidates}
        model, vectors = fit_model(
            dataset, self.encoder, arguments, locale=self.text_locale, progress=progress, **settings
        )
        # vectors hold the prices that people paid
        return self._copy(model=model, population=None, item_vectors=vectors if dataset is self.dataset else None)

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
        basket = np.unique(known_rows(self.dataset, request.basket))
        if len(basket):
            self.count_carts()
        permitted, histories = self._agreed(self._pseudonyms(request.users))
        agreed = np.flatnonzero(permitted)
        histories = histories.with_basket(basket, self.dataset.as_of - 1)
        if request.allow is None:
            allowed[basket] = False
        personal = np.flatnonzero(histories.has_evidence)
        to_compare, writer = set(agreed[personal].tolist()), self._writer(request)
        slates: dict[int, Slate] = {}
        if len(personal) and request.personal:
            positions, of_personal = agreed[personal], histories.select(personal)
            slates = self._personal(writer, positions, of_personal, basket, allowed, rng or np.random.default_rng())
        popular = self.population.popular if len(slates) < len(request.users) else np.zeros(0, np.int64)
        for position in set(range(len(request.users))) - slates.keys():
            status = SlateStatus.UNKNOWN_USER if permitted[position] else SlateStatus.NO_CONSENT
            status = SlateStatus.HOLDOUT if position in to_compare else status
            slates[position] = writer.popular(position, popular[allowed[popular]], status)
        return [slates[position] for position in range(len(request.users))]

    def _personal(
        self,
        writer: SlateWriter,
        positions: Ints,
        histories: Histories,
        basket: Ints,
        allowed: Mask,
        rng: np.random.Generator,
    ) -> dict[int, Slate]:
        """Slates by position in the request, of the users in these positions."""
        request, slates = writer.request, dict[int, Slate]()
        fitting = self.fitting(request.intent, histories.events, basket)
        groups = [(np.arange(len(positions)), allowed)] if fitting is None else fitting.groups(allowed)
        for group, allowed_to_group in groups:
            of_group = histories.select(group)
            ranked, best = self._best(of_group, writer, allowed_to_group)
            spreads = self._spreads(of_group, request, ranked) if request.explain else np.ones(len(group))
            for n, position in enumerate(positions[group].tolist()):
                person = of_group.person(n)
                causes, remark = ({}, None) if fitting is None else fitting.of_offers(int(group[n]))
                slates[position] = writer.personal(
                    position, person, ranked.row(n), best[n], spreads[n], rng, causes=causes, remark=remark
                )
        return slates

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
            logits=lambda histories, pairs: self.ranker.score(self.inputs(histories), pairs).logit,
            ranked=ranked,
            broad=self.broad_categories,
        )

    @cached_property
    def broad_categories(self) -> frozenset[tuple[str, ...]]:
        """See `leave_one_out.broad_categories`."""
        return broad_categories(self.dataset.items, self.population.stats.buyers_ever)

    def person(self, user: str) -> UserHistory:
        """What is known of one user. Raises as `explain` does."""
        permitted, histories = self._agreed(self._pseudonyms([user]))
        if not permitted[0]:
            raise PolicyError("this person has not agreed to personalisation; there is nothing to explain")
        if not histories.has_evidence[0]:
            raise UnknownIdError("nothing to explain: nothing is known of this person; check the id, or load events")
        return histories.person(0)

    def fitting(self, intent: Intent, histories: Events, cart: Rows | None = None) -> FittingItems | None:
        """See `fitting_items`; raises what `together` raises, for offers that go with something."""

        def sensitive(rows: Ints) -> Mask:
            return sensitive_items(self.dataset.items[rows.tolist()], self.policy)

        as_of = self.dataset.as_of
        return fitting_items(intent, histories, as_of, self.offers, lambda: self.together, sensitive, cart)

    def _agreed(self, pseudonyms: Sequence[str]) -> tuple[Mask, Histories]:
        """Who may be served personally, (n,), and the histories of those alone."""
        histories = self.people.histories(pseudonyms)
        permitted = histories.permitted
        if permitted is None:
            permitted = np.array(self._permits(pseudonyms), bool)
        return permitted, histories if permitted.all() else histories.select(np.flatnonzero(permitted))

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
        units = tuple(Evidence.parse(evidence_id, self.dataset) for evidence_id in evidence_ids)
        self.warm()
        return self._copy(people=PeopleLacking(self.people, self._pseudonyms([user])[0], units))

    def permitted(self) -> Mask:
        """Who of the dataset's users may be served personally, as decided now; (n_users,)."""
        return np.array(self._permits(self.dataset.users[USER_COLUMN].to_list()), bool)

    def user_rows(self, users: Sequence[str]) -> Ints:
        """Row of each of the caller's ids in the dataset's users, -1 for an unknown one."""
        return self.dataset.user_rows(self._pseudonyms(users))

    def with_people(self, dataset: Dataset, pool: Ints) -> Recommender:
        """The same items and model over other people; pool: their row, or -1, for each neighbour of the collaborative
        statistics."""
        return self._copy(dataset=dataset, people=None, population=replace(self.population, pool=pool))

    def with_items(self, dataset: Dataset, vectors: Floats) -> Recommender:
        """This one's model over another dataset, which has its items first; vectors: of further items."""
        vectors = np.concatenate([self.item_vectors, vectors])
        return self._copy(dataset=dataset, people=None, population=None, item_vectors=vectors)

    def offering(self, items: pl.DataFrame) -> Recommender:
        """The same with other facts of the same items in the same order, such as prices and what is on offer."""
        shop = replace(self.dataset, items=items)
        return self._copy(dataset=shop, people=self.people.at(shop))

    def _copy(self, **changes: Any) -> Recommender:
        """With other arguments; what is computed already is kept unless it is among the changes."""
        names = ("dataset", "encoder", "model", "policy", "locale", "offers", "people", "text_locale")
        arguments = {name: getattr(self, name) for name in names}
        arguments |= {"pseudonyms": self._pseudonyms, "permits": self._permits}
        computed = {name: vars(self)[name] for name in ("item_vectors", "population") if name in vars(self)}
        copied = Recommender(**(arguments | computed | changes))
        copied._projections = self._projections
        if "together" in vars(self) and copied.dataset.n_items == self.dataset.n_items:
            copied.together = self.together
        if copied.dataset.items is self.dataset.items and "margins" in vars(self):
            copied.margins = self.margins
        return copied

    def _ranked(self, histories: Histories, request: RecommendRequest, allowed: Mask, k: int) -> Ranked:
        """The first `k` items of each user."""
        weight = request.popularity_weight
        by_margin = request.objective is Objective.MARGIN
        return self.ranker.rank(
            self.inputs(histories),
            k,
            items=np.flatnonzero(allowed) if request.allow is not None or request.intent in PERSONAL_INTENTS else None,
            allowed=allowed,
            banned=histories.dismissed(),
            repeats=request.repeats and request.intent is not Intent.DISCOVER,
            popularity_weight=self.policy.popularity_weight if weight is None else weight,
            objective=request.objective,
            margins=self.margins if by_margin else None,
        )

    def inputs(self, histories: Histories) -> UserInputs:
        """What the ranker reads of these users."""
        basics = basics_vectors(self.encoder, histories.basics, self.text_locale)
        return UserInputs(histories.events, self.dataset.as_of, histories.rows, basics)

    def inputs_of(self, rows: Ints) -> UserInputs:
        """The same of users of the dataset, by their rows."""
        return self.inputs(DatasetPeople(self.dataset).of_rows(rows))

    def _best(self, histories: Histories, writer: SlateWriter, allowed: Mask) -> tuple[Ranked, list[Ints]]:
        """A ranking, and the columns in it of each user's first items, of each name only the best: `k`, and where the
        slate explores those of the pool.

        When namesakes fill the ranking, it is made again four times as deep, until it holds `k` names or all items.
        """
        request, size = writer.request, slate_depth(writer.request)
        depth = max(LIST_DEPTH, size + NAMESAKES)
        while True:
            ranked = self._ranked(histories, request, allowed, depth)
            best = [writer.first_of_names(row[row >= 0]) for row in ranked.item]
            complete = (len(b) == size or row[-1] < 0 for b, row in zip(best, ranked.item, strict=True))
            if request.same_names or all(complete):
                return ranked, best
            depth *= 4

    def _writer(self, request: RecommendRequest) -> SlateWriter:
        return SlateWriter(
            request=request,
            dataset=self.dataset,
            names=self.names,
            locale=self.locale,
            offers=self.offers,
            model=self.model,
            explainer=self.explainer() if request.explain else None,
            buyers_28=self.population.stats.buyers_28,
        )

    def _spreads(self, histories: Histories, request: RecommendRequest, ranked: Ranked) -> Values:
        """Those of the list that nothing filters, so that one item has the same reasons wherever it is shown."""
        plain = RecommendRequest(users=request.users)
        names = ("k", "explain", "same_names", "explore_share", "explore_pool")
        as_plain = {name: getattr(plain, name) for name in names}
        filters = request.model_copy(update=as_plain)
        if filters != plain or ranked.item.shape[1] != LIST_DEPTH:
            ranked = self._ranked(histories, plain, allowed_items(self.dataset), LIST_DEPTH)
        return spreads(ranked)
