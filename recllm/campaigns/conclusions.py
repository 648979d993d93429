"""What a report's figures say and what they do not, as sentences in the shop's language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recllm.campaigns.effect import Interval
from recllm.campaigns.measures import Outcome
from recllm.text.templates import language

SENTENCES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "few_reached": "Fewer than {floor} people were reached and may be counted, so nothing is told about them.",
        "no_holdout": "No effect is told: nobody was held out. Who was reached was chosen because they were likely to "
        "buy, so that they did so more often than the rest is no effect of the campaign.",
        "few_held": "No effect is told: fewer than {floor} people were held out. That those reached bought more often "
        "than the rest is no effect of the campaign: they were chosen because they were likely to.",
        "more": "People who were reached bought more often than those whom the draw held out: {points}.",
        "less": "People who were reached bought less often than those whom the draw held out: {points}.",
        "unclear": "No effect on buying can be shown: {points}, which includes zero. With these numbers an effect of "
        "less than about {wide:.1f} percentage points cannot be told from chance.",
        "points": "{value:+.1f} percentage points, 95 % interval {low:+.1f} to {high:+.1f}",
        "open": "The window is not over: it ends on {end}, and the log on {until}.",
        "unknown": "Nothing is known of the window: it begins on {start}, and the log ends on {until}.",
        "not_counted": "{n:,} of those reached have not agreed to be counted.",
        "many": "Of many segments some differ by chance: each interval holds by itself, not all at once.",
        "rest": "The rest of the shop are other people and no comparison: they differ in more than the campaign.",
    },
    "zh": {
        "few_reached": "已触达且同意统计的不足 {floor} 人，因此不显示其数据。",
        "no_holdout": "不报告效果：没有留出对照组。被触达的人是因为更可能购买才被选中，他们买得多并不是活动的效果。",
        "few_held": "不报告效果：对照组不足 {floor} 人。被触达的人是因为更可能购买才被选中，"
        "他们比其余人买得多并不是活动的效果。",
        "more": "被触达的人比抽签留出的对照组更常购买：{points}。",
        "less": "被触达的人比抽签留出的对照组更少购买：{points}。",
        "unclear": "无法证明对购买的效果：{points}，区间包含零。"
        "以现有人数，小于约 {wide:.1f} 个百分点的效果无法与偶然区分。",
        "points": "{value:+.1f} 个百分点，95 % 区间 {low:+.1f} 至 {high:+.1f}",
        "open": "统计期尚未结束：截止 {end}，日志截至 {until}。",
        "unknown": "统计期内尚无数据：从 {start} 开始，日志截至 {until}。",
        "not_counted": "已触达者中有 {n:,} 人未同意被统计。",
        "many": "人群很多时，总有一些出于偶然而不同：每个区间单独成立，而非同时成立。",
        "rest": "店内其余的人是另一些人，不是对照：差别不只在于活动。",
    },
}


def conclusions(found: Outcome, floor: int, locale: str) -> tuple[str, ...]:
    """floor: the fewest people that are told about. English where the language has no sentences."""
    said = SENTENCES.get(language(locale), SENTENCES["en"])
    return (*_on_effect(found, floor, said), *_on_doubts(found, said))


def _on_effect(found: Outcome, floor: int, said: Mapping[str, str]) -> Iterator[str]:
    if found.until <= found.start:
        yield said["unknown"].format(start=f"{found.start:%Y-%m-%d}", until=f"{found.until:%Y-%m-%d}")
    elif found.reached is None:
        yield said["few_reached"].format(floor=floor)
    elif found.effect is None:
        yield said["few_held" if found.planned_held else "no_holdout"].format(floor=floor)
    elif found.effect.tells:
        yield said["more" if found.effect.value > 0 else "less"].format(points=_points(found.effect, said))
    else:
        wide = 100 * max(found.effect.high - found.effect.value, found.effect.value - found.effect.low)
        yield said["unclear"].format(points=_points(found.effect, said), wide=wide)


def _on_doubts(found: Outcome, said: Mapping[str, str]) -> Iterator[str]:
    if found.start < found.until < found.end:
        yield said["open"].format(end=f"{found.end:%Y-%m-%d}", until=f"{found.until:%Y-%m-%d}")
    if found.not_counted:
        yield said["not_counted"].format(n=found.not_counted)
    if any(row.effect is not None for row in found.segments):
        yield said["many"]
    if found.reached is not None and found.rest is not None and found.effect is not None:
        yield said["rest"]


def _points(effect: Interval, said: Mapping[str, str]) -> str:
    return said["points"].format(value=100 * effect.value, low=100 * effect.low, high=100 * effect.high)
