"""The question for an audience: the target, the size and cost, and who is left out.

Requests check themselves before anything is loaded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SkipValidation, StringConstraints, model_validator

from recllm.base.documents import Question
from recllm.base.errors import UsageError
from recllm.base.questions import Ids
from recllm.base.schema import Intent, Objective
from recllm.market.audiences.people_rule import PeopleRule, RuleField, check_size

Money = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=1_000, pattern=r"\S")]
EffectsName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class AudienceCut(Question):
    """How many people are addressed and how many are held out."""

    size: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """People addressed at most."""
    budget: Money | None = None
    """Money, spent at `cost` per contact."""
    cost: Money | None = None
    """Money per person addressed."""
    margin: Money | None = None
    """Money that a conversion brings; then only people with probability * margin > cost are addressed."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share that is kept out for comparison."""

    @model_validator(mode="after")
    def _cut_fits(self) -> Self:
        self.check_cut()
        return self

    def check_cut(self) -> None:
        """Raises `UsageError` for amounts that do not go together."""
        if self.budget is not None and not self.cost:
            raise UsageError("a budget needs the cost of a contact, above 0")


class AudienceLimits(AudienceCut):
    """As of one request."""

    salt: Annotated[str, StringConstraints(max_length=100)] = ""
    """Of the draw of the holdout."""

    @property
    def max_contacts(self) -> int | None:
        """People that can be addressed by size and budget; None for no limit."""
        paid = None if self.budget is None or not self.cost else int(self.budget / self.cost + 1e-9)
        return min((limit for limit in (self.size, paid) if limit is not None), default=None)


class LeftOut(Question):
    """Who is left out, by what they did and by their age."""

    bought_days: Days | None = None
    """Leave out people who bought one of the items within this many days, or items where each has their own."""
    returned: bool = True
    """Leave out people who returned one of the items and did not buy it since, or items where each has their own."""
    frequency_cap: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Leave out people who saw recommendations this often in `frequency_days`."""
    frequency_days: Days = 7.0
    """Days that `frequency_cap` counts over."""
    adult_age: Annotated[int, Field(ge=0, le=150)] = 18
    """Leave out people whose age or year of birth allows that they are younger; 0 for no one."""


class Exclusions(LeftOut):
    """Who is left out whatever their probability."""

    suppressed: Ids = ()
    """Never contact these: the caller's own ids; unknown ones are ignored."""
    people: Annotated[PeopleRule, SkipValidation] | None = None
    """Leave out people who do not meet this rule; see `recllm.market.audiences.people_rule`."""
    holdout_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out the shop's global holdout: this share of all people, whom nothing personal reaches."""
    holdout_salt: str = ""
    """Of the draw of the global holdout."""

    @model_validator(mode="after")
    def _rule_is_small(self) -> Self:
        check_size(self.people)
        return self


class OfferChoice(Question):
    """The item of the target that each person is offered, and the order of people. Raises `UsageError` for values
    that do not go together."""

    intent: Intent = Intent.MIXED
    """What an item is to a person: likely, new, bought before, going with a purchase, or missed; who has none is left
    out."""
    objective: Objective = Objective.PROBABILITY
    """Who comes first: by the chance, by what it is above that of people in general, by margin, or by uplift, which is
    how much a treatment moves a person, by `effects`."""
    effects: EffectsName | None = None
    """uplift: the name of the effects of a trial; see `recllm uplift --save`."""
    sure: bool = False
    """uplift: only people whose effect is above 0 at both ends of its interval."""

    @model_validator(mode="after")
    def _choice_fits(self) -> Self:
        if self.objective is Objective.UPLIFT and self.effects is None:
            raise UsageError(
                "objective uplift needs the effects of a treatment, learned from a trial: save some with recllm uplift "
                "TRIAL --save NAME, and give their name as effects"
            )
        if self.objective is not Objective.UPLIFT and (self.effects is not None or self.sure):
            raise UsageError(f"effects and sure belong to the objective uplift, and the objective is {self.objective}")
        return self


class TargetQuestion(Question):
    """For what people are found, one of items, category, text and seeds, and on which channel."""

    items: Ids | None = None
    """Ids: people who are likely to buy at least one of these items."""
    category: Text | None = None
    """A category's name, or its path: "food > tea"."""
    text: Text | None = None
    """What the shop does not sell yet; the category says what kind it is."""
    seeds: Ids | None = None
    """Ids: people who are like these."""
    campaign: Text | None = None
    """Names the draw of the holdout; the target's own name when left out."""
    channel: Literal["email", "push", "sms_gsm"] | None = None
    """Only people who agreed to it."""


class AudienceRequest(TargetQuestion):
    """For what, and to whom: one of items, category, text or seeds. A text may come with the category of its item.

    Raises `UsageError` for none or several of the four, an empty one, or a margin for seeds.
    """

    choice: OfferChoice = OfferChoice()
    limits: AudienceLimits = AudienceLimits()
    exclusions: Exclusions = Exclusions()
    explain: bool = True
    """Give each person's reasons."""
    explain_first: int | None = None
    """Give reasons to this many people only, the first; None for everybody."""

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        targets = (self.items, self.category if self.text is None else None, self.text, self.seeds)
        if sum(target is not None for target in targets) != 1:
            raise UsageError("an audience is for items, a category, a text or seeds: give one of them")
        if self.items is not None and not self.items:
            raise UsageError("an audience needs at least one item, a category, a text or seeds")
        if self.seeds is not None and self.choice != OfferChoice():
            raise UsageError(
                "people who are like seeds are ordered by likeness; leave out intent, objective and effects"
            )
        if self.seeds is not None and self.limits.margin is not None:
            raise UsageError("a margin needs probabilities, and this target has only likenesses; leave it out")
        return self


class AudienceQuestion(TargetQuestion, OfferChoice, AudienceLimits, LeftOut):
    """An `AudienceRequest` with all its fields in one level, as doors other than Python take it."""

    suppressed: Ids = ()
    """Ids of people never to contact."""
    people: RuleField | None = None
    """Only people who meet this rule: conditions under all, any and not."""

    def request(self, **fields: Any) -> AudienceRequest:
        """What is asked, with `fields` of the request besides."""
        nested = {"choice": self.part(OfferChoice), "limits": self.part(AudienceLimits)}
        return self.part(AudienceRequest, exclusions=self.part(Exclusions), **nested, **fields)
