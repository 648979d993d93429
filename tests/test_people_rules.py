"""Rules over people: the algebra, the answer of one person at a time as the reference, what is refused, and words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.datastructures import FormData
from tables import table

from recllm.base.errors import DataError, PolicyError, UnknownIdError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import ACTION_CODE, Action, Purpose
from recllm.doors.console.campaign_fields import TypedRule
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.people_match import ACTION_OF, band_of, match_people
from recllm.market.audiences.people_rule import (
    CONDITIONS,
    MAX_CONDITIONS,
    MAX_DEPTH,
    AllRule,
    AnyRule,
    NotRule,
    PeopleRule,
    conditions_of,
    parse_rule,
    read_rule,
    rule_document,
    rule_words,
)
from recllm.market.audiences.request import Exclusions
from recllm.market.campaigns.drafts import campaign_of_fields
from recllm.market.campaigns.file import parse_campaign
from recllm.shop.data.dataset import DAY, Dataset

POLICY = Policy()
CHANNELS = ("email", "push", "sms_gsm")


def world() -> Dataset:
    """30 people with every kind of event, some without any; basics with numbers, bands, texts and gaps."""
    rng = np.random.default_rng(7)
    kinds = [action.value for action in ACTION_OF.values()]
    rows = []
    for user in range(28):
        for _ in range(rng.integers(0, 25)):
            kind, item = str(rng.choice(kinds)), int(rng.integers(0, 6))
            at = 1_700_000_000 + int(rng.integers(0, 12)) * 10 * DAY
            rows.append((f"u{user:02}", f"i{item}", at, kind, float(rng.integers(1, 3)), [2.1, 3.0, None][item % 3]))
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "event", "quantity", "price"], orient="row")
    tea, coffee, home, tools = ["food", "tea"], ["food", "coffee"], ["home"], ["home", "tools"]
    items = {"item_id": [f"i{n}" for n in range(6)], "title": [f"Thing {n}" for n in range(6)]}
    items |= {"category": [tea, coffee, home, tea, None, tools], "brand": ["Leaf", "Leaf", "Iron", None, "Iron", "Öl"]}
    ages = ["35-44", "18", " 65+ ", "under 18", None, "unknown", "45-54", "41.5"]
    users = [(f"u{n:02}", ages[n % len(ages)], ("Town", "country", None)[n % 3]) for n in range(30)]
    known = pl.DataFrame(users, schema=["user_id", "age", "home"], orient="row")
    return Dataset.construct(events, known, pl.DataFrame(items), as_of=1_700_000_000 + 120 * DAY)


WORLD = world()
MESSAGES = [("u01", "spring", "email", 5), ("u02", "spring", "push", 50), ("u02", "autumn", "email", 100)]
MESSAGES += [("u29", "autumn", "sms_gsm", 1), ("stranger", "autumn", "email", 1)]


def agreed(channel: str, ids: Sequence[str]) -> list[bool]:
    return [int(name[1:]) % (2 + CHANNELS.index(channel)) == 0 for name in ids]


class Gate:
    """What rules ask of a workspace."""

    def permits_each(self, ids: Sequence[str], purpose: Purpose) -> list[bool]:
        return agreed(next(name for name, needed in CHANNEL_PURPOSE.items() if needed is purpose), ids)

    def messages(self, purpose: Purpose) -> pl.DataFrame:
        rows = [(name, campaign, channel, WORLD.as_of - days * DAY) for name, campaign, channel, days in MESSAGES]
        return pl.DataFrame(rows, schema=["user_id", "campaign_id", "channel", "exported_at"], orient="row")


def people(rule: Any) -> np.ndarray:
    return match_people(parse_rule(rule), WORLD, POLICY, Gate()).people  # type: ignore[arg-type]


def meets(rule: dict[str, Any], user: int) -> bool:
    """What a rule says of one person, read from the tables in the plainest way."""
    match rule:
        case {"all": parts}:
            return all(meets(part, user) for part in parts)
        case {"any": parts}:
            return any(meets(part, user) for part in parts)
        case {"not": part}:
            return not meets(part, user)
    name, condition = WORLD.users["user_id"][user], rule["condition"]
    if condition == "agreed":
        return agreed(rule["channel"], [name])[0]
    if condition == "reached":
        return any(
            sent == name
            and rule.get("campaign", campaign) == campaign
            and rule.get("channel", channel) == channel
            and days <= rule.get("days", 1e9)
            for sent, campaign, channel, days in MESSAGES
        )
    if condition == "basic":
        return meets_basic(rule, WORLD.users[rule["name"].lower()][user])
    action = ACTION_OF.get(condition, Action.PURCHASE)
    lines = [line for line in lines_of(user, action) if fits(rule, line)]
    low, high = rule.get("at_least", 0), rule.get("at_most", 1e12)
    if condition == "spent":
        spent = round(sum(quantity * (0.0 if np.isnan(price) else price) for _, _, quantity, price in lines), 2)
        return low <= spent < rule.get("below", 1e12)
    times = {at for _, at, _, _ in lines}
    if condition == "orders":
        return low <= len(times) <= high
    if condition in ("last_order", "first_order"):
        at = (max if condition == "last_order" else min)(times, default=np.nan)
        return bool(low <= (WORLD.as_of - at) / DAY <= high)
    return len(times) >= rule.get("at_least", 1)


def lines_of(user: int, action: Action) -> list[tuple[int, int, float, float]]:
    e = WORLD.events
    theirs = np.flatnonzero((e.user == user) & (e.action == ACTION_CODE[action]))
    return list(zip(*(column[theirs].tolist() for column in (e.item, e.at, e.quantity, e.price)), strict=True))


def fits(rule: dict[str, Any], line: tuple[int, int, float, float]) -> bool:
    item = WORLD.items.row(line[0], named=True)
    if "days" in rule and line[1] < WORLD.as_of - rule["days"] * DAY:
        return False
    if "item" in rule:
        return bool(item["item_id"] == rule["item"])
    if "brand" in rule:
        return (item["brand"] or "").lower() == rule["brand"].lower()
    return "category" not in rule or rule["category"].lower() in (item["category"] or [])


def meets_basic(rule: dict[str, Any], value: str | None) -> bool:
    text = (value or "").strip().lower()
    if "stated" in rule:
        return text != ""
    if "equals" in rule or "one_of" in rule:
        return text != "" and text in [v.lower() for v in rule.get("one_of", [rule.get("equals")])]
    bands = {"35-44": (35, 44), "18": (18, 18), "65+": (65, 1e12), "under 18": (-1e12, 18), "45-54": (45, 54)}
    low, high = {**bands, "41.5": (41.5, 41.5)}.get(text, (np.nan, np.nan))
    return bool(low >= rule.get("at_least", -1e12) and high <= rule.get("at_most", 1e12))


DAY_COUNTS = (1, 10, 30.5, 60, 119, 120, 121, 1_000)
SELECTIONS = (
    *({}, {"item": "i0"}, {"item": "i2"}, {"category": "tea"}, {"category": "FOOD"}, {"category": "tools"}),
    *({"brand": "leaf"}, {"brand": "Iron"}, {"brand": "öL"}),
)
BOUNDS: dict[str, tuple[str, Sequence[float]]] = {
    "spent": ("below", (0, 2.1, 4.2, 6.3, 12, 40)),
    "orders": ("at_most", (0, 1, 2, 5)),
    "last_order": ("at_most", (0, 10, 20, 60, 119, 120)),
    "first_order": ("at_most", (0, 10, 20, 60, 119, 120)),
    "age": ("at_most", (0, 18, 35, 41.5, 44, 54, 65, 70)),
}
HOMES = ({"equals": "town"}, {"one_of": ["TOWN", "country"]}, {"stated": True}, {"equals": "nowhere"})


def bounded(name: str, rng: random.Random) -> dict[str, Any]:
    """A lower bound, an upper one, or both, for which there may be people."""
    upper, values = BOUNDS[name]
    low, high = sorted(rng.sample(values, 2))
    return rng.choice(({"at_least": low}, {upper: high}, {"at_least": low, upper: high}))


def random_condition(rng: random.Random) -> dict[str, Any]:
    condition = rng.choice(CONDITIONS)
    rule: dict[str, Any] = {"condition": condition}
    if condition == "agreed":
        return rule | {"channel": rng.choice(CHANNELS)}
    if condition == "basic":
        return rule | rng.choice(({"name": "Home", **rng.choice(HOMES)}, {"name": "age", **bounded("age", rng)}))
    if condition in BOUNDS:
        rule |= bounded(condition, rng)
    if condition in (*ACTION_OF, "spent"):
        rule |= rng.choice(SELECTIONS)
    if condition in ACTION_OF and rng.random() < 0.5:
        rule["at_least"] = rng.randint(1, 4)
    if condition == "reached":
        rule |= {"campaign": rng.choice(("spring", "autumn", "none"))} if rng.random() < 0.5 else {}
        rule |= {"channel": rng.choice(CHANNELS)} if rng.random() < 0.5 else {}
    if not condition.endswith("_order") and rng.random() < 0.5:
        rule["days"] = rng.choice(DAY_COUNTS)
    return rule


def random_rule(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    group = rng.choice(("condition", "all", "any", "not")) if depth else "condition"
    if group == "condition":
        return random_condition(rng)
    if group == "not":
        return {"not": random_rule(rng, depth - 1)}
    return {group: [random_rule(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


def test_arrays_say_what_one_person_at_a_time_says() -> None:
    for seed in range(200):
        rule = random_rule(random.Random(seed))
        assert people(rule).tolist() == [meets(rule, user) for user in range(WORLD.n_users)], rule


def test_a_rule_comes_back_from_json_from_a_file_and_from_a_form() -> None:
    for seed in range(40):
        rule = random_rule(random.Random(seed))
        parsed = parse_rule(rule)
        assert parse_rule(rule_document(parsed)) == parsed == read_rule(json.dumps(rule)) == parse_rule(parsed)
        fields = {"id": "x", "channels": ["push"], "target": {"items": ["i1"], "people": rule}}
        file, content = campaign_of_fields(fields | {"sender": {"name": "Leaf"}})
        assert file.target.people == parsed == parse_campaign(content, Path("x.toml")).target.people
        for locale in ("en", "zh"):
            words = rule_words(parsed, locale, "EUR")
            assert words.strip() == words and "\n" not in words and words
            assert words.count("(") == words.count(")") and words.count("（") == words.count("）")


BOUGHT = {"condition": "bought"}


def nested(depth: int) -> dict[str, Any]:
    rule: dict[str, Any] = BOUGHT
    for n in range(depth):
        rule = {"not": rule} if n % 2 else {"all": [rule]}
    return rule


WRONG: list[tuple[Any, str]] = [
    *table("people_rules", "wrong rules"),
    ({"condition": "bought", "days": float("nan")}, "days must be"),
    (nested(MAX_DEPTH + 1), "nested deeper than 5 groups"),
    (nested(5_000), "nested deeper than 5 groups"),
    ({"any": [BOUGHT] * (MAX_CONDITIONS + 1)}, "more than 50 conditions"),
    ({"any": [{"all": [BOUGHT] * 30}, {"all": [BOUGHT] * 30}]}, "more than 50 conditions"),
]


def test_a_wrong_rule_says_where_and_what() -> None:
    for rule, words in WRONG:
        with pytest.raises(UsageError) as error:
            parse_rule(rule)
        assert words in str(error.value), rule


def test_the_limits_themselves_are_allowed() -> None:
    assert parse_rule(nested(MAX_DEPTH))
    many = {"any": [{"condition": "bought", "days": n + 1} for n in range(50)]}
    assert len(list(conditions_of(parse_rule(many)))) == 50
    deep = NotRule(negated=parse_rule(nested(MAX_DEPTH)))
    with pytest.raises(UsageError, match="deeper"):
        Exclusions(people=deep)
    shared: PeopleRule = AnyRule(any=(parse_rule(BOUGHT),) * 40)
    for _ in range(4):
        shared = AllRule(all=(shared,) * 40)
    with pytest.raises(UsageError, match="conditions"):
        Exclusions(people=shared)


UNKNOWN: list[tuple[Any, type[Exception], str]] = [
    ({"condition": "bought", "category": "coffe"}, UsageError, "did you mean 'coffee'"),
    ({"condition": "bought", "category": "food > teas"}, UsageError, "did you mean 'food > tea'"),
    ({"condition": "bought", "brand": "Leave"}, UsageError, "did you mean 'Leaf'"),
    ({"condition": "bought", "brand": "zzzz"}, UsageError, "there are "),
    ({"condition": "bought", "item": "i9"}, UnknownIdError, "no item 'i9'"),
    ({"condition": "basic", "name": "agee", "stated": True}, UsageError, "did you mean 'age'"),
    ({"condition": "basic", "name": "user_id", "equals": "u01"}, UsageError, "there is no basic 'user_id'"),
    ({"condition": "bought", "category": "Tobacco"}, PolicyError, "sensitive"),
]


def test_what_nobody_knows_is_told_with_what_is_near() -> None:
    for rule, error, words in UNKNOWN:
        with pytest.raises(error) as raised:
            people({"all": [{"not": rule}]})
        assert words in str(raised.value), rule


def test_contacts_are_asked_of_a_workspace_only() -> None:
    for rule in ({"condition": "agreed", "channel": "email"}, {"condition": "reached"}):
        with pytest.raises(UsageError, match="only a workspace"):
            match_people(parse_rule(rule), WORLD, POLICY)


def test_nobody_is_picked_by_sensitive_products() -> None:
    titles = ["Pregnancy test" if name == "i0" else "Tea" for name in WORLD.items["item_id"]]
    data = replace(WORLD, items=WORLD.items.with_columns(pl.Series("title", titles)))
    with pytest.raises(PolicyError):
        match_people(parse_rule({"condition": "bought", "item": "i0"}), data, POLICY)
    # of a category with others beside it, only the others count
    some = match_people(parse_rule({"condition": "bought", "category": "tea"}), data, POLICY).people
    assert (some == people({"condition": "bought", "item": "i3"})).all()


BANDS: dict[str, tuple[float, float] | None] = {
    "45-54": (45, 54), "65+": (65, np.inf), "under 18": (-np.inf, 18), "18 and under": (-np.inf, 18),
    "50-74K": (50_000, 74_000), "250K+": (250_000, np.inf), "$1,000 to $2,500": (1_000, 2_500),
    "30岁以上": (30, np.inf), "18-24岁": (18, 24), "3万以下": (-np.inf, 30_000), "7": (7, 7),
    **dict.fromkeys(("54-45", "2 Adults No Kids", "1990-05-12", "", "-")),
}  # fmt: skip


def test_bands_are_read_as_ranges() -> None:
    assert {text: band_of(text) for text in BANDS} == BANDS


def test_counts_are_of_visible_people_alone() -> None:
    match = match_people(parse_rule({"all": [BOUGHT, {"not": {"condition": "bought", "days": 30}}]}), WORLD, POLICY)
    visible = np.arange(WORLD.n_users) % 2 == 0
    counts = match.counts(visible)
    assert list(counts) == [match.rule, *conditions_of(match.rule)]
    assert all(counts[node] == (match.masks[node] & visible).sum() for node in counts)
    assert sum(match.counts(np.zeros(WORLD.n_users, bool)).values()) == 0


def test_a_rule_in_words() -> None:
    coffee = {"condition": "bought", "category": "coffee", "days": 90}
    rule = parse_rule({"all": [coffee, {"not": {"condition": "reached", "days": 14}}]})
    assert rule_words(rule, "en") == "bought “coffee” in the last 90 days and not reached in the last 14 days"
    assert rule_words(rule, "zh") == "最近 90 天内购买过“coffee”，且最近 14 天内未被联系"
    viewed = {"condition": "viewed", "item": "SKU", "at_least": 3}
    mixed = {"all": [{"any": [coffee, viewed]}, {"not": {"all": [coffee]}}]}
    words = "(bought “coffee” in the last 90 days or viewed the item SKU at least 3 times) and did not buy “coffee”"
    assert rule_words(parse_rule(mixed), "en").startswith(words)
    spent = parse_rule({"condition": "spent", "at_least": 1_000, "below": 2_000.5})
    assert rule_words(spent, "en", "EUR") == "spent at least 1,000 EUR and less than 2,000.50 EUR"
    hostile = parse_rule({"condition": "bought", "category": "<script>alert(1)</script>{{ 7 * 7 }}\n"})
    assert "<script" not in rule_words(hostile, "en") and "\n" not in rule_words(hostile, "zh")


def test_every_condition_has_words_of_its_own_and_of_its_negation() -> None:
    bounds = {"spent": {"at_least": 5}, "orders": {"at_least": 2}, "last_order": {"at_most": 9}}
    bounds |= {"first_order": {"at_most": 9}, "basic": {"name": "age", "equals": "7"}, "agreed": {"channel": "email"}}
    said = {
        (name, locale, negated): rule_words(parse_rule({"not": rule} if negated else rule), locale)
        for name in CONDITIONS
        for rule in ({"condition": name, **bounds.get(name, {})},)
        for locale in ("en", "zh")
        for negated in (False, True)
    }
    assert len(set(said.values())) == len(said)


FILE = """id = "spring"
channels = ["push"]
[target]
items = ["i1"]
[target.people]
any = [{ condition = "spent", at_least = 99.5, days = 30 }]
[sender]
name = "Leaf"
"""


def test_a_file_holds_a_rule_and_says_what_is_wrong_in_it() -> None:
    rule = parse_campaign(FILE.encode(), Path("a.toml")).target.people
    assert rule == parse_rule({"any": [{"condition": "spent", "at_least": 99.5, "days": 30}]})
    with pytest.raises(DataError, match=r"a\.toml: target\.people .*any\[0\]\.days must be above 0"):
        parse_campaign(FILE.replace("days = 30", "days = 0").encode(), Path("a.toml"))


def test_a_rule_comes_from_json_or_a_file(tmp_path: Path) -> None:
    rule = {"all": [{"condition": "basic", "name": "年龄", "at_least": 30}]}
    toml = '[[all]]\ncondition="basic"\nname="年龄"\nat_least=30'
    for name, text in (("r.json", json.dumps(rule)), ("r.toml", toml)):
        (tmp_path / name).write_text(text, "utf-8")
        assert read_rule(str(tmp_path / name)) == parse_rule(rule)
    for text, words in {
        "{": "no JSON",
        str(tmp_path / "none.json"): "cannot be read",
        "\0": "cannot be read",
        '{"not":' * 5_000 + "1" + "}" * 5_000: "deeper",
    }.items():
        with pytest.raises(UsageError, match=words):
            read_rule(text)


def test_a_form_says_what_the_rule_said() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        conditions = [random_condition(rng) for _ in range(rng.randint(1, 4))]
        parts = [rng.choice((part, {"not": part})) for part in conditions]
        rule = {rng.choice(("any", "all")): parts}
        typed = TypedRule.of_rule(parse_rule(rule))
        document = typed.document()
        assert document is not None and (people(document) == people(rule)).all()
        assert TypedRule.of_text(typed.text) == typed == TypedRule.of_rule(parse_rule(document))
        fields = [("people:join", typed.join)]
        for n, condition in enumerate(typed.conditions):
            texts = {"kind": condition.kind, **condition.texts}
            fields += [(f"people:{n}:{name}", text) for name, text in texts.items()]
        assert TypedRule.of_form(FormData(fields)) == typed
        grown = typed.after("add", "agreed")
        assert grown.conditions[:-1] == typed.conditions and grown.after(f"remove:{len(parts)}", "") == typed


def test_a_rule_of_groups_is_not_shown_in_fields() -> None:
    deep = {"all": [BOUGHT, {"any": [BOUGHT, {"condition": "agreed", "channel": "email"}]}]}
    assert TypedRule.of_rule(parse_rule(deep)) == TypedRule() and TypedRule().text == ""


def test_a_form_takes_what_is_no_rule_and_says_so() -> None:
    typed = TypedRule.of_rule(parse_rule(BOUGHT))
    for act in ("", "add", "remove", "remove:x", "remove:9", "group:0", "<script>"):
        assert typed.after(act, "group") == typed, act
    assert TypedRule.of_form(FormData([("people:r:kind", "deed"), ("people:0:kind", "evil")])) == TypedRule()
    half = TypedRule.of_form(FormData([("people:0:kind", "orders"), ("people:0:at_least", "2,5 or so")]))
    with pytest.raises(UsageError, match=r"all\[0\].at_least must be a whole number"):
        half.document()
    assert not half.conditions[0].is_rule and typed.conditions[0].is_rule
    many = FormData([(f"people:{n}:kind", "agreed") for n in range(900)])
    assert len(TypedRule.of_form(many).conditions) <= 50
