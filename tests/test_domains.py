"""Other domains than shops: their words, their events and columns, and that the shop's texts are what they were.

`python tests/test_domains.py` writes the golden files anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Command
from domain_cases import rendered
from scripted import ScriptedGenerator
from service_world import serving
from tables import table

from recllm.base.errors import IngestError, PromptError, StoreError, UsageError
from recllm.base.schema import Action, AdCopy, CopyVerdict, Item, Occasion, ReasonKind, Table
from recllm.base.words.sentences import LANGUAGES
from recllm.market.adcopy.lexicon import phrase_pattern, read
from recllm.market.adcopy.request import Ago, CopyRequest, Offer, OfferType, PersonFacts, ThingFacts
from recllm.market.adcopy.submissions import judge, submission_of
from recllm.market.adcopy.verify.guarantees import review
from recllm.market.adcopy.write import write_copy
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.texts import TextKey, catalogue_at, copy_request
from recllm.recommend.recommender.people import person_profile
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import Dataset
from recllm.shop.ingest.suggest import proposed_columns
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace, overridden
from recllm.text.domains import domain_of, in_domain
from recllm.text.encoder.toy import ToyEncoder
from recllm.text.items import item_texts, reason_text
from recllm.text.templates import Prompts, bring_domain

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
OTHERS = ("education", "media", "news")
NOW = datetime(2025, 3, 1, 9, tzinfo=UTC)
ITEMS = {
    "media": {"en": ("Harbour Lights", "Drama"), "zh": ("港口灯火", "剧情")},
    "news": {"en": ("Council votes on the harbour bridge", "Politics"), "zh": ("市议会表决港口大桥", "时政")},
    "education": {"en": ("Introduction to statistics", "Mathematics"), "zh": ("统计学入门", "数学")},
}


def request(domain: str, locale: str, title: str = "", **changes: Any) -> CopyRequest:
    name, category = ITEMS[domain][locale] if domain in ITEMS else ("Green tea", "Tea")
    item = Item(item_id="x", title=title or name, category=(category,))
    return CopyRequest(**{"item": item, "channel": "email", "now": NOW, "locale": in_domain(locale, domain), **changes})


def differing(domain: str) -> dict[str, dict[str, list[str]]]:
    """What a domain says otherwise than the shop."""
    texts = {locale: rendered(f"{locale}@{domain}") for locale in LANGUAGES}
    shop = {locale: rendered(locale) for locale in LANGUAGES}
    return {lang: {name: t for name, t in texts[lang].items() if t != shop[lang][name]} for lang in LANGUAGES}


def test_the_shop_says_what_it_said_before_there_were_domains() -> None:
    expected = json.loads((GOLDEN / "domain.shop.json").read_text(encoding="utf-8"))
    assert {locale: rendered(locale) for locale in LANGUAGES} == expected


@pytest.mark.parametrize("domain", OTHERS)
def test_what_a_domain_says_otherwise_is_pinned(domain: str) -> None:
    expected = json.loads((GOLDEN / f"domain.{domain}.json").read_text(encoding="utf-8"))
    assert differing(domain) == expected


@pytest.mark.parametrize("locale", LANGUAGES)
@pytest.mark.parametrize("domain", OTHERS)
def test_no_word_of_a_shop_reaches_another_domain(domain: str, locale: str) -> None:
    never = Prompts.load().domain(domain).never[locale]
    assert {"en": {"bought", "basket", "shop", "product"}, "zh": {"购买", "买过", "商品", "顾客"}}[locale] <= {*never}
    shape = phrase_pattern(never)
    leaked = {
        name: words
        for name, texts in rendered(f"{locale}@{domain}").items()
        if (words := [word for text in texts for word in shape.findall(read(text).squashed)])  # type: ignore[union-attr]
    }
    assert leaked == {}


@pytest.mark.parametrize("domain", OTHERS)
def test_a_domain_words_only_what_there_is(domain: str) -> None:
    """Each of its templates is sound, both languages replace the same kinds of things, and no version is the shop's."""
    prompts = Prompts.load()
    templates = prompts.of_domain(domain)
    for key, template in templates.items():
        assert template.compiled.render is not None
        assert template.variables == prompts.templates[key].variables
    versions = {t.version for t in templates.values()}
    assert versions.isdisjoint(t.version for t in prompts.templates.values())


def test_the_encoders_text_of_an_item_is_that_of_its_domain_only_when_asked() -> None:
    items = Dataset.construct(pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]})).items
    assert item_texts(items, "en@media") == ["unnamed title"]
    assert item_texts(items, "zh@education") == ["未命名课程"]
    assert item_texts(items) == ["unnamed item"]


def test_titles_are_quoted_and_written_as_works_are() -> None:
    for locale, title, category, expected in table("domains", "titles of works"):
        assert reason_text("bought_similar", locale, title=title, category=category) == expected


