"""Commands that answer: what to show whom, and what became of it; whom to reach, what people will do, whom it moves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import (
    Csv,
    Explain,
    Ids,
    Json,
    Model,
    ReasonLocale,
    Seed,
    User,
    UserFile,
    Users,
    WorkspaceDir,
    ids_by_pseudonym,
    open_shop,
    read_ids,
    read_user_ids,
    write_audit,
)
from recllm.cli.output import note, show, table
from recllm.errors import NothingToDo, UsageError
from recllm.schema import Intent, NoteKind, Objective, RecommendRequest, ReportBy, count_text

if TYPE_CHECKING:
    from recllm.audiences.audience import Audience
    from recllm.propensity.uplift import UpliftEstimate
    from recllm.schema import Slate
    from recllm.stats.intervals import ConfidenceInterval

_offer = partial(typer.Option, rich_help_panel="What is offered")
_which = partial(typer.Option, rich_help_panel="Which items")

COUPONS = "a folder with mailings.csv, products.csv, redemptions.csv and, where known, uses.csv"

MAX_PRINTED = 20
"""People listed on a screen; a file holds all."""


def recommend(
    *,
    user: Users,
    users: UserFile,
    workspace: WorkspaceDir,
    k: Annotated[int, typer.Option("--k", "-k", help="Items per person.")] = 10,
    intent: Annotated[
        Intent, _which(help="What is likely, new, bought before, goes with it, is missed.")
    ] = Intent.MIXED,
    objective: Annotated[
        Objective, _which(help="By chance, by chance over that of people in general, or by what it earns.")
    ] = Objective.PROBABILITY,
    exclude_seen: Annotated[bool, _which("--exclude-seen", help="Leave out what the person bought.")] = False,
    where: Annotated[str | None, _which(help="Condition: \"price < 50 AND brand = 'Acme'\".")],
    popularity_weight: Annotated[
        float | None, _which(min=0, max=1, help="Above 0: less of what everybody buys, more of the catalogue.")
    ],
    explain: Explain,
    record: Annotated[bool, typer.Option(help="Record the items as shown, for feedback and reports.")] = False,
    model: Model,
    locale: ReasonLocale,
    json: Json,
) -> None:
    """The best items for people, with the reasons that really moved the score."""
    from recllm.jobs.experiments import list_experiments, recommend_in_experiments
    from recllm.jobs.load import record_shown
    from recllm.jobs.recommenders import open_recommender

    request = RecommendRequest(
        users=tuple(read_user_ids(user, users)),
        k=k,
        intent=intent,
        objective=objective,
        repeats=not exclude_seen,
        where=where,
        explain=explain,
        popularity_weight=popularity_weight,
    )
    with open_shop(workspace) as shop:
        if model is None:
            opening = partial(open_recommender, shop, locale=locale)
            slates = recommend_in_experiments(shop, request, list_experiments(shop), lambda v: opening(version=v))
        else:  # whoever names a model asks for that one
            slates = open_recommender(shop, version=model, locale=locale).recommend(request)
        is_known = shop.gate().knows_each(shop.pseudonymiser().many(request.users))
        unknown = [user_id for user_id, yes in zip(request.users, is_known, strict=True) if not yes]
        if record:
            record_shown(shop, slates)
    show(slates, itertools.chain.from_iterable(map(_slate_lines, slates)), json=json)
    for user_id in unknown[:MAX_PRINTED]:
        note(f"{user_id}: not known, so the items are what is popular now; check the id")


def _slate_lines(slate: Slate) -> Iterator[str]:
    yield ""
    yield f"{slate.user_id} ({slate.degraded_reason or 'personal'}; request {slate.request_id})"
    yield from (f"  note: {note.text}" for note in slate.notes if note.kind is not NoteKind.SHORT)
    for item in slate.items:
        chance = "" if item.probability is None else f"  {100 * item.probability:.1f} %"
        part = f"  {item.part_text}" if item.part_text else ""
        yield f"{item.rank:3}. {item.title}{chance}{part}  [{', '.join(item.served_by)}]"
        yield from (f"       {r.text}" + (f" ({r.delta:+.2f})" if r.delta else "") for r in item.reasons)


def search(
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    user: Annotated[str | None, typer.Option("--user", "-u", help="Who looks; the order is theirs.")],
    workspace: WorkspaceDir,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Items.")] = 10,
    where: Annotated[str | None, _which(help="Condition: \"price < 50 AND brand = 'Acme'\".")],
    explain: Explain,
    model: Model,
    locale: ReasonLocale,
    json: Json,
) -> None:
    """Items for what somebody looks for: by words, by meaning, and in a person's own order."""
    from recllm.jobs.search import search_workspace
    from recllm.schema import SearchRequest

    request = SearchRequest(query=query, user=user, k=k, where=where, explain=explain)
    with open_shop(workspace) as shop:
        slate = search_workspace(shop, request, version=model, locale=locale)
    show(slate, _slate_lines(slate), json=json)


