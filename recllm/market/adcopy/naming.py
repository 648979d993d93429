"""How a text calls an item: a name that a person would say, its short form, its grammar; and the kinds that it is of.

    naming("Fjellgard Barista Oat Drink 1 L", (), "en").name        # "Fjellgard Barista oat drink"
    goods_of(("Brook Down Jacket", "Clothing"))     # {"apparel", "clothing"}
    written_out("GRAPES WHITE 18 LB")               # "white grapes 18 lb"

A clean title is a name. A till's title is written out, and is a name where each of its words is a word that people
know; else its category stands for it, and else nothing is said of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from recllm.market.adcopy.frames import frame_file
from recllm.market.adcopy.lexicon import HAN_RUN, any_of, fold, is_known, pattern, table, word_class, words
from recllm.text.plurals import stem
from recllm.text.templates import Prompts, natural

_SHORT_CHARS = {"en": 30, "zh": 7}
_NAME_CHARS = {"en": 40, "zh": 14}
_WORD = re.compile(r"[^\W\d_]+(?:['’&-][^\W\d_]+)*")
_SORTING = ("needs", "products", "supplies", "additives", "sundries", "items")
_DANGLING = ("on", "in", "of", "with", "and", "for", "non", "the")
OTHER_SHELF = "other"
"""The shelf of an item that no list knows."""
_BRACKET = re.compile(r"(?<!\s)\s*\([^()]*\)")
_LETTERS = re.compile(r"[^\W\d_]+")
_FIRST_PART = re.compile(r" ?: ?| -+ ?|, ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    name: str = ""
    """As it stands inside a sentence; "" where nothing may be said."""
    short: str = ""
    """The thing with one word before it at most; "" where none is known."""
    number: str = "singular"
    """singular, plural, mass or title (of a book or film)."""
    level: Literal["clean", "till", "category"] = "category"
    """clean: the title is a name. till: a till's title, written out. category: the title says nothing."""
    size: str = ""
    """The pack: "500 ml"."""
    has_article: bool = False
    """Whether "a" or "the" stands before it: the lunch bag, but milk, and Emma."""


def naming(
    title: str,
    categories: tuple[str, ...],
    language: str,
    *,
    brand: str | None = None,
    titles: str = "goods",
    is_till: bool = False,
) -> Naming:
    """title: as of `sayable_facts`, or "". categories: from wide to narrow. titles: as `Domain.titles`.
    is_till: the title was written in capitals, as tills do."""
    title = pattern("naming.pictures").sub("", title).strip()
    if language == "en" and HAN_RUN.search(title):
        title = ""  # no check reads an English text around a Chinese name
    if titles != "goods":
        return Naming(name=title, short=title, number="title", level="clean" if title else "category")
    is_till = is_till or title.isupper()
    named = _chinese(title, categories, brand) if language == "zh" else _english(title, brand, is_till, not categories)
    if named.name or not categories:
        return named
    category = category_name(categories, language)
    number = _number(category) if language == "en" else "mass"
    return Naming(name=category, short=category, number=number)


@lru_cache(maxsize=1 << 14)
def category_name(categories: tuple[str, ...], language: str) -> str:
    """The narrowest category that a customer would say, in small letters; "" where there is none."""
    no_goods = _listed("no_goods")
    for category in reversed(categories):
        name = written_out(category).strip()
        if language == "zh":
            is_short = len(name) <= _SHORT_CHARS["zh"] and "/" not in name
            if HAN_RUN.search(name) and is_short and name not in no_goods:
                return name
            continue
        words = [word for word in _small(name, known_only=False).split() if fold(word) not in _listed("jargon")]
        name = " ".join(words)
        name = str(table("names.toml")["till"]["say"].get(name, name))
        is_clean = any(map(str.islower, category)) and not any(map(str.isdigit, name))
        if len(name) <= _SHORT_CHARS["en"] and (is_clean or _is_sayable(name)) and fold(name) not in no_goods:
            return name
    return ""


