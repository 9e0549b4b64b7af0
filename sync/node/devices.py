"""Devices and their epochs: whose a box is, the key it signs with, and how far its records are taken."""

from dataclasses import dataclass

from psycopg.rows import class_row

from sync.node.database import Connection
from sync.node.errors import Refusal
from sync.record import FIRST_LINK


@dataclass(frozen=True)
class Epoch:
    device: bytes
    epoch: int
    customer: str
    public_key: bytes
    acked: int
    link: bytes
    used_ms: int
    seen_ms: int
    told_ms: int  # on its last receipt; a box takes none that is older
    frozen_ms: int | None
    retired_ms: int | None
    newest: bool

    @property
    def creditable(self) -> bool:
        """Of any other the records are still taken, but it gets no new credit."""
        return self.newest and self.retired_ms is None


_EPOCH = (
    "select epochs.device, epoch, customer, public_key, acked, link, used_ms, seen_ms, told_ms, frozen_ms, retired_ms,"
    " not exists (select from epochs later where later.device = epochs.device and later.epoch > epochs.epoch) as newest"
    " from epochs join devices on devices.id = epochs.device where epochs.device = %s"
)


def find(connection: Connection, device: bytes, epoch: int) -> Epoch | None:
    with connection.cursor(row_factory=class_row(Epoch)) as cursor:
        return cursor.execute(f"{_EPOCH} and epoch = %s", (device, epoch)).fetchone()


def find_newest(connection: Connection, device: bytes) -> Epoch | None:
    with connection.cursor(row_factory=class_row(Epoch)) as cursor:
        return cursor.execute(f"{_EPOCH} order by epoch desc limit 1", (device,)).fetchone()


def lock(connection: Connection, device: bytes) -> None:
    """Until the transaction ends, nobody else takes this device's records."""
    connection.execute("select 1 from devices where id = %s for no key update", (device,))


def begin_epoch(connection: Connection, device: bytes, customer: str, public_key: bytes, now_ms: int) -> int:
    """The number of the new epoch; the first is 1. Raises Refusal when the device is another customer's."""
    connection.execute("insert into devices values (%s, %s, %s) on conflict do nothing", (device, customer, now_ms))
    lock(connection, device)
    row = connection.execute("select customer from devices where id = %s", (device,)).fetchone()
    assert row is not None
    if row[0] != customer:
        raise Refusal(409, "device_taken", "device: belongs to another customer; ask for a code of that customer")
    row = connection.execute(
        "insert into epochs (device, epoch, public_key, link, used_ms, seen_ms, enrolled_ms)"
        " select %(device)s, coalesce(max(epoch), 0) + 1, %(key)s, %(link)s, %(now)s, %(now)s, %(now)s"
        " from epochs where device = %(device)s returning epoch",
        {"device": device, "key": public_key, "link": FIRST_LINK, "now": now_ms},
    ).fetchone()
    assert row is not None
    return int(row[0])


def advance(connection: Connection, head: Epoch) -> None:
    """Stores the head of the epoch's records."""
    connection.execute(
        "update epochs set acked = %s, link = %s, used_ms = %s where device = %s and epoch = %s",
        (head.acked, head.link, head.used_ms, head.device, head.epoch),
    )


def see(connection: Connection, device: bytes, epoch: int, now_ms: int, told_ms: int) -> None:
    """A segment of it was taken, and its receipt says that it is `told_ms`."""
    connection.execute(
        "update epochs set seen_ms = %s, told_ms = %s, refused = null, refused_ms = null"
        " where device = %s and epoch = %s",
        (now_ms, told_ms, device, epoch),
    )


def refuse(connection: Connection, device: bytes, epoch: int, reason: str, now_ms: int) -> bool:
    """Notes why a segment that the box signed was refused, until one is taken; whether that is news."""
    noted = connection.execute(
        "update epochs set refused = %(reason)s, refused_ms = %(now)s"
        " where device = %(device)s and epoch = %(epoch)s and refused is distinct from %(reason)s",
        {"reason": reason, "now": now_ms, "device": device, "epoch": epoch},
    )
    return noted.rowcount > 0


def freeze(connection: Connection, epoch: Epoch, now_ms: int) -> None:
    """Takes nothing more of this epoch."""
    connection.execute(
        "update epochs set frozen_ms = %s where device = %s and epoch = %s", (now_ms, epoch.device, epoch.epoch)
    )


def retire(connection: Connection, device: bytes, now_ms: int) -> Epoch:
    """The operator says that the box is gone, until it enrols again. The same again changes nothing. Raises Refusal."""
    lock(connection, device)
    connection.execute(
        "update epochs set retired_ms = %(now)s where device = %(device)s and retired_ms is null"
        " and epoch = (select max(epoch) from epochs where device = %(device)s)",
        {"now": now_ms, "device": device},
    )
    retired = find_newest(connection, device)
    if retired is None:
        raise Refusal(404, "unknown_device", "there is no such device: `nukkad node devices` names them")
    return retired


def count_alive(connection: Connection, customer: str, since_ms: int) -> int:
    """Devices of the customer that were heard of since then and whose newest epoch is neither frozen nor retired."""
    row = connection.execute(
        "select count(*) from (select distinct on (device) frozen_ms, retired_ms, seen_ms from epochs"
        " join devices on devices.id = device where customer = %s order by device, epoch desc) newest"
        " where frozen_ms is null and retired_ms is null and seen_ms > %s",
        (customer, since_ms),
    ).fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True)
class DeviceState:
    """One epoch of a device, for the operator."""

    device: bytes
    epoch: int
    customer: str
    newest: bool
    acked: int
    enrolled_ms: int
    seen_ms: int
    held: int  # micro-rupees that the box may still spend
    frozen_ms: int | None
    retired_ms: int | None
    fork_seq: int | None  # where two different records were signed
    refused_ms: int | None
    refused: str | None

    @property
    def state(self) -> str:
        if self.frozen_ms is not None:
            return "frozen"
        if not self.newest:
            return "replaced"
        if self.retired_ms is not None:
            return "retired"
        return "refused" if self.refused is not None else "active"


def list_states(connection: Connection, customer: str | None, limit: int) -> list[DeviceState]:
    """Those that need a look first, then the newest."""
    with connection.cursor(row_factory=class_row(DeviceState)) as cursor:
        return cursor.execute(
            "select epochs.device, epochs.epoch, customer, acked, enrolled_ms, seen_ms, coalesce(held, 0) as held,"
            " frozen_ms, retired_ms, forks.seq as fork_seq, refused_ms, refused, epochs.epoch ="
            " (select max(epoch) from epochs later where later.device = epochs.device) as newest"
            " from epochs join devices on devices.id = epochs.device"
            " left join leases on leases.device = epochs.device and leases.epoch = epochs.epoch"
            " left join forks on forks.device = epochs.device and forks.epoch = epochs.epoch"
            " where %(customer)s::text is null or customer = %(customer)s"
            " order by frozen_ms is null and refused is null, enrolled_ms desc, epochs.device, epochs.epoch desc"
            " limit %(limit)s",
            {"customer": customer, "limit": limit},
        ).fetchall()
