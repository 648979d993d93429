"""Audiences of several campaigns at once, so that each person gets the campaigns that suit them best.

The people and probabilities are those of `audience`; who gets what is the program of `recllm.audiences.assignment`.
Each campaign's holdout is drawn from the people it was given, so a campaign addresses at most its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.audiences.assignment import Assignment, Campaign, assign
from recllm.audiences.audience import Audience, Pool, answer, names_of, pool
from recllm.audiences.exclusions import Exclusions
from recllm.audiences.selection import Selection, draws
from recllm.audiences.targets import Target

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Plan:
    """One audience per campaign, in the order asked; how they came about, with the gap to the optimum."""

    audiences: tuple[Audience, ...]
    assignment: Assignment


def audiences(
    recommender: Recommender,
    wanted: Sequence[tuple[Campaign, Target]],
    *,
    contacts: int = 1,
    exclusions: Exclusions | None = None,
    holdout: float = 0.1,
    salt: str = "",
    explain: bool = True,
) -> Plan:
    """contacts: most campaigns that one person gets. A person whose gain is not above the cost gets no contact.

    Raises `NotFittedError` without a trained model, `UsageError` for two campaigns of one name, `PolicyError` for a
    campaign that would address fewer people than the policy's floor.
    """
    pools = [pool(recommender, target, exclusions or Exclusions()) for _, target in wanted]
    campaigns = [campaign for campaign, _ in wanted]
    probability = np.zeros((recommender.dataset.n_users, len(wanted)), np.float32)
    eligible = np.zeros(probability.shape, bool)
    for place, (campaign, found) in enumerate(zip(campaigns, pools, strict=True)):
        assert found.found.probability is not None  # noqa: S101 - a pool of items has probabilities
        probability[found.rows, place] = found.found.probability
        eligible[found.rows, place] = found.found.probability * campaign.value > campaign.cost
    chosen = assign(probability, campaigns, contacts=contacts, eligible=eligible)
    made = []
    for place, found in enumerate(pools):
        name, rows = campaigns[place].name, chosen.person[chosen.campaign == place]
        selected = selection_of(recommender, found, rows, name, holdout, salt)
        made.append(answer(recommender, found, selected, name, explain=explain))
    return Plan(tuple(made), chosen)


def selection_of(
    recommender: Recommender, found: Pool, rows: NDArray[np.int64], campaign: str, holdout: float, salt: str
) -> Selection:
    """rows: the people that the campaign was given."""
    names = names_of(recommender, found)
    places = np.flatnonzero(np.isin(found.rows, rows))
    ids = [names[place] for place in places]
    order = np.lexsort((draws(ids, campaign, f"{salt}\0order"), -found.found.order[places]))
    held = (draws(ids, campaign, salt) < holdout)[order]
    return Selection(places[order][~held], places[order][held], 0, len(names) - len(places))