def explain(
    *,
    user: User,
    item: Annotated[str, typer.Option("--item", "-i", help="The item's id.")],
    workspace: WorkspaceDir,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Length of the list that the item would leave.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write the picture to this page.")],
    model: Model,
    locale: Annotated[str | None, typer.Option(help="Language: en or zh.")],
    json: Json,
) -> None:
    """One item for one person: what each piece of evidence adds, and without what it would not be shown."""
    from recllm.jobs.recommenders import open_recommender
    from recllm.recommender.explanation import write_page

    with open_shop(workspace) as shop:
        explanation = open_recommender(shop, version=model, locale=locale).explain(user, item, k=k)
    if html:
        write_page(explanation, html)
    rank = f"number {explanation.rank}" if explanation.rank else f"not among the first {k}"
    lines = [f"{explanation.title}: {rank}", *(f"  {c.delta:+.2f}  {c.text}" for c in explanation.contributions)]
    lines += [f"  {explanation.withheld:+.2f}  (not named)"] if explanation.withheld else []
    lines += [explanation.counterfactual] if explanation.counterfactual else []
    show(explanation, lines, json=json)


def feedback_add(
    *,
    user: User,
    item: Annotated[str, typer.Option(help="The item.")],
    event: Annotated[str, typer.Option(help="click, purchase, dismiss, rating, cart, favourite, view or return.")],
    request: Annotated[str | None, typer.Option(help="Id of the request that showed it.")],
    value: Annotated[float | None, typer.Option(help="Stars of a rating.")],
    quantity: Annotated[float, typer.Option(help="Units bought.")] = 1.0,
    price: Annotated[float | None, typer.Option(help="Price per unit.")],
    workspace: WorkspaceDir,
    json: Json,
) -> None:
    """Add one thing a person did; the next slate knows it, without training."""
    from recllm.jobs.load import add_feedback

    with open_shop(workspace) as shop:
        done = add_feedback(shop, user, item, event, request_id=request, value=value, quantity=quantity, price=price)
    show(done, [f"kept: {done.accepted}, already known: {done.duplicates}"], json=json)


def report(
    workspace: WorkspaceDir,
    by: Annotated[ReportBy, typer.Option(help="What the showings are divided by.")] = ReportBy.MODEL,
    days: Annotated[float, typer.Option(min=0, help="An answer without a request belongs to a showing so long.")] = 7.0,
    *,
    json: Json,
) -> None:
    """Shown, clicked, bought, revenue, returned, covered: by model, campaign, variant, template or day."""
    from recllm.jobs.load import feedback_report

    with open_shop(workspace) as shop:
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
    show({"by": by.value, "window_days": days, "groups": outcomes}, table(rows, [by.value, *heads]), json=json)


def _percent(interval: ConfidenceInterval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f}-{100 * interval.high:.1f})"


