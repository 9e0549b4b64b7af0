"""What can go wrong with a box's identity, its ledger and its node; every message says what to do next.

IdentityError
LedgerError
├── LedgerUnavailable   nothing can be recorded or read now, so nothing billable may be served
├── LedgerLocked        another process has the ledger open
└── LedgerCorrupt       the file is not this box's ledger with every record following from the one before
NodeError
├── Unreachable         no line, or the node is down or busy: try again later
├── BadAnswer           something answered that is not the node, such as a Wi-Fi sign-in page: try again later
├── Gap                 the node's chain ends elsewhere; carries its head
├── Conflict            the node holds another history of this box: a person must look
└── Refused             the node understood and said no

OtherHistory, a ValueError, is how the ledger refuses a receipt for a record that it does not hold.
"""

from sync.segment import Head


class IdentityError(Exception):
    pass


class LedgerError(Exception):
    pass


class LedgerUnavailable(LedgerError):
    pass


class LedgerLocked(LedgerError):
    pass


class LedgerCorrupt(LedgerError):
    pass


class OtherHistory(ValueError):
    def __init__(self, acked: int) -> None:
        super().__init__(f"receipt.acked: the node's record {acked} is not in this ledger")
        self.acked = acked


class NodeError(Exception):
    pass


class Unreachable(NodeError):
    pass


class BadAnswer(NodeError):
    pass


class Gap(NodeError):
    def __init__(self, head: Head) -> None:
        super().__init__(f"the node's chain of this box ends at record {head.acked}")
        self.head = head


class Conflict(NodeError):
    pass


class Refused(NodeError):
    pass
