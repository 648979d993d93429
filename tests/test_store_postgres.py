"""What only a store in PostgreSQL can have wrong: its server, its users, its schemas, the way to it; and workspaces."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import tomli_w
from conftest import Command
from postgres_server import DATABASE, PASSWORD, ROLE, PostgresServer
from sqlalchemy import text
from store_view import add_feedback, dump, events, items, put, view
from test_serving_state import EVERYBODY, LAST_DAY, make, same

from recllm.base.errors import MissingExtraError, StoreError, UsageError
from recllm.base.schema import Slate
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh
from recllm.shop.store.connections import writing
from recllm.shop.store.database import Store
from recllm.shop.workspace.workspace import SETTINGS_FILE, Workspace

MANY = 500
"""More rows than go one by one."""


@pytest.fixture
def url(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("RECLLM_STORE_URL", raising=False)
    return postgres_server.url()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url, create=True)) as opened:
        yield opened


def with_password(url: str, password: str = PASSWORD) -> str:
    return url.replace(f"{ROLE}@", f"{ROLE}:{quote(password, safe='')}@")


def refusal(call, *arguments: object, **options: object) -> str:
    """The one line of a `StoreError`, which says no secret."""
    with pytest.raises(StoreError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and PASSWORD not in message and quote(PASSWORD, safe="") not in message
    return message


def test_reading_sees_one_moment_and_writing_is_durable(store: Store, url: str) -> None:
    names = ("transaction_isolation", "synchronous_commit", "search_path", "client_encoding")

    def shown(connection) -> list[str]:
        return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

    schema = url.rpartition("=")[2]
    with store._engine.connect() as connection, connection.begin():
        assert shown(connection) == ["repeatable read", "off", schema, "UTF8"], "off is this server's default"
    with writing(store._engine) as connection:
        assert shown(connection) == ["read committed", "on", schema, "UTF8"]
    with store._engine.connect() as connection, connection.begin():
        assert shown(connection)[1] == "off"


def test_a_long_load_holds_no_more_locks_than_a_short_one(store: Store) -> None:
    """A server has room for some thousands: a temporary table for each frame would use them up."""

    def locks() -> int | None:
        return load._connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()").scalar()

    with store.load("events", load_id="a", source="test") as load:
        n_locks = []
        for n in range(6):
            load.write(events(list(range(n * MANY // 2, n * MANY // 2 + MANY)), price=[float(n) or None] * MANY))
            n_locks.append(locks())
    assert n_locks[1:] == n_locks[1:2] * 5
    assert view(store).counts()["events"] == 7 * MANY // 2


def test_shops_in_one_database_see_nothing_of_each_other(postgres_server: PostgresServer, store: Store) -> None:
    other = Store.open(postgres_server.url(), create=True)
    put(store, "events", events([1, 2]), "a")
    before = dump(store)
    with store.load("events", load_id="b", source="test") as load:
        load.write(events([3]))
        assert put(other, "events", events([1], user="u9"), "a").accepted == 1, "they do not wait for each other"
    assert view(other).events(())["user_id"].to_list() == ["u9"]
    with writing(other._engine) as connection:
        for table in ("users", "items", "events", "consent", "loads", "meta"):
            connection.execute(text(f"DROP TABLE {table}"))
    assert dump(store)["users"] == before["users"] and len(dump(store)["events"]) == 3
    other.close()


def test_the_schema_is_recllm_unless_named(postgres_server: PostgresServer) -> None:
    url = postgres_server.url().partition("?")[0]
    opened = Store.open(url, create=True)
    put(opened, "items", items(("i1", "Tea")))
    opened.close()
    assert view(Store.open(f"{url}?schema=recllm")).items().height == 1
    for bad in ("pg_shop", "Shop", "a-b", 'x"; DROP SCHEMA recllm', "a&schema=b"):
        assert "is not a name such as" in refusal(Store.open, f"{url}?schema={bad}", create=True)


def test_a_schema_made_beforehand_needs_no_right_to_make_one(postgres_server: PostgresServer) -> None:
    with postgres_server.admin(DATABASE) as connection:
        connection.execute(f"CREATE ROLE clerk LOGIN PASSWORD '{PASSWORD}'")
    url = postgres_server.url("clerks", user="clerk")
    assert "does not allow this to its user" in refusal(Store.open, url, create=True)
    with postgres_server.admin(DATABASE) as connection:
        connection.execute("CREATE SCHEMA clerks AUTHORIZATION clerk")
    opened = Store.open(url, create=True)
    assert put(opened, "items", items(("i1", "Tea"))).accepted == 1
    opened.close()
    strange = postgres_server.url("clerks")
    assert "no tables" in refusal(Store.open, strange), "tables that a user may not read are none of theirs"


def test_each_fault_names_its_remedy(
    postgres_server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(url, create=True).close()
    port = f":{postgres_server.port}"
    for wrong, words in {
        url.replace(port, ":1"): "cannot be reached",
        url.replace("127.0.0.1", "no-such-host.invalid"): "cannot be reached",
        url.replace(f"/{DATABASE}", "/nothing"): "names a database that does not exist",
        url.replace(ROLE, "nobody", 1): "refuses the user or the password",
        with_password(url, "a wrong one"): "refuses the user or the password",
        url + "x": "there is no store",
    }.items():
        message = refusal(Store.open, wrong)
        assert words in message and "a wrong one" not in message
    assert "postgresql+psycopg://shop@127.0.0.1" in refusal(Store.open, with_password(url) + "x")
    monkeypatch.delenv("PGPASSWORD")
    assert "refuses the user or the password" in refusal(Store.open, url)
    for secret_url in (with_password(url), f"{url}&password={quote(PASSWORD, safe='')}"):
        opened = Store.open(secret_url)
        assert PASSWORD not in repr(opened) + repr(opened._engine)


def test_a_unix_socket_and_a_plain_scheme(postgres_server: PostgresServer, url: str) -> None:
    Store.open(url, create=True).close()
    plain = url.replace("+psycopg", "").replace(f"127.0.0.1:{postgres_server.port}", "")
    Store.open(f"{plain}&host={postgres_server.folder}&port={postgres_server.port}").close()


def test_without_the_driver_the_extra_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"recllm\[postgres\]"):
        Store.open(url)


def test_a_database_in_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    with postgres_server.admin() as connection:
        connection.execute(f"CREATE DATABASE latin OWNER {ROLE} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    assert "the database is in LATIN1" in refusal(Store.open, postgres_server.url(database="latin"), create=True)


def test_a_read_only_store_reads_and_refuses_to_write(store: Store, url: str) -> None:
    put(store, "events", events([1]), "a")
    before = dump(store)
    standby = Store.open(f"{url}&options=-cdefault_transaction_read_only%3Don")
    assert view(standby).events().height == 1
    assert "read-only" in refusal(put, standby, "events", events([2]), "b")
    assert dump(store) == before
    standby.close()


@pytest.mark.parametrize("rows", [10, MANY])
def test_a_full_disk_in_the_middle_of_a_load(store: Store, rows: int) -> None:
    """A trigger says what the server says when its disk is full."""
    put(store, "events", events([1, 2]), "a")
    before = dump(store)
    trigger = """
    CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.at >= 9000000000 THEN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER fill BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION fill();
    """
    with writing(store._engine) as connection:
        connection.exec_driver_sql(trigger)

    def load_too_much() -> None:
        with store.load("events", load_id="b", source="test") as load:
            assert load.write(events(list(range(100, 100 + rows)))).accepted == rows
            load.write(events(list(range(9_000 - rows // 2, 9_000 + rows))))

    assert "disk is full; nothing of this change was kept" in refusal(load_too_much)
    assert dump(store) == before
    assert [load.load_id for load in view(store).loads()] == ["a"]
    assert put(store, "events", events(list(range(100, 100 + rows))), "b").accepted == rows


def test_a_restart_between_two_calls_is_not_noticed(postgres_server: PostgresServer, store: Store) -> None:
    put(store, "events", events([1, 2]), "a")
    for number, mode in enumerate(("fast", "immediate")):
        with store.read() as reader:
            assert reader.counts()["events"] == 2 + number
        postgres_server.stop(mode)
        postgres_server.start()
        assert put(store, "events", events([10 + number]), f"b{number}").accepted == 1
        postgres_server.stop(mode)
        postgres_server.start()
    assert view(store).events().height == 4


def test_a_connection_lost_while_reading(postgres_server: PostgresServer, store: Store) -> None:
    put(store, "events", events(list(range(MANY))))

    def read() -> None:
        with store.read() as reader:
            pid = reader._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            with postgres_server.admin() as connection:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            reader.events()

    assert "lost its connection" in refusal(read)
    assert view(store).events().height == MANY


def test_whole_tables_are_read_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows stay with the server until they are asked for."""
    put(store, "events", events(list(range(MANY))))
    with store.read() as reader:
        cursor = reader._cursor(text("SELECT event_no FROM events ORDER BY event_no"), by_key=False)
        assert len(cursor.fetchmany(3)) == 3
        assert reader._connection.exec_driver_sql("SELECT count(*) FROM pg_cursors").scalar() == 1
        cursor.close()
        assert reader.events().height == MANY
        assert reader._connection.exec_driver_sql("SELECT count(*) FROM pg_cursors").scalar() == 0


