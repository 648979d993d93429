"""Commands that answer: recommendations and feedback, audiences, predictions, effects of treatments, occasions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field, field_validator

from recllm.base.documents import count_text, guarded
from recllm.base.errors import NothingToDo, UsageError
from recllm.base.questions import RecommendRequest, ReportBy, SearchRequest
from recllm.base.schema import NoteKind
from recllm.doors.cli import batch
from recllm.doors.cli.options import (
    Answer,
    Answering,
    Batching,
    Csv,
    Everybody,
    Explain,
    Ids,
    InLanguage,
    Json,
    Options,
    Out,
    ReasonLocale,
    Seed,
    Shop,
    User,
    Users,
    WorkspaceDir,
    batch_options,
    fields_table,
    ids_by_pseudonym,
    note,
    open_shop,
    read_user_ids,
    table,
    write_audit,
)
from recllm.market.audiences.request import AudienceQuestion
from recllm.market.propensity.question import PredictionKind, PredictionQuestion

if TYPE_CHECKING:
    from recllm.base.schema import Slate
    from recllm.base.stats.intervals import ConfidenceInterval
    from recllm.market.campaigns.today import OccasionSuggestion
    from recllm.market.occasions.day import OccasionList
    from recllm.shop.workspace.workspace import Workspace

COUPONS = "a folder with mailings.csv, products.csv, redemptions.csv and, where known, uses.csv"

MAX_PRINTED = 20
"""People listed on a screen; a file holds all."""


class SlateOptions(RecommendRequest, Answering, Batching):
    """What `recllm recommend` asks."""

    users: tuple[str, ...] = ()


def recommend(
    question: Annotated[SlateOptions, Options(("k", "where", "intent", "objective", "explain"))],
    *,
    user: Users,
    everybody: Everybody,
    folder: Out,
    shop: Shop,
    record: Annotated[bool, typer.Option(help="Record the items as shown, for feedback and reports.")] = False,
) -> Answer:
    """The best items for customers, with the reasons that moved the score."""
    from recllm.market.experiments.slates import list_experiments, recommend_in_experiments
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.ingest.workspace_load import record_shown

    if batch.is_batch(everybody, folder, user, record):
        return batch.answer(shop, "recommend", {"explain": False} | batch_options(question), question, folder)
    request = question.part(RecommendRequest, users=tuple(read_user_ids(user)))
    if question.model is None:
        opening = partial(open_recommender, shop, locale=question.locale)
        slates = recommend_in_experiments(shop, request, list_experiments(shop), lambda v: opening(version=v))
    else:  # a model that is named answers, whatever experiment runs
        recommender = open_recommender(shop, version=question.model, locale=question.locale)
        slates = recommender.recommend(request)
    is_known = shop.gate().knows_each(shop.pseudonymiser().many(request.users))
    unknown = [user_id for user_id, yes in zip(request.users, is_known, strict=True) if not yes]
    if record:
        record_shown(shop, slates)
    for user_id in unknown[:MAX_PRINTED]:
        note(f"{user_id}: not known, so the items are what is popular now; check the id")
    return Answer(slates, itertools.chain.from_iterable(map(_slate_lines, slates)))


def _slate_lines(slate: Slate) -> Iterator[str]:
    yield ""
    yield f"{slate.user_id} ({slate.degraded_reason or 'personal'}; request {slate.request_id})"
    yield from (f"  note: {note.text}" for note in slate.notes if note.kind is not NoteKind.SHORT)
    for item in slate.items:
        chance = "" if item.probability is None else f"  {100 * item.probability:.1f} %"
        suffix = f"  {item.part_text}" if item.part_text else ""
        yield f"{item.rank:3}. {item.title}{chance}{suffix}  [{', '.join(item.served_by)}]"
        yield from (f"       {r.text}" + (f" ({r.delta:+.2f})" if r.delta else "") for r in item.reasons)


class SearchOptions(SearchRequest, Answering):
    """What `recllm search` asks."""

    query: str = "-"  # the argument takes its place


def search(
    question: Annotated[SearchOptions, Options(("user", "k", "where"))],
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    shop: Shop,
) -> Answer:
    """Items for a query: by words, by meaning, and in a person's own order."""
    from recllm.recommend.recommender.search import search_workspace

    request = question.part(SearchRequest, query=query)
    slate = search_workspace(shop, request, version=question.model, locale=question.locale)
    return Answer(slate, _slate_lines(slate))


