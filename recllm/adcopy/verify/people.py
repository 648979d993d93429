"""G8, G9, G10: nothing personal, nothing foul, nothing that leaks out of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recllm.adcopy.lexicon import families
from recllm.adcopy.reading import ROLE_TOKEN, pattern, read
from recllm.adcopy.verify.case import Case, Fault

_EMAIL = pattern(
    r"[a-z0-9._%+-]{1,64}(?:@| at | \(at\) |\[at\])[a-z0-9-]{1,63}(?:\.| dot )(?:[a-z0-9-]{1,63}\.){0,3}[a-z]{2,24}\b"
)
_PHONE = pattern(
    r"\+\d{1,3}(?:[ -]?\(?\d{2,5}\)?){2,5}(?!\d)"  # +49 30 1234567
    r"|(?<![\d.-])(?:\(\d{2,4}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d.]\d|[\d-])"  # (415) 555-0132
    r"|(?<![\d-])0\d{2,3}[ -]\d{7,8}(?![\d-])"  # 010-12345678
    r"|(?<!\d)1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)"  # a Chinese mobile number
    r"|(?:\b(?:call|tel|phone|text|fax|whatsapp|hotline)\b|电话|手机|热线|联系|拨打|致电)"
    r"[a-z .:]{0,12}[+(]?\d[\d -]{5,16}\d"
)
_DIGITS = pattern(r"(?<![\d.])\d(?:[ -]?\d){11,22}x?(?!\d)")
_IBAN = pattern(r"(?<![a-z0-9])[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?(?![a-z0-9])")
_IP = pattern(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)")
_PSEUDONYM = pattern(r"\bu1_[a-z2-7]{26}\b")
_URL = pattern(
    r"https?:|\bwww\.|://|\b[a-z0-9-]{2,63}\.(?:com|net|org|cn|io|co|shop|store|info|biz|xyz|top|app|me|de|uk|ru|ly|link|site|online|club|vip|cc|tv|ai|dev|eu|fr|jp)\b"
    r"|\bdot com\b|点com"
    r"|(?<![a-z0-9])@[a-z0-9_]{2,30}|(?<![a-z0-9&])#[a-z_]{3,30}(?![a-z0-9_])|\bt\.me\b"
    r"|公众号|小程序|私信|直播间|进群|加群|口令|关注我们|官网|微信号?[:： ]?[a-z0-9_-]{5,}|加v信?|加微信|qq ?群|扫码"
)
_SEEN_DOING = pattern(r"[您你][^，。！？,.!?]{0,5}(?:看|买|搜|浏览|点击|收藏|加购)过")
_PROMPT_GRAM = 6


def personal_data(case: Case) -> Iterator[Fault]:
    """G8: no e-mail, phone, card or identity number, and no word on what the shop knows of the person."""
    text = case.reading.folded
    for shape, what in ((_EMAIL, "an e-mail address"), (_IP, "an IP address"), (_PSEUDONYM, "a person's pseudonym")):
        for match in shape.finditer(text):
            yield Fault(f"{match[0]!r} is {what}", match[0])
    for match in _SEEN_DOING.finditer(text):
        yield Fault(f"{match[0]!r} tells the person what the shop has seen of them", match[0])
    for match in _PHONE.finditer(text):
        if 7 <= sum(c.isdigit() for c in match[0]) <= 15:
            yield Fault(f"{match[0]!r} reads like a phone number", match[0])
    for match in _DIGITS.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if is_card(digits) or is_chinese_id(digits):
            yield Fault("holds a card or identity number", match[0])
    for match in _IBAN.finditer(text):
        if is_iban(match[0].replace(" ", "")):
            yield Fault("holds a bank account number", match[0])
    yield from _words_of("G8", case)


def is_card(digits: str) -> bool:
    """Luhn's check over 14 to 19 digits; with 13 they would be taken for article numbers, and the other way round."""
    if not (digits.isdigit() and 14 <= len(digits) <= 19) or len(set(digits)) == 1:
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def is_chinese_id(text: str) -> bool:
    """The 18-character identity number of GB 11643, by its check character."""
    if not re.fullmatch(r"\d{17}[\dx]", text):
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10x98765432"[sum(int(d) * w for d, w in zip(text, weights, strict=False)) % 11] == text[-1]


def is_iban(text: str) -> bool:
    """ISO 13616, by its remainder of 97."""
    if not (15 <= len(text) <= 34 and text.isalnum() and text.isascii()):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def clean_language(case: Case) -> Iterator[Fault]:
    """G9: no profanity, slur or violence, in English or Chinese."""
    yield from _words_of("G9", case)


def leaks(case: Case) -> Iterator[Fault]:
    """G10: no piece of the prompt, no role token, no talk of prompts, no address, handle or link."""
    text = case.reading.folded
    for shape, what in ((ROLE_TOKEN, "belongs to a prompt"), (_URL, "is an address, a handle or a contact")):
        for match in shape.finditer(text):
            yield Fault(f"{match[0]!r} {what}", match[0])
    yield from _words_of("G10", case)
    yield from _prompt_pieces(case)


def _prompt_pieces(case: Case) -> Iterator[Fault]:
    """Six words in a row (Chinese: characters, ten) that stand in the prompt."""
    if not case.prompt:
        return
    size = _PROMPT_GRAM if case.language == "en" else 10
    given = grams(read(case.prompt).words, size)
    for gram in grams(read(case.own_words).words, size):
        if gram in given:
            yield Fault("repeats the prompt", (" " if size == _PROMPT_GRAM else "").join(gram))
            return


def grams(words: tuple[str, ...], size: int) -> set[tuple[str, ...]]:
    return {words[i : i + size] for i in range(len(words) - size + 1)}


def _words_of(guarantee: str, case: Case) -> Iterator[Fault]:
    for family in families("language.toml"):
        if family.guarantee == guarantee:
            for phrase in family.find(case.reading):
                yield Fault(f"{phrase!r} {family.message or 'must not be said'}", phrase)
