"""Who is asking: the operator by a token, a device by its signature."""

import hmac
import re
from collections.abc import Mapping

from sync.node import devices
from sync.node.context import Node
from sync.node.database import Connection
from sync.node.devices import Epoch
from sync.node.errors import Refusal
from sync.signature import BadSignature, Purpose, request_message, verify

SKEW_MS_MAX = 5 * 60 * 1000
_DEVICE = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"[0-9]{1,15}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def require_operator(node: Node, headers: Mapping[str, str]) -> None:
    """Raises Refusal 401."""
    given = headers.get("authorization", "").encode()
    if not hmac.compare_digest(given, f"Bearer {node.token}".encode()):
        raise Refusal(401, "unauthorized", "the operator's token is needed: Authorization: Bearer …")


def require_device(
    node: Node, connection: Connection, headers: Mapping[str, str], *, method: str, path: str, body: bytes
) -> Epoch:
    """The newest epoch of the device that signed. Raises Refusal 401.

    A request overheard can be sent again for five minutes; what devices ask for by it is the same the second time.
    """
    device, time, signature = (headers.get(f"x-nukkad-{name}", "") for name in ("device", "time", "signature"))
    for name, text, form in (("Device", device, _DEVICE), ("Time", time, _TIME), ("Signature", signature, _SIGNATURE)):
        if not form.fullmatch(text):
            raise Refusal(401, "unauthorized", f"X-Nukkad-{name}: missing or not of the form {form.pattern}")
    now_ms = node.clock.wall_ms()
    if abs(now_ms - int(time)) > SKEW_MS_MAX:
        raise Refusal(401, "stale", "X-Nukkad-Time: too far from the node's time; sign again with it", node_ms=now_ms)
    epoch = devices.find_newest(connection, bytes.fromhex(device))
    if epoch is not None:
        try:
            message = request_message(method, path, int(time), body)
            verify(epoch.public_key, Purpose.REQUEST, message, bytes.fromhex(signature))
        except BadSignature:
            epoch = None
    if epoch is None:
        raise Refusal(401, "unauthorized", "the request is not signed by the device's enrolled key")
    return epoch
