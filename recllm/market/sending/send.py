"""Sends the e-mails of a campaign, each at most once, at a pace, outside quiet hours, to customers who agree then.

A run takes up where the last one ended. Before each batch it asks again who may be reached and which texts are
approved. What the server answers is written to the outbox, and counted like the reports of a sending service.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING

from recllm.base.errors import DeliveryError, MissingExtraError, NothingToDo, PolicyError, UsageError
from recllm.base.files import lock_file
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.market.campaigns.export import EMAIL, export_campaign, messages_of, reachable_people, record_shown
from recllm.market.campaigns.folder import PlannedPerson, TextStatus
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.sending.mail import MAILBOX, Mail, MailServer, mail_of
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
_ADDRESS_CODES = re.compile(r"\d{3} 5\.(?:1\.\d+|2\.1)$")
"""Refusals that are about the address itself, by RFC 3463. Others may be about the sender."""
_POLICY_CODE = re.compile(r"\d{3} 5\.7\.")
"""The server refuses the sender, or its own policy the message: what is mended there can be sent again."""


@dataclass(frozen=True, kw_only=True)
class SendOutcome:
    """People of a campaign by what happened to their e-mail, in this run and those before."""

    sent: int
    deferred: int
    """Put off by the server; the next run tries again."""
    refused: int
    unanswered: tuple[str, ...]
    """Message-IDs that may have left: the process ended, or the connection broke, before the server's answer."""
    waiting: int
    """Still to be sent: the time to send in is over."""
    no_address: int
    dropped: Mapping[str, int]
    """Reason -> people who may not be reached now."""