def audience(
    *,
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="An item's id; may be repeated: one of them.")],
    category: Annotated[str | None, typer.Option(help="A category's name, or its path: 'food > tea'.")],
    text: Annotated[str | None, typer.Option(help="What the shop does not sell yet; --category says what kind it is.")],
    seeds: Annotated[Path | None, typer.Option(help="A file of ids: people who are like these.")],
    workspace: WorkspaceDir,
    campaign: Annotated[
        str | None, typer.Option(help="Name of the campaign, which draws the holdout; or its file, which says all.")
    ],
    size: Annotated[int | None, typer.Option(min=0, help="People to address at most.")],
    budget: Annotated[float | None, typer.Option(min=0, help="Money to spend; needs --cost.")],
    cost: Annotated[float | None, typer.Option(min=0, help="Money per person addressed.")],
    margin: Annotated[float | None, typer.Option(min=0, help="Money a sale brings: only who is worth --cost.")],
    holdout: Annotated[float, typer.Option(help="Share kept out for comparison.")] = 0.1,
    salt: Annotated[str, typer.Option(help="Of the holdout's draw.")] = "",
    suppress: Annotated[Path | None, typer.Option(help="A file of ids never to contact.")],
    bought_days: Annotated[float | None, typer.Option(help="Leave out who bought it within so many days.")],
    frequency_cap: Annotated[
        int | None, typer.Option(min=1, help="Leave out who was shown something so often in 7 days.")
    ],
    channel: Annotated[str | None, typer.Option(help="Only who agreed to email, push or sms_gsm.")],
    people: Annotated[
        str | None, typer.Option(help="Only who meets this rule: conditions under all, any and not, a file or JSON.")
    ],
    explain: Explain,
    csv: Csv,
    ids: Ids,
    intent: Annotated[Intent, _offer(help="What the item is to a person: new, bought before, ...")] = Intent.MIXED,
    objective: Annotated[
        Objective, _offer(help="Who comes first: by chance, chance over people in general, margin, or uplift.")
    ] = Objective.PROBABILITY,
    effects: Annotated[str | None, _offer(help="uplift: effects that a trial told; recllm uplift --save NAME.")],
    sure: Annotated[bool, _offer("--sure", help="uplift: only whose effect is shown to be above 0.")] = False,
    model: Model,
    locale: ReasonLocale,
    json: Json,
) -> None:
    """Who to reach for an item, a category or a text, why them, who is left out, and what to expect."""
    from recllm.audiences.audience import audience_document, write_audience_csv
    from recllm.audiences.people_rule import read_rule
    from recllm.audiences.request import AudienceLimits, AudienceRequest, Exclusions, OfferChoice
    from recllm.jobs.serve import find_audience
    from recllm.workspace.audit import AuditAction
    from recllm.workspace.figures import LISTS_TELL

    choice = OfferChoice(intent=intent, objective=objective, effects=effects, sure=sure)
    if campaign is not None and campaign.endswith(".toml"):
        options = (item, category, text, seeds, size, budget, cost, margin, suppress, bought_days, frequency_cap)
        if any(value is not None for value in (*options, channel, people)) or choice != OfferChoice():
            raise UsageError(f"{campaign} says whom the campaign is for; leave out the options that say it again")
        members, names = _audience_of_campaign(Path(campaign), workspace, explain, ids, model, locale)
    else:
        request = AudienceRequest(
            items=item or None,
            category=category,
            text=text,
            seeds=read_ids(seeds) if seeds else None,
            choice=choice,
            limits=AudienceLimits(size=size, budget=budget, cost=cost, margin=margin, holdout=holdout, salt=salt),
            exclusions=Exclusions(
                suppressed=read_ids(suppress) if suppress else (),
                bought_days=bought_days,
                frequency_cap=frequency_cap,
                people=read_rule(people) if people else None,
            ),
            campaign=campaign,
            channel=channel,
            explain=explain,
            explain_first=None if json or csv else MAX_PRINTED,
        )
        with open_shop(workspace) as shop:
            names = ids_by_pseudonym(shop, ids)
            members = find_audience(shop, request, version=model, locale=locale)
            write_audit(shop, AuditAction.PEOPLE_LISTED, what="audience", people=len(members.people))
    document = audience_document(members, names)
    show(document, _audience_lines(document), json=json)
    _note_unlisted(members.size, json)
    if not members.people:
        excluded = _counts(members.excluded) or "nobody"
        raise NothingToDo(f"nobody is left to address: {excluded}; held out: {len(members.holdout)}")
    if csv:
        write_audience_csv(members, csv, names)
        note(LISTS_TELL)