class ExplainOptions(Answering):
    """What `recllm explain` asks."""

    k: Annotated[int, Field(ge=1)] = 10
    """Length of the list that the item would leave."""


def explain(
    question: Annotated[ExplainOptions, Options(())],
    *,
    user: User,
    item: Annotated[str, typer.Option("--item", "-i", help="The item's id.")],
    shop: Shop,
) -> Answer:
    """One item for one customer: what each piece of evidence adds, and without which it would not be shown."""
    from recllm.recommend.recommender.shop_recommender import open_recommender

    recommender = open_recommender(shop, version=question.model, locale=question.locale)
    explanation = recommender.explain(user, item, k=question.k)
    rank = f"number {explanation.rank}" if explanation.rank else f"not among the first {question.k}"
    lines = [f"{explanation.title}: {rank}", *(f"  {c.delta:+.2f}  {c.text}" for c in explanation.contributions)]
    lines += [f"  {explanation.withheld:+.2f}  (not named)"] if explanation.withheld else []
    lines += [explanation.counterfactual] if explanation.counterfactual else []
    return Answer(explanation, lines)


def feedback_add(
    *,
    user: User,
    item: Annotated[str, typer.Option(help="The item.")],
    event: Annotated[str, typer.Option(help="click, purchase, dismiss, rating, cart, favourite, view or return.")],
    request: Annotated[str | None, typer.Option(help="Id of the request that showed it.")],
    value: Annotated[float | None, typer.Option(help="Stars of a rating.")],
    quantity: Annotated[float, typer.Option(help="Units bought.")] = 1.0,
    price: Annotated[float | None, typer.Option(help="Price per unit.")],
    shop: Shop,
) -> Answer:
    """Record one event of a customer; the next recommendation uses it, without training."""
    from recllm.shop.ingest.workspace_load import add_feedback

    done = add_feedback(shop, user, item, event, request_id=request, value=value, quantity=quantity, price=price)
    return Answer(done, [f"kept: {done.accepted}, already known: {done.duplicates}"])


def report(
    shop: Shop,
    by: Annotated[ReportBy, typer.Option(help="How showings are grouped.")] = ReportBy.MODEL,
    days: Annotated[
        float, typer.Option(min=0, help="Days in which an event without a request answers a showing.")
    ] = 7.0,
) -> Answer:
    """Shown, clicked, bought, revenue, returned, covered: by model, campaign, variant, template or day."""
    from recllm.market.experiments.feedback import feedback_report

    outcomes = feedback_report(shop, by=by, window_days=days)
    rows = [
        (
            *(o.name, o.showings, o.people, o.clicked, o.bought, o.dismissed),
            *(_percent(o.ctr), _percent(o.conversion), round(o.revenue, 2)),
            *("" if o.returned is None else _percent(o.returned), o.items),
        )
        for o in outcomes
    ]
    heads = ("shown", "people", "clicked", "bought", "dismissed", "CTR", "conversion", "revenue", "returned", "items")
    return Answer({"by": by.value, "window_days": days, "groups": outcomes}, table(rows, [by.value, *heads]))


def _percent(interval: ConfidenceInterval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f}-{100 * interval.high:.1f})"


class AudienceOptions(AudienceQuestion, Answering, Batching):
    """What `recllm audience` asks."""

    explain: bool = True
    """Give each person's reasons."""

    @field_validator("people", mode="before")
    @classmethod
    def _rule(cls, people: object) -> object:
        from recllm.market.audiences.people_rule import read_rule

        return read_rule(people) if isinstance(people, str) else people


