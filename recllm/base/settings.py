"""Everything that can be set, as one tree: the same names in Python, in `workspace.toml` and after `--set`.

    Settings(currency="EUR", scorer=ScorerTrainingSettings(epochs=5))       # Python
    currency = "EUR"  /  [scorer]  /  epochs = 5                            # workspace.toml
    recllm train --set currency=EUR --set scorer.epochs=5                   # command line

Units stand in the field's name or in its documentation. A wrong name or value raises `UsageError`.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    Strict,
    StringConstraints,
    field_validator,
    model_validator,
)

from recllm.base.documents import (
    Count,
    CountOrZero,
    Flag,
    FrozenModel,
    Positive,
    Share,
    Text,
    Weight,
    plain,
    retired_settings,
    toml_table,
    without_retired,
)
from recllm.base.errors import UsageError
from recllm.base.files import safe_id
from recllm.base.policy import Policy
from recllm.base.schema import Action, Occasion
from recllm.base.service_settings import (
    ConsoleSettings,
    ExperimentSettings,
    ItemIndexSettings,
    OidcSettings,
    ServiceSettings,
)

Days = Annotated[float, Strict(), Field(gt=0)]
DaysOrZero = Annotated[float, Strict(), Field(ge=0)]
Dropout = Annotated[float, Strict(), Field(ge=0, lt=1, description="Share of hidden values set to 0 in a step.")]
LearningRate = Annotated[float, Strict(), Field(gt=0, description="Step size at its highest.")]
Rank = Annotated[int, Strict(), Field(ge=1, description="Rank of the adapter's change to a weight.")]
Seed = Annotated[int, Strict(), Field(ge=0, description="Seed of everything that is drawn.")]

ScorePart = Literal["cosine", "vectors", "features"]
STORE_URL_EXAMPLE = "postgresql://user@host/database?schema=shop"


class CollaborativeSettings(FrozenModel):
    """What is counted over all users before a time, and the features of a pair that follow from the counts."""

    section: ClassVar[str] = "collaborative"

    target: Annotated[tuple[Action, ...], Field(min_length=1)] = (Action.PURCHASE,)
    """The actions that count as a purchase; others join them where a shop has too few purchases."""

    # --- how much one person can do to what is counted over all: a bound on fake accounts
    person_day_events: Count = 200
    """Maximum number of a customer's events of a day (UTC) that count for others, the earliest first. Their own history
    stays complete. No household of Complete Journey has more than 182."""
    person_item_day_events: Count = 3
    """Maximum number of these of one kind on one item.
    Only 1 in 10,000 honest days has more."""
    neighbour_influence: Positive = 1.0
    """Maximum weight of a customer in the neighbourhoods of all others, in average customers: accounts made to resemble
    all others would otherwise push an item everywhere."""
    confirmation_days: DaysOrZero = 14.0
    """Days after the first sale of a new item in which its recent buyers count at most as many as those of the window
    before: a rush has to last into a second week. Accounts made to push a new item come all at once; honest customers
    lose nothing that could be measured (`eval/LOG.md`). 0 counts the first week, which suits a newspaper."""

    # --- similar users
    neighbours: Count = 100
    """Number of most similar users whose purchases count."""
    neighbour_pool: Count = 20_000
    """Maximum number of users who serve as neighbours, so that cost is linear: the most active ones, or where these are
    less than half, a random draw from the more active half, which few accounts cannot fill."""

    # --- what goes with what
    item_item_items: CountOrZero = 2_500
    """Number of best selling items with weights to each other. Cost grows with its cube."""
    item_item_l2: Positive = 150.0
    """Ridge of EASE (Steck 2019)."""
    item_item_half_life_days: Days | None = 120.0
    """Half-life of a purchase in the weights between items; None where times mean nothing."""

    # --- texts
    text_centring: Weight = 1.0
    """Share of an item's mean cosine with the catalogue that is subtracted where items compete by text alone: a text
    close to all others says little (`eval/LOG.md`). 0 subtracts nothing."""


class OfferSettings(FrozenModel):
    """Items of the intents, and the spread of a campaign over its items."""

    section: ClassVar[str] = "offers"

    cross_sell_days: Days = 14.0
    """Days in which a purchase counts for an offer that goes with it."""
    win_back_days: Days = 42.0
    """Days without a purchase after which a customer has stopped buying, or stopped buying an item."""
    spread: Share = 0.1
    """How far a campaign spreads over its items; 0 for no spread.
    See `audiences.selection`."""


class ScorerTrainingSettings(FrozenModel):
    """How the scorer is trained on past windows of the log."""

    section: ClassVar[str] = "scorer"

    # --- examples
    learn_people: Count = 50_000
    """Maximum number of people that the scorer, the sequence model, an adapter and predictions learn from: a fixed
    sample by a hash of their pseudonyms. Only their events are read; numbers of buyers are scaled up to all people."""
    horizon_days: Count = 28
    """Length of a window, and horizon of the probability."""
    n_windows: Count = 4
    """Past windows at most, fewer when the log is short."""
    min_actions: CountOrZero = 200
    """Number of purchases below which weaker actions are learned from as well."""
    timed: Flag = True
    """False for a log that knows only each user's order: features that compare times of users are left out, and unsold
    items are learned among the others."""

    # --- the model
    parts: Annotated[tuple[ScorePart, ...], Field(min_length=1)] = ("cosine", "vectors", "features")
    """Of the score; fewer only to see what each is worth."""
    heads: Count = 5
    """MLPs whose scores are averaged; each learns for itself, so that their mistakes differ."""
    projection: Count = 32
    """Width of the projected vectors."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (96, 96)
    """Widths of the hidden layers."""

    # --- the loop
    epochs: Count = 3
    """Rounds, with an evaluation after each: one pass over all windows, or more in a small log; see `min_steps`."""
    min_steps: CountOrZero = 250
    """Minimum number of steps of all rounds together; 0 for one pass a round."""
    batch_size: Count = 64
    """Users of a step."""
    learning_rate: LearningRate = 2e-3
    seed: Seed = 0


