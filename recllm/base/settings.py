"""Everything that can be set, as one tree: the same names in Python, in `workspace.toml` and after `--set`.

    Settings(currency="EUR", scorer=ScorerTrainingSettings(epochs=5))       # Python
    currency = "EUR"  /  [scorer]  /  epochs = 5                            # workspace.toml
    recllm train --set currency=EUR --set scorer.epochs=5                   # command line

Units stand in the field's name or in its documentation. A wrong name or value raises `UsageError`.
"""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
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

Days = Annotated[float, Strict(), Field(gt=0)]
DaysOrZero = Annotated[float, Strict(), Field(ge=0)]
Folds = Annotated[int, Strict(), Field(ge=2)]
Dropout = Annotated[float, Strict(), Field(ge=0, lt=1, description="Share of hidden values set to 0 in a step.")]
LearningRate = Annotated[float, Strict(), Field(gt=0, description="Step size at its highest.")]
Rank = Annotated[int, Strict(), Field(ge=1, description="Rank of the adapter's change to a weight.")]
Seed = Annotated[int, Strict(), Field(ge=0, description="Seed of everything that is drawn.")]

ScorePart = Literal["cosine", "vectors", "features"]
IndexKind = Annotated[
    Literal["exact", "faiss", "pgvector", "qdrant"],
    BeforeValidator(lambda kind: "exact" if kind == "usearch" else kind),  # a kind that older workspaces name
]

ConsoleScope = Literal["console", "events", "marketing", "people", "privacy", "admin"]
"""What somebody may do in the console: see `recllm.shop.workspace.keys.Scope`."""

