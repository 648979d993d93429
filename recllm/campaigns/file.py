"""A campaign as a shop writes it down: one TOML file.

id = "double11"
goal = "sell coats to those who looked at coats"
channels = ["email", "push"]           # a person is reached on the first of these they agreed to
locales = ["zh"]                       # the first, unless a basic (language, locale, lang) names another of them
send = 2025-11-01T09:00:00+08:00       # when texts go out; the present when left out

[target]                               # one of items, category, text
items = ["coat-1", "coat-2"]           # each person gets the one that suits them best
most_items = 20                        # keep the items that suit most people; all when left out

[offer]
type = "percent"                       # percent, amount, coupon, free_shipping, gift, bogo
value = 20
start = 2025-11-01T00:00:00+08:00
end = 2025-11-12T00:00:00+08:00
[offer.list_prices]
coat-1 = 499

[limits]
size = 500                             # people at most; budget = money, cost = money per contact
margin = 40                            # money that a conversion brings
holdout = 0.1
frequency_cap = 2                      # shown so often within frequency_days: left out
bought_days = 30                       # bought one of the items so recently: left out
suppress = "never.txt"                 # ids never to contact, one a line, beside this file
adult_age = 18                         # who is or may be younger is left out
quiet = ["21:00", "08:00"]             # no message between these; [] for none
timezone = "Asia/Shanghai"             # the workspace's when left out

[words]
variants = 2
generator = "template"                 # smollm2, a folder or hub id of a causal LM, or a server's URL
adapter = "voice-lora"                 # a tuned generator's, beside this file
packs = ["cn"]                         # rule packs by name, or files beside this one; all shipped ones by default
voice = "voice.toml"
known_brands = ["Rival"]
auto = false                           # true: texts without any warning need no person
[words.evidence]
award = "..."
[words.evidence.lowest_30d]            # evidence that is another for each item
coat-1 = "449 CNY"

[sender]
name = "Hearth"
address = "..."
opt_out = "..."
"""

from __future__ import annotations

import hashlib
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from recllm.adcopy.channels import channel_named
from recllm.adcopy.mandatory import Sender, complete
from recllm.adcopy.packs import Pack, load_pack, pack_named, pack_names
from recllm.adcopy.request import Offer, OfferType, Voice, checked_locale, load_voice
from recllm.audiences.selection import Cut
from recllm.campaigns.toml_table import TomlTable, read_toml
from recllm.errors import DataError, RecllmError
from recllm.files import safe_id
from recllm.jobs.serve import CHANNEL_PURPOSE

NIGHT = ("21:00", "08:00")
MOST_VARIANTS = 5

SALT = "campaign"
"""Of the holdout's draw, beside the campaign's id."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """No message leaves between `start` and `end`, local times of `zone`; None when every hour will do."""

    start: time
    end: time
    zone: str | None
    """IANA name; None for the workspace's own."""


@dataclass(frozen=True, kw_only=True)
class CampaignFile:
    """Everything that a campaign's file decides; the fields are those of the file's keys."""

    id: str
    goal: str
    note: str
    channels: tuple[str, ...]
    locales: tuple[str, ...]
    send: datetime | None
    window_days: float | None
    """Days after sending within which a purchase counts; the model's horizon when None."""

    items: tuple[str, ...] | None
    category: str | None
    text: str | None
    most_items: int | None

    offer: Offer | None
    list_prices: Mapping[str, Decimal]

    cut: Cut
    frequency_cap: int | None
    frequency_days: float
    bought_days: float | None
    returned: bool
    adult_age: int
    suppress: Path | None
    quiet: Quiet | None

    variants: int
    generator: str
    adapter: Path | None
    seed: int
    packs: tuple[Pack, ...]
    voice: Voice | None
    known_brands: tuple[str, ...]
    evidence: Mapping[str, str | Mapping[str, str]]
    """Key -> proof, or key -> item -> proof."""
    auto: bool
    sender: Sender | None

    digest: str
    """SHA-256 of the file."""
    source: Path = field(compare=False)

    @property
    def personal(self) -> tuple[str, ...]:
        """The channels on which a person can agree to be reached."""
        return tuple(c for c in self.channels if c in CHANNEL_PURPOSE)

    @property
    def public(self) -> tuple[str, ...]:
        """The channels whose texts are for everybody: no list of people goes with them."""
        return tuple(c for c in self.channels if c not in CHANNEL_PURPOSE)

    def evidence_for(self, item_id: str) -> dict[str, str]:
        """The proofs that hold for an item."""
        told = {key: v if isinstance(v, str) else v.get(item_id, "") for key, v in self.evidence.items()}
        return {key: proof for key, proof in told.items() if proof}


