from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sync import codec, record
from sync.price import default_book
from sync.record import FIRST_LINK, RECORD_BYTES_MAX
from sync.segment import (
    SEGMENT_BYTES_MAX,
    SEGMENT_RECORDS_MAX,
    Head,
    Lease,
    Receipt,
    Segment,
    SignedReceipt,
    SignedSegment,
    TopUp,
    verify_chain,
)
from sync.signature import BadSignature
from tests.support.usage import BOOK, DEVICE, make_record

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
LEASE = Lease(b"l" * 16, 1, 3, 5_000_000, 1_000_000, 1_790_000_000_000, 1_789_000_000_000)
TOPUP = TopUp("NK123", 50_000, "upi://pay?pa=shop@bank&tr=NK123&am=500.00", "open")
RECEIPT = Receipt(DEVICE, 1, 3, b"h" * 32, 1_789_000_000_000, -7, LEASE, BOOK.to_json(), TOPUP)


def make_segment(count: int = 3, first: int = 1) -> Segment:
    data = tuple(
        record.encode(make_record(seq, request_id=seq.to_bytes(16, "big"))) for seq in range(first, first + count)
    )
    link = FIRST_LINK
    for one in data:
        link = record.link(link, one)
    return Segment(DEVICE, 1, first, FIRST_LINK, link, data, b"l" * 16)


SEGMENT = make_segment()


@pytest.mark.parametrize("segment", [SEGMENT, make_segment(0), make_segment(2, first=7)])
def test_segment_round_trip(segment: Segment) -> None:
    again = Segment.from_bytes(segment.to_bytes())
    assert again == segment
    assert again.last == segment.first + len(segment.records) - 1
    assert [one.seq for one in verify_chain(again)] == list(range(segment.first, segment.last + 1))


def test_receipt_round_trip() -> None:
    assert Receipt.from_bytes(RECEIPT.to_bytes()) == RECEIPT
    assert RECEIPT.to_bytes() == cbor2.dumps(cbor2.loads(RECEIPT.to_bytes()), canonical=True)


def test_head_round_trip() -> None:
    assert Head.from_bytes(Head(3, b"h" * 32).to_bytes()) == Head(3, b"h" * 32)


@pytest.mark.parametrize("data", [SEGMENT.to_bytes(), RECEIPT.to_bytes(), Head(3, b"h" * 32).to_bytes()])
@given(st.data())
def test_any_flipped_bit_is_refused_or_is_another_value(data: bytes, draw: st.DataObject) -> None:
    readers: list[Callable[[bytes], Any]] = [Segment.from_bytes, Receipt.from_bytes, Head.from_bytes]
    flipped = bytearray(data)
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    for read in readers:
        try:
            value = read(bytes(flipped))
        except ValueError:
            continue
        assert value.to_bytes() == flipped


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (replace(SEGMENT, link_after=b"x" * 32), "segment.link_after"),
        (replace(SEGMENT, link_before=b"x" * 32), "segment.link_after"),
        (replace(SEGMENT, device=b"x" * 16), "segment.records.0: record .* does not belong"),
        (replace(SEGMENT, epoch=2), "segment.records.0: record .* does not belong"),
        (replace(SEGMENT, first=2), "segment.records.0: record .* does not belong"),
        (replace(SEGMENT, records=SEGMENT.records[::-1]), "segment.records.0: record .* does not belong"),
        (replace(SEGMENT, records=(SEGMENT.records[0], SEGMENT.records[2])), "segment.records.1: record .* does not"),
        (replace(SEGMENT, records=SEGMENT.records[:2]), "segment.link_after"),
        (replace(SEGMENT, records=(b"\xa0",)), "record.version: missing"),
        (replace(make_segment(0), link_after=b"x" * 32), "segment.link_after"),
    ],
)
def test_a_broken_chain_is_refused(broken: Segment, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        verify_chain(Segment.from_bytes(broken.to_bytes()))


def test_segments_are_bounded_in_records_and_bytes() -> None:
    with pytest.raises(ValueError, match="at most 1000 records"):
        replace(SEGMENT, records=(b"",) * (SEGMENT_RECORDS_MAX + 1))
    with pytest.raises(ValueError, match=r"segment\.records\.0: must be at most 256 bytes"):
        replace(SEGMENT, records=(bytes(RECORD_BYTES_MAX + 1),))
    fullest = replace(
        SEGMENT, first=2**63 - 1, epoch=2**63 - 1, records=(bytes(RECORD_BYTES_MAX),) * SEGMENT_RECORDS_MAX
    )
    assert Segment.from_bytes(fullest.to_bytes()) == fullest
    with pytest.raises(ValueError, match=r"segment: .* bytes, at most"):
        Segment.from_bytes(bytes(SEGMENT_BYTES_MAX + 1))


def test_a_signature_holds_for_its_bytes_key_and_purpose_only() -> None:
    signed = SignedSegment.from_bytes(SignedSegment.seal(SEGMENT.to_bytes(), KEY).to_bytes())
    signed.verify(PUBLIC)
    assert Segment.from_bytes(signed.payload) == SEGMENT
    stranger = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    for forged, key in (
        (replace(signed, payload=replace(SEGMENT, epoch=2).to_bytes()), PUBLIC),
        (replace(signed, signature=bytes(64)), PUBLIC),
        (signed, stranger.public_key().public_bytes_raw()),
        (signed, b"no key"),
        (SignedReceipt(signed.payload, signed.signature), PUBLIC),  # A segment's signature is no receipt's.
    ):
        with pytest.raises(BadSignature):
            forged.verify(key)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (codec.encode({1: b"", 2: bytes(63)}), "signed receipt.signature: must be 64 bytes"),
        (codec.encode({1: 5, 2: bytes(64)}), "signed receipt.payload: must be bytes"),
        (codec.encode({2: bytes(64)}), "signed receipt.payload: missing"),
        (bytes(40_000), "signed receipt: 40000 bytes"),
    ],
)
def test_a_bad_envelope_is_refused_by_field(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        SignedReceipt.from_bytes(data)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda: replace(RECEIPT, balance=2**63), "receipt.balance"),
        (lambda: replace(RECEIPT, acked=-1), "receipt.acked"),
        (lambda: replace(RECEIPT, link=b""), "receipt.link"),
        (lambda: replace(RECEIPT, price_book=BOOK.to_json() + b" "), "receipt.price_book: must be canonical"),
        (lambda: replace(RECEIPT, price_book=bytes(20_000)), "receipt.price_book: must be at most"),
        (lambda: replace(LEASE, granted=-1), "lease.granted"),
        (lambda: replace(LEASE, lease_id=b""), "lease.lease_id"),
        (lambda: replace(TOPUP, link=""), "topup.link"),
        (lambda: replace(TOPUP, reference="a\nb"), "topup.reference"),
        (lambda: replace(TOPUP, status="lost"), "topup.status"),
        (lambda: replace(TOPUP, amount_paise=-1), "topup.amount_paise"),
        (lambda: Head(-1, bytes(32)), "head.acked"),
    ],
)
def test_values_are_checked_when_they_are_made(change: Callable[[], object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        change()


def test_a_receipts_inner_fields_are_checked_when_read() -> None:
    fields = cbor2.loads(RECEIPT.to_bytes())
    for key, value, what in ((8, {1: 0}, "receipt.lease.epoch: missing"), (10, 0, "receipt.topup: must be a map")):
        with pytest.raises(ValueError, match=what):
            Receipt.from_bytes(cbor2.dumps({**fields, key: value}, canonical=True))
    assert default_book().to_json() == fields[9]
