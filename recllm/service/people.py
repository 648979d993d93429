"""Operations about a person's rights, anonymous sessions, and items that leave the catalogue."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.jobs.rights import Erasure, SessionJoin, erase_person, export_person, join_session, remove_item
from recllm.service.bodies import JsonRoute
from recllm.service.callers import ERRORS, MayErase, MaySend, TheService, json_answer
from recllm.service.marketing_requests import SessionJoinRequest
from recllm.service.requests import Id, UserId

router = APIRouter(responses=ERRORS, route_class=JsonRoute)


@router.post("/v1/sessions/join", response_model=None, responses={200: {"model": SessionJoin}}, tags=["events"])
async def session_join(body: SessionJoinRequest, caller: MaySend, service: TheService) -> Response:
    """An anonymous session's events become those of a person, whose next answer knows them.

    Again for the same person it changes nothing; a session of somebody else is a conflict. Where the person refused
    personalisation nothing is joined: the session's events stay unjoined, and the session counts as having refused.
    """

    def joined() -> SessionJoin:
        return join_session(caller.shop.workspace, body.session_id, body.user_id)

    return json_answer(await service.capacity.run(joined))


@router.delete("/v1/users/{user_id:path}", response_model=None, responses={200: {"model": Erasure}}, tags=["privacy"])
async def user_erase(user_id: UserId, caller: MayErase, service: TheService) -> Response:
    """Every row of a person goes: events, basics, consent, joined sessions; the next answer does not know them.

    Models that were trained before stay (they hold no row of anybody), and so do quarantined rows of files, plans of
    campaigns, which hold pseudonyms and reach nobody who was erased, and backups.
    """

    def erased() -> Erasure:
        done = erase_person(caller.shop.workspace, user_id)
        caller.shop.update()
        return done

    return json_answer(await service.marketing.run(erased))


@router.get("/v1/users/{user_id:path}/export", response_model=None, tags=["privacy"])
async def user_export(user_id: UserId, caller: MayErase, service: TheService) -> Response:
    """Everything that the store has of one person: basics, decisions, events with every detail, joined sessions."""

    def everything() -> dict[str, Any]:
        return export_person(caller.shop.workspace, user_id)

    return json_answer(await service.capacity.run(everything))


@router.delete("/v1/items/{item_id:path}", response_model=None, status_code=204, tags=["events"])
async def item_remove(item_id: Id, caller: MaySend, service: TheService) -> Response:
    """An item leaves the catalogue: it is never recommended, found or explained again, until it is sent anew.

    Events about it stay readable.
    """

    def removed() -> None:
        remove_item(caller.shop.workspace, item_id)
        caller.shop.update()

    await service.capacity.run(removed)
    return Response(status_code=204)
