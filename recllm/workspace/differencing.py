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

Weights only have to be found, not trusted. By Forster (2002) and Barthe (1998), leverages below a bound can be had by
weights whenever they can be had by a fractional packing of bases: disjoint sets of people on each of which the vectors
are independent would be the same certificate in whole numbers (Edmonds 1965). What it costs: the leverages sum to r, so
at most n / (floor - 1) independent groups are ever certified at once, whatever they are.

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

ROUNDS = 16
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
        # kinds of people: the kind of each, an orthonormal basis of the span with a row per kind, weights of kinds
        self._kinds = np.zeros(n_people, np.int64)
        self._basis = np.zeros((1, 0))
        self._weights = np.ones(1)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def rank(self) -> int:
        """Independent groups that are certified together."""
        return len(self._independent)

    def group(self, position: int) -> Mask:
        """The members of a group, (n_people,)."""
        return np.asarray(self._groups[position])

    def add(self, members: Mask, *, is_independent: bool) -> None:
        """Keeps a group, (n_people,), that was told. is_independent: whether it was `CERTIFIED`; a group that is not is
        only compared by itself."""
        self._groups = np.concatenate([self._groups, members[None]])
        if is_independent:
            split = self._split(members)
            self._independent.append(len(self._groups) - 1)
            self._kinds, self._basis, self._weights = split.kinds, split.basis, self._weights[split.earlier]

    def add_all(self, groups: Mask, are_independent: Sequence[bool]) -> None:
        """Several at once, (n, n_people), as `add` does."""
        start = len(self._groups)
        self._groups = np.concatenate([self._groups, groups])
        self._independent += [start + n for n, is_independent in enumerate(are_independent) if is_independent]
        if self._independent:
            columns = np.ascontiguousarray(np.packbits(self._groups[self._independent], axis=0).T)
            packed = columns.view(np.dtype((np.void, columns.shape[1]))).ravel()
            _, first, kinds, sizes = np.unique(packed, return_index=True, return_inverse=True, return_counts=True)
            root = np.sqrt(sizes)[:, None]
            self._kinds, self._weights = kinds, np.ones(len(sizes))
            self._basis = np.linalg.qr(root * self._groups[self._independent][:, first].T)[0] / root

    def is_covered(self, members: Mask) -> bool:
        """Whether the count of a group, (n_people,), follows from the independent ones."""
        return self._combined(members) is GroupVerdict.IMPLIED

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
        split = self._split(members)
        if split.length < MIN_RESIDUAL * np.sqrt(members.sum()):
            earlier = self._groups[self._independent][:, split.first].T.astype(np.float64)
            is_implied = _is_combination(earlier, members[split.first].astype(np.float64), np.sqrt(split.sizes))
            return GroupVerdict.IMPLIED if is_implied else GroupVerdict.ENTANGLED
        bound = 1 / (self.floor - 0.5)
        if self.rank + 1 > bound * self.n_people:  # the leverages sum to the rank
            return GroupVerdict.ENTANGLED
        if np.square(split.basis).sum(axis=1).max() <= bound:
            return GroupVerdict.CERTIFIED
        weights = _balanced(split.basis, split.sizes, self._weights[split.earlier], bound)
        if weights is None:
            return GroupVerdict.ENTANGLED
        # what they are for those who stay of one kind is where the next search begins
        self._weights = np.maximum.reduceat(weights, np.flatnonzero(np.diff(split.earlier, prepend=-1)))
        return GroupVerdict.CERTIFIED

    def _split(self, members: Mask) -> _Split:
        """Kinds of people, were a group told besides."""
        keys = self._kinds * 2 + members
        counts = np.bincount(keys, minlength=2 * len(self._basis))
        present = np.flatnonzero(counts)
        position = np.zeros(len(counts), np.int64)
        position[present] = np.arange(len(present))
        kinds, sizes, earlier = position[keys], counts[present], present // 2
        first = np.zeros(len(present), np.int64)
        first[kinds[::-1]] = np.arange(self.n_people)[::-1]
        basis, residual = self._basis[earlier], (present % 2).astype(np.float64)
        for _ in range(2):  # twice is enough for full precision (Giraud et al. 2005)
            residual = residual - basis @ (basis.T @ (sizes * residual))
        length = float(np.sqrt((sizes * residual**2).sum()))
        basis = np.column_stack([basis, residual / max(length, 1e-300)])
        return _Split(kinds, sizes, earlier, first, basis, length)


@dataclass(frozen=True, eq=False)
class _Split:
    """Kinds of people: those of one kind are in the same groups."""

    kinds: NDArray[np.int64]
    """Of each person, (n_people,)."""
    sizes: NDArray[np.int64]
    """(n_kinds,)."""
    earlier: NDArray[np.int64]
    """The kind that each was part of before the last group, (n_kinds,), ascending."""
    first: NDArray[np.int64]
    """A person of each, (n_kinds,)."""
    basis: NDArray[np.float64]
    """(n_kinds, r): columns of V in coordinates in which the sum over people of the outer products is 1."""
    length: float
    """Of the last group's part outside the span of those before."""


def _is_combination(earlier: NDArray[np.float64], vector: NDArray[np.float64], root: NDArray[np.float64]) -> bool:
    """Whether the vector, (n_kinds,), is a combination of the columns of `earlier`, (n_kinds, r): proved in whole
    numbers."""
    coefficients = np.linalg.lstsq(root[:, None] * earlier, root * vector, rcond=None)[0]
    for denominator in DENOMINATORS:
        whole_numbers = np.round(coefficients * denominator)
        is_small = np.abs(whole_numbers).max(initial=0) < 2**20
        if is_small and np.array_equal(earlier @ whole_numbers, denominator * vector):
            return True
    return False


def _balanced(
    basis: NDArray[np.float64], sizes: NDArray[np.int64], weights: NDArray[np.float64], bound: float
) -> NDArray[np.float64] | None:
    """Weights of kinds by which every person's leverage is at most `bound`, as far as some are found; None otherwise.

    Where the leverage is too high the weight is lowered, which lowers it there and raises it elsewhere (Cohen et al.
    2015). basis and sizes as in `_Split`.
    """
    for _ in range(ROUNDS):
        moments = basis.T @ ((sizes * weights)[:, None] * basis)
        try:
            inverse = np.linalg.inv(np.linalg.cholesky(moments))
        except np.linalg.LinAlgError:
            return None
        leverage = weights * np.square(basis @ inverse.T).sum(axis=1)
        if leverage.max() <= bound:
            return weights
        weights = np.where(leverage > 0.97 * bound, weights * 0.97 * bound / np.maximum(leverage, 1e-300), weights)
        weights = np.maximum(weights / weights.max(), MIN_WEIGHT)
    return None
