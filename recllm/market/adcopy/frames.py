"""Frames: ad texts as data, `prompts/frames.LANGUAGE.toml`. Which of them hold for an item, a customer and an occasion,
and their parts with the facts filled in.

A frame is true by construction where its conditions hold. The check reads the filled text like any other.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from itertools import chain, pairwise, zip_longest
from math import gcd, prod
from pathlib import Path
from typing import Any

from recllm.base.errors import PromptError
from recllm.base.words.sentences import LANGUAGES
from recllm.market.adcopy.channels import Channel, channel_named, is_gsm7
from recllm.market.adcopy.lexicon import HAN_RUN, fold, pattern, table, word_class
from recllm.text.plurals import stem
from recllm.text.templates import Prompts

ANY = "any"
_SLOT = re.compile(r"\{([^{}]+)\}")
_LINK = pattern("frames.link")
"""A link in a template, with the words that only lead to it."""
_WORD = re.compile("[a-z]{4,}")

_OTHER_DAYS = (60.5, 120.5, 300.5)
"""Where the words for a time change besides the rows of the tables."""

_MOST_COMBINATIONS = 300
"""Texts of a frame that are compared."""

ORDINARY = frozenset({"consumable", "durable", "apparel", "one_off", "gift"})
_KEPT = {"durable", "apparel", "one_off"}
"""Kinds of goods that one purchase is enough of."""
REGRET_DAYS = 40
"""For so long the buyer of a thing that stays needs no second one, and may hear of no lower price."""
KINDS = ORDINARY | {"refill", "fuel", "gas", "chemical", "alcohol", "works"}
"""What goods are by their use."""

_TOLD_TWICE = {"subject": ("offer",), "title": ("offer",), "preheader": ("until", "code")}
"""Part -> facts that another part may state, too."""
_NAMES = ("item", "item.short", "short", "category", "with_item", "because", "brand", "offer")
"""Slots whose words may come in every part."""
_CONDITIONS = (("code",), ("min_spend", "min"))
"""Slots of what a customer has to do for an offer: no text leaves them out."""
_TERMS = (("until", "short_until"), ("excluded",), ("occasion", "festival"))
"""Slots of its other terms and its day: all stand in a text where the frame's words allow it."""
_FACTS = {
    fact: kinds.split()
    for facts, kinds in {
        "price single_price old_price saving": "price",
        "pays pay": "pays",
        "rhythm gap": "rhythm",
        "last since last_date lapsed away count n": "last",
        "until Until": "until",
        "offer.terms offer.short_terms offer.Short_terms": "until code",
        "offer zhe off": "offer",
        "offer.line offer.sms": "offer until code",
        "code": "code",
        "with_item because": "bought",
        "pack spec": "pack",
        "item.more item.More": "more",
    }.items()
    for fact in facts.split()
}
"""Slot, or the part before its dot -> kinds of facts, each stated once."""

Parts = Mapping[str, str]
"""Part of a channel -> its text."""


def is_kept(goods: frozenset[str], comes_back: bool | None, is_recent: bool) -> bool:
    """Whether goods stay; those of no known kind where customers do not come back for them, or may not have yet."""
    is_unknown = goods.isdisjoint(KINDS) and (comes_back is False or (comes_back is None and is_recent))
    return is_unknown or not goods.isdisjoint(_KEPT)


def is_used_up(goods: frozenset[str], comes_back: bool | None) -> bool:
    """Whether customers need more of goods: by the shop's purchases, else by their kind."""
    return not goods.isdisjoint(table("goods.toml")["consumed"]) if comes_back is None else comes_back


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One idea of a text, by the keys of its file."""

    id: str
    occasion: tuple[str, ...]
    reason: str
    good: tuple[str, ...] = ()
    """Kinds of goods that it fits; empty for all."""
    not_for: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """These goods get no frames but those that name them here."""
    number: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    offer: tuple[str, ...] = ()
    """Kinds of offer that it states; empty for a frame without an offer."""
    rank: int = 0
    """Of frames of one reason the highest come first."""
    voice: tuple[str, ...]
    channels: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Channel -> part -> its variants."""


