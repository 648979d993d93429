"""Campaigns in a shop where even people buy tea and odd ones tools: from plan to report, and everything that can go
wrong on the way."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Command
from scripted import ScriptedGenerator
from shop_world import QUICKLY, add_settings, item_lines, load_lines, loaded, purchase_lines, train
from shop_world import shop as world
from store_view import view
from tables import table

from recllm.base.errors import DataError, GenerationError, NothingToDo, PolicyError, RecllmError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Objective
from recllm.doors.cli.options import document_lines
from recllm.doors.privacy.registry import export_person
from recllm.market.adcopy.write import write_copy
from recllm.market.audiences.request import AudienceRequest
from recllm.market.audiences.selection import globally_held_out
from recllm.market.campaigns.export import CampaignExport, export_campaign, reachable_people, written_lately
from recllm.market.campaigns.file import CampaignFile, read_campaign
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, TextStatus, read_log, read_plan
from recllm.market.campaigns.open_campaign import (
    AUTO,
    OpenCampaign,
    decide,
    enter_edit,
    late_departure,
    open_campaign,
    preview_document,
)
from recllm.market.campaigns.outcome import campaign_outcome, campaign_trial
from recllm.market.campaigns.plan import plan_campaign
from recllm.market.campaigns.reach import MOST_ITEMS, audience_of_workspace, count_reachable
from recllm.market.campaigns.texts import CampaignWriter, Silence, catalogue_at
from recllm.market.occasions.suggest import words_that_name
from recllm.market.propensity.effects import UpliftSettings
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.record import record_events
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.privacy import KEY_VARIABLE
from recllm.shop.workspace.workspace import Workspace, log_end, overridden
from recllm.text.encoder.toy import ToyEncoder

PEOPLE = 300
ODD = "=cmd"
"""What the ids of this shop begin with: a spreadsheet would take them for formulas."""
NOW = datetime(2025, 1, 1, 12, tzinfo=UTC)

TEA = """\
id = "tea"
goal = "tea for those who drink it"
channels = ["email", "push"]
[target]
category = "food > tea"
most_items = 4
[offer]
type = "percent"
value = 20
end = 2024-03-31T00:00:00+00:00
[limits]
size = 60
holdout = 0.5
suppress = "never.txt"
[words]
variants = 2
packs = ["us_ftc"]
[sender]
name = "Leaf & Iron"
address = "1 Market Street"
opt_out = "https://example.com/stop"
"""
LIGHT = TEA.replace("most_items = 4", "most_items = 1").replace("variants = 2", "variants = 1")
"""A quarter of its texts, for what does not hang on them."""


def tables() -> dict[str, list[str]]:
    data = world(people=PEOPLE)
    consent = [CONSENT_HEAD, *(f"{raw(name)},email,false,{BEFORE}" for name in PUSH)]
    log = purchase_lines(data, [raw(name) for name in data.users["user_id"]])
    return {"items": item_lines(data), "events": log, "consent": consent}


CONSENT_HEAD, PERSONAL = "user_id,purpose,granted,timestamp", "personalisation"
BEFORE, AFTER, AFTER_2_DAYS = "2024-01-01T00:00:00Z", "2024-02-19T22:13:20Z", "2024-02-22T00:00:00Z"
PUSH = [f"u{n:02}" for n in range(0, PEOPLE, 6)]
"""Tea drinkers who want no e-mail."""


def raw(name: str) -> str:
    return f"{ODD}{name}"


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    """Pseudonyms draw the holdout: the same ones each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "the same key each time")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, key: None) -> Path:
    """A folder with a trained shop, the campaign's file, and its plan."""
    return plan_tea(tmp_path_factory.mktemp("campaigns"), TEA, Policy(small_shop=0))


def plan_tea(folder: Path, text: str, policy: Policy) -> Path:
    """The folder, with a trained shop and the plan of a campaign of this text."""
    (folder / "never.txt").write_text("a stranger\n")
    (folder / "tea.toml").write_text(text)
    made = loaded(folder, tables(), currency="USD", timezone="Europe/Berlin", policy=policy)
    with Workspace.open(train(made, **QUICKLY)) as shop:
        plan_campaign(shop, read_campaign(folder / "tea.toml"))
    return folder


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder / "shop") as opened:
        yield opened


def changed(folder: Path, *pairs: tuple[str, str], name: str = "other", text: str = LIGHT) -> CampaignFile:
    """The campaign of tea under another id, with pieces of its file replaced."""
    for old, new in (('id = "tea"', f'id = "{name}"'), *pairs):
        assert old in text, old
        text = text.replace(old, new)
    file = folder / f"{name}.toml"
    file.write_text(text)
    return read_campaign(file)


def tea(shop: Workspace) -> OpenCampaign:
    return open_campaign(shop, read_campaign(shop.root.parent / "tea.toml"), clock=NOW)


def approved(shop: Workspace, file: CampaignFile | None = None) -> OpenCampaign:
    campaign = open_campaign(shop, file, clock=NOW) if file else tea(shop)
    decide(campaign, TextStatus.APPROVED, [t.id for t in campaign.plan.texts], by="Ann", at=NOW)
    return campaign


def exported(shop: Workspace, file: CampaignFile | None = None) -> tuple[OpenCampaign, CampaignExport]:
    campaign = approved(shop, file)
    return campaign, export_campaign(campaign, shop.root.parent / "out", clock=NOW)


def went_out(shop: Workspace, file: CampaignFile) -> tuple[OpenCampaign, CampaignExport]:
    """From the plan to the files."""
    plan_campaign(shop, file, replace=True)
    return exported(shop, file)


def said(shop: Workspace, lines: list[str], table: str = "consent", head: str = CONSENT_HEAD) -> None:
    assert load_lines(shop, table, [head, *lines]).accepted == len(lines)


def raw_ids(shop: Workspace) -> dict[str, str]:
    ids = [raw(f"u{n:02}") for n in range(PEOPLE)]
    return dict(zip(shop.pseudonymiser().many(ids), ids, strict=True))


