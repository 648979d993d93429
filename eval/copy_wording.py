"""How the shop's own texts read:  python eval/copy_wording.py -w demo -o eval/results/copy-wording.json

The texts without a model, for people of the demonstration's workspace (a copy of it: texts are written, nothing else),
for every product type of its catalogue, and for the clothes of AdvertiseGen's dev set beside what people wrote for
them. distinct-2: different word pairs over all word pairs (Li et al. 2016), of the same number of texts. A name stands
twice when the item's name without its size does, however it is cased. `--before FILE` puts the record of an earlier
program beside this one, made by the same script.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from copy_pairs import ADVERTISEGEN, title
from inputs import DATA, finish, script_parser

from recllm.base.schema import AdCopy, Item, ReasonKind
from recllm.doors.start.demo import data_folder
from recllm.market.adcopy.ads import item_of, write_ads
from recllm.market.adcopy.lexicon import fold, words
from recllm.market.adcopy.request import CopyRequest
from recllm.market.adcopy.verify.guarantees import distinct_pairs
from recllm.market.adcopy.write import write_copy
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.workspace import Workspace

CHANNELS = ("email", "push")
_MOMENT = datetime.fromisoformat("2017-12-31T00:00:00+00:00")
_SIZE = re.compile(r"[\s,]*(?:(?:\d[\d./x-]*|\.\d+) ?[a-z]*[\s,/]*)+$")


def people(workspace: Workspace, n: int) -> dict[str, Any]:
    """Figures of each channel's texts for `n` households, spread evenly over their ids."""
    column = pl.read_parquet(data_folder() / "transactions.parquet", columns=["household_id"])["household_id"]
    ids = column.unique().sort().cast(pl.String).to_list()
    chosen = ids[:: len(ids) // n][:n]
    recommender = open_recommender(workspace)
    figures = {}
    for channel in CHANNELS:
        copies = write_ads(workspace, recommender, chosen, channel=channel, generator=None)
        figures[channel] = of_texts(copies) | {"examples": [copy.text for copy in copies[:6]]}
    return figures


def product_types(workspace: Workspace) -> dict[str, Any]:
    """Figures of one e-mail for the first item of each distinct product type."""
    rows = workspace.store().items().sort("item_id").to_dicts()
    first = {(row["category"] or [row["title"]])[-1]: row for row in reversed(rows)}
    requests = [
        CopyRequest(item=item_of(row), channel="email", now=_MOMENT) for _, row in sorted(first.items(), key=str)
    ]
    return of_texts([write_copy(request)[0] for request in requests])


def clothes(data: Path, n: int) -> dict[str, Any]:
    """Chinese texts for the clothes of AdvertiseGen, beside what people wrote for the same ones."""
    rows = pl.read_parquet(data / ADVERTISEGEN / "pairs.parquet").head(n).to_dicts()
    kinds, copies = list(ReasonKind), []
    for number, row in enumerate(rows):
        item = Item(item_id=str(number), title=title(json.loads(row["kv"]), row["type"]), category=(row["type"],))
        request = CopyRequest(
            item=item, channel="wechat", locale="zh", now=_MOMENT, reason_kind=kinds[number % len(kinds)], seed=number
        )
        copies.append(write_copy(request)[0])
    by_people = [row["summary"] for row in rows]
    human = {"distinct_2": round(distinct_pairs(by_people), 3), "characters": round(mean_length(by_people), 1)}
    return of_texts(copies) | {"people": human, "examples": [copy.text for copy in copies[:6]]}


def of_texts(copies: Sequence[AdCopy]) -> dict[str, Any]:
    """Figures of texts, which hold no item's name twice at best."""
    texts = [copy.text for copy in copies]
    without_names = [fold(copy.text).replace(_name(copy), "*") for copy in copies]
    return {
        "texts": len(texts),
        "verdicts": dict(Counter(copy.verdict.value for copy in copies)),
        "distinct_texts": len(set(texts)),
        "distinct_wordings": len(set(without_names)),
        "distinct_2": round(distinct_pairs(texts), 3),
        "name_twice": round(sum(fold(c.text).count(_name(c)) > 1 for c in copies) / len(copies), 3),
        "words": round(sum(len(words(text)) for text in texts) / len(texts), 1),
        "characters": round(mean_length(texts), 1),
    }


def _name(copy: AdCopy) -> str:
    """The name that a text goes by: its title as the facts tell it, without the size."""
    told = fold(copy.facts_used["title"])
    return _SIZE.sub("", told) or told


def mean_length(texts: Sequence[str]) -> float:
    return sum(map(len, texts)) / len(texts)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("-w", "--workspace", type=Path, required=True, help="a copy of the demonstration's workspace")
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--before", type=Path, help="a record of this script by an earlier program")
    args = parser.parse_args()
    with Workspace.open(args.workspace) as workspace:
        record = {
            "people": people(workspace, args.people),
            "product_types": product_types(workspace),
            "clothes": clothes(args.data, args.people),
        }
    if args.before:
        earlier = json.loads(args.before.read_text(encoding="utf-8"))
        record["before"] = {name: earlier[name] for name in (*record, "commit")}
    finish(record, args.output)


if __name__ == "__main__":
    main()