def _audience_of_campaign(
    file: Path, workspace: Path, explain: bool, ids: Path | None, model: str | None, locale: str | None
) -> tuple[Audience, dict[str, str]]:
    from recllm.campaigns.file import read_campaign
    from recllm.campaigns.plan import audience_of
    from recllm.jobs.recommenders import open_recommender
    from recllm.workspace.audit import AuditAction

    campaign = read_campaign(file)
    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        recommender = open_recommender(shop, version=model, locale=locale, everybody=True)
        members = audience_of(shop, recommender, campaign, explain=explain)
        write_audit(shop, AuditAction.PEOPLE_LISTED, what="audience", people=len(members.people))
        return members, names


def _audience_lines(document: dict[str, Any]) -> Iterator[str]:
    from recllm.audiences.audience import aim

    expected, days = document["expected_conversions"], document["horizon_days"]
    within = "" if expected is None else f"; {expected:.1f} expected to {aim(document['converts'])} within {days} days"
    people = count_text(document["size"], "person", "people")
    yield f"{document['campaign_id']}: {people}, {document['holdout']:,} held out{within}"
    if (extra := document["expected_extra"]) is not None:
        yield f"  the treatment is expected to add {extra:+.1f} to what they do anyway"
    yield f"  left out: {_counts(document['excluded']) or 'nobody'}"
    yield from (f"  note: {line}" for line in document["notes"])
    for count in document["rule"]:
        yield f"    {'few' if count['people'] is None else format(count['people'], ',')}: {count['words']}"
    traits = [(t["name"], t["share"], t["share_of_rest"], t["lift"], t["low"], t["high"]) for t in document["group"]]
    if traits:
        yield from ("", *table(traits, ["what sets them apart", "share", "of the rest", "lift", "low", "high"]))
    yield ""
    for person in document["people"][:MAX_PRINTED]:
        probability = "" if person["probability"] is None else f"  {100 * person['probability']:.1f} %"
        if person["effect"] is not None:
            probability += "  effect {effect:+.4f} ({effect_low:+.4f} to {effect_high:+.4f})".format_map(person)
        yield f"{person['user_id']}{probability}  " + " ".join(reason["text"] for reason in person["reasons"])


def predict(
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="buy, leave, redeem, next-order or value.")],
    workspace: WorkspaceDir,
    horizon: Annotated[int, typer.Option(help="Days to look ahead.")] = 28,
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="Only purchases of this id; may be repeated.")],
    category: Annotated[str | None, typer.Option(help="Only purchases of a category, or its path: 'food > tea'.")],
    active_days: Annotated[int | None, typer.Option(help="leave: who bought within so many days is active.")],
    coupons: Annotated[Path | None, typer.Option(help=f"redeem: {COUPONS}.")],
    campaign: Annotated[str | None, typer.Option(help="redeem: its id; the latest when left out.")],
    basics: Annotated[bool, typer.Option(help="Also use what people told of themselves.")] = False,
    explain: Explain,
    csv: Csv,
    html: Annotated[Path | None, typer.Option(help="Also write a page with reliability, lift and gain.")],
    plot: Annotated[Path | None, typer.Option(help="Also draw these to this PNG.")],
    ids: Ids,
    locale: ReasonLocale,
    seed: Seed,
    json: Json,
) -> None:
    """What each person will do within a horizon: a calibrated chance, a date or an amount, and why."""
    from recllm.jobs.predict import predict_workspace
    from recllm.propensity.prediction import (
        PredictionKind,
        PredictionRequest,
        prediction_document,
        write_prediction_csv,
    )
    from recllm.report.people import prediction_page, write_prediction_png
    from recllm.workspace.audit import AuditAction

    request = PredictionRequest(
        kind=PredictionKind.named(kind),
        horizon_days=horizon,
        items=tuple(item or ()),
        category=category,
        active_days=active_days,
        coupons=coupons,
        campaign=campaign,
        basics=basics,
        explain=explain,
        seed=seed,
    )
    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        language = locale or shop.settings.locale
        prediction = predict_workspace(shop, replace(request, locale=language))
        n_people = len(prediction.people)
        write_audit(shop, AuditAction.PEOPLE_LISTED, what="prediction", kind=request.kind, people=n_people)
    if csv:
        write_prediction_csv(prediction, csv, names)
    if html:
        html.write_text(prediction_page(prediction, names, locale=language), encoding="utf-8")
    if plot and (remark := write_prediction_png(prediction, plot, locale=language)):
        note(remark)
    document = prediction_document(prediction, names)
    show(document, _prediction_lines(document), json=json)
    _note_unlisted(len(document["people"]), json)


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
    from recllm.audiences.audience import counts_in_words

    return counts_in_words(left_out)


