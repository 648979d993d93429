"""Sends the messages of a campaign, each at most once, at a pace, outside quiet hours, to customers who agree then.

A run takes up where the last one ended. Before each batch it asks again who may be reached and which texts are
approved. What the server answers is written to the outbox, and counted like the reports of a sending service.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

from recllm.base.errors import DeliveryError, MissingExtraError, NothingToDo, PolicyError, UsageError
from recllm.base.files import lock_file
from recllm.base.messages import CampaignMessage, MessageEvent, MessageEventKind
from recllm.market.campaigns.export import EMAIL, export_campaign, messages_of, reachable_people, record_shown
from recllm.market.campaigns.folder import CampaignText, PlannedPerson, TextStatus
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.sending.addresses import FORMS, as_address
from recllm.market.sending.gateway import GATEWAY_VARIABLE, SECRET_VARIABLE, Gateway, post_test, post_texts, text_of
from recllm.market.sending.mail import SERVER_VARIABLE, Mail, MailServer, mail_of
from recllm.market.sending.outbox import FINAL, MessageState, Outbox
from recllm.market.sending.reports import record_reports

if TYPE_CHECKING:
    from aiosmtplib import SMTP

SOURCE = "smtp"
"""Of what the server answers, where events of messages name theirs."""
CONNECTIONS = 4
BATCH = 100
"""Messages between two looks at consent; many servers take no more on one connection."""
TIMEOUT_SECONDS, BODY_SECONDS = 30.0, 600.0
"""For an answer of the server, and for that to a message, by RFC 5321."""
RECONNECT_SECONDS = (1.0, 5.0, 20.0)
"""Waits after a lost connection, until one brings something."""
_ENHANCED_CODE = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")
_ADDRESS_CODES = re.compile(r"410$|\d{3} 5\.(?:1\.\d+|2\.1)$")
"""Refusals of the address itself, a gateway's and by RFC 3463."""
_POLICY_CODE = re.compile(r"\d{3} 5\.7\.")
"""The server refuses the sender or the message by its policy: mended, it can be sent again."""


@dataclass(frozen=True, kw_only=True)
class SendOutcome:
    """People of a campaign by what happened to their message, in this run and those before."""

    sent: int
    deferred: int
    """Put off by the server; the next run tries again."""
    refused: int
    unanswered: tuple[str, ...]
    """Ids by which the server's log names messages that may have left: the process ended, or the connection broke,
    before its answer."""
    waiting: int
    """Still to be sent: the time to send in is over."""
    no_address: int
    dropped: Mapping[str, int]
    """Reason -> people who may not be reached now."""


Server = MailServer | Gateway


def is_set_up(channel: str) -> bool:
    """Whether the environment names who takes messages of the channel."""
    return bool(os.environ.get(SERVER_VARIABLE if channel == EMAIL else GATEWAY_VARIABLE))


def servers_of(campaign: OpenCampaign) -> dict[str, Server]:
    """Channel of the campaign -> who takes its messages, by the environment.
    Raises `UsageError` where none is set up, or one wrongly."""
    servers: dict[str, Server] = {}
    for channel in filter(is_set_up, campaign.file.personal_channels):
        if channel == EMAIL:
            servers[channel] = MailServer.of(os.environ[SERVER_VARIABLE])
        else:
            servers[channel] = Gateway.of(os.environ[GATEWAY_VARIABLE], os.environ.get(SECRET_VARIABLE, ""))
    if not servers:
        raise UsageError(
            f"no server is set up for {', '.join(campaign.file.personal_channels)}: e-mails need {SERVER_VARIABLE}, "
            f"other messages {GATEWAY_VARIABLE}; see the guide's Messages"
        )
    return servers


