"""Commands that answer questions about customers and items."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field, field_validator

from recllm.base.documents import count_text, plain
from recllm.base.errors import NothingToDo, RecllmError, UsageError
from recllm.base.questions import PredictionKind, PredictionQuestion, RecommendRequest, ReportBy, SearchRequest
from recllm.base.schema import NoteKind
from recllm.base.words.sentences import language_of
from recllm.doors.cli.data import describe
from recllm.doors.cli.options import (
    MAX_LISTED,
    Answer,
    Answering,
    Batching,
    Csv,
    Ids,
    Json,
    Options,
    Shop,
    Users,
    WorkspaceDir,
    document_lines,
    ids_by_pseudonym,
    note,
    open_shop,
    read_user_ids,
    stated_options,
    write_audit,
    write_people,
)
from recllm.market.audiences.request import AudienceQuestion

if TYPE_CHECKING:
    from recllm.base.schema import Slate
    from recllm.market.occasions.suggest import OccasionSuggestion
    from recllm.shop.workspace.workspace import Workspace


class SlateOptions(RecommendRequest, Answering, Batching):
    users: tuple[str, ...] = ()


def recommend(
    question: Annotated[SlateOptions, Options(("k", "where", "intent", "objective", "explain"))],
    *,
    user: Users,
    everybody: Annotated[
        bool,
        typer.Option("--everybody", help="Answer for all customers with consent, in shards, into files of --out."),
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of --everybody; the same folder resumes a run.")
    ],
    shop: Shop,
    record: Annotated[bool, typer.Option(help="Record the items as shown, for feedback and reports.")] = False,
) -> Answer:
    """The best items for customers, with the reasons that moved the score."""
    from recllm.market.experiments.slates import list_experiments, recommend_in_experiments
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.ingest.workspace_load import record_shown

    if everybody or folder is not None:
        if not everybody or folder is None or user or record:
            raise UsageError("--everybody and --out DIR go together, without options about named people")
        return slates_of_everybody(shop, question, folder)
    request = question.part(RecommendRequest, users=tuple(read_user_ids(user)))
    opening = partial(open_recommender, shop, locale=question.locale)
    if question.model is None:
        slates = recommend_in_experiments(shop, request, list_experiments(shop), lambda v: opening(version=v))
    else:  # a named model answers, whatever experiment runs
        slates = opening(version=question.model).recommend(request)
    is_known = shop.gate().knows_each(shop.pseudonymiser().many(request.users))
    unknown = [user_id for user_id, yes in zip(request.users, is_known, strict=True) if not yes]
    if record:
        record_shown(shop, slates)
    for user_id in unknown[:MAX_LISTED]:
        note(f"{user_id}: not known, so the items are what is popular now; check the id")
    return Answer(slates, itertools.chain.from_iterable(map(_slate_lines, slates)))


def slates_of_everybody(shop: Workspace, question: SlateOptions, folder: Path) -> Answer:
    """Shard by shard, in this process or in several; a Parquet file for each."""
    from tqdm import tqdm

    from recllm.market.experiments.batch import BatchRun, run_batch
    from recllm.shop.workspace.figures import LISTS_TELL

    options = {"explain": False} | stated_options(question)
    run = BatchRun.plan(
        shop,
        folder,
        options,
        shards=question.shards,
        seed=question.seed,
        version=question.model,
    )
    with tqdm(total=run.shards, unit=" shards", disable=None) as bar:

        def advance(_: object) -> None:
            bar.update()

        result = run_batch(run, workers=question.workers, progress=advance)
    write_audit(shop, "people_listed", what="batch recommend", people=result.people)
    if result.failed:
        first = "; ".join(f"shard {outcome.shard}: {outcome.error}" for outcome in result.failed[:3])
        raise RecllmError(
            f"{len(result.failed)} of {result.shards} shards failed, the others are kept; run the same command again "
            f"to try these: {first}"
        )
    outside = f"{folder} lies outside of the workspace: recllm privacy erase does not reach it"
    document = plain(result) | {"model_version": run.version, "as_of": run.as_of}
    return Answer(document, notes=[LISTS_TELL, outside])


def _slate_lines(slate: Slate) -> Iterator[str]:
    yield ""
    yield f"{slate.user_id} ({slate.degraded_reason or 'personal'}; request {slate.request_id})"
    yield from (f"  note: {note.text}" for note in slate.notes if note.kind is not NoteKind.SHORT)
    for item in slate.items:
        chance = "" if item.probability is None else f"  {100 * item.probability:.1f} % in {slate.horizon_days} days"
        suffix = f"  {item.part_text}" if item.part_text else ""
        yield f"{item.rank:3}. {item.title}{chance}{suffix}  [{', '.join(item.served_by)}]"
        clear = (r for r in item.reasons if r.evidence_id != "general" or slate.degraded_reason)
        yield from (f"       {r.text}" + (f" ({r.delta:+.2f})" if r.delta else "") for r in clear)


class SearchOptions(SearchRequest, Answering):
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
    k: Annotated[int, Field(ge=1)] = 10
    """Length of the list that the item would leave."""


def explain(
    question: Annotated[ExplainOptions, Options(())],
    *,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The person's id; the whole shop when left out.")],
    item: Annotated[str | None, typer.Option("--item", "-i", help="The item's id; the person alone when left out.")],
    ids: Annotated[Path | None, typer.Option(help="A file of your ids: prints the pseudonym of each, for a join.")],
    shop: Shop,
) -> Answer:
    """One item for one customer: what each piece of evidence adds, and without which it would not be shown.

    Without --item what is known of the customer: User = (I, B, H), as numbers and as the text that models read.
    Without --user what the workspace holds, in counts.

    --ids prints two columns, id and pseudonym. An id that a spreadsheet would take for a formula has a quote before it;
    --json has it as it is.
    """
    if item is None:
        return describe(shop, user, ids, question.locale)
    if user is None:
        raise UsageError("an item is explained for one customer; give --user ID")
    from recllm.recommend.recommender.shop_recommender import open_recommender

    recommender = open_recommender(shop, version=question.model, locale=question.locale)
    explanation = recommender.explain(user, item, k=question.k)
    rank = f"number {explanation.rank}" if explanation.rank else f"not among the first {question.k}"
    lines = [f"{explanation.title}: {rank}", *(f"  {c.delta:+.2f}  {c.text}" for c in explanation.contributions)]
    lines += [f"  {explanation.withheld:+.2f}  (not named)"] if explanation.withheld else []
    lines += [explanation.counterfactual] if explanation.counterfactual else []
    return Answer(explanation, lines)


def report(
    shop: Shop,
    by: Annotated[ReportBy, typer.Option(help="How showings are grouped.")] = ReportBy.MODEL,
    days: Annotated[
        float, typer.Option(min=0, help="Days in which an event without a request answers a showing.")
    ] = 7.0,
) -> Answer:
    """Shown, clicked, bought, revenue, returned, covered: by model, campaign, variant, template or day."""
    from recllm.market.experiments.feedback import feedback_report

    groups = feedback_report(shop, by=by, window_days=days)
    return Answer({"by": by.value, "window_days": days, "groups": groups})


class AudienceOptions(AudienceQuestion, Answering):
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
    workspace: WorkspaceDir,
    csv: Csv,
    ids: Ids,
    json: Json,
) -> Answer:
    """Whom to reach for an item, a category or a text, why, who is left out, and what to expect.

    A rule over people (conditions under all, any and not) is JSON, or a file of TOML or JSON."""
    from recllm.market.audiences.audience import audience_document, counts_in_words
    from recllm.market.campaigns.file import read_campaign
    from recllm.market.campaigns.reach import audience_of, audience_of_workspace
    from recllm.recommend.recommender.shop_recommender import open_recommender
    from recllm.shop.workspace.figures import LISTS_TELL

    if campaign is not None and campaign.endswith(".toml"):
        if stated_options(question).keys() - {"explain"}:
            raise UsageError(f"{campaign} says whom the campaign is for; leave out the options that say it again")
        members_of = partial(audience_of, file=read_campaign(Path(campaign)), explain=question.explain)
    else:
        first = None if json or csv else MAX_LISTED
        request = question.request(campaign=campaign, explain=question.explain, explain_first=first)
        members_of = partial(audience_of_workspace, request=request)
    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        recommender = open_recommender(shop, version=question.model, locale=question.locale, everybody=True)
        members = members_of(shop, recommender)
        write_audit(shop, "people_listed", what="audience", people=len(members.people))
    document, problem = audience_document(members, names), None
    if not members.people:
        excluded = counts_in_words(members.excluded) or "no one"
        problem = NothingToDo(f"no one is left to address: {excluded}; held out: {len(members.holdout)}")
    elif csv:
        write_people(csv, document["people"])
        note(LISTS_TELL)
    return Answer(document, _audience_lines(document), problem=problem)


def _audience_lines(document: dict[str, Any]) -> Iterator[str]:
    from recllm.market.audiences.audience import aim, counts_in_words

    expected, days = document["expected_conversions"], document["horizon_days"]
    within = "" if expected is None else f"; {expected:.1f} expected to {aim(document['converts'])} within {days} days"
    people = count_text(document["size"], "person", "people")
    yield f"{document['campaign_id']}: {people}, {document['holdout']:,} held out{within}"
    if (extra := document["expected_extra"]) is not None:
        yield f"  the treatment is expected to add {extra:+.1f} to what they do anyway"
    yield f"  left out: {counts_in_words(document['excluded']) or 'no one'}"
    yield from (f"  note: {line}" for line in document["notes"])
    yield from document_lines({name: document[name] for name in ("rule", "group", "people")})


class PredictionOptions(PredictionQuestion):
    kind: PredictionKind = PredictionKind.BUY
    locale: str | None = None
    """Language of the reasons and texts: en or zh."""
    campaign: str | None = None
    """redeem: its id; the latest when left out."""
    seed: int = 0
    """Random seed."""


def predict(
    question: Annotated[PredictionOptions, Options(("horizon_days", "items", "category"))],
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, redeem, next-order or value.")],
    coupons: Annotated[
        Path | None,
        typer.Option(
            help="redeem: a folder with mailings.csv, products.csv, redemptions.csv and, where known, uses.csv."
        ),
    ],
    workspace: WorkspaceDir,
    csv: Csv,
    ids: Ids,
) -> Answer:
    """What each customer will do within a horizon: a calibrated chance, a date or an amount, and why."""
    from recllm.market.propensity.predict import predict_workspace
    from recllm.market.propensity.prediction import PredictionRequest, prediction_document

    request = question.part(PredictionRequest, kind=kind, coupons=coupons, locale="en")
    with open_shop(workspace) as shop:
        names, locale = ids_by_pseudonym(shop, ids), question.locale or shop.settings.locale
        prediction = predict_workspace(shop, request.model_copy(update={"locale": locale}))
        write_audit(shop, "people_listed", what="prediction", kind=request.kind, people=len(prediction.people))
    document = prediction_document(prediction, names)
    write_people(csv, document["people"])
    return Answer(document)


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
    from recllm.market.propensity.effects import uplift_workspace

    table_of_trial: Any = trial
    source = ""
    pseudonyms = ids_by_pseudonym(shop, ids)
    if campaign is not None:
        opened_campaign = open_campaign(shop, read_campaign(campaign), recheck=False)
        start, table_of_trial = campaign_trial(opened_campaign)
        randomised, source = True, opened_campaign.plan.campaign_id
    assert start is not None  # noqa: S101 - a trial of people has it, and a campaign says it
    how: dict[str, Any] = {"start": start, "randomised": randomised}
    document = uplift_workspace(shop, table_of_trial, **how, source=source, save=save, ids=pseudonyms)
    write_people(csv, document["people"])
    kept_as = f"kept as {save}: recllm audience --with objective=uplift --with effects={save}"
    return Answer(document, notes=[kept_as] if save else [])


def occasions(
    *,
    on: Annotated[str | None, typer.Option(metavar="DATE", help="The day, such as 2026-03-01; today when left out.")],
    shop: Shop,
    size: Annotated[int | None, typer.Option(min=0, help="People at most.")],
    explain: Annotated[bool, typer.Option(help="Give reasons.")] = True,
    csv: Csv,
    ids: Ids,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")],
) -> Answer:
    """Whom to write to on a day, and about what: days of the calendar that come, due again, left in the cart, cheaper,
    back, new, long away, just come."""
    from recllm.market.occasions.day import find_occasions, moment_of, open_shop_at
    from recllm.market.occasions.suggest import coming_days, customers_of

    try:
        day = None if on is None else datetime.strptime(on, "%Y-%m-%d").date()
    except ValueError:
        raise UsageError(f"--on takes a day such as 2026-03-01, not {on!r}") from None
    names = ids_by_pseudonym(shop, ids)
    day_shop = open_shop_at(shop, moment_of(shop, day)[1])
    listed = find_occasions(shop, day, size=size, explain=explain, locale=locale, progress=note, shop=day_shop)
    reachable, _, shopping_days = customers_of(shop, day_shop)
    days = coming_days(shop, day_shop, reachable, shopping_days)
    write_audit(shop, "people_listed", what="occasions", people=len(listed.people))
    document: dict[str, Any] = plain(listed)
    for person in document["people"]:
        person["user_id"] = names.get(person["user_id"], person["user_id"])
    write_people(csv, document["people"])
    nothing = f"no one has an occasion on {listed.date}; {'; '.join(listed.notes) or 'nothing is due'}"
    problem = None if listed.people or days else NothingToDo(nothing)
    lines = [*_day_lines(days, language_of(shop.settings.locale)), *document_lines(document)]
    lines += ["probability: of buying it in 7 days; win back, welcome: anything"] if listed.people else []
    document["days"] = [
        {"day": line.occasion, "on": line.coming and line.coming.on, "people": len(line.people)}
        | {"items": line.item_ids, "items_by": line.source}
        for line in days
    ]
    return Answer(document, lines, problem=problem)


def _day_lines(days: Sequence[OccasionSuggestion], language: str) -> Iterator[str]:
    from recllm.market.occasions.calendar import day_names, is_sale
    from recllm.market.occasions.suggest import goods_note

    for line in days:
        if line.coming is None:
            continue
        name = day_names(line.coming.day)[language]
        people, goods = count_text(len(line.people), "customer"), goods_note(len(line.item_ids), line.source, name)
        goods = "the day is about an offer" if is_sale(line.coming.day) else goods
        yield f'{name[:1].upper()}{name[1:]} on {line.coming.on}: {people}; {goods} (day = "{line.occasion}")'
