"""A real PostgreSQL server of its own for a run of the tests, in a temporary folder, on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

ROLE, PASSWORD, DATABASE = "shop", "a secret: /@?%", "shops"
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = '{folder}'
port = {port}
shared_buffers = 64MB
max_connections = 50
# a load has to be durable where the server's default is not
synchronous_commit = off
# processes crash in these tests, and no machine does: what they wrote is in the system's memory, which needs no disk
fsync = off
full_page_writes = off
# the wording of errors must not matter to the program, and a person should be able to read them here
lc_messages = 'C'
"""


def find_binaries() -> Path | None:
    """The folder of initdb and pg_ctl: of PATH, else the newest one that a Debian package installs."""
    if path := shutil.which("pg_ctl"):
        return Path(path).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")]
    return max(folders, key=lambda folder: float(folder.parent.name), default=None)


class PostgresServer:
    """Owned by an unprivileged user, as PostgreSQL refuses to run as root. `ROLE` owns `DATABASE` and nothing else."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="recllm-pg-"))  # a short path: a socket's name has a limit
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            import pwd

            user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
            self._as_user = ["runuser", "-u", user, "--"]
            shutil.chown(self.folder, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._data = self.folder / "data"
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = [
            "--username=admin",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]
        self._run("initdb", "--no-sync", *initdb, "-D", str(self._data))
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION.format(folder=self.folder, port=self.port))
        self.start()
        from psycopg import sql

        with self.admin() as connection:
            secret_text = sql.Literal(PASSWORD)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), secret_text))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*map(sql.Identifier, (DATABASE, ROLE))))

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-s", "-D", str(self._data), "-l", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """mode: "fast" ends every session, "immediate" is a crash."""
        self._run("pg_ctl", "stop", "-w", "-s", "-D", str(self._data), "-m", mode)

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def admin(self, database: str = "postgres") -> psycopg.Connection:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="admin", password=PASSWORD, dbname=database, autocommit=True
        )

    def url(self, schema: str | None = None, *, user: str = ROLE, database: str = DATABASE) -> str:
        """Of a schema without tables, unless named; without a password, which is in PGPASSWORD during the tests."""
        schema = schema or f"t{uuid.uuid4().hex[:12]}"
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}?schema={schema}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._binaries / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stdout}")
