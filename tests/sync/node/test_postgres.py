"""The embedded server outlives nothing and loses nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from sync.node import postgres as module
from sync.node.errors import NodeError
from sync.node.postgres import LOG_BYTES_MAX, Postgres


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.02)


def write(postgres: Postgres, value: int) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("create table if not exists kept (value integer)")
        connection.execute("insert into kept values (%s)", (value,))


def read(postgres: Postgres) -> list[int]:
    with psycopg.connect(postgres.dsn) as connection:
        return [row[0] for row in connection.execute("select value from kept order by value")]


def answers(postgres: Postgres) -> bool:
    try:
        psycopg.connect(postgres.dsn).close()
    except psycopg.OperationalError:
        return False
    return True


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_life_of_a_server(tmp_path: Path) -> None:
    """One test, because each new cluster takes a second: deep folder, stop, foreign mark, kill, crash of the node."""
    folder = tmp_path / ("a" * 60) / ("b" * 60)  # deeper than a socket's path may be
    folder.mkdir(parents=True)
    postgres = Postgres(folder / "postgres", 4)
    postgres.start()
    write(postgres, 1)
    first = postgres.pid
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)
    postgres.stop()
    postgres.stop()
    assert not runs(first)

    # A mark left by a crash, whose number a process of the same user has now: PostgreSQL alone would refuse to start.
    with subprocess.Popen([*postgres._prefix, "sleep", "600"]) as foreign:
        mark = folder / "postgres" / "data" / "postmaster.pid"
        mark.write_text(f"{foreign.pid}\n{folder}\n1\n5432\n\n\n1 1\nready\n")
        postgres = Postgres(folder / "postgres", 4)
        try:
            postgres.start()
            assert foreign.poll() is None
        finally:
            foreign.kill()
    assert read(postgres) == [1]

    # Killed, it comes back by itself.
    killed = postgres.pid
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: postgres.pid != killed and answers(postgres))
    assert read(postgres) == [1]
    write(postgres, 2)
    postgres.stop()

    # A node killed while it serves takes its server along, and the next one starts on the same data.
    script = (
        "import sys, time; from pathlib import Path; from sync.node.postgres import Postgres\n"
        "postgres = Postgres(Path(sys.argv[1]), 4); postgres.start(); print(postgres.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(folder / "postgres")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        orphan = int(node.stdout.readline())
        node.kill()
    postgres = Postgres(folder / "postgres", 4)
    postgres.start()
    assert not runs(orphan)
    assert read(postgres) == [1, 2]
    postgres.stop()


def test_a_server_that_outlived_its_node_is_ended(tmp_path: Path) -> None:
    """As when the death signal is lost: the second server object finds the first's process still running."""
    first = Postgres(tmp_path / "postgres", 4)
    first.start()
    first._stopping.set()  # its watcher must not bring it back
    second = Postgres(tmp_path / "postgres", 4)
    second.start()
    assert not runs(first.pid) and runs(second.pid)
    first.stop()
    assert answers(second)
    second.stop()


def test_a_cluster_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    (folder / "data").mkdir(parents=True)
    with pytest.raises(NodeError, match="its log"):
        Postgres(folder, 4).start()


@pytest.mark.parametrize("failure", [None, OSError("no more processes")])
def test_a_server_that_keeps_dying_is_given_up_and_said_to_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError | None
) -> None:
    monkeypatch.setattr(module, "RESTART_WAITS_S", (0, 0, 0))
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda thrown: told.append(thrown.exc_value))
    server = Postgres(tmp_path / "postgres", 4)
    server.start()
    spawned = 0

    def spawn() -> None:
        nonlocal spawned
        spawned += 1
        if failure is not None:
            raise failure
        server._process = subprocess.Popen(["false"])

    monkeypatch.setattr(server, "_spawn", spawn)
    os.kill(server.pid, signal.SIGKILL)
    server.lost.result(timeout=60)
    assert (spawned, told) == ((3, []) if failure is None else (1, [failure]))
    server.stop()


def test_a_server_that_is_stopped_is_not_lost(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", 4)
    server.start()
    server.stop()
    assert not server.lost.done()


def test_a_disk_that_is_full_for_ten_seconds_is_outlasted() -> None:
    """Deaths on a full disk come at once, so the waits alone decide how long."""
    assert sum(module.RESTART_WAITS_S) > 30


def test_the_servers_log_stays_within_its_bound_while_it_runs(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", 4)
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("do $$ begin for n in 1..600 loop raise log '% %', n, repeat('x', 10000); end loop; end $$")
    postgres.stop()
    files = sorted((tmp_path / "postgres").glob("postgres.log*"))
    assert [path.name for path in files] == ["postgres.log", "postgres.log.1"]
    assert sum(path.stat().st_size for path in files) <= LOG_BYTES_MAX
    text = "".join(path.read_text() for path in reversed(files))
    assert "LOG:  600 xxx" in text and "LOG:  1 xxx" not in text
    assert "database system is shut down" in text
