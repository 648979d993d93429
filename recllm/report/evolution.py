"""The picture of how a person's interests moved: a page with SVG, or a PNG by matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recllm.errors import MissingExtraError, UsageError
from recllm.profiles.evolution import UNKNOWN, WITHHELD, Evolution, Period
from recllm.report.areas import Areas, colour, short, stacked

MOST_BANDS = 8
CJK_FONTS = (
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "msyh",
    "pingfang",
    "wqy",
    "simhei",
    "droidsansfallback",
    "cjk",
)
"""Parts of file names of fonts with Chinese characters, looked for in this order."""

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Interests over time",
        "purchases": "share of purchases",
        "browsing": "share of what was browsed",
        "drift": "drift",
        "chance": "drift by chance",
        "novelty": "new items",
        "other": "other",
        WITHHELD: "not shown",
        UNKNOWN: "unknown",
        "month": "by month",
        "quarter": "by quarter",
        "mass": "in stretches with equally many",
        "count": "number",
        "period": "period",
        "entered": "came",
        "left": "went",
        "told": "Drift is 1 - cosine between a period's purchases and the last one's; what chance alone would show "
        "is the dashed line. New items are those never taken before.",
        "none": "There is nothing to show yet.",
    },
    "zh": {
        "title": "兴趣随时间的变化",
        "purchases": "占购买的比例",
        "browsing": "占浏览的比例",
        "drift": "漂移",
        "chance": "随机水平的漂移",
        "novelty": "新商品",
        "other": "其他",
        WITHHELD: "不显示",
        UNKNOWN: "未知",
        "month": "按月",
        "quarter": "按季度",
        "mass": "按数量相等的时段",
        "count": "次数",
        "period": "时段",
        "entered": "新出现",
        "left": "消失",
        "told": "漂移 = 1 - 本时段与上一时段购买向量的余弦；虚线是纯随机也会出现的水平。新商品指此前从未买过的商品。",
        "none": "暂无可显示的内容。",
    },
}


def labels(locale: str) -> Mapping[str, str]:
    """The words of a language; English where there are none."""
    return WORDS.get(locale.split("-")[0].split("_")[0], WORDS["en"])


def evolution_areas(evolution: Evolution, locale: str = "en") -> Areas:
    """The heaviest interests of the shown periods as bands, largest at the bottom, the others together on top."""
    said, periods = labels(locale), evolution.periods
    weight = {n: sum(p.shares.get(n, 0.0) for p in periods) for n in evolution.interests}
    names = [n for n in sorted(weight, key=lambda n: -weight[n]) if weight[n] > 0]
    top = names if len(names) <= MOST_BANDS + 1 else names[:MOST_BANDS]
    bands = [(_said(n, said), [p.shares.get(n, 0.0) for p in periods]) for n in top]
    if len(top) < len(names):
        bands.append((said["other"], [sum(p.shares.get(n, 0.0) for n in names[len(top) :]) for p in periods]))
    return Areas(
        title=said["title"],
        columns=[period_name(p, evolution.by) for p in periods],
        bands=bands,
        rest=said["other"],
        line_name=said["drift"],
        line=[p.drift for p in periods],
        dashed_name=said["chance"],
        dashed=[p.drift_by_chance for p in periods],
    )


def period_name(period: Period, by: str) -> str:
    start = period.start
    if by == "quarter":
        return f"{start.year} Q{(start.month + 2) // 3}"
    return f"{start:%Y-%m}" if by == "month" else f"{start:%Y-%m-%d}"


def evolution_page(evolution: Evolution, *, name: str, locale: str = "en") -> str:
    """A self-contained page; `name` is what the person is called on it."""
    loader = PackageLoader("recllm.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    said = labels(locale)
    picture = stacked(evolution_areas(evolution, locale)) if evolution.periods else ""
    return environment.get_template("evolution.html.j2").render(
        evolution=evolution,
        name=name,
        said=said,
        lang=locale,
        interest=lambda n: _said(n, said),
        period_name=period_name,
        picture=Markup(picture),  # noqa: S704 - labels are escaped in areas
    )


def evolution_rows(evolution: Evolution, locale: str = "en") -> tuple[list[str], list[list[object]]]:
    """Header and one row per period, for a terminal."""
    said = labels(locale)
    header = ["period", "count", "drift", "chance", "novelty", "entered", "left"]
    rows: list[list[object]] = []
    for p in evolution.periods:
        names = [", ".join(_said(n, said) for n in group) for group in (p.entered, p.left)]
        numbers = [None if v is None else f"{v:.3f}" for v in (p.drift, p.drift_by_chance, p.novelty)]
        largest = ", ".join(f"{_said(n, said)} {share:.0%}" for n, share in list(p.shares.items())[:3])
        rows.append([period_name(p, evolution.by), p.purchases, *numbers, largest, *names])
    return [*(said[name] for name in header[:5]), said[evolution.what], *(said[name] for name in header[5:])], rows


def _said(name: str, said: Mapping[str, str]) -> str:
    """Names from the catalogue stay as they are; our own are said in the language."""
    return said[name] if name in (WITHHELD, UNKNOWN) else name


def write_png(evolution: Evolution, path: Path, *, name: str, locale: str = "en") -> str | None:
    """Draw to a PNG file; a remark when no installed font has the picture's characters. Needs the extra plots.

    Raises `UsageError` when there is nothing to draw.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    if not evolution.periods:
        raise UsageError("there are no purchases and nothing was browsed, so there is nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    areas, said = evolution_areas(evolution, locale), labels(locale)
    words = [name, *said.values(), *(n for n, _ in areas.bands)]
    font, remark = font_for("".join(words))
    with matplotlib.rc_context({"font.family": [*font, "DejaVu Sans"], "font.size": 10}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the remark says so
        figure = Figure(figsize=(11, 6.2), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, areas, f"{said['title']}: {name}", f"{said[evolution.what]}, {said[evolution.by]}")
        figure.savefig(path, format="png")
    return remark


def font_for(words: str) -> tuple[list[str], str | None]:
    """An installed font that has all the words' characters where the usual one does not, or a remark."""
    from matplotlib import font_manager

    wanted = {character for character in words if not character.isascii()}
    usual = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    if all(usual.get_char_index(ord(character)) for character in wanted):
        return [], None
    paths = font_manager.findSystemFonts()  # matplotlib's own list may be older than the fonts
    for hint in CJK_FONTS:
        fitting = [path for path in paths if hint in Path(path).name.lower()]
        for path in sorted(fitting, key=lambda path: ("regular" not in path.lower(), path)):
            font = font_manager.get_font(path)
            if all(font.get_char_index(ord(character)) for character in wanted):
                font_manager.fontManager.addfont(path)
                return [font.family_name], None
    return [], "no installed font has all the characters, so some are boxes in the PNG; use --html instead"


def _draw(figure: Any, areas: Areas, title: str, axis: str) -> None:
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    xs = list(range(len(areas.columns)))
    colours = [colour(areas, number) for number in range(len(areas.bands))]
    upper.stackplot(xs, *[shares for _, shares in areas.bands], colors=colours, alpha=0.85, linewidth=0)
    handles = [upper.collections[number] for number in range(len(areas.bands))][::-1]
    upper.legend(
        handles, [short(n) for n, _ in areas.bands][::-1], loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )
    upper.set(ylim=(0, 1), xlim=(0, max(len(xs) - 1, 1)), ylabel=axis)
    upper.set_title(title, loc="left", fontsize=13, fontweight="bold")
    upper.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for values, look in ((areas.line, {"color": "#b3261e", "marker": "o"}), (areas.dashed, {"color": "#8b96a3"})):
        pairs = [(x, v) for x, v in zip(xs, values, strict=True) if v is not None]
        name, dash = (areas.line_name, "-") if values is areas.line else (areas.dashed_name, "--")
        lower.plot(*zip(*pairs, strict=True) if pairs else ([], []), label=name, linestyle=dash, markersize=4, **look)
    lower.set(ylim=(0, None), ylabel=areas.line_name)
    lower.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    step = max(1, -(-len(xs) // 12))
    lower.set_xticks(xs[::-1][::step][::-1], areas.columns[::-1][::step][::-1])
    for part in (upper, lower):
        part.grid(axis="y", color="#dfe4ea")
        part.set_axisbelow(True)
        part.spines[["top", "right"]].set_visible(False)
