"""The command that answers who to reach."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, note, say, table
from recllm.cli.people import read_ids
from recllm.errors import NothingToDo, UsageError

if TYPE_CHECKING:
    from recllm.audiences.audience import Audience

MAX_PRINTED = 20
"""People listed on a screen; a file holds all."""

FILE_SUFFIX = ".toml"

Items = Annotated[list[str] | None, typer.Option("--item", "-i", help="An item's id; may be repeated: one of them.")]
Category = Annotated[str | None, typer.Option(help="A category's name, or its path: 'food > tea'.")]
Text = Annotated[str | None, typer.Option(help="What the shop does not sell yet; --category says what kind it is.")]
SeedFile = Annotated[Path | None, typer.Option("--seeds", help="A file of ids: people who are like these.")]
Days = Annotated[float | None, typer.Option(help="Leave out who bought it within so many days.")]
Cap = Annotated[int | None, typer.Option(min=1, help="Leave out who was shown something so often in 7 days.")]


def register(app: typer.Typer) -> None:
    app.command()(audience)


def audience(
    item: Items = None,
    category: Category = None,
    text: Text = None,
    seeds: SeedFile = None,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    campaign: Annotated[
        str | None, typer.Option(help="Name of the campaign, which draws the holdout; or its file, which says all.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=0, help="People to address at most.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Money to spend; needs --cost.")] = None,
    cost: Annotated[float | None, typer.Option(min=0, help="Money per person addressed.")] = None,
    margin: Annotated[float | None, typer.Option(min=0, help="Money a sale brings: only who is worth --cost.")] = None,
    holdout: Annotated[float, typer.Option(help="Share kept out for comparison.")] = 0.1,
    salt: Annotated[str, typer.Option(help="Of the holdout's draw.")] = "",
    suppress: Annotated[Path | None, typer.Option(help="A file of ids never to contact.")] = None,
    bought_days: Days = None,
    frequency_cap: Cap = None,
    channel: Annotated[str | None, typer.Option(help="Only who agreed to email, push or sms_gsm.")] = None,
    explain: Annotated[bool, typer.Option(help="Give reasons.")] = True,
    csv: Annotated[Path | None, typer.Option(help="Also write the people to this CSV.")] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of your ids; they stand for their pseudonyms.")] = None,
    model: Annotated[str | None, typer.Option(help="Another published version than the current one.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")] = None,
    json: Json = False,
) -> None:
    """Who to reach for an item, a category or a text, why them, who is left out, and what to expect."""
    from recllm.audiences.request import AudienceLimits, AudienceRequest, Exclusions
    from recllm.jobs.serve import find_audience
    from recllm.workspace.workspace import Workspace

    if campaign is not None and campaign.endswith(FILE_SUFFIX):
        options = (item, category, text, seeds, size, budget, cost, margin, suppress, bought_days, frequency_cap)
        if any(value is not None for value in (*options, channel)):
            raise UsageError(f"{campaign} says whom the campaign is for; leave out the options that say it again")
        _audience_of_campaign(Path(campaign), workspace, explain, csv, ids, model, locale, json)
        return
    request = AudienceRequest(
        items=item or None,
        category=category,
        text=text,
        seeds=read_ids(seeds) if seeds else None,
        limits=AudienceLimits(size=size, budget=budget, cost=cost, margin=margin, holdout=holdout, salt=salt),
        exclusions=Exclusions(
            suppressed=read_ids(suppress) if suppress else (), bought_days=bought_days, frequency_cap=frequency_cap
        ),
        campaign=campaign,
        channel=channel,
        explain=explain,
        explain_first=None if json or csv else MAX_PRINTED,
    )
    shop_ids = read_ids(ids) if ids else []
    with Workspace.open(workspace) as shop:
        names = dict(zip(shop.pseudonymiser().many(shop_ids), shop_ids, strict=True))
        members = find_audience(shop, request, version=model, locale=locale)
    _print(members, names, csv, json)


def _audience_of_campaign(
    file: Path,
    workspace: Path,
    explain: bool,
    csv: Path | None,
    ids: Path | None,
    model: str | None,
    locale: str | None,
    json: bool,
) -> None:
    """Whom a campaign's file would reach; nothing is planned."""
    from recllm.campaigns.file import read_campaign
    from recllm.campaigns.people import audience_of
    from recllm.jobs.recommenders import open_recommender
    from recllm.workspace.workspace import Workspace

    campaign, shop_ids = read_campaign(file), read_ids(ids) if ids else []
    with Workspace.open(workspace) as shop:
        names = dict(zip(shop.pseudonymiser().many(shop_ids), shop_ids, strict=True))
        recommender = open_recommender(shop, version=model, locale=locale, everybody=True)
        members = audience_of(shop, recommender, campaign, explain=explain)
    _print(members, names, csv, json)


def _print(members: Audience, names: dict[str, str], csv: Path | None, json: bool) -> None:
    from recllm.audiences.audience import audience_document, write_audience_csv

    document = audience_document(members, names)
    if json:
        emit_json(document)
    else:
        _print_text(document)
    if not members.people:
        excluded = _counts(members.excluded)
        raise NothingToDo(f"nobody is left to address: {excluded}; held out: {len(members.holdout)}")
    if csv:
        write_audience_csv(members, csv, names)


def _print_text(document: dict[str, Any]) -> None:
    expected = document["expected_conversions"]
    within = "" if expected is None else f"; {expected:.1f} expected to buy within {document['horizon_days']} days"
    say(f"{document['campaign_id']}: {document['size']:,} people, {document['holdout']:,} held out{within}")
    say(f"  left out: {_counts(document['excluded'])}", *(f"  note: {line}" for line in document["notes"]))
    traits = [(t["name"], t["share"], t["share_of_rest"], t["lift"], t["low"], t["high"]) for t in document["group"]]
    if traits:
        say("", *table(traits, ["what sets them apart", "share", "of the rest", "lift", "low", "high"]))
    say("")
    for person in document["people"][:MAX_PRINTED]:
        probability = "" if person["probability"] is None else f"  {100 * person['probability']:.1f} %"
        say(f"{person['user_id']}{probability}  " + " ".join(reason["text"] for reason in person["reasons"]))
    if document["size"] > MAX_PRINTED:
        note(f"... and {document['size'] - MAX_PRINTED:,} more; --csv FILE or --json gives all")


def _counts(excluded: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n:,}" for reason, n in excluded.items()) or "nobody"
