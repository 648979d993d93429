"""A campaign as a shop writes it down: one TOML file, whose tables and keys are the classes and fields below; see the
guide's Campaigns. Where texts and the key of a text server go is in the operator's variable RECLLM_LLM_URL."""

from __future__ import annotations

import difflib
import hashlib
import zoneinfo
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    Strict,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from recllm.base.documents import fault_in_words, toml_table
from recllm.base.errors import DataError, RecllmError, UsageError
from recllm.base.files import check_plain, safe_id
from recllm.base.schema import Intent, Objective, Occasion
from recllm.market.adcopy.ads import AWAY_DAYS
from recllm.market.adcopy.channels import Sender, channel_written_for, complete
from recllm.market.adcopy.packs import Pack, load_pack, pack_named, pack_names
from recllm.market.adcopy.request import Offer, OfferType, checked_locale
from recllm.market.adcopy.write import TEMPLATE
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.market.audiences.people_rule import AllRule, OrderAgeRule, RuleField
from recllm.market.audiences.request import AudienceCut, AudienceLimits, LeftOut, OfferChoice
from recllm.market.occasions.calendar import CalendarDay

SERVER = "server"
"""Names the operator's text server in a campaign's file."""
OWN_WORDS = {
    "tuple_type": "must be a list of texts, not {input!r}",
    "model_type": "must be a table; write [{key}]",
    "mapping_type": "must be a table; write [{key}]",
    "is_instance_of": "must be the name of a file, not {input!r}",
    "extra_forbidden": "is unknown; {known}",
    "in_words": "{message}",
}
"""Kinds of errors -> their words where this file has others than `fault_in_words`."""


def fail(message: str, key: str = "") -> NoReturn:
    """In a validator: raises the error of its field, or of the field `key` below its section."""
    raise PydanticCustomError("in_words", "{message}", {"message": message, "key": key})


@contextmanager
def in_words(key: str = "") -> Iterator[None]:
    """In a validator: an error of the block becomes that of the field."""
    try:
        yield
    except RecllmError as error:
        fail(f"is wrong: {error}", key)


def time_with_zone(value: object) -> datetime:
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    return fail(f"is a time with its zone, such as 2025-11-01T00:00:00+08:00, not {value}")


def path_beside(name: str, info: ValidationInfo[Any]) -> Path:
    """The file or folder of this name in the folder of a campaign's file or below, so that a campaign names no other
    file of the machine."""
    folder = info.context["folder"]
    try:
        is_inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        fail(f"is wrong: {name!r} names no file: {error}")
    if not is_inside:
        fail(f"is wrong: {name} is outside of the folder of the campaign's file; put it there")
    return Path(folder / name)


def existing_file(name: str, info: ValidationInfo) -> Path:
    file = path_beside(name, info)
    return file if file.is_file() else fail(f"is wrong: there is no file {file}")


