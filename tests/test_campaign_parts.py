"""The pieces of campaigns that need no shop: the file, the hours, the comparison of groups, the parts of a report."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind
from tables import table, wrongly_refused

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Occasion
from recllm.base.stats.intervals import LEAST_COMPARED, difference, mean_difference, share
from recllm.market.adcopy.channels import Sender
from recllm.market.audiences.audience import counts_in_words
from recllm.market.campaigns.file import CampaignFile, read_campaign
from recllm.market.campaigns.folder import PlannedPerson, append, read_log
from recllm.market.campaigns.open_campaign import is_quiet, send_window
from recllm.market.campaigns.outcome import OTHERS, CampaignOutcome, GroupFigures, SegmentFigures, conclusions, divided

GOOD = """\
id = "spring"
channels = ["push"]
[target]
items = ["tea1", "tea2"]
[offer]
type = "percent"
value = 12.5
start = 2025-11-01T00:00:00+08:00
end = "2025-11-12T00:00:00+08:00"
[offer.list_prices]
tea1 = 4.99
[limits]
holdout = 0.2
suppress = "never.txt"
[words]
packs = ["cn"]
[words.evidence]
award = "Tea of the Year 2025"
[words.evidence.lowest_30d]
tea1 = "$4.50"
"""


def campaign(folder: Path, text: str) -> Path:
    file = folder / "campaign.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_says_everything(tmp_path: Path) -> None:
    found = read_campaign(campaign(tmp_path, GOOD))
    assert (found.id, found.channels, found.locales) == ("spring", ("push",), ("en",))
    assert found.target.items == ("tea1", "tea2")
    assert found.offer is not None and str(found.offer.value) == "12.5", "exact, not a float"
    assert found.offer.end is not None and found.offer.end.utcoffset() == timedelta(hours=8)
    assert str(found.list_prices["tea1"]) == "4.99" and found.limits.suppress == tmp_path / "never.txt"
    assert found.limits.quiet_hours == (time(21), time(8)) and found.limits.cut.holdout == 0.2
    assert found.evidence_for("tea1") == {"award": "Tea of the Year 2025", "lowest_30d": "$4.50"}
    assert found.evidence_for("tea2") == {"award": "Tea of the Year 2025"}
    assert not found.words.auto, "a person approves, unless the file says otherwise"
    lapsed = 'intent = "mixed"\npeople = {condition = "last_order", at_least = 180}'
    found = read_campaign(campaign(tmp_path, GOOD.replace('items = ["tea1", "tea2"]', lapsed)))
    assert found.target.text_occasion is Occasion.WIN_BACK


def test_what_is_wrong_is_named_with_its_key(tmp_path: Path) -> None:
    cases = {}
    for old, new, key, words in table("campaign_parts", "what is wrong is named with its key"):
        assert old in GOOD
        file = tmp_path / f"{len(cases)}.toml"
        file.write_text(GOOD.replace(old, new))
        cases[rf"(?m)^{re.escape(str(file))}: {key} .*{re.escape(words)}"] = partial(read_campaign, file)
    assert wrongly_refused(cases, DataError) == {}
    text = GOOD.replace("value = 12.5", "value = 0").replace("holdout = 0.2", "holduot = 0.2")
    with pytest.raises(DataError) as error:
        read_campaign(campaign(tmp_path, text))
    first, second = sorted(str(error.value).splitlines())
    assert "limits.holduot is unknown" in first and "offer.value must be above 0" in second, "all at once"


def test_a_pack_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "own"\n[[rule]]\nid = "x"\n')
    with pytest.raises(DataError, match=r"words\.packs is wrong: .*own\.toml, rule x: guarantee is missing"):
        read_campaign(campaign(tmp_path, GOOD.replace('packs = ["cn"]', 'packs = ["own.toml"]')))
    with pytest.raises(DataError, match="no TOML"):
        read_campaign(campaign(tmp_path, GOOD + "\n[["))


@pytest.mark.parametrize("refused", ["sms", "sms_cn"])
def test_a_refused_channel_is_told_those_that_a_campaign_takes(tmp_path: Path, refused: str) -> None:
    sender = '\n[sender]\nname = "Tea House"\naddress = "Riga"\nopt_out = "https://tea.example/stop"\n'

    def reading(channels: str) -> CampaignFile:
        text = GOOD.replace('channels = ["push"]', f"channels = {channels}") + sender
        return read_campaign(campaign(tmp_path, text))

    with pytest.raises(DataError) as error:
        reading(f'["{refused}"]')
    offered = str(error.value).partition("texts are written for: ")[2].split(", ")
    assert "sms_gsm" in offered and not {"sms", "sms_cn"} & set(offered)
    for channel in offered:
        assert channel in reading(f'["push", "{channel}"]').channels


NIGHT, BERLIN = (time(21), time(8)), "Europe/Berlin"


@pytest.mark.parametrize(("moment", "quiet", "start", "end"), table("campaign_parts", "messages wait for the morning"))
def test_messages_wait_for_the_morning(moment: str, quiet: list[str], start: str, end: str) -> None:
    zone, (first, last) = "Asia/Shanghai" if "+08" in moment else BERLIN, map(time.fromisoformat, quiet)
    found = send_window(datetime.fromisoformat(moment), (first, last), zone, None)
    assert found is not None and found.end is not None
    assert found.start == datetime.fromisoformat(start) and found.end == datetime.fromisoformat(end)


def test_an_offer_that_ends_in_the_night_is_over() -> None:
    late = datetime.fromisoformat("2025-01-10T22:30+01:00")
    assert send_window(late, NIGHT, BERLIN, datetime.fromisoformat("2025-01-11T00:00+01:00")) is None
    found = send_window(late, NIGHT, BERLIN, datetime.fromisoformat("2025-01-11T10:00+01:00"))
    assert found is not None and found.end == datetime.fromisoformat("2025-01-11T10:00+01:00")
    everything = send_window(late, None, None, None)
    assert everything is not None and everything.start == late and everything.end is None


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31)),
    *[st.times().map(lambda t: t.replace(second=0, microsecond=0))] * 2,
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe"]),
)
def test_no_message_leaves_in_quiet_hours(moment: datetime, start: time, end: time, zone: str) -> None:
    if start == end:
        return
    at = moment.replace(tzinfo=UTC)
    found = send_window(at, (start, end), zone, None)
    assert found is not None and found.end is not None and at <= found.start < found.end
    assert found.end - found.start <= timedelta(hours=25)
    local = found.start.astimezone(ZoneInfo(zone))
    assert local.utcoffset() != at.astimezone(ZoneInfo(zone)).utcoffset() or not is_quiet(local.time(), start, end)


def test_intervals_are_the_published_ones() -> None:
    """Newcombe 1998: 81 of 263 by Wilson's score, and 56/70 - 48/80 by method 10."""
    one = share(81, 263)
    assert (round(one.low, 4), round(one.high, 4)) == (0.2553, 0.3662)
    gap = difference(56, 70, 48, 80)
    assert (round(gap.value, 4), round(gap.low, 4), round(gap.high, 4)) == (0.2, 0.0524, 0.3339) and gap.excludes_zero
    nothing = difference(0, 10, 0, 20)
    assert (round(nothing.low, 4), round(nothing.high, 4)) == (-0.1611, 0.2775) and not nothing.excludes_zero


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_a_difference_turned_round_is_its_mirror(n: int, m: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    gap, back = difference(a, n, b, m), difference(b, m, a, n)
    assert gap.low <= gap.value <= gap.high and gap.low >= -1 and gap.high <= 1
    assert np.allclose([gap.low, gap.high], [-back.high, -back.low])


def test_money_by_students_t() -> None:
    rng = np.random.default_rng(1)
    for ours, others in ((rng.normal(5, 2, 400), rng.normal(4, 2, 300)), (np.repeat([9.5, 0.0], [8, 23]), np.zeros(2))):
        found, published = mean_difference(ours, others), ttest_ind(ours, others).confidence_interval()
        assert (found.low, found.high) == pytest.approx((published.low, published.high))
    assert not found.excludes_zero, "two people who bought nothing show nothing"


def person(n: int, kind: str, held: bool = False) -> PlannedPerson:
    text = {"item_id": "tea", "kind": kind, "channel": "push", "locale": "en", "variant": 0, "text_id": "t1"}
    return PlannedPerson(user_id=f"u{n}", held_out=held, probability=n / 1000, **text)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 90), min_size=1), st.integers(2, 50))
