"""The learned scorer as a system among others: trained on what the window lets it see, then asked through serving code.

window, encoder = cj_next28(complete_journey().dataset()), load_encoder()
ours = learned(encoder, advised(window.fit_on, encoder, tuned=False))
report = evaluate(window, {"recllm": ours, **contenders(["popular"])})
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.errors import DataError
from recllm.evaluation.baselines import Contender
from recllm.evaluation.protocols import Judged, Question, System
from recllm.schema import Encoder

if TYPE_CHECKING:
    from recllm.features.collaborative import Population
    from recllm.models.scorer import Scorer
    from recllm.recommender.ranking import Ranked
    from recllm.recommender.recommender import Recommender
    from recllm.settings import CandidateSettings, LoraSettings, ScorerTrainingSettings, SequenceModelSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class Recipe:
    """What is trained. lora: fine-tune the encoder first; None leaves it frozen. interests: the sequence model; None
    for none. runs: where fine-tuning keeps its runs, so that one is not made twice; a temporary folder when None."""

    training: ScorerTrainingSettings
    lora: LoraSettings | None = None
    interests: SequenceModelSettings | None = None
    runs: Path | None = None

    def settings(self) -> dict[str, Any]:
        """As plain data, for the report."""
        parts = {"lora": self.lora, "interests": self.interests}
        tables = {name: None if part is None else part.model_dump(mode="json") for name, part in parts.items()}
        return self.training.model_dump(mode="json") | tables


def advised(past: Dataset, encoder: Encoder, *, tuned: bool, seed: int = 0, runs: Path | None = None) -> Recipe:
    """What `recllm advise` proposes for this log; tuned False leaves the encoder frozen whatever it says.

    Raises `DataError` for a log that is too small to learn from.
    """
    from recllm.text.items import item_texts
    from recllm.training.advise import advise

    found = advise(past, item_texts(past.items), encoder=encoder.name, seed=seed)
    if found.training is None:
        raise DataError("; ".join(found.missing))
    return Recipe(training=found.training, lora=found.lora if tuned else None, interests=found.interests, runs=runs)


def learned(
    encoder: Encoder,
    recipe: Recipe,
    *,
    item_vectors: NDArray[np.float32] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Contender:
    """Trains at the first question of a window on `question.fit_on`, and keeps what it learned for the next ones.

    item_vectors: those of the untuned encoder, (n_items, dim), unit rows, where the caller has them already.
    """
    trained: dict[int, tuple[Any, System]] = {}  # the dataset is kept beside the system, so that its id stays taken

    def answer(question: Question) -> NDArray[np.int32] | Judged:
        key = id(question.fit_on)
        if key not in trained:
            trained[key] = question.fit_on, _train(question, encoder, recipe, item_vectors, progress)
        return trained[key][1](question)

    return Contender(answer=answer, settings={"encoder": encoder.name, **recipe.settings()})


def serving(recommender: Recommender, *, popularity_weight: float = 0.0) -> Contender:
    """A trained recommender as it is served; it must have been trained on the window's own past.

    The caller makes the window from the recommender's dataset, so that both have the same rows.
    """
    from recllm.errors import NotFittedError

    model = recommender.model
    if model is None:
        raise NotFittedError("the recommender is not trained; call fit first")
    encoder, locale = recommender.encoder, recommender.locale
    crowd, offsets = recommender.population, recommender.item_offsets
    answer = _system(model.scorer, crowd, model.candidates, encoder, locale, popularity_weight, offsets)
    settings = {"encoder": model.encoder, "model_version": model.version, "popularity_weight": popularity_weight}
    return Contender(answer=answer, settings=settings)


def _train(
    question: Question,
    encoder: Encoder,
    recipe: Recipe,
    vectors: NDArray[np.float32] | None,
    progress: Callable[[str], None] | None,
) -> System:
    from recllm.features.collaborative import Population
    from recllm.features.item_vectors import basics_of, basics_vectors, item_vectors
    from recllm.training.scorer import fit_scorer

    past = question.fit_on
    if recipe.lora is not None:
        encoder, vectors = _tuned(past, encoder, recipe.lora, recipe.runs, progress), None
    vectors = item_vectors(encoder, past) if vectors is None else vectors
    told = basics_vectors(encoder, basics_of(past.users))
    fitted = fit_scorer(past, vectors, told, recipe.training, progress, interests=recipe.interests)
    population = Population.fit(past, vectors, fitted.population, told, fitted.interests)
    return _system(fitted.scorer, population, fitted.candidates, encoder, "en", item_offsets=fitted.item_offsets)


def _tuned(
    past: Dataset,
    encoder: Encoder,
    lora: LoraSettings,
    runs: Path | None,
    progress: Callable[[str], None] | None,
) -> Encoder:
    from tempfile import TemporaryDirectory

    from recllm.training.lora.run_folder import run_folder_name
    from recllm.training.lora.tune import tune_encoder

    if runs is not None:
        return tune_encoder(past, encoder, lora, runs / run_folder_name(past, encoder, lora), progress).encoder
    with TemporaryDirectory() as folder:  # the merged weights are in memory; the adapter is not needed again
        return tune_encoder(past, encoder, lora, Path(folder) / "run", progress).encoder


def _system(
    scorer: Scorer,
    population: Population,
    settings: CandidateSettings,
    encoder: Encoder,
    locale: str,
    popularity_weight: float = 0.0,
    item_offsets: NDArray[np.float32] | None = None,
) -> System:
    from recllm.features.item_vectors import basics_of, basics_vectors
    from recllm.recommender.ranking import rank, rank_items, rank_with_and_without_repeats

    last: list[_Pass] = []

    def answer(question: Question) -> Judged:
        if last and last[0].answers(question):
            return last[0].lists(question)
        people = question.dataset.users[question.users]
        common: dict[str, Any] = {
            "own": question.own if question.hidden is None else np.maximum(question.own, question.hidden),
            "basics": basics_vectors(encoder, basics_of(people), locale),
            "popularity_weight": popularity_weight,
            "item_offsets": item_offsets,
        }
        asked = (scorer, population, question.dataset.events.rows(question.users), question.as_of)
        repeats = not question.mask_seen
        if not population.stats.buyers_ever[question.items].any():  # arrivals: no source can propose what never sold
            return _judged(rank_items(*asked, question.items, question.k, repeats=repeats, **common))
        allowed = np.zeros(question.dataset.n_items, dtype=bool)
        allowed[question.items] = True
        common |= {"allowed": allowed, "settings": settings}
        if question.mask_seen or question.hidden is not None:
            return _judged(rank(*asked, question.k, repeats=repeats, **common))
        whole, new = rank_with_and_without_repeats(*asked, question.k, **common)
        last[:] = [_Pass(question, _judged(whole), _judged(new))]
        return _judged(whole)

    return answer


def _judged(found: Ranked) -> Judged:
    return Judged(found.item, found.probability)


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass over people, with their lists for all questions that differ from `question` only in the mask, or ask
    fewer people."""

    question: Question
    whole: Judged
    new: Judged

    def answers(self, question: Question) -> bool:
        mine = self.question
        return (
            question.dataset is mine.dataset
            and question.fit_on is mine.fit_on
            and question.hidden is None
            and question.k == mine.k
            and np.array_equal(question.items, mine.items)
            and bool(np.isin(question.users, mine.users).all())
        )

    def lists(self, question: Question) -> Judged:
        order = np.argsort(self.question.users)
        rows = order[np.searchsorted(self.question.users, question.users, sorter=order)]
        found = self.new if question.mask_seen else self.whole
        return Judged(found.items[rows], found.probability[rows])