def send_campaign(
    campaign: OpenCampaign,
    server: MailServer,
    addresses: Mapping[str, str],
    *,
    per_minute: int,
    unanswered: MessageState | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int, int], None] | None = None,
) -> SendOutcome:
    """Sends what is not sent yet.

    addresses: by pseudonym. unanswered: what a person found of messages that may have left: SENT, or DEFERRED to send
    them again. progress: is called with the messages done and all of this run. Raises `StoreError` while another
    process sends the campaign, `NothingToDo` outside the time to send in, `DeliveryError` when the server takes
    nothing, and what `export_campaign` raises.
    """
    folder, plan = campaign.folder, campaign.plan
    with lock_file(folder.aside("send"), wait_seconds=0.0):
        now, outbox = clock(), Outbox(folder)
        window = campaign.window_from(max(now, campaign.moment))
        if window is None or window.start > now:
            when = f"from {window.start:%Y-%m-%d %H:%M %Z} on" if window else "no more, as the offer ends before then"
            raise NothingToDo(f"messages of {plan.campaign_id!r} may leave {when}; nothing was sent")
        if unanswered is not None:
            outbox.record([entry.user_id for entry in outbox.entries(MessageState.LEAVING)], unanswered)
        reached = set(export_campaign(campaign, None, clock=now, addresses=addresses.keys()).people)
        people = [p for p in plan.addressed if p.user_id in reached]
        queue = deque(p for p in people if outbox.state(p.user_id) not in FINAL)
        count_answers(campaign, outbox, people, now)
        pace, n_all, n_late, texts = Pace(per_minute), len(queue), 0, {text.id: text for text in plan.texts}
        while queue and (window.end is None or clock() < window.end):
            batch = [queue.popleft() for _ in range(min(len(queue), BATCH, max(1, per_minute // 6)))]
            states = campaign.states
            reachable, _, _ = reachable_people(campaign, states, batch)
            mails = [
                mail_of(campaign, texts[m.text_id], states[m.text_id].text, server, addresses[m.user_id], m)
                for m in messages_of(campaign, reachable, clock()).values()
            ]
            try:
                n_late += deliver(server, mails, outbox, pace, lambda: window.end is not None and clock() >= window.end)
            finally:
                count_answers(campaign, outbox, batch, clock())
            if progress is not None:
                progress(n_all - len(queue), n_all)
        return outcome_of(campaign, server, outbox, addresses.keys(), len(queue) + n_late)


def outcome_of(
    campaign: OpenCampaign, server: MailServer, outbox: Outbox, addresses: Collection[str], waiting: int
) -> SendOutcome:
    *_, dropped = reachable_people(campaign, campaign.states)
    leaving = {entry.user_id for entry in outbox.entries(MessageState.LEAVING)}
    unsure = [person for person in campaign.plan.addressed if person.user_id in leaving]
    messages = messages_of(campaign, unsure, datetime.now(UTC)).values()
    return SendOutcome(
        sent=len(outbox.entries(MessageState.SENT)),
        deferred=len(outbox.entries(MessageState.DEFERRED)),
        refused=len(outbox.entries(MessageState.REFUSED)),
        unanswered=tuple(server.header_id(message.message_id) for message in messages),
        waiting=waiting,
        no_address=sum(p.channel == EMAIL and p.user_id not in addresses for p in campaign.plan.addressed),
        dropped=dropped,
    )


def send_test(campaign: OpenCampaign, server: MailServer, address: str) -> str:
    """Sends the first approved e-mail of the campaign to an address of the shop's own, and returns the id of its text.

    Nothing is recorded, and its link to unsubscribe is the campaign's own. Raises `PolicyError` where no e-mail is
    approved, `UsageError` for what is no address, `DeliveryError` where the server does not take it.
    """
    if not re.fullmatch(MAILBOX, address):
        raise UsageError(f"{address!r} is no e-mail address")
    states, emails = campaign.states, [text for text in campaign.plan.texts if text.channel == EMAIL]
    text = next((text for text in emails if states[text.id].action is TextStatus.APPROVED), None)
    if text is None:
        raise PolicyError(f"no e-mail of {campaign.plan.campaign_id!r} is approved; see recllm campaign approve FILE")
    content = mail_of(campaign, text, states[text.id].text, server, address, None).content
    smtp_errors = import_smtp()

    async def hand_over() -> None:
        async with connection(server) as smtp:
            await smtp.sendmail(server.sender, [address], content)

    try:
        asyncio.run(hand_over())
    except smtp_errors.SMTPException as error:
        raise DeliveryError(f"the mail server {server} did not take the test message: {error}") from error
    return text.id


# --- the server -------------------------------------------------------------------------------------------------------


class Pace:
    """Gives each message its time: at most `per_minute` start in a minute."""

    def __init__(self, per_minute: int) -> None:
        self._gap, self._next = 60.0 / per_minute, time.monotonic()

    async def turn(self) -> None:
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._gap
        await asyncio.sleep(at - now)


def deliver(server: MailServer, mails: Sequence[Mail], outbox: Outbox, pace: Pace, is_late: Callable[[], bool]) -> int:
    """Hands mails to the server and records the answer to each; returns how many were left as it became late.

    A lost connection is made again, and mails that had not begun to leave are tried again. Raises `DeliveryError` when
    no connection brings anything, or the server takes nothing from this sender.
    """
    smtp = import_smtp()
    queue, waits = deque(mails), iter(RECONNECT_SECONDS)
    while queue and not is_late():
        n_before = len(queue)
        try:
            asyncio.run(_connections(server, queue, outbox, pace, is_late))
        except (smtp.SMTPException, OSError) as error:
            if isinstance(error, smtp.SMTPNotSupported) or getattr(error, "code", 0) >= 500:
                raise DeliveryError(f"the mail server {server} takes nothing from {server.sender}: {error}") from error
            if len(queue) < n_before:
                waits = iter(RECONNECT_SECONDS)
            wait = next(waits, None)
            if wait is None:
                raise DeliveryError(
                    f"the mail server {server} cannot be reached: {error}; what has not left is sent by the next run"
                ) from error
            time.sleep(wait)
    return len(queue)


async def _connections(
    server: MailServer, queue: deque[Mail], outbox: Outbox, pace: Pace, is_late: Callable[[], bool]
) -> None:
    """Empties the queue over several connections, or raises the error of one after all have ended. When it is
    interrupted, each connection ends the message that it is at."""
    n_connections = range(min(CONNECTIONS, len(queue)))
    tasks = [asyncio.ensure_future(_connection(server, queue, outbox, pace, is_late)) for _ in n_connections]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        queue.clear()
        await asyncio.wait(tasks)
        raise
    for error in filter(None, [task.exception() for task in tasks]):
        raise error


async def _connection(
    server: MailServer, queue: deque[Mail], outbox: Outbox, pace: Pace, is_late: Callable[[], bool]
) -> None:
    smtp_errors = import_smtp()
    async with connection(server) as smtp:
        while queue:
            await pace.turn()
            if not queue or is_late():
                return
            mail = queue.popleft()
            try:
                await smtp.mail(server.sender)
                await smtp.rcpt(mail.address)
            except smtp_errors.SMTPRecipientRefused as refusal:
                outbox.record([mail.user_id], *answer_of(refusal.code, refusal.message))
                await smtp.rset()
                continue
            except BaseException:
                queue.appendleft(mail)  # not a word of it has left
                raise
            if not outbox.record([mail.user_id], MessageState.LEAVING):
                await smtp.rset()  # erased, or under another pseudonym since
                continue
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
