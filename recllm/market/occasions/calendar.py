"""Days of the calendar that shops write for, with their dates in any year.

upcoming_days(settings, date(2025, 12, 1))[0]      # ComingDay(christmas, 2025-12-25)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from babel.core import get_global
from dateutil.easter import easter
from dateutil.relativedelta import MO, SU, TH, relativedelta

from recllm.base.settings import Settings
from recllm.base.words.sentences import language

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DayProfile:
    """What is known of a day."""

    names: Mapping[str, str]
    """Language -> name."""
    date_in: Callable[[int, str], date]
    """(year, country) -> date."""
    write_before: int
    """Days before it that its messages go out."""
    about: str = ""
    """Goods that people buy for it, in the language of the shops that have it; "" where it is about offers."""

    is_season: bool = False
    """Whether what is bought for it goes on to be bought after its date."""

    @property
    def is_sale(self) -> bool:
        """Whether the day is about offers, so that there is nothing to say without one."""
        return not self.about


@dataclass(frozen=True, slots=True, kw_only=True)
class ComingDay:
    """A day with its date."""

    day: CalendarDay
    on: date


# --- dates -----------------------------------------------------------------------------------------------------------

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


def _black_friday(year: int, _: str) -> date:
    return shifted(date(year, 11, 1), relativedelta(weekday=TH(4))) + timedelta(days=1)


def _back_to_school(year: int, country: str) -> date:
    if country == "US":  # the week before Labor Day
        return shifted(date(year, 9, 1), relativedelta(weekday=MO(1))) - timedelta(days=7)
    return date(year, 2, 1) if country in _SOUTHERN else date(year, 9, 1)


def _summer(year: int, country: str) -> date:
    return date(year, 12, 21) if country in _SOUTHERN else date(year, 6, 21)


def _names(english: str, chinese: str) -> Mapping[str, str]:
    return {"en": english, "zh": chinese}


WESTERN_DAYS: Mapping[CalendarDay, DayProfile] = {
    CalendarDay.CHRISTMAS: DayProfile(
        names=_names("Christmas", "圣诞"),
        date_in=_fixed(12, 25),
        write_before=18,
        about="Christmas gifts, decorations, wrapping paper, cookies",
    ),
    CalendarDay.BLACK_FRIDAY: DayProfile(
        names=_names("Black Friday", "黑色星期五"), date_in=_black_friday, write_before=2
    ),
    CalendarDay.VALENTINES: DayProfile(
        names=_names("Valentine's Day", "情人节"),
        date_in=_fixed(2, 14),
        write_before=10,
        about="Valentine's Day chocolate, candy, flowers and cards",
    ),
    CalendarDay.MOTHERS_DAY: DayProfile(
        names=_names("Mother's Day", "母亲节"),
        date_in=mothers_day,
        write_before=10,
        about="Mother's Day gifts, flowers, cards, jewellery, skin care",
    ),
    CalendarDay.EASTER: DayProfile(
        names=_names("Easter", "复活节"),
        date_in=easter_sunday,
        write_before=10,
        about="Easter eggs, chocolate bunnies, candy",
    ),
    CalendarDay.BACK_TO_SCHOOL: DayProfile(
        names=_names("back to school", "开学"),
        date_in=_back_to_school,
        write_before=14,
        about="back to school pens, notebooks, school bags, lunch boxes",
        is_season=True,
    ),
    CalendarDay.SUMMER: DayProfile(
        names=_names("summer", "夏天"),
        date_in=_summer,
        write_before=10,
        about="summer barbecue, picnic, ice cream, iced tea, sun cream",
        is_season=True,
    ),
}
CHINESE_DAYS: Mapping[CalendarDay, DayProfile] = {
    CalendarDay.NEW_YEAR_GOODS: DayProfile(
        names=_names("New Year shopping festival", "年货节"), date_in=_lunar(12, 8), write_before=2
    ),
    CalendarDay.SPRING_FESTIVAL: DayProfile(
        names=_names("Chinese New Year", "春节"),
        date_in=_lunar(1, 1),
        write_before=14,
        about="春节年货 礼盒 坚果 糖果 茶叶 春联",
    ),
    CalendarDay.LANTERN: DayProfile(
        names=_names("Lantern Festival", "元宵节"), date_in=_lunar(1, 15), write_before=5, about="元宵 汤圆 灯笼"
    ),
    CalendarDay.WOMENS_DAY: DayProfile(
        names=_names("Women's Day", "妇女节"),
        date_in=_fixed(3, 8),
        write_before=6,
        about="女士礼物 护肤 美妆 鲜花 丝巾",
    ),
    CalendarDay.MOTHERS_DAY: DayProfile(
        names=_names("Mother's Day", "母亲节"),
        date_in=mothers_day,
        write_before=8,
        about="母亲节礼物 鲜花 护肤 丝巾 茶具",
    ),
    CalendarDay.DRAGON_BOAT: DayProfile(
        names=_names("Dragon Boat Festival", "端午"),
        date_in=_lunar(5, 5),
        write_before=8,
        about="端午 粽子 咸鸭蛋 艾草 香囊",
    ),
    CalendarDay.MID_YEAR: DayProfile(names=_names("618", "618"), date_in=_fixed(6, 18), write_before=3),
    CalendarDay.QIXI: DayProfile(
        names=_names("Qixi", "七夕"), date_in=_lunar(7, 7), write_before=7, about="七夕礼物 巧克力 鲜花 首饰 香水"
    ),
    CalendarDay.BACK_TO_SCHOOL: DayProfile(
        names=_names("back to school", "开学"),
        date_in=_fixed(9, 1),
        write_before=12,
        about="开学 文具 书包 笔记本 台灯",
        is_season=True,
    ),
    CalendarDay.MID_AUTUMN: DayProfile(
        names=_names("Mid-Autumn Festival", "中秋"),
        date_in=_lunar(8, 15),
        write_before=12,
        about="中秋 月饼 茶叶 礼盒",
    ),
    CalendarDay.NATIONAL_DAY: DayProfile(
        names=_names("National Day", "国庆"),
        date_in=_fixed(10, 1),
        write_before=7,
        about="国庆假期 旅行 户外 行李箱 露营",
    ),
    CalendarDay.DOUBLE_11: DayProfile(names=_names("Singles' Day", "双11"), date_in=_fixed(11, 11), write_before=3),
    CalendarDay.DOUBLE_12: DayProfile(names=_names("Double 12", "双12"), date_in=_fixed(12, 12), write_before=2),
}
"""年货节 begins on the eighth of the last month, three weeks before the Spring Festival."""


# --- the days of a shop ----------------------------------------------------------------------------------------------


def country_of(settings: Settings) -> str:
    """Two capitals: of the language's region, else of the time zone, else of the currency; "EU" of the euro."""
    region = next((code for code in settings.locale.replace("_", "-").split("-")[1:] if len(code) == 2), "")
    territory = get_global("zone_territories").get(settings.timezone or "", "")
    territory = territory if territory.isalpha() else ""  # UTC is that of the world, 001
    return region.upper() or territory or (settings.currency or "")[:2]


def days_of(settings: Settings) -> Mapping[CalendarDay, DayProfile]:
    """The days that a shop has: by its language, and Singles' Day in English where the country has it."""
    if language(settings.locale) == "zh":
        return CHINESE_DAYS
    has_double_11 = country_of(settings) in ("CN", "HK", "MO", "MY", "SG", "TW")
    double_11 = {CalendarDay.DOUBLE_11: CHINESE_DAYS[CalendarDay.DOUBLE_11]} if has_double_11 else {}
    return {**WESTERN_DAYS, **double_11}


def profile_of(day: CalendarDay, settings: Settings) -> DayProfile:
    """Of the shop's own days, else of the others'."""
    return days_of(settings).get(day) or {**WESTERN_DAYS, **CHINESE_DAYS}[day]


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
