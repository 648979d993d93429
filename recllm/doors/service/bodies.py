"""Bodies of requests as JSON with one meaning (RFC 8259, and I-JSON of RFC 7493 where it leaves things open).

Python's reader takes more: of two fields of one name the last, NaN and Infinity, other encodings than UTF-8. Two
readers could then understand one request in two ways, so each of these is refused with 400; and so is what is nested
more deeply than anything that is asked here, before code that goes into it by recursion meets it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

MAX_DEPTH = 50
"""Objects and lists within each other; a campaign, the deepest body, has five."""
MAX_DIGITS = 400
"""Of an integer: a few more than the largest float has."""


def read_json(body: bytes) -> Any:
    """What a body holds. Raises `HTTPException` (400) for what has no meaning, or more than one, and `JSONDecodeError`,
    which tells the place, for what is no JSON."""
    try:
        document = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError:
        raise _refusal("the body is not UTF-8") from None
    except RecursionError:
        raise _refusal("the body is nested too deeply") from None
    level, depth = [document], 0
    while containers := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _refusal(f"the body is nested more than {MAX_DEPTH} levels deep")
        level = [inner for value in containers for inner in (value.values() if isinstance(value, dict) else value)]
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        # the name is not repeated: it may hold somebody's id
        raise _refusal("an object of the body has two fields of one name")
    return fields


def _constant(name: str) -> NoReturn:
    raise _refusal(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # Python takes long for very many
        raise _refusal(f"a number of the body has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _refusal("a number of the body is larger than any that can be kept")
    return number


def _refusal(message: str) -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, message)


class JsonRequest(Request):
    """A request whose `json` is `read_json` of its body."""

    async def json(self) -> Any:
        return read_json(await self.body())


class JsonRoute(APIRoute):
    """An operation that reads its body by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest(request.scope, request.receive))

        return handle
