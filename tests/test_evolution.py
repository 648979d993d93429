"""A person who moves from tea to coffee, and people who do not: the movement as data and as a picture."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from recllm.base.charts import AreaChart, svg
from recllm.base.errors import UsageError
from recllm.base.policy import Policy
from recllm.doors.report.people import evolution_chart, evolution_rows
from recllm.learn.profiles.evolution import WITHHELD, evolve
from recllm.shop.data.dataset import DAY, Dataset

JANUARY = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
KINDS = ("tea", "coffee", "mugs")


def items(category: bool = True) -> pl.DataFrame:
    rows = [
        (f"{kind}{i}", f"{kind} number {i}", ["food", kind] if category else None) for kind in KINDS for i in range(8)
    ]
    return pl.DataFrame(
        rows, schema={"item_id": pl.String, "title": pl.String, "category": pl.List(pl.String)}, orient="row"
    )


def world(*people: list[tuple[str, float]], category: bool = True, kind: str = "purchase") -> Dataset:
    """Each person is a list of (item, days after 1 January 2024)."""
    rows = [(f"u{u}", item, int(JANUARY + day * DAY), kind) for u, one in enumerate(people) for item, day in one]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "event"], orient="row")
    return Dataset.construct(events, items=items(category), as_of=JANUARY + 366 * DAY)


def vectors(dataset: Dataset) -> np.ndarray:
    """Items of one kind lie near each other, the kinds at right angles."""
    rng = np.random.default_rng(0)
    axis = [KINDS.index(i.rstrip("01234567")) for i in dataset.items["item_id"]]
    rows = np.eye(6)[axis] + 0.1 * rng.normal(size=(len(axis), 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def every(kind: str, first: int, last: int, step: float = 1.0) -> list[tuple[str, float]]:
    return [(f"{kind}{n % 8}", first + n * step) for n in range(int((last - first) / step))]


MOVER = every("tea", 0, 182) + every("coffee", 182, 366)
STEADY = every("tea", 0, 366)


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return world(MOVER, STEADY, [("tea0", 5.0)])


def test_from_tea_to_coffee(shop: Dataset) -> None:
    found = evolve(shop, 0, vectors(shop))
    assert found.by == "month" and len(found.periods) == 12 and found.what == "purchases"
    assert found.interests == ("coffee", "tea")
    shares = [p.shares for p in found.periods]
    assert shares[0] == {"tea": 1.0} and shares[-1] == {"coffee": 1.0}
    july = found.periods[6]  # day 182 is 1 July
    assert july.entered == ("coffee",) and july.left == ("tea",)
    assert july.drift == max(p.drift for p in found.periods[1:]) and july.drift > 0.9  # type: ignore[type-var, operator]
    assert july.novelty == 1.0 and found.periods[3].novelty == 0.0
    assert [p.entered for n, p in enumerate(found.periods) if n != 6] == [()] * 11
    assert found.periods[0].drift is None and found.periods[0].novelty is None


def test_drift_is_told_from_chance(shop: Dataset) -> None:
    mover, steady = (evolve(shop, user, vectors(shop)) for user in (0, 1))
    july = mover.periods[6]
    assert july.drift > 10 * july.drift_by_chance  # type: ignore[operator]
    assert steady.drift == pytest.approx(steady.drift_by_chance, abs=0.01)
    assert steady.periods[-1].entered == () and steady.periods[-1].left == ()


def test_nothing_after_the_time_is_read(shop: Dataset) -> None:
    cut = JANUARY + 182 * DAY
    early = evolve(shop, 0, vectors(shop), as_of=cut)
    assert early == evolve(shop.before(cut), 0, vectors(shop))
    assert early.interests == ("tea",) and early.periods[-1].end <= datetime.fromtimestamp(cut, UTC)


@pytest.mark.parametrize(("by", "periods"), [("month", 12), ("quarter", 4), ("mass", 12)])
def test_kinds_of_period(shop: Dataset, by: str, periods: int) -> None:
    found = evolve(shop, 0, vectors(shop), by=by)  # type: ignore[arg-type]
    assert found.by == by and len(found.periods) == periods
    assert sum(p.purchases for p in found.periods) == len(MOVER)
    assert all(a.end == b.start for a, b in pairwise(found.periods))
    if by == "mass":
        assert max(p.purchases for p in found.periods) - min(p.purchases for p in found.periods[:-1]) <= 1


def test_few_purchases_fall_back_to_equal_mass() -> None:
    shop = world(every("tea", 0, 100, 10) + every("coffee", 100, 200, 10))
    found = evolve(shop, 0, vectors(shop))
    assert found.by == "mass" and [p.purchases for p in found.periods] == [10, 10]
    assert found.periods[1].entered == ("coffee",) and found.periods[1].left == ("tea",)


def test_a_month_that_has_hardly_begun_belongs_to_the_one_before(shop: Dataset) -> None:
    found = evolve(shop, 0, vectors(shop), as_of=JANUARY + 184 * DAY)  # 3 July
    assert len(found.periods) == 6 and found.periods[-1].purchases == 32


def test_only_the_latest_periods_are_shown_and_the_past_still_counts(shop: Dataset) -> None:
    found = evolve(shop, 1, vectors(shop), most_periods=3)
    assert len(found.periods) == 3 and found.periods[0].drift is not None
    assert found.periods[0].novelty == 0.0 and found.periods[0].entered == ()


def test_nobody_and_a_browser() -> None:
    shop = world([("tea0", 1.0)], kind="view")
    found = evolve(shop, 0, vectors(shop))
    assert found.what == "browsing" and [p.shares for p in found.periods] == [{"tea": 1.0}]
    assert found.drift is None and found.novelty is None
    nobody = evolve(shop, 0, vectors(shop), as_of=JANUARY)
    assert nobody.periods == () and nobody.interests == ()


def test_without_categories_items_are_clustered() -> None:
    shop = world(MOVER, category=False)
    found = evolve(shop, 0, vectors(shop))
    assert len(found.interests) == 2 and {name.split()[0] for name in found.interests} == {"tea", "coffee"}
    assert len(found.periods[6].entered) == 1


def test_sensitive_categories_are_never_named() -> None:
    shop = world(MOVER)
    policy = Policy(sensitive_categories=frozenset({"coffee"}))
    found = evolve(shop, 0, vectors(shop), policy=policy)
    assert set(found.interests) == {"tea", WITHHELD}
    for locale, word in (("en", "not shown"), ("zh", "不显示")):
        shown = svg(evolution_chart(found, locale)) + str(evolution_rows(found, locale))
        assert "coffee" not in shown and word in shown


def test_wrong_use(shop: Dataset) -> None:
    for wrong in ({"by": "week"}, {"most_periods": 1}):
        with pytest.raises(UsageError):
            evolve(shop, 0, vectors(shop), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no user row 9"):
        evolve(shop, 9, vectors(shop))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_bands_are_whole_and_the_rest_is_one_band() -> None:
    kinds = [f"k{n}" for n in range(12)]
    rows = [(f"{k}-{i}", k, [k]) for k in kinds for i in range(3)]
    catalogue = pl.DataFrame(
        rows, schema={"item_id": pl.String, "title": pl.String, "category": pl.List(pl.String)}, orient="row"
    )
    bought = [
        (f"{k}-{i}", JANUARY + day * DAY)
        for day in range(0, 360, 4)
        for n, k in enumerate(kinds)
        for i in range(2)
        if n < 9 or i
    ]
    events = pl.DataFrame([("u", i, t) for i, t in bought], schema=["user_id", "item_id", "timestamp"], orient="row")
    shop = Dataset.construct(events, items=catalogue)
    v = np.eye(shop.n_items, dtype=np.float32)
    areas = evolution_chart(evolve(shop, 0, v))
    assert len(areas.bands) == 9 and areas.bands[-1][0] == "other"
    np.testing.assert_allclose(np.sum([s for _, s in areas.bands], axis=0), 1)


def test_the_picture_escapes_and_names_what_it_shows(shop: Dataset) -> None:
    drawn = svg(evolution_chart(evolve(shop, 0, vectors(shop)), "zh"))
    for word in ("coffee 100%", "漂移", "2024-07", "随机水平"):
        assert word in drawn
    hostile = AreaChart(
        title='"><script>', axis="<u>", columns=["a", "b"], bands=[("<i>", [1, 1])], others="r", line_name="l",
        line=[None, 0.1], dashed_name="d", dashed=[None, None],
    )  # fmt: skip
    assert not [tag for tag in ("<script", "<i>", "<u>") if tag in svg(hostile)]


def test_labels_do_not_touch(shop: Dataset) -> None:
    bands = [(f"k{n}", [0.0] * 3) for n in range(8)] + [("k8", [1.0] * 3)]
    chart = AreaChart(
        title="t", axis="a", columns=["a", "b", "c"], bands=bands, others="", line_name="l", line=[None] * 3,
        dashed_name="d", dashed=[None] * 3,
    )  # fmt: skip
    heights = [float(y) for y in re.findall(r'y="([\d.]+)">k\d', svg(chart))]
    assert len(heights) == 9 and all(a - b >= 12 for a, b in pairwise(sorted(heights, reverse=True)))


def test_rows_of_a_table(shop: Dataset) -> None:
    header, rows = evolution_rows(evolve(shop, 0, vectors(shop)), "en")
    assert header[0] == "period" and len(rows) == 12 and all(len(r) == len(header) for r in rows)
    assert rows[6][-2:] == ["coffee", "tea"]
