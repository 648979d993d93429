"""The shop's own pages: `recllm.js`, and the operations that it calls with a publishable key.

A publishable key stands in a page for all to read, so it has no scope:
no other operation takes it. It works from pages of its origins.

A visitor is an anonymous session, and who knows its id is the visitor.
The script makes a random one after consent and keeps it in the browser.
No customer's id is taken. Where visitors sign in, the shop's server joins
the session to the customer (`/v1/sessions/join`).

What a page says can be forged: only products of the catalogue count,
at the catalogue's price.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from ipaddress import IPv6Address, ip_address
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field, StringConstraints
from starlette.exceptions import HTTPException

from recllm.base.documents import json_text
from recllm.base.errors import PolicyError, RecllmError, StoreError
from recllm.base.schema import IMAGE, Action, Purpose
from recllm.doors.service.api import events as record_events
from recllm.doors.service.callers import ERRORS, PAGE_PATH, Caller, Service, TheService, document_answer, operation
from recllm.doors.service.refusals import OverloadError, refused
from recllm.doors.service.requests import (
    EventIn,
    EventsAnswer,
    EventsRequest,
    Id,
    JsonRoute,
    ServiceRequest,
    SlateRequest,
)
from recllm.shop.ingest.sessions import record_decision, session_pseudonyms
from recllm.shop.workspace.keys import list_keys
from recllm.shop.workspace.workspace import Workspace

REQUESTS_PER_MINUTE = 120
"""Of one address."""
PREFLIGHT_SECONDS = 7_200
"""How long a browser may remember that an origin is allowed; none keeps it for longer."""
SCRIPT_SECONDS = 3_600
MAX_LINES = 100
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class OriginRoute(JsonRoute):
    """An operation for publishable keys.

    Origin and rate are checked before the body is read.
    Pages of the key's origins may read its answers, refusals too.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            key, headers = request.state.caller.key, {"Vary": "Origin"}
            origin = request.headers.get("origin", "")
            is_allowed = key is not None and origin in key.origins
            if is_allowed:
                headers["Access-Control-Allow-Origin"] = origin
            try:
                count_request(request)
                if not is_allowed:
                    raise HTTPException(
                        HTTPStatus.FORBIDDEN,
                        "this needs a publishable key, and a page of its origins; see recllm keys --help",
                    )
                answer = await handler(request)
            except (HTTPException, RecllmError, RequestValidationError) as error:
                answer = await refused(request, error)
            answer.headers.update(headers)
            return answer

        return handle


router = APIRouter()
page_router = APIRouter(responses=ERRORS, route_class=OriginRoute)


def count_request(request: Request) -> None:
    """One more request of an address.
    Raises `OverloadError` when it is one too many."""
    service: Service = request.app.state.service
    address = request.client.host if request.client else ""
    with suppress(ValueError):
        number = ip_address(address)
        if isinstance(number, IPv6Address) and number.ipv4_mapped is None:
            address = number.exploded[:19]  # its network: one caller has all of it
    try:
        service.page_rate.count(address)
    except OverloadError:
        raise OverloadError(f"more than {REQUESTS_PER_MINUTE} requests in a minute from one address") from None


@router.options(PAGE_PATH + "{name}", include_in_schema=False)
async def preflight(request: Request, service: TheService) -> Response:
    """Whether a page of this origin may send a request.

    The key comes with the request itself: here any key's origin will do.
    """
    count_request(request)
    origin, headers = request.headers.get("origin", ""), {"Vary": "Origin"}
    if await anyio.to_thread.run_sync(partial(is_listed, service, origin)):
        headers |= {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "content-type, x-api-key",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)


def is_listed(service: Service, origin: str) -> bool:
    """Whether a key in force names this origin."""
    for shop in service.shops.values():
        with suppress(StoreError):  # one shop's trouble is no other's
            keys = list_keys(shop.workspace)
            if any(origin in key.origins and key.revoked_at is None for key in keys):
                return True
    return False


