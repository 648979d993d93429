"""Settings of what serves: the service, the console and who signs in, the item index, experiments."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, StringConstraints, field_validator

from recllm.base.documents import Count, CountOrZero, Flag, FrozenModel, Positive, Share, Text, Weight

IndexKind = Annotated[
    Literal["exact", "faiss"],
    # of older workspaces
    BeforeValidator(lambda kind: "exact" if kind in ("usearch", "qdrant", "pgvector") else kind),
]

ConsoleScope = Literal["console", "events", "marketing", "people", "privacy", "admin"]
"""Permissions in the console: see `recllm.shop.workspace.keys.Scope`."""

OIDC_RETURN_PATH = "/sign-in/oidc"
"""Path of the console to which a provider sends a browser back."""
PLAIN_HTTP_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be spoken to without https: what is sent there leaves this machine at no time."""


class ServiceSettings(FrozenModel):
    """How `recllm serve` answers."""

    section: ClassVar[str] = "service"

    workers: Count = 2
    """Answers computed at once in the main process; of slates where these have no processes of their own."""
    processes: CountOrZero | None = None
    """Further processes that compute slates, each as large as the main one; 0 computes them there. None: one for each
    core, four at most, and none where there is one core."""
    waiting: CountOrZero = 64
    """Requests that may wait for a worker; further ones are refused with 429."""
    deadline_seconds: Positive = 10.0
    """Longest wait of a request for a worker; then it is refused with 503."""
    watch_seconds: Positive = 0.5
    """Interval of checks for a new model, new items and withdrawals of neighbours."""
    max_body_mib: Positive = 4.0
    """Larger requests are refused with 413."""
    requests_per_minute: Count | None = None
    """Of one key, or without keys of all callers; None for no limit.
    Above it requests are refused with 429."""
    load_encoder: Flag | None = None
    """Load the text encoder right after the start: the first new item and the first search do not wait for it; it takes
    some hundred MiB. None: where slates have processes of their own. In one process it costs a sixth of the rate."""
    marketing_seconds: Weight = 60.0
    """Age of the events in memory after which audiences read all events again."""

    # --- the connection
    certificate: Annotated[Text | None, Field(json_schema_extra={"expected": "a PEM file"})] = None
    """File of the certificate with its intermediates, in PEM: the service then speaks TLS itself."""
    certificate_key: Annotated[Text | None, Field(json_schema_extra={"expected": "a PEM file"})] = None
    """File of the certificate's private key, without a passphrase; None where it is in the same file."""
    trusted_proxies: tuple[Text, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of proxies that end TLS: their X-Forwarded-For and X-Forwarded-Proto are believed."""
    plain_http: Flag = False
    """Whether other machines are answered without https: only in a network that encrypts by itself."""

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"{network!r} is not an address or network such as 10.0.0.7 or 10.0.0.0/24") from None
        return networks


class ItemIndexSettings(FrozenModel):
    """How the items nearest to a vector are found: see `recllm.learn.features.item_index`."""

    section: ClassVar[str] = "item_index"

    kind: IndexKind = "exact"
    """exact compares all of them; faiss (extra faiss) the candidates of an index that `recllm refresh --index`
    builds. Other kinds, of older workspaces, mean exact."""


class ConsoleSettings(FrozenModel):
    """The console of `recllm serve`."""

    section: ClassVar[str] = "console"

    session_hours: Positive = 12.0
    """Longest session, in hours."""
    idle_minutes: Positive = 60.0
    """Minutes without use after which a session ends."""
    sign_ins_per_minute: Count = 10
    """Attempts to sign in from one address; further ones are refused with 429."""


class OidcSettings(FrozenModel):
    """Sign-in to the console through the company's directory with OpenID Connect, in addition to keys. Off without an
    issuer; without an allowed domain, subject or group it lets no one in."""

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
    """Environment variable with the client's secret; None for a client without one (PKCE alone)."""
    redirect_uri: Text = ""
    """The registered way back: the console's address with the path /sign-in/oidc."""
    scopes: tuple[Text, ...] = ("openid", "email", "profile")
    """Scopes for the provider; many need one more for groups."""
    timeout_seconds: Positive = 5.0
    """Time for the provider's answers in one step of a sign-in."""
    confirm_minutes: Positive = 30.0
    """Minutes after which the next page leads by way of the provider, which asks nothing of people who are signed in
    there. Without confirmation for twice as long the session ends."""
    allowed_domains: tuple[Text, ...] = ()
    """Domains whose verified email addresses are let in."""
    allowed_subjects: tuple[Text, ...] = ()
    """Subjects that are let in: the provider's ids (claim sub)."""
    allowed_groups: tuple[Text, ...] = ()
    """Groups that are let in."""
    groups_claim: Annotated[Text, StringConstraints(pattern=r"\S")] = "groups"
    """Claim that holds a person's groups or roles: a list of texts, or one."""
    base_scopes: tuple[ConsoleScope, ...] = ("console",)
    """Scopes of all who are let in; looking needs the scope console."""
    group_scopes: tuple[Text, ...] = ()
    """Further scopes of groups, such as "crm = events marketing"."""
    history_name: Literal["email", "subject"] = "email"
    """Name of a person in the history; email only where it is verified."""

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
    """A URL that names a place and nothing else.
    Raises `ValueError`, also for http that leaves this machine."""
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


class ExperimentSettings(FrozenModel):
    """Control groups and exploration when slates are served."""

    section: ClassVar[str] = "experiments"

    holdout_share: Share = 0.0
    """Share of customers who get nothing personal, as a control group of everything."""
    holdout_salt: Text = ""
    """Another one draws other customers."""
    explore_share: Share = 0.0
    """Share of a slate's positions that show something from further down, so that the log can judge another ranking.
    0.05 to 0.1 costs little."""
    explore_pool: CountOrZero = 20
    """Number of ranks after the slate that they come from."""
