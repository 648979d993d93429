"""Who should hear what on a day: a shop of a few people whose days are plain, and a log from which the model learns."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Command
from polars.testing import assert_frame_equal
from shop_world import QUICKLY, load_lines, loaded, log_of, with_event
from tables import table

from recllm.base.errors import DataError, ModelError
from recllm.base.policy import Policy
from recllm.base.schema import Action, Occasion, Purpose
from recllm.base.settings import OccasionSettings, ScorerTrainingSettings, Settings
from recllm.learn.models.trees import BoostedTrees, grow_trees
from recllm.market.adcopy.frames import frame_file
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.plan import plan_campaign
from recllm.market.campaigns.reach import count_reachable, occasion_target
from recllm.market.campaigns.texts import DAY_RULE
from recllm.market.occasions.calendar import (
    CHINESE_DAYS,
    WESTERN_DAYS,
    CalendarDay,
    ComingDay,
    country_of,
    days_of,
    is_of_other_day,
    is_out_of_season,
    mothers_day,
    named_days,
    nearest_date,
    season_lifts,
    upcoming_days,
)
from recllm.market.occasions.day import MODEL_FILE, find_occasions, one_for_each
from recllm.market.occasions.detect import (
    DUE_PROBABILITY,
    DUE_SHARE,
    RULES,
    Cases,
    Shop,
    abandoned,
    back_in_stock,
    best_of_each,
    new_arrival,
    past_chances,
    price_drop,
    replenish,
    welcome,
    win_back,
    with_items,
)
from recllm.market.occasions.replenishment import (
    TREES,
    ReplenishmentModel,
    bought_again,
    learn_replenishment,
    repurchase_pairs,
)
from recllm.market.occasions.suggest import goods_of_day
from recllm.market.propensity.model import PropensitySettings
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import open_recommender, publish_recommender
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, overridden
from recllm.text.encoder.toy import ToyEncoder

NOW = 1_760_000_000
SMALL = replace(TREES, rounds=50, min_leaf_rows=10)


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "recllm.market.occasions.day.learn_replenishment", partial(learn_replenishment, trees=SMALL, weeks=4)
    )


def log(*rows: tuple, items: dict[str, str] | None = None) -> Dataset:
    """rows: user, item, days ago, and where it is no purchase the action. items: id -> category path."""
    schema = ["user_id", "item_id", "timestamp", "event", "quantity", "price"]
    actions = [
        (user, item, int(NOW - ago * DAY), rest[0] if rest else "purchase", 1.0, 5.0) for user, item, ago, *rest in rows
    ]
    ids = sorted({item for _, item, *_ in rows} | set(items or {}))
    columns = {"item_id": ids, "title": [name.title() for name in ids]}
    columns["category"] = [(items or {}).get(name, "food > drinks").split(" > ") for name in ids]
    return Dataset.construct(pl.DataFrame(actions, schema, orient="row"), items=pl.DataFrame(columns), as_of=NOW)


def shop_of(dataset: Dataset, *states: tuple[str, float, float | None, bool]) -> Shop:
    """states: item, days ago, price, for sale."""
    rows = [
        (item, datetime.fromtimestamp(NOW - ago * DAY, UTC), None if price is None else str(price), is_for_sale)
        for item, ago, price, is_for_sale in states
    ]
    schema = {"item_id": pl.String, "at": pl.Datetime("us", "UTC"), "price": pl.String, "available": pl.Boolean}
    frame = pl.DataFrame(rows, schema, orient="row").sort("at")
    return Shop.of(dataset, frame, OccasionSettings().price_drop, Policy())


def told(cases: Cases, dataset: Dataset) -> dict[str, str | None]:
    """Person -> item, of the strongest case of each."""
    users, items = dataset.users["user_id"].to_list(), dataset.items["item_id"].to_list()
    rows = best_of_each(cases).select("user", "item").iter_rows()
    return {users[user]: None if item is None else items[item] for user, item in rows}


def test_what_was_left_in_the_cart_or_looked_at_twice() -> None:
    # bob looked once, dan bought it, eve put it there long ago, fay is still there; the cart of gus speaks louder
    data = log(*table("occasions", "carts and looks"))
    assert told(abandoned(shop_of(data)), data) == {"ann": "tea", "cid": "tea", "gus": "mug"}


def test_what_cannot_be_bought_or_named_is_no_occasion() -> None:
    rows = [("ann", "tea", 1, "cart"), ("bob", "pill", 1, "cart")]
    data = log(*rows, items={"pill": "health > pregnancy tests"})
    assert told(abandoned(shop_of(data)), data) == {"ann": "tea"}
    sold_out = data.items.with_columns(available=pl.col("item_id") != "tea")
    data = Dataset(data.users, sold_out, data.events, data.as_of)
    assert told(abandoned(shop_of(data)), data) == {}


def test_prices_and_stock_concern_those_who_showed_interest() -> None:
    data = log(("ann", "tea", 20), ("bob", "tea", 10, "view"), ("cid", "mug", 10, "view"), ("dan", "tea", 200))
    states = [("tea", 100, 10, True), ("tea", 2, 8, True), ("mug", 100, 5, False), ("mug", 3, 5, True)]
    shop = shop_of(data, *states)
    assert told(price_drop(shop), data) == {"ann": "tea", "bob": "tea"}
    assert told(back_in_stock(shop), data) == {"cid": "mug"}
    cases = price_drop(shop)
    assert cases["price"].to_list() == [8, 8] and cases["before"].to_list() == [10, 10]
    assert cases["bought"].to_list() == [True, False]


def test_what_is_no_price_drop() -> None:
    data = log(("ann", "tea", 20))
    for prices in (
        [(100, 10), (2, 9.5)],  # too little
        [(100, 10), (50, 5)],  # long ago
        [(100, 10), (2, 12)],  # dearer
        [(100, None), (2, 5)],  # nobody knows from what
        [(100, 10), (3, 5), (2, 10)],  # and back again
    ):
        states = [("tea", ago, price, True) for ago, price in prices]
        assert told(price_drop(shop_of(data, *states)), data) == {}, prices


def test_new_items_go_to_those_who_buy_their_kind() -> None:
    kinds = {"tea": "food > tea", "oolong": "food > tea", "saw": "home > tools"}
    rows = [("ann", "tea", ago) for ago in (5, 15, 25)] + [("bob", "saw", 5), ("cid", "tea", 5)]
    data = log(*rows, items=kinds)
    states = [("tea", 100, 5, True), ("saw", 100, 5, True), ("oolong", 2, 5, True)]
    assert told(new_arrival(shop_of(data, *states)), data) == {"ann": "oolong"}
    assert told(new_arrival(shop_of(data, *(s for s in states if s[0] != "oolong"))), data) == {}


def test_who_stayed_away_hears_of_what_they_bought_most() -> None:
    often = [("ann", "tea", ago) for ago in range(40, 100, 7)] + [("ann", "mug", 40)]
    rows = [*often, *(("bob", "tea", ago) for ago in range(3, 100, 7)), ("cid", "tea", 40), ("cid", "tea", 47)]
    gone = [("dan", "tea", ago) for ago in (300, 310, 320, 330)]
    data = log(*rows, *gone)
    shop = shop_of(data)
    cases = win_back(shop)
    assert told(cases, data) == {"ann": None}
    assert told(with_items(shop, Occasion.WIN_BACK, cases), data) == {"ann": "tea"}
    assert cases["days"].to_list() == [39] and cases["usual"].to_list() == [7]


def test_the_first_purchase_is_welcomed_with_what_others_buy_beside_it() -> None:
    others = [(f"p{n}", item, ago) for n in range(40) for item in ("tea", "honey") for ago in (60, 90)]
    rest = [(f"q{n}", item, ago) for n in range(40) for item in ("saw", "rice") for ago in (60, 90)]
    kinds = {"honey": "food > spreads", "saw": "tools > saws"}
    data = log(*others, *rest, ("new", "tea", 3), ("back", "tea", 3), ("back", "tea", 40), items=kinds)
    shop = shop_of(data)
    cases = with_items(shop, Occasion.WELCOME, welcome(shop))
    assert told(cases, data) == {"new": "honey"}
    assert data.items["item_id"].gather(cases["companion"]).to_list() == ["tea"]
    only = log(*others, ("new", "saw", 3), items=kinds)
    shop = shop_of(only)
    assert told(with_items(shop, Occasion.WELCOME, welcome(shop)), only) == {"new": None}  # nothing to say beside it


def test_chances_are_those_of_the_past() -> None:
    rows = []
    for n in range(40):  # every week ten carts, of which four are bought within the week
        week, place = divmod(n, 10)
        rows.append((f"p{n}", "tea", 7 * (week + 1) + 1, "cart"))
        if place < 4:
            rows.append((f"p{n}", "tea", 7 * (week + 1) - 2))
    rows.append(("first", "mug", 60))
    shop = shop_of(log(*rows))
    today = pl.DataFrame({"user": [0, 1], "item": [0, 0], "in_cart": [1.0, 0.0]})
    chances = past_chances(shop, Occasion.ABANDONED, today)["chance"]
    np.testing.assert_allclose(chances, (16 + 0.5) / (40 + 1))
    young = shop_of(log(("ann", "tea", 1)))
    assert past_chances(young, Occasion.ABANDONED, today)["chance"].to_list() == [None, None]


def test_who_left_later_is_likelier_to_come_back() -> None:
    """Whoever stays away for a month comes back within a week, whoever stays away for three does not."""
    rows = []
    for n in range(300):
        month = [(f"a{n}", "tea", 33 + n % 56 + 7 * k) for k in range(6)] + [(f"a{n}", "tea", n % 56)]
        rows += month + [(f"b{n}", "tea", 100 + n % 30 + 7 * k) for k in range(6)]
    data = log(*rows)
    shop = shop_of(data)
    cases = past_chances(shop, Occasion.WIN_BACK, best_of_each(win_back(shop)))
    long_away = cases.filter(pl.col("days") > 90)["chance"]
    assert long_away.max() < 0.05 and len(long_away) > 100
    assert cases["chance"].max() <= 1 and not cases["chance"].is_null().any()


@pytest.mark.parametrize("occasion", list(RULES))
def test_every_rule_bears_an_empty_shop_and_bare_items(occasion: Occasion) -> None:
    empty = Dataset.construct(pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}))
    assert len(RULES[occasion][0](shop_of(empty))) == 0
    bare = Dataset.construct(pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [NOW - DAY]}), as_of=NOW)
    assert len(RULES[occasion][0](shop_of(bare))) == 0


def test_each_person_is_addressed_once() -> None:
    def cases(people: list[int], chance: list[float | None]) -> Cases:
        return pl.DataFrame({"user": people, "chance": chance, "strength": [1.0] * len(people)})

    all_cases = {
        Occasion.REPLENISH: cases([0, 1, 2, 3], [0.9, 0.2, 0.5, 0.7]),
        Occasion.ABANDONED: cases([1, 4], [None, 0.3]),
    }
    allowed = np.array([True, True, True, False, True])
    chosen = one_for_each(all_cases, (Occasion.ABANDONED, Occasion.REPLENISH), allowed)
    assert {name: c["user"].to_list() for name, c in chosen.items()} == {"abandoned": [4, 1], "replenish": [0, 2]}


def weekly_world(people: int = 200, weeks: int = 30, seed: int = 0) -> Dataset:
    """Half of the people buy milk every week, the others every fourth; all buy salt at random."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(people):
        every = 7 if user % 2 == 0 else 28
        rows += [(f"u{user}", "milk", ago + 0.1) for ago in range(user % 7, 7 * weeks, every)]
        rows += [(f"u{user}", "salt", ago + 0.2) for ago in rng.integers(0, 7 * weeks, 4).tolist()]
    return log(*rows)


