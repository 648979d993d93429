"""Who is left out of an audience, and why: one reason per person, the first that holds, so that the counts add up."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recllm.data.dataset import DAY, USER_COLUMN, Dataset, utc
from recllm.errors import UsageError
from recllm.features.item_vectors import basics_of
from recllm.schema import ACTION_CODE, Action

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

Mask = NDArray[np.bool_]

NO_CONSENT, SUPPRESSED, SEED, MINOR = "no_consent", "suppression_list", "seed", "minor"
UNKNOWN, BOUGHT, RETURNED, CAPPED = "nothing_known", "bought_recently", "returned", "frequency_cap"


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Rules. Suppressed ids are the caller's own; ids that nobody has are ignored."""

    suppressed: Collection[str] = ()
    """Never contact these."""
    agreed: Callable[[Sequence[str]], Sequence[bool]] | None = None
    """Whether each of the dataset's ids has agreed to the channel; personalisation they must have agreed to anyway."""
    bought_days: float | None = None
    """Leave out who bought one of the items so recently; None keeps them, as many shops live from buying again."""
    returned: bool = True
    """Leave out who returned one of the items and did not buy it since."""
    frequency_cap: int | None = None
    """Leave out who was shown recommendations on so many occasions within `frequency_days`."""
    frequency_days: float = 7.0
    adult_age: int = 18
    """Leave out whose age, or year of birth, among the basics allows that they are younger; 0 for nobody."""

    def __post_init__(self) -> None:
        if self.bought_days is not None and not self.bought_days > 0:
            raise UsageError(f"bought_days is {self.bought_days}; give a number of days above 0")
        if self.frequency_cap is not None and self.frequency_cap < 1:
            raise UsageError(f"frequency_cap is {self.frequency_cap}; 1 is the smallest")
        if not self.frequency_days > 0:
            raise UsageError(f"frequency_days is {self.frequency_days}; give a number of days above 0")


def reasons_against(
    recommender: Recommender, items: NDArray[np.integer], rules: Exclusions, seeds: Collection[str] = ()
) -> dict[str, Mask]:
    """Reason -> who it holds for, (n_users,) each; a person stands under the first that holds, in this order."""
    data = recommender.dataset
    refused = ~recommender.permitted()
    if rules.agreed is not None:
        refused |= ~np.array(rules.agreed(data.users[USER_COLUMN].to_list()), bool)
    found = {
        NO_CONSENT: refused,
        SUPPRESSED: _listed(recommender, rules.suppressed),
        MINOR: _minors(data, rules.adult_age),
        SEED: _listed(recommender, seeds),
        UNKNOWN: _unknown(data),
        BOUGHT: _bought(data, items, rules.bought_days),
        RETURNED: _returned(data, items) if rules.returned else np.zeros(data.n_users, bool),
        CAPPED: _capped(data, rules),
    }
    return first_only(found)


def first_only(found: Mapping[str, Mask]) -> dict[str, Mask]:
    """The same, each person left under the first reason alone."""
    out, taken = {}, np.zeros(len(next(iter(found.values()))), bool)
    for reason, mask in found.items():
        out[reason] = mask & ~taken
        taken = taken | mask
    return out


def _listed(recommender: Recommender, ids: Collection[str]) -> Mask:
    out = np.zeros(recommender.dataset.n_users, bool)
    if ids:
        rows = recommender.user_rows(list(ids))
        out[rows[rows >= 0]] = True
    return out


def _unknown(data: Dataset) -> Mask:
    """Neither an event of their own nor a basic: there is nothing to tell them apart by."""
    e = data.events
    acted = np.diff(e.select(e.action != ACTION_CODE[Action.SHOWN]).indptr) > 0
    return np.asarray(~acted & np.array([not told for told in basics_of(data.users)], bool))


def _bought(data: Dataset, items: NDArray[np.integer], days: float | None) -> Mask:
    if days is None:
        return np.zeros(data.n_users, bool)
    e = data.events
    recent = (e.action == ACTION_CODE[Action.PURCHASE]) & (e.at >= data.as_of - days * DAY) & np.isin(e.item, items)
    return np.asarray(np.bincount(e.user[recent], minlength=data.n_users) > 0)


def _returned(data: Dataset, items: NDArray[np.integer]) -> Mask:
    e = data.events
    ours = np.isin(e.item, items)
    latest = []
    for action in (Action.RETURN, Action.PURCHASE):
        at = np.full(data.n_users, -1, np.int64)
        kept = ours & (e.action == ACTION_CODE[action])
        np.maximum.at(at, e.user[kept], e.at[kept])
        latest.append(at)
    return np.asarray((latest[0] >= 0) & (latest[0] >= latest[1]))


def _capped(data: Dataset, rules: Exclusions) -> Mask:
    """Occasions are distinct times: the places of one slate are one."""
    if rules.frequency_cap is None:
        return np.zeros(data.n_users, bool)
    e = data.events
    shown = (e.action == ACTION_CODE[Action.SHOWN]) & (e.at >= data.as_of - rules.frequency_days * DAY)
    occasions = np.unique(np.stack([e.user[shown].astype(np.int64), e.at[shown]]), axis=1)
    return np.asarray(np.bincount(occasions[0], minlength=data.n_users) >= rules.frequency_cap)


# --- ages ------------------------------------------------------------------------------------------------------------

_AGE = re.compile(r"(^|[^a-z])(age|ages|aged)([^a-z]|$)|年龄|岁")
_BORN = re.compile(r"birth|(^|[^a-z])born([^a-z]|$)|出生|生日")
_BELOW = re.compile(r"^\s*(<|under|below|up to|younger|bis|小于|不满)|以下")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_NUMBER = re.compile(r"\d+")


def _minors(data: Dataset, adult_age: int) -> Mask:
    if adult_age <= 0:
        return np.zeros(data.n_users, bool)
    year, known = utc(data.as_of).year, {}
    out = np.zeros(data.n_users, bool)
    for row, basics in enumerate(basics_of(data.users)):
        for name, value in basics.items():
            if (name, value) not in known:
                youngest = youngest_age(name, value, year)
                known[name, value] = youngest is not None and youngest < adult_age
            out[row] |= known[name, value]
    return out


def youngest_age(name: str, value: str, year: int) -> int | None:
    """The lowest age that a basic allows, e.g. 13 for age "13-17", 0 for "under 18"; None when it tells no age.

    year: the present one, from which a year of birth counts; somebody's birthday may be still to come.
    """
    name, value = name.casefold(), value.casefold()
    if _BORN.search(name):
        years = [int(y) for y in _YEAR.findall(value)]
        return year - max(years) - 1 if years else None
    if not _AGE.search(name):
        return None
    numbers = [int(n) for n in _NUMBER.findall(value)]
    if not numbers:
        return None
    return 0 if _BELOW.search(value) else numbers[0]
