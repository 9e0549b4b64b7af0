"""What proves a fork: two segments signed by one key that say different things of one record.

Of every segment that brought records only the signature is kept beside them; its bytes are deterministic, so they are
put together again when they are needed.
"""

from dataclasses import dataclass

from sync.node import records
from sync.node.database import Connection
from sync.node.devices import Epoch
from sync.segment import Segment, SignedSegment


@dataclass(frozen=True)
class Fork:
    """`seq` is the first record of which the two differ; the older segment is None where none was taken that far."""

    seq: int
    older: SignedSegment | None
    newer: SignedSegment


def keep_signature(connection: Connection, segment: Segment, signed: SignedSegment) -> None:
    """Of a segment that brought records."""
    connection.execute(
        "insert into segments values (%s, %s, %s, %s, %s, %s)",
        (segment.device, segment.epoch, segment.first, segment.last, segment.lease, signed.signature),
    )


def keep_fork(connection: Connection, epoch: Epoch, seq: int, signed: SignedSegment, now_ms: int) -> None:
    """`signed` contradicts at record `seq` what was taken before. At most two segments for an epoch."""
    older = _taken(connection, epoch, seq)
    connection.execute(
        "insert into forks (device, epoch, seq, before_payload, before_signature, payload, signature, found_ms)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
        (
            epoch.device,
            epoch.epoch,
            seq,
            older and older.payload,
            older and older.signature,
            signed.payload,
            signed.signature,
            now_ms,
        ),
    )


def find_fork(connection: Connection, device: bytes, epoch: int) -> Fork | None:
    row = connection.execute(
        "select seq, before_payload, before_signature, payload, signature from forks where device = %s and epoch = %s",
        (device, epoch),
    ).fetchone()
    if row is None:
        return None
    seq, payload, signature, *newer = row
    return Fork(seq or 0, SignedSegment(payload, signature) if payload else None, SignedSegment(*newer))


def _taken(connection: Connection, epoch: Epoch, seq: int) -> SignedSegment | None:
    """The segment that brought record `seq`."""
    row = connection.execute(
        "select first, last, lease, signature from segments where device = %s and epoch = %s and last >= %s"
        " order by last limit 1",
        (epoch.device, epoch.epoch, max(seq, 1)),
    ).fetchone()
    if row is None:
        return None
    first, last, lease, signature = row
    run = connection.execute(
        "select canonical from records where device = %s and epoch = %s and seq between %s and %s order by seq",
        (epoch.device, epoch.epoch, first, last),
    ).fetchall()
    before, after = (records.link_at(connection, epoch.device, epoch.epoch, at) for at in (first - 1, last))
    segment = Segment(epoch.device, epoch.epoch, first, before, after, tuple(data for (data,) in run), lease)
    return SignedSegment(segment.to_bytes(), signature)
