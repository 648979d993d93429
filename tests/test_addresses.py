"""E-mail addresses that differ in case are one person, wherever they are read or typed; not so in older workspaces."""

from __future__ import annotations

import json
import tomllib
import unicodedata
from functools import partial
from pathlib import Path

import pytest
from conftest import Command
from exports import first_export
from hypothesis import given
from hypothesis import strategies as st
from store_view import view

from recllm.base.errors import StoreError
from recllm.base.schema import Purpose
from recllm.doors.privacy.backup import back_up, restore
from recllm.doors.privacy.registry import export_person
from recllm.doors.privacy.rotation import rotate_key
from recllm.shop.ingest.workspace_load import load_export, load_file
from recllm.shop.workspace import workspace as workspace_module
from recllm.shop.workspace.privacy import Pseudonymiser, fold_address
from recllm.shop.workspace.workspace import SETTINGS_FILE, Workspace, fingerprint_of, folds_addresses

RULE = "-lower-case-addresses"
KEY = b"0123456789abcdef"
FOLDING = Pseudonymiser(KEY, folds_addresses=True)

ADDRESSES = st.from_regex(r"\A[a-z0-9.+_'-]{1,12}@[a-z0-9-]{1,10}(\.[a-z]{2,6}){1,2}\Z")


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """An address, and the same in other case with spaces around it."""
    address = draw(ADDRESSES)
    is_upper = draw(st.lists(st.booleans(), min_size=len(address), max_size=len(address)))
    other = "".join(sign.upper() if yes else sign for sign, yes in zip(address, is_upper, strict=True))
    return address, draw(st.sampled_from(["", " ", "\t"])) + other + draw(st.sampled_from(["", " ", "\n"]))


@given(spellings())
def test_spellings_of_an_address_are_one_person(pair: tuple[str, str]) -> None:
    address, other = pair
    assert FOLDING.one(address) == FOLDING.one(other) == Pseudonymiser(KEY).one(address)
    assert FOLDING.one(f"shop-2:{other.strip()}") == FOLDING.one(f"shop-2:{address}") != FOLDING.one(address)
    assert FOLDING.one(f"SHOP-2:{address}") != FOLDING.one(f"shop-2:{address}"), "a namespace is no address"


@given(st.text(max_size=30) | st.text("aA@.:bÀİſßς-+ ", max_size=20))
def test_folding_again_changes_nothing_and_other_ids_stay(text: str) -> None:
    folded = FOLDING.spelling(text)
    assert FOLDING.spelling(folded) == folded
    if "@" not in text:
        assert folded == unicodedata.normalize("NFC", text).strip()


@given(ADDRESSES, ADDRESSES)
def test_two_addresses_stay_two(one: str, other: str) -> None:
    assert (FOLDING.one(one) == FOLDING.one(other)) == (one == other)


def test_what_is_an_address() -> None:
    for address in ("Ann@Example.com", "A.B+c@Sub.Example.CO.UK", "Ä@Bücher.DE", "ANN@XN--BCHER-KVA.XN--P1AI"):
        assert fold_address(address) == address.lower()
    others = ("Ann", "C-7@Till", "@Ann", "Ann@", "A@B@c.de", "Ann Lee@x.de", "a:B:C@x.de", "X@1.2", "小鱼_A", "T**1")
    for other in others:
        assert fold_address(other) == other
    assert fold_address("Shop_B:Ann@Example.com") == "Shop_B:ann@example.com"
    sessions = FOLDING.of_sessions()
    assert sessions.one("Ann@Example.com") != sessions.one("ann@example.com"), "a session's id is no address"
    three = (KEY, b"b" * 16, b"c" * 16)
    old, new = (Pseudonymiser(*three, folds_addresses=True).each(text) for text in ("Ann@x.de", "ANN@X.DE"))
    assert old == new, "under each key of the past"


def write_files(folder: Path) -> tuple[Path, Path]:
    """Orders of one person in three spellings, and customers with the consent of one of them in a fourth."""
    export = first_export("shopify-orders")
    orders, customers = folder / "orders_export_1.csv", folder / "customers_export.csv"
    lines = export.content.decode().replace("person1@example.com", "Person1@Example.com")
    lines = lines.replace("Person1@Example.com", "PERSON1@EXAMPLE.COM", 1)
    orders.write_text(lines, "utf-8")
    customers.write_bytes(first_export("shopify-customers").content)
    return orders, customers


def load(shop: Workspace, orders: Path, customers: Path) -> None:
    load_export(shop, orders)
    load_export(shop, customers, consent_from=["Accepts Email Marketing"])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_files(tmp_path)


def older(root: Path) -> Workspace:
    """A workspace from before addresses were folded."""
    with pytest.MonkeyPatch.context() as patch:
        unfolded = partial(fingerprint_of, folding=False)
        patch.setattr(workspace_module, "fingerprint_of", lambda keys, tenant, folding: unfolded(keys, tenant))
        return Workspace.create(root, currency="USD", timezone="UTC")


