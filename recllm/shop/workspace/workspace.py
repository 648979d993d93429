"""One shop's folder: settings, store, key, quarantine, models, cache.

workspace.toml   settings, written last, so a folder with it is complete
store.sqlite     the store, unless the settings name a PostgreSQL database
key              the pseudonym key, readable by the owner only; absent when the key comes from the environment; a line
                 more after each rotation
webhooks.json    services that report on messages, with their secrets; as private as the key
audit.json       number and signature of the last entry of the store's audit log
quarantine/      refused rows of each load
uploads/         files that the console received, until they are loaded
console-sessions/   users who are signed in to the console
campaigns/, campaign-files/            plans with their people, the files behind them
models/          published model versions
serving/         what models answer from; counted again when a customer withdraws or is erased
certificates/    of erasures
effects/, replenishment.json   effects measured by trials; intervals between purchases
domains/         the shop's own words: see `recllm.text.domains`
cache/           what can be computed again; vectors of texts about people in a file of their own
.lock            held while the workspace is made
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w

from recllm.base.documents import toml_table
from recllm.base.errors import RecllmError, StoreError, UsageError
from recllm.base.files import PRIVATE, lock_file, sweep_drafts, write_whole
from recllm.base.settings import Settings, merged
from recllm.shop.data.dataset import utc
from recllm.shop.store.connections import without_password
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    PolicyGate,
    Pseudonymiser,
    find_keys,
    lines_of,
    make_key_file,
)
from recllm.text.domains import FOLDER as DOMAINS
from recllm.text.domains import Domain, in_domain
from recllm.text.templates import Prompts, bring_domain, domain_names

SETTINGS_FILE = "workspace.toml"
STORE_FILE = "store.sqlite"
STORE_VARIABLE = "RECLLM_STORE_URL"
NEXT_KEY = "key.next"
"""Next to the key while the key is exchanged."""
UPLOADS, CERTIFICATES, CONSOLE_SESSIONS = "uploads", "certificates", "console-sessions"
SNAPSHOT = ".backup"
"""Folder of the copy of the store while a backup is written."""
REPLAY_DAYS = 14
_FOLDING = "-lower-case-addresses"
"""At the end of the key's fingerprint: e-mail addresses are brought to lower case."""

_OVERRIDES: ContextVar[Mapping[str, Any]] = ContextVar("settings of this call", default={})  # noqa: B039 - never changed


@contextmanager
def overridden(settings: Mapping[str, Any]) -> Iterator[None]:
    """Within the block these settings, such as {"scorer": {"epochs": 5}}, override those of every workspace.

    Raises `UsageError` for a wrong one.
    """
    Settings(**settings)
    token = _OVERRIDES.set(settings)
    try:
        yield
    finally:
        _OVERRIDES.reset(token)


def call_overrides() -> Mapping[str, Any]:
    """The settings of `overridden`, for a process that is started by this one."""
    return _OVERRIDES.get()


def environment_settings() -> dict[str, Any]:
    """The setting that the environment makes: `store` from RECLLM_STORE_URL, without its password.

    Raises `UsageError` when the variable is no URL of a PostgreSQL database.
    """
    url = os.environ.get(STORE_VARIABLE)
    if not url:
        return {}
    try:
        return {"store": Settings(store=without_password(url)).store}
    except RecllmError as error:
        raise UsageError(f"the variable {STORE_VARIABLE} cannot be used: {error}") from None


