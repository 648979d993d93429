"""Days of the calendar that shops write for, with their dates in any year.

upcoming_days(settings, date(2025, 12, 1))[0]      # ComingDay(christmas, 2025-12-25)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache

import numpy as np
import polars as pl
from babel.core import get_global
from dateutil.easter import easter
from dateutil.relativedelta import MO, SU, TH, relativedelta
from numpy.typing import NDArray

from recllm.base.schema import Action
from recllm.base.settings import Settings
from recllm.base.words.sentences import language
from recllm.market.adcopy.lexicon import phrase_pattern, table
from recllm.shop.data.dataset import DAY, Dataset, utc

DAYS_AHEAD = 45
"""Days that are listed before they come."""
SENSIBLE_DAYS = 60
"""A text for a day that is further ahead is too early."""


class CalendarDay(StrEnum):
    """A day of the calendar, by the name that frames and campaigns give it."""

    CHRISTMAS = "christmas"
    BLACK_FRIDAY = "black_friday"
    VALENTINES = "valentines"
    MOTHERS_DAY = "mothers_day"
    EASTER = "easter"
    BACK_TO_SCHOOL = "back_to_school"
    SUMMER = "summer"
    NEW_YEAR_GOODS = "new_year_goods"
    SPRING_FESTIVAL = "spring_festival"
    LANTERN = "lantern"
    WOMENS_DAY = "womens_day"
    DRAGON_BOAT = "dragon_boat"
    MID_YEAR = "618"
    QIXI = "qixi"
    MID_AUTUMN = "mid_autumn"
    NATIONAL_DAY = "national_day"
    DOUBLE_11 = "double_11"
    DOUBLE_12 = "double_12"


@dataclass(frozen=True, slots=True)
class DayProfile:
    """What is known of a day."""

    date_in: Callable[[int, str], date]
    """(year, country) -> date."""
    write_before: int
    """Days before it that its messages go out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComingDay:
    """A day with its date."""

    day: CalendarDay
    on: date


_SOUTHERN = frozenset(["AR", "AU", "BR", "CL", "NZ", "PE", "PY", "UY", "ZA"])
"""Countries with the summer in December."""
_ARAB = ("AE", "BH", "EG", "IQ", "JO", "KW", "LB", "OM", "PS", "QA", "SA", "SY", "YE")
_MOTHERS_DAYS: Mapping[str, relativedelta] = {
    **dict.fromkeys(["ES", "HU", "LT", "MZ", "PT", "RO"], relativedelta(month=5, day=1, weekday=SU(1))),
    **dict.fromkeys(["DZ", "MA", "MG", "SE", "TN"], relativedelta(month=5, day=31, weekday=SU(-1))),
    **dict.fromkeys(["GT", "MX", "SV"], relativedelta(month=5, day=10)),
    **dict.fromkeys(_ARAB, relativedelta(month=3, day=21)),
    "AR": relativedelta(month=10, day=1, weekday=SU(3)),
    "KR": relativedelta(month=5, day=8),
    "NO": relativedelta(month=2, day=1, weekday=SU(2)),
    "PL": relativedelta(month=5, day=26),
    "TH": relativedelta(month=8, day=12),
}
"""Where it is another day than the second Sunday of May."""


def shifted(day: date, shift: relativedelta) -> date:
    """E.g. the first Sunday from a day on: `relativedelta(weekday=SU(1))`."""
    result: date = day + shift
    return result


def easter_sunday(year: int, _: str = "") -> date:
    """Of the western churches."""
    result: date = easter(year)
    return result


def mothers_day(year: int, country: str) -> date:
    """Mothering Sunday in Britain and Ireland; in France never on Whit Sunday."""
    if country in ("GB", "IE"):
        return easter_sunday(year) - timedelta(days=21)
    if country == "FR":
        last = shifted(date(year, 5, 31), relativedelta(weekday=SU(-1)))
        return last if last != easter_sunday(year) + timedelta(days=49) else last + timedelta(days=7)
    return shifted(date(year, 1, 1), _MOTHERS_DAYS.get(country, relativedelta(month=5, day=1, weekday=SU(2))))


def _fixed(month: int, day: int) -> Callable[[int, str], date]:
    return lambda year, _: date(year, month, day)


def _lunar(month: int, day: int) -> Callable[[int, str], date]:
    """By the Chinese calendar; a day of the last month is that of the year before, and so lies in January."""

    def date_in(year: int, _: str) -> date:
        from lunar_python import Lunar

        solar = Lunar.fromYmd(year - (month == 12), month, day).getSolar()
        return date(solar.getYear(), solar.getMonth(), solar.getDay())

    return date_in


def black_friday(year: int, _: str) -> date:
    return shifted(date(year, 11, 1), relativedelta(weekday=TH(4))) + timedelta(days=1)