def test_features_know_nothing_of_the_time_after() -> None:
    data = weekly_world()
    then = NOW - 30 * DAY
    whole, past = repurchase_pairs(data, then), repurchase_pairs(data.before(then), then)
    assert_frame_equal(whole, past)


def test_features_of_one_person_by_hand() -> None:
    data = log(*(("ann", "tea", ago + 0.5) for ago in (40, 30, 20, 5)), ("ann", "mug", 10.5), ("ann", "mug", 3.5))
    pairs = repurchase_pairs(data, NOW)
    tea = data.items["item_id"].to_list().index("tea")
    values = pairs.row(by_predicate=pl.col("item") == tea, named=True)
    expected = {"days": 4, "since": 5, "tenure": 40, "gap_mean": 35 / 3, "gap_median": 10, "gap_last": 15}
    expected |= {"days_7": 1, "days_28": 2, "days_91": 4}
    expected |= {"trips_since": 1, "trip_share": 4 / 6, "since_over_median": 0.5}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert len(pairs) == 2 and np.isin(pairs["item"], [tea, 1 - tea]).all()


def test_the_model_tells_the_weekly_from_the_monthly_buyers(tmp_path: Path) -> None:
    data = weekly_world()
    model = learn_replenishment(data, SMALL, weeks=4)
    pairs = repurchase_pairs(data, NOW)
    probability = model.probability(pairs)
    milk = pairs["item"].to_numpy() == data.items["item_id"].to_list().index("milk")
    weekly = np.array([int(name[1:]) % 2 == 0 for name in data.users["user_id"]])[pairs["user"]]
    assert probability[milk & weekly].min() > 0.8
    assert probability[milk & ~weekly & (pairs["since"].to_numpy() < 10)].max() < 0.4
    model.save(tmp_path / "m.json")
    again = ReplenishmentModel.read(tmp_path / "m.json")
    np.testing.assert_array_equal(again.probability(pairs), probability)
    assert again.record == model.record and again.as_of == model.as_of
    shop = shop_of(data)
    cases = replenish(shop, model)
    assert (cases["chance"] >= DUE_PROBABILITY).all()
    assert (cases["days"] / cases["every"] >= DUE_SHARE).all() and len(cases)
    (user, item), titles = cases.select("user", "item").row(0), data.items["title"].to_list()
    titles[1 - item] = f"{titles[item]} 2 L"  # bought since
    sized = replace(data, items=data.items.with_columns(title=pl.Series(titles)))
    certain = SimpleNamespace(probability=lambda pairs: np.ones(len(pairs)))
    due = replenish(shop_of(with_event(sized, user, 1 - item, NOW - 1, Action.PURCHASE)), certain)  # type: ignore[arg-type]
    assert len(due) and (user, item) not in due.select("user", "item").rows()


