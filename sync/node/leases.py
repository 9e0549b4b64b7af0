"""Leases: how much of a wallet each box may spend without asking.

A new lease replaces the box's last one here, but the answer that carries it may be lost, and an expired one may have
been spent to the end before its box is heard again. So a box is held to count for the most it may still spend under
any lease it has; when its next segment names the newest lease, for that one alone. A box that is heard thus gives back
what it does not use, at each sync, and the boxes share it anew. One that is not heard is written off a week after its
last lease ended: should it report use after all, that is billed, and the wallet may go below zero by so much.
Until then all boxes of a customer together never hold more than the wallet and the allowance. A box that is frozen,
enrolled anew, or retired by the operator holds nothing back for itself: its customer would have no credit for days.
"""

from sync.node import devices
from sync.node.database import Connection
from sync.node.devices import Epoch
from sync.node.settings import Settings
from sync.price import MICRO_PER_PAISA
from sync.segment import Lease

HOUR_MS = 3600 * 1000
WRITE_OFF_MS = 7 * 24 * HOUR_MS


def charge(connection: Connection, epoch: Epoch, cost: int) -> None:
    """Takes what was billed off what the box holds."""
    connection.execute(
        "update leases set unspent = unspent - %(cost)s, held = greatest(held - %(cost)s, 0)"
        " where device = %(device)s and epoch = %(epoch)s",
        {"cost": cost, "device": epoch.device, "epoch": epoch.epoch},
    )


def adopt(connection: Connection, epoch: Epoch, lease: bytes) -> None:
    """The box says which lease it holds: when that is the newest, it may spend no other any more."""
    connection.execute(
        "update leases set held = greatest(unspent, 0) where device = %s and epoch = %s and lease = %s",
        (epoch.device, epoch.epoch, lease),
    )


def grant(
    connection: Connection,
    epoch: Epoch,
    balance: int,
    *,
    id: bytes,
    now_ms: int,
    told_ms: int,
    settings: Settings,
) -> Lease:
    """A new lease on what no other box of the customer holds, in equal shares. The caller has locked the customer.

    It ends by `told_ms`, the time that its receipt tells the box. An epoch that a newer one replaced, or that is
    retired, gets a lease of nothing, already expired.
    """
    allowance = settings.allowance_paise * MICRO_PER_PAISA
    total = 0
    if epoch.creditable:
        alive_ms = now_ms - settings.lease_hours * HOUR_MS - WRITE_OFF_MS
        shares = max(devices.count_alive(connection, epoch.customer, alive_ms), 1)
        free = balance + allowance - _held_by_others(connection, epoch, now_ms)
        total = max(min(free, (balance + allowance) // shares), 0)
    granted = max(total - allowance, 0)
    expires_ms = told_ms + settings.lease_hours * HOUR_MS if epoch.creditable else told_ms
    lease = Lease(id, epoch.epoch, epoch.acked, granted, total - granted, expires_ms, told_ms)
    connection.execute(
        "insert into leases (device, epoch, lease, total, unspent, held, expires_ms)"
        " values (%(device)s, %(epoch)s, %(lease)s, %(total)s, %(total)s, %(total)s, %(expires)s)"
        " on conflict (device, epoch) do update set lease = excluded.lease, total = excluded.total,"
        " unspent = excluded.unspent, held = greatest(leases.held, excluded.held),"
        " expires_ms = greatest(leases.expires_ms, excluded.expires_ms)",
        {
            "device": epoch.device,
            "epoch": epoch.epoch,
            "lease": lease.lease_id,
            "total": total,
            "expires": expires_ms,
        },
    )
    return lease


def end_of_hold(connection: Connection, epoch: Epoch) -> tuple[int, int]:
    """What may still be billed of what the box spends without a line, in micro-rupees, and when its lease ends.

    Of a frozen one nothing more is billed.
    """
    if epoch.frozen_ms is not None:
        return 0, 0
    row = connection.execute(
        "select held, expires_ms from leases where device = %s and epoch = %s", (epoch.device, epoch.epoch)
    ).fetchone()
    return (int(row[0]), int(row[1])) if row is not None else (0, 0)


def _held_by_others(connection: Connection, epoch: Epoch, now_ms: int) -> int:
    """By newest epochs alone: the operator vouched for the older ones by a new code, or by retiring the box.

    Of a frozen one nothing more is billed, so what it holds protects no wallet.
    """
    row = connection.execute(
        "select coalesce(sum(held), 0)::bigint from leases join epochs using (device, epoch)"
        " join devices on devices.id = device where customer = %s and device <> %s and expires_ms > %s"
        " and frozen_ms is null and retired_ms is null and not exists"
        " (select from epochs later where later.device = epochs.device and later.epoch > epochs.epoch)",
        (epoch.customer, epoch.device, now_ms - WRITE_OFF_MS),
    ).fetchone()
    assert row is not None
    return int(row[0])
