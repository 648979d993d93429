"""What a caller may say about a file. Everything else is read from the file itself or refused, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

BLOCK_BYTES = 4 << 20
MAX_RECORD_LINES = 1000
MAX_COLUMNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """Overrides of the map and of what the file shows. None means: not said."""

    encoding: str | None = None
    """Tried after a byte order mark and strict UTF-8, e.g. "gb18030" or "cp1252"."""
    delimiter: str | None = None
    """One character; sniffed from the first 64 KiB when not said."""
    decimal: Literal[".", ","] | None = None
    tz: str | None = None
    """Zone of times that carry none, e.g. "Europe/London"."""
    ts_format: str | None = None
    """"iso", "epoch", "excel" (serial day numbers) or a strptime pattern such as "%d.%m.%y %H:%M"."""
    date_order: Literal["dmy", "mdy"] | None = None
    """How 03/04/2025 is meant; inferred when some day is above 12 and no row contradicts."""
    currency: str | None = None
    """ISO code of every price in the file, when no column says it."""
    shop_tz: str | None = None
    """The shop's own zone: used when neither `tz` nor the map says one."""
    shop_currency: str | None = None
    """The shop's own currency: prices of events in another one are not kept as prices."""
    on_bad_bytes: Literal["fail", "quarantine"] = "fail"
    anonymous: Literal["quarantine", "keep"] = "quarantine"
    """"keep" gives every basket without a user its own throw-away person."""
    returns: Literal["on", "off"] = "on"
    """"on" reads a negative quantity as a return; "off" quarantines it."""
    block_bytes: int = BLOCK_BYTES
    """Bytes read and parsed at a time; bounds the memory of a load."""
    now: datetime | None = None
    """Taken as the present when times in the future are refused; the clock when None."""
