"""Pseudonyms, the key, and the gate."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sa_event
from store_view import events, put, view

from recllm.base.errors import StoreError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.shop.data.dataset import Dataset
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import PolicyGate, Pseudonymiser, find_keys, make_key_file
from recllm.shop.workspace.workspace import Workspace

KEY = b"k" * 32
TRAINING, EMAIL, THIRD_PARTY = Purpose.MODEL_TRAINING, Purpose.EMAIL, Purpose.LLM_THIRD_PARTY


def bought(*pairs: tuple[str, str], at: int = 1_000_000) -> pl.DataFrame:
    """One purchase per (user, item), each with a key of its own."""
    users, items = (pl.Series([pair[n] for pair in pairs], dtype=pl.String) for n in (0, 1))
    frame = events([0] * len(pairs), event_key=[os.urandom(16) for _ in pairs])
    return frame.with_columns(user_id=users, item_id=items, at=pl.lit(at, pl.Int64))


def decide(store: Store, *decisions: tuple[str, Purpose, bool, int | None]) -> None:
    frame = pl.DataFrame(
        [(user, purpose.value, granted, at) for user, purpose, granted, at in decisions],
        schema={"user_id": pl.String, "purpose": pl.String, "granted": pl.Boolean, "at": pl.Int64},
        orient="row",
    )
    put(store, "consent", frame, os.urandom(8).hex())


def gate(store: Store, default: bool = False, policy: Policy | None = None) -> PolicyGate:
    return PolicyGate(store, policy or Policy(), default)


def test_a_pseudonym_is_the_documented_hmac() -> None:
    mac = hmac.new(KEY, b"shop\0exports\0" + "客户1".encode(), hashlib.sha256).digest()
    expected = "u1_" + base64.b32encode(mac).decode()[:26]
    assert Pseudonymiser(KEY, domain="exports", tenant="shop").one("客户1") == expected
    assert len(expected) == 29


def test_key_domain_and_tenant_each_separate_people() -> None:
    spaces = [(KEY, "training", "a"), (b"x" * 32, "training", "a")]
    spaces += [(KEY, "exports", "a"), (KEY, "training", "b"), (KEY, "ingb", "atrain")]
    assert len({Pseudonymiser(key, domain=domain, tenant=tenant).one("7") for key, domain, tenant in spaces}) == 5
    assert Pseudonymiser(KEY, domain="b", tenant="a").one("c") != Pseudonymiser(KEY, domain="", tenant="a").one("bc")


def test_many_equals_one_by_one_and_keeps_the_order() -> None:
    pseudonymiser = Pseudonymiser(KEY)
    raw = ["b", "a", "b", "", "a "]
    assert pseudonymiser.many(raw) == [pseudonymiser.one(text) for text in raw]
    assert pseudonymiser.many([]) == []


def test_ids_that_look_alike_are_told_apart_or_joined_as_documented() -> None:
    one = Pseudonymiser(KEY).one
    assert one("e\u0301va") == one("\u00e9va") == one(" \u00e9va ")
    assert len({one("u1"), one("U1"), one("ｕ１"), one("0u1"), one("u1.0")}) == 5


def test_the_key_never_shows(tmp_path: Path) -> None:
    pseudonymiser = Pseudonymiser(b"topsecret-topsecret", domain="training")
    assert "topsecret" not in repr(pseudonymiser) + str(pseudonymiser)
    with pytest.raises(UsageError, match="5 bytes, at least 16") as caught:
        Pseudonymiser(b"short")
    assert "short" not in str(caught.value)


def test_the_key_comes_from_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, named = tmp_path / "key", tmp_path / "named"
    make_key_file(own)
    named.write_text("from the named file\n")
    monkeypatch.setenv("RECLLM_KEY", " from the environment ")
    monkeypatch.setenv("RECLLM_KEY_FILE", str(named))
    assert find_keys(own) == (b"from the environment",)
    monkeypatch.delenv("RECLLM_KEY")
    assert find_keys(own) == (b"from the named file",)
    monkeypatch.setenv("RECLLM_KEY_FILE", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match=r"cannot be read from .*gone"):
        find_keys(own)
    monkeypatch.delenv("RECLLM_KEY_FILE")
    assert find_keys(own) == (own.read_bytes().strip(),)
    with pytest.raises(StoreError, match="RECLLM_KEY_FILE; without it"):
        find_keys(tmp_path / "none")


def test_a_key_file_is_the_owners_and_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make_key_file(path)
    first = path.read_bytes()
    assert len(bytes.fromhex(first.decode())) == 32
    make_key_file(path)
    assert path.read_bytes() == first
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o640)
        with pytest.raises(StoreError, match="chmod 600"):
            find_keys(path)


def test_two_creators_of_a_key_get_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the key after its creation reads what it will be for ever."""
    path = tmp_path / "key"
    token_hex, keys = secrets.token_hex, []

    def meanwhile_another_makes_one(size: int) -> str:
        monkeypatch.setattr(secrets, "token_hex", token_hex)
        make_key_file(path)
        keys.append(find_keys(path))
        return token_hex(size)

    monkeypatch.setattr(secrets, "token_hex", meanwhile_another_makes_one)
    make_key_file(path)
    assert [find_keys(path)] == keys
    assert list(tmp_path.iterdir()) == [path], "no draft is left"