PEOPLE = (
    PersonFacts(times_bought=1, last=Ago(30, NOW.date())),
    PersonFacts(with_item=ThingFacts("Slow Rain")),
    PersonFacts(in_cart=True),
    PersonFacts(category_bought=3),
)


def texts(made: CopyRequest, people: Sequence[PersonFacts] = PEOPLE) -> list[AdCopy]:
    return [copy for person in people for copy in write_copy(replace(made, person=person, variants=3))]


@pytest.mark.parametrize("locale", LANGUAGES)
@pytest.mark.parametrize("domain", OTHERS)
def test_texts_of_a_domain_pass_and_hold_no_word_of_a_shop(domain: str, locale: str) -> None:
    shape = phrase_pattern(Prompts.load().domain(domain).never[locale])
    for channel in ("email", "push"):
        copies = texts(request(domain, locale, channel=channel))
        assert len(copies) >= 2
        for copy in copies:
            assert copy.verdict is CopyVerdict.PASS, (copy.text, copy.checks, copy.ungrounded)
            assert copy.locale == locale and not shape.search(read(copy.text).squashed)  # type: ignore[union-attr]
            assert not re.search(r"price|价|[€$£¥]", copy.text)


def test_the_name_of_a_film_is_no_claim_and_no_size() -> None:
    titles = ("Free Willy", "The Best Years of Our Lives", "21 Grams", "8 Mile", "12 Angry Men", "The Cure for Love")
    for title in titles:
        copies = texts(request("media", "en", title))
        assert copies and all(title in copy.text and copy.verified for copy in copies), title


def test_a_chinese_name_in_a_name_has_single_marks() -> None:
    copies = texts(request("education", "zh", "《论语》导读", channel="push"))
    assert any("《〈论语〉导读》" in copy.text for copy in copies)


def test_claims_around_the_name_of_a_film_are_claims() -> None:
    made = request("media", "en", "Free Willy")
    for text, guarantee in table("domains", "claims around a name"):
        failed = {c.guarantee for c in review(text, replace(made, channel="push")).checks if not c.passed}
        assert guarantee in failed, text


def test_a_title_that_promises_or_states_a_price_gets_no_text() -> None:
    for domain in OTHERS:
        assert texts(request(domain, "en", "Harbour lessons, now 90% off, only $2")) == []
    for title in ("Yoga that cures back pain", "Python course with a free certificate"):
        assert texts(request("education", "en", title)) == []
    assert texts(request("education", "en", "Best practices in SQL"))


@pytest.mark.parametrize("domain", OTHERS)
def test_offers_that_make_no_sense_are_not_told(domain: str) -> None:
    made = request(domain, "en", item=Item(item_id="x", title=ITEMS[domain]["en"][0]))
    for kind in (OfferType.BOGO, OfferType.FREE_SHIPPING):
        for copy in texts(replace(made, offer=Offer(type=kind))):
            assert not re.search(r"[Bb]uy|get one|[Ss]hipping|delivery", copy.text)
    offered = texts(replace(made, offer=Offer(type=OfferType.PERCENT, value=Decimal(20))), [PersonFacts()])
    assert offered and all("20% off" in copy.text and copy.verified for copy in offered)


def test_texts_of_others_are_checked_by_the_words_of_the_domain() -> None:
    line = {"id": "1", "text": "Harbour Lights\nWatch it tonight.", "channel": "push", "locale": "en"}
    line |= {"item": {"title": "Harbour Lights"}, "packs": []}
    assert judge(submission_of(line, now=NOW, domain="media")).verified
    assert submission_of(line | {"locale": "en@news"}, now=NOW, domain="media").request.domain.name == "news"
    with pytest.raises(UsageError, match="no domain 'gym'"):
        submission_of(line | {"locale": "en@gym"}, now=NOW)


def test_no_model_writes_about_news() -> None:
    for domain, is_asked in (("news", False), ("media", True)):
        generator = ScriptedGenerator(["subject: x"], repeat=True)
        write_copy(request(domain, "en", person=PEOPLE[1]), generator=generator)
        assert bool(generator.prompts) is is_asked


FILMS = "movieId,title,genres\nm1,Harbour Lights,Drama\nm2,Slow Rain,Drama\nm3,Low Tide,Comedy\n"
WATCHING = (
    "userId,movieId,event,watched_at\n"
    "ann,m1,watch,2025-01-02T20:00:00Z\nann,m2,Played,2025-01-03T20:00:00Z\nann,m3,add-to-watchlist,2025-01-04T20:00:00Z\n"
    "bob,m1,watched,2025-01-05T20:00:00Z\nbob,m3,thumbs_down,2025-01-06T20:00:00Z\nbob,m2,purchase,2025-01-07T20:00:00Z\n"
)
SCHOOL = (
    "学号,课程编号,行为,学习时间\ns1,c1,报名,2025-01-02T20:00:00Z\ns1,c1,完成,2025-02-02T20:00:00Z\n"
    "s1,c2,退课,2025-02-03T20:00:00Z\ns2,c1,选课,2025-01-02T20:00:00Z\n"
)


