"""Addresses of customers from a file of the shop, at the time of sending. They are kept nowhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recllm.base.errors import IngestError, UsageError
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.sending.mail import MAILBOX
from recllm.shop.ingest.column_names import columns_of, normal
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe
from recllm.shop.ingest.sources import recognise_file
from recllm.shop.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressForm:
    """What an address of a channel looks like, and where a file has it."""

    pattern: str
    plural: str
    """As errors call them."""
    name: str
    """Of a column that certainly holds them."""
    others: frozenset[str]
    """Further names, as of `normal`."""
    left_out: str = ""
    """Pattern of signs that people write between digits."""
    is_known_by_form: bool = True
    """Whether a column is found by its cells, too."""


FORMS: Mapping[str, AddressForm] = {
    "email": AddressForm(
        pattern=MAILBOX,
        plural="e-mail addresses",
        name="email",
        others=frozenset({"emailaddress", "mail", "emailadresse", "邮箱", "邮箱地址", "电子邮箱", "电子邮件"}),
    ),
    "sms_gsm": AddressForm(
        pattern=r"^\+[1-9][0-9]{6,14}$",
        plural="phone numbers (+ and country first)",
        name="phone",
        others=frozenset(
            {"phonenumber", "mobile", "mobilephone", "mobilenumber", "telephone", "tel", "sms", "whatsapp", "telefon"}
            | {"handynummer", "手机", "手机号", "手机号码", "电话", "电话号码", "联系电话"}
        ),
        left_out=r"[\s().'\-]",
    ),
    "push": AddressForm(
        pattern=r"^[!-~]{1,512}$",
        plural="names in the service that you push with",
        name="push_token",
        others=frozenset({"token", "devicetoken", "openid", "externaluserid", "外部联系人", "推送标识"}),
        is_known_by_form=False,
    ),
}
"""Channel -> form of its addresses: RFC 5321, E.164, the name of a device or contact."""


def address_in(form: AddressForm, cell: pl.Expr) -> pl.Expr:
    """The address in a cell as it is sent to; null for what is none."""
    address = cell.str.strip_chars()
    if form.left_out:
        address = address.str.normalize("NFKC").str.replace_all(form.left_out, "").str.replace("^00", "+")
    return pl.when(address.str.contains(form.pattern)).then(address)


def as_address(channel: str, text: str) -> str | None:
    """As `address_in`, of one text."""
    address: str | None = pl.select(address_in(FORMS[channel], pl.lit(text))).item()
    return address


def campaign_addresses(campaign: OpenCampaign, channels: Collection[str], file: Path) -> dict[str, str]:
    """Pseudonym -> address of the people of the campaign, each on their channel. Raises as `read_addresses`."""
    channel_of = {p.user_id: p.channel for p in campaign.plan.people}
    return {
        user_id: address
        for channel in channels
        if channel in channel_of.values()
        for user_id, address in read_addresses(campaign.workspace, file, channel).items()
        if channel_of.get(user_id) == channel
    }


def read_addresses(workspace: Workspace, file: Path, channel: str = "email") -> dict[str, str]:
    """Pseudonym -> address on the channel, of a table with a customer's id and address in each row. Cells that are no
    address are left out; of several for one customer the last counts.

    The id is the column that the file's kind uses for customers, else one with a known name such as `user_id`; the
    address is in a column with a known name such as `email`, or the only one with addresses. Raises `UsageError` where
    one of the two is missing or not clear, `IngestError` for a file that cannot be read.
    """
    options = IngestOptions()
    try:
        recognised = recognise_file(file, options)
        options = options.model_copy(update={"encoding": recognised.encoding})
        maps = recognised.source.maps
        id_names = next((m.columns["user_id"] for m in maps.values() if "user_id" in m.columns), ())
    except IngestError as error:
        if error.code != "E_SOURCE":
            raise
        id_names = ()
    records = open_records(probe(file), options, ColumnMap(doubled="first"))
    by_normal = {normal(column): column for column in records.columns}
    id_columns = [c for c in id_names if c in records.columns] or columns_of("user_id", by_normal)
    if len(id_columns) != 1:
        listed = ", ".join(id_columns or records.columns)
        raise UsageError(
            f"{file}: call the column with the customers' ids user_id, and no other one; there are: {listed}"
        )
    form, cells = FORMS[channel], pl.concat([chunk.frame for chunk in records.chunks()])
    addresses = cells.select(address_in(form, pl.all()).name.keep())
    columns = [column.name for column in addresses if column.null_count() < len(column)]
    named = [column for column in columns if normal(column) in {normal(form.name), *form.others}]
    columns = named or (columns if form.is_known_by_form else [])
    if len(columns) != 1:
        listed = f"; these could be meant: {', '.join(columns)}" if columns else ""
        raise UsageError(
            f"{file}: call the column with the customers' {form.plural} {form.name}, and no other one{listed}"
        )
    user_ids = cells[id_columns[0]].str.strip_chars().replace("", None)
    pairs = pl.DataFrame({"user_id": user_ids, "address": addresses[columns[0]]}).drop_nulls()
    return dict(zip(workspace.pseudonymiser().many(pairs["user_id"].to_list()), pairs["address"], strict=True))
