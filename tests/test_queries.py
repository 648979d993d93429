"""`recllm ingest --sql` against databases as shops have them: the new rows, once, whatever ends the load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import polars as pl
import pytest
import sqlalchemy as sa
from conftest import Command
from postgres_server import DATABASE, PASSWORD, ROLE
from store_view import view

from recllm.base.errors import MissingExtraError, UsageError
from recllm.shop.ingest.query import Query, open_database, read_query
from recllm.shop.workspace.workspace import Workspace

SECRET = "s3cret: /@?%"
ORDERS = """
    SELECT customer AS user_id, sku AS item_id, 'purchase' AS event, sold_at AS timestamp, qty AS quantity, price
    FROM orders WHERE sku NOT LIKE '%a :colon' -- the end
"""
KILLED = """
import os, signal, sys
from recllm.doors.cli.main import main
from recllm.shop.store.database import Store
Store.keep_mark = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["recllm", *sys.argv[1:]]
main()
"""


ARGUMENTS = "ingest --sql env:SHOP_DB --query orders.sql --table events -w shop --json --read tz=UTC".split()  # noqa: SIM905
Sell = Callable[..., None]


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The address of a database on a server of its own, where Debian's package is installed."""
    server, client = shutil.which("mariadbd", path="/usr/sbin:/usr/bin"), shutil.which("mariadb")
    if server is None or client is None:
        pytest.skip("no MariaDB: apt-get install mariadb-server")
    with TemporaryDirectory(prefix="recllm-my-") as folder:  # a short path: a socket's name has a limit
        own = ["--no-defaults", f"--datadir={folder}/data", "--user=root"]
        install = ["mariadb-install-db", *own, "--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, capture_output=True)
        command = [server, *own, f"--socket={folder}/s", "--skip-networking"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        grants = f"CREATE DATABASE shops; GRANT ALL ON shops.* TO shop@localhost IDENTIFIED BY '{SECRET}'"
        call = [client, "--no-defaults", f"--socket={folder}/s", "--user=root", "-e", grants]
        while subprocess.run(call, capture_output=True).returncode and process.poll() is None:
            time.sleep(0.1)
        yield f"mysql://shop:{quote(SECRET, safe='')}@localhost/shops?unix_socket={folder}/s"
        process.terminate()
        process.wait()


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def sell(request: pytest.FixtureRequest, shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sell]:
    """Inserts orders into a database, whose address is in the environment."""
    url, driver, time_type = f"sqlite:///{shop.parent}/shop of others.db", "sqlite", "TEXT"
    if request.param == "postgresql":
        port = request.getfixturevalue("postgres_server").port
        url = f"postgresql://{ROLE}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{DATABASE}"
        driver, time_type = "postgresql+psycopg", "TIMESTAMP"
    elif request.param == "mysql":
        url, driver, time_type = request.getfixturevalue("mariadb"), "mysql+pymysql", "TIMESTAMP"
    columns = f"customer VARCHAR(40), sku VARCHAR(40), sold_at {time_type} NULL, qty INT, price DECIMAL(8, 2)"
    monkeypatch.setenv("SHOP_DB", url)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    (shop.parent / "orders.sql").write_text(ORDERS)
    engine = sa.create_engine(sa.make_url(url).set(drivername=driver))

    def insert(*rows: str, before: str = "") -> None:
        with engine.begin() as connection:
            for statement in (before, *(f"INSERT INTO orders VALUES ({row})" for row in rows)):  # noqa: S608
                if statement:
                    connection.exec_driver_sql(statement)

    insert(before=f"CREATE TABLE orders ({columns})")
    yield insert
    insert(before="DROP TABLE orders")
    engine.dispose()


def test_the_new_rows_of_a_database_count_once_whatever_ends_the_load(
    sell: Sell, shop: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*more: str) -> tuple[int, ...]:
        code, out, err = command(*ARGUMENTS, "--since", "timestamp", *more)
        assert code == 0, err
        report = json.loads(out)
        return tuple(report[name] for name in ("read", "accepted", "duplicates", "quarantined"))

    sell("'ann', 'tea', '2026-03-01 10:00:00', 2, 12.50", "'bob', 'mug', '2026-03-02 10:00:00', 1, 7")
    sell("'cas', '', '2026-03-01 11:00:00', 1, 1", "'dan', 'a :colon', '2026-03-01 12:00:00', 1, 1")
    assert load("--dry-run") == (3, 2, 0, 1)
    arguments = [sys.executable, "-c", KILLED, *ARGUMENTS, "--since", "timestamp"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    assert subprocess.run(arguments, capture_output=True).returncode == -9
    assert load() == (3, 0, 2, 1)
    assert load() == (1, 0, 1, 0)
    # one of the same instant, one later, one without a time, and one of a wrong clock, which hides nothing
    sell("'bob', 'tea', '2026-03-02 10:00:00', 1, 9", "'ann', 'mug', '2026-03-03 10:00:00', 1, 7")
    sell("'eve', 'mug', NULL, 1, 7", "'eve', 'mug', '2035-01-01 10:00:00', 1, 7")
    assert load()[:3] == (5, 2, 1)
    sell("'ann', 'tea', '2026-03-04 10:00:00', 1, 9")
    assert load() == (4, 1, 1, 2)
    assert not list((shop / "uploads").iterdir())
    with Workspace.open(shop) as workspace:
        prices = view(workspace.store()).events().filter(pl.col("price").is_not_null())["price"]
        assert 12.5 in prices.to_list()


def test_a_query_changes_nothing_and_shows_no_password(
    sell: Sell, shop: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell("'ann', 'tea', '2026-03-01 10:00:00', 2, 12.50")
    said = []
    deleted = "DELETE FROM orders", "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone"
    for text in (*deleted, "SELECT nothing FROM orders", "", "SELECT 1; DROP TABLE orders", "COMMIT"):
        (shop.parent / "orders.sql").write_text(text)
        code, out, err = command(*ARGUMENTS)
        assert code != 0 and "Traceback" not in err
        said.append(out + err)
    (shop.parent / "orders.sql").write_text(ORDERS)
    for column, why in (("user_id", "names people"), ("item_id", "is no column of times"), ("x", "no such column")):
        code, out, err = command(*ARGUMENTS, "--since", column)
        assert code == 2 and why in err
        said.append(out + err)
    assert command(*ARGUMENTS)[0] == 0
    url = sa.make_url(os.environ["SHOP_DB"])
    if url.password is None:
        return
    monkeypatch.setenv("SHOP_DB", url.set(username="x").render_as_string(hide_password=False))
    said.append(command(*ARGUMENTS)[2])
    kept = b"".join(file.read_bytes() for file in shop.rglob("*") if file.is_file())
    for secret in (url.password, quote(url.password, safe="")):
        assert secret not in "".join(said) and secret.encode() not in kept
    assert url.password not in repr(Query(url=url, name="orders", text=ORDERS))


def test_parquet_on_disk_and_in_s3_is_read_by_duckdb(
    shop: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3, server, _ = (pytest.importorskip(name) for name in ("boto3", "moto.server", "duckdb"))
    at = pl.Series(["2026-03-01 10:00:00", "2026-03-02 10:00:00"]).str.to_datetime(time_zone="UTC")
    orders = pl.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "mug"], "event": "purchase", "timestamp": at})
    orders.write_parquet("1.parquet")
    storage = server.ThreadedMotoServer(port=0, verbose=False)
    storage.start()
    host, port = storage.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("SHOP_DB", "duckdb://")
    client = boto3.client("s3")
    client.create_bucket(Bucket="lake")
    client.upload_file("1.parquet", "lake", "1.parquet")
    for source, counts in (("*.parquet", (2, 2)), ("s3://lake/*.parquet", (2, 0)), ("s3://lake/*.parquet", (1, 0))):
        (shop.parent / "orders.sql").write_text(f"SELECT * FROM '{source}'")  # noqa: S608 - of this test
        code, out, err = command(*ARGUMENTS, "--since", "timestamp")
        assert code == 0, err
        assert (json.loads(out)["read"], json.loads(out)["accepted"]) == counts
    storage.stop()
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in shop.rglob("*") if file.is_file())


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "orders.sql"
    file.write_text(ORDERS)
    for address in ("orders.db", "env:NOWHERE", "oracle://me@db/shop"):
        with pytest.raises(UsageError, match="--sql"):
            open_database(read_query(address, file))
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(MissingExtraError, match=r"recllm\[mysql\]"):
        open_database(read_query("mysql://me@db/shop", file))
    for arguments in ((), ("x.csv", "--since", "at"), ("--sql", "sqlite:///x.db"), ("x.csv", "--sql", "sqlite:///x")):
        code, _, err = command("ingest", *arguments, "-w", "shop")
        assert code == 2 and "--sql" in err