def loaded(folder: Path, domain: str, locale: str = "en", **files: str) -> Workspace:
    workspace = Workspace.create(folder / "w", domain=domain, locale=locale, consent_default=True, encoder="toy")
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
        report = load_file(workspace, folder / f"{name}.csv", name)
        assert not report.quarantined
    return workspace


def test_a_shop_knows_none_of_these_events(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(WATCHING, encoding="utf-8")
    with Workspace.create(tmp_path / "w") as workspace, pytest.raises(IngestError, match="E_EVENT 5"):
        load_file(workspace, file, "events")


def test_a_map_is_proposed_in_the_words_of_the_domain(tmp_path: Path, run: Command) -> None:
    file = tmp_path / "log.csv"
    file.write_text(WATCHING.replace("event", "what"), encoding="utf-8")
    assert run("init", "-w", str(tmp_path / "w"), "--domain", "media")[0] == 0
    code, out, error = run("ingest", str(file), "--suggest", "-w", str(tmp_path / "w"), "--json")
    assert code == 0, error
    assert json.loads(out)["columns"]["event"] == "what"


def test_a_school_is_read_under_chinese_names(tmp_path: Path) -> None:
    with loaded(tmp_path, "education", "zh", events=SCHOOL) as workspace:
        person, texts = person_profile(workspace, "s1", "zh")
    assert [line.item_id for line in person.purchases] == ["c1"]
    assert "打开过：" in texts.browsing


def test_a_bookshop_keeps_its_category_and_its_brand() -> None:
    columns = ["product_id", "product_name", "category_name", "genre", "brand_name", "publisher"]
    proposed = proposed_columns(columns, Table.ITEMS)
    assert (proposed["category"], proposed["brand"]) == ("category_name", "brand_name")
    assert proposed_columns(["courseId", "course title", "subject", "school"], Table.ITEMS) == {
        **dict.fromkeys(proposed),
        **{"item_id": "courseId", "title": "course title", "category": "subject", "brand": "school"},
    }  # fmt: skip


def test_a_campaign_writes_in_the_domain_of_its_workspace(tmp_path: Path) -> None:
    (tmp_path / "spring.toml").write_text(
        'id = "spring"\nchannels = ["push"]\nlocales = ["en", "zh"]\n[target]\nitems = ["m1"]\n', encoding="utf-8"
    )
    file = read_campaign(tmp_path / "spring.toml")
    with loaded(tmp_path, "media", items=FILMS, events=WATCHING) as workspace:
        catalogue = catalogue_at(workspace, file, ["m1"], NOW)
    for locale, title in (("en", "Harbour Lights"), ("zh", "《Harbour Lights》")):
        key = TextKey("m1", ReasonKind.KNOWN, "push", locale, False, PEOPLE[0])
        copy = write_copy(copy_request(file, catalogue, key, NOW))[0]
        assert title in copy.text and copy.locale == locale
    new, unknown = replace(catalogue, arrived=frozenset({"m1"})), key._replace(person=PersonFacts())
    assert copy_request(file, new, unknown, NOW).occasion is Occasion.NEW_ARRIVAL


def test_events_of_a_media_service_need_no_map_and_its_service_speaks_as_they_do(tmp_path: Path) -> None:
    with loaded(tmp_path, "media", items=FILMS, events=WATCHING) as workspace:
        person, words = person_profile(workspace, "ann", "zh")
        assert sorted(line.item_id for line in person.purchases) == ["m1", "m2"]
        assert "看过 1 次" in words.purchases and "加入过片单：Low Tide" in words.browsing
    with serving(tmp_path / "w") as client:
        slate = client.post("/v1/recommend", json={"user_id": "bob", "k": 3, "explain": True}).json()
        copy = client.post("/v1/copy", json={"user_id": "ann", "item_id": "m1", "locale": "zh"}).json()
        profile = client.post("/v1/users/profile", json={"user_id": "ann", "locale": "zh"}).json()
        line = {"id": "1", "text": "Put Low Tide into your basket.", "channel": "push", "locale": "en", "packs": []}
        line["item"] = {"title": "Low Tide"}
        check = client.post("/v1/copy/check", json={"texts": [line]}).json()
    assert "text" in copy, copy
    reasons = {reason["text"] for item in slate["items"] for reason in item["reasons"]}
    assert "You watched “Slow Rain” less than a day ago." in reasons
    assert "《Harbour Lights》" in copy["text"] and copy["locale"] == "zh"
    assert "看过 1 次" in profile["texts"]["purchases"]
    assert "G14" in json.dumps(check)


GYM = """
based_on = "education"

[events]
purchase = ["check_in"]

[en.words]
bought = "trained in"
product = "{{ 7 * 7 }}\\u202e<b>class</b>"

[en.templates]
"explanation.general" = "One of our classes."
"""


def gym(folder: Path, text: str = GYM) -> Path:
    file = folder / "domains" / "gym.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_a_shop_brings_its_own_words(tmp_path: Path) -> None:
    gym(tmp_path / "w")
    with Workspace.create(tmp_path / "w", domain="gym", consent_default=True, encoder="toy") as workspace:
        english, chinese = workspace.locale(), workspace.locale("zh")
        assert english.startswith("en@gym-") and chinese.startswith("zh@gym-")
        assert reason_text("bought_similar", english, title="Yoga", category=None) == "You trained in “Yoga”."
        assert reason_text("general", english) == "One of our classes."
        assert reason_text("bought_similar", chinese, title="瑜伽", category=None) == "您报名过《瑜伽》。"
        # a word is text, whatever it holds
        breadth = Prompts.load().render("behaviour.breadth", english, categories=1, items=1)
        assert breadth.startswith("1 different 7 * 7 class from")
        assert workspace.domain.events["check_in"] is Action.PURCHASE
        assert workspace.domain.events["enrol"] is Action.PURCHASE
        visits = Dataset.construct(pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]}))
        assert Recommender(visits, ToyEncoder(), locale=english).in_language("zh").locale == chinese


