"""Which groups of people may be counted, given those that were counted before: no combination may tell of a few people.

A count of a group is the sum over all people of a vector v with 1 for members and 0 for others. Whoever has several
counts has every linear combination of them, and knows which people it is about: those where the combined vector is not
0. A group of 1 to floor - 1 people is isolated when some combination is not 0 exactly there. So what has to hold is

    every combination c = x V that is not 0 everywhere is not 0 for at least `floor` people          (1)

where the rows of V (r, n) are the independent vectors so far: the code that they span has a minimum distance of the
floor. To compute a minimum distance is NP-hard (Vardy 1997), so a sufficient condition is checked. For weights w > 0 of
people let

    M = sum over people of w[j] v_j v_j'         t[j] = w[j] v_j' M^-1 v_j         (weighted leverage scores)

with v_j the columns of V, which has rank r. Then (1) follows from t[j] < 1 / (floor - 1) for everybody:

    w[j] c[j]^2 = w[j] (x v_j)^2 <= t[j] (x M x') = t[j] * sum over people of w[i] c[i]^2            Cauchy-Schwarz
    summed over the people S where c is not 0, with the right-hand sum S's own:    1 <= sum over S of t[j]
    so S has at least 1 / max t people, which is above floor - 1.                                     QED

Weights only have to be found, not trusted. By Forster (2002) and Barthe (1998), leverages that are all below a bound can
be had by weights whenever they can be had by any fractional packing of bases: disjoint sets of people on each of which
the vectors are independent would be the same certificate in whole numbers (Edmonds 1965). What it costs: the leverages
sum to r, so at most n / (floor - 1) independent groups are ever certified at once, whatever they are.

A vector in the span of earlier ones tells nothing that did not follow from them: it is always allowed. People in
identical columns are interchangeable, so all of this runs over distinct columns with their numbers of people.

What it does not cover. It is about sums: "as many buyers of tea in Y as people in Y" tells of everybody in Y, though Y
is large. And that a figure is refused, or is an earlier one, says that a difference is below the floor; a difference of
nobody is answered in the same way as one of floor - 1 people, so that it does not say whether there is anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

ROUNDS = 24
"""Changes of the weights before a certificate is given up."""

MIN_RESIDUAL = 1e-4
"""A vector whose part outside the span is shorter than this, relative to itself, is in the span or is not decided."""

MIN_WEIGHT = 1e-5
"""People's weights lie between this and 1, so that the leverages keep their digits."""

DENOMINATORS = (1, 2, 3)
"""A combination of earlier vectors is recognised with coefficients of whole numbers over one of these."""


class GroupVerdict(StrEnum):
    """What may be said of a group."""

    FEW = "few"
    """It is smaller than the floor, or nobody."""
    NEAR = "near"
    """It differs from an earlier group by fewer people than the floor, or by nobody: only that one's figure is told."""
    IMPLIED = "implied"
    """Its count follows from earlier ones."""
    CERTIFIED = "certified"
    """No combination with earlier counts tells of fewer people than the floor."""
    ENTANGLED = "entangled"
    """Some combination may."""

    @property
    def is_told(self) -> bool:
        """Whether a count of the group itself may be told."""
        return self in (GroupVerdict.IMPLIED, GroupVerdict.CERTIFIED)


@dataclass(frozen=True, slots=True)
class GroupDecision:
    verdict: GroupVerdict
    nearest: int | None = None
    """Of `NEAR`: the position of the earlier group."""