def test_learning_twice_gives_the_same_and_labels_come_from_after_the_features() -> None:
    data = weekly_world()
    a, b = (learn_replenishment(data, SMALL, weeks=4) for _ in range(2))
    assert a.trees.text() == b.trees.text()
    start = NOW - 14 * DAY
    pairs = repurchase_pairs(data, start)
    label = bought_again(data, pairs, start)
    users, items = data.users["user_id"].to_list(), data.items["item_id"].to_list()
    for user, item, bought in zip(pairs["user"], pairs["item"], label, strict=True):
        e = data.events
        mine = (e.user == user) & (e.item == item) & (e.at >= start) & (e.at < start + 7 * DAY)
        assert bool(bought) == bool(mine.any()), (users[user], items[item])


def test_a_shop_without_categories_and_prices_learns_too() -> None:
    bare = Dataset.construct(log_of(weekly_world()), as_of=NOW)
    model = learn_replenishment(bare, SMALL, weeks=4)
    pairs = repurchase_pairs(bare, NOW)
    unknown = [name for name in pairs.columns if name.startswith(("type_", "category_", "price_"))]
    other = pairs.with_columns(pl.lit(1.0, pl.Float32).alias(name) for name in unknown)
    assert unknown and np.array_equal(model.probability(pairs), model.probability(other)) and len(pairs) > 100


