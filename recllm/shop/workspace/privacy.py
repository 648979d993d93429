"""Pseudonyms of ids, and `PolicyGate`: the only reader of personal rows for everything that learns or speaks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from recllm.base.errors import StoreError, UsageError
from recllm.base.files import PRIVATE, write_whole
from recllm.base.policy import Policy
from recllm.base.schema import SESSION_PREFIX, Purpose
from recllm.shop.data.dataset import Dataset, Events, conformed_items, hash_order
from recllm.shop.data.people_sample import PeopleSample, sampled_rows
from recllm.shop.store.database import Store
from recllm.shop.store.readers import Marks, StoredHistory, StoreReader

KEY_VARIABLE = "RECLLM_KEY"
KEY_FILE_VARIABLE = "RECLLM_KEY_FILE"
MIN_KEY_BYTES = 16
PERSON_PREFIX = "u1_"
_NO_ADDRESS = r"\s@:,;<>()\[\]\\\""
_ADDRESS = re.compile(
    rf"(?P<namespace>[A-Za-z0-9_-]{{1,32}}:)?(?P<address>[^{_NO_ADDRESS}]+@[^{_NO_ADDRESS}]+\.[^\W\d_][^{_NO_ADDRESS}.]+)"
)
"""An e-mail address, behind the namespace of another shop's ids where there is one."""

_DETAILS = ("quantity", "price", "basket_id")


class Pseudonymiser:
    """Raw ids to pseudonyms: `"u1_" + base32(HMAC-SHA256(key, tenant NUL domain NUL id))[:26]`, 130 bits.

    A plain hash would not do: phone numbers can be enumerated. Ids are brought to Unicode NFC and stripped first, so
    that an id typed at a prompt meets the one read from a file; with `folds_addresses` e-mail addresses to lower case
    as well, see `fold_address`. Equal ids of two domains, or of two tenants, cannot be joined.
    """

    def __init__(
        self,
        key: bytes,
        *later_keys: bytes,
        domain: str = "training",
        tenant: str = "default",
        prefix: str = PERSON_PREFIX,
        folds_addresses: bool = False,
    ) -> None:
        """later_keys: those of rotations, oldest first. A pseudonym of one key is the id of the next, so that stored
        rows can be brought to the next key without a raw id. folds_addresses: whether addresses that differ in case are
        one person; it can never be changed for stored people."""
        for some_key in (key, *later_keys):
            if len(some_key) < MIN_KEY_BYTES:
                raise UsageError(
                    f"the pseudonym key has {len(some_key)} bytes, at least {MIN_KEY_BYTES} are needed; "
                    'make one with: python -c "import secrets; print(secrets.token_hex(32))"'
                )
        self._keys = (key, *later_keys)
        self._hmacs = [hmac.new(k, f"{tenant}\0{domain}\0".encode(), hashlib.sha256) for k in self._keys]
        self._domain, self._tenant, self._prefix = domain, tenant, prefix
        self._folds_addresses = folds_addresses

    def __repr__(self) -> str:
        return f"Pseudonymiser(key=***, domain={self._domain!r})"

    def one(self, raw: str) -> str:
        """The pseudonym of one id: 29 characters, safe in a path."""
        return self.each(raw)[-1]

    def each(self, raw: str) -> tuple[str, ...]:
        """The pseudonym of one id under each key, the oldest first, as in older records."""
        names = [self.spelling(raw)]
        for generation in range(len(self._hmacs)):
            names.append(self._rename(generation, names[-1]))
        return tuple(names[1:])

    def spelling(self, raw: str) -> str:
        """The id as it is hashed: all spellings of it are one person."""
        text = unicodedata.normalize("NFC", raw).strip()
        return fold_address(text) if self._folds_addresses else text

    def successor(self, pseudonym: str) -> str:
        """The pseudonym under the newest key, from that under the key before it."""
        return self._rename(len(self._hmacs) - 1, pseudonym)

    def _rename(self, generation: int, name: str) -> str:
        mac = self._hmacs[generation].copy()
        mac.update(name.encode("utf-8", "surrogatepass"))
        return self._prefix + base64.b32encode(mac.digest())[:26].decode()

    def of_sessions(self) -> Pseudonymiser:
        """The pseudonymiser of anonymous sessions: another domain and prefix."""
        return Pseudonymiser(*self._keys, domain="session", tenant=self._tenant, prefix=SESSION_PREFIX)

    def many(self, raw: Sequence[str]) -> list[str]:
        """The pseudonym of each id, in order; each distinct id is hashed once."""
        pseudonyms = {text: self.one(text) for text in set(raw)}
        return [pseudonyms[text] for text in raw]

    def fingerprint(self) -> str:
        """16 hex digits that show whether two newest keys are equal and reveal nothing else of a random key."""
        mac = self._hmacs[-1].copy()
        mac.update(b"\0fingerprint of the key")
        return mac.hexdigest()[:16]