def read_campaign(file: Path) -> CampaignFile:
    """Reads a campaign. Raises `DataError` or `UsageError` that names file, line and key."""
    top = read_toml(file)
    name = top.text("id")
    _checked(top, "id", lambda: safe_id(name, "a campaign's id"))
    found = CampaignFile(
        id=name,
        goal=top.text("goal", ""),
        note=top.text("note", ""),
        channels=_channels(top),
        locales=_locales(top),
        send=top.moment("send"),
        window_days=top.number("window_days", None, above=0),
        **_target(top),
        **_offer(top),
        **_limits(_section(top, "limits"), file.parent),
        **_words(_section(top, "words"), file.parent),
        sender=_sender(top),
        digest=_digest(file),
        source=file,
    )
    top.done("id, goal, note, channels, locales, send, window_days, target, offer, limits, words, sender")
    _check_sender(top, found)
    return found


def _section(top: TomlTable, name: str) -> TomlTable:
    return top.table(name) or TomlTable({}, "", "", name)


def _checked(table: TomlTable, key: str, read: Callable[[], T]) -> T:
    """What `read` gives; its error with the file and line of `key`."""
    try:
        return read()
    except RecllmError as error:
        table.fail(key, f"is wrong: {error}")


def _channels(top: TomlTable) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(top.texts("channels", None)))
    for name in names:
        if _checked(top, "channels", lambda name=name: channel_named(name)).segment_only:  # type: ignore[misc]
            top.fail("channels", f"names {name}, which takes a carrier's approved templates only: no texts are written")
    if not set(names) & set(CHANNEL_PURPOSE):
        top.fail("channels", f"reaches nobody; people are reached by: {', '.join(CHANNEL_PURPOSE)}")
    return names


def _locales(top: TomlTable) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(top.texts("locales", ("en",))))
    for name in names:
        _checked(top, "locales", lambda name=name: checked_locale(name))  # type: ignore[misc]
    return names or top.fail("locales", "is empty; name a language, such as en")


def _target(top: TomlTable) -> dict[str, Any]:
    table = top.table("target") or top.fail("target", "is missing; say what the campaign is for")
    items, category, text = table.texts("items"), table.text("category", ""), table.text("text", "")
    if (bool(items) + bool(category and not text) + bool(text)) != 1:
        table.fail("items", "or category, or text: give one of the three (a text may have a category)")
    most = table.whole("most_items", None, least=1)
    table.done("items, category, text, most_items")
    return {"items": items or None, "category": category or None, "text": text or None, "most_items": most}


def _offer(top: TomlTable) -> dict[str, Any]:
    table = top.table("offer")
    if table is None:
        return {"offer": None, "list_prices": {}}
    kind, value = table.text("type"), table.money("value")
    start, end = table.moment("start"), table.moment("end")
    if kind not in set(OfferType):
        table.fail("type", f"is one of {', '.join(OfferType)}, not {kind!r}")
    offer = _checked(table, "type", lambda: Offer(type=OfferType(kind), value=value, start=start, end=end))
    if start and end and end <= start:
        table.fail("end", f"is not after the start: {end} and {start}")
    prices = table.table("list_prices")
    table.done("type, value, start, end, list_prices")
    return {"offer": offer, "list_prices": prices.each(lambda t, key: t.money(key)) if prices else {}}


