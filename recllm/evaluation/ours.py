"""The learned scorer as a system among others: trained on what the window lets it see, then asked through serving code.

systems = {"recllm": learned(load_encoder()), **contenders(["popular"])}
report = evaluate(cj_next28(complete_journey().dataset()), systems)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recllm.evaluation.baselines import Contender
from recllm.evaluation.protocols import Judged, Question, System
from recllm.schema import Encoder

if TYPE_CHECKING:
    from recllm.candidates import CandidateSettings
    from recllm.interests import InterestArguments
    from recllm.population import Population
    from recllm.recommender import Recommender
    from recllm.scorer import Scorer
    from recllm.training import TrainingArguments


def learned(
    encoder: Encoder,
    arguments: TrainingArguments | None = None,
    *,
    interests: InterestArguments | None = None,
    item_vectors: NDArray[np.float32] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Contender:
    """Trains at the first question of a window on `question.fit_on`, and keeps what it learned for the next ones.

    interests: settings of the sequence model; without them there is none. item_vectors: (n_items, dim), unit rows,
    where the caller has them already.
    """
    from recllm.training import TrainingArguments

    arguments = arguments or TrainingArguments()
    trained: dict[int, tuple[Any, System]] = {}  # the dataset is kept beside the system, so that its id stays taken

    def answer(question: Question) -> NDArray[np.int32] | Judged:
        key = id(question.fit_on)
        if key not in trained:
            trained[key] = question.fit_on, _train(question, encoder, arguments, interests, item_vectors, progress)
        return trained[key][1](question)

    sequence = {} if interests is None else {"interests": asdict(interests)}
    return Contender(answer=answer, settings={"encoder": encoder.name, **asdict(arguments), **sequence})


def serving(recommender: Recommender) -> Contender:
    """A trained recommender as it is served; it must have been trained on the window's own past.

    The caller makes the window from the recommender's dataset, so that both have the same rows.
    """
    from recllm.errors import NotFittedError

    model = recommender.model
    if model is None:
        raise NotFittedError("the recommender is not trained; call fit first")
    answer = _system(model.scorer, recommender.population, model.candidates, recommender.encoder, recommender.locale)
    return Contender(answer=answer, settings={"encoder": model.encoder, "model_version": model.version})


def _train(
    question: Question,
    encoder: Encoder,
    arguments: TrainingArguments,
    interests: InterestArguments | None,
    vectors: NDArray[np.float32] | None,
    progress: Callable[[str], None] | None,
) -> System:
    from recllm.population import Population
    from recllm.training import fit_scorer
    from recllm.vectors import basics_of, basics_vectors, item_vectors

    past = question.fit_on
    vectors = item_vectors(encoder, past) if vectors is None else vectors
    told = basics_vectors(encoder, basics_of(past.users))
    fitted = fit_scorer(past, vectors, told, arguments, progress, interests=interests)
    population = Population.fit(past, vectors, fitted.population, told, fitted.interests)
    return _system(fitted.scorer, population, fitted.candidates, encoder, "en")


def _system(
    scorer: Scorer, population: Population, settings: CandidateSettings, encoder: Encoder, locale: str
) -> System:
    from recllm.ranking import rank, rank_items
    from recllm.vectors import basics_of, basics_vectors

    def answer(question: Question) -> Judged:
        people = question.dataset.users[question.users]
        common: dict[str, Any] = {
            "own": question.own if question.hidden is None else np.maximum(question.own, question.hidden),
            "basics": basics_vectors(encoder, basics_of(people), locale),
            "repeats": not question.mask_seen,
        }
        histories = question.dataset.events.rows(question.users)
        if not population.stats.buyers_ever[question.items].any():  # arrivals: no source can propose what never sold
            listed = rank_items(scorer, population, histories, question.as_of, question.items, question.k, **common)
            return Judged(listed.item, listed.probability)
        allowed = np.zeros(question.dataset.n_items, dtype=bool)
        allowed[question.items] = True
        found = rank(
            scorer, population, histories, question.as_of, question.k, allowed=allowed, settings=settings, **common
        )
        return Judged(found.item, found.probability)

    return answer
