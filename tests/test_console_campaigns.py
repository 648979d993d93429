"""Campaigns and experiments in the console: every step, counts, decisions, conflicts, exports, in both languages."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from console_world import SHOP_ID
from fastapi.testclient import TestClient
from test_console import Page, assert_harmless, copy_shop, send, serving, token
from waiting import until

from recllm.base.stats.intervals import expected_hits, smallest_difference
from recllm.base.words.sentences import LANGUAGES
from recllm.doors.console.campaign_fields import (
    FIELDS,
    CampaignStep,
    FieldKind,
    WrongFieldError,
    field_texts,
    fields_of_file,
    with_typed,
)
from recllm.doors.console.campaigns import marked
from recllm.market.campaigns.drafts import campaign_file, list_campaigns
from recllm.market.experiments.feedback import FEEDBACK_SCHEMA
from recllm.market.experiments.slates import (
    Treatment,
    experiment_course,
    experiment_outcome,
    list_experiments,
    start_experiment,
)
from recllm.market.experiments.split import variant_of
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.record import record_events
from recllm.shop.workspace.keys import Scope, create_key
from recllm.shop.workspace.workspace import Workspace, present

DRAFT = {
    "goal": "Tea for <b>those</b> who drink it",
    "target.items": "tea-1\ntea-2\ntea-3",
    "channels": ["email", "push"],
    "sender.name": "Leaf & Iron",
    "sender.address": "1 Market Street",
    "sender.opt_out": "https://example.com/stop",
}
ADDRESS = "/campaigns/campaign/tea-for-b-those-b-who-drink-it"
NAME = "tea-for-b-those-b-who-drink-it"


@pytest.fixture
def folder(console_shop: Path, tmp_path: Path) -> Path:
    return copy_shop(console_shop, tmp_path / "shop")


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with serving(folder) as client:
        yield client


def drafted(client: TestClient, **fields: Any) -> None:
    answer = send(client, "/campaigns", **(DRAFT | fields))
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(ADDRESS)


def revision(client: TestClient) -> str:
    match = re.search(r'name="revision" value="([0-9a-f]{16})"', client.get(ADDRESS).text)
    assert match
    return match[1]


def values(client: TestClient, step: str) -> dict[str, Any]:
    """What the form of a step holds."""
    page = Page(client.get(ADDRESS).text)
    text = client.get(ADDRESS).text.split(f'action="{ADDRESS}/save/{step}"')[1].split("</form>")[0]
    page = Page(text)
    fields: dict[str, Any] = {}
    for field in page.of("input"):
        name, value = str(field.get("name")), field.get("value") or ""
        if field.get("type") == "checkbox":
            if "checked" in field:
                fields.setdefault(name, []).append(value)
        elif name != "form_token":
            fields[name] = value
    for match in re.finditer(r'<textarea[^>]* name="([^"]+)"[^>]*>\n?(.*?)</textarea>', text, re.DOTALL):
        fields[match[1]] = match[2]
    for match in re.finditer(r'<select[^>]* name="([^"]+)">(.*?)</select>', text, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', match[2])
        fields[match[1]] = chosen[1] if chosen else ""
    return fields


def planned(client: TestClient, **body: Any) -> str:
    answer = send(client, f"{ADDRESS}/plan", revision=revision(client), **body)
    assert answer.status_code == 303, answer.text
    where = str(answer.headers["location"])
    until(lambda: 'name="text_id"' in client.get(where).text or "could not be planned" in client.get(where).text)
    page = client.get(where).text
    assert "could not be planned" not in page, Page(page).text
    return page


def test_from_a_goal_to_an_export(client: TestClient, folder: Path) -> None:
    assert "There is no campaign yet" in client.get("/campaigns").text
    drafted(client)
    page = assert_harmless(client.get(ADDRESS).text)
    assert "Tea for <b>those</b> who drink it" in page.text and "draft" in page.text
    fields = values(client, "test")
    assert (
        send(client, f"{ADDRESS}/save/test", **(fields | {"limits.holdout": "40", "words.variants": "2"})).status_code
        == 303
    )
    with Workspace.open(folder) as shop:
        file = campaign_file(shop, NAME)
        assert (file.limits.holdout, file.words.variants, file.channels) == (0.4, 2, ("email", "push"))
    text = planned(client)
    assert "Approve all" in text or "a person decides" in text
    page = assert_harmless(text)
    ids = [f["value"] for f in page.of("input") if f.get("name") == "text_id"]
    approved = send(client, f"{ADDRESS}/decide", revision=revision(client), act="approve", text_id=ids[0], by="")
    assert approved.status_code == 422 and "Type your name" in approved.text
    names = sorted({str(name) for name in ids})
    approved = send(client, f"{ADDRESS}/decide", revision=revision(client), act="approve", text_id=names, by="Ann <i>")
    assert approved.status_code == 303, Page(approved.text).text
    assert "Ann <i>" in assert_harmless(client.get(ADDRESS).text).text
    confirm = client.get(f"{ADDRESS}/export")
    said = re.search(r"Writes to (\d+) people; (\d+) are held out", Page(confirm.text).text)
    assert said, Page(confirm.text).text
    seen = re.search(r'name="revision" value="([0-9a-f]{16})"', confirm.text)
    assert seen
    exported = client.post(
        f"{ADDRESS}/export",
        data={"form_token": token(client), "revision": seen[1]},
        files={"ids": ("ids.txt", f"{SHOP_ID}\nu02\nu04\nu06\n".encode())},
    )
    assert exported.status_code == 200 and exported.headers["content-type"] == "application/zip", exported.text
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        rows = [row for name in archive.namelist() for row in csv.DictReader(io.StringIO(archive.read(name).decode()))]
    assert len(rows) == int(said[1])
    assert {row["user_id"] for row in rows if not row["user_id"].startswith("u1_")} <= {SHOP_ID, "u02", "u04", "u06"}
    assert any(not row["user_id"].startswith("u1_") for row in rows)
    page = assert_harmless(client.get(ADDRESS).text)
    assert "exported" in page.text and "written to" in page.text
    again = send(client, f"{ADDRESS}/export", revision=seen[1])
    assert again.status_code == 409 and "Another person changed" in again.text
    with Workspace.open(folder) as shop:
        (line,) = list_campaigns(shop)
        assert line.stage == "exported"
    copied = send(client, f"{ADDRESS}/clone")
    assert copied.status_code == 303 and f"{NAME}-2" in copied.headers["location"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_in_both_languages(client: TestClient, language: str) -> None:
    drafted(client)
    planned(client)
    client.cookies.set("recllm-language", language)
    tag = {"en": "en", "zh": "zh-Hans"}[language]
    paths = ["/campaigns", "/campaigns/new", ADDRESS, f"{ADDRESS}/export", "/experiments", "/experiments/new"]
    paths += [f"/experiments/report?by={way}" for way in ("model", "campaign", "variant", "template", "day")]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, (path, Page(answer.text).text)
        page = assert_harmless(answer.text)
        assert page.of("html")[0]["lang"] == tag and len(page.of("h1")) == 1
        ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        labels = {attributes.get("for") for attributes in page.of("label")}
        fields = [f for tag in ("input", "select", "textarea") for f in page.of(tag) if f.get("type") != "hidden"]
        assert all(field["id"] in labels for field in fields), path
        forms = [form for form in page.of("form") if form["method"] == "post"]
        tokens = [field for field in page.of("input") if field.get("name") == "form_token"]
        assert len(tokens) == len(forms)


def test_somebody_elses_change_loses_nothing(client: TestClient, folder: Path) -> None:
    drafted(client)
    mine = values(client, "goal")
    theirs = values(client, "goal")
    assert send(client, f"{ADDRESS}/save/goal", **(theirs | {"note": "theirs"})).status_code == 303
    answer = send(client, f"{ADDRESS}/save/goal", **(mine | {"note": "mine & <b>"}))
    page = assert_harmless(answer.text)
    assert answer.status_code == 409 and "Another person changed this campaign" in page.text
    row = page.text.split("You typed")[1]
    assert "theirs" in row and "mine & <b>" in row
    kept = [field.get("value") for field in page.of("input") if field.get("name") == "note"]
    assert kept == ["mine & <b>"]
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, NAME).note == "theirs"
    now = next(f["value"] for f in page.of("input") if f.get("name") == "revision")
    assert send(client, f"{ADDRESS}/save/goal", **(mine | {"note": "mine", "revision": now})).status_code == 303
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, NAME).note == "mine"
    for step, field, text in (
        ("who", "limits.size", "many"),
        ("when", "send", "tomorrow"),
        ("test", "limits.holdout", "x"),
    ):
        wrong = send(client, f"{ADDRESS}/save/{step}", **(values(client, step) | {field: text}))
        assert wrong.status_code == 422 and text in {f.get("value") for f in Page(wrong.text).of("input")}
        assert 'role="alert"' in wrong.text
    beyond = send(client, f"{ADDRESS}/save/test", **(values(client, "test") | {"limits.holdout": "100"}))
    assert beyond.status_code == 422 and "campaign.toml" not in beyond.text


def test_the_count_follows_what_is_typed(client: TestClient, folder: Path) -> None:
    drafted(client)
    fields = values(client, "who")

    def count(**typed: Any) -> str:
        until(lambda: "read for the first time" not in send(client, f"{ADDRESS}/count", **fields).text)
        answer = client.post(
            f"{ADDRESS}/count",
            data={"form_token": token(client), **fields, **typed},
            headers={"hx-request": "true"},
        )
        assert answer.status_code == 200, answer.text
        return Page(answer.text).text

    everybody = count()
    assert re.search(r"\b24\s+people could be reached", everybody), everybody
    recent = count(**{"limits.bought_days": "60"})
    reached = re.search(r"(\d+)\s+people could be reached", recent)
    assert reached and int(reached[1]) < 24 and "bought it recently" in recent
    small = count(**{"limits.size": "5"})
    assert re.search(r"\b5\s+of them, the likeliest", small)
    assert "type a whole number" in count(**{"limits.size": "five"})
    with Workspace.open(folder) as shop:
        assert campaign_file(shop, NAME).limits.bought_days is None  # nothing was written
    page = send(client, f"{ADDRESS}/count", **(fields | {"limits.size": "7"}))
    typed = [f["value"] for f in assert_harmless(page.text).of("input") if f.get("name") == "limits.size"]
    assert typed == ["7"] and "people could be reached" in page.text


def test_texts_are_checked_before_anybody_approves_them(client: TestClient) -> None:
    drafted(client)
    planned(client)
    fields = {"revision": revision(client), "text_id": "t1", "by": "Ann"}
    bad = "Green tea 1\nOnly now\nGreen tea 1 for 0.01 EUR, the best tea in the world."
    part = client.post(
        f"{ADDRESS}/check/t1", data={"form_token": token(client), "text": bad}, headers={"hx-request": "true"}
    )
    assert part.status_code == 200 and "cannot go" in part.text and '<mark class="bad">' in part.text
    client.cookies.set("recllm-language", "zh")
    chinese = client.post(
        f"{ADDRESS}/check/t1", data={"form_token": token(client), "text": bad}, headers={"hx-request": "true"}
    )
    client.cookies.delete("recllm-language")
    assert "每个数字都须出自商品资料" in chinese.text and "没有证明就不作宣称" in chinese.text
    assert re.search(
        r'<small lang="en">[^<]*is not among the facts', chinese.text
    )  # the message itself stays beside it
    whole = send(client, f"{ADDRESS}/check/t1", **fields, text=bad)
    assert whole.status_code == 200 and bad in whole.text.replace("\r\n", "\n") and "cannot go" in whole.text
    hostile = "</textarea><script>alert(1)</script>\nx\ny"
    page = assert_harmless(send(client, f"{ADDRESS}/check/t1", **fields, text=hostile).text)
    assert "<script>alert(1)</script>" in page.text
    assert send(client, f"{ADDRESS}/decide", **fields, act="edit", text=bad).status_code == 303
    refused = send(client, f"{ADDRESS}/decide", **(fields | {"revision": revision(client)}), act="approve")
    assert refused.status_code == 403 and "cannot be approved" in refused.text
    stale = send(client, f"{ADDRESS}/decide", **fields, act="edit", text="my own words\nand\nmore")
    assert stale.status_code == 409 and "my own words" in stale.text
    rejected = send(
        client, f"{ADDRESS}/decide", **(fields | {"revision": revision(client)}), act="reject", why="dull <i>"
    )
    assert rejected.status_code == 303
    assert "dull <i>" in assert_harmless(client.get(ADDRESS).text).text


def test_hostile_items_stay_text_and_a_file_starts_a_campaign(client: TestClient) -> None:
    lines = "\n".join(f"bad-{n}" for n in range(40))
    drafted(client, **{"target.items": lines, "goal": DRAFT["goal"]})
    text = planned(client)
    assert_harmless(text)
    file = b'id = "from-file"\ngoal = "<script>x</script>"\nchannels = ["push"]\n[target]\ncategory = "food > tea"\n'
    answer = client.post(
        "/campaigns", data={"form_token": token(client)}, files={"file": ("c.toml", file)}, follow_redirects=False
    )
    assert answer.status_code == 303 and "/campaign/from-file" in answer.headers["location"]
    page = assert_harmless(client.get("/campaigns").text)
    assert "<script>x</script>" in page.text
    for content in (
        b"id = ",
        b'id = "x"\nchannels = ["push"]\n[target]\ntext = "t"\n[limits]\nsuppress = "/etc/passwd"\n',
    ):
        answer = client.post("/campaigns", data={"form_token": token(client)}, files={"file": ("c.toml", content)})
        assert answer.status_code == 422 and 'role="alert"' in answer.text


def test_who_may_only_look_changes_nothing(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        _, looker = create_key(shop, "looks", [Scope.CONSOLE])
        _, marketer = create_key(shop, "Bo Market", [Scope.CONSOLE, Scope.MARKETING, Scope.PEOPLE])
    with serving(folder) as client:
        signed = client.post("/sign-in", data={"form_token": token(client), "key": marketer})
        assert signed.status_code == 200
        drafted(client)
        text = planned(client)
        ids = re.findall(r'name="text_id" value="(t\d+)"', text)
        assert 'name="by"' not in text  # the key says who
        answer = send(client, f"{ADDRESS}/decide", revision=revision(client), act="reject", text_id=ids[0])
        assert answer.status_code == 303
        assert "Bo Market: rejected the text" in Page(client.get(ADDRESS).text).text
        seen = revision(client)
    with serving(folder) as client:
        client.post("/sign-in", data={"form_token": token(client), "key": looker})
        page = client.get(ADDRESS)
        assert page.status_code == 200 and "/decide" not in page.text and f"{ADDRESS}/plan" not in page.text
        for path in ("plan", "decide", "save/goal", "count", "export", "clone", "check/t1"):
            assert send(client, f"{ADDRESS}/{path}", revision=seen, act="approve", text_id="t1").status_code == 403, (
                path
            )
        assert send(client, "/experiments", name="x").status_code == 403


def test_a_plan_that_cannot_be_says_why_and_keeps_the_draft(client: TestClient) -> None:
    drafted(client)
    assert send(
        client, f"{ADDRESS}/save/who", **(values(client, "who") | {"limits.bought_days": "3000", "limits.size": "2"})
    )
    answer = send(client, f"{ADDRESS}/plan", revision=revision(client))
    where = str(answer.headers["location"])
    until(lambda: "could not be planned" in client.get(where).text)
    page = assert_harmless(client.get(where).text)
    assert "the draft is as it was" in page.text
    stale = send(client, f"{ADDRESS}/plan", revision="0" * 16)
    assert stale.status_code == 409 and "Another person changed" in stale.text
    assert client.get("/campaigns/campaign/none").status_code == 404
    assert client.get("/campaigns/campaign/..%2f..%2fetc").status_code in (404, 422)


# --- experiments -----------------------------------------------------------------------------------------------------

TWO = {"name": "Is <b>personal</b> better?", "metric": "clicks", "guard": "dismissals"}
TWO |= {"name-0": "as now", "weight-0": "50", "personal-0": "yes"}
TWO |= {"name-1": "popular", "weight-1": "50", "personal-1": "no"}
RUNNING = "/experiments/experiment/Is%20%3Cb%3Epersonal%3C/b%3E%20better%3F"
STOP = RUNNING.replace("/experiment/", "/stop/")


def test_an_experiment_starts_only_when_confirmed_and_stops_only_when_confirmed(
    client: TestClient, folder: Path
) -> None:
    looked = send(client, "/experiments", **TWO)
    page = assert_harmless(looked.text)
    assert looked.status_code == 200 and "Yes, start it" in page.text and "24 customers" in page.text
    with Workspace.open(folder) as shop:
        assert not list_experiments(shop)
    started = send(client, "/experiments", **TWO, confirmed="yes")
    assert started.status_code == 303, Page(started.text).text
    page = assert_harmless(client.get(started.headers["location"]).text)
    assert "Nothing was shown yet" in page.text and "split as planned" in page.text
    second = send(client, "/experiments", **(TWO | {"name": "second"}), confirmed="yes")
    assert second.status_code == 409 and "stop it first" in second.text
    assert "second" in {f.get("value") for f in Page(second.text).of("input")}
    assert client.get(STOP).status_code == 200
    assert send(client, STOP, revision="7").status_code == 409
    with Workspace.open(folder) as shop:
        (stored,) = list_experiments(shop)
        assert stored.experiment.ended_at is None
    stopped = send(client, STOP, revision=str(stored.revision))
    assert stopped.status_code == 303
    assert "ended" in client.get(RUNNING).text
    assert send(client, STOP, revision="2").status_code == 409
    assert client.get("/experiments/experiment/never").status_code == 404


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "Give it a name"),
        ({"name-1": ""}, "at least two variants"),
        ({"name-1": "as now"}, "at least two variants"),
        ({"weight-1": "60"}, "add up to 100"),
        ({"weight-1": "half"}, "no number from 0 to 100"),
        ({"personal-1": "yes", "confirmed": "yes"}, "do the same"),
        ({"model-1": "missing", "confirmed": "yes"}, "no model"),
    ],
)
def test_an_experiment_that_cannot_be_says_why(looking: TestClient, changes: dict[str, str], words: str) -> None:
    answer = send(looking, "/experiments", **(TWO | changes))
    assert answer.status_code == 422 and words in Page(answer.text).text
    assert_harmless(answer.text)


@pytest.fixture(scope="module")
def looking(console_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(copy_shop(console_shop, tmp_path_factory.mktemp("campaigns") / "shop")) as client:
        yield client


def test_what_may_be_said_is_said_in_words_with_a_picture_and_a_table(folder: Path) -> None:
    """People of one variant click three times as often: enough people, and the interval leaves zero."""
    people, days = 240, 4
    with Workspace.open(folder) as shop:
        variants = {"as now": (0.5, Treatment()), "popular": (0.5, Treatment(personal=False))}
        stored = start_experiment(shop, "e/1", variants)
        start, names = utc(present(shop)), shop.pseudonymiser()
        rows = []
        for person in range(people):
            name = names.one(f"x{person}")
            variant = variant_of(stored.experiment, name)
            for n in range(10):
                at = start + timedelta(days=1 + (person + n) % days, seconds=person)
                row = {"user_id": name, "item_id": f"tea-{n}", "timestamp": at, "request_id": f"r{person}-{n}"}
                row |= {"experiment": "e/1", "variant": variant, "model_version": "m"}
                rows.append(row | {"event": "shown"})
                if n < (6 if variant == "as now" else 2):
                    rows.append(row | {"event": "click"})
        frame = pl.DataFrame([{c: r.get(c) for c in FEEDBACK_SCHEMA} for r in rows], schema=FEEDBACK_SCHEMA)
        record_events(frame, shop.store(), source="test")
        looks = experiment_course(shop, "e/1")
        outcome = experiment_outcome(shop, "e/1")
    assert [look.people for look in looks][-1] == outcome.people and sum(outcome.people.values()) == people
    assert len(looks) >= days and sum(looks[0].people.values()) < people
    assert looks[-1].report is not None and outcome.report is not None
    assert looks[-1].report.comparisons[0].metric == outcome.report.comparisons[0].metric
    assert outcome.report.comparisons[0].metric.difference == pytest.approx(-0.4)
    with serving(folder) as client:
        page = assert_harmless(client.get("/experiments/experiment/e%2F1").text)
        assert "Worse: stop it" in page.text and "split as planned" in page.text and "-40.00%" in page.text
        assert page.of("svg") and "Days since the start" in page.text
        assert re.search(r"popular.*50%.*\d+", page.text, re.DOTALL)
        report = client.get("/experiments/report?by=variant")
        assert "e/1: as now" in assert_harmless(report.text).text and "60.00%" in report.text
        by_day = assert_harmless(client.get("/experiments/report?by=day").text)
        assert by_day.of("svg")
        table = client.get("/experiments/report?by=variant&csv=report-variant")
        (first, second) = csv.DictReader(io.StringIO(table.text.removeprefix("\ufeff")))
        assert table.headers["content-type"].startswith("text/csv") and first["variant"] == "e/1: as now"
        assert float(first["click_share"]) == pytest.approx(0.6)
        assert float(second["click_share_high"]) > float(second["click_share"])


# --- what stands behind the pages ------------------------------------------------------------------------------------


def test_fields_go_to_a_form_and_back_unchanged() -> None:
    content = b"""id = "x"