class LoraSettings(FrozenModel):
    """A fine-tuning run of the encoder.
    Names follow `transformers.TrainingArguments` where the meaning is the same."""

    section: ClassVar[str] = "lora"

    rank: Rank = 8
    learning_rate: Weight = 3e-4
    """Of the adapter; 1e-3 and above undid the similarity of texts within 20 steps on both logs it was tried on."""
    max_steps: Count = 100
    """Steps at most; an early end is decided by `patience`."""
    max_minutes: Positive | None = 12.0
    """Ends the run; the learning rate falls by steps alone, so that a resumed run is the same run."""
    device: Text | None = None
    """cpu or cuda; None for the fastest. CUDA_VISIBLE_DEVICES chooses among GPUs."""
    report_to: tuple[Text, ...] = ()
    """Trackers such as "tensorboard" or "wandb" that get the figures of metrics.jsonl too."""


class CopywriterSettings(FrozenModel):
    """LoRA on a causal language model with approved copy. Names as in `LoraSettings`."""

    section: ClassVar[str] = "copywriter"

    epochs: Count = 3
    """Passes over the examples; the best one is kept."""
    learning_rate: LearningRate = 5e-4
    max_examples: Count | None = None
    """Number of examples drawn to learn from, and a fifth of it for validation; None: all."""
    max_minutes: Weight | None = 6.0
    """Time limit: no epoch begins that would probably end later. One is made in any case."""
    languages: Annotated[tuple[Text, ...], Field(min_length=1)] = ("en",)
    """Languages that the tuned model writes."""


class OccasionSettings(FrozenModel):
    """Occasions of a day, and their order: see `recllm.market.occasions.detect`."""

    section: ClassVar[str] = "occasions"

    order: tuple[Occasion, ...] = (
        Occasion.ABANDONED,
        Occasion.BACK_IN_STOCK,
        Occasion.PRICE_DROP,
        Occasion.WELCOME,
        Occasion.REPLENISH,
        Occasion.NEW_ARRIVAL,
        Occasion.WIN_BACK,
    )
    """Of a user with several, the first one counts; only these are looked for."""
    channels: tuple[Text, ...] = ("push", "email", "sms_gsm")
    """A user is reached on the first of these that they agreed to."""
    contact_days: Days = 3.0
    """Days after a message of a campaign in which a user is left out."""
    price_drop: Share = 0.1
    """Least drop, as a share of the price before."""
    adult_age: CountOrZero = 18
    """Users who are or may be younger are left out."""