def test_too_little_to_learn_from() -> None:
    with pytest.raises(DataError, match="six weeks"):
        learn_replenishment(log(("ann", "tea", 1), ("ann", "tea", 9)), SMALL, weeks=4)
    with pytest.raises(DataError, match="0 items were bought again"):
        learn_replenishment(log(("ann", "tea", 1), ("bob", "tea", 90)), SMALL, weeks=4)
    few = log(*((f"u{n}", "tea", week * 7 + n % 5 + 1) for n in range(30) for week in range(14)))
    assert learn_replenishment(few, SMALL, weeks=4).record["bought_again"] == 120


def test_saved_trees_say_what_the_learner_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3_000, 6))
    x[rng.random(x.shape) < 0.2] = np.nan
    y = (np.nan_to_num(x[:, 0]) + np.isnan(x[:, 1]) > 0.3).astype(float)
    names = [f"x{n}" for n in range(6)]
    trees = grow_trees(x, y, PropensitySettings(rounds=15), names=names, directions=[1, 0, 0, 0, 0, 0])
    trees.save(tmp_path / "trees", {"a": 1})
    again, record = BoostedTrees.read(tmp_path / "trees")
    np.testing.assert_array_equal(again.score(x), trees.score(x))
    assert record == {"a": 1} and again.names == tuple(names)
    more = x + np.eye(6)[0]
    assert (again.score(more) >= trees.score(x)).all(), "the score may only rise with the first column"
    content = (tmp_path / "trees").read_text()
    assert f"{np.nanmax(x[:, 0]):.6g}" not in content, "the largest value of a column is a person's"
    first_child = content.index("left_child=") + len("left_child=")
    damaged = {
        "expecting value": "",
        "Unterminated": content[:200],
        "threshold": content.replace("threshold", "thresh0ld"),
        "format 1": content.replace('"format": 2', '"format": 1'),
        "leads back": content[:first_child] + "0 " + content[first_child:].split(" ", 1)[1],
    }
    for problem, text in damaged.items():
        (tmp_path / "broken").write_text(text)
        with pytest.raises(ModelError, match=rf"(?i)broken.*{problem}.*learned again"):
            BoostedTrees.read(tmp_path / "broken")