def test_orders_and_consent_of_one_person_meet(files: tuple[Path, Path], tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", currency="USD", timezone="UTC") as shop:
        load(shop, *files)
        name = shop.pseudonymiser().one("person1@example.com")
        assert name == shop.pseudonymiser().one(" Person1@EXAMPLE.com")
        assert shop.gate().permits(name, Purpose.EMAIL)
        stored = view(shop.store())
        assert len(stored.users()) == 12
        mine = stored.events().filter(stored.events()["user_id"] == name)
        assert mine["basket_id"].n_unique() == 4, "orders 1, 13, 25 and 37"


def test_an_older_workspace_keeps_its_people(files: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "shop"
    with older(root) as shop:
        load(shop, *files)
        assert not shop.folds_addresses and len(view(shop.store()).users()) == 14
    with Workspace.open(root) as shop:
        names = shop.pseudonymiser()
        assert names.one("person1@example.com") == Pseudonymiser(*shop.keys()).one("person1@example.com")
        three = {names.one(text) for text in ("person1@example.com", "Person1@Example.com", "PERSON1@EXAMPLE.COM")}
        assert len(three) == 3 and all(shop.gate().knows_each(sorted(three)))


@pytest.mark.parametrize("is_older", [False, True])
def test_the_rule_cannot_be_changed_by_mistake(tmp_path: Path, is_older: bool) -> None:
    with older(tmp_path / "shop") if is_older else Workspace.create(tmp_path / "shop"):
        file = tmp_path / "shop" / SETTINGS_FILE
    text = file.read_text("utf-8")
    fingerprint = tomllib.loads(text)["key_fingerprint"]
    other = fingerprint + RULE if is_older else fingerprint.removesuffix(RULE)
    assert other != fingerprint
    file.write_text(text.replace(fingerprint, other), "utf-8")
    with Workspace.open(tmp_path / "shop") as shop, pytest.raises(StoreError):
        shop.store()


@pytest.mark.parametrize("is_older", [False, True])
def test_rotation_and_restore_keep_the_rule(files: tuple[Path, Path], tmp_path: Path, is_older: bool) -> None:
    root, backup = tmp_path / "shop", tmp_path / "shop.backup"
    with older(root) if is_older else Workspace.create(root, currency="USD", timezone="UTC") as shop:
        load(shop, *files)
        back_up(shop, backup, actor="test")
        rotate_key(shop, actor="test")
    with Workspace.open(root) as shop:
        assert shop.folds_addresses != is_older and len(shop.keys()) == 2
        names = {shop.pseudonymiser().one(text) for text in ("PERSON1@EXAMPLE.COM", "Person1@Example.com")}
        assert len(names) == 1 + is_older and all(shop.gate().knows_each(sorted(names)))
    restore(backup, root, replace=True, actor="test")
    with Workspace.open(root) as shop:
        assert shop.folds_addresses != is_older and folds_addresses(shop.fingerprint_under(shop.keys())) != is_older
        names = {shop.pseudonymiser().one(text) for text in ("PERSON1@EXAMPLE.COM", "Person1@Example.com")}
        assert len(names) == 1 + is_older and all(shop.gate().knows_each(sorted(names)))


def test_who_is_erased_by_another_spelling_stays_away(run: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", currency="USD", timezone="UTC") as shop:
        load(shop, *files)
        bad = tmp_path / "bad.csv"
        rows = "PERSON1@example.com,,2024-05-01T00:00:00Z\n" + "b@x.de,LS-M,2024-05-02T00:00:00Z\n" * 30
        bad.write_text("user_id,item_id,timestamp\n" + rows, "utf-8")
        assert load_file(shop, bad, "events").quarantined == 1
        exported = export_person(shop, "pErSoN1@eXample.com")
        assert len(exported["events"]) >= 4 and exported["consent"]
    assert run("privacy", "erase", "--user", "PeRsOn1@Example.COM", "--yes", "-w", "shop")[0] == 0
    with Workspace.open(tmp_path / "shop") as shop:
        name = shop.pseudonymiser().one("person1@example.com")
        assert not shop.gate().knows_each([name])[0]
        assert not len(view(shop.store()).events().filter(view(shop.store()).events()["user_id"] == name))
        kept = "".join(path.read_text("utf-8") for path in shop.quarantine_dir.glob("*.jsonl"))
        assert "person1@" not in kept.lower()
        load(shop, *files)
        assert not shop.gate().knows_each([name])[0], "who is sent again, in any spelling, is kept out"
    (tmp_path / "ids.txt").write_text("Ann@x.de\nann@X.de\n", "utf-8")
    code, out, _ = run("explain", "--ids", "ids.txt", "-w", "shop", "--json")
    assert code == 0 and len({line["pseudonym"] for line in json.loads(out)}) == 1
