from typing import Any

import pytest

from appliance.engine.protocol import EmbedRequest, GenerateRequest, InvalidRequest, Message, Sampling
from appliance.engine.requests import check_embed, check_generate

HALF_PAIR = "\ud83d"


def test_a_plain_request_passes() -> None:
    check_generate(GenerateRequest("m", None, prompt=""))
    check_generate(GenerateRequest("m", 1, messages=(Message("user", ""),), stop=("\n",) * 16))
    check_embed(EmbedRequest("m", ("a",) * 2048))


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("messages", {"prompt": None}),
        ("messages", {"messages": (Message("user", "u"),)}),
        ("messages", {"prompt": None, "messages": ()}),
        ("messages[0].content", {"prompt": None, "messages": (Message("user", HALF_PAIR),)}),
        ("prompt", {"prompt": HALF_PAIR}),
        ("max_tokens", {"max_tokens": 0}),
        ("stop", {"stop": ("x",) * 17}),
        ("stop[1]", {"stop": ("x", "")}),
        ("stop[0]", {"stop": ("x" * 257,)}),
        ("stop[0]", {"stop": (HALF_PAIR,)}),
        ("temperature", {"sampling": Sampling(temperature=-0.1)}),
        ("temperature", {"sampling": Sampling(temperature=float("nan"))}),
        ("temperature", {"sampling": Sampling(temperature=2.1)}),
        ("top_p", {"sampling": Sampling(top_p=0)}),
        ("top_p", {"sampling": Sampling(top_p=float("nan"))}),
        ("top_p", {"sampling": Sampling(top_p=1.01)}),
        ("top_k", {"sampling": Sampling(top_k=-1)}),
        ("seed", {"sampling": Sampling(seed=2**63)}),
        ("seed", {"sampling": Sampling(seed=-(2**63) - 1)}),
    ],
)
def test_a_generation_that_no_model_can_honour_is_refused_by_field(field: str, fields: dict[str, Any]) -> None:
    request = GenerateRequest(**{"model": "m", "max_tokens": 5, "prompt": "p", **fields})
    with pytest.raises(InvalidRequest) as refused:
        check_generate(request)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "texts"),
    [("texts", ()), ("texts", ("a",) * 2049), ("texts[1]", ("a", "")), ("texts[0]", (HALF_PAIR,))],
)
def test_texts_that_no_model_can_embed_are_refused_by_field(field: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_embed(EmbedRequest("m", texts))
    assert refused.value.field == field
