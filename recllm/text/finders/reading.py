"""A text as the patterns read it: full-width digits, unseen signs and traditional characters are plain."""

from __future__ import annotations

import re
import unicodedata

from recllm.text.injection import UNSEEN_LETTERS

_SIGNS: dict[int, str] = {ord(sign): "-" for sign in "‐‑‒–—―−－﹣"} | {
    0x3000: " ",
    0xA0: " ",
    0x2007: " ",
    0x202F: " ",
    0x2009: " ",
}
_TRADITIONAL = dict(
    zip(
        map(
            ord,
            "號樓棟區縣鄉鎮電話機聯絡繫貨車碼門單莊廈園熱線傳簽顧買陳張劉黃吳趙孫馬鄭謝許韓馮鄧蕭葉蔣蘇呂盧鍾鐘譚陸賈韋鄒閻龍賀龔萬錢嚴湯溫聖東廣蓋楊羅歐陽開戶帳賬銀證訂郵間層徑灣圍給請與處臺點貳叄陸經師醫媽爺觀龐遼雲貴寧豐凱齊顏霍闕蘭喬項駱麥",
        ),
        "号楼栋区县乡镇电话机联络系货车码门单庄厦园热线传签顾买陈张刘黄吴赵孙马郑谢许韩冯邓萧叶蒋苏吕卢钟钟谭陆贾韦邹阎龙贺龚万钱严汤温圣东广盖杨罗欧阳开户帐账银证订邮间层径湾围给请与处台点贰叁陆经师医妈爷观庞辽云贵宁丰凯齐颜霍阙兰乔项骆麦",
        strict=True,
    )
)
"""The patterns know simplified characters only."""
_SIGNS |= _TRADITIONAL
_UNSEEN = re.compile(f"[\u00ad{UNSEEN_LETTERS}\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")


class _Folding(dict[int, str]):
    """A character, and the plain one that it stands for: full-width, small and Arabic-Indic digits are digits."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        plain = unicodedata.normalize("NFKC", sign) if unicodedata.category(sign) not in ("No", "Cs") else sign
        if (digit := unicodedata.decimal(plain, None) if len(plain) == 1 else None) is not None:
            plain = str(digit)
        self[code] = plain if len(plain) == 1 else sign
        return self[code]


_FOLDING = _Folding(_SIGNS)


def plain_text(text: str) -> tuple[str, list[int] | None]:
    """(the text as the patterns read it, where each of its characters stands in `text`; None for just there)."""
    if text.isascii():
        return text, None
    plain = text.translate(_FOLDING)
    if not _UNSEEN.search(plain):
        return plain, None
    offsets = [at for at, sign in enumerate(plain) if not _UNSEEN.match(sign)]
    return "".join(plain[at] for at in offsets), offsets
