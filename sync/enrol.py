"""Enrolment: with a one-time code from the node's operator, a box becomes a customer's and pins the node's key."""

from pathlib import Path

from sync.errors import IdentityError
from sync.identity import Identity, save_enrolment
from sync.transport import NodeClient


async def enrol(folder: Path, identity: Identity, node: NodeClient, code: str) -> Identity:
    """The enrolled identity, durable in `folder`. After a lost answer, call again with the same code.

    Raises NodeError, and IdentityError before asking the node when the box is enrolled already: the node would begin
    a new epoch and give the present one no more credit.
    """
    if identity.enrolment:
        raise IdentityError(
            f"{folder}: this box is already enrolled for customer {identity.enrolment.customer}; to enrol it anew, "
            "sync, stop the box, and move the whole state folder aside"
        )
    return save_enrolment(folder, identity, await node.enrol(code, identity.device, identity.public_key))
