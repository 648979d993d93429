"""Pairs for the voice experiment, read from human copy: English sellers, Chinese clothing.

    python eval/copy_pairs.py --data ../shared/data --out pairs      # pairs/en.jsonl and pairs/zh.jsonl

English: sentences of 4 to 16 words out of the sellers' descriptions of the Industrial and Scientific set. Chinese:
sentences, or the first clauses of longer ones, out of AdvertiseGen's dev set, for an item whose title is put together
from its attributes. `recllm.market.adcopy.submissions` then drops every line that may not be said.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from recllm.base.schema import ReasonKind

INDUSTRIAL, ADVERTISEGEN = "minionerec_Industrial_and_Scientific", "advertisegen_dev"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ZH_SENTENCE = re.compile(r"[^。！？!?]+[。！？!?]")
_NAMES = ("风格", "颜色", "材质", "图案")
_NOUNS = {"裙": ("裙长", "裙款式", "裙型"), "上衣": ("衣样式",), "裤": ("裤长", "裤型", "裤款式")}
_MAX_ZH = 28


def english(data: Path) -> Iterator[dict[str, Any]]:
    items = pl.read_parquet(data / INDUSTRIAL / "items.parquet").drop_nulls(["title", "description"]).sort("item_id")
    for row in items.to_dicts():
        item = {"id": row["item_id"], "title": row["title"], "brand": row["brand"] or ""}
        for sentence in dict.fromkeys(_SENTENCE.split(row["description"])):
            if 4 <= len(sentence.split()) <= 16:
                yield _line(item, sentence.strip(), "en")


def chinese(data: Path) -> Iterator[dict[str, Any]]:
    for row in pl.read_parquet(data / ADVERTISEGEN / "pairs.parquet").to_dicts():
        item = {"id": row["content"], "title": title(json.loads(row["kv"]), row["type"]), "category": row["type"]}
        for hook in dict.fromkeys(_short(s) for s in _ZH_SENTENCE.findall(row["summary"])):
            if hook and "UNK" not in hook and "BRAND" not in hook:
                yield _line(item, hook, "zh")


def title(pairs: list[list[str]], kind: str) -> str:
    """A title such as a shop would give: 简约白色牛仔布外套."""
    first = {name: value for name, value in reversed(pairs)}
    noun = next((first[name] for name in _NOUNS[kind] if name in first and first[name].endswith(kind[-1])), None)
    noun = noun or (first.get("衣样式") if kind == "上衣" else None) or (kind if kind != "裙" else "裙子")
    return "".join(dict.fromkeys(first[name] for name in _NAMES if name in first)) + noun


def _short(sentence: str) -> str | None:
    """A sentence of at most 28 characters, or as many first clauses of it as fit."""
    sentence = sentence.strip()
    if len(sentence) <= _MAX_ZH:
        return sentence
    clauses = sentence[:_MAX_ZH].split("，")[:-1]
    return "，".join(clauses) + "。" if clauses else None


def _line(item: dict[str, str], hook: str, locale: str) -> dict[str, Any]:
    """The reason is drawn by the item and the line: sellers' copy was written for nobody in particular."""
    reason = random.Random(item["id"] + hook).choice(list(ReasonKind))
    return {"item": item, "hook": hook, "locale": locale, "reason": str(reason)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, lines in (("en", english(args.data)), ("zh", chinese(args.data))):
        texts = [json.dumps(line, ensure_ascii=False) for line in lines]
        (args.out / f"{name}.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
        print(f"{name}: {len(texts)} lines")


if __name__ == "__main__":
    main()