class RetrainingSettings(FrozenModel):
    """When `recllm retrain --if-due` trains, and when its model may serve."""

    section: ClassVar[str] = "retraining"

    window_days: Count = 28
    """The latest complete days of the log: a challenger learns from none of them, and is judged on them with the active
    model. Drift compares them with as many days before the serving model's training."""

    # --- due, as soon as one figure is beyond its limit
    max_age_days: Positive = 56.0
    """Days since the end of the serving model's data. A choice: two windows of four weeks."""
    max_ece: Share = 0.05
    """Expected calibration error of the probabilities in the latest window. A choice."""

    min_days: CountOrZero = 7
    """Days of new log between two trainings, whatever the checks say. A choice."""

    # --- the gate
    margin: Share = 0.03
    """Share of the serving model's NDCG@20 that a challenger may lose at the lower end of the 95 % interval
    (non-inferiority; Piaggio et al. 2012), in each of ALL and NEW."""
    when_uncertain: Literal["keep", "promote"] = "keep"
    """Decision on a challenger whose interval includes zero and reaches below the margin, or with too few people. keep:
    the serving model stays. promote: the challenger knows newer purchases; for small shops."""

    # --- the disk
    retrained_versions: Count = 6
    """Versions by retraining that are kept, in addition to the serving one and the one before it."""


class RetentionSettings(FrozenModel):
    """Days that data about people are kept, by `recllm privacy retention`; "none" keeps them until erasure."""

    section: ClassVar[str] = "retention"

    events: Count | None = None
    """Events of the log, by their time."""
    messages: Count | None = 730
    """Messages of exports, with the reports on them."""
    campaigns: Count | None = 730
    """People of a campaign's plan and exports, from the last of these on; its texts and figures stay."""
    explored_slates: Count | None = 180
    """Items that could have been shown instead."""
    quarantine: Count | None = 30
    """Refused rows, raw."""
    copies: Count | None = 365
    """Records of ad texts, which earlier versions kept; they name no one."""
    uploads: Count = 1
    """Uploads to the console that were not loaded."""
    fine_tuning: Count | None = 30
    """Examples and checkpoints of fine-tuning, and lists of interrupted measurements, in the cache."""
    certificates: Count | None = 1825
    """Certificates of erasures. The audit log and tombstones are never deleted."""
    tainted_models: Count = 30
    """Days after which a model that learned from an erased person cannot be opened any more. A choice: GDPR Art. 12(3)
    gives a month to answer a request."""