def fold_address(user_id: str) -> str:
    """An e-mail address in lower case; the namespace before it, and any other id, unchanged.

    RFC 5321, 2.4 lets the text before the @ differ in case; no large provider of mail uses that.
    """
    match = _ADDRESS.fullmatch(user_id) if "@" in user_id else None
    if match is None:
        return user_id
    return (match["namespace"] or "") + unicodedata.normalize("NFC", match["address"].lower())


def find_keys(key_file: Path) -> tuple[bytes, ...]:
    """The pseudonym keys, a line each, the oldest first: one, and one for each rotation.

    They come from RECLLM_KEY, else from the file that RECLLM_KEY_FILE names, else from `key_file`. Raises `StoreError`
    when there is none, and when other people may read `key_file`.
    """
    if text := os.environ.get(KEY_VARIABLE):
        return lines_of(text.encode())
    other_file = os.environ.get(KEY_FILE_VARIABLE)
    path = Path(other_file) if other_file else key_file
    if not other_file and path.exists() and os.name == "posix" and path.stat().st_mode & 0o077:
        raise StoreError(f"other people may read the key file {path}; run: chmod 600 {path}")
    try:
        return lines_of(path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"the pseudonym key cannot be read from {path} ({error.strerror}); restore the file, "
            f"or set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}; without it new rows cannot be joined to known people"
        ) from error


def lines_of(content: bytes) -> tuple[bytes, ...]:
    """The keys of a file, a line each."""
    return tuple(filter(None, (line.strip() for line in content.splitlines()))) or (b"",)


def make_key_file(path: Path) -> None:
    """Writes a new random key, readable by the owner only. An existing file stays."""
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            write_whole(path, secrets.token_hex(32) + "\n", mode=PRIVATE, overwrite=False)