class ReleasedGroups:
    """The groups of one kind of figure that were told so far, and what may still be told."""

    def __init__(self, n_people: int, floor: int) -> None:
        self.n_people, self.floor = n_people, floor
        self._groups = np.zeros((0, n_people), bool)
        self._independent: list[int] = []
        self._cells = np.zeros(n_people, np.int64)
        self._weights = np.ones(n_people)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def rank(self) -> int:
        """Independent groups that are certified together."""
        return len(self._independent)

    def add(self, members: Mask, *, is_independent: bool) -> None:
        """Keeps a group, (n_people,), that was told. is_independent: whether it was `CERTIFIED`; a group that is not is
        only compared by itself."""
        self._groups = np.concatenate([self._groups, members[None]])
        if is_independent:
            self._independent.append(len(self._groups) - 1)
            self._cells = np.unique(self._cells * 2 + members, return_inverse=True)[1]

    def add_all(self, groups: Sequence[tuple[Mask, bool]]) -> None:
        """Several, as `add` does."""
        if groups:
            start = len(self._groups)
            self._groups = np.concatenate([self._groups, np.array([members for members, _ in groups])])
            for n, (members, is_independent) in enumerate(groups, start):
                if is_independent:
                    self._independent.append(n)
                    self._cells = np.unique(self._cells * 2 + members, return_inverse=True)[1]

    def decide(self, members: Mask) -> GroupDecision:
        """members: (n_people,)."""
        if self.floor <= 1:
            return GroupDecision(GroupVerdict.CERTIFIED)
        if members.sum() < self.floor:
            return GroupDecision(GroupVerdict.FEW)
        if len(self._groups):
            differences = np.count_nonzero(self._groups != members, axis=1)
            nearest = int(np.argmin(differences))
            if differences[nearest] < self.floor:
                return GroupDecision(GroupVerdict.NEAR, nearest)
        return GroupDecision(self._combined(members))

    def _combined(self, members: Mask) -> GroupVerdict:
        """By all combinations with the independent groups."""
        cells, first, inverse, sizes = np.unique(
            self._cells * 2 + members, return_index=True, return_inverse=True, return_counts=True
        )
        earlier = self._groups[self._independent][:, first].T.astype(np.float64)
        vector = (cells % 2).astype(np.float64)
        root = np.sqrt(sizes.astype(np.float64))
        basis = np.linalg.qr(root[:, None] * earlier)[0] if earlier.shape[1] else np.zeros((len(cells), 0))
        residual = root * vector
        for _ in range(2):  # twice is enough for full precision (Giraud et al. 2005)
            residual = residual - basis @ (basis.T @ residual)
        length = float(np.linalg.norm(residual))
        if length < MIN_RESIDUAL * np.sqrt(members.sum()):
            return GroupVerdict.IMPLIED if _is_combination(earlier, vector, root) else GroupVerdict.ENTANGLED
        if self.rank + 1 >= len(members) / (self.floor - 1):
            return GroupVerdict.ENTANGLED
        rows = np.column_stack([basis, residual / length]) / root[:, None]
        weights = np.maximum.reduceat(self._weights[np.argsort(inverse, kind="stable")], np.cumsum(sizes) - sizes)
        certified = _balanced(rows, sizes, weights, 1 / (self.floor - 0.5))
        if certified is None:
            return GroupVerdict.ENTANGLED
        self._weights = certified[inverse]
        return GroupVerdict.CERTIFIED


def _is_combination(earlier: NDArray[np.float64], vector: NDArray[np.float64], root: NDArray[np.float64]) -> bool:
    """Whether the vector, (cells,), is a combination of the columns of `earlier`, (cells, r): proved in whole numbers."""
    coefficients = np.linalg.lstsq(root[:, None] * earlier, root * vector, rcond=None)[0]
    for denominator in DENOMINATORS:
        whole = np.round(coefficients * denominator)
        if np.abs(whole).max(initial=0) < 2**20 and np.array_equal(earlier @ whole, denominator * vector):
            return True
    return False


def _balanced(
    rows: NDArray[np.float64], sizes: NDArray[np.int64], weights: NDArray[np.float64], bound: float
) -> NDArray[np.float64] | None:
    """Weights by which every person's leverage is at most `bound`, as far as some are found; None otherwise.

    rows: (cells, r), a column of V per kind of people, in a basis that is orthonormal over people of equal weight.
    Where the leverage is too high the weight is lowered, which lowers it there and raises it elsewhere (Cohen et al.
    2015).
    """
    weights = np.clip(weights, MIN_WEIGHT, 1.0)
    for _ in range(ROUNDS):
        moments = rows.T @ ((sizes * weights)[:, None] * rows)
        try:
            inverse = np.linalg.inv(np.linalg.cholesky(moments))
        except np.linalg.LinAlgError:
            return None
        leverage = weights * np.square(rows @ inverse.T).sum(axis=1)
        if leverage.max() <= bound:
            return weights
        weights = np.maximum(weights * np.minimum(1.0, 0.97 * bound / leverage), MIN_WEIGHT)
        weights = weights / weights.max()
    return None