def back_to_school(year: int, country: str) -> date:
    if country == "US":  # the week before Labor Day
        return shifted(date(year, 9, 1), relativedelta(weekday=MO(1))) - timedelta(days=7)
    return date(year, 2, 1) if country in _SOUTHERN else date(year, 9, 1)


def summer(year: int, country: str) -> date:
    return date(year, 12, 21) if country in _SOUTHERN else date(year, 6, 21)


WESTERN_DAYS: Mapping[CalendarDay, DayProfile] = {
    CalendarDay.CHRISTMAS: DayProfile(_fixed(12, 25), 18),
    CalendarDay.BLACK_FRIDAY: DayProfile(black_friday, 2),
    CalendarDay.VALENTINES: DayProfile(_fixed(2, 14), 10),
    CalendarDay.MOTHERS_DAY: DayProfile(mothers_day, 10),
    CalendarDay.EASTER: DayProfile(easter_sunday, 10),
    CalendarDay.BACK_TO_SCHOOL: DayProfile(back_to_school, 14),
    CalendarDay.SUMMER: DayProfile(summer, 10),
}
CHINESE_DAYS: Mapping[CalendarDay, DayProfile] = {
    CalendarDay.NEW_YEAR_GOODS: DayProfile(_lunar(12, 8), 2),
    CalendarDay.SPRING_FESTIVAL: DayProfile(_lunar(1, 1), 14),
    CalendarDay.LANTERN: DayProfile(_lunar(1, 15), 5),
    CalendarDay.WOMENS_DAY: DayProfile(_fixed(3, 8), 6),
    CalendarDay.MOTHERS_DAY: DayProfile(mothers_day, 8),
    CalendarDay.DRAGON_BOAT: DayProfile(_lunar(5, 5), 8),
    CalendarDay.MID_YEAR: DayProfile(_fixed(6, 18), 3),
    CalendarDay.QIXI: DayProfile(_lunar(7, 7), 7),
    CalendarDay.BACK_TO_SCHOOL: DayProfile(_fixed(9, 1), 12),
    CalendarDay.MID_AUTUMN: DayProfile(_lunar(8, 15), 12),
    CalendarDay.NATIONAL_DAY: DayProfile(_fixed(10, 1), 7),
    CalendarDay.DOUBLE_11: DayProfile(_fixed(11, 11), 3),
    CalendarDay.DOUBLE_12: DayProfile(_fixed(12, 12), 2),
}
"""年货节 begins on the eighth of the last month, three weeks before the Spring Festival."""
SEASONS = (CalendarDay.BACK_TO_SCHOOL, CalendarDay.SUMMER)
"""What is bought for them goes on to be bought after their date."""


def countries_of(settings: Settings) -> tuple[str, ...]:
    """Two capitals each: of the language's region, the time zone and the currency; "EU" of the euro."""
    region = next((code for code in settings.locale.replace("_", "-").split("-")[1:] if len(code) == 2), "")
    territory = get_global("zone_territories").get(settings.timezone or "", "")
    territory = territory if territory.isalpha() else ""  # UTC is that of the world, 001
    return tuple(filter(None, (region.upper(), territory, (settings.currency or "")[:2])))


def country_of(settings: Settings) -> str:
    """The first of `countries_of`; "" where none is known."""
    return next(iter(countries_of(settings)), "")


def days_of(settings: Settings) -> Mapping[CalendarDay, DayProfile]:
    """By the shop's language, and Singles' Day in English where the country has it."""
    if language(settings.locale) == "zh":
        return CHINESE_DAYS
    has_double_11 = country_of(settings) in ("CN", "HK", "MO", "MY", "SG", "TW")
    double_11 = {CalendarDay.DOUBLE_11: CHINESE_DAYS[CalendarDay.DOUBLE_11]} if has_double_11 else {}
    return {**WESTERN_DAYS, **double_11}


def profile_of(day: CalendarDay, settings: Settings) -> DayProfile:
    """Of the shop's own days, else of the others'."""
    return days_of(settings).get(day) or {**WESTERN_DAYS, **CHINESE_DAYS}[day]


@cache
def day_words(kind: str) -> Mapping[str, re.Pattern[str]]:
    """Day -> what finds its words of a kind, see data/days.toml, in a text in small letters."""
    days = table("days.toml").items()
    return {day: shape for day, words in days if (shape := phrase_pattern(words.get(kind, ())))}


def day_names(day: CalendarDay) -> Mapping[str, str]:
    """Language -> name."""
    names: Mapping[str, str] = table("days.toml")[day]["name"]
    return names


def is_sale(day: CalendarDay) -> bool:
    """Whether the day is about offers, so that there is nothing to say without one."""
    return day not in day_words("kinds")


