"""Cookies of the console: what a browser keeps is a choice or a random text, and nothing of anybody.

Over https their names begin with `__Host-`, by which a browser takes them from this host alone, over https and for all
paths; what another host of the domain sets, or somebody on the way of an http request, is not read. Over http, where no
browser takes such names, they go without.
"""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from fastapi.responses import Response

SHOP_COOKIE = "recllm-shop"
"""Name of the shop that is looked at."""
FORM_COOKIE = "recllm-form"
"""A random text that the forms of this browser are bound to."""
LANGUAGE_COOKIE = "recllm-language"
PENDING_COOKIE = "recllm-oidc"
"""Binds a sign-in through a provider to the browser that began it."""
HOST_PREFIX = "__Host-"
YEAR = 365 * 24 * 3_600
"""Seconds that a choice is remembered by the browser."""


def read_cookies(request: Request) -> dict[str, str]:
    """The console's cookies by their plain names; over https those alone that came with the prefix."""
    if not _is_https(request):
        return dict(request.cookies)
    prefixed = {name: value for name, value in request.cookies.items() if name.startswith(HOST_PREFIX)}
    return {name.removeprefix(HOST_PREFIX): value for name, value in prefixed.items()}


def set_cookie(
    answer: Response,
    request: Request,
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    samesite: Literal["lax", "strict"] = "strict",
) -> None:
    """A cookie that no script reads and no other site sends; over https never without it."""
    is_https = _is_https(request)
    written = f"{HOST_PREFIX}{name}" if is_https else name
    answer.set_cookie(written, value, max_age=max_age, httponly=True, samesite=samesite, secure=is_https)


def drop_cookie(answer: Response, request: Request, name: str) -> None:
    set_cookie(answer, request, name, "", max_age=0)


def _is_https(request: Request) -> bool:
    return request.url.scheme == "https"