def checked_proofs(value: object) -> object:
    texts = value.values() if isinstance(value, dict) else [value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        fail(f"is a text, or a table of texts by item, not {value!r}")
    return value


Text = Annotated[str, StringConstraints(pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], Strict(False)]
Amount = Annotated[Decimal, Strict(False), Field(gt=0, allow_inf_nan=False)]
Moment = Annotated[datetime, BeforeValidator(time_with_zone)]
FileBeside = Annotated[
    Path, BeforeValidator(lambda value, info: path_beside(value, info) if isinstance(value, str) else value)
]


class _Section(BaseModel):
    """A table of the file: every value has its type, and no key is unknown."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class TargetSection(_Section):
    """What the campaign is for: one of items, category, text and occasion; a text may have a category. With a day and
    none of the four it is for the goods of the day, and with an intent it picks its items from the whole catalogue."""

    items: Texts | None = None
    """Ids; each person gets the one that suits them best."""
    category: Text | None = None
    """A name, or a path such as "food > tea"."""
    text: Text | None = None
    """Words such as "something for trail running": each person gets the one of the items that fit them best which suits
    the person."""
    occasion: Annotated[Occasion, Strict(False)] | None = None
    """The people who have this occasion when the campaign is planned, each for an item of their own."""
    day: Annotated[CalendarDay, Strict(False)] | None = None
    """A day of the calendar, such as christmas, that the texts name: the one nearest to `send`."""
    order_by: Annotated[date, Strict(False)] | None = None
    """The last day to order for `day`."""
    most_items: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of items: those that suit most people; when None all, or 20 that fit the day."""
    intent: Annotated[Intent, Strict(False)] | None = None
    """This and the next three: see `OfferChoice`."""
    objective: Annotated[Objective, Strict(False)] | None = None
    """When None lift for a campaign that picks its items, and probability for others."""
    effects: Text | None = None
    sure: bool = False
    spread: Annotated[float, Field(ge=0, le=1)] | None = None
    """How far offers spread over the items; when None `offers.spread`."""
    people: RuleField | None = None
    """Only people who meet this rule; see `recllm.market.audiences.people_rule`."""

    @model_validator(mode="after")
    def _one_of_four(self) -> Self:
        n_targets = sum(map(bool, (self.items, self.category and not self.text, self.text, self.occasion)))
        if n_targets > 1 or not (n_targets or self.intent or self.day):
            fail(
                "or category, text or occasion: give one of the four (a text may have a category), a day or an intent",
                "items",
            )
        if self.occasion:
            for name in ("day", "most_items", "intent", "objective", "effects", "spread"):
                if getattr(self, name) is not None:
                    fail("is for items and categories: an occasion gives each person their own", name)
        with in_words("objective"):
            self.choice  # noqa: B018
        return self

    @property
    def picks_items(self) -> bool:
        """Whether the items come from the whole catalogue."""
        return not (self.items or self.category or self.text or self.occasion)

    @property
    def is_personal(self) -> bool:
        """Whether customers get the item of the whole catalogue that suits each of them."""
        return self.picks_items and self.intent is not None

    @property
    def text_occasion(self) -> Occasion | None:
        """That of the texts: win-back also to customers who are chosen for an old last order."""
        rules = self.people.all if isinstance(self.people, AllRule) else (self.people,)
        for rule in rules if self.is_personal else ():
            match rule:
                case OrderAgeRule(condition="last_order", at_least=float() as days) if days >= AWAY_DAYS:
                    return Occasion.WIN_BACK
        return self.occasion

    @cached_property
    def choice(self) -> OfferChoice:
        """Which item each person is offered, and by what people are ordered."""
        return OfferChoice(
            intent=self.intent or Intent.MIXED,
            objective=self.objective or (Objective.LIFT if self.picks_items else Objective.PROBABILITY),
            effects=self.effects,
            sure=self.sure,
        )


class OfferSection(_Section):
    """The fields of `Offer`, and former prices."""

    type: Annotated[OfferType, Strict(False)]
    value: Amount | None = None
    start: Moment | None = None
    end: Moment | None = None
    count: Annotated[int, Field(ge=2)] = 2
    code: Text | None = None
    min_spend: Amount | None = None
    gift: Text | None = None
    scope: Text | None = None
    excluded: Text | None = None
    list_prices: Mapping[str, Amount] = {}
    """Item -> the price that the offer is compared with."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start and self.end and self.end <= self.start:
            fail(f"is not after the start: {self.end} and {self.start}", "end")
        with in_words("value"):
            self.offer  # noqa: B018
        return self

    @cached_property
    def offer(self) -> Offer:
        return Offer(**{name: value for name, value in self if name != "list_prices"})


class LimitsSection(AudienceCut, LeftOut, _Section):
    """How many people, and who not."""

    suppress: FileBeside | None = None
    """The file of ids never to contact, one a line."""
    quiet: Texts = ("21:00", "08:00")
    """Two local times between which no message leaves; empty for none."""
    timezone: Text | None = None
    """Of the quiet hours; the workspace's when None."""

    @model_validator(mode="after")
    def _cut_fits(self) -> Self:
        with in_words("budget"):
            self.check_cut()
        if self.timezone is not None and self.timezone not in zoneinfo.available_timezones():
            fail(f"is a name such as Asia/Shanghai, not {self.timezone!r}", "timezone")
        try:
            hours = self.quiet_hours
        except ValueError:
            fail(f'is two local times such as ["21:00", "08:00"], not {list(self.quiet)}', "quiet")
        if hours and hours[0] == hours[1]:
            fail("leaves no hour: both times are the same; write [] for no quiet hours", "quiet")
        return self

    @cached_property
    def cut(self) -> AudienceLimits:
        return self.part(AudienceLimits, salt="campaign")

    @cached_property
    def quiet_hours(self) -> tuple[time, time] | None:
        if not self.quiet:
            return None
        start, end = (time.fromisoformat(hour) for hour in self.quiet)
        return start, end

    def suppressed_ids(self) -> list[str]:
        """The shop's own ids. Raises `UsageError` when the file cannot be read."""
        if self.suppress is None:
            return []
        try:
            check_plain(self.suppress)
            lines = self.suppress.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.suppress}: cannot be read as a list of ids, one per line: {error}") from error
        return [line.strip() for line in lines if line.strip()]


