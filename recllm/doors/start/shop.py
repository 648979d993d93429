"""From a shop's own files to something to send; `demo` does it with a public log."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from recllm.base.documents import json_text, plain
from recllm.base.errors import DataError, IngestError, NothingToDo, PolicyError, UsageError
from recllm.base.files import write_whole
from recllm.base.schema import Action, Encoder, IngestReport, Purpose, Slate, Table
from recllm.base.words.sentences import language_of
from recllm.base.words.words import Words
from recllm.doors.start.files import Answers, ShopFile, answers_of, columns_of_consent, read_files, shop_settings
from recllm.market.adcopy.naming import goods_of
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.campaigns.drafts import campaign_file, create_campaign, file_path
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, read_plan
from recllm.market.campaigns.plan import plan_campaign
from recllm.recommend.evaluation.report import Report
from recllm.recommend.evaluation.shop_evaluation import evaluate_workspace
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import open_recommender, workspace_encoder
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import Dataset, utc
from recllm.shop.ingest.sources import keep_kinds
from recllm.shop.workspace.workspace import SETTINGS_FILE, Workspace, present
from recllm.text.domains import domain_of
from recllm.text.templates import Prompts

BASELINES = ("random", "popular", "popular-recent", "personal-frequency", "zero-shot")
CAMPAIGN = "first-campaign"
HOLDOUT = 0.1
"""Share of customers who get no message, so that the effect can be measured."""
SIZE = 1_000
"""Maximum number of customers of the first campaign."""
SHOWN_TEXTS = 30
TEST_DAYS = 28
SEED = 0
LIST_LENGTH = 20
METRIC = f"ndcg@{LIST_LENGTH}"
OURS = "recllm"
FEWEST_MEASURED = 10
"""Minimum number of people for bars."""


@dataclass
class Run:
    """What the steps of one run share."""

    workspace: Workspace
    words: Words
    started: float = field(default_factory=time.monotonic)
    problems: dict[str, str] = field(default_factory=dict)
    """Part of the page -> why it could not be made."""

    @contextmanager
    def step(self, text: str, *errors: type[Exception], problem: str = "", **values: Any) -> Iterator[None]:
        """Prints a step's name. text: a key of the words. errors: noted as this problem."""
        seconds = time.monotonic() - self.started
        sys.stderr.write(f"{seconds:6.1f} s  {self.words.say(f'start.step_{text}', **values)}\n")
        try:
            yield
        except errors as error:
            self.problems[problem] = str(error)


Learn = Callable[[Run, Encoder], tuple[str | None, Report | None]]
"""The model's version and its evaluation, None for what could not be done."""


def learn_and_measure(run: Run, encoder: Encoder) -> tuple[str | None, Report | None]:
    """Trains on everything, and measures another training on the last `TEST_DAYS`."""
    version, evaluation = None, None
    with run.step("train", DataError, PolicyError, problem="model"):
        version = train_workspace(run.workspace, encoder=encoder, seed=SEED).model_version
    with run.step("measure", DataError, PolicyError, UsageError, problem="evaluation", days=TEST_DAYS):
        evaluation = evaluate_workspace(
            run.workspace, test_days=TEST_DAYS, baselines=BASELINES, encoder=encoder, seed=SEED
        )
    return version, evaluation


def start_shop(
    folder: Path,
    paths: Sequence[Path],
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    generator: str,
    at_terminal: bool,
) -> dict[str, Any]:
    """`run_start`, with what the files say of the shop where nothing else does, and raises what it calls does.

    options: basis, contact and sender, or empty. at_terminal: whether questions can be asked.
    """
    before: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # the record of the start before in this workspace
        before = dict(json.loads((folder / "report.json").read_text("utf-8")))
    words = words_of(settings.get("locale") or before.get("locale") or "en")
    try:
        files = read_files(paths, words)
        settings = settings if (folder / SETTINGS_FILE).exists() else {**shop_settings(files), **settings}
        words = words_of(before.get("locale") or settings.get("locale") or "en")
        stated, columns = {name: value for name, value in options.items() if value}, columns_of_consent(files)
        answers = answers_of(stated, before.get("answers"), columns, words, at_terminal=at_terminal)
        return run_start(folder, files, answers, generator=generator, **settings)
    except IngestError as error:  # its remedy may be another command's option
        clauses = re.split(r"; |\. ", error.message)
        facts = [text for text in clauses if not re.search(r"(?<!\w)--[a-z]", text)]
        if facts == clauses or not words.has(f"start.remedy.{error.code}"):
            raise
        raise UsageError(f"{'; '.join(facts)}: {words.say(f'start.remedy.{error.code}')}") from error