def _note_unlisted(people: int, json: bool) -> None:
    if people > MAX_PRINTED and not json:
        note(f"... and {people - MAX_PRINTED:,} more; --csv FILE or --json gives all")


_own = partial(typer.Option, rich_help_panel="A trial with columns of its own, without a workspace")


def uplift(
    *,
    trial: Annotated[
        Path | None,
        typer.Argument(
            metavar="TRIAL",
            help="A CSV: user_id, treated, outcome[, propensity]; with --features a CSV or Parquet as it is.",
        ),
    ],
    campaign: Annotated[
        Path | None,
        typer.Option(help="Instead of TRIAL the TOML of a campaign that went out: those held out are the control."),
    ],
    save: Annotated[str | None, typer.Option(help="Keep the effects under this name, for recllm audience --effects.")],
    start: Annotated[
        datetime | None, typer.Option(help="Before the first treatment, UTC; nothing later is learned from.")
    ],
    features: Annotated[str | None, _own(help="Columns known before the treatment, with commas; numbers or texts.")],
    arm: Annotated[str | None, _own(help="Column that says which arm a person had.")],
    control: Annotated[str | None, _own(help="Its value for the untreated.")],
    outcome: Annotated[str | None, _own(help="Column of what came of it: 0 and 1, or amounts.")],
    workspace: WorkspaceDir,
    randomised: Annotated[bool, typer.Option("--randomised", help="Who was treated was drawn by lot.")] = False,
    learner: Annotated[str | None, typer.Option(hidden=True)],
    csv: Csv,
    plot: Annotated[Path | None, typer.Option(help="Also draw the Qini curve to this PNG.")],
    ids: Ids,
    seed: Seed,
    json: Json,
) -> None:
    """How much a treatment changes each person's outcome, learned from a trial; refused for what is no trial.

    Either people of the workspace (--start), or a table with its own columns (--features, --arm, --control, --outcome).
    """
    columns = {"--features": features, "--arm": arm, "--control": control, "--outcome": outcome}
    if (trial is None) == (campaign is None):
        raise UsageError("give a trial's table, or --campaign with the file of a campaign that went out")
    if learner is not None:
        note("--learner is not needed any more: there is one learner, and it has intervals")
    if campaign is not None:
        if start or any(value is not None for value in columns.values()):
            raise UsageError("a campaign says itself when it began and what came of it; leave out the trial's options")
        _uplift_of_campaign(campaign, workspace, save, csv, plot, ids, seed, json)
        return
    assert trial is not None  # noqa: S101 - one of the two is given
    if any(value is not None for value in columns.values()):
        if absent := [name for name, value in columns.items() if value is None]:
            raise UsageError(f"a trial with its own columns also needs {', '.join(absent)}")
        if start or plot or ids or save:
            raise UsageError(
                "--start, --plot, --ids and --save belong to trials of the workspace's people; leave them out, or "
                "leave out --features, --arm, --control and --outcome"
            )
        _uplift_of_table(trial, (features or "", arm or "", control or "", outcome or ""), randomised, csv, seed, json)
    elif start is None:
        raise UsageError(
            "give --start DATE for a trial of the workspace's people, or --features, --arm, --control and --outcome "
            "for a table with its own columns"
        )
    else:
        _uplift_of_people(trial, start, workspace, randomised, save, csv, plot, ids, seed, json)