class WordsSection(_Section):
    """How the texts are written and checked."""

    variants: Annotated[int, Field(ge=1, le=5)] = 1
    """Texts for each item, kind of reason, channel and locale; they are compared in the report."""
    generator: Text = "template"
    """template, smollm2, a folder or hub id of a causal language model, or server: the one that the operator set."""
    adapter: FileBeside | None = None
    """A folder of a tuned generator, in the folder of this file."""
    seed: Annotated[int, Field(ge=0)] = 0
    packs: tuple[InstanceOf[Pack], ...] = Field(default=[*pack_names()], validate_default=True)
    """Rule packs by name, or files in the folder of this one; all shipped ones by default."""
    link: Text | None = None
    """Where messages lead to, as short as a text message shows it: shop.example/tents."""
    known_brands: Texts = ()
    evidence: Mapping[str, Annotated[str | Mapping[str, str], BeforeValidator(checked_proofs)]] = {}
    """Key -> proof, or key -> item -> proof."""
    auto: bool = False
    """Texts without any warning need no person."""

    @field_validator("generator")
    @classmethod
    def _no_address(cls, generator: str) -> str:
        if "://" in generator:
            fail(
                "is an address, and a file does not decide where texts and the key of a server go; "
                f'write "{SERVER}", and set the address in RECLLM_LLM_URL'
            )
        return generator

    @field_validator("packs", mode="before")
    @classmethod
    def _load_packs(cls, names: object, info: ValidationInfo) -> object:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            fail(f"is a list of texts, not {names!r}")
        with in_words():
            return tuple(
                load_pack(existing_file(name, info)) if name.endswith(".toml") else pack_named(name)
                for name in dict.fromkeys(names)
            )

    @model_validator(mode="after")
    def _adapter_fits(self) -> Self:
        if self.adapter is not None and self.generator in ("template", SERVER):
            fail(f"belongs to a causal language model, and the generator is {self.generator}", "adapter")
        return self


class SenderSection(_Section):
    """The fields of `Sender`."""

    name: Text
    address: str = ""
    opt_out: str = ""

    @field_validator("opt_out")
    @classmethod
    def _link(cls, text: str) -> str:
        with in_words():
            return Sender(name="", opt_out=text).opt_out


