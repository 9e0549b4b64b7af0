"""Amounts that people type, one way for box and node. How amounts are shown stands in `price.rupees`."""

import re

_AMOUNT = re.compile(r"(-?)([0-9]{1,9})(?:\.([0-9]{1,2}))?")


def parse_rupees(text: str) -> int:
    """'500', '500.5', '500.50' or '-3' in paise, without a float. Raises ValueError saying the form."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise ValueError(f"must be rupees like 500 or 500.50, not {text!r}")
    paise = int(found[2]) * 100 + int((found[3] or "").ljust(2, "0"))
    return -paise if found[1] else paise