class Workspace:
    """An open workspace. Make one with `Workspace.create`, open it with `Workspace.open`; close it after use."""

    def __init__(self, root: Path, settings: Settings, key_fingerprint: str) -> None:
        self.root = root
        self.settings = settings
        self.policy = settings.policy
        self.key_path = root / "key"
        self.webhooks_path = root / "webhooks.json"
        self.quarantine_dir = root / "quarantine"
        self.models_dir = root / "models"
        self.cache_dir = root / "cache"
        self._key_fingerprint = key_fingerprint
        self.folds_addresses = folds_addresses(key_fingerprint)
        """Whether e-mail addresses that differ in case are one person; not so in workspaces from before that rule."""
        self._next_keys: tuple[bytes, ...] | None = None
        """The keys while they are exchanged, until they lie where keys lie."""
        self._store: Store | None = None
        self._domain = _find_domain(root, settings)
        """Its name in locales."""

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def create(cls, root: str | Path, *, exist_ok: bool = False, **settings: Any) -> Workspace:
        """Makes a workspace in `root`; `settings` are the fields of `Settings`: store="postgresql://..." keeps the rows
        in PostgreSQL, where the schema is made if need be.

        An existing one raises `StoreError`, or with `exist_ok` is opened with its own settings. An interrupted creation
        can be repeated. Only the owner may read the folder; one that others may read, and that holds more than the
        shop's own words, raises `StoreError`. Raises `UsageError` for a wrong setting, before anything is made.
        """
        root = Path(root)
        if exist_ok and (root / SETTINGS_FILE).exists():
            return cls.open(root)
        checked = Settings(**merged(environment_settings(), merged(settings, _OVERRIDES.get())))
        _find_domain(root, checked)
        Prompts.load().template("item", checked.locale)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and root.stat().st_mode & 0o077:
                if any(path.name != DOMAINS for path in root.iterdir()):
                    raise StoreError(
                        f"others may read {root}, and what is in it; give a new folder, or run: chmod 700 {root}"
                    )
                root.chmod(0o700)
            with lock_file(root / ".lock"):  # of two creators the second finds the workspace of the first
                sweep_drafts(root)  # of a creation that was killed, that of a key among them
                if not (root / SETTINGS_FILE).exists():
                    for name in ("quarantine", "models", "cache"):
                        (root / name).mkdir(mode=0o700, exist_ok=True)
                    if not (os.environ.get(KEY_VARIABLE) or os.environ.get(KEY_FILE_VARIABLE)):
                        make_key_file(root / "key")
                    key_fingerprint = fingerprint_of(find_keys(root / "key"), checked.tenant, folding=True)
                    location = store_location(root, checked)
                    Store.open(location, create=True, key_fingerprint=key_fingerprint).close()
                    table = checked.table() | {"key_fingerprint": key_fingerprint}
                    for file in filter(Path.is_file, root.iterdir()):
                        file.chmod(PRIVATE)
                    write_whole(root / SETTINGS_FILE, tomli_w.dumps(table), mode=PRIVATE)
                    return cls(root, checked, key_fingerprint)
        except OSError as error:
            raise StoreError(
                f"cannot make a workspace in {root}: {error.strerror}; choose a writable folder"
            ) from error
        if exist_ok:
            return cls.open(root)
        raise StoreError(f"{root} is a workspace already; open it, or give another folder")

    @classmethod
    def open(cls, root: str | Path) -> Workspace:
        """Opens the workspace in `root`, with the settings of `overridden` and of the environment on top of its own.

        Raises `StoreError` when there is none, or its settings cannot be read.
        """
        environment = environment_settings()
        path = Path(root) / SETTINGS_FILE
        if not path.is_file():
            if restore_drafts(Path(root).absolute())[1].exists():
                raise StoreError(f"a restore of {root} was stopped: repeat it, recllm restore FILE -w {root} --replace")
            raise StoreError(f"there is no workspace in {root}; make one with: recllm init -w {root}")
        try:
            table = toml_table(path.read_text("utf-8"))
            key_fingerprint = str(table.pop("key_fingerprint"))
            settings = Settings(**merged(merged(table, _OVERRIDES.get()), environment))
            workspace = cls(Path(root), settings, key_fingerprint)
        except KeyError:
            raise StoreError(f"{path} has no key_fingerprint; put back the file that recllm init made") from None
        except (OSError, ValueError, UsageError) as error:
            raise StoreError(f"{path} cannot be used: {error}; correct the file") from error
        if is_being_rotated(Path(root)) and workspace.is_rotated():
            raise StoreError(
                f"the key of {root} is being exchanged; finish that with: recllm privacy rotate-key -w {root}"
            )
        return workspace

    @classmethod
    def open_rotated(cls, root: Path) -> Workspace:
        """Opens a workspace whose store is renamed, with the keys of `NEXT_KEY`."""
        table = toml_table((root / SETTINGS_FILE).read_text("utf-8"))
        folding = folds_addresses(str(table.pop("key_fingerprint")))
        settings = Settings(**merged(merged(table, _OVERRIDES.get()), environment_settings()))
        keys = lines_of((root / NEXT_KEY).read_bytes())
        workspace = cls(root, settings, fingerprint_of(keys, settings.tenant, folding=folding))
        workspace._next_keys = keys
        return workspace

    def is_rotated(self) -> bool:
        keys = lines_of((self.root / NEXT_KEY).read_bytes())
        with closing(Store.open(store_location(self.root, self.settings))) as store:
            return store.key_fingerprint() == self.fingerprint_under(keys)

    @property
    def key_file(self) -> Path | None:
        """Where the keys are; None where the environment holds them."""
        if os.environ.get(KEY_VARIABLE):
            return None
        other_file = os.environ.get(KEY_FILE_VARIABLE)
        return Path(other_file) if other_file else self.key_path

    @property
    def domain(self) -> Domain:
        return Prompts.load().domain(self._domain)

    def folder(self, name: str) -> Path:
        """Raises `StoreError` for a link: it could sign others in, or sweep another folder."""
        folder = self.root / name
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link; remove it, and the folder is made again")
        return folder

    def locale(self, locale: str | None = None) -> str:
        """The locale of texts for people, "en@media": `locale`, or that of the settings, in this workspace's domain.
        Encoders read texts in the plain language of the settings: other words for an item need no new training."""
        return in_domain(locale or self.settings.locale, self._domain)

    def store(self) -> Store:
        if self._store is None:
            location = store_location(self.root, self.settings)
            self._store = Store.open(location, key_fingerprint=self._key_fingerprint)
        return self._store

    def gate(self) -> PolicyGate:
        return PolicyGate(self.store(), self.policy, self.settings.consent_default)

    def pseudonymiser(self, domain: str = "training") -> Pseudonymiser:
        """Raw ids to the pseudonyms of this workspace; those of two domains cannot be joined.

        Raises `StoreError` when the key is missing, or is not the one that the workspace was made with: known people
        would silently become unknown ones.
        """
        tenant = self.settings.tenant
        return Pseudonymiser(*self.keys(), domain=domain, tenant=tenant, folds_addresses=self.folds_addresses)

    def fingerprint_under(self, keys: Sequence[bytes]) -> str:
        """`fingerprint_of` for other keys of this workspace, with its rule of addresses."""
        return fingerprint_of(keys, self.settings.tenant, folding=self.folds_addresses)

    def keys(self) -> tuple[bytes, ...]:
        """The pseudonym keys, the newest last; never shown, logged or kept elsewhere.
        Raises as `pseudonymiser`."""
        keys = self._next_keys or find_keys(self.key_path)
        if self.fingerprint_under(keys) != self._key_fingerprint:
            raise StoreError(
                f"the pseudonym key is not the one that the workspace {self.root} was made with; "
                f"check {KEY_VARIABLE}, {KEY_FILE_VARIABLE} and {self.key_path}; if it is lost for good: "
                "recllm privacy rotate-key --lost"
            )
        return keys

    def signing_key(self, use: str) -> bytes:
        """32 bytes that only this workspace has, for signatures of one use such as "console"; made from the pseudonym
        key, which they do not reveal. Raises `StoreError` as `pseudonymiser` does."""
        return self.signing_keys(use)[-1]

    def signing_keys(self, use: str) -> tuple[bytes, ...]:
        """The signing key of each pseudonym key, the newest last, so that older signatures can be checked."""
        text = f"{self.settings.tenant}\0signing\0{use}".encode()
        return tuple(hmac.digest(key, text, "sha256") for key in self.keys())

    def session_pseudonymiser(self) -> Pseudonymiser:
        """Ids of anonymous sessions to pseudonyms that are never a person's.
        Raises what `pseudonymiser` raises."""
        return self.pseudonymiser().of_sessions()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def _find_domain(root: Path, settings: Settings) -> str:
    """The name in locales of the settings' domain. Raises `UsageError` for an unknown one, `PromptError` for a faulty
    file of the workspace."""
    own_words = root / DOMAINS / f"{settings.domain}.toml"
    if own_words.is_file():
        return bring_domain(own_words)
    if settings.domain not in (names := domain_names()):
        raise UsageError(f"setting domain: there is no {own_words}, and the package has {', '.join(names)}")
    return settings.domain