def test_days_have_their_dates_in_each_country() -> None:
    for locale, zone, days in table("occasions", "dates in 2025 and 2026"):
        settings = Settings(locale=locale, timezone=zone)
        dates = {
            day: [profile.date_in(year, country_of(settings)).isoformat() for year in (2025, 2026)]
            for day, profile in days_of(settings).items()
        }
        assert {day: dates[CalendarDay(day)] for day in days} == days, locale
    assert mothers_day(2012, "FR") == date(2012, 6, 3)  # Whit Sunday was in its way
    assert CalendarDay.DOUBLE_11 in days_of(Settings(currency="SGD")) and CalendarDay.QIXI not in days_of(Settings())
    assert [c.day for c in upcoming_days(Settings(), date(2025, 12, 1))] == ["christmas"]
    chinese = upcoming_days(Settings(locale="zh"), date(2026, 1, 10))
    assert [c.day for c in chinese] == ["new_year_goods", "spring_festival"]
    assert nearest_date(CalendarDay.CHRISTMAS, Settings(), date(2026, 1, 12)) == date(2025, 12, 25)


def test_every_day_of_a_frame_is_known_and_every_day_has_frames() -> None:
    for language, days in (("en", WESTERN_DAYS), ("zh", CHINESE_DAYS)):
        of_frames = {occasion for frame in frame_file(language).frames for occasion in frame.occasion}
        known = {*days, CalendarDay.DOUBLE_11} if language == "en" else set(days)
        assert of_frames & set(CalendarDay) == known