def test_no_raw_id_reaches_any_file(tmp_path: Path) -> None:
    raw = [f"zzcanary-customer-{n:05d}" for n in range(300)]
    with Workspace.create(tmp_path / "shop") as workspace:
        pseudonyms = workspace.pseudonymiser().many(raw)
        store = workspace.store()
        basics = pl.DataFrame({"user_id": pseudonyms, "basics": ["{}"] * len(raw)})
        put(store, "users", basics, "users")
        put(store, "events", bought(*[(user, f"i{n}") for n, user in enumerate(pseudonyms)]), "events")
        decide(store, *[(user, TRAINING, True, 1) for user in pseudonyms])
        open_files = _files(workspace.root)
        key = workspace.key_path.read_bytes().strip()
    files = open_files | _files(workspace.root)
    assert any(pseudonyms[0].encode() in content for content in files.values()), "the scan must be able to find ids"
    for path, content in files.items():
        needles = [n.encode(code) for n in ("zzcanary", "customer-00") for code in ("utf-8", "utf-16-le")]
        if path.name != "key":
            needles += [key, bytes.fromhex(key.decode())]
        assert not [needle for needle in needles if needle in content], path


def _files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


CLOCK = 1_700_000_000_000_000
"""Epoch microseconds at which the clock of the next test begins."""
SECOND = 1_000_000


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(st.none(), st.sampled_from([-3, -1, 0, 1, 250, 90_000])),  # stated, seconds ahead of the clock
            st.sampled_from([0, 1, 100, -400]),  # how far the clock moved since the decision before
        ),
        min_size=1,
        max_size=8,
    )
)
@example([(True, 0, 0), (True, 0, -400), (True, 0, -400), *[(True, 0, 100)] * 3, (False, 0, 100)])  # twice of one time
def test_what_claims_the_future_is_dated_by_the_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch, decisions: list[tuple[bool, int | None, int]]
) -> None:
    """The oracle: a decision is as old as it says, and never younger than its acceptance; one that is refused when
    grants lie ahead of the clock (which was set back) ends those."""
    person, clock = os.urandom(8).hex(), CLOCK
    monkeypatch.setattr("recllm.shop.store.tables.now", lambda: clock)
    dated: list[tuple[int, bool]] = []
    for granted, ahead, moved in decisions:
        clock += moved * SECOND
        stated = None if ahead is None else clock + ahead * SECOND
        decide(store, (person, EMAIL, granted, stated))
        at = clock if stated is None else min(stated, clock)
        if not granted:
            dated = [(at + clock - then if yes and then > clock else then, yes) for then, yes in dated]
        dated.append((at, granted))
        _, is_refused = max((then, not yes) for then, yes in dated)
        expected = not is_refused
        asked = gate(store, True)
        (history,) = asked.stored_histories([person], EMAIL)
        assert {asked.permits(person, EMAIL), history.permitted} == {expected}, dated
        assert (person in asked.permitted_users(EMAIL)) is expected
    stored = view(store).consent("email", [person])
    assert stored["granted"].sum() == len({at for at, yes in dated if yes}), "what was agreed to stays on record"


def work(store: Store, call: Callable[[], object]) -> int:
    """What a call costs the database, in its own instructions: unlike seconds it is the same on every machine."""
    store.close()  # so that the next connection is prepared here
    instructions = 0

    def count() -> int:
        nonlocal instructions
        instructions += 1
        return 0

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_progress_handler(count, 1)

    sa_event.listen(store._engine, "connect", prepare)
    try:
        call()
    finally:
        sa_event.remove(store._engine, "connect", prepare)
        store.close()
    return instructions


