"""What is told of a fault of this program: its kind and its place, never its message, which may quote a call."""

import traceback
from pathlib import Path


def place(error: BaseException) -> str:
    """Such as `KeyError at meter.py:71`."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