@lru_cache(maxsize=1 << 14)
def _english(title: str, brand: str | None, is_till: bool, is_alone: bool) -> Naming:
    if is_till:
        return _of_till(*name_and_size(title), is_alone)
    title, options = name_and_options(title, brand)
    name, size = name_and_size(title)
    size = size or next(filter(None, (name_and_size(f"Title {option}")[1] for option in options)), "")
    if pack := pattern("naming.pack").search(title):  # no text says "12 pack"
        name, size = title[: pack.start()].rstrip(" ,"), ""
    kind, _, thing = name.partition(": ")
    short_name = ""
    if thing and not thing.lower().startswith(("a ", "an ", "the ")):
        name = f"{thing} {kind.lower()}"
        short_name = f"{pattern('naming.thing_end').split(thing)[0]} {kind.lower()}"
    flavoured, flavours = (any_of(table("names.toml")["till"][entry]) for entry in ("flavoured", "flavours"))
    flavour = pattern("naming.flavour", FLAVOURED=flavoured, FLAVOURS=flavours).search(name)
    if flavour and is_known(name.split(" ")[0].lower()):  # no brand
        name = f"{flavour['flavour']} {flavour['thing']}"
    wearer = pattern("naming.wearer").search(name)
    small = name[: wearer.start()] if wearer else name
    if names_a_thing(small) and not pattern("naming.shade").search(small):
        small = _small(small, known_only=True, brand=brand)
    if len(small) > _NAME_CHARS["en"]:
        small = pattern("naming.cut").split(small)[0].strip()
        if len(small) > _NAME_CHARS["en"]:
            cut = small[: _NAME_CHARS["en"] + 1].rsplit(" ", 1)[0].removesuffix(" &").removesuffix(" and")
            small = cut if " " in cut else small[: _NAME_CHARS["en"]]
    if small.split(" ")[-1].lower() in table("names.toml")["words"]["pairs"]:
        small = f"{small}s"
    short = _short(_small(short_name, known_only=True, brand=brand) or small, brand)
    small = f"{wearer['wearer'].lower()} {small}" if wearer else small
    number = _number(short or small)
    container = pattern("naming.container").match(pack["pack"]) if pack else None
    if pack and container and number == "singular":  # the price is not of one gel
        holder, is_plain = container[0].lower(), all(map(is_known, small.lower().split(" ")))
        small = short = f"{holder} of {small.lower()}s" if is_plain else f"{small} {holder}"
    elif pack and container:
        size = pack["pack"].lower()
    return Naming(name=small, short=short, number=number, level="clean", size=size, has_article=True)


def name_and_options(title: str, brand: str | None = None) -> tuple[str, list[str]]:
    """A title without the options at its end, and these: "Beans - 250 g / Ground". Behind a dash may also be a name:
    "Loose Leaf Tea - Lapsang Souchong"."""
    match = pattern("naming.variant").search(title)
    head = title[: match.start()].rstrip(" ,-–—") if match else title
    if match is None or fold(head) == fold(brand or ""):
        return title, []
    tail = next(filter(None, match.groups())).strip(" /")
    options, words = re.split(r"\s/\s", tail), fold(tail).split()
    is_option = bool(match["bracket"]) or len(options) > 1 or not set(words).isdisjoint(word_class("clothing_sizes"))
    if match["options"]:
        is_option = is_option or is_size(tail) or fold(tail) in table("goods.toml")["finish"]
    elif match["variant"]:
        of_kind = {"for", *map(stem, fold(head).split())}  # "for two", or the cake of "Whole cake"
        is_phrase = " " in head and head.istitle() and names_a_thing(head) and not re.search(r"\s[A-Z]", tail)
        is_option |= is_phrase or len(words) == 1 or tail[0].isdigit() or not of_kind.isdisjoint(map(stem, words))
    return (head, options) if is_option else (title, [])