class CampaignFile(_Section):
    """Everything that a campaign's file decides, with the names of the file's keys."""

    id: Annotated[Text, Field(max_length=64)]
    goal: str = ""
    note: str = ""
    channels: Texts
    """A person is reached on the first of these that they agreed to."""
    locales: Texts = ("en",)
    """Of the texts: the first, unless a basic of the person (language, locale, lang) names another of them. A file that
    names none is planned in the workspace's."""
    send: Moment | None = None
    """When texts go out; the present when None."""
    window_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Days after sending within which a purchase counts; the model's horizon when None."""
    target: TargetSection
    offer_section: Annotated[OfferSection | None, Field(alias="offer")] = None
    limits: LimitsSection = Field(default_factory=LimitsSection)
    words: WordsSection = Field(default_factory=WordsSection)
    sender_section: Annotated[SenderSection | None, Field(alias="sender")] = None

    digest: str
    """SHA-256 of the file."""
    source: Path

    @field_validator("id")
    @classmethod
    def _safe(cls, name: str) -> str:
        with in_words():
            return safe_id(name, "a campaign's id")

    @field_validator("channels", "locales")
    @classmethod
    def _distinct(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in names:
            with in_words():
                if info.field_name == "locales":
                    checked_locale(name)
                else:
                    channel_written_for(name)
        if info.field_name == "channels" and not set(names) & set(CHANNEL_PURPOSE):
            fail(f"reaches no customers; they are reached by: {', '.join(CHANNEL_PURPOSE)}")
        return tuple(dict.fromkeys(names)) or fail("is empty; name a language, such as en")

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        with in_words("sender"):
            for name in self.channels:
                complete("", channel=name, locale=self.locales[0], sender=self.sender)
        if self.target.occasion and self.limits.bought_days is not None:
            fail("is for items and categories: an occasion says itself who bought what", "limits.bought_days")
        return self

    @property
    def offer(self) -> Offer | None:
        return self.offer_section.offer if self.offer_section else None

    @property
    def list_prices(self) -> Mapping[str, Decimal]:
        return self.offer_section.list_prices if self.offer_section else {}

    @property
    def sender(self) -> Sender:
        section = self.sender_section
        return Sender(name="") if section is None else Sender(**dict(section))

    @property
    def personal_channels(self) -> tuple[str, ...]:
        """Those on which a person can agree to be reached."""
        return tuple(c for c in self.channels if c in CHANNEL_PURPOSE)

    @property
    def public_channels(self) -> tuple[str, ...]:
        """Those whose texts are for everybody: no list of people goes with them."""
        return tuple(c for c in self.channels if c not in CHANNEL_PURPOSE)

    def message(self, text: str, channel: str, locale: str, generator: str) -> str:
        """A text as it leaves, with what the law adds on its channel."""
        return complete(text, channel=channel, locale=locale, sender=self.sender, generated=generator != TEMPLATE)

    def evidence_for(self, item_id: str) -> dict[str, str]:
        """The proofs that hold for an item."""
        proofs = {k: v if isinstance(v, str) else v.get(item_id, "") for k, v in self.words.evidence.items()}
        return {key: proof for key, proof in proofs.items() if proof}


SECTIONS: Mapping[str, type[BaseModel]] = {
    "": CampaignFile,
    "target": TargetSection,
    "offer": OfferSection,
    "limits": LimitsSection,
    "words": WordsSection,
    "sender": SenderSection,
}


def read_campaign(file: Path) -> CampaignFile:
    """Reads a campaign. Raises `DataError` that names file and key of everything that is wrong in it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    return parse_campaign(content, file)


def parse_campaign(content: bytes, file: Path) -> CampaignFile:
    """The campaign in the bytes of `file`, in whose folder are the files that it names. Raises as `read_campaign`."""
    try:
        table = toml_table(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{file}: no TOML: {error}") from error
    outside = {"digest": hashlib.sha256(content).hexdigest(), "source": file}
    try:
        if key := next(iter(outside.keys() & table.keys()), None):
            raise DataError(f"{file}: {key} is unknown; {likely_key('', key)}")
        return CampaignFile.model_validate(table | outside, context={"folder": file.parent})
    except ValidationError as error:
        faults = list(dict.fromkeys(faults_of_file(error)))
        refusal = DataError("\n".join(f"{file}: {key} {words}" for key, words in faults))
        refusal.keys = tuple(key for key, _ in faults)
        raise refusal from None


def faults_of_file(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Everything that is wrong in a file, each with its key."""
    for fault in error.errors(include_url=False):
        context = fault.get("ctx", {})
        path = [step for step in (*fault["loc"], context.get("key")) if step and isinstance(step, str)] or ['""']
        key, words = ".".join(path), OWN_WORDS.get(fault["type"])
        facts = {"key": key, "known": likely_key(".".join(path[:-1]), path[-1]), "input": fault["input"]}
        yield key, words.format(**context | facts) if words else fault_in_words(fault)


def likely_key(section: str, key: str) -> str:
    """What an unknown key may have meant."""
    fields = SECTIONS[section].model_fields if section in SECTIONS else {}
    names = [field.alias or name for name, field in fields.items() if name not in ("digest", "source")]
    nearest = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}"