def test_tea_is_planned_for_tea_drinkers(shop: Workspace) -> None:
    plan, names = tea(shop).plan, raw_ids(shop)
    assert len(plan.addressed) == 60 and 50 <= len(plan.held_out) <= 80
    assert all(int(names[p.user_id][5:]) % 2 == 0 for p in plan.people)
    # who is beyond the cut differs from everybody by more than the floor, and the few without consent are not counted
    assert plan.excluded["beyond_the_cut"] is not None and plan.excluded.get("no_consent") is None
    assert plan.expected_conversions == pytest.approx(sum(p.probability for p in plan.addressed), rel=1e-4)
    wants_push = set(shop.pseudonymiser().many([raw(n) for n in PUSH]))
    assert all(p.channel == ("push" if p.user_id in wants_push else "email") for p in plan.people)
    assert len(plan.items) == 4 and {p.item_id for p in plan.people} <= set(plan.items)
    preheaders = Counter(text.text.split("\n")[1] for text in plan.texts if text.channel == "email")
    assert max(preheaders.values()) < preheaders.total() / 2, "texts of a campaign take other words than those before"


def test_the_global_holdout_gets_no_campaign(folder: Path) -> None:
    """Neither in a plan, nor in a live count, nor, where it grew after the plan, in an export."""
    with Workspace.open(folder / "shop") as shop:
        before = tea(shop).plan
        approved(shop)
    add_settings(folder / "shop", '[experiments]\nholdout_share = 0.1\nholdout_salt = "2025"')
    with Workspace.open(folder / "shop") as shop:
        names = np.array([p.user_id for p in before.people])
        held_back = set(names[globally_held_out(names, 0.1, "2025")].tolist())
        export = export_campaign(tea(shop), folder / "out", clock=NOW)
        assert export.dropped["global_holdout"] == len(held_back & {p.user_id for p in before.addressed}) > 0
        assert not held_back & set(export.people)
        plan = plan_campaign(shop, changed(folder, name="later"), now=NOW)
        assert "global_holdout" in plan.excluded and not held_back & {p.user_id for p in plan.people}
        recommender = open_recommender(shop, everybody=True)
        count = count_reachable(shop, recommender, read_campaign(folder / "later.toml"), FigureGate(shop))
        assert "global_holdout" in count.excluded
        found = audience_of_workspace(shop, recommender, AudienceRequest(items=("tea3",), explain=False))
        assert "global_holdout" in found.excluded


def test_each_distinct_text_is_written_once(shop: Workspace) -> None:
    plan = tea(shop).plan
    keys = Counter((t.item_id, t.kind, t.channel, t.locale, t.person, t.variant) for t in plan.texts)
    assert set(keys.values()) == {1} and len({t.text for t in plan.texts}) >= 20
    assert not any(t.failures for t in plan.texts) and {0, 1} <= {t.variant for t in plan.texts}
    assert all("20% off" in t.text or "$" in t.text for t in plan.texts), "a campaign's offer stands in every text"
    assert sum(t.people for t in plan.texts) == 60
    of = {t.id: t for t in plan.texts}
    for p in plan.people:
        text = of[p.text_id]
        assert (text.item_id, text.kind, text.channel, text.variant) == (p.item_id, p.kind, p.channel, p.variant)


def test_nothing_that_is_kept_tells_who_or_what_they_bought(shop: Workspace) -> None:
    exported(shop)
    kept = b"".join(f.read_bytes() for f in (shop.root / "campaigns").rglob("*") if f.is_file())
    assert ODD.encode() not in kept
    assert not re.search(rb"you bought[^.]{0,60}(?:\d{4}-\d\d|on \d)", kept.lower()), "no date of a purchase is told"


def test_a_plan_is_the_same_again(shop: Workspace) -> None:
    before = tea(shop).plan
    again = plan_campaign(shop, tea(shop).file, replace=True)
    assert (again.people, again.texts, again.excluded) == (before.people, before.texts, before.excluded)
    assert read_plan(CampaignFolder.of(shop.root, "tea")) == again


def test_a_plan_that_was_being_replaced_is_found_again(shop: Workspace) -> None:
    folder = tea(shop).folder
    folder.path.replace(folder.aside("old"))  # where a power cut between two renames leaves it
    assert tea(shop).plan.campaign_id == "tea" and not folder.aside("old").exists()


