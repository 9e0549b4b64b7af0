"""The writer beside the ledger: its order, its groups, its bounds, and how it ends."""

import threading
from collections.abc import Callable, Iterator

import apsw
import pytest

from sync.errors import LedgerUnavailable
from sync.group_commit import QUEUE_MAX, Writer


class Groups:
    """Counts the groups that began and that were committed."""

    def __init__(self) -> None:
        self.begun = self.committed = 0

    def begin(self) -> None:
        self.begun += 1

    def commit(self) -> None:
        self.committed += 1


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE numbers (value UNIQUE)")
    yield connection
    connection.close()


@pytest.fixture
def groups() -> Groups:
    return Groups()


@pytest.fixture
def writer(connection: apsw.Connection, groups: Groups) -> Iterator[Writer]:
    writer = Writer(connection, "test", groups.begin, groups.commit)
    yield writer
    writer.close()


def count(connection: apsw.Connection) -> object:
    return connection.execute("SELECT count(*) FROM numbers").get


def test_jobs_that_wait_share_a_transaction_in_their_order(
    connection: apsw.Connection, groups: Groups, writer: Writer
) -> None:
    go = threading.Event()
    first = writer.submit(go.wait)
    order: list[int] = []
    rest = [writer.submit(lambda number=number: order.append(number)) for number in range(100)]  # type: ignore[misc]
    go.set()
    assert first.result()
    rest[-1].result()
    assert order == list(range(100))
    assert groups.committed <= 2


def test_nothing_is_told_before_the_commit(groups: Groups, writer: Writer) -> None:
    for number in range(1, 51):
        writer.submit(lambda: None).result()
        assert groups.begun == groups.committed == number


def test_a_refusal_reaches_its_caller_only(connection: apsw.Connection, writer: Writer) -> None:
    def refuse() -> None:
        raise ValueError("field: no")

    futures = [writer.submit(insert(connection, 1)), writer.submit(refuse), writer.submit(insert(connection, 2))]
    with pytest.raises(ValueError, match="field: no"):
        futures[1].result()
    futures[2].result()
    assert count(connection) == 2


def test_a_failed_write_undoes_its_group_and_ends_the_writer(connection: apsw.Connection, writer: Writer) -> None:
    go = threading.Event()
    writer.submit(go.wait)
    group = [writer.submit(insert(connection, number)) for number in (1, 2, 2, 3)]
    go.set()
    for future in group:
        with pytest.raises(LedgerUnavailable, match=r"test: writing failed .*restart the box"):
            future.result()
    with pytest.raises(LedgerUnavailable, match="restart the box"):
        writer.submit(insert(connection, 9))
    with pytest.raises(LedgerUnavailable, match="restart the box"):
        writer.check()
    writer.failed.result(timeout=10)
    assert count(connection) == 0


def test_a_busy_file_is_refused_and_tried_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("busy") / "file.db")
    connection, other = apsw.Connection(path), apsw.Connection(path)
    connection.execute("CREATE TABLE numbers (value UNIQUE)")
    writer = Writer(connection, "test", lambda: None, lambda: None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailable, match="not recorded"):
        writer.submit(insert(connection, 1)).result()
    with pytest.raises(LedgerUnavailable, match="not recorded"):
        writer.check()
    other.execute("COMMIT")
    writer.submit(insert(connection, 1)).result()
    writer.check()
    writer.close()
    connection.close()
    other.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_a_job_leaves_nobody_waiting(connection: apsw.Connection, writer: Writer) -> None:
    go = threading.Event()

    def fail() -> None:
        go.wait()
        raise ZeroDivisionError

    futures = [writer.submit(fail)] + [writer.submit(insert(connection, number)) for number in range(600)]
    go.set()
    for future in futures:
        with pytest.raises(LedgerUnavailable, match="its writer has failed"):
            future.result(timeout=10)
    writer.failed.result(timeout=10)
    assert count(connection) == 0


def test_the_queue_is_bounded(connection: apsw.Connection, writer: Writer) -> None:
    go = threading.Event()
    started = threading.Event()

    def hold() -> None:
        started.set()
        go.wait()

    writer.submit(hold)
    started.wait()
    futures = [writer.submit(lambda: None) for _ in range(QUEUE_MAX)]
    with pytest.raises(LedgerUnavailable, match=f"{QUEUE_MAX} calls wait"):
        writer.submit(lambda: None)
    go.set()
    futures[-1].result()
    writer.submit(lambda: None).result()


def test_closing_ends_what_waits_and_may_be_repeated(connection: apsw.Connection, writer: Writer) -> None:
    futures = [writer.submit(insert(connection, number)) for number in range(50)]
    writer.close()
    assert all(future.done() for future in futures)
    assert count(connection) == 50
    writer.close()
    with pytest.raises(LedgerUnavailable, match="it is closed"):
        writer.submit(lambda: None)
    assert not writer.failed.done()


def insert(connection: apsw.Connection, value: int) -> Callable[[], None]:
    """The job that inserts `value`."""

    def job() -> None:
        connection.execute("INSERT INTO numbers VALUES (?)", (value,))

    return job