def names_a_thing(name: str) -> bool:
    return shelf((name,)) != OTHER_SHELF or any(stem(word.lower()) in stems_of_goods() for word in name.split(" "))


def _of_till(name: str, size: str, is_alone: bool) -> Naming:
    """is_alone: no category says what the item is."""
    words = [word for word in written_out(name).lower().split(" with ")[0].split() if word not in _listed("jargon")]
    if len(words) > 1 and words[-1] in ("dry", "frozen", "fresh", "canned", "raw", "whole"):  # noodles dry
        words = [words[-1], *words[:-1]]
    words, is_thing = _to_its_head(words) if is_alone else (words, False)
    name = " ".join(words).strip(" &-/.,")
    name = table("names.toml")["till"]["say"].get(name, name)
    # of waffles, pancakes and french toast it is not known which was bought
    is_none = fold(name) in _listed("no_goods") or any(sign in name for sign in (",", " and ", " & "))
    if is_none or not _is_sayable(name) or len(name) > _NAME_CHARS["en"]:
        return Naming()
    number, short = _number(name), _short(name, None)
    for words_of_name in table("names.toml")["till"]["proper"]:  # named after something: Granny Smith apples
        name, short = (text.replace(words_of_name.lower(), words_of_name) for text in (name, short))
    has_article = is_thing or (is_alone and number == "singular")
    return Naming(name=name, short=short, number=number, level="till", size=size, has_article=has_article)


def _to_its_head(words: Sequence[str]) -> tuple[list[str], bool]:
    """(the words up to that for the thing, none of its design: "lunch bag spaceboy design"; whether there is one)."""
    heads = stems_of_goods()
    ends = [n for n, word in enumerate(words) if n and stem(word) in heads and words[n + 1 : n + 2] != ["of"]]
    if not ends:
        return list(words), False
    end = next(n for n in ends if n + 1 not in ends)
    starts = [n for n in range(end - 1) if _is_sayable(" ".join(words[n : end + 1]))]
    # rather no rest of a phrase: scottie dog
    of_phrases = [n for n in starts if not n or words[n - 1].isdigit() or (is_known(words[n - 1]) and end - n > 1)]
    start = min(of_phrases or starts, default=end - 1)
    return list(words[start : end + 1]), True


@cache
def stems_of_goods(*lists: str) -> frozenset[str]:
    """Of the English words of lists of `data/goods.toml`; of those for things that end a name without any."""
    lists = lists or ("tools", "stays", "stays_alone", "used_up_alone")
    return frozenset(stem(word) for name in lists for word in table("goods.toml")[name] if word.isascii())


def _is_sayable(name: str) -> bool:
    """True where people know every word of a name in small letters."""
    words = _WORD.findall(name)
    is_cut = name.endswith((" and", " &")) or (words and words[0].lower() in _DANGLING)
    if is_cut or any(c in "-/." or c.isdigit() for c in name) or (words and words[-1].lower() in _SORTING):
        return False
    return bool(words) and all(
        is_known(piece) for word in words for piece in re.split(r"['’&-]", word.lower()) if piece not in ("", "s")
    )


@cache
def _listed(name: str) -> frozenset[str]:
    """One of the lists of `data/names.toml` on tills."""
    words = table("names.toml")["till"][name]
    return frozenset(words.split() if isinstance(words, str) else words)


def _small(name: str, *, known_only: bool, brand: str | None = None) -> str:
    """A name in title case inside a sentence: common words in small letters, but for the brand and "Z5". An unknown
    word, and those before it, may be a name: "Fjellgard Barista oat drink"."""
    words = name.split(" ")
    start = len(brand.split()) if brand and fold(name).startswith(fold(brand) + " ") else 0
    if known_only:
        unknown = [n for n, word in enumerate(words) if n >= start and word.istitle() and not is_known(word.lower())]
        if unknown:
            start = unknown[-1] + 1
            follows_number = start > 1 and any(map(str.isdigit, words[start - 1]))
            is_half = len(words) - start < 2 or start == 1  # "Merino Base layer", "Inflatable camp pillow"
            if is_half and not follows_number:
                return name
    capital = table("names.toml")["words"]["capital"]
    small = (word.lower() if word.istitle() and word.lower() not in capital else word for word in words[start:])
    return " ".join([*words[:start], *small])


