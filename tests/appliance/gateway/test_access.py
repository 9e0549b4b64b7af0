"""Keys, the admin token, and the names under which browsers may come."""

import httpx
import pytest

from appliance.box import Box
from tests.support.box import Street


@pytest.mark.parametrize("header", [None, "", "nk_x", "Basic x", "Bearer ", "Bearer nk_" + "0" * 64])
async def test_without_a_good_key_nothing_is_answered(caller: httpx.AsyncClient, header: str | None) -> None:
    caller.headers.pop("Authorization")
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/models", "/v1/usage"):
        answer = await caller.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_revoked_key_opens_nothing_from_the_next_request_on(caller: httpx.AsyncClient, box: Box) -> None:
    assert (await caller.get("/v1/models")).status_code == 200
    box.keys.revoke(1)
    assert (await caller.get("/v1/models")).status_code == 401


async def test_a_key_is_no_admin_token_and_the_token_is_no_key(
    caller: httpx.AsyncClient, street: Street, box: Box
) -> None:
    assert (await caller.get("/v1/admin/status")).status_code == 401
    async with street.caller(box, box.admin_token) as operator:
        assert (await operator.get("/v1/admin/status")).status_code == 200
        assert (await operator.get("/v1/models")).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8765", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8765", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8765", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
async def test_console_and_admin_routes_answer_only_to_the_box_s_own_names(
    street: Street, box: Box, host: str, status: int
) -> None:
    async with street.caller(box, box.admin_token) as operator:
        for path in ("/v1/admin/status", "/metrics"):
            assert (await operator.get(path, headers={"Host": host})).status_code == status
    async with street.caller(box) as caller:
        assert (await caller.get("/v1/models", headers={"Host": host})).status_code == 200
