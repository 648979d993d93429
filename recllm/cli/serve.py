"""Commands that answer: slates, and what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, say, table
from recllm.cli.people import read_ids
from recllm.errors import UsageError
from recllm.schema import NoteKind

if TYPE_CHECKING:
    from recllm.schema import Slate

ITEMS = "Which items"

K = Annotated[int, typer.Option("--k", "-k", help="Items per person.")]
Users = Annotated[list[str] | None, typer.Option("--user", "-u", help="A person's id; may be repeated.")]
UserFile = Annotated[Path | None, typer.Option("--users", help="A file with one id per line.")]


def register(app: typer.Typer) -> None:
    app.command()(recommend)
    app.command()(explain)
    app.command()(report)
    feedback = typer.Typer(help="What people did with what they were shown.", no_args_is_help=True)
    feedback.command("add")(feedback_add)
    feedback.command("report")(report)
    app.add_typer(feedback, name="feedback")


def user_ids_of(user: list[str] | None, users: Path | None) -> list[str]:
    """The ids of both options; raises `UsageError` when there are none."""
    user_ids = [*(user or []), *(read_ids(users) if users else [])]
    if not user_ids:
        raise UsageError("nobody was asked for: give --user ID, or --users FILE with one id per line")
    return user_ids


def recommend(
    user: Users = None,
    users: UserFile = None,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    k: K = 10,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave out what the person bought.", rich_help_panel=ITEMS)
    ] = False,
    where: Annotated[
        str | None, typer.Option(help="Condition: \"price < 50 AND brand = 'Acme'\".", rich_help_panel=ITEMS)
    ] = None,
    popularity_weight: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Above 0: less of what everybody buys, more of the catalogue.", rich_help_panel=ITEMS
        ),
    ] = None,
    explain: Annotated[bool, typer.Option(help="Give reasons.")] = True,
    record: Annotated[bool, typer.Option(help="Remember what was shown, for feedback.")] = True,
    model: Annotated[str | None, typer.Option(help="Another published version than the current one.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")] = None,
    json: Json = False,
) -> None:
    """The best items for people, with the reasons that really moved the score."""
    from recllm.jobs.load import record_shown
    from recllm.jobs.recommenders import open_recommender
    from recllm.workspace.workspace import Workspace

    user_ids = user_ids_of(user, users)
    with Workspace.open(workspace) as shop:
        recommender = open_recommender(shop, version=model, locale=locale)
        slates = recommender.recommend(
            user_ids,
            k=k,
            repeats=not exclude_seen,
            where=where,
            explain=explain,
            popularity_weight=popularity_weight,
        )
        if record:
            record_shown(shop, slates)
    if json:
        emit_json(slates)
    else:
        for slate in slates:
            _print_slate(slate)


def _print_slate(slate: Slate) -> None:
    say("", f"{slate.user_id} ({slate.degraded_reason or 'personal'}; request {slate.request_id})")
    say(*(f"  note: {note.text}" for note in slate.notes if note.kind is not NoteKind.SHORT))
    for item in slate.items:
        chance = "" if item.probability is None else f"  {100 * item.probability:.1f} %"
        say(f"{item.rank:3}. {item.title}{chance}  [{', '.join(item.served_by)}]")
        say(*(f"       {r.text}" + (f" ({r.delta:+.2f})" if r.delta else "") for r in item.reasons))


def explain(
    user: Annotated[str, typer.Option("--user", "-u", help="The person's id.")],
    item: Annotated[str, typer.Option("--item", "-i", help="The item's id.")],
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Length of the list that the item would leave.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write the picture to this page.")] = None,
    model: Annotated[str | None, typer.Option(help="Another published version than the current one.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language: en or zh.")] = None,
    json: Json = False,
) -> None:
    """One item for one person: what each piece of evidence adds, and without what it would not be shown."""
    from recllm.jobs.recommenders import open_recommender
    from recllm.recommender.explanation import write_page
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        explanation = open_recommender(shop, version=model, locale=locale).explain(user, item, k=k)
    if html:
        write_page(explanation, html)
    if json:
        emit_json(explanation)
    else:
        rank = f"number {explanation.rank}" if explanation.rank else f"not among the first {k}"
        say(f"{explanation.title}: {rank}")
        say(*(f"  {c.delta:+.2f}  {c.text}" for c in explanation.contributions))
        say(*([f"  {explanation.withheld:+.2f}  (not named)"] if explanation.withheld else []))
        say(*([explanation.counterfactual] if explanation.counterfactual else []))


def feedback_add(
    user: Annotated[str, typer.Option("--user", "-u", help="The person's id.")],
    item: Annotated[str, typer.Option(help="The item.")],
    event: Annotated[str, typer.Option(help="click, purchase, dismiss, rating, cart, favourite, view or return.")],
    request: Annotated[str | None, typer.Option(help="Id of the request that showed it.")] = None,
    value: Annotated[float | None, typer.Option(help="Stars of a rating.")] = None,
    quantity: Annotated[float, typer.Option(help="Units bought.")] = 1.0,
    price: Annotated[float | None, typer.Option(help="Price per unit.")] = None,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    json: Json = False,
) -> None:
    """Add one thing a person did; the next slate knows it, without training."""
    from recllm.jobs.load import add_feedback
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        done = add_feedback(shop, user, item, event, request_id=request, value=value, quantity=quantity, price=price)
    if json:
        emit_json(done)
    else:
        say(f"kept: {done.accepted}, already known: {done.duplicates}")


def report(workspace: WorkspaceDir = DEFAULT_WORKSPACE, json: Json = False) -> None:
    """Shown, clicked, bought, and the rates, by model version."""
    from recllm.jobs.load import feedback_report
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        outcomes = feedback_report(shop)
    if json:
        emit_json({"versions": [version.document() for version in outcomes]})
    else:
        rows = [(o.model_version, o.showings, o.clicked, o.bought, o.dismissed, o.ctr, o.conversion) for o in outcomes]
        say(*table(rows, ["model", "shown", "clicked", "bought", "dismissed", "CTR", "conversion"]))