def run_start(
    folder: Path,
    files: Sequence[ShopFile],
    answers: Answers,
    *,
    locale: str | None = None,
    generator: str = "template",
    learn: Learn = learn_and_measure,
    where: str | None = None,
    note: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Reads the files into a workspace at `folder`, learns, recommends, measures and drafts a campaign. Returns the
    record of which report.html is the page. A second run reads what is new and learns again; a campaign stays.

    locale: of page and texts. where: a condition on the recommended items. note: at the top of the page. settings: of
    `Settings`. Raises `IngestError` for a refused file, `UsageError` for an absent column, or other answers before.
    """
    check_columns(files, answers)
    stated = {name: value for name, value in settings.items() if value is not None}
    channel = answers.channel(files)
    stated |= answers.settings(CHANNEL_PURPOSE[channel])
    language = {} if locale is None else {"locale": locale}
    workspace = Workspace.create(folder, exist_ok=True, **stated, **language)
    for name, value in stated.items():
        setting = getattr(workspace.settings, name)
        if name == "policy" and setting.explicit_purposes != value.explicit_purposes:
            raise UsageError(f"{folder} was made with other answers about consent; give these, or another folder: -w")
        if name != "policy" and setting != value:
            raise UsageError(f"{folder} is a workspace with {name} = {setting!r}: change that in its workspace.toml")
    page_locale, currency = workspace.locale(locale), workspace.settings.currency
    timezone = workspace.settings.timezone
    run = Run(workspace, words_of(page_locale, currency, timezone))
    loads: list[tuple[ShopFile, list[IngestReport]]] = []
    for file in (file.with_columns(answers.contact) for file in files):
        with run.step("read", file=file.name, kind=file.source.words(page_locale).title):
            loads.append((file, file.load(workspace, answers)))
    keep_kinds(folder, [file.source for file, _ in loads if file.suggestion and file.source.maps])
    encoder = workspace_encoder(workspace)
    model_version, evaluation = learn(run, encoder)
    contact = reachable(workspace, channel)
    if not contact:
        run.problems = {"contact": run.words.say("start.mend.contact"), **run.problems}
    if currency is None:
        run.problems["currency"] = run.words.say("start.mend.currency")
    plan = None
    serving = open_recommender(workspace, locale=locale, encoder=encoder, everybody=True).by_pseudonym()
    if channel == "sms_gsm" and (currency == "CNY" or (currency is None and language_of(page_locale) == "zh")):
        run.problems["sms"] = run.words.say("start.mend.sms")
    elif contact and model_version is not None and answers.sender is not None:
        with run.step("campaign", DataError, PolicyError, UsageError, NothingToDo, problem="campaign"):
            plan = draft_campaign(run, answers, channel, generator)
    with run.step("slates"):
        texts = {} if plan is None else {person.user_id: person.text_id for person in plan.addressed}
        people = typical_people(serving, run.words, texts or contact)
        slates = [slate_of_goods(serving, person["user_id"], where) for person in people]
    ended = utc(present(workspace))
    days_ago = (datetime.now(UTC) - ended).days
    record = {
        "workspace": str(folder),
        "report": str(folder / "report.html"),
        "command": "recllm start",
        "note": note,
        "ended": run.words.say("start.ended", last=run.words.day(ended), n=days_ago) if days_ago and not note else None,
        "answers": asdict(answers),
        "locale": page_locale,
        "currency": currency,
        "timezone": timezone,
        "rows": sum(load.read for _, reports in loads for load in reports),
        "seconds": round(time.monotonic() - run.started, 2),
        "files": [
            {
                "file": file.name,
                "encoding": file.recognised.encoding,
                "is_plain": file.suggestion is not None,
                "unread": [c for c in file.columns if all(c in load.ignored_columns for load in reports)],
                **plain(file.source.words(page_locale)),
            }
            for file, reports in loads
        ],
        "problems": run.problems,
        "evaluation": None if evaluation is None else evaluation.document(),
        "slates": plain(slates),
        "contact": len(contact),
        "campaign": None if plan is None else campaign_card(plan, len(contact)),
        "model_version": model_version,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "horizon_days": TEST_DAYS,
        "shop": shop_figures(serving.dataset),
        "loads": [{**plain(load), "file": file.name} for file, reports in loads for load in reports],
        "people": person_cards(people, slates, plan, serving.dataset),
        "next": next_steps(run, files),
        "provenance": {
            "model": model_version,
            "encoder": serving.encoder.name,
            "generator": generator,
            "seed": str(SEED),
        },
    }
    (folder / "report.json").write_text(json_text(record, indent=1), encoding="utf-8")
    write_whole(folder / "report.html", start_page(record))
    return record


def check_columns(files: Sequence[ShopFile], answers: Answers) -> None:
    """Raises `UsageError` for a column of the answers that no file has."""
    for name in answers.columns:
        if not any(name in file.columns and file.people is not None for file in files):
            listed = ", ".join(columns_of_consent(files)) or "none"
            option = "--basis" if name == answers.basis else "--contact"
            raise UsageError(f"{option} {name!r}: no file has such a column; columns of consent: {listed}")


def reachable(workspace: Workspace, channel: str) -> set[str]:
    """Customers who may be written to on the channel, by pseudonym."""
    gate = workspace.gate()
    may_be_used = set(gate.permitted_users(Purpose.PERSONALISATION))
    return may_be_used & set(gate.permitted_users(CHANNEL_PURPOSE[channel]))


def draft_campaign(run: Run, answers: Answers, channel: str, generator: str) -> CampaignPlan:
    """The first campaign's plan, made where none is. Raises what `plan_campaign` does."""
    workspace = run.workspace
    if not file_path(workspace, CAMPAIGN).is_file():
        fields = {
            "id": CAMPAIGN,
            "goal": run.words.say("start.campaign_goal"),
            "channels": [channel],
            "locales": [language_of(workspace.settings.locale)],
            "target": {"intent": "mixed"},
            "limits": {"holdout": HOLDOUT, "size": SIZE},
            "words": {"generator": generator},
            "sender": plain(answers.sender),
        }
        create_campaign(workspace, fields, by="recllm start")
    folder = CampaignFolder.of(workspace.root, CAMPAIGN)
    if not folder.plan.exists():
        return plan_campaign(workspace, campaign_file(workspace, CAMPAIGN))
    return read_plan(folder)


def campaign_card(plan: CampaignPlan, n_reachable: int) -> dict[str, Any]:
    used = [text for text in plan.texts if text.people]
    readers: Counter[tuple[str, str]] = Counter()
    for text in used:
        if not text.failures and not text.warnings:
            readers[text.facts.title, text.text] += text.people
    of_title: Counter[str] = Counter()
    listed = []
    for (title, words), n in readers.most_common():
        listed.append((of_title[title], {"text": words, "title": title, "people": n}))
        of_title[title] += 1
    return {
        "id": plan.campaign_id,
        "goal": plan.goal,
        "people": len(plan.addressed),
        "held_out": len(plan.held_out),
        "silent": max(n_reachable - len(plan.people), 0),
        "sendable": len(readers),
        "messages": readers.total(),
        "waiting": sum(bool(text.warnings and not text.failures) for text in used),
        "blocked": sum(bool(text.failures) for text in used),
        "texts": [text for _, text in sorted(listed, key=lambda pair: pair[0])][:SHOWN_TEXTS],
    }


def shop_figures(data: Dataset) -> dict[str, Any]:
    events = data.events
    first, last = (utc(int(events.at.min())), utc(int(events.at.max()))) if len(events) else (None, None)
    return {
        "users": data.n_users,
        "items": int(data.items["available"].sum()),
        "events": len(events),
        "first": first and first.isoformat(),
        "last": last and last.isoformat(),
        "days": (last - first).days + 1 if first and last else 0,
    }


def slate_of_goods(serving: Recommender, user_id: str, where: str | None, exclude: Sequence[str] = ()) -> Slate:
    """Six recommendations, without lines of a till such as a carrier bag."""
    (slate,) = serving.recommend(user_id, k=6, where=where, exclude=exclude)
    no_goods = [item.item_id for item in slate.items if "no_goods" in goods_of([item.title])]
    return slate_of_goods(serving, user_id, where, [*exclude, *no_goods]) if no_goods else slate


def typical_people(serving: Recommender, page_words: Words, names: Collection[str]) -> list[dict[str, str]]:
    counts = np.diff(serving.dataset.events.of(Action.PURCHASE).indptr)
    ids = serving.dataset.users["user_id"]
    buyers = np.flatnonzero((counts > 0) & (ids.is_in(list(names)).to_numpy() if names else True))
    if not len(buyers):
        return []
    buyers = buyers[np.argsort(counts[buyers], kind="stable")]
    people: dict[int, dict[str, str]] = {}
    for label, share in (("very_active", 0.98), ("typical", 0.5), ("less_active", 0.05)):
        row = int(buyers[int(share * (len(buyers) - 1))])
        n = int(counts[row])
        about = page_words.say("start.about_one") if n == 1 else page_words.say("start.about", n=n)
        people.setdefault(row, {"label": page_words.say(f"start.{label}"), "user_id": ids[row], "about": about})
    return list(people.values())


def next_steps(run: Run, files: Sequence[ShopFile]) -> list[dict[str, str]]:
    steps, folder = [("next_serve", f"recllm serve -w {run.workspace.root}")], run.workspace.root
    tables = {table for file in files for table in file.source.maps}
    if Table.EVENTS not in tables:
        steps.append(("next_orders", f"recllm start FILE... ORDERS -w {folder}"))
    if not any(Table.ITEMS in file.source.maps and Table.EVENTS not in file.source.maps for file in files):
        steps.append(("next_products", f"recllm ingest PRODUCTS -w {folder}"))
    if "model" not in run.problems:
        steps.append(("next_advise", f"recllm advise -w {folder}"))
    steps += [
        ("next_occasions", f"recllm occasions -w {folder}"),
        ("next_retrain", f"recllm retrain --if-due -w {folder}"),
    ]
    return [{"text": run.words.say(f"start.{name}"), "command": command} for name, command in steps]


def person_cards(
    people: Sequence[Mapping[str, str]], slates: Sequence[Slate], plan: CampaignPlan | None, data: Dataset
) -> list[dict[str, Any]]:
    texts = {} if plan is None else {text.id: text for text in plan.texts}
    text_of = {} if plan is None else {person.user_id: texts.get(person.text_id) for person in plan.addressed}
    cards = []
    for person, slate in zip(people, slates, strict=True):
        text = text_of.get(person["user_id"])
        card: dict[str, Any] = {**person, "slate": plain(slate), "text": text and text.text}
        for item, row in zip(card["slate"]["items"], data.item_rows(i.item_id for i in slate.items), strict=True):
            item["price"] = data.items["price"][int(row)]
        cards.append(card)
    return cards


def words_of(locale: str, currency: str | None = None, timezone: str | None = None) -> Words:
    """The words for a locale: "zh@media" is Chinese with a media service's words."""
    name = language_of(locale)
    return Words(name, currency, timezone, Prompts.load().domain(domain_of(locale)).words[name])


def terminal_lines(record: Mapping[str, Any]) -> list[str]:
    """The last lines: the files, what is missing and mends it, what can be sent."""
    page_words, campaign = words_of(record["locale"]), record["campaign"]
    lines = []
    for file in record["files"]:
        lines.append(page_words.say("start.is_kind", file=file["file"], kind=file["title"]))
        if file["is_plain"]:
            unread = page_words.say("start.unread", columns=", ".join(file["unread"]) or "–")
            lines.append("  " + "; ".join([*file["caveats"], unread]))
    for name, problem in record["problems"].items():
        lines.append(page_words.say("start.not_yet", problem=page_words.say(f"start.problem.{name}")))
        lines += [f"  {text}" for text in dict.fromkeys((problem, page_words.say(f"start.mend.{name}")))]
    if campaign is not None:
        lines.append(page_words.say("start.sendable", n=campaign["sendable"], people=campaign["messages"]))
        lines.append(page_words.say("start.drafted", goal=campaign["goal"], workspace=record["workspace"]))
    lines += [record["ended"]] if record["ended"] else []
    return [*lines, page_words.say("start.done", seconds=record["seconds"], report=record["report"])]


def start_page(record: Mapping[str, Any]) -> str:
    """The page of the record: one file with no script and nothing from elsewhere."""
    page_words = words_of(record["locale"], record["currency"], record["timezone"])
    evaluation = record["evaluation"]
    environment = Environment(
        loader=PackageLoader("recllm.doors.start", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("start.html.j2").render(
        record=record,
        say=page_words.say,
        label=page_words.label,
        number=page_words.number,
        percent=page_words.percent,
        money=page_words.money,
        day=lambda text: page_words.day(datetime.fromisoformat(text)),
        moment=lambda text: page_words.moment(datetime.fromisoformat(text)),
        tag=page_words.tag,
        bars=[] if evaluation is None else bars(evaluation),
        verdict="" if evaluation is None else verdict(evaluation, page_words),
        gaps={} if evaluation is None else gaps(evaluation),
        metric=METRIC,
        ours=OURS,
        list_length=LIST_LENGTH,
    )


def verdict(evaluation: Mapping[str, Any], page_words: Words) -> str:
    """Better or worse than the best simple way only where the interval excludes zero."""
    peers = {name: slices["ALL"][METRIC] for name, slices in evaluation["systems"].items() if name != OURS}
    best = max(peers, key=lambda name: peers[name], default=None)
    gap = gaps(evaluation).get(best or "")
    if best is None or gap is None:
        return ""
    outcome = "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else "same"
    return page_words.say(f"start.verdict_{outcome}", ours=OURS, peer=page_words.say(f"start.way.{best}"))


def gaps(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Peer -> difference to it, with the interval."""
    return {gap["peer"]: gap for gap in evaluation["differences"] if (gap["slice"], gap["metric"]) == ("ALL", METRIC)}


def bars(evaluation: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Systems with their figure, the best first; none of too few people."""
    if evaluation["slices"]["ALL"]["users"] < FEWEST_MEASURED:
        return []
    figures = [(name, slices["ALL"][METRIC]) for name, slices in evaluation["systems"].items()]
    return sorted(figures, key=lambda pair: -pair[1])