def test_who_looks_during_a_publication_does_not_break_it(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two renames somebody opens the campaign: they wait, and both go on."""
    file = tea(shop).file
    looked: list[str] = []
    visitors: list[threading.Thread] = []

    def look() -> None:
        looked.append(read_plan(CampaignFolder.of(shop.root, "tea")).campaign_id)

    rename = Path.replace

    def watched(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if Path(target).name == ".tea.old":
            visitors.append(threading.Thread(target=look))
            visitors[0].start()
            visitors[0].join(timeout=0.3)
            assert not looked, "nobody sees a campaign without its plan"
        return moved

    monkeypatch.setattr(Path, "replace", watched)
    plan_campaign(shop, file, replace=True)
    visitors[0].join(timeout=30)
    assert looked == ["tea"] and len(visitors) == 1


def test_a_decision_about_a_plan_that_was_replaced_is_refused(shop: Workspace, folder: Path) -> None:
    opened = tea(shop)
    (folder / "tea.toml").write_text(TEA.replace("most_items = 4", "most_items = 3"))
    plan_campaign(shop, read_campaign(folder / "tea.toml"), replace=True)
    with pytest.raises(UsageError, match="was planned again meanwhile"):
        decide(opened, TextStatus.APPROVED, ["t1"], by="Ann", at=NOW)
    with pytest.raises(UsageError, match="was planned again meanwhile"):
        export_campaign(opened, folder / "out", clock=NOW)
    assert {s.action for s in tea(shop).states.values()} == {TextStatus.DRAFT}


def test_damaged_files_of_a_campaign_are_named_with_the_field(shop: Workspace) -> None:
    campaign = tea(shop)
    for file, old, new, words in (
        (campaign.folder.plan, '"horizon_days"', '"horizon"', "plan.json: the plan is damaged: it has no field 'hori"),
        (campaign.folder.people, '"channel"', '"way"', "people.jsonl: the plan is damaged: 0 has no field 'way'; plan"),
    ):
        content = file.read_text()
        file.write_text(content.replace(old, new, 1))
        with pytest.raises(DataError, match=words):
            tea(shop)
        file.write_text(content)


def test_an_id_is_taken_once(shop: Workspace, folder: Path) -> None:
    file = tea(shop).file
    exported(shop)
    with pytest.raises(PolicyError, match="has been exported"):
        plan_campaign(shop, file, replace=True)
    (folder / "tea.toml").write_text(TEA + "# a thought\n")
    with pytest.raises(UsageError, match="was changed after"):
        tea(shop)


CATEGORY = 'category = "food > tea"\nmost_items = 1'
CHOOSES = ((CATEGORY, 'intent = "mixed"\nmost_items = 6'), ("size = 60\n", ""))
"""The campaign picks its items itself, for everybody."""
ALL_ITEMS = json.dumps([f"{kind}{n}" for kind in ("tea", "tool") for n in range(12)])


LATER_OFFER = ("end = 2024-03-31", "start = 2024-03-01T00:00:00+00:00\nend = 2024-03-31")


@pytest.mark.parametrize("is_loaded", [False, True])
def test_what_cannot_be_planned_leaves_nothing(
    shop: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch, is_loaded: bool
) -> None:
    """Most is said before anything is loaded."""
    monkeypatch.delenv("RECLLM_LLM_URL", raising=False)
    loaded = open_recommender(shop, everybody=True) if is_loaded else None
    monkeypatch.setattr("recllm.market.campaigns.plan.open_recommender", lambda *_, **__: pytest.fail("it was loaded"))
    wrong = {}
    for old, new, error, words in table(
        "campaigns", f"refused {'with people' if is_loaded else 'before anything is loaded'}"
    ):
        text = LIGHT.replace('id = "tea"', 'id = "other"')
        assert old in text
        text = text.replace(old, new)
        if "bought_days" in new:  # everybody has bought one of all items
            text = text.replace(CATEGORY, f"items = {ALL_ITEMS}")
        (folder / "other.toml").write_text(text)
        try:
            plan_campaign(shop, read_campaign(folder / "other.toml"), recommender=loaded)
            wrong[new] = "it was planned"
        except RecllmError as refusal:
            if error not in [kind.__name__ for kind in type(refusal).__mro__] or not re.search(words, str(refusal)):
                wrong[new] = repr(refusal)
    assert wrong == {} and not (shop.root / "campaigns" / "other").exists()


def test_the_key_goes_to_the_operators_server_alone(
    shop: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file asks for the server; where that is stands in the environment."""
    asked: list[str] = []

    def named(generator: object, *_: object, **__: object) -> None:
        asked.append(str(generator))

    monkeypatch.setenv("RECLLM_LLM_URL", "http://localhost:8000/v1#own")
    monkeypatch.setattr("recllm.market.campaigns.plan.generator_named", named)
    plan_campaign(shop, changed(folder, ("variants = 1", 'variants = 1\ngenerator = "server"')))
    assert asked == ["http://localhost:8000/v1#own"]


def test_an_offer_that_begins_when_texts_go_out(shop: Workspace, folder: Path) -> None:
    send = ('goal = "tea for', 'send = 2024-03-01T09:00:00+00:00\ngoal = "tea for')
    plan = plan_campaign(shop, changed(folder, LATER_OFFER, send))
    assert plan.send == "2024-03-01T09:00:00+00:00" and "20% off" in plan.texts[0].text
    ago = [text.person.last.days for text in plan.texts if text.person.last]
    assert min(ago) >= 9, "days are counted to the day of sending"


def test_plan_approval_and_export_live_at_the_same_time(shop: Workspace, folder: Path) -> None:
    """The last to buy something refused personalisation; the shop is live all the same."""
    name, today = raw("u299"), datetime(2024, 3, 21, 9, tzinfo=UTC)
    said(shop, [f"{name},{PERSONAL},false,{AFTER}"])
    said(shop, [f"{name},tool1,purchase,2024-03-20T12:00:00Z"], "events", "user_id,item_id,event,timestamp")
    pair = ("end = 2024-03-31", "start = 2024-03-15T00:00:00+00:00\nend = 2024-03-31")
    file = changed(folder, pair)
    plan = plan_campaign(shop, file, now=today)
    campaign = open_campaign(shop, file, clock=today)
    assert plan.as_of == plan.send == campaign.moment.isoformat() == today.isoformat()
    decide(campaign, TextStatus.APPROVED, [t.id for t in plan.texts], by="Ann", at=today)
    done = export_campaign(campaign, folder / "out", clock=today)
    assert done.window.start == today
    shown = view(shop.store()).events().filter(pl.col("event") == "shown")["timestamp"]
    assert set(shown) == {today - timedelta(seconds=1)}


def test_an_item_that_is_gone(shop: Workspace, folder: Path) -> None:
    said(shop, ["tea1,Green tea 1,false"], "items", "item_id,title,available")
    with pytest.raises(UsageError, match="'tea1' of the campaign 'other' is no longer on offer"):
        plan_campaign(shop, changed(folder, ('category = "food > tea"', 'items = ["tea1", "tea2"]')))


def test_caps_that_leave_nobody(shop: Workspace, folder: Path) -> None:
    """Whoever was reached counts as shown something."""
    _, done = exported(shop)
    again = changed(folder, ("size = 60", "frequency_cap = 1"), ("holdout = 0.5", "holdout = 0"))
    plan = plan_campaign(shop, again)
    assert plan.excluded["frequency_cap"] == 60 and not set(done.people) & {p.user_id for p in plan.people}
    file = changed(folder, name="further")
    reached = set(done.people) & {p.user_id for p in plan_campaign(shop, file).addressed}
    further = approved(shop, file)
    assert written_lately(further) == len(reached) > 0 == written_lately(tea(shop))
    assert reachable_people(further, further.states)[2] == {"contacted_lately": len(reached)}
    (folder / "never.txt").write_text("\n".join(raw_ids(shop).values()))
    with pytest.raises(NothingToDo, match=r"never to contact \(300\)"):
        plan_campaign(shop, changed(folder, name="third"))


def silenced(monkeypatch: pytest.MonkeyPatch, *item_ids: str) -> None:
    """Nothing can be said about these products."""
    monkeypatch.setattr(
        "recllm.market.campaigns.texts.write_copy",
        lambda request, **facts: () if request.item.item_id in item_ids else write_copy(request, **facts),
    )


def test_a_customer_gets_the_next_product_where_nothing_can_be_said_about_the_first(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = tea(shop).file, tea(shop).plan
    ((item_id, n_silent),) = Counter(p.item_id for p in before.addressed).most_common(1)
    silenced(monkeypatch, item_id)
    plan = plan_campaign(shop, file, replace=True)
    items = {p.user_id: p.item_id for p in plan.people}
    assert n_silent >= 5 and items.keys() == {p.user_id for p in before.people}, "all of them, those held out too"
    assert item_id not in items.values()
    assert all(items[p.user_id] == p.item_id for p in before.people if p.item_id != item_id)
    assert sum(text.people for text in plan.texts) == 60 and "nothing_to_say" not in plan.excluded
    assert any(f"{n_silent} customers: a product from further down their list" in note for note in plan.notes)


def test_the_next_customers_replace_those_to_whom_nothing_can_be_said(
    shop: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = (CATEGORY, 'items = ["tea0", "tea1", "tea2", "tea3"]')

    def planned_for(size: int) -> CampaignPlan:
        return plan_campaign(shop, changed(folder, items, ("size = 60", f"size = {size}")), now=NOW, replace=True)

    silenced(monkeypatch, "tea0", "tea1", "tea2")
    monkeypatch.setattr("recllm.market.campaigns.plan.PRODUCTS_TRIED", 3)
    wide, plan = planned_for(60), planned_for(50)
    assert len(wide.addressed) == 60 and len(plan.addressed) == 50
    first = [(p.user_id, p.item_id, p.probability) for p in wide.addressed[:50]]
    assert [(p.user_id, p.item_id, p.probability) for p in plan.addressed] == first
    assert {p.item_id for p in wide.people} == {"tea3"}, "all others have it fourth in their lists"
    assert (wide.excluded["nothing_to_say"] or 0) >= (plan.excluded["nothing_to_say"] or 0) > 0
    assert plan.expected_conversions == pytest.approx(sum(p.probability for p in plan.addressed))


def test_a_plan_says_why_nothing_can_be_said(shop: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said(shop, ["tea0,Gift card,cards,,4.50"], "items", "item_id,title,category,brand,price")
    with pytest.raises(NothingToDo, match=r"no text is written about their products \(\d+\);"):
        plan_campaign(shop, changed(folder, (CATEGORY, 'items = ["tea0"]')))
    silenced(monkeypatch, "tea1")
    with pytest.raises(NothingToDo, match=r"nothing known of them carries a text \(\d+\);"):
        plan_campaign(shop, changed(folder, (CATEGORY, 'items = ["tea1"]'), name="tea1"))
    said(shop, ["tea2,Mooncake tea,food > tea,,4.50"], "items", "item_id,title,category,brand,price")
    with pytest.raises(NothingToDo, match=r"their products are named after another day \(\d+\);"):
        plan_campaign(shop, changed(folder, (CATEGORY, 'items = ["tea2"]\nday = "easter"'), name="tea2"))


def test_products_without_a_legal_proof_are_left_out_and_named(shop: Workspace, folder: Path) -> None:
    items, eu = (CATEGORY, 'items = ["tea0", "tea1"]'), ('packs = ["us_ftc"]', 'packs = ["eu"]')
    missing = r"the offer cannot be stated for 'Green tea \d', 'Green tea \d': .*needs lowest_30d"
    with pytest.raises(DataError, match=missing) as refusal:
        plan_campaign(shop, changed(folder, items, eu))
    assert set(refusal.value.keys) == {f"words.evidence.lowest_30d.tea{n}" for n in (0, 1)}
    abroad = changed(folder, items, ('packs = ["us_ftc"]\n', ""), name="abroad")
    with pytest.raises(DataError, match=missing):  # the time zone is Berlin's
        plan_campaign(shop, abroad)
    with overridden({"timezone": "Europe/London"}), Workspace.open(folder / "shop") as british:
        texts = plan_campaign(british, abroad).texts
    assert {t.item_id for t in texts} == {"tea0", "tea1"} and all(
        re.search("20% off|instead of", t.text) for t in texts
    )
    proof = ('packs = ["eu"]', 'packs = ["eu"]\n[words.evidence.lowest_30d]\ntea1 = "9 USD"')
    plan = plan_campaign(shop, changed(folder, items, eu, proof, name="proven"))
    assert {p.item_id for p in plan.people} == {"tea1"} and plan.silent_items == {"tea0": "no_proof"}
    assert any(note.startswith("1 product left out, as the law asks for a proof") for note in plan.notes)
    assert len(plan.addressed) == 60 and not any(text.failures for text in plan.texts)


def own_pack(folder: Path, *rules: tuple[str, str]) -> None:
    """A shop's own pack, of severities and phrases."""
    texts = [
        f'[[rule]]\nid = "{n}"\nguarantee = "G3"\nseverity = "{severity}"\ncitation = "house"\nevidence = "never"\n'
        f'reviewed = "2025-01-01"\nlanguages = ["en"]\nmessage = "is not our style"\nphrases = ["{phrase}"]\n'
        f'hit = ["{phrase}"]\nmiss = ["x"]\n'
        for n, (severity, phrase) in enumerate(rules)
    ]
    (folder / "own.toml").write_text("".join(['name = "own"\n', *texts]))


def test_a_text_that_a_check_stops_is_nobodys(shop: Workspace, folder: Path) -> None:
    own_pack(folder, ("error", "green tea 0"))
    packs, few = ('packs = ["us_ftc"]', 'packs = ["own.toml"]'), ("size = 60", "size = 50")
    with pytest.raises(NothingToDo, match=r"a check stops every text about their products \(\d+\);"):
        plan_campaign(shop, changed(folder, (CATEGORY, 'items = ["tea0"]'), packs, few))
    plan = plan_campaign(shop, changed(folder, (CATEGORY, 'items = ["tea0", "tea1"]'), packs, few, name="both"))
    assert {p.item_id for p in plan.people} == {"tea1"} and len(plan.addressed) == 50
    assert not any(text.failures for text in plan.texts) and sum(text.people for text in plan.texts) == 50


def test_a_generator_that_dies_leaves_templates(shop: Workspace, folder: Path) -> None:
    dead = ScriptedGenerator([GenerationError("it is gone")] * 500)
    plan = plan_campaign(shop, changed(folder), generator=dead)
    assert {t.generator for t in plan.texts} == {"template"} and not any(t.failures for t in plan.texts)
    assert any("the generator failed at" in note for note in plan.notes)


def test_nothing_is_approved_without_a_person(shop: Workspace) -> None:
    campaign = tea(shop)
    assert {s.action for s in campaign.states.values()} == {TextStatus.DRAFT}
    with pytest.raises(PolicyError, match="no text of 'tea' is approved"):
        export_campaign(campaign, shop.root / "out")
    with pytest.raises(UsageError, match="--by"):
        decide(campaign, TextStatus.APPROVED, ["t1"], by=" ", at=NOW)
    decide(campaign, TextStatus.APPROVED, ["t1"], by="Ann", at=NOW)
    state = campaign.states["t1"]
    assert (state.action, state.by, state.at) == (TextStatus.APPROVED, "Ann", "2025-01-01T12:00:00+00:00")
    decide(campaign, TextStatus.REJECTED, ["t1"], by="Bob", at=NOW, why="too plain")
    with pytest.raises(PolicyError, match="too plain"):
        decide(campaign, TextStatus.APPROVED, ["t1", "t2"], by="Ann", at=NOW)
    assert campaign.states["t2"].action is TextStatus.DRAFT, "all or none"
    with pytest.raises(UsageError, match="no text 't99999'"):
        decide(campaign, TextStatus.APPROVED, ["t99999"], by="Ann", at=NOW)
    assert [e["action"] for e in read_log(campaign.folder.decisions)] == ["approved", "rejected"]


def test_an_edit_is_checked_at_once(shop: Workspace) -> None:
    campaign = tea(shop)
    name, wording = next((t.id, t.text) for t in campaign.plan.texts if "20% off" in t.text)
    state = enter_edit(campaign, name, wording.replace("20%", "30%"), by="Ann", at=NOW)
    assert state.action is TextStatus.EDITED and "G1" in {d.rule for d in state.failures}
    with pytest.raises(PolicyError, match="fails G1"):
        decide(campaign, TextStatus.APPROVED, [name], by="Ann", at=NOW)
    good = enter_edit(campaign, name, wording.replace("20% off", "20% off now"), by="Ann", at=NOW)
    assert not good.failures and "off now" in good.text
    decide(campaign, TextStatus.APPROVED, [name], by="Bob", at=NOW)
    assert "off now" in campaign.states[name].text and campaign.states[name].by == "Bob"


def test_a_held_text_is_a_persons_to_approve_and_never_autos(shop: Workspace, folder: Path) -> None:
    crispy = ScriptedGenerator(["A crispy green tea for a slow morning."] * 500)
    campaign = tea(shop)
    text = campaign.plan.texts[0].text
    name, wording = text.split("\n")[0], text.replace("\n", "\nA crispy start.\n", 1)
    state = enter_edit(campaign, "t1", wording, by="Ann", at=NOW)
    assert not state.failures and [note.span for note in state.warnings if note.rule == "grounding"] == ["crispy"]
    document = next(d for d in preview_document(campaign)["texts"] if d["id"] == "t1")
    assert (document["verdict"], document["verified"], document["ungrounded"]) == ("person", False, ["crispy"])
    decide(campaign, TextStatus.APPROVED, ["t1"], by="Ann", at=NOW)
    assert campaign.states["t1"].action is TextStatus.APPROVED and name in campaign.states["t1"].text
    # a campaign that says auto takes the shop's own line, which passes, instead of one that nobody looked at
    file = changed(folder, ("variants = 1", "auto = true"), name="nobody")
    plan = plan_campaign(shop, file, generator=crispy, now=NOW)
    assert not any("crispy" in planned.text for planned in plan.texts)
    assert enter_edit(tea(shop), "t1", wording, by="Ann", at=NOW).warnings
    (shop.root / "voice.toml").write_text('words = ["crispy"]')
    assert not enter_edit(tea(shop), "t1", wording, by="Ann", at=NOW).warnings, "the shop says the word"


def test_a_second_short_message_needs_a_person(shop: Workspace, folder: Path) -> None:
    """The law's words do not fit into one short message beside the text."""
    long = ('"Leaf & Iron"', '"Leaf & Iron, Tea and Ironware of Springfield since 1862, Wholesale and Retail"')
    plan = plan_campaign(shop, changed(folder, ('"email", "push"', '"sms_gsm"'), long), now=NOW)
    assert any("where 160 fit" in note.message for text in plan.texts for note in text.warnings)


def test_auto_approves_what_nobody_doubts(shop: Workspace, folder: Path) -> None:
    own_pack(folder, ("warning", "green tea 0"), ("warning", "usual"))
    items = (CATEGORY, 'items = ["tea0", "tea1", "tea2"]')
    file = changed(folder, items, ('packs = ["us_ftc"]', 'packs = ["us_ftc", "own.toml"]\nauto = true'))
    plan = plan_campaign(shop, file, now=NOW)
    campaign = open_campaign(shop, file, clock=NOW)
    of = {t.id: t for t in plan.texts}
    assert any(t.warnings for t in plan.texts) and any(not t.warnings for t in plan.texts)
    for name, state in campaign.states.items():
        assert (state.action is TextStatus.APPROVED) == (not of[name].warnings)
        assert state.by == (AUTO if state.action is TextStatus.APPROVED else "")
    warned = [t.id for t in plan.texts if t.warnings]
    decide(campaign, TextStatus.APPROVED, warned, by="Ann", at=NOW)
    assert {campaign.states[name].by for name in warned} == {"Ann"}


def test_what_no_longer_holds_is_withdrawn(shop: Workspace) -> None:
    campaign = approved(shop)
    first, second, *_ = sorted(campaign.plan.items)
    dearer = next(t for t in campaign.plan.texts if t.item_id == first).facts.price
    lines = [f"{first},Green tea,99.50,USD,true", f"{second},Green tea,,USD,false"]
    said(shop, lines, "items", "item_id,title,price,currency,available")
    after = tea(shop)
    for text in after.plan.texts:
        state = after.states[text.id]
        if text.item_id == first:
            assert state.action is TextStatus.WITHDRAWN and f"from {dearer} USD to 99.5 USD" in state.why
        elif text.item_id == second:
            assert state.action is TextStatus.WITHDRAWN and state.why == "the item is no longer on offer"
        else:
            assert state.action is TextStatus.APPROVED
    if sum(p.item_id not in (first, second) for p in after.plan.addressed) >= 50:
        assert export_campaign(after, shop.root / "out", clock=NOW).dropped["text_not_approved"]
    gone = next(t.id for t in after.plan.texts if t.item_id == second)
    with pytest.raises(UsageError, match="no longer on offer"):
        enter_edit(after, gone, "A text.", by="Ann", at=NOW)
    lines = list(read_log(after.folder.decisions))
    assert len(list(read_log(tea(shop).folder.decisions))) == len(lines), "withdrawn once"


def test_an_offer_that_ended_takes_its_texts_along(shop: Workspace) -> None:
    approved(shop)
    buy(shop, [tea(shop).plan.addressed[0].user_id], "tool1", day=62)
    late = tea(shop)
    assert {s.action for s in late.states.values()} == {TextStatus.WITHDRAWN}
    assert "the offer ended at 2024-03-31" in late.states["t1"].why


def rows_of(file: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_what_leaves(shop: Workspace) -> None:
    campaign = approved(shop)
    names = raw_ids(shop)
    done = export_campaign(campaign, shop.root.parent / "out", ids=names, clock=NOW)
    assert done.reached == 60 and not done.dropped
    assert [Path(f).name for f in done.files] == ["tea-email.csv", "tea-push.csv"]
    email, push = (rows_of(f) for f in done.files)
    assert len(email) + len(push) == 60 and len({r["user_id"] for r in (*email, *push)}) == 60
    held = {names[p.user_id] for p in campaign.plan.held_out}
    assert all(r["user_id"].startswith("'=cmdu") and r["user_id"][1:] not in held for r in (*email, *push))
    for row in email:
        body = row["body"].splitlines()
        assert row["call_to_action"] and row["call_to_action"] not in body
        assert {"Advertisement", "Leaf & Iron, 1 Market Street", "Unsubscribe: https://example.com/stop"} <= set(body)
    for row in (*email, *push):
        assert row["generated"] == "false"
        assert row["send_from"] == "2024-02-20T08:00:00+01:00", "the morning after the log's end at night"
        assert row["send_until"] == "2024-02-20T21:00:00+01:00"
        assert len(row["request_id"]) == 16
    events = view(shop.store()).events().filter(pl.col("event") == "shown")
    assert set(events["request_id"]) == {r["request_id"] for r in (*email, *push)}


def test_the_log_of_the_program_counts_and_names_nobody(
    shop: Workspace, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "recllm")
    plan = went_out(shop, changed(folder))[0].plan
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("recllm.market.campaigns")]
    assert lines[0].startswith("planned 60 people, ") and lines[-1].startswith("exported 60 people, ")
    assert f"{len(plan.texts)} texts approved" in lines and "u1_" not in caplog.text and "Ann" not in caplog.text


def test_who_withdrew_since_the_plan_is_gone(shop: Workspace, folder: Path) -> None:
    campaign = approved(shop)
    names = raw_ids(shop)
    by_channel = {c: [names[p.user_id] for p in campaign.plan.addressed if p.channel == c] for c in ("email", "push")}
    held = names[campaign.plan.held_out[0].user_id]
    no = [(by_channel["email"][0], "email"), (by_channel["push"][0], "push"), (by_channel["email"][1], PERSONAL)]
    said(shop, [f"{name},{purpose},false,{AFTER}" for name, purpose in (*no, (held, PERSONAL))])
    (folder / "never.txt").write_text(f"{by_channel['email'][2]}\n")
    done = export_campaign(tea(shop), folder / "out", ids=names, clock=NOW)
    assert done.reached == 56 and done.dropped == {"consent_withdrawn": 3, "suppression_list": 1}
    left = {row["user_id"][1:] for file in done.files for row in rows_of(file)}
    assert not left & {*(name for name, _ in no), by_channel["email"][2]}
    assert done.held_out == len(campaign.plan.held_out) - 1, "the comparison loses the same kind of people"


def test_too_few_are_not_exported(shop: Workspace) -> None:
    campaign = tea(shop)
    most = max(campaign.plan.texts, key=lambda t: t.people)
    decide(campaign, TextStatus.APPROVED, [most.id], by="Ann", at=NOW)
    assert 0 < most.people < 50
    with pytest.raises(PolicyError, match="smaller than 50"):
        export_campaign(campaign, shop.root / "out")
    assert not campaign.folder.exports.exists()
    with pytest.raises(NothingToDo, match="not exported yet"):
        campaign_outcome(campaign, FigureGate(shop))


def buy(shop: Workspace, people: list[str], item: str, price: float = 3.0, day: int = 21) -> None:
    """day: of February."""
    at = datetime(2024, 1, 31, 12, tzinfo=UTC) + timedelta(days=day)
    rows = [{"user_id": u, "item_id": item, "event": "purchase", "timestamp": at, "price": price} for u in people]
    record_events(pl.DataFrame(rows), shop.store(), source="log")


def test_what_it_brought(shop: Workspace) -> None:
    campaign, done = exported(shop)
    held = [p.user_id for p in campaign.plan.held_out]
    buy(shop, [*done.people[:30], *held[:6]], campaign.plan.items[0])
    buy(shop, list(done.people[30:]), "tool1")  # not of the campaign
    channels = {p.user_id: p.channel for p in campaign.plan.people}
    said(shop, [f"{raw_ids(shop)[name]},{channels[name]},false,{AFTER_2_DAYS}" for name in done.people[:4]])
    found = campaign_outcome(tea(shop), FigureGate(shop))
    assert "The window is not over" in found.words[0] and (found.verdict, found.extra_sales) == ("unclear", None)
    buy(shop, list(done.people[:1]), "tool1", day=60)  # the log goes on
    found = campaign_outcome(tea(shop), FigureGate(shop))
    assert found.reached and found.held_out and found.effect and found.revenue_effect
    assert (found.reached.people, found.reached.converted, found.reached.revenue) == (60, 30, 90.0)
    assert (found.held_out.people, found.held_out.converted, found.reached.unsubscribed) == (len(held), 6, 4)
    assert found.effect.value == pytest.approx(0.5 - 6 / len(held)) and found.effect.excludes_zero
    assert found.revenue_effect.value == pytest.approx(1.5 - 18 / len(held)) and found.revenue_effect.low > 0
    assert found.other_people and found.other_people.people == PEOPLE - 60 - len(held)
    assert "more often than the control group" in found.words[0]
    assert found.verdict == "worked" and found.extra_sales and found.extra_sales.low > 0


def test_honest_words_without_a_comparison(shop: Workspace, folder: Path) -> None:
    cases = (("none", "0", "had no control group", 25), ("few", "0.1", "had fewer than 50 customers", 28))
    for name, share, words, day in cases:
        file = changed(folder, ("holdout = 0.5", f"holdout = {share}"), name=name)
        campaign, done = went_out(shop, file)
        assert "Nothing is known of the window" in campaign_outcome(campaign, FigureGate(shop)).words[0]
        buy(shop, list(done.people[:30]), campaign.plan.items[0], day=day)
        found = campaign_outcome(open_campaign(shop, file, clock=NOW), FigureGate(shop))
        assert found.effect is None and words in found.words[0] and "no effect of the campaign" in found.words[0]


def test_texts_leave_while_they_are_true(shop: Workspace, folder: Path) -> None:
    campaign, end = tea(shop), utc(log_end(shop) or 0)
    decide(campaign, TextStatus.APPROVED, [t.id for t in campaign.plan.read_texts], by="Ann", at=NOW)
    assert len(reachable_people(campaign, campaign.states)[1]) == len(campaign.plan.held_out), "without a decision"
    late = [late_departure(campaign, end + timedelta(days=days)) is not None for days in (6, 8, 300)]
    assert late == [False, True, False], "a past log is replayed"
    buy(shop, [campaign.plan.addressed[0].user_id], "tool1", day=24)
    assert reachable_people(campaign, campaign.states)[2] == {"ordered_since": 1}
    with pytest.raises(PolicyError, match="knows orders until 2024-02-19, and would leave on 2024-02-27"):
        export_campaign(campaign, folder / "out", clock=end + timedelta(days=8))


def test_who_may_not_be_counted_is_not(shop: Workspace) -> None:
    _, done = exported(shop)
    names = raw_ids(shop)
    said(shop, [f"{names[name]},analytics,false,{AFTER}" for name in done.people[:3]])
    found = campaign_outcome(tea(shop), FigureGate(shop))
    assert found.reached and found.reached.people == 57 and found.not_counted == 3
    assert found.planned == found.reached.people + found.not_counted + sum(found.dropped.values())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, command, folder: Path):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(folder)
    return command


def test_the_commands(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    (folder / "tea.toml").write_text(LIGHT)
    code, out, _ = run("campaign", "plan", "tea.toml", "--replace")
    assert code == 0 and "left out: beyond size or budget (" in out and "beyond_the_cut" not in out
    code, out, _ = run("campaign", "plan", "tea.toml", "--replace", "--json")
    found = json.loads(out)
    assert code == 0 and found["size"] == len(found["people"]) == 60 and found["holdout"] > 0
    assert all(p["user_id"].startswith("u1_") for p in found["people"]) and ODD not in out
    code, out, _ = run("campaign", "approve", "tea.toml", "--json")
    texts = json.loads(out)["texts"]
    assert code == 0 and {t["status"] for t in texts} == {"draft"} and texts[0]["meta"]["generated"] is False
    assert run("campaign", "approve", "tea.toml", "--all")[0] == 2, "somebody has a name"
    assert run("campaign", "approve", "tea.toml", "--by", "Ann", "--reject")[0] == 2
    assert run("campaign", "export", "tea.toml", "-o", "out")[0] == 4
    code, out, _ = run("campaign", "approve", "tea.toml", "--by", "Ann", "-t", "t1", "--edit", "Free!", "--json")
    assert code == 0 and json.loads(out)["texts"][0]["failures"]
    assert run("campaign", "approve", "tea.toml", "--by", "Ann", "-t", "t1")[0] == 4
    assert run("campaign", "approve", "tea.toml", "--by", "Ann", "--reject", "-t", "t1", "--why", "no")[0] == 0
    assert run("campaign", "approve", "tea.toml", "--by", "Ann", "--all")[0] == 0
    assert run("campaign", "report", "tea.toml")[0] == 3
    assert [*document_lines({"rate": {"value": 0.0, "low": 6.9e-18, "high": 0.066}})] == ["rate: 0.0% (0.0% to 6.6%)"]


def test_the_audience_of_a_file(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("audience", "--campaign", "tea.toml", "-w", "shop", "--json")
    found = json.loads(out)
    assert code == 0 and found["campaign_id"] == "tea" and found["size"] == 60 and found["people"][0]["reasons"]
    assert run("audience", "--campaign", "tea.toml", "-w", "shop", "--size", "70")[0] == 2
    plan = read_plan(CampaignFolder.of(folder / "shop", "tea"))
    assert [p["user_id"] for p in found["people"]] == [p.user_id for p in plan.addressed]


def test_a_text_stands_for_the_items_that_fit_it(shop: Workspace, folder: Path) -> None:
    file = changed(folder, (CATEGORY, 'text = "Green tea of spring"\ncategory = "tea"'))
    recommender = open_recommender(shop, encoder=ToyEncoder(), everybody=True)
    plan = plan_campaign(shop, file, recommender=recommender)
    with shop.store().read() as reader:
        titles = {row["item_id"]: row["title"] for row in reader.items(list(plan.items)).to_dicts()}
    assert {p.item_id for p in plan.people} <= set(plan.items) and len(plan.items) <= MOST_ITEMS
    for text in plan.texts:
        assert titles[text.item_id].lower() in text.text.lower() and not text.failures and not text.warnings
        assert "spring" not in text.text
    assert any("fit the text" in note for note in plan.notes)
    assert {s.action for s in open_campaign(shop, file, clock=NOW).states.values()} == {TextStatus.DRAFT}


def test_words_that_only_join_others_find_nothing() -> None:
    assert words_that_name("something for a picnic") == "picnic"
    assert words_that_name("for you") == "for you", "a text of nothing else stays"
    assert words_that_name("夏天野餐") == "夏天野餐"


def test_a_campaign_that_picks_its_items_offers_each_person_their_own(shop: Workspace, folder: Path) -> None:
    file = changed(folder, *CHOOSES)
    assert file.target.picks_items and file.target.choice.objective is Objective.LIFT
    plan = plan_campaign(shop, file)
    names = raw_ids(shop)
    for person in plan.people:
        assert person.item_id.startswith("tea" if int(names[person.user_id][5:]) % 2 == 0 else "tool")
    assert len(plan.items) <= 6 and {p.item_id for p in plan.people} <= set(plan.items)


def test_each_customer_gets_a_product_of_the_whole_shop_that_they_did_not_return(shop: Workspace, folder: Path) -> None:
    file = changed(folder, (CATEGORY, 'intent = "mixed"'), ("size = 60", "size = 110"))
    plan = plan_campaign(shop, file)
    own = {person.user_id: person.item_id for person in plan.people}
    assert set(plan.items) == set(own.values()) and len(plan.items) > 6
    name = plan.people[0].user_id
    row = {"user_id": name, "item_id": own[name], "event": "return", "timestamp": datetime(2024, 2, 20, tzinfo=UTC)}
    record_events(pl.DataFrame([row]), shop.store(), source="log")
    later = {person.user_id: person.item_id for person in plan_campaign(shop, file, replace=True).people}
    assert name in later and later[name] != own[name]
    buy(shop, [name], later[name])
    lately = changed(
        folder, (CATEGORY, 'intent = "mixed"'), ("size = 60", "size = 110\nbought_days = 14"), name="lately"
    )
    latest = {person.user_id: person.item_id for person in plan_campaign(shop, lately).people}
    assert latest.get(name) not in (own[name], later[name]) and len(latest) > 100


def test_an_intent_leaves_out_whom_nothing_fits(shop: Workspace, folder: Path) -> None:
    file = changed(folder, ("most_items = 1", 'most_items = 4\nintent = "discover"\nspread = 0'))
    plan = plan_campaign(shop, file)
    bought = view(shop.store()).events().filter(pl.col("event") == "purchase").select("user_id", "item_id").unique()
    pairs = set(bought.iter_rows())
    assert plan.people and not any((p.user_id, p.item_id) in pairs for p in plan.people)
    wide = changed(folder, ("most_items = 1", 'most_items = 4\nintent = "discover"'), name="wide")
    largest = []
    for spread in (0.0, 1.0):
        with overridden({"offers": {"spread": spread}}), Workspace.open(folder / "shop") as varied:
            people = plan_campaign(varied, wide, replace=True).people
        largest.append(max(Counter(p.item_id for p in people).values()))
    assert largest[1] < largest[0], "of a category, too, offers vary"


def test_what_an_offer_makes_no_cheaper_and_goods_of_a_far_day_are_silent(shop: Workspace, folder: Path) -> None:
    amount = ('"percent"\nvalue = 20', '"amount"\nvalue = 500')
    for title, changes, why in (("Tea", [amount], Silence.NO_SAVING), ("Easter egg", [], Silence.OTHER_DAY)):
        file = changed(folder, *changes)
        catalogue = catalogue_at(shop, file, ["tea0"], NOW)
        item = replace(catalogue.items["tea0"], title=title)
        writer = CampaignWriter(shop, file, replace(catalogue, items={"tea0": item}), NOW)
        assert writer.silence("tea0", "email", "en") is why


def test_a_campaign_that_went_out_teaches_whom_the_next_one_moves(
    shop: Workspace, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools sell because of the message, tea does not: the next campaign goes to tool buyers."""
    file = changed(folder, *CHOOSES, ('goal = "tea', 'window_days = 5\ngoal = "tea'))
    plan = plan_campaign(shop, file)
    with pytest.raises(NothingToDo, match="not exported yet"):
        campaign_trial(open_campaign(shop, file, clock=NOW))
    campaign, done = exported(shop, file)
    with pytest.raises(NothingToDo, match="window"):
        campaign_trial(campaign)
    odd = {name for name, own in raw_ids(shop).items() if int(own[5:]) % 2}
    held = [p.user_id for p in plan.held_out]
    evens = sorted({*done.people, *held} - odd)
    moved = [n for n in done.people if n in odd] + np.random.default_rng(1).permutation(evens)[::3].tolist()
    own = {person.user_id: person.item_id for person in plan.people}
    for item in plan.items:
        buy(shop, [name for name in moved if own[name] == item], item)
    buy(shop, [name for name in evens if name not in moved], own[moved[0]])  # others' items convert no one
    buy(shop, [held[0]], "tea11", day=28)  # the log goes on past the window
    _, trial = campaign_trial(open_campaign(shop, file, clock=NOW))
    assert trial.height == len(done.people) + len(held)
    assert set(trial.filter(pl.col("treated") == 1)["user_id"]) == set(done.people)
    assert set(trial.filter(pl.col("outcome") == 1)["user_id"]) == set(moved)
    shop.close()
    place = ("-w", str(folder / "shop"))
    small = partial(UpliftSettings, min_leaf_rows=8)
    monkeypatch.setattr("recllm.market.propensity.effects.UpliftSettings", small)
    code, out, error = command("uplift", "--campaign", str(file.source), "--save", "first", *place, "--json")
    assert code == 0, error
    found = json.loads(out)
    assert found["trial"]["people"] == trial.height
    assert np.mean([one["user_id"] in odd for one in found["people"][:100]]) > 0.95
    assert all(one["low"] <= one["uplift"] <= one["high"] for one in found["people"])
    options = ("--with", "objective=uplift,effects=first,sure=true,holdout=0", "--item", "tool1", *place)
    code, out, error = command("audience", *options, "--json")
    assert code == 0, error
    members = json.loads(out)
    assert members["size"] >= 50 and np.mean([one["user_id"] in odd for one in members["people"]]) > 0.98
    assert "no_effect_shown" in members["excluded"] and members["expected_extra"] > 0
    assert all(one["effect_low"] > 0 for one in members["people"])
    with Workspace.open(folder / "shop") as again:
        best = members["people"][0]
        person = export_person(again, best["user_id"], by_pseudonym=True)["inferred"]["effects"]["first"]
        assert (person["effect"] > person["low"] > 0) and person["low"] == pytest.approx(best["effect_low"], abs=1e-6)
        second = changed(folder, CHOOSES[0], ("size = 60", "size = 50"), name="second")
        text = second.source.read_text().replace(
            'intent = "mixed"', 'intent = "mixed"\nobjective = "uplift"\neffects = "first"'
        )
        second.source.write_text(text)
        plan = plan_campaign(again, read_campaign(second.source), now=NOW)
        assert np.mean([p.user_id in odd for p in plan.addressed]) > 0.95


def test_a_campaign_without_a_control_teaches_nothing(shop: Workspace, folder: Path) -> None:
    file = changed(folder, ("holdout = 0.5", "holdout = 0"))
    plan = went_out(shop, file)[0].plan
    buy(shop, [plan.people[0].user_id], "tea11", day=20)
    late = f"{raw_ids(shop)[plan.people[0].user_id]},tea11,purchase,{NOW.isoformat()}"
    said(shop, [late], "events", "user_id,item_id,event,timestamp")
    with pytest.raises(DataError, match="has no holdout"):
        campaign_trial(open_campaign(shop, file, clock=NOW))