def _limits(table: TomlTable, folder: Path) -> dict[str, Any]:
    amounts = {name: table.number(name, None) for name in ("budget", "cost", "margin")}
    size, holdout = table.whole("size", None), table.number("holdout", 0.1)
    cut = _checked(table, "holdout", lambda: Cut(size=size, holdout=holdout or 0.0, salt=SALT, **amounts))
    suppress = table.text("suppress", "")
    found = {
        "cut": cut,
        "frequency_cap": table.whole("frequency_cap", None, least=1),
        "frequency_days": table.number("frequency_days", 7.0, above=0),
        "bought_days": table.number("bought_days", None, above=0),
        "returned": table.flag("returned", True),
        "adult_age": table.whole("adult_age", 18),
        "suppress": folder / suppress if suppress else None,
        "quiet": _quiet(table),
    }
    table.done(f"size, budget, cost, margin, holdout, {', '.join(n for n in found if n != 'cut')}, timezone")
    return found


def _quiet(table: TomlTable) -> Quiet | None:
    hours, zone = table.texts("quiet", NIGHT), table.text("timezone", "") or None
    if zone is not None and zone not in zoneinfo.available_timezones():
        table.fail("timezone", f"is a name such as Asia/Shanghai, not {zone!r}")
    if not hours:
        return None
    try:
        start, end = (time.fromisoformat(hour) for hour in hours)
    except ValueError:
        table.fail("quiet", f'is two local times such as ["21:00", "08:00"], not {list(hours)}')
    if start == end:
        table.fail("quiet", "leaves no hour: both times are the same; write [] for no quiet hours")
    return Quiet(start=start, end=end, zone=zone)


def _words(table: TomlTable, folder: Path) -> dict[str, Any]:
    variants, evidence = table.whole("variants", 1, least=1) or 1, table.table("evidence")
    if variants > MOST_VARIANTS:
        table.fail("variants", f"is {MOST_VARIANTS} at most: a person reads and approves every text")
    adapter = table.text("adapter", "")
    voice, names = table.text("voice", ""), tuple(dict.fromkeys(table.texts("packs", pack_names())))
    found = {
        "variants": variants,
        "generator": table.text("generator", "template"),
        "adapter": folder / adapter if adapter else None,
        "seed": table.whole("seed", 0),
        "packs": tuple(_checked(table, "packs", lambda name=name: _pack(name, folder)) for name in names),  # type: ignore[misc]
        "voice": _checked(table, "voice", lambda: load_voice(_there(folder / voice))) if voice else None,
        "known_brands": table.texts("known_brands"),
        "evidence": evidence.each(_proof) if evidence else {},
        "auto": table.flag("auto", False),
    }
    table.done(", ".join(found))
    return found


def _proof(table: TomlTable, key: str) -> str | dict[str, str]:
    each = table.table_if(key)
    return table.text(key) if each is None else each.each(lambda t, item: t.text(item))


def _pack(name: str, folder: Path) -> Pack:
    """A shipped pack by its name, or a file that ends in .toml."""
    return load_pack(_there(folder / name)) if name.endswith(".toml") else pack_named(name)


def _there(file: Path) -> Path:
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    return file


def _sender(top: TomlTable) -> Sender | None:
    table = top.table("sender")
    if table is None:
        return None
    found = Sender(name=table.text("name"), address=table.text("address", ""), opt_out=table.text("opt_out", ""))
    table.done("name, address, opt_out")
    return found


def _check_sender(top: TomlTable, found: CampaignFile) -> None:
    """A message that must name its sender cannot go out without one: said now, and not when it is exported."""
    for name in found.channels:
        sender = found.sender or Sender(name="")
        _checked(top, "sender", lambda: complete("", channel=name, locale=found.locales[0], sender=sender))  # noqa: B023


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
