"""Rule packs: what allows a rule, and what a faulty pack is told. Loading one tries every rule on its own examples."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tables import table

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Item
from recllm.base.settings import Settings
from recllm.market.adcopy.packs import load_pack, pack_named, pack_names
from recllm.market.adcopy.request import CopyRequest, FactSheet, Offer, OfferType
from recllm.market.adcopy.verify.case import Case
from recllm.market.adcopy.verify.guarantees import Review, review
from recllm.market.occasions.calendar import countries_of

NOW = datetime(2025, 11, 5, tzinfo=UTC)
GREEN_TEA = Item(item_id="t", title="Green tea", price=Decimal(8), currency="EUR")
TEA = FactSheet.of(GREEN_TEA)
TEE = FactSheet.of(Item(item_id="t", title="龙井绿茶", category=("茶叶",), price=Decimal(80), currency="CNY"))
RULES = [rule for name in pack_names() for rule in pack_named(name).rules]


def case(text: str, facts: FactSheet = TEA, *, names: tuple[str, ...] = ("us_ftc", "eu", "cn"), **more: object) -> Case:
    locale = "zh" if re.search("[\u4e00-\u9fff]", text) else "en"
    channel = "email" if locale == "en" else "wechat"
    item, packs = Item(item_id="t", title=facts.title), tuple(pack_named(name) for name in names)
    request = CopyRequest(item=item, channel=channel, locale=locale, now=NOW, packs=packs, **more)  # type: ignore[arg-type]
    return Case(text=text, facts=facts, request=request)


def reviewed(case: Case) -> Review:
    return review(case.text, case.request, facts=case.facts)


def failed(case: Case) -> set[str]:
    return {check.guarantee for check in reviewed(case).checks if not check.passed}


def test_a_law_holds_in_its_countries_and_where_the_shop_states_none() -> None:
    for settings, holds in (
        ({"timezone": "Europe/London", "currency": "GBP"}, False),
        ({"locale": "zh", "timezone": "Asia/Shanghai", "currency": "CNY"}, False),
        ({"locale": "en-US", "timezone": "Europe/Berlin", "currency": "USD"}, True),
        ({"locale": "en-GB", "currency": "EUR"}, True),
        ({}, True),
    ):
        shipped, held = pack_named("eu"), pack_named("eu").in_countries(countries_of(Settings(**settings)))
        left_out = {rule.id for rule in shipped.rules} - {rule.id for rule in held.rules}
        assert left_out == (set() if holds else {"price-reduction"}), settings


def test_the_three_packs_are_there() -> None:
    assert pack_names() == ("cn", "eu", "us_ftc")
    assert all(len(pack_named(name).rules) >= 20 for name in pack_names())


def test_a_rule_says_where_it_comes_from() -> None:
    for rule in RULES:
        assert re.search(r"CFR|USC|FTC|UCPD|Directive|Regulation|法|条例|规定", rule.citation), rule
        assert rule.reviewed and rule.evidence and rule.message, rule


def test_dressed_up_words_are_found_and_plain_ones_are_no_absolute_terms() -> None:
    plain = ["最近常喝龙井绿茶。", "最后一杯龙井绿茶。", "第一次喝龙井绿茶。", "龙井绿茶，第一步温杯。"]
    dressed = ["国 家·级龙井绿茶。", "ＮＯ．1 的龙井绿茶。", "龙井绿茶，销量第①。", "国\u200b宴龙井绿茶。"]
    assert [text for text in plain if failed(case(text, TEE))] == []
    assert [text for text in dressed if "G3" not in failed(case(text, TEE))] == []


def test_evidence_allows_a_rule() -> None:
    text = "Made in the USA: green tea."
    assert "G3" in failed(case(text))
    proof = {"made_in_usa": "all of it, plant 7"}
    assert "made in the usa" not in {c.span for c in reviewed(case(text, evidence=proof)).checks}
    assert "made in the usa" in {c.span for c in reviewed(case(text, evidence={"made_in_usa": ""})).checks}


def test_an_offer_allows_its_own_rules() -> None:
    ends = NOW + timedelta(days=1)
    rules = {rule.id: rule for rule in pack_named("cn").rules}
    for rule, offer, end, allowed in [
        ("shipping", OfferType.FREE_SHIPPING, ends, True),
        ("shipping", OfferType.PERCENT, ends, False),
        ("price-cut", OfferType.PERCENT, ends, True),
        ("price-cut", OfferType.GIFT, ends, False),
        ("coupon", OfferType.COUPON, ends, True),
        ("urgency", OfferType.PERCENT, ends, True),
        ("urgency", OfferType.GIFT, None, False),
        ("medical", OfferType.PERCENT, ends, False),
    ]:
        running = Offer(type=offer, value=Decimal(20), end=end)
        assert case("龙井绿茶。", TEE, offer=running).proves(rules[rule].evidence) is allowed, (rule, offer)


def test_a_list_price_allows_the_comparison_with_it() -> None:
    text = "Green tea, usual price €9, here €8."
    former = case(text, names=("us_ftc",), list_price=Decimal(9))
    assert "usual price" not in {c.span for c in reviewed(former).checks}
    assert "usual price" in {c.span for c in reviewed(case(text, names=("us_ftc",))).checks}


def test_health_food_says_that_it_is_no_medicine() -> None:
    facts = FactSheet.of(Item(item_id="v", title="维生素片"))
    assert "G7" in failed(case("维生素片，一片就好。", facts))
    assert "G7" not in failed(case("维生素片，一片就好。本品不能代替药物。", facts))


def test_rules_of_another_language_are_silent() -> None:
    text = case("龙井绿茶，eco。", TEE, names=("eu",))
    assert not any("eco" in c.span and "UCPD" in c.message for c in reviewed(text).checks)


GOOD = """name = "own"
[[rule]]
id = "quiet"
guarantee = "G3"
severity = "error"
citation = "house law"
evidence = "never"
reviewed = "2025-11-25"
languages = ["en"]
message = "is loud"
phrases = ["loud"]
hit = ["A loud day"]
miss = ["A cloud"]
"""


@pytest.mark.parametrize("guarantee", ["G3", "G13"])
def test_an_own_pack_is_read(tmp_path: Path, guarantee: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(GOOD.replace("G3", guarantee))
    own = load_pack(file)
    (fault,) = review("A loud green tea.", CopyRequest(item=GREEN_TEA, channel="email", now=NOW, packs=(own,))).failures
    assert (fault.guarantee, fault.span) == (guarantee, "loud") and "house law" in fault.message


@pytest.mark.parametrize(("old", "new", "said"), table("copy_packs", "a faulty pack names file and rule"))
def test_a_faulty_pack_names_file_and_rule(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        load_pack(file)
    assert "own.toml" in str(caught.value)


def test_a_packs_ids_and_own_examples_are_checked(tmp_path: Path) -> None:
    for text, problem in [
        (GOOD + GOOD.split("\n", 1)[1], "the id occurs twice"),
        (GOOD.replace("A loud day", "A quiet day"), "its own hit 'A quiet day' is not found"),
        (GOOD.replace("A cloud", "A loud cloud"), "its own miss 'A loud cloud' is found, by 'loud'"),
    ]:
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(DataError, match=f"rule quiet: {problem}"):
            load_pack(tmp_path / "own.toml")
    with pytest.raises(UsageError, match="cn, eu, us_ftc"):
        pack_named("uk")
