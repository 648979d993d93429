"""Rows of the tables about people: users with their basics, and decisions of consent."""

from __future__ import annotations

import polars as pl

from recllm.ingest.catalogue import NO, YES, yes_or_no
from recllm.ingest.context import Context
from recllm.ingest.faults import Faults
from recllm.ingest.shared import parse_person, pseudonyms, times_of
from recllm.schema import Purpose

_GRANTED = YES | {"granted", "grant", "given", "opt-in", "opt_in", "optin", "accepted", "同意", "已同意"}
_DENIED = NO | {
    "denied", "deny", "refused", "withdrawn", "revoked", "opt-out", "opt_out", "optout", "rejected", "不同意",
    "拒绝", "撤回",
}  # fmt: skip


def build_users(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.DataFrame:
    """One row per row of `fields`; only those without a fault are meant for the store."""
    person = parse_person(fields, ctx, faults)
    return pl.DataFrame({"user_id": pseudonyms(person, ctx, faults), "basics": fields["basics"]})


def build_consent(fields: pl.DataFrame, ctx: Context, faults: Faults) -> pl.DataFrame:
    """One row per row of `fields`; only those without a fault are meant for the store."""
    person = parse_person(fields, ctx, faults)
    said = fields["purpose"].str.strip_chars().str.to_lowercase().str.replace_all(r"[\s\-]+", "_")
    known = said.is_in([p.value for p in Purpose]).fill_null(False)
    name = ctx.plan.column_of("purpose")
    faults.mark(~known, name, "E_PURPOSE", f"is no known purpose; known: {', '.join(Purpose)}", fields["purpose"])
    granted = yes_or_no(fields["granted"], _GRANTED, _DENIED)
    name = ctx.plan.column_of("granted")
    faults.mark(granted.is_null(), name, "E_GRANTED", "is neither granted nor denied", fields["granted"])
    times, _ = times_of(fields, ctx, faults)
    return pl.DataFrame(
        {
            "user_id": pseudonyms(person, ctx, faults),
            "purpose": said,
            "granted": granted,
            "at": pl.Series(times.at, dtype=pl.Int64),
        }
    )
