"""Orders, products and customers that a shop system posts when they change.

A document becomes rows of the system's export: what comes by both ways counts once.
No header is signed, so its content says what it is.
Systems deliver in any order: an older state of a product is left out.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from recllm.base.files import drafts_folder, lock_file, sweep_drafts
from recllm.base.schema import Table
from recllm.shop.ingest.posted import document_of, entries, moment_of, value_at
from recllm.shop.ingest.query import write_rows
from recllm.shop.ingest.sources import FileSource, known_sources
from recllm.shop.ingest.workspace_load import export_maps, load_file
from recllm.shop.store.sources import DOCUMENT, STATE
from recllm.shop.workspace.webhooks import WebhookScheme, WebhookSource
from recllm.shop.workspace.workspace import UPLOADS, Workspace

Row = dict[str, Any]


def take_delivery(workspace: Workspace, webhook: WebhookSource, body: bytes) -> str:
    """Loads a signed document, in force on return: "accepted", "duplicates" or "ignored".

    Any share of bad rows is set aside: after a refusal the same would come again.
    Raises `DataError` for no JSON, `IngestError` where none of it can be read.
    """
    document = document_of(body)
    system = webhook.scheme.partition("+")[0]
    fitting = [kind for kind in known_sources().values() if kind.posted.fits(document)]
    kind = next((kind for kind in fitting if kind.name.startswith(system)), None)
    rows = [] if kind is None else exported_rows(kind, document)
    if kind is None or not rows:
        return "ignored"
    now, digest = datetime.now(UTC), hashlib.sha256(body).hexdigest()
    store = workspace.store()
    state = f"{kind.name} {value_at(document, 'id')}"
    changed = value_at(document, kind.posted.changed)
    changed_at = moment_of(changed) or moment_of(f"{changed}Z")
    with lock_file(workspace.root / ".deliveries.lock"):
        earlier = store.deliveries(webhook.name, [digest, state])
        if digest in earlier:
            return "duplicates"
        if changed_at is not None and earlier.get(state, changed_at) > changed_at:
            return "ignored"
        load_rows(workspace, webhook, kind, rows)
        if changed_at is not None:
            store.keep_delivery(webhook.name, STATE, state, min(changed_at, now))
        store.keep_delivery(webhook.name, DOCUMENT, digest, now)
    return "accepted"


def load_rows(workspace: Workspace, webhook: WebhookSource, kind: FileSource, rows: list[Row]) -> None:
    filled = {name for row in rows for name, cell in row.items() if cell is not None}
    columns = [name for name in rows[0] if name in filled]
    kind, folder = kind.of_file(columns, {}), workspace.root / UPLOADS
    takes_yes = webhook.scheme is WebhookScheme.SHOPIFY_CONSENT
    agreements = tuple(kind.agreements) if takes_yes else ()
    policy = workspace.policy.model_copy(update={"reject_limit": 1.0})
    sweep_drafts(folder)
    with drafts_folder(folder) as drafts:
        path = drafts / f"webhook-{webhook.name}"
        cells = [[row[name] for name in columns] for row in rows]
        write_rows(path, columns, [cells])
        for table, column_map in export_maps(kind, agreements):
            basics = chain.from_iterable(column_map.basics.values())
            says_nothing = table is Table.USERS and filled.isdisjoint(basics)
            if table in kind.posted.tables and not says_nothing:
                load_file(workspace, path, table, mapping=column_map, policy=policy)


def exported_rows(kind: FileSource, document: Any) -> list[Row]:
    """The document's rows as the export of its kind has them."""
    person, rows = kind.posted.person, kind.posted.rows(document)
    if (finished := FINISHED.get(kind.name)) is not None:
        rows = [finished(row, document) for row in rows]
    return [row for row in rows if row and (person is None or row[person])]


def shopify_customer(row: Row, customer: Any) -> Row:
    """What the customer said to messages, and when."""
    row["Email"] = row["Email"] or value_at(customer, "email_address")
    for name in ("Email", "SMS"):
        consent = value_at(customer, f"{name.lower()}_marketing_consent")
        if (state := value_at(consent, "state")) is not None:
            row[f"Accepts {name} Marketing"] = state == "subscribed"
            at = value_at(consent, "consent_updated_at")
            row[f"{name} consent at"] = at or value_at(customer, "updated_at")
    return row


def woocommerce_line(row: Row, _: Any) -> Row:
    """Time and price as the export rounds them; empty for an order in the bin."""
    if row["Order Status"] in ("trash", "auto-draft"):
        return {}
    if isinstance(row["Item Cost"], float):
        row["Item Cost"] = round(row["Item Cost"], 2)
    return row | {"Order Date": f"{row['Order Date']}"[:16] + "Z"}


def woocommerce_product(row: Row, product: Any) -> Row:
    """Empty for a variation, and a product with some: prices and stock are not there."""
    if row["Type"] not in ("simple", "external"):
        return {}
    row["Published"] = "1" if row["Published"] == "publish" else "-1"
    row["In stock?"] = "0" if row["In stock?"] == "outofstock" else "1"
    for column, key in (("Categories", "categories"), ("Brands", "brands")):
        names = (str(value_at(entry, "name")) for entry in entries(product, key))
        names = (html.unescape(name).replace(",", "\\,") for name in names)
        row[column] = ", ".join(names)
    return row


FINISHED: Mapping[str, Callable[[Row, Any], Row]] = {
    "shopify-customers": shopify_customer,
    "woocommerce-orders": woocommerce_line,
    "woocommerce-products": woocommerce_product,
}
"""What keys alone do not say of a row."""