class PolicyGate:
    """Checks consent for each purpose. Consent is read on every call, so a withdrawal takes effect immediately.

    The latest decision per user and purpose wins; of two at the same time, the refusal. Grants dated in the future are
    ignored, beyond the allowed clock error; refusals never are. Without a decision `consent_default` applies, but never
    to the policy's explicit purposes, and to anonymous sessions only for the policy's `session_purposes`. Reads of all
    people leave sessions out, so none is in an audience, prediction or training; `histories` and `permits_each` answer
    for sessions by name.
    """

    def __init__(self, store: Store, policy: Policy, consent_default: bool) -> None:
        self._store = store
        self._policy = policy
        self._default = consent_default

    def permits(self, user_id: str, purpose: Purpose) -> bool:
        """Whether this person, known to the store or not, may be used for the purpose."""
        return self.permits_each([user_id], purpose)[0]

    def decisions(self, user_id: str) -> dict[Purpose, tuple[bool, datetime]]:
        """The latest decision for each purpose, and when; purposes without a decision are left out."""
        with self._store.read() as reader:
            rows = reader.consent(None, [user_id]).select("purpose", "granted", "at").iter_rows()
        return {Purpose(purpose): (granted, at) for purpose, granted, at in rows}

    def permits_each(self, user_ids: Sequence[str], purpose: Purpose) -> list[bool]:
        """`permits` for many people at once, in order.
        Only these people's decisions are read."""
        with self._store.read() as reader:
            decided = dict(self._latest(reader, purpose, user_ids).iter_rows())
        defaults = {is_session: self._without_decision(purpose, is_session) for is_session in (False, True)}
        return [decided.get(user_id, defaults[user_id.startswith(SESSION_PREFIX)]) for user_id in user_ids]

    def knows_each(self, user_ids: Sequence[str]) -> list[bool]:
        """Whether the store has a row of each of these people; it has none of erased ones."""
        with self._store.read() as reader:
            stored = set(reader.users(user_ids)["user_id"])
        return [user_id in stored for user_id in user_ids]

    def dataset(self, purpose: Purpose, *, people_limit: int | None = None) -> Dataset:
        """Everything known of the people who agreed to the purpose: events, basics, the catalogue.

        The policy's `event_days` are counted back from the clock. people_limit: maximum number of people, see
        `data.people_sample`; of the others only the number is read.
        """
        return self.dataset_and_marks(purpose, people_limit=people_limit)[0]

    def dataset_and_marks(self, purpose: Purpose, *, people_limit: int | None = None) -> tuple[Dataset, Marks]:
        """`dataset`, and how far the store was written then."""
        since, parts, sample = self.oldest_event(), [Events.nothing()], None
        with self._store.read() as reader:
            people = self._allowed(reader, purpose)
            if people_limit is not None and people.height > people_limit:
                sample = PeopleSample(people=people_limit, of_people=people.height)
                people = people[sampled_rows(people["user_id"].to_list(), people_limit).tolist()]
            items, step_seconds, marks = reader.items(), reader.step_seconds(), reader.marks()
            items = items[hash_order(items["item_id"])]
            for n_users, frame in reader.events_by_user(people["user_id"], items["item_id"], since=since):
                at, price = frame["at"].to_numpy() // 1_000_000, frame["price"].fill_null(np.nan).to_numpy()
                user, item, action, quantity = (frame[c].to_numpy() for c in ("user", "item", "action", "quantity"))
                parts.append(Events.of_rows(n_users, user, item, at, action, quantity, price, frame["basket_id"]))
        events = Events.concat(parts)
        dataset = Dataset(
            with_basics(people),
            conformed_items(_catalogue(items)),
            events,
            int(events.at.max(initial=-1)) + 1,
            step_seconds=step_seconds,
            sample=sample,
        )
        # a product that only other people's events know is left out
        in_catalogue = ~items["pending"].to_numpy()
        in_catalogue[events.item] = True
        return (dataset if in_catalogue.all() else dataset.with_items(in_catalogue)), marks

    def step_seconds(self) -> int | None:
        """Length of one step of a log without times; None where it has times."""
        with self._store.read() as reader:
            return reader.step_seconds()

    def histories(
        self, user_ids: Sequence[str], purpose: Purpose, *, since: datetime | None = None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What `dataset` has of these people as users and events, see `people`, read by key: the time depends on their
        own events only."""
        with self._store.read() as reader:
            people = self._allowed(reader, purpose, user_ids)
            first = max(filter(None, (self.oldest_event(), since)), default=None)
            events = reader.events(_DETAILS, since=first, user_ids=people["user_id"])
        return with_basics(people), events

    def stored_histories(
        self, user_ids: Sequence[str], purpose: Purpose, *, before: datetime | None = None
    ) -> list[StoredHistory]:
        """The same of a few people, in order, as rows, with their consent; all of one moment."""
        defaults = {is_session: self._without_decision(purpose, is_session) for is_session in (False, True)}
        oldest = self.oldest_event()
        with self._store.read() as reader:
            return [
                reader.history(
                    user_id,
                    purpose.value,
                    without_decision=defaults[user_id.startswith(SESSION_PREFIX)],
                    since=oldest,
                    before=before,
                    granted_until=self._latest_agreement(),
                )
                for user_id in user_ids
            ]

    def people(self, purpose: Purpose, *, after_event: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Everyone who agreed to the purpose, and their events after the event of that number, see `StoreReader.marks`.

        Users: user_id and one text column per basic, ordered by id. Events: user_id, item_id, event, timestamp (UTC),
        quantity, price, basket_id, in the order of writing, as `Dataset.construct` takes them.
        """
        with self._store.read() as reader:
            people = self._allowed(reader, purpose)
            events = reader.events(_DETAILS, since=self.oldest_event(), after_event=after_event)
        return with_basics(people), events.join(people, on="user_id", how="semi", maintain_order="left")

    def permitted_users(self, purpose: Purpose) -> list[str]:
        """Everyone of the store who agreed to the purpose."""
        with self._store.read() as reader:
            return self._allowed(reader, purpose)["user_id"].to_list()

    def messages(self, purpose: Purpose) -> pl.DataFrame:
        """Exported messages of people who agreed to the purpose: user_id, campaign_id, channel and exported_at, epoch
        seconds of the first export."""
        schema = {"user_id": pl.String, "campaign_id": pl.String, "channel": pl.String, "exported_at": pl.Int64}
        frame = pl.DataFrame(self._store.sent_messages(), schema=schema, orient="row")
        frame = frame.with_columns(pl.col("exported_at") // 1_000_000)
        return frame.filter(pl.col("user_id").is_in(self.permitted_users(purpose)))

    def catalogue(self, item_ids: Iterable[str] | None = None, *, after_load: int | None = None) -> pl.DataFrame:
        """Items in the columns of `Dataset.items`, ordered by id; see `StoreReader.items`."""
        with self._store.read() as reader:
            return _catalogue(reader.items(item_ids, after_load=after_load))

    def item_states(self) -> pl.DataFrame:
        """What items cost and whether they were for sale: see `StoreReader.item_states`."""
        with self._store.read() as reader:
            return reader.item_states()

    def events(self, purpose: Purpose, *, since: datetime | None = None) -> pl.DataFrame:
        """Events of the people and sessions that may be used for the purpose; see `StoreReader.events`."""
        with self._store.read() as reader:
            people = self._allowed(reader, purpose, sessions=True)
            events = reader.events(since=since)
        return events.join(people, on="user_id", how="semi", maintain_order="left")

    def _allowed(
        self, reader: StoreReader, purpose: Purpose, user_ids: Sequence[str] | None = None, *, sessions: bool = False
    ) -> pl.DataFrame:
        """user_id and basics of all people, or of these, who may be used for the purpose.

        sessions: whether all people include anonymous sessions; those among `user_ids` always count.
        """
        latest = self._latest(reader, purpose, user_ids)
        people = reader.users(user_ids)
        is_session = pl.col("user_id").str.starts_with(SESSION_PREFIX)
        if user_ids is None and not sessions:
            people = people.filter(~is_session)
        people = people.join(latest, on="user_id", how="left", maintain_order="left")
        of_person = self._without_decision(purpose, False)
        of_session = self._without_decision(purpose, True)
        default = pl.when(is_session).then(of_session).otherwise(of_person)
        return people.filter(pl.col("granted").fill_null(default)).drop("granted")

    def _without_decision(self, purpose: Purpose, is_session: bool) -> bool:
        if is_session and purpose not in self._policy.session_purposes:
            return False
        return self._default and purpose not in self._policy.explicit_purposes

    def oldest_event(self) -> datetime | None:
        """Time before which events are not used, see the policy's `event_days`; None for no limit."""
        days = self._policy.event_days
        return None if days is None else datetime.now(UTC) - timedelta(days=days)

    def _latest(self, reader: StoreReader, purpose: Purpose, user_ids: Sequence[str] | None = None) -> pl.DataFrame:
        """user_id and granted: the last decision of all people, or of these; restricted people refuse everything."""
        decisions = reader.consent(purpose.value, user_ids, granted_until=self._latest_agreement())
        restricted = reader.restrictions(user_ids).select("user_id", granted=pl.lit(False))
        decided = pl.concat([decisions.select("user_id", "granted"), restricted])
        return decided.group_by("user_id", maintain_order=True).last()

    def _latest_agreement(self) -> datetime:
        """Agreements that are dated later do not count: no refusal of today could end them."""
        return datetime.now(UTC) + self._policy.clock_error


def _catalogue(items: pl.DataFrame) -> pl.DataFrame:
    """Items of the store in the columns of `Dataset.items`; one that is only known from events is not available."""
    available = pl.col("available") & ~pl.col("pending")
    return items.with_columns(pl.col("price").cast(pl.Float64), available).drop("pending")


def with_basics(people: pl.DataFrame) -> pl.DataFrame:
    """user_id and one text column per basic, in the order of their names."""
    basics = [json.loads(text) for text in people["basics"]]
    names = sorted({name for row in basics for name in row} - {"user_id"})
    columns = [pl.Series(name, [row.get(name) for row in basics], dtype=pl.String) for name in names]
    return people.select("user_id").with_columns(columns)