def audience(
    question: Annotated[AudienceOptions, Options(("items", "category", "text", "size", "channel", "people"))],
    *,
    campaign: Annotated[
        str | None,
        typer.Option(help="Name of the campaign, which draws the control group; or its file, which states everything."),
    ],
    everybody: Everybody,
    folder: Out,
    workspace: WorkspaceDir,
    csv: Csv,
    ids: Ids,
    json: Json,
) -> Answer:
    """Whom to reach for an item, a category or a text, why, who is left out, and what to expect.

    A rule over people (conditions under all, any and not) is JSON, or a file of TOML or JSON."""
    from recllm.market.audiences.audience import audience_document, audience_of_workspace, write_audience_csv
    from recllm.market.campaigns.file import read_campaign
    from recllm.market.campaigns.reach import audience_of
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.workspace.figures import LISTS_TELL

    stated = {name: value for name, value in batch_options(question).items() if name != "explain"}
    if batch.is_batch(everybody, folder):
        with open_shop(workspace) as shop:
            options = stated | ({"campaign": campaign} if campaign else {})
            return batch.audience(shop, options, question, folder, csv, ids)
    if campaign is not None and campaign.endswith(".toml"):
        if stated:
            raise UsageError(f"{campaign} says whom the campaign is for; leave out the options that say it again")
        members_of = partial(audience_of, file=read_campaign(Path(campaign)), explain=question.explain)
    else:
        first = None if json or csv else MAX_PRINTED
        request = question.request(campaign=campaign, explain=question.explain, explain_first=first)
        members_of = partial(audience_of_workspace, request=request)
    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        recommender = open_recommender(shop, version=question.model, locale=question.locale, everybody=True)
        members = members_of(shop, recommender)
        write_audit(shop, "people_listed", what="audience", people=len(members.people))
    problem = None
    if not members.people:
        excluded = _counts(members.excluded) or "no one"
        problem = NothingToDo(f"no one is left to address: {excluded}; held out: {len(members.holdout)}")
    elif csv:
        write_audience_csv(members, csv, names)
        note(LISTS_TELL)
    document = audience_document(members, names)
    return Answer(document, _audience_lines(document), _unlisted(members.size), problem)


def _audience_lines(document: dict[str, Any]) -> Iterator[str]:
    from recllm.market.audiences.audience import aim

    expected, days = document["expected_conversions"], document["horizon_days"]
    within = "" if expected is None else f"; {expected:.1f} expected to {aim(document['converts'])} within {days} days"
    people = count_text(document["size"], "person", "people")
    yield f"{document['campaign_id']}: {people}, {document['holdout']:,} held out{within}"
    if (extra := document["expected_extra"]) is not None:
        yield f"  the treatment is expected to add {extra:+.1f} to what they do anyway"
    yield f"  left out: {_counts(document['excluded']) or 'no one'}"
    yield from (f"  note: {line}" for line in document["notes"])
    for count in document["rule"]:
        yield f"    {'few' if count['people'] is None else format(count['people'], ',')}: {count['words']}"
    if document["group"]:
        header = ["what sets them apart", "share", "of the rest", "lift", "low", "high"]
        yield from ("", *fields_table(document["group"], "name share share_of_rest lift low high", header))
    yield ""
    for person in document["people"][:MAX_PRINTED]:
        probability = "" if person["probability"] is None else f"  {100 * person['probability']:.1f} %"
        if person["effect"] is not None:
            probability += "  effect {effect:+.4f} ({effect_low:+.4f} to {effect_high:+.4f})".format_map(person)
        yield f"{person['user_id']}{probability}  " + " ".join(reason["text"] for reason in person["reasons"])


class PredictionOptions(PredictionQuestion, InLanguage, Batching):
    """What `recllm predict` asks."""

    kind: PredictionKind = PredictionKind.BUY
    campaign: str | None = None
    """redeem: its id; the latest when left out."""


def predict(
    question: Annotated[PredictionOptions, Options(("horizon_days", "items", "category"))],
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, redeem, next-order or value.")],
    coupons: Annotated[Path | None, typer.Option(help=f"redeem: {COUPONS}.")],
    everybody: Everybody,
    folder: Out,
    workspace: WorkspaceDir,
    csv: Csv,
    ids: Ids,
) -> Answer:
    """What each customer will do within a horizon: a calibrated chance, a date or an amount, and why."""
    from recllm.market.propensity.answers import predict_workspace
    from recllm.market.propensity.prediction import PredictionRequest, prediction_document, write_prediction_csv

    if batch.is_batch(everybody, folder, coupons, csv, ids):
        options = {"explain": False} | batch_options(question) | {"kind": kind, "seed": question.seed}
        with open_shop(workspace) as shop:
            return batch.answer(shop, "predict", options, question, folder)
    request = question.part(PredictionRequest, kind=kind, coupons=coupons, locale="en")
    with open_shop(workspace) as shop:
        names, locale = ids_by_pseudonym(shop, ids), question.locale or shop.settings.locale
        prediction = predict_workspace(shop, request.model_copy(update={"locale": locale}))
        write_audit(shop, "people_listed", what="prediction", kind=request.kind, people=len(prediction.people))
    if csv:
        write_prediction_csv(prediction, csv, names)
    document = prediction_document(prediction, names)
    return Answer(document, _prediction_lines(document), _unlisted(len(prediction.people)))


