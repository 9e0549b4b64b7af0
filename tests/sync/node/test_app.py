"""The HTTP API: what boxes and the operator send, and what nobody should."""

import json
import random
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.routing import APIRoute

from sync.node.app import create_app
from sync.node.context import Node
from sync.node.database import Database
from sync.node.routes import operator
from sync.node.routes.body import JSON_BYTES_MAX
from sync.segment import NO_LEASE, SEGMENT_BYTES_MAX, Head, Receipt, Segment, SignedReceipt, SignedSegment
from sync.signature import Purpose, request_message, sign
from tests.sync.node.world import START_MS, Box, balances, count, make_box, make_customer, pay

OPERATOR = {"Authorization": "Bearer operator-token"}
UTR = "412345678901"


def make_client(node: Node) -> httpx.AsyncClient:
    app = create_app(node.settings, node.database, node.clock, node.random, key=node.key, token=node.token)
    # A failure inside the app must show as the 500 that a caller would see.
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://node")


@pytest.fixture
async def client(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with make_client(node) as client:
        yield client


@pytest.fixture
def box(node: Node) -> Box:
    return make_box(node, make_customer(node))


def signed(box: Box, method: str, path: str, body: bytes = b"", time_ms: int = START_MS) -> dict[str, str]:
    signature = sign(box.key, Purpose.REQUEST, request_message(method, path, time_ms, body))
    return {
        "X-Nukkad-Device": box.device.hex(),
        "X-Nukkad-Time": str(time_ms),
        "X-Nukkad-Signature": signature.hex(),
    }


async def ask_topup(client: httpx.AsyncClient, box: Box, body: object, time_ms: int = START_MS) -> httpx.Response:
    data = json.dumps(body).encode()
    return await client.post("/v1/topups", content=data, headers=signed(box, "POST", "/v1/topups", data, time_ms))


def code_of(response: httpx.Response) -> str:
    """Of any refusal: all have one shape."""
    error = response.json()["error"]
    assert set(error) == {"code", "message"} and error["message"]
    return str(error["code"])


async def test_from_enrolment_to_the_statement(client: httpx.AsyncClient, node: Node) -> None:
    made = await client.post("/v1/customers", json={"name": "Sharma Store", "id": "sharma"}, headers=OPERATOR)
    assert made.json() == {"customer": "sharma", "name": "Sharma Store"}
    code = (await client.post("/v1/customers/sharma/codes", headers=OPERATOR)).json()["code"]
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    body = {"code": code, "device": "ab" * 16, "public_key": public.hex()}
    for _ in range(2):
        enrolled = (await client.post("/v1/devices/enrol", json=body)).json()
        assert enrolled == {
            "customer": "sharma",
            "epoch": 1,
            "node_public_key": node.key.public_key().public_bytes_raw().hex(),
            "node_ms": START_MS,
        }
    box = Box(b"\xab" * 16, key, 1, "sharma", NO_LEASE)
    answer = await client.post("/v1/sync/segments", content=box.segment().to_bytes())
    box.lease = Receipt.from_bytes(SignedReceipt.from_bytes(answer.content).payload).lease.lease_id
    box.use_paise(250)
    answer = await client.post("/v1/sync/segments", content=box.segment().to_bytes())
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/cbor"
    receipt = SignedReceipt.from_bytes(answer.content)
    receipt.verify(bytes.fromhex(enrolled["node_public_key"]))
    assert Receipt.from_bytes(receipt.payload).acked == 1

    asked = await ask_topup(client, box, {"amount_paise": 50_000, "request_id": "request-1"})
    topup = asked.json()
    assert topup["status"] == "open" and "am=500.00" in topup["link"] and topup["reference"] in topup["link"]
    assert (await ask_topup(client, box, {"amount_paise": 50_000, "request_id": "request-1"})).json() == topup
    path = f"/v1/topups/{topup['reference']}"
    assert (await client.get(path, headers=signed(box, "GET", path))).json() == topup
    for credited in (True, False):
        done = (await client.post(f"{path}/confirm", json={"utr": UTR}, headers=OPERATOR)).json()
        assert (done["credited"], done["status"], done["balance"]) == (credited, "paid", 497_500_000)
    assert (await client.get(path, headers=signed(box, "GET", path))).json()["status"] == "paid"

    statement = (await client.get("/v1/customers/sharma/statement", headers=OPERATOR)).json()
    assert statement["lines"] == [
        {
            "day": "2026-09-21",
            "meter": "search",
            "unit": "requests",
            "calls": 1,
            "quantity": 2500,
            "rate": 1_000_000,
            "amount": 2_500_000,
        }
    ]
    assert (statement["usage_paise"], statement["usage_rupees"], statement["calls"]) == (250, "2.50", 1)
    assert (statement["opening"], statement["closing"]) == (0, 497_500_000)
    assert [(paid["utr"], paid["amount_paise"]) for paid in statement["topups"]] == [(UTR, 50_000)]
    trial = (await client.get("/v1/trial-balance", headers=OPERATOR)).json()
    assert trial["balanced"] and trial["debits"] == trial["credits"] == 502_500_000
    listed = (await client.get("/v1/topups?customer=sharma", headers=OPERATOR)).json()["topups"]
    assert [row["standing"] for row in listed].count(True) == 1
    assert (await client.get("/v1/customers", headers=OPERATOR)).json()["customers"][0]["balance"] == 497_500_000
    assert (await client.get("/v1/prices", headers=OPERATOR)).json()["rates"]["chat"]["points_out"] == 40_000


async def test_a_gap_is_answered_with_the_head(client: httpx.AsyncClient, box: Box) -> None:
    box.use_paise(1)
    box.use_paise(1)
    answer = await client.post("/v1/sync/segments", content=box.segment(2).to_bytes())
    assert answer.status_code == 409
    assert Head.from_bytes(answer.content) == Head(0, bytes(32))


async def test_the_operators_routes_need_the_token(client: httpx.AsyncClient) -> None:
    known = [route for route in operator.router.routes if isinstance(route, APIRoute)]
    routes = [(method, re.sub(r"\{.*?\}", "1", route.path)) for route in known for method in route.methods or ()]
    assert len(routes) == len(operator.router.routes) > 10
    for method, path in routes:
        for given in (b"", b"Bearer wrong", "Bearer टोकन".encode(), b"Bearer", b"operator-token"):
            answer = await client.request(method, path, headers={b"Authorization": given})
            assert (answer.status_code, code_of(answer)) == (401, "unauthorized"), path


async def test_a_devices_request_must_be_its_own(client: httpx.AsyncClient, node: Node, box: Box) -> None:
    path = "/v1/topups"
    body = b'{"amount_paise": 50000, "request_id": "request-1"}'
    good = signed(box, "POST", path, body)
    thief = Box(box.device, Ed25519PrivateKey.generate(), 1, "sharma", NO_LEASE)
    for headers in (
        {},
        signed(thief, "POST", path, body),
        signed(box, "GET", path, body),
        signed(box, "POST", path + "/", body),
        signed(box, "POST", path, body + b" "),
        {**good, "X-Nukkad-Time": str(START_MS + 1)},
        {**good, "X-Nukkad-Time": "9" * 400},
        {**good, "X-Nukkad-Device": "00" * 16},
        {**good, "X-Nukkad-Device": "zz"},
        {**good, "X-Nukkad-Signature": "0" * 127},
    ):
        answer = await client.post(path, content=body, headers=headers)
        assert (answer.status_code, code_of(answer)) == (401, "unauthorized")
    assert count(node, "select count(*) from topups") == 0
    assert (await client.post(path, content=body, headers=good)).status_code == 200


async def test_an_old_request_is_refused_with_the_time(client: httpx.AsyncClient, node: Node, box: Box) -> None:
    body = {"amount_paise": 50_000, "request_id": "request-1"}
    for time_ms in (START_MS - 300_001, START_MS + 300_001):
        answer = await ask_topup(client, box, body, time_ms)
        assert (answer.status_code, code_of(answer)) == (401, "stale")
        assert answer.json()["node_ms"] == START_MS
    assert (await ask_topup(client, box, body, START_MS - 300_000)).status_code == 200


async def test_a_topup_is_its_customers_own(client: httpx.AsyncClient, node: Node, box: Box) -> None:
    reference = (await ask_topup(client, box, {"amount_paise": 500, "request_id": "request-1"})).json()["reference"]
    other = make_box(node, make_customer(node, "other"), seed=2)
    path = f"/v1/topups/{reference}"
    assert code_of(await client.get(path, headers=signed(other, "GET", path))) == "unknown_topup"


async def test_a_customer_is_added_once(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        body = {"name": "दुकान", "id": "shop"}
        assert (await client.post("/v1/customers", json=body, headers=OPERATOR)).status_code == 200
    clash = await client.post("/v1/customers", json={"name": "Another", "id": "shop"}, headers=OPERATOR)
    assert code_of(clash) == "customer_exists"
    named = await client.post("/v1/customers", json={"name": "No id"}, headers=OPERATOR)
    assert named.json()["customer"].startswith("c-")


@pytest.mark.parametrize(
    "query", ["from=yesterday", "to=2026-13-01", "from=2026-09-02&to=2026-09-01", "from=0001-01-01"]
)
async def test_a_statement_of_no_period(client: httpx.AsyncClient, node: Node, query: str) -> None:
    make_customer(node)
    answer = await client.get(f"/v1/customers/sharma/statement?{query}", headers=OPERATOR)
    assert (answer.status_code, code_of(answer)) == (422, "bad_field")


BODIES = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"\x00" * 50, b"[" * 5000, b"{}" * 10, b"{" + b'"a":1,' * 900,
    b'{"code": 1}', b'{"code": "x", "device": "y", "public_key": "z"}', b'{"name": null}', b'{"name": ""}',
    b'{"name": "a\\u0000b"}', b'{"name": "\\ud800"}', b'{"name": "x", "id": "../x"}', b'{"name": "x", "more": 1}',
    b'{"name": "x", "id": "x\\n"}', b'{"utr": 412345678901}', b'{"utr": "4123"}',
    b'{"utr": "412345678901", "amount_paise": 1.5}',
    b'{"utr": "412345678901", "amount_paise": 1e400}', b'{"utr": "412345678901", "amount_paise": ' + b"9" * 300 + b"}",
    b'{"utr": "412345678901", "amount_paise": true}', b'{"utr": "412345678901", "amount_paise": "5"}',
    b'{"amount_paise": -1, "request_id": "request-1"}', b'{"amount_paise": 500, "request_id": "a b c d e f"}',
    b"\xa2\x01\x40\x02\x40", b"\xbf\xff", b"\x9f" * 3000, b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xc2\x49" + b"\x01" * 9,
    b"x" * 20_000, b"x" * (SEGMENT_BYTES_MAX + 2000),
]  # fmt: skip
PATHS = [
    "/v1/devices/enrol", "/v1/sync/segments", "/v1/topups", "/v1/customers",
    "/v1/topups/NK00000000000000000000/confirm",
    "/v1/topups/%00/confirm", "/v1/topups/..%2f..%2f/confirm", "/v1/customers/%00/codes", "/v1/customers/%ff%fe/codes",
    "/v1/nothing",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_malformed_bodies_are_refused_and_change_nothing(
    client: httpx.AsyncClient, node: Node, box: Box, path: str
) -> None:
    for body in BODIES:
        headers = signed(box, "POST", path, body) | OPERATOR
        answer = await client.post(path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, (body[:60], answer.text)
        assert code_of(answer)
    assert count(node, "select count(*) from customers") == 1
    assert count(node, "select count(*) from topups") == 0
    assert balances(node) == (0, 0, 0)


@pytest.mark.parametrize(
    ("path", "most"), [("/v1/sync/segments", SEGMENT_BYTES_MAX + 1024), ("/v1/devices/enrol", JSON_BYTES_MAX)]
)
async def test_a_body_has_a_limit(client: httpx.AsyncClient, path: str, most: int) -> None:
    assert (await client.post(path, content=b" " * most)).status_code == 400
    answer = await client.post(path, content=b" " * (most + 1))
    assert (answer.status_code, code_of(answer)) == (413, "too_large")


async def test_no_flipped_bit_of_a_segment_is_billed(client: httpx.AsyncClient, node: Node, box: Box) -> None:
    box.use_paise(1)
    whole = box.segment().to_bytes()
    dice = random.Random(5)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        answer = await client.post("/v1/sync/segments", content=bytes(damaged))
        assert answer.status_code in (400, 401), answer.text
    for length in range(0, len(whole), 7):
        assert (await client.post("/v1/sync/segments", content=whole[:length])).status_code == 400
    assert count(node, "select count(*) from records") == 0


@pytest.mark.parametrize(
    "path",
    [
        "/v1/customers/%00/statement",
        "/v1/customers/nobody/statement",
        "/v1/topups?customer=%00",
        "/v1/x",
        "/v1/topups?customer=x",
    ],
)
async def test_what_is_not_there(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers=OPERATOR)
    assert answer.status_code == 404 and code_of(answer)


async def test_a_wrong_method(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/v1/customers", headers=OPERATOR)
    assert (answer.status_code, code_of(answer)) == (405, "wrong_method")


async def test_health(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_without_its_database_the_node_says_try_again(node: Node, box: Box) -> None:
    away = Database("host=/nowhere connect_timeout=1", 2, wait_s=0.2)
    away.open()
    try:
        lonely = Node(node.settings, away, node.key, node.token, node.clock, node.random)
        async with make_client(lonely) as client:
            assert (await client.get("/healthz")).status_code == 200
            for answer in (
                await client.get("/readyz"),
                await client.post("/v1/sync/segments", content=box.heartbeat().to_bytes()),
            ):
                assert (answer.status_code, code_of(answer)) == (503, "unavailable")
                assert answer.headers["retry-after"] == "2"
    finally:
        away.close()


async def test_a_retired_box_is_listed_with_what_it_may_still_spend(
    client: httpx.AsyncClient, node: Node, box: Box
) -> None:
    await client.post("/v1/sync/segments", content=box.heartbeat().to_bytes())
    path = f"/v1/devices/{box.device.hex()}/retire"
    first = (await client.post(path, headers=OPERATOR)).json()
    assert (first["customer"], first["epoch"], first["retired_ms"]) == ("sharma", 1, START_MS)
    assert (first["held"], first["expires_ms"]) == (20_000_000, START_MS + 72 * 3600 * 1000)
    node.clock.now_ms += 1000  # type: ignore[attr-defined]
    assert (await client.post(path, headers=OPERATOR)).json() == first
    (listed,) = (await client.get("/v1/devices", headers=OPERATOR)).json()["devices"]
    assert (listed["state"], listed["since_ms"], listed["why"]) == ("retired", START_MS, None)
    for device, status, code in (("00" * 16, 404, "unknown_device"), ("xyz", 422, "bad_field")):
        answer = await client.post(f"/v1/devices/{device}/retire", headers=OPERATOR)
        assert (answer.status_code, code_of(answer)) == (status, code)


async def test_customers_come_in_pages(client: httpx.AsyncClient, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "CUSTOMERS_MAX", 2)
    for name in ("a-1", "a-2", "a-3"):
        make_customer(node, name)
    pay(node, "a-3", 500, UTR)
    pages = [(await client.get(f"/v1/customers{query}", headers=OPERATOR)).json() for query in ("", "?after=a-2")]
    listed = [[(one["customer"], one["balance"]) for one in page["customers"]] for page in pages]
    assert listed == [[("a-1", 0), ("a-2", 0)], [("a-3", 5_000_000)]]
    assert code_of(await client.get("/v1/customers?after=%00", headers=OPERATOR)) == "unknown_customer"


async def test_a_frozen_box_is_listed_with_what_proves_it(client: httpx.AsyncClient, box: Box) -> None:
    clone = box.copy()
    box.use_paise(1)
    clone.use_paise(2)
    await client.post("/v1/sync/segments", content=box.segment().to_bytes())
    refused = await client.post("/v1/sync/segments", content=clone.segment().to_bytes())
    assert (refused.status_code, code_of(refused)) == (422, "fork")
    for query in ("", "?customer=sharma"):
        (listed,) = (await client.get(f"/v1/devices{query}", headers=OPERATOR)).json()["devices"]
        assert (listed["device"], listed["state"], listed["why"]) == (box.device.hex(), "frozen", "fork at record 1")
        assert (listed["acked"], listed["since_ms"]) == (1, START_MS)
    retired = (await client.post(f"/v1/devices/{box.device.hex()}/retire", headers=OPERATOR)).json()
    assert (retired["held"], retired["expires_ms"]) == (0, 0), "nothing more of it is billed"
    path = f"/v1/devices/{box.device.hex()}/epochs"
    shown = (await client.get(f"{path}/1/fork", headers=OPERATOR)).json()
    said = []
    for side in (shown["older"], shown["newer"]):
        signed = SignedSegment(*(bytes.fromhex(side[name]) for name in ("payload", "signature")))
        signed.verify(bytes.fromhex(shown["public_key"]))
        said.append(Segment.from_bytes(signed.payload).records)
    assert said == [tuple(box.records), tuple(clone.records)] and shown["seq"] == 1
    assert code_of(await client.get(f"{path}/2/fork", headers=OPERATOR)) == "no_fork"
    assert (await client.get("/v1/devices/xyz/epochs/1/fork", headers=OPERATOR)).status_code == 422
    assert (await client.get("/v1/devices")).status_code == 401
