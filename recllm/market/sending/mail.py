"""A text of a campaign as an e-mail, and the server that takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import cache
from importlib.resources import files
from urllib.parse import parse_qs, quote, unquote, urlsplit
from uuid import uuid4

from jinja2 import Environment, Template

from recllm.base.errors import UsageError
from recllm.base.messages import CampaignMessage
from recllm.base.schema import IMAGE
from recllm.base.service_settings import PLAIN_HTTP_HOSTS
from recllm.base.words.sentences import language
from recllm.market.adcopy.channels import CALL_TO_ACTION, channel_named, complete
from recllm.market.adcopy.write import TEMPLATE
from recllm.market.campaigns.folder import CampaignText
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.sending.clicks import CLICK_PATH, click_token

UNSUBSCRIBE_PATH = "/unsubscribe"
"""Of the service: POST /unsubscribe/SHOP/MESSAGE ends the channel's messages at once."""
SERVER_VARIABLE = "RECLLM_SMTP"
"""Environment variable with the URL of the mail server."""
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_{|}~-]+"
MAILBOX = rf"^{_ATOM}(?:\.{_ATOM})*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]{{2,63}}$"
"""An address as mail servers take it: ASCII, no quotes, a name of atoms and a domain."""
PROVIDER_HEADERS: Mapping[str, str] = {
    "postmarkapp.com": "X-PM-Metadata-recllm_message_id: ID",
    "mailgun.org": 'X-Mailgun-Variables: {"recllm_message_id": "ID"}',
    "amazonaws.com": "X-SES-MESSAGE-TAGS: recllm_message_id=ID",
    "sendgrid.net": 'X-SMTPAPI: {"unique_args": {"recllm_message_id": "ID"}}',
}
"""End of a server's name -> the header by which its reports name the message."""
_URL_SIGNS = "%:/?#[]@!$&'()*+,;=~"
_UNSUBSCRIBE = {"en": "Unsubscribe", "zh": "退订"}


@dataclass(frozen=True, kw_only=True)
class MailServer:
    """A server that takes mail from here, with TLS from the first byte (`smtps`) or by STARTTLS."""

    host: str
    port: int
    is_tls: bool
    user: str | None
    password: str | None = field(repr=False)
    sender: str
    """The address that mails come from."""

    @classmethod
    def of(cls, url: str) -> MailServer:
        """From `smtp://USER:PASSWORD@HOST:PORT?from=ADDRESS`, or smtps. `from` may be left out where the user is an
        address. Raises `UsageError`, without the URL, which holds a password."""
        example = f"give {SERVER_VARIABLE} a URL such as smtps://USER:PASSWORD@mail.example?from=news@shop.example"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UsageError(f"the mail server's URL is wrong; {example}") from None
        if parts.scheme not in ("smtp", "smtps") or not host:
            raise UsageError(f"no mail server is named; {example}")
        user = unquote(parts.username) if parts.username else None
        sender = parse_qs(parts.query).get("from", [user or ""])[0]
        if not re.fullmatch(MAILBOX, sender):
            raise UsageError(f"the mail server's URL has no address that mails come from; {example}")
        is_tls = parts.scheme == "smtps"
        return cls(
            host=host,
            port=port or (465 if is_tls else 587),
            is_tls=is_tls,
            user=user,
            password=unquote(parts.password) if parts.password else None,
            sender=sender,
        )

    def __str__(self) -> str:
        return f"the mail server {self.host}:{self.port}"

    def header_id(self, message_id: str) -> str:
        """The header Message-ID, by which the server's log names a mail."""
        return f"<{message_id}@{self.sender.rpartition('@')[2]}>"

    @property
    def starts_tls(self) -> bool:
        """STARTTLS is asked of every server but one on this machine."""
        return not self.is_tls and self.host not in PLAIN_HTTP_HOSTS


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One message to one address, ready to be handed over."""

    user_id: str
    message_id: str
    address: str = field(repr=False)
    content: bytes = field(repr=False)
    """Of an e-mail by RFC 5322, lines ended by CRLF."""


def unsubscribe_url(campaign: OpenCampaign, message_id: str) -> str:
    """The address that ends the messages of one customer, where the campaign's `opt_out` is the page of the service;
    else `opt_out` itself. A message's id cannot be guessed without the workspace's key."""
    link = campaign.file.sender.opt_out
    return f"{link.rstrip('/')}/{message_id}" if service_of(campaign) else link


def link_of(campaign: OpenCampaign, message_id: str | None = None) -> str:
    """Where the messages lead to; "" without a link. message_id: through the service."""
    link = campaign.file.words.link or ""
    link = link if "://" in link or not link else f"https://{link}"
    service = service_of(campaign)
    if message_id is None or service is None or not link.startswith(("http://", "https://")):
        return link
    host, shop_name = service
    return f"{host}{CLICK_PATH}/{shop_name}/{click_token(campaign.workspace, message_id, link)}"


def service_of(campaign: OpenCampaign) -> tuple[str, str] | None:
    """Address of the service and the shop's name there, of an `opt_out` .../unsubscribe/SHOP."""
    link, page = campaign.file.sender.opt_out, f"{UNSUBSCRIBE_PATH}/{campaign.workspace.root.resolve().name}"
    if not link.startswith("http") or not unquote(urlsplit(link).path).rstrip("/").endswith(page):
        return None
    host, _, shop_name = link.rstrip("/").rpartition(f"{UNSUBSCRIBE_PATH}/")
    return host, shop_name


