"""Enrolment: a one-time code makes a device's key known and begins a new epoch."""

from dataclasses import dataclass

from sync.node import codes, devices
from sync.node.context import Node
from sync.node.errors import Refusal


@dataclass(frozen=True)
class Enrolment:
    customer: str
    epoch: int


def enrol(node: Node, code: str, device: bytes, public_key: bytes) -> Enrolment:
    """The same device with the same code and key gets the same answer again. Raises Refusal."""
    now_ms = node.clock.wall_ms()
    with node.database.transaction() as connection:
        found = codes.check(connection, code, now_ms)
        if isinstance(found, codes.Code) and found.device is None:
            epoch = devices.begin_epoch(connection, device, found.customer, public_key, now_ms)
            codes.use(connection, found, device, epoch)
            return Enrolment(found.customer, epoch)
        if isinstance(found, codes.Code) and found.device == device and found.epoch is not None:
            begun = devices.find(connection, device, found.epoch)
            if begun is not None and begun.public_key == public_key:
                return Enrolment(found.customer, found.epoch)
    if isinstance(found, Refusal):
        raise found
    raise Refusal(409, "code_used", "code: already used by another device or key; ask for a new one")
