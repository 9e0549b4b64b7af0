"""Asks a running box over its admin routes, as the operator's commands do."""

from pathlib import Path
from typing import Any

import httpx

from appliance import address, state
from appliance.expected import OperatorError

SECONDS_MAX = 120  # loading a model takes its time


class AdminError(OperatorError):
    """The box does not run, or said no; the message says why and what to do."""


class Admin:
    """A box of this machine, by its state folder: the address and the admin token stand there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, path: str) -> dict[str, Any]:
        return self._send("GET", path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if not state.is_held(self._folder):
            raise AdminError(f"no box is running on {self._folder}: start it with `nukkad serve` (or `make run`)")
        headers = {"Authorization": f"Bearer {state.admin_token(self._folder)}"}
        url = address.read(self._folder) + "/v1/admin" + path
        try:
            with httpx.Client(timeout=SECONDS_MAX, trust_env=False) as client:
                answer = client.request(method, url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise AdminError(f"the box at {url} does not answer ({type(error).__name__}); see its log") from error
        try:
            found = answer.json()
        except ValueError:
            raise AdminError(f"what answers at {url} is not a box (status {answer.status_code})") from None
        if answer.status_code >= 400:
            raise AdminError(found["error"]["message"])
        return dict(found)
