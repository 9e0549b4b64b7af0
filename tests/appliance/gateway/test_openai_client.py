"""The official client against the real server: what its users see, also when something goes wrong."""

import unicodedata
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from appliance.engine.protocol import EngineUnavailable
from tests.support.box import Served, Street, served
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL

TEXT = "नमस्ते दुनिया कैसे हो"


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Street(tmp_path_factory.mktemp("shop"))) as running:
        yield running


@pytest.fixture
def shop(open_shop: Served) -> Served:
    open_shop.street.engine.failure = None
    open_shop.street.engine.break_after = None
    return open_shop


@pytest.fixture
def client(shop: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shop.url}/v1", api_key=shop.key, max_retries=0) as made:
        yield made


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {CHAT_MODEL, EMBED_MODEL}
    assert client.models.retrieve(CHAT_MODEL).id == CHAT_MODEL
    with pytest.raises(openai.NotFoundError, match="active: fake-chat"):
        client.models.retrieve("gpt-4o")


def test_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": TEXT}])
    assert whole.choices[0].message.content == TEXT
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    stream = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": TEXT}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == TEXT
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    charge = (chunks[-2].model_extra or {})["nukkad"]
    assert charge["units"]["points_out"] == len(unicodedata.normalize("NFC", told))


def test_plain_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=CHAT_MODEL, prompt=TEXT, max_tokens=2)
    streamed = client.completions.create(model=CHAT_MODEL, prompt=TEXT, max_tokens=2, stream=True)
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in streamed)


def test_embeddings_are_the_same_in_both_encodings_and_alone_as_together(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model=EMBED_MODEL, input=["एक", "दो"], encoding_format="float")
    packed = client.embeddings.create(model=EMBED_MODEL, input=["एक", "दो"])  # The client asks for base64 itself.
    alone = client.embeddings.create(model=EMBED_MODEL, input="दो")
    np.testing.assert_allclose(floats.data[1].embedding, packed.data[1].embedding, rtol=1e-6)
    np.testing.assert_allclose(packed.data[1].embedding, alone.data[0].embedding, rtol=1e-6)
    assert [item.index for item in floats.data] == [0, 1]


def test_a_question_and_a_passage_get_their_own_prefix(client: openai.OpenAI) -> None:
    vectors = [
        client.embeddings.create(model=EMBED_MODEL, input="दो", extra_body=extra).data[0].embedding
        for extra in ({}, {"input_type": "query"}, {"input_type": "passage"})
    ]
    assert len({tuple(vector) for vector in vectors}) == 3


@pytest.mark.parametrize(
    ("kind", "status", "param", "more"),
    [
        (openai.BadRequestError, 400, "tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (openai.BadRequestError, 400, "n", {"n": 2}),
        (openai.BadRequestError, 400, "logprobs", {"logprobs": True}),
        (openai.BadRequestError, 400, "response_format.type", {"response_format": {"type": "json_object"}}),
        (openai.BadRequestError, 400, "max_tokens", {"max_tokens": 100_000}),
        (openai.BadRequestError, 400, "stop", {"stop": ["a", "b", "c", "d", "e"]}),
        (openai.BadRequestError, 400, "metadata", {"metadata": {"a": "b"}}),
        (openai.NotFoundError, 404, "model", {"model": EMBED_MODEL}),
    ],
)
def test_what_cannot_be_honoured_is_named(
    client: openai.OpenAI, kind: type[openai.APIStatusError], status: int, param: str, more: dict[str, object]
) -> None:
    asked = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": TEXT}], **more}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**asked)  # type: ignore[call-overload]
    assert caught.value.status_code == status
    assert caught.value.body["param"] == param  # type: ignore[index]


def test_too_long_a_prompt_is_refused_and_not_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": "शब्द " * 400}])
    assert caught.value.code == "context_length_exceeded"


def test_a_wrong_key_is_refused(shop: Served) -> None:
    stranger = openai.OpenAI(base_url=f"{shop.url}/v1", api_key="nk_wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_an_engine_that_dies_in_mid_stream_is_an_error_of_the_client(client: openai.OpenAI, shop: Served) -> None:
    shop.street.engine.break_after = 1
    stream = client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": TEXT}], stream=True)
    with pytest.raises(openai.APIError, match="engine died"):
        list(stream)


def test_503_says_when_to_try_again(client: openai.OpenAI, shop: Served) -> None:
    shop.street.engine.failure = EngineUnavailable("starting")
    with pytest.raises(openai.InternalServerError) as caught:
        client.embeddings.create(model=EMBED_MODEL, input="एक")
    assert caught.value.status_code == 503
    assert caught.value.response.headers["Retry-After"] == "2"