STORE_URL_EXAMPLE = "postgresql://user@host/database?schema=shop"
OIDC_RETURN_PATH = "/sign-in/oidc"
"""Path of the console to which a provider sends a browser back."""
PLAIN_HTTP_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be spoken to without https: what is sent there leaves this machine at no time."""


class CollaborativeSettings(FrozenModel):
    """What is counted over all users before a time, and the features of a pair that follow from the counts."""

    section: ClassVar[str] = "collaborative"

    target: Annotated[tuple[Action, ...], Field(min_length=1)] = (Action.PURCHASE,)
    """The actions that count as a purchase; others join them where a shop has too few purchases."""

    # --- how much one person can do to what is counted over all: a bound on fake accounts
    person_day_events: Count = 200
    """Of a person, at most so many events of a day (UTC) count for the crowd, the earliest first; their own history
    stays whole. No household of Complete Journey has more than 182."""
    person_item_day_events: Count = 3
    """Of these, at most so many of one kind on one item. Only 1 in 10,000 honest days has more."""
    neighbour_influence: Positive = 1.0
    """A person weighs in the neighbourhoods of all others together at most as much as so many average people: accounts
    made to resemble everybody would otherwise speak for an item everywhere."""
    confirmation_days: DaysOrZero = 14.0
    """A new item that first sold less than so many days ago has as buyers of the short window at most as many as of the
    window before it: a rush must last into a second week before it counts. Accounts made to push a new item come all
    at once; the lists of honest people lose nothing that could be measured (`eval/LOG.md`). 0 believes the first week,
    which suits a newspaper."""

    # --- similar users
    neighbours: Count = 100
    """So many most similar users speak for an item."""
    neighbour_pool: Count = 20_000
    """At most this many users serve as neighbours, so that cost stays linear in the users asked for: the most active of
    them, or where these are less than half, so many drawn from the more active half, which no few accounts fill."""

    # --- what goes with what
    item_item_items: CountOrZero = 2_500
    """The best selling items have weights to each other; cost grows with the cube of it."""
    item_item_l2: Positive = 150.0
    """Ridge of EASE (Steck 2019)."""
    item_item_half_life_days: Days | None = 120.0
    """How fast a purchase stops counting for what goes with what; None where times mean nothing."""

    # --- how fast the past stops counting

    # --- windows before the time of counting

    # --- new items

    # --- shrinkage and limits of features

    # --- texts
    text_centring: Weight = 1.0
    """Where items compete by the cosine of their text alone, so many times an item's mean cosine with the catalogue is
    taken off: a text that is near to everything is near to nobody in particular (`eval/LOG.md`); 0 leaves it."""


class OfferSettings(FrozenModel):
    """What offers of an intent are made of, and how far a campaign spreads over the catalogue."""

    section: ClassVar[str] = "offers"

    cross_sell_days: Days = 14.0
    """An offer goes with what was bought within so many days."""
    win_back_days: Days = 42.0
    """Who bought nothing, or nothing of an item, for so many days has stopped buying it."""
    spread: Share = 0.1
    """How far a campaign that picks its items spreads over them: each further time an item is offered costs so much of
    its logit, times the log of 1 + how often it was offered; see `recllm.market.audiences.spread`."""
    campaign_items: Count = 20
    """Such a campaign is for so many items, as each needs its texts."""


class ServiceSettings(FrozenModel):
    """How `recllm serve` answers."""

    section: ClassVar[str] = "service"

    workers: Count = 2
    """Answers computed at once in the process that is asked; of slates where none has a process of its own."""
    processes: CountOrZero | None = None
    """Processes that compute slates beside the one that is asked, each as large as that one; 0 computes them there.
    None: one for each core, four at most, and none where there is one core."""
    waiting: CountOrZero = 64
    """Requests that may wait for a worker; further ones are refused with 429."""
    deadline_seconds: Positive = 10.0
    """A request that has waited so long for a worker is refused with 503."""
    watch_seconds: Positive = 0.5
    """How often a new model, new items and withdrawals of neighbours are looked for."""
    max_body_mib: Positive = 4.0
    """Larger requests are refused with 413."""
    requests_per_minute: Count | None = None
    """Of one key, or without keys of everybody; None for no limit. Above it requests are refused with 429."""
    load_encoder: Flag | None = None
    """Load the text encoder in the background right after the start: the first new item and the first search need not
    wait for it, and some hundred MiB are taken. None: where slates are computed in processes of their own, which it
    does not slow down; in one process it takes a sixth of the rate."""
    marketing_seconds: Weight = 60.0
    """Audiences read everybody's events anew when those in memory are older than this."""

    # --- who may listen on the way
    certificate: Annotated[Text | None, Field(json_schema_extra={"expected": "a PEM file"})] = None
    """File of the certificate and those between it and its root, in PEM: the service then speaks TLS itself. Exchanged
    files count within half a minute."""
    certificate_key: Annotated[Text | None, Field(json_schema_extra={"expected": "a PEM file"})] = None
    """File of the certificate's private key, without a passphrase; None where it stands in the same file."""
    trusted_proxies: tuple[Text, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of proxies that end TLS before the service: they are believed what a caller's address is,
    and whether it came by https (X-Forwarded-For, X-Forwarded-Proto)."""
    plain_http: Flag = False
    """Whether other machines are answered that did not come by https, to this service or to a trusted proxy: only where
    nobody else can listen on the way, as in a network that encrypts by itself."""

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"{network!r} is not an address or network such as 10.0.0.7 or 10.0.0.0/24") from None
        return networks


class AuditSettings(FrozenModel):
    """Where entries of the audit log go besides the workspace's store."""

    section: ClassVar[str] = "audit"

    copy_to: Annotated[
        Text | None,
        StringConstraints(pattern=r"^(stderr|/.+)$"),
        Field(json_schema_extra={"expected": "stderr, or the path of a socket such as /dev/log or of a file"}),
    ] = None
    """Each entry goes there too, without whom it was about, as a line of JSON with its number and hash: stderr, the
    socket of this machine's syslog, or a file that is there already; for a collector that sends it on."""


class ItemIndexSettings(FrozenModel):
    """How the items nearest to a vector are found: see `recllm.learn.features.item_index`."""

    section: ClassVar[str] = "item_index"

    kind: IndexKind = "exact"
    """exact compares all of them. `recllm refresh --index` builds the others: faiss in the workspace (extra faiss),
    pgvector in the PostgreSQL of `store`, qdrant in a Qdrant server (extra qdrant). usearch, of older workspaces, means
    exact."""
    qdrant_url: Annotated[Text | None, Field(json_schema_extra={"expected": "a URL"})] = None
    """The Qdrant server; its key is read from RECLLM_QDRANT_KEY. It is sent items' ids and vectors, and the vectors of
    queries, which follow from somebody's history or words and name nobody."""
    qdrant_collection: Annotated[Text, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "recllm-items"
    """Name of the collection; one for each workspace."""

    @field_validator("qdrant_url")
    @classmethod
    def _is_server(cls, url: str | None) -> str | None:
        return url if url is None else _secure_url(url, "https://qdrant.shop.example")


class ExperimentSettings(FrozenModel):
    """What is kept apart to measure by, when slates are served."""

    section: ClassVar[str] = "experiments"

    holdout_share: Share = 0.0
    """Share of people who get nothing personal, to measure the whole by; a larger one keeps those of a smaller one."""
    holdout_salt: Text = ""
    """Another one draws other people."""
    explore_share: Share = 0.0
    """Share of a slate's positions that show something from further down, so that another ranking can be judged by the
    log. 0.05 to 0.1 costs little and tells much."""
    explore_pool: CountOrZero = 20
    """From so many ranks after the slate."""


class ConsoleSettings(FrozenModel):
    """The pages that `recllm serve` shows to people of the shop."""

    section: ClassVar[str] = "console"

    session_hours: Positive = 12.0
    """Who signed in has to sign in again after so many hours, whatever they do."""
    idle_minutes: Positive = 60.0
    """And where nothing was done for so many minutes."""
    sign_ins_per_minute: Count = 10
    """Tries to sign in from one address; further ones are refused with 429."""
    max_upload_mib: Positive = 2_048.0
    """Larger files are refused with 413; `recllm ingest` takes them."""


class OidcSettings(FrozenModel):
    """Sign-in to the console through the company's own directory with OpenID Connect, beside keys; off without an
    issuer, and without an allowed domain, subject or group nobody is let in."""

    section: ClassVar[str] = "oidc"

    issuer: Annotated[
        Text | None, Field(json_schema_extra={"expected": "a URL such as https://login.shop.example"})
    ] = None
    """URL of the provider, exactly as its discovery document names it; None for sign-in with keys alone."""
    client_id: Text = ""
    """By which the provider knows this console."""
    secret_variable: Annotated[
        Text | None,
        StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
        Field(json_schema_extra={"expected": "the name of an environment variable"}),
    ] = "RECLLM_OIDC_SECRET"  # noqa: S105 - a name, not the secret
    """Environment variable that holds the client's secret, which no file of the workspace does; None for a client
    without one (PKCE alone)."""
    redirect_uri: Text = ""
    """Where the provider sends browsers back, as it is registered there: the console's address with the path
    /sign-in/oidc."""
    scopes: tuple[Text, ...] = ("openid", "email", "profile")
    """What is asked of the provider; many need one more for groups."""
    timeout_seconds: Positive = 5.0
    """What the provider is asked in one step of a sign-in has to be answered by then."""
    confirm_minutes: Positive = 30.0
    """After so long the next page that somebody opens leads by way of the provider, which asks nothing where they are
    signed in there; who was not confirmed for twice as long is out."""
    title: Text = ""
    """What the button calls the provider; empty for the issuer's host."""
    allowed_domains: tuple[Text, ...] = ()
    """Who has an email address of one of these domains, which the provider says is verified, is let in."""
    allowed_subjects: tuple[Text, ...] = ()
    """And who has one of these subjects, the provider's own ids (claim sub)."""
    allowed_groups: tuple[Text, ...] = ()
    """And who is in one of these groups."""
    groups_claim: Annotated[Text, StringConstraints(pattern=r"\S")] = "groups"
    """Claim that holds a person's groups or roles: a list of texts, or one."""
    base_scopes: tuple[ConsoleScope, ...] = ("console",)
    """What everybody who is let in may do; looking needs the scope console."""
    group_scopes: tuple[Text, ...] = ()
    """What members of a group may do besides: "crm = events marketing", each with one or several scopes."""
    history_name: Literal["email", "subject"] = "email"
    """By which a person is named where things are done; email only where it is verified."""

    @field_validator("issuer")
    @classmethod
    def _is_issuer(cls, url: str | None) -> str | None:
        return url if url is None else _secure_url(url, "https://login.shop.example")

    @field_validator("redirect_uri")
    @classmethod
    def _is_the_way_back(cls, url: str) -> str:
        example = f"https://console.shop.example{OIDC_RETURN_PATH}"
        if url and urlsplit(_secure_url(url, example)).path != OIDC_RETURN_PATH:
            raise ValueError(f"the path is not {OIDC_RETURN_PATH}; give a URL such as {example}")
        return url

    @field_validator("scopes")
    @classmethod
    def _asks_who(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes or any(not re.fullmatch(r"[!#-\[\]-~]+", scope) for scope in scopes):
            raise ValueError("give openid and what else is asked for, each without spaces")
        return scopes

    @field_validator("allowed_domains")
    @classmethod
    def _are_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", domain):
                raise ValueError(f"{domain!r} is not a domain in small letters such as shop.example")
        return domains

    @field_validator("allowed_subjects", "allowed_groups")
    @classmethod
    def _are_not_blank(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name.strip() for name in names):
            raise ValueError("a name is empty; leave it out")
        return names

    @field_validator("group_scopes")
    @classmethod
    def _are_grants(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            group, scopes = group_grant(line)
            if not group or not scopes or not set(scopes) <= set(get_args(ConsoleScope)):
                known_scopes = ", ".join(get_args(ConsoleScope))
                raise ValueError(f'{line!r} is not a line such as "crm = events marketing"; scopes are {known_scopes}')
        return lines


def group_grant(line: str) -> tuple[str, list[str]]:
    """(group, scopes); a group's name may hold a "=" itself."""
    group, _, scopes = line.rpartition("=")
    return group.strip(), scopes.split()


def _secure_url(url: str, example: str) -> str:
    """A URL that names a place and nothing else. Raises `ValueError`, also for http that leaves this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"it is not a URL such as {example}") from None
    is_plain = bool(re.fullmatch(r"[!-~]+", url)) and not {"?", "#", "@"} & set(url)
    if parts.scheme not in ("https", "http") or not host or not is_plain:
        raise ValueError(f"it is not a URL such as {example}")
    if parts.scheme == "http" and host not in PLAIN_HTTP_HOSTS:
        raise ValueError(f"http is for this machine alone ({', '.join(PLAIN_HTTP_HOSTS)}); give https")
    return url


class WebhookSettings(FrozenModel):
    """Reports of mail and message services, and announcements to a shop's own systems."""

    section: ClassVar[str] = "webhooks"

    private_targets: Flag = False
    """Whether a target may lie in a private network."""


class ScorerTrainingSettings(FrozenModel):
    """How the scorer is trained on past windows of the log."""

    section: ClassVar[str] = "scorer"

    # --- examples
    learn_people: Count = 50_000
    """People learned from at most, by the scorer, the sequence model and an adapter: of more, always the same ones, by
    a hash of their pseudonyms; only their events are read, and numbers of buyers told at the level of everybody."""
    horizon_days: Count = 28
    """Length of a window, and how far ahead the probability looks."""
    n_windows: Count = 4
    """Past windows at most, fewer when the log is short."""
    min_actions: CountOrZero = 200
    """With fewer purchases than this, weaker actions are learned from as well."""
    timed: Flag = True
    """False for a log that knows only each user's order: what compares times of different users is left out, and
    items that never sold are learned among the others instead of as new items of a time."""

    # --- the model
    parts: Annotated[tuple[ScorePart, ...], Field(min_length=1)] = ("cosine", "vectors", "features")
    """Of the score; fewer only to see what each is worth."""
    heads: Count = 5
    """MLPs whose scores are averaged; each learns for itself, so that their mistakes differ."""
    projection: Count = 32
    """Width of the projected vectors."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (96, 96)
    """Widths of the hidden layers."""

    # --- the loss

    # --- the loop
    epochs: Count = 3
    """Rounds, with an evaluation after each. A round is one pass over all windows, or more when the log is so small
    that all rounds together would take fewer than `min_steps` steps."""
    min_steps: CountOrZero = 250
    """All rounds together take at least so many steps; 0 for one pass a round."""
    batch_size: Count = 64
    """Users of a step."""
    learning_rate: LearningRate = 2e-3
    seed: Seed = 0

    # --- validation and calibration
    item_calibration: Flag = True
    """Also calibrate the probability item by item on the validation users."""


class PrivateTrainingSettings(FrozenModel):
    """Learning under user-level differential privacy: see `training.private`. The loop's values were chosen on
    the tuning windows of public logs; none is to be chosen on a shop's own people, which would cost privacy too."""

    section: ClassVar[str] = "privacy"

    required: Flag = False
    """Whether every training is private without being asked for, and one that is not is refused."""
    epsilon: Positive = 2.0
    """What one training may tell of any one user: whatever it publishes is at most exp(epsilon) times as likely with
    the user as without, but for a chance of delta."""
    delta: Annotated[float, Strict(), Field(gt=0, lt=1)] | None = None
    """Must lie below 1 / users; None for the largest power of ten at most 1 / (10 x users)."""

    # --- the budget of the workspace
    total_epsilon: Positive = 12.0
    """All private trainings of a workspace together spend at most so much; epsilons are added up."""
    total_delta: Annotated[float, Strict(), Field(gt=0, lt=1)] | None = None
    """The same of delta; None for 1 / users."""

    # --- the loop
    sampling_rate: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.05
    """Chance of a user to be learned from in a step, each by a draw of their own."""
    steps: Count = 300
    """Of the scorer; all of them are made, as an early end would have to look at people."""

    # --- the examples
    horizon_days: Count = 28
    """Length of a window, and how far ahead the probability looks."""
    n_windows: Count = 4
    """Past windows, back to back; a user is learned from in one of them a step."""

    # --- the adapter
    seed: Seed = 0
    """Of negatives and first weights. Users and noise are drawn from the system's own source of chance."""


class LoraSettings(FrozenModel):
    """A fine-tuning run of the encoder. Names follow `transformers.TrainingArguments` where the meaning is the same."""

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
    """So many are drawn to learn from, a fifth as many for validation; None: all."""
    max_minutes: Weight | None = 6.0
    """No epoch is begun that would, at the pace so far, end after them; one is made in any case."""
    languages: Annotated[tuple[Text, ...], Field(min_length=1)] = ("en",)
    """What the tuned model is then asked to write."""


class EffectSettings(FrozenModel):
    """How a model of which text people answer is learned from A/B tests: see `training.lora.effect`. Names as in
    `LoraSettings`."""

    section: ClassVar[str] = "effect"

    # --- the tests

    # --- the model

    # --- the loop
    epochs: CountOrZero = 3
    """Passes over the pairs; 0 leaves the encoder as it is and learns the linear score alone."""
    max_minutes: Positive | None = 20.0
    """No epoch is begun that would, at the pace so far, end after them; every member makes one in any case."""


class PredictionSettings(FrozenModel):
    """Predictions of what users will do."""

    section: ClassVar[str] = "propensity"

    learn_people: Count = 50_000
    """People learned from at most: of more, always the same ones, by a hash of their pseudonyms."""


class OccasionSettings(FrozenModel):
    """When a day is an occasion for somebody, and which one comes first: see `recllm.market.occasions.detect`."""

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
    """Of a user with several, the first one counts; those left out are not looked for."""
    channels: tuple[Text, ...] = ("push", "email", "sms_gsm")
    """A user is reached on the first of these that they agreed to."""
    contact_days: Days = 3.0
    """Who got a message of a campaign within so many days is left out."""
    quiet: tuple[Text, ...] = ("21:00", "08:00")
    """Two local times between which no best hour lies; empty for none."""
    price_drop: Share = 0.1
    """By so much of the price before it falls at least."""
    adult_age: CountOrZero = 18
    """Who is or may be younger is left out."""

    def check(self) -> None:
        try:
            hours = [time.fromisoformat(hour) for hour in self.quiet]
        except ValueError:
            hours = []
        if self.quiet and (len(hours) != 2 or hours[0] == hours[1]):
            raise ValueError(f'quiet is {list(self.quiet)}; give two different local times such as ["21:00", "08:00"]')


class RetrainingSettings(FrozenModel):
    """When `recllm retrain --if-due` trains, and when what it trained may serve."""

    section: ClassVar[str] = "retraining"

    window_days: Count = 28
    """The latest whole days of the log: a challenger learns from none of them, and is judged on them beside the serving
    model. They are also what drift compares with as many days before the serving model's training."""

    # --- due, as soon as one figure is beyond its limit
    max_age_days: Positive = 56.0
    """Days since the end of what the serving model learned from. A choice: two windows of four weeks, after which none
    of what the scorer and its probabilities were fitted on is recent."""
    max_ece: Share = 0.05
    """Expected calibration error of the probabilities in the latest window. A choice."""

    min_days: CountOrZero = 7
    """Days of new log between two trainings, whatever the checks say: a challenger that was refused today would be
    refused tomorrow. A choice."""

    # --- the gate
    margin: Share = 0.03
    """By this share of the serving model's NDCG@20 a challenger may be worse at the lower end of the 95 % interval and
    still be called not worse (non-inferiority; Piaggio et al. 2012), in each of ALL and NEW."""
    when_uncertain: Literal["keep", "promote"] = "keep"
    """What becomes of a challenger whose interval straddles zero and reaches below the margin, or who was judged by too
    few people. keep: what works stays. promote: it knows newer purchases, and nothing speaks clearly against it; for
    shops that are too small to tell."""

    # --- the disk
    retrained_versions: Count = 6
    """Other versions made by retraining that are kept, beside the serving one and the one before it."""


class RetentionSettings(FrozenModel):
    """How many days what is about people is kept, by `recllm privacy retention`; "none" keeps it until it is erased."""

    section: ClassVar[str] = "retention"

    events: Count | None = None
    """Events of the log, by the time at which they happened."""
    messages: Count | None = 730
    """Which messages left in exports, and what became of them."""
    campaigns: Count | None = 730
    """People of a campaign's plan and exports, from its last export or plan on; its texts and figures stay."""
    explored_slates: Count | None = 180
    """What could have been shown instead of what was."""
    announcements: Count | None = 30
    """Announcements to targets that were sent or given up."""
    quarantine: Count | None = 30
    """Refused rows, raw."""
    copies: Count | None = 365
    """Records of ad texts, which make them again; they name nobody."""
    uploads: Count = 1
    """Files that the console received and nobody loaded."""
    fine_tuning: Count | None = 30
    """Examples and checkpoints of fine-tuning, and lists of interrupted measurements, in the cache."""
    certificates: Count | None = 1825
    """Certificates of erasures. The audit log and tombstones are never deleted: they are the proof and the defence."""
    tainted_models: Count = 30
    """Days within which a model that learned from somebody who was erased has to be replaced; then it cannot be opened
    any more. A choice: GDPR Art. 12(3) gives a month to answer a request."""


class Settings(FrozenModel):
    """What a shop decides once, and every section of settings below it."""

    consent_default: Flag = False
    """Whether a person without a recorded decision counts as having agreed."""
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
    """What people do with items, which decides the words of reasons and ad texts and what logs call their events: a
    domain of `prompts/domains/`, or the workspace's own file `domains/NAME.toml`."""
    sequence_model: Flag | None = None
    """Whether a sequence model is trained before the scorer; None follows the advice."""
    store: Annotated[Text | None, Field(json_schema_extra={"expected": f"a URL such as {STORE_URL_EXAMPLE}"})] = None
    """PostgreSQL database and schema of the rows, without a password; None: the file store.sqlite in the workspace."""
    tenant: Text = "default"
    """Part of every pseudonym: two tenants' people cannot be joined. Never change it in a workspace with data."""

    policy: Policy = Policy()
    collaborative: CollaborativeSettings = CollaborativeSettings()
    offers: OfferSettings = OfferSettings()
    service: ServiceSettings = ServiceSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    console: ConsoleSettings = ConsoleSettings()
    oidc: OidcSettings = OidcSettings()
    webhooks: WebhookSettings = WebhookSettings()
    audit: AuditSettings = AuditSettings()
    item_index: ItemIndexSettings = ItemIndexSettings()
    scorer: ScorerTrainingSettings = ScorerTrainingSettings()
    privacy: PrivateTrainingSettings = PrivateTrainingSettings()
    lora: LoraSettings = LoraSettings()
    copywriter: CopywriterSettings = CopywriterSettings()
    effect: EffectSettings = EffectSettings()
    propensity: PredictionSettings = PredictionSettings()
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
