"""When messages may leave: never in the quiet hours of the shop's time zone, and only while the offer runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from recllm.market.occasions.hours import is_quiet


@dataclass(frozen=True, slots=True)
class SendWindow:
    """Messages may leave from `start` on, before `end`: aware times."""

    start: datetime
    end: datetime | None
    """None where nothing sets an end."""


def send_window(
    moment: datetime, quiet: tuple[time, time] | None, zone: str | None, offer_end: datetime | None
) -> SendWindow | None:
    """The first stretch from `moment` on in which messages may leave; None when the offer ends before it begins.

    quiet: two local times of the zone between which no message leaves. zone: IANA name; UTC when None.
    """
    if quiet is None:
        start, end = moment, None
    else:
        local = moment.astimezone(ZoneInfo(zone or "UTC"))
        local = _next(local, quiet[1]) if is_quiet(local.time(), *quiet) else local
        start, end = local, _next(local, quiet[0])
    if offer_end is not None:
        end = offer_end.astimezone(start.tzinfo) if end is None else min(end, offer_end.astimezone(start.tzinfo))
    return None if end is not None and end <= start else SendWindow(start, end)


def _next(local: datetime, hour: time) -> datetime:
    """The next time that clocks show `hour`, after `local`; one that clocks leap over is put right through UTC."""
    then = local.replace(hour=hour.hour, minute=hour.minute, second=0, microsecond=0, fold=0)
    if then <= local:
        then = then + timedelta(days=1)  # of the wall clock: the zone's offset may change meanwhile
    return then.astimezone(UTC).astimezone(local.tzinfo)