def store_location(root: Path, settings: Settings) -> str | Path:
    """Path or URL, which may hold a password: only for `Store.open` and the item index."""
    return os.environ.get(STORE_VARIABLE) or settings.store or root / STORE_FILE


def restore_drafts(root: Path) -> tuple[Path, Path]:
    """Where a restore builds a workspace, and where the complete one is before it replaces `root`."""
    return root.with_name(f".{root.name}.restoring"), root.with_name(f".{root.name}.restored")


def is_being_rotated(root: Path) -> bool:
    """Whether an exchange of the key has begun and is not finished."""
    return (root / NEXT_KEY).exists()


def fingerprint_of(keys: Sequence[bytes], tenant: str, *, folding: bool) -> str:
    """Fingerprint of the newest key, see `Pseudonymiser.fingerprint`, and of the rule of addresses: a workspace with
    another rule would lose its people, and is refused like one with another key."""
    digits = Pseudonymiser(*keys, domain="fingerprint", tenant=tenant).fingerprint()
    return digits + _FOLDING if folding else digits


def folds_addresses(key_fingerprint: str) -> bool:
    """Whether the workspace of this fingerprint brings e-mail addresses to lower case; older ones do not."""
    return key_fingerprint.endswith(_FOLDING)


def log_end(workspace: Workspace, now: datetime | None = None) -> int | None:
    """The second after the last event of the log, in epoch seconds; None for an empty log.

    Loads with an event further ahead of the clock than the allowed error are left out, unless there are no others. now:
    an aware time instead of the clock.
    """
    with workspace.store().read() as reader:
        last = reader.last_event((now or datetime.now(UTC)) + workspace.policy.clock_error)
    return None if last is None else int(last.timestamp()) + 1


def present(workspace: Workspace, now: datetime | None = None) -> int:
    """The present in epoch seconds, the same for planning, exports, recommendations, predictions and records.

    It is the clock of a live shop. If the log ended more than `REPLAY_DAYS` ago, its last event is the present. The log
    is that of all people, whatever their consent. now: an aware time instead of the clock of this machine.
    """
    clock = now or datetime.now(UTC)
    end = log_end(workspace, clock)
    if end is None:
        return int(clock.timestamp())
    replayed = clock - utc(end) > timedelta(days=REPLAY_DAYS)
    return end if replayed else max(end, int(clock.timestamp()))


def recording_time(workspace: Workspace) -> datetime:
    """Time of an event that is recorded without one: the present, but never ahead of the clock, so that many of them
    within a second do not move the present."""
    clock = datetime.now(UTC)
    return min(utc(present(workspace, clock)), clock)