def test_the_example_of_the_guide_works(tmp_path: Path) -> None:
    page = HERE.parent / "recllm" / "guide" / "domains.md"
    example = page.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "rental.toml"
    file.write_text(example, encoding="utf-8")
    locale = f"en@{bring_domain(file)}"
    assert reason_text("bought_similar", locale, title="Drill", category=None) == "You rented “Drill”."
    assert reason_text("new_arrival", locale, category="tools") == "New for rent in tools."
    assert reason_text("popular", locale, category=None) == "Popular in the shop now."
    rented = replace(request("shop", "en", "Drill", channel="push", person=PEOPLE[0]), locale=locale)
    copy = write_copy(rented)[0]
    assert "rent" in copy.text and copy.verified


def test_two_shops_may_call_their_words_the_same_and_each_may_change_them(tmp_path: Path) -> None:
    names = []
    for folder, bought in (("first", "trained in"), ("second", "danced in"), ("first", "went to")):
        gym(tmp_path / folder, GYM.replace("trained in", bought))
        if not (tmp_path / folder / "workspace.toml").exists():
            Workspace.create(tmp_path / folder, domain="gym").close()
        with Workspace.open(tmp_path / folder) as workspace:
            names.append(workspace.locale())
    said = [reason_text("bought_similar", name, title="Yoga", category=None) for name in names]
    assert said == ["You trained in “Yoga”.", "You danced in “Yoga”.", "You went to “Yoga”."]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *table("domains", "faulty files of words"),
        (f'[en.words]\nbuy = "{"x" * 90}"', "not a"),
        ("#" * (1 << 20) + "x", "it has more than"),
    ],
)
def test_a_faulty_file_of_words_is_refused_before_anybody_reads_it(tmp_path: Path, wrong: str, message: str) -> None:
    file = gym(tmp_path, wrong)
    with pytest.raises(PromptError, match=message) as caught:
        bring_domain(file)
    assert "gym" in str(caught.value)


def test_an_unknown_domain_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="setting domain"):
        Workspace.create(tmp_path / "w", domain="../media")
    with pytest.raises(UsageError, match=r"there is no .*gym\.toml, and the package has education, media, news, shop"):
        Workspace.create(tmp_path / "v", domain="gym")
    assert not list(tmp_path.iterdir())
    Workspace.create(tmp_path / "x").close()
    with overridden({"domain": "gym"}), pytest.raises(StoreError, match=r"gym\.toml"):
        Workspace.open(tmp_path / "x")


def test_a_locale_tells_its_domain() -> None:
    assert (domain_of("zh"), domain_of("zh@media"), in_domain("en@news", "media")) == ("shop", "media", "en@media")
    assert in_domain("zh-CN", "shop") == "zh-CN"
    assert Prompts.load().template("item", "ZH_tw@media").locale == "zh"


if __name__ == "__main__":
    said = {domain: differing(domain) for domain in OTHERS}
    said["shop"] = {locale: rendered(locale) for locale in LANGUAGES}
    for golden, content in said.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (GOLDEN / f"domain.{golden}.json").write_text(text + "\n", encoding="utf-8")