def send_campaign(
    campaign: OpenCampaign,
    servers: Mapping[str, Server],
    addresses: Mapping[str, str],
    *,
    per_minute: int,
    unanswered: MessageState | Collection[str] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int, int], None] | None = None,
) -> SendOutcome:
    """Sends what is not sent yet.

    servers: by channel. addresses: by pseudonym, of people with one of these channels. unanswered: what a person found
    of messages that may have left: SENT, DEFERRED to send them again, or the ids of those that left. progress: is
    called with the messages done and all of this run. Raises `StoreError` while another process sends the campaign,
    `NothingToDo` outside the time to send in, `UsageError` for ids that are none of these messages', `DeliveryError`
    when a server takes nothing, and what `export_campaign` raises.
    """
    folder, plan = campaign.folder, campaign.plan
    with lock_file(folder.aside("send"), wait_seconds=0.0):
        now, outbox = clock(), Outbox(folder)
        window = campaign.window(max(now, campaign.moment))
        if window is None or window.start > now:
            when = f"from {window.start:%Y-%m-%d %H:%M %Z} on" if window else "no more, as the offer ends before then"
            raise NothingToDo(f"messages of {plan.campaign_id!r} may leave {when}; nothing was sent")
        if unanswered is not None:
            settle(unanswered_messages(campaign, servers, outbox), outbox, unanswered)
        reached = set(export_campaign(campaign, None, clock=now, addresses=addresses.keys()).people)
        people = [p for p in plan.addressed if p.user_id in reached]
        queue = deque(p for p in people if outbox.state(p.user_id) not in FINAL)
        count_answers(campaign, outbox, people, now)
        pace, n_all, n_late, texts = Pace(per_minute), len(queue), 0, {text.id: text for text in plan.texts}

        def is_late() -> bool:
            return window.end is not None and clock() >= window.end

        while queue and not is_late():
            batch = [queue.popleft() for _ in range(min(len(queue), BATCH, max(1, per_minute // 6)))]
            states = campaign.states
            reachable, _, _ = reachable_people(campaign, states, batch)
            messages = messages_of(campaign, reachable, clock()).values()
            try:
                for channel, server in servers.items():
                    mails = [
                        written(campaign, texts[m.text_id], states[m.text_id].text, server, addresses[m.user_id], m)
                        for m in messages
                        if m.channel == channel
                    ]
                    n_late += deliver(server, mails, outbox, pace, is_late)
            finally:
                count_answers(campaign, outbox, batch, clock())
            if progress is not None:
                progress(n_all - len(queue), n_all)
        return outcome_of(campaign, servers, outbox, addresses.keys(), len(queue) + n_late)


def written(
    campaign: OpenCampaign,
    text: CampaignText,
    wording: str,
    server: Server,
    address: str,
    message: CampaignMessage | None,
) -> Mail:
    """A text as its server takes it; wording and message as of `mail_of`."""
    if isinstance(server, Gateway):
        return text_of(campaign, text, wording, address, message)
    return mail_of(campaign, text, wording, server, address, message)


def settle(user_ids: Mapping[str, str], outbox: Outbox, unanswered: MessageState | Collection[str]) -> None:
    """Records what a person found. user_ids: as `unanswered_messages`. Raises `UsageError` as `send_campaign`."""
    if isinstance(unanswered, MessageState):
        outbox.record(user_ids.values(), unanswered)
        return
    if unknown := sorted(set(unanswered) - user_ids.keys()):
        raise UsageError(f"no message without an answer has the id {', '.join(unknown)}; copy the ids again")
    outbox.record([user_ids[name] for name in unanswered], MessageState.SENT)
    outbox.record([user_id for name, user_id in user_ids.items() if name not in unanswered], MessageState.DEFERRED)


def unanswered_messages(campaign: OpenCampaign, servers: Mapping[str, Server], outbox: Outbox) -> dict[str, str]:
    """The id by which the server's log names a message that may have left -> the customer's pseudonym."""
    leaving = {entry.user_id for entry in outbox.entries(MessageState.LEAVING)}
    unsure = [p for p in campaign.plan.addressed if p.user_id in leaving]
    messages = messages_of(campaign, unsure, datetime.now(UTC)).values()
    return {
        server.header_id(m.message_id)
        if isinstance(server := servers.get(m.channel), MailServer)
        else m.message_id: m.user_id
        for m in messages
    }


def outcome_of(
    campaign: OpenCampaign, servers: Mapping[str, Server], outbox: Outbox, addresses: Collection[str], waiting: int
) -> SendOutcome:
    *_, dropped = reachable_people(campaign, campaign.states)
    return SendOutcome(
        sent=len(outbox.entries(MessageState.SENT)),
        deferred=len(outbox.entries(MessageState.DEFERRED)),
        refused=len(outbox.entries(MessageState.REFUSED)),
        unanswered=tuple(unanswered_messages(campaign, servers, outbox)),
        waiting=waiting,
        no_address=sum(p.channel in servers and p.user_id not in addresses for p in campaign.plan.addressed),
        dropped=dropped,
    )


def send_test(campaign: OpenCampaign, servers: Mapping[str, Server], address: str) -> str:
    """Sends the first approved text for a channel with such addresses to one of the shop's own, and returns its id.

    Nothing is recorded, and its links are the campaign's own. Raises `PolicyError` where no such text is approved,
    `UsageError` for what is no address, `DeliveryError` where the server does not take it.
    """
    channels = (name for name in FORMS if name in servers and as_address(name, address))  # the strictest form first
    channel = next(channels, None)
    if channel is None:
        raise UsageError(
            f"{address!r} is no address for {' or '.join(servers)}; a phone number begins with + and country"
        )
    states, server, address = campaign.states, servers[channel], as_address(channel, address) or ""
    texts = [text for text in campaign.plan.texts if text.channel == channel]
    text = next((text for text in texts if states[text.id].action is TextStatus.APPROVED), None)
    if text is None:
        kind = "e-mail" if channel == EMAIL else f"text for {channel}"
        raise PolicyError(f"no {kind} of {campaign.plan.campaign_id!r} is approved; see recllm campaign approve FILE")
    mail = written(campaign, text, states[text.id].text, server, address, None)
    asyncio.run(post_test(server, mail) if isinstance(server, Gateway) else mail_test(server, mail))
    return text.id


async def mail_test(server: MailServer, mail: Mail) -> None:
    try:
        async with connection(server) as smtp:
            await smtp.sendmail(server.sender, [mail.address], mail.content)
    except import_smtp().SMTPException as error:
        raise DeliveryError(f"{server} did not take the test message: {error}") from error


class Pace:
    """Gives each message its time: at most `per_minute` start in a minute."""

    def __init__(self, per_minute: int) -> None:
        self._gap, self._next = 60.0 / per_minute, time.monotonic()

    async def turn(self) -> None:
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._gap
        await asyncio.sleep(at - now)


def deliver(server: Server, mails: Sequence[Mail], outbox: Outbox, pace: Pace, is_late: Callable[[], bool]) -> int:
    """Hands messages to the server and records the answer to each; returns how many were left as it became late.

    A lost connection is made again, and messages that had not begun to leave are tried again. Raises `DeliveryError`
    when no connection brings an answer, or the server takes nothing from this sender.
    """
    queue, waits = deque(mails), iter(RECONNECT_SECONDS)

    def n_answered() -> int:
        return len(mails) - len(queue) - sum(outbox.state(mail.user_id) is MessageState.LEAVING for mail in mails)

    while queue and not is_late():
        n_before = n_answered()
        try:
            asyncio.run(_connections(server, queue, outbox, pace, is_late))
        except OSError as error:
            if n_answered() > n_before:
                waits = iter(RECONNECT_SECONDS)
            wait = next(waits, None)
            if wait is None:
                raise DeliveryError(
                    f"{server} cannot be reached: {error}; what has not left is sent by the next run"
                ) from error
            time.sleep(wait)
    return len(queue)


async def _connections(
    server: Server, queue: deque[Mail], outbox: Outbox, pace: Pace, is_late: Callable[[], bool]
) -> None:
    """Empties the queue over several connections, or raises the error of one after all have ended. When it is
    interrupted, each connection ends the message that it is at."""

    async def turn() -> bool:
        if queue:
            await pace.turn()
        return bool(queue) and not is_late()

    def hand_over() -> Coroutine[Any, Any, None]:
        if isinstance(server, Gateway):
            return post_texts(server, queue, outbox, turn)
        return send_mails(server, queue, outbox, turn)

    tasks = [asyncio.ensure_future(hand_over()) for _ in range(min(CONNECTIONS, len(queue)))]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        queue.clear()
        await asyncio.wait(tasks)
        raise
    errors = [error for task in tasks if (error := task.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, OSError)):  # what ends the run comes first
        raise error


async def send_mails(
    server: MailServer, queue: deque[Mail], outbox: Outbox, turn: Callable[[], Awaitable[bool]]
) -> None:
    """Hands mails of the queue over one connection, and records the answers. turn: waits for the time of the next one;
    False when there is none. Raises `ConnectionError`, or `DeliveryError` where the server takes nothing."""
    smtp_errors = import_smtp()
    try:
        async with connection(server) as smtp:
            while await turn():
                await hand_over_mail(smtp, server, queue, outbox)
    except smtp_errors.SMTPException as error:
        if isinstance(error, smtp_errors.SMTPNotSupported) or getattr(error, "code", 0) >= 500:
            raise DeliveryError(f"{server} takes nothing from {server.sender}: {error}") from error
        raise ConnectionError(str(error)) from error


async def hand_over_mail(smtp: SMTP, server: MailServer, queue: deque[Mail], outbox: Outbox) -> None:
    """The next mail of the queue; it stays there where the connection ends before its text."""
    smtp_errors, mail = import_smtp(), queue.popleft()
    try:
        await smtp.mail(server.sender)
        await smtp.rcpt(mail.address)
    except smtp_errors.SMTPRecipientRefused as refusal:
        outbox.record([mail.user_id], *answer_of(refusal.code, refusal.message))
        await smtp.rset()
        return
    except BaseException:
        queue.appendleft(mail)  # not a word of it has left
        raise
    if not outbox.record([mail.user_id], MessageState.LEAVING):
        await smtp.rset()  # erased, or under another pseudonym since
        return
    try:
        await smtp.data(mail.content, timeout=BODY_SECONDS)
    except smtp_errors.SMTPDataError as refusal:
        outbox.record([mail.user_id], *answer_of(refusal.code, refusal.message))
        await smtp.rset()
    else:
        outbox.record([mail.user_id], MessageState.SENT)


def connection(server: MailServer) -> SMTP:
    """To be entered: connects, with TLS and sign-in as the server is given."""
    smtp: SMTP = import_smtp().SMTP(
        hostname=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        use_tls=server.is_tls,
        start_tls=server.starts_tls,
        timeout=TIMEOUT_SECONDS,
    )
    return smtp


def import_smtp() -> ModuleType:
    try:
        import aiosmtplib
    except ModuleNotFoundError as error:
        raise MissingExtraError("aiosmtplib", "send") from error
    return aiosmtplib


def answer_of(code: int, words: str) -> tuple[MessageState, str]:
    """A refusal as a state, and its codes without the server's words, which may hold an address."""
    enhanced = _ENHANCED_CODE.match(words)
    codes = f"{code} {enhanced[1]}" if enhanced else str(code)
    if code < 300:  # of a message: taken, though by another code than most servers give
        return MessageState.SENT, codes
    return MessageState.DEFERRED if code < 500 or _POLICY_CODE.match(codes) else MessageState.REFUSED, codes


def count_answers(campaign: OpenCampaign, outbox: Outbox, people: Sequence[PlannedPerson], at: datetime) -> None:
    """Counts the server's answers like the reports of a sending service, each once: a refusal of the address leaves
    the customer out of later exports."""
    kinds = {
        MessageState.SENT: MessageEventKind.PROCESSED,
        MessageState.DEFERRED: MessageEventKind.DEFERRED,
        MessageState.REFUSED: MessageEventKind.DROPPED,
    }
    messages, events = messages_of(campaign, people, at), []
    for user_id, message in messages.items():
        entry = outbox.entry(user_id)
        if entry is not None and entry.state in kinds:
            is_address = entry.state is MessageState.REFUSED and _ADDRESS_CODES.match(entry.code)
            kind = MessageEventKind.BOUNCED if is_address else kinds[entry.state]
            event_id = f"{message.message_id} {entry.state}"
            events.append(
                MessageEvent(
                    event_id=event_id, message_id=message.message_id, kind=kind, at=datetime.fromisoformat(entry.at)
                )
            )
    record_reports(campaign.workspace, SOURCE, events)
    record_shown(campaign, [p for p in people if outbox.state(p.user_id) is MessageState.SENT], messages, at)
