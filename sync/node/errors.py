"""What the node refuses, and what it cannot do.

Refusal       the caller's fault: an HTTP status, a code for programs, a message for people
NodeError     the node cannot start or go on: the message says what the operator does next
"""


class Refusal(Exception):
    """A request is refused. `extras` stand beside "error" in the answer's JSON; none of them is ever secret."""

    def __init__(self, status: int, code: str, message: str, **extras: int | str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extras = extras


class NodeError(RuntimeError):
    """The node cannot start or go on."""
