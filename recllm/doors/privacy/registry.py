"""Every place where a workspace keeps something about people, in one list, and the files without people.

The only module of this room that imports rooms which learn, answer or speak: the others get the list as an argument.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

from recllm.base.errors import StoreError
from recllm.base.files import lock_file
from recllm.doors.privacy.certificate import CERTIFICATE_FILES
from recllm.market.adcopy.packs import VOCABULARY
from recllm.market.campaigns.derived_records import FINE_TUNING, LEARNED, QUERY_VECTORS, SERVED, UNFINISHED
from recllm.market.campaigns.drafts import FILES as CAMPAIGN_FILES
from recllm.market.campaigns.folder import COPIES
from recllm.market.campaigns.forget import CAMPAIGNS
from recllm.shop.ingest.quarantine import QUARANTINE, UPLOADED
from recllm.shop.workspace import personal_records as records
from recllm.shop.workspace.console_sessions import SIGNED_IN
from recllm.shop.workspace.store_records import AUDIT_LOG, STORE
from recllm.shop.workspace.workspace import NEXT_KEY, SETTINGS_FILE, SNAPSHOT, Workspace
from recllm.text.domains import FOLDER as DOMAINS
from recllm.text.encoder.cache import CACHE_FILE

OF_EARLIER_RELEASES = ("privacy_budget.jsonl", "effect")
_PAGES = ("report.json", "report.html")
"""Of `recllm start` and `recllm start --demo`: slates, texts and a profile of some people, and the same for the eye."""


def _forget_snapshot(workspace: Workspace, people: records.ErasedPeople) -> records.Removed:
    """Of a backup that was stopped; of one that is being written it goes with the backup."""
    with suppress(StoreError), lock_file(workspace.root / f"{SNAPSHOT}.lock", wait_seconds=0.0):
        shutil.rmtree(workspace.root / SNAPSHOT, ignore_errors=True)
    return records.Removed()


REGISTRY = records.RecordRegistry(
    # in the order of an erasure: what learned from people is marked as long as their rows say since when it did; files
    # go before rows, of which the sessions are read; what serves is made from rows
    records=(
        LEARNED,
        CAMPAIGNS,
        QUARANTINE,
        UPLOADED,
        records.PersonalRecords(
            name="pages",
            files=_PAGES,
            in_backup=True,
            entries=_PAGES[0],
            forget=records.forget_files("pages", "report.*"),
            rename=lambda shop, renamed: records.remove_files(shop, shop.root.glob("report.*"), "pages"),
        ),
        QUERY_VECTORS,
        FINE_TUNING,
        UNFINISHED,
        records.PersonalRecords(name="backup in progress", files=(SNAPSHOT,), forget=_forget_snapshot),
        STORE,
        SERVED,
        AUDIT_LOG,
        CERTIFICATE_FILES,
        SIGNED_IN,
    ),
    impersonal=(
        records.PersonalRecords(
            name="copies",
            files=(COPIES,),
            in_backup=True,
            entries=f"{COPIES}/*.json",
            days=lambda limits: limits.copies,
        ),
        records.PersonalRecords(
            name="what the shop set and wrote",
            files=(SETTINGS_FILE, VOCABULARY, DOMAINS, CAMPAIGN_FILES, "images", "console.jsonl", *OF_EARLIER_RELEASES),
            in_backup=True,
            leftovers=(f"{CAMPAIGN_FILES}/.*.lock",),
        ),
        records.PersonalRecords(name="secrets and locks", files=("key", NEXT_KEY, "webhooks.json", ".lock", ".*.lock")),
        records.PersonalRecords(
            name="what is computed of items",
            files=(
                f"cache/vectors/{CACHE_FILE}*",
                "cache/vectors/*.json",
                "cache/*.json",
                "cache/generators",
                "cache/item-index",
            ),
        ),
    ),
)