@pytest.fixture
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pseudonyms are the same in every workspace."""
    monkeypatch.setenv("RECLLM_KEY", "the key of both workspaces")


def test_a_workspace_keeps_its_rows_in_postgresql(url: str, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", store=url) as made:
        put(made.store(), "items", items(("i1", "Tea")))
    with Workspace.open(tmp_path / "shop") as opened:
        assert opened.settings.store == url and view(opened.store()).items()["title"].to_list() == ["Tea"]
    assert not (tmp_path / "shop" / "store.sqlite").exists()
    message = refusal(Workspace.create, tmp_path / "other", store=url)
    assert "belongs to another workspace" in message and not (tmp_path / "other" / SETTINGS_FILE).exists()
    with Workspace.create(tmp_path / "third", store=url + "_3") as third:
        assert view(third.store()).items().height == 0


def test_two_folders_with_one_key_share_a_store(url: str, tmp_path: Path, one_key: None) -> None:
    with (
        Workspace.create(tmp_path / "trains", store=url) as first,
        Workspace.create(tmp_path / "s", store=url) as second,
    ):
        put(first.store(), "items", items(("i1", "Tea")))
        assert view(second.store()).items().height == 1


def test_no_password_is_written_or_said(
    url: str, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = quote(PASSWORD, safe="")
    texts = []
    for wrong in (with_password(url), f"{url}&password={secret}", with_password(url) + "#/@x"):
        texts += run("init", "-w", "shop", "--store", wrong)[1:] + run("explain", "--set", f"store={wrong}")[1:]
        with pytest.raises(UsageError, match="holds a password") as caught:
            Workspace.create(tmp_path / "shop", store=wrong)
        texts.append(str(caught.value))
        assert not (tmp_path / "shop").exists()
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("RECLLM_STORE_URL", with_password(url))
    code, *made = run("init", "-w", "shop", "--json")
    assert code == 0 and json.loads(made[0])["settings"]["store"] == url
    code, *shown = run("settings", "-w", "shop")
    assert code == 0 and f"store = {url}  (RECLLM_STORE_URL; default none)" in shown[0]
    texts += [*made, *shown, *run("-v", "explain", "-w", "shop")[1:]]
    with Workspace.open(tmp_path / "shop") as opened:
        texts += [repr(opened), repr(opened.settings), repr(opened.store()), str(opened.__dict__)]
    monkeypatch.setenv("RECLLM_STORE_URL", with_password(url, "a wrong one"))
    code, _, said = run("explain", "-w", "shop")
    assert code == 1 and "refuses the user or the password" in said
    monkeypatch.delenv("RECLLM_STORE_URL")
    code, _, said_without = run("explain", "-w", "shop")
    assert code == 1 and "refuses the user or the password" in said_without
    texts += [said, said_without, caplog.text, *(p.read_text() for p in (tmp_path / "shop").rglob("*") if p.is_file())]
    assert not [t for t in texts if PASSWORD in t or secret in t or "a wrong one" in t or "a%20wrong" in t]
    logging.getLogger("recllm").handlers.clear()


def test_the_variable_stands_above_the_file(
    postgres_server: PostgresServer, url: str, tmp_path: Path, one_key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.create(tmp_path / "shop", store=url).close()
    elsewhere = postgres_server.url()
    monkeypatch.setenv("RECLLM_STORE_URL", elsewhere)
    with Workspace.open(tmp_path / "shop") as opened:
        assert opened.settings.store == elsewhere
        assert "no tables" in refusal(opened.store)
    for wrong in ("store.sqlite", "mysql://u:secret@host/db", "://"):
        monkeypatch.setenv("RECLLM_STORE_URL", wrong)
        with pytest.raises(UsageError, match="RECLLM_STORE_URL cannot be used") as caught:
            Workspace.open(tmp_path / "shop")
        assert "secret" not in str(caught.value)


def test_a_password_in_the_file_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    Workspace.create(tmp_path, store=url).close()
    table = {"key_fingerprint": "0", "store": with_password(url)}
    (tmp_path / SETTINGS_FILE).write_text(tomli_w.dumps(table))
    assert "holds a password" in refusal(Workspace.open, tmp_path)


def test_a_trained_shop_answers_as_on_sqlite(url: str, tmp_path: Path, one_key: None) -> None:
    """Also after purchases of later, which are read by person, and after a refresh."""
    shops = [make(tmp_path / name, "en", True, True, store=store) for name, store in (("lite", None), ("server", url))]
    frames = [view(shop.store()).events() for shop in shops]
    assert frames[0].equals(frames[1]), "in one order, too"
    slates: list[dict[str, list[Slate]]] = []
    for shop in shops:
        answers = {"trained": open_recommender(shop).recommend(EVERYBODY, k=5)}
        for user in ("u01", "nobody"):
            add_feedback(shop, user, "tools-3", "purchase", price=5.0, timestamp=LAST_DAY)
        answers["bought"] = open_recommender(shop).recommend(EVERYBODY, k=5)
        refresh(shop)
        answers["refreshed"] = open_recommender(shop).recommend(EVERYBODY, k=5)
        slates.append(answers)
        shop.close()
    for stage, lite in slates[0].items():
        for one, other in zip(lite, slates[1][stage], strict=True):
            same(one, other)
    changed = [[i.item_id for i in slate.items] for slate in slates[0]["bought"]]
    assert changed != [[i.item_id for i in slate.items] for slate in slates[0]["trained"]]