def _short(name: str, brand: str | None) -> str:
    longest = _SHORT_CHARS["en"]
    bare = name[len(brand) :].strip() if brand and fold(name).startswith(fold(brand) + " ") else name
    bare = pattern("naming.thing_end").split(bare)[0].strip() or bare
    kind, *variety = pattern("naming.dash").split(bare, maxsplit=1)
    if variety and len(bare) > longest:  # no "Lake District NW" of a map
        bare = kind if any(map(is_known, fold(variety[0]).split())) else variety[0]
    bare = bare if len(bare) <= longest else pattern("naming.quoted").sub("", bare)
    words = bare.split(" ")
    for n in (len(words), 3, 2, 1):
        short = " ".join(words[-n:])
        is_cut = n < len(words) and (" of " in bare or short.lower().startswith(("and ", "& ", "or ", "free ")))
        if len(short) <= longest and (short[:1].isalpha() or short == name) and not is_cut:
            return short
    return ""


def _number(name: str) -> str:
    name = pattern("naming.quoted").sub("", pattern("naming.dash").split(name)[0])
    words = _WORD.findall(name.split(" with ")[0].split(" for ")[0].split(" in ")[0])
    no_heads = (*table("goods.toml")["finish"], *table("names.toml")["words"]["numbered"])
    head = ([word for word in words if word.lower() not in no_heads] or words or [""])[-1].lower()
    _, joined, last = name.replace(" & ", " and ").rpartition(" and ")
    if (joined and " " not in last) or head != stem(head):  # hat and scarf, but a walnut and raisin loaf
        return "plural"
    return "mass" if head in _listed("mass") else "singular"


@lru_cache(maxsize=1 << 14)
def _chinese(title: str, categories: tuple[str, ...], brand: str | None) -> Naming:
    name, size = pattern("naming.brackets").sub("", pattern("naming.codes").sub("", title)).strip(), ""
    head, *words = name.split(" ")
    if words and any(c.isdigit() for c in words[-1]):  # 豆腐猫砂 6L*4袋
        name, size = " ".join([head, *words[:-1]]), words[-1]
    else:
        name, size = name_and_size(name)
    if not size and (match := pattern("naming.latin_size").search(name)) and match.start():
        name, size = name[: match.start()], pattern("naming.litre").sub("L", match[0].lower().replace("*", "×"))
    name = pattern("naming.set_holds_zh").sub("", pattern("naming.season").sub("", name))
    for word in table("names.toml")["till"]["praise_zh"]:
        name = name.replace(word, "")
    name = name.strip(" -_/|·,，?？!！")
    is_cut = title.count(" ") > 3  # into words
    first, _, last = name.rpartition(" ")
    if not is_cut and len(name) > _NAME_CHARS["zh"] and not any(noun in last for noun in _nouns_zh()):
        name = first or name  # 麦富迪 全价成犬粮 中大型犬通用
    head, leaf = name.split(" ")[0], categories[-1] if categories else ""
    short = next((noun for noun in _nouns_zh() if head.endswith(noun) and (len(noun) > 1 or len(head) == 1)), "")
    says_no_more = not leaf or short in leaf or leaf in short  # 红茶, for the 宜兴红茶 of the category 红茶
    is_name = 2 < len(head) <= _SHORT_CHARS["zh"] and head.isalpha()
    short = head if is_name and (says_no_more or not short) else short
    nouns = (noun for noun in _nouns_zh() if noun in name)
    short = short or max(nouns, key=lambda noun: (len(noun), -name.find(noun)), default="")
    if not short and leaf and HAN_RUN.search(leaf) and len(leaf) <= _SHORT_CHARS["zh"] and leaf in name:
        short = leaf
    if not HAN_RUN.search(name):
        return Naming()
    if short and len(name) > _NAME_CHARS["zh"]:
        at = name.find(short)
        name = name[max(0, at - 4) : at + len(short)].split(" ")[-1]
    if len(name) > _NAME_CHARS["zh"]:
        return Naming()
    short = short or (name if len(name) <= _SHORT_CHARS["zh"] and not name[-1].isascii() else "")
    if variety := pattern("naming.variety_zh").search(name):  # 针织开衫 女款, 成猫粮 鸡肉味
        name = f"{variety[2]}{variety[1]}"
    name = natural(name, {}) if is_cut else name
    return Naming(name=name, short=short, number="mass", level="clean", size=size.strip())


