"""Malformed requests by the hundred against the real server: each is refused in the one shape, none is billed."""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.box import Served, Street, served
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL

CASES_LEAST = 200
CHAT: dict[str, Any] = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "hello"}]}
COMPLETION: dict[str, Any] = {"model": CHAT_MODEL, "prompt": "hello"}
EMBEDDING: dict[str, Any] = {"model": EMBED_MODEL, "input": "hello"}
GOOD = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION, "/v1/embeddings": EMBEDDING}
GENERATING = ("/v1/chat/completions", "/v1/completions")

WRONG_TYPES: tuple[Any, ...] = (True, -1, 1.5, "", [], {}, [[]], [{}], {"a": None}, [None])
NEEDED = {
    "/v1/chat/completions": ("model", "messages"),
    "/v1/completions": ("model", "prompt"),
    "/v1/embeddings": ("model", "input"),
}
BAD_VALUES: dict[str, tuple[Any, ...]] = {
    "temperature": ("1", -0.1, 2.1, 1e400, [], True, {}),
    "top_p": ("1", 0, -1, 1.01, [], {}),
    "max_tokens": ("1", 0, -1, 1.5, 10**30, 1_000_000, [], True),
    "seed": ("1", 1.5, 2**63, -(2**63) - 1, [], True),
    "stop": (1, [], [1], ["a"] * 5, [""], "", ["a" * 257], {}),
    "stream": ("true", 1, [], {}),
    "stream_options": ({}, {"include_usage": True}, [], 1, {"a": 1}),
    "n": (0, 2, "1", 1.5, True),
    "presence_penalty": (1, -2, "0", False),
    "frequency_penalty": (1, "0", []),
    "user": (1, [], "a" * 513),
}
UNSUPPORTED = (
    "tools", "tool_choice", "functions", "function_call", "logit_bias", "top_logprobs", "modalities", "audio",
    "prediction", "reasoning_effort", "service_tier", "web_search_options", "metadata", "suffix", "dimensions",
    "parallel_tool_calls", "best_of_all", "__proto__", "Model", "model ", "sampling", "extra_body",
)  # fmt: skip
BAD_MESSAGES: tuple[Any, ...] = (
    [], {}, "hello", [1], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": "tool", "content": "x"}],
    [{"role": "user", "content": None}], [{"role": "user", "content": 1}], [{"role": "user", "content": [1]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "not base64!"}}]}],
    [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": "x", "name": "n"}],
    [{"role": "user", "content": "x", "tool_calls": []}], [{"role": "User", "content": "x"}],
    [{"role": "user", "content": "x"}] * 1025, [{"role": "user", "content": "x " * 300}],
)  # fmt: skip
BAD_FORMS: tuple[Any, ...] = ("hex", 1, [], "BASE64")
BAD_INPUTS: tuple[Any, ...] = (
    [], "", [""], [1, 2], [[1, 2]], {}, 1, [None], ["a", 1], ["x"] * 2049, "x " * 300, [["a"]], [{"text": "a"}],
)  # fmt: skip


class Case(NamedTuple):
    path: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})
    method: str = "POST"


def cases() -> list[Case]:
    made: list[Case] = []
    for path, good in GOOD.items():
        made += [Case(path, body) for body in raw_bodies(json.dumps(good).encode())]
        made += [case_of(path, {**good, name: value}) for name in NEEDED[path] for value in (None, *WRONG_TYPES)]
        made += [case_of(path, {key: value for key, value in good.items() if key != name}) for name in NEEDED[path]]
        made += [case_of(path, {**good, name: 1}) for name in UNSUPPORTED]
        body = json.dumps(good).encode()
        made += [Case(path, body, headers) for headers in bad_headers()]
        made += [Case(path, body, method=method) for method in ("PUT", "DELETE", "PATCH", "GET")]
    for path in GENERATING:
        made += [case_of(path, {**GOOD[path], name: value}) for name, values in BAD_VALUES.items() for value in values]
    made += [case_of("/v1/chat/completions", {**CHAT, "messages": messages}) for messages in BAD_MESSAGES]
    made += [case_of("/v1/embeddings", {**EMBEDDING, "input": texts}) for texts in BAD_INPUTS]
    made += [case_of("/v1/embeddings", {**EMBEDDING, "encoding_format": form}) for form in BAD_FORMS]
    made += [case_of("/v1/embeddings", {**EMBEDDING, "input_type": kind}) for kind in ("document", 1, "")]
    made += [case_of("/v1/embeddings", {**EMBEDDING, "model": CHAT_MODEL})]
    made += [
        case_of("/v1/chat/completions", {**CHAT, name: value})
        for name in ("logprobs", "store")
        for value in (0, 1, True)
    ]
    made += [case_of("/v1/chat/completions", {**CHAT, "max_tokens": 5, "max_completion_tokens": 5})]
    made += [Case(path, b"{}") for path in ("/v1/chat", "/v1//embeddings", "/V1/embeddings", "/v1/embeddings/", "/%ff")]
    made += [
        Case(path, b"", method="GET")
        for path in ("/v1/usage?days=0", "/v1/usage?days=x", "/v1/usage?days=9999999999", "/v1/usage/requests/x")
    ]
    made += search_cases()
    made += heaps()
    made += [Case("/v1/requests/%00/cancel", b""), Case("/v1/requests/" + "9" * 3000 + "/cancel", b"")]
    return made


