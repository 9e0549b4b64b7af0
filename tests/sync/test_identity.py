import json
from pathlib import Path

import pytest

from sync.errors import IdentityError
from sync.identity import FILE_NAME, Enrolment, load_or_create, save_enrolment

ENROLMENT = Enrolment("https://node.example", "ab" * 32, "shop", 1)


def test_is_made_once_and_kept_private(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "box"
    made = load_or_create(folder)
    again = load_or_create(folder)
    assert (again.device, again.public_key, again.enrolment) == (made.device, made.public_key, None)
    assert (len(made.device), made.epoch) == (16, 1)
    assert (folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert load_or_create(tmp_path / "other").device != made.device


def test_randomness_is_a_parameter(tmp_path: Path) -> None:
    made = load_or_create(tmp_path, random_bytes=lambda size: b"r" * size)
    assert made.device == b"r" * 16
    assert made.key.private_bytes_raw() == b"r" * 32


def test_enrolment_is_kept_and_cannot_be_replaced(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path)
    save_enrolment(tmp_path, identity, ENROLMENT)
    enrolled = load_or_create(tmp_path)
    assert enrolled.enrolment == ENROLMENT
    assert (enrolled.device, enrolled.public_key) == (identity.device, identity.public_key)
    assert ENROLMENT.node_public_key == b"\xab" * 32
    assert save_enrolment(tmp_path, enrolled, ENROLMENT) == enrolled
    with pytest.raises(IdentityError, match="already enrolled for customer shop"):
        save_enrolment(tmp_path, enrolled, Enrolment("https://node.example", "cd" * 32, "shop", 2))
    assert load_or_create(tmp_path).enrolment == ENROLMENT
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_may_read_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    load_or_create(tmp_path)
    (tmp_path / FILE_NAME).chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {tmp_path / FILE_NAME}"):
        load_or_create(tmp_path)


@pytest.mark.parametrize(
    "change", [{"device": "00"}, {"key": "00"}, {"key": None}, {"enrolment": {"epoch": 1}}, {"enrolment": 5}]
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / FILE_NAME
    load_or_create(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    before = path.read_bytes()
    with pytest.raises(IdentityError, match="damaged"):
        load_or_create(tmp_path)
    assert path.read_bytes() == before


def test_a_half_written_new_file_of_a_crash_is_harmless(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).with_suffix(".new").write_text("{")
    identity = load_or_create(tmp_path)
    assert save_enrolment(tmp_path, identity, ENROLMENT).enrolment == ENROLMENT


@pytest.mark.parametrize(
    ("field", "value"), [("node_key", "abc"), ("node_key", "ab" * 31), ("customer", ""), ("epoch", 0), ("node_url", "")]
)
def test_an_enrolment_is_checked_when_it_is_made(field: str, value: object) -> None:
    fields: dict[str, object] = {"node_url": "https://n", "node_key": "ab" * 32, "customer": "shop", "epoch": 1}
    with pytest.raises(ValueError):
        Enrolment(**{**fields, field: value})  # type: ignore[arg-type]
