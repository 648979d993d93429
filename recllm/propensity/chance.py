"""Who buys, and who leaves, within a horizon.

buy      at least one purchase (of some items) with as_of <= time < as_of + horizon; asked of everybody with any event.
leave    no purchase at all in that time, asked of active people: those who bought within `active_days` before. A person
         who has already stayed away longer is not asked about: whoever is gone cannot leave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import Dataset, utc
from recllm.errors import NothingToDo, UsageError
from recllm.propensity.curves import quality
from recllm.propensity.examples import Examples, past_examples
from recllm.propensity.model import ChanceModel, backtest, fit_chances
from recllm.propensity.prediction import Kind, Predicted, Prediction
from recllm.propensity.question import Question, active, ids_of, known, ordered
from recllm.settings import PropensitySettings

ACTIVE_DAYS = 91


def predict_buy(question: Question) -> Prediction:
    """Raises `DataError` for a log too short, too few people or one outcome only; `NothingToDo` for nobody to ask."""
    examples = learned(question, known, question.bought)
    return _answer(question, Kind.BUY, examples, known(question.ask, question.ask.as_of), question.meaning(Kind.BUY))


def predict_leave(question: Question, active_days: int = ACTIVE_DAYS) -> Prediction:
    """The same for the lack of any purchase. Raises `UsageError` for items or a category."""
    if question.aimed:
        raise UsageError("leaving is about any purchase; use buy for --item and --category")
    if active_days < 1:
        raise UsageError(f"active within {active_days} days: give at least 1")
    who = active(active_days)

    def left(dataset: Dataset, start: int, end: int) -> NDArray[np.float64]:
        return 1 - question.bought(dataset, start, end)

    examples = learned(question, who, left)
    asked = who(question.ask, question.ask.as_of)
    return _answer(question, Kind.LEAVE, examples, asked, question.meaning(Kind.LEAVE, active_days))


def learned(question: Question, who: object, outcome: object, most: int = 12) -> Examples:
    """The past windows of a question as examples."""
    times = question.times(most)
    return past_examples(question.learn, times, question.horizon_days, question.table(), outcome, who)  # type: ignore[arg-type]


def _answer(question: Question, kind: Kind, examples: Examples, asked: NDArray[np.bool_], meaning: str) -> Prediction:
    as_of, settings = question.learn.as_of, PropensitySettings(seed=question.seed)
    held = backtest(examples, as_of, settings)
    model = fit_chances(examples, as_of, settings)
    rows = np.flatnonzero(asked)
    if not len(rows):
        raise NothingToDo(f"nobody to predict: of {question.ask.n_users:,} people none has a past that counts")
    return Prediction(
        kind=kind,
        horizon_days=question.horizon_days,
        as_of=utc(question.ask.as_of),
        meaning=meaning,
        people=_people(question, model, examples, rows),
        quality=quality(held.probability, held.label),
        checked=question.checked(examples.cut[held.rows] if held.whole_window else None),
        left_out=left_out(asked),
    )


def _people(
    question: Question, model: ChanceModel, examples: Examples, rows: NDArray[np.int64]
) -> tuple[Predicted, ...]:
    table = question.table()(question.ask, question.ask.as_of).rows(rows)
    chance = model.probability(table)
    why = question.answers(model.logit, model.read, examples.features, table)
    names = ids_of(question.ask, rows)
    order = ordered(question.ask, rows, chance)
    return tuple(Predicted(user_id=names[n], probability=float(chance[n]), reasons=why[n]) for n in order)


def left_out(asked: NDArray[np.bool_]) -> dict[str, int]:
    missing = int((~asked).sum())
    return {"no_past": missing} if missing else {}