def test_no_part_is_small(sizes: dict[str, int], floor: int) -> None:
    people = [person(n, kind) for kind, size in sizes.items() for n in range(size)]
    parts = divided(people, [], {}, floor).get("reason")
    if parts is None:
        large = sorted((n for n in sizes.values() if n >= floor), reverse=True)
        assert len(sizes) == 1 or len(large) <= 1 or sum(sizes.values()) - large[0] < 2 * floor
        return
    assert sum(len(reached) for reached, _ in parts.values()) == len(people)
    assert all(len(reached) >= floor for reached, _ in parts.values())
    assert OTHERS not in list(parts)[:-1], "what is told together comes last"


def test_both_sides_are_divided_alike() -> None:
    people, held = [person(n, "ab"[n % 2]) for n in range(100)], [person(n, "ab"[n % 4 == 0], True) for n in range(40)]
    parts = divided(people, held, {}, 50)
    assert {name: (len(r), len(h)) for name, (r, h) in parts["reason"].items()} == {"a": (50, 30), "b": (50, 10)}
    assert "channel" not in parts, "one part tells nothing"
    thirds = divided([person(n, "a") for n in range(300)], [], {}, 50)["likelihood"]
    assert list(thirds) == ["likely", "middling", "unlikely"] and {len(r) for r, _ in thirds.values()} == {100}


