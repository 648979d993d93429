"""A rule over people in words, such as "bought “coffee” in the last 90 days and not reached in the last 14 days"."""

from __future__ import annotations

from recllm.market.audiences.people_rule import (
    AgreedRule,
    AllRule,
    AnyRule,
    BasicRule,
    DeedRule,
    NotRule,
    OrderAgeRule,
    OrdersRule,
    PeopleRule,
    ReachedRule,
    SpentRule,
    children,
)
from recllm.text.templates import Prompts


def rule_words(rule: PeopleRule, locale: str, currency: str | None = None) -> str:
    """The rule as one line. currency: of the amounts, e.g. "EUR"; without one they are bare numbers.

    A name or an inner group of more than some thousand characters is cut.
    """
    return _Speaker(Prompts.load(), locale, currency).words(rule, negated=False)


class _Speaker:
    """One language, with one shop's money."""

    def __init__(self, templates: Prompts, locale: str, currency: str | None) -> None:
        self.templates, self.locale, self.currency = templates, locale, currency

    def words(self, rule: PeopleRule, *, negated: bool) -> str:
        match rule:
            case NotRule():
                return self.words(rule.negated, negated=not negated)
            case AllRule() | AnyRule() if len(children(rule)) == 1:
                return self.words(children(rule)[0], negated=negated)
            case AllRule() | AnyRule() if negated:
                return self._say("not", part=self.words(rule, negated=False))
            case AllRule() | AnyRule():
                parts = [self._part(member) for member in children(rule)]
                return self._say("all" if isinstance(rule, AllRule) else "any", parts=parts)
            case OrdersRule() | OrderAgeRule() if negated:
                return self._say("not", part=self.words(rule, negated=False))
            case BasicRule() if negated and (rule.at_least is not None or rule.at_most is not None):
                return self._say("not", part=self.words(rule, negated=False))
            case _:
                return self._condition(rule, negated)

    def _part(self, rule: PeopleRule) -> str:
        """A member of a group: a group of several stands in brackets."""
        words, inner = self.words(rule, negated=False), rule
        while len(children(inner)) == 1 and not isinstance(inner, NotRule):
            inner = children(inner)[0]
        return self._say("brackets", part=words) if len(children(inner)) > 1 else words

    def _condition(self, rule: PeopleRule, negated: bool) -> str:
        match rule:
            case DeedRule():
                named = {name: getattr(rule, name) for name in ("condition", "item", "category", "brand", "days")}
                return self._say("deed", **named, times=rule.at_least, negated=negated)
            case SpentRule():
                named = {name: getattr(rule, name) for name in ("item", "category", "brand", "days")}
                at_least, below = self._money(rule.at_least), self._money(rule.below)
                return self._say("spent", **named, at_least=at_least, below=below, negated=negated)
            case OrdersRule():
                return self._say("orders", at_least=rule.at_least, at_most=rule.at_most, days=rule.days)
            case OrderAgeRule():
                first = rule.condition == "first_order"
                return self._say("order_age", first=first, at_least=rule.at_least, at_most=rule.at_most)
            case BasicRule():
                values = list(rule.one_of or ([rule.equals] if rule.equals is not None else []))
                named = {"name": rule.name.replace("_", " "), "at_least": rule.at_least, "at_most": rule.at_most}
                return self._say("basic", **named, values=values, negated=negated)
            case AgreedRule():
                return self._say("agreed", channel=rule.channel, negated=negated)
            case ReachedRule():
                named = {name: getattr(rule, name) for name in ("campaign", "channel", "days")}
                return self._say("reached", **named, negated=negated)
        raise AssertionError(rule)  # `words` has taken the groups

    def _money(self, amount: float | None) -> str | None:
        if amount is None:
            return None
        number = f"{amount:,.2f}".removesuffix(".00")
        return f"{number} {self.currency}" if self.currency else number

    def _say(self, name: str, /, **values: object) -> str:
        return self.templates.render(f"people_rule.{name}", self.locale, **values)
