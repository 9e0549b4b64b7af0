"""`upi://pay` links: what a top-up's QR code says to a payer's app."""

from collections.abc import Callable
from urllib.parse import quote

from sync.node.codes import letters

REFERENCE_MAX = 35


def make_reference(random: Callable[[int], bytes]) -> str:
    """A new `tr`: letters and digits only, 100 unpredictable bits, so that it is unique without asking anybody."""
    return "NK" + letters(20, random)


def format_amount(paise: int) -> str:
    """50000 → '500.00', the form that `am` has."""
    return f"{paise // 100}.{paise % 100:02}"


def make_link(payee_vpa: str, payee_name: str, reference: str, amount_paise: int, note: str) -> str:
    """An amount of 0 is left out, and the payer types it. Spaces are %20: payers' apps show a + as it stands."""
    assert reference.isascii() and reference.isalnum() and len(reference) <= REFERENCE_MAX
    assert len(note) <= 50
    fields = {"pa": payee_vpa, "pn": payee_name, "tr": reference, "tn": note}
    if amount_paise:
        fields["am"] = format_amount(amount_paise)
    fields["cu"] = "INR"
    return "upi://pay?" + "&".join(f"{name}={quote(value, safe='@')}" for name, value in fields.items())
