"""The whole way: a customer's calls in all weathers, and in the end client count = ledger = statement, exactly."""

import asyncio
import base64
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import openai
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.client_count import ClientCount, counted, points
from tests.support.house import House, answers, wait_until
from tests.tasks.shops import read_shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHAT = "smollm2-135m-instruct"
EMBED = "multilingual-e5-small"
STORY = [{"role": "user", "content": "Tell me a long story about a shop in Pune and its many customers."}]
AWAY_SECONDS = 30


class Caller:
    """An app of the shop: the official client, and its own count of what it should pay."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.key = house.ask("keys", "create", "an app")["secret"]
        self.count = ClientCount(house.ask("node", "prices")["rates"])
        self.headers = {"Authorization": f"Bearer {self.key}"}
        self.openai = OpenAI(base_url=f"{house.box_url}/v1", api_key=self.key, max_retries=0, timeout=60)
        self.http = httpx.Client(base_url=house.box_url, headers=self.headers, timeout=60, trust_env=False)

    def close(self) -> None:
        self.openai.close()
        self.http.close()

    def find_out(self, request_id: str) -> None:
        """After a broken connection: asks the box what, if anything, was billed."""

        def ended() -> bool:
            self.answer = self.http.get(f"/v1/usage/requests/{request_id}")
            return self.answer.status_code != 409

        wait_until(ended, "the broken call ends")
        if self.answer.status_code == 200:
            self.count.add_record(self.answer.json())
        else:
            assert self.answer.status_code == 404, self.answer.text

    def chat(self) -> str:
        messages: Any = [{"role": "user", "content": "Name a colour, please."}]
        answer = self.openai.chat.completions.create(model=CHAT, messages=messages, max_tokens=12)
        text = answer.choices[0].message.content or ""
        self.count.add("chat", requests=1, points_in=points(messages[0]["content"]), points_out=points(text))
        return text

    def start_story(self, request_id: str, max_tokens: int = 400) -> Any:
        messages: Any = STORY
        return self.openai.chat.completions.create(
            model=CHAT,
            messages=messages,
            max_tokens=max_tokens,
            stream=True,
            extra_headers={"X-Request-Id": request_id},
        )


@pytest.fixture
def caller(house: House) -> Iterator[Caller]:
    made = Caller(house)
    yield made
    made.close()


def test_every_call_is_billed_once_and_nothing_else(caller: Caller) -> None:
    search_a_faq(caller)
    embed_in_every_form(caller)
    complete_plainly(caller)
    stream_to_the_end(caller)
    leave_in_the_middle(caller)
    cancel_in_order(caller)
    asyncio.run(eight_at_once(caller))
    kill_the_engine(caller)
    kill_the_box(caller)
    lose_the_node(caller)
    check_the_bills(caller)


def search_a_faq(caller: Caller) -> None:
    """50 questions in five languages: other words than the entries', sometimes another language. 90 % must be found."""
    shop = read_shop("acceptance")
    entries, questions = shop.entries, shop.questions
    upload = [{"id": entry.id, "question": entry.question, "answer": entry.answer} for entry in entries]
    caller.http.put("/v1/collections/faq", json={"entries": upload}).raise_for_status()
    texts = [entry.question + entry.answer for entry in entries]
    caller.count.add("embedding", requests=1, points_in=sum(map(points, texts)))
    wrong = []
    for each in questions:
        asked = {"collection": "faq", "query": each.question, "limit": 3}
        found = caller.http.post("/v1/tasks/search", json=asked).raise_for_status().json()
        caller.count.add("search", requests=1, points_in=points(each.question))
        assert len(found["results"]) == 3
        if found["results"][0]["id"] != each.expected:
            wrong.append(each.question)
    assert len(entries) == 20
    assert len(questions) == 50
    assert len(wrong) <= 5, wrong


