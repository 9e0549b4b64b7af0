"""Leases: how much of a wallet each box may spend without asking.

A new lease replaces the box's last one here, but the answer that carries it may be lost, and an expired one may have
been spent to the end before its box is heard again. So a box is held to count for the most it may still spend under
any lease it has; that is let go when its records show the newest lease, or is written off 45 days after expiry.
All boxes of a customer together never hold more than the wallet and the allowance.
"""

from collections.abc import Callable

from sync.node import devices
from sync.node.database import Connection
from sync.node.devices import Epoch
from sync.node.settings import Settings
from sync.price import MICRO_PER_PAISA
from sync.segment import Lease

HOUR_MS = 3600 * 1000
WRITE_OFF_MS = 45 * 24 * HOUR_MS


def newest(connection: Connection, epoch: Epoch) -> bytes | None:
    row = connection.execute(
        "select lease from leases where device = %s and epoch = %s", (epoch.device, epoch.epoch)
    ).fetchone()
    return bytes(row[0]) if row else None


def charge(connection: Connection, epoch: Epoch, cost: int, adopted: bool) -> None:
    """Takes what was billed off what the box holds; `adopted`: its records show that it has the newest lease."""
    connection.execute(
        "update leases set unspent = unspent - %(cost)s,"
        " held = greatest(case when %(adopted)s then unspent else held end - %(cost)s, 0)"
        " where device = %(device)s and epoch = %(epoch)s",
        {"cost": cost, "adopted": adopted, "device": epoch.device, "epoch": epoch.epoch},
    )


def grant(
    connection: Connection,
    epoch: Epoch,
    balance: int,
    *,
    now_ms: int,
    settings: Settings,
    random: Callable[[int], bytes],
) -> Lease:
    """A new lease on what no other box of the customer holds, in equal shares. The caller has locked the customer.

    An epoch that a newer one replaced gets a lease of nothing, already expired, and what it held is let go: the
    operator vouched for that by the new code, for otherwise a box set up again would have no credit for weeks.
    """
    allowance = settings.allowance_paise * MICRO_PER_PAISA
    total = 0
    if epoch.newest:
        shares = max(devices.count_alive(connection, epoch.customer, now_ms - WRITE_OFF_MS), 1)
        free = balance + allowance - _held_by_others(connection, epoch, now_ms)
        total = max(min(free, (balance + allowance) // shares), 0)
    granted = max(total - allowance, 0)
    expires_ms = now_ms + settings.lease_hours * HOUR_MS if epoch.newest else now_ms
    lease = Lease(random(16), epoch.epoch, epoch.acked, granted, total - granted, expires_ms, now_ms)
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


def _held_by_others(connection: Connection, epoch: Epoch, now_ms: int) -> int:
    row = connection.execute(
        "select coalesce(sum(held), 0)::bigint from leases join devices on devices.id = device"
        " where customer = %s and device <> %s and expires_ms > %s",
        (epoch.customer, epoch.device, now_ms - WRITE_OFF_MS),
    ).fetchone()
    assert row is not None
    return int(row[0])
