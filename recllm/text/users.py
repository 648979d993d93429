"""A person as text: I, B and H, one fact a line, within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from recllm.schema import Encoder, HistoryLine, Profile
from recllm.text.injection import neutralise
from recllm.text.items import ATTRIBUTE_CHARS, CATEGORY_CHARS, cleaner, item_names
from recllm.text.templates import Prompts

if TYPE_CHECKING:
    import polars as pl

MAX_LINES = 40
FAVOURITES = 5
"""So many favourite categories, and brands, are named."""

Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTexts:
    """The texts of I, B and H; "" for an empty part, which then has no vector either."""

    basics: str
    purchases: str
    browsing: str


def user_texts(
    profile: Profile,
    items: pl.DataFrame,
    locale: str = "en",
    *,
    encoder: Encoder | None = None,
    budget: int | None = None,
    max_lines: int = MAX_LINES,
    prompts: Prompts | None = None,
) -> UserTexts:
    """The three texts of one person; see `profile_texts`."""
    return profile_texts(
        [profile], items, locale, encoder=encoder, budget=budget, max_lines=max_lines, prompts=prompts
    )[0]


def profile_texts(
    profiles: Sequence[Profile],
    items: pl.DataFrame,
    locale: str = "en",
    *,
    encoder: Encoder | None = None,
    budget: int | None = None,
    max_lines: int = MAX_LINES,
    prompts: Prompts | None = None,
) -> list[UserTexts]:
    """The texts of each person, with at most `max_lines` history lines in each part.

    With an `encoder`, each part has at most `budget` of its tokens (its own limit when None): whole lines are dropped
    from the end, where the lightest stand, and never cut. `items` are the dataset's; an unknown item gives no line.
    """
    prompts = prompts or Prompts.load()
    speaker = _Speaker(prompts, locale, profiles, items)
    lines = [part for profile in profiles for part in speaker.parts(profile, max_lines)]
    texts = ["\n".join(part) for part in lines]
    if encoder is not None:
        texts = fit(lines, encoder.count_tokens, encoder.max_tokens if budget is None else budget)
    return [
        UserTexts(basics=basics, purchases=purchases, browsing=browsing)
        for basics, purchases, browsing in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]


class _Speaker:
    """What all lines of one call share: templates, and the names of the items that occur."""

    def __init__(self, prompts: Prompts, locale: str, profiles: Sequence[Profile], items: pl.DataFrame) -> None:
        self._clean = cleaner(prompts)
        self._template = {name: prompts.template(name, locale) for name in _NAMES}
        wanted = {line.item_id for p in profiles for line in (*p.purchases, *p.browsing)}
        known = items.filter(items["item_id"].is_in(list(wanted)))
        self._names = dict(zip(known["item_id"].to_list(), item_names(known, locale, prompts=prompts), strict=True))

    def parts(self, profile: Profile, max_lines: int) -> tuple[list[str], list[str], list[str]]:
        """The lines of I, B and H, the most telling first."""
        purchases = [*self._favourites(profile), *self._purchases(profile.purchases[:max_lines])]
        return list(self._basics(profile)), purchases, list(self._browsing(profile.browsing[:max_lines]))

    def _say(self, template: str, /, **values: object) -> str:
        return self._template[template].render(values)

    def _basics(self, profile: Profile) -> Iterator[str]:
        for name, value in profile.basics.items():
            told = neutralise(value, max_chars=ATTRIBUTE_CHARS)
            if told:
                yield self._say("user_basics", name=self._clean(name.replace("_", " "), ATTRIBUTE_CHARS), value=told)

    def _favourites(self, profile: Profile) -> Iterator[str]:
        categories = [self._clean(s.name, CATEGORY_CHARS) for s in profile.favourite_categories[:FAVOURITES]]
        if any(categories):
            yield self._say("user_purchases.categories", names=[c for c in categories if c])
        brands = [neutralise(s.name, max_chars=CATEGORY_CHARS) for s in profile.favourite_brands[:FAVOURITES]]
        if any(brands):
            yield self._say("user_purchases.brands", names=[b for b in brands if b])
        if profile.price_band is not None:
            low, middle, high = profile.price_band
            yield self._say("user_purchases.prices", low=low, middle=middle, high=high)

    def _purchases(self, lines: Sequence[HistoryLine]) -> Iterator[str]:
        for line in lines:
            if line.item_id in self._names:
                yield self._say(
                    "user_purchases.line",
                    item=self._names[line.item_id],
                    count=line.count,
                    interval_days=line.interval_days,
                    days_since=line.days_since,
                )

    def _browsing(self, lines: Sequence[HistoryLine]) -> Iterator[str]:
        for line in lines:
            if line.item_id in self._names:
                yield self._say(
                    "user_browsing.line",
                    item=self._names[line.item_id],
                    action=line.action.value,
                    count=line.count,
                    days_since=line.days_since,
                )


_NAMES = (
    "user_basics",
    "user_purchases.categories",
    "user_purchases.brands",
    "user_purchases.prices",
    "user_purchases.line",
    "user_browsing.line",
)


def fit(texts: Sequence[Sequence[str]], count_tokens: Count, budget: int) -> list[str]:
    """Each text's longest run of first lines, joined by newlines, that has at most `budget` tokens.

    Lines are counted alone, once each, to guess how many fit; the joined texts are then counted, and the few that are
    still too long (tokenizers may split joined lines otherwise) lose lines until they fit: two or three calls in all.
    """
    distinct = list(dict.fromkeys(line for lines in texts for line in lines))
    frame, *alone = count_tokens(["", *distinct])
    cost = {line: max(tokens - frame, 0) for line, tokens in zip(distinct, alone, strict=True)}
    kept = []
    for lines in texts:
        running = accumulate((cost[line] for line in lines), initial=frame)
        kept.append(max(sum(total <= budget for total in running) - 1, 0))
    open_rows = [row for row, n in enumerate(kept) if n]
    while open_rows:
        counts = count_tokens(["\n".join(texts[row][: kept[row]]) for row in open_rows])
        open_rows = [row for row, tokens in zip(open_rows, counts, strict=True) if tokens > budget]
        for row in open_rows:
            kept[row] -= 1
        open_rows = [row for row in open_rows if kept[row]]
    return ["\n".join(lines[:n]) for lines, n in zip(texts, kept, strict=True)]
