"""A person as text: I, B and H, one fact a line, within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from recllm.schema import Encoder, HistoryLine, Profile
from recllm.text.injection import neutralise
from recllm.text.items import ATTRIBUTE_CHARS, CATEGORY_CHARS, item_names
from recllm.text.templates import Prompts, clean

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


def user_texts(profile: Profile, items: pl.DataFrame, locale: str = "en") -> UserTexts:
    """The three texts of one person; see `profile_texts`."""
    return profile_texts([profile], items, locale)[0]


def profile_texts(
    profiles: Sequence[Profile],
    items: pl.DataFrame,
    locale: str = "en",
    *,
    encoder: Encoder | None = None,
    budget: int | None = None,
    max_lines: int = MAX_LINES,
) -> list[UserTexts]:
    """The texts of each person, with at most `max_lines` history lines in each part.

    With an `encoder`, each part has at most `budget` of its tokens (its own limit when None): whole lines are dropped
    from the end, where the lightest stand, and never cut. `items` are the dataset's; an unknown item gives no line.
    """
    prompts = Prompts.load()
    item_ids = {line.item_id for profile in profiles for line in (*profile.purchases, *profile.browsing)}
    rows = items.filter(items["item_id"].is_in(list(item_ids)))
    names = dict(zip(rows["item_id"].to_list(), item_names(rows, locale), strict=True))
    parts: list[list[str]] = []
    for profile in profiles:
        basics = _basics(profile)
        purchases = chain(_favourites(profile), _history("purchases", profile.purchases[:max_lines], names))
        browsing = _history("browsing", profile.browsing[:max_lines], names)
        for lines in (basics, purchases, browsing):
            parts.append([prompts.template(name, locale).render(values) for name, values in lines])
    texts = ["\n".join(lines) for lines in parts]
    if encoder is not None:
        texts = fit(parts, encoder.count_tokens, encoder.max_tokens if budget is None else budget)
    return [
        UserTexts(basics=basics, purchases=purchases, browsing=browsing)
        for basics, purchases, browsing in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]


Lines = Iterator[tuple[str, dict[str, object]]]
"""(template, its values) of each line, the most telling first."""


def _basics(profile: Profile) -> Lines:
    for name, answer in profile.basics.items():
        if value := neutralise(answer, max_chars=ATTRIBUTE_CHARS):
            yield "user_basics", {"name": clean(name.replace("_", " "), ATTRIBUTE_CHARS), "value": value}


def _favourites(profile: Profile) -> Lines:
    categories = [clean(share.name, CATEGORY_CHARS) for share in profile.favourite_categories[:FAVOURITES]]
    brands = [neutralise(s.name, max_chars=CATEGORY_CHARS) for s in profile.favourite_brands[:FAVOURITES]]
    for template, names in (("user_purchases.categories", categories), ("user_purchases.brands", brands)):
        if any(names):
            yield template, {"names": [name for name in names if name]}
    if profile.price_band is not None:
        yield "user_purchases.prices", dict(zip(("low", "middle", "high"), profile.price_band, strict=True))


def _history(part: str, lines: Sequence[HistoryLine], names: Mapping[str, str]) -> Lines:
    for line in lines:
        if line.item_id in names:
            values: dict[str, object] = {
                "item": names[line.item_id],
                "count": line.count,
                "days_since": line.days_since,
            }
            if part == "purchases":
                values["interval_days"] = line.interval_days
            else:
                values["action"] = line.action.value
            yield f"user_{part}.line", values


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