def embed_in_every_form(caller: Caller) -> None:
    one = caller.openai.embeddings.create(model=EMBED, input="चावल का भाव", encoding_format="float")
    many = caller.openai.embeddings.create(model=EMBED, input=["चावल का भाव", "বাসমতী চাল", "பால்"])
    caller.count.add("embedding", requests=1, points_in=points("चावल का भाव"))
    caller.count.add("embedding", requests=1, points_in=sum(map(points, ["चावल का भाव", "বাসমতী চাল", "பால்"])))
    assert one.data[0].embedding == pytest.approx(many.data[0].embedding, abs=1e-6)
    raw = caller.http.post("/v1/embeddings", json={"model": EMBED, "input": "दूध", "encoding_format": "base64"}).json()
    caller.count.add("embedding", requests=1, points_in=points("दूध"))
    vector = base64.b64decode(raw["data"][0]["embedding"])
    assert sum(x * x for x in struct.unpack(f"<{len(vector) // 4}f", vector)) == pytest.approx(1, abs=1e-3)


def complete_plainly(caller: Caller) -> None:
    assert caller.chat()
    prompt = "The capital of India is"
    answer = caller.openai.completions.create(model=CHAT, prompt=prompt, max_tokens=8, temperature=0)
    caller.count.add("completion", requests=1, points_in=points(prompt), points_out=points(answer.choices[0].text))
    with pytest.raises(openai.NotFoundError, match="no active model"):
        caller.openai.completions.create(model="absent", prompt=prompt)
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        caller.openai.completions.create(model=CHAT, prompt=prompt, logit_bias={"1": 1})


def stream_to_the_end(caller: Caller) -> None:
    text = "".join(
        chunk.choices[0].delta.content or "" for chunk in caller.start_story(str(uuid4()), 60) if chunk.choices
    )
    caller.count.add("chat", requests=1, points_in=points(STORY[0]["content"]), points_out=points(text))


def leave_in_the_middle(caller: Caller) -> None:
    """What was read is at most what is billed, and the box says exactly what that is."""
    request_id, seen = str(uuid4()), ""
    with caller.start_story(request_id) as stream:
        for chunk in stream:
            seen += chunk.choices[0].delta.content or ""
            if len(seen) > 40:
                break
    caller.find_out(request_id)
    record = caller.answer.json()
    assert record["outcome"] == "cancelled"
    assert points(seen) <= record["units"]["points_out"] < points(seen) + 400
    wait_until(lambda: caller.house.ask("status")["engine"]["running"] == 0, "the slot is free again")


def cancel_in_order(caller: Caller) -> None:
    """A caller who cancels and reads on counts to the code point what it is billed."""
    request_id, seen = str(uuid4()), ""
    for chunk in caller.start_story(request_id):
        if chunk.choices:
            seen += chunk.choices[0].delta.content or ""
        if len(seen) > 30 and request_id:
            caller.http.post(f"/v1/requests/{request_id}/cancel").raise_for_status()
            request_id = ""
    caller.count.add("chat", requests=1, points_in=points(STORY[0]["content"]), points_out=points(seen))


async def eight_at_once(caller: Caller) -> None:
    """Concurrent streams share the engine; greedy answers are the same as alone."""
    client = AsyncOpenAI(base_url=f"{caller.house.box_url}/v1", api_key=caller.key, max_retries=0)

    async def tell(thing: str) -> str:
        prompt = f"A short note about {thing}:"
        stream = await client.completions.create(model=CHAT, prompt=prompt, max_tokens=24, temperature=0, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
        caller.count.add("completion", requests=1, points_in=points(prompt), points_out=points(text))
        return text

    things = ["rice", "tea", "soap", "salt", "oil", "milk", "bread", "dal"]
    together = await asyncio.gather(*map(tell, things))
    assert together[3] == await tell(things[3])
    await client.close()


def engine_of(house: House) -> psutil.Process:
    assert house.box is not None
    (engine,) = psutil.Process(house.box.pid).children()
    return engine


def kill_the_engine(caller: Caller) -> None:
    """kill -9 in the middle of an answer: an error says so, nothing is billed, and the box recovers by itself."""
    request_id = str(uuid4())
    stream = caller.start_story(request_id)
    next(iter(stream))
    engine_of(caller.house).kill()
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    caller.find_out(request_id)
    assert caller.answer.status_code == 404
    with pytest.raises(openai.APIStatusError) as refused:
        caller.chat()
    assert refused.value.status_code == 503
    wait_until(lambda: answers(f"{caller.house.box_url}/readyz"), "the engine is back")
    assert caller.chat()


def kill_the_box(caller: Caller) -> None:
    """kill -9 in the middle of several answers: what was not finished is free, what was recorded is found again."""
    request_ids = [str(uuid4()) for _ in range(3)]
    streams = [caller.start_story(request_id) for request_id in request_ids]
    for stream in streams:
        next(iter(stream))
    engine = engine_of(caller.house)
    caller.house.kill_box()
    for stream in streams:
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            for _ in stream:
                pass
    wait_until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, "the engine is gone", 10)
    caller.house.start_box()
    for request_id in request_ids:
        caller.find_out(request_id)
        assert caller.answer.status_code == 404, "what was not finished is free"