def mail_of(
    campaign: OpenCampaign,
    text: CampaignText,
    wording: str,
    server: MailServer,
    address: str,
    message: CampaignMessage | None,
) -> Mail:
    """A text as a mail with a plain and an HTML part (RFC 5322). wording: the approved one. message: None for a test.

    The headers of RFC 8058 are there where `unsubscribe_url` is a page for this message.
    """
    file, item = campaign.file, campaign.catalogue.items.get(text.item_id)
    message_id = message.message_id if message else f"test-{uuid4().hex}"
    unsubscribe = unsubscribe_url(campaign, message_id) if message else file.sender.opt_out
    parts, shop = channel_named(text.channel).parts(wording), file.sender.name
    sender, is_generated = replace(file.sender, opt_out=unsubscribe), text.generator != TEMPLATE
    finished = complete(wording, channel=text.channel, locale=text.locale, sender=sender, generated=is_generated)
    added = [line for line in finished[len(wording) :].split("\n") if line]
    link = link_of(campaign, message.message_id if message else None)
    button = parts.get(CALL_TO_ACTION) if link else None
    picture = item.attributes.get(IMAGE, "") if item else ""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address(" ".join(shop.split()), addr_spec=server.sender)
    mail["To"] = Address(addr_spec=address)
    mail["Subject"] = " ".join(parts["subject"].split())  # a header is one line, also for U+2028
    mail["Date"] = format_datetime(datetime.now(UTC))
    step = ["", f"{button}: {link}"] if button else []
    lines = [parts["headline"], "", parts["body"], *step, "", "-- ", *added]
    mail.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    values = parts | {"button": button, "link": link, "shop": shop, "title": item.title if item else ""}
    values |= {"picture": picture if picture.startswith("https://") else "", "unsubscribe": unsubscribe}
    added = [line for line in added if unsubscribe not in line]
    html = template(language(text.locale)).render(values, paragraphs=parts["body"].split("\n"), added=added)
    mail.add_alternative(html, subtype="html", cte="quoted-printable")
    # written here, as `EmailMessage` encodes what is longer than a line
    heads = [
        f"Message-ID: {server.header_id(message_id)}",
        f"List-Unsubscribe: <{quote(unsubscribe, safe=_URL_SIGNS)}>",
    ]
    if unsubscribe != file.sender.opt_out:
        heads.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    heads += [head.replace("ID", message_id) for host, head in PROVIDER_HEADERS.items() if server.host.endswith(host)]
    content = "".join(f"{head}\r\n" for head in heads).encode("ascii") + mail.as_bytes()
    return Mail(user_id=message.user_id if message else "", message_id=message_id, address=address, content=content)


@cache
def template(language: str) -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"language": language, "unsubscribe_words": _UNSUBSCRIBE[language]}
    return environment.from_string((files("recllm.market.sending") / "mail.html").read_text(encoding="utf-8"))