def heaps() -> list[Case]:
    """Small to send, costly to work on."""
    marks = "a" + "\u0301" * 200_000 + "\u0323" * 200_000
    chat, search, faq = "/v1/chat/completions", "/v1/tasks/search", "/v1/collections/faq"
    made = [
        case_of(chat, {**CHAT, "messages": [{"role": "user", "content": parts}]}) for parts in ([1] * 500_000, marks)
    ]
    made += [case_of(chat, {**CHAT, "messages": [{}] * 1000})]
    made += [case_of(chat, {**CHAT, **{f"x{number}": 1 for number in range(100_000)}})]
    made += [case_of("/v1/completions", {**COMPLETION, "prompt": marks})]
    made += [case_of("/v1/embeddings", {**EMBEDDING, "input": texts}) for texts in (marks, ["a", marks])]
    made += [case_of(search, {"collection": "faq", "query": "a" + "\u0301" * 1000})]
    entry = {"id": "a", "question": "a" + "\u0301" * 400, "answer": "x"}
    made += [put_of(faq, {"entries": [entry]})]
    return made


def search_cases() -> list[Case]:
    path, good = "/v1/tasks/search", {"collection": "faq", "query": "hello"}
    bad: tuple[Any, ...] = ("1", 0, -1, 1.5, 10**30, [], True)
    made = [Case(path, body) for body in raw_bodies(json.dumps(good).encode())]
    made += [case_of(path, {**good, name: value}) for name in good for value in (None, *WRONG_TYPES)]
    made += [case_of(path, {**good, "limit": value}) for value in bad]
    made += [case_of(path, {"query": "hello"}), case_of(path, {"collection": "faq"}), case_of(path, {**good, "x": 1})]
    path, entry = "/v1/collections/faq", {"id": "a", "question": "hello", "answer": "x"}
    raw = raw_bodies(json.dumps({"entries": [entry]}).encode())
    made += [Case(path, body, method="PUT") for body in raw]
    made += [Case(path, body, {"Content-Type": "text/csv"}, "PUT") for body in (b"", b"\xff", b"id,question", b"\x00")]
    made += [put_of(path, {"entries": entries}) for entries in (None, *WRONG_TYPES, [entry, entry], [entry] * 1001)]
    made += [put_of(path, {"entries": [{**entry, name: value}]}) for name in entry for value in (None, *WRONG_TYPES)]
    made += [put_of(path, {"entries": [{**entry, "price": 1}]}), put_of("/v1/collections/..%2f", {"entries": [entry]})]
    return made


def put_of(path: str, body: dict[str, Any]) -> Case:
    return case_of(path, body)._replace(method="PUT")


def case_of(path: str, body: dict[str, Any]) -> Case:
    return Case(path, json.dumps(body).encode())


def raw_bodies(good: bytes) -> list[bytes]:
    return [
        b"", b"null", b"[]", b"5", b'"x"', b"{", good[:-1], good + b"}", good[:-1] + b",}", b"\xef\xbb\xbf" + good,
        good.replace(b"hello", b"\xff\xfe"), good.replace(b"hello", b"\xed\xa0\x80"),
        good.replace(b"hello", b"\xc0\xaf"),
        good.replace(b"hello", b"\\ud800"), good.replace(b"hello", b"\\u12"), good.replace(b"hello", b"\x01"),
        good.decode().encode("utf-16"), b"[" * 50_000, b'{"a":' * 50_000, good.replace(b'"hello"', b"[" * 50_000),
        good[:-1] + b',"temperature":NaN}', good[:-1] + b',"temperature":-Infinity}', b"model=x&input=y",
        b" " * (5 << 20), b'{"model": "' + b"x" * 4_000_000 + b'"}', b"9" * 10_000,
    ]  # fmt: skip


def bad_headers() -> list[dict[str, str]]:
    return [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": ""},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic bm86bm8="},
        {"Authorization": "Bearer nk_" + "0" * 64},
        {"Authorization": "Bearer " + "\xff" * 40},
        {"Authorization": "Bearer ' OR 1=1 --"},
        {"X-Request-Id": "1"},
        {"X-Request-Id": "00000000-0000-0000-0000-00000000000g"},
        {"X-Request-Id": "x" * 5000},
    ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Street(tmp_path_factory.mktemp("shop"))) as running:
        yield running


def test_malformed_requests_are_refused_and_free(shop: Served) -> None:
    every = cases()
    assert len(every) >= CASES_LEAST
    wrong = []
    with httpx.Client(base_url=shop.url, trust_env=False, timeout=30) as client:
        own = {"Authorization": f"Bearer {shop.key}", "Content-Type": "application/json"}
        for case in every:
            headers = [(name.encode(), value.encode("latin-1")) for name, value in {**own, **case.headers}.items()]
            answer = client.request(case.method, case.path, content=case.body, headers=headers)
            if not 400 <= answer.status_code < 500 or not shaped(answer):
                wrong.append((answer.status_code, case.method, case.path, case.body[:120], case.headers))
        assert wrong == []
        assert client.get("/v1/usage", headers=own).json()["requests"] == 0
        assert client.get("/v1/collections", headers=own).json()["collections"] == []
        assert client.post("/v1/embeddings", json=EMBEDDING, headers=own).status_code == 200


def shaped(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"]) and bool(error["code"])