def lose_the_node(caller: Caller) -> None:
    """Half a minute without the node: every call is served as before."""
    caller.house.stop(caller.house.node)
    until = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < until:
        caller.chat()
        time.sleep(1)
    assert caller.house.nukkad("sync", check=False).returncode != 0
    caller.house.start_node()


def check_the_bills(caller: Caller) -> None:
    house = caller.house
    house.ask("sync")
    usage, statement = house.ask("usage"), house.ask("node", "statement", "shop")
    ledger = counted(
        [(meter, unit, n) for meter, shown in usage["meters"].items() for unit, n in shown["units"].items()]
    )
    billed = counted([(line["meter"], line["unit"], line["quantity"]) for line in statement["lines"]])
    assert ledger == caller.count.units
    assert billed == caller.count.units
    assert micro(usage["cost"]) == caller.count.cost == statement["usage"]
    assert statement["calls"] == caller.count.calls
    assert house.ask("node", "trial-balance")["balanced"]
    asked = read_shop("acceptance").questions[0].question
    check_nothing_leaked(caller, [caller.key, STORY[0]["content"], "चावल का भाव", "Name a colour", asked])


def micro(rupees: str) -> int:
    whole, _, part = rupees.partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0"))


def check_nothing_leaked(caller: Caller, secrets: list[str]) -> None:
    """No prompt and no key in any file of box or node (the models aside), nor in the metrics."""
    root = caller.house.root
    kept = [path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / "box" / "store")]
    assert {"box.db", "serve.log", "postgres.log"} <= {path.name for path in kept}
    seen = {str(path): path.read_bytes() for path in kept}
    seen["/metrics"] = caller.http.get("/metrics").raise_for_status().content
    for where, data in seen.items():
        for secret in secrets:
            assert secret.encode() not in data, where


@pytest.mark.system
def test_unplugged_the_box_starts_and_serves(caller: Caller) -> None:
    """In a network namespace with nothing but loopback: no line, no node."""
    house = caller.house
    house.stop(house.box)
    inside = 'ip link set lo up && exec "$@"'
    house.start_box(prefix=["unshare", "--net", "sh", "-c", inside, "sh"])
    assert house.box is not None

    def call(path: str, *more: str) -> "subprocess.CompletedProcess[str]":
        enter = ["nsenter", "--target", str(box_pid(house)), "--net", "--"]
        curl = ["curl", "-sS", "--max-time", "30", "-H", f"Authorization: Bearer {caller.key}", *more]
        return subprocess.run([*enter, *curl, house.box_url + path], capture_output=True, text=True, check=False)

    wait_until(lambda: call("/readyz", "--fail").returncode == 0, "the box is ready without a line")
    links = subprocess.run(
        ["nsenter", "--target", str(box_pid(house)), "--net", "--", "ip", "-o", "link"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split(":")[1].strip() for line in links.splitlines()] == ["lo"]
    answer = call("/v1/embeddings", "--json", f'{{"model": "{EMBED}", "input": "नमस्ते"}}')
    assert '"embedding"' in answer.stdout, answer.stdout + answer.stderr


def box_pid(house: House) -> int:
    assert house.box is not None
    return house.box.pid