def _prediction_lines(document: dict[str, Any]) -> Iterator[str]:
    quality, people = document["calibration"], document["people"]
    days = count_text(document["horizon_days"], "day")
    yield f"{document['kind']}: {count_text(len(people), 'person', 'people')} as of {document['as_of'][:10]}, {days}"
    yield from (f"  {document['meaning']}", f"  checked on {quality['checked']}:")
    yield "  " + ", ".join(f"{name} {value:.4g}" for name, value in quality.items() if isinstance(value, float))
    yield from (f"  note: {line}" for line in document["notes"])
    if document["left_out"]:
        yield f"  left out: {_counts(document['left_out'])}"
    yield ""
    columns = [name for name in people[0] if name != "reasons"]
    rows = [
        [*(person[name] for name in columns), " ".join(reason["text"] for reason in person["reasons"])]
        for person in people[:MAX_PRINTED]
    ]
    yield from table(rows, [*columns, "reasons"])


def _counts(left_out: Mapping[str, int | None]) -> str:
    from recllm.market.audiences.audience import counts_in_words

    return counts_in_words(left_out)


def _unlisted(people: int) -> list[str]:
    return [f"... and {people - MAX_PRINTED:,} more; --csv FILE or --json gives all"] if people > MAX_PRINTED else []


def uplift(
    *,
    trial: Annotated[
        Path | None,
        typer.Argument(
            metavar="TRIAL",
            help="A CSV: user_id, treated, outcome[, propensity].",
        ),
    ],
    campaign: Annotated[
        Path | None,
        typer.Option(help="Instead of TRIAL: the TOML of an exported campaign; its control group is the control."),
    ],
    save: Annotated[str | None, typer.Option(help="Keep the effects as NAME, for audience --with effects=NAME.")],
    start: Annotated[
        datetime | None, typer.Option(help="Before the first treatment, UTC; nothing later is learned from.")
    ],
    shop: Shop,
    randomised: Annotated[bool, typer.Option("--randomised", help="The treated were drawn at random.")] = False,
    csv: Csv,
    ids: Ids,
    seed: Seed,
) -> Answer:
    """How much a treatment changes each customer's outcome, learned from a trial; what is no trial is refused."""
    if (trial is None) == (campaign is None):
        raise UsageError("give a trial's table, or --campaign with the file of a campaign that went out")
    if campaign is not None and start:
        raise UsageError("a campaign says itself when it began: leave out --start")
    if campaign is None and start is None:
        raise UsageError("give --start DATE: features are learned from what came before")
    from recllm.market.campaigns.file import read_campaign
    from recllm.market.campaigns.open_campaign import open_campaign
    from recllm.market.campaigns.outcome import campaign_trial
    from recllm.market.propensity.answers import uplift_workspace
    from recllm.market.propensity.uplift import uplift_document, write_uplift_csv

    table_of_trial: Any = trial
    source = ""
    pseudonyms = ids_by_pseudonym(shop, ids)
    if campaign is not None:
        opened_campaign = open_campaign(shop, read_campaign(campaign), recheck=False)
        start, table_of_trial = campaign_trial(opened_campaign)
        randomised, source = True, opened_campaign.plan.campaign_id
    assert start is not None  # noqa: S101 - a trial of people has it, and a campaign says it
    how: dict[str, Any] = {"start": start, "randomised": randomised, "seed": seed}
    estimate = uplift_workspace(shop, table_of_trial, **how, source=source, save=save)
    if csv:
        write_uplift_csv(estimate, csv, pseudonyms)
    document = uplift_document(estimate, pseudonyms)
    of_trial = document["trial"]
    lines = [
        *([f"kept as {save}: recllm audience --with objective=uplift --with effects={save}"] if save else []),
        f"{count_text(of_trial['people'], 'person', 'people')} in the trial, {of_trial['treated']:,} treated; "
        f"mean effect {of_trial['effect']:+.4f}",
        f"Qini {document['qini']:.4f}, area under the uplift curve {document['auuc']:.4f}, "
        "each person by a model of others",
        "",
        *fields_table(document["people"][:MAX_PRINTED], "user_id uplift low high"),
    ]
    return Answer(document, lines, _unlisted(len(document["people"])))


MAX_OF_OCCASION = 5
"""People of each occasion on a screen; --json and --csv hold all."""

