"""How long work tells whoever watches how far it is."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with what is being done and the share done, 0 to 1."""


def ignore_progress(_title: str, _share: float) -> None:
    """The default: nobody watches."""