goal = "g"
channels = ["email", "push"]
send = 2025-11-01T09:00:00+08:00
[target]
items = ["a", "b"]
[offer]
type = "percent"
value = 12.5
[offer.list_prices]
"a b" = 4.99
[limits]
holdout = 0.15
returned = false
[words]
packs = ["us_ftc"]
[words.evidence]
award = "Tea of the year"
[words.evidence.lowest_30d]
a = "3 EUR"
"""
    fields = fields_of_file(content)
    texts = field_texts(fields, "Asia/Shanghai")
    assert texts["send"] == "2025-11-01T09:00" and texts["limits.holdout"] == "15" and texts["limits.returned"] == ""
    same = fields
    for step in CampaignStep:
        same = with_typed(same, {f.path: texts[f.path] for f in FIELDS[step]}, step, "Asia/Shanghai")
    assert same == fields  # also the evidence by item and the packs, which no form shows
    changed = with_typed(fields, texts | {"offer.type": ""}, CampaignStep.GOAL, None)
    assert "offer" not in changed and changed["words"] == fields["words"]
    with pytest.raises(WrongFieldError) as caught:
        with_typed(fields, texts | {"offer.list_prices": "a 4.99"}, CampaignStep.GOAL, None)
    assert (caught.value.path, caught.value.kind) == ("offer.list_prices", FieldKind.PRICES)


def test_what_may_be_expected_is_what_draws_give() -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0, 0.4, 300)
    expected = expected_hits(chances.tolist())
    draws = (rng.random((4_000, 300)) < chances).sum(axis=1)
    assert expected.value == pytest.approx(draws.mean(), rel=0.01)
    assert np.mean((draws >= expected.low) & (draws <= expected.high)) == pytest.approx(0.95, abs=0.02)
    assert expected_hits([]).high == 0.0
    size = smallest_difference(0.1, 900, 100)
    assert size is not None and smallest_difference(0.1, 900, 0) is None
    differences = rng.binomial(900, 0.1 + size, 20_000) / 900 - rng.binomial(100, 0.1, 20_000) / 100
    error = np.sqrt(0.1 * 0.9 * (1 / 900 + 1 / 100))
    assert np.mean(differences > 1.96 * error) == pytest.approx(0.8, abs=0.04)


def test_marks_are_text_between_marks() -> None:
    shown = marked("the <Best> tea & the best", [("<best>", "bad"), ("best", "warn"), ("best", "bad"), ("", "bad")])
    assert shown == 'the <mark class="bad">&lt;Best&gt;</mark> tea &amp; the <mark class="warn">best</mark>'
    assert marked("a < b", []) == "a &lt; b"
