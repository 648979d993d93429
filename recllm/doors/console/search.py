"""One search over customers, products and campaigns. What is typed may be a customer's id: no address has it."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from recllm.base.errors import StoreError
from recllm.doors.console.items import PAGE_ITEMS, items_table, matching_rows
from recllm.doors.console.pages import PageRoute, TheForm, TheVisit, text_of
from recllm.market.campaigns.drafts import list_campaigns

router = APIRouter(route_class=PageRoute)


@router.post("/search")
def search(visit: TheVisit, form: TheForm) -> Response:
    """To the customer or product of a number, else the campaigns and products that the words find."""
    words = text_of(form, "find", 256).strip()
    if not words:
        return visit.back("/")
    name = visit.workspace.pseudonymiser().one(words)
    if visit.workspace.gate().knows_each([name])[0]:
        visit.state.typed.remember(visit.form_token, name, words)
        return RedirectResponse(f"/people/{name}", 303)
    try:
        recommender = visit.shop.recommender().in_language(visit.language)
    except StoreError:
        return visit.page("search.html.j2", words=words, table=None, campaigns=[], status=503)
    if recommender.dataset.item_rows([words])[0] >= 0:
        return RedirectResponse(f"/items/item/{quote(words)}", 303)
    rows, wording = matching_rows(recommender, words)[0][:PAGE_ITEMS], words.casefold()
    campaigns = [
        line for line in list_campaigns(visit.workspace) if wording in f"{line.goal} {line.campaign_id}".casefold()
    ]
    return visit.page(
        "search.html.j2",
        words=words,
        table=items_table(visit, recommender, rows, 0) if len(rows) else None,
        campaigns=campaigns,
    )
