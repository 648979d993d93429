"""One or more fillings of every template of `prompts/`, so that each of its branches is read at least once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

from recllm.text.templates import Prompts

DEEDS = ("bought", "viewed", "carted", "favourited", "clicked", "dismissed", "returned")
BROWSED = ("view", "cart", "favourite", "click")
OFFERS = ("percent", "amount", "free_shipping", "gift", "bogo", "coupon")


def grid(**choices: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def cases(title: str = "Blue Hour", category: str = "Harbour") -> Mapping[str, list[dict[str, Any]]]:
    """Template -> the values that it is filled with; a template that takes none is filled once with nothing."""
    ages = (0.2, 1.0, 12.4)
    where: list[dict[str, Any]] = [
        {"item": "A7", "category": None, "brand": None},
        {"item": None, "category": category, "brand": None},
        {"item": None, "category": None, "brand": "Norden"},
        {"item": None, "category": None, "brand": None},
    ]
    brief = {"facts": [["item", title]], "meaning": [["title", "{item.Short}?"]], "parts": [["title", 40]]}
    brief |= {"examples": [[["title", "Milk for the week?"]]], "address": None, "banned": [], "required": []}
    brief |= {"button": False, "exclamation": True}
    full = {"button": True, "address": "您", "banned": ["loud"], "required": ["tonight"], "exclamation": False}
    return {
        "explanation.bought_before": [
            {"title": title, "times": times, "interval_days": interval, "days_since": days}
            for times, interval, days in (
                (1, None, 0.2), (1, None, 1.0), (3, 13.5, 20.2), (3, 1.0, 90.0), (2, 157.0, 206.0), (2, None, 1.0),
                (1, None, None), (3, None, None),
            )
        ],
        "explanation.bought_similar": grid(title=(title,), category=(category, None)),
        "explanation.browsed_before": grid(title=(title,), action=BROWSED, days_since=(None, *ages)),
        "explanation.browsed_similar": grid(title=(title,), action=BROWSED, category=(category, None)),
        "explanation.category_favourite": grid(category=(category,), share=(0.123, 0.001)),
        "explanation.brand_favourite": grid(brand=("Norden",), share=(0.123, 0.001)),
        "explanation.price_fit": [{"low": 1.0, "high": 2.5}],
        "explanation.basics": [{"name": "household size", "value": "2"}],
        "explanation.popular": grid(category=(category, None)),
        "explanation.new_arrival": grid(category=(category, None)),
        "explanation.counterfactual": [
            {"titles": [title], "before": 2, "after": 37, "listed": 110},
            {"titles": [title, "Slow Rain", "Low Tide"], "before": 2, "after": None, "listed": 110},
        ],
        "explanation.goes_with": [
            {"title": title, "days_since": days, "in_cart": in_cart}
            for days, in_cart in ((None, True), (None, False), *((age, False) for age in ages))
        ],
        "behaviour.reason": grid(fact=("spring",), up=(True, False), what=("chance", "spend")),
        "behaviour.recency": grid(days=(None, *ages)),
        "behaviour.frequency": grid(month=(None, 1, 4), quarter=(None, 2), half=(3,)),
        "behaviour.spend": grid(spent=(12.5,), per_trip=(None, 4.0)),
        "behaviour.tenure": grid(days=(None, 40.0)),
        "behaviour.rhythm": grid(gap=(None, 1.0, 9.0), days=(None, *ages)),
        "behaviour.calendar": grid(weekend=(None, 0.4)),
        "behaviour.trend": grid(change=(None, 0.5, -0.5, 0.0), trips=(3,)),
        "behaviour.breadth": [{"categories": 1, "items": 1}, {"categories": 2, "items": 5}],
        "behaviour.discount": grid(saved=(None, 0.1)),
        "behaviour.returns": grid(returned=(1, 2)),
        "behaviour.browsing": grid(seen=(1, 5), carts=(None, 2)),
        "behaviour.target": grid(trips=(0, 1, 2), days=(None, *ages), target=(None, category)),
        "behaviour.coupons": grid(redeemed=(1,), mailed=(3,), used=(None, 1, 2)),
        "behaviour.affinity": grid(lines=(0, 1, 2)),
        "behaviour.meaning": grid(kind=("buy", "leave", "redeem", "next-order", "value"), active=(None, 28)),
        "behaviour.counted": [{"n": 30}],
        "behaviour.checked": [
            {"days": 28, "day": None, "campaigns": 0},
            {"days": 28, "day": "2025-01-05", "campaigns": 3},
            {"days": 28, "day": "2025-01-05", "campaigns": 0},
        ],
        "occasion.replenish": grid(title=(title,), times=(3,), every=(1.0, 9.0), days=(1.0, 12.0)),
        "occasion.abandoned": grid(title=(title,), in_cart=(True, False), views=(3,), days=ages),
        "occasion.price_drop": grid(title=(title,), bought=(True, False), price=(2.0,), before=(3.0,)),
        "occasion.back_in_stock": grid(title=(title,), bought=(True, False), days=ages),
        "occasion.new_arrival": [{"title": title, "times": 3}],
        "occasion.win_back": grid(title=(title, None), days=(40.0,), usual=(1.0, 9.0)),
        "occasion.welcome": grid(title=(title, None), companion=("Slow Rain",), days=ages),
        "people_rule.all": [{"parts": ["one", "two"]}],
        "people_rule.any": [{"parts": ["one", "two"]}],
        "people_rule.not": [{"part": "one"}],
        "people_rule.brackets": [{"part": "one"}],
        "people_rule.note": [{"part": "one"}],
        "people_rule.deed": [
            {**of, "condition": deed, "negated": negated, "times": times, "days": days}
            for deed, of, negated, times, days in product(DEEDS, where, (True, False), (1, 2), (None, 1, 28))
        ],
        "people_rule.spent": [
            {**of, "negated": negated, "at_least": least, "below": below, "days": days}
            for of, negated, (least, below), days in product(
                where, (True, False), (("5 EUR", None), (None, "9 EUR"), ("5 EUR", "9 EUR")), (None, 1, 28)
            )
        ],
        "people_rule.orders": [
            {"at_least": least, "at_most": most, "days": days}
            for (least, most), days in product(
                ((1, None), (2, None), (None, 0), (None, 1), (None, 3), (1, 1), (2, 2), (2, 3)), (None, 1, 28)
            )
        ],
        "people_rule.order_age": [
            {"first": first, "at_least": least, "at_most": most}
            for first, (least, most) in product((True, False), ((2, 9), (2, None), (None, 9)))
        ],
        "people_rule.basic": [
            {"name": name, "negated": negated, "values": values, "at_least": least, "at_most": most}
            for name, (negated, values, least, most) in product(
                ("age", "plan"),
                (
                    (False, ["a"], None, None), (True, ["a"], None, None), (False, ["a", "b"], None, None),
                    (True, ["a", "b"], None, None), (False, [], 1, 2), (False, [], 1, None), (False, [], None, 2),
                    (False, [], None, None), (True, [], None, None),
                ),
            )
        ],
        "people_rule.agreed": grid(channel=("email", "push", "sms_gsm"), negated=(True, False)),
        "people_rule.reached": grid(
            campaign=("spring", None), channel=("email", None), days=(None, 1, 28), negated=(True, False)
        ),
        "price": grid(band=("low", "mid", "high", None), group=(category, None)),
        "item": [
            {"title": title, "category": [category, "Sea"], "brand": "Norden", "attributes": [["mood", "calm"]],
             "description": "Quiet and wide."},
            {"title": "", "category": [], "brand": "", "attributes": [], "description": ""},
        ],
        "slate.short": [{"shown": 2, "k": 5}],
        "slate.few_fit": [{"shown": 2, "k": 5}],
        "slate.no_recent_purchase": grid(days=(None, 28.0)),
        "slate.nothing_goes_with": grid(days=(None, 28.0)),
        "slate.nothing_to_win_back": [{"days": 28.0}],
        "slate.still_buys": grid(days=ages),
        "slate.part_remind": grid(weekly=(True, False)),
        "user_basics": [{"name": "age", "value": "35-44"}, {"name": "plan", "value": "gold"}],
        "user_browsing.line": grid(item=(title,), action=BROWSED, count=(1, 3), days_since=ages),
        "user_purchases.categories": [{"names": [category, "Sea"]}],
        "user_purchases.brands": [{"names": ["Norden", "LUX"]}],
        "user_purchases.prices": [{"low": 1.0, "middle": 2.0, "high": 2.5}],
        "user_purchases.line": grid(item=(title,), count=(1, 4), interval_days=(None, 13.6), days_since=ages),
        "ad_brief": [brief, brief | full],
        "ad_brief.again": [{"text": "Too loud!", "faults": ["first fault", "second fault"]}],
    }  # fmt: skip


@cache
def rendered(locale: str) -> dict[str, list[str]]:
    """Every template in a locale, each text once, in the order of the names."""
    prompts, filled = Prompts.load(), cases()
    texts: dict[str, list[str]] = {}
    for name, language in sorted(prompts.templates):
        if language == locale[:2]:
            variables = prompts.template(name, locale).variables
            fillings = [{key: case[key] for key in variables} for case in filled.get(name, [{}])]
            texts[name] = list(dict.fromkeys(prompts.render(name, locale, **values) for values in fillings))
    return texts
