"""A top-up as it is shown: its `upi://pay` link, and the link as a QR code."""

import io
from typing import Any

import segno

from sync.price import MICRO_PER_PAISA, rupees
from sync.segment import TopUp


def shown(topup: TopUp) -> dict[str, Any]:
    return {
        "reference": topup.reference,
        "amount": rupees(topup.amount_paise * MICRO_PER_PAISA),
        "link": topup.link,
        "status": topup.status,
    }


def svg(link: str) -> bytes:
    """A QR code that fills what it is put in."""
    out = io.BytesIO()
    segno.make(link, error="m", micro=False).save(
        out, kind="svg", border=4, omitsize=True, xmldecl=False, light="white"
    )
    return out.getvalue()


def terminal(link: str) -> str:
    """A QR code in half blocks, for a terminal with dark or light ground."""
    out = io.StringIO()
    segno.make(link, error="m", micro=False).terminal(out, compact=True, border=4)
    return out.getvalue()
