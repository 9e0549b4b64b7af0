"""The operator's side of the node's HTTP API, for the command line."""

import json
from typing import Any

import httpx

from sync.node.errors import NodeError
from sync.node.settings import Settings
from sync.node.state import read_token

WAIT_S_MAX = 60

Answer = dict[str, Any]


class Client:
    """Talks to the node these settings describe, with the token in its state folder. Raises NodeError."""

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        self._url = settings.url
        self._http = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {read_token(settings.state)}"},
            timeout=WAIT_S_MAX,
            transport=transport or httpx.HTTPTransport(),  # given, so that no proxy of the environment is used
        )

    def get(self, path: str, **query: str | None) -> Answer:
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Answer | None = None) -> Answer:
        return self._ask("POST", path, json=body or {})

    def _ask(self, method: str, path: str, **more: Any) -> Answer:
        try:
            response = self._http.request(method, path, **more)
            answer: Answer = response.json()
        except httpx.ConnectError:
            raise NodeError(f"no node answers at {self._url}: start it with `nukkad node serve`") from None
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise NodeError(f"the node at {self._url} gave no answer: {type(error).__name__}") from None
        if response.is_success:
            return answer
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise NodeError(f"the node at {self._url} has another token: set NUKKAD_NODE_STATE to that node's folder")
        raise NodeError(answer.get("error", {}).get("message", f"status {response.status_code}"))
