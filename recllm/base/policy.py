"""Rules as data: what a load may contain, and who may be addressed.

Nothing here acts. `ingest` applies the limits on input, `privacy` those on people, `explain` and `adcopy` those on
what may be said. A workspace may override single rules in the `[policy]` table of its `workspace.toml`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import timedelta
from functools import cache, lru_cache
from typing import ClassVar

from pydantic import field_validator

from recllm.base.documents import Count, CountOrZero, Flag, FrozenModel, Share, Weight
from recllm.base.schema import Purpose

EARLIEST_YEAR = 1990  # events before it are bad rows: such times are broken clocks and empty dates
FUTURE_HOURS = 24  # an event may lie so far ahead of the clock: shops' clocks are not ours

_SENSITIVE = """adult, alcohol, baby, beers, cigarette, cigarettes, cigars, contracept*, condom*, diabet*,
family planning, fertility, gambling, health, hemorrhoid*, haemorrhoid*, incontinence, liquor, liquors, lingerie,
medical, medicine, medication, pharmacy, pregnancy, sexual, smoking, tobacco, vaping, weight loss, whisky, wines, hiv,
std test, std tests, sti test, sti tests, chlamydia, gonorrh*, syphilis, herpes, hepatitis, cancer, tumor*, tumour*,
chemotherap*, leukemia, leukaemia, depression, depressive, antidepress*, anxiety, bipolar, schizophren*, psychosis,
psychotic, psychiatr*, ptsd, adhd, autis*, dementia, alzheimer*, parkinson*, epilep*, multiple sclerosis, suicid*,
self-harm, anorexi*, bulimi*, eating disorder*, obesity, addiction*, alcoholi*, methadone, opioid*, insulin,
blood pressure, blood sugar, hypertension, asthma*, arthrit*, psoria*, eczema, insomnia, migraine*, crohn*, stoma,
colostomy, dialysis, erectile, impoten*, viagra, prostat*, menopaus*, abortion*, miscarriage*, infertil*, ivf,
paternity test*, gay, lesbian*, transgender, lgbt*, 计生, 成人用品, 医药, 药品, 烟草, 酒类, 孕妇, 抑郁, 焦虑症, 躁郁,
精神分裂, 精神病, 艾滋, 性病, 梅毒, 淋病, 疱疹, 肝炎, 乙肝, 癌, 肿瘤, 白血病, 化疗, 糖尿病, 血糖, 血压, 哮喘, 癫痫,
痴呆, 帕金森, 自闭症, 多动症, 厌食症, 肥胖症, 失眠, 关节炎, 牛皮癣, 湿疹, 痔疮, 前列腺, 阳痿, 早泄, 壮阳, 避孕, 验孕,
流产, 不孕, 不育, 更年期, 失禁, 戒毒, 戒酒, 戒烟, 减肥, 同性恋""".replace("\n", " ").split(", ")


class Policy(FrozenModel):
    """Every rule with its default. Shares are in [0, 1], lengths in bytes, money in the shop's currency."""

    section: ClassVar[str] = "policy"

    # people
    explicit_purposes: frozenset[Purpose] = frozenset({Purpose.LLM_THIRD_PARTY})
    """A workspace's consent default never grants these: each person has to agree."""
    session_purposes: frozenset[Purpose] = frozenset({Purpose.ANALYTICS, Purpose.PERSONALISATION})
    """What a workspace's consent default grants to an anonymous session; nothing else is done with one."""
    event_days: CountOrZero | None = None
    """Events older than this many days do not pass the gate; None keeps them until they are erased."""
    group_floor: CountOrZero = 50
    """Smallest group that may be reported, or addressed as a segment; see `recllm.shop.workspace.figures`."""
    release_days: Count = 30
    """Days for which a caller's budget of group sizes lasts."""
    small_shop: CountOrZero = 1_000
    """Below this number of customers, sizes and campaign results are exact and have no floor; 0 never."""
    sensitive_categories: frozenset[str] = frozenset(_SENSITIVE)
    """Never named to a person as a reason, nor a campaign's target. Matched as whole words, in any case, against the
    category path, the title and a campaign's text; "diabet*" stands for all words that begin so."""

    # slates
    popularity_weight: Share = 0.0
    """How much less likely a popular item is to be shown, in [0, 1]; see `ItemRanker.rank`."""

    # loads
    reject_limit: Share = 0.05
    """A load with a larger share of bad rows is refused as a whole."""
    max_price: Weight = 10_000_000.0
    """Prices and amounts above this are bad rows."""
    mask_quarantine: Flag = False
    """Whether mails, phones, addresses and the like in refused rows stand in the quarantine file as placeholders. Then
    a row cannot be mended from that file, only from the one that it came from. Ids that are opaque stay as they are."""

    @field_validator("sensitive_categories")
    @classmethod
    def _any_case(cls, words: frozenset[str]) -> frozenset[str]:
        return frozenset(word.casefold() for word in words)

    @property
    def clock_error(self) -> timedelta:
        """What is dated further ahead of the clock was written by a clock that ran ahead."""
        return timedelta(hours=FUTURE_HOURS)

    def is_sensitive(self, category: Iterable[str]) -> bool:
        """True when any part of a category path, or of the given text, names a sensitive category."""
        return _names_any(self.sensitive_categories, " > ".join(category))


@lru_cache(maxsize=1 << 12)  # the same products are looked at again and again
def _names_any(words: frozenset[str], text: str) -> bool:
    return _any_of(words).search(unicodedata.normalize("NFKC", text).casefold()) is not None


@cache
def _any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Finds any of the words; those of Latin letters as whole words, as Chinese has no spaces between words."""
    escaped = [re.escape(word).replace(r"\*", "[a-z]*") for word in sorted(words)]
    spaced, joined = ([word for word in escaped if word.isascii() == ascii_] for ascii_ in (True, False))
    parts = [rf"(?<![a-z0-9])(?:{'|'.join(spaced)})(?![a-z0-9])"] if spaced else []
    return re.compile("|".join([*parts, *joined]) or r"(?!)")
