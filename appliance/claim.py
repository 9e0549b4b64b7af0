"""Making sure that one process is the box of a state folder, and that its address is its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from appliance import address, state
from appliance.settings import Settings


@contextmanager
def claimed(settings: Settings) -> Iterator[None]:
    """Inside, the state folder and the address are this process's. Raises StateError, AddressError."""
    state.prepare(settings.state)
    with state.hold(settings.state):
        address.check(settings.host, settings.port)
        address.note(settings.state, settings.host, settings.port)
        yield