def _uplift_of_table(
    file: Path, columns: tuple[str, str, str, str], randomised: bool, csv: Path | None, seed: int, json: bool
) -> None:
    from recllm.jobs.predict import uplift_of_table
    from recllm.propensity.trial import TrialColumns
    from recllm.propensity.trial_effects import trial_document, trial_lines, write_trial_csv

    features, arm, control, outcome = columns
    names = tuple(name.strip() for name in features.split(",") if name.strip())
    meaning = TrialColumns(features=names, arm=arm, control=control, outcome=outcome)
    estimate = uplift_of_table(file, meaning, randomised=randomised, seed=seed)
    if csv:
        write_trial_csv(estimate, csv)
    rows = [
        [str(row + 1), estimate.trial.arms[number] if number else "", *(arm.expected[row] for arm in estimate.effects)]
        for row, number in enumerate(estimate.advised[:MAX_PRINTED].tolist())
    ]
    lines = [*trial_lines(estimate), "", *table(rows, ["row", "advised", *(arm.arm for arm in estimate.effects)])]
    show(trial_document(estimate) if json else None, lines, json=json)
    _note_unlisted(len(estimate.trial), json)


def _uplift_of_people(
    trial: Path,
    start: datetime,
    workspace: Path,
    randomised: bool,
    save: str | None,
    csv: Path | None,
    plot: Path | None,
    ids: Path | None,
    seed: int,
    json: bool,
) -> None:
    from recllm.jobs.predict import uplift_workspace
    from recllm.propensity.uplift import UpliftRequest

    request = UpliftRequest(start=start, randomised=randomised, seed=seed)
    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        estimate = uplift_workspace(shop, request, trial, save=save)
        locale = shop.settings.locale
    _show_uplift(estimate, names, locale, save, csv, plot, json)


def _uplift_of_campaign(
    file: Path,
    workspace: Path,
    save: str | None,
    csv: Path | None,
    plot: Path | None,
    ids: Path | None,
    seed: int,
    json: bool,
) -> None:
    from recllm.campaigns.file import read_campaign
    from recllm.campaigns.open_campaign import open_campaign
    from recllm.campaigns.trial import campaign_trial
    from recllm.jobs.predict import uplift_workspace
    from recllm.propensity.uplift import UpliftRequest

    with open_shop(workspace) as shop:
        names = ids_by_pseudonym(shop, ids)
        campaign = open_campaign(shop, read_campaign(file), recheck=False)
        trial = campaign_trial(campaign)
        request = UpliftRequest(start=trial.start, randomised=True, seed=seed)
        source = campaign.plan.campaign_id
        estimate = uplift_workspace(shop, request, trial.table, source=source, save=save)
        locale = shop.settings.locale
    _show_uplift(estimate, names, locale, save, csv, plot, json)


def _show_uplift(
    estimate: UpliftEstimate,
    names: dict[str, str],
    locale: str,
    save: str | None,
    csv: Path | None,
    plot: Path | None,
    json: bool,
) -> None:
    from recllm.charts import write_png
    from recllm.propensity.uplift import uplift_document, write_uplift_csv
    from recllm.report.people import qini_chart

    if csv:
        write_uplift_csv(estimate, csv, names)
    chart = {"uplift": estimate.curve}
    if plot and (remark := write_png([qini_chart(chart, locale)], plot)):
        note(remark)
    document = uplift_document(estimate, names)
    of_trial = document["trial"]
    columns = ["user_id", "uplift", "low", "high"]
    rows = [[person[name] for name in columns] for person in document["people"][:MAX_PRINTED]]
    lines = [
        *([f"kept as {save}: recllm audience --objective uplift --effects {save}"] if save else []),
        f"{count_text(of_trial['people'], 'person', 'people')} in the trial, {of_trial['treated']:,} treated; "
        f"mean effect {of_trial['effect']:+.4f}",
        f"Qini {document['qini']:.4f}, area under the uplift curve {document['auuc']:.4f}, "
        "each person by a model of others",
        "",
        *table(rows, columns),
    ]
    show(document, lines, json=json)