def test_counts_are_told_with_their_reasons() -> None:
    words = "beyond size or budget (1,200), given as an example (few)"
    assert counts_in_words({"beyond_the_cut": 1200, "seed": None}) == words


def outcome() -> CampaignOutcome:
    money = {"revenue": 99.5, "revenue_per_person": 0.4975}
    arm = GroupFigures(people=200, converted=30, rate=share(30, 200), unsubscribed=2, **money)
    gap, start = difference(30, 200, 9, 120), datetime(2025, 1, 1, tzinfo=UTC)
    segment = SegmentFigures(by="item", name="<i>", reached=arm, held_out=arm, effect=gap)
    counts = {"planned": 210, "planned_held_out": 120, "dropped": {"consent_withdrawn": 10}, "not_counted": 0}
    counts |= {"not_delivered": 0, "messages": {}, "horizon_days": 28, "expected_conversions": 31.5}
    arms = {"reached": arm, "held_out": arm, "other_people": arm, "effect": gap, "revenue_effect": gap}
    said = {"campaign_id": "spring", "goal": "<b>", "note": "a note", "words": (), "converts": ("purchase",)}
    end, until = start + timedelta(days=7), start + timedelta(days=9)
    return CampaignOutcome(start=start, end=end, until=until, segments=(segment,), **said, **counts, **arms)  # type: ignore[arg-type]


def test_a_report_of_a_log_without_purchases_tells_of_no_buying() -> None:
    for locale, buying, converting in (("en", ("buy", "bought"), "convert"), ("zh", ("购买", "买得"), "转化")):
        for actions, is_buying in ((("purchase",), True), (("view", "cart"), False)):
            words = " ".join(conclusions(replace(outcome(), converts=actions), 50, locale))
            assert any(word in words for word in buying) is is_buying is (converting not in words)


def test_every_conclusion_can_be_said() -> None:
    whole = outcome()
    less, none = difference(9, 120, 30, 200), difference(10, 100, 10, 100)
    few = replace(whole.reached, people=LEAST_COMPARED - 1)
    cases = [
        (whole, "more often"),
        (replace(whole, effect=less, revenue_effect=less), "less often"),
        (replace(whole, effect=none, revenue_effect=none), "less than about"),
        (replace(whole, revenue_effect=less), "does not say the same"),
        (replace(whole, revenue_effect=None), "more often"),
        (replace(whole, until=whole.start + timedelta(days=1)), "The window is not over"),
        (replace(whole, held_out=few), "the control group had fewer than 50 customers"),
        (replace(whole, reached=few), "fewer than 50 customers were reached"),
        (replace(whole, effect=None, held_out=None), "the control group had fewer than 50 customers"),
        (replace(whole, effect=None, held_out=None, planned_held_out=0), "the campaign had no control group"),
        (replace(whole, reached=None), "fewer than 50 customers were reached"),
        (replace(whole, until=whole.start), "Nothing is known"),
    ]
    for found, sentence in cases:
        assert sentence in conclusions(found, 50, "en")[0]
        assert "{" not in "".join(conclusions(found, 50, "zh-CN"))


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x1e", "\n", "\r\n"])
def test_no_character_of_a_text_ends_a_line_of_a_log(tmp_path: Path, letter: str) -> None:
    texts = [f"new{letter}line", "next"]
    for text in texts:
        append(tmp_path / "log.jsonl", [{"text": text}])
    assert [entry["text"] for entry in read_log(tmp_path / "log.jsonl")] == texts


def test_an_append_that_fails_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log.jsonl"
    append(file, [{"n": 1}])
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(file, [{"n": 2}, {"n": 3}])
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_damaged_line_of_a_log_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    append(file, [{"n": 1}, {"n": 2}])
    assert read_log(file) == [{"n": 1}, {"n": 2}]
    for damaged in ("[3]", '{"n": 3', "\x00"):
        file.write_text(f'{{"n": 1}}\n{damaged}\n')
        with pytest.raises(DataError, match="line 2: damaged; put back the file from a backup"):
            read_log(file)


def test_the_way_to_say_no_is_a_link_of_the_web_or_of_a_mailbox() -> None:
    for opt_out, link in table("campaign_parts", "ways to say no"):
        assert Sender(name="Hearth", opt_out=opt_out).opt_out == link
    for opt_out in table("campaign_parts", "no ways to say no"):
        with pytest.raises(UsageError, match="ends no messages"):
            Sender(name="Hearth", opt_out=opt_out)