@router.get("/recllm.js", include_in_schema=False)
@router.get("/recllm.d.ts", include_in_schema=False)
async def script(request: Request) -> Response:
    """The script for pages, and its types."""
    path = PurePosixPath(request.url.path)
    content = (files("recllm.doors.service") / path.name).read_bytes()
    kind = "text/javascript" if path.suffix == ".js" else "text/plain"
    headers = {"Cache-Control": f"public, max-age={SCRIPT_SECONDS}"}
    return Response(content, media_type=kind, headers=headers)


VisitorId = Annotated[str, StringConstraints(pattern=f"^pv_{UUID}$")]
"""Of a visitor; 122 random bits."""
EXAMPLE = {"visitor": "pv_6f1c2d4e-9a3b-4c5d-8e7f-0a1b2c3d4e5f"}


class VisitorConsent(
    ServiceRequest,
    json_schema_extra={"examples": [EXAMPLE | {"granted": True}]},
):
    """What a visitor decided."""

    visitor: VisitorId
    granted: bool


class PageEvent(ServiceRequest):
    """One thing that a visitor did. When and at what price, the service knows."""

    event_id: Annotated[str, StringConstraints(pattern=f"^{UUID}$")]
    """Random; the same again counts once."""
    item_id: Id
    event: Literal["view", "click", "cart", "purchase"]
    quantity: Annotated[float, Field(gt=0, le=100)] = 1.0
    request_id: Id | None = None
    """Of the list that showed the item."""
    position: Annotated[int, Field(ge=1, le=100)] | None = None
    """Rank on that list."""


EXAMPLE_EVENT = {
    "event_id": "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
    "item_id": "tea-3",
    "event": "view",
}


class PageEvents(
    ServiceRequest,
    json_schema_extra={"examples": [EXAMPLE | {"events": [EXAMPLE_EVENT]}]},
):
    """What a visitor did; the lines of a purchase come together."""

    visitor: VisitorId
    events: Annotated[list[PageEvent], Field(min_length=1, max_length=MAX_LINES)]


class PageListRequest(
    ServiceRequest,
    json_schema_extra={"examples": [EXAMPLE | {"k": 6}]},
):
    """A list for a visitor."""

    visitor: VisitorId
    k: Annotated[int, Field(ge=1, le=24)] = 6
    basket: Annotated[tuple[Id, ...], Field(max_length=MAX_LINES)] = ()
    """Items in the cart now."""


class VisitorConsentAnswer(BaseModel):
    """Whether the visitor gets a personal list now."""

    granted: bool


class PageItem(BaseModel):
    """A product as anyone may see it.
    Scores and reasons would say what the visitor did."""

    item_id: str
    title: str
    price: float | None
    currency: str | None
    picture: str | None
    """An address on the web; None where the catalogue has none."""


class PageList(BaseModel):
    """Products, the best first."""

    request_id: str
    items: list[PageItem]


def page_caller(
    request: Request,
    _key: Annotated[
        str | None,
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ] = None,
) -> Caller:
    """The caller, whom `OriginRoute` let in."""
    caller: Caller = request.state.caller
    return caller


PageCaller = Annotated[Caller, Depends(page_caller)]


@operation(page_router, "POST", PAGE_PATH + "consent", "pages", answer=VisitorConsentAnswer)
def page_consent(body: VisitorConsent, caller: PageCaller) -> VisitorConsentAnswer:
    """A visitor agrees to what `policy.session_purposes` lists; or withdraws, and is forgotten.

    An id is refused for good: a visitor who agrees again has a new one.
    Of a session that was joined to a customer nothing changes:
    what customers decide, the shop's server says by `/v1/consent`.
    """
    workspace = caller.shop.workspace
    gate, purposes = workspace.gate(), workspace.policy.session_purposes
    (name,) = session_pseudonyms(workspace, [body.visitor])
    if name == workspace.session_pseudonymiser().one(body.visitor):
        if body.granted:
            purposes -= gate.decisions(name).keys()
        if purposes:
            record_decision(workspace, name, purposes, granted=body.granted)
    return VisitorConsentAnswer(granted=gate.permits(name, Purpose.PERSONALISATION))