@cache
def _nouns_zh() -> tuple[str, ...]:
    words = {word for shelf in table("shelves.toml")["shelf"] for word in shelf["words"] if not word.isascii()}
    of_measures = {noun for nouns in frame_file("zh").tables["measure"].values() for noun in nouns}
    nouns = (of_measures | {word for word in words if len(word) > 1}) - _listed("no_goods")
    return tuple(sorted(nouns, key=lambda noun: (-len(noun), noun)))


def goods_of(names: Iterable[str]) -> frozenset[str]:
    """The kinds of an item by `data/goods.toml`: use (gift), shelf, what law or taste binds (fuel)."""
    texts = tuple(names)
    of_shelf, goods = shelf(texts), table("goods.toml")
    kinds = {of_shelf, *goods["shelves"].get(of_shelf, ()), *_kinds_in(" / ".join(texts))}
    is_durable = "durable" in kinds or (bool(texts) and _stays(texts[0], is_alone=len(texts) == 1))
    if not kinds.isdisjoint(goods["consumed"]):
        kinds = kinds - {"durable", "apparel"} | {"consumable"}
    is_of_consumed = not _kinds_in(" / ".join(texts[1:])).isdisjoint(goods["consumed"]) and not _stays(texts[-1])
    if is_durable and not (is_of_consumed and not _stays(texts[0], "tools")):
        kinds = kinds - {"consumable", *goods["consumed"]} | {"durable"}
    return frozenset(kinds)


@lru_cache(maxsize=1 << 14)
def _kinds_in(text: str) -> frozenset[str]:
    reading = pattern("naming.other_kind").sub(" ", fold(text))
    tokens = {stem(word) for word in _WORD.findall(reading)}
    return frozenset(
        kind
        for kind, (stems, phrases) in _words_of_kinds().items()
        if not stems.isdisjoint(tokens) or any(phrase in reading for phrase in phrases)
    )


@cache
def _words_of_kinds() -> Mapping[str, tuple[frozenset[str], tuple[str, ...]]]:
    """Kind of goods -> stems of English words, and phrases."""
    kinds = table("goods.toml")["words"]
    words = {kind: {w for w in listed if w.isascii() and " " not in w} for kind, listed in kinds.items()}
    return {kind: (frozenset(map(stem, words[kind])), tuple({*listed} - words[kind])) for kind, listed in kinds.items()}


