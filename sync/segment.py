"""A segment: a run of records on its way from a box to the node, signed by the box; and what the node answers.

The same bytes travel over HTTP and, as a file, on a USB stick. Every `from_bytes` raises ValueError naming the field
unless the bytes are the one canonical encoding of a valid value, so `from_bytes(b).to_bytes() == b`.
"""

from dataclasses import astuple, dataclass
from typing import ClassVar, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync import codec, record
from sync.price import BOOK_BYTES_MAX, PriceBook
from sync.record import RECORD_BYTES_MAX, Record
from sync.signature import Purpose, sign, verify

VERSION = 1
SEGMENT_RECORDS_MAX = 1000
SEGMENT_BYTES_MAX = 256 * 1024  # of the payload, so that a segment of any SEGMENT_RECORDS_MAX records fits
RECEIPT_BYTES_MAX = 32 * 1024
NO_LEASE = bytes(16)
_ENVELOPE_BYTES = 128  # what the signature and heads add around a payload

assert SEGMENT_RECORDS_MAX * (RECORD_BYTES_MAX + 3) + 256 <= SEGMENT_BYTES_MAX


@dataclass(frozen=True)
class Segment:
    """Records `first … first + len(records) - 1` of one device and epoch.

    An empty run is a heartbeat that renews the lease.
    """

    device: bytes
    epoch: int
    first: int  # seq of the first record; acked + 1 when records is empty
    link_before: bytes  # link of record first-1, or 32 zeros
    link_after: bytes  # link of the last record; equals link_before when records is empty
    records: tuple[bytes, ...]  # canonical bytes
    lease: bytes  # id of the lease the box holds, so that the node knows which answer arrived; zeros before the first

    def __post_init__(self) -> None:
        codec.octets("segment.device", self.device, 16)
        codec.whole("segment.epoch", self.epoch, least=1)
        codec.whole("segment.first", self.first, least=1)
        codec.octets("segment.link_before", self.link_before, 32)
        codec.octets("segment.link_after", self.link_after, 32)
        codec.octets("segment.lease", self.lease, 16)
        if not isinstance(self.records, tuple) or len(self.records) > SEGMENT_RECORDS_MAX:
            raise ValueError(f"segment.records: must be a run of at most {SEGMENT_RECORDS_MAX} records")
        for at, data in enumerate(self.records):
            if not isinstance(data, bytes) or len(data) > RECORD_BYTES_MAX:
                raise ValueError(f"segment.records.{at}: must be at most {RECORD_BYTES_MAX} bytes")

    @property
    def last(self) -> int:
        """Seq of the last record; `first - 1` when records is empty."""
        return self.first + len(self.records) - 1

    def to_bytes(self) -> bytes:
        """Deterministic CBOR without the signature: what is signed."""
        place = (VERSION, self.device, self.epoch, self.first, self.link_before, self.link_after)
        return codec.encode(dict(enumerate((*place, self.records, self.lease), 1)))

    @staticmethod
    def from_bytes(data: bytes) -> "Segment":
        """Does not look inside the records: `verify_chain` does."""
        names = ("version", "device", "epoch", "first", "link_before", "link_after", "records", "lease")
        version, *values = codec.decode_fields(data, "segment", names, SEGMENT_BYTES_MAX)
        codec.whole("segment.version", version, VERSION, VERSION)
        return Segment(*values)


def verify_chain(segment: Segment) -> tuple[Record, ...]:
    """The records, after checking that each is canonical, of this device and epoch, in its place, and linked.

    Whether `link_before` is the right one is for whoever holds the record before to say. Raises ValueError.
    """
    link = segment.link_before
    records = []
    for at, data in enumerate(segment.records):
        one = record.decode(data)
        if (one.device, one.epoch, one.seq) != (segment.device, segment.epoch, segment.first + at):
            raise ValueError(f"segment.records.{at}: record {one.name} does not belong in this place")
        link = record.link(link, data)
        records.append(one)
    if link != segment.link_after:
        raise ValueError("segment.link_after: is not the link of the last record")
    return tuple(records)


@dataclass(frozen=True)
class _Signed:
    """`payload` as it was signed, with its signature; `from_bytes` checks the form only, `verify` checks who signed."""

    payload: bytes
    signature: bytes  # Ed25519 over the purpose and the payload (sync.signature), 64 bytes

    _what: ClassVar[str]
    _purpose: ClassVar[Purpose]
    _bytes_max: ClassVar[int]

    def __post_init__(self) -> None:
        if not isinstance(self.payload, bytes):
            raise ValueError(f"{self._what}.payload: must be bytes")
        codec.octets(f"{self._what}.signature", self.signature, 64)

    @classmethod
    def seal(cls, payload: bytes, key: Ed25519PrivateKey) -> Self:
        return cls(payload, sign(key, cls._purpose, payload))

    def verify(self, public_key: bytes) -> None:
        """Raises BadSignature unless the holder of `public_key` (32 bytes) signed this payload."""
        verify(public_key, self._purpose, self.payload, self.signature)

    def to_bytes(self) -> bytes:
        return codec.encode({1: self.payload, 2: self.signature})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(*codec.decode_fields(data, cls._what, ("payload", "signature"), cls._bytes_max + _ENVELOPE_BYTES))