def check_consent(workspace: Workspace, visitor: str) -> None:
    """Raises `PolicyError` for a visitor who did not agree, or withdrew.
    Other tabs may not know of it yet."""
    (name,) = session_pseudonyms(workspace, [visitor])
    if not workspace.gate().permits(name, Purpose.PERSONALISATION):
        raise PolicyError("the visitor has not agreed; first: recllm.consent(true)")


@operation(page_router, "POST", PAGE_PATH + "events", "pages", answer=EventsAnswer)
def page_events(body: PageEvents, caller: PageCaller) -> dict[str, Any]:
    """Records what a visitor did; it counts in the next list.
    Products that the catalogue lacks are rejected."""
    workspace = caller.shop.workspace
    check_consent(workspace, body.visitor)
    products = catalogue_rows(workspace, [event.item_id for event in body.events])
    positions = [n for n, event in enumerate(body.events) if event.item_id in products]
    account: dict[str, Any] = {
        "accepted": 0,
        "duplicates": 0,
        "conflicts": [],
        "rejected": [],
    }
    if positions:
        rows = []
        for event in (body.events[n] for n in positions):
            price = products[event.item_id]["price"]
            rows.append(_event(body.visitor, event, price))
        account = record_events(EventsRequest.model_construct(events=rows), caller=caller)
    account["conflicts"] = [positions[n] for n in account["conflicts"]]
    unknown = set(range(len(body.events))) - set(positions)
    account["rejected"] = sorted(unknown | {positions[n] for n in account["rejected"]})
    return account


def _event(visitor: str, event: PageEvent, price: float | None) -> EventIn:
    """With an id that no event of the shop's own server has.
    price: of the product now."""
    action = Action(event.event)
    fields = event.model_dump() | {"event": action, "session_id": visitor}
    fields["event_id"] = f"page {event.event_id}"
    if action is Action.PURCHASE:
        fields["price"] = price
    return EventIn.model_construct(**fields)


def catalogue_rows(workspace: Workspace, item_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Products by id, in the columns of `Dataset.items`.
    Those that only events name are left out."""
    rows = workspace.gate().catalogue(item_ids).iter_rows(named=True)
    return {row["item_id"]: row for row in rows if row["title"] is not None}


@page_router.post(
    PAGE_PATH + "list",
    response_model=None,
    responses={200: {"model": PageList}},
    tags=["pages"],
)
async def page_list(
    body: PageListRequest,
    caller: PageCaller,
    service: TheService,
) -> Response:
    """A list for a visitor, which counts as shown."""
    shop, run = caller.shop, service.capacity.run
    await run(partial(check_consent, shop.workspace, body.visitor))
    question = SlateRequest(
        session_id=body.visitor,
        k=body.k,
        basket=body.basket,
        record=True,
    )
    answer = partial(service.slates.answer, shop, question)
    status, document = await service.slate_capacity.run(answer)
    service.metrics[shop.name].slates.labels(status.value).inc()
    page = await run(partial(public_list, shop.workspace, document))
    return document_answer(json_text(page))


def public_list(workspace: Workspace, document: str) -> PageList:
    """What anyone may see of a list. document: JSON of a `Slate`."""
    slate, items = json.loads(document), []
    products = catalogue_rows(workspace, [item["item_id"] for item in slate["items"]])
    for item in slate["items"]:
        if product := products.get(item["item_id"]):
            fields = {name: product[name] for name in ("item_id", "title", "price", "currency")}
            items.append(PageItem(**fields, picture=picture_address(product["attributes"])))
    return PageList(request_id=slate["request_id"], items=items)


def picture_address(attributes: str | None) -> str | None:
    """The first address of a product's pictures. attributes: a JSON object."""
    text = str(json.loads(attributes or "{}").get(IMAGE, ""))
    address = re.match(r"\s*(https?://[^\s,]+)", text)
    return address[1] if address else None


router.include_router(page_router)