@lru_cache(maxsize=1 << 14)
def _stays(title: str, *lists: str, is_alone: bool = False) -> bool:
    """True for a thing that stays, whatever it is for: a popcorn holder, a hot water bottle."""
    goods, title = table("goods.toml"), pattern("naming.used_up").sub("", title)
    lists = lists or ("tools", "stays", *(("stays_alone",) if is_alone else ()))
    ends = tuple(word for name in lists for word in goods[name] if not word.isascii())
    han = [word for word in _WORD.findall(title) if not word.isascii()]
    for word in reversed(han):  # 紫砂壶 西施
        if pattern("naming.set_zh").sub("", word).endswith(ends):
            return True
        if _kinds_in(word) or shelf((word,)) != OTHER_SHELF:
            return False
    words = _WORD.findall(fold(pattern("naming.thing_end").split(name_and_size(written_out(title))[0])[0]))
    words = _to_its_head(words)[0] if is_alone else words
    words = [word for word in words if len(word) > 1 and word not in goods["finish"]] or words
    return bool(words) and stem(words[-1]) in stems_of_goods(*lists)


def animals_in(title: str) -> frozenset[str]:
    """The animals that a thing is for."""
    return _kinds_in(title) & frozenset(table("goods.toml")["animals"])


def is_silent(goods: frozenset[str]) -> bool:
    """True for goods that no text is written for, such as medicine and tobacco."""
    return not goods.isdisjoint(table("goods.toml")["never"])


@lru_cache(maxsize=1 << 14)
def written_out(title: str) -> str:
    """A title as running text. One in capitals loses brackets, what follows a dash or a colon, and words that only
    sort; its adjectives come before the noun, its size stays. Any other is left as `natural` has it."""
    text = natural(title, Prompts.load().short_forms)
    if text == title or any(c.islower() for c in title) or not text.isascii():
        return text
    forms = table("names.toml")["forms"]
    expanded = " ".join(_LETTERS.sub(lambda m: forms.get(m[0], m[0]), _BRACKET.sub(" ", text)).split()) or text
    name, size = name_and_size(expanded)
    name = pattern("titles.with").sub("", name).strip() or name
    parts = [phrase for phrase in map(without_sorting_words, _FIRST_PART.split(name)) if phrase]
    if len(parts) > 1 and parts[0] in table("names.toml")["words"]["adjectives"]:
        parts[:2] = [" ".join(parts[:2])]
    named = [phrase for phrase in parts if len("".join(_LETTERS.findall(phrase))) > 2]  # "ppk", not "sv"
    if not named:
        return text
    name, tokens = named[0], named[0].split()
    for n in (1, 2):  # "peppers red bell" -> "red bell peppers"
        tail = " ".join(tokens[-n:])
        if len(tokens) > n and tail in table("names.toml")["words"]["after_noun"]:
            name = " ".join((tail, *tokens[:-n]))
    # "waffles/french toast" -> "waffles and french toast", "sandwiches&handhelds" -> "sandwiches & handhelds"
    things = pattern("titles.joined_by_and").sub(" & ", name).split("/")
    are_listed = len(things) > 1 and all(pattern("titles.thing").fullmatch(thing) for thing in things)
    name = f"{', '.join(things[:-1])} and {things[-1]}" if are_listed else "/".join(things)
    return f"{name} {size}" if size else name


def without_sorting_words(name: str) -> str:
    """A name without its first and last word that only sort the catalogue; "" where nothing is left."""
    leading, trailing = (table("names.toml")["words"][list_name] for list_name in ("leading", "trailing"))
    name = pattern("titles.left_over").sub("", name).rstrip()
    name = name.removeprefix(next((f"{word} " for word in leading if name.startswith(f"{word} ")), ""))
    name = name.removesuffix(next((f" {word}" for word in trailing if name.endswith(f" {word}")), ""))
    return "" if name in (*leading, *trailing) else name.rstrip(" &/-")