@lru_cache(maxsize=1 << 18)
def named_days(text: str) -> frozenset[str]:
    """Those of whose goods the text, in small letters, names one; kept, as a catalogue is asked for each day."""
    return frozenset(day for day, shape in day_words("goods").items() if shape.search(text))


def is_of_other_day(named: frozenset[str], day: CalendarDay) -> bool:
    """Whether an item that names these days is for none but others. A day of offers sells goods of all."""
    return not is_sale(day) and day not in named and not named.issubset(SEASONS)


def is_out_of_season(named: frozenset[str], settings: Settings, today: date) -> bool:
    """Whether an item that names these days is for days of which none comes soon: mooncakes in December."""
    days, yesterday = named & set(days_of(settings)) - set(SEASONS), today - timedelta(days=1)
    return bool(days) and days.isdisjoint(coming.day for coming in upcoming_days(settings, yesterday, SENSIBLE_DAYS))


def nearest_date(day: CalendarDay, settings: Settings, around: date) -> date:
    """The day's date that is nearest: of a day that is just past, the past one."""
    date_in, country = profile_of(day, settings).date_in, country_of(settings)
    return min((date_in(around.year + n, country) for n in (-1, 0, 1)), key=lambda on: abs(on - around))


def upcoming_days(settings: Settings, today: date, within: int = DAYS_AHEAD) -> list[ComingDay]:
    """The shop's days from tomorrow on, the next one first."""
    dates = {day: nearest_date(day, settings, today) for day in days_of(settings)}
    return [
        ComingDay(day=day, on=on)
        for day, on in sorted(dates.items(), key=lambda pair: pair[1])
        if 0 < (on - today).days <= within
    ]


SEASON_DAYS = 14
"""Days before a day in which its goods are bought, the day among them."""
LEAST_YEAR_DAYS = 330
"""A shorter log does not show how an item sells in the rest of the year."""
LEAST_BOUGHT, LEAST_LIFT, LEAST_FALL = 8, 2.5, 1.5
"""Of an item of the day: purchases before it, their share against that of all items in the item's category as well,
and purchases before against those after it. Without the last two, a promotion of those weeks would make one."""
FEW_BOUGHT, BY_CHANCE = 2, 0.1
"""Fewer purchases do where they are no chance: the expected number of the shop's items that would have them by it."""
_PRIOR = 20.0
"""Purchases that the category's share counts for."""


def season_lifts(dataset: Dataset, coming: ComingDay, settings: Settings) -> NDArray[np.float64]:
    """How much larger the share of each item's purchases, (n_items,), that lies before the day is than that of all
    items, smoothed towards its category's; 0 for items that are none of the day's, as all are without a whole year.
    """
    from scipy.special import pdtrc

    bought, profile = dataset.events.of(Action.PURCHASE), profile_of(coming.day, settings)
    if not len(bought) or np.ptp(bought.at) < LEAST_YEAR_DAYS * DAY:
        return np.zeros(dataset.n_items)
    first, weeks = int(bought.at.min()), SEASON_DAYS * DAY
    is_before, is_after = np.zeros(len(bought), bool), np.zeros(len(bought), bool)
    for year in range(utc(first).year, coming.on.year):
        last = profile.date_in(year, country_of(settings))
        end = int(datetime(last.year, last.month, last.day, tzinfo=UTC).timestamp()) + int(DAY)
        if first <= end - weeks and end <= dataset.as_of:
            is_before |= (bought.at >= end - weeks) & (bought.at < end)
            is_after |= (bought.at >= end) & (bought.at < end + weeks)
    if not is_before.any():
        return np.zeros(dataset.n_items)
    n_all, n_before, n_after = (
        np.bincount(bought.item[mask], minlength=dataset.n_items) for mask in (slice(None), is_before, is_after)
    )
    path = dataset.items["category"].list.join(" > ").fill_null("")
    share, group = float(is_before.mean()), path.rank("dense").cast(pl.Int64).to_numpy() - 1
    of_group = (np.bincount(group, n_before) + _PRIOR * share) / (np.bincount(group, n_all) + _PRIOR)
    lift = (n_before + _PRIOR * of_group[group]) / (n_all + _PRIOR) / share
    has_category = dataset.items["category"].list.len().fill_null(0).to_numpy() > 0
    of_category = np.where(has_category, of_group[group] / share, np.inf)
    # Poisson: as many purchases or more, where the item sells before the day as all items do
    by_chance = (n_all > 0).sum() * pdtrc(np.maximum(n_before - 1, 0), n_all * share)
    is_much = (n_before >= LEAST_BOUGHT) | ((n_before >= FEW_BOUGHT) & (by_chance <= BY_CHANCE))
    is_of_day = is_much & (np.minimum(lift, of_category) >= LEAST_LIFT)
    if coming.day not in SEASONS:
        is_of_day &= n_before >= LEAST_FALL * n_after
    return np.where(is_of_day, lift, 0.0)