def test_the_decisions_of_others_cost_nothing(store: Store) -> None:
    people = ["p1", "p2", "p3"]
    decide(store, *((person, EMAIL, True, at) for person in people for at in range(3)))

    def calls() -> list[int]:
        door = gate(store)
        questions = (lambda: door.permits("p1", EMAIL), lambda: door.permits_each(people, EMAIL))
        return [work(store, question) for question in questions]

    before = calls()
    decide(store, *((f"q{n}", purpose, True, 1) for n in range(4_000) for purpose in (EMAIL, TRAINING)))
    assert gate(store).permits_each(["q1", "p1", "nobody"], EMAIL) == [True, True, False]
    for few, many in zip(before, calls(), strict=True):
        assert many < 2 * few


def stop_clock(monkeypatch: pytest.MonkeyPatch, at: datetime) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return at

    monkeypatch.setattr("recllm.shop.workspace.privacy.datetime", Stopped)


def test_the_history_of_a_few_is_that_of_the_dataset(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [f"u{n}" for n in range(30)]
    basics = [json.dumps({"age": user}) for user in people]
    put(store, "users", pl.DataFrame({"user_id": people, "basics": basics}), "u")
    with store.load("events", load_id="e", source="test") as load:
        for hour in (3, 1, 2):
            load.write(bought(*((u, f"i{hour * n % 7}") for n, u in enumerate(people)), at=hour * 3_600_000_000))
    decide(store, ("u3", TRAINING, False, 1))
    stop_clock(monkeypatch, datetime.fromtimestamp(86_400 + 2 * 3_600, UTC))
    door = gate(store, True, Policy(event_days=1))
    few = ["u3", "u20", "u5", "nobody", "u5"]
    users, written = door.histories(few, TRAINING)
    assert users.to_dicts() == [{"user_id": "u20", "age": "u20"}, {"user_id": "u5", "age": "u5"}]
    whole, part = door.dataset(TRAINING), Dataset.construct(written, users)
    for user in ("u5", "u20"):
        theirs = whole.events.rows(whole.user_rows([user]))
        events = part.events.rows(part.user_rows([user]))
        assert part.items["item_id"].gather(events.item).equals(whole.items["item_id"].gather(theirs.item))
        assert events.at.tolist() == theirs.at.tolist() == [2 * 3_600, 3 * 3_600]
    everything = view(store).events(("quantity", "price", "basket_id"))
    expected = everything.filter(pl.col("user_id").is_in(["u5", "u20"]), pl.col("timestamp").dt.hour() > 1)
    assert written.equals(expected), "the order of writing, which decides between events of one instant"
    assert door.histories([], TRAINING)[1].height == 0
    assert_rows_are_frames(door, few)


def assert_rows_are_frames(door: PolicyGate, user_ids: list[str]) -> None:
    """What an answer reads as rows is what is read as tables, on any catalogue."""
    (users, written), rows = door.histories(user_ids, TRAINING), door.stored_histories(user_ids, TRAINING)
    assert [person.permitted for person in rows] == door.permits_each(user_ids, TRAINING)
    basics = dict(users.rows())
    assert [json.loads(p.basics) for p in rows] == [{"age": basics[u]} if u in basics else {} for u in user_ids]
    items = pl.DataFrame({"item_id": ["i4", "i0", "i2", "i1"], "title": "T"})
    shop = Dataset.construct(written.clear(), items=items, as_of=86_400)
    places = [list(basics).index(u) if u in basics else len(basics) for u in user_ids]
    expected = shop.pack(written, [*basics, ""]).rows(np.array(places))
    events = shop.pack_rows([person.events for person in rows])
    assert len(events)
    for name in ("indptr", "item", "at", "action", "quantity", "price"):
        np.testing.assert_array_equal(getattr(events, name), getattr(expected, name), err_msg=name)
    same_basket = [[a == b for b in part.basket] for part in (events, expected) for a in part.basket]
    assert same_basket[: len(events)] == same_basket[len(events) :]


def test_the_events_of_others_cost_nothing(store: Store) -> None:
    put(store, "events", bought(*(("p1", f"i{n}") for n in range(20))), "a")
    before = work(store, lambda: gate(store, True).histories(["p1"], TRAINING))
    put(store, "events", bought(*((f"q{n % 500}", f"i{n % 900}") for n in range(20_000))), "b")
    assert work(store, lambda: gate(store, True).histories(["p1"], TRAINING)) < 2 * before


def test_people_who_refused_leave_no_trace_in_a_dataset(store: Store) -> None:
    item = {"item_id": ["known"], "title": ["Tea"], "available": [True], "price": ["2.50"]}
    put(store, "items", pl.DataFrame(item), "i")
    put(store, "users", pl.DataFrame({"user_id": ["yes", "no"], "basics": ['{"age":"35-44"}', '{"secret":"x"}']}), "u")
    pairs = [("yes", "known"), ("yes", "hers"), ("no", "known"), ("no", "his"), ("stranger", "known")]
    put(store, "events", bought(*pairs), "e")
    decide(store, ("yes", TRAINING, True, 1))
    data = gate(store).dataset(TRAINING)
    assert data.users.to_dicts() == [{"user_id": "yes", "age": "35-44"}]
    assert set(data.items["item_id"]) == {"known", "hers"}, "an item that only he touched would tell of him"
    assert len(data.events) == 2


def test_a_dataset_carries_what_the_store_knows(store: Store) -> None:
    item = {"item_id": ["i1"], "title": ["Tea"], "available": [True], "price": ["2.50"], "category": ['["Food","Tea"]']}
    put(store, "items", pl.DataFrame(item | {"currency": ["EUR"], "attributes": ['{"size":"1 kg"}']}), "i")
    put(store, "events", bought(("u1", "i1"), ("u1", "pending"), at=5_999_999), "e1")
    put(store, "events", bought(("u1", "i1"), at=9_000_000).with_columns(price=2.0, basket_id=pl.lit("b")), "e2")
    data = gate(store, True).dataset(TRAINING)
    rows = {row["item_id"]: row for row in data.items.to_dicts()}
    known = {"price": 2.5, "category": ["Food", "Tea"], "attributes": '{"size":"1 kg"}', "available": True}
    assert {name: rows["i1"][name] for name in known} == known
    assert (rows["pending"]["title"], rows["pending"]["available"]) == (None, False)
    assert (data.events.at.tolist(), data.events.price.tolist()[-1], data.as_of) == ([5, 5, 9], 2.0, 10)
    cut = gate(store, True).dataset(TRAINING).before(9)
    assert (len(cut.events), cut.as_of) == (2, 9)


def test_old_events_stay_behind_the_gate(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "events", bought(("u1", "old"), at=0), "e1")
    put(store, "events", bought(("u1", "new"), at=3 * 86_400_000_000), "e2")
    stop_clock(monkeypatch, datetime.fromtimestamp(4 * 86_400, UTC))
    data = gate(store, True, Policy(event_days=2)).dataset(TRAINING)
    assert set(data.items["item_id"]) == {"new"}
    assert len(gate(store, True).dataset(TRAINING).events) == 2


PURPOSES = (TRAINING, EMAIL, THIRD_PARTY)
decisions = st.tuples(st.integers(0, 4), st.sampled_from(PURPOSES), st.booleans(), st.integers(0, 4))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    decisions=st.lists(decisions, max_size=25), default=st.booleans(), buyers=st.lists(st.integers(0, 5), max_size=8)
)
def test_no_row_of_someone_without_the_purpose(
    tmp_path_factory: pytest.TempPathFactory,
    decisions: list[tuple[int, Purpose, bool, int]],
    default: bool,
    buyers: list[int],
) -> None:
    store = Store.open(tmp_path_factory.mktemp("gate") / "store.sqlite", create=True)
    put(store, "events", bought(*[(f"u{n}", f"item of u{n}") for n in buyers]), "e")
    decide(store, *[(f"u{n}", purpose, granted, at) for n, purpose, granted, at in decisions])
    people = {f"u{n}" for n in buyers} | {f"u{n}" for n, *_ in decisions}
    for purpose in PURPOSES:
        may = {user for user in people if _may(user, purpose, decisions, default)}
        asked = gate(store, default)
        assert {u for u in people if asked.permits(u, purpose)} == may
        data = asked.dataset(purpose)
        assert set(data.users["user_id"]) == may
        assert set(data.items["item_id"]) == {f"item of u{n}" for n in buyers if f"u{n}" in may}
        assert len(data.events) == sum(f"u{n}" in may for n in buyers)
    store.close()


def _may(user: str, purpose: Purpose, decisions: list[tuple[int, Purpose, bool, int]], default: bool) -> bool:
    own = [(at, not granted) for n, p, granted, at in decisions if f"u{n}" == user and p == purpose]
    return not max(own)[1] if own else default and purpose != THIRD_PARTY
