"""A process that appends to a ledger until it is killed, and tells of each record after the ledger did."""

import random
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.usage import make_draft, open_ledger


def write_until_killed(path: Path, told: "Connection[bytes, bytes]", seed: int) -> None:
    """Sends the request id of every acknowledged record."""
    chance = random.Random(seed)
    ledger = open_ledger(path)
    while True:
        futures = [ledger.append(make_draft(chance.randbytes(16))) for _ in range(chance.randint(1, 8))]
        for future in futures:
            told.send_bytes(future.result().draft.request_id)
