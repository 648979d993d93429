"""What a shop answers once, at its first start: why purchases may be used, who may be written to, and who writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recllm.base.errors import UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.base.words.words import Words
from recllm.market.adcopy.channels import Sender

INTEREST = "interest"
"""A basis: the shop's own interest. All customers count but those who objected."""
ALL, NONE = "all", "none"
"""Who may be written to: all who have not refused, or no customers."""
USE = frozenset({Purpose.ANALYTICS, Purpose.PERSONALISATION, Purpose.MODEL_TRAINING, Purpose.LLM_LOCAL})
"""What a basis allows."""
CONTACT = frozenset({Purpose.EMAIL, Purpose.SMS, Purpose.PUSH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers that a run of `recllm start` rests on."""

    basis: str
    """`INTEREST`, or a column of consent."""
    contact: tuple[str, ...]
    """Columns of customers' agreement to be written to, or `ALL`, or `NONE`."""
    sender: Sender | None = None
    """Who writes; None where no customers may be written to."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the files that the answers name."""
        named = (self.basis, *self.contact)
        return tuple(dict.fromkeys(name for name in named if name not in (INTEREST, ALL, NONE)))

    def settings(self, channel: Purpose) -> dict[str, Any]:
        """The settings of a workspace that follow. channel: on which customers are written to where `ALL` may be."""
        by_interest, to_all = self.basis == INTEREST, self.contact == (ALL,)
        of_use = frozenset() if by_interest else USE
        explicit = Policy().explicit_purposes | of_use | (CONTACT - {channel} if to_all else CONTACT)
        return {"consent_default": by_interest or to_all, "policy": Policy(explicit_purposes=explicit)}

    def document(self) -> dict[str, Any]:
        return asdict(self)


def answers_of(
    options: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    columns: Sequence[str],
    words: Words,
    *,
    at_terminal: bool,
) -> Answers:
    """The answers, from options, else from those of an earlier start, else by asking at a terminal.

    options: basis, contact and sender as options say them, without those that are not stated. before: the document of
    earlier answers. columns: of consent in the files, to choose from. Raises `UsageError`, in the shop's language,
    with the options that are missing.
    """
    values = {**(before or {}), **options}
    if at_terminal:
        values |= asked(values, columns, words)
    missing = [name for name in ("basis", "contact") if not values.get(name)]
    contact = tuple(values.get("contact") or ())
    if contact != (NONE,) and not values.get("sender"):
        missing.append("sender")
    if missing:
        listed = ", ".join(f"“{column}”" for column in columns) or words.say("start.ask.no_columns")
        lines = [words.say("start.ask.missing", columns=listed), *(words.say(f"start.ask.give_{n}") for n in missing)]
        raise UsageError("\n  ".join(lines))
    if {ALL, NONE} & set(contact) and len(contact) > 1:
        raise UsageError(words.say("start.ask.give_contact"))
    return Answers(basis=values["basis"], contact=contact, sender=sender_of(values.get("sender"), words))


def sender_of(stated: str | Mapping[str, str] | None, words: Words) -> Sender | None:
    """The sender in "NAME; ADDRESS; LINK OR MAILBOX TO STOP". Raises `UsageError` for a text of another form."""
    if stated is None or isinstance(stated, Mapping):
        return None if stated is None else Sender(**stated)
    cells = [cell.strip() for cell in stated.replace("；", ";").split(";")]
    if len(cells) != 3 or not all(cells):
        raise UsageError(words.say("start.ask.give_sender"))
    return Sender(name=cells[0], address=cells[1], opt_out=cells[2])


def asked(values: Mapping[str, Any], columns: Sequence[str], words: Words) -> Iterator[tuple[str, Any]]:
    """The answers that are missing, asked one after the other."""
    import typer

    def choose(question: str, labels: Sequence[str]) -> int:
        lines = (f"  {n}  {label}" for n, label in enumerate(labels, 1))
        typer.echo("\n".join([words.say(f"start.ask.{question}"), *lines]), err=True)
        while True:
            text = typer.prompt(words.say("start.ask.number"), err=True).strip()
            if text.isdecimal() and 1 <= int(text) <= len(labels):
                return int(text) - 1

    if not values.get("basis"):
        labels = [words.say("start.ask.interest"), *(words.say("start.ask.consent", column=c) for c in columns)]
        yield "basis", [INTEREST, *columns][choose("basis", labels)]
    contact = values.get("contact")
    if not contact:
        others = [words.say("start.ask.all"), words.say("start.ask.none")]
        labels = [*(words.say("start.ask.agreed", column=column) for column in columns), *others]
        contact = ([*columns, ALL, NONE][choose("contact", labels)],)
        yield "contact", contact
    if not values.get("sender") and tuple(contact) != (NONE,):
        yield "sender", typer.prompt(words.say("start.ask.sender"), err=True)
