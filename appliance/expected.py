"""What an operator can set right: the commands print the message alone, without a traceback."""


class OperatorError(Exception):
    """Base of the box's own; the message says what is wrong and what to do."""
