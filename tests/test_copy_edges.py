"""The edges of the checks: the last value that passes and the first that does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from recllm.base.schema import Item
from recllm.market.adcopy.channels import channel_named
from recllm.market.adcopy.request import CopyRequest, FactSheet, Offer, OfferType
from recllm.market.adcopy.verify import guarantees
from recllm.market.adcopy.verify.case import Case, stated_by_facts, used_with
from recllm.market.adcopy.verify.claims import head_names
from recllm.market.adcopy.verify.form import grams, is_card, is_chinese_id, is_emoji, is_foreign, is_iban
from recllm.market.adcopy.verify.guarantees import review, variants_differ
from recllm.text.plurals import stem

NOW = datetime(2025, 11, 5, tzinfo=UTC)
BUNS = Item(item_id="b", title="Sandwich buns", category=("Bakery",), price=Decimal("2.49"), currency="USD")
RICE = Item(item_id="r", title="大米", category=("粮油",), price=Decimal(45), currency="CNY")


def failed(text: str, item: Item = BUNS, *, locale: str = "en", place: str = "email", **more: Any) -> set[str]:
    prompt = more.pop("prompt", "")
    checks = review(text, CopyRequest(item=item, channel=place, locale=locale, now=NOW, **more), prompt=prompt).checks
    return {check.guarantee for check in checks if not check.passed}


def zh(text: str, item: Item = RICE, **more: Any) -> set[str]:
    return failed(text, item, locale="zh", place="wechat", **more)


# --- length, words and shape ---------------------------------------------------------------------------------------


def test_the_longest_text_that_is_read() -> None:
    for size, count in ((1_100, 14), (1_101, 1)):
        checks = review("a" * size, CopyRequest(item=BUNS, channel="email", now=NOW)).checks
        assert (len({c.guarantee for c in checks}), checks[0].guarantee == "G6") == (count, count == 1)


@pytest.mark.parametrize(
    ("word", "root"),
    [
        ("pies", "pie"),
        ("flies", "fly"),
        ("berries", "berry"),
        ("bus", "bus"),
        ("buns", "bun"),
        ("glass", "glass"),
        ("tea", "tea"),
    ],
)
def test_stems(word: str, root: str) -> None:
    assert stem(word) == root


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Sandwich buns for lunch!", True),
        ("Sandwich buns! For lunch!", False),
        ("Sandwich buns 🍞🍞 for lunch.", True),
        ("Sandwich buns 🍞🍞🍞 for lunch.", False),
        ("Sandwich buns, hmmm.", True),
        ("Sandwich buns, hmmmm.", False),
        ("Sandwich buns,   soft.", True),
        ("Sandwich buns,    soft.", False),
        ("Sandwich buns, day by day by day by night.", True),
        ("Sandwich buns, so soft, so soft, so warm.", True),
        ("Buns, up and up, up and up, up and up.", False),
        ("Sandwich buns, ABC defghij.", True),
        ("Sandwich buns, ABCD efgh k.", False),
        ("Sandwich buns, ABCD.", True),
        ("Sandwich buns, go go.", False),
    ],
)
def test_the_shape_of_a_text(text: str, good: bool) -> None:
    assert ("G12" not in failed(text)) is good


@pytest.mark.parametrize(
    ("sign", "emoji"), [("🀀", True), ("🫿", True), ("☕", True), ("©", False), ("®", False), ("a", False), ("好", False)]
)
def test_what_is_an_emoji(sign: str, emoji: bool) -> None:
    assert is_emoji(sign) is emoji


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("un pain pour vous", True),
        ("bread pour friends", False),
        ("la vie en rose with your friends and my tea", False),
        ("le pain et le vin", True),
    ],
)
def test_what_is_foreign(text: str, foreign: bool) -> None:
    assert is_foreign(text) is foreign


@pytest.mark.parametrize(
    ("text", "good"),
    [("大米abc好吃的", True), ("大米abcd好吃的", False), ("大米ab好的", True), ("大米，very good。", False)],
)
def test_half_of_the_letters_are_chinese(text: str, good: bool) -> None:
    assert ("G11" not in zh(text)) is good


@pytest.mark.parametrize("end", ["with", "the", "when you", "because", ",", "("])
def test_a_line_breaks_off(end: str) -> None:
    assert "G6" in failed(f"Sandwich buns {end}")
    assert "G6" not in failed(f"Sandwich buns {end} lunch.")


@pytest.mark.parametrize("end", ["和", "的", "而且", "在", "就" + "和"])
def test_a_chinese_line_breaks_off(end: str) -> None:
    assert "G6" in zh(f"大米好吃{end}")
    assert "G6" not in zh(f"大米好吃{end}好看。")


# --- numbers and offers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "text", "good"),
    [
        (OfferType.AMOUNT, 1, "$1 off sandwich buns.", True),
        (OfferType.AMOUNT, 2, "$1 off sandwich buns.", False),
        (OfferType.COUPON, 1, "A coupon for sandwich buns: $1 off.", True),
        (OfferType.PERCENT, 1, "$1 off sandwich buns.", False),
        (OfferType.PERCENT, 10, "10% off sandwich buns.", True),
        (OfferType.AMOUNT, 10, "10% off sandwich buns.", False),
        (OfferType.PERCENT, 50, "Half price sandwich buns.", True),
        (OfferType.PERCENT, 40, "Half price sandwich buns.", False),
    ],
)
def test_an_offer_states_its_own_value(kind: OfferType, value: int, text: str, good: bool) -> None:
    offer = Offer(type=kind, value=Decimal(value))
    assert ("G1" not in failed(text, offer=offer)) is good


def test_a_coupon_is_worth_its_value_where_it_cannot_be_taken_for_the_price() -> None:
    offer = Offer(type=OfferType.COUPON, value=Decimal(5))
    unpriced = Item(item_id="b", title="Sandwich buns", currency="USD")
    assert "G1" not in failed("A coupon worth $5 for sandwich buns.", unpriced, offer=offer)
    assert "G1" in failed("A coupon worth $6 for sandwich buns.", unpriced, offer=offer)
    assert "G1" in failed("A coupon worth $5 for sandwich buns.", offer=offer)


@pytest.mark.parametrize(
    ("day", "good"),
    [("8 November", True), ("9 November", True), ("5 November", True), ("10 November", False), ("4 November", False)],
)
def test_the_days_of_an_offer(day: str, good: bool) -> None:
    """It runs from the 5th to the end of the 8th: midnight belongs to the 9th by the clock."""
    offer = Offer(type=OfferType.PERCENT, value=Decimal(10), start=NOW, end=NOW + timedelta(days=4))
    assert ("G1" not in failed(f"10% off sandwich buns, {day}.", offer=offer)) is good


def test_a_count_is_said_of_the_product_only() -> None:
    item = Item(item_id="b", title="Sandwich buns", attributes={"pack": "8 count", "colour": "brown"})
    assert "G1" not in failed("Eight buns.", item)
    assert "G1" in failed("Seven buns.", item)
    assert "G1" in failed("Eight colours of buns.", item)
    assert "G1" in failed("Eight ounces of buns.", item)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Buns that nobody pays much for.", False),
        ("A fair price: buns.", False),
        ("A fair price: buns, $2.49.", True),
        ("Buns to kick off the day.", True),
    ],
)
def test_who_talks_of_prices_states_one(text: str, good: bool) -> None:
    assert ("G2" not in failed(text)) is good


def test_tenths_are_a_reduction() -> None:
    offer = Offer(type=OfferType.PERCENT, value=Decimal(20))
    assert "G1" not in zh("大米便宜两成。", offer=offer)
    assert "G1" in zh("大米便宜三成。", offer=offer)


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_brand_has_two_letters() -> None:
    assert "G4" not in failed("Sandwich buns for u and me.", known_brands={"U"})
    assert "G4" in failed("Sandwich buns and lg for me.", known_brands={"LG"})
    six, seven = "Old Mill Road Bread And Cake", "Old Mill Road Bread And Cake Co"
    assert "G4" in failed(f"Sandwich buns by {six.lower()}.", known_brands={six})
    assert "G4" not in failed(f"Sandwich buns by {seven.lower()}.", known_brands={seven})


def test_a_brand_within_the_title_is_allowed() -> None:
    case = Item(item_id="c", title="Buns for Zephyr toasters")
    assert "G4" not in failed("Zephyr toasters like these buns.", case, known_brands={"Zephyr"})
    assert "G4" in failed("Zephyr toasters like these buns.", known_brands={"Zephyr"})


@pytest.mark.parametrize(("word", "good"), [("Ab", True), ("Abc", False), ("abc", True)])
def test_capitals_in_chinese_are_names(word: str, good: bool) -> None:
    assert ("G4" not in zh(f"好吃的大米和{word}一起煮饭。")) is good


def test_heads_of_a_title() -> None:
    heads = head_names(_case("x", Item(item_id="m", title="Big mug XL", category=("Kitchen", "Cups"))))
    assert {"Big mug XL", "mug", "Cups"} <= set(heads)
    assert not {"xl", "Kitchen"} & set(heads)
    assert head_names(_case("x", Item(item_id="m", title="东北大米")))[1:] == ["东北", "北大", "大米"]
    assert {"桂花乌龙", "泡茶"} <= set(head_names(_case("x", Item(item_id="m", title="桂花乌龙茶袋泡茶 20包"))))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("别的大米不香。", False),
        ("大米来自湘西。", False),
        ("大米来自田野。", True),
        ("由老张打造的大米。", False),
        ("大米，添加藜麦。", False),
        ("邻居都夸的大米。", False),
        ("没有比它更香的大米。", False),
    ],
)
def test_turns_of_phrase_in_chinese(text: str, good: bool) -> None:
    assert (not {"G3", "G4"} & zh(text)) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Other buns are dry.", False),
        ("Bakers love these buns.", False),
        ("Buns with argan oil.", False),
        ("There is no softer bun.", False),
        ("Buns and no longer than a minute in the toaster.", True),
    ],
)
def test_turns_of_phrase_in_english(text: str, good: bool) -> None:
    assert ("G3" not in failed(text)) is good


def test_short_names_of_products_are_compared_too() -> None:
    assert "G3" in failed("Other fans are loud.", Item(item_id="f", title="Desk fan"))
    assert "G3" not in failed("The other xl is fine, fan.", Item(item_id="f", title="Desk fan XL"))


def test_proof_allows_a_turn_of_phrase() -> None:
    assert "G3" not in failed("Other buns are dry.", evidence={"comparison": "a test"})
    assert "G3" not in failed("Buns with argan oil.", evidence={"composition": "the label"})
    assert "G3" in failed("Other buns are dry.", evidence={"rating": "4.5"})
    assert "G3" in failed("Bakers love these buns.", evidence={"comparison": "a test"})


def test_facts_and_uses() -> None:
    mug = FactSheet.of(Item(item_id="m", title="Blue mug", attributes={"a": "sugar-free"}))
    assert used_with("coffee", mug)
    assert not used_with("leather", mug)
    assert not used_with("coffee", FactSheet.of(BUNS.__class__(item_id="x", title="Blue hat")))
    assert stated_by_facts("mugs", mug)
    assert not stated_by_facts("sugar", mug)
    assert not stated_by_facts("!", mug)


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("digits", "good"),
    [
        ("4111111111111111", True),
        ("4111111111111112", False),
        ("6011000990139424009", True),
        ("60110009901394240000", False),
        ("30569309025904", True),
        ("3056930902590", False),
        ("00000000000000", False),
        ("6011000990139424000", False),
        ("41111111111111x1", False),
    ],
)
def test_cards(digits: str, good: bool) -> None:
    assert is_card(digits) is good


@pytest.mark.parametrize(
    ("text", "good"), [("11010519491231002x", True), ("110105194912310021", False), ("11010519491231002", False)]
)
def test_identity_numbers(text: str, good: bool) -> None:
    assert is_chinese_id(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("gb82west12345698765432", True),
        ("gb82west12345698765433", False),
        ("no9386011117947", True),
        ("no938601111794", False),
        ("gb82wést12345698765432", False),
    ],
)
def test_bank_accounts(text: str, good: bool) -> None:
    assert is_iban(text) is good


def test_grams() -> None:
    assert grams(("a", "b", "c"), 2) == {("a", "b"), ("b", "c")}
    assert grams(("a", "b"), 2) == {("a", "b")}
    assert grams(("a",), 2) == set()


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Call 12-34-56 for buns.", True),
        ("Call 123-4567 for buns.", False),
        ("Call 12345678901234567 for buns.", True),
    ],
)
def test_phones_have_seven_to_fifteen_digits(text: str, good: bool) -> None:
    assert ("G8" not in failed(text)) is good


def test_pieces_of_a_prompt() -> None:
    prompt = "write one warm and friendly sentence about it"
    assert "G10" in failed("Buns: one warm and friendly sentence about lunch.", prompt=prompt)
    assert "G10" not in failed("Buns: one warm and friendly sentence on lunch.", prompt=prompt)
    han = "请为这件商品想一句温暖的话"
    assert "G10" in zh("大米，为这件商品想一句温暖。", prompt=han)
    assert "G10" not in zh("大米，为这件商品想一句温。", prompt=han)
    request = CopyRequest(item=RICE, channel="wechat", locale="zh", now=NOW)
    checks = review("大米，为这件商品想一句温暖。", request, prompt=han).checks
    assert " " not in next(c.span for c in checks if c.message == "repeats the prompt")


# --- variants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alike", "share", "faults"), [(0.7, 0.6, 0), (0.71, 0.6, 1), (0.7, 0.59, 1)])
def test_how_far_variants_differ(monkeypatch: pytest.MonkeyPatch, alike: float, share: float, faults: int) -> None:
    monkeypatch.setattr(guarantees, "likeness", lambda *_: alike)
    monkeypatch.setattr(guarantees, "distinct_pairs", lambda *_: share)
    assert len(list(variants_differ(["a", "b"]))) == faults
    assert list(variants_differ(["a"])) == []


def _case(text: str, item: Item) -> Case:
    return Case(text=text, facts=FactSheet.of(item), request=CopyRequest(item=item, channel="email", now=NOW))


def test_a_headline_alone_is_a_headline() -> None:
    channel = channel_named("google_rsa")
    assert channel.parts("Desk lamp, 20% off") == {"headline": "Desk lamp, 20% off"}
    assert channel.parts("The desk lamp is 20% off.") == {"description": "The desk lamp is 20% off."}
    assert channel_named("email").parts("Desk lamp, 20% off") == {"body": "Desk lamp, 20% off"}
