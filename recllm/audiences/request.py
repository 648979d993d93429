"""What is asked of an audience: for what, how many at what cost, and who is left out.

The requests say at once what is wrong in them, before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from recllm.audiences.people_rule import PeopleRule, checked_rule
from recllm.errors import UsageError
from recllm.schema import Intent, Objective


@dataclass(frozen=True, kw_only=True)
class AudienceLimits:
    """How many people are addressed and how many are held out. Raises `UsageError` for values that cannot be."""

    size: int | None = None
    """People addressed at most."""
    budget: float | None = None
    """Money, spent at `cost` per contact."""
    cost: float | None = None
    """Money per person addressed."""
    margin: float | None = None
    """Money that a conversion brings; then only people with probability * margin > cost are addressed."""
    holdout: float = 0.1
    """Share in [0, 1) that is kept out for comparison."""
    salt: str = ""
    """Of the draw of the holdout."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 0:
            raise UsageError(f"size is {self.size}; give a number of people")
        for name in ("budget", "cost", "margin"):
            amount = getattr(self, name)
            if amount is not None and not 0 <= amount < math.inf:
                raise UsageError(f"{name} is {amount}; give an amount of 0 or more")
        if not 0 <= self.holdout < 1:
            raise UsageError(f"holdout is {self.holdout}; give a share of 0 or more and below 1")
        if self.budget is not None and not self.cost:
            raise UsageError("a budget needs the cost of a contact, above 0")

    @property
    def max_contacts(self) -> int | None:
        """People that can be addressed by size and budget; None for no limit."""
        paid = None if self.budget is None or not self.cost else int(self.budget / self.cost + 1e-9)
        return min((limit for limit in (self.size, paid) if limit is not None), default=None)

    def reachable(self, n: int) -> int:
        """People of n that can be addressed."""
        return n if self.max_contacts is None else min(n, self.max_contacts)


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Who is left out whatever their probability. Raises `UsageError` for values that cannot be."""

    suppressed: Collection[str] = ()
    """Never contact these: the caller's own ids; those that nobody has are ignored."""
    bought_days: float | None = None
    """Leave out who bought one of the items so recently; None keeps them, as many shops live from buying again."""
    returned: bool = True
    """Leave out who returned one of the items and did not buy it since."""
    frequency_cap: int | None = None
    """Leave out who was shown recommendations on so many occasions within `frequency_days`."""
    frequency_days: float = 7.0
    adult_age: int = 18
    """Leave out whose age, or year of birth, among the basics allows that they are younger; 0 for nobody."""
    people: PeopleRule | None = None
    """Leave out who does not meet this rule; see `recllm.audiences.people_rule`."""
    holdout_share: float = 0.0
    """Leave out the shop's global holdout: so large a share of all people, in [0, 1], whom nothing personal reaches."""
    holdout_salt: str = ""
    """Of the draw of the global holdout."""

    def __post_init__(self) -> None:
        for name in ("bought_days", "frequency_days"):
            days = getattr(self, name)
            if days is not None and not days > 0:
                raise UsageError(f"{name} is {days}; give a number of days above 0")
        if self.people is not None:
            checked_rule(self.people)
        if self.frequency_cap is not None and self.frequency_cap < 1:
            raise UsageError(f"frequency_cap is {self.frequency_cap}; 1 is the smallest")
        if not 0 <= self.holdout_share <= 1:
            raise UsageError(f"holdout_share is {self.holdout_share}; give a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class OfferChoice:
    """Which item of the target each person is offered, and by what people are ordered. Raises `UsageError` for values
    that do not go together."""

    intent: Intent = Intent.MIXED
    """A person to whom no item of the target is that is left out."""
    objective: Objective = Objective.PROBABILITY
    """lift: who is more likely than people in general; margin: what is likely to be earned; uplift: whom a treatment
    moves most, by `effects`."""
    effects: str | None = None
    """Name of the effects that a trial told; see `recllm uplift --save`."""
    sure: bool = False
    """Only people whose effect is above 0 at both ends of its interval."""

    def __post_init__(self) -> None:
        if self.objective is Objective.UPLIFT and self.effects is None:
            raise UsageError(
                "objective uplift needs the effects of a treatment, learned from a trial: save some with recllm uplift "
                "TRIAL --save NAME, and give their name as effects"
            )
        if self.objective is not Objective.UPLIFT and (self.effects is not None or self.sure):
            raise UsageError(f"effects and sure belong to the objective uplift, and the objective is {self.objective}")


@dataclass(frozen=True, kw_only=True)
class AudienceRequest:
    """For what, and to whom: one of items, category, text or seeds. A text may come with the category of its item.

    Raises `UsageError` for none or several of the four, an empty one, or a margin for seeds.
    """

    items: Sequence[str] | None = None
    """Item ids; whoever is likely to buy at least one of them."""
    category: str | None = None
    """A category's name, or its path "a > b"."""
    text: str | None = None
    """What the shop does not sell yet."""
    seeds: Collection[str] | None = None
    """The caller's ids of people; those who are like them are found."""
    choice: OfferChoice = field(default_factory=OfferChoice)
    limits: AudienceLimits = field(default_factory=AudienceLimits)
    exclusions: Exclusions = field(default_factory=Exclusions)
    campaign: str | None = None
    """Names the holdout's draw; the target's own name when None."""
    channel: str | None = None
    """Only people who agreed to this channel; see `recllm.jobs.serve.CHANNEL_PURPOSE`."""
    explain: bool = True
    """Give each person's reasons."""
    explain_first: int | None = None
    """Give reasons to the first so many people only, which is all that a screen shows; None for everybody."""

    def __post_init__(self) -> None:
        targets = (self.items, self.category if self.text is None else None, self.text, self.seeds)
        if sum(target is not None for target in targets) != 1:
            raise UsageError("an audience is for items, a category, a text or seeds: give one of them")
        if self.items is not None and not len(self.items):
            raise UsageError("an audience needs at least one item, a category, a text or seeds")
        if self.text is not None and not self.text.strip():
            raise UsageError("the text of an audience is empty")
        if self.seeds is not None and self.choice != OfferChoice():
            raise UsageError(
                "people who are like seeds are ordered by likeness; leave out intent, objective and effects"
            )
        if self.seeds is not None and self.limits.margin is not None:
            raise UsageError("a margin needs probabilities, and this target has only likenesses; leave it out")
