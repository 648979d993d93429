"""Every guarantee stops what it should and lets the rest pass."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Check, Item
from recllm.market.adcopy.channels import Slot, channels, septets, utf16, width
from recllm.market.adcopy.lexicon import families, read, table
from recllm.market.adcopy.quantities import quantities
from recllm.market.adcopy.request import CopyRequest, FactSheet, Offer, OfferType
from recllm.market.adcopy.verify.guarantees import GUARANTEES, review

NOW = datetime(2025, 11, 1, 9, tzinfo=UTC)
BUNS = Item(
    item_id="b1",
    title="Sandwich buns 12 oz",
    brand="Hearth",
    category=("Bakery", "Bread"),
    price=Decimal("2.49"),
    currency="USD",
    attributes={"size": "12 oz", "flavour": "honey", "pack": "8 count"},
)
SHIRT = Item(
    item_id="s1",
    title="纯棉长袖衬衫 2条装",
    brand="青禾",
    category=("女装", "衬衫"),
    price=Decimal("129.00"),
    currency="CNY",
    attributes={"面料": "100%棉"},
)
TWENTY_OFF = Offer(
    type=OfferType.PERCENT, value=Decimal(20), start=NOW - timedelta(days=1), end=NOW + timedelta(days=9)
)


def checks_of(text: str, request: CopyRequest, **more: str) -> tuple[Check, ...]:
    return review(text, request, **more).checks


def request_for(item: Item, **values: object) -> CopyRequest:
    return CopyRequest(item=item, **{"now": NOW, "channel": "email", **values})  # type: ignore[arg-type]


def failures(
    text: str, item: Item = BUNS, *, locale: str = "en", channel: str = "email", **more: object
) -> dict[str, list[str]]:
    prompt = str(more.pop("prompt", ""))
    request = request_for(item, channel=channel, locale=locale, **more)
    checks = checks_of(text, request, prompt=prompt)
    found: dict[str, list[str]] = {}
    for check in checks:
        if not check.passed:
            found.setdefault(check.guarantee, []).append(check.span or check.message)
    return found


def zh(text: str, **more: object) -> dict[str, list[str]]:
    return failures(text, SHIRT, locale="zh", channel="wechat", **more)


# --- texts that pass -----------------------------------------------------------------------------------------------

GOOD_EN = [
    "Soft sandwich buns for your lunch.",
    "Sandwich buns 12 oz for $2.49.",
    "Hearth sandwich buns, 8 count, at $2.49.",
    "A touch of honey in every bun: Hearth sandwich buns.",
    "One of your favourites: sandwich buns by Hearth.",
    "Sandwich buns, best enjoyed warm.",
    "Feel free to toast your sandwich buns!",
    "There is a great deal of comfort in fresh sandwich buns.",
    "For slow Sunday mornings: sandwich buns.",
    "Sandwich Buns For Every Good Lunch At Home",
]
GOOD_ZH = [
    "纯棉长袖衬衫，穿上就舒服。",
    "青禾长袖衬衫，¥129.00，陪你上班。",
    "青禾长袖衬衫129元，欢迎来看看。",
    "一件长袖衬衫，一起走过秋天。",
    "最近常穿的长袖衬衫，在店里等你。",
    "第一次穿就喜欢的长袖衬衫。",
    "长袖衬衫2条装，100%棉。",
]


@pytest.mark.parametrize("text", GOOD_EN)
def test_good_english_passes(text: str) -> None:
    assert failures(text) == {}


@pytest.mark.parametrize("text", GOOD_ZH)
def test_good_chinese_passes(text: str) -> None:
    assert zh(text) == {}


def test_one_passed_check_per_guarantee() -> None:
    checks = checks_of("Soft sandwich buns.", request_for(BUNS, channel="push"))
    assert [c.guarantee for c in checks] == list(GUARANTEES)
    assert all(check.passed for check in checks)
    assert all(isinstance(c, Check) for c in checks)


# --- G1 numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Sandwich buns for $2.50.",
        "Sandwich buns for £2.49.",
        "Sandwich buns for 2.49.",
        "Sandwich buns, 13 oz.",
        "Sandwich buns, 12 lb.",
        "Sandwich buns, 12 flavours.",
        "Sandwich buns for two dollars.",
        "Sandwich buns for twenty people.",
        "Sandwich buns at half the price.",
        "Sandwich buns, ５０％ softer.",
        "Sandwich buns, fifty percent softer.",
        "Sandwich buns, ready in ⅓ of an hour.",
        "Thousands of bakers chose sandwich buns.",
        "Sandwich buns with double honey.",
        "Sandwich buns since 1952.",
        "Sandwich buns until 30 November.",
        "A dozen sandwich buns.",
        "Sandwich buns X200.",
        "Sandwich buns, ①③ oz more.",
        "Was $2.49, sandwich buns.",
    ],
)
def test_g1_stops_numbers_that_are_no_facts(text: str) -> None:
    assert "G1" in failures(text)


@pytest.mark.parametrize(
    "text",
    [
        "长袖衬衫只要99元。",
        "长袖衬衫只要九十九元。",
        "长袖衬衫５折。",
        "长袖衬衫打八 · 五折。",
        "长袖衬衫百分之三十亚麻。",
        "长袖衬衫百分之九十九棉。",
        "长袖衬衫3条装。",
        "长袖衬衫三条装。",
        "三万人都在穿的长袖衬衫。",
        "长袖衬衫第二件半价。",
        "长袖衬衫￥128.00。",
        "长袖衬衫二〇一九年款。",
        "几百人穿过的长袖衬衫。",
        "长袖衬衫11月11日到货。",
        "长袖衬衫129美元。",
    ],
)
def test_g1_stops_chinese_numbers_that_are_no_facts(text: str) -> None:
    assert "G1" in zh(text)


@pytest.mark.parametrize("text", ["20% off sandwich buns.", "Save 20% on sandwich buns until 10 November."])
def test_g1_takes_the_running_offer(text: str) -> None:
    assert failures(text, offer=TWENTY_OFF) == {}
    assert "G1" in failures(text.replace("20", "25"), offer=TWENTY_OFF)


@pytest.mark.parametrize("text", ["长袖衬衫8折，11月10日截止。", "长袖衬衫八折优惠。", "长袖衬衫打八折。"])
def test_g1_reads_zhe_as_what_remains(text: str) -> None:
    assert zh(text, offer=TWENTY_OFF) == {}
    assert "G1" in zh(text.replace("8折", "2折").replace("八折", "两折"), offer=TWENTY_OFF)


def test_g1_tells_price_from_list_price() -> None:
    ok = "Sandwich buns, was $3.99, $2.49."
    assert "G1" not in failures(ok, list_price=Decimal("3.99"))
    assert "G1" in failures("Sandwich buns, was $2.49, $3.99.", list_price=Decimal("3.99"))


def test_a_share_of_cotton_is_no_discount() -> None:
    assert "G1" in zh("长袖衬衫立减100%。")
    assert "G1" in failures("Sandwich buns, 12% off.")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("一起来试试", 0),
        ("三明治和三文鱼", 0),
        ("折叠椅一款", 0),
        ("七分袖上衣", 0),
        ("one of your favourites", 0),
        ("三条", 1),
        ("十件", 1),
        ("满100减20", 2),
        ("12 1/4 oz", 1),
        ("between 2 and 3", 2),
    ],
)
def test_numbers_are_told_from_words(text: str, count: int) -> None:
    assert len(quantities(text)) == count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("五折", 50),
        ("8折", 20),
        ("七五折", 25),
        ("95折", 5),
        ("8.5折", 15),
        ("半价", 50),
        ("half price", 50),
        ("百分之二十", 20),
        ("三百二十元", 320),
        ("两万五千元", 25000),
        ("二〇一七年", 2017),
        ("twenty-five dollars", 25),
        ("three hundred and five dollars", 305),
        ("1,299.00 usd", 1299),
        ("３万人", 30000),
        ("1-1/4 inch", Decimal("1.25")),
        ("七点五元", Decimal("7.5")),
    ],
)
def test_values_of_numerals(text: str, value: int | Decimal) -> None:
    assert [q.value for q in quantities(text)] == [value]


# --- G2 offers, G3 claims: each family's own examples --------------------------------------------------------------

FILES = {"offers.toml": "G2", "claims.toml": "G3", "language.toml": ""}
LISTS = [(FILES[file], *pair) for file in FILES for pair in zip(families(file), table(file)["family"], strict=True)]
FAMILIES = [(g or f.guarantee, f, lists) for g, f, lists in LISTS if g or f.guarantee in ("G8", "G9", "G10")]
HITS = [(g, text) for g, _, lists in FAMILIES for text in lists["hit"]]


def _either(text: str) -> dict[str, list[str]]:
    return failures(text) if text.isascii() else zh(text)


def test_each_family_hits() -> None:
    assert [(guarantee, text) for guarantee, text in HITS if guarantee not in _either(text)] == []


def test_each_family_finds_what_it_lists() -> None:
    for _, family, lists in FAMILIES:
        assert [text for text in lists["hit"] if not family.find(read(text))] == [], family.id
        assert [text for text in lists["miss"] if family.find(read(text))] == [], family.id


@pytest.mark.parametrize(
    "text",
    [
        "国家级品质",
        "国 家 级品质",
        "国 家·级品质",
        "国-家-级品质",
        "国\u200b家\u200d级品质",
        "国家级",
        "销量第①",
        "ＮＯ．1",
        "全网 最 低 价",
        "最*佳*选择",
        "包 邮",
        "优.惠",
        "免 费",
        "100％有效，治 愈",
    ],
)
def test_dressed_up_chinese_is_seen(text: str) -> None:
    assert {"G2", "G3"} & set(zh(f"长袖衬衫，{text}。"))


@pytest.mark.parametrize(
    "text", ["f r e e", "F.R.E.E", "f-r-e-e", "ｆｒｅｅ", "fr\u200bee", "frеe", "FRЕE", "𝐟𝐫𝐞𝐞", "Ⓕⓡⓔⓔ"]
)
def test_dressed_up_english_is_seen(text: str) -> None:
    assert "G3" in failures(f"Sandwich buns {text} for you.")


def test_an_offer_counts_only_while_it_runs() -> None:
    text = "Sandwich buns: 20% off, a real sale."
    assert failures(text, offer=TWENTY_OFF) == {}
    for now in (NOW - timedelta(days=2), NOW + timedelta(days=9)):
        assert {"G1", "G2"} <= set(failures(text, offer=TWENTY_OFF, now=now))


def test_an_offer_allows_its_own_kind_only() -> None:
    assert "G2" in failures("Free shipping on sandwich buns.", offer=TWENTY_OFF)
    shipping = Offer(type=OfferType.FREE_SHIPPING)
    assert failures("Free shipping on sandwich buns.", offer=shipping) == {}
    assert "G2" in failures("Sandwich buns on sale.", offer=shipping)


def test_urgency_needs_an_offer_with_an_end() -> None:
    text = "Sandwich buns, today only."
    assert "G3" in failures(text)
    assert "G3" in failures(text, offer=Offer(type=OfferType.PERCENT, value=Decimal(20)))
    assert "G3" not in failures(text, offer=TWENTY_OFF)


def test_claims_pass_with_their_proof() -> None:
    assert "G3" in failures("Award-winning sandwich buns.")
    assert failures("Award-winning sandwich buns.", evidence={"award": "Bakers' Guild 2024"}) == {}
    assert "G3" in failures("Sandwich buns that cure a cold.", evidence={"cure": "a study", "never": "x"})


def test_materials_and_flavours_come_from_the_facts() -> None:
    assert failures("Sandwich buns with honey.") == {}
    assert "G3" in failures("Sandwich buns with cinnamon.")
    assert zh("纯棉长袖衬衫。") == {}
    assert "G3" in zh("真丝长袖衬衫。")


def test_what_the_facts_deny_is_not_stated() -> None:
    candy = Item(item_id="c", title="Candy bags non chocolate", attributes={"diet": "sugar-free"})
    assert "G3" in failures("Candy with the taste of chocolate.", candy)
    assert "G3" not in failures("Candy that is sugar-free.", candy)


# --- G4, G5 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Sandwich buns nicer than Kroger ones.",
        "Sandwich buns, nike style.",
        "Sandwich buns with Zorblax inside.",
        "Oak Valley sandwich buns, so soft and good.",
    ],
)
def test_g4_stops_other_names(text: str) -> None:
    assert "G4" in failures(text, known_brands={"Oak Valley"})


def test_g4_knows_plain_words_and_own_names() -> None:
    assert "G4" not in failures("Sandwich buns, a joy to share.", known_brands={"Joy", "Hearth"})
    assert "G4" in failures("Sandwich buns as soft as Joy can be.", known_brands={"Joy"})
    assert "G4" not in failures("Sandwich buns by Hearth.", known_brands={"Hearth"})
    case = Item(item_id="c", title="Case for Samsung phones")
    assert "G4" not in failures("A slim case for Samsung phones.", case)


def test_g4_in_chinese() -> None:
    assert "G4" in zh("比耐克更舒服的长袖衬衫。")
    assert "G4" in zh("长袖衬衫，云上 品牌。", known_brands={"云上"})
    assert "G4" not in zh("青禾长袖衬衫。", known_brands={"青禾"})
    assert "G4" in zh("长袖衬衫，来自Tibet。")
    assert "G4" not in zh("长袖衬衫，比T恤更正式。")


def test_g5_the_product_is_named() -> None:
    assert "G5" in failures("Something soft for your lunch.")
    assert "G5" not in failures("A soft bun for your lunch.")
    assert "G5" not in failures("Fresh bread for your lunch.")
    assert "G5" in zh("穿上就舒服。")
    assert "G5" not in zh("这件衬衫穿上就舒服。")


# --- G6 channels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "text", "length"),
    [
        (width, "a€好👍", 6),
        (width, "ＡＢ", 4),
        (width, "e\u0301", 1),
        (utf16, "a好👍", 4),
        (septets, "abc", 3),
        (septets, "a€", 3),
        (septets, "{}", 4),
        (septets, "£¥é", 3),
        (septets, "^\\~|[]", 12),
    ],
)
def test_counters(counter: object, text: str, length: int) -> None:
    assert counter(text) == length  # type: ignore[operator]


def test_a_slot_may_count_code_points() -> None:
    assert Slot(name="title", max=9, counter="codepoints").length_and_limit("a€好👍") == (4, 9)


def test_one_foreign_character_halves_a_short_message() -> None:
    slot = Slot(name="text", max=160, counter="sms")
    assert slot.length_and_limit("a" * 160) == (160, 160)
    assert slot.length_and_limit("a" * 70 + "’") == (71, 70)
    with pytest.raises(ValueError, match="’"):
        septets("’")


@pytest.mark.parametrize(
    ("channel", "text", "why"),
    [
        ("google_rsa", "Sandwich buns for a long and lazy lunch\nSoft buns.", "headline"),
        ("google_rsa", f"Sandwich buns\n{'soft ' * 18}buns.", "description"),
        ("google_rsa", "Sandwich buns\nSoft buns 🍞.", "🍞"),
        ("push", f"Sandwich buns\n{'Soft buns, good day. ' * 7}", "body"),
        ("email", "Sandwich buns\n\nSoft buns.", "preheader is empty"),
        ("sms_gsm", "Soft sandwich buns – " * 4 + "ok", "text"),
        ("taobao_title", "Sandwich buns <b>", "<"),
        ("push", "Sandwich buns\nSoft buns with", "breaks off"),
        ("push", "Sandwich buns\nSoft\u202e buns.", "202E"),
        ("push", "Sandwich buns\nSoft \ufffd buns.", "broken"),
        ("push", "", "empty"),
    ],
)
def test_g6_limits_and_characters(channel: str, text: str, why: str) -> None:
    checks = checks_of(text, request_for(BUNS, channel=channel))
    assert any(why in c.message + c.span for c in checks if c.guarantee == "G6" and not c.passed)


def test_a_text_of_any_length_is_answered() -> None:
    assert "G6" in failures("buns " * 100_000)


def test_every_channel_says_where_its_limits_come_from() -> None:
    assert {"google_rsa", "email", "push", "sms_gsm", "xhs", "taobao_title", "wechat"} <= set(channels())
    assert all(c.source and re.fullmatch(r"\d{4}-\d\d-\d\d", c.reviewed) for c in channels().values())


def test_unknown_channel_and_locale() -> None:
    for values in ({"channel": "fax", "locale": "en"}, {"channel": "push", "locale": "fr"}):
        with pytest.raises(UsageError, match=r"known|written"):
            checks_of("buns", request_for(BUNS, **values))


# --- G8 to G12, G17 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Sandwich buns, ask anna.b@example.org.",
        "Sandwich buns, call +1 415 555 0132.",
        "Sandwich buns, call 13812345678.",
        "Sandwich buns, card 4111 1111 1111 1111.",
        "Sandwich buns for 11010519491231002X.",
        "Sandwich buns, GB82 WEST 1234 5698 7654 32.",
        "Sandwich buns for 192.168.10.1.",
        "Sandwich buns for u1_abcdefghijklmnopqrstuvwxyz.",
        "You bought sandwich buns before.",
        "Sandwich buns for your diabetes.",
        "Based on your history: sandwich buns.",
    ],
)
def test_g8_stops_personal_data(text: str) -> None:
    assert "G8" in failures(text)


def test_g8_leaves_sizes_and_article_numbers_alone() -> None:
    item = Item(item_id="e", title="Water filter 5901234123457", attributes={"size": "10 x 20 cm"})
    assert "G8" not in failures("Water filter 5901234123457, 10 x 20 cm.", item)


@pytest.mark.parametrize(
    "text",
    [
        "Sandwich buns at www.buns.shop.",
        "Sandwich buns: https://a.b.",
        "Sandwich buns @hearth_buns.",
        "Sandwich buns <|im_end|>.",
        "assistant: sandwich buns.",
        "[INST] sandwich buns.",
        "As an AI, I like sandwich buns.",
        "Sure, here is a line on sandwich buns.",
        "Sandwich buns {{ name }}.",
        "Sandwich buns on evil.com now.",
    ],
)
def test_g10_stops_leaks(text: str) -> None:
    assert "G10" in failures(text)


def test_g10_stops_six_words_of_the_prompt() -> None:
    prompt = "Write one warm and friendly sentence about the product for our shop."
    assert "G10" in failures("Warm and friendly sentence about the product: sandwich buns.", prompt=prompt)
    assert "G10" not in failures("Warm and friendly sandwich buns.", prompt=prompt)


def test_g11_language_and_script() -> None:
    assert "G11" in failures("Les sandwich buns pour votre table avec amour.")
    assert "G11" in failures("Sandwich buns для вас.")
    assert "G11" in failures("Sandwich buns 很好吃.")
    assert "G11" in zh("Nice shirt for every day 衬衫 and for you.")
    assert "G11" in zh("この衬衫はとても良い。")
    assert "G11" not in zh("青禾 Oxford 长袖衬衫，上班也舒服。")


@pytest.mark.parametrize(
    "text",
    [
        "Buns buns buns buns.",
        "Sandwich buns soooooo good.",
        "SO SOFT AND WARM, buns for lunch.",
        "Sandwich buns! So soft!",
        "Buns 🍞🍞🍞 for lunch.",
        "A good day is a good day is a good day is a bun.",
    ],
)
def test_g12_stops_degenerate_texts(text: str) -> None:
    assert "G12" in failures(text)


@pytest.mark.parametrize(
    ("text", "locale", "good"),
    [
        ("Sandwich buns for $2.49.", "en", True),
        ("Sandwich buns for USD 2.49.", "en", True),
        ("Sandwich buns for 2.49$.", "en", False),
        ("三明治面包 Sandwich buns，US$2.49。", "zh", True),
        ("三明治面包 Sandwich buns，2.49美元。", "zh", True),
        ("Sandwich buns for 2.49美元.", "en", False),
    ],
)
def test_g17_amounts_are_written_as_the_locale_writes_them(text: str, locale: str, good: bool) -> None:
    assert ("G17" not in failures(text, locale=locale)) is good


# --- properties ----------------------------------------------------------------------------------------------------

_TEXT = "Hearth sandwich buns 12 oz, 8 count, $2.49. 20% off until 10 November."


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_other_digit_is_caught(data: st.DataObject) -> None:
    places = [i for i, c in enumerate(_TEXT) if c.isdigit()]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != _TEXT[place]]))
    mutated = _TEXT[:place] + digit + _TEXT[place + 1 :]
    assert failures(_TEXT, offer=TWENTY_OFF) == {}
    assert "G1" in failures(mutated, offer=TWENTY_OFF)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=200), st.sampled_from(["en", "zh"]), st.sampled_from(sorted(channels())))
def test_any_text_is_answered(text: str, locale: str, channel: str) -> None:
    checks = checks_of(text, request_for(BUNS, channel=channel, locale=locale))
    assert {c.guarantee for c in checks} == set(GUARANTEES)


@pytest.mark.parametrize(
    "values",
    [
        {"type": "percent", "value": None},
        {"type": "percent", "value": Decimal(100)},
        {"type": "amount", "value": Decimal(0)},
        {"type": "gift", "end": datetime(2025, 1, 1)},
    ],
)
def test_impossible_offers_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Offer(**{**values, "type": OfferType(str(values["type"]))})  # type: ignore[arg-type]


def test_the_sheet_holds_the_values_of_the_item() -> None:
    facts = FactSheet.of(BUNS, offer=TWENTY_OFF)
    assert (facts.price, facts.currency, facts.offer) == (BUNS.price, BUNS.currency, TWENTY_OFF)
    assert facts.attributes["size"] == BUNS.attributes["size"]
    assert facts.list_price is None
    assert len(FactSheet.of(Item(item_id="x", title="x", attributes={str(i): "v" for i in range(9)})).attributes) == 6