CSV_COLUMNS = ("user_id", "occasion", "item_id", "title", "probability", "best_hour", "channel", "reasons")


def occasions(
    *,
    on: Annotated[str | None, typer.Option(metavar="DATE", help="The day, such as 2026-03-01; today when left out.")],
    shop: Shop,
    size: Annotated[int | None, typer.Option(min=0, help="People at most.")],
    explain: Explain,
    csv: Csv,
    ids: Ids,
    locale: ReasonLocale,
) -> Answer:
    """Whom to write to on a day, and about what: days of the calendar that come, due again, left in the cart, cheaper,
    back, new, long away, just come."""
    from recllm.base.documents import plain, write_csv
    from recllm.market.campaigns.today import coming_days, customers_of
    from recllm.market.occasions.day import find_occasions, moment_of, open_shop_at
    from recllm.recommend.recommender.shop_recommender import open_recommender

    try:
        day = None if on is None else datetime.strptime(on, "%Y-%m-%d").date()
    except ValueError:
        raise UsageError(f"--on takes a day such as 2026-03-01, not {on!r}") from None
    names = ids_by_pseudonym(shop, ids)
    day_shop = open_shop_at(shop, moment_of(shop, day, None)[1])
    listed = find_occasions(shop, day, size=size, explain=explain, locale=locale, progress=note, shop=day_shop)
    days = coming_days(shop, day_shop, *customers_of(shop, day_shop), lambda: open_recommender(shop, everybody=True))
    write_audit(shop, "people_listed", what="occasions", people=len(listed.people))
    document = plain(listed) | {"days": [day_document(line) for line in days]}
    for person in document["people"]:
        person["user_id"] = names.get(person["user_id"], person["user_id"])
    if csv:
        rows = ([_csv_cell(person[name]) for name in CSV_COLUMNS] for person in document["people"])
        write_csv(csv, CSV_COLUMNS, rows)
    nothing = f"no one has an occasion on {listed.date}; {'; '.join(listed.notes) or 'nothing is due'}"
    lines = [*_day_lines(shop, days), *_occasion_lines(listed, names)]
    return Answer(document, lines, problem=None if listed.people or days else NothingToDo(nothing))


def _csv_cell(value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(reason["text"] for reason in value)
    return f"{value:.6f}" if isinstance(value, float) else guarded("" if value is None else str(value))


def day_document(line: OccasionSuggestion) -> dict[str, Any]:
    """A coming day for programs: its date, how many customers, and its goods with how they are known."""
    on = None if line.coming is None else line.coming.on.isoformat()
    goods = {"items": list(line.item_ids), "items_by": line.source.value}
    return {"day": line.occasion.value, "on": on, "people": len(line.people), **goods}


def _day_lines(shop: Workspace, days: Sequence[OccasionSuggestion]) -> Iterator[str]:
    """The days of the calendar, each with who and what."""
    from recllm.market.campaigns.goods import DayGoods, goods_note
    from recllm.market.occasions.calendar import profile_of

    for line in days:
        if line.coming is None:
            continue
        profile = profile_of(line.coming.day, shop.settings)
        goods = goods_note(DayGoods(item_ids=line.item_ids, source=line.source), profile.names["en"])
        goods = "the day is about an offer" if profile.is_sale else goods
        name, people = profile.names["en"], count_text(len(line.people), "customer")
        yield f'{name[:1].upper()}{name[1:]} on {line.coming.on}: {people}; {goods} (day = "{line.occasion}")'
    if days:
        yield ""


def _occasion_lines(listed: OccasionList, names: dict[str, str]) -> Iterator[str]:
    from recllm.market.audiences.audience import counts_in_words

    left_out = counts_in_words(listed.left_out) or "no one"
    yield f"{listed.date}: {count_text(len(listed.people), 'person', 'people')}; left out: {left_out}"
    yield from (f"  note: {line}" for line in listed.notes)
    for occasion, n in listed.counts.items():
        if not n:
            continue
        yield ""
        yield f"{occasion}: {count_text(n, 'person', 'people')}"
        for person in [p for p in listed.people if p.occasion is occasion][:MAX_OF_OCCASION]:
            chance = "" if person.probability is None else f"  {100 * person.probability:.0f} %"
            when = f"{person.channel} at {person.best_hour}:00"
            text = " ".join(reason.text for reason in person.reasons) or person.title or ""
            yield f"  {names.get(person.user_id, person.user_id)}{chance}  {when}  {text}"