@dataclass(frozen=True, eq=False)
class FrameFile:
    frames: tuple[Frame, ...]
    tables: Mapping[str, Any]
    """Wordings of rhythms, times and offers."""
    restricted: frozenset[str]
    """Kinds of goods that only frames which name them may speak of."""
    version: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What holds for one text: the facts as words, and what else frames ask for."""

    occasions: frozenset[str]
    reasons: tuple[str, ...]
    """Why the customer gets the item, the strongest first."""
    goods: frozenset[str]
    number: str
    offer: str
    """The kind of offer; "" for none."""
    conditions: frozenset[str]
    slots: Mapping[str, str]
    language: str = "en"
    voice: str = ""
    """Of the shop: plain, warm, playful or premium; "" for any."""

    def holds(self, condition: str) -> bool:
        prefix, _, value = condition.rpartition(":")
        if prefix == "not":
            return not self.holds(value)
        if prefix == "kind":
            return not self.goods.isdisjoint(value.split("|"))
        return any(condition in facts for facts in (self.conditions, self.slots, self.reasons, self.occasions))

    def allows(self, frame: Frame, restricted: frozenset[str]) -> bool:
        reserved = self.goods & restricted
        is_any_kind = self.goods.isdisjoint(KINDS) and ORDINARY.issubset(frame.good)  # of an item of no known kind
        has_offer = self.offer in frame.offer or (bool(self.offer) and ANY in frame.offer)
        return (
            (ANY in frame.occasion or not self.occasions.isdisjoint(frame.occasion))
            and frame.reason in self.reasons
            and (not frame.good or is_any_kind or not self.goods.isdisjoint(frame.good))
            and self.goods.isdisjoint(frame.not_for)
            and (not reserved or not reserved.isdisjoint(frame.only))
            and (not frame.only or bool(reserved))
            and (not frame.number or self.number in frame.number)
            and (has_offer if frame.offer else not self.offer)
            and (not self.voice or self.voice in frame.voice)
            and all(map(self.holds, frame.when))
        )


@cache
def frame_file(language: str) -> FrameFile:
    """Raises `PromptError` for a faulty file."""
    file = Path(Prompts.load().folder) / f"frames.{language}.toml"
    text = file.read_text(encoding="utf-8")
    try:
        tables = tomllib.loads(text)
        frames = tuple(read_frame(entry, tables) for entry in tables.pop("frame"))
        restricted = frozenset([*tables["unsaid"], *(kind for frame in frames for kind in frame.only)])
    except (ValueError, KeyError, TypeError) as error:
        raise PromptError(f"{file}: {error}") from error
    return FrameFile(frames, tables, restricted, f"frames.{language}-{sha256(text.encode()).hexdigest()[:8]}")


@cache
def wording_days() -> tuple[float, ...]:
    """Days at which the words for a time change, in one of the languages; from 0 on."""
    tables = [frame_file(language).tables for language in LANGUAGES]
    rows = [row for table in tables for name in ("rhythm", "span") for row in table[name]]
    return tuple(sorted({0, *_OTHER_DAYS, *(day for row in rows for day in (row["from"], row["to"] + 1))}))


def read_frame(entry: Mapping[str, Any], tables: Mapping[str, Any]) -> Frame:
    channels = {
        name: {slot: tuple(dict.fromkeys(v)) for slot, v in parts.items()}
        for name, parts in entry.items()
        if isinstance(parts, dict)
    }

    def shared(slot: str) -> tuple[str, ...]:
        """What frames without a part of their own say there: by the offer, the occasion, or a day of the calendar."""
        by_occasion: Mapping[str, Sequence[str]] = tables[f"{slot}s"]
        occasion = "offer" if entry.get("offer") else entry["occasion"][0]
        return tuple(by_occasion.get(occasion, by_occasion["day"]))

    push = channels.get("push")
    if push and ("email" in channels or "wechat" in channels):  # its own words, else a push's
        email = {"subject": push["title"], "body": push["body"], **channels.get("email", {})}
        channels["email"] = email if "preheader" in email else {**email, "preheader": shared("preheader")}
    for name, slot in (("email", "headline"), ("email", "button"), ("banner", "button")):
        if name in channels and slot not in channels[name]:
            channels[name][slot] = shared(slot)
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key not in channels
    }
    for name, parts in channels.items():
        if missing := [slot.name for slot in channel_named(name).slots if slot.name not in parts]:
            raise ValueError(f"the frame {entry['id']} has no {missing[0]} for {name}")
    return Frame(**fields, channels=channels)


@cache
def frame_phrases(language: str) -> tuple[str, ...]:
    """What frames say between slots, folded: two words or three Chinese characters at least, the longest first."""
    pieces: set[str] = set()
    for frame in frame_file(language).frames:
        for text in (t for parts in frame.channels.values() for variants in parts.values() for t in variants):
            for sentence in re.split(r"[\n.!?:;,，。：；！？、]", _SLOT.sub("\n", text)):
                piece = fold(sentence).strip()
                if len(piece.split()) > 1 or len(HAN_RUN.findall(piece)[:1] and piece) > 2:
                    pieces.add(piece)
    return tuple(sorted(pieces, key=len, reverse=True))


def frames_for(situation: Situation, channel: str, language: str) -> list[Frame]:
    """The frames that hold and have words for the channel, by reason, rank and occasion."""
    file = frame_file(language)
    usable = [f for f in file.frames if channel in f.channels and situation.allows(f, file.restricted)]
    if "any_day" not in situation.occasions:  # a day of the calendar: its own frames, else those of the offer alone
        usable = [f for f in usable if ANY not in f.occasion] or [f for f in usable if f.offer]
    order = {reason: n for n, reason in enumerate(situation.reasons)}
    return sorted(usable, key=lambda f: (order[f.reason], -f.rank, ANY in f.occasion))


def texts_of(frame: Frame, situation: Situation, channel: Channel, draw: int, used: Counter[str]) -> Iterator[Parts]:
    """The texts of a frame that fit the channel, those that say the least twice first, in unused words;
    `draw` orders equals. used: a part's text, or its `wording_of` -> texts of the campaign that have it."""
    filled = {name: _filled(variants, situation) for name, variants in frame.channels[channel.name].items()}
    parts = {name: list(texts) for name, texts in filled.items()}
    tags = parts.pop("tags", None)
    limits = {slot.name: slot for slot in channel.slots}

    def fits(name: str, text: str) -> bool:
        slot = limits.get(name)
        is_plain_sms = slot is not None and slot.counter == "sms" and situation.language == "en"
        return slot is None or (slot.fits(text) and (is_gsm7(text) or not is_plain_sms))

    fitting = {name: [text for text in texts if fits(name, text)] for name, texts in parts.items()}
    if not all(fitting.values()) or (tags is not None and len(tags) < 2):
        return
    slots = situation.slots if situation.offer else {}

    def states(text: Parts, of_offer: Sequence[Sequence[str]]) -> bool:
        folded = fold(" ".join(text.values())) if slots else ""
        stated_facts = (
            any(fold(slots[name]) in folded for name in names if name in slots)
            for names in of_offer
            if any(name in slots for name in names)
        )
        return all(stated_facts)

    if "headlines" in fitting:  # a search ad shows all of them, in any order
        headlines, descriptions = _rotated(fitting["headlines"], draw), _rotated(fitting["descriptions"], draw)
        ad = {"headlines": "\n".join(headlines[:15]), "descriptions": "\n".join(descriptions[:4])}
        if states(ad, _CONDITIONS):
            yield ad
        return
    total = prod(map(len, fitting.values()))
    step = max(1, round(total * 0.618))
    while gcd(step, total) != 1:  # visits every combination, and changes all parts at once
        step += 1
    names = " ".join(value for slot, value in situation.slots.items() if slot in _NAMES)
    named = content_stems(names, situation.language)
    wordings = {text: wording_of(text, situation) for texts in fitting.values() for text in texts}
    content = {
        text: content_stems(text, situation.language) - named | word_pairs(wording, situation.language)
        for text, wording in wordings.items()
    }
    facts = {
        (name, text): [fact for fact in filled[name][text] if fact not in _TOLD_TWICE.get(name, ())]
        for name, texts in fitting.items()
        for text in texts
    }
    times_used = {text: used[text] + used[wording] for text, wording in wordings.items()}
    least_used = {name: min(times_used[text] for text in texts) for name, texts in fitting.items()}
    ranked: list[tuple[int, Parts]] = []
    incomplete: list[Parts] = []
    for n in range(min(total, _MOST_COMBINATIONS)):
        combination, text = (draw + n * step) % total, {}
        for name, texts in fitting.items():
            combination, position = divmod(combination, len(texts))
            text[name] = texts[position]
        if repeats_itself(text, situation.language) or not states(text, _CONDITIONS):
            continue
        stated = [fact for pair in text.items() for fact in facts[pair]]
        words = [word for name, of_part in text.items() if name != "button" for word in content[of_part]]
        n_words_twice = (len(words) - len(set(words))) // (2 if situation.language == "zh" else 1)
        n_twice = (len(stated) - len(set(stated))) * 60 + n_words_twice  # more than used words cost
        n_twice -= 2 * ("pays" in stated)  # what a customer looks for
        n_twice += 4 * ("preheader" in text and not {"rhythm", "last", "bought", "offer"} & set(stated))
        heads = [content_stems(text.get(name, ""), situation.language) for name in ("preheader", "subject")]
        n_twice += 5 * bool(heads[0] and heads[0] <= heads[1])
        n_twice += sum(4 * min(3, times_used[text[name]] - lowest) for name, lowest in least_used.items())
        if tags:
            text["note"] = f"{text['note']}\n{' '.join(tags)}"
        if states(text, _TERMS):
            ranked.append((n_twice, text))
        else:
            incomplete.append(text)
    ranked.sort(key=lambda pair: pair[0])
    yield from [text for _, text in ranked] or incomplete


