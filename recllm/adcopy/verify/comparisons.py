"""Turns of phrase that make a claim whatever the words in it are: comparisons, praise by others, added ingredients.

Word lists know words; these know the shape around them. All patterns run on folded text and repeat within bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from recllm.adcopy.quantities import Kind
from recllm.adcopy.reading import HAN, pattern, read
from recllm.adcopy.verify.case import Case, Fault, stated_by_facts, stem, used_with

_PRAISE = pattern(
    r"\b(?!always|sometimes|mornings|evenings|nights|days|hands|feet)[a-z]{3,20}s (?:all |really |just )?"
    r"(?:love|trust|prefer|recommend|adore|praise|approve|swear|rave|choose|rely|agree)\b"
    r"|\bvoted\b|\b(?:buyers|shoppers|customers|consumers|users|reviewers|critics|fans|experts|thousands|millions)\b"
)
_HAN_PRAISE = pattern(
    r"(?:[人师坊们客友迷族党妈爸星员长]|大家|专家|行家|赢家)(?:们)?(?:都|一致|纷纷|齐声?)(?:在?[夸爱说赞选用穿喝吃买戴]|推荐|点赞|好评|喜欢)(?!得|不)"
    r"|(?:街坊|邻居|网友|粉丝|顾客|买家|用户|消费者|食客|老客)(?!名)"
)
_NONE_BETTER = pattern(
    r"\b(?:there is|there's|you will find|you'll find|nowhere is) no [a-z]{2,14}er\b|\bno [a-z]{2,14}er [a-z ]{0,30}"
    r"(?:anywhere|on earth|in the world|in town|exists|than this)\b"
    r"|\bnothing (?:is )?(?:[a-z]{2,14}er|more [a-z]{3,14})\b"
)
_HAN_NONE_BETTER = re.compile(
    r"没有比[^，。！？,.!?]{0,10}(?:更|还)|没有[^，。！？,.!?]{0,8}比得[上过]|找不到[^，。！？,.!?]{0,8}[更比]|没有对手|谁也比不"
)
_OTHERS = r"(?:other|others'|ordinary|normal|average|usual|cheap|lesser|rival|any other|every other|conventional)"
_HAN_OTHERS = r"(?:别人家?|别家|其他|其它|普通|一般|别的|市面上?|同类|传统)的?"
_ADDED = pattern(
    r"\b(?:with|of|from|in|contains|containing|enriched with|infused with) "
    r"(?:a (?:touch|hint|drop|dash|bit) of |real |pure |fine |added )?(?P<name>[a-z]{3,16}) "
    r"(?:oil|extract|essence|powder|seeds?|leaves|petals|peel|root|syrup|wax|acid|butter|flour|fibres?)\b"
)
_HAN_ADDED = re.compile(
    rf"(?:富含|含有|蕴含|添加|加入|融入|加了|特含|萃取)了?(?P<name>[{HAN}]{{2,6}}?)(?=[的，。！？、,.!? ]|$)"
    rf"|带[着有]?(?P<scent>[{HAN}]{{1,4}}?)(?:清香|花香|果香|香味|香气|香|口味|风味|味道|气息)"
)
_PRICE_TALK = pattern(
    r"\b(?:price[sd]?|pricing|cheap(?:er|est|ly)?|affordabl[ey]|bargain\w{0,4}|budget|expense|cost(?:s|ing)?|fee|fees|pay|pays"
    r"|paid|unpaid|fiver|tenner|penny|pennies|dime|cents?|bill|wallet|knocked off|off)\b(?!-)"
)
_HAN_PRICE_TALK = re.compile(r"(?<![评物])价(?!值)|少付|成本|省钱|花费|费用|我们[付出]|不贵|实惠|划算|更省|省下")
_PLAIN = pattern(
    r"\b(?:pay attention|off (?:to|we|you|and|the (?:beaten|shelf|grid)|work|duty|season)|take off|day off|switch off"
    r"|turn off|kick off|show off|off-white|set off|drift off|nod off|at all costs?|foot the bill|head off|doze off)\b"
)


def others(case: Case) -> Iterator[Fault]:
    """G3: no comparison with other products of the kind, no "none is better", no praise in others' names."""
    text = case.reading.squashed
    shapes = [_PRAISE, _NONE_BETTER, _than_others(case)] if case.language == "en" else []
    shapes += [] if case.language == "en" else [_HAN_PRAISE, _HAN_NONE_BETTER, _than_other_han(case)]
    needs = {_PRAISE: "rating", _HAN_PRAISE: "rating"}
    for shape in shapes:
        if shape and not case.evidence.get(needs.get(shape, "comparison")):
            yield from (Fault(f"{m[0]!r} speaks of others without proof", m[0]) for m in shape.finditer(text))


def _than_others(case: Case) -> re.Pattern[str] | None:
    """ "Other lamps" where the item is a lamp."""
    names = {re.escape(stem(w)) for w in read(case.facts.title).words if w.isascii() and w.isalpha() and len(w) > 2}
    return re.compile(rf"\b{_OTHERS} (?:[a-z]{{2,14}} )?(?:{'|'.join(sorted(names))})\w{{0,3}}\b") if names else None


def _than_other_han(case: Case) -> re.Pattern[str] | None:
    han = re.findall(rf"[{HAN}]+", read(case.facts.title).folded)
    pairs = {run[i : i + 2] for run in han for i in range(len(run) - 1)}
    return re.compile(rf"{_HAN_OTHERS}[{HAN}]{{0,2}}(?:{'|'.join(sorted(pairs))})") if pairs else None


def ingredients(case: Case) -> Iterator[Fault]:
    """G3: what the text says was added or smells through stands among the facts."""
    if case.evidence.get("composition"):
        return
    for shape in (_ADDED, _HAN_ADDED):
        for match in shape.finditer(case.reading.squashed):
            name = next(value for value in match.groups() if value)
            if not (stated_by_facts(name, case.facts) or used_with(name, case.facts)):
                yield Fault(f"{match[0]!r} names what the facts do not hold", match[0])


def price_talk(case: Case) -> Iterator[Fault]:
    """G2: no talk of prices unless the text states one, or an offer runs."""
    if case.offer is not None or any(q.kind is Kind.MONEY for q in case.quantities):
        return
    shape = _PRICE_TALK if case.language == "en" else _HAN_PRICE_TALK
    text = _PLAIN.sub(lambda m: "\x00" * len(m[0]), read(case.own_words).squashed)
    for match in shape.finditer(text):
        yield Fault(f"{match[0]!r} speaks of a price and states none", match[0])