def test_goods_of_a_day_sold_more_before_it_in_an_earlier_year() -> None:
    """Wreaths sell before Christmas, and pies in four orders; soap was on offer then, and its kind was not; snow is
    bought on and on; three of many cakes are chance."""
    noel = datetime(2024, 12, 25, tzinfo=UTC).timestamp()
    ago = (NOW - noel) / DAY
    rows = [(f"u{n}", "milk", float(day)) for day in range(0, 380, 2) for n in range(4)]
    rows += [(f"u{n}", "bar", float(day)) for day in range(0, 380, 4) for n in range(4)]
    rows += [(f"u{n}", "wreath", ago + n) for n in range(9)] + [(f"u{n}", "soap", ago + n) for n in range(9)]
    rows += [(f"u{n}", "snow", ago - 12 + n) for n in range(24)] + [(f"u{n}", "pie", ago + n) for n in range(4)]
    rows += [(f"u{n % 7}", "cake", ago + 3 * n % 99) for n in range(33)]
    kinds = {"milk": "food > milk", "wreath": "home > wreaths", "soap": "care > soap", "bar": "care > soap"}
    data = log(*rows, items=kinds | {name: f"home > {name}" for name in ("snow", "pie", "cake")})
    coming = ComingDay(day=CalendarDay.CHRISTMAS, on=date(2025, 12, 25))
    lifts = season_lifts(data, coming, Settings())
    assert data.items["item_id"].gather(np.flatnonzero(lifts)).to_list() == ["pie", "wreath"]
    assert not season_lifts(log(*(row for row in rows if row[2] < 300)), coming, Settings()).any()


@pytest.mark.parametrize(
    ("day", "goods", "source"),
    [
        ("christmas", ["mince pies", "panettone"], "sales"),
        ("easter", ["hot cross buns"], "sales"),
        ("spring_festival", ["新春礼盒"], "sales"),
        ("mid_autumn", ["中秋茶月礼盒"], "sales"),
        ("valentines", ["gift box", "龙井礼盒"], "text"),
        ("summer", [], "none"),
        ("black_friday", [], "none"),
    ],
)
def test_goods_of_a_day_are_named_after_it_or_gifts_and_never_everyday_goods(
    day: str, goods: list[str], source: str
) -> None:
    titles = "mince pies, panettone, hot cross buns, pitta, gift box, 新春礼盒, 中秋茶月礼盒, 龙井礼盒, easter tray"
    data = log(*(("u1", title, 3.0) for title in titles.split(", ")), items={"panettone": "Christmas"})
    shop: Any = SimpleNamespace(settings=Settings(), policy=Policy(sensitive_categories=frozenset(["easter tray"])))
    item_ids, found = goods_of_day(shop, data, ComingDay(day=CalendarDay(day), on=date(2025, 12, 25)))
    assert (sorted(item_ids), found) == (goods, source)
    is_refused = [is_of_other_day(named_days("easter tray"), CalendarDay(day)) for day in ("christmas", "black_friday")]
    assert is_refused == [True, False], "a sale sells goods of any day"