@lru_cache(maxsize=1 << 14)
def name_and_size(title: str) -> tuple[str, str]:
    """A title without the size at its end, and that size; "" where it has none or is nothing else."""
    if match := _HAN_SIZE.search(title) or pattern("titles.count").search(title):
        size = match[0].strip(" ()")
        return (title[: match.start()].rstrip(), "" if size.isdigit() else size) if match.start() else (title, "")
    tokens = title.split()
    start = len(tokens)
    while start > 0 and _is_of_size(tokens[start - 1]):
        start -= 1
    while start < len(tokens) and not tokens[start].removeprefix(".")[:1].isdigit():
        start += 1
    before = fold(tokens[start - 1]).rstrip(".") if 0 < start < len(tokens) else ""
    if before in table("names.toml")["words"]["numbered"]:
        start += 1  # SPF 15 50 ml
    end = start
    while end > 0 and tokens[end - 1] != "Can" and fold(tokens[end - 1]) in (*word_class("dangling"), "including"):
        end -= 1  # "bottles including 2 l"
    while any(token.endswith(",") for token in tokens[start:-1]):  # sun cream SPF 50, 100 ml
        start = end = start + 1
    name, size = " ".join(tokens[:end]).rstrip(" ,-"), " ".join(tokens[start:])
    has_unit = any(word in _size_words() for word in _LETTERS.findall(fold(size)))
    return (name, size) if size and has_unit and any(c.isalpha() for c in name) else (title, "")


def is_size(name: str) -> bool:
    """True for a size without a name."""
    return all(map(_is_of_size, name.split()))


def _is_of_size(token: str) -> bool:
    """True for a number, a unit, or both in one: 18, oz, 12oz, 10/6.75, x8.2."""
    parts = [token_part for token_part in re.split(r"[\d.,/x×-]+", fold(token).strip(".,")) if token_part]
    return all(token_part in _size_words() for token_part in parts)


_UNITS = [unit for forms in table("numbers.toml")["units"].values() for unit in forms]
_HAN_SIZE = pattern("titles.han_size", UNITS=any_of(unit for unit in _UNITS if not unit.isascii()))


@cache
def _size_words() -> frozenset[str]:
    return frozenset([*filter(str.isalpha, filter(str.isascii, _UNITS)), *table("names.toml")["words"]["of_size"]])


@lru_cache(maxsize=1 << 14)
def shelf(names: tuple[str, ...]) -> str:
    """The shelf of `data/shelves.toml` that the first of the names with a listed word belongs on."""
    shelves, loose, first = _shelf_words()
    for name in names:
        phrases = pattern("titles.part_of_name").split(name)
        parts = [words_in for phrase in phrases if (words_in := _listed_in(phrase))]
        of_first = [shelves[word] for words_in in parts for word in words_in if shelves[word] in first]
        if of_first:
            return of_first[0]
        if parts:
            return shelves[([word for word in parts[0] if word not in loose] or parts[0])[-1]]
    return OTHER_SHELF


def _listed_in(phrase: str) -> list[tuple[str, ...]]:
    """The words of shelves in a phrase of a name, in their order; a longer one hides those in it."""
    shelves, _, _ = _shelf_words()
    tokens, longest = _singular(phrase), max(map(len, shelves))
    listed, start = [], 0
    while start < len(tokens):
        candidates = (tokens[start : start + length] for length in range(longest, 0, -1))
        word = next((candidate for candidate in candidates if candidate in shelves), tokens[start : start + 1])
        listed += [word] if shelves.get(word) else []
        start += len(word)
    return listed


@cache
def _shelf_words() -> tuple[Mapping[tuple[str, ...], str], frozenset[tuple[str, ...]], frozenset[str]]:
    """Word -> its shelf, empty for what only hides others; the loose words; the shelves that come first."""
    data = table("shelves.toml")
    shelves = {_singular(word): "" for word in data["nothing"]}
    for entry in data["shelf"]:
        for word in entry["words"]:
            shelves.setdefault(_singular(word), entry["name"])
    first = frozenset(entry["name"] for entry in data["shelf"] if entry.get("first"))
    return shelves, frozenset(map(_singular, data["loose"])), first


def _singular(text: str) -> tuple[str, ...]:
    """The words of a text without their plural: ("wine", "glass") of "wine glasses"; Chinese by the character."""
    return tuple(map(stem, words(text)))