class SignedSegment(_Signed):
    """`Segment.to_bytes()` signed by the box."""

    _what = "signed segment"
    _purpose = Purpose.SEGMENT
    _bytes_max = SEGMENT_BYTES_MAX


class SignedReceipt(_Signed):
    """`Receipt.to_bytes()` signed by the node."""

    _what = "signed receipt"
    _purpose = Purpose.RECEIPT
    _bytes_max = RECEIPT_BYTES_MAX


@dataclass(frozen=True)
class Head:
    """How far a chain goes: what the node answers (409) to a segment that does not begin at acked + 1."""

    acked: int
    link: bytes

    def __post_init__(self) -> None:
        codec.whole("head.acked", self.acked)
        codec.octets("head.link", self.link, 32)

    def to_bytes(self) -> bytes:
        return codec.encode({1: self.acked, 2: self.link})

    @staticmethod
    def from_bytes(data: bytes) -> "Head":
        return Head(*codec.decode_fields(data, "head", ("acked", "link"), 64))


@dataclass(frozen=True)
class Lease:
    """Credit a box may spend without asking.

    The box may spend `granted + allowance` micro-rupees on records after `from_seq`.
    """

    lease_id: bytes  # 16 bytes
    epoch: int
    from_seq: int
    granted: int  # micro-rupees of paid credit
    allowance: int  # micro-rupees of stated emergency credit
    expires_ms: int
    issued_ms: int

    def __post_init__(self) -> None:
        codec.octets("lease.lease_id", self.lease_id, 16)
        codec.whole("lease.epoch", self.epoch, least=1)
        for name in ("from_seq", "granted", "allowance", "expires_ms", "issued_ms"):
            codec.whole(f"lease.{name}", getattr(self, name))


@dataclass(frozen=True)
class TopUp:
    """An open request for money: `reference` is the unique `tr` of its `upi://pay` link.

    An amount of 0 leaves it to the payer.
    """

    reference: str
    amount_paise: int
    link: str
    status: str  # "open" | "paid" | "expired"

    def __post_init__(self) -> None:
        codec.text("topup.reference", self.reference, most=64)
        codec.whole("topup.amount_paise", self.amount_paise)
        codec.text("topup.link", self.link, most=2048)
        if self.status not in ("open", "paid", "expired"):
            raise ValueError("topup.status: must be open, paid or expired")


@dataclass(frozen=True)
class Receipt:
    """The node's answer to a segment: everything up to `acked` is billed, once, for ever."""

    device: bytes
    epoch: int
    acked: int
    link: bytes
    node_ms: int
    balance: int  # micro-rupees left in the customer's wallet (may be negative by used allowance)
    lease: Lease
    price_book: bytes  # canonical JSON of the book in force
    topup: TopUp  # a standing request, so that an unplugged box with an empty wallet still has a link to show

    def __post_init__(self) -> None:
        codec.octets("receipt.device", self.device, 16)
        codec.whole("receipt.epoch", self.epoch, least=1)
        codec.whole("receipt.acked", self.acked)
        codec.octets("receipt.link", self.link, 32)
        codec.whole("receipt.node_ms", self.node_ms)
        codec.whole("receipt.balance", self.balance, least=-codec.INT_MAX)
        if not isinstance(self.price_book, bytes) or len(self.price_book) > BOOK_BYTES_MAX:
            raise ValueError(f"receipt.price_book: must be at most {BOOK_BYTES_MAX} bytes")
        if PriceBook.from_json(self.price_book).to_json() != self.price_book:
            raise ValueError("receipt.price_book: must be canonical JSON")

    def to_bytes(self) -> bytes:
        """Deterministic CBOR without the signature: what is signed."""
        lease = dict(enumerate(astuple(self.lease), 1))
        topup = dict(enumerate(astuple(self.topup), 1))
        values = (VERSION, self.device, self.epoch, self.acked, self.link, self.node_ms, self.balance)
        return codec.encode(dict(enumerate((*values, lease, self.price_book, topup), 1)))

    @staticmethod
    def from_bytes(data: bytes) -> "Receipt":
        names = ("version", "device", "epoch", "acked", "link", "node_ms", "balance", "lease", "price_book", "topup")
        values = codec.decode_fields(data, "receipt", names, RECEIPT_BYTES_MAX)
        version, device, epoch, acked, link, node_ms, balance, lease, book, topup = values
        codec.whole("receipt.version", version, VERSION, VERSION)
        lease = codec.fields(lease, "receipt.lease", tuple(Lease.__dataclass_fields__))
        topup = codec.fields(topup, "receipt.topup", tuple(TopUp.__dataclass_fields__))
        return Receipt(device, epoch, acked, link, node_ms, balance, Lease(*lease), book, TopUp(*topup))
