"""Ad texts from frames: true by their facts, in people's words, silent where there is nothing to say."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGenerator
from tables import table

from recllm.base.errors import GenerationError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import AdCopy, Intent, Item, Occasion, Reason, ReasonKind
from recllm.market.adcopy import situation as situations
from recllm.market.adcopy.ads import customer_facts
from recllm.market.adcopy.channels import channels
from recllm.market.adcopy.frames import _LINK, Situation, frame_file, frames_for, slot_text, texts_of
from recllm.market.adcopy.naming import goods_of, is_silent, naming
from recllm.market.adcopy.packs import pack_named
from recllm.market.adcopy.quantities import format_money, renderings
from recllm.market.adcopy.request import (
    Ago,
    CopyRequest,
    FestiveDay,
    Offer,
    OfferType,
    PersonFacts,
    ThingFacts,
    Voice,
    reason_kind,
)
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.suitability import Suitability, item_codes, repurchased
from recllm.market.adcopy.verify.guarantees import review
from recllm.market.adcopy.write import sayable_facts, write_copy
from recllm.shop.data.catalogue import ItemGroups
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import Pairs
from recllm.text.generator.chat import messages

NOW = datetime(2025, 10, 8, 9, tzinfo=UTC)
TODAY = NOW.date()
OFFER = Offer(type=OfferType.PERCENT, value=Decimal(20), end=datetime(2025, 11, 12, tzinfo=UTC))
OAT = Item(
    item_id="oat",
    title="Fjellgard Barista Oat Drink 1 l",
    brand="Fjellgard",
    category=("Grocery", "Drinks", "Plant-based milk"),
    price=Decimal("1.95"),
    currency="GBP",
)
MILK = Item(item_id="milk", title="FLUID MILK WHITE ONLY", category=("GROCERY", "FLUID MILK PRODUCTS"))
TENT = Item(
    item_id="tent",
    title="Kestrel 2 Tent",
    category=("Outdoor", "Tents"),
    price=Decimal(189),
    currency="GBP",
    attributes={"doors": "two doors", "weight": "1.6 kg"},
)
SOY = Item(
    item_id="soy",
    title="HT海天酱油1.9l",
    brand="海天",
    category=("粮油", "调味品"),
    price=Decimal("19.9"),
    currency="CNY",
)
DUE = PersonFacts(times_bought=7, every_days=14, last=Ago.of(15, TODAY), waited=15 / 14)
TOGETHER = PersonFacts(with_item=ThingFacts("Lumora Z5 sleeping bag", ("Outdoor",)), with_last=Ago.of(20, TODAY))
AWAY = PersonFacts(because=ThingFacts("Lumora Z5 sleeping bag", ("Outdoor",)), away=Ago.of(200, TODAY))
WRITTEN = sorted(name for name, channel in channels().items() if not channel.segment_only)


def request_for(item: Item = OAT, **values: object) -> CopyRequest:
    return CopyRequest(item=item, **{"channel": "push", "now": NOW, "locale": "en-GB", **values})  # type: ignore[arg-type]


def situation(item: Item, **values: object) -> Situation:
    request = request_for(item, **values)
    return situation_of(request, sayable_facts(request))


def write(item: Item = OAT, *, generator: ScriptedGenerator | None = None, **values: object) -> tuple[AdCopy, ...]:
    return write_copy(request_for(item, **values), generator=generator)


def test_frames_name_known_slots_channels_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions_of = situations.conditions_of
    monkeypatch.setattr(situations, "conditions_of", lambda *known: dict.fromkeys(conditions_of(*known), True))
    day = FestiveDay(key="christmas", names={"en": "Christmas", "zh": "圣诞"}, on=TODAY, days_left=5)
    faults = []
    for language, item in (("en", OAT), ("zh", SOY)):
        thing = ThingFacts("Soap" if language == "en" else "香皂", item.category)
        person = replace(
            DUE,
            with_item=thing,
            with_last=Ago.of(20, TODAY),
            first_order=thing,
            because=thing,
            away=Ago.of(90, TODAY),
            category_bought=3,
            brand_bought=3,
            bought_last_year=True,
        )
        people = (person, replace(person, times_bought=0), replace(person, in_cart=True))
        reasons = {
            r for p in people for r in situation(item, locale=language, person=p, occasion=Occasion.NEW_ARRIVAL).reasons
        }
        known: dict[str, str] = {}
        for kind, least in product(OfferType, (None, Decimal(9))):
            offer = replace(OFFER, type=kind, value=Decimal(5), code="A", min_spend=least, gift="bag", scope="all")
            shop = {"shop": "Shop", "link": "s.example", "evidence": {"lowest_30d": "99"}}
            holds = situation(item, locale=language, person=person, day=day, order_by=TODAY, offer=offer, **shop)
            known |= holds.slots
        for frame in frame_file(language).frames:
            conditions = {c.removeprefix("not:") for c in frame.when if not c.startswith("kind:")}
            conditions -= {*holds.conditions, *reasons, *Occasion, "author", "words"}
            faults += [(frame.id, c) for c in conditions if c not in known]
            assert frame.reason in reasons and ({*frame.offer} <= {*OfferType, "any"}), frame.id
            for channel, parts in frame.channels.items():
                of_channel = {slot.name for slot in channels()[channel].slots} | {"button", "tags"}
                faults += [(frame.id, channel, part) for part in parts if part not in of_channel]
                faults += [(frame.id, channel, s.name) for s in channels()[channel].slots if s.name not in parts]
                for variants in parts.values():
                    slots = {slot for text in variants for slot in re.findall(r"\{([^{}]+)\}", text)}
                    faults += [
                        (frame.id, s)
                        for s in slots.difference(WITHOUT_A_FACT[language].split())
                        if not slot_text(s, known)
                    ]
    assert faults == []


def test_each_kind_of_offer_gets_texts_that_tell_what_it_asks_for() -> None:
    faults = []
    goods = (TENT, "en-GB", "christmas", "Christmas"), (SOY, "zh", "double_12", "双12")
    terms = product(OfferType, (None, "FELLS9"), (None, Decimal(321)), (None, OFFER.end))
    for (kind, code, minimum, end), (item, locale, key, name) in product(terms, goods):
        value = None if kind in (OfferType.FREE_SHIPPING, OfferType.GIFT, OfferType.BOGO) else Decimal(10)
        offer = Offer(type=kind, value=value, code=code, min_spend=minimum, end=end, gift="bag")
        day = FestiveDay(key=key, names={"en": name, "zh": name}, on=TODAY, days_left=9) if minimum else None
        for channel in ("email", "push", "sms_gsm") if day else ("email", "push", "sms_gsm", "social", "banner"):
            shop = {"shop": "Fells", "evidence": {"lowest_30d": f"{item.price}"}, "day": day}
            copies = write(item, offer=offer, locale=locale, channel=channel, **shop)
            terms_told = [
                term in copy.text for copy in copies for term in (code or "", "321" * bool(day), name * bool(day))
            ]
            is_written = bool(copies) or (kind is OfferType.COUPON and code is None)
            if not (is_written and all(terms_told) and all(copy.verified for copy in copies)):
                faults.append((kind, code, minimum, end, locale, channel))
    assert faults == []


WITHOUT_A_FACT = {"en": "author words Words", "zh": "size drop_count gift_how from when desc desc2 off zhe mw"}
"""Slots whose fact comes from attributes that these items lack, or from data that a shop would have to give."""


def test_every_text_of_every_frame_that_holds_passes_the_check() -> None:
    lately = PersonFacts(times_bought=2, last=Ago.of(25, TODAY))
    people = (PersonFacts(), DUE, TOGETHER, lately, PersonFacts(in_cart=True), PersonFacts(category_bought=3))
    undated = Offer(type=OfferType.FREE_SHIPPING), Offer(type=OfferType.COUPON, value=Decimal(5), code="TEA5")
    faults = []
    offers = (None, OFFER, *undated)
    goods = (OAT, "en-GB"), (MILK, "en-US"), (TENT, "en-GB"), (SOY, "zh")
    for (item, locale), (p, person), (o, offer) in product(goods, enumerate(people), enumerate(offers)):
        shop = ("", "Fells")[(p + o) % 2]
        for channel in WRITTEN:
            request = request_for(item, locale=locale, person=person, offer=offer, channel=channel, shop=shop)
            holds = situation_of(request, sayable_facts(request))
            for frame in frames_for(holds, channel, request.language):
                for n, parts in enumerate(texts_of(frame, holds, request.limits, 0, Counter())):
                    if n == 3:
                        break
                    text = request.limits.joined(parts)
                    answer = review(text, request)
                    if not answer.verified:
                        faults.append((frame.id, text, [c.message for c in answer.failures], answer.ungrounded))
    assert faults == []


def test_only_a_shop_that_states_its_stock_says_in_stock() -> None:
    for stated in (True, False):
        item, last = replace(SOY, stock_stated=stated), PersonFacts(times_bought=2, last=Ago.of(25, TODAY))
        texts = [copy.text for copy in write(item, locale="zh", person=last, variants=60)]
        assert texts and any("有货" in text for text in texts) == stated


def test_golden_texts() -> None:
    cases = [
        (OAT, {"person": DUE, "channel": "email"}, "You buy it about every two weeks."),
        (OAT, {"person": DUE, "channel": "push"}, "oat drink"),
        (MILK, {"person": DUE, "channel": "email", "locale": "en-US"}, "milk"),
        (TENT, {"person": TOGETHER, "channel": "email"}, "Lumora Z5 sleeping bag"),
        (TENT, {"offer": OFFER, "channel": "push"}, "11 November"),
        (TENT, {"person": AWAY, "occasion": Occasion.WIN_BACK, "channel": "email"}, "It has been a while"),
        (TENT, {"person": AWAY, "occasion": Occasion.NEW_ARRIVAL, "channel": "push"}, "Kestrel 2 Tent is new"),
        (SOY, {"person": DUE, "channel": "push", "locale": "zh"}, "酱油"),
    ]
    for item, values, words in cases:
        copies = write(item, **values, variants=6)
        assert len({copy.text for copy in copies}) == len(copies) >= 2, (item.title, values)
        assert all(copy.verified for copy in copies)
        assert any(words in copy.text for copy in copies), [copy.text for copy in copies]
    (copy,) = write(OAT, person=DUE, channel="email")
    assert set(copy.parts) == {"subject", "preheader", "headline", "body", "call_to_action"}
    assert copy.template_version.startswith("frames.en-")


def test_the_same_arguments_give_the_same_text_and_another_draw_another_one() -> None:
    assert [write(person=DUE, seed=s) for s in range(4)] == [write(person=DUE, seed=s) for s in range(4)]
    assert len({write(person=DUE, seed=s)[0].text for s in range(30)}) >= 15


def test_an_offer_stands_in_every_text_while_it_runs_and_in_none_afterwards() -> None:
    for item, person, channel in product((OAT, TENT), (PersonFacts(), DUE, TOGETHER), ("email", "push", "sms_gsm")):
        for copy in write(item, person=person, channel=channel, offer=OFFER, variants=8):
            assert "20%" in copy.text or "£151.20" in copy.text or "£1.56" in copy.text, copy.text
            assert "11 Nov" in copy.text, copy.text
        for copy in write(item, person=person, channel=channel, offer=OFFER, now=NOW + timedelta(days=60), variants=8):
            assert "%" not in copy.text and "151" not in copy.text, copy.text


def test_what_is_known_of_an_offer_is_told_with_it() -> None:
    coupon = Offer(
        type=OfferType.COUPON,
        value=Decimal(10),
        end=OFFER.end,
        code="BACK10",
        min_spend=Decimal(60),
        excluded="gift cards",
    )
    for locale, channel in product(("en-GB", "en-US"), ("email", "push", "sms_gsm")):
        for copy in write(OAT, offer=coupon, channel=channel, locale=locale, variants=5):
            words = ("£10 off", "BACK10", "£60", "gift cards", "11 Nov" if locale == "en-GB" else " 11")
            assert all(word in copy.text for word in words), copy.text


def test_what_a_customer_bought_lately_is_left_alone() -> None:
    early = replace(DUE, every_days=24, last=Ago.of(12, TODAY), waited=0.5)
    assert write(SOY, person=early, channel="email", locale="zh") == ()
    assert write(SOY, person=replace(early, waited=None, every_days=None), channel="email", locale="zh")
    cream = Item(item_id="x", title="Night Cream 50 ml", category=("Face care",))
    cases = [(OAT, 15, None, True), (OAT, 15, False, False), (cream, 30, None, False), (cream, 30, True, True)]
    for item, days, comes_back, is_asked in [*cases, (cream, 13, True, False)]:
        once = PersonFacts(times_bought=1, last=Ago.of(days, TODAY), is_repurchased=comes_back)
        assert bool(write(item, person=once)) is is_asked, (item.title, days, comes_back)


def test_goods_are_bought_again_by_the_purchases_of_the_shop() -> None:
    buyers, returned = np.array([14.0, 5, 20, 3, 0, 30, 2, 2]), np.array([0.0, 0, 8, 0, 0, 12, 0, 0])
    mean = returned.sum() / buyers.sum()
    stats = SimpleNamespace(
        mean_repeat_rate=mean,
        buyers_ever=buyers,
        repeat_rate=(returned + 3 * mean) / (buyers + 3),
        log_price=np.log1p([4.0, np.nan, 5, 5, 6, 6, 34, 9]),  # a press among the coffee of its category
    )
    back = repurchased(stats, np.array([-1, -2, 1, 1, 2, 2, 2, 2]))  # type: ignore[arg-type]
    assert back == [False, None, True, True, True, True, False, True]


def test_a_reason_that_says_nothing_to_a_customer_is_left_out() -> None:
    for title, category, is_said in (("Lumora lamp", ("Outdoor",), True), ("Milk", ("Dairy",), False)):
        person = PersonFacts(because=ThingFacts(title, category))
        assert ("because_bought" in situation(TENT, person=person).reasons) is is_said, title
    bottle = Item(item_id="x", title="Hot water bottle", category=("Home",))
    for reason, thing in (("because_bought", "because"), ("goes_with", "with_item")):
        for title, is_said in (("Chocolate hot water bottle", False), ("Wool blanket", True)):
            person = PersonFacts(**{thing: ThingFacts(title, ("Home",))})
            assert (reason in situation(bottle, person=person).reasons) is is_said, (reason, title)
    lead = PersonFacts(because=ThingFacts("狗狗牵引绳", ("日用品",)))
    tray = Item(item_id="x", title="猫砂盆", category=("日用品",))
    assert "because_bought" not in situation(tray, person=lead).reasons


def test_without_categories_a_reason_shares_a_word_or_a_shelf() -> None:
    for title, other, is_said in (
        ("Silk fan", "Glass tealight holder", False),
        ("Black record frame", "Black doormat", False),
        ("Toadstool night light", "Toadstool money box", True),
        ("Camping stove", "Sleeping bag", True),
    ):
        item = Item(item_id="x", title=title, price=Decimal(5), currency="GBP")
        for reason, thing in (("because_bought", "because"), ("people_also_buy", "with_item")):
            person = PersonFacts(**{thing: ThingFacts(other)})
            assert (reason in situation(item, person=person).reasons) is is_said, (reason, title)


def test_one_of_what_stays_is_enough_and_a_cart_is_spoken_of_as_a_cart() -> None:
    once, order = PersonFacts(times_bought=1, last=Ago.of(55, TODAY)), replace(OFFER, type=OfferType.COUPON, code="A5")
    assert write(TENT, person=once, offer=OFFER, channel="email") == ()
    assert write(TENT, person=replace(once, in_cart=True), channel="email") == ()
    assert write(TENT, person=once, offer=order, channel="email", shop="Fells")
    twice = replace(once, times_bought=2)
    assert write(TENT, person=twice, offer=OFFER, channel="email")
    assert write(TENT, person=replace(twice, last=Ago.of(14, TODAY)), offer=OFFER, channel="email") == ()
    bought = replace(TOGETHER, times_bought=2, last=Ago.of(18, TODAY), because=TOGETHER.with_item)
    assert not {"goes_with", "people_also_buy", "because_bought"} & set(situation(TENT, person=bought).reasons)
    cart = PersonFacts(in_cart=True, category_bought=5)
    for offer in (None, OFFER):
        assert "basket" in write(TENT, person=cart, offer=offer, channel="email")[0].text
    assert write(OAT, person=replace(DUE, in_cart=True), occasion=Occasion.REPLENISH, channel="email") == ()


def test_of_goods_of_no_known_kind_one_is_enough_for_a_while() -> None:
    hamper = Item(item_id="x", title="Breakfast Hamper", price=Decimal(79), currency="GBP")
    for days, comes_back, is_offered in ((11, None, False), (11, True, True), (90, None, True), (90, False, False)):
        once = PersonFacts(times_bought=1, last=Ago.of(days, TODAY), is_repurchased=comes_back)
        assert bool(situation(hamper, person=once, offer=OFFER).reasons) is is_offered, (days, comes_back)


def test_what_is_due_by_its_words_is_not_due_in_a_few_days() -> None:
    early = PersonFacts(times_bought=10, every_days=23, last=Ago.of(18.5, TODAY), waited=0.8)
    assert {"due_now", "due_soon"} & situation(SOY, person=early, locale="zh").conditions == {"due_now"}
    rarely = replace(early, every_days=90, last=Ago.of(85, TODAY))
    assert "bought_before" not in situation(MILK, person=rarely).reasons
    longer = replace(early, every_days=26, last=Ago.of(21, TODAY))
    assert {"due_now", "due_soon"} & situation(SOY, person=longer, locale="zh").conditions == {"due_soon"}


def test_names_leave_out_what_a_text_would_say_twice() -> None:
    light = Item(item_id="x", title="RED TOADSTOOL LED NIGHT LIGHT", price=Decimal(5), currency="GBP")
    slots = situation(light, person=PersonFacts(with_item=ThingFacts("RABBIT NIGHT LIGHT"))).slots
    assert (slots["item.short"], slots["with_item.short"]) == ("red toadstool LED night light", "rabbit night light")
    for title, name in (("抽纸 3层*24包", "抽纸3层×24包"), ("陶瓷茶壶套装 一壶四杯", "陶瓷茶壶套装")):
        slots = situation(Item(item_id="x", title=title), locale="zh").slots
        assert slots["item"] == name and "mw" not in slots


def test_a_text_says_no_item_with_the_category_that_names_it() -> None:
    tea = Item(item_id="x", title="宜兴红茶 200克", category=("红茶",), price=Decimal(78), currency="CNY")
    for person in (PersonFacts(category_bought=1), PersonFacts(category_bought=3)):
        for copy in write(tea, person=person, locale="zh", variants=20):
            assert not re.search(r"红茶[^，。：\n]*红茶", copy.text), copy.text


def test_texts_of_a_campaign_differ_and_those_of_a_day_name_the_item() -> None:
    used, sentences, person = Counter(), Counter(), PersonFacts(times_bought=2, last=Ago.of(15, TODAY))
    for title in ("Oat Milk", "Rye Bread", "Carrot Cake", "Salted Butter") * 5:
        item = Item(item_id=title, title=title, price=Decimal(4), currency="GBP")
        (copy,) = write_copy(request_for(item, person=person, channel="email"), used=used)
        sentences.update(text for part, text in copy.parts.items() if part in ("subject", "headline", "body"))
    assert set(sentences.values()) == {1}, [text for text, n in sentences.items() if n > 1]
    day = FestiveDay(key="christmas", names={"en": "Christmas"}, on=TODAY, days_left=5, is_season_good=True)
    for copy in write(OAT, person=replace(DUE, times_bought=2), day=day, channel="email", variants=20):
        assert "oat drink" in copy.parts["subject"], copy.text


def test_what_a_mail_shows_next_to_its_subject_says_something_else() -> None:
    day = FestiveDay(key="christmas", names={"en": "Christmas"}, on=TODAY, days_left=5, is_season_good=True)
    for seed in range(6):
        (copy,) = write(TENT, person=PersonFacts(category_bought=3), day=day, channel="email", seed=seed)
        assert not all("Kestrel" in copy.parts[part] for part in ("subject", "preheader")), seed


def test_a_locked_screen_says_no_number_of_purchases() -> None:
    frames = [*frame_file("en").frames, *frame_file("zh").frames]
    lines = [text for f in frames for texts in f.channels.get("push", {}).values() for text in texts]
    assert [line for line in lines if "{n}" in line or "{count" in line] == []


def test_short_messages_lead_somewhere() -> None:
    for copy in write(SOY, person=DUE, channel="sms_gsm", locale="zh", link="s.example", variants=5):
        assert "s.example" in copy.text
    texts = (text for f in frame_file("zh").frames for text in f.channels.get("sms_gsm", {}).get("text", ()))
    assert [text for text in texts if re.search("点开|点链接|点进|这里", _LINK.sub("", text))] == []  # nothing to tap


HABIT = re.compile(r"you (?:often|usually)|your (?:old )?usual\b|\{you\}常|常[买囤用]的|买惯|老样子", re.IGNORECASE)
COUNTED = {"rhythm", "frequent", "fav_category", "fav_brand", "bought_in_category", "bought_in_brand"}


def test_words_of_habit_follow_from_a_count_and_a_price_of_now_from_its_fall() -> None:
    for frame in (*frame_file("en").frames, *frame_file("zh").frames):
        texts = [text for parts in frame.channels.values() for variants in parts.values() for text in variants]
        of_now = [t for t in texts if re.search(r"\{price\} (?:now|today)|(?:now|现在|今天)\{price\}", t)]
        assert not of_now or "old_price" in frame.when or "price_drop" in frame.occasion, frame.id
        habits = [text for text in texts if HABIT.search(text) and not re.search(r"\{(?:rhythm|gap)\}", text)]
        assert not habits or not COUNTED.isdisjoint({*frame.when, frame.reason}), (frame.id, habits)


def test_a_thing_has_an_article_and_goods_have_none() -> None:
    cases = [
        ("RED TOADSTOOL LED NIGHT LIGHT", "the red toadstool LED night light", "another red toadstool LED night light"),
        ("FLUID MILK WHITE ONLY", "milk", "more milk"),
        ("Dry Bag Set of 3", "the set of dry bags", "another set of dry bags"),
        ("Oat and Date Bars, Box of 12", "the oat and date bars", "more oat and date bars"),
    ]
    for title, the, more in cases:
        slots = situation(Item(item_id="x", title=title), person=DUE).slots
        assert (slots["item.the"], slots["item.more"]) == (the, more), title


def test_texts_that_state_a_fact_twice_come_last() -> None:
    holds = situation(SOY, person=DUE, channel="email", locale="zh")
    (frame,) = [frame for frame in frames_for(holds, "email", "zh") if frame.id == "R04"]
    texts = list(texts_of(frame, holds, channels()["email"], 0, Counter()))
    shown = [[text for part, text in parts.items() if part != "button"] for parts in texts]
    times_told = [sum("买过7次" in text or "上次" in text for text in of_text) for of_text in shown]
    assert times_told == sorted(times_told, key=lambda n: n > 1) and {1, 2} <= set(times_told)


def test_latin_names_stand_apart_from_chinese_numbers() -> None:
    latin = replace(SOY, title="red 纯棉", brand=None)
    for copy in write(latin, offer=OFFER, channel="banner", locale="zh", variants=5):
        assert copy.verified and "red8" not in copy.text, copy.text


def test_without_a_reason_an_occasion_or_an_offer_there_is_silence() -> None:
    for channel in ("email", "push", "sms_gsm"):
        assert write(OAT, channel=channel) == ()
        assert write(MILK, channel=channel, locale="en-US") == ()


def test_some_goods_get_no_text() -> None:
    english = ("CIGARETTES", "GASOLINE-REG UNLEADED", "Infant formula stage 1", "POSTAGE & HANDLING")
    for title in (*english, "感冒药 24片", "茅台白酒"):
        for channel, offer in product(("email", "push", "banner"), (None, OFFER)):
            assert write(Item(item_id="x", title=title), channel=channel, offer=offer, person=DUE) == (), title
    assert write(Item(item_id="x", title="Red wine 75 cl", price=Decimal(9), currency="GBP"), person=DUE) == ()


def test_a_price_without_a_currency_is_not_told() -> None:
    for copy in write(Item(item_id="x", title="Barista Oat Drink", price=Decimal("3.50")), person=DUE, variants=5):
        assert "3.5" not in copy.text
    varied = Item(item_id="x", title="Oat Drink", currency="GBP", attributes={"variant_prices": "9\n11.50"})
    texts = [copy.text for copy in write(varied, person=DUE, channel="email", variants=30)]
    assert any("From £9" in text for text in texts) and not any(re.search("(?<![Ff]rom )£", t) for t in texts)
    assert not review("Oat drink\n£9 today.", request_for(varied)).verified


def test_a_former_price_is_told_with_its_proof_alone() -> None:
    early = replace(DUE, last=Ago.of(10, TODAY), waited=0.7)
    values: dict[str, object] = {"person": early, "occasion": Occasion.PRICE_DROP, "channel": "email"}
    assert not any("£2.40" in copy.text for copy in write(OAT, **values, list_price=Decimal("2.40")))
    (copy,) = write(OAT, **values, evidence={"lowest_30d": "£2.40"})
    assert copy.verified and "£2.40" in copy.text


def test_no_text_is_written_for_a_person_where_carriers_take_templates_only() -> None:
    with pytest.raises(UsageError, match="segment"):
        write(channel="sms_cn", locale="zh")


def test_what_is_said_of_customers_is_coarse() -> None:
    near = PersonFacts(times_bought=7, every_days=14, last=Ago.of(14, TODAY), waited=1.0)
    far = PersonFacts(times_bought=7, every_days=16, last=Ago.of(17, TODAY), waited=1.1)
    assert near.coarse() == far.coarse()
    assert near.coarse() != PersonFacts(times_bought=7, every_days=40, last=Ago.of(41, TODAY), waited=1.0).coarse()


def test_a_sensitive_item_tells_nothing_of_the_customer() -> None:
    strips = Item(item_id="x", title="Test strips", category=("Pharmacy",), price=Decimal(9), currency="GBP")
    texts = [copy.text for channel in WRITTEN for copy in write(strips, person=DUE, channel=channel, variants=5)]
    assert not any(word in text for text in texts for word in ("You buy", "bought", "two weeks"))


def test_an_adult_animal_is_nothing_sensitive() -> None:
    for is_sensitive, texts in ((False, table("adcopy", "adult and harmless")), (True, table("adcopy", "adult"))):
        assert [text for text in texts if Policy().is_sensitive((text,)) is not is_sensitive] == []


def test_a_category_of_several_animals_says_nothing_of_another_one() -> None:
    titles = {"canary": "Canary Seed", "budgie": "Budgie Seed", "cage": "Canary Cage", "dog": "Dog Biscuits"}
    paths = [["Birds"], ["Birds"], ["Birds"], ["Dogs"]]
    items = pl.DataFrame({"item_id": [*titles], "title": [*titles.values()], "category": paths})
    bought = [("ann", item, n * DAY) for n in range(3) for item in ("canary", "dog")]
    events = pl.DataFrame(bought, schema=["user_id", "item_id", "timestamp"], orient="row")
    data = Dataset.construct(events.with_columns(event=pl.lit("purchase")), items=items)
    zeros = dict.fromkeys(("buyers_ever", "repeat_rate", "log_price"), np.zeros(4))
    stats = SimpleNamespace(mean_repeat_rate=0.0, **zeros)
    for item, n in (("canary", 3), ("cage", 3), ("budgie", 0), ("dog", 3)):
        (row,), log = data.item_rows([item]).tolist(), (data.events, data.items, item_codes(data.items), data.as_of)
        (facts,) = customer_facts(*log, [row], [[]], None, Policy(), stats)  # type: ignore[arg-type]
        assert facts.category_bought == n, item
    values = [row], [[]], None, Policy(), stats, Occasion.WIN_BACK
    (facts,) = customer_facts(data.before(1).events, *log[1:3], 181 * DAY, *values)  # type: ignore[arg-type]
    assert facts.away is not None
    budgie = Item(item_id="budgie", title="Budgie Seed", category=("Birds",))
    person = PersonFacts(because=ThingFacts("Canary Seed", ("Birds",)))
    assert "because_bought" not in situation(budgie, person=person).reasons


def test_what_a_customer_has_has_outgrown_or_would_not_wear_is_not_offered() -> None:
    rows = table("adcopy", "what suits a customer")
    columns = {name: [row[n] for row in rows] for n, name in enumerate(("item_id", "category", "price"))}
    items = pl.DataFrame(columns).with_columns(title="item_id", category=pl.col("category").str.split(" > "))
    bought = [("ann", title, int((500 - ago) * DAY), "purchase") for title, _, _, ago, _ in rows if ago is not None]
    events = pl.DataFrame(bought, schema=["user_id", "item_id", "timestamp", "event"], orient="row")
    data = Dataset.construct(events, items=items, as_of=int(500 * DAY))
    none, prices = np.zeros(len(rows)), np.log1p(data.items["price"].to_numpy())
    stats = SimpleNamespace(mean_repeat_rate=0.0, log_price=prices, buyers_ever=none, repeat_rate=none)
    shop: Any = SimpleNamespace(dataset=data, locale="en")
    shop.population = SimpleNamespace(stats=stats, facets=ItemGroups.of(data.items))
    pairs = Pairs(np.array([0, len(rows)]), np.arange(len(rows), dtype=np.int32))
    for mark, asked in {"offered": (), "gift": (Intent.MIXED, True), "remind": (Intent.REMIND,)}.items():
        suited = set(data.items["item_id"].filter(~Suitability(shop, *asked).unsuited(data.events, pairs)))
        assert suited == {title for title, *_, marks in rows if mark in marks}, mark


def test_names_that_people_say() -> None:
    for title, category, brand, language, name, short in table("adcopy", "names that people say"):
        named = naming(title, tuple(category), language, brand=brand)
        assert (named.name, named.short) == (name, short), title
    numbers = {"Kestrel 2 Tent": "singular", "Torran boots": "plural", "Sun Cream SPF50": "mass"}
    numbers |= {"Rye & Raisin Loaf": "singular", "Hut Slippers – Felted Wool": "plural"}
    assert {title: naming(title, (), "en").number for title in numbers} == numbers


def test_an_offer_is_said_of_the_category_only_if_it_is_for_the_category() -> None:
    """ "20% off clothing" is untrue where the offer is for base layers."""
    layer = Item(
        item_id="i", title="Merino Base Layer", category=("Clothing", "Base layers"), price=Decimal(65), currency="GBP"
    )
    for scope, is_said in (("base layers", True), ("merino", False), (None, False)):
        slots = situation(layer, offer=replace(OFFER, scope=scope), channel="email").slots
        assert ("category" in slots) is is_said, scope


def test_an_offer_that_saves_nothing_is_none_for_an_item() -> None:
    together, reduced = Offer(type=OfferType.BOGO, value=Decimal(50)), Offer(type=OfferType.AMOUNT, value=Decimal(10))
    assert [together.saves(Decimal(price)) for price in (20, 25, 30)] == [False, False, True]
    assert [reduced.saves(Decimal(price)) for price in (9, 11)] == [False, True]
    for offer in (
        replace(reduced, min_spend=Decimal(40)),
        Offer(type=OfferType.BOGO),
        Offer(type=OfferType.FREE_SHIPPING),
    ):
        assert offer.saves(Decimal(1)), offer
    assert write(TENT, offer=replace(reduced, value=Decimal(400))) == () != write(TENT, offer=reduced)


def test_kinds_of_goods() -> None:
    for title, expected in table("adcopy", "kinds of goods"):
        assert goods_of((title,)).issuperset(expected), (title, goods_of((title,)))
    for names in table("adcopy", "things that stay"):
        assert {"consumable", "durable"} & goods_of(names) == {"durable"}, (names, goods_of(names))
    for names in table("adcopy", "things that are used up"):
        assert {"consumable", "durable"} & goods_of(names) == {"consumable"}, (names, goods_of(names))
    for name, wanted in (("of which nothing is said", True), ("harmless compounds", False)):
        assert [names for names in table("adcopy", name) if is_silent(goods_of(names)) is not wanted] == []


ANSWER = "title: Oat drink for the next order\nbody: You buy it about every two weeks. It is £1.95 today."


def test_a_good_answer_is_taken_with_the_facts_as_they_are() -> None:
    model = ScriptedGenerator([ANSWER], name="model")
    (copy,) = write(person=DUE, generator=model)
    assert (copy.generator, copy.verified) == ("model", True)
    assert copy.parts == {"title": "Oat drink for the next order", "body": ANSWER.split("body: ")[1]}
    roles = [message.role for message in messages(model.prompts[0])]
    assert roles[0] == "system" and roles[-1] == "user"
    assert "about every two weeks" in messages(model.prompts[0])[-1].text
    answer = '{"title": "Oat drink, £1.95", "body": "You buy it about every two weeks."}'
    assert write(person=DUE, generator=ScriptedGenerator([answer], name="m"))[0].generator == "m"


def test_a_bad_answer_is_stopped_goes_back_once_and_the_frame_speaks() -> None:
    bad = [
        "title: The best oat drink\nbody: It cures colds.",
        "title: Oat drink\nbody: 50% off today only!",
        "title: Oat drink\nbody: Ask Anna Baker, anna@example.com.",
        "I am sorry, I cannot do that.",
        "title: Oat drink for £1.50\nbody: You buy it about every two weeks.",
    ]
    for answer in bad:
        model = ScriptedGenerator([answer] * 4)
        (copy,) = write(person=DUE, generator=model)
        assert (copy.generator, copy.verified) == ("template", True), answer
        assert len(model.prompts) == 2 and copy.rejected, answer
    mended = ScriptedGenerator([*bad[:3], ANSWER], name="model")
    assert write(person=DUE, generator=mended)[0].generator == "model"


def test_an_answer_without_the_offer_is_stopped() -> None:
    (copy,) = write(person=DUE, offer=OFFER, generator=ScriptedGenerator([ANSWER], repeat=True))
    assert copy.generator == "template" and "20%" in copy.text
    for body, by in (("海天酱油8折，到11月11日。", "model"), ("海天酱油，到11月11日。", "template")):
        model = ScriptedGenerator([f"title: 海天酱油\nbody: {body}"], name="model", repeat=True)
        (copy,) = write(SOY, person=DUE, offer=OFFER, locale="zh", generator=model)
        assert copy.generator == by and "8折" in copy.text, [copy.text, copy.rejected]


def test_an_answer_that_a_rule_pack_doubts_is_stopped() -> None:
    answer = "title: Just launched: oat drink\nbody: You buy it about every two weeks."
    generator = ScriptedGenerator([answer], repeat=True)
    packs, voice = (pack_named("us_ftc"),), Voice(words=("launched",))
    (copy,) = write(person=DUE, generator=generator, packs=packs, voice=voice)
    assert copy.generator == "template"
    assert [faults for _, faults in copy.rejected] == [(), ()], "no check fails, and a person has to look"


def test_a_failing_generator_leaves_the_frame() -> None:
    for generator in (ScriptedGenerator([]), ScriptedGenerator([GenerationError("down")])):
        (copy,) = write(person=DUE, generator=generator)
        assert (copy.generator, copy.verified) == ("template", True)
        assert copy.rejected[0][1][0].guarantee == "G16"


def test_a_model_is_asked_in_its_languages_only_and_never_for_titles() -> None:
    generator = ScriptedGenerator([ANSWER])
    generator.languages = frozenset({"en"})  # type: ignore[attr-defined]
    (copy,) = write(SOY, locale="zh", person=DUE, generator=generator)
    assert (copy.generator, generator.prompts) == ("template", [])
    assert copy.rejected[0][1][0].guarantee == "G11"
    write(SOY, channel="taobao_title", locale="zh", generator=generator)
    for title in ("Antiseptic spray", "Bandage roll", "Wart plaster"):  # of these no model writes
        write(Item(item_id="x", title=title), person=DUE, offer=OFFER, generator=generator)
    assert generator.prompts == []


def test_kinds_of_reasons() -> None:
    for evidence, delta, kind in [
        ("B:b1", 1.2, ReasonKind.KNOWN),
        ("B:other", 1.2, ReasonKind.TOGETHER),
        ("H:x", 0.3, ReasonKind.INTEREST),
        ("I:age", 0.3, ReasonKind.PICKED),
        ("general", 0.0, ReasonKind.GENERAL),
        ("B:b1", -0.3, ReasonKind.GENERAL),
    ]:
        reason = Reason(evidence_id=evidence, delta=delta, text="")
        assert reason_kind(reason, "b1") is kind, evidence
    assert reason_kind(None, "b1") is ReasonKind.GENERAL


PAYLOADS = table("adcopy", "payloads")


def test_a_title_cannot_open_a_turn_of_its_own() -> None:
    for title, _ in PAYLOADS:
        generator = ScriptedGenerator([GenerationError("x")], repeat=True)
        write(replace(OAT, brand=title), generator=generator, offer=OFFER)
        for prompt in generator.prompts:
            roles = [message.role for message in messages(prompt)]
            assert roles == ["system", *["user", "assistant"] * 3, "user"], title


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("2014 新款 特价 包邮 长袖衬衫", "2014新款长袖衬衫"),
        ("CANDY BAGS-NON CHOCOLATE", "candy bags-non chocolate"),
        ("FREE RANGE EGGS 12 CT", "free range eggs 12 ct"),
        ("Best Mug Ever (SALE!)", "Mug Ever"),
        ("HATCHBOX ABS 3D filament, 1 kg", "HATCHBOX ABS 3D filament, 1 kg"),
    ],
)
def test_sellers_promises_leave_the_title(title: str, shown: str) -> None:
    assert sayable_facts(request_for(Item(item_id="x", title=title))).title == shown


PIECES = "red|pot|Plate|12 oz|set of 6|Böhm|X-200|100%|linen|纯棉|衬衫|2条装|(large)|&"


@settings(deadline=None, max_examples=60)
@given(
    title=st.lists(
        st.sampled_from(PIECES.split("|")),
        min_size=1,
        max_size=9,
    ).map(" ".join),
    brand=st.sampled_from([None, "Acme", "好家", "3M", "Nike", "The Best Co"]),
    price=st.one_of(st.none(), st.decimals(Decimal("0.01"), 99999, places=2)),
    currency=st.sampled_from(["USD", "GBP", "CNY", "JPY", "CHF", "XAU"]),
    offer=st.sampled_from([None, OFFER, Offer(type=OfferType.BOGO), Offer(type=OfferType.FREE_SHIPPING)]),
    channel=st.sampled_from(WRITTEN),
    locale=st.sampled_from(["en", "zh"]),
    person=st.sampled_from([PersonFacts(), DUE, TOGETHER]),
)
def test_whatever_the_facts_a_text_passes_or_there_is_none(
    title: str,
    brand: str | None,
    price: Decimal | None,
    currency: str,
    offer: Offer | None,
    channel: str,
    locale: str,
    person: PersonFacts,
) -> None:
    item = Item(item_id="i", title=title, brand=brand, price=price, currency=currency)
    for copy in write(item, channel=channel, locale=locale, offer=offer, person=person):
        assert copy.verified, (copy.text, [c for c in copy.checks if not c.passed], copy.ungrounded)


@pytest.mark.parametrize(
    ("amount", "currency", "locale", "text"),
    [
        ("1299", "USD", "en", "$1,299.00"),
        ("3.5", "USD", "zh", "US$3.50"),
        ("19.9", "CNY", "zh", "¥19.90"),
        ("1500", "JPY", "en", "¥1,500"),
        ("2.005", "GBP", "en", "£2.01"),
        ("7", "CHF", "en", "CHF 7.00"),
    ],
)
def test_money(amount: str, currency: str, locale: str, text: str) -> None:
    assert format_money(Decimal(amount), currency, locale) == text
    assert text.replace(" ", "").casefold() in renderings(Decimal(amount), currency, locale)
