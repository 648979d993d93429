"""Who asks the service, for which shop, and what all operations share: metrics, scopes, the form of an answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Security
from fastapi.responses import Response
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.exceptions import HTTPException

from recllm.base.documents import json_text
from recllm.base.errors import StoreError
from recllm.base.settings import ServiceSettings
from recllm.doors.service.background import Background
from recllm.doors.service.capacity import Capacity, RateLimit
from recllm.doors.service.live import LiveShop
from recllm.doors.service.requests import ErrorAnswer
from recllm.doors.service.slates import SlateProcesses
from recllm.shop.workspace.audit import AuditAction, audit, audit_each
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.keys import ApiKey, Scope, authenticate, list_keys

logger = logging.getLogger(__name__)


class ShopMetrics:
    """What Prometheus reads of one shop. No label holds an id of anybody."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory and processor of this process alone
        of_registry: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("recllm_requests", "Requests answered", ["operation", "status"], **of_registry)
        self.seconds = Histogram(
            "recllm_request_seconds",
            "Time from a request to its answer",
            ["operation"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            **of_registry,
        )
        self.slates = Counter("recllm_slates", "Slates by what they were made from", ["status"], **of_registry)
        self.events = Counter("recllm_events", "Events received", ["outcome"], **of_registry)
        self.message_events = Counter("recllm_message_events", "What providers reported", ["outcome"], **of_registry)
        self.waiting = Gauge("recllm_waiting_requests", "Requests of all shops without a worker", **of_registry)
        self.ready = Gauge("recllm_ready", "1 when the shop answers", **of_registry)
        self.swaps = Gauge("recllm_swaps", "Recommenders exchanged for a newer one", **of_registry)


@dataclass(frozen=True, eq=False)
class Service:
    """What the operations of one app share."""

    shops: dict[str, LiveShop]
    """By name."""
    settings: ServiceSettings
    capacity: Capacity
    slate_capacity: Capacity
    """For slates; the same one where they are computed in this process."""
    slates: SlateProcesses
    marketing: Capacity
    """For what takes seconds, so that the shop's site does not wait for it."""
    background: Background
    rate: RateLimit
    metrics: dict[str, ShopMetrics]
    """By the name of the shop; "" for requests that belong to none."""
    is_private: bool
    """Whether only this machine asks, which may know the shops by name without a key."""
    body_limits: dict[str, int] = field(default_factory=dict)
    """Path -> bytes of a request's body, for paths that take more than `service.max_body_mib`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and of which shop."""

    shop: LiveShop
    key: ApiKey | None
    """None where the shop has no keys."""

    @property
    def name(self) -> str:
        """Who decides, for the history of what was done."""
        return "this machine" if self.key is None else self.key.name

    @property
    def actor(self) -> str:
        """Who asks, for the audit log."""
        return "service:this machine" if self.key is None else f"key:{self.key.key_id}"

    @property
    def figures(self) -> FigureGate:
        """What this caller may learn of groups of customers."""
        sees_people = self.may(Scope.PRIVACY) or self.may(Scope.PEOPLE)
        return FigureGate(self.shop.workspace, None if sees_people else self.actor)

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope; without keys everybody on this machine has all."""
        return self.key is None or self.key.allows(scope)

    def audit_each(self, action: AuditAction, user_ids: Sequence[str], /, **details: Any) -> None:
        """Notes what was done to the data of each of these people."""
        names = self.shop.workspace.pseudonymiser().many(list(dict.fromkeys(user_ids)))
        audit_each(self.shop.workspace, self.actor, action, names, **details)

    def audit(self, action: AuditAction, /, *, subject: str | None = None, **details: Any) -> None:
        """Writes down what this caller did; see `recllm.shop.workspace.audit`."""
        audit(self.shop.workspace, self.actor, action, subject=subject, **details)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]


def identify(service: Service, key_text: str | None, shop_name: str | None) -> Caller:
    """Who asks. Raises `HTTPException` for whoever has no valid key where one is needed, or names no shop, and
    `StoreError` where that cannot be told, because the keys of a shop that may be meant cannot be read."""
    named = {name: shop for name, shop in service.shops.items() if shop_name in (None, name)}
    unreadable: StoreError | None = None
    is_open = True
    for shop in service.shops.values():
        try:
            if key_text is None:
                # a directory closes a shop as a key does: somebody has to be known
                is_open = is_open and shop.workspace.settings.oidc.issuer is None and not list_keys(shop.workspace)
            elif shop.name in named and (key := authenticate(shop.workspace, key_text)):
                service.rate.count(key.key_id)
                return Caller(shop, key)
        except StoreError as error:  # one shop's trouble is no other's
            if key_text is None or shop.name in named:
                unreadable = error
            logger.warning("keys cannot be read: %s", error, extra={"shop": shop.name})
    service.rate.count("")  # all that have no valid key are one caller
    if unreadable is not None and (key_text is not None or is_open):
        raise unreadable
    if key_text is not None or not is_open:
        # a key of one shop with another one's name says no more than a wrong key
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "give a valid key of the shop in X-API-Key")
    if not named:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no such shop; X-Shop is one of {', '.join(service.shops)}")
    if len(named) > 1:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"name the shop in X-Shop: {', '.join(service.shops)}")
    return Caller(next(iter(named.values())), None)


class Allowed:
    """A dependency: the caller, whom `RequestMiddleware` identified, and who may do what the scope says."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __call__(
        self,
        request: Request,
        _key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))] = None,
        _shop: Annotated[str | None, Header(alias="X-Shop", description="The shop, where there are several.")] = None,
    ) -> Caller:
        caller: Caller = request.state.caller
        require(caller, self._scope)
        return caller


def require(caller: Caller, scope: Scope) -> None:
    if not caller.may(scope):
        raise HTTPException(HTTPStatus.FORBIDDEN, f"this key lacks the scope {scope}")


MayAsk = Annotated[Caller, Depends(Allowed(Scope.RECOMMEND))]
MaySend = Annotated[Caller, Depends(Allowed(Scope.EVENTS))]
MayMarket = Annotated[Caller, Depends(Allowed(Scope.MARKETING))]
MayErase = Annotated[Caller, Depends(Allowed(Scope.PRIVACY))]
MayMeasure = Annotated[Caller, Depends(Allowed(Scope.METRICS))]


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Not readable as a request, or the shop is not named"},
    401: {"model": ErrorAnswer, "description": "No valid key of the shop"},
    403: {"model": ErrorAnswer, "description": "The key lacks the scope, or the person has not agreed"},
    404: {"model": ErrorAnswer, "description": "No such shop, item or person"},
    409: {"model": ErrorAnswer, "description": "Somebody changed the same thing since, or something is in its place"},
    413: {"model": ErrorAnswer, "description": "Larger than `service.max_body_mib`"},
    422: {"model": ErrorAnswer, "description": "A field is wrong; the message names it"},
    429: {"model": ErrorAnswer, "description": "Too many requests; see Retry-After"},
    500: {"model": ErrorAnswer, "description": "Something failed here; the log has it under the request's id"},
    502: {"model": ErrorAnswer, "description": "The generator of texts failed"},
    503: {"model": ErrorAnswer, "description": "Not ready, or no worker was free in time"},
}


def json_answer(value: Any) -> Response:
    """A result in the fields of the command line's JSON."""
    return document_answer(json_text(value))


def document_answer(document: str) -> Response:
    """A result that is JSON already."""
    return Response(document.encode(errors="backslashreplace"), media_type="application/json")
