"""Group commit: one writer thread runs all jobs that wait in one transaction, so that the disk syncs once for them.

A lone job waits for nobody; while the disk syncs, the next group gathers by itself.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import apsw

from sync.errors import LedgerUnavailable

QUEUE_MAX = 4096  # jobs waiting for the disk
GROUP_MAX = 512  # jobs in one transaction
PROBE_S = 5  # after a disk that was full, how long until it is tried again

_T = TypeVar("_T")
_Job = tuple[Callable[[], Any], "Future[Any]"]
_CLOSED = "it is closed"
_FAILED = "its writer has failed; restart the box and read its log"


class Writer:
    """Runs jobs on one connection from a thread of its own, in the order they were submitted.

    A job checks first and writes then: a ValueError from it means nothing of it was written, and spares its neighbours.

    `failed` is done once the writer has failed for good: nothing more is written on this connection.
    """

    def __init__(
        self, connection: apsw.Connection, name: str, begin: Callable[[], None], committed: Callable[[], None]
    ) -> None:
        """`begin` is called before the jobs of a group, `committed` once they are durable; both in the thread."""
        self._connection, self._name, self._begin, self._committed = connection, name, begin, committed
        self._queue: queue.Queue[_Job | None] = queue.Queue(QUEUE_MAX)
        self._gate = threading.Lock()
        self._stopped: str | None = None  # why no more jobs are taken
        self._refused: str | None = None  # why the last group was not written, though another may be
        self.failed: Future[None] = Future()
        self.failed.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], _T]) -> "Future[_T]":
        """Resolves when what the job wrote is durable; cannot be cancelled. Raises LedgerUnavailable."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()  # From here on cancel() has no effect.
        with self._gate:
            if self._stopped:
                raise LedgerUnavailable(f"{self._name}: {self._stopped}")
            try:
                self._queue.put_nowait((job, future))
            except queue.Full:
                raise LedgerUnavailable(f"{self._name}: {QUEUE_MAX} calls wait for the disk; send fewer") from None
        return future

    def check(self) -> None:
        """Raises LedgerUnavailable when nothing can be written: for good, or until the next write succeeds.

        While that is so, a small write is tried every PROBE_S, so that it ends without a job too.
        """
        if why := self._stopped or self._refused:
            raise LedgerUnavailable(f"{self._name}: {why}")

    def close(self) -> None:
        """Writes what waits; takes no more from the call on."""
        with self._gate:
            self._stopped = self._stopped or _CLOSED
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            while (jobs := self._gather()) is not None and self._commit(jobs):
                pass
        finally:
            with self._gate:
                self._stopped = self._stopped or _FAILED
                while not self._queue.empty():
                    if item := self._queue.get_nowait():
                        item[1].set_exception(LedgerUnavailable(f"{self._name}: {self._stopped}"))
            if self._stopped != _CLOSED:
                self.failed.set_result(None)

    def _gather(self) -> list[_Job] | None:
        """Waits for a job, then takes all that wait with it; no job when it is time to probe, None when closing."""
        jobs: list[_Job] = []
        try:
            item = self._queue.get(timeout=PROBE_S if self._refused else None)
        except queue.Empty:
            return jobs
        while item:
            jobs.append(item)
            if len(jobs) == GROUP_MAX or self._queue.empty():
                return jobs
            item = self._queue.get_nowait()
        if jobs:
            self._queue.put(None)  # The end was met while taking others along: meet it again.
        return jobs or None

    def _commit(self, jobs: list[_Job]) -> bool:
        """Nobody hears of success before the disk has synced, and everybody of a failure. False: cannot go on."""
        alive, failure = False, _FAILED
        try:
            outcomes = self._transact(jobs)
        except (apsw.FullError, apsw.BusyError) as error:
            alive = True
            failure = f"not recorded ({error}); free some disk space, and close what else has the file open"
            self._refused = failure
        except apsw.Error as error:
            # After a failed write or sync the kernel may have dropped what it held: only a restart knows the truth.
            failure = self._stopped = f"writing failed ({error}); check the disk, then restart the box"
        else:
            alive, self._refused = True, None
            for (_, future), outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome, ValueError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        finally:
            for _, future in jobs:
                if not future.done():
                    future.set_exception(LedgerUnavailable(f"{self._name}: {failure}"))
        return alive

    def _transact(self, jobs: list[_Job]) -> list[Any]:
        """What each job returned, or the ValueError it refused with."""
        outcomes: list[Any] = []
        self._begin()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if self._refused:  # Writes a page also when no job does: only the disk can say that it takes writes again.
                self._connection.execute("PRAGMA user_version = 0")
            for job, _ in jobs:
                try:
                    outcomes.append(job())
                except ValueError as error:
                    outcomes.append(error)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._committed()
        return outcomes
