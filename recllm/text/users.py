"""A person as text: I, B and H, one fact a line, within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from recllm.schema import Encoder, Profile
from recllm.text.injection import neutralise
from recllm.text.items import ATTRIBUTE_CHARS, CATEGORY_CHARS, item_names
from recllm.text.templates import Prompts
from recllm.text.words import cleaner

if TYPE_CHECKING:
    import polars as pl

MAX_LINES = 40
FAVOURITES = 5
"""So many favourite categories, and brands, are named."""


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
    lines_of = _ProfileLines(prompts or Prompts.load(), locale, profiles, items)
    parts = [part for profile in profiles for part in lines_of(profile, max_lines)]
    texts = ["\n".join(lines) for lines in parts]
    if encoder is not None:
        texts = fit(parts, encoder.count_tokens, encoder.max_tokens if budget is None else budget)
    return [
        UserTexts(basics=basics, purchases=purchases, browsing=browsing)
        for basics, purchases, browsing in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]


class _ProfileLines:
    """What all lines of one call share: templates, and the names of the items that occur."""

    def __init__(self, prompts: Prompts, locale: str, profiles: Sequence[Profile], items: pl.DataFrame) -> None:
        self._clean = cleaner(prompts.short_forms())
        self._prompts, self._locale = prompts, locale
        item_ids = {line.item_id for profile in profiles for line in (*profile.purchases, *profile.browsing)}
        rows = items.filter(items["item_id"].is_in(list(item_ids)))
        self._names = dict(zip(rows["item_id"].to_list(), item_names(rows, locale, prompts=prompts), strict=True))

    def __call__(self, profile: Profile, max_lines: int) -> tuple[list[str], list[str], list[str]]:
        """The lines of I, B and H, the most telling first."""
        bought = [line for line in profile.purchases[:max_lines] if line.item_id in self._names]
        browsed = [line for line in profile.browsing[:max_lines] if line.item_id in self._names]
        purchases = [
            self._line(
                "user_purchases.line",
                item=self._names[line.item_id],
                count=line.count,
                interval_days=line.interval_days,
                days_since=line.days_since,
            )
            for line in bought
        ]
        browsing = [
            self._line(
                "user_browsing.line",
                item=self._names[line.item_id],
                action=line.action.value,
                count=line.count,
                days_since=line.days_since,
            )
            for line in browsed
        ]
        return list(self._basics(profile)), [*self._favourites(profile), *purchases], browsing

    def _basics(self, profile: Profile) -> Iterator[str]:
        for name, answer in profile.basics.items():
            value = neutralise(answer, max_chars=ATTRIBUTE_CHARS)
            if value:
                yield self._line("user_basics", name=self._clean(name.replace("_", " "), ATTRIBUTE_CHARS), value=value)

    def _favourites(self, profile: Profile) -> Iterator[str]:
        categories = [self._clean(s.name, CATEGORY_CHARS) for s in profile.favourite_categories[:FAVOURITES]]
        if any(categories):
            yield self._line("user_purchases.categories", names=[c for c in categories if c])
        brands = [neutralise(s.name, max_chars=CATEGORY_CHARS) for s in profile.favourite_brands[:FAVOURITES]]
        if any(brands):
            yield self._line("user_purchases.brands", names=[b for b in brands if b])
        if profile.price_band is not None:
            low, middle, high = profile.price_band
            yield self._line("user_purchases.prices", low=low, middle=middle, high=high)

    def _line(self, template: str, /, **values: object) -> str:
        return self._prompts.template(template, self._locale).render(values)


def fit(texts: Sequence[Sequence[str]], count_tokens: Callable[[Sequence[str]], list[int]], budget: int) -> list[str]:
    """Each text's longest run of first lines, joined by newlines, that has at most `budget` tokens.

    Lines are counted alone, once each, to guess how many fit; the joined texts are then counted, and the few that are
    still too long (tokenizers may split joined lines otherwise) lose lines until they fit: two or three calls in all.
    """
    distinct = list(dict.fromkeys(line for lines in texts for line in lines))
    frame, *alone = count_tokens(["", *distinct])
    cost = {line: max(tokens - frame, 0) for line, tokens in zip(distinct, alone, strict=True)}
    n_lines = []
    for lines in texts:
        running = accumulate((cost[line] for line in lines), initial=frame)
        n_lines.append(max(sum(total <= budget for total in running) - 1, 0))
    unchecked = [row for row, n in enumerate(n_lines) if n]
    while unchecked:
        counts = count_tokens(["\n".join(texts[row][: n_lines[row]]) for row in unchecked])
        too_long = [row for row, tokens in zip(unchecked, counts, strict=True) if tokens > budget]
        for row in too_long:
            n_lines[row] -= 1
        unchecked = [row for row in too_long if n_lines[row]]
    return ["\n".join(lines[:n]) for lines, n in zip(texts, n_lines, strict=True)]