class Settings(FrozenModel):
    """The shop's own settings, and all sections."""

    consent_default: Flag = False
    """Consent of customers without a recorded decision."""
    currency: Annotated[
        Text | None,
        StringConstraints(pattern=r"^[A-Z]{3}$"),
        Field(json_schema_extra={"expected": "three capitals such as EUR"}),
    ] = None
    """ISO 4217 code of prices without one."""
    timezone: Annotated[Text | None, Field(json_schema_extra={"expected": "a name such as Europe/Paris"})] = None
    """IANA zone of times without one."""
    encoder: Annotated[
        Text, StringConstraints(pattern=r"\S"), Field(json_schema_extra={"expected": "a name or folder"})
    ] = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id or folder of the text encoder."""
    locale: Annotated[
        Text,
        StringConstraints(pattern=r"^[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*$"),
        Field(json_schema_extra={"expected": "a language such as en or zh-CN"}),
    ] = "en"
    """Language of texts."""
    domain: Annotated[
        Text,
        StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$"),
        Field(json_schema_extra={"expected": "a name such as shop, media, news or education"}),
    ] = "shop"
    """Type of business: shop, media, news, education, or NAME of the file domains/NAME.toml. It decides the words
    of texts and the names of events."""
    sequence_model: Flag | None = None
    """Whether a sequence model is trained before the scorer; None: as advised."""
    store: Annotated[Text | None, Field(json_schema_extra={"expected": f"a URL such as {STORE_URL_EXAMPLE}"})] = None
    """URL of a PostgreSQL schema for the rows, without password; None: the file store.sqlite."""
    tenant: Text = "default"
    """Part of every pseudonym: customers of two tenants cannot be joined. Never change it later."""

    policy: Policy = Policy()
    collaborative: CollaborativeSettings = CollaborativeSettings()
    offers: OfferSettings = OfferSettings()
    service: ServiceSettings = ServiceSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    console: ConsoleSettings = ConsoleSettings()
    oidc: OidcSettings = OidcSettings()
    item_index: ItemIndexSettings = ItemIndexSettings()
    scorer: ScorerTrainingSettings = ScorerTrainingSettings()
    lora: LoraSettings = LoraSettings()
    copywriter: CopywriterSettings = CopywriterSettings()
    occasions: OccasionSettings = OccasionSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    retention: RetentionSettings = RetentionSettings()

    @model_validator(mode="wrap")
    @classmethod
    def _drop_retired_sections(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        def is_retired(name: str, table: Any) -> bool:
            is_gone = name not in cls.model_fields and name in retired_settings() and isinstance(table, Mapping)
            return is_gone and not without_retired(name, table, warn=True)

        if isinstance(values, Mapping):
            values = {name: value for name, value in values.items() if not is_retired(str(name), value)}
        return handler(values)

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """That of `timezone`, else UTC."""
        return zoneinfo.ZoneInfo(self.timezone or "UTC")

    @field_validator("timezone")
    @classmethod
    def _exists(cls, name: str | None) -> str | None:
        try:
            return name if name is None else zoneinfo.ZoneInfo(name).key
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not a name such as Europe/Paris") from None

    @field_validator("store")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        """Never says the URL again: what is refused may hold a password."""
        if url is None:
            return None
        if not re.match(r"postgresql(\+psycopg)?://", url):
            raise ValueError(f"give a URL such as {STORE_URL_EXAMPLE}, or none for a file in the workspace")
        if re.search(r"^[^@]*//[^/@]*:.*@|[?&](ssl)?password=", url, re.DOTALL):
            raise ValueError(
                "the URL holds a password, and workspace.toml keeps none; leave it out, and give it in PGPASSWORD, in "
                "~/.pgpass or with the whole URL in RECLLM_STORE_URL"
            )
        return url

    @field_validator("tenant")
    @classmethod
    def _safe(cls, tenant: str) -> str:
        return safe_id(tenant, "tenant")

    def table(self) -> dict[str, Any]:
        """What `workspace.toml` holds: the shop's own settings, and of each section what was set; "none" for None."""
        table: dict[str, Any] = {}
        for name, value in self:
            if isinstance(value, FrozenModel):
                section = {key: "none" if set_to is None else plain(set_to) for key, set_to in value.explicit().items()}
                table |= {name: section} if section else {}
            elif value is not None:
                table[name] = value
        return table


def sections() -> Mapping[str, type[FrozenModel]]:
    """Section -> its class, in the tree's order; "" is the shop's own."""
    models = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {"": Settings} | {
        name: model for name, model in models.items() if isinstance(model, type) and issubclass(model, FrozenModel)
    }


def setting_names() -> list[tuple[str, str]]:
    """(section, field) of everything that can be set, in the tree's order; the shop's own stand in section ""."""
    names = [(section, name) for section, model in sections().items() for name in model.model_fields]
    return [(section, name) for section, name in names if section or name not in sections()]


def read_settings_file(path: Path) -> dict[str, Any]:
    """The table of a TOML file of settings, such as those in `finetune/`.

    Raises `UsageError` when the file cannot be read or sets something wrong.
    """
    try:
        table = toml_table(path.read_text(encoding="utf-8"))
        Settings(**table)
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(f"{path} cannot be used: {error}; correct the file") from error
    return table


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables of settings as one; `over` wins, field by field."""
    joined = dict(table)
    for name, value in over.items():
        below = joined.get(name)
        joined[name] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return joined
