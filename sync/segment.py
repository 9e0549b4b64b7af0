"""A segment: a run of records on its way from a box to the node, signed by the box; and what the node answers.

The same bytes travel over HTTP and, as a file, on a USB stick.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Records `first … first+len(records)-1` of one device and epoch. An empty run is a heartbeat that renews the lease."""

    device: bytes
    epoch: int
    first: int  # seq of the first record; acked + 1 when records is empty
    link_before: bytes  # link of record first-1, or 32 zeros
    link_after: bytes  # link of the last record; equals link_before when records is empty
    records: tuple[bytes, ...]  # canonical bytes

    def to_bytes(self) -> bytes:
        """Deterministic CBOR without the signature: what is signed."""
        raise NotImplementedError


@dataclass(frozen=True)
class SignedSegment:
    payload: bytes  # Segment.to_bytes()
    signature: bytes  # Ed25519 over payload, 64 bytes


@dataclass(frozen=True)
class Lease:
    """Credit a box may spend without asking. The box may spend `granted + allowance` micro-rupees on records after `from_seq`."""

    lease_id: bytes  # 16 bytes
    epoch: int
    from_seq: int
    granted: int  # micro-rupees of paid credit
    allowance: int  # micro-rupees of stated emergency credit
    expires_ms: int
    issued_ms: int


@dataclass(frozen=True)
class TopUp:
    """An open request for money: `reference` is the unique `tr` of its `upi://pay` link. amount 0: the payer types it."""

    reference: str
    amount_paise: int
    link: str
    status: str  # "open" | "paid" | "expired"


@dataclass(frozen=True)
class Receipt:
    """The node's answer to a segment, signed by the node: everything up to `acked` is billed, once, for ever."""

    device: bytes
    epoch: int
    acked: int
    link: bytes
    node_ms: int
    balance: int  # micro-rupees left in the customer's wallet (may be negative by used allowance)
    lease: Lease
    price_book: bytes  # canonical JSON of the book in force
    topup: TopUp  # a standing request, so that an unplugged box with an empty wallet still has a link to show
