from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sync.signature import Purpose, request_message, sign

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def test_what_is_signed_is_the_purpose_a_zero_and_the_message() -> None:
    public: Ed25519PublicKey = KEY.public_key()
    public.verify(sign(KEY, Purpose.SEGMENT, b"message"), b"nukkad segment v1\0message")


def test_no_purpose_begins_with_another() -> None:
    assert all(a == b or not f"{a}\0".startswith(f"{b}\0") for a in Purpose for b in Purpose)


def test_a_request_is_signed_with_all_that_gives_it_meaning() -> None:
    message = request_message("POST", "/v1/topups", 1_790_000_000_000, b"{}")
    assert message == b"POST /v1/topups 1790000000000\n{}"