def wording_of(text: str, situation: Situation) -> str:
    """A text without the names in it, which texts about other items may share."""
    for slot in filter(situation.slots.get, _NAMES):
        name = situation.slots[slot]
        text = text.replace(name, "_").replace(capital(name), "_")
    return text


def _rotated(texts: Sequence[str], draw: int) -> list[str]:
    start = draw % len(texts)
    return [*texts[start:], *texts[:start]]


def _filled(variants: Sequence[str], situation: Situation) -> dict[str, set[str]]:
    """The variants that have a value for each slot, filled -> the facts that they state."""
    slots = situation.slots
    texts: dict[str, set[str]] = {}
    for variant in variants:
        if not situation.holds("stock_stated") and pattern("frames.in_stock").search(variant):
            continue
        if "link" not in slots:
            variant = _LINK.sub("", variant)
        names = _SLOT.findall(variant)
        values = [slot_text(name, slots) for name in names]
        if all(values) and not _tautological(variant, slots):
            between = _SLOT.split(variant)[::2]
            text = ""
            for piece in chain.from_iterable(zip_longest(between, values, fillvalue="")):
                runs_on = piece[:1].isdigit() and re.search("[A-Za-z]$", text)  # "Nike 8折", not "Nike8折"
                text += f" {piece}" if runs_on else piece
            text = pattern("frames.begins_with_from").sub("From", text.strip())
            if pattern("frames.no_from").search(text):
                continue
            texts[text] = {fact for name in names for fact in _FACTS.get(name, _FACTS.get(name.partition(".")[0], ()))}
    return texts


