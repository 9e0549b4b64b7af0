"""The last receipt of each epoch: stored before it is sent, so that the node never denies what it signed."""

from sync.node.database import Connection
from sync.segment import Receipt, SignedReceipt


def store(connection: Connection, receipt: Receipt, signed: SignedReceipt) -> None:
    """Replaces the one before: its head is part of this one's chain."""
    connection.execute(
        "insert into receipts values (%s, %s, %s, %s, %s, %s) on conflict (device, epoch) do update set"
        " acked = excluded.acked, payload = excluded.payload,"
        " signature = excluded.signature, node_ms = excluded.node_ms",
        (receipt.device, receipt.epoch, receipt.acked, signed.payload, signed.signature, receipt.node_ms),
    )
