"""Commands that answer: slates, and what became of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recllm.cli.options import (
    Explain,
    Json,
    Model,
    ReasonLocale,
    User,
    UserFile,
    Users,
    WorkspaceDir,
    open_shop,
    read_user_ids,
)
from recllm.cli.output import show, table
from recllm.schema import NoteKind

if TYPE_CHECKING:
    from recllm.schema import Slate

_which = partial(typer.Option, rich_help_panel="Which items")


def recommend(
    *,
    user: Users,
    users: UserFile,
    workspace: WorkspaceDir,
    k: Annotated[int, typer.Option("--k", "-k", help="Items per person.")] = 10,
    exclude_seen: Annotated[bool, _which("--exclude-seen", help="Leave out what the person bought.")] = False,
    where: Annotated[str | None, _which(help="Condition: \"price < 50 AND brand = 'Acme'\".")],
    popularity_weight: Annotated[
        float | None, _which(min=0, max=1, help="Above 0: less of what everybody buys, more of the catalogue.")
    ],
    explain: Explain,
    record: Annotated[bool, typer.Option(help="Remember what was shown, for feedback.")] = True,
    model: Model,
    locale: ReasonLocale,
    json: Json,
) -> None:
    """The best items for people, with the reasons that really moved the score."""
    from recllm.jobs.load import record_shown
    from recllm.jobs.recommenders import open_recommender

    user_ids = read_user_ids(user, users)
    with open_shop(workspace) as shop:
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
    show(slates, itertools.chain.from_iterable(map(_lines, slates)), json=json)


def _lines(slate: Slate) -> Iterator[str]:
    yield ""
    yield f"{slate.user_id} ({slate.degraded_reason or 'personal'}; request {slate.request_id})"
    yield from (f"  note: {note.text}" for note in slate.notes if note.kind is not NoteKind.SHORT)
    for item in slate.items:
        chance = "" if item.probability is None else f"  {100 * item.probability:.1f} %"
        yield f"{item.rank:3}. {item.title}{chance}  [{', '.join(item.served_by)}]"
        yield from (f"       {r.text}" + (f" ({r.delta:+.2f})" if r.delta else "") for r in item.reasons)


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


def report(workspace: WorkspaceDir, json: Json) -> None:
    """Shown, clicked, bought, and the rates, by model version."""
    from recllm.jobs.load import feedback_report

    with open_shop(workspace) as shop:
        outcomes = feedback_report(shop)
    rows = [(o.model_version, o.showings, o.clicked, o.bought, o.dismissed, o.ctr, o.conversion) for o in outcomes]
    lines = table(rows, ["model", "shown", "clicked", "bought", "dismissed", "CTR", "conversion"])
    show({"versions": [version.document() for version in outcomes]}, lines, json=json)
