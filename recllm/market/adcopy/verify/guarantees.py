"""The guarantees: one function each, and the verdict that follows from them.

    review(text, CopyRequest(item=item, channel="push", now=now)).verdict

`blocked`: the text contradicts a fact, is hostile or personal, or a law forbids it. `person`: it breaks a soft rule, a
rule pack warns, or it holds a word that nothing grounds. `pass`: neither.

A word is grounded by the item's texts, by a number that is a fact, an offer that runs, a claim that is proven, proofs,
the neutral words of the language (`data/neutral.*.toml`), the brand's own lines, and what the shop's people approved.
English words count in their inflections and as compounds; Chinese is cut into the longest pieces that are grounded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain

from recllm.base.schema import Check, CopyVerdict
from recllm.market.adcopy.frames import Situation, frame_phrases
from recllm.market.adcopy.lexicon import (
    HAN,
    HAN_RUN,
    Letters,
    bases,
    families,
    fold,
    folded_pattern,
    letters,
    limit,
    neutral_words,
    pattern,
    phrase_patterns,
    read,
    table,
    word_class,
    words,
)
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify import claims, form
from recllm.market.adcopy.verify.case import Case, Violation, matches, words_beside
from recllm.market.adcopy.verify.claims import is_around, is_fact, says_saving

GUARANTEES: Mapping[str, Callable[[Case], Iterator[Violation]]] = {
    "G1": claims.numbers,
    "G2": claims.offers,
    "G3": claims.proofs,
    "G4": claims.foreign_names,
    "G5": claims.product_named,
    "G6": form.fits_channel,
    "G7": form.mandatory_parts,
    "G8": form.personal_data,
    "G9": form.clean_language,
    "G10": form.leaks,
    "G11": form.right_language,
    "G12": form.well_formed,
    "G14": form.in_voice,
    "G17": claims.currency_format,
}
"""Those on the words of one text; G13, G16 and G18 hold by `recllm.market.adcopy.write`."""


_OF_CLAIMS = ("G1", "G2", "G3", "G4")
"""What the name of a work is not asked for: it is no number, offer, claim or name of the text's own."""
_TOKEN = re.compile(rf"[{HAN}]+|[^\W_{HAN}]+(?:['][^\W_{HAN}]+)*")
_LONGEST_PIECE = 12
"""Characters of the longest piece that Chinese is cut into."""
_SHORTEST_PART = 3
"""Letters of the shortest part of a compound."""
_MEASURES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    unit: (entry["before"], entry["after"])
    for entry in table("numbers.toml")["measures"].values()
    for unit in entry["units"]
}
_VAGUE_OFFERS = ("骨折价", "骨折", "白菜价", "跳楼价", "血亏", "亏本")
_NEUTRAL_PHRASES = phrase_patterns(table("neutral.en.toml")["phrases"])
"""English phrases that claim nothing although a word of them would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleWarning:
    """A phrase that breaks no law by itself: a person looks at it."""

    guarantee: str
    rule: str
    """Pack and rule, such as "us_ftc/new"."""
    span: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UngroundedWord:
    """A word or number of a text that nothing known grounds."""

    word: str
    """As it stands in the text."""
    span: tuple[int, int]
    """[start, end) characters of the text."""


@dataclass(frozen=True, slots=True)
class Review:
    """All that is said about one text."""

    checks: tuple[Check, ...]
    """For each guarantee one passed check, or one for each violation."""
    warnings: tuple[RuleWarning, ...] = ()
    """What the rule packs ask a person to look at."""
    ungrounded: tuple[UngroundedWord, ...] = ()
    """The words and numbers that nothing known grounds."""

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def verdict(self) -> CopyVerdict:
        if any(not check.holds for check in self.failures):
            return CopyVerdict.BLOCKED
        return CopyVerdict.PERSON if self.failures or self.warnings or self.ungrounded else CopyVerdict.PASS

    @property
    def verified(self) -> bool:
        """True for `pass` alone."""
        return self.verdict is CopyVerdict.PASS


def review(
    text: str, request: CopyRequest, *, facts: FactSheet | None = None, situation: Situation | None = None
) -> Review:
    """Checks one text against the facts of the request, and by its rule packs.

    facts: the item's, where the catalogue has others now. situation: that of request and facts, for several texts.
    """
    if len(text) > limit("max_text"):
        too_long = f"the text has {len(text)} characters; no channel takes more than {limit('max_text')}"
        return Review((Check(guarantee="G6", passed=False, message=too_long),))
    facts = facts or FactSheet.of(request.item)
    case = Case(text=text, facts=facts, request=request, slots=(situation or situation_of(request, facts)).slots)
    forbidden: dict[str, list[Violation]] = defaultdict(list)
    warnings: list[RuleWarning] = []
    for name, rule in ((f"{pack.name}/{rule.id}", rule) for pack in request.packs for rule in pack.rules):
        is_demand_met = rule.demands and fold(rule.demands) in case.reading.folded
        if case.language not in rule.languages or is_demand_met or case.proves(rule.evidence):
            continue
        for phrase in rule.family.find(case.beside_work.reading):
            needs = "" if rule.evidence == "never" else rule.evidence
            remedy = f"; needs {needs}" if needs else ""
            message = f"{phrase!r} {rule.message} ({rule.citation}{remedy})"
            if rule.severity == "error":
                forbidden[rule.guarantee].append(Violation(message, phrase, needs=needs))
            else:
                warnings.append(RuleWarning(guarantee=rule.guarantee, rule=name, span=phrase, message=message))
    checks: list[Check] = []
    for name in dict.fromkeys((*GUARANTEES, *forbidden)):
        violations = GUARANTEES[name](case.beside_work if name in _OF_CLAIMS else case) if name in GUARANTEES else ()
        faults = [
            Check(guarantee=name, passed=False, message=v.message, span=v.span, holds=v.holds, needs=v.needs)
            for v in chain(violations, forbidden[name])
            if not (v.holds and name != "G14" and _is_of_full_title(v.span, case))
        ]
        checks += faults or [Check(guarantee=name, passed=True)]
    return Review(tuple(checks), tuple(warnings), ungrounded(case))


def _is_of_full_title(span: str, case: Case) -> bool:
    """True for a piece of the item's title in a text that holds the whole title: its name is no matter of manner,
    but for what the brand itself never says."""
    if not span.strip():
        return False
    titles = {read(title).folded for title in (case.facts.title, case.title_written_out) if title}
    return any(fold(span) in title and title in case.reading.folded for title in titles)


def ungrounded(case: Case) -> tuple[UngroundedWord, ...]:
    """Every content word and number of the text that nothing grounds, in the order of the text."""
    readable = letters(case.text)
    grounded = [False] * len(readable.folded)  # by letter: a number, offer or claim that holds
    others: list[tuple[int, int]] = []
    for quantity in case.quantities:
        spans = list(readable.occurrences(quantity.span.strip()))
        if is_fact(quantity, case) or is_around(quantity, case):
            _take(grounded, spans)
        else:
            others += spans
    numbers = [span for span in dict.fromkeys(others) if not all(grounded[slice(*span)])]
    for phrase in dict.fromkeys(phrases_that_hold(case)):
        _take(grounded, readable.occurrences(phrase))
    _take(grounded, numbers)  # shown as numbers, not once more as words
    grounds = _Grounds.of(case)
    pieces = sorted([*numbers, *_words(readable, grounded, grounds, case.apart)])
    spans = [(readable.offsets[start], readable.offsets[end - 1] + 1) for start, end in pieces]
    return tuple(UngroundedWord(word=case.text[first:last], span=(first, last)) for first, last in spans)


def _take(grounded: list[bool], spans: Iterable[tuple[int, int]]) -> None:
    for start, end in spans:
        grounded[start:end] = [True] * (end - start)


def phrases_that_hold(case: Case) -> Iterator[str]:
    """What the text promises and claims truly: words of the offer that runs, deadlines it keeps, claims with proof."""
    if (running := case.offer) is not None:
        for family in families("offers.toml"):
            if running.type in family.offers:
                yield from (phrase for phrase in family.find(case.reading) if phrase not in _VAGUE_OFFERS)
        yield from str(table("offer_words.toml")[case.language][running.type]).split()
        if running.end is not None:
            yield from (phrase.span for phrase in case.deadlines if phrase.ends_on(running.end, case.request.now))
            yield from matches(pattern("quantities.end_of_day"), case.reading.folded)
    for family in families("claims.toml"):
        if case.proves(family.evidence):
            yield from family.find(case.reading)
    yield from (fold(phrase) for phrase in case.request.free_words if _is_phrase(phrase))
    yield from map(fold, case.request.limits.closings)
    ad_mark = table("mandatory.toml")["ad_mark"]["pattern"]  # where it stands, code adds none
    if match := folded_pattern(ad_mark).match(case.reading.folded):
        yield match[0]
    unstating = (*_NEUTRAL_PHRASES, pattern("quantities.clock"), pattern("quantities.festival"))
    yield from (phrase for shape in unstating for phrase in matches(shape, case.reading.folded))
    yield from (phrase for phrase in frame_phrases(case.language) if phrase in case.reading.folded)
    for quantity in case.quantities:  # "45 cm tall", "weighs 250 g"
        if quantity.unit in _MEASURES and is_fact(quantity, case):
            span, (before, after) = quantity.span.strip(), _MEASURES[quantity.unit]
            yield from (*(f"{word} {span}" for word in before), *(f"{span} {word}" for word in after))
    yield from filter(_is_phrase, words_beside("scene", case.facts.names))
    if case.is_lowest_price:
        yield from matches(pattern("claims.lowest_30d"), fold(case.text))
    if case.tells_saving:
        yield from (p for family in families("offers.toml") for p in family.find(case.reading) if says_saving(p))
        yield from str(table("offer_words.toml")[case.language]["saving"]).split()
    if case.request.list_price is not None:
        yield from str(table("offer_words.toml")[case.language]["list_price"]).split()


def _words(
    readable: Letters, grounded: list[bool], grounds: _Grounds, apart: AbstractSet[str]
) -> Iterator[tuple[int, int]]:
    """Places in the folded text of the words that are not grounded."""
    tokens = list(_TOKEN.finditer(readable.folded))
    for i, match in enumerate(tokens):
        start, end = match.span()
        if all(grounded[start:end]):
            continue
        if HAN_RUN.match(match[0]):
            yield from _left_over(match[0], start, grounded, grounds, apart)
            continue
        before, after = tokens[max(0, i - 1) : i], tokens[i + 1 : i + 2]
        neighbours = {*(match[0] + t[0] for t in after), *(t[0] + match[0] for t in before)}
        letters_left = "".join(c for c, holds in zip(match[0], grounded[start:end], strict=True) if not holds)
        word = letters_left.strip("'") if letters_left != match[0] else match[0]  # Kids'12, 12 being a fact
        if not (grounds.holds(word) or neighbours & grounds.compounds or word.removesuffix("'s") in apart):
            yield start, end


def _left_over(
    run: str, offset: int, grounded: list[bool], grounds: _Grounds, apart: AbstractSet[str]
) -> Iterator[tuple[int, int]]:
    """Places of the characters that remain when a run is cut into grounded pieces so that as few as can be remain, and
    into as few pieces as can be."""
    size = len(run)
    costs: list[tuple[int, int]] = [(0, 0)] * (size + 1)  # from each place on: (characters left, pieces)
    lengths = [0] * size  # of the best piece at each place; 0 where a character is left
    for i in reversed(range(size)):
        left, pieces = costs[i + 1]
        if grounded[offset + i]:
            costs[i], lengths[i] = (left, pieces), 1
            continue
        costs[i] = (left + 1, pieces)
        for length in range(1, min(_LONGEST_PIECE, size - i) + 1):
            piece = run[i : i + length]
            is_grounded = piece in grounds.pieces or piece in _neutral().pieces
            if is_grounded or (length > 1 and piece in apart):
                left, pieces = costs[i + length]
                if (left, pieces + 1) <= costs[i]:
                    costs[i], lengths[i] = (left, pieces + 1), length
    i = start = 0
    while i < size:
        if lengths[i]:
            i += lengths[i]
            continue
        start = i
        while i < size and not lengths[i]:
            i += 1
        if i - start > 1 or run[start] not in apart:
            yield offset + start, offset + i


@dataclass(frozen=True, slots=True)
class _Grounds:
    """The words that a text may hold, besides the neutral ones."""

    words: frozenset[str]
    """Folded Latin words, of facts and lists."""
    bases: frozenset[str]
    """What they may be inflections of."""
    compounds: frozenset[str]
    """Words of the facts whose two parts a text may write apart."""
    pieces: frozenset[str]
    """Pieces of Chinese."""

    @classmethod
    def of(cls, case: Case) -> _Grounds:
        facts, request = case.facts, case.request
        of_item = _grounds_of(frozenset(filter(None, (*case.item_texts, facts.description))))
        listed = (*words_beside("scene", facts.names), *request.free_words)
        texts = (
            *(entry for entry in listed if not _is_phrase(entry)),
            *words_beside("use", facts.names),
            *_implied(facts),
            *request.evidence.values(),
            *case.slots.values(),
        )
        free = _grounds_of(frozenset(texts))
        return cls(
            words=of_item.words | free.words,
            bases=of_item.bases | free.bases,
            compounds=of_item.words,
            pieces=of_item.pieces | free.pieces,
        )

    def holds(self, word: str) -> bool:
        """True for a Latin word that is grounded itself, in another inflection, or part by part."""
        plain = word.removesuffix("'s").removesuffix("'")
        cuts = range(_SHORTEST_PART, len(plain) - _SHORTEST_PART + 1) if plain.isalpha() else ()
        return self._is_form(plain) or any(self._is_word(plain[:i]) and self._is_form(plain[i:]) for i in cuts)

    def _is_word(self, word: str) -> bool:
        return word in self.words or word in _neutral().words

    def _is_form(self, word: str) -> bool:
        """True for a grounded word in any of its inflections."""
        if self._is_word(word):
            return True
        word_bases = bases(word)
        return not (self.bases.isdisjoint(word_bases) and _neutral().bases.isdisjoint(word_bases))


def _implied(facts: FactSheet) -> Iterator[str]:
    """What the facts say in other words: Japanese of Japan, M and L of S to XL, 四 of four."""
    yield from (demonym for country, demonym in table("names.toml")["demonyms"].items() if country in facts.words)
    sizes = list(word_class("clothing_sizes"))
    at = [sizes.index(word) for word in facts.words if word in sizes]
    yield from sizes[min(at) : max(at) + 1] if len(at) > 1 else ()
    numerals = dict(enumerate("零一二三四五六七八九十"))
    counts = {int(q.value) for q in facts.quantities if q.value is not None and q.value == int(q.value)}
    yield from (numeral for n in counts if n in numerals for numeral in (numerals[n], *("两" * (n == 2))))


def _is_phrase(entry: str) -> bool:
    """True for several Latin words, which are approved together and not each alone."""
    return len(entry.split()) > 1 and entry.isascii()


@lru_cache(maxsize=512)
def _grounds_of(texts: frozenset[str]) -> _Grounds:
    latin: set[str] = set()
    pieces: set[str] = set()
    for text in texts:
        folded = fold(text)
        latin |= {w.removesuffix("'s") for w in _TOKEN.findall(folded) if not HAN_RUN.match(w)} | set(words(text))
        for run in HAN_RUN.findall(folded):
            # pieces of two characters or more, and the last one, which names the kind: 龙井茶, 茶
            longest = min(len(run), _LONGEST_PIECE)
            pieces |= {run[i : i + n] for n in range(2, longest + 1) for i in range(len(run) - n + 1)}
            pieces.add(run[-1])
    return _Grounds(frozenset(latin), frozenset(b for w in latin for b in bases(w)), frozenset(), frozenset(pieces))


@cache
def _neutral() -> _Grounds:
    """The neutral words of both languages: a Chinese text may hold an English one."""
    listed = neutral_words()
    latin = frozenset(w for w in listed if w.isascii())
    return _Grounds(latin, frozenset(b for w in latin for b in bases(w)), frozenset(), frozenset(listed - latin))