def slot_text(name: str, slots: Mapping[str, str]) -> str:
    """What stands in a slot, "" without a fact. "Until", "item.The" and "item.Cap" begin with a capital."""
    if name in slots:
        return slots[name]
    small = name.lower().removesuffix(".cap")
    return capital(slots.get(small, ""))


def capital(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def _tautological(variant: str, slots: Mapping[str, str]) -> bool:
    """True for a variant that would say one thing twice, such as a category next to a name with it."""
    things = {name.partition(".")[0] for name in _SLOT.findall(variant)}
    past = [slots[thing] for thing in ("since", "last") if thing in things]
    if "rhythm" in things and any(slots["rhythm"] in time for time in past):
        return True  # "you buy it every three weeks, and three weeks have passed this time"
    named = ("item", "short", "category", "with_item", "because", "first_item", "brand")
    values = [fold(slots[thing]) for thing in named if thing in things and thing in slots]
    if len(set(values)) < len(values):
        return True
    for clause in re.split("[，。：；？]|[,.:;?](?= |$)", variant):
        names = re.findall(r"{(item|short)\b", clause) if "{category" in clause else ()
        if any(fold(slots["category"]) in fold(slots[name]) for name in names):
            return True  # "the tea gift box, a gift box"
    return {"item", "with_item"} <= things and fold(slots["with_item"]) in fold(slots["item"])


def repeats_itself(text: Parts, language: str) -> bool:
    """True where two parts are the same, or a headline says what the subject or the line under it says."""
    if len(set(map(fold, text.values()))) < len(text):
        return True
    headline = content_stems(text.get("headline", ""), language)
    lines = [content_stems(text.get(name, ""), language) for name in ("subject", "title", "preheader")]
    if language == "en":
        body = content_stems(text.get("body", ""), language)
        return any(len(headline & line) >= 2 for line in lines) or bool(headline and headline <= body)
    return any(2 * len(headline & line) > min(len(headline), len(line)) for line in lines)


@lru_cache(maxsize=1 << 14)
def word_pairs(text: str, language: str) -> frozenset[str]:
    """English words next to each other; none of Chinese, whose stems are pairs."""
    words = re.findall("[a-z'_]+|[.,:;?]", text.lower()) if language == "en" else []
    return frozenset(f"{a} {b}" for a, b in pairwise(words) if a > "_" < b and max(len(a), len(b)) > 3)


@lru_cache(maxsize=1 << 14)
def content_stems(text: str, language: str) -> frozenset[str]:
    """Stems of the English words that say something, or pairs of Chinese characters."""
    if language == "zh":
        return frozenset(run[n : n + 2] for run in HAN_RUN.findall(text) for n in range(len(run) - 1))
    return frozenset(stem(word) for word in _WORD.findall(fold(text)) if word not in word_class("function"))
