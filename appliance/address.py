"""Where a box listens: free to be taken, and noted in the state folder so that the box's commands find it."""

import socket
from pathlib import Path

from appliance.expected import OperatorError
from sync.reach import local_url

FILE_NAME = "address"


class AddressError(OperatorError):
    """The address is not to be had or not known; the message says why and what to do."""


def check(host: str, port: int) -> None:
    """Raises AddressError when the port is taken. Granian would share it silently with whoever else allows that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, or choose another with NUKKAD_HOST "
            "and NUKKAD_PORT"
        ) from error


def note(folder: Path, host: str, port: int) -> None:
    """Leave the base URL where `read` finds it."""
    (folder / FILE_NAME).write_text(local_url(host, port) + "\n", encoding="ascii")


def read(folder: Path) -> str:
    """The base URL of the box that runs on the folder. Raises AddressError when none has."""
    try:
        return (folder / FILE_NAME).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise AddressError(f"{folder}: no box has run here yet; start it with `nukkad serve`") from None