def test_goods_of_a_far_day_are_out_of_season() -> None:
    cases = (
        ("easter egg", date(2025, 12, 2), True),
        ("easter egg", date(2026, 4, 5), False),
        ("mug", date(2025, 12, 2), False),
    )
    for title, on, is_out in cases:
        assert is_out_of_season(named_days(title), Settings(), on) is is_out, (title, on)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live shop: its log ends today. u1 withdrew personalisation, u3 agrees to no channel."""
    folder = tmp_path_factory.mktemp("occasions")
    now = datetime.now(UTC).replace(microsecond=0)
    rows = ["user_id,item_id,event,timestamp,quantity,price"]
    for user in range(160):
        every = 7 if user % 2 == 0 else 28
        for ago in range(user % 7, 210, every):
            rows.append(f"u{user},milk,purchase,{(now - timedelta(days=ago, hours=2)).isoformat()},1,2.00")
    rows += [f"u{n},mug,cart,{(now - timedelta(days=1)).isoformat()},1," for n in (8, 10)]
    refused = [("u1", "personalisation"), *(("u3", channel) for channel in ("email", "push", "sms"))]
    refusals = [f"{user},{purpose},false,{now.isoformat()}" for user, purpose in refused]
    consent = ["user_id,purpose,granted,timestamp", *refusals]
    tables = {"items": [*ITEMS, "milk,Oat milk,food > drinks,2.00"], "events": rows, "consent": consent}
    return loaded(folder, tables, currency="EUR", timezone="UTC", policy=Policy(group_floor=3))


ITEMS = ["item_id,title,category,price", "mug,Blue mug,home > kitchen,9.00"]


def test_the_list_of_a_day(workspace: Path) -> None:
    with Workspace.open(workspace) as shop:
        listed = find_occasions(shop)
        key = shop.pseudonymiser()
        people = {p.user_id: p for p in listed.people}
        assert len(people) == len(listed.people)
        assert people[key.one("u8")].occasion is Occasion.ABANDONED and people[key.one("u8")].title == "Blue mug"
        assert key.one("u1") not in people and key.one("u3") not in people
        due = [p for p in listed.people if p.occasion is Occasion.REPLENISH]
        assert due and {p.title for p in due} == {"Oat milk"}
        assert all(p.probability >= 0.2 and "usually every 7 days" in p.reasons[0].text for p in due)
        assert listed.counts[Occasion.REPLENISH] == len(due)
        assert any(note.startswith("price_drop: ") for note in listed.notes)
        assert (workspace / MODEL_FILE).exists()
        learned = (workspace / MODEL_FILE).stat().st_mtime_ns
        assert find_occasions(shop).people == listed.people
        assert (workspace / MODEL_FILE).stat().st_mtime_ns == learned
        few = find_occasions(shop, size=3)
        assert len(few.people) == 3 and few.people == listed.people[:3]
        assert few.left_out["beyond_the_cut"] == len(listed.people) - 3


def test_the_global_holdout_and_recent_contacts_are_left_out(workspace: Path) -> None:
    with overridden({"experiments": {"holdout_share": 1.0}}), Workspace.open(workspace) as shop:
        listed = find_occasions(shop)
        assert not listed.people and listed.left_out["global_holdout"] > 10


def test_a_new_catalogue_brings_price_drops_and_arrivals(workspace: Path) -> None:
    with Workspace.open(workspace) as shop:
        load_lines(shop, "items", [*ITEMS, "milk,Oat milk,food > drinks,1.50", "soy,Soy milk,food > drinks,2.10"])
        listed = find_occasions(shop)
    by = {occasion: [p for p in listed.people if p.occasion is occasion] for occasion in listed.counts}
    assert len(by[Occasion.PRICE_DROP]) > 40 and not listed.notes
    assert "now at 1.50 instead of 2.00" in by[Occasion.PRICE_DROP][0].reasons[0].text
    with overridden({"occasions": {"order": ["new_arrival"]}}), Workspace.open(workspace) as shop:
        listed = find_occasions(shop)
    assert {p.title for p in listed.people} == {"Soy milk"}


def test_the_command(workspace: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command("occasions", "-w", str(workspace), "--json", "--csv", str(tmp_path / "day.csv"))
    assert code == 0, err
    document = json.loads(out)
    assert set(document) == {"date", "people", "counts", "left_out", "notes", "days"}
    first = document["people"][0]
    expected = {"user_id", "occasion", "item_id", "title", "probability", "channel", "reasons"}
    assert set(first) == expected and first["channel"] == "push"
    assert sum(document["counts"].values()) == len(document["people"])
    table = pl.read_csv(tmp_path / "day.csv")
    assert table.height == len(document["people"]) and table["occasion"][0] == first["occasion"]
    for day, message in (("tomorrow", "takes a day such as"), ("2999-01-01", "more than 7 days after")):
        code, _, err = command("occasions", "-w", str(workspace), "--on", day)
        assert code == 2 and message in err
    code, out, _ = command("occasions", "-w", str(workspace))
    assert code == 0 and "people" in out and "push" in out and "win back, welcome: anything" in out
    code, out, _ = command("occasions", "-w", str(workspace), "--locale", "zh", "--json")
    assert code == 0 and ("现价" in out or "通常每" in out)


def test_an_earlier_day_is_told_as_its_morning_would_have(workspace: Path) -> None:
    with Workspace.open(workspace) as shop:
        today = find_occasions(shop).date
        then = find_occasions(shop, today - timedelta(days=3))
    assert then.date == today - timedelta(days=3) and isinstance(then.date, date)
    assert not then.counts.get(Occasion.ABANDONED)


def test_a_campaign_for_an_occasion_gives_each_person_their_own_item(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "due.toml"
    limits = "[limits]\nholdout = 0.4\n"
    file.write_text(f'id = "due"\nchannels = ["push"]\n[target]\noccasion = "replenish"\n{limits}')
    with Workspace.open(workspace) as shop:
        training = ScorerTrainingSettings(horizon_days=14, **QUICKLY)
        past = shop.gate().dataset(Purpose.MODEL_TRAINING)
        model = Recommender(past, ToyEncoder()).fit(training).model
        assert model is not None
        publish_recommender(shop, model, ToyEncoder())
        with overridden({"occasions": {"order": ["replenish"]}}), Workspace.open(workspace) as asked:
            due = {p.user_id for p in find_occasions(asked).people}
        plan = plan_campaign(shop, read_campaign(file))
        reach = count_reachable(shop, open_recommender(shop, everybody=True), read_campaign(file), FigureGate(shop))
        today = find_occasions(shop).date
        christmas = date(today.year + ((today.month, today.day) > (12, 14)), 12, 25)
        of_day = {}
        for days in (-10, 10):  # before the day, and when it is past
            send = f"{christmas + timedelta(days=days)}T09:00:00Z"
            target = 'day = "christmas"\nitems = ["milk"]'
            file.write_text(f'id = "noel{days}"\nchannels = ["push"]\nsend = {send}\n[target]\n{target}\n')
            of_day[days] = plan_campaign(shop, read_campaign(file))
    assert of_day[-10].texts and all("Christmas" in text.text for text in of_day[-10].texts)
    assert any("25 December" in text.text for text in of_day[-10].texts)
    assert not any(note.rule == DAY_RULE for text in of_day[-10].texts for note in text.warnings)
    for text in of_day[10].texts:
        assert [note.message for note in text.warnings if note.rule == DAY_RULE] == [
            f"Christmas is on {christmas}, 10 days before the text goes out; send it nearer to the day"
        ]
    assert {p.user_id for p in plan.people} == due and plan.addressed and plan.held_out
    assert {p.item_id for p in plan.people} == {"milk"} and all(p.probability >= 0.2 for p in plan.people)
    assert "no_occasion" in plan.excluded and "no_occasion" in reach.excluded
    if None not in reach.excluded.values():  # a small group is not told
        assert abs((reach.reachable or 0) + sum(n or 0 for n in reach.excluded.values()) - 160) <= 6 * 3


@pytest.mark.parametrize(("target", "limits", "message"), table("occasions", "campaigns that cannot be"))
def test_campaigns_that_cannot_be(tmp_path: Path, target: str, limits: str, message: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'id = "c"\nchannels = ["push"]\n[target]\n{target}\n[limits]\n{limits}\n')
    with pytest.raises(DataError, match=message):
        read_campaign(file)


def test_an_occasion_without_its_data_is_said_so(tmp_path: Path) -> None:
    recommender = Recommender(weekly_world(people=20), ToyEncoder())
    no_views = pytest.raises(DataError, match="no views and no carts")
    with Workspace.create(tmp_path / "bare", encoder="toy") as shop, no_views:
        occasion_target(shop, recommender, Occasion.ABANDONED)
